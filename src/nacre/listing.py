"""The text of `nacre list`: every named experiment with its size, by algorithm, and every task family."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from nacre.agents import ALGORITHMS, algorithm_of
from nacre.errors import NacreError, shown
from nacre.experiments import NamedExperiment, named_experiments
from nacre.tasks import list_families

_HEADER = ("experiment", "tasks", "iter.", "steps", "updates")
_INDENT = 4
_ROOM = 50
"""Columns that a description needs beside the numbers; with fewer it stands below them."""


def listing(width: int | None, words: Sequence[str] = ()) -> list[str]:
    """The lines of the listing.

    Args:
        width: columns that there are; None: as many as it takes, with one line for each experiment.
        words: only experiments whose names or families contain all of these, and families that contain all of those
            which are no algorithm.

    Raises:
        NacreError: there are none.
    """
    entries = [entry for entry in named_experiments().values() if _has(entry, words)]
    asked = [word for word in words if word not in ALGORITHMS]
    families = [family for family in list_families() if asked or not words if all(word in family for word in asked)]
    if not entries and not families:
        raise NacreError(
            f"words are {shown(' '.join(words))}, and no experiment and no task family has all of them in its name; "
            "allowed: what nacre list shows"
        )
    rows = [_HEADER, *(_numbers(entry) for entry in entries)]
    sizes = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    layout = _Layout(sizes, width)
    lines = layout.lines(_HEADER, "what it is" if layout.beside else "")
    for algorithm in ALGORITHMS.values():
        blocks = [
            layout.lines(row, _described(entry))
            for entry, row in zip(entries, rows[1:], strict=True)
            if algorithm_of(entry.experiment.algorithm) == algorithm
        ]
        heading = f"{algorithm.name}:" if blocks else f"{algorithm.name}: no named experiment"
        if blocks or not words:
            lines += ["", heading, *itertools.chain.from_iterable(blocks)]
    notes = (
        "tasks: for training + for testing. iter.: iterations. steps: millions of environment steps in training. "
        "updates: millions of gradient steps.",
        f"Task families: {', '.join(families)}. Each is also there from pixels: NAME-pixels." if families else "",
        "Any algorithm trains on any family by ALGORITHM/FAMILY. If it is not listed, nobody has tuned its values."
        if families
        else "",
        "Fewer of them: nacre list WORD..., such as nacre list cheetah vel." if not words else "",
        "Train one with: nacre train EXPERIMENT. Its flags: nacre train EXPERIMENT --help.",
    )
    return [*lines, "", *itertools.chain.from_iterable(_wrap(note, width, "", "") for note in notes if note)]


def _has(entry: NamedExperiment, words: Sequence[str]) -> bool:
    """Whether the name or the family of an experiment contains all of the words, or is of an algorithm of that name."""
    names, algorithm = (entry.experiment.name, entry.experiment.family), algorithm_of(entry.experiment.algorithm).name
    return all(word == algorithm if word in ALGORITHMS else any(word in name for name in names) for word in words)


def _described(entry: NamedExperiment) -> str:
    """The description, and how tasks change inside an episode."""
    shift = entry.experiment.shift
    return entry.description if shift is None else f"{entry.description}; {shift.in_words()}"


def _numbers(entry: NamedExperiment) -> tuple[str, ...]:
    experiment = entry.experiment
    return (
        experiment.name,
        f"{experiment.train_tasks} + {experiment.test_tasks}",
        str(experiment.iterations),
        _millions(experiment.environment_steps),
        _millions(experiment.gradient_steps),
    )


def _millions(count: int) -> str:
    """To the thousand: three places in every row, so that they can be compared at a glance."""
    return f"{count / 1e6:.3f}"


class _Layout(NamedTuple):
    sizes: list[int]
    """Widths of the columns."""
    width: int | None

    @property
    def _all_columns(self) -> int:
        return sum(self.sizes) + 2 * (len(self.sizes) - 1)

    @property
    def beside(self) -> bool:
        """Whether descriptions stand beside the numbers."""
        return self.width is None or self._all_columns + 2 + _ROOM <= self.width

    def lines(self, row: Sequence[str], description: str) -> list[str]:
        name, numbers = row[0], "  ".join(cell.rjust(size) for cell, size in zip(row[1:], self.sizes[1:], strict=True))
        text = f"{name.ljust(self.sizes[0])}  {numbers}"
        if self.beside:
            return _wrap(description, self.width, f"{text}  ", " " * (self._all_columns + 2))
        space = " " * _INDENT
        above = [text] if self._all_columns <= (self.width or 0) else [name, space + numbers]
        return above + _wrap(description, self.width, space, space)


def _wrap(text: str, width: int | None, first: str, following: str) -> list[str]:
    """Lines of at most `width` columns, or of one long word; `first` and `following` are what they begin with."""
    if width is None:
        return [(first + text).rstrip()]
    room = max(width, len(following) + 20)
    return textwrap.wrap(
        text,
        room,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
