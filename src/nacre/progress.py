"""The counters in a checkpoint that say how far a run was: what may be in them, checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nacre.errors import NacreError, shown
from nacre.protocol import TEST_RETURN
from nacre.tasks.options import is_finite_number


class Check(NamedTuple):
    """What an entry of the counters may be."""

    allows: Callable[[Any], bool]
    words: str


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return type(value) is float or is_finite_number(value)


def _is_totals(value: Any) -> bool:
    """Sums by column. Earlier versions had numbers in place of the entries of a column."""
    entries = value.values() if isinstance(value, dict) else [] if value is None else [None]
    return all(_is_number(entry) or _is_entry(entry) for entry in entries)


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and {"steps", "sum"} <= value.keys() and all(map(_is_number, value.values()))


_COUNT = Check(_is_count, "a whole number of at least 0")
_TEXT = Check(lambda value: isinstance(value, str), "text")
_NEEDED = {"iterations": _COUNT, "updates": _COUNT}
_OPTIONAL = {
    **dict.fromkeys(("phase", "phase_steps", "segments", "visits"), _COUNT),
    "seconds": Check(lambda value: _is_number(value) and 0 <= value < math.inf, "a number of at least 0"),
    "totals": Check(_is_totals, "sums by column"),
    "worlds": Check(lambda value: isinstance(value, dict), "an object"),
    TEST_RETURN: Check(_is_number, "a number"),
    "run": _TEXT,
    "log": _TEXT,
}


def check_progress(path: Path, progress: Mapping[str, Any]) -> None:
    """Checks the counters of a checkpoint by themselves.

    Raises:
        NacreError: one is missing, or is something else than a run writes there.
    """
    for name, check in {**_NEEDED, **_OPTIONAL}.items():
        if name in _NEEDED and name not in progress:
            raise NacreError(f"{path} is damaged: its {name} is missing")
        if name in progress and not check.allows(progress[name]):
            raise NacreError(f"{path} is damaged: its {name} is {shown(progress[name])}; allowed: {check.words}")
    if "phase" in progress and not {"phase_steps", "segments", "visits"} <= progress.keys():
        raise NacreError(f"{path} is damaged: it has a phase, and not all counters that belong to it")


def check_fits_phases(path: Path, progress: Mapping[str, Any], steps: Sequence[int]) -> None:
    """Checks the counters of a checkpoint against the phases of an iteration, of which the gradient steps are given.

    Raises:
        NacreError: no run of these phases can be there.
    """
    if "phase" not in progress:  # an earlier version, which knew one phase of gradient steps
        fits = progress["updates"] <= sum(steps)
    else:
        phase, done = progress["phase"], progress["phase_steps"]
        fits = phase < len(steps) or (phase == len(steps) and done == 0)
        fits = fits and done <= (steps[phase] if phase < len(steps) else 0)
        fits = fits and progress["updates"] == sum(steps[:phase]) + done
        fits = fits and progress["segments"] - progress["iterations"] in (0, 1)
    if not fits:
        raise NacreError(f"{path} is damaged, or of another experiment: its counters fit no moment of an iteration")
