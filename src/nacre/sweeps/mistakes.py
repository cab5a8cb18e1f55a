"""All that is wrong with a sweep, told at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from nacre.errors import NacreError, shown


class Mistakes:
    """Sentences about what is wrong, each once, with what it is about."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, sentence: str, about: str = "") -> None:
        abouts = self._found.setdefault(sentence, [])
        if about and about not in abouts:
            abouts.append(about)

    @contextlib.contextmanager
    def noting(self, about: str = "") -> Iterator[None]:
        try:
            yield
        except NacreError as error:
            self.add(str(error), about)

    def raise_if_any(self, where: str) -> None:
        sentences = [f"{_listed(abouts)}: {text}" if abouts else text for text, abouts in self._found.items()]
        if len(sentences) == 1:
            raise NacreError(f"{where}: {sentences[0]}")
        if sentences:
            numbered = " ".join(f"({number}) {sentence}." for number, sentence in enumerate(sentences, start=1))
            raise NacreError(f"{where} has {len(sentences)} mistakes: {numbered}")


def whole_number(name: str, given: Any, low: int, high: int, mistakes: Mistakes) -> int:
    """A whole number within bounds; the lower one if it is none, which is a mistake."""
    if type(given) is int and low <= given <= high:
        return given
    mistakes.add(f"{name} is {shown(given)}; allowed: a whole number from {low} to {high}")
    return low


def _listed(names: Sequence[str]) -> str:
    shortened = [*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else list(names)
    return " and ".join([", ".join(shortened[:-1]), shortened[-1]]) if len(shortened) > 1 else shortened[0]
