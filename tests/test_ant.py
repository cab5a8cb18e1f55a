"""Ants: physics, observations and rewards against a bare loop of MuJoCo, contact forces, what standing still earns."""

import mujoco
import numpy as np
import pytest

from nacre.errors import NacreError
from nacre.tasks import Simulator, make_family
from nacre.tasks.mujoco import ASSETS


def bare_ant(seed):
    """An ant at the start of an episode, from the spec: no code of ours."""
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "ant.xml"))
    data = mujoco.MjData(model)
    generator = np.random.default_rng(seed)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, 15)
    data.qvel[:] = 0.1 * generator.standard_normal(14)
    mujoco.mj_normalizeQuat(model, data.qpos)
    mujoco.mj_forward(model, data)
    return model, data


def bare_step(model, data, action):
    """One control step; how far the torso moved along x and y, and the contact cost."""
    torso = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "torso")
    before = data.xpos[torso, :2].copy()
    data.ctrl[:] = action
    for _ in range(5):
        mujoco.mj_step(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    contact_cost = 0.5 * 1e-3 * np.sum(np.square(np.clip(data.cfrc_ext, -1, 1)))
    return data.xpos[torso, :2] - before, contact_cost


@pytest.mark.parametrize(("name", "task"), [("ant-dir", (-1.0, 0.0)), ("ant-random-dir", (0.6, 0.8))])
def test_ant_directions_against_a_plain_loop(name, task):
    simulator = Simulator(make_family(name), 2)
    observations, _ = simulator.reset(seed=[8, 3], options={"tasks": np.array([(1.0, 0.0), task])})
    model, data = bare_ant(3)
    np.testing.assert_array_equal(observations[1], np.concatenate([data.qpos[2:], data.qvel]).astype(np.float32))
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 2, 8)).astype(np.float32)
    costs, heights = [], []
    for action in actions:
        observations, rewards, terminations, _, _ = simulator.step(action)
        moved, contact_cost = bare_step(model, data, action[1])
        speed = moved @ np.array(task) / (model.opt.timestep * 5)
        expected = speed - 0.5 * np.sum(np.square(action[1].astype(float))) - contact_cost + 1.0
        np.testing.assert_allclose(rewards[1], expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(observations[1], np.concatenate([data.qpos[2:], data.qvel]).astype(np.float32))
        costs.append(contact_cost)
        heights.append(data.qpos[2])
        assert terminations[1] == (not 0.2 <= heights[-1] <= 1.0)
        if terminations[1]:
            break
    simulator.close()
    assert max(costs) > 0.001
    assert len(heights) > 10


def test_ant_goal_against_a_plain_loop():
    goal = np.array([-1.5, 2.0])
    simulator = Simulator(make_family("ant-goal"), 1)
    observations, _ = simulator.reset(seed=[4], options={"tasks": goal[None]})
    model, data = bare_ant(4)
    assert np.linalg.norm(observations[0, 3:7]) == pytest.approx(1, abs=1e-6)
    largest = 0.0
    for action in np.random.default_rng(1).uniform(-1, 1, (100, 1, 8)).astype(np.float32):
        observations, rewards, terminations, _, _ = simulator.step(action)
        _, contact_cost = bare_step(model, data, action[0])
        forces = np.clip(data.cfrc_ext, -1, 1).ravel()
        np.testing.assert_array_equal(
            observations[0], np.concatenate([data.qpos, data.qvel, forces]).astype(np.float32)
        )
        distance = np.abs(data.body("torso").xpos[:2] - goal).sum()
        expected = -distance - 0.1 * np.sum(np.square(action.astype(float))) - contact_cost
        np.testing.assert_allclose(rewards[0], expected, rtol=0, atol=1e-12)
        assert not terminations[0]
        largest = max(largest, np.abs(data.cfrc_ext).max())
    simulator.close()
    assert largest > 10  # so the clipping was tested


def test_the_ground_carries_the_ant():
    """Contact forces as a balance knows them: of an ant at rest they sum to its weight."""
    family = make_family("ant-goal")
    world = family.make_world(1, threads=1)
    slots = np.array([0])
    world.reset(slots, np.zeros((1, 2)), [np.random.default_rng(0)])
    for _ in range(400):
        observation, state = world.step(slots, np.zeros((1, 8)))
    world.close()
    mass = mujoco.MjModel.from_xml_path(str(ASSETS / "ant.xml")).body_mass.sum()
    forces = state[0, 3:].reshape(14, 6)  # torque and force on each body, the world first
    assert forces[1:, 5].sum() == pytest.approx(9.81 * mass, rel=0.01)
    assert np.count_nonzero(observation[0, 29:]) > 10
    assert np.abs(observation[0, 29:]).max() <= 1


def test_reset_noise_of_the_ant():
    simulator = Simulator(make_family("ant-goal"), 200)
    observations, _ = simulator.reset(seed=0, options={"tasks": np.zeros((200, 2))})
    simulator.close()
    joints, velocities = observations[:, 7:15], observations[:, 15:29]
    assert 0.098 < np.abs(joints).max() <= 0.1
    assert joints.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert velocities.std() == pytest.approx(0.1, rel=0.05)
    assert observations[:, 2].min() > 0.65
    np.testing.assert_allclose(np.linalg.norm(observations[:, 3:7], axis=1), 1, rtol=1e-6)


def test_without_forces_an_ant_moves_alike_and_sees_and_pays_nothing_of_contacts():
    actions = np.random.default_rng(3).uniform(-1, 1, (30, 2, 8)).astype(np.float32)
    tasks = np.array([[1.0, 0.5], [-2.0, 0.0]])
    seen, earned = {}, {}
    for name in ("ant-goal", "ant-goal-without-forces"):
        simulator = Simulator(make_family(name), 2)
        simulator.reset(seed=5, options={"tasks": tasks})
        steps = [simulator.step(action) for action in actions]
        seen[name], earned[name] = np.array([step[0] for step in steps]), np.array([step[1] for step in steps])
        simulator.close()
    np.testing.assert_array_equal(seen["ant-goal"][..., :29], seen["ant-goal-without-forces"][..., :29])
    forces = seen["ant-goal"][..., 29:].astype(np.float64)
    assert (forces != 0).any()
    assert not seen["ant-goal-without-forces"][..., 29:].any()
    cost = earned["ant-goal-without-forces"] - earned["ant-goal"]
    np.testing.assert_allclose(cost, 0.0005 * (forces**2).sum(-1), atol=1e-7)


@pytest.mark.parametrize("name", ["ant-dir", "ant-random-dir", "humanoid-dir"])
def test_without_forces_bodies_move_alike_and_pay_nothing_of_contacts(name):
    family = make_family(name)
    actions = np.random.default_rng(3).uniform(-1, 1, (12, 2, family.action_size)).astype(np.float32)
    tasks = np.array([[1.0, 0.0], [-1.0, 0.0]])
    seen, earned, forces = [], [], []
    for member in (name, f"{name}-without-forces"):
        simulator = Simulator(make_family(member), 2)
        simulator.reset(seed=5, options={"tasks": tasks})
        steps = []
        for action in actions:
            steps.append(simulator.step(action))
            forces.append(simulator._reward_states[:, 3:].copy())
        seen.append(np.array([step[0] for step in steps]))
        earned.append(np.array([step[1] for step in steps]))
        simulator.close()
    felt, none = np.split(np.array(forces), 2)
    assert felt.any()
    assert not none.any()
    first, end = family.contact_forces or (0, 0)
    assert (end - first) == (84 if name == "humanoid-dir" else 0)
    np.testing.assert_array_equal(np.delete(seen[0], range(first, end), -1), np.delete(seen[1], range(first, end), -1))
    np.testing.assert_allclose(seen[0][..., first:end], felt if end else np.zeros((12, 2, 0)), rtol=1e-6)
    assert not seen[1][..., first:end].any()
    cost = 0.0005 * (felt.clip(-1, 1) ** 2).sum(-1)
    if name == "humanoid-dir":
        cost = np.minimum(0.5e-6 * (felt**2).sum(-1), 10)
    np.testing.assert_allclose(earned[1] - earned[0], cost, atol=1e-9)


@pytest.fixture(scope="module")
def standing():
    """Reward states (time + 1, slots, 87) of four ants that do nothing."""
    world = make_family("ant-goal").make_world(4, threads=2)
    slots = np.arange(4)
    _, state = world.reset(slots, np.zeros((4, 2)), [np.random.default_rng(slot) for slot in slots])
    states = [state.copy()] + [world.step(slots, np.zeros((4, 8)))[1].copy() for _ in range(200)]
    world.close()
    return np.array(states)


def test_standing_still_in_ant_goal_returns_what_was_published(standing):
    """-509 over the goals (spec 6.3): the mean of |x| + |y| over a disc of radius 3 is 8 / pi."""
    family = make_family("ant-goal")
    goals = family.sample_tasks(np.random.default_rng(0), 2000)
    previous, following = standing[:-1, :, None], standing[1:, :, None]
    returns = family.reward(previous, np.zeros(8), following, goals).sum(axis=0)
    assert returns.shape == (4, 2000)
    assert returns.mean() == pytest.approx(-200 * 8 / np.pi, abs=10)
    assert not family.terminated(previous, np.zeros(8), following, goals).any()


def test_standing_still_in_ant_dir_returns_at_most_the_reward_for_surviving(standing):
    """At most 200 (spec 6.3), on average over the two directions: what is gained in one is lost in the other."""
    family = make_family("ant-dir")
    tasks = np.array(family.finite_tasks)
    previous, following = standing[:-1, :, None], standing[1:, :, None]
    returns = family.reward(previous, np.zeros(8), following, tasks).sum(axis=0)
    assert ((returns.mean(axis=1) > 190) & (returns.mean(axis=1) < 200)).all()
    assert not family.terminated(previous, np.zeros(8), following, tasks).any()


def test_ant_rewards_by_hand():
    previous, following = np.zeros(87), np.zeros(87)
    following[:3] = 0.1, 0.05, 0.5  # 2 m/s along x, 1 m/s along y
    following[3:7] = 0.5, -2.0, 1.0, 0.0  # clipped squares: 0.25, 1, 1
    action = np.array([1.0, -0.5, 0, 0, 0, 0, 0, 0])
    direction = make_family("ant-dir").reward(previous, action, following, np.array([-1.0, 0.0]))
    assert direction == pytest.approx(-2 - 0.5 * 1.25 - 0.0005 * 2.25 + 1)
    goal = make_family("ant-goal").reward(previous, action, following, np.array([1.0, -1.0]))
    assert goal == pytest.approx(-(0.9 + 1.05) - 0.1 * 1.25 - 0.0005 * 2.25)
    heights = np.zeros((5, 87))
    heights[:, 2] = 0.19, 0.2, 0.6, 1.0, 1.01
    ended = make_family("ant-dir").terminated(previous, action, heights, np.zeros(2))
    np.testing.assert_array_equal(ended, [True, False, False, False, True])


def test_ant_tasks_cover_their_ranges():
    directions = make_family("ant-random-dir").sample_tasks(np.random.default_rng(0), 2000)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.05)
    goals = make_family("ant-goal").sample_tasks(np.random.default_rng(0), 4000)
    radii = np.linalg.norm(goals, axis=1)
    assert 2.99 < radii.max() <= 3
    assert (radii < 1.5).mean() == pytest.approx(0.25, abs=0.02)  # uniform in area
    np.testing.assert_allclose(goals.mean(axis=0), 0, atol=0.1)
    both = make_family("ant-dir").sample_tasks(np.random.default_rng(0), 100)
    np.testing.assert_array_equal(np.unique(both, axis=0), [[-1, 0], [1, 0]])


