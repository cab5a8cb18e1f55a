"""A Sawyer arm whose joints are moved one by one: task lists, rewards and start poses to the digit (spec meld 4), its
physics, what actions do, experiments, pictures. Physics need no package; pictures need the meshes of metaworld and
OpenGL."""

import importlib.util
import itertools
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
import scipy.optimize
from extras import NEEDS_METAWORLD
from gymnasium.utils.env_checker import check_env
from scipy.spatial.transform import Rotation

import nacre
from nacre.errors import NacreError
from nacre.experiments import family_of, make_experiment, validate
from nacre.tasks import Simulator, make_family, split_tasks
from nacre.tasks.rendering import NO_SIGNS, OWN_VIEW, signs_of
from nacre.tasks.sawyer_scenes import SCENES

NAMES = ["sawyer-reacher", "sawyer-peg", "sawyer-buttons", "sawyer-shelf"]
REACHING = NAMES[:3]
TASKS = {
    "sawyer-reacher": [0.8, -0.1, 0.5],
    "sawyer-peg": [2.0, 0.44, 0.071, 0.445, -0.079, 0.602, 0.074, 0.609, -0.072],
    "sawyer-buttons": [2.0, 0.75],
    "sawyer-shelf": [9.0, 0.1],
}
GOALS = {
    "sawyer-reacher": (0.8, -0.1, 0.5),
    "sawyer-peg": (0.602, 0.074, 0.0),
    "sawyer-buttons": (0.75, -0.14, -0.03),
    "sawyer-shelf": (0.1, 0.95, 0.221),
}


def model_of(name: str) -> mujoco.MjModel:
    return SCENES[make_family(name).scene].build(None).compile()


def begun(name: str, n_slots: int = 1, **options) -> Simulator:
    simulator = Simulator(make_family(name, **options), n_slots, threads=1)
    simulator.reset(seed=0, options={"tasks": np.array([TASKS[name]] * n_slots)})
    return simulator


# Tasks


def published(name: str, train: int, test: int):
    return split_tasks(make_family(name), train, test, seed=5, task_list="published")


def test_published_buttons():
    split = published("sawyer-buttons", 15, 12)
    np.testing.assert_array_equal(split.train[:, 0], [0, 1, 2] * 5)
    np.testing.assert_array_equal(split.test[:, 0], [0, 1, 2] * 4)
    train, test = (0.75098, 0.73029, 0.73842, 0.73140, 0.73091), (0.75260, 0.77069, 0.76024, 0.75451)
    np.testing.assert_allclose(split.train[:, 1], np.repeat(train, 3), atol=1e-5)
    np.testing.assert_allclose(split.test[:, 1], np.repeat(test, 3), atol=1e-5)


def test_published_pegs():
    split = published("sawyer-peg", 30, 10)
    np.testing.assert_array_equal(split.train[:, 0], np.arange(30) % 4)
    np.testing.assert_array_equal(split.test[:, 0], np.arange(10) % 4)
    train = (0.44417, 0.0772, 0.44, -0.07698, 0.60147, 0.07092, 0.60186, -0.07654)
    test = (0.44549, 0.07715, 0.44603, -0.07455, 0.60424, 0.07646, 0.60438, -0.07108)
    np.testing.assert_allclose(split.train[:4, 1:], [train] * 4, atol=1e-5)
    np.testing.assert_allclose(split.test[:4, 1:], [test] * 4, atol=1e-5)
    assert len(np.unique(split.train[:, 1])) == 8
    assert len(np.unique(split.test[:, 1])) == 3


