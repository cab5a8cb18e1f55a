"""Walkers and hoppers that run at a velocity, against a bare loop of MuJoCo."""

import mujoco
import numpy as np
import pytest

from nacre.errors import NacreError
from nacre.tasks import Simulator, make_family
from nacre.tasks.mujoco import ASSETS

ASSET = {"walker": "walker2d.xml", "hopper": "hopper.xml"}
BONUS = {"walker": 1.0, "hopper": 3.0}
"""What a step is worth that the body lives: of a hopper the highest target velocity."""
NAMES = pytest.mark.parametrize("name", ["walker-vel", "hopper-vel", "walker-vel-sparse", "hopper-vel-sparse"])


def observed(name, data):
    """Spec cemrl-dmrlad 3.2: only hoppers see where their torso is; velocities are clipped."""
    place = [data.body("torso").xpos] if name.startswith("hopper") else []
    return np.concatenate([data.qpos[1:], *place, np.clip(data.qvel, -10, 10)]).astype(np.float32)


def is_alive(name, data):
    height, angle = data.qpos[1:3]
    if name.startswith("walker"):
        return 0.8 < height < 2 and -1 < angle < 1
    return height > 0.7 and abs(angle) < 0.2 and (np.abs(np.r_[data.qpos[2:], data.qvel]) < 100).all()


@NAMES
def test_dynamics_and_rewards_against_a_plain_loop(name):
    family = make_family(name, terminates=True)
    target = -0.7 if name.startswith("walker") else 0.0  # which they happen to reach
    simulator = Simulator(family, 1)
    observations, _ = simulator.reset(seed=[8], options={"tasks": np.array([[target]])})
    body = name.split("-")[0]
    model = mujoco.MjModel.from_xml_path(str(ASSETS / ASSET[body]))
    assert model.opt.timestep == 0.002
    data = mujoco.MjData(model)
    generator = np.random.default_rng(8)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.005, 0.005, model.nq)
    data.qvel[:] = generator.uniform(-0.005, 0.005, model.nv)
    mujoco.mj_forward(model, data)
    near = []
    for action in np.random.default_rng(3).uniform(-1, 1, (200, 1, family.action_size)).astype(np.float32):
        np.testing.assert_array_equal(observations[0], observed(name, data))
        observations, rewards, terminations, _, _ = simulator.step(action)
        x = data.qpos[0]
        data.ctrl[:] = action[0]
        mujoco.mj_step(model, data, 4)
        difference = abs((data.qpos[0] - x) / 0.008 - target)
        near.append(difference <= 0.1)
        progress = -difference
        if name.endswith("sparse"):
            progress = 2 - difference if near[-1] else 0
        expected = progress + BONUS[body] - 1e-3 * np.square(action.astype(float)).sum()
        np.testing.assert_allclose(rewards[0], expected, rtol=1e-9, atol=1e-12)
        assert terminations[0] == (not is_alive(name, data))
        if terminations[0]:
            break
    simulator.close()
    assert terminations[0]
    assert 0 < sum(near) < len(near)


@NAMES
def test_velocities_are_observed_up_to_10_and_places_are_not_clipped(name):
    family = make_family(name)
    simulator = Simulator(family, 1)
    simulator.reset(seed=0, options={"tasks": np.ones((1, 1))})
    data = simulator._world._slots[0].data
    data.qpos[0] = 50
    data.qvel[-1], data.qvel[-2] = 60, -60
    observations, _, terminations, _, _ = simulator.step(np.zeros((1, family.action_size), np.float32))
    simulator.close()
    assert np.abs(data.qvel).max() > 20
    np.testing.assert_array_equal(observations[0], observed(name, data))
    assert (observations.max() > 49) == name.startswith("hopper")
    assert not terminations[0]


@NAMES
def test_rewards_by_hand(name):
    """2 m/s with a target of 1.95 m/s, and of 0.5 m/s."""
    family = make_family(name)
    previous = np.zeros((2, 2 * (family.action_size + 3)))
    following = previous.copy()
    following[:, 0] = 0.016
    action = np.zeros((2, family.action_size))
    action[:, 0] = 1
    rewards = family.reward(previous, action, following, np.array([[1.95], [0.5]]))
    progress = np.array([1.95, 0.0] if name.endswith("sparse") else [-0.05, -1.5])
    np.testing.assert_allclose(rewards, progress + BONUS[name.split("-")[0]] - 1e-3)


@NAMES
def test_ranges_of_tasks(name):
    for options, low, high in (({}, 0.5, 3.0), ({"lowest": 0, "highest": 2.0}, 0, 2)):
        family = make_family(name, **options)
        velocities = family.sample_tasks(np.random.default_rng(0), 2000)
        assert low <= velocities.min() < low + 0.01
        assert high - 0.01 < velocities.max() <= high
        assert family.bonus == (high if name.startswith("hopper") else 1)
    with pytest.raises(NacreError, match=f"lowest of {name} is 4 and highest is 3.0; allowed: lowest below highest"):
        make_family(name, lowest=4)
