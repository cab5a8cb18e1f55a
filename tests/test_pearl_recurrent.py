"""The recurrent encoder and the ablations: each defect of the original's (spec 1.8) has a test, named by its number.

The tasks of `Clock` give episodes that end at different times.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import NEVER, Clock, clock_learner, run_schedule, run_trials, told_latent, transparent_networks

import nacre
from nacre.agents.pearl.agent import PearlAgent, PearlBelief
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.learner import PearlLearner, _replay_belief
from nacre.agents.pearl.losses import Batch, Trained, critic_and_encoder_loss, gradient_step, initial_optimisers
from nacre.agents.pearl.networks import (
    Context,
    PearlNetworks,
    RecurrentEncoder,
    drawn_context,
    infer_posterior,
    initial_networks,
)
from nacre.errors import NacreError
from nacre.evaluation import meta_test
from nacre.experiments import from_json, make_experiment, named_experiments, to_json, validate
from nacre.gradient_steps import _update, update
from nacre.interfaces import LearnerState
from nacre.nn.lstm import LSTM, LSTMState
from nacre.protocol import Protocol
from nacre.replay import Replay, ReplayBuffer
from nacre.tasks import make_family
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Key, Transition, Visit

HORIZON = 5
TASKS = np.array([[0.0, NEVER], [0.1, 3], [0.2, NEVER], [0.3, 2]])
CONFIG = PearlConfig(
    encoder="recurrent",
    latent_size=2,
    hidden_size=6,
    encoder_hidden_size=7,
    initial_steps=12,
    tasks_per_iteration=12,
    prior_steps=10,
    extra_posterior_steps=10,
    meta_batch_size=3,
    batch_size=8,
    context_size=12,
    kl_weight=0.3,
)


Filled = tuple[ReplayBuffer, dict[int, list[Episode]]]
"""A replay, and each task's latest context episodes."""