OBSERVED = {
    "ant-vel": lambda data: [data.qpos[2:], data.qvel, data.body("torso").xpos],
    "ant-vel-sparse": lambda data: [data.qpos[2:], data.qvel, data.body("torso").xpos],
    "ant-dir-weighted": lambda data: [data.qpos[2:], data.body("torso").xpos, data.qvel],
}
"""Positions, velocities and the torso's place in the orders of CEMRL (spec cemrl-dmrlad 3.2)."""


def sparse(reward, radius):
    return reward + 2 if reward >= -radius else -2


PAID = {
    "ant-vel": lambda velocity: -abs(velocity - 0.5),
    "ant-vel-sparse": lambda velocity: sparse(-abs(velocity - 0.5), 0.3),
    "ant-dir-weighted": lambda velocity: 10 * -1 * velocity,
}


@pytest.mark.parametrize("name", OBSERVED)
def test_ants_of_cemrl_against_a_plain_loop(name):
    simulator = Simulator(make_family(name), 1)
    observations, _ = simulator.reset(seed=[3], options={"tasks": np.array([[-1.0 if "dir" in name else 0.5]])})
    model, data = bare_ant(3)
    near = []
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 1, 8)).astype(np.float32):
        np.testing.assert_array_equal(observations[0], np.concatenate(OBSERVED[name](data)).astype(np.float32))
        assert observations.shape == (1, 30)
        observations, rewards, terminations, _, _ = simulator.step(action)
        moved, contact_cost = bare_step(model, data, action[0])
        velocity = moved[0] / 0.05
        expected = PAID[name](velocity) - 0.5 * np.sum(np.square(action.astype(float))) - contact_cost + 1.0
        np.testing.assert_allclose(rewards[0], expected, rtol=0, atol=1e-11)
        near.append(abs(velocity - 0.5) <= 0.3)
        assert not terminations[0]
    simulator.close()
    assert 0 < sum(near) < len(near)


