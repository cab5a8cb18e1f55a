"""Numbers to put beside our own curves: what others published, levels that need no training, and reference curves.

All numbers are of one world: a task family with its options and its changes of task, such as `cheetah-vel` or
`cheetah-dir horizon=800 shift=place:10+2,opposite` (:func:`nacre.experiments.experiment.world_of`).

They are data. `published.json` is written by hand (spec pearl 6.2 and 6.3, spec cemrl-dmrlad 5.1 and 5.2).
`reference_curves.json` is written by benchmarks/reference_curves.py from what is in results/.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from nacre.experiments import Experiment
from nacre.experiments.experiment import world_of

Bound = Literal["lower", "upper"]
"""lower: what is possible without knowing the task. upper: what is possible with knowing it."""


@dataclass(frozen=True)
class PublishedCurve:
    """Returns of somebody else's run, of the last episode of a trial on test tasks."""

    label: str
    source: str
    """Where the numbers are from and how far to trust them."""
    points: tuple[tuple[float, float], ...]
    """Environment steps and return, in order."""
    algorithm: str = ""
    """The algorithm that it is of, by its name here."""
    experiment: str = ""
    """The experiment that it is of, by its name here, if that is an ablation."""


@dataclass(frozen=True)
class ReferenceCurve:
    """Returns of an agent of this package that infers nothing: it is given the task, or does without it."""

    label: str
    source: str
    points: tuple[tuple[float, float], ...]
    """Environment steps and return, in order."""
    bound: Bound

    @property
    def final(self) -> float:
        """The last return."""
        return self.points[-1][1]


@dataclass(frozen=True)
class Level:
    """A return that no training changes."""

    label: str
    source: str
    value: float
    bound: Bound | None = None
    """Whether it stands for what is possible without the task, or with it; None: for neither."""


Reference = PublishedCurve | ReferenceCurve | Level


def references_of(where: str | Experiment) -> tuple[Reference, ...]:
    """All that is drawn beside the curves of a task family, or of an experiment with its options and changes of task.

    The last value of a reference curve takes the place of a level that stands for the same, if it has come near it.
    """
    world = _world(where)
    curves = reference_curves().get(world, ())
    arrived = [curve for curve in curves if _has_arrived(world, curve)]
    measured = {curve.bound for curve in arrived}
    return (
        *(it for it in REFERENCES.get(world, ()) if not (isinstance(it, Level) and it.bound in measured)),
        *curves,
        *(Level(f"{it.label}, at its end", "the last value of that curve", it.final, it.bound) for it in arrived),
    )


def _world(where: str | Experiment) -> str:
    return where if isinstance(where, str) else world_of(where)


def _has_arrived(world: str, curve: ReferenceCurve) -> bool:
    """Whether a reference curve has come near what was computed to be possible, if anything was: to a tenth of that, or
    to a twentieth of the gap that is to be measured."""
    levels = [it for it in REFERENCES.get(world, ()) if isinstance(it, Level)]
    curves = reference_curves().get(world, ())
    others = [it.value for it in levels if it.bound not in (None, curve.bound)]
    others += [it.final for it in curves if it.bound != curve.bound]

    def is_near(level: Level) -> bool:
        tolerance = max([0.1 * abs(level.value), *(0.05 * abs(other - level.value) for other in others)])
        return curve.final >= level.value - tolerance

    return all(is_near(level) for level in levels if level.bound == curve.bound)


@dataclass(frozen=True)
class Gap:
    """What lies between an agent without the task and one that is given it."""

    lower: ReferenceCurve
    upper: ReferenceCurve

    def closed(self, value: float) -> float:
        """The share of the gap that a return closes: 0 at the lower reference, 1 at the upper one."""
        return (value - self.lower.final) / (self.upper.final - self.lower.final)

    @property
    def words(self) -> str:
        return f"of the gap between “{self.lower.label}” and “{self.upper.label}”"


def gap_of(where: str | Experiment) -> Gap | None:
    """The gap between the two reference curves of a task family, or of an experiment with its options.

    None: one is missing or was trained too little, or the upper is not higher.
    """
    world = _world(where)
    found = {curve.bound: curve for curve in reference_curves().get(world, ()) if _has_arrived(world, curve)}
    if len(found) < 2 or found["upper"].final <= found["lower"].final:
        return None
    return Gap(found["lower"], found["upper"])


@functools.cache
def reference_curves() -> dict[str, tuple[ReferenceCurve, ...]]:
    """The reference curves, by world: at most one of each bound."""
    return {
        family: tuple(ReferenceCurve(**{**curve, "points": _points(curve["points"])}) for curve in curves)
        for family, curves in _read("reference_curves.json").items()
    }


def _published(entry: dict[str, Any]) -> PublishedCurve | Level:
    if "value" in entry:
        return Level(**entry)
    return PublishedCurve(**{**entry, "points": _points(entry["points"])})


def _points(rows: Iterable[Sequence[float | int]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(steps), float(value)) for steps, value in rows)


def _read(name: str) -> dict[str, list[dict[str, Any]]]:
    return json.loads(files("nacre.report").joinpath(name).read_text(encoding="utf-8"))


REFERENCES: dict[str, tuple[PublishedCurve | Level, ...]] = {
    family: tuple(_published(entry) for entry in entries) for family, entries in _read("published.json").items()
}
"""What others published and what can be computed, by world. There are no published numbers for point robots."""
