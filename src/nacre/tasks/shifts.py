"""Tasks that change inside an episode: when they do, and to what. This is the configuration; `changes.py` plays it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from nacre.errors import NacreError, nearest, shown

if TYPE_CHECKING:
    from nacre.tasks.family import TaskFamily

LARGEST_FIRST = 1e6
"""How far or how late a change may be. Nothing gets there, so such a task never changes."""

SYNTAX = (
    "none, or TRIGGER:FIRST[+SPREAD][,probability=P][,opposite], such as place:10+2 (as soon as x exceeds a place "
    "between 10 and 12, or is below one between -12 and -10), time:200 (after more than 200 steps) or "
    "place:10+2,opposite (from one direction to the other)"
)
"""What `--shift` takes."""


@dataclass(frozen=True)
class Shift:
    """When the task of an episode changes, and to which. The agent is not told; each episode begins with its own task.

    Changes are checked before each step, and the step is then one of the new task.

    - By place: the task changes if the family's place (x of the torso) exceeds p or is below -q. Both p and q are
      `first` + u at the beginning of an episode. The one that was reached moves on by another `first` + u.
    - By time: as soon as the task has been in force for more than `first` + u steps, it changes in each step with the
      probability `probability`.

    Each u is a draw of its own, uniform in [0, `spread`].

    Raises:
        NacreError: a value is impossible.
    """

    trigger: Literal["place", "time"]
    """Whether a place or the time changes the task."""
    first: float | int
    """The nearest place of the first change, in the family's unit of length; or the steps after which it may come."""
    spread: float | int = 0.0
    """How much farther or later a change may be."""
    probability: float | int = 1.0
    """Of a change in each step after that; only by time."""
    draw: Literal["tasks", "opposite"] = "tasks"
    """tasks: another of the train tasks, in testing of the test tasks, each as likely. opposite: the other direction,
    or the next of the tasks in a family of only a few. By place only a task whose first parameter is positive then
    changes at the positive side, and only one whose first parameter is negative at the negative side, so that running
    forward becomes running backward in front, and the other way round behind."""

    def __post_init__(self) -> None:
        for name, value in _of_right_types({field.name: getattr(self, field.name) for field in fields(self)}).items():
            object.__setattr__(self, name, value)
        if not 0 < self.first <= LARGEST_FIRST:
            raise NacreError(f"shift.first is {self.first:g}; allowed: more than 0 and at most {LARGEST_FIRST:.0f}")
        if not 0 <= self.spread <= LARGEST_FIRST:
            raise NacreError(f"shift.spread is {self.spread:g}; allowed: at least 0 and at most {LARGEST_FIRST:.0f}")
        if not 0 < self.probability <= 1:
            raise NacreError(f"shift.probability is {self.probability:g}; allowed: more than 0 and at most 1")
        if self.trigger == "place" and self.probability != 1:
            raise NacreError(
                f"shift.probability is {self.probability:g}; allowed by place: 1, as only changes by time have one"
            )

    def __str__(self) -> str:
        """As `--shift` takes it."""
        spread = f"+{_plain(self.spread)}" if self.spread else ""
        probability = f",probability={_plain(self.probability)}" if self.probability != 1 else ""
        return f"{self.trigger}:{_plain(self.first)}{spread}{probability}{',opposite' if self.draw != 'tasks' else ''}"

    def in_words(self) -> str:
        """When and to what the task changes, as part of a sentence."""
        first, last = _plain(self.first), _plain(self.first + self.spread)
        between = f"{first} to {last}" if self.spread else first
        to = "another one" if self.draw == "tasks" else "the opposite one"
        if self.trigger == "place":
            return f"the task changes to {to} within an episode, at each further {between} along x, forward or backward"
        chance = "" if self.probability == 1 else f", with a probability of {_plain(self.probability)} in each step"
        return f"the task changes to {to} within an episode, each time after more than {between} steps{chance}"


