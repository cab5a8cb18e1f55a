"""Walkers and hoppers: multipliers and their ranges, models per slot, dynamics against a bare loop of MuJoCo."""

import mujoco
import numpy as np
import pytest

from nacre.errors import NacreError
from nacre.tasks import Simulator, make_family
from nacre.tasks.mujoco import ASSETS

ASSET = {"walker-rand-params": "walker2d.xml", "hopper-rand-params": "hopper.xml"}
FAMILIES = pytest.mark.parametrize("name", ASSET)


def bare_model(name, task):
    """The model of a task, each number multiplied by what the task's parameters call it."""
    family = make_family(name)
    model = mujoco.MjModel.from_xml_path(str(ASSETS / ASSET[name]))
    model.opt.timestep = 0.004
    multipliers = dict(zip(family.task_parameters, task, strict=True))
    for body in map(model.body, range(model.nbody)):
        body.mass *= multipliers.pop(f"mass_{body.name}")
        body.inertia *= [multipliers.pop(f"inertia_{body.name}_{axis}") for axis in "xyz"]
    for joint in map(model.joint, range(model.njnt)):
        joint.damping *= multipliers.pop(f"damping_{joint.name}")
    for geom in map(model.geom, range(model.ngeom)):
        geom.friction *= [multipliers.pop(f"friction_{geom.name}_{kind}") for kind in ("slide", "spin", "roll")]
    assert not multipliers
    return model


@FAMILIES
def test_multipliers_and_their_ranges(name):
    """Per body, joint and geom, each independent and uniform on a log scale (spec 4.5)."""
    family = make_family(name)
    bodies = 8 if name.startswith("walker") else 5
    assert (
        len(family.task_parameters) == len(set(family.task_parameters)) == bodies + 3 * bodies + bodies + 1 + 3 * bodies
    )
    tasks = family.sample_tasks(np.random.default_rng(0), 3000)
    damping = np.array([parameter.startswith("damping") for parameter in family.task_parameters])
    assert damping.sum() == bodies + 1
    for columns, base, low, high in ((damping, 1.3, 0.455, 2.197), (~damping, 1.5, 0.296, 3.375)):
        multipliers = tasks[:, columns]
        assert multipliers.min() == pytest.approx(low, abs=1e-3)
        assert multipliers.max() == pytest.approx(high, abs=1e-3)
        exponents = np.log(multipliers) / np.log(base)
        np.testing.assert_allclose(exponents.mean(axis=0), 0, atol=0.15)
        np.testing.assert_allclose(exponents.std(axis=0), 6 / 12**0.5, rtol=0.05)
    correlations = np.corrcoef(tasks.T) - np.eye(tasks.shape[1])
    assert np.abs(correlations).max() < 0.1


@FAMILIES
def test_dynamics_and_rewards_against_a_plain_loop(name):
    family = make_family(name)
    tasks = family.sample_tasks(np.random.default_rng(1), 3)
    simulator = Simulator(family, 3, threads=2)
    observations, _ = simulator.reset(seed=[7, 8, 9], options={"tasks": tasks})
    model = bare_model(name, tasks[1])
    data = mujoco.MjData(model)
    generator = np.random.default_rng(8)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.005, 0.005, model.nq)
    data.qvel[:] = generator.uniform(-0.005, 0.005, model.nv)
    assert data.qpos[1] == pytest.approx(1.25, abs=0.005)
    mujoco.mj_forward(model, data)
    actions = np.random.default_rng(3).uniform(-1, 1, (60, 3, family.action_size)).astype(np.float32)
    for action in actions:
        expected = np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)])
        np.testing.assert_array_equal(observations[1], expected.astype(np.float32))
        observations, rewards, terminations, _, _ = simulator.step(action)
        x = data.qpos[0]
        data.ctrl[:] = action[1]
        for _ in range(4):
            mujoco.mj_step(model, data)
        expected = (data.qpos[0] - x) / 0.016 + 1 - 1e-3 * np.sum(np.square(action[1].astype(float)))
        np.testing.assert_allclose(rewards[1], expected, rtol=1e-9)
        height, angle = data.qpos[1:3]
        if name.startswith("walker"):
            alive = 0.8 < height < 2 and -1 < angle < 1
        else:
            alive = height > 0.7 and abs(angle) < 0.2 and (np.abs(np.r_[data.qpos[2:], data.qvel]) < 100).all()
        assert terminations[1] == (not alive)
        if not alive:
            break
    simulator.close()
    assert not alive
    assert data.time > 4 * 0.016


@FAMILIES
def test_velocities_are_observed_up_to_10(name):
    family = make_family(name)
    simulator = Simulator(family, 1)
    simulator.reset(seed=0, options={"tasks": np.ones((1, len(family.task_parameters)))})
    data = simulator._world._slots[0].data
    data.qvel[-1], data.qvel[-2] = 60, -60
    observations, *_ = simulator.step(np.zeros((1, family.action_size), np.float32))
    simulator.close()
    assert np.abs(data.qvel).max() > 20
    expected = np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)])
    np.testing.assert_array_equal(observations[0], expected.astype(np.float32))


