"""Reads pickles without running them.

A pickle is a program, and may name any function to be called. A small interpreter knows the instructions that make
plain values; what else a pickle may name, and what calling it means, a subclass says. Anything else is an error.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from nacre.errors import NacreError, shown
from nacre.files import cannot


class Name(NamedTuple):
    """A function or class that a pickle names, which is never called."""

    module: str
    name: str


class Machine:
    """Reads one pickle, on a stack with a memory."""

    what: str
    """What the pickle should hold, in words."""

    def __init__(self, file: io.BufferedIOBase):
        self._file = file
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

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
                raise ValueError(f"it holds the instruction {operation.name}, which no {self.what} needs")
        raise ValueError("it ends too early")

    def check_key(self, key: Any) -> None:
        """Raises ValueError if it cannot be the key of a dictionary."""
        raise NotImplementedError

    def check_name(self, name: Name) -> None:
        """Raises ValueError if a pickle of this kind does not name it."""
        raise NotImplementedError

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call stands for."""
        raise NotImplementedError

    def build(self, target: Any, state: Any) -> Any:
        """What the target is with its state."""
        raise NotImplementedError

    def elsewhere(self, values: Any) -> Any:
        """What stands for something that follows elsewhere in the file."""
        raise ValueError("it names something that is elsewhere")

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
            self.check_key(key)
            target[key] = value

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("it adds to something else than a list")
        target += values

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self.call(function, arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        self._stack.append(self.build(target, state))

    def _name(self, module: Any, name: Any) -> None:
        named = Name(str(module), str(name))
        self.check_name(named)
        self._stack.append(named)

    def _name_from_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("it names something in an unknown way")
        self._name(module, name)


@contextlib.contextmanager
def opened(path: Path, largest: int) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """A file for reading, and its size.

    Raises:
        NacreError: it is missing, cannot be read, is no file, or has more than `largest` bytes.
    """
    try:
        status = path.stat()  # before it is opened: a pipe would wait for its writer
        if not stat.S_ISREG(status.st_mode):
            raise NacreError(f"{path} is a folder or a device; allowed: a file")
        if status.st_size > largest:
            raise NacreError(f"{path} has {status.st_size} bytes; allowed: at most {largest}")
        with path.open("rb") as file:
            yield file, status.st_size
    except OSError as error:
        raise cannot("read", path, error) from error


def is_size(value: Any) -> bool:
    """Whether it may be a number of things."""
    return type(value) is int and 0 <= value < 2**40


def in_words(value: Any) -> str:
    """What a pickle holds, for a message."""
    return shown(f"{value.module}.{value.name}")[1:-1] if isinstance(value, Name) else f"a {type(value).__name__}"


class _Mark:
    """Where the values of a list, a dictionary or a tuple begin on the stack."""


_MARK = _Mark()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TEXT = "BINUNICODE", "SHORT_BINUNICODE"
_BYTES = "BINBYTES", "SHORT_BINBYTES"
_PUSHES = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", *_TEXT, *_BYTES})
"""Instructions that put their argument on the stack."""
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
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
    "GLOBAL": lambda machine, argument: machine._name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._name_from_stack(),
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memory)),
    "BINPERSID": lambda machine, _: machine._stack.append(machine.elsewhere(machine._pop())),
    "REDUCE": lambda machine, _: machine._call(),
    "BUILD": lambda machine, _: machine._build(),
    "SETITEM": lambda machine, _: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
}
