"""Replay: every transition of every task, once, on the device, and the draws from it.

Transitions of a task are numbered by rank, in the order in which they were collected. A page table maps ranks to rows
of shared arrays, as virtual memory does: a page of `PAGE` rows belongs to one task, so tasks grow independently
without one row of padding per task and step. Observations are in an array of their own, an episode's `length + 1` one
after another; a transition knows the row of its observation, and its next observation is in the row below. Pictures
are stored once too, as uint8, and drawn in stacks, each with those before it in its episode.

The context data of a task is a contiguous range of ranks: those of the latest visit's first episodes. The ranks at
which episodes start are in a table of their own, for draws of whole episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Shaped, UInt8

from nacre.tasks.family import ObservationSize
from nacre.types import Episode, Key, Stretch, Transition, Visit

PAGE = 256
BLOCK = 4096
NO_EPISODE = np.iinfo(np.int32).max


class Replay(NamedTuple):
    """The arrays on the device. `rows` transitions and `observation_rows` observations fit.

    `sparse_rewards` has no rows in families without a sparse reward. A task without data has nothing to draw: the
    rewards of such draws are NaN, so that no loss hides the mistake.

    Draws take a number of `frames`. With more than one an observation is a stack: the last `frames` pictures of its
    episode, oldest first, side by side in the last axis: (height, width, 3 frames). The first picture of an episode
    also stands for those before it.
    """

    observations: Float32[Array, "observation_rows observation"] | UInt8[Array, "observation_rows height width 3"]
    observation_row: Int32[Array, " rows"]
    actions: Float32[Array, "rows action"]
    rewards: Float32[Array, " rows"]
    sparse_rewards: Float32[Array, " sparse_rows"]
    terminated: Bool[Array, " rows"]
    pages: Int32[Array, "tasks pages"]
    counts: Int32[Array, " tasks"]
    context_start: Int32[Array, " tasks"]
    context_count: Int32[Array, " tasks"]
    episode_starts: Int32[Array, "tasks episodes"]
    """Ranks in ascending order, and then NO_EPISODE."""

    def draw(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Transition:
        """`size` transitions of each task, uniformly and with replacement; leading axes (n, size)."""
        return self._draw(tasks, jnp.zeros_like(tasks), self.counts[tasks], size, key, frames)

    def draw_context(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Transition:
        """`size` transitions of each task's context data, uniformly and with replacement."""
        return self._draw(tasks, self.context_start[tasks], self.context_count[tasks], size, key, frames)

    def draw_episodes(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Stretch:
        """An episode of each task, uniformly, and those that followed it, as many as fit into `size` as a whole.

        `size` has to be at least the length of the longest episode.
        """
        return self._draw_episodes(tasks, jnp.zeros_like(tasks), self.counts[tasks], size, key, frames)

    def draw_context_episodes(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Stretch:
        """The same from each task's context data."""
        return self._draw_episodes(tasks, self.context_start[tasks], self.context_count[tasks], size, key, frames)

    def _draw(
        self,
        tasks: Int32[Array, " n"],
        start: Int32[Array, " n"],
        count: Int32[Array, " n"],
        size: int,
        key: Key,
        frames: int,
    ) -> Transition:
        ranks = start[:, None] + jax.random.randint(key, (len(tasks), size), 0, count[:, None])
        return self._read(tasks, ranks, count, frames)

    def _draw_episodes(
        self,
        tasks: Int32[Array, " n"],
        start: Int32[Array, " n"],
        count: Int32[Array, " n"],
        size: int,
        key: Key,
        frames: int,
    ) -> Stretch:
        episode_starts, end = self.episode_starts[tasks], start + count
        episodes_before = jax.vmap(jnp.searchsorted)
        episode = jax.random.randint(
            key, tasks.shape, episodes_before(episode_starts, start), episodes_before(episode_starts, end)
        )
        begin = jnp.where(count > 0, jnp.take_along_axis(episode_starts, episode[:, None], axis=1)[:, 0], start)
        # It ends where the last episode starts that does not fit, or with the data.
        unfinished = episodes_before(episode_starts, begin + size + 1) - 1
        last_start = jnp.take_along_axis(episode_starts, unfinished[:, None], axis=1)[:, 0]
        length = jnp.where(end <= begin + size, end, last_start) - begin
        length = jnp.maximum(length, 1)[:, None]  # of a task without data: one transition, whose reward is NaN
        steps = jnp.arange(size)[None]
        ranks = begin[:, None] + steps % length
        # Within an episode the observation rows are consecutive; between two is the last observation of the first.
        observation_row = self.observation_row[self._rows(tasks, ranks)]
        begins = jnp.pad(jnp.diff(observation_row, axis=1) != 1, ((0, 0), (1, 0)), constant_values=True)
        return Stretch(self._read(tasks, ranks, count, frames), begins, mask=steps < length)

    def _rows(self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n size"]) -> Int32[Array, "n size"]:
        return self.pages[tasks[:, None], ranks // PAGE] * PAGE + ranks % PAGE

    def _read(
        self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n size"], count: Int32[Array, " n"], frames: int
    ) -> Transition:
        rows = self._rows(tasks, ranks)
        observation, next_observation = self._observations(tasks, ranks, self.observation_row[rows], frames)
        rewards = jnp.where(count[:, None] > 0, self.rewards[rows], jnp.nan)
        sparse_rewards = rewards
        if self.sparse_rewards.size:
            sparse_rewards = jnp.where(count[:, None] > 0, self.sparse_rewards[rows], jnp.nan)
        return Transition(
            observation=observation,
            action=self.actions[rows],
            reward=rewards,
            sparse_reward=sparse_rewards,
            next_observation=next_observation,
            terminated=self.terminated[rows],
        )

    def _observations(
        self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n size"], row: Int32[Array, "n size"], frames: int
    ) -> tuple[Shaped[Array, "n size *observation"], Shaped[Array, "n size *observation"]]:
        """The observations in `row`, and those that follow them."""
        if frames == 1:
            return self.observations[row], self.observations[row + 1]
        starts = self.episode_starts[tasks]
        episode = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(starts, ranks) - 1
        first = row - (ranks - jnp.take_along_axis(starts, episode, axis=1))
        stacked_rows = jnp.maximum(row[..., None] + jnp.arange(1 - frames, 2)[None, None], first[..., None])
        pictures = jnp.moveaxis(self.observations[stacked_rows], 2, -2)  # (n, size, height, width, frames + 1, 3)
        shape = (*pictures.shape[:-2], -1)
        return pictures[..., :-1, :].reshape(shape), pictures[..., 1:, :].reshape(shape)


class ReplayBuffer:
    """Fills a :class:`Replay`, and keeps the book of its pages on the host.

    `transitions` and `episodes` are what room is made for at once; when more comes, the arrays grow by a quarter,
    at the cost of a copy and a new compilation of what reads them.
    """

    def __init__(
        self,
        tasks: int,
        observation_size: ObservationSize,
        action_size: int,
        *,
        has_sparse_reward: bool,
        transitions: int,
        episodes: int,
    ):
        pages = -(-transitions // PAGE) + tasks
        rows = pages * PAGE
        self._counts = np.zeros(tasks, np.int32)
        self._context_start = np.zeros(tasks, np.int32)
        self._context_count = np.zeros(tasks, np.int32)
        self._episode_starts = np.full((tasks, episodes), NO_EPISODE, np.int32)
        self._episode_counts = np.zeros(tasks, np.int32)
        self._page_table = np.zeros((tasks, pages), np.int32)
        self._pages_used = 0
        self._observations_used = 0
        vectors = isinstance(observation_size, int)
        shape, dtype = ((observation_size,), jnp.float32) if vectors else (observation_size, jnp.uint8)
        self._arrays = Replay(
            observations=jnp.zeros((transitions + episodes, *shape), dtype),
            observation_row=jnp.zeros(rows, jnp.int32),
            actions=jnp.zeros((rows, action_size)),
            rewards=jnp.zeros(rows),
            sparse_rewards=jnp.zeros(rows if has_sparse_reward else 0),
            terminated=jnp.zeros(rows, bool),
            pages=jnp.asarray(self._page_table),
            counts=jnp.asarray(self._counts),
            context_start=jnp.asarray(self._context_start),
            context_count=jnp.asarray(self._context_count),
            episode_starts=jnp.asarray(self._episode_starts),
        )

    @property
    def arrays(self) -> Replay:
        """What the learner draws from. Adding visits invalidates it: take it anew afterwards."""
        return self._arrays

    @property
    def transitions(self) -> int:
        """Transitions stored, over all tasks."""
        return int(self._counts.sum())

    def add(self, visits: Iterable[Visit]) -> None:
        """Appends what visits collected, in order, and makes their context episodes the context of their tasks.

        Raises:
            ValueError: a visit is impossible; nothing has been added then.
        """
        visits = list(visits)
        for visit in visits:
            self._check(visit)
        episodes, rows = [], []
        for visit in visits:
            context_count = sum(len(episode) for episode in visit.episodes[: visit.context_episodes])
            if visit.context_episodes:
                self._context_start[visit.task] = self._counts[visit.task]
                self._context_count[visit.task] = context_count
            for episode in visit.episodes:
                episodes.append(episode)
                self._note_start(visit.task)
                rows.append(self._allocate(visit.task, len(episode)))
        if episodes:
            self._write(episodes, np.concatenate(rows))
        self._arrays = self._arrays._replace(
            pages=jnp.asarray(self._page_table.copy()),
            counts=jnp.asarray(self._counts.copy()),
            context_start=jnp.asarray(self._context_start.copy()),
            context_count=jnp.asarray(self._context_count.copy()),
            episode_starts=jnp.asarray(self._episode_starts.copy()),
        )

    def _check(self, visit: Visit) -> None:
        if not 0 <= visit.task < len(self._counts):
            raise ValueError(f"a visit to task {visit.task} of {len(self._counts)}")
        if visit.context_episodes > len(visit.episodes):
            raise ValueError(f"a visit with {visit.context_episodes} context episodes of {len(visit.episodes)}")
        if not all(len(episode) for episode in visit.episodes):
            raise ValueError("an episode has at least one transition")

    def _note_start(self, task: int) -> None:
        """An episode starts with the task's next transition."""
        columns = self._episode_starts.shape[1]
        if self._episode_counts[task] == columns:
            room = ((0, 0), (0, columns // 4 + 1))
            self._episode_starts = np.pad(self._episode_starts, room, constant_values=NO_EPISODE)
        self._episode_starts[task, self._episode_counts[task]] = self._counts[task]
        self._episode_counts[task] += 1

    def _allocate(self, task: int, length: int) -> np.ndarray:
        """Rows for the next `length` transitions of a task, on its last page and then on new ones."""
        ranks = self._counts[task] + np.arange(length)
        held, needed = -(-self._counts[task] // PAGE), -(-(self._counts[task] + length) // PAGE)
        while self._pages_used + needed - held > self._page_table.shape[1]:
            self._page_table = np.pad(self._page_table, ((0, 0), (0, self._page_table.shape[1] // 4 + 1)))
        self._page_table[task, held:needed] = np.arange(self._pages_used, self._pages_used + needed - held)
        self._pages_used += needed - held
        self._counts[task] += length
        return self._page_table[task, ranks // PAGE] * PAGE + ranks % PAGE

    def _write(self, episodes: list[Episode], rows: np.ndarray) -> None:
        lengths = np.array([len(episode) for episode in episodes])
        starts = self._observations_used + np.cumsum(lengths + 1) - lengths - 1
        self._observations_used += int(lengths.sum()) + len(episodes)
        self._grow()
        arrays = self._arrays
        last = np.zeros(lengths.sum(), bool)
        last[np.cumsum(lengths) - 1] = [episode.terminated for episode in episodes]
        observation_row = [start + np.arange(length) for start, length in zip(starts, lengths, strict=True)]
        observations = [episode.observations for episode in episodes]
        observation_rows = np.arange(starts[0], self._observations_used)
        self._arrays = arrays._replace(
            observations=_scatter(arrays.observations, observation_rows, observations),
            observation_row=_scatter(arrays.observation_row, rows, observation_row),
            actions=_scatter(arrays.actions, rows, [episode.actions for episode in episodes]),
            rewards=_scatter(arrays.rewards, rows, [episode.rewards for episode in episodes]),
            terminated=_scatter(arrays.terminated, rows, [last]),
        )
        if arrays.sparse_rewards.size:
            sparse_rewards = [episode.sparse_rewards for episode in episodes if episode.sparse_rewards is not None]
            self._arrays = self._arrays._replace(sparse_rewards=_scatter(arrays.sparse_rewards, rows, sparse_rewards))

    def _grow(self) -> None:
        arrays, rows = self._arrays, self._page_table.shape[1] * PAGE
        grown = {}
        if rows > len(arrays.rewards):
            per_row = ("observation_row", "actions", "rewards", "terminated")
            names = (*per_row, "sparse_rewards") if arrays.sparse_rewards.size else per_row
            grown = {name: _extend(getattr(arrays, name), rows) for name in names}
        if self._observations_used > len(arrays.observations):
            grown["observations"] = _extend(arrays.observations, self._observations_used * 5 // 4)
        self._arrays = arrays._replace(**grown)


def _extend(array: Array, length: int) -> Array:
    return jnp.pad(array, ((0, length - len(array)), *((0, 0),) * (array.ndim - 1)))


def _scatter(array: Array, rows: np.ndarray, parts: list[np.ndarray]) -> Array:
    """Writes in blocks of one size, so that nothing is compiled twice; the last is padded with rows out of range."""
    values = np.concatenate(parts)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        block_rows = np.full(BLOCK, len(array), np.int32)
        block_values = np.zeros((BLOCK, *array.shape[1:]), array.dtype)
        block_rows[: len(rows[part])] = rows[part]
        block_values[: len(rows[part])] = values[part]
        array = _set_rows(array, block_rows, block_values)
    return array


@functools.partial(jax.jit, donate_argnums=0)
def _set_rows(array: Array, rows: Int32[Array, " block"], values: Array) -> Array:
    return array.at[rows].set(values, mode="drop")
