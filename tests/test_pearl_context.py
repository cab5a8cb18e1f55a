"""Contexts that are the beginnings of trials, and the change of the reward in them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pearl_protocols import SIZES, TINY, keys_of, transitions

from nacre.agents.pearl.agent import PearlAgent, evaluation_agent, random_context
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.networks import (
    Context,
    context_rows,
    context_width,
    drawn_context,
    infer_posterior,
    initial_networks,
)
from nacre.errors import NacreError
from nacre.experiments import make_experiment
from nacre.experiments.experiment import family_of
from nacre.experiments.limits import validate
from nacre.replay import Replay, ReplayBuffer
from nacre.tasks.point import SparsePointRobot
from nacre.types import Episode, Key, Visit

FACTOR = 3.0
CHANGE = dataclasses.replace(TINY, reward_change_in_context=FACTOR, context_size=40)
TRIALS = dataclasses.replace(CHANGE, context_source="trials")
SIZE = CHANGE.context_size
FAMILY = SparsePointRobot()
LENGTHS = {0: [[4, 6, 3], [5, 3], [7]], 1: [[6], [3, 3, 3, 4]]}
"""The lengths of the episodes of each trial, by task."""


@functools.cache
def filled() -> tuple[Replay, dict[int, list[list[Episode]]]]:
    """A replay of two tasks, and their trials. Of each trial all episodes but the last are context data, or the only
    one."""
    generator = np.random.default_rng(0)

    def episode(length: int) -> Episode:
        return Episode(
            generator.standard_normal((length + 1, 2)).astype(np.float32),
            generator.uniform(-1, 1, (length, 2)).astype(np.float32),
            generator.standard_normal(length).astype(np.float32),
            sparse_rewards=generator.standard_normal(length).astype(np.float32),
            terminated=False,
        )

    trials = {task: [[episode(n) for n in lengths] for lengths in of_task] for task, of_task in LENGTHS.items()}
    buffer = ReplayBuffer(2, FAMILY.sizes, has_sparse_reward=True, transitions=200, fullest_task=100)
    for task, of_task in trials.items():
        buffer.add([Visit(task, tuple(trial), max(1, len(trial) - 1)) for trial in of_task])
    return buffer.arrays, trials


def rows_by_hand(trial: list[Episode], sparse: bool = False) -> np.ndarray:
    """(s, a, r, whether an episode begins, factor · change of r) of every step of a trial."""
    rows = []
    for episode in trial:
        rewards = episode.sparse_rewards if sparse else episode.rewards
        assert rewards is not None
        for t in range(len(episode)):
            change = rewards[t] - rewards[t - 1] if t else 0
            rows.append([*episode.observations[t], *episode.actions[t], rewards[t], t == 0, FACTOR * change])
    return np.array(rows, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def draw(config: PearlConfig, arrays: Replay, key: Key) -> Context:
    """The context of a gradient step with as many tasks as the meta-batch."""
    learner = PearlLearner(config, FAMILY.sizes)
    tasks = jnp.arange(config.meta_batch_size) % 2
    return learner._draw_context(arrays, tasks, key)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("source", ["recent", "replay"])
def test_change_of_the_reward_in_random_contexts(source: Any, sparse: bool) -> None:
    """Each row knows the step before it, whichever rows are drawn with it."""
    arrays, trials = filled()
    config = dataclasses.replace(CHANGE, context_source=source, meta_batch_size=4, sparse_reward_in_context=sparse)
    rows, mask = drawn_context(config, draw(config, arrays, jax.random.key(0)))
    assert mask is None
    for slot in range(4):
        of_task = trials[slot % 2]
        known = np.concatenate([rows_by_hand(trial, sparse) for trial in of_task])
        recent = rows_by_hand(of_task[-1][:-1] or of_task[-1], sparse)
        allowed = recent if source == "recent" else known
        drawn = np.asarray(rows[slot], np.float64)
        distances = abs(drawn[:, None] - allowed[None]).max(axis=2).min(axis=1)
        np.testing.assert_allclose(distances, 0, atol=1e-5)
        assert {0.0, 1.0} == set(drawn[:, 5])


def test_contexts_are_the_beginnings_of_any_trials() -> None:
    """In order, from the first transition on, masked where the trial is over, as frequent as the trial is long."""
    arrays, trials = filled()
    config = dataclasses.replace(TRIALS, meta_batch_size=2000)
    context = draw(config, arrays, jax.random.key(1))
    rows, mask = drawn_context(config, context)
    assert mask is not None
    lengths = np.asarray(mask.sum(axis=1))
    for task, of_task in trials.items():
        expected = {sum(map(len, trial)): rows_by_hand(trial) for trial in of_task}
        found = lengths[task::2]
        for slot, length in enumerate(found[:100]):
            place = 2 * slot + task
            np.testing.assert_array_equal(mask[place], np.arange(SIZE) < length)
            np.testing.assert_allclose(rows[place, :length], expected[length], atol=1e-5)
        everything = sum(expected)
        for length in expected:
            assert abs((found == length).mean() - length / everything) < 0.07


def test_a_context_is_cut_off_where_it_is_full() -> None:
    arrays, trials = filled()
    config = dataclasses.replace(TRIALS, context_size=3, meta_batch_size=20)
    rows, mask = drawn_context(config, draw(config, arrays, jax.random.key(1)))
    assert mask is not None
    assert mask.all()
    beginnings = np.array([rows_by_hand(trial)[:3] for trial in trials[0]])
    for context in np.asarray(rows)[::2]:
        assert abs(beginnings - context).max(axis=(1, 2)).min() < 1e-5


def test_contexts_of_any_size_are_shorter_beginnings() -> None:
    """Every number of transitions from one to the trial's is as frequent."""
    arrays, _ = filled()
    config = dataclasses.replace(TRIALS, context_sizes="any", meta_batch_size=3000, batch_size=1)
    learner = PearlLearner(config, FAMILY.sizes)
    batch = jax.jit(lambda arrays, key: learner.draw("update", arrays, None, key))(arrays, jax.random.key(0))
    mask = np.asarray(batch.context.mask)
    counts = mask.sum(axis=1)
    np.testing.assert_array_equal(mask, np.arange(SIZE)[None] < counts[:, None])
    ones = np.asarray(batch.tasks) == 1  # its trials have 6 and 13 transitions, and are drawn 6 : 13
    expected = np.array([0] + 6 * [1 / 19 + 1 / 19] + 7 * [1 / 19])
    np.testing.assert_allclose(np.bincount(counts[ones], minlength=14) / ones.sum(), expected, atol=0.04)