def test_published_shelves():
    split = published("sawyer-shelf", 40, 10)
    weights = (9.1702, 12.2032, 5.0011, 8.0233, 6.4676, 5.9234, 6.8626, 8.4556, 8.9677, 10.3882)
    places = (-0.0323, 0.0741, -0.1182, 0.1512, -0.189, 0.0682, -0.0331, 0.0235, -0.1438, -0.1208)
    np.testing.assert_allclose(split.test, np.column_stack([weights, places]), atol=1e-4)
    first = [(9.3599, 0.1858), (5.2593, 0.0), (10.4966, 0.1558), (9.3532, -0.0634)]
    np.testing.assert_allclose(split.train[:4], first, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("sawyer-reacher", (0.75, -0.3, 0.3), (0.9, 0.3, 0.7)),
        (
            "sawyer-peg",
            (0, 0.44, 0.07, 0.44, -0.08, 0.6, 0.07, 0.6, -0.08),
            (3, 0.45, 0.08, 0.45, -0.07, 0.61, 0.08, 0.61, -0.07),
        ),
        ("sawyer-buttons", (0, 0.72), (2, 0.78)),
        ("sawyer-shelf", (5, -0.2), (15, 0.2)),
    ],
)
def test_drawn_tasks_cover_their_ranges(name, low, high):
    family = make_family(name)
    tasks = family.sample_tasks(np.random.default_rng(0), 3000)
    np.testing.assert_allclose(tasks.min(axis=0), low, atol=0.01)
    np.testing.assert_allclose(tasks.max(axis=0), high, atol=0.01)
    if family.task_choices:
        alone = [family.sample_tasks(np.random.default_rng(seed), 1)[0, 0] for seed in range(30)]
        assert set(alone) == set(range(int(high[0]) + 1))  # a task that is drawn alone is of any kind
        of_one_layout = (tasks[1:, 1:] == tasks[:-1, 1:]).all(axis=1)
        np.testing.assert_array_equal(of_one_layout, tasks[1:, 0] != 0)


# Rewards


def away(name: str, distance: float) -> np.ndarray:
    """A reward state whose scaled distance from the goal is this."""
    moved = np.array(GOALS[name]) + distance / 5 * np.array([0.48, -0.6, 0.64])
    return moved if name != "sawyer-shelf" else np.concatenate([moved, moved + np.array([0, 0, 0.1])])


def transition(name: str, distance: float):
    return None, None, away(name, distance), np.array(TASKS[name])


@pytest.mark.parametrize("name", REACHING)
def test_rewards_of_reaching(name):
    family = make_family(name)
    table = {0.0: 3.3749, 0.05: 0.9727, 0.15: 0.0, 0.5: -1.2731, 1.0: -2.6251, 2.0: -6.2272}
    for distance, reward in table.items():
        assert family.reward(*transition(name, distance)) == pytest.approx(reward, abs=1e-3)
    assert family.sparse_reward(*transition(name, 0.0)) == pytest.approx(4.3749, abs=1e-3)
    assert family.sparse_reward(*transition(name, 0.05)) == pytest.approx(1.9727, abs=1e-3)
    assert family.sparse_reward(*transition(name, 0.149)) == pytest.approx(1.0, abs=0.01)
    assert family.sparse_reward(*transition(name, 0.151)) == 0
    assert family.sparse_reward(*transition(name, 2.0)) == 0


def test_rewards_of_the_shelf():
    family = make_family("sawyer-shelf")
    table = {0.0: 5.0, 0.3: 0.95571, 0.5: 0.35204, 1.0: -1.0, 2.0: -4.60206}
    for distance, reward in table.items():
        assert family.reward(*transition("sawyer-shelf", distance)) == pytest.approx(reward, abs=1e-3)
    assert family.sparse_reward(*transition("sawyer-shelf", 0.0)) == pytest.approx(5 - 0.95571, abs=1e-3)
    for distance in (0.3001, 0.5, 2.0):
        assert family.sparse_reward(*transition("sawyer-shelf", distance)) == 0
    # A cup that lies at the goal: the top is 0.1 m below and 0.1 m beside its place.
    lying = np.array([*GOALS["sawyer-shelf"], 0.2, 0.95, 0.221])
    distance = 5 * np.hypot(0.1, 0.1) / 2
    expected = -(distance**2 + np.log10(distance**2 + 1e-5))
    assert family.reward(None, None, lying, np.array(TASKS["sawyer-shelf"])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_success_is_within_3_cm_at_the_end(name):
    family = make_family(name)
    assert (family.has_success, family.success_at) == (True, "end")
    assert family.success(*transition(name, 5 * 0.029))
    assert not family.success(*transition(name, 5 * 0.031))
    assert family.measured(*transition(name, 1.0)) == pytest.approx(0.2)
    assert family.target(np.array([TASKS[name]])) == 0  # so that a score is minus the distance


# Physics


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("sawyer-reacher", (0.785, 0.175, 0.202)),
        ("sawyer-peg", (0.648, -0.005, 0.102)),
        ("sawyer-buttons", (0.766, 0.011, 0.169)),
        ("sawyer-shelf", (-0.125, 0.7, 0.0)),
    ],
)
def test_start_poses(name, place):
    simulator = begun(name, 2)
    np.testing.assert_allclose(simulator.reward_states[:, :3], [place] * 2, atol=1e-3)
    assert simulator.frames_per_second == pytest.approx(4)
    simulator.close()