def test_ant_goal_sparse_against_a_plain_loop():
    goal = np.array([0.6, 0.5])
    simulator = Simulator(make_family("ant-goal-sparse"), 1)
    observations, _ = simulator.reset(seed=[4], options={"tasks": goal[None]})
    model, data = bare_ant(4)
    near = []
    for action in np.random.default_rng(1).uniform(-1, 1, (100, 1, 8)).astype(np.float32):
        observations, rewards, terminations, _, _ = simulator.step(action)
        _, contact_cost = bare_step(model, data, action[0])
        torso = data.body("torso").xpos
        forces = np.clip(data.cfrc_ext, -1, 1).ravel()
        expected = np.concatenate([data.qpos, data.qvel, torso, forces])
        np.testing.assert_array_equal(observations[0], expected.astype(np.float32))
        near.append(np.linalg.norm(torso[:2] - goal) <= 0.8)
        distance = np.abs(torso[:2] - goal).sum() if near[-1] else 1.1
        expected = 4 - distance - 0.1 * np.sum(np.square(action.astype(float))) - contact_cost + 1
        np.testing.assert_allclose(rewards[0], expected, rtol=0, atol=1e-12)
        assert terminations[0] == (not 0.2 <= data.qpos[2] <= 1.0)
        if terminations[0]:
            break
    simulator.close()
    assert 0 < sum(near) < len(near)


