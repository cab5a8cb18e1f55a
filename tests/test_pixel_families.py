"""Families seen through cameras: any of them, several cameras, and what is refused.

Tests that draw MuJoCo's worlds need OpenGL and are marked so.
"""

import contextlib
import functools
import inspect
import threading
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from conftest import TINY
from extras import NEEDS_METAWORLD
from gymnasium.utils.env_checker import check_env

import nacre
from nacre.agents.multitask.learner import Drawn, MultitaskLearner
from nacre.agents.oracle.config import OracleConfig
from nacre.errors import NacreError
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.rl import sac
from nacre.tasks import FAMILIES, GymnasiumFamily, PixelFamily, Simulator, TaskFamily, list_families, make_family
from nacre.tasks.cheetah import CheetahVel
from nacre.tasks.family import Sizes
from nacre.tasks.mujoco_rendering import MujocoRenderer
from nacre.training import train
from nacre.types import Transition


def first_pictures(family: TaskFamily, threads: int = 1, n: int = 3, steps: int = 2) -> np.ndarray:
    """Of `n` slots with the same seeds and random actions, after each step."""
    simulator = Simulator(family, n, threads)
    tasks = family.sample_tasks(np.random.default_rng(0), n)
    pictures = [simulator.reset(seed=3, options={"tasks": tasks})[0]]
    generator = np.random.default_rng(1)
    for _ in range(steps):
        actions = generator.uniform(-1, 1, (n, family.action_size)).astype(np.float32)
        pictures.append(simulator.step(actions)[0])
    simulator.close()
    return np.stack(pictures)


def test_every_member_of_a_family_is_that_of_the_family_that_is_seen():
    own = {"name", "observation_size", "horizon", "shift", "contact_forces", "make_world"}
    own |= {"sizes", "observation_shape", "observation_dtype"}  # which follow from the others
    annotated = list(TaskFamily.__annotations__)
    members = {name for name in [*vars(TaskFamily), *annotated] if not name.startswith("_")}
    assert members - own == {name for name in vars(PixelFamily) if not name.startswith("_") and name not in own}
    for name in list_families():
        family, seen = make_family(name), make_family(f"{name}-pixels")
        for member in sorted(members - own):
            assert getattr(family, member) == getattr(seen, member) or inspect.ismethod(getattr(family, member))
        tasks = family.sample_tasks(np.random.default_rng(0), 4)
        np.testing.assert_array_equal(tasks, seen.sample_tasks(np.random.default_rng(0), 4))
        assert (seen.name, seen.horizon) == (f"{name}-pixels", family.horizon)
        assert seen.observation_size == (64 * max(len(family.views), 1), 64, 3)