def test_the_cup_begins_between_the_fingers():
    simulator = begun("sawyer-shelf")
    data = simulator._world._slots[0].data
    right, left = data.body("finger_right").xpos, data.body("finger_left").xpos
    np.testing.assert_allclose((right + left)[:2] / 2, [-0.125, 0.7], atol=0.015)
    assert all(abs(contact.dist) < 1e-3 for contact in data.contact)  # nothing is pushed out of something
    simulator.close()


@pytest.mark.parametrize("name", NAMES)
def test_options_of_the_simulation(name):
    model = model_of(name)
    np.testing.assert_array_equal(model.opt.gravity, 0)
    assert (model.opt.timestep, model.opt.iterations, model.opt.tolerance) == (0.0025, 50, 1e-10)
    assert model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC
    assert not model.actuator_forcelimited.any()
    assert model.actuator_ctrllimited.all()
    assert model.jnt_limited[:7].all()
    np.testing.assert_allclose(model.jnt_range[:3], [(-3.0503, 3.0503), (-3.8, 2.2), (-3.0426, 3.0426)])
    np.testing.assert_allclose(model.jnt_margin[:7], 0.01)
    for values, expected in ((model.dof_damping, 10), (model.dof_armature, 0.1), (model.dof_frictionloss, 0.001)):
        np.testing.assert_allclose(values[:7], expected)
    masses = [model.body(f"l{number}").mass[0] for number in range(7)]
    np.testing.assert_allclose(masses, [5.3213, 4.505, 1.745, 2.5097, 1.1136, 1.5625, 0.3292])
    if name == "sawyer-shelf":
        assert model.actuator_ctrlrange.tolist() == [[-3, 3]] * 9
        np.testing.assert_allclose(model.jnt_range[7:9], [(0, 0.04), (-0.03, 0)])
        np.testing.assert_allclose((model.dof_damping[7:9], model.dof_armature[7:9]), ([1000] * 2, [100] * 2))
        np.testing.assert_allclose((model.dof_damping[9:], model.dof_armature[9:]), 0)
        np.testing.assert_allclose(model.body("cup").inertia, 0.1)
    else:
        np.testing.assert_allclose(model.actuator_gainprm[:, 0], 50)
        np.testing.assert_allclose(model.actuator_biasprm[:, :3], [(0, -50, 0)] * 7)
        low = [-3, -3.5, -3, -3, -2.9, -2.9, -4.7]
        np.testing.assert_allclose(model.actuator_ctrlrange.T, [low, [3, 2, 3, 3, 2.9, 2.9, 4.7]])