def test_ant_goal_sparse_by_hand():
    following = np.zeros((3, 87))
    following[:, :2] = [(1.0, 0.0), (0.0, 0.0), (0.7, 0.3)]
    rewards = make_family("ant-goal-sparse").reward(following, np.zeros((3, 8)), following, np.array([1.0, 0.2]))
    np.testing.assert_allclose(rewards, [4 - 0.2 + 1, 4 - 1.2 + 1, 4 - 0.4 + 1])


def test_where_ants_of_cemrl_end():
    heights = np.zeros((6, 87))
    heights[:, 2] = 0.29, 0.3, 1.5, 10.0, 10.1, np.nan
    for name in OBSERVED:
        ended = make_family(name, terminates=True).terminated(heights, None, heights, None)
        np.testing.assert_array_equal(ended, [True, False, False, False, True, True])
        assert not make_family(name).terminated(heights, None, heights, None).any()


def test_tasks_of_cemrls_ants_cover_their_ranges():
    for name, low, high in (("ant-vel", 1, 5), ("ant-vel-sparse", 0, 3)):
        velocities = make_family(name).sample_tasks(np.random.default_rng(0), 2000)
        assert low <= velocities.min() < low + 0.01
        assert high - 0.01 < velocities.max() <= high
    assert make_family("ant-vel", lowest=0.0, highest=3).highest == 3.0
    for radius in (1.0, 2.0):
        goals = make_family("ant-goal-sparse", radius=radius).sample_tasks(np.random.default_rng(0), 4000)
        radii = np.linalg.norm(goals, axis=1)
        assert 0.995 * radius < radii.max() <= radius
        assert (radii < radius / 2).mean() == pytest.approx(0.25, abs=0.02)  # uniform in area
    with pytest.raises(NacreError, match="radius of ant-goal-sparse is -1; allowed: a finite number above 0"):
        make_family("ant-goal-sparse", radius=-1)
    np.testing.assert_array_equal(make_family("ant-dir-weighted", directions=(1,)).finite_tasks, [[1.0]])
