"""The humanoid against a bare loop of MuJoCo, its contact forces, and its reward by hand."""

import mujoco
import numpy as np
import pytest

from nacre.tasks import Simulator, make_family
from nacre.tasks.mujoco import ASSETS


def centre_of_mass(model, data):
    return (model.body_mass[:, None] * data.xipos).sum(axis=0)[:2] / model.body_mass.sum()


def test_humanoid_against_a_plain_loop():
    """Observation and reward as the spec writes them, until it falls."""
    direction = np.array([0.6, -0.8])
    simulator = Simulator(make_family("humanoid-dir"), 1)
    observations, _ = simulator.reset(seed=[5], options={"tasks": direction[None]})
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "humanoid.xml"))
    assert model.opt.timestep == 0.003
    data = mujoco.MjData(model)
    generator = np.random.default_rng(5)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.01, 0.01, 24)
    data.qvel[:] = generator.uniform(-0.01, 0.01, 23)
    mujoco.mj_normalizeQuat(model, data.qpos)
    assert np.linalg.norm(observations[0, 1:5]) == pytest.approx(1, abs=1e-6)
    mujoco.mj_forward(model, data)

    def observation():
        mujoco.mj_rnePostConstraint(model, data)
        flat = (data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext)
        parts = [data.qpos[2:24], data.qvel, *(array.ravel() for array in flat)]
        assert [part.size for part in parts] == [22, 23, 140, 84, 23, 84]
        return np.concatenate(parts).astype(np.float32)

    np.testing.assert_array_equal(observations[0], observation())
    impacts = []
    for action in np.random.default_rng(2).uniform(-1, 1, (100, 1, 17)).astype(np.float32):
        observations, rewards, terminations, _, _ = simulator.step(action)
        before = centre_of_mass(model, data)
        data.ctrl[:] = 0.4 * action[0].astype(float)
        mujoco.mj_step(model, data, 5)
        np.testing.assert_array_equal(observations[0], observation())
        speed = 0.25 * direction @ (centre_of_mass(model, data) - before) / 0.003
        impacts.append(min(0.5e-6 * np.sum(np.square(data.cfrc_ext)), 10))
        expected = speed - 0.1 * np.sum(np.square(data.ctrl)) - impacts[-1] + 5
        np.testing.assert_allclose(rewards[0], expected, rtol=0, atol=1e-9)
        assert terminations[0] == (not 1 <= data.qpos[2] <= 2)
        if terminations[0]:
            break
    simulator.close()
    assert terminations[0]
    assert len(impacts) > 10
    assert max(impacts) > 0.1


def test_humanoid_reward_by_hand():
    family = make_family("humanoid-dir")
    previous, following = np.zeros((2, 87)), np.zeros((2, 87))
    standing = family.reward(previous, np.zeros((2, 17)), following, np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(standing, 5)  # 1000 in 200 steps (spec 6.3)
    following[:, 0] = 0.015  # 1 m/s along x
    following[:, 3] = 1000, 10_000  # costs 0.5 and 50, of which 10 count
    action = np.zeros((2, 17))
    action[:, 0] = 1
    rewards = family.reward(previous, action, following, np.array([[1.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(rewards, [1.25 - 0.016 - 0.5 + 5, -1.25 - 0.016 - 10 + 5])
    heights = np.zeros((4, 87))
    heights[:, 2] = 0.99, 1.0, 2.0, 2.01
    ended = family.terminated(previous[0], action[0], heights, np.zeros(2))
    np.testing.assert_array_equal(ended, [True, False, False, True])


def test_doing_nothing_the_humanoid_falls_and_was_paid_for_standing():
    simulator = Simulator(make_family("humanoid-dir"), 4)
    tasks = make_family("humanoid-dir").sample_tasks(np.random.default_rng(0), 4)
    simulator.reset(seed=0, options={"tasks": tasks})
    returns, lengths = np.zeros(4), np.zeros(4)
    for _ in range(100):
        _, rewards, terminations, _, infos = simulator.step(np.zeros((4, 17), np.float32))
        returns, lengths = returns + rewards, lengths + infos["active"]
    simulator.close()
    assert terminations.all()
    np.testing.assert_array_less(30, lengths)
    np.testing.assert_allclose(returns / lengths, 5, atol=0.5)
