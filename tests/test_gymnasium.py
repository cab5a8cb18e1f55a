"""Our families as Gymnasium environments, and Gymnasium environments as families."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env

from nacre.environments import ENVIRONMENTS
from nacre.errors import NacreError
from nacre.tasks import GymnasiumFamily, Simulator, list_families, make_family

IDS = {
    "nacre/PointRobot-v0": "point-robot",
    "nacre/SparsePointRobot-v0": "sparse-point-robot",
    "nacre/HalfCheetahVel-v0": "cheetah-vel",
    "nacre/HalfCheetahDir-v0": "cheetah-dir",
    "nacre/AntDir-v0": "ant-dir",
    "nacre/AntRandomDir-v0": "ant-random-dir",
    "nacre/AntGoal-v0": "ant-goal",
    "nacre/AntGoalWithoutForces-v0": "ant-goal-without-forces",
    "nacre/HumanoidDir-v0": "humanoid-dir",
    "nacre/Walker2dRandParams-v0": "walker-rand-params",
    "nacre/HopperRandParams-v0": "hopper-rand-params",
    "nacre/PointRobotPixels-v0": "point-robot-pixels",
    "nacre/HalfCheetahVelPixels-v0": "cheetah-vel-pixels",
}
ITEMS = [pytest.param(*item, marks=[pytest.mark.opengl] * (item[1] == "cheetah-vel-pixels")) for item in IDS.items()]

TERMINATING = {"ant-dir", "ant-random-dir", "humanoid-dir", "walker-rand-params", "hopper-rand-params"}
"""Where random actions end an episode before the horizon."""


def test_every_family_is_an_environment():
    assert {name: (family, make_family(family).horizon) for name, family in IDS.items()} == ENVIRONMENTS
    assert sorted(IDS.values()) == list_families()


@pytest.mark.parametrize(("environment_id", "name"), ITEMS)
def test_gymnasiums_own_check(environment_id, name):
    env = gymnasium.make(environment_id)  # warnings are errors here
    # Others need OpenGL to draw: tests/test_rendering.py.
    check_env(env.unwrapped, skip_render_check="Point" not in environment_id)
    env.close()


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


class Drift(gymnasium.Env):
    """x += action + drift, terminating beyond 10; the action space is [0, 4]."""

    observation_space = Box(-100.0, 100.0, (1,), np.float64)
    action_space = Box(0.0, 4.0, (1,), np.float64)
    truncate_after = None

    def __init__(self):
        self.drift = None
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.age = self.np_random.uniform(0, 0.5), 0
        return np.array([self.x]), {}

    def step(self, action):
        assert action in self.action_space
        self.x += float(action[0]) + self.drift
        self.age += 1
        return np.array([self.x]), -abs(self.x), self.x > 10, self.age == self.truncate_after, {}

    def close(self):
        self.closed = True


def set_drift(env, task):
    env.unwrapped.drift = task[0]


def drift_family(make_env=Drift, horizon=5):
    return GymnasiumFamily(
        name="drift",
        make_env=make_env,
        set_task=set_drift,
        sample_tasks=lambda generator, n: generator.uniform(-1, 1, (n, 1)),
        task_parameters=("drift",),
        horizon=horizon,
    )


def test_own_environment_as_a_family():
    made = []

    def make_env():
        made.append(Drift())
        return made[-1]

    family = drift_family(make_env)
    assert (family.observation_size, family.action_size) == (1, 1)
    simulator = Simulator(family, 3)
    start, _ = simulator.reset(seed=0, options={"tasks": np.array([[0.0], [0.5], [8.0]])})
    assert len(np.unique(start)) == 3
    # -1, 0 and 1 become 0, 2 and 4.
    observations, rewards, terminations, truncations, _ = simulator.step(np.array([[-1], [0], [1]], np.float32))
    np.testing.assert_allclose(observations, start + np.array([[0.0], [2.5], [12.0]]), rtol=1e-6)
    np.testing.assert_allclose(rewards, -observations[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(terminations, [False, False, True])
    for _ in range(4):
        observations, rewards, terminations, truncations, _ = simulator.step(-np.ones((3, 1), np.float32))
    np.testing.assert_array_equal(truncations, [True, True, False])
    np.testing.assert_allclose(observations, start + np.array([[0.0], [4.5], [12.0]]), rtol=1e-6)
    again, _ = simulator.reset(seed=0)
    np.testing.assert_array_equal(again, start)
    simulator.close()
    assert len(made) == 4
    assert all(env.closed for env in made)


def test_own_environment_that_truncates_too_early():
    class Short(Drift):
        truncate_after = 3

    simulator = Simulator(drift_family(Short), 1)
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    for _ in range(2):
        simulator.step(np.zeros((1, 1), np.float32))
    with pytest.raises(NacreError, match="after 3 steps, before its family's horizon of 5"):
        simulator.step(np.zeros((1, 1), np.float32))
    simulator = Simulator(drift_family(Short, horizon=3), 1)  # a TimeLimit of the same length is no matter
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    truncations = [simulator.step(-np.ones((1, 1), np.float32))[3][0] for _ in range(3)]
    assert truncations == [False, False, True]


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"observation_space": Dict({"x": Box(-1, 1, (1,))})}, "observation space of drift must be a Box"),
        ({"observation_space": Box(-1, 1, (8, 8))}, "Box of one dimension"),
        ({"action_space": Discrete(3)}, "action space of drift must be a Box"),
        ({"action_space": Box(-np.inf, np.inf, (1,))}, "finite bounds"),
    ],
)
def test_own_environment_with_spaces_that_do_not_fit(spaces, message):
    with pytest.raises(NacreError, match=message):
        drift_family(type("Unfit", (Drift,), spaces))
