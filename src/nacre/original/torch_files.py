"""Reads the state dicts that PyTorch saves, without PyTorch.

`torch.save` writes one of two formats: a zip archive, or, before PyTorch 1.6, pickles in a row with raw numbers after
them. A pickle may name any function to be called. Here it can name an ordered dictionary and a tensor of floating-point
numbers, and anything else is an error, so that reading a file runs nothing that is in it.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nacre.errors import NacreError
from nacre.files import cannot

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""What the first two pickles of the older format hold."""


class _Storage(NamedTuple):
    """Numbers that follow elsewhere in the file. (Which device they were on does not matter.)"""

    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "DoubleStorage"): np.dtype("<f8"),
}
"""All that a pickle may name, and what stands for it."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no state dict of floating-point numbers has")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return self.storages.setdefault(key, _Storage(key, dtype))


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, as float32 or float64 arrays, from a file that `torch.save` wrote.

    Raises:
        NacreError: the file is missing, cannot be read, is damaged, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from error
    read = _read_zip if content.startswith(b"PK") else _read_legacy
    try:
        state, numbers = read(io.BytesIO(content))
        if not isinstance(state, Mapping) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
            raise ValueError("it holds something else than tensors by name")
        return {str(name): _array(tensor, numbers[tensor.storage.key]) for name, tensor in state.items()}
    except Exception as error:  # a damaged file can make an unpickler raise almost anything
        raise NacreError(f"{path} is damaged, or is not a state dict that PyTorch saved: {error}") from error


def _read_zip(file: io.BytesIO) -> tuple[Any, dict[str, np.ndarray]]:
    """What was pickled, and the numbers by the key of their storage."""
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        unpickler = _Unpickler(io.BytesIO(archive.read(f"{root}/data.pkl")))
        state = unpickler.load()
        return state, {
            key: np.frombuffer(archive.read(f"{root}/data/{key}"), storage.dtype)
            for key, storage in unpickler.storages.items()
        }


def _read_legacy(file: io.BytesIO) -> tuple[Any, dict[str, np.ndarray]]:
    """As :func:`_read_zip`."""
    if (_Unpickler(file).load(), _Unpickler(file).load()) != _LEGACY:
        raise ValueError("it does not begin as such a file")
    _Unpickler(file).load()  # sizes of C's types on the machine that wrote it
    unpickler = _Unpickler(file)
    state = unpickler.load()
    numbers = {}
    for key in _Unpickler(file).load():
        dtype = unpickler.storages[key].dtype
        count = int.from_bytes(file.read(8), "little")
        numbers[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return state, numbers


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """The tensor's numbers, which may lie anywhere in those of its storage; an index beyond them is an error."""
    along_axes = [np.arange(size) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    return np.take(numbers, tensor.offset + sum(np.ix_(*along_axes), start=np.zeros((), np.int64)))
