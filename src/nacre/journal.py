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
from nacre.identity import check_stamp
from nacre.tasks.checks import LARGEST
from nacre.tasks.family import Sizes
from nacre.types import Episode, Visit

FORMAT = 2
"""1 had a task for each episode, and neither relabelled visits nor successes; it is read as well."""

OPTIONAL = ("sparse_rewards", "successes", "reward_states", "tasks")
"""Arrays of an episode that may be None: for all episodes of a segment, or for none."""


class Owner(NamedTuple):
    """What the segments of a run have to fit."""

    sizes: Sizes
    tasks: int
    """How many train tasks there are."""
    has_sparse_reward: bool
    stamp: str | None = None
    """See :mod:`nacre.identity`."""


def append_segment(folder: Path, iteration: int, visits: Sequence[Visit], stamp: str | None = None) -> Path:
    """Writes the visits of an iteration, atomically. A segment of that iteration that is already there is replaced.

    Args:
        folder: the run's `replay` folder, which is there as long as the run is.
        iteration: counted from 0.
        visits: in the order in which the replay received them.
        stamp: that of the run; None: it has none.

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
    if stamp is not None:
        arrays["run"] = np.frombuffer(stamp.encode(), np.uint8)
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


def read_segments(folder: Path, count: int, owner: Owner | None = None) -> Iterator[tuple[Visit, ...]]:
    """The visits of iterations 0 to `count - 1`, one tuple per iteration, exactly as they were appended.

    Args:
        folder: the run's `replay` folder.
        count: how many iterations.
        owner: what the segments have to fit; None: they are of any run.

    Raises:
        NacreError: a segment is missing, damaged or of another run, or holds a number that nothing can be learned from;
            the message names it.
    """
    for iteration in range(count):
        visits = read_segment(folder, iteration, owner)
        for fault in find_faults(visits):
            raise NacreError(
                f"{_segment(folder, iteration)} holds {fault}. Drop the episode with: "
                f"{command('repair', folder.parent)}"
            )
        yield visits


def read_segment(folder: Path, iteration: int, owner: Owner | None = None) -> tuple[Visit, ...]:
    """The visits of an iteration, whatever the numbers in them; `owner` as in :func:`read_segments`.

    Raises:
        NacreError: the segment is missing, damaged or of another run; the message names it.
    """
    path = _segment(folder, iteration)
    arrays = _read_arrays(path, iteration)
    visits = _visits(arrays)
    if owner is not None:
        for number, visit in enumerate(visits):
            _check_fits(f"{path} is of another run, or damaged: visit {number}", visit, owner)
        check_stamp(path, arrays["run"].tobytes().decode(errors="replace") if "run" in arrays else None, owner.stamp)
    return visits


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


def _read_arrays(path: Path, iteration: int) -> dict[str, np.ndarray]:
    """The arrays of a segment, which fit each other."""
    arrays = read_npz(path)
    if "nacre_journal" not in arrays:
        raise NacreError(f"{path} is not a segment of a replay journal of nacre")
    if arrays["nacre_journal"].shape != (2,) or arrays["nacre_journal"].dtype.kind != "i":
        raise NacreError(f"{path} is damaged: it does not say which iteration it holds")
    version, written = arrays["nacre_journal"].tolist()
    if not 1 <= version <= FORMAT:
        raise NacreError(f"{path} is a segment of format {version}; this version of nacre reads up to {FORMAT}")
    if written != iteration:
        raise NacreError(f"{path} holds iteration {written}, not {iteration}")
    arrays.setdefault("visit_relabelled", np.zeros(arrays.get("visit_tasks", np.zeros(0)).shape, bool))
    _check_arrays(path, arrays)
    return arrays


_PER_VISIT = {"visit_tasks": "i", "visit_episodes": "i", "visit_context_episodes": "i", "visit_relabelled": "b"}
_PER_EPISODE = {"episode_lengths": "i", "episode_terminated": "b"}
_PER_STEP = {
    "observations": "fu",
    "actions": "f",
    "rewards": "f",
    "sparse_rewards": "f",
    "successes": "b",
    "reward_states": "f",
    "tasks": "f",
}
_AXES = {"actions": (2,), "observations": (2, 4), "reward_states": (2,), "tasks": (2,)}
"""How many axes an array may have; the others have one."""
_LONGER = ("observations", "reward_states")
"""An episode has one row more of these than it has actions."""


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises NacreError if arrays are missing, of other kinds and sizes than were written, or do not fit each other."""

    def check(name: str, kinds: str, rows: int | None) -> int:
        if name not in arrays:
            raise NacreError(f"{path} is damaged: it has no {name}")
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim not in _AXES.get(name, (1,)) or rows not in (None, len(array)):
            raise NacreError(f"{path} is damaged: its {name} are {array.dtype}{array.shape}")
        return len(array)

    visits = episodes = None
    for name, kinds in _PER_EPISODE.items():
        episodes = check(name, kinds, episodes)
    for name, kinds in _PER_VISIT.items():
        visits = check(name, kinds, visits)
    lengths, counts = arrays["episode_lengths"].tolist(), arrays["visit_episodes"].tolist()
    if any(length < 0 for length in lengths) or any(count < 0 for count in counts) or sum(counts) != len(lengths):
        raise NacreError(f"{path} is damaged: the lengths of its episodes are impossible")
    if any(not 0 <= n <= count for n, count in zip(arrays["visit_context_episodes"].tolist(), counts, strict=True)):
        raise NacreError(f"{path} is damaged: a visit has more context episodes than episodes, or less than none")
    steps = sum(lengths)
    for name, kinds in _PER_STEP.items():
        if name in arrays or name not in OPTIONAL:
            check(name, kinds, steps + len(lengths) * (name in _LONGER))


