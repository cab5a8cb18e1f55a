"""Figures of meta-testing, on matplotlib axes: how an agent adapts to each task, what it infers, what it does.

Blue is after inference, vermilion before it, and later episodes are lighter, as in :mod:`nacre.report.figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from nacre.evaluation import Evaluation
from nacre.report.figures import AFTER, BEFORE, tidy, trajectories
from nacre.report.posterior import Posteriors
from nacre.types import Episode

PARAMETERS_SHOWN = 2
COLUMNS = 3
_MAP = colormaps["viridis"]


def returns_by_episode(axes: Axes, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Draws the return of each episode of a trial, one line per task (a mean over its trials), and their mean.

    Lines are coloured by the task's parameter in a family of one parameter, and grey in others.
    """
    returns = evaluation.returns_by_episode
    episodes = np.arange(1, 1 + returns.shape[1])
    axes.axvspan(0.5, evaluation.protocol.exploration_episodes + 0.5, color="0.94", linewidth=0, zorder=0)
    colours = ["0.6"] * len(returns)
    if len(names) == 1:
        shades = _shades(evaluation.tasks[:, 0])
        colours = [shades.to_rgba(value) for value in evaluation.tasks[:, 0]]
        axes.figure.colorbar(shades, ax=axes, label=_words(names[0]), pad=0.02)
    for row, colour in zip(returns, colours, strict=True):
        axes.plot(episodes, row, color=colour, linewidth=1.1, alpha=0.85)
    axes.plot(episodes, returns.mean(axis=0), color="black", linewidth=2.5, marker="o", label="mean over tasks")
    axes.set(xlabel="episode of a trial", ylabel="return", xlim=(0.5, len(episodes) + 0.5))
    axes.text(0.6, 1.02, "grey: task unknown", transform=axes.get_xaxis_transform(), fontsize="small", color="0.35")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", frameon=False, bbox_to_anchor=(1, 1), borderaxespad=0.1)
    tidy(axes)


