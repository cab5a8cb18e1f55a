"""PEARL from pixels: families of pictures, stacks of frames, the trunk and who trains it, and whole runs.

Tests that draw the half-cheetah need OpenGL and are marked so; everything else is of the point robot, or of pictures
that are made up.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY
from jaxtyping import Float32, UInt8
from probes import run_trials

import nacre
from nacre import journal
from nacre.agents.pearl.agent import PearlAgent
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import (
    Batch,
    Trained,
    batch_features,
    critic_and_encoder_loss,
    gradient_step,
    initial_optimisers,
)
from nacre.agents.pearl.networks import ActingNetworks, Context, initial_networks
from nacre.errors import NacreError
from nacre.experiments import make_experiment, validate
from nacre.files import read_npz
from nacre.gradient_steps import update
from nacre.nn.convolution import SMALLEST_PICTURE, Convolution, ConvolutionalTrunk, positions
from nacre.replay import PAGE, ReplayBuffer
from nacre.tasks import Simulator, make_family
from nacre.tasks.family import Sizes
from nacre.tasks.pixels import PixelFamily
from nacre.tasks.point import PointRobot
from nacre.types import Episode, Transition, Visit

SIZE = (SMALLEST_PICTURE, SMALLEST_PICTURE + 2, 3)
ACTION = 2
SIZES = Sizes(SIZE, ACTION, horizon=7, task=1)
CONFIG = PearlConfig(
    latent_size=2,
    hidden_size=8,
    encoder_hidden_size=8,
    frame_stack=2,
    picture_filters=4,
    picture_features=6,
    meta_batch_size=3,
    batch_size=5,
    context_size=4,
)
TASKS, BATCH, CONTEXT = CONFIG.meta_batch_size, CONFIG.batch_size, CONFIG.context_size


# Families


def play(name: str, tasks: Sequence[Sequence[float]], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, the first ones included, and rewards of random actions that are the same in every slot."""
    family = make_family(name)
    simulator = Simulator(family, len(tasks), threads=1)
    observation, _ = simulator.reset(seed=[7] * len(tasks), options={"tasks": np.array(tasks)})
    observations, rewards = [observation], []
    generator = np.random.default_rng(0)
    for _ in range(steps):
        action = np.tile(generator.uniform(-1, 1, family.action_size).astype(np.float32), (len(tasks), 1))
        observation, reward, *_ = simulator.step(action)
        observations.append(observation)
        rewards.append(reward)
    simulator.close()
    return np.stack(observations), np.stack(rewards)


def test_a_picture_shows_the_world_and_not_the_task():
    goals = [(0.5, 0.5), (-0.9, 0.1)]
    pictures, rewards = play("point-robot-pixels", goals, steps=6)
    positions, expected_rewards = play("point-robot", goals, steps=6)
    assert pictures.shape == (7, 2, 64, 64, 3)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[:, 0], pictures[:, 1])
    np.testing.assert_array_equal(rewards, expected_rewards)
    assert (rewards[:, 0] != rewards[:, 1]).all()
    # The disc's centre of mass is where the point is: 64 pixels from -1.5 to 1.5, y upwards.
    ink = 255.0 - pictures[:, 0].mean(axis=-1)
    axis = (np.arange(64) + 0.5) / 64 * 3 - 1.5
    x, y = (ink.sum(1) @ axis / ink.sum((1, 2)), -ink.sum(2) @ axis / ink.sum((1, 2)))
    np.testing.assert_allclose(np.stack([x, y], -1), positions[:, 0].clip(-1.5, 1.5), atol=0.02)


def test_gymnasium_environment():
    env = gymnasium.make("nacre/PointRobotPixels-v0")
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    other, *_ = env.step(np.ones(2, np.float32))
    assert (other != observation).any()
    env.close()


def test_pictures_too_small_for_the_convolutions_are_refused():
    family = PixelFamily(PointRobot())
    experiment = make_experiment("pearl/point-robot-pixels")
    validate(experiment, family)
    family.observation_size = (64, SMALLEST_PICTURE - 1, 3)
    with pytest.raises(NacreError, match="27 wide; allowed: at least 28"):
        validate(experiment, family)


