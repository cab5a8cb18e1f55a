"""Reads gin files, as far as they bind plain values: `train_eval.num_train_tasks = 20`.

Later files, and later lines, win. Macros, references, scopes, imports and includes are refused: what they stand for is
in the old code.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenInfo
from typing import Any, NamedTuple, NoReturn

from nacre.errors import NacreError, shown
from nacre.files import read_text

_BINDINGS = "bindings of plain values, such as train_eval.num_train_tasks = 20"
_VALUES = "numbers, text, True, False, None, and lists, tuples and dictionaries of these"
_BETWEEN = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
"""Tokens that say nothing. What is indented is like what is not."""


class Binding(NamedTuple):
    """A value, and where it stands."""

    value: Any
    path: Path
    line: int

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.line}"


def read_gin(paths: Sequence[Path]) -> dict[str, Binding]:
    """What gin files bind, by key.

    Raises:
        NacreError: a file cannot be read, or has a line that is no binding of a plain value; the message names it.
    """
    return {key: binding for path in paths for key, binding in _bindings_in(path)}


def _bindings_in(path: Path) -> Iterator[tuple[str, Binding]]:
    lines = list(io.StringIO(read_text(path), newline=None))
    for tokens in _statements(path, lines):
        line = tokens[0].start[0]
        equals = next((place for place, token in enumerate(tokens) if token.string == "="), len(tokens))
        key = "".join(token.string for token in tokens[:equals])
        if equals >= len(tokens) - 1 or "." not in key or not all(map(str.isidentifier, key.split("."))):
            _refuse(path, line, _what(tokens, key, equals))
        yield key, Binding(_value(path, tokens[equals + 1 :], lines), path, line)


def _statements(path: Path, lines: Sequence[str]) -> Iterator[list[TokenInfo]]:
    """The tokens of each statement, which may go over several lines, without comments."""
    tokens: list[TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
            if token.type == tokenize.NEWLINE:
                yield tokens
                tokens = []
            elif token.type not in _BETWEEN:
                tokens.append(token)
    except tokenize.TokenError as error:
        _refuse(path, error.args[1][0], f"it cannot be read ({error.args[0]})")
    except SyntaxError as error:
        _refuse(path, error.lineno or 1, f"it cannot be read ({error.msg})")


def _what(tokens: Sequence[TokenInfo], key: str, equals: int) -> str:
    """What a statement is that is no binding."""
    if tokens[0].string in ("import", "include", "from"):
        return f"{tokens[0].string} is not followed"
    if equals >= len(tokens) - 1:
        return f"{shown(tokens[0].line.strip())} is no binding"
    if "/" in key:
        return f"{shown(key)} has a scope"
    return f"{shown(key)} is no parameter of a function, but a macro perhaps"


def _value(path: Path, tokens: Sequence[TokenInfo], lines: Sequence[str]) -> Any:
    """The value that tokens spell."""
    (first, begin), (last, end) = tokens[0].start, tokens[-1].end
    part = list(lines[first - 1 : last])
    part[-1] = part[-1][:end]
    part[0] = part[0][begin:]
    text = "".join(part)
    for sign, kind in (("@", "a reference"), ("%", "a macro")):
        if any(token.type != tokenize.STRING and token.string == sign for token in tokens):
            _refuse(path, first, f"{shown(text)} has {kind}", _VALUES)
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        value = ...
    if not _is_plain(value):
        _refuse(path, first, f"{shown(text)} is no plain value", _VALUES)
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 2**63)


def _refuse(path: Path, line: int, what: str, allowed: str = _BINDINGS) -> NoReturn:
    raise NacreError(f"{path}, line {line}: {what}; allowed: {allowed}") from None
