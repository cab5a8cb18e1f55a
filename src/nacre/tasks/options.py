"""Checks of the options that task families are made with, in sentences that name the family and the option."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeGuard

from nacre.errors import NacreError, shown

# Options come from files and command lines, so constructors take anything and check it.
Number = Annotated[Any, "a finite number"]
Truth = Annotated[Any, "true or false"]
PictureSize = Annotated[Any, "a whole number of pixels, or two: height and width"]
Several = Annotated[Any, "a list of names or numbers"]


def positive(family: str, option: str, value: Any) -> float:
    """The value, a number above 0.

    Raises:
        NacreError: it is something else.
    """
    if not is_finite_number(value) or value <= 0:
        raise NacreError(f"{option} of {family} is {shown(value)}; allowed: a finite number above 0")
    return float(value)


def not_negative(family: str, option: str, value: Any) -> float:
    """The value, a number of at least 0.

    Raises:
        NacreError: it is something else.
    """
    if not is_finite_number(value) or value < 0:
        raise NacreError(f"{option} of {family} is {shown(value)}; allowed: a finite number of at least 0")
    return float(value)


def finite(family: str, option: str, value: Any) -> float:
    """The value, a finite number.

    Raises:
        NacreError: it is something else.
    """
    if not is_finite_number(value):
        raise NacreError(f"{option} of {family} is {shown(value)}; allowed: a finite number")
    return float(value)


MOST_PIXELS = 4096
"""Along a side of a picture."""


def picture_size(family: str, option: str, value: Any) -> tuple[int, int]:
    """Height and width of a picture in pixels; one number stands for both.

    Raises:
        NacreError: they are something else than whole numbers.
    """
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(is_finite_number(side) and side in range(1, MOST_PIXELS + 1) for side in sides):
        raise NacreError(
            f"{option} of {family} is {shown(value)}; allowed: a whole number from 1 to {MOST_PIXELS}, or two of them "
            "for height and width"
        )
    height, width = map(int, sides)
    return height, width


def interval(family: str, lowest: Any, highest: Any) -> tuple[float, float]:
    """The ends of a range that tasks are drawn from, in the options `lowest` and `highest`.

    Raises:
        NacreError: they are not two finite numbers, the first below the second.
    """
    low, high = finite(family, "lowest", lowest), finite(family, "highest", highest)
    if lowest >= highest:
        raise NacreError(f"lowest of {family} is {lowest} and highest is {highest}; allowed: lowest below highest")
    return low, high


def truth(family: str, option: str, value: Any) -> bool:
    """The value, true or false.

    Raises:
        NacreError: it is something else.
    """
    if not isinstance(value, bool):
        raise NacreError(f"{option} of {family} is {shown(value)}; allowed: true or false")
    return value


def some_of(family: str, option: str, values: Any, allowed: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, or the single value, each of them one of `allowed`.

    Raises:
        NacreError: there are none, one is there twice, or one is not allowed.
    """
    chosen = tuple(values) if isinstance(values, tuple | list) else (values,)
    known = [value for value in chosen if value in allowed]
    if not chosen or len(known) < len(chosen) or len(set(known)) < len(known):
        choices = ", ".join(map(repr, allowed))
        raise NacreError(f"{option} of {family} is {shown(values)}; allowed: a list of some of {choices}, each once")
    return tuple(allowed[allowed.index(value)] for value in chosen)  # such as -1.0 for -1


def is_finite_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number of Python's that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