# Replay


def numbered(generator: np.random.Generator, length: int) -> Episode:
    """An episode of pictures that are all different."""
    return Episode(
        observations=generator.integers(0, 256, (length + 1, *SIZE), np.uint8),
        actions=generator.uniform(-1, 1, (length, ACTION)).astype(np.float32),
        rewards=generator.normal(size=length).astype(np.float32),
        sparse_rewards=None,
        terminated=False,
    )


def stacks(pictures: UInt8[np.ndarray, "n height width 3"], frames: int) -> UInt8[np.ndarray, "n height width stack"]:
    """Each picture after those before it; the first one repeated where there are none."""
    before = [pictures[np.maximum(np.arange(len(pictures)) - back, 0)] for back in range(frames - 1, -1, -1)]
    return np.concatenate(before, axis=-1)


def filled_replay(lengths: Sequence[int] = (4, 1, 7, 3)) -> tuple[ReplayBuffer, list[list[Episode]]]:
    """Three tasks with episodes of these lengths, the last two of them context."""
    generator = np.random.default_rng(0)
    episodes = [[numbered(generator, length) for length in lengths] for _ in range(3)]
    buffer = ReplayBuffer(3, SIZES, has_sparse_reward=False, transitions=20, fullest_task=7)
    for task, of_task in enumerate(episodes):
        buffer.add([Visit(task, tuple(of_task[:2]), 2), Visit(task, tuple(of_task[2:]), len(of_task[2:]))])
    return buffer, episodes


def stacks_by_reward(episodes: Sequence[Episode], frames: int) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """The two stacks of every transition, which its reward names."""
    return {
        float(reward): (stack, following)
        for episode in episodes
        for reward, stack, following in zip(
            episode.rewards,
            stacks(episode.observations, frames)[:-1],
            stacks(episode.observations, frames)[1:],
            strict=True,
        )
    }


@pytest.mark.parametrize("frames", [1, 3])
def test_replay_keeps_a_picture_once_and_draws_stacks(frames: int):
    buffer, episodes = filled_replay()
    replay = buffer.arrays
    assert replay.observations.dtype == jnp.uint8
    assert buffer._frames_used == 3 * sum(len(episode) + 1 for episode in episodes[0])
    tasks, key = jnp.array([2, 0, 1]), jax.random.key(0)
    draws = {
        "all": replay.draw(tasks, 40, key, frames),
        "context": replay.draw_context(tasks, 30, key, frames),
        "episodes": replay.draw_episodes(tasks, 12, key, frames).transitions,
        "context episodes": replay.draw_context_episodes(tasks, 12, key, frames).transitions,
        "ranks": replay.read(tasks, replay.draw_ranks(tasks, 20, key), frames),
        "trials": replay.trials(tasks, jnp.array([2, 14, 6]), 6, frames).transitions,
    }
    every_rank = jnp.tile(jnp.arange(15), (3, 1))
    for within in ("episode", "trial"):
        windows = replay.windows(tasks, every_rank, 4, within, frames).transitions
        draws[within] = jax.tree.map(lambda leaf: leaf.reshape(3, 60, *leaf.shape[3:]), windows)
    for name, drawn in jax.device_get(draws).items():
        assert drawn.observation.shape[2:] == (*SIZE[:2], 3 * frames)
        seen = set()
        for row, task in enumerate(tasks.tolist()):
            own = episodes[task] if "context" not in name else episodes[task][2:]
            expected = stacks_by_reward(own, frames)
            for reward, now, then in zip(
                drawn.reward[row].tolist(), drawn.observation[row], drawn.next_observation[row], strict=True
            ):
                np.testing.assert_array_equal(now, expected[reward][0])
                np.testing.assert_array_equal(then, expected[reward][1])
                seen.add(reward)
        assert len(seen) > 8


