"""Reads the state dicts that PyTorch saves, without PyTorch.

`torch.save` writes one of two formats: a zip archive, or, before PyTorch 1.6, pickles in a row with raw numbers after
them. A pickle is a program, and none is run here: of what one may name, an ordered dictionary and a tensor of numbers
with a floating point are known. Anything else is an error, and so are sizes beyond those of the file.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nacre.errors import NacreError, shown
from nacre.original.pickles import Machine, Name, in_words, is_size, opened

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""What the first two pickles of the older format hold."""
LARGEST_FILE = 2**30
"""Bytes of a file. Networks of the original code have a few million."""
MOST_AXES = 8
"""Of a tensor."""


class _Storage(NamedTuple):
    """Numbers that follow elsewhere in the file. (Which device they were on does not matter.)"""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_DICTIONARY = Name("collections", "OrderedDict")
_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {
    Name("torch", "FloatStorage"): np.dtype("<f4"),
    Name("torch", "DoubleStorage"): np.dtype("<f8"),
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, as float32 or float64 arrays, from a file that `torch.save` wrote.

    Raises:
        NacreError: the file is missing, cannot be read, is damaged, or holds something else.
    """
    with opened(path, LARGEST_FILE) as (file, size):
        return _read(path, file, size)


def _read(path: Path, file: io.BufferedIOBase, size: int) -> dict[str, np.ndarray]:
    try:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        state, numbers = _read_zip(file, size) if is_zip else _read_legacy(file, size)
        if not isinstance(state, Mapping) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
            raise ValueError("it holds something else than tensors by name")
        return {name: _array(tensor, numbers[tensor.storage.key]) for name, tensor in state.items()}
    except OSError:
        raise
    except Exception as error:  # a damaged file can make zipfile and NumPy raise almost anything
        raise NacreError(f"{path} is damaged, or is not a state dict that PyTorch saved: {error}") from error


def _read_zip(file: io.BufferedIOBase, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """What was pickled, and the numbers by the key of their storage."""
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]

        def read(name: str) -> bytes:
            entry = archive.getinfo(f"{root}/{name}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise ValueError(f"its {shown(name)} is compressed, or larger than the file")
            return archive.read(entry)

        machine = _StateDict(io.BytesIO(read("data.pkl")))
        state = machine.run()
        return state, {
            key: _numbers(storage, read(f"data/{key}"), storage.size) for key, storage in machine.storages.items()
        }


def _read_legacy(file: io.BufferedIOBase, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """As :func:`_read_zip`."""
    if (_StateDict(file).run(), _StateDict(file).run()) != _LEGACY:
        raise ValueError("it does not begin as such a file")
    _StateDict(file).run()  # sizes of C's types on the machine that wrote it
    machine = _StateDict(file)
    state = machine.run()
    keys = _StateDict(file).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it does not say where its numbers are")
    numbers = {}
    for key in keys:
        storage = machine.storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count * storage.dtype.itemsize > size:
            raise ValueError("it holds more numbers than the file has room for")
        numbers[key] = _numbers(storage, file.read(count * storage.dtype.itemsize), count)
    return state, numbers


def _numbers(storage: _Storage, content: bytes, count: int) -> np.ndarray:
    numbers = np.frombuffer(content, storage.dtype)
    if not len(numbers) == count == storage.size:
        raise ValueError(f"a storage has {len(numbers)} numbers, and {storage.size} were expected")
    return numbers


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """The tensor's numbers, which may lie anywhere in those of its storage, each of them once."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) > len(numbers) or (math.prod(tensor.shape) and last >= len(numbers)):
        raise ValueError(f"a tensor of shape {tensor.shape} does not fit its storage of {len(numbers)} numbers")
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, numbers.dtype)
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False).copy()


class _StateDict(Machine):
    """Reads one pickle of those that `torch.save` writes."""

    what = "state dict"

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def check_key(self, key: Any) -> None:
        if not isinstance(key, str):
            raise ValueError(f"it has a key of type {type(key).__name__}; a state dict has names")

    def check_name(self, name: Name) -> None:
        if name not in (_DICTIONARY, _TENSOR, *_STORAGES):
            raise ValueError(f"it holds {in_words(name)}, which no state dict of floating-point numbers has")

    def call(self, function: Any, arguments: Any) -> Any:
        if function == _DICTIONARY and isinstance(arguments, tuple) and arguments in ((), ([],)):
            return {}
        if function == _TENSOR and isinstance(arguments, tuple):
            return _checked_tensor(*arguments[:4])
        raise ValueError(f"it calls {in_words(function)}, which no state dict of floating-point numbers needs")

    def build(self, target: Any, state: Any) -> Any:
        # The state is the version of each module, which nothing depends on.
        if not isinstance(target, dict):
            raise ValueError("it changes something else than a dictionary")
        return target

    def elsewhere(self, values: Any) -> _Storage:
        if not isinstance(values, tuple) or len(values) < 5 or not isinstance(values[1], Name):
            raise ValueError("it names numbers in an unknown way")
        _, dtype, key, _, size = values[:5]
        if dtype not in _STORAGES or not isinstance(key, str) or not is_size(size):
            raise ValueError("it names numbers in an unknown way")
        return self.storages.setdefault(key, _Storage(key, _STORAGES[dtype], size))


def _checked_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    sizes = (shape, strides)
    if not isinstance(storage, _Storage) or not is_size(offset):
        raise ValueError("it holds a tensor without numbers")
    if not all(isinstance(size, tuple) and len(size) <= MOST_AXES and all(map(is_size, size)) for size in sizes):
        raise ValueError(f"it holds a tensor of impossible sizes, or of more than {MOST_AXES} axes")
    return _Tensor(storage, offset, shape, strides)
