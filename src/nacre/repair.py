"""Repairs a run whose replay holds numbers that nothing can be learned from: the episodes that hold them are dropped.

Since the simulator refuses such numbers no run gets any. Those of earlier versions stopped at them again and again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from nacre import journal
from nacre.errors import NacreError
from nacre.experiments import family_of
from nacre.journal import Fault
from nacre.run import owner_of
from nacre.run_folder import REPLAY, locked_runs, read_run, read_stamp
from nacre.types import Visit


def repair_run(run: Path | str, *, say: Callable[[str], None] = lambda message: None) -> int:
    """Drops from the replay of a run, or of several seeds, every episode with a number that is not finite or too large.

    The checkpoints stay: what had learned from a number whose square is no float32 would not be finite, and no such
    checkpoint is ever written. :func:`nacre.resume` then goes on from the latest one with the rest of the replay.

    Args:
        run: the run folder, or the folder in which several seeds are.
        say: called with a sentence about each episode that was dropped.

    Returns:
        how many episodes were dropped.

    Raises:
        NacreError: the folder is no run, another process trains it, a segment is damaged, or a train task would be
            left without any episode. Nothing is changed then.
    """
    with locked_runs(Path(run)) as runs:
        return sum(_repair(each, say) for each in runs)


def _repair(run: Path, say: Callable[[str], None]) -> int:
    experiment, split = read_run(run)
    owner = owner_of(family_of(experiment), split, read_stamp(run, experiment, split))
    folder = run / REPLAY
    repaired: dict[int, tuple[tuple[Visit, ...], list[Fault]]] = {}
    had: Counter[int] = Counter()
    left: Counter[int] = Counter()
    for iteration in journal.find_segments(folder):
        visits = journal.read_segment(folder, iteration, owner)
        faults = list(journal.find_faults(visits))
        kept = _without(visits, faults) if faults else visits
        had += _episodes(visits)
        left += _episodes(kept)
        if faults:
            repaired[iteration] = kept, faults
    for task in had:
        if not left[task]:
            raise NacreError(
                f"{folder} cannot be repaired: all episodes of train task {task} hold numbers that nothing can be "
                "learned from; train anew"
            )
    for iteration, (visits, faults) in repaired.items():
        path = journal.append_segment(folder, iteration, visits, owner.stamp)
        for fault in faults:
            say(f"{path}: dropped the episode with {fault}")
    return sum(len(faults) for _, faults in repaired.values())


def _without(visits: Sequence[Visit], faults: Sequence[Fault]) -> tuple[Visit, ...]:
    """The visits without the episodes that have faults. A visit that had context data still has some."""
    bad = {(fault.visit, fault.episode) for fault in faults}
    kept: list[Visit] = []
    for number, visit in enumerate(visits):
        good = [index for index in range(len(visit.episodes)) if (number, index) not in bad]
        if not good and visit.episodes:
            continue
        context = sum(index < visit.context_episodes for index in good)
        kept.append(
            dataclasses.replace(
                visit,
                episodes=tuple(visit.episodes[index] for index in good),
                context_episodes=max(context, min(visit.context_episodes, 1)),
            )
        )
    return tuple(kept)


def _episodes(visits: Sequence[Visit]) -> Counter[int]:
    """How many episodes each train task has."""
    counter: Counter[int] = Counter()
    for visit in visits:
        counter[visit.task] += len(visit.episodes)
    return counter
