"""The replay journal: what each iteration collected, one file per iteration.

`replay/segment_000012.npz` holds the visits of iteration 12. Replaying the segments in order rebuilds the replay, so a
checkpoint costs what is new and not what is stored. A segment is written when its iteration ends. If the run stops
within the iteration, it is written then as well, and again with all visits when the iteration ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nacre.errors import NacreError
from nacre.extensions import command
from nacre.files import leftovers, read_npz, remove, write_npz
from nacre.tasks.checks import LARGEST
from nacre.types import Episode, Visit

FORMAT = 2
"""1 had a task for each episode, and neither relabelled visits nor successes; it is read as well."""

OPTIONAL = ("sparse_rewards", "successes", "reward_states", "tasks")
"""Arrays of an episode that may be None: for all episodes of a segment, or for none."""


def append_segment(folder: Path, iteration: int, visits: Sequence[Visit]) -> Path:
    """Writes the visits of an iteration, atomically. A segment of that iteration that is already there is replaced.

    Args:
        folder: the run's `replay` folder, which is there as long as the run is.
        iteration: counted from 0.
        visits: in the order in which the replay received them.

    Raises:
        NacreError: the disk is full, read-only or the like.
        ValueError: only some of the episodes have sparse rewards, or another quantity that families may lack.
    """
    episodes = [episode for visit in visits for episode in visit.episodes]
    path = _segment(folder, iteration)
    arrays = {
        "nacre_journal": np.array([FORMAT, iteration]),
        "visit_tasks": np.array([visit.task for visit in visits], np.int64),
        "visit_episodes": np.array([len(visit.episodes) for visit in visits], np.int64),
        "visit_context_episodes": np.array([visit.context_episodes for visit in visits], np.int64),
        "visit_relabelled": np.array([visit.relabelled for visit in visits], bool),
        "episode_lengths": np.array([len(episode) for episode in episodes], np.int64),
        "episode_terminated": np.array([episode.terminated for episode in episodes], bool),
        "observations": _concatenate([episode.observations for episode in episodes], (0, 0)),
        "actions": _concatenate([episode.actions for episode in episodes], (0, 0)),
        "rewards": _concatenate([episode.rewards for episode in episodes], (0,)),
    }
    for name in OPTIONAL:
        parts = [getattr(episode, name) for episode in episodes]
        given = [part for part in parts if part is not None]
        if given and len(given) != len(parts):
            raise ValueError(f"either all episodes of an iteration have {name} or none has")
        if given:
            arrays[name] = np.concatenate(given)
    # Floating-point numbers hardly shrink; pictures do, tenfold and more.
    write_npz(path, arrays, compress=arrays["observations"].dtype == np.uint8)
    return path


def read_segments(folder: Path, count: int) -> Iterator[tuple[Visit, ...]]:
    """The visits of iterations 0 to `count - 1`, one tuple per iteration, exactly as they were appended.

    Raises:
        NacreError: a segment is missing or damaged, or holds a number that nothing can be learned from; the message
            names it.
    """
    for iteration in range(count):
        visits = read_segment(folder, iteration)
        for fault in find_faults(visits):
            raise NacreError(
                f"{_segment(folder, iteration)} holds {fault}. Drop the episode with: "
                f"{command('repair', folder.parent)}"
            )
        yield visits


def read_segment(folder: Path, iteration: int) -> tuple[Visit, ...]:
    """The visits of an iteration, whatever the numbers in them.

    Raises:
        NacreError: the segment is missing or damaged; the message names it.
    """
    return _read_segment(_segment(folder, iteration), iteration)


def find_segments(folder: Path) -> list[int]:
    """The iterations that have a segment, in order."""
    matches = [re.fullmatch(r"segment_(\d{6,})", path.stem) for path in folder.glob("*.npz")]
    return sorted(int(match[1]) for match in matches if match)


class Fault(NamedTuple):
    """A number in an episode that nothing can be learned from."""

    visit: int
    episode: int
    """Counted in its visit."""
    task: int
    quantity: str
    value: float

    def __str__(self) -> str:
        article = "an" if self.quantity[0] in "ao" else "a"
        problem = "too large to learn from" if math.isfinite(self.value) else "not finite"
        return (
            f"{article} {self.quantity} of {self.value:g}, which is {problem} (train task {self.task}, visit "
            f"{self.visit} of the iteration, episode {self.episode} of the visit)"
        )


def find_faults(visits: Sequence[Visit]) -> Iterator[Fault]:
    """Episodes with a number that is not finite or larger than `LARGEST`, one fault of each.

    The simulator lets none pass. Runs of earlier versions may have some.
    """
    for number, visit in enumerate(visits):
        for index, episode in enumerate(visit.episodes):
            for quantity in ("observations", "actions", "rewards", "sparse_rewards"):
                array = getattr(episode, quantity)
                if array is None or array.size == 0 or (array.max() <= LARGEST and array.min() >= -LARGEST):
                    continue
                value = float(array[~((array <= LARGEST) & (array >= -LARGEST))][0])
                yield Fault(number, index, visit.task, quantity.removesuffix("s").replace("_", " "), value)
                break


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
    if version > FORMAT:
        raise NacreError(f"{path} is a segment of format {version}; this version of nacre reads up to {FORMAT}")
    if written != iteration:
        raise NacreError(f"{path} holds iteration {written}, not {iteration}")
    try:
        return _visits(arrays)
    except KeyError as error:
        raise NacreError(f"{path} is damaged: it has no {error.args[0]}") from None


def _visits(arrays: dict[str, np.ndarray]) -> tuple[Visit, ...]:
    lengths = arrays["episode_lengths"]

    def split(name: str) -> list[np.ndarray]:
        # An episode has one observation, and one reward state, more than it has actions.
        rows = lengths + 1 if name in ("observations", "reward_states") else lengths
        return np.split(arrays[name], np.cumsum(rows)[:-1])

    names = ["observations", "actions", "rewards", *(name for name in OPTIONAL if name in arrays)]
    columns = {name: split(name) for name in names}
    episodes = [
        Episode(
            terminated=terminated,
            **{"sparse_rewards": None, **{name: parts[index] for name, parts in columns.items()}},
        )
        for index, terminated in enumerate(arrays["episode_terminated"].tolist())
    ]
    visits, start = [], 0
    relabelled = arrays.get("visit_relabelled", np.zeros(len(arrays["visit_tasks"]), bool))
    for task, count, context_episodes, copied in zip(
        arrays["visit_tasks"].tolist(),
        arrays["visit_episodes"].tolist(),
        arrays["visit_context_episodes"].tolist(),
        relabelled.tolist(),
        strict=True,
    ):
        visits.append(Visit(task, tuple(episodes[start : start + count]), context_episodes, copied))
        start += count
    return tuple(visits)