infer = jax.jit(infer_posterior, static_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def draw_context(config: PearlConfig, replay: Replay, tasks: jax.Array, key: Key) -> Context:
    return clock_learner(HORIZON, config)._draw_context(replay, tasks, key)


@functools.partial(jax.jit, static_argnums=0)
def draw_rl(config: PearlConfig, replay: Replay, tasks: jax.Array, key: Key) -> Transition:
    return clock_learner(HORIZON, config)._draw_rl(replay, tasks, key)


def networks_of(config: PearlConfig = CONFIG) -> PearlNetworks:
    """Networks whose output layers are not almost zero, so that everything shows in the posterior."""
    networks = initial_networks(config, Clock(HORIZON).sizes, key=jax.random.key(1), precision="float32")
    leaves, structure = jax.tree.flatten(networks)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def simulators(n: int) -> Simulator:
    return Simulator(Clock(HORIZON), n)


def learner_and_state(config: PearlConfig = CONFIG) -> tuple[PearlLearner, LearnerState]:
    networks = networks_of(config)
    target_value = jax.tree.map(jnp.copy, networks.value)  # an update is given all buffers for its own use
    trained = Trained(networks, target_value, initial_optimisers(networks))
    return clock_learner(HORIZON, config), LearnerState(trained, jax.random.key(0), jnp.zeros((), jnp.int32))


def collect(phase: str, learner: PearlLearner, state: LearnerState, seed: int) -> list[Visit]:
    memory, family = learner.memory(Clock(HORIZON), TASKS, 1), Clock(HORIZON)
    schedule = learner.collect(phase, state, memory, family, TASKS, np.random.SeedSequence(seed))
    return run_schedule(schedule, simulators(CONFIG.tasks_per_iteration if phase == "collect" else len(TASKS)))


def replay_belief(learner: PearlLearner, state: LearnerState, replay: Replay, tasks: jax.Array) -> PearlBelief:
    """The posteriors of offline evaluation."""
    agent = learner._collecting_agent(0, exploration_episodes=None)
    return _replay_belief(learner, agent, learner.parameters(state), replay, tasks, jax.random.key(0))


def rows_of(episodes: Sequence[Episode]) -> np.ndarray:
    """What the encoder is to see of episodes: (s, a, r, whether an episode begins) of every step."""
    rows = [
        [*episode.observations[t], *episode.actions[t], episode.rewards[t], t == 0]
        for episode in episodes
        for t in range(len(episode))
    ]
    return np.array(rows, np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(lstm: LSTM, inputs: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of one sequence in float64."""
    parameters = lstm.input_weight, lstm.hidden_weight, lstm.bias
    input_weight, hidden_weight, bias = (np.asarray(array, np.float64) for array in parameters)
    for row in inputs:
        i, f, g, o = np.split(row @ input_weight + hidden @ hidden_weight + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
    return hidden, cell


def posterior_by_hand(encoder: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spec 1.8 for one sequence, transition by transition from a zero state, in float64."""
    layers = [
        (np.asarray(weight, np.float64), np.asarray(bias, np.float64))
        for weight, bias in zip(encoder.network.weights, encoder.network.biases, strict=True)
    ]
    for weight, bias in layers[:-1]:
        rows = np.maximum(rows @ weight + bias, 0)
    zero = np.zeros(len(encoder.lstm.hidden_weight))
    hidden, _ = lstm_by_hand(encoder.lstm, rows, zero, zero)
    mean, raw = np.split(hidden @ layers[-1][0] + layers[-1][1], 2)
    return mean, np.maximum(np.log1p(np.exp(raw)), 1e-7)


# The layer


def make_lstm() -> tuple[LSTM, jax.Array]:
    lstm = LSTM(3, 4, key=jax.random.key(0), precision="float32")
    lstm = jax.tree.map(lambda leaf: 2 * leaf, lstm)
    return lstm, jax.random.normal(jax.random.key(1), (2, 6, 3))


def test_an_lstm_is_that_of_the_literature() -> None:
    lstm, inputs = make_lstm()
    mask = jnp.array([[True] * 6, [True] * 4 + [False] * 2])
    state = lstm(inputs, mask, lstm.initial_state(2))
    cell = eqx.nn.LSTMCell(3, 4, key=jax.random.key(0))
    parameters = (lstm.input_weight.T, lstm.hidden_weight.T, lstm.bias)
    cell = eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias), cell, parameters)
    for sequence, length in enumerate((6, 4)):
        rows = inputs[sequence, :length]
        by_hand = lstm_by_hand(lstm, np.asarray(rows, np.float64), np.zeros(4), np.zeros(4))
        zeros = jnp.zeros(4)
        in_equinox, _ = jax.lax.scan(lambda carry, row: (cell(row, carry), None), (zeros, zeros), rows)
        for ours, hand, theirs in zip(state, by_hand, in_equinox, strict=True):
            np.testing.assert_allclose(ours[sequence], hand, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ours[sequence], theirs, rtol=1e-5, atol=1e-6)


def test_defect_4_a_sequence_in_chunks_carries_output_and_cell() -> None:
    lstm, inputs = make_lstm()
    mask = jnp.ones((2, 6), bool)
    whole = lstm(inputs, mask, lstm.initial_state(2))
    first = lstm(inputs[:, :2], mask[:, :2], lstm.initial_state(2))
    second = lstm(inputs[:, 2:], mask[:, 2:], first)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), whole, second)
    for part in LSTMState._fields:
        without = first._replace(**{part: jnp.zeros((2, 4))})
        assert abs(lstm(inputs[:, 2:], mask[:, 2:], without).hidden - whole.hidden).max() > 1e-3


def test_its_parameters_start_as_the_originals_did() -> None:
    lstm = LSTM(50, 100, key=jax.random.key(0), precision="float32")
    for leaf in jax.tree.leaves(lstm):
        assert 0.09 < abs(leaf).max() <= 0.1
        assert abs(leaf.mean()) < 0.015
    assert len(jax.tree.leaves(lstm)) == 3


