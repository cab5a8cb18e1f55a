"""What PEARL reports of its gradient steps: from arrays per step to columns of progress.csv (spec 2.6).

Losses, divergences and posteriors are means over all gradient steps of an iteration. The statistics of predictions are
pooled over all of them. (The original reported the first gradient step of each iteration only.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.losses import StepMetrics, Summary
from nacre.types import Metrics

MEANS = {
    "latent_mean": "Z mean train",
    "latent_variance": "Z variance train",
    "kl": "KL Divergence",
    "critic_loss": "QF Loss",
    "value_loss": "VF Loss",
    "policy_loss": "Policy Loss",
}
SUMMARIES = {
    "q": "Q Predictions",
    "v": "V Predictions",
    "log_probability": "Log Pis",
    "policy_mean": "Policy mu",
    "policy_log_std": "Policy log std",
}

Totals = dict[str, float]
"""Running sums, maxima and minima over the steps of an iteration: plain numbers, so that a checkpoint can hold them."""


class NonFinite(NamedTuple):
    """The first quantity of a call to `update` that is not finite."""

    quantity: str
    step: int
    """Gradient step, counted from 0 within the call."""
    task: int | None
    """Index of the train task, where the quantity belongs to one."""


def find_non_finite(metrics: StepMetrics) -> NonFinite | None:
    """Looks through the losses of all steps of a call, in the order in which a step computes them."""
    per_task = {"KL divergence": metrics.task_kl, "critic loss": metrics.task_critic_loss}
    whole = {"value loss": metrics.value_loss, "policy loss": metrics.policy_loss}
    bad_steps = [np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1)) for values in
                 (*per_task.values(), *whole.values())]  # fmt: skip
    first = min((int(steps[0]) for steps in bad_steps if len(steps)), default=None)
    if first is None:
        return None
    for quantity, values in per_task.items():
        bad_tasks = np.flatnonzero(~np.isfinite(values[first]))
        if len(bad_tasks):
            return NonFinite(quantity, first, int(metrics.tasks[first][bad_tasks[0]]))
    quantity = next(name for name, values in whole.items() if not np.isfinite(values[first]))
    return NonFinite(quantity, first, None)


def accumulate(totals: Totals | None, metrics: StepMetrics) -> Totals:
    """Adds the steps of one call to the totals of the iteration; None begins an iteration."""
    totals = dict(totals or {"steps": 0.0})
    totals["steps"] += len(metrics.policy_loss)
    sums = {
        "latent_mean": metrics.latent_mean,
        "latent_variance": metrics.latent_variance,
        "kl": metrics.task_kl.sum(axis=1),
        "critic_loss": metrics.task_critic_loss.mean(axis=1),
        "value_loss": metrics.value_loss,
        "policy_loss": metrics.policy_loss,
    }
    for name, values in sums.items():
        totals[name] = totals.get(name, 0.0) + math.fsum(values)
    for name in SUMMARIES:
        summary: Summary = getattr(metrics, name)
        totals[f"{name} sum"] = totals.get(f"{name} sum", 0.0) + math.fsum(summary.mean)
        totals[f"{name} squares"] = totals.get(f"{name} squares", 0.0) + math.fsum(summary.mean_square)
        totals[f"{name} max"] = max(totals.get(f"{name} max", -math.inf), float(summary.maximum.max()))
        totals[f"{name} min"] = min(totals.get(f"{name} min", math.inf), float(summary.minimum.min()))
    return totals


def columns(totals: Totals, config: PearlConfig) -> Metrics:
    """The training columns of one row of progress.csv, in the original's order."""
    steps = totals["steps"]
    row = {column: totals[name] / steps for name, column in MEANS.items()}
    row = {
        **{column: row[column] for column in ("Z mean train", "Z variance train", "KL Divergence")},
        "KL Loss": config.kl_weight * row["KL Divergence"],
        **{column: row[column] for column in ("QF Loss", "VF Loss", "Policy Loss")},
    }
    if not config.probabilistic_context:
        row = {column: value for column, value in row.items() if not column.startswith(("Z ", "KL "))}
    for name, column in SUMMARIES.items():
        mean = totals[f"{name} sum"] / steps
        row[f"{column} Mean"] = mean
        row[f"{column} Std"] = math.sqrt(max(totals[f"{name} squares"] / steps - mean**2, 0.0))
        row[f"{column} Max"] = totals[f"{name} max"]
        row[f"{column} Min"] = totals[f"{name} min"]
    return row