def _check_fits(what: str, visit: Visit, owner: Owner) -> None:
    """Raises NacreError if a visit is not one of a run of these sizes; `what` is the beginning of the message."""
    if not 0 <= visit.task < owner.tasks:
        raise NacreError(f"{what} is to task {visit.task}; allowed: 0 to {owner.tasks - 1}")
    for episode in visit.episodes:
        found = {"observations": episode.observations.shape[1:], "actions": episode.actions.shape[1:]}
        allowed = {"observations": owner.sizes.observation_shape, "actions": (owner.sizes.action,)}
        for name, shape in found.items():
            if shape != allowed[name]:
                raise NacreError(f"{what} has {name} of shape {shape}; allowed: {allowed[name]}")
        if episode.tasks is not None and episode.tasks.shape[1] != owner.sizes.task:
            raise NacreError(
                f"{what} has tasks of {episode.tasks.shape[1]} parameters; allowed: {owner.sizes.task} parameters"
            )
        if not 1 <= len(episode) <= owner.sizes.horizon:
            raise NacreError(f"{what} has an episode of {len(episode)} steps; allowed: 1 to {owner.sizes.horizon}")
        if owner.has_sparse_reward and episode.sparse_rewards is None:
            raise NacreError(f"{what} has no sparse rewards, which its task family has")


def _visits(arrays: dict[str, np.ndarray]) -> tuple[Visit, ...]:
    lengths = arrays["episode_lengths"]

    def split(name: str) -> list[np.ndarray]:
        rows = lengths + 1 if name in _LONGER else lengths
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
    for task, count, context_episodes, copied in zip(
        arrays["visit_tasks"].tolist(),
        arrays["visit_episodes"].tolist(),
        arrays["visit_context_episodes"].tolist(),
        arrays["visit_relabelled"].tolist(),
        strict=True,
    ):
        visits.append(Visit(task, tuple(episodes[start : start + count]), context_episodes, copied))
        start += count
    return tuple(visits)
