"""Replay gives back exactly what was stored, uniformly, in little memory, and compiles nothing after its first use."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compilations, load_script
from scipy.stats import chisquare

from nacre.experiments import make_experiment
from nacre.replay import PAGE, Replay, ReplayBuffer
from nacre.tasks.family import ObservationSize, Sizes
from nacre.types import Episode, Stretch, Transition, Visit

OBSERVATIONS, ACTIONS = 3, 2


pytestmark = pytest.mark.usefixtures("quick_compilation")


class Rows(NamedTuple):
    """One transition, or one array per field: the fields of `Transition`, in NumPy."""

    observation: Any
    action: Any
    reward: Any
    sparse_reward: Any
    next_observation: Any
    terminated: Any


class Source:
    """Makes episodes in which no number occurs twice, and keeps the book in the plainest way."""

    def __init__(self, tasks: int, *, sparse: bool = False, seed: int = 0):
        self.stored: list[list[Rows]] = [[] for _ in range(tasks)]
        self.context: list[list[Rows]] = [[] for _ in range(tasks)]
        self._sparse = sparse
        self._generator = np.random.default_rng(seed)
        self._next = 1

    def episode(self, length: int) -> Episode:
        return Episode(
            observations=self._unique(length + 1, OBSERVATIONS),
            actions=self._unique(length, ACTIONS),
            rewards=self._unique(length),
            sparse_rewards=self._unique(length) if self._sparse else None,
            terminated=bool(self._generator.random() < 0.5),
        )

    def visit(self, task: int, lengths: tuple[int, ...], context_episodes: int) -> Visit:
        visit = Visit(task, tuple(self.episode(length) for length in lengths), context_episodes)
        rows = [rows_of(episode) for episode in visit.episodes]
        self.stored[task] += itertools.chain(*rows)
        if context_episodes:
            self.context[task] = list(itertools.chain(*rows[:context_episodes]))
        return visit

    def random_visit(self, longest: int) -> Visit:
        task = int(self._generator.integers(len(self.stored)))
        lengths = tuple(self._generator.integers(1, longest + 1, self._generator.integers(1, 6)).tolist())
        return self.visit(task, lengths, int(self._generator.integers(len(lengths) + 1)))

    def _unique(self, *shape: int) -> np.ndarray:
        start, self._next = self._next, self._next + int(np.prod(shape))
        return np.arange(start, self._next, dtype=np.float32).reshape(shape)


def rows_of(episode: Episode) -> list[Rows]:
    sparse_rewards = episode.rewards if episode.sparse_rewards is None else episode.sparse_rewards
    return [
        Rows(
            episode.observations[t],
            episode.actions[t],
            episode.rewards[t],
            sparse_rewards[t],
            episode.observations[t + 1],
            episode.terminated and t == len(episode) - 1,
        )
        for t in range(len(episode))
    ]


def make_buffer(
    tasks: int,
    *,
    sparse: bool = False,
    horizon: int = 20,
    transitions: int = 20_000,
    fullest_task: int = 20_000,
    observation: ObservationSize = OBSERVATIONS,
) -> ReplayBuffer:
    sizes = Sizes(observation, ACTIONS, horizon, task=1)
    return ReplayBuffer(tasks, sizes, has_sparse_reward=sparse, transitions=transitions, fullest_task=fullest_task)


@functools.partial(jax.jit, static_argnames=("size", "context"))
def _draw(replay: Replay, tasks: jax.Array, seed: jax.Array, size: int, context: bool) -> Transition:
    return (replay.draw_context if context else replay.draw)(tasks, size, jax.random.key(seed))


def draw(buffer: ReplayBuffer, tasks: list[int], size: int, *, context: bool = False, seed: int = 0) -> Rows:
    """What a compiled learner gets, on the host."""
    drawn = _draw(buffer.arrays, jnp.array(tasks, jnp.int32), jnp.uint32(seed), size, context)
    return Rows(*jax.device_get(drawn))


def assert_holds(buffer: ReplayBuffer, source: Source) -> None:
    assert_draws_are(buffer, source.stored)
    assert_draws_are(buffer, source.context, context=True)


def assert_draws_are(buffer: ReplayBuffer, expected: list[list[Rows]], *, context: bool = False) -> None:
    """Draws of every task are rows that belong to it, whole and unmixed; and every such row is drawn."""
    size = 1 << 15 if max(map(len, expected)) < 2000 else 1 << 17
    drawn_of_all = draw(buffer, list(range(len(expected))), size, context=context)
    assert drawn_of_all.observation.shape == (len(expected), size, OBSERVATIONS)
    for task, rows in enumerate(expected):
        drawn = Rows(*(column[task] for column in drawn_of_all))
        if not rows:
            assert np.isnan(drawn.reward).all()
            continue
        columns = [np.array(column, np.float32) for column in zip(*rows, strict=True)]
        reference = Rows(*columns)
        assert np.all(np.diff(reference.reward) > 0)
        index = np.searchsorted(reference.reward, drawn.reward).clip(max=len(rows) - 1)
        for name, column in reference._asdict().items():
            np.testing.assert_array_equal(column[index], getattr(drawn, name), err_msg=f"{name} of task {task}")
        assert len(np.unique(index)) == len(rows)


@pytest.mark.parametrize("sparse", [False, True])
def test_draws_are_what_was_stored(sparse: bool) -> None:
    source, buffer = Source(5, sparse=sparse), make_buffer(5, sparse=sparse)
    for iteration in range(12):
        buffer.add([source.random_visit(longest=90) for _ in range(7)])  # 7 visits of 5 tasks: some come twice
        if iteration in (0, 5, 11):
            assert_holds(buffer, source)
    assert min(map(len, source.stored)) > 2 * PAGE
    assert buffer.transitions == sum(map(len, source.stored))
    assert buffer.arrays.counts.tolist() == list(map(len, source.stored))


@pytest.mark.parametrize("lengths", [(PAGE - 1, 1, 1), (PAGE,), (2 * PAGE + 3,), (1,) * (PAGE + 1), (PAGE, PAGE)])
def test_episodes_at_the_edges_of_pages(lengths: tuple[int, ...]) -> None:
    source, buffer = Source(2), make_buffer(2)
    for task in (0, 1, 0):
        buffer.add([source.visit(task, lengths, 1)])
    assert_holds(buffer, source)


def test_more_than_a_block_in_one_visit() -> None:
    source, buffer = Source(2), make_buffer(2)
    buffer.add([source.visit(0, (200,) * 25, 25), source.visit(1, (1,), 1)])  # 5000 transitions, 5025 observations
    assert_holds(buffer, source)


def test_terminated_only_where_an_episode_terminated() -> None:
    source, buffer = Source(1), make_buffer(1)
    visit = source.visit(0, (3, 1, 4, 2, 5, 1), 6)
    buffer.add([visit])
    drawn = draw(buffer, [0], 2000)
    ends = {episode.rewards[-1] for episode in visit.episodes if episode.terminated}
    assert 0 < len(ends) < len(visit.episodes)
    assert set(drawn.reward[drawn.terminated]) == ends


def test_uniform_over_transitions_and_over_context() -> None:
    source, buffer = Source(3), make_buffer(3)
    buffer.add([source.visit(1, (150, 150), 2), source.visit(0, (40, 100, 7), 2), source.visit(1, (60, 90), 1)])
    n = 200_000
    for context, rows in ((False, source.stored[1]), (True, source.context[1])):
        first = draw(buffer, [1, 1, 0], n, context=context).reward
        for drawn in first[:2]:  # the same task twice in one meta-batch: two independent, uniform draws
            counts = np.bincount(np.searchsorted([row.reward for row in rows], drawn), minlength=len(rows))
            assert chisquare(counts).pvalue > 1e-3
        assert np.mean(first[0] == first[1]) < 3 / len(rows)
        assert not np.array_equal(first, draw(buffer, [1, 1, 0], n, context=context, seed=1).reward)


def test_context_is_replaced_by_each_visit() -> None:
    """Spec 9, item 3: a visit wipes the task's context, and what it collects for RL alone is not in it."""
    source, buffer = Source(2), make_buffer(2)
    buffer.add([source.visit(0, (30, 30), 2), source.visit(1, (20,), 1)])
    untouched = source.context[1]
    buffer.add([source.visit(0, (10, 12, 50, 50), 2)])
    assert [len(rows) for rows in source.context] == [22, 20]
    assert source.context[1] is untouched
    assert_draws_are(buffer, source.context, context=True)
    # Twice in one iteration: the later visit counts, whatever came in between.
    buffer.add([source.visit(0, (9, 9), 2), source.visit(1, (8, 8), 1), source.visit(0, (7, 5), 1)])
    assert [len(rows) for rows in source.context] == [7, 8]
    assert_holds(buffer, source)
    # An algorithm without a context of its own leaves that of others alone.
    buffer.add([source.visit(1, (6,), 0)])
    assert_draws_are(buffer, source.context, context=True)