def returns_by_task(axes: Axes, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Draws, for each task, the return of episode 1 and of the last: over the parameter in a family of one parameter,
    otherwise in the order of the last."""
    returns = evaluation.returns_by_episode
    first, last = returns[:, 0], returns[:, -1]
    if len(names) == 1:
        place = evaluation.tasks[:, 0]
        axes.set_xlabel(_words(names[0]))
    else:
        place = np.empty(len(last))
        place[np.argsort(last)] = np.arange(1, 1 + len(last))
        axes.set_xlabel("test tasks, from the lowest to the highest last return")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.vlines(place, first, last, color="0.75", linewidth=1.2, zorder=1)
    axes.plot(place, first, "o", color=BEFORE, markersize=5, label="episode 1")
    axes.plot(place, last, "o", color=AFTER, markersize=5, label="last episode")
    axes.set_ylabel("return")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2, borderaxespad=0.1, handletextpad=0.2)
    tidy(axes)


def shown_parameters(means: Float32[np.ndarray, "n latent"], tasks: Float64[np.ndarray, "n parameters"]) -> list[int]:
    """Which task parameters to colour by: all of one or two, otherwise the two that a linear map of the posterior
    means explains best."""
    if tasks.shape[1] <= PARAMETERS_SHOWN:
        return list(range(tasks.shape[1]))
    inputs = np.column_stack([np.ones(len(means)), means]).astype(float)
    centred = tasks - tasks.mean(axis=0)
    unexplained = centred - inputs @ np.linalg.lstsq(inputs, centred, rcond=None)[0]
    spread = np.maximum((centred**2).sum(axis=0), np.finfo(float).tiny)
    shares = (unexplained**2).sum(axis=0) / spread
    return sorted(np.argsort(shares, kind="stable")[:PARAMETERS_SHOWN].tolist())


def widest_dimensions(means: Float32[np.ndarray, "n latent"]) -> list[int]:
    """The two dimensions of z in which posterior means differ most from trial to trial (or the only one)."""
    return sorted(np.argsort(-means.var(axis=0), kind="stable")[:2].tolist())


def posterior_panels(
    figure: Figure,
    snapshots: Posteriors,
    moments: Sequence[str],
    tasks: Float64[np.ndarray, "n parameters"],
    names: Sequence[str],
) -> None:
    """Draws posteriors over z, one per trial: a dot for the mean and an ellipse of one standard deviation, coloured by
    the true parameter of the trial's task. A column per moment, a row per parameter; a dashed ring is the prior.

    With a z of one dimension, the task's parameter is the other axis.
    """
    dimensions = widest_dimensions(snapshots.mean[-1])
    shown = shown_parameters(snapshots.mean[-1], tasks)
    alpha = min(0.18, 3 / len(tasks))  # many that coincide must not look like one that is certain
    panels = figure.subplots(len(shown), len(moments), sharex=True, sharey="row", squeeze=False)
    for row, parameter in zip(panels, shown, strict=True):
        values = tasks[:, parameter]
        shades = _shades(values)
        for axes, mean, variance in zip(row, snapshots.mean, snapshots.variance, strict=True):
            centres, widths = mean[:, dimensions].astype(float), np.sqrt(variance[:, dimensions].astype(float))
            if len(dimensions) == 1:
                centres, widths = np.column_stack([centres, values]), np.column_stack([widths, np.zeros(len(values))])
            elif variance.any():
                axes.add_patch(Ellipse((0, 0), 2, 2, fill=False, color="0.6", linestyle="--", linewidth=0.8))
            colours = shades.to_rgba(values)
            for centre, width, colour in zip(centres, widths, colours, strict=True):
                axes.add_patch(Ellipse((centre[0], centre[1]), *(2 * width), color=colour, alpha=alpha, linewidth=0))
            axes.scatter(*centres.T, s=22, c=colours, edgecolors="white", linewidths=0.4, zorder=3)
            axes.autoscale_view()
            axes.grid(alpha=0.2)
        figure.colorbar(shades, ax=list(row), label=_words(names[parameter]), pad=0.01, aspect=16)
        other = _words(names[parameter]) if len(dimensions) == 1 else f"z{dimensions[1] + 1}"
        row[0].set_ylabel(other)
    for axes, moment in zip(panels[0], moments, strict=True):
        axes.set_title(moment, fontsize="medium")
    for axes in panels[-1]:
        axes.set_xlabel(f"z{dimensions[0] + 1}")


def posterior_widths(axes: Axes, course: Posteriors, context_size: int) -> None:
    """Draws the standard deviation of each dimension of the posterior, a mean over trials, as transitions come in.

    A line marks the `context_size` of training.
    """
    deviations = np.sqrt(course.variance).mean(axis=1)
    shades = colormaps["viridis"](np.linspace(0, 0.9, deviations.shape[1]))
    for dimension, (line, shade) in enumerate(zip(deviations.T, shades, strict=True), start=1):
        axes.plot(course.transitions[:, 0], line, color=shade, linewidth=1.8, marker=".", label=f"z{dimension}")
    axes.axhline(1, color="0.5", linewidth=1, linestyle="--", label="prior", zorder=0)
    if context_size <= course.transitions.max():
        axes.axvline(context_size, color="0.5", linewidth=1, linestyle=":", label="training", zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="transitions of the trial so far", ylabel="standard deviation")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=-(-(len(shades) + 2) // 10))
    tidy(axes)


def trajectory_figure(trials: Sequence[Sequence[Episode]], tasks: Float64[np.ndarray, "n parameters"]) -> Figure:
    """A figure for :func:`trajectory_panels`, as high as the paths need."""
    positions = np.concatenate([tasks[:, :2], *(episode.observations[:, :2] for trial in trials for episode in trial)])
    width, height = np.maximum(np.ptp(positions, axis=0), 1e-6)
    panel = 2.75 * float(np.clip(height / width, 0.35, 1.5)) + 0.15
    return Figure(figsize=(9, 1.0 + panel * -(-len(trials) // COLUMNS)), layout="compressed")


def trajectory_panels(
    figure: Figure, trials: Sequence[Sequence[Episode]], tasks: Float64[np.ndarray, "n parameters"]
) -> None:
    """Draws where a point robot went, a panel per task."""
    panels = _panels(figure, len(trials))
    for axes, trial, goal in zip(panels, trials, tasks, strict=True):
        trajectories(axes, trial, goal)
        axes.grid(alpha=0.2)
    if len(trials[0]) > 6:  # too many to name: a colour bar in place of the legend
        shades = ScalarMappable(Normalize(1, len(trials[0]) / 0.85), _MAP)
        bar = figure.colorbar(shades, ax=panels, label="episode of the trial", aspect=30, pad=0.01)
        bar.ax.set_ylim(1, len(trials[0]))
        handles, labels = panels[0].get_legend_handles_labels()
        handles, labels = handles[-2:], labels[-2:]
    else:
        handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    _label(panels, "x (no unit)", "y (no unit)")


def reward_panels(
    figure: Figure, trials: Sequence[Sequence[Episode]], titles: Sequence[str], sparse: bool = False
) -> None:
    """Draws the rewards of each episode of a trial over its time steps, a panel per task.

    `sparse`: whether the sparse reward is meant.
    """
    panels = _panels(figure, len(trials))
    shades = _MAP(np.linspace(0.0, 0.85, max(map(len, trials))))
    for axes, trial, title in zip(panels, trials, titles, strict=True):
        for number, (episode, shade) in enumerate(zip(trial, shades, strict=False), start=1):
            rewards = episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards
            axes.plot(np.arange(1, 1 + len(rewards)), rewards, color=shade, linewidth=1.1, label=f"episode {number}")
        axes.set_title(title, fontsize="small")
        tidy(axes)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    _label(panels, "time step of the episode", "reward")


def spread(tasks: Float64[np.ndarray, "n parameters"], most: int) -> list[int]:
    """The indices of at most `most` tasks, evenly spaced in the order of their first parameter."""
    order = np.lexsort(tasks.T[::-1])
    return order[np.linspace(0, len(tasks) - 1, min(most, len(tasks))).round().astype(int)].tolist()


def _panels(figure: Figure, n: int) -> list[Axes]:
    columns = min(COLUMNS, n)
    grid = figure.subplots(-(-n // columns), columns, sharex=True, sharey=True, squeeze=False)
    for unused in grid.flat[n:]:
        unused.set_visible(False)
    return list(grid.flat[:n])


def _label(panels: Sequence[Axes], x: str, y: str) -> None:
    """Labels the outer panels of a grid."""
    for axes in panels:
        axes.set(xlabel=x, ylabel=y)
        axes.label_outer()


def _shades(values: Float64[np.ndarray, " n"]) -> ScalarMappable:
    low, high = values.min(), values.max()
    return ScalarMappable(Normalize(low, high if high > low else low + 1), _MAP)


def _words(parameter: str) -> str:
    return parameter.replace("_", " ")