def test_stacks_of_an_episode_that_two_pages_hold():
    buffer, episodes = filled_replay(lengths=(PAGE - 3, 1, 9))
    expected = stacks_by_reward(episodes[1][2:], 3)
    drawn = jax.device_get(buffer.arrays.draw_context_episodes(jnp.array([1]), 10, jax.random.key(1), 3).transitions)
    for reward, now in zip(drawn.reward[0].tolist(), drawn.observation[0], strict=True):
        np.testing.assert_array_equal(now, expected[reward][0])


def test_journal_gives_the_pictures_back_and_is_small(tmp_path: Path):
    flat = np.full((200, *SIZE), 255, np.uint8)
    generator = np.random.default_rng(0)
    blank = dataclasses.replace(numbered(generator, 199), observations=flat)
    visits = [Visit(0, (numbered(generator, 5), blank), 1)]
    segment = journal.append_segment(tmp_path, 0, visits)
    assert segment.stat().st_size < 0.1 * flat.nbytes
    (read,) = journal.read_segments(tmp_path, 1)
    assert read[0].episodes[0].observations.dtype == np.uint8
    np.testing.assert_array_equal(read[0].episodes[0].observations, visits[0].episodes[0].observations)


# The trunk


@pytest.mark.parametrize(("height", "width", "size", "stride"), [(12, 9, 3, 2), (11, 12, 4, 4), (7, 7, 3, 1)])
def test_convolution_is_one(height: int, width: int, size: int, stride: int):
    convolution = Convolution(5, 6, size, stride, key=jax.random.key(0), precision="float32")
    pictures = jax.random.normal(jax.random.key(1), (2, height, width, 5))
    expected = jax.lax.conv_general_dilated(
        pictures,
        convolution.weight.reshape(size, size, 5, 6),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    assert expected.shape[1:3] == (positions(height, size, stride), positions(width, size, stride))
    np.testing.assert_allclose(convolution(pictures), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trunk_and_a_linear_layer_learn_rewards_from_pictures(precision):
    """Supervised: distances to a goal that no picture shows, from pictures of random positions."""
    n, known = 400, 320
    generator = np.random.default_rng(0)
    world = make_family("point-robot-pixels").make_world(n, threads=1)
    starts = [np.random.default_rng(slot) for slot in range(n)]
    pictures, places = world.reset(np.arange(n), np.zeros((n, 2)), starts)
    world.close()
    wanted = -np.linalg.norm(places - np.array([0.4, -0.3]), axis=-1).astype(np.float32)

    trunk = ConvolutionalTrunk((64, 64, 3), 8, 16, key=jax.random.key(0), precision=precision)
    optimiser = optax.adam(3e-3)

    def loss(parts, seen, wanted):
        trunk, linear = parts
        return ((trunk(seen) @ linear[:-1] + linear[-1] - wanted) ** 2).mean()

    @jax.jit
    def step(parts, state, seen, wanted):
        gradient = jax.grad(loss)(parts, seen, wanted)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(parts, updates), state

    parts = trunk, jnp.zeros(17)
    state = optimiser.init(parts)
    for _ in range(150):
        drawn = generator.integers(known, size=64)
        parts, state = step(parts, state, pictures[drawn], wanted[drawn])
    assert loss(parts, jnp.asarray(pictures[known:]), wanted[known:]) < 0.1 * wanted.var()
    features = parts[0](jnp.asarray(pictures))
    assert features.dtype == jnp.float32
    assert (jnp.abs(features) < 1).all()


# Who trains the trunk


def made_up_transitions(key: jax.Array, n: int) -> Transition:
    keys = jax.random.split(key, 5)
    shape = (TASKS, n, *SIZE[:2], 3 * CONFIG.frame_stack)
    rewards = jax.random.normal(keys[0], (TASKS, n))
    return Transition(
        observation=jax.random.randint(keys[1], shape, 0, 256).astype(jnp.uint8),
        action=jax.random.uniform(keys[2], (TASKS, n, ACTION), minval=-1, maxval=1),
        reward=rewards,
        sparse_reward=rewards,
        next_observation=jax.random.randint(keys[3], shape, 0, 256).astype(jnp.uint8),
        terminated=jax.random.bernoulli(keys[4], 0.2, (TASKS, n)),
    )


@pytest.fixture(scope="module")
def step() -> tuple[Trained, Batch]:
    """What a gradient step changes, with weights that let every loss be felt, and its batch."""
    networks = initial_networks(CONFIG, SIZES, key=jax.random.key(0), precision="float32")
    scaled = jax.tree.map(lambda leaf: leaf * 30 if leaf.ndim == 2 and leaf.shape[-1] < 8 else leaf, networks)
    networks = dataclasses.replace(scaled, trunk=networks.trunk)
    target_trunk = jax.tree.map(lambda leaf: leaf * 1.1 + 0.01, networks.trunk)
    trained = Trained(networks, networks.value, initial_optimisers(networks), target_trunk)
    context = Context(made_up_transitions(jax.random.key(2), CONTEXT))
    return trained, Batch(jnp.arange(TASKS), made_up_transitions(jax.random.key(1), BATCH), context)


def gradient_norm(tree) -> float:
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


def critic_gradients(trained: Trained, batch: Batch, config: PearlConfig, critics=None):
    """Of the loss of critics and encoder: with respect to the trunk, and to the encoder."""
    networks = trained.networks
    critics = networks.critics if critics is None else critics

    def loss(trunk, encoder):
        features = batch_features(trunk, trained.target_trunk, batch)
        key = jax.random.split(jax.random.key(3))[0]  # as a step with that key draws z
        return critic_and_encoder_loss((encoder, critics), trained.target_value, config, features, key)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(networks.trunk, networks.encoder)


def test_the_critics_train_the_trunk_and_the_kl_does_not(step: tuple[Trained, Batch]):
    trained, batch = step
    trunk_gradient, encoder_gradient = critic_gradients(trained, batch, CONFIG)
    assert all(gradient_norm(leaf) > 0 for leaf in jax.tree.leaves(trunk_gradient))
    heavy_trunk, heavy_encoder = critic_gradients(trained, batch, dataclasses.replace(CONFIG, kl_weight=50.0))
    jax.tree.map(np.testing.assert_array_equal, heavy_trunk, trunk_gradient)
    assert gradient_norm(jax.tree.map(jnp.subtract, heavy_encoder, encoder_gradient)) > 1e-3


def test_no_gradient_reaches_the_trunk_through_the_context(step: tuple[Trained, Batch]):
    """Critics that see z and the action, but no features, train the encoder and give the trunk nothing."""
    trained, batch = step
    blind = eqx.tree_at(
        lambda critics: [critic.weights[0] for critic in critics],
        trained.networks.critics,
        replace_fn=lambda weight: weight.at[: CONFIG.picture_features].set(0),
    )
    trunk_gradient, encoder_gradient = critic_gradients(
        trained, batch, dataclasses.replace(CONFIG, kl_weight=0.0), critics=blind
    )
    assert gradient_norm(trunk_gradient) == 0
    assert gradient_norm(encoder_gradient) > 0


def test_a_step_moves_trunk_and_target_trunk_whatever_policy_and_value_are(step: tuple[Trained, Batch]):
    trained, batch = step
    take = jax.jit(lambda trained: gradient_step(trained, CONFIG, batch, jax.random.key(3)))
    new, metrics = take(trained)
    assert np.isfinite(metrics["Policy Loss"])
    old_trunk, new_trunk = trained.networks.trunk, new.networks.trunk
    # The first step of Adam: the learning rate against the sign of the gradient.
    moved = jax.tree.map(jnp.subtract, new_trunk, old_trunk)
    gradient, _ = critic_gradients(trained, batch, CONFIG)
    for difference, slope in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
        clear = np.abs(slope) > 1e-4
        assert clear.any()
        np.testing.assert_allclose(difference[clear], -CONFIG.critic_learning_rate * np.sign(slope[clear]), rtol=0.05)
    rate = CONFIG.target_update_rate
    expected = jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, trained.target_trunk, new_trunk)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), new.target_trunk, expected)

    changed = dataclasses.replace(
        trained.networks,
        policy=jax.tree.map(lambda leaf: leaf * 1.5, trained.networks.policy),
        value=jax.tree.map(lambda leaf: leaf * 1.5, trained.networks.value),
    )
    other, _ = take(trained._replace(networks=changed))
    jax.tree.map(np.testing.assert_array_equal, other.networks.trunk, new_trunk)
    assert gradient_norm(jax.tree.map(jnp.subtract, other.networks.policy, new.networks.policy)) > 0