def test_options_are_those_of_the_family_and_of_the_view():
    family = make_family("cheetah-vel-pixels", lowest=0.5, camera=("own", "track"), size=(32, 48), horizon=7)
    assert isinstance(family, PixelFamily)
    assert family.family.lowest == 0.5
    assert family.sizes.observation == (64, 48, 3)
    assert (family.horizon, family.cameras) == (7, ("own", "track"))
    assert "cheetah-vel-pixels" not in FAMILIES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size of cheetah-vel-pixels is 0; allowed: a whole number from 1 to 4096, or two of them"),
        ({"size": (64, 64.5)}, "size of cheetah-vel-pixels is .* allowed: a whole number from 1 to 4096, or two"),
        ({"size": (64, 64, 3)}, "size of cheetah-vel-pixels is .* allowed: a whole number from 1 to 4096, or two"),
        ({"camera": 3}, "camera of cheetah-vel-pixels is 3; allowed: the name of a camera, or several, each once"),
        ({"camera": ()}, "allowed: the name of a camera, or several, each once"),
        ({"camera": ("own", "own")}, "allowed: the name of a camera, or several, each once"),
        ({"zoom": 0}, "zoom of cheetah-vel-pixels is 0; allowed: a number from 0.1 to 100"),
        ({"zoom": float("nan")}, "zoom of cheetah-vel-pixels is nan; allowed: a number from 0.1 to 100"),
        ({"zoom": "2"}, "zoom of cheetah-vel-pixels is '2'; allowed: a number from 0.1 to 100"),
        ({"fov": 45}, "unknown option 'fov' of the family cheetah-vel-pixels; allowed: camera, highest, horizon, low"),
        ({"lowest": 4}, "lowest of cheetah-vel is 4"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(NacreError, match=message):
        make_family("cheetah-vel-pixels", **options)


def test_names_that_are_refused():
    with pytest.raises(NacreError, match=r"unknown task family 'ant-dri-pixels' .*did you mean ant-dir-pixels"):
        make_family("ant-dri-pixels")
    with pytest.raises(NacreError, match="unknown task family 'ant-dir-pixels-pixels'"):
        make_family("ant-dir-pixels-pixels")
    with pytest.raises(NacreError, match="has pictures as observations already; allowed: a family of vectors"):
        PixelFamily(make_family("point-robot-pixels"))


def test_a_camera_that_the_world_does_not_have():
    with pytest.raises(NacreError, match=r"camera of point-robot-pixels is 'track'; allowed: 'own'$"):
        Simulator(make_family("point-robot-pixels", camera="track"), 1)


def test_what_is_seen_without_a_camera_has_no_zoom():
    with pytest.raises(NacreError, match=r"zoom of point-robot-pixels is 2; allowed: 1, as it is seen without a cam"):
        Simulator(make_family("point-robot-pixels", zoom=2), 1)


def test_a_starting_point_for_every_algorithm():
    experiment = make_experiment("pearl/ant-dir-pixels", family_options={"camera": "track"})
    assert (experiment.family, experiment.name) == ("ant-dir-pixels", "pearl/ant-dir-pixels")


def test_own_environments_that_draw_themselves():
    """What they remember is kept too."""

    class Own(gymnasium.Wrapper):
        memory = 0

        def state_dict(self):
            return self.memory

        def load_state_dict(self, state):
            self.memory = state

    family = GymnasiumFamily(
        "drawn",
        lambda: Own(gymnasium.make("nacre/PointRobot-v0", render_mode="rgb_array").unwrapped),
        reset_options=lambda task: {"task": task},
        sample_tasks=lambda generator, n: generator.uniform(-1, 1, (n, 2)),
        task_parameters=("x", "y"),
        horizon=5,
    )
    seen = PixelFamily(family, size=(16, 24))
    assert seen.remembers
    pictures = first_pictures(seen, n=2)
    assert (pictures.shape, pictures.dtype) == ((3, 2, 16, 24, 3), np.uint8)
    assert (pictures[0] != pictures[2]).any()
    simulator = Simulator(seen, 2)
    simulator.load_state_dict([[3], [4]])
    assert simulator.state_dict() == [[3], [4]]
    simulator.close()


@pytest.mark.opengl
def test_cameras_one_above_the_other():
    options = {"horizon": 9, "size": 32}
    own, track = (first_pictures(make_family("ant-dir-pixels", camera=name, **options)) for name in ("own", "track"))
    both = first_pictures(make_family("ant-dir-pixels", camera=["track", "own"], **options))
    assert both.shape == (3, 3, 64, 32, 3)
    np.testing.assert_array_equal(both, np.concatenate([track, own], axis=2))
    assert (own != track).any()


@pytest.mark.opengl
@pytest.mark.parametrize("camera", ["own", "track"])
def test_zoom_narrows_the_field_of_view(camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as large: the tangent of half the angle is half as large."""
    original = MujocoRenderer.__init__

    def narrower(self: MujocoRenderer, model: mujoco.MjModel, width: int, height: int) -> None:
        model.cam_fovy[:] = np.degrees(2 * np.arctan(np.tan(np.radians(model.cam_fovy) / 2) / 2))
        whole = model.vis.global_
        whole.fovy = float(np.degrees(2 * np.arctan(np.tan(np.radians(float(whole.fovy)) / 2) / 2)))
        original(self, model, width, height)

    seen = functools.partial(make_family, "cheetah-vel-pixels", camera=camera, size=(32, 48))
    wide, zoomed = first_pictures(seen()), first_pictures(seen(zoom=2), threads=2)
    monkeypatch.setattr(MujocoRenderer, "__init__", narrower)
    expected = first_pictures(seen())
    assert (np.abs(zoomed.astype(int) - expected) > 2).mean() < 1e-3
    assert (np.abs(zoomed.astype(int) - wide) > 2).mean() > 0.2


@pytest.mark.opengl
def test_pictures_do_not_depend_on_threads():
    family = make_family("cheetah-vel-pixels", camera=["own", "track"], size=32)
    alone, shared = first_pictures(family, threads=1), first_pictures(family, threads=3)
    np.testing.assert_array_equal(alone, shared)
    np.testing.assert_array_equal(first_pictures(family, threads=3, n=1, steps=1)[:, 0], alone[:2, 0])


@pytest.mark.opengl
@pytest.mark.parametrize(("name", "drawing"), [(b"llvmpipe (LLVM 15.0.6, 256 bits)", 3), (b"NVIDIA H100 80GB HBM3", 1)])
def test_on_a_gpu_one_thread_draws(monkeypatch: pytest.MonkeyPatch, name: bytes, drawing: int) -> None:
    """Several only wait for one another there."""
    from OpenGL import GL

    monkeypatch.setattr(GL, "glGetString", lambda _: name)
    with contextlib.closing(PixelFamily(CheetahVel(), size=16).make_world(4, threads=3)):
        assert sum(thread.name == "nacre-pictures" for thread in threading.enumerate()) == drawing - 1


@pytest.mark.opengl
def test_a_camera_that_the_model_does_not_have():
    with pytest.raises(NacreError, match=r"camera of cheetah-vel-pixels is 'front'; allowed: 'own', 'track'$"):
        Simulator(make_family("cheetah-vel-pixels", camera="front"), 1)


@pytest.mark.opengl
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NEEDS_METAWORLD if name.startswith("sawyer") else ())
        for name in list_families()
        if "point" not in name
    ],
)
def test_every_mujoco_family_can_be_seen(name):
    family = make_family(f"{name}-pixels", size=32)
    pictures = first_pictures(family, n=1, steps=3)
    assert (pictures.shape, pictures.dtype) == ((4, 1, 32 * max(len(family.views), 1), 32, 3), np.uint8)
    assert (pictures[0] != pictures[3]).any()


@pytest.mark.opengl
def test_gymnasiums_own_check_with_pictures_to_look_at():
    env = gymnasium.make(
        "nacre/AntDirPixels-v0", camera=["own", "track"], size=(48, 32), horizon=6, render_mode="rgb_array"
    )
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (96, 32, 3), np.uint8)
    check_env(env.unwrapped)
    env.close()


@pytest.mark.opengl
def test_an_error_while_drawing_reaches_the_caller_from_any_thread():
    family = PixelFamily(CheetahVel(), size=16)
    world = family.make_world(2, threads=2)
    slots = np.arange(2)
    world.reset(slots, np.ones((2, 1)), [np.random.default_rng(slot) for slot in range(2)])
    configurations = world._world.configurations
    world._world.configurations = lambda slots: configurations(slots)[:, :4]  # not one for each joint
    with pytest.raises(NacreError, match="draw of MujocoRenderer raised"):
        world.step(slots, np.zeros((2, 6)))
    world.close()


# Who learns from them

TINY_RUNS: dict[str, dict[str, Any]] = {
    "pearl": TINY
    | {"picture_filters": 2, "picture_features": 3, "initial_steps": 8, "prior_steps": 4, "extra_posterior_steps": 4}
    | {"evaluation_steps": 12},
    "oracle": {"initial_steps": 8, "tasks_per_iteration": 2, "visit_steps": 4, "updates_per_iteration": 4}
    | {"meta_batch_size": 2, "batch_size": 4, "hidden_size": 4, "picture_filters": 2, "picture_features": 3},
    "meld": {"base_depth": 1, "first_latent_size": 3, "second_latent_size": 2, "reward_repeats": 2}
    | {"episode_steps": 4, "initial_trials": 2, "initial_model_steps": 2, "rounds": 2, "model_steps": 2}
    | {"policy_steps": 2, "model_trials": 2, "policy_trials": 2, "policy_batch_size": 8, "hidden_size": 4},
}
TINY_RUNS["blind"] = TINY_RUNS["oracle"]
TINY_RUNS = {
    algorithm: fields
    | {"iterations": 1, "train_tasks": 2, "test_tasks": 1, "task_list": "seeded", "update_chunk": 2, "threads": 1}
    for algorithm, fields in TINY_RUNS.items()
}


def tiny_run(algorithm: str, folder: Path, family: str, **view: Any) -> Path:
    family_options = {"horizon": 4, "size": 32, **view}
    return train(
        make_experiment(f"{algorithm}/{family}", family_options=family_options, **TINY_RUNS[algorithm]), folder
    )


@pytest.mark.opengl
@pytest.mark.parametrize("algorithm", ["meld", "pearl", "blind"])
def test_who_learns_from_any_family(algorithm, tmp_path):
    run = tiny_run(algorithm, tmp_path / "run", "walker-vel-pixels", camera=["own", "track"])
    table = read_progress_csv(run / "progress.csv")
    assert np.isfinite(table["AverageReturn_test_episode_1"]).all()
    assert (run / "checkpoints" / "iteration_000001.npz").exists()


def test_an_oracle_learns_from_pictures(tmp_path):
    """Its loaded agent stacks pictures, and begins anew with each episode."""
    run = tiny_run("oracle", tmp_path / "run", "sparse-point-robot-pixels")
    env = gymnasium.make("nacre/SparsePointRobotPixels-v0", size=32, horizon=4)
    agent = nacre.load(run)
    observation, info = env.reset(seed=0)
    agent.begin_trial(task=info["task"])
    for _ in range(2):
        stacks = [observation] * 3
        for _ in range(4):
            action = agent.act(observation)
            stacks = [*stacks[1:], observation]
            np.testing.assert_array_equal(agent.belief.pictures, np.concatenate(stacks, axis=-1))
            observation, reward, terminated, truncated, _ = env.step(action)
            agent.observe(observation, reward, terminated, truncated)
        observation, _ = env.reset()
    env.close()


def test_critics_alone_train_the_trunk_of_references():
    """The trunk goes against the gradient of the critics' loss, and the target trunk follows it."""
    config = OracleConfig(hidden_size=8, picture_filters=2, picture_features=4, meta_batch_size=2, batch_size=3)
    learner = MultitaskLearner(config, Sizes((28, 28, 3), 2, 5, 1))
    trained = jax.jit(learner.initial_state)(jax.random.key(0)).trained
    keys = jax.random.split(jax.random.key(1), 5)
    shape = (2, 3, 28, 28, 9)
    transitions = Transition(
        observation=jax.random.randint(keys[0], shape, 0, 256).astype(jnp.uint8),
        action=jax.random.uniform(keys[1], (2, 3, 2), minval=-1, maxval=1),
        reward=jax.random.normal(keys[2], (2, 3)),
        sparse_reward=jnp.zeros((2, 3)),
        next_observation=jax.random.randint(keys[3], shape, 0, 256).astype(jnp.uint8),
        terminated=jnp.zeros((2, 3), bool),
    )
    batch = Drawn(transitions, jnp.array([[0.5], [-1.0]]))
    new, _ = jax.jit(functools.partial(learner.step, "update"))(trained, batch, keys[4])

    def critic_loss(trunk):
        rows = learner._rows(batch, trunk(transitions.observation), trained.target_trunk(transitions.next_observation))
        key = jax.random.split(keys[4])[1]
        temperature = jnp.exp(new.networks.control.log_temperature)
        control = trained.networks.control
        target = sac.soft_target(control.policy, trained.target_critics, temperature, rows, key, config.discount)
        return sac.squared_error(sac.predict_q(control.critics, rows.features, rows.actions), target)

    gradient = jax.jit(jax.grad(critic_loss))(trained.networks.trunk)
    moved = jax.tree.map(jnp.subtract, new.networks.trunk, trained.networks.trunk)
    for step, slope in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
        large = jnp.abs(slope) > 1e-5  # the first step of Adam is the learning rate, against the gradient
        assert large.any()
        np.testing.assert_allclose(step[large], -config.critic_learning_rate * jnp.sign(slope)[large], rtol=0.05)
    followed = jax.tree.map(lambda one, other: one - other, new.target_trunk, trained.target_trunk)
    for target, step in zip(jax.tree.leaves(followed), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(target, config.target_update_rate * step, rtol=0.1, atol=1e-6)