def test_what_an_agent_sees_of_a_trial() -> None:
    """The rows of a belief are those of training, over the end of an episode too, and all of them are read."""
    agent = evaluation_agent(TRIALS, SIZES, 10)
    networks = initial_networks(TRIALS, SIZES, key=jax.random.key(0), precision="float32").acting
    belief = agent.begin_trial(networks, keys_of(2), None)
    assert belief.context.shape[2] == context_width(TRIALS, SIZES) == SIZES.observation + SIZES.action + 3
    expected: list[list[np.ndarray]] = [[], []]
    for step in range(6):
        both = jnp.ones(2, bool)
        if step in (0, 4):
            belief = agent.begin_episode(networks, belief, keys_of(2, seed=step), both)
        playing = jnp.array([True, step != 2])  # the second trial does not play then
        seen = transitions(step, 2)
        belief = agent.observe(networks, belief, seen, playing)
        for trial in range(2):
            if playing[trial]:
                first = step in (0, 4)
                change = 0 if first else FACTOR * (float(seen.reward[trial]) - expected[trial][-1][-3])
                row = [*seen.observation[trial], *seen.action[trial], seen.reward[trial], first, change]
                expected[trial].append(np.array(row, np.float64))
    for trial in range(2):
        count = len(expected[trial])
        assert int(belief.context_count[trial]) == count
        np.testing.assert_allclose(belief.context[trial, :count], np.array(expected[trial]), rtol=1e-4, atol=1e-5)
    inferred = agent.infer(networks, belief, keys_of(2))
    alone = infer_posterior(networks.encoder, TRIALS, belief.context[:1, :6])
    np.testing.assert_allclose(inferred.mean[0], alone[0][0], rtol=1e-4, atol=1e-6)


def test_how_much_of_its_context_a_visit_reads() -> None:
    assert random_context(TRIALS) is None
    assert random_context(CHANGE) == SIZE
    learner = PearlLearner(TRIALS, SIZES)
    agent = learner._collecting_agent(10, exploration_episodes=0)
    assert agent == PearlAgent(TRIALS, SIZES, 10, exploration_episodes=0, context_draw=None)


def test_without_the_option_nothing_of_it_is_there() -> None:
    arrays, _ = filled()
    context = draw(dataclasses.replace(TINY, meta_batch_size=4), arrays, jax.random.key(0))
    assert context.begins is None
    assert context.reward_before is None
    rows = context_rows(TINY, context.transitions)
    assert rows.shape[-1] == context_width(TINY, FAMILY.sizes) == 5


def test_rows_that_lack_what_they_have_to_show() -> None:
    seen = transitions(0, 2)
    with pytest.raises(ValueError, match="where episodes begin"):
        context_rows(CHANGE, seen)
    with pytest.raises(ValueError, match="the reward of the step before"):
        context_rows(CHANGE, seen, jnp.zeros(2, bool))


def test_a_change_that_is_not_known() -> None:
    experiment = make_experiment(
        "pearl/cheetah-vel", reward_change_in_context=1.0, context_source="rl-batch", context_size=256
    )
    with pytest.raises(
        NacreError, match=r"reward_change_in_context is 1\.0; allowed with context_source='rl-batch': 0"
    ):
        validate(experiment, family_of(experiment))


def test_a_recurrent_encoder_may_read_beginnings_of_trials_of_any_size() -> None:
    experiment = make_experiment(
        "pearl/sparse-point-robot", encoder="recurrent", context_sizes="any", context_source="trials"
    )
    validate(experiment, family_of(experiment))