def parse_shift(text: str) -> Shift | None:
    """The shift that a text names, as `--shift` takes it; None for "none".

    Raises:
        NacreError: it names none, or an impossible one.
    """
    if text.strip() == "none":
        return None
    main, *options = (part.strip() for part in text.split(","))
    match = re.fullmatch(r"(\w+)\s*:\s*([^+]+?)(?:\s*\+\s*(.+))?", main)
    if match is None:
        raise NacreError(f"shift is {shown(text)}; allowed: {SYNTAX}")
    values: dict[str, Any] = {"trigger": match[1], "first": _parsed(text, match[2])}
    if match[3] is not None:
        values["spread"] = _parsed(text, match[3])
    for option in options:
        name, separator, value = (part.strip() for part in option.partition("="))
        if option == "opposite" and "draw" not in values:
            values["draw"] = "opposite"
        elif separator and name == "probability" and name not in values:
            values[name] = _parsed(text, value)
        else:
            raise NacreError(f"shift is {shown(text)}, of which {shown(option)} is not understood; allowed: {SYNTAX}")
    return Shift(**_of_right_types(values))


def read_shift(value: Any) -> Shift | None:
    """A shift that is given as one, as text, as an object of its fields, or as None.

    Raises:
        NacreError: it is none of these, or impossible.
    """
    if value is None or isinstance(value, Shift):
        return value
    if isinstance(value, str):
        return parse_shift(value)
    if not isinstance(value, Mapping):
        raise NacreError(f"shift is {shown(value)}; allowed: {SYNTAX}; or an object of its fields")
    known = {field.name: field for field in fields(Shift)}
    for name in value:
        if name not in known:
            raise NacreError(f"unknown field {shown(f'shift.{name}')}: {nearest(str(name), known)}")
    for name, field in known.items():
        if field.default is MISSING and name not in value:
            raise NacreError(f"the field 'shift.{name}' is missing")
    return Shift(**_of_right_types(value))


def shift_to_json(shift: Shift | None) -> dict[str, Any] | None:
    """The object that :func:`read_shift` reads."""
    return None if shift is None else asdict(shift)


def check_shift(family: TaskFamily, shift: Shift | None) -> None:
    """Checks that the tasks of a family can change so.

    Raises:
        NacreError: they cannot; the message names the family.
    """
    if shift is None:
        return
    if not family.follows_changes:
        raise NacreError(
            f"shift is '{shift}'; allowed for {family.name}: none, as its environments do not say that their task may "
            "change within an episode (GymnasiumFamily(..., follows_changes=True))"
        )
    if shift.trigger == "place" and not family.has_place:
        raise NacreError(
            f"shift is '{shift}'; allowed for {family.name}: changes by time, as the family has no place (a method "
            "`place` gives it one)"
        )
    if shift.draw == "opposite" and not family.has_opposites:
        raise NacreError(
            f"shift is '{shift}'; allowed for {family.name}: without 'opposite', as its tasks are neither directions "
            "nor only a few"
        )


def _of_right_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by field, with numbers as float.

    Raises:
        NacreError: one is of another type, or a word that is not allowed.
    """
    annotations = get_type_hints(Shift)
    checked = {}
    for name, value in values.items():
        words = get_args(annotations[name])
        if get_origin(annotations[name]) is not Literal:
            checked[name] = _number(name, value)
        elif isinstance(value, str) and value in words:
            checked[name] = value
        else:
            raise NacreError(f"shift.{name} is {shown(value)}; allowed: {' or '.join(map(repr, words))}")
    return checked


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        raise NacreError(f"shift.{name} is {shown(value)}; allowed: a number")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise NacreError(f"shift.{name} is {shown(value)}; allowed: a finite number")
    return number


def _parsed(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise NacreError(f"shift is {shown(text)}, of which {shown(part)} is no number; allowed: {SYNTAX}") from None


def _plain(value: float | int) -> str:
    """As short as it can be read back exactly."""
    return repr(int(value)) if float(value).is_integer() else repr(value)
