"""Reads the statistics of the data that CEMRL and DMRLAD kept with their networks: dictionaries of NumPy arrays (spec
cemrl-dmrlad 4.3). Their pickles are not run: see `pickles.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import NacreError
from nacre.original.pickles import Machine, Name, in_words, is_size, opened

LARGEST_FILE = 2**24
"""Bytes of a file. Those of the old code have a few thousand."""
_DTYPES = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8"), "<f4": np.dtype("<f4"), "<f8": np.dtype("<f8")}
_ARRAY, _DTYPE = Name("numpy", "ndarray"), Name("numpy", "dtype")
_MODULES = "numpy.core.multiarray", "numpy._core.multiarray"
_MAKE_ARRAY, _MAKE_SCALAR = ({Name(module, made) for module in _MODULES} for made in ("_reconstruct", "scalar"))


@dataclass(eq=False)
class _Dtype:
    dtype: np.dtype


@dataclass(eq=False)
class _Array:
    """An array that may not have its numbers yet."""

    numbers: np.ndarray | None = None


def read_statistics(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Means and standard deviations, float64 vectors by `mean` and `std`, by the name of what they are of, such as
    `observations`.

    Raises:
        NacreError: the file is missing, cannot be read, is damaged, or holds something else.
    """
    with opened(path, LARGEST_FILE) as (file, _):
        try:
            content = _Statistics(file).run()
            return {name: _moments(name, values) for name, values in _dictionary(content).items()}
        except OSError:
            raise
        except Exception as error:  # a damaged file can make pickletools and NumPy raise almost anything
            raise NacreError(f"{path} is damaged, or holds no statistics of the old code: {error}") from error


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it holds {in_words(value)} where a dictionary was expected")
    return value


def _moments(name: str, values: Any) -> dict[str, np.ndarray]:
    values = _dictionary(values)
    moments = {}
    for moment in ("mean", "std"):
        if moment not in values:
            raise ValueError(f"it has no {moment} of {name}")
        moments[moment] = _vector(values[moment])
        if not np.isfinite(moments[moment]).all() or (moment == "std" and (moments[moment] < 0).any()):
            raise ValueError(f"the {moment} of {name} is impossible")
    return moments


def _vector(value: Any) -> np.ndarray:
    numbers = value.numbers if isinstance(value, _Array) else value
    if isinstance(numbers, float) or (isinstance(numbers, np.ndarray) and numbers.ndim <= 1):
        return np.atleast_1d(np.asarray(numbers, np.float64))
    raise ValueError(f"it holds {in_words(numbers)} where numbers in a row were expected")


class _Statistics(Machine):
    what = "file of statistics"

    def check_key(self, key: Any) -> None:
        if not isinstance(key, str):
            raise ValueError(f"it has a key of type {type(key).__name__}; allowed: names")

    def check_name(self, name: Name) -> None:
        if name not in (_ARRAY, _DTYPE, *_MAKE_ARRAY, *_MAKE_SCALAR):
            raise ValueError(f"it holds {in_words(name)}, which no file of statistics has")

    def call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name) and isinstance(arguments, tuple):
            if function == _DTYPE and arguments and isinstance(arguments[0], str) and arguments[0] in _DTYPES:
                return _Dtype(_DTYPES[arguments[0]])
            if function in _MAKE_ARRAY:
                return _Array()
            if function in _MAKE_SCALAR and len(arguments) == 2:
                return _Array(_numbers(arguments[0], arguments[1], ()))
        raise ValueError(f"it calls {in_words(function)} in a way that no file of statistics needs")

    def build(self, target: Any, state: Any) -> Any:
        # In place, as the pickle may come back to the same thing.
        if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", "="):
            return target
        if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, _, content = state  # in Fortran's order or not: there is one axis
            target.numbers = _numbers(dtype, content, shape)
            return target
        raise ValueError("it changes something in a way that no file of statistics needs")


def _numbers(dtype: Any, content: Any, shape: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise ValueError("it holds an array without numbers")
    if not isinstance(shape, tuple) or len(shape) > 1 or not all(map(is_size, shape)):
        raise ValueError("it holds an array of impossible sizes, or of more than 1 axis")
    numbers = np.frombuffer(content, dtype.dtype)
    if len(numbers) != math.prod(shape):
        raise ValueError(f"an array has {len(numbers)} numbers, and {math.prod(shape)} were expected")
    return numbers.reshape(shape)