@pytest.mark.parametrize("name", REACHING)
def test_a_full_action_pulls_a_joint_by_the_step_and_moves_it_by_a_part(name):
    """A third to four fifths, from rest, whichever joint (spec meld 4.1)."""
    simulator = begun(name, 14)
    before = simulator.step(np.zeros((14, 7), np.float32))[0]  # which rests
    np.testing.assert_allclose(before[:, 7:14], 0, atol=1e-4)
    actions = np.concatenate([np.eye(7), -2 * np.eye(7)]).astype(np.float32)  # actions are clipped
    after = simulator.step(actions)[0]
    ours = np.array([slot.data.ctrl for slot in simulator._world._slots])
    np.testing.assert_allclose(ours - before[:, :7], 0.04 * actions.clip(-1, 1), atol=1e-6)
    share = ((after - before)[:, :7] * np.sign(actions)).max(axis=1) / 0.04
    assert (share > 0.33).all()
    assert (share < 0.8).all()
    simulator.close()


def test_actions_are_torques_in_the_shelf():
    simulator = begun("sawyer-shelf")
    action = np.linspace(-1.5, 1, 9, dtype=np.float32)
    simulator.step(action[None])
    np.testing.assert_allclose(simulator._world._slots[0].data.ctrl, 3 * action.clip(-1, 1), rtol=1e-6)
    simulator.close()


def test_the_panel_is_flat_and_where_the_task_says():
    simulator = begun("sawyer-buttons")
    model, data = simulator._world._slots[0][:2]
    (panel,) = (geom for geom in range(model.ngeom) if np.allclose(model.geom_size[geom], (0.08, 0.2, 0.05)))
    np.testing.assert_allclose(data.geom_xmat[panel].reshape(3, 3), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(data.geom_xpos[panel], (0.75, 0, -0.1), atol=1e-9)  # its top is at -0.05
    discs = [geom for geom in range(model.ngeom) if np.allclose(model.geom_size[geom][:2], (0.025, 0.005))]
    np.testing.assert_allclose(data.geom_xpos[discs], [(0.75, y, -0.04) for y in (0.14, 0, -0.14)], atol=1e-9)
    np.testing.assert_allclose(model.geom_rgba[discs][:, :3], np.eye(3))  # red, green, blue
    np.testing.assert_allclose(model.body("goal").pos, GOALS["sawyer-buttons"])
    simulator.close()


def test_blocks_are_where_the_task_says_and_have_holes():
    simulator = begun("sawyer-peg", 2)
    other = np.add(TASKS["sawyer-peg"], [-2, 0.003, 0, 0, 0, 0, 0, 0, 0])
    simulator.reset(seed=0, options={"tasks": np.array([TASKS["sawyer-peg"], other])})
    for slot, task in zip(simulator._world._slots, (TASKS["sawyer-peg"], other), strict=True):
        places = [slot.data.body(f"block{number}").xpos[:2] for number in range(4)]
        np.testing.assert_allclose(np.ravel(places), task[1:], atol=1e-12)
    model, data = simulator._world._slots[0][:2]
    x, y, _ = GOALS["sawyer-peg"]
    for offset, expected in (((0, 0), 0.0), ((0.019, 0.019), 0.0), ((0.021, 0), 0.06), ((0, -0.069), 0.06)):
        # A ray from above meets the table in the hole, and the top of the block beside it.
        start, down = np.array([x + offset[0], y + offset[1], 0.065]), np.array([0.0, 0.0, -1.0])
        assert 0.065 - mujoco.mj_ray(model, data, start, down, [1, 1, 0, 0, 0, 0], 1, -1, np.zeros(1, np.int32)) == (
            pytest.approx(expected, abs=1e-9)
        )
    simulator.close()


def test_an_arm_that_knows_the_place_reaches_every_corner_in_an_episode():
    corners = np.array(list(itertools.product((0.75, 0.9), (-0.3, 0.3), (0.3, 0.7))))
    scene = SCENES["reacher"]
    model = scene.build(None).compile()
    data = mujoco.MjData(model)
    low, high = model.jnt_range.T.copy()
    low[1] = -0.95  # beyond that the arm is against its head

    def off(angles: np.ndarray, corner: np.ndarray) -> np.ndarray:
        data.qpos[:] = angles
        mujoco.mj_kinematics(model, data)
        return np.concatenate([20 * (data.site("end_effector").xpos - corner), 0.3 * (angles - scene.start)])

    angles = [scipy.optimize.least_squares(off, scene.start, bounds=(low, high), args=(each,)).x for each in corners]
    simulator = Simulator(make_family("sawyer-reacher"), len(corners), threads=1)
    observations, _ = simulator.reset(seed=0, options={"tasks": corners})
    for _ in range(40):
        observations, rewards, _, truncations, infos = simulator.step((angles - observations[:, :7]) / 0.04)
    simulator.close()
    assert truncations.all()
    assert infos["success"].all()
    assert (rewards > 1).all()
    np.testing.assert_allclose(infos["sparse_reward"], rewards + 1)


def aimed(simulator: Simulator, goal: np.ndarray) -> np.ndarray:
    """The action that moves the end effector straight to a place and lets it point down, by the inverse of what joints
    do to it."""
    model, data, _ = simulator._world._slots[0]
    places, turns = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    site = model.site("end_effector").id
    mujoco.mj_jacSite(model, data, places, turns, site)
    axis = data.site_xmat[site].reshape(3, 3)[:, 2]
    way = np.concatenate([2 * (goal - data.site_xpos[site]), np.cross(axis, [0.0, 0.0, -1.0])])
    jacobian = np.concatenate([places, turns])
    joints = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), way)
    return (joints / max(0.04, abs(joints).max()))[None].astype(np.float32)


