"""The Sawyer arm: the start of an episode, what actions do, rewards and ends, and what is said without its models."""

import importlib.util
from pathlib import Path

import mujoco
import numpy as np
import pytest
from extras import NEEDS_METAWORLD

from nacre.errors import NacreError
from nacre.tasks import Simulator, make_family

NAMES = ["sawyer-reach-sparse", "sawyer-push-sparse"]


def states(reach=(0.0, 0.0, 0.0), puck=(0.0, 0.0, 0.0)):
    """A reward state whose fingers have their middle at `reach`."""
    x, y, z = reach
    return np.array([x, y - 0.05, z + 0.01, x, y + 0.05, z - 0.01, *puck])


@pytest.mark.parametrize(
    ("distance", "done", "success"), [(0.0, True, True), (0.049, True, True), (0.051, False, False)]
)
def test_reaching_by_hand(distance, done, success):
    family = make_family("sawyer-reach-sparse")
    transition = states(), np.zeros(4), states(reach=(0.1, 0.7, 0.2 + distance)), np.array([0.1, 0.7, 0.2])
    assert family.reward(*transition) == (0 if done else -1)
    assert family.terminated(*transition) == done
    assert family.success(*transition) == success


@pytest.mark.parametrize(
    ("distance", "done", "success"),
    [(0.049, True, True), (0.051, True, False), (0.069, True, False), (0.071, False, False)],
)
def test_pushing_by_hand(distance, done, success):
    family = make_family("sawyer-push-sparse")
    following = states(puck=(0.1 + distance, 0.8, 0.02))  # 0.18 m below the goal, which does not matter
    transition = states(), np.zeros(4), following, np.array([0.1, 0.8, 0.2])
    assert family.reward(*transition) == (0 if done else -1)
    assert family.terminated(*transition) == done
    assert family.success(*transition) == success


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("sawyer-reach-sparse", (-0.1, 0.7, 0.05), (0.1, 0.8, 0.3)),
        ("sawyer-push-sparse", (-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)),
    ],
)
def test_goals_cover_their_boxes(name, low, high):
    goals = make_family(name).sample_tasks(np.random.default_rng(0), 3000)
    np.testing.assert_allclose(goals.min(axis=0), low, atol=1e-3)
    np.testing.assert_allclose(goals.max(axis=0), high, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_a_sentence_names_the_extra(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NacreError, match=f"The family {name} needs the robot's models.*the extra metaworld brings it"):
        Simulator(make_family(name), 1)


@NEEDS_METAWORLD
@pytest.mark.parametrize(
    ("name", "hand", "puck"),
    [(NAMES[0], (0.0, 0.6, 0.2), (0.0, 0.6, 0.02)), (NAMES[1], (0.0, 0.6, 0.045), (0.0, 0.6, 0.02))],
)
def test_episodes_begin_alike(name, hand, puck):
    simulator = Simulator(make_family(name), 2, threads=2)
    tasks = np.array([[0.0, 0.85, 0.1], [0.1, 0.7, 0.2]])
    first, _ = simulator.reset(seed=0, options={"tasks": tasks})
    np.testing.assert_array_equal(first[0], first[1])
    data = simulator._world._slots[0].data
    np.testing.assert_allclose(first[0, :3], hand, atol=0.03)
    np.testing.assert_allclose(first[0, 3:], puck, atol=0.01)
    assert abs(data.qvel[9:]).max() < 1e-3
    data = simulator._world._slots[0].data
    np.testing.assert_array_equal(
        first[0], np.concatenate([data.body("hand").xpos, data.body("obj").xpos]).astype("f4")
    )
    fingers = simulator.reward_states[0, :6].reshape(2, 3)
    assert fingers[1, 1] - fingers[0, 1] > 0.09  # open
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 2, 4)).astype(np.float32)
    actions[:, 1] = actions[:, 0]
    played = [simulator.step(action)[0] for action in actions]
    again, _ = simulator.reset(seed=1)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal([simulator.step(action)[0] for action in actions], played)
    assert simulator.frames_per_second == pytest.approx(80)
    simulator.close()


@NEEDS_METAWORLD
def test_dynamics_against_a_plain_loop():
    simulator = Simulator(make_family(NAMES[0]), 1)
    observations, _ = simulator.reset(seed=0, options={"tasks": np.array([[0.0, 2.0, 2.0]])})
    package = Path(importlib.util.find_spec("metaworld").origin).parent
    model = mujoco.MjModel.from_xml_path(str(package / "assets" / "sawyer_xyz" / "sawyer_reach_v3.xml"))
    assert model.opt.timestep == 0.0025
    model.eq_data[0] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]
    data = mujoco.MjData(model)
    ours = simulator._world._slots[0].data
    data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = ours.qpos, ours.qvel, ours.qacc_warmstart
    place, data.mocap_quat[0], data.time = np.array([0.0, 0.6, 0.2]), [1, 0, 1, 0], ours.time
    for action in np.random.default_rng(1).uniform(-1, 1, (60, 1, 4)).astype(np.float32):
        action[0, 1] = 1.0  # so that a limit is reached
        observations, rewards, terminations, _, _ = simulator.step(action)
        place = np.clip(place + 0.01 * action[0, :3].astype(float), (-0.5, 0.4, 0.05), (0.5, 1.0, 0.5))
        data.mocap_pos[0] = place
        data.ctrl[:] = action[0, 3], -action[0, 3].astype(float)
        mujoco.mj_step(model, data, 5)
        expected = np.concatenate([data.body("hand").xpos, data.body("obj").xpos])
        np.testing.assert_array_equal(observations[0], expected.astype(np.float32))
        assert (rewards[0], terminations[0]) == (-1, False)
    assert place[1] == 1.0
    assert observations[0, 1] > 0.9
    simulator.close()


GOALS = {"sawyer-reach-sparse": (0.0, 0.75, 0.15), "sawyer-push-sparse": (0.02, 0.82, 0.2)}


def aim(name):
    """Where a hand goes that knows what to do. It pushes with the finger that is behind the puck."""
    x, y, z = GOALS[name]
    return (x, y, z) if "reach" in name else (x, y + 0.03, 0.0)


@NEEDS_METAWORLD
@pytest.mark.parametrize("name", NAMES)
def test_a_hand_that_goes_there_does_the_task(name):
    family = make_family(name)
    goal = np.array([GOALS[name]])
    simulator = Simulator(family, 1)
    simulator.reset(seed=0, options={"tasks": goal})
    rewards = []
    for _ in range(family.horizon):
        state = simulator.reward_states[0]
        way = aim(name) - (state[:3] + state[3:6]) / 2
        action = np.array([[*(10 * way), -1.0]])
        _, reward, terminations, _, infos = simulator.step(action.clip(-1, 1).astype(np.float32))
        rewards.append(reward[0])
        if terminations[0]:
            break
    distance = family.measured(None, None, simulator.reward_states, goal)[0]
    simulator.close()
    assert terminations[0]
    assert len(rewards) > 10
    assert rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    assert distance <= family.radius
    assert infos["success"][0] == (distance <= 0.05)
