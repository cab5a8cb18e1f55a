"""Reads the state dicts that PyTorch saves, without PyTorch.

`torch.save` writes one of two formats: a zip archive, or, before PyTorch 1.6, pickles in a row with raw numbers after
them. A pickle is a program, and may name any function to be called. So none is run here: a small interpreter knows the
instructions that `torch.save` writes, an ordered dictionary, and a tensor of floating-point numbers. Anything else is
an error, and so are sizes beyond those of the file.
"""

from __future__ import annotations

import io
import math
import pickletools
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from nacre.errors import NacreError, shown
from nacre.files import cannot

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


class _Name(NamedTuple):
    """A function or class that a pickle names, which is never called."""

    module: str
    name: str


class _Mark:
    """Where the values of a list, a dictionary or a tuple begin on the stack."""


_DICTIONARY = _Name("collections", "OrderedDict")
_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {
    _Name("torch", "FloatStorage"): np.dtype("<f4"),
    _Name("torch", "DoubleStorage"): np.dtype("<f8"),
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, as float32 or float64 arrays, from a file that `torch.save` wrote.

    Raises:
        NacreError: the file is missing, cannot be read, is damaged, or holds something else.
    """
    try:
        status = path.stat()  # before it is opened: a pipe would wait for its writer
        if not stat.S_ISREG(status.st_mode):
            raise NacreError(f"{path} is a folder or a device; allowed: a file")
        if status.st_size > LARGEST_FILE:
            raise NacreError(f"{path} has {status.st_size} bytes; allowed: at most {LARGEST_FILE}")
        with path.open("rb") as file:
            return _read(path, file, status.st_size)
    except OSError as error:
        raise cannot("read", path, error) from error


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

        machine = _Machine(io.BytesIO(read("data.pkl")))
        state = machine.run()
        return state, {
            key: _numbers(storage, read(f"data/{key}"), storage.size) for key, storage in machine.storages.items()
        }


def _read_legacy(file: io.BufferedIOBase, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """As :func:`_read_zip`."""
    if (_Machine(file).run(), _Machine(file).run()) != _LEGACY:
        raise ValueError("it does not begin as such a file")
    _Machine(file).run()  # sizes of C's types on the machine that wrote it
    machine = _Machine(file)
    state = machine.run()
    keys = _Machine(file).run()
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


class _Machine:
    """Reads one pickle: the instructions that `torch.save` writes, on a stack with a memory."""

    def __init__(self, file: io.BufferedIOBase):
        self._file = file
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        """What the pickle holds. The file is then at its end."""
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], self._file)):
            if operation.name == "STOP":
                return self._pop()
            if operation.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[operation.name])
            elif operation.name in _PUSHES:
                self._stack.append(argument)
            elif operation.name in _STEPS:
                _STEPS[operation.name](self, argument)
            elif operation.name not in ("PROTO", "FRAME"):
                raise ValueError(f"it holds the instruction {operation.name}, which no state dict needs")
        raise ValueError("it ends too early")

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self._pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _tuple(self, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._stack.append(tuple(values[::-1]))

    def _put(self, index: int) -> None:
        self._memory[index] = self._stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError("it sets entries of something else than a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError(f"it has a key of type {type(key).__name__}; a state dict has names")
            target[key] = value

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("it adds to something else than a list")
        target += values

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if function == _DICTIONARY and isinstance(arguments, tuple) and arguments in ((), ([],)):
            self._stack.append({})
        elif function == _TENSOR and isinstance(arguments, tuple):
            self._stack.append(_checked_tensor(*arguments[:4]))
        else:
            raise ValueError(f"it calls {_in_words(function)}, which no state dict of floating-point numbers needs")

    def _build(self) -> None:
        self._pop()  # the version of each module, which nothing depends on
        if not isinstance(self._stack[-1], dict):
            raise ValueError("it changes something else than a dictionary")

    def _name(self, argument: str) -> None:
        name = _Name(*argument.split(" ", 1))
        if name not in (_DICTIONARY, _TENSOR, *_STORAGES):
            raise ValueError(f"it holds {_in_words(name)}, which no state dict of floating-point numbers has")
        self._stack.append(name)

    def _storage(self) -> None:
        values = self._pop()
        if not isinstance(values, tuple) or len(values) < 5 or not isinstance(values[1], _Name):
            raise ValueError("it names numbers in an unknown way")
        _, dtype, key, _, size = values[:5]
        if dtype not in _STORAGES or not isinstance(key, str) or not _is_size(size):
            raise ValueError("it names numbers in an unknown way")
        self._stack.append(self.storages.setdefault(key, _Storage(key, _STORAGES[dtype], size)))


_MARK = _Mark()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PUSHES = frozenset({"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE"})
"""Instructions that put their argument on the stack."""
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine._stack.append(_MARK),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "TUPLE": lambda machine, _: machine._stack.append(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "BINPUT": lambda machine, index: machine._put(index),
    "LONG_BINPUT": lambda machine, index: machine._put(index),
    "BINGET": lambda machine, index: machine._stack.append(machine._memory[index]),
    "LONG_BINGET": lambda machine, index: machine._stack.append(machine._memory[index]),
    "GLOBAL": lambda machine, argument: machine._name(argument),
    "BINPERSID": lambda machine, _: machine._storage(),
    "REDUCE": lambda machine, _: machine._call(),
    "BUILD": lambda machine, _: machine._build(),
    "SETITEM": lambda machine, _: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
}


def _checked_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    sizes = (shape, strides)
    if not isinstance(storage, _Storage) or not _is_size(offset):
        raise ValueError("it holds a tensor without numbers")
    if not all(isinstance(size, tuple) and len(size) <= MOST_AXES and all(map(_is_size, size)) for size in sizes):
        raise ValueError(f"it holds a tensor of impossible sizes, or of more than {MOST_AXES} axes")
    return _Tensor(storage, offset, shape, strides)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _in_words(value: Any) -> str:
    return shown(f"{value.module}.{value.name}")[1:-1] if isinstance(value, _Name) else f"a {type(value).__name__}"