@pytest.mark.parametrize(("name", "lift"), [("sawyer-peg", 0.1), ("sawyer-buttons", 0.0)])
def test_an_arm_that_knows_the_goal_does_the_task_in_an_episode(name, lift):
    simulator = begun(name)
    goal = np.array(GOALS[name])
    above = goal + np.array([0.0, 0.0, lift])  # from where a peg is put into its hole
    for step in range(40):
        near = np.linalg.norm(simulator.reward_states[0][:2] - goal[:2]) < 0.002
        _, rewards, _, _, infos = simulator.step(aimed(simulator, goal if near or step > 30 else above))
    simulator.close()
    assert infos["success"][0]
    assert rewards[0] > 0


def test_the_cup_goes_along_with_the_hand():
    """The margins of the fingers' limits hold it, whatever the fingers are told (docs/task-families.md)."""
    for fingers in (0.0, -1.0):
        simulator = begun("sawyer-shelf")
        hand = simulator._world._slots[0].data.body("hand").xpos
        before = np.linalg.norm(simulator.reward_states[0][:3] - hand)
        action = np.array([[0, -1, 0, 0, 0, 0, 0, fingers, -fingers]], np.float32)
        for _ in range(20):
            simulator.step(action)
        place, hand = simulator.reward_states[0][:3], hand.copy()
        simulator.close()
        assert hand[2] > 0.25
        assert place[2] > 0.2
        assert abs(np.linalg.norm(place - hand) - before) < 0.02


