"""What a family or a world of the user's own returns, checked where it is used, in sentences that name the class."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from nacre.errors import NacreError

LARGEST = 1e9
"""How large a reward, an observation or a reward state may be. They are kept as float32, whose largest number is
3.4e38: the bound leaves room for a reward scale, for the square of an error, and for the square that Adam makes of its
gradient."""


def call(function: Callable[..., Any], *arguments: Any, named: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`function(*arguments, **options)`, for a function that a user may have written.

    Args:
        named: the function that a message names in its place, such as that of the environment inside of wrappers.

    Raises:
        NacreError: it raised something; the message names the function, the error and the line.
    """
    try:
        return function(*arguments, **options)
    except NacreError:
        raise
    except Exception as error:
        said = f": {error}" if str(error) else ""
        raise NacreError(f"{name_of(named or function)} raised {type(error).__name__}{said}{_place(error)}.") from error


def name_of(function: Callable[..., Any]) -> str:
    """`step of WindyLineWorld` for a method, the name for anything else that can be called."""
    owner = getattr(function, "__self__", None)
    if owner is not None:
        members = {name: value for kind in reversed(type(owner).__mro__) for name, value in vars(kind).items()}
        names = [name for name, value in members.items() if value is getattr(function, "__func__", None)]
        return f"{[*names, getattr(function, '__name__', function)][0]} of {type(owner).__name__}"
    return getattr(function, "__qualname__", type(function).__name__)


def numbers(function: Callable[..., Any], what: str, value: Any, *shape: int | str) -> np.ndarray:
    """What `function` returned as an array of real numbers of that shape.

    Args:
        what: the name of the quantity, a plural.
        shape: a name in place of a length allows any.

    Raises:
        NacreError: it is of another shape, or not of numbers.
    """
    try:
        array = np.asarray(value)
    except Exception:  # a ragged list, or an object that makes no array of itself
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise NacreError(
            f"{name_of(function)} returned {what} of type {type(value).__name__} ({shortened(value)}); allowed: "
            f"numbers in an array of shape {_described(shape)}."
        )
    # The first comparison answers in the usual case.
    if array.shape != shape and not _fits(array.shape, shape):
        raise NacreError(
            f"{name_of(function)} returned {what} of shape {array.shape}; allowed: the shape {_described(shape)}."
        )
    return array


def truths(function: Callable[..., Any], value: Any, n: int) -> Bool[np.ndarray, " n"]:
    """What `function` returned as `n` truth values, a copy.

    Raises:
        NacreError: it is of another shape, or not of bool.
    """
    array = np.array(value) if isinstance(value, bool | np.bool_) else numbers(function, "values", value, n)
    if array.dtype != bool or array.shape != (n,):
        raise NacreError(
            f"{name_of(function)} returned {shortened(value)}; allowed: an array of bool of shape {_described((n,))}."
        )
    return array.copy()


def several(function: Callable[..., Any], value: Any, *names: str) -> tuple[Any, ...]:
    """What `function` returned as a tuple of the things of these names.

    Raises:
        NacreError: it is something else.
    """
    if isinstance(value, tuple | list) and len(value) == len(names):
        return tuple(value)
    given = f"{len(value)} values" if isinstance(value, tuple | list) else f"a {type(value).__name__}"
    raise NacreError(
        f"{name_of(function)} returned {given} ({shortened(value)}); allowed: the {len(names)} values "
        f"{', '.join(names)}."
    )


def shortened(value: Any) -> str:
    """The value as Python writes it, in a line that is not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _place(error: Exception) -> str:
    """Where a user's code raised it; nothing if only compiled code was called."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is `call` itself
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _fits(shape: tuple[int, ...], allowed: tuple[int | str, ...]) -> bool:
    return len(shape) == len(allowed) and all(
        isinstance(size, str) or size == given for given, size in zip(shape, allowed, strict=True)
    )


def _described(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