@FAMILIES
def test_a_slots_model_is_made_once_and_is_that_of_its_latest_task(name):
    family = make_family(name)
    tasks = family.sample_tasks(np.random.default_rng(2), 4)
    simulator = Simulator(family, 2)
    simulator.reset(seed=0, options={"tasks": tasks[:2]})
    models = [slot.model for slot in simulator._world._slots]
    assert models[0] is not models[1]
    simulator.reset(options={"tasks": tasks[2:], "reset_mask": np.array([False, True])})
    simulator.reset()
    for slot, model, task in zip(simulator._world._slots, models, (tasks[0], tasks[3]), strict=True):
        assert slot.model is model
        expected = bare_model(name, task)
        for array in ("body_mass", "body_inertia", "dof_damping", "geom_friction"):
            np.testing.assert_allclose(getattr(model, array), getattr(expected, array), rtol=1e-12)
        # What MuJoCo derives when it compiles a model stays that of the original, as in the original code.
        np.testing.assert_array_equal(model.body_subtreemass, expected.body_subtreemass)
        np.testing.assert_array_equal(model.dof_invweight0, expected.dof_invweight0)
        assert model.opt.timestep == 0.004
    simulator.close()


@FAMILIES
def test_the_same_start_and_actions_differ_between_tasks(name):
    family = make_family(name)
    tasks = np.stack([np.ones(len(family.task_parameters)), family.sample_tasks(np.random.default_rng(4), 1)[0]])
    simulator = Simulator(family, 2)
    start, _ = simulator.reset(seed=[1, 1], options={"tasks": tasks})
    np.testing.assert_array_equal(start[0], start[1])
    observations, *_ = simulator.step(np.full((2, family.action_size), 0.5, np.float32))
    simulator.close()
    assert np.abs(observations[0] - observations[1]).max() > 0.01


@FAMILIES
def test_surviving_is_paid_for(name):
    """Standing still returns 200 if it survives (spec 6.3)."""
    family = make_family(name)
    state = np.zeros((family.horizon, 2 * (family.action_size + 3)))
    rewards = family.reward(state, np.zeros((family.horizon, family.action_size)), state, np.ones(2))
    assert rewards.sum() == 200


def test_where_walkers_and_hoppers_end():
    walker, hopper = make_family("walker-rand-params"), make_family("hopper-rand-params")
    states = np.zeros((7, 18))
    states[:, 1:3] = [(0.8, 0), (0.81, 0), (1.99, 0), (2.0, 0), (1.25, 0.99), (1.25, 1.0), (1.25, -1.0)]
    ended = walker.terminated(states, np.zeros(6), states, np.ones(65))
    np.testing.assert_array_equal(ended, [True, False, False, True, False, True, True])
    states = np.zeros((8, 12))
    states[:, 1:3] = [(0.7, 0), (0.71, 0), (5, 0), (1.25, 0.19), (1.25, 0.2), (1.25, -0.2), (1.25, 0), (1.25, 0)]
    states[2, 0] = 300  # neither x nor the height has a limit
    states[6:, 11] = 99, -100
    ended = hopper.terminated(states, np.zeros(3), states, np.ones(41))
    np.testing.assert_array_equal(ended, [True, False, False, False, True, True, False, True])


def test_options_choose_what_varies_and_what_is_seen():
    """As CEMRL's walkers: gym's timestep, three of the four arrays, no velocities (spec cemrl-dmrlad 1.13, 3.2)."""
    varied = ["friction", "mass", "damping"]  # in any order
    family = make_family("walker-rand-params", varied=varied, sees_velocities=False, timestep=0.002)
    assert family.observation_size == 8
    kinds = [parameter.split("_")[0] for parameter in family.task_parameters]
    assert kinds == ["mass"] * 8 + ["damping"] * 9 + ["friction"] * 24
    task = family.sample_tasks(np.random.default_rng(0), 1)
    simulator = Simulator(family, 1)
    observations, _ = simulator.reset(seed=[3], options={"tasks": task})
    every = np.ones(65)
    every[:8], every[32:41], every[41:] = np.split(task[0], [8, 17])
    model = bare_model("walker-rand-params", every)
    model.opt.timestep = 0.002
    data = mujoco.MjData(model)
    generator = np.random.default_rng(3)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.005, 0.005, model.nq)
    data.qvel[:] = generator.uniform(-0.005, 0.005, model.nv)
    mujoco.mj_forward(model, data)
    for action in np.random.default_rng(3).uniform(-1, 1, (20, 1, 6)).astype(np.float32):
        np.testing.assert_array_equal(observations[0], data.qpos[1:].astype(np.float32))
        observations, rewards, *_ = simulator.step(action)
        x = data.qpos[0]
        data.ctrl[:] = action[0]
        mujoco.mj_step(model, data, 4)
        expected = (data.qpos[0] - x) / 0.008 + 1 - 1e-3 * np.square(action.astype(float)).sum()
        np.testing.assert_allclose(rewards[0], expected, rtol=1e-9)
    simulator.close()


def test_the_limit_of_multipliers_is_an_option():
    family = make_family("hopper-rand-params", log_scale_limit=1)
    multipliers = family.sample_tasks(np.random.default_rng(0), 1000)
    assert multipliers.max() == pytest.approx(1.5, abs=1e-3)
    assert multipliers.min() == pytest.approx(1 / 1.5, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"varied": ["colour"]},
            "varied of hopper-rand-params is .'colour'.; allowed: a list of some of 'mass', 'inertia'",
        ),
        ({"log_scale_limit": -1.0}, "log_scale_limit of hopper-rand-params is -1.0; allowed: a finite number above 0"),
        ({"timestep": "fast"}, "timestep of hopper-rand-params is 'fast'; allowed: a finite number above 0"),
        ({"sees_velocities": 0}, "sees_velocities of hopper-rand-params is 0; allowed: true or false"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(NacreError, match=message):
        make_family("hopper-rand-params", **options)
