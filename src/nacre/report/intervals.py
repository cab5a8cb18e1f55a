"""The interquartile mean of runs, and bootstrap intervals for it (Agarwal et al. 2021, "Deep reinforcement learning at
the edge of the statistical precipice").

The unit that is drawn again is a run: the test tasks of one run share what it has learnt, so that they are not
independent of one another. The strata are the groups: each is drawn anew from its own runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import stats

LEVEL = 0.95
FEWEST_RUNS = 3
"""With two runs, an interval would be their range and no more."""
_RESAMPLES = 5000
_BATCH = 250  # resamples at a time: a few megabytes, however long the curves


class Interval(NamedTuple):
    """The ends of a confidence interval, elementwise."""

    low: Float64[np.ndarray, "*columns"]
    high: Float64[np.ndarray, "*columns"]


def interquartile_mean(values: Float64[np.ndarray, "runs *columns"], axis: int = 0) -> Float64[np.ndarray, "..."]:
    """The mean of the middle half: without a quarter of the values, rounded down, at each end."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


def interval(values: Float64[np.ndarray, "runs *columns"]) -> Interval | None:
    """The 95 % percentile-bootstrap interval of the interquartile mean, column by column.

    The same values give the same interval. None: there are fewer than `FEWEST_RUNS` runs.
    """
    return _bootstrap((values,), interquartile_mean) if len(values) >= FEWEST_RUNS else None


def difference_interval(one: Float64[np.ndarray, " runs"], other: Float64[np.ndarray, " others"]) -> Interval | None:
    """The same for the interquartile mean of `one` minus that of `other`, with the two as strata."""
    if min(len(one), len(other)) < FEWEST_RUNS:
        return None
    return _bootstrap((one, other), lambda x, y, axis: interquartile_mean(x, axis) - interquartile_mean(y, axis))


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray]) -> Interval:
    found = stats.bootstrap(
        samples,
        statistic,
        axis=0,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(np.asarray(found.low), np.asarray(found.high))
