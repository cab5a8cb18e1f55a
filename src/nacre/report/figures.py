"""What is drawn on matplotlib axes. Nothing here touches pyplot or any other global state: make the figure with
`matplotlib.figure.Figure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from nacre.protocol import Protocol
from nacre.report.curves import FIRST_EPISODE, LAST_EPISODE, STEPS, Curves, cut_to_shortest, episode_columns
from nacre.report.references import Level, PublishedCurve, Reference, ReferenceCurve
from nacre.types import Episode

# People with any of the common kinds of colour blindness can distinguish blue and vermilion (Okabe and Ito).
BEFORE, AFTER, GOAL, REFERENCE = "#D55E00", "#0072B2", "#CC2255", "0.35"


def learning_curve(
    axes: Axes, curves: Curves, references: Sequence[Reference] = (), protocol: Protocol | None = None
) -> list[Artist]:
    """Draws return on test tasks against environment steps: of the last episode of a trial and, if it has several, of
    episode 1.

    A line is the mean over seeds. The band about it goes from the worst to the best seed. The lines end with the
    shortest run. Other curves are shown so far, or at least with the first point of the earliest published one.

    Args:
        axes: what is drawn on.
        curves: of the seeds.
        references: what is drawn beside them.
        protocol: of the evaluations; it names the episodes. None: "last episode" and "episode 1".

    Returns:
        The lines and bands of the seeds.
    """
    curves = cut_to_shortest(curves)
    steps = np.mean([run[STEPS] for run in curves.values()], axis=0)
    lines = [(LAST_EPISODE, protocol.last_label if protocol else "last episode", AFTER)]
    if len(episode_columns(next(iter(curves.values())))) > 1:
        lines.append((FIRST_EPISODE, protocol.first_label if protocol else "episode 1", BEFORE))
    drawn = _means_and_ranges(axes, curves, lines)
    draw_references(axes, references, steps[-1])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("test return (sum of an episode's rewards)")
    tidy(axes)
    seeds = "one seed" if len(curves) == 1 else f"mean and range of {len(curves)} seeds"
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, title=seeds, alignment="left", borderaxespad=0.2
    )
    return drawn


def outcome_curve(axes: Axes, curves: Curves, first: str, label: str) -> list[Artist]:
    """Draws success or score on test tasks against environment steps, in episode 1 and the last one, as the learning
    curve.

    Args:
        axes: what is drawn on.
        curves: of the seeds.
        first: the column of episode 1.
        label: of the axis.

    Returns:
        The lines and bands of the seeds.
    """
    curves = cut_to_shortest(curves)
    *_, last = episode_columns(next(iter(curves.values())), first)
    lines = [(last, f"_{last}", AFTER), *([(first, f"_{first}", BEFORE)] if first != last else [])]
    drawn = _means_and_ranges(axes, curves, lines)
    axes.set_ylabel(label)
    tidy(axes)
    return drawn


def _means_and_ranges(axes: Axes, curves: Curves, lines: Sequence[tuple[str, str, str]]) -> list[Artist]:
    """Draws lines, each a column, its label and its colour: the mean over seeds, and a band from the lowest to the
    highest."""
    steps = np.mean([run[STEPS] for run in curves.values()], axis=0)
    drawn: list[Artist] = []
    for column, label, colour in lines:
        values = np.stack([run[column] for run in curves.values()])
        drawn += axes.plot(steps, values.mean(axis=0), color=colour, linewidth=2, marker=".", markersize=4, label=label)
        if len(curves) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            drawn.append(axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0))
    return drawn


MOST_SEED_MARKS = 2000
"""Of all seeds in a figure: if they have more evaluations, some have no mark, and the page stays small."""


def seed_lines(
    axes: Axes, curves: Curves, columns: Mapping[str, str], most_marks: int = MOST_SEED_MARKS, words: str = "seed"
) -> dict[int, list[Artist]]:
    """Draws a thin line for each seed, which no legend names.

    Args:
        axes: what is drawn on.
        curves: of the seeds.
        columns: which quantities to draw, each with its colour.
        most_marks: how many marks there may be, which tell the values to who points at them.
        words: in front of the number of a seed.

    Returns:
        The lines of each seed.
    """
    points = len(columns) * sum(len(run[STEPS]) for run in curves.values())
    style = {"linewidth": 0.9, "alpha": 0.75, "marker": ".", "markersize": 3, "markevery": -(-points // most_marks)}
    return {
        seed: [
            line
            for column, colour in columns.items()
            for line in axes.plot(run[STEPS], run[column], color=colour, label=f"_{words} {seed}", **style)
        ]
        for seed, run in curves.items()
    }


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame at the top and the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_references(axes: Axes, references: Sequence[Reference], last_step: float) -> None:
    """Draws curves up to `last_step` environment steps, or at least the first point of the earliest published one, and
    levels as lines from side to side, named at the right.

    Published curves have markers, reference curves have none.
    """
    published = [reference for reference in references if isinstance(reference, PublishedCurve)]
    right_end = max(last_step, min((curve.points[0][0] for curve in published), default=0))
    for curve, marker in zip(published, "sD^v", strict=False):
        points = np.array([point for point in curve.points if point[0] <= right_end])
        if len(points):
            style = {"marker": marker, "markersize": 6, "linestyle": ":", "linewidth": 1}
            axes.plot(*points.T, color=REFERENCE, label=curve.label, **style)
    for curve in references:
        if isinstance(curve, ReferenceCurve):
            points = np.array([point for point in curve.points if point[0] <= right_end])
            if len(points):
                dashes = (0, (6, 1.5, 1, 1.5)) if curve.bound == "upper" else (0, (1, 1))
                axes.plot(*points.T, color=REFERENCE, label=curve.label, linewidth=1.6, linestyle=dashes, zorder=1)
    for level in references:
        if isinstance(level, Level):
            axes.axhline(level.value, color=REFERENCE, linewidth=1, linestyle=(0, (5, 4)), zorder=0)
            beside = axes.get_yaxis_transform()
            text = level.label.replace(" the ", "\nthe ")
            axes.text(1.02, level.value, text, transform=beside, va="center", fontsize="small", color=REFERENCE)


def trajectories(axes: Axes, trial: Sequence[Episode], goal: Float64[np.ndarray, "2"]) -> None:
    """Draws the episodes of one trial of a point robot, whose first two observations are its position, over the goal.

    Earlier episodes are darker. A ring marks where an episode starts.
    """
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(trial)))
    for number, (episode, shade) in enumerate(zip(trial, shades, strict=True), start=1):
        x, y = episode.observations[:, 0], episode.observations[:, 1]
        axes.plot(x, y, color=shade, linewidth=1.6, marker=".", markersize=3.5, label=f"episode {number}")
        label = "start" if number == len(trial) else None
        axes.plot(x[0], y[0], "o", color=shade, markersize=7, markerfacecolor="white", label=label)
    axes.plot(*goal, "*", color=GOAL, markersize=15, markeredgecolor="white", label="goal")
    axes.set_aspect("equal")
