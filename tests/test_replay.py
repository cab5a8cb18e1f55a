"""Replay gives back exactly what was stored, uniformly, in little memory, and compiles nothing after its first use."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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


class Rows(NamedTuple):
    """One transition, or one array per field: the fields of `Transition`, in NumPy."""

    observation: Any
    action: Any
    reward: Any
    sparse_reward: Any
    next_observation: Any
    terminated: Any


class Source:
    """Makes episodes in which no number occurs twice, and keeps the book in the plainest way.

    `episode_begins` and `trial_begins` are the ranks at which the episode and the trial of each transition begin.
    """

    def __init__(self, tasks: int, *, sparse: bool = False, seed: int = 0):
        self.stored: list[list[Rows]] = [[] for _ in range(tasks)]
        self.context: list[list[Rows]] = [[] for _ in range(tasks)]
        self.episode_begins: list[list[int]] = [[] for _ in range(tasks)]
        self.trial_begins: list[list[int]] = [[] for _ in range(tasks)]
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
        begin = len(self.stored[task])
        self.trial_begins[task] += [begin] * sum(lengths)
        for length in lengths:
            self.episode_begins[task] += [len(self.episode_begins[task])] * length
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


# Windows and trials


@functools.partial(jax.jit, static_argnames=("length", "within"))
def _windows(
    replay: Replay, tasks: jax.Array, ranks: jax.Array, length: int, within: Literal["episode", "trial"]
) -> Stretch:
    return replay.windows(tasks, ranks, length, within)


@functools.partial(jax.jit, static_argnames="size")
def _trials(replay: Replay, tasks: jax.Array, ranks: jax.Array, size: int) -> Stretch:
    return replay.trials(tasks, ranks, size)


def assert_stretch_is(found: Stretch, source: Source, task: int, ranks: np.ndarray, mask: np.ndarray) -> None:
    """What the mask lets through are the transitions of those ranks; where it does not there are some of the task."""
    np.testing.assert_array_equal(found.mask, mask)
    columns = [np.array(column, np.float32) for column in zip(*source.stored[task], strict=True)]
    for name, column, got in zip(Rows._fields, columns, found.transitions, strict=True):
        np.testing.assert_array_equal(got[mask], column[ranks[mask]], err_msg=name)
    begins = np.array(source.episode_begins[task])[ranks[mask]] == ranks[mask]
    np.testing.assert_array_equal(found.begins[mask], begins)
    assert np.isin(found.transitions.reward, columns[2]).all()


def several_visits(horizon: int = 20) -> tuple[Source, ReplayBuffer]:
    """Tasks of several pages, fuller than planned, whose episodes and trials have all lengths."""
    source, buffer = Source(3, sparse=True), make_buffer(3, sparse=True, horizon=horizon, fullest_task=horizon)
    buffer.add([source.visit(0, (1, 1, 3), 0), source.visit(2, (PAGE + 5, 2), 1)])
    for _ in range(12):
        buffer.add([source.random_visit(longest=90) for _ in range(2)])
    assert min(map(len, source.stored)) > 2 * PAGE
    return source, buffer


@pytest.mark.parametrize("within", ["episode", "trial"])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_windows_before_every_transition(within: Literal["episode", "trial"], length: int) -> None:
    source, buffer = several_visits()
    size = max(map(len, source.stored))
    tasks = [2, 0, 2, 1]
    ranks = np.stack([np.resize(np.arange(len(source.stored[task])), size) for task in tasks])
    found = jax.device_get(_windows(buffer.arrays, jnp.array(tasks), jnp.asarray(ranks, jnp.int32), length, within))
    assert found.mask.shape == (4, size, length)
    for row, task in enumerate(tasks):
        firsts = source.episode_begins if within == "episode" else source.trial_begins
        first = np.array(firsts[task])[ranks[row]]
        expected = ranks[row][:, None] - np.arange(length, 0, -1)
        assert_stretch_is(
            jax.tree.map(lambda leaf, row=row: leaf[row], found), source, task, expected, expected >= first[:, None]
        )
    starts = ranks[1] == np.array(source.trial_begins[0])[ranks[1]]
    assert not found.mask[1][starts].any()  # nothing comes before a trial, whichever visit was before
    assert starts.sum() > 3


@pytest.mark.parametrize("size", [1, 40, 600])
def test_trials_of_every_transition(size: int) -> None:
    source, buffer = several_visits()
    for task in (2, 0):
        ranks = np.arange(len(source.stored[task]))[:: 1 if size < 600 else 13]
        tasks = jnp.full(len(ranks), task)
        found = jax.device_get(_trials(buffer.arrays, tasks, jnp.asarray(ranks, jnp.int32), size))
        begins = np.array(source.trial_begins[task])
        expected = begins[ranks][:, None] + np.arange(size)
        mask = expected < np.searchsorted(begins, begins[ranks], side="right")[:, None]
        assert_stretch_is(found, source, task, expected, mask)
    if size == 600:
        assert not mask.all(axis=1).any()


def test_visits_are_trials_also_if_they_follow_each_other_in_one_addition() -> None:
    """Episodes of a trial that lie in many pages and between those of other tasks."""
    source, buffer = Source(2), make_buffer(2)
    buffer.add([source.visit(0, (200, 200), 1), source.visit(1, (3,), 1), source.visit(0, (200,), 1)])
    buffer.add([source.visit(1, (3,), 1), source.visit(0, (200, 150), 0)])
    assert sorted(set(source.trial_begins[0])) == [0, 400, 600]
    found = jax.device_get(_trials(buffer.arrays, jnp.zeros(3, jnp.int32), jnp.array([399, 400, 949]), 400))
    assert found.mask.sum(axis=1).tolist() == [400, 200, 350]
    assert found.begins[0].nonzero()[0].tolist() == [0, 200]


def test_index_tables_grow_for_a_task_fuller_than_expected() -> None:
    """And they have room for what is expected, no more: one table for everything in every task would be 3.6 GB for
    45 tasks of a robot arm."""
    source, buffer = Source(3), make_buffer(3, transitions=9_000, fullest_task=PAGE)
    assert buffer.arrays.pages.shape == (3, 1)
    assert buffer.arrays.episode_starts.shape == (3, -(-PAGE // 20))
    widths: set[tuple[int, int]] = set()
    for _ in range(40):
        buffer.add([source.visit(1, (20,) * 5, 5)])
        widths.add((buffer.arrays.pages.shape[1], buffer.arrays.episode_starts.shape[1]))
    buffer.add([source.visit(task, (20,), 1) for task in (0, 2)])
    assert 3 < len(widths) < 30  # it grows by quarters
    pages, episodes = max(widths)
    assert pages <= 1.25 * -(-4_000 // PAGE) + 1
    assert episodes <= 1.25 * 200 + 1
    assert len(buffer.arrays.observations) == 9_000 + 9_000 // 20  # the rest has not grown
    assert len(buffer.arrays.rewards) == (-(-9_000 // PAGE) + 3) * PAGE
    assert_holds(buffer, source)
    ranks = jnp.array([[0, 1999, 3999]])
    found = jax.device_get(_windows(buffer.arrays, jnp.array([1]), ranks, 30, "trial"))
    expected = np.array([0, 1999, 3999])[:, None] - np.arange(30, 0, -1)
    first = np.array(source.trial_begins[1])[[0, 1999, 3999], None]
    assert_stretch_is(jax.tree.map(lambda leaf: leaf[0], found), source, 1, expected, expected >= first)


def test_reading_the_ranks_that_were_drawn_is_the_draw() -> None:
    source, buffer = several_visits()
    tasks, key = jnp.array([1, 0]), jax.random.key(5)
    ranks = buffer.arrays.draw_ranks(tasks, 50, key)
    drawn, read = buffer.arrays.draw(tasks, 50, key), buffer.arrays.read(tasks, ranks)
    for one, other in zip(drawn, read, strict=True):
        np.testing.assert_array_equal(one, other)
    for row, task in enumerate((1, 0)):
        expected = [source.stored[task][rank].reward for rank in ranks[row]]
        np.testing.assert_array_equal(read.reward[row], expected)


def test_windows_and_trials_of_a_task_without_data_are_nan() -> None:
    source, buffer = Source(2, sparse=True), make_buffer(2, sparse=True)
    buffer.add([source.visit(0, (7, 9), 1)])
    tasks = jnp.array([1, 0])
    ranks = buffer.arrays.draw_ranks(tasks, 3, jax.random.key(0))
    for found in (
        _windows(buffer.arrays, tasks, ranks, 4, "episode"),
        _windows(buffer.arrays, tasks, ranks, 4, "trial"),
        _trials(buffer.arrays, tasks, ranks[:, 0], 5),
    ):
        for rewards in (found.transitions.reward, found.transitions.sparse_reward):
            assert np.isnan(rewards[0]).all()
            assert np.isfinite(rewards[1]).all()


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
    assert len(empty.arrays.observations) == transitions * 201 // 200  # an episode has one more than steps
    assert benchmark.array_bytes(empty) <= 1.1 * benchmark.content_bytes(transitions, 20, 6)


def test_memory_when_filled_as_published() -> None:
    """The benchmark itself at a tenth of the iterations: what was planned suffices, so the ratio holds when full."""
    benchmark = load_script("benchmarks/replay_memory.py")
    experiment = make_experiment("pearl/cheetah-vel", iterations=50)
    planned = benchmark.array_bytes(benchmark.planned_buffer(experiment))
    buffer = benchmark.filled_buffer(experiment)
    assert buffer.transitions == 450_000
    assert benchmark.array_bytes(buffer) == planned <= 1.2 * benchmark.content_bytes(buffer.transitions, 20, 6)