def test_targets_are_seen_by_the_target_trunk(step: tuple[Trained, Batch]):
    trained, batch = step

    def target(trunk, target_trunk):
        pair = (trained.networks.encoder, trained.networks.critics)
        context = batch_features(trained.networks.trunk, trunk, batch).context
        features = batch_features(trunk, target_trunk, batch)._replace(context=context)
        return critic_and_encoder_loss(pair, trained.target_value, CONFIG, features, jax.random.key(3))[1].target

    trunk, target_trunk = trained.networks.trunk, trained.target_trunk
    before = target(trunk, target_trunk)
    np.testing.assert_array_equal(target(jax.tree.map(lambda leaf: leaf * 2 + 0.1, trunk), target_trunk), before)
    assert (target(trunk, trunk) != before).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"context_source": "rl-batch", "context_size": BATCH, "next_observation_in_context": True},
        {"encoder": "recurrent", "rl_batch": "episodes", "batch_size": 8, "context_size": 8},
    ],
    ids=str,
)
def test_other_ways_to_infer_work_from_pictures(changes):
    config = dataclasses.replace(CONFIG, **changes)
    learner = PearlLearner(config, SIZES)
    buffer, _ = filled_replay()
    state = jax.jit(learner.initial_state)(jax.random.key(0))
    before = jax.device_get(state.trained)
    state, metrics = update(learner, "update", state, buffer.arrays, None, 2)
    assert np.isfinite(metrics["QF Loss"].values).all()
    for name in ("trunk", "encoder", "policy", "value"):
        old, new = getattr(before.networks, name), getattr(state.trained.networks, name)
        assert gradient_norm(jax.tree.map(jnp.subtract, new, old)) > 0