@pytest.mark.parametrize("sparse", [False, True])
def test_growth_beyond_the_plan_keeps_everything(sparse: bool) -> None:
    source, buffer = Source(3, sparse=sparse), make_buffer(3, sparse=sparse, transitions=0, fullest_task=0)
    rows = [len(buffer.arrays.rewards)]
    for _ in range(6):
        buffer.add([source.random_visit(longest=90) for _ in range(5)])
        rows.append(len(buffer.arrays.rewards))
    assert len(set(rows)) > 3
    assert rows[-1] < 1.6 * buffer.transitions
    assert_holds(buffer, source)


def test_more_episodes_than_planned() -> None:
    """Room for the transitions but, as every one of them ends an episode, not for the observations."""
    source, buffer = Source(1), make_buffer(1, horizon=200, transitions=600, fullest_task=600)
    buffer.add([source.visit(0, (1,) * 600, 600)])
    assert_holds(buffer, source)


def test_nothing_added_changes_nothing() -> None:
    source, buffer = Source(2), make_buffer(2)
    buffer.add([source.visit(task, (20, 30), 1) for task in (0, 1)])
    before = jax.device_get(buffer.arrays)
    buffer.add([])
    buffer.add([Visit(1, (), 0)])
    for old, new in zip(before, jax.device_get(buffer.arrays), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_task_without_data_gives_no_data_of_others() -> None:
    """Training never draws from one, as every task has an initial collection; if one did, its losses would be NaN."""
    source, buffer = Source(3, sparse=True), make_buffer(3, sparse=True)
    buffer.add([source.visit(0, (20,), 1), source.visit(1, (20,), 0)])
    for context, has_data in ((False, [True, True, False]), (True, [True, False, False])):
        drawn = draw(buffer, [0, 1, 2], 50, context=context)
        for rewards in (drawn.reward, drawn.sparse_reward):
            np.testing.assert_array_equal(np.isnan(rewards), np.repeat(~np.array(has_data)[:, None], 50, axis=1))


@pytest.mark.parametrize(
    ("visit", "message"),
    [
        (lambda source: Visit(0, (source.episode(3), source.episode(0)), 1), "at least one transition"),
        (lambda source: Visit(0, (source.episode(3),), 2), "2 context episodes of 1"),
        (lambda source: Visit(2, (source.episode(3),), 1), "task 2 of 2"),
        (lambda source: Visit(-1, (source.episode(3),), 1), "task -1 of 2"),
    ],
)
def test_impossible_visits_are_refused(visit: Callable[[Source], Visit], message: str) -> None:
    source, buffer = Source(2), make_buffer(2)
    buffer.add([source.visit(0, (5,), 1)])
    with pytest.raises(ValueError, match=message):
        buffer.add([source.visit(1, (4,), 1), visit(source)])
    # The refused visits left no trace.
    assert buffer.transitions == 5
    assert_draws_are(buffer, [source.stored[0], []])


# Whole episodes


@functools.partial(jax.jit, static_argnames=("size", "context"))
def _draw_stretches(replay: Replay, tasks: jax.Array, seed: jax.Array, size: int, context: bool) -> Stretch:
    return (replay.draw_context_episodes if context else replay.draw_episodes)(tasks, size, jax.random.key(seed))


def draw_stretches(buffer: ReplayBuffer, task: int, n: int, size: int, *, context: bool = False) -> Stretch:
    tasks = jnp.full(n, task, jnp.int32)
    return jax.device_get(_draw_stretches(buffer.arrays, tasks, jnp.uint32(0), size, context))


def assert_stretches_are(buffer: ReplayBuffer, task: int, episodes: list[Episode], size: int, context: bool) -> None:
    """Every draw is an episode, each equally likely, with as many of those after it as fit as a whole; and padding."""
    n = 4000
    drawn = draw_stretches(buffer, task, n, size, context=context)
    first_rewards = np.array([episode.rewards[0] for episode in episodes])
    firsts = np.searchsorted(first_rewards, drawn.transitions.reward[:, 0])
    counts = np.bincount(firsts, minlength=len(episodes))
    assert counts.min() > 0
    assert len(episodes) == 1 or chisquare(counts).pvalue > 1e-3
    for first in range(len(episodes)):
        ends = np.cumsum([len(episode) for episode in episodes[first:]])
        whole = episodes[first : first + int((ends <= size).sum())]
        length = sum(map(len, whole))
        expected = [np.array(column) for column in zip(*itertools.chain(*map(rows_of, whole)), strict=True)]
        begins = np.concatenate([np.arange(len(episode)) == 0 for episode in whole])
        repeated = np.arange(size) % length
        of_first = firsts == first
        for got, wanted in zip(
            (*drawn.transitions, drawn.begins, drawn.mask),
            (*(column[repeated] for column in expected), begins[repeated], np.arange(size) < length),
            strict=True,
        ):
            np.testing.assert_array_equal(got[of_first], np.broadcast_to(wanted, got[of_first].shape))


@pytest.mark.parametrize("size", [60, 100, 500])
def test_stretches_of_whole_episodes(size: int) -> None:
    """Spec pearl 1.8, item 5: the latest episode too, none twice, none cut off, boundaries marked."""
    source, buffer = Source(3, sparse=True), make_buffer(3, sparse=True, fullest_task=40)  # so that tables grow
    visits = [source.random_visit(longest=60) for _ in range(12)]
    visits += [source.visit(task, (1, 60, 1, 1, 39, 60, 20), 5) for task in (0, 2, 0)]
    for visit in visits:
        buffer.add([visit])
    for task in (0, 2):
        of_task = [visit for visit in visits if visit.task == task]
        everything = [episode for visit in of_task for episode in visit.episodes]
        assert_stretches_are(buffer, task, everything, size, context=False)
        assert_stretches_are(buffer, task, list(of_task[-1].episodes[:5]), size, context=True)


def test_stretches_of_a_single_episode_and_of_none() -> None:
    source, buffer = Source(2, sparse=True), make_buffer(2, sparse=True)
    visit = source.visit(0, (7,), 1)
    buffer.add([visit])
    for context in (False, True):
        assert_stretches_are(buffer, 0, list(visit.episodes), 10, context=context)
        empty = draw_stretches(buffer, 1, 5, 10, context=context)
        assert empty.mask.any(axis=1).all()  # or the mask would hide what is missing
        assert np.isnan(empty.transitions.reward).all()


def test_nothing_is_compiled_after_the_first_use() -> None:
    source, buffer = Source(4), make_buffer(4)
    with compilations() as first:
        buffer.add([source.visit(task, (3,), 1) for task in range(4)])
        draw(buffer, [0, 1, 2, 3], 7)
    with compilations() as later:
        for seed in range(10):
            buffer.add([source.random_visit(longest=200) for _ in range(4)])
            draw(buffer, [3, 1, 2, 1], 7, seed=seed)
        buffer.add([])
    assert first
    assert not later


def test_memory_of_the_published_schedule() -> None:
    """Issue: 2.7 million cheetah transitions in at most 1.2 times the bytes of their content."""
    benchmark = load_script("benchmarks/replay_memory.py")
    empty = benchmark.planned_buffer(make_experiment("pearl/cheetah-vel"))
    transitions = 2_700_000
    assert len(empty.arrays.rewards) == transitions * 201 // 200  # an episode has one row more
    assert benchmark.array_bytes(empty) <= 1.1 * benchmark.content_bytes(transitions, 20, 6)


def test_memory_when_filled_as_published() -> None:
    """The benchmark itself at a tenth of the iterations: what was planned suffices, so the ratio holds when full."""
    benchmark = load_script("benchmarks/replay_memory.py")
    experiment = make_experiment("pearl/cheetah-vel", iterations=50)
    planned = benchmark.array_bytes(benchmark.planned_buffer(experiment))
    buffer = benchmark.filled_buffer(experiment)
    assert buffer.transitions == 450_000
    assert benchmark.array_bytes(buffer) == planned <= 1.2 * benchmark.content_bytes(buffer.transitions, 20, 6)