def joints_of_the_way(model: mujoco.MjModel, way: np.ndarray) -> list[np.ndarray]:
    """Angles with which the hand has moved from its start by each of these, without turning."""
    data, start = mujoco.MjData(model), np.array(SCENES["shelf"].start)
    low, high = model.jnt_range[:7].T.copy()
    low[1] = -0.97  # beyond that the arm is against its head

    def hand(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data.qpos[:] = start
        data.qpos[:7] = angles
        mujoco.mj_kinematics(model, data)
        return data.body("hand").xpos.copy(), data.body("hand").xmat.reshape(3, 3).copy()

    place, turned = hand(start[:7])

    def off(angles: np.ndarray, moved: np.ndarray, guess: np.ndarray) -> np.ndarray:
        now, turn = hand(angles)
        rotation = Rotation.from_matrix(turn @ turned.T).as_rotvec()
        return np.concatenate([20 * (now - place - moved), 3 * rotation, 0.02 * (angles - guess)])

    found = [start[:7]]
    for moved in way:
        found.append(scipy.optimize.least_squares(off, found[-1], bounds=(low, high), args=(moved, found[-1])).x)
    return found[1:]


@pytest.mark.parametrize(("weight", "goal"), [(5.0, -0.19), (15.0, 0.19)])
def test_torques_that_know_the_goal_put_the_cup_there_in_an_episode(weight, goal):
    simulator = Simulator(make_family("sawyer-shelf"), 1, threads=1)
    simulator.reset(seed=0, options={"tasks": np.array([[weight, goal]])})
    model, data, _ = simulator._world._slots[0]
    aside = goal + 0.125
    up = [(0.2 * aside, 0.03, 0.13), (0.4 * aside, 0.05, 0.26), (0.6 * aside, 0.13, 0.26)]
    along = [(0.9 * aside, 0.2, 0.25), (aside, 0.25, 0.235), (aside, 0.25, 0.221)]
    joints = joints_of_the_way(model, np.array(up + along))
    action = np.zeros((1, 9), np.float32)
    for _ in range(40):
        while len(joints) > 1 and abs(joints[0] - data.qpos[:7]).max() < 0.1:
            del joints[0]
        torques = 0.8 * (joints[0] - data.qpos[:7]) / 0.25 * 10 / 3  # against a damping of 10
        action[0, :7] = torques / max(1.0, abs(torques).max())
        _, _, _, truncations, infos = simulator.step(action)
    simulator.close()
    assert truncations[0]
    assert infos["success"][0]
    assert infos["sparse_reward"][0] > 0


def test_weight_is_inertia():
    simulator = begun("sawyer-shelf", 2)
    simulator.reset(seed=0, options={"tasks": np.array([[5.0, 0.1], [15.0, 0.1]])})
    masses = [slot.model.body("cup").mass[0] for slot in simulator._world._slots]
    assert masses == [5, 15]
    simulator.close()


# Experiments


@pytest.mark.parametrize(
    ("name", "values", "initial_steps"),
    [
        (
            "meld/reacher",
            {
                "first_latent_size": 64,
                "second_latent_size": 32,
                "hidden_size": 256,
                "model_rounds": 5367,
                "initial_trials": 2,
                "initial_model_steps": 1440,
                "model_steps": 32,
                "policy_steps": 20,
                "train_tasks": 60,
                "test_tasks": 10,
                "policy_trials": 20,
                "model_trials": 12,
            },
            4800,
        ),
        (
            "meld/peg",
            {
                "first_latent_size": 128,
                "second_latent_size": 64,
                "hidden_size": 512,
                "model_rounds": None,
                "initial_trials": 5,
                "initial_model_steps": 1800,
                "model_steps": 12,
                "policy_steps": 12,
                "train_tasks": 30,
                "test_tasks": 10,
                "policy_trials": 20,
                "model_trials": 12,
            },
            6000,
        ),
        (
            "meld/shelf",
            {
                "first_latent_size": 128,
                "second_latent_size": 64,
                "hidden_size": 256,
                "model_rounds": None,
                "initial_trials": 20,
                "initial_model_steps": 9600,
                "model_steps": 12,
                "policy_steps": 12,
                "train_tasks": 40,
                "test_tasks": 10,
                "policy_trials": 20,
                "model_trials": 12,
            },
            32000,
        ),
        (
            "meld/buttons",
            {
                "first_latent_size": 64,
                "second_latent_size": 32,
                "hidden_size": 512,
                "model_rounds": None,
                "initial_trials": 5,
                "initial_model_steps": 900,
                "model_steps": 32,
                "policy_steps": 20,
                "train_tasks": 15,
                "test_tasks": 12,
                "policy_trials": 15,
                "model_trials": 12,
            },
            3000,
        ),
        (
            "meld/buttons-sparse",
            {
                "first_latent_size": 64,
                "second_latent_size": 32,
                "hidden_size": 512,
                "model_rounds": None,
                "initial_trials": 5,
                "initial_model_steps": 1350,
                "model_steps": 48,
                "policy_steps": 30,
                "train_tasks": 15,
                "test_tasks": 12,
                "policy_trials": 15,
                "model_trials": 8,
                "episodes": 2,
                "episode_steps": 30,
                "context_reward": "sparse",
                "offline_share": 0.3,
            },
            4500,
        ),
    ],
)
def test_values_of_the_experiments(name, values, initial_steps):
    """Spec meld 2.6 and 3.3. What all have in common is in `common`."""
    experiment = make_experiment(name)
    common = {
        "base_depth": 64,
        "reward_repeats": 32,
        "reward_deviation": 0.2,
        "reward_weight": 10.0,
        "hidden_layers": 2,
        "image_deviation": 0.1**0.5,
        "policy_batch_size": 512,
        "rounds": 100,
        "discount": 0.99,
        "model_learning_rate": 1e-4,
        "policy_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "temperature_learning_rate": 3e-4,
        "initial_temperature": 1.0,
        "target_update_rate": 0.005,
        "reward_scale": 1.0,
        "target_entropy": None,
        "relabelled_share": 0.0,
        "offline_run": None,
        "episodes": 1,
        "episode_steps": 40,
        "context_reward": "dense",
    }
    found = vars(experiment) | vars(experiment.algorithm)
    assert {field: found[field] for field in common | values} == common | values
    config, family = experiment.algorithm, family_of(experiment)
    per_iteration = 100 * config.episodes * config.episode_steps  # between two evaluations
    steps = experiment.environment_steps
    assert steps == initial_steps + experiment.iterations * per_iteration
    assert config.initial_model_steps == 0.3 * initial_steps
    assert config.model_trials == 512 // (config.episodes * (config.episode_steps + 1))
    assert family.observation_size == (128, 64, 3)
    assert family.cameras == family.views
    assert family.cameras[0] == "track"
    task_list = "seeded" if name == "meld/reacher" else "published"
    assert experiment.task_list == task_list
    validate(experiment, family)
    validate(replace(experiment, algorithm=replace(config, offline_run="runs/meld/buttons/seed-0")), family)
    if name != "meld/reacher":
        refused = replace(experiment, algorithm=replace(config, relabelled_share=0.5))
        with pytest.raises(NacreError, match=r"relabelled_share is 0.5; allowed for sawyer-\w+-pixels: 0.0"):
            validate(refused, family)


def test_the_small_reacher_is_small():
    experiment = make_experiment("meld/reacher-small")
    family = family_of(experiment)
    validate(experiment, family)
    assert experiment.algorithm.base_depth == 16
    assert 20_000 <= experiment.environment_steps <= 40_000
    assert family.observation_size == (64, 32, 3)


# Pictures


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_nothing_is_drawn_and_all_else_works(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    simulator = begun(name)
    simulator.step(np.zeros((1, simulator.family.action_size), np.float32))
    with pytest.raises(NacreError, match=f"The family {name} needs the robot's models.*the extra metaworld brings it"):
        simulator.make_renderer(64, 64)
    simulator.close()


def test_what_cannot_be_drawn_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NacreError, match="needs the robot's models"):
        nacre.train(nacre.make_experiment("meld/reacher-small"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def drawn(name: str, tasks, signs: bool = False, camera: str | None = None, size: int = 64) -> list[np.ndarray]:
    """The first picture of each task."""
    family = make_family(name)
    simulator = Simulator(family, len(tasks), threads=1)
    simulator.reset(seed=0, options={"tasks": np.array(tasks)})
    renderer = simulator.make_renderer(size, size)
    pictures = [
        renderer.draw(configuration, signs_of(family, np.array(task)) if signs else NO_SIGNS, camera or OWN_VIEW)
        for configuration, task in zip(simulator.configurations(), tasks, strict=True)
    ]
    again = renderer.draw(simulator.configurations()[0], camera=camera or OWN_VIEW)
    if not signs:
        np.testing.assert_array_equal(again, pictures[0])  # whatever was drawn in between
    renderer.close()
    simulator.close()
    return pictures


def red(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of what is redder than the arm."""
    colours = picture.astype(int)
    return np.argwhere((colours[..., 0] > 200) & (colours[..., 1:].max(axis=-1) < 60))


OTHERS = {
    "sawyer-reacher": [0.85, 0.25, 0.6],
    "sawyer-peg": [1.0, *TASKS["sawyer-peg"][1:]],
    "sawyer-buttons": [1.0, 0.75],
    "sawyer-shelf": [14.0, -0.15],
}
"""Tasks that differ from `TASKS` in nothing that can be seen."""


@NEEDS_METAWORLD
@pytest.mark.opengl
@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_the_task_only_if_they_should(name):
    tasks = [TASKS[name], OTHERS[name]]
    cameras = make_family(name).views
    for camera in cameras:
        here, there = drawn(name, tasks, camera=camera)
        assert (here.shape, here.dtype) == ((64, 64, 3), np.uint8)
        np.testing.assert_array_equal(here, there)
        assert len(np.unique(here.reshape(-1, 3), axis=0)) > 20
    assert (drawn(name, tasks[:1], camera=cameras[0])[0] != drawn(name, tasks[:1], camera=cameras[1])[0]).any()
    here, there = drawn(name, tasks, signs=True, size=240)
    assert (here != there).any()
    assert len(red(here)) > len(red(drawn(name, tasks[:1], size=240)[0]))


@NEEDS_METAWORLD
@pytest.mark.opengl
def test_pictures_show_where_things_are():
    before, after = drawn("sawyer-buttons", [[0.0, 0.72], [0.0, 0.78]])
    assert (before != after).any()
    layout = np.array(TASKS["sawyer-peg"])
    before, after = drawn("sawyer-peg", [layout, layout + [0, 0.01, 0, 0, 0, 0, 0, 0, 0]], size=128)  # noqa: RUF005
    assert (before != after).any()


@NEEDS_METAWORLD
@pytest.mark.opengl
@pytest.mark.parametrize(
    ("name", "camera", "place", "angles"),
    [
        ("sawyer-reacher", "track", (-0.7, 0.0, 1.7), (0.65, 0.0, -1.571)),
        ("sawyer-reacher", "track_aux_reach", (0.5, -2.4, 0.4), (1.5, 0.0, 0.0)),
        ("sawyer-shelf", "track", (0.0, -0.4, 1.3), (0.85, 0.0, 0.0)),
    ],
)
def test_a_goal_is_where_the_camera_has_to_see_it(name, camera, place, angles):
    """A pinhole of 45 degrees at the published place, turned about the fixed axes x, y and z one after another."""
    (picture,) = drawn(name, [TASKS[name]], signs=True, camera=camera, size=240)
    x, y, depth = Rotation.from_euler("xyz", angles).inv().apply(np.subtract(GOALS[name], place))
    scale = 120 / np.tan(np.pi / 8)
    expected = np.array([120 - scale * y / -depth, 120 + scale * x / -depth])
    np.testing.assert_allclose(red(picture).mean(axis=0) + 0.5, expected, atol=1.5)


@NEEDS_METAWORLD
@pytest.mark.opengl
@pytest.mark.parametrize("environment", ["SawyerReacher", "SawyerPeg", "SawyerButtons", "SawyerShelf"])
def test_gymnasium_environments_with_two_cameras(environment):
    env = gymnasium.make(f"nacre/{environment}Pixels-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (128, 64, 3), np.uint8)
    task = TASKS[env.unwrapped.family.name.removesuffix("-pixels")]
    observation, _ = env.reset(seed=0, options={"task": task})
    for part, camera in zip((observation[:64], observation[64:]), env.unwrapped.family.views, strict=True):
        np.testing.assert_array_equal(part, drawn(env.unwrapped.family.family.name, [task], camera=camera)[0])
    assert env.metadata["render_fps"] == pytest.approx(4)
    env.reset(seed=0)
    assert env.render().shape == (480, 480, 3)
    env.close()