def test_vectors_have_no_trunk():
    """So that checkpoints of such families are what they were."""
    state = jax.eval_shape(PearlLearner(CONFIG, Sizes(4, ACTION, horizon=7, task=1)).initial_state, jax.random.key(0))
    assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(state) if "trunk" in str(path)]


# Acting


@pytest.mark.parametrize("next_observation", [False, True])
def test_agents_see_in_acting_what_the_replay_gives_in_training(next_observation: bool):
    config = dataclasses.replace(CONFIG, frame_stack=3, next_observation_in_context=next_observation)
    family = make_family("point-robot-pixels")
    networks = initial_networks(config, family.sizes, key=jax.random.key(0), precision="float32").acting
    agent = PearlAgent(config, family.sizes, capacity=50, exploration_episodes=5)
    simulator = Simulator(family, 2, threads=1)
    tasks = family.sample_tasks(np.random.default_rng(0), 2)
    seed = np.random.SeedSequence(0)
    trials, belief = run_trials(agent, networks, simulator, tasks, seed, episodes=2, deterministic=True)
    simulator.close()
    for slot, trial in enumerate(trials):
        rows = [expected_context(networks, episode, next_observation) for episode in trial]
        expected = np.concatenate(rows)
        np.testing.assert_allclose(belief.context[slot, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        # The last episode's actions are those of the policy on the features, with the z in force.
        inputs = np.concatenate(
            [rows[-1][:, : config.picture_features], np.tile(belief.latent[slot], (len(rows[-1]), 1))], axis=-1
        )
        np.testing.assert_allclose(networks.policy.mode(jnp.asarray(inputs)), trial[-1].actions, rtol=1e-3, atol=1e-5)


def test_acting_leaves_the_pictures_of_resting_trials_alone():
    networks = initial_networks(CONFIG, SIZES, key=jax.random.key(0), precision="float32").acting
    agent = PearlAgent(CONFIG, SIZES, capacity=5, exploration_episodes=1)
    keys = jax.random.split(jax.random.key(1), 2)
    belief = agent.begin_trial(networks, keys, None)
    pictures = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, *SIZE), np.uint8))
    mask = jnp.array([True, False])
    _, changed = agent.act(networks, belief, pictures, keys, mask, deterministic=True)
    for name in ("pictures", "features"):
        old, new = getattr(belief, name), getattr(changed, name)
        np.testing.assert_array_equal(new[1], old[1])
        assert (new[0] != old[0]).any()


