"""Replay: every transition of every task, once, on the device, and the draws from it.

Transitions of a task are numbered by *rank*, in the order in which they were collected, so that those of an episode and
those of a trial have consecutive ranks. A page table maps ranks to *rows*, as virtual memory does: a page of `PAGE`
rows belongs to one task, so tasks grow independently. Windows, stacks, episodes and trials are all one gather: ranks
with offsets, cut off at the first rank of the episode or of the trial.

A row holds an action, a reward and the *frame* of the observation. Observations lie in frames: an episode of L
transitions has L + 1 of them, one after another, so that the next observation is in the frame after that. Pictures are
stored once too, as uint8, and drawn in stacks.

The context data of a task is a contiguous range of ranks: those of the latest visit's first episodes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Shaped, UInt8

from nacre.tasks.family import Sizes
from nacre.types import Episode, Key, Stretch, Transition, Visit

PAGE = 256
BLOCK_ROWS, BLOCK_BYTES = 4096, 4 * 2**20
"""Rows are written in blocks of one size, of at most so many rows and bytes."""
Buffer = TypeVar("Buffer", bound="ReplayBuffer")
NO_EPISODE = np.iinfo(np.int32).max


class Replay(NamedTuple):
    """The arrays on the device.

    `sparse_rewards` has no rows in families without a sparse reward. A task without data has nothing to draw: the
    rewards of such draws are NaN, so that no loss hides the mistake.

    Draws take a number of `frames`. With more than one an observation is a stack: the last `frames` pictures of its
    episode, oldest first, side by side in the last axis: (height, width, 3 frames). The first picture of an episode
    also stands for those before it.
    """

    observations: Float32[Array, "frames observation"] | UInt8[Array, "frames height width 3"]
    actions: Float32[Array, "rows action"]
    rewards: Float32[Array, " rows"]
    sparse_rewards: Float32[Array, " sparse_rows"]
    terminated: Bool[Array, " rows"]
    episode: Int32[Array, " frames"]
    """The number of the episode, over all tasks."""
    first_rank: Int32[Array, " all_episodes"]
    """The rank of the first transition of each episode."""
    trial_first_rank: Int32[Array, " all_episodes"]
    """The rank of the first transition of the trial that each episode is of."""
    frame: Int32[Array, " rows"]
    """The frame of each transition, by page and rank."""
    pages: Int32[Array, "tasks pages"]
    counts: Int32[Array, " tasks"]
    context_start: Int32[Array, " tasks"]
    context_count: Int32[Array, " tasks"]
    episode_starts: Int32[Array, "tasks episodes"]
    """First ranks of the episodes of each task in ascending order, and then NO_EPISODE."""

    def draw(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Transition:
        """`size` transitions of each task, uniformly and with replacement; leading axes (n, size)."""
        return self._read(tasks, self.draw_ranks(tasks, size, key), self.counts[tasks], frames)

    def draw_context(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Transition:
        """`size` transitions of each task's context data, uniformly and with replacement."""
        return self._read(tasks, self.draw_context_ranks(tasks, size, key), self.context_count[tasks], frames)

    def draw_ranks(self, tasks: Int32[Array, " n"], size: int, key: Key) -> Int32[Array, "n size"]:
        """The ranks of `size` transitions of each task, uniformly and with replacement."""
        return self._draw_ranks(jnp.zeros_like(tasks), self.counts[tasks], size, key)

    def draw_context_ranks(self, tasks: Int32[Array, " n"], size: int, key: Key) -> Int32[Array, "n size"]:
        """The ranks of `size` transitions of each task's context data, uniformly and with replacement."""
        return self._draw_ranks(self.context_start[tasks], self.context_count[tasks], size, key)

    def draw_episodes(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Stretch:
        """An episode of each task, uniformly, and those that followed it, as many as fit into `size` as a whole.

        `size` has to be at least the length of the longest episode.
        """
        return self._draw_episodes(tasks, jnp.zeros_like(tasks), self.counts[tasks], size, key, frames)

    def draw_context_episodes(self, tasks: Int32[Array, " n"], size: int, key: Key, frames: int = 1) -> Stretch:
        """The same from each task's context data."""
        return self._draw_episodes(tasks, self.context_start[tasks], self.context_count[tasks], size, key, frames)

    def read(self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n *size"], frames: int = 1) -> Transition:
        """The transitions of those ranks; leading axes (n, *size)."""
        return self._read(tasks, ranks, self.counts[tasks], frames)

    def frame_of(self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n *size"]) -> Int32[Array, "n *size"]:
        """The frames of the transitions of those ranks."""
        return self.frame[self._rows(tasks, ranks)]

    def by_age(self) -> ByAge:
        """The transitions of all tasks in the order in which they were collected."""
        capacity, ends = len(self.rewards), jnp.cumsum(self.counts)
        numbers = jnp.arange(capacity)
        tasks = jnp.minimum(jnp.searchsorted(ends, numbers, side="right"), len(ends) - 1).astype(jnp.int32)
        ranks = numbers - (ends - self.counts)[tasks]
        frames = jnp.where(numbers < ends[-1], self.frame_of(tasks, ranks), NO_EPISODE)
        order = jnp.argsort(frames)
        return ByAge(tasks[order], ranks[order], ends[-1])

    def windows(
        self,
        tasks: Int32[Array, " n"],
        ranks: Int32[Array, "n size"],
        length: int,
        within: Literal["episode", "trial"],
        frames: int = 1,
    ) -> Stretch:
        """The `length` transitions before each of those ranks, oldest first; leading axes (n, size, length).

        The mask is False where there are fewer in the same episode, or in the same trial.
        """
        episode = self.episode[self.frame_of(tasks, ranks)]
        first = (self.first_rank if within == "episode" else self.trial_first_rank)[episode][..., None]
        wanted = ranks[..., None] + jnp.arange(-length, 0)[None, None]
        count = self.counts[tasks]
        return self._stretch(tasks, jnp.maximum(wanted, first), wanted >= first, count, frames)

    def trials(self, tasks: Int32[Array, " n"], ranks: Int32[Array, " n"], size: int, frames: int = 1) -> Stretch:
        """The first `size` transitions of the trials that those ranks are of; leading axes (n, size).

        The mask is False where the trial is over.
        """
        first = self.trial_first_rank[self.episode[self.frame_of(tasks, ranks)]][:, None]
        wanted = first + jnp.arange(size)[None]
        within = jnp.minimum(wanted, self.counts[tasks][:, None] - 1)
        same = self.trial_first_rank[self.episode[self.frame_of(tasks, within)]] == first
        ranks = jnp.where(same, within, first)
        return self._stretch(tasks, ranks, same & (wanted == within), self.counts[tasks], frames)

    def _read(
        self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n *size"], count: Int32[Array, " n"], frames: int
    ) -> Transition:
        """The same of a draw from `count` transitions of each task."""
        row = self._rows(tasks, ranks)
        has_data = count.reshape(-1, *(1,) * (ranks.ndim - 1)) > 0
        rewards = jnp.where(has_data, self.rewards[row], jnp.nan)
        sparse_rewards = rewards
        if self.sparse_rewards.size:
            sparse_rewards = jnp.where(has_data, self.sparse_rewards[row], jnp.nan)
        observation, next_observation = self._observations(self.frame[row], ranks, frames)
        return Transition(
            observation=observation,
            action=self.actions[row],
            reward=rewards,
            sparse_reward=sparse_rewards,
            next_observation=next_observation,
            terminated=self.terminated[row],
        )

    def _draw_ranks(
        self, start: Int32[Array, " n"], count: Int32[Array, " n"], size: int, key: Key
    ) -> Int32[Array, "n size"]:
        return start[:, None] + jax.random.randint(key, (len(start), size), 0, count[:, None])

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
        return self._stretch(tasks, begin[:, None] + steps % length, steps < length, count, frames)

    def _stretch(
        self,
        tasks: Int32[Array, " n"],
        ranks: Int32[Array, "n *size"],
        mask: Bool[Array, "n *size"],
        count: Int32[Array, " n"],
        frames: int,
    ) -> Stretch:
        begins = self.first_rank[self.episode[self.frame_of(tasks, ranks)]] == ranks
        return Stretch(self._read(tasks, ranks, count, frames), begins, mask)

    def _rows(self, tasks: Int32[Array, " n"], ranks: Int32[Array, "n *size"]) -> Int32[Array, "n *size"]:
        tasks = tasks.reshape(-1, *(1,) * (ranks.ndim - 1))
        return self.pages[tasks, ranks // PAGE] * PAGE + ranks % PAGE

    def _observations(
        self, frame: Int32[Array, "n *size"], ranks: Int32[Array, "n *size"], frames: int
    ) -> tuple[Shaped[Array, "n *size_and_observation"], Shaped[Array, "n *size_and_observation"]]:
        """The observations in those frames, and those that follow them."""
        if frames == 1:
            return self.observations[frame], self.observations[frame + 1]
        first = frame - (ranks - self.first_rank[self.episode[frame]])
        offsets = jnp.arange(1 - frames, 2).reshape(*(1,) * frame.ndim, -1)
        pictures = self.observations[jnp.maximum(frame[..., None] + offsets, first[..., None])]
        pictures = jnp.moveaxis(pictures, frame.ndim, -2)  # (n, *size, height, width, frames + 1, 3)
        shape = (*pictures.shape[:-2], -1)
        return pictures[..., :-1, :].reshape(shape), pictures[..., 1:, :].reshape(shape)


class ByAge(NamedTuple):
    """The transitions of all tasks, oldest first."""

    tasks: Int32[Array, " capacity"]
    ranks: Int32[Array, " capacity"]
    """In their tasks. Beyond `count` neither means anything."""
    count: Int32[Array, ""]


class ReplayBuffer:
    """Fills a :class:`Replay`, and keeps the book of its pages on the host.

    Room is made at once for the numbers that are expected; if more comes, the arrays grow by a quarter, at the cost of
    a copy and a new compilation of what reads them.
    """

    def __init__(self, tasks: int, sizes: Sizes, *, has_sparse_reward: bool, transitions: int, fullest_task: int):
        """
        Args:
            tasks: how many there are.
            sizes: of the family.
            has_sparse_reward: whether episodes have sparse rewards.
            transitions: expected over all tasks.
            fullest_task: expected in the task that is visited most.
        """
        episodes = -(-transitions // sizes.horizon)
        frames, rows = transitions + episodes, (-(-transitions // PAGE) + tasks) * PAGE
        self._counts = np.zeros(tasks, np.int32)
        self._context_start = np.zeros(tasks, np.int32)
        self._context_count = np.zeros(tasks, np.int32)
        self._episode_counts = np.zeros(tasks, np.int32)
        self._most_episodes, self._most_pages = -(-fullest_task // sizes.horizon), -(-fullest_task // PAGE)
        self._pages_used = self._frames_used = self._episodes_used = 0
        vectors = isinstance(sizes.observation, int)
        self._arrays = Replay(
            observations=jnp.zeros((frames, *sizes.observation_shape), jnp.float32 if vectors else jnp.uint8),
            actions=jnp.zeros((rows, sizes.action)),
            rewards=jnp.zeros(rows),
            sparse_rewards=jnp.zeros(rows if has_sparse_reward else 0),
            terminated=jnp.zeros(rows, bool),
            episode=jnp.zeros(frames, jnp.int32),
            first_rank=jnp.zeros(episodes, jnp.int32),
            trial_first_rank=jnp.zeros(episodes, jnp.int32),
            frame=jnp.zeros(rows, jnp.int32),
            pages=jnp.zeros((tasks, self._most_pages), jnp.int32),
            counts=jnp.zeros(tasks, jnp.int32),
            context_start=jnp.zeros(tasks, jnp.int32),
            context_count=jnp.zeros(tasks, jnp.int32),
            episode_starts=jnp.full((tasks, self._most_episodes), NO_EPISODE, jnp.int32),
        )

    # The tables of the book are made when something is written, so that the sizes alone can be asked for.

    @functools.cached_property
    def _episode_starts(self) -> np.ndarray:
        return np.full((len(self._counts), self._most_episodes), NO_EPISODE, np.int32)

    @functools.cached_property
    def _page_table(self) -> np.ndarray:
        return np.zeros((len(self._counts), self._most_pages), np.int32)

    @classmethod
    def for_visits(
        cls: type[Buffer],
        tasks: int,
        sizes: Sizes,
        *,
        has_sparse_reward: bool,
        initial_steps: int,
        visits: int,
        visit_steps: Sequence[int],
        fullest: int | None = None,
    ) -> Buffer:
        """With room for what is collected as long as episodes end at the horizon.

        Args:
            tasks, sizes, has_sparse_reward: as above.
            initial_steps: at first, in every task.
            visits: of tasks that are drawn with replacement.
            visit_steps: of the parts of a visit, each of which ends with a whole episode.
            fullest: visits of one task, at most. None: as many as there nearly always are if all are equally likely.
        """

        def whole_episodes(steps: int) -> int:
            return -(-steps // sizes.horizon) * sizes.horizon

        initial, visit = whole_episodes(initial_steps), sum(map(whole_episodes, visit_steps))
        fullest = most_visits(visits, tasks) if fullest is None else fullest
        return cls(
            tasks,
            sizes,
            has_sparse_reward=has_sparse_reward,
            transitions=tasks * initial + visits * visit,
            fullest_task=initial + fullest * visit,
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
        episodes: list[Episode] = []
        first_ranks: list[int] = []
        trial_first_ranks: list[int] = []
        rows: list[np.ndarray] = []
        for visit in visits:
            trial_start = int(self._counts[visit.task])
            if visit.context_episodes:
                self._context_start[visit.task] = trial_start
                self._context_count[visit.task] = sum(map(len, visit.episodes[: visit.context_episodes]))
            for episode in visit.episodes:
                episodes.append(episode)
                first_ranks.append(int(self._counts[visit.task]))
                trial_first_ranks.append(trial_start)
                self._note_start(visit.task)
                rows.append(self._allocate(visit.task, len(episode)))
        if episodes:
            self._write(episodes, np.array(first_ranks, np.int32), np.array(trial_first_ranks, np.int32), rows)
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
        count = int(self._counts[task])
        ranks = count + np.arange(length)
        held, needed = -(-count // PAGE), -(-(count + length) // PAGE)
        columns = self._page_table.shape[1]
        if needed > columns:
            self._page_table = np.pad(self._page_table, ((0, 0), (0, max(needed - columns, columns // 4 + 1))))
        self._page_table[task, held:needed] = np.arange(self._pages_used, self._pages_used + needed - held)
        self._pages_used += needed - held
        self._counts[task] += length
        return self._page_table[task, ranks // PAGE] * PAGE + ranks % PAGE

    def _write(
        self, episodes: list[Episode], first_ranks: np.ndarray, trial_first_ranks: np.ndarray, rows: list[np.ndarray]
    ) -> None:
        lengths = np.array([len(episode) for episode in episodes])
        starts = self._frames_used + np.cumsum(lengths + 1) - lengths - 1
        frames = np.arange(self._frames_used, self._frames_used + lengths.sum() + len(episodes))
        numbers = np.arange(self._episodes_used, self._episodes_used + len(episodes))
        self._frames_used += len(frames)
        self._episodes_used += len(episodes)
        self._grow()
        terminated = np.zeros(lengths.sum(), bool)
        terminated[np.cumsum(lengths) - 1] = [episode.terminated for episode in episodes]
        places = np.concatenate(rows)
        written = {
            "observations": (frames, [episode.observations for episode in episodes]),
            "actions": (places, [episode.actions for episode in episodes]),
            "rewards": (places, [episode.rewards for episode in episodes]),
            "terminated": (places, [terminated]),
            "episode": (frames, [np.repeat(numbers, lengths + 1)]),
            "first_rank": (numbers, [first_ranks]),
            "trial_first_rank": (numbers, [trial_first_ranks]),
            "frame": (places, [start + np.arange(length) for start, length in zip(starts, lengths, strict=True)]),
        }
        if self._arrays.sparse_rewards.size:
            sparse_rewards = [episode.sparse_rewards for episode in episodes if episode.sparse_rewards is not None]
            written["sparse_rewards"] = (places, sparse_rewards)
        for name, (where, parts) in written.items():
            array = write_rows(getattr(self._arrays, name), where, np.concatenate(parts))
            self._arrays = self._arrays._replace(**{name: array})

    def _grow(self) -> None:
        arrays = self._arrays
        grown = {}
        if self._frames_used > len(arrays.observations):
            length = self._frames_used * 5 // 4
            grown |= {name: extend_rows(getattr(arrays, name), length) for name in ("observations", "episode")}
        if self._episodes_used > len(arrays.first_rank):
            length = self._episodes_used * 5 // 4
            grown |= {name: extend_rows(getattr(arrays, name), length) for name in ("first_rank", "trial_first_rank")}
        if self._pages_used * PAGE > len(arrays.frame):
            names = ["frame", "actions", "rewards", "terminated"]
            names += ["sparse_rewards"] if arrays.sparse_rewards.size else []
            length = self._pages_used * 5 // 4 * PAGE
            grown |= {name: extend_rows(getattr(arrays, name), length) for name in names}
        self._arrays = arrays._replace(**grown)


def most_visits(visits: int, tasks: int) -> int:
    """How many of some visits to tasks that are drawn with replacement one task has at most, nearly always."""
    mean = visits / tasks
    return min(visits, math.ceil(mean + 5 * math.sqrt(mean) + 5))


def extend_rows(array: Array, length: int) -> Array:
    """The array with more rows, of zeros."""
    return jnp.pad(array, ((0, length - len(array)), *((0, 0),) * (array.ndim - 1)))


def write_rows(array: Array, places: np.ndarray, values: np.ndarray) -> Array:
    """The array, which is donated, with other rows in some places.

    They are written in blocks of one size, so that nothing is compiled twice; the last is padded with places out of
    range.
    """
    row_bytes = max(1, int(np.prod(array.shape[1:])) * array.dtype.itemsize)
    block = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
    for start in range(0, len(places), block):
        part = slice(start, start + block)
        block_places = np.full(block, len(array), np.int32)
        block_values = np.zeros((block, *array.shape[1:]), array.dtype)
        block_places[: len(places[part])] = places[part]
        block_values[: len(places[part])] = values[part]
        array = _set_rows(array, block_places, block_values)
    return array


@functools.partial(jax.jit, donate_argnums=0)
def _set_rows(array: Array, places: Int32[Array, " block"], values: Shaped[Array, "block *row"]) -> Array:
    return array.at[places].set(values, mode="drop")
