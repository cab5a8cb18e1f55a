"""Random search, and runs that end early because others are ahead of them.

Samples are drawn before anything starts, from a seed of their own, so a search is a sweep like any other. Which runs go
on is decided as in asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), in the variant that stops runs
and never takes one up again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nacre.errors import NacreError, nearest, shown
from nacre.experiments.experiment import alternatives
from nacre.sweeps.mistakes import Mistakes, whole_number
from nacre.tasks.options import is_finite_number

MOST_SAMPLES = 10_000
_DIGITS = 4
"""Of a drawn number: names of folders have them."""


class Range(NamedTuple):
    """Where a value is drawn from."""

    low: float
    high: float
    is_log: bool
    """Whether its logarithm is uniform."""

    def at(self, share: float, is_whole: bool) -> float | int:
        """The value that a share of all draws is below."""
        low, high = (self.low, self.high + 1) if is_whole else (self.low, self.high)
        value = low * (high / low) ** share if self.is_log else low + (high - low) * share
        if is_whole:
            return min(int(value), int(self.high))
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


class Search(NamedTuple):
    """A random search."""

    samples: int
    seed: int
    """Of the draws."""
    ranges: Mapping[str, Range]

    def samples_of(self, types: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Values by field, none of them twice.

        Args:
            types: the annotation of each field.

        Raises:
            NacreError: a field holds no number, or the ranges have too few different values.
        """
        whole = {field: _is_whole(field, annotation) for field, annotation in types.items()}
        generator = np.random.default_rng(self.seed)
        found: dict[tuple[Any, ...], None] = {}
        for _ in range(100 * self.samples):
            shares = generator.random(len(self.ranges))
            ranges = zip(self.ranges.items(), shares, strict=True)
            found[tuple(span.at(float(share), whole[field]) for (field, span), share in ranges)] = None
            if len(found) == self.samples:
                return [dict(zip(self.ranges, values, strict=True)) for values in found]
        raise NacreError(
            f"search.samples is {self.samples}; allowed: about {len(found)}, as search.ranges has few different values"
        )


class Halving(NamedTuple):
    """Which runs end early: after `after` iterations, then `factor` times as many and so on, a run goes on if it is
    among the best 1 / `factor` of those that have come as far."""

    after: int
    factor: int

    def rung(self, complete: int) -> int:
        """The number of iterations at which a run that has so many was last compared; 0: it was not yet."""
        rung = self.after
        if complete < rung:
            return 0
        while rung * self.factor <= complete:
            rung *= self.factor
        return rung

    def is_behind(self, value: float, values: Sequence[float]) -> bool:
        """Whether a run with this test return ends, among all (it is one of them) that have come as far."""
        numbers = [-math.inf if math.isnan(other) else other for other in values]
        own = -math.inf if math.isnan(value) else value
        ahead = sum(other > own for other in numbers)
        return ahead >= math.ceil(len(numbers) / self.factor)


def read_search(given: Any, mistakes: Mistakes) -> Search | None:
    """The search that JSON values describe; what is wrong with it is added to the mistakes."""
    table = None if given is None else _table("search", given, ("samples", "seed", "ranges"), mistakes)
    if table is None:
        return None
    samples = whole_number("search.samples", table.get("samples"), 1, MOST_SAMPLES, mistakes)
    seed = whole_number("search.seed", table.get("seed", 0), 0, 2**32 - 1, mistakes)
    ranges = table.get("ranges")
    if not isinstance(ranges, Mapping) or not ranges:
        mistakes.add(f"search.ranges is {shown(ranges)}; allowed: a table of ranges, by field")
        return None
    found = {str(field): _range(f"search.ranges.{field}", span, mistakes) for field, span in ranges.items()}
    known = {field: span for field, span in found.items() if span is not None}
    return Search(samples, seed, known) if len(known) == len(ranges) else None


def read_halving(given: Any, mistakes: Mistakes) -> Halving | None:
    """The halving that JSON values describe; what is wrong with it is added to the mistakes."""
    table = None if given is None else _table("halving", given, ("after", "factor"), mistakes)
    if table is None:
        return None
    after = whole_number("halving.after", table.get("after"), 1, 1_000_000, mistakes)
    return Halving(after, whole_number("halving.factor", table.get("factor", 3), 2, 100, mistakes))


def _range(place: str, given: Any, mistakes: Mistakes) -> Range | None:
    table = _table(place, given, ("low", "high", "log"), mistakes)
    if table is None:
        return None
    low, high, is_log = table.get("low"), table.get("high"), table.get("log", False)
    if (
        is_finite_number(low)
        and is_finite_number(high)
        and low < high
        and isinstance(is_log, bool)
        and not (is_log and low <= 0)
    ):
        return Range(low, high, is_log)
    mistakes.add(
        f"{place} is {shown(given)}; allowed: {{ low = A, high = B }} with A less than B, and log = true if A is more "
        "than 0"
    )
    return None


def _table(place: str, given: Any, keys: Sequence[str], mistakes: Mistakes) -> Mapping[str, Any] | None:
    if not isinstance(given, Mapping):
        mistakes.add(f"{place} is {shown(given)}; allowed: a table of {', '.join(keys)}")
        return None
    for key in given:
        if key not in keys:
            mistakes.add(f"unknown key {shown(f'{place}.{key}')}: {nearest(str(key), keys)}")
    return given


def _is_whole(field: str, annotation: Any) -> bool:
    """Whether a field holds whole numbers.

    Raises:
        NacreError: it holds no numbers.
    """
    kinds = alternatives(annotation)
    if int not in kinds and float not in kinds:
        raise NacreError(f"search.ranges.{field} is given; allowed: fields that hold numbers")
    return float not in kinds
