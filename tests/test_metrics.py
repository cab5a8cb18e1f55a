"""Metrics of gradient steps: how they are pooled over an iteration, and which one is named if it is not finite."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nacre.metrics import (
    NonFinite,
    PerTask,
    StepMetrics,
    Summary,
    accumulate,
    columns,
    find_non_finite,
    summarise,
    without_steps,
)

STEPS, ROWS, TASKS = 7, 11, 3


def raw() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "loss": generator.normal(size=STEPS),
        "Q": generator.normal(3, 2, (STEPS, ROWS)),
        "kl": generator.normal(size=(STEPS, TASKS)),
        "Log": generator.normal(-1, 0.5, (STEPS, ROWS)),
    }


def metrics_of(values: dict[str, np.ndarray], steps: slice = slice(None)) -> StepMetrics:
    """Summaries between plain values, so that the order of the columns shows."""

    def summary(name: str) -> Summary:
        rows = values[name][steps]
        return Summary(rows.mean(axis=1), (rows**2).mean(axis=1), rows.max(axis=1), rows.min(axis=1))

    tasks = np.arange(STEPS * TASKS).reshape(STEPS, TASKS) % 10
    return OrderedDict(
        loss=values["loss"][steps], Q=summary("Q"), kl=PerTask(tasks[steps], values["kl"][steps]), Log=summary("Log")
    )


def test_means_and_pooled_summaries_whatever_the_chunks() -> None:
    values = raw()
    expected = {"loss": values["loss"].mean(), "kl": values["kl"].mean()}
    for name in ("Q", "Log"):
        rows = values[name]
        pooled = {"Mean": rows.mean(), "Std": rows.std(), "Max": rows.max(), "Min": rows.min()}
        expected |= {f"{name} {kind}": value for kind, value in pooled.items()}
    for cuts in ([0, STEPS], [0, 3, STEPS], [0, 1, 2, 6, STEPS]):
        totals = None
        for start, end in itertools.pairwise(cuts):
            before = json.dumps(totals)
            new = accumulate(totals, metrics_of(values, slice(start, end)))
            assert json.dumps(totals) == before  # what was given is left as it is
            totals = json.loads(json.dumps(new, allow_nan=False))  # as a checkpoint keeps it
        row = columns(totals)
        assert list(row) == ["loss", "kl", *(f"{name} {kind}" for name in ("Q", "Log") for kind in pooled)]
        for name, value in expected.items():
            assert row[name] == pytest.approx(value), name


def test_columns_of_phases_stand_in_the_order_in_which_they_came() -> None:
    first: StepMetrics = OrderedDict(zebra=np.ones(2), model=np.array([1.0, 2.0]))
    second: StepMetrics = OrderedDict(ape=np.full(4, 5.0))
    row = columns(accumulate(accumulate(accumulate(None, first), second), first))
    assert list(row.items()) == [("zebra", 1.0), ("model", 1.5), ("ape", 5.0)]


def test_no_steps_add_nothing_but_the_names() -> None:
    """What a seed reports whose phase has ended, while others go on."""
    nothing, some = metrics_of(raw(), slice(0, 0)), metrics_of(raw())
    assert find_non_finite(nothing) is None
    alone = columns(accumulate(None, some))
    for totals in (
        accumulate(accumulate(None, some), nothing),
        accumulate(accumulate(None, nothing), some),
        accumulate(json.loads(json.dumps(accumulate(None, nothing), allow_nan=False)), some),
    ):
        row = columns(totals)
        assert list(row) == list(alone)
        assert row == pytest.approx(alone)
    empty = columns(accumulate(None, nothing))
    assert list(empty) == list(alone)
    assert np.isnan(list(empty.values())).all()


def test_columns_stay_when_there_are_no_more_steps() -> None:
    """In a later iteration, which may go on from a checkpoint."""
    first = accumulate(None, metrics_of(raw()))
    totals = json.loads(json.dumps(without_steps(first), allow_nan=False))
    assert list(columns(totals)) == list(columns(first))
    assert np.isnan(list(columns(totals).values())).all()
    assert columns(accumulate(totals, metrics_of(raw()))) == columns(first)


def test_a_constant_has_no_spread() -> None:
    """Also if rounding makes the mean square a little smaller than the square of the mean."""
    rows = np.full((3, 4), 0.1)
    summary = Summary(rows.mean(1), (rows**2).mean(1) - 1e-18, rows.max(1), rows.min(1))
    row = columns(accumulate(None, OrderedDict(Q=summary)))
    assert row["Q Std"] == 0


def test_a_summary_of_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    expected = (rows.mean(), (rows**2).mean(), rows.max(), rows.min())
    np.testing.assert_allclose(summarise(jnp.asarray(rows)), expected, rtol=1e-5)


def test_jax_keeps_the_order() -> None:
    metrics = jax.jit(lambda: OrderedDict(zebra=jnp.ones(()), ape=PerTask(jnp.arange(2), jnp.ones(2))))()
    assert list(metrics) == ["zebra", "ape"]
    assert isinstance(metrics["ape"], PerTask)


def spoilt(*places: tuple[str, int, int], value: float = np.nan) -> StepMetrics:
    values = raw()
    for name, step, row in places:
        values[name][(step, row) if values[name].ndim == 2 else step] = value
    return metrics_of(values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], None),
        ([("loss", 4, 0)], NonFinite("loss", 4, None)),
        ([("Log", 2, 5)], NonFinite("Log", 2, None)),
        ([("kl", 0, 1)], NonFinite("kl", 0, 1)),
        ([("kl", 5, 1), ("kl", 5, 2)], NonFinite("kl", 5, (5 * TASKS + 1) % 10)),
        # The first step counts, and within it the first column, in whatever order of names.
        ([("loss", 4, 0), ("Log", 3, 0)], NonFinite("Log", 3, None)),
        ([("Log", 3, 0), ("kl", 3, 2), ("Q", 4, 0)], NonFinite("kl", 3, (3 * TASKS + 2) % 10)),
        ([("kl", 3, 0), ("Q", 3, 8), ("loss", 6, 0)], NonFinite("Q", 3, None)),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_first_value_that_is_not_finite(
    places: list[tuple[str, int, int]], expected: NonFinite | None, value: float
) -> None:
    assert find_non_finite(spoilt(*places, value=value)) == expected


def test_a_square_that_overflows_is_found() -> None:
    """The values are finite, and their spread is not."""
    summary = Summary(np.ones(2), np.array([1.0, np.inf]), np.ones(2), np.ones(2))
    assert find_non_finite(OrderedDict(Q=summary)) == NonFinite("Q", 1, None)
