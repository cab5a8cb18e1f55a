"""What MELD remembers: whole trials, and what was rewarded in each frame (spec meld 2.5, 2.7).

A replay (:mod:`nacre.replay`) holds every picture once. Rewards stand beside the frames in a table of their own: those
of the task that was played, or of every train task if trials are relabelled. To relabel a trial is then to read another
column. Episodes of an earlier run are in the same replay, as data of tasks K + k beside the train tasks k < K.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int32

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.losses import Frames, PolicyBatch
from nacre.errors import NacreError, shown
from nacre.evaluation import result_of
from nacre.experiments import family_of
from nacre.interfaces import Learner
from nacre.journal import Owner, find_segments, read_segments
from nacre.replay import Replay, ReplayBuffer, extend_rows, most_visits, write_rows
from nacre.run_folder import REPLAY, read_run, read_stamp
from nacre.tasks.family import TaskFamily
from nacre.tasks.hindsight import rewards_in, terminated_in, with_outcomes
from nacre.tasks.quantities import targets_of
from nacre.types import Episode, Key, Metrics, Visit

_PLAIN = (bool, int, float, str, tuple, list, np.ndarray, np.generic, type(None))
STREAMS = 2
"""Of rewards: dense and sparse."""


class TrialArrays(NamedTuple):
    """The arrays on the device."""

    replay: Replay
    rewards: Float32[Array, "frames columns 2"]
    """Dense and sparse reward with which one arrived in a frame: one column, or one for each train task. 0 after a
    reset."""
    ends: Bool[Array, "frames columns"]
    """Whether the task ended there."""


class TrialMemory:
    """Fills a replay and the table of rewards beside it."""

    def __init__(
        self,
        replay: ReplayBuffer,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        *,
        every: bool,
        trial: int,
        latest: int,
    ):
        """
        Args:
            replay: an empty one.
            family: of the tasks.
            tasks: the train tasks.
            every: whether each frame has the rewards and ends of all of them.
            trial: episodes that a visit has to have, or it is left out: 1 if they are put together anew.
            latest: of so many episodes it is known what they came to.
        """
        self._replay, self._family, self._tasks, self._every = replay, family, tasks, every
        self._trial, self._frames = trial, 0
        self._with_trials: set[int] = set()
        self._has_scores = not np.isnan(targets_of(family, tasks)).any()
        self._latest: deque[tuple[float, float, float]] = deque(maxlen=latest)
        columns, room = len(tasks) if every else 1, len(replay.arrays.observations)
        self._rewards, self._ends = jnp.zeros((room, columns, STREAMS)), jnp.zeros((room, columns), bool)

    @property
    def arrays(self) -> TrialArrays:
        return TrialArrays(self._replay.arrays, self._rewards, self._ends)

    def add(self, visits: Iterable[Visit]) -> None:
        """Takes visits; those that were relabelled are of an earlier run.

        What is left of a trial of which `nacre repair` dropped an episode is not taken: what follows would be read as
        the rest of it.
        """
        visits = [visit for visit in visits if visit.relabelled or len(visit.episodes) % self._trial == 0]
        if not visits:
            return
        places = [replace(visit, task=visit.task + len(self._tasks) * visit.relabelled) for visit in visits]
        self._replay.add(places)
        for visit in visits:
            if not visit.relabelled:
                self._with_trials.add(visit.task)
                result = result_of(visit.episodes, False, self._family, self._tasks[visit.task])
                scores = result.scores or [math.nan] * len(result.returns)
                self._latest.extend(zip(result.returns, result.lengths, scores, strict=True))
        episodes = [(visit.task, episode) for visit in visits for episode in visit.episodes]
        rewards = np.concatenate([self._rewards_of(task, episode) for task, episode in episodes])
        ends = np.concatenate([self._ends_of(task, episode) for task, episode in episodes])
        room = len(self._replay.arrays.observations)
        if room > len(self._rewards):
            self._rewards, self._ends = extend_rows(self._rewards, room), extend_rows(self._ends, room)
        rows = self._frames + np.arange(len(rewards))
        self._rewards, self._ends = write_rows(self._rewards, rows, rewards), write_rows(self._ends, rows, ends)
        self._frames += len(rewards)

    def check(self) -> None:
        """Raises NacreError if a train task has no whole trial, although trials were played: `nacre repair` dropped an
        episode of each."""
        missing = [task for task in range(len(self._tasks)) if task not in self._with_trials]
        if self._with_trials and missing:
            raise NacreError(
                f"train task {missing[0]} has no whole trial left: nacre repair dropped an episode of each, as they "
                "held numbers that nothing can be learned from; train anew"
            )

    def latest_results(self) -> Metrics:
        """Means over the latest episodes that were played in train tasks: return, length, and score if tasks have
        targets; NaN where one is not known."""
        returns, lengths, scores = zip(*self._latest, strict=True) if self._latest else [(math.nan,)] * 3
        found = {"Return": returns, "Length": lengths} | ({"Score": scores} if self._has_scores else {})
        return {f"Average{name}_collected": float(np.mean(values)) for name, values in found.items()}

    def _rewards_of(self, task: int, episode: Episode) -> Float32[np.ndarray, "frames columns 2"]:
        sparse = episode.rewards if episode.sparse_rewards is None else episode.sparse_rewards
        own = np.stack([episode.rewards, sparse], axis=-1)
        table = np.zeros((len(episode) + 1, self._rewards.shape[1], STREAMS), np.float32)
        if not self._every:
            table[1:, 0] = own
            return table
        dense = rewards_in(self._family, episode, self._tasks)
        has_sparse = self._family.has_sparse_reward
        table[1:, :, 0] = dense.T
        table[1:, :, 1] = rewards_in(self._family, episode, self._tasks, sparse=True).T if has_sparse else dense.T
        table[1:, task] = own
        return table

    def _ends_of(self, task: int, episode: Episode) -> Bool[np.ndarray, "frames columns"]:
        table = np.zeros((len(episode) + 1, self._ends.shape[1]), bool)
        if self._every:
            table[1:] = terminated_in(self._family, episode, self._tasks).T
        own = task if self._every else 0
        table[:, own] = False
        table[-1, own] = episode.terminated
        return table


def draw_trials(arrays: TrialArrays, config: MeldConfig, n: int, key: Key) -> Frames:
    """Trials of `n` train tasks, all drawn with replacement."""
    task_key, choice_key = jax.random.split(key)
    tasks = len(arrays.replay.counts) // (1 if config.offline_run is None else 2)
    chosen = jax.random.randint(task_key, (n,), 0, tasks)
    sources, episodes = _choose_episodes(arrays.replay, config, tasks, chosen, choice_key)
    columns = chosen if config.relabelled_share else jnp.zeros_like(chosen)
    return read_trials(arrays, config, sources, episodes, columns)


def draw_transitions(arrays: TrialArrays, config: MeldConfig, key: Key) -> PolicyBatch:
    """Trials, and transitions of theirs, uniformly and with replacement."""
    trial_key, pick_key = jax.random.split(key)
    frames = draw_trials(arrays, config, config.policy_trials, trial_key)
    return PolicyBatch(frames, pick_transitions(frames.acts, config, pick_key))


def pick_transitions(acts: Bool[Array, "n T"], config: MeldConfig, key: Key) -> Int32[Array, " rows"]:
    """Frames in which one acted, uniformly and with replacement."""
    through = jnp.cumsum(acts.reshape(-1).astype(jnp.int32))
    drawn = jax.random.randint(key, (config.policy_batch_size,), 0, through[-1])
    return jnp.searchsorted(through, drawn, side="right").astype(jnp.int32)


def read_trials(
    arrays: TrialArrays,
    config: MeldConfig,
    sources: Int32[Array, "n E"],
    episodes: Int32[Array, "n E"],
    columns: Int32[Array, " n"],
) -> Frames:
    """Trials of those episodes, each up to where its task ends it.

    Args:
        arrays: those of the memory.
        config: says how many episodes a trial has, and how long they are.
        sources: the tasks in the replay that the episodes are of.
        episodes: their numbers among those of their task.
        columns: of the table of rewards.
    """
    replay, horizon = arrays.replay, config.episode_steps
    n = len(columns)
    tasks, numbers = sources.reshape(-1), episodes.reshape(-1)
    starts, count = replay.episode_starts[tasks], replay.counts[tasks]
    first = jnp.take_along_axis(starts, numbers[:, None], axis=1)[:, 0]
    following = jnp.take_along_axis(starts, jnp.minimum(numbers + 1, starts.shape[1] - 1)[:, None], axis=1)[:, 0]
    last_of_all = numbers + 1 >= _episode_counts(replay)[tasks]
    length = (jnp.where(last_of_all, count, following) - first)[:, None]

    place, column = jnp.arange(horizon + 1)[None], jnp.repeat(columns, config.episodes)[:, None]
    frames = replay.frame_of(tasks, first[:, None]) + jnp.minimum(place, length)
    ended = arrays.ends[frames, column]
    length = jnp.minimum(length, jnp.where(ended.any(axis=1), ended.argmax(axis=1), horizon)[:, None])
    steps = replay.read(tasks, first[:, None] + jnp.minimum(place[:, 1:], length) - 1)  # those that lead to each frame
    resets = jnp.zeros((len(tasks), 1, steps.action.shape[-1]))
    rewards = arrays.rewards[frames, column]

    def of_trials(leaf: Array) -> Array:
        return leaf.reshape(n, config.frames, *leaf.shape[2:])

    return Frames(
        pictures=of_trials(replay.observations[frames]),
        actions=of_trials(jnp.concatenate([resets, steps.action], axis=1)),
        rewards=of_trials(rewards[..., 0]),
        sparse_rewards=of_trials(rewards[..., 1]),
        terminated=of_trials(ended & (place == length)),
        mask=of_trials(place <= length),
        acts=of_trials(place < length),
    )


def _choose_episodes(
    replay: Replay, config: MeldConfig, tasks: int, chosen: Int32[Array, " n"], key: Key
) -> tuple[Int32[Array, "n E"], Int32[Array, "n E"]]:
    """The tasks in the replay, and the numbers of their episodes, for trials of the `chosen` tasks.

    What is consecutive is chosen for a whole trial. Episodes of an earlier run followed other trials, so that any of
    them are put together.
    """
    shape = (len(chosen), config.episodes)
    number_key, trial_key, other_key, relabel_key, offline_key = jax.random.split(key, 5)
    consecutive = config.trials == "consecutive"

    def flags(key: Key, share: float) -> Bool[Array, "n E"]:
        drawn = jax.random.uniform(key, (shape[0], 1 if consecutive else shape[1])) < share
        return jnp.broadcast_to(drawn, shape)

    sources = jnp.broadcast_to(chosen[:, None], shape)
    if config.relabelled_share:
        others = jax.random.randint(other_key, (shape[0], 1 if consecutive else shape[1]), 0, tasks)
        sources = jnp.where(flags(relabel_key, config.relabelled_share), jnp.broadcast_to(others, shape), sources)
    counts, offline = _episode_counts(replay), jnp.zeros(shape, bool)
    if config.offline_run is not None:
        offline = flags(offline_key, config.offline_share) & (counts[sources + tasks] > 0)
        sources = jnp.where(offline, sources + tasks, sources)
    any_episode = jax.random.randint(number_key, shape, 0, counts[sources])
    if not consecutive:
        return sources, any_episode
    trial = jax.random.randint(trial_key, (shape[0], 1), 0, counts[sources[:, :1]] // config.episodes)
    in_order = trial * config.episodes + jnp.arange(config.episodes)[None]
    return sources, jnp.where(offline, any_episode, in_order)


def _episode_counts(replay: Replay) -> Int32[Array, " tasks"]:
    """Episodes of each task."""
    return (replay.episode_starts < replay.counts[:, None]).sum(axis=1, dtype=jnp.int32)


class EarlierRun(NamedTuple):
    """A run whose episodes are taken over."""

    folder: Path
    owner: Owner
    episodes: int
    """At most so many are taken of each task."""


def find_earlier_run(config: MeldConfig, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> EarlierRun:
    """The run that `offline_run` names. What it has collected is not read yet.

    Raises:
        NacreError: it is no run, it sees other pictures or acts otherwise, its task family is another one or has
            another option than the horizon, its tasks change, its train tasks are other ones, or its episodes are
            shorter.
    """
    assert config.offline_run is not None
    folder, sizes = Path(config.offline_run), family.sizes
    experiment, split = read_run(folder)
    earlier = family_of(experiment)
    found = earlier.sizes
    for what, theirs, ours in (
        ("observations", found.observation, sizes.observation),
        ("actions", found.action, sizes.action),
    ):
        if theirs != ours:
            raise NacreError(f"algorithm.offline_run is {str(folder)!r}, whose {what} are {theirs}; allowed: {ours}")
    if earlier.shift is not None:
        raise NacreError(
            f"algorithm.offline_run is {str(folder)!r}, a run with the shift '{earlier.shift}'; allowed: one whose "
            "tasks do not change"
        )
    for name, theirs, ours in differences(earlier, family):
        raise NacreError(
            f"algorithm.offline_run is {str(folder)!r}, whose task family has {name} {shown(theirs)}; allowed: "
            f"{shown(ours)}, as here, or what it played would not be what is played here"
        )
    if not np.array_equal(split.train, tasks):
        raise NacreError(
            f"algorithm.offline_run is {str(folder)!r}, a run on other train tasks; allowed: a run on those of this "
            "one, in the same order (the same numbers of tasks, task_list and, unless that is 'published', seed)"
        )
    if found.horizon < sizes.horizon:
        raise NacreError(
            f"algorithm.offline_run is {str(folder)!r}, whose episodes have {found.horizon} steps; allowed: at least "
            f"{sizes.horizon}, to which they are cut"
        )
    stamp = read_stamp(folder, experiment, split)
    return EarlierRun(folder, Owner(found, len(tasks), earlier.has_sparse_reward, stamp), config.offline_episodes)


def differences(one: TaskFamily, other: TaskFamily) -> Iterator[tuple[str, Any, Any]]:
    """What two task families have otherwise: name and both values of each member that is a plain value or an array.

    Horizons may differ, and how tasks change.
    """
    if one.name != other.name:
        yield "name", one.name, other.name
        return
    members = sorted({*vars(one), *vars(other)} - {"name", "horizon", "shift"})
    for member in members:
        theirs, ours = getattr(one, member, None), getattr(other, member, None)
        if isinstance(theirs, TaskFamily) and isinstance(ours, TaskFamily):  # the family that is seen
            yield from differences(theirs, ours)
        elif isinstance(theirs, _PLAIN) and isinstance(ours, _PLAIN) and not np.array_equal(theirs, ours):  # pyright: ignore[reportArgumentType]
            yield member.lstrip("_"), theirs, ours


def visits_of(earlier: EarlierRun, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> list[Visit]:
    """The latest episodes of each train task of an earlier run, with rewards as `family` gives them, cut to its
    horizon.

    Raises:
        NacreError: a part of its replay is missing or damaged, or does not say what rewards are computed from.
    """
    segments = len(find_segments(earlier.folder / REPLAY))
    by_task: list[list[Episode]] = [[] for _ in tasks]
    for visits in read_segments(earlier.folder / REPLAY, segments, earlier.owner):
        for visit in visits:
            if visit.relabelled:
                continue
            kept = [_anew(earlier, family, episode, tasks[visit.task]) for episode in visit.episodes]
            by_task[visit.task] = (by_task[visit.task] + kept)[-earlier.episodes :]
    return [Visit(task, (episode,), relabelled=True) for task, episodes in enumerate(by_task) for episode in episodes]


def _anew(
    earlier: EarlierRun, family: TaskFamily, episode: Episode, task: Float64[np.ndarray, " parameters"]
) -> Episode:
    """An episode, cut to the horizon, with the rewards that the family gives."""
    if episode.reward_states is None:
        raise NacreError(
            f"the replay of {earlier.folder} does not say what rewards are computed from; allowed: a run of this "
            "algorithm"
        )
    length = min(len(episode), family.horizon)
    cut = Episode(  # of copies, or a few episodes would keep all that was read
        observations=episode.observations[: length + 1].copy(),
        actions=episode.actions[:length].copy(),
        rewards=episode.rewards[:length],
        sparse_rewards=None,
        terminated=episode.terminated and length == len(episode),
        reward_states=episode.reward_states[: length + 1].copy(),
    )
    dense = rewards_in(family, cut, task[None])[0].astype(np.float32)
    return with_outcomes(family, replace(cut, rewards=dense), task)


def empty_memory(
    learner: Learner, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int
) -> TrialMemory:
    """A memory with room for what so many iterations collect, and for the episodes of an earlier run."""
    config: MeldConfig = learner.config
    trial, visits = config.episodes * config.episode_steps, iterations * config.rounds
    transitions = config.environment_steps(len(tasks), iterations)
    fullest = config.initial_trials * trial + most_visits(visits, len(tasks)) * trial
    rows = len(tasks)
    if config.offline_run is not None:
        taken = config.offline_episodes * config.episode_steps
        transitions, fullest, rows = transitions + len(tasks) * taken, max(fullest, taken), 2 * rows
    replay = ReplayBuffer(
        rows,
        learner.sizes,
        has_sparse_reward=family.has_sparse_reward,
        transitions=transitions,
        fullest_task=fullest,
    )
    return TrialMemory(
        replay,
        family,
        tasks,
        every=bool(config.relabelled_share),
        trial=config.episodes if config.trials == "consecutive" else 1,
        latest=len(tasks) * config.episodes,
    )
