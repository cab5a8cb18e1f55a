"""How rewards recover after a task has changed inside an episode."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nacre.recovery import Recovery
from nacre.report.figures import AFTER, BEFORE, tidy
from nacre.report.html import Picture, picture
from nacre.report.numbers import Numbers
from nacre.report.trials import RunTest


def recovery_pictures(test: RunTest) -> list[Picture]:
    """The mean reward about the changes of task; none if no task changed."""
    recovery = test.evaluation.recovery
    if recovery is None:
        return []
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    recovery_curve(figure.subplots(), recovery)
    sparse = " (the sparse one)" if test.evaluation.protocol.sparse_returns else ""
    shift = test.evaluation.shift
    when = "" if shift is None else f": {shift.in_words()}"
    return [
        picture(
            figure,
            " ".join(recovery.in_words()),
            f"Recovery after changes of task{when}. The line is the mean reward{sparse} over {recovery.changes} "
            "change(s), aligned at the change; steps beyond the previous or the next change count for nothing. "
            + " ".join(recovery.in_words()[1:]),
            Numbers(
                "recovery",
                {
                    "step from the change": recovery.steps,
                    "mean reward": recovery.rewards,
                    "changes that have this step": recovery.counts,
                },
            ),
        )
    ]


def recovery_curve(axes: Axes, recovery: Recovery) -> None:
    """Draws the mean reward over the steps about a change, and when the new task is followed."""
    axes.axvline(-0.5, color=BEFORE, linewidth=1.2, label="the task changes", zorder=0)
    axes.plot(recovery.steps, recovery.rewards, color=AFTER, linewidth=1.8, marker=".", markersize=4, label="reward")
    if recovery.median is not None and recovery.median <= recovery.steps[-1]:
        label = f"new task followed after {recovery.median:g} steps (median)"
        axes.axvline(recovery.median, color="0.35", linewidth=1.2, linestyle="--", label=label, zorder=0)
    present = recovery.steps[~np.isnan(recovery.rewards)]
    axes.set(
        xlabel="control step, counted from the change",
        ylabel="mean reward of a step",
        xlim=(present[0] - 1, present[-1] + 1),
    )
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=3, borderaxespad=0.2)
    tidy(axes)
