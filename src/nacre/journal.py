"""The replay journal: what each iteration collected, one file per iteration, never rewritten.

`replay/segment_000012.npz` holds the visits of iteration 12. Replaying the segments in order rebuilds the replay, so a
checkpoint costs what is new and not what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nacre.errors import NacreError
from nacre.files import leftovers, read_npz, remove, write_npz
from nacre.types import Episode, Visit

FORMAT = 1


def append_segment(folder: Path, iteration: int, visits: Sequence[Visit]) -> Path:
    """Writes the visits of an iteration, atomically. A segment of that iteration that is already there is replaced.

    Args:
        folder: the run's `replay` folder, which is there as long as the run is.
        iteration: counted from 0.
        visits: in the order in which the replay received them.

    Raises:
        NacreError: the disk is full, read-only or the like.
        ValueError: only some of the episodes have sparse rewards.
    """
    episodes = [episode for visit in visits for episode in visit.episodes]
    sparse = [episode.sparse_rewards for episode in episodes if episode.sparse_rewards is not None]
    if sparse and len(sparse) != len(episodes):
        raise ValueError("either all episodes of an iteration have sparse rewards or none has")
    path = _segment(folder, iteration)
    arrays = {
        "nacre_journal": np.array([FORMAT, iteration]),
        "visit_tasks": np.array([visit.task for visit in visits], np.int64),
        "visit_episodes": np.array([len(visit.episodes) for visit in visits], np.int64),
        "visit_context_episodes": np.array([visit.context_episodes for visit in visits], np.int64),
        "episode_tasks": np.array([episode.task for episode in episodes], np.int64),
        "episode_lengths": np.array([len(episode) for episode in episodes], np.int64),
        "episode_terminated": np.array([episode.terminated for episode in episodes], bool),
        "observations": _concatenate([episode.observations for episode in episodes], (0, 0)),
        "actions": _concatenate([episode.actions for episode in episodes], (0, 0)),
        "rewards": _concatenate([episode.rewards for episode in episodes], (0,)),
    }
    if sparse:
        arrays["sparse_rewards"] = _concatenate(sparse, (0,))
    # Floating-point numbers hardly shrink; pictures do, tenfold and more.
    write_npz(path, arrays, compress=arrays["observations"].dtype == np.uint8)
    return path


def read_segments(folder: Path, count: int) -> Iterator[tuple[Visit, ...]]:
    """The visits of iterations 0 to `count - 1`, one tuple per iteration, exactly as they were appended.

    Raises:
        NacreError: a segment is missing or damaged; the message names it.
    """
    for iteration in range(count):
        yield _read_segment(_segment(folder, iteration), iteration)


def drop_segments_from(folder: Path, iteration: int) -> None:
    """Removes the segments of `iteration` and later, and temporary files of a killed writer.

    Raises:
        NacreError: they cannot be removed.
    """
    numbered = [(path, re.fullmatch(r"segment_(\d{6,})", path.stem)) for path in folder.glob("*.npz")]
    dropped = [path for path, match in numbered if match and int(match[1]) >= iteration]
    remove([*sorted(dropped, reverse=True), *leftovers(folder)])


def _segment(folder: Path, iteration: int) -> Path:
    return folder / f"segment_{iteration:06d}.npz"


def _concatenate(arrays: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(empty, np.float32)


def _read_segment(path: Path, iteration: int) -> tuple[Visit, ...]:
    arrays = read_npz(path)
    if "nacre_journal" not in arrays:
        raise NacreError(f"{path} is not a segment of a replay journal of nacre")
    version, written = arrays["nacre_journal"].tolist()
    if version != FORMAT:
        raise NacreError(f"{path} is a segment of format {version}; this version of nacre reads format {FORMAT}")
    if written != iteration:
        raise NacreError(f"{path} holds iteration {written}, not {iteration}")
    try:
        return _visits(arrays)
    except KeyError as error:
        raise NacreError(f"{path} is damaged: it has no {error.args[0]}") from None


def _visits(arrays: dict[str, np.ndarray]) -> tuple[Visit, ...]:
    lengths = arrays["episode_lengths"]
    ends = np.cumsum(lengths)[:-1]
    # An episode has one observation more than it has actions.
    observations = np.split(arrays["observations"], np.cumsum(lengths + 1)[:-1])
    actions = np.split(arrays["actions"], ends)
    rewards = np.split(arrays["rewards"], ends)
    sparse_rewards = np.split(arrays["sparse_rewards"], ends) if "sparse_rewards" in arrays else None
    episodes = [
        Episode(
            task=task,
            observations=observations[index],
            actions=actions[index],
            rewards=rewards[index],
            sparse_rewards=None if sparse_rewards is None else sparse_rewards[index],
            terminated=terminated,
        )
        for index, (task, terminated) in enumerate(
            zip(arrays["episode_tasks"].tolist(), arrays["episode_terminated"].tolist(), strict=True)
        )
    ]
    visits, start = [], 0
    for task, count, context_episodes in zip(
        arrays["visit_tasks"].tolist(),
        arrays["visit_episodes"].tolist(),
        arrays["visit_context_episodes"].tolist(),
        strict=True,
    ):
        visits.append(Visit(task, tuple(episodes[start : start + count]), context_episodes))
        start += count
    return tuple(visits)
