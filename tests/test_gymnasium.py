"""Our families as Gymnasium environments."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from extras import NEEDS_METAWORLD
from gymnasium.utils.env_checker import check_env

from nacre.environments import ENVIRONMENTS
from nacre.errors import NacreError
from nacre.tasks import Simulator, list_families, make_family
from nacre.tasks.gymnasium import FamilyEnv

IDS = {
    "nacre/PointRobot-v0": "point-robot",
    "nacre/SparsePointRobot-v0": "sparse-point-robot",
    "nacre/HalfCheetahVel-v0": "cheetah-vel",
    "nacre/HalfCheetahVel10Hz-v0": "cheetah-vel-10hz",
    "nacre/HalfCheetahDir-v0": "cheetah-dir",
    "nacre/HalfCheetahMultiTask-v0": "cheetah-multi-task",
    "nacre/HalfCheetahRandDamping-v0": "cheetah-rand-damping",
    "nacre/HalfCheetahVelSparse-v0": "cheetah-vel-sparse",
    "nacre/HalfCheetahGoalSparse-v0": "cheetah-goal-sparse",
    "nacre/HalfCheetahMultiTaskSparse-v0": "cheetah-multi-task-sparse",
    "nacre/AntDir-v0": "ant-dir",
    "nacre/AntRandomDir-v0": "ant-random-dir",
    "nacre/AntGoal-v0": "ant-goal",
    "nacre/AntDirWithoutForces-v0": "ant-dir-without-forces",
    "nacre/AntRandomDirWithoutForces-v0": "ant-random-dir-without-forces",
    "nacre/AntGoalWithoutForces-v0": "ant-goal-without-forces",
    "nacre/AntDirWeighted-v0": "ant-dir-weighted",
    "nacre/AntVel-v0": "ant-vel",
    "nacre/AntVelSparse-v0": "ant-vel-sparse",
    "nacre/AntGoalSparse-v0": "ant-goal-sparse",
    "nacre/HumanoidDir-v0": "humanoid-dir",
    "nacre/HumanoidDirWithoutForces-v0": "humanoid-dir-without-forces",
    "nacre/Walker2dRandParams-v0": "walker-rand-params",
    "nacre/HopperRandParams-v0": "hopper-rand-params",
    "nacre/Walker2dVel-v0": "walker-vel",
    "nacre/HopperVel-v0": "hopper-vel",
    "nacre/Walker2dVelSparse-v0": "walker-vel-sparse",
    "nacre/HopperVelSparse-v0": "hopper-vel-sparse",
    "nacre/SawyerReachSparse-v0": "sawyer-reach-sparse",
    "nacre/SawyerPushSparse-v0": "sawyer-push-sparse",
    "nacre/SawyerReacher-v0": "sawyer-reacher",
    "nacre/SawyerPeg-v0": "sawyer-peg",
    "nacre/SawyerButtons-v0": "sawyer-buttons",
    "nacre/SawyerShelf-v0": "sawyer-shelf",
}
SEEN = {"nacre/PointRobotPixels-v0": "point-robot-pixels", "nacre/HalfCheetahVelPixels-v0": "cheetah-vel-pixels"}
"""Two of those from pixels; there is one for each family."""
NEEDS = {
    "cheetah-vel-pixels": [pytest.mark.opengl],
    "sawyer-reach-sparse": [NEEDS_METAWORLD],
    "sawyer-push-sparse": [NEEDS_METAWORLD],
}
ITEMS = [pytest.param(*item, marks=NEEDS.get(item[1], ())) for item in (IDS | SEEN).items()]

TERMINATING = {
    "ant-dir",
    "ant-random-dir",
    "ant-goal-sparse",
    "humanoid-dir",
    "walker-rand-params",
    "hopper-rand-params",
}
TERMINATING |= {f"{name}-without-forces" for name in TERMINATING}
"""Where random actions end an episode before the horizon."""


def test_every_family_is_an_environment():
    seen = {name.replace("-v0", "Pixels-v0"): f"{family}-pixels" for name, family in IDS.items()}
    assert SEEN.items() <= seen.items()
    every = {name: (family, make_family(family).horizon) for name, family in (IDS | seen).items()}
    assert every == ENVIRONMENTS
    assert sorted(IDS.values()) == list_families()


@pytest.mark.parametrize(("environment_id", "name"), ITEMS)
def test_gymnasiums_own_check(environment_id, name):
    env = gymnasium.make(environment_id)  # warnings are errors here
    # Others need OpenGL to draw: tests/test_rendering.py.
    check_env(env.unwrapped, skip_render_check="Point" not in environment_id)
    env.close()


@pytest.mark.parametrize(
    ("environment_id", "options", "width"),
    [
        ("nacre/HalfCheetahVel-v0", {"lowest": 1, "highest": 2, "terminates": True}, 20),
        ("nacre/HalfCheetahDir-v0", {"directions": (-1,)}, 20),
        ("nacre/HalfCheetahMultiTask-v0", {"variants": ["jumping", "flipping"]}, 20),
        ("nacre/HalfCheetahRandDamping-v0", {"log_scale_limit": 2.0, "terminates": True}, 17),
        ("nacre/AntVel-v0", {"terminates": True, "highest": 3.0}, 30),
        ("nacre/AntGoalSparse-v0", {"radius": 2.0}, 116),
        ("nacre/HopperVel-v0", {"terminates": True}, 14),
        ("nacre/Walker2dRandParams-v0", {"varied": ("mass",), "sees_velocities": False, "timestep": 0.002}, 8),
    ],
)
def test_environments_with_options(environment_id, options, width):
    env = gymnasium.make(environment_id, **options)
    assert env.observation_space.shape == (width,)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_options_of_an_environment_that_are_refused():
    with pytest.raises(NacreError, match="unknown option 'speed' of the family cheetah-vel; allowed: highest, horizon"):
        gymnasium.make("nacre/HalfCheetahVel-v0", speed=3)
    with pytest.raises(
        NacreError, match=r"options are {'lowest': 1}; allowed with a family that is made already: none"
    ):
        FamilyEnv(make_family("cheetah-vel"), lowest=1)


def test_importing_nacre_registers_and_loads_no_mujoco():
    code = "import sys, nacre, gymnasium; gymnasium.spec('nacre/HalfCheetahVel-v0'); sys.exit('mujoco' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("environment_id", "name"), ITEMS)
def test_an_episode_is_that_of_the_simulator(environment_id, name):
    family = make_family(name)
    env = gymnasium.make(environment_id)
    assert env.spec.max_episode_steps == family.horizon
    task = family.sample_tasks(np.random.default_rng(1), 1)[0]
    observation, info = env.reset(seed=4, options={"task": task})
    np.testing.assert_array_equal(info["task"], task)
    generator = np.random.default_rng(4)
    simulator = Simulator(family, 1)
    seed = int(generator.integers(2**63))
    expected, _ = simulator.reset(seed=seed, options={"tasks": task[None]})
    np.testing.assert_array_equal(observation, expected[0])
    for t in range(family.horizon):
        action = generator.uniform(-1, 1, family.action_size).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        expected, rewards, terminations, _, infos = simulator.step(action[None])
        np.testing.assert_array_equal(observation, expected[0])
        assert reward == rewards[0]
        assert terminated == terminations[0]
        assert truncated == (t == family.horizon - 1)
        if family.has_sparse_reward:
            assert info["sparse_reward"] == infos["sparse_reward"][0]
        assert ("success" in info) == family.has_success
        assert info.get("success", False) is bool(infos.get("success", [False])[0])
        if terminated:
            break
    assert terminated == (name in TERMINATING)
    env.close()
    simulator.close()


def test_the_task_stays_until_changed():
    env = gymnasium.make("nacre/PointRobot-v0")
    drawn = env.reset(seed=1)[1]["task"]
    np.testing.assert_array_equal(env.reset()[1]["task"], drawn)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.reset(options={"task": [0.5, -0.5]})[1]["task"], [0.5, -0.5])
    np.testing.assert_array_equal(env.reset()[1]["task"], [0.5, -0.5])
    np.testing.assert_array_equal(env.reset(seed=1)[1]["task"], [0.5, -0.5])
    other = gymnasium.make("nacre/PointRobot-v0").reset(seed=1)[1]["task"]
    np.testing.assert_array_equal(other, drawn)
    with pytest.raises(NacreError, match="goal_x, goal_y"):
        env.reset(options={"task": [1.0]})


def test_a_task_and_options_when_it_is_made():
    env = gymnasium.make("nacre/PointRobot-v0", task=[0.5, -0.25], horizon=30)
    assert env.spec.max_episode_steps == env.unwrapped.family.horizon == 30
    np.testing.assert_array_equal(env.reset(seed=3)[1]["task"], [0.5, -0.25])
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(30)]
    assert ends == [False] * 29 + [True]
    np.testing.assert_array_equal(env.reset(options={"task": [1.0, 0.0]})[1]["task"], [1.0, 0.0])
    assert gymnasium.make(env.spec).unwrapped.family.horizon == 30
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(NacreError, match="unknown option 'horizont' of the family point-robot; allowed: "):
            make("nacre/PointRobot-v0", horizont=30)
        with pytest.raises(NacreError, match=r"Tasks of point-robot have shape \(tasks, 2\)"):
            make("nacre/PointRobot-v0", task=[0.5])


def drive(env, seed, steps=100, options=None):
    """All that an environment returns, with actions that are drawn."""
    observations, infos = env.reset(seed=seed, options=options)
    generator = np.random.default_rng(0)
    returned = [(observations, np.zeros(3), np.zeros(3, bool), np.zeros(3, bool), infos["task"])]
    success = []
    for _ in range(steps):
        actions = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        *values, infos = env.step(actions)
        returned.append((*values, infos.get("task", np.zeros((3, 1)))))
        success.append(infos.get("success", np.zeros(3)))
    env.close()
    return [np.array(values) for values in zip(*(row[:4] for row in returned), strict=True)] + [returned[0][4], success]


@pytest.mark.parametrize(
    ("environment_id", "arguments"),
    [
        ("nacre/PointRobot-v0", {}),
        ("nacre/PointRobot-v0", {"task": [0.5, 0.5], "horizon": 7}),
        ("nacre/PointRobot-v0", {"shift": "time:5"}),
        ("nacre/HopperRandParams-v0", {}),  # episodes of different lengths
    ],
)
def test_vector_environments_are_environments_side_by_side(environment_id, arguments):
    vector = gymnasium.make_vec(environment_id, 3, **arguments)
    assert type(vector).__name__ == "FamilyVectorEnv"
    beside = gymnasium.make_vec(environment_id, 3, vectorization_mode="sync", **arguments)
    assert vector.metadata["autoreset_mode"] == beside.metadata["autoreset_mode"]
    results = [drive(env, seed=5) for env in (vector, beside)]
    for one, same in zip(*results, strict=True):
        np.testing.assert_array_equal(one, same)
    assert results[0][3].any() or results[0][2].any()


@pytest.mark.parametrize("mode", ["async", "vector_entry_point"])
def test_tasks_of_vector_environments(mode):
    # A process that has used JAX should not fork.
    started = {"vector_kwargs": {"context": "spawn"}} if mode == "async" else {}
    env = gymnasium.make_vec("nacre/PointRobot-v0", 2, vectorization_mode=mode, **started)
    drawn = env.reset(seed=[4, 9])[1]["task"]
    assert (drawn[0] != drawn[1]).all()
    np.testing.assert_array_equal(env.reset()[1]["task"], drawn)
    same = env.reset(options={"task": [0.5, 0.25]})[1]["task"]
    np.testing.assert_array_equal(same, [[0.5, 0.25]] * 2)
    np.testing.assert_array_equal(env.reset(seed=1)[1]["task"], same)
    env.close()


def test_a_task_for_each_environment():
    tasks = [[0.5, 0.5], [0.25, -0.25]]
    env = gymnasium.make_vec("nacre/PointRobot-v0", 2, tasks=tasks)
    np.testing.assert_array_equal(env.reset(seed=0)[1]["task"], tasks)
    np.testing.assert_array_equal(env.reset(options={"tasks": tasks[::-1]})[1]["task"], tasks[::-1])
    for changes, message in (
        ({"task": [0.0, 0.0], "tasks": tasks}, "task and tasks are given; allowed: one of the two"),
        ({"tasks": [[0.0, 0.0]]}, "tasks has 1 rows; allowed: 2, one for each environment"),
    ):
        with pytest.raises(NacreError, match=message):
            env.reset(options=changes)
        with pytest.raises(NacreError, match=message):
            gymnasium.make_vec("nacre/PointRobot-v0", 2, **changes)
    with pytest.raises(NacreError, match="seed has 3 entries; allowed: a whole number, or 2 of them"):
        env.reset(seed=[1, 2, 3])
    short = gymnasium.make_vec("nacre/PointRobot-v0", 2, max_episode_steps=3)
    short.reset(seed=0)
    assert [short.step(np.zeros((2, 2), np.float32))[3].all() for _ in range(4)] == [False, False, True, False]
