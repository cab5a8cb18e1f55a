"""What gradient steps report: values by column name, from arrays per step to columns of progress.csv.

An algorithm's step returns an ordered mapping from a column's name to a value of one of three kinds. The order is that
of the columns. No algorithm is named here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from nacre.types import Metrics

Values = Array | np.ndarray
"""On the device; on the host when a run takes them."""


class PerTask(NamedTuple):
    """A quantity of each task of a step. The column is its mean; a value that is not finite names its task."""

    tasks: Int[Values, "*steps tasks"]
    """Indices of train tasks."""
    values: Float[Values, "*steps tasks"]


class Summary(NamedTuple):
    """Mean, mean square, maximum and minimum of a quantity over the rows of a step.

    They become four columns, pooled over the steps of an iteration: `<name> Mean`, `Std`, `Max` and `Min`.
    """

    mean: Float[Values, "*steps"]
    mean_square: Float[Values, "*steps"]
    maximum: Float[Values, "*steps"]
    minimum: Float[Values, "*steps"]


def summarise(values: Float[Array, "..."]) -> Summary:
    return Summary(values.mean(), (values**2).mean(), values.max(), values.min())


StepMetrics = OrderedDict[str, Float[Values, "*steps"] | PerTask | Summary]
"""Metrics of one gradient step; with a leading axis, of several. (JAX would sort the keys of a plain dict.)"""

Totals = dict[str, dict[str, float]]
"""Running sums and extremes by column name: plain numbers, so that a checkpoint can hold them."""


class NonFinite(NamedTuple):
    """The first quantity of some gradient steps that is not finite."""

    quantity: str
    step: int
    """Counted from 0."""
    task: int | None
    """Index of the train task, if the quantity belongs to one."""


def find_non_finite(metrics: StepMetrics) -> NonFinite | None:
    """The first step with a value that is not finite, and the first such value in the order of the columns."""
    first: NonFinite | None = None
    for name, value in metrics.items():
        leaves = (
            [value.values] if isinstance(value, PerTask) else list(value) if isinstance(value, Summary) else [value]
        )
        for leaf in leaves:
            rows = np.asarray(leaf)
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
            if len(bad) and (first is None or bad[0] < first.step):
                step, task = int(bad[0]), None
                if isinstance(value, PerTask):
                    task = int(value.tasks[step][np.flatnonzero(~np.isfinite(rows[step]))[0]])
                first = NonFinite(name, step, task)
    return first


def accumulate(totals: Totals | None, metrics: StepMetrics) -> Totals:
    """Adds steps to the totals of an iteration; None begins an iteration. No steps still make their columns known."""
    totals = {name: dict(entry) for name, entry in (totals or {}).items()}
    for name, value in metrics.items():
        entry = totals.setdefault(name, {"steps": 0.0, "sum": 0.0})
        if isinstance(value, Summary):
            entry["squares"] = entry.get("squares", 0.0) + math.fsum(value.mean_square)
            if len(value.maximum):
                entry["maximum"] = max(entry.get("maximum", -math.inf), float(np.max(value.maximum)))
                entry["minimum"] = min(entry.get("minimum", math.inf), float(np.min(value.minimum)))
        means = value.mean if isinstance(value, Summary) else value
        means = value.values.mean(axis=1) if isinstance(value, PerTask) else means
        entry["steps"] += len(means)
        entry["sum"] += math.fsum(means)
    return totals


def without_steps(totals: Totals) -> Totals:
    """Totals of no steps, in which the same columns are known: a later iteration may have no steps of a phase."""
    kept = ("steps", "sum", "squares")
    return {name: dict.fromkeys((part for part in kept if part in entry), 0.0) for name, entry in totals.items()}


def columns(totals: Totals) -> Metrics:
    """The columns of an iteration: plain means first, and then the summaries. NaN: there were no steps."""
    row: dict[str, float] = {}
    for name, entry in totals.items():
        if "squares" not in entry:
            row[name] = _mean(entry, "sum")
    for name, entry in totals.items():
        if "squares" in entry:
            mean = row[f"{name} Mean"] = _mean(entry, "sum")
            variance = _mean(entry, "squares") - mean**2
            row[f"{name} Std"] = math.sqrt(0.0 if variance < 0 else variance)
            row[f"{name} Max"] = entry.get("maximum", math.nan)
            row[f"{name} Min"] = entry.get("minimum", math.nan)
    return row


def _mean(entry: dict[str, float], total: str) -> float:
    return entry[total] / entry["steps"] if entry["steps"] else math.nan