def expected_context(
    networks: ActingNetworks, episode: Episode, next_observation: bool
) -> Float32[np.ndarray, "length context"]:
    assert networks.trunk is not None
    features = np.asarray(networks.trunk(jnp.asarray(stacks(episode.observations, 3))))
    parts = [features[:-1], episode.actions, episode.rewards[:, None]]
    return np.concatenate([*parts, features[1:]] if next_observation else parts, axis=-1)


# Whole runs

SMALL = {**TINY, "picture_filters": 4, "picture_features": 6, "frame_stack": 2, "initial_steps": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pixels") / "run"
    return nacre.train(make_experiment("pearl/point-robot-pixels", **SMALL), out)


def test_a_resumed_run_is_the_same_to_the_bit(run: Path, tmp_path: Path):
    resumed = nacre.train(make_experiment("pearl/point-robot-pixels", **{**SMALL, "iterations": 1}), tmp_path / "run")
    nacre.resume(resumed, iterations=2)
    last = "checkpoints/iteration_000002.npz"
    one, other = read_npz(run / last), read_npz(resumed / last)
    assert any("target_trunk" in name for name in one)
    for name in one.keys() - {"manifest"}:
        np.testing.assert_array_equal(one[name], other[name])


def test_evaluation_and_loaded_agent(run: Path):
    evaluation = nacre.evaluate(run, trials=1)
    assert np.isfinite(evaluation.final_returns).all()

    agent = nacre.load(run)
    agent.begin_trial()
    env = gymnasium.make("nacre/PointRobotPixels-v0")
    observation, _ = env.reset(seed=0)
    for _ in range(20):
        action = agent.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        agent.observe(observation, reward, terminated, truncated)
    env.close()
    assert agent.belief.episodes == 1
    assert (agent.belief.variance != 1).all()
    with pytest.raises(ValueError, match="float64; allowed: uint8"):
        agent.act(observation / 255)
    with pytest.raises(ValueError, match=r"shape \(64, 64\); allowed"):
        agent.act(observation[..., 0])


# With OpenGL


@pytest.mark.opengl
def test_half_cheetah_from_pixels():
    tasks = [(0.5,), (2.5,)]
    pictures, rewards = play("cheetah-vel-pixels", tasks, steps=3)
    _, expected_rewards = play("cheetah-vel", tasks, steps=3)
    assert pictures.shape == (4, 2, 64, 64, 3)
    np.testing.assert_array_equal(pictures[:, 0], pictures[:, 1])  # no target velocity in them
    np.testing.assert_array_equal(rewards, expected_rewards)
    assert all((one != other).any() for one, other in zip(pictures[1:, 0], pictures[:-1, 0], strict=True))


@pytest.mark.opengl
def test_the_floor_shows_how_fast_the_half_cheetah_is():
    """It stays in the middle of the picture, and the squares below move: at 0.1 m/s already, within a stack of 3."""
    world = make_family("cheetah-vel").make_world(1, threads=1)
    world.reset(np.arange(1), np.ones((1, 1)), [np.random.default_rng(0)])
    renderer = world.make_renderer(64, 64)
    still = world.configurations(np.arange(1))[0]

    def moved(speed: float) -> np.ndarray:
        """How much pixels change in two control steps of 0.05 s, in a body that only glides."""
        change = renderer.draw(still + np.eye(len(still))[0] * speed * 0.1).astype(int) - renderer.draw(still)
        return np.abs(change).sum(axis=-1)

    assert moved(0.0).max() == 0
    changed = [int((moved(speed) > 8).sum()) for speed in (0.1, 0.5, 1.0, 2.0)]
    assert changed == sorted(changed)
    assert changed[0] > 20
    assert moved(2.0)[:14].max() <= 8  # above the horizon nothing moves: the camera goes along
    renderer.close()
    world.close()