def test_bfloat16_is_close_and_gives_float32() -> None:
    lstm, inputs = make_lstm()
    low = jax.tree.unflatten(
        jax.tree.structure(LSTM(3, 4, key=jax.random.key(0), precision="bfloat16")), jax.tree.leaves(lstm)
    )
    mask = jnp.ones((2, 6), bool)

    def total(lstm: LSTM) -> jax.Array:
        return lstm(inputs, mask, lstm.initial_state(2)).hidden.sum()

    (one, gradient), (other, low_gradient) = (jax.value_and_grad(total)(layer) for layer in (lstm, low))
    assert other.dtype == jnp.float32
    assert 0 < abs(one - other) < 0.05
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(low_gradient), strict=True):
        assert theirs.dtype == jnp.float32
        np.testing.assert_allclose(theirs, ours, atol=0.05)


# Acting


def test_defects_3_and_6_the_belief_of_a_trial_is_one_reading_of_all_its_episodes() -> None:
    """Trials whose episodes end at different times, each step observed on its own, posteriors inferred all along: the
    last one is that of the trial's whole context, read once from a zero state."""
    networks = networks_of().acting
    agent = PearlAgent(CONFIG, Clock(HORIZON).sizes, capacity=30, exploration_episodes=1)
    trials, belief = run_trials(
        agent, networks, simulators(4), TASKS, np.random.SeedSequence(0), steps=13, deterministic=False
    )
    assert [len(trial) for trial in trials] == [3, 5, 3, 7]
    infer_again = jax.jit(agent.infer)
    for number, trial in enumerate(trials):
        rows = rows_of(trial)
        assert belief.context_count[number] == len(rows)
        np.testing.assert_allclose(belief.context[number, : len(rows)], rows, rtol=1e-6)
        mean, variance = posterior_by_hand(networks.encoder, rows)
        np.testing.assert_allclose(belief.mean[number], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(belief.variance[number], variance, rtol=1e-4)
        # The same, inferred at once, from any earlier part of the trial, and after other calls.
        for episodes in range(len(trial) + 1):
            part = rows_of(trial[:episodes]) if episodes else np.zeros((0, 9))
            counts = jnp.zeros(4, jnp.int32).at[number].set(len(part))
            earlier = infer_again(
                networks, belief._replace(context_count=counts), jax.random.split(jax.random.key(0), 4)
            )
            expected = posterior_by_hand(networks.encoder, part) if episodes else (np.zeros(2), np.ones(2))
            np.testing.assert_allclose(earlier.mean[number], expected[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(earlier.variance[number], expected[1], rtol=1e-4)


def test_order_boundaries_and_earlier_episodes_matter() -> None:
    encoder = networks_of().acting.encoder
    rows = jax.random.normal(jax.random.key(0), (1, 10, 9)).at[:, :, 8].set(0).at[:, (0, 5), 8].set(1)

    def mean(context: jax.Array) -> jax.Array:
        return infer(encoder, CONFIG, context)[0]

    reference = mean(rows)
    changes = {
        "order": rows.at[:, 5:].set(rows[:, 5:][:, ::-1]),
        "boundary": rows.at[:, 5, 8].set(0),
        "reward of the first episode": rows.at[:, 2, 7].add(1),
    }
    for change, changed in changes.items():
        assert abs(mean(changed) - reference).max() > 1e-4, change


def test_collection_reads_all_of_the_visits_context() -> None:
    """The policy tells z by its actions, and posteriors are all but certain, so z tells what was read."""
    networks = eqx.tree_at(
        lambda tree: tree.encoder,
        transparent_networks(dataclasses.replace(CONFIG, encoder="mlp"), factor_variance=1.0),
        networks_of().encoder,
    )
    networks = eqx.tree_at(
        lambda tree: (tree.encoder.network.weights[-1], tree.encoder.network.biases[-1]),
        networks,
        replace_fn=lambda leaf: leaf.at[..., 2:].set(0 if leaf.ndim == 2 else -30),
    )
    state = LearnerState(
        Trained(networks, networks.value, initial_optimisers(networks)), jax.random.key(0), jnp.int32(0)
    )
    visits = collect("collect", clock_learner(HORIZON, CONFIG), state, 1)
    compared = 0
    for visit in visits:
        expected, _ = posterior_by_hand(networks.encoder, rows_of(visit.episodes[: visit.context_episodes]))
        for episode in visit.episodes[visit.context_episodes + 1 :]:  # after one from the prior
            np.testing.assert_allclose(told_latent(episode), expected, atol=6 * 1e-7**0.5)
            compared += 1
    assert compared > 20


def test_a_stochastic_test_context_is_read_as_a_whole_too() -> None:
    config = dataclasses.replace(CONFIG, test_context="stochastic")
    assert clock_learner(HORIZON, config).agent(20).context_draw is None


# Training


@pytest.fixture(scope="module")
def filled() -> Filled:
    """The initial collection and one iteration's visits of all tasks."""
    learner, state = learner_and_state()
    visits = collect("initial collection", learner, state, 0) + collect("collect", learner, state, 1)
    assert {visit.task for visit in visits[4:]} == {0, 1, 2, 3}
    buffer = learner.memory(Clock(HORIZON), TASKS, 1)
    buffer.add(visits)
    return buffer, {visit.task: list(visit.episodes[: visit.context_episodes]) for visit in visits}


def test_defects_1_2_and_7_everything_runs_in_batches_of_any_size_and_leaves_no_state(filled: Filled) -> None:
    learner, state = learner_and_state()
    shapes = jax.eval_shape(learner.initial_state, jax.random.key(0))
    buffer, _ = filled
    encoder = [np.asarray(leaf) for leaf in jax.tree.leaves(state.trained.networks.encoder)]
    state, metrics = update(learner, "update", state, buffer.arrays, None, 2)  # a meta-batch of 3
    assert np.isfinite(metrics["KL Divergence"].values).all()
    # Offline evaluation directly after training, with another number of posteriors: where the original crashed.
    belief = replay_belief(learner, state, buffer.arrays, jnp.arange(2))
    assert belief.mean.shape == (2, 2)
    protocol = Protocol("any", trials=1, steps=11, episodes=1, exploration_episodes=1)
    params = learner.parameters(state)
    run_schedule(
        meta_test(learner.agent, params, Clock(HORIZON), TASKS, protocol, np.random.SeedSequence(0)), simulators(4)
    )
    again = replay_belief(learner, state, buffer.arrays, jnp.arange(2))
    np.testing.assert_array_equal(belief.mean, again.mean)
    # All that is trained and saved has the shape it had before any data came, and every part of the encoder learns.
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [leaf.shape for leaf in jax.tree.leaves(state)]
    for before, after in zip(encoder, jax.tree.leaves(state.trained.networks.encoder), strict=True):
        assert not np.array_equal(before, after)


def test_defects_5_and_6_training_reads_whole_episodes_of_the_context_as_acting_would(filled: Filled) -> None:
    buffer, context = filled
    encoder = networks_of().encoder
    lengths = set()
    for seed in range(8):
        drawn = draw_context(CONFIG, buffer.arrays, jnp.arange(4), jax.random.key(seed))
        assert drawn.mask is not None
        mean, variance = infer(encoder, CONFIG, *drawn_context(CONFIG, drawn))
        for task in range(4):
            reset_number = float(drawn.transitions.observation[task, 0, 1])
            resets = [float(episode.observations[0, 1]) for episode in context[task]]
            episodes = context[task][resets.index(reset_number) :]
            rows = rows_of(episodes)
            length = int(drawn.mask[task].sum())
            assert length == len(rows) <= CONFIG.context_size
            by_hand = posterior_by_hand(encoder, rows)
            np.testing.assert_allclose(mean[task], by_hand[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(variance[task], by_hand[1], rtol=1e-4)
            lengths.add((task, length))
    assert {length for task, length in lengths if task == 0} >= {5, 10}  # the posteriors after one and two episodes
    assert len(lengths) > 7


def test_recurrent_experiments_train_on_contexts_as_long_as_meta_testing_has_them() -> None:
    recurrent = [it for it, _ in named_experiments().values() if getattr(it.algorithm, "encoder", "") == "recurrent"]
    assert len(recurrent) == 2
    for experiment in recurrent:
        config, horizon = experiment.algorithm, make_family(experiment.family).horizon
        assert config.context_size == config.exploration_episodes * horizon


def size(tree: Any) -> float:
    return float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


def test_the_encoder_learns_from_critics_and_kl_only_through_every_step(filled: Filled) -> None:
    _, (trained, *_) = learner_and_state()
    arrays, tasks = filled[0].arrays, jnp.array([1, 0, 3])
    rl = draw_rl(CONFIG, arrays, tasks, jax.random.key(5))
    batch = Batch(tasks, rl, draw_context(CONFIG, arrays, tasks, jax.random.key(6)))
    networks, key = trained.networks, jax.random.key(3)

    def loss(encoder: RecurrentEncoder, config: PearlConfig) -> jax.Array:
        return critic_and_encoder_loss((encoder, networks.critics), trained.target_value, config, batch, key)[0]

    assert isinstance(networks.encoder, RecurrentEncoder)
    gradient_of = jax.jit(jax.grad(loss), static_argnums=1)
    without_kl = gradient_of(networks.encoder, dataclasses.replace(CONFIG, kl_weight=0.0))
    with_kl = gradient_of(networks.encoder, CONFIG)
    for critics, both in zip(jax.tree.leaves(without_kl), jax.tree.leaves(with_kl), strict=True):
        assert abs(critics).max() > 0
        assert abs(both - critics).max() > 0

    def target(encoder: RecurrentEncoder) -> jax.Array:
        pair = (encoder, networks.critics)
        return critic_and_encoder_loss(pair, trained.target_value, CONFIG, batch, key)[1].target.sum()

    assert size(jax.jit(jax.grad(target))(networks.encoder)) == 0

    # Policy and value network have no part in it.
    step = jax.jit(gradient_step, static_argnums=1)
    new, _ = step(trained, CONFIG, batch, key)
    louder = dataclasses.replace(networks, policy=jax.tree.map(lambda leaf: 1.5 * leaf, networks.policy))
    louder = dataclasses.replace(louder, value=jax.tree.map(lambda leaf: 1.5 * leaf, networks.value))
    other, _ = step(trained._replace(networks=louder), CONFIG, batch, key)
    for one, two in zip(*(jax.tree.leaves(result.networks.encoder) for result in (new, other)), strict=True):
        np.testing.assert_array_equal(one, two)

    # The gradient reaches every valid transition back to the first, and nothing of the padding.
    context, mask = drawn_context(CONFIG, batch.context)
    assert mask is not None
    assert not mask.all()
    gradient = jax.jit(jax.grad(lambda rows: infer(networks.encoder, CONFIG, rows, mask)[0].sum()))(context)
    np.testing.assert_array_equal(abs(gradient).max(axis=-1) > 0, mask)


# The ablations


@pytest.mark.parametrize("encoder", ["mlp", "recurrent"])
@pytest.mark.parametrize("source", ["recent", "replay"])
def test_sources_of_the_context(encoder: Any, source: Any, filled: Filled) -> None:
    """Recent context comes from the latest visit's context episodes, that of the replay from all others too."""
    config = dataclasses.replace(CONFIG, encoder=encoder, context_source=source, context_size=300)
    buffer, context = filled
    drawn = draw_context(config, buffer.arrays, jnp.arange(4), jax.random.key(1))
    assert (drawn.mask is not None) == (encoder == "recurrent")
    for task in range(4):
        recent = {float(episode.observations[0, 1]) for episode in context[task]}
        found = {float(number) for number in np.asarray(drawn.transitions.observation[task, :, 1])}
        if source == "recent":
            assert found <= recent
        else:
            assert found - recent
            if encoder == "mlp":
                assert found > recent


def test_the_rl_batch_as_context(monkeypatch: pytest.MonkeyPatch, filled: Filled) -> None:
    seen = []

    def step(trained: Trained, config: PearlConfig, batch: Batch, key: jax.Array) -> Any:
        seen.append(batch)
        return gradient_step(trained, config, batch, key)

    monkeypatch.setattr("nacre.agents.pearl.learner.gradient_step", step)
    for source in ("recent", "rl-batch"):
        config = dataclasses.replace(CONFIG, encoder="mlp", context_source=source, context_size=8)
        learner, state = learner_and_state(config)
        jax.eval_shape(functools.partial(_update, learner, "update", steps=1), state, filled[0].arrays, None)
    recent, shared = seen
    assert shared.context.transitions is shared.rl
    assert recent.context is not recent.rl


def test_defect_8_rl_batches_of_whole_episodes(filled: Filled) -> None:
    config = dataclasses.replace(CONFIG, rl_batch="episodes")
    arrays, tasks, key = filled[0].arrays, jnp.arange(4), jax.random.key(0)
    rl = draw_rl(config, arrays, tasks, key)
    steps = np.asarray(rl.observation[..., 2])  # of their episode
    for task, length in enumerate((5, 3, 5, 2)):
        in_order = np.arange(config.batch_size) % length
        whole = config.batch_size - config.batch_size % length
        np.testing.assert_array_equal(steps[task, :whole], in_order[:whole])
        numbers = np.asarray(rl.observation[task, :whole, 1]).reshape(-1, length)
        assert (numbers == numbers[:, :1]).all()
        np.testing.assert_array_equal(rl.terminated[task], (steps[task] == length - 1) & (length < 5))
    unordered = draw_rl(CONFIG, arrays, tasks, key)
    assert (jnp.diff(unordered.observation[..., 2], axis=1) < 0).mean() > 0.2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"encoder": "recurrent"},
            "algorithm.context_size is 100; allowed with encoder='recurrent': at least 200, the horizon of cheetah-vel",
        ),
        ({"rl_batch": "episodes", "batch_size": 199}, "algorithm.batch_size is 199; allowed with rl_batch='episodes'"),
        (
            {"context_source": "rl-batch"},
            "algorithm.context_size is 100; allowed with context_source='rl-batch': 256, the batch_size",
        ),
        (
            {"context_source": "rl-batch", "encoder": "recurrent", "context_size": 256},
            "algorithm.context_source is 'rl-batch'; allowed with encoder='recurrent': 'recent', 'replay' or 'trials'",
        ),
    ],
)
def test_impossible_combinations(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(NacreError, match=message):
        validate(make_experiment("pearl/cheetah-vel", **overrides), make_family("cheetah-vel"))


def test_files_of_before_the_ablations_mean_what_they_meant() -> None:
    experiment = make_experiment("pearl/cheetah-vel")
    content = to_json(experiment)
    for field in ("encoder", "rl_batch", "context_source"):
        del content["algorithm"][field]
    assert from_json(content) == experiment


def test_a_run_with_a_recurrent_encoder_trains_is_resumed_and_is_played(tmp_path: Path, tiny: dict[str, int]) -> None:
    changes = {"context_size": 40, "batch_size": 20, "iterations": 1}
    experiment = make_experiment("pearl/point-robot", encoder="recurrent", rl_batch="episodes", **(tiny | changes))
    run = nacre.train(experiment, tmp_path / "run")
    nacre.resume(run, iterations=2)
    agent = nacre.load(run)
    agent.begin_trial(3)
    family = make_family("point-robot")
    before = agent.belief.mean
    for step in range(family.horizon):
        agent.act(np.full((3, family.observation_size), 0.1 * step))
        ended = np.full(3, step == family.horizon - 1)
        reward = np.array([0.0, -1.0, -1.0])
        agent.observe(np.full((3, family.observation_size), 0.1), reward, np.zeros(3, bool), ended)
    mean = agent.belief.mean
    assert (before == 0).all()
    assert (mean != 0).all()
    # Two trials differ in their actions only, as their z are two draws; the other also in its rewards.
    assert abs(mean[0] - mean[1]).max() > 10 * abs(mean[1] - mean[2]).max()
