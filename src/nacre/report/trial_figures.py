"""Figures of meta-testing, on matplotlib axes: how an agent adapts to each task, and what it does.

Blue is the last episode of a trial, vermilion the first, and later episodes are lighter, as in
:mod:`nacre.report.figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nacre.evaluation import Evaluation
from nacre.report.figures import AFTER, BEFORE, tidy, trajectories
from nacre.tasks.quantities import in_words
from nacre.types import Episode

COLUMNS = 3
_MAP = colormaps["viridis"]
_TASK_MAP = ListedColormap(_MAP(np.linspace(0.0, 0.88, 256)))
"""Without the yellow, which is not seen on white."""


def returns_by_episode(axes: Axes, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Draws the return of each episode of a trial, one line per task (a mean over its trials), and their mean.

    Lines are coloured by the task's parameter in a family of one parameter, and grey in others. Grey ground is under
    the episodes in which the agent explores, if it does.
    """
    _by_episode(axes, evaluation, evaluation.returns_by_episode, names)
    axes.set_ylabel("return")


def success_of_episodes(
    axes: Axes, evaluation: Evaluation, success: Float64[np.ndarray, "n episodes"], names: Sequence[str]
) -> None:
    """Draws the share of trials that were a success in each episode of a trial, in the same way."""
    _by_episode(axes, evaluation, success, names)
    axes.set(ylabel="success", ylim=(-0.05, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _by_episode(
    axes: Axes, evaluation: Evaluation, values: Float64[np.ndarray, "n episodes"], names: Sequence[str]
) -> None:
    episodes = np.arange(1, 1 + values.shape[1])
    protocol = evaluation.protocol
    if protocol.explores:
        axes.axvspan(0.5, protocol.exploration_episodes + 0.5, color="0.94", linewidth=0, zorder=0)
        axes.text(0.6, 1.02, "grey: task unknown", transform=axes.get_xaxis_transform(), fontsize="small", color="0.35")
    colours = ["0.6"] * len(values)
    if len(names) == 1:
        shades = task_shades(evaluation.tasks[:, 0])
        colours = [shades.to_rgba(value) for value in evaluation.tasks[:, 0]]
        axes.figure.colorbar(shades, ax=axes, label=in_words(names[0]), pad=0.02)
    marker = "." if len(episodes) == 1 else ""  # a line of one point is not seen
    for row, colour in zip(values, colours, strict=True):
        axes.plot(episodes, row, color=colour, linewidth=1.1, alpha=0.85, marker=marker)
    axes.plot(episodes, values.mean(axis=0), color="black", linewidth=2.5, marker="o", label="mean over tasks")
    axes.set(xlabel="episode of a trial", xlim=(0.5, len(episodes) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right", frameon=False, bbox_to_anchor=(1, 1), borderaxespad=0.1)
    tidy(axes)


def returns_by_task(axes: Axes, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Draws, for each task, the return of episode 1 and of the last: over the parameter in a family of one parameter,
    otherwise in the order of the last."""
    returns = evaluation.returns_by_episode
    first, last = returns[:, 0], returns[:, -1]
    if len(names) == 1:
        place = evaluation.tasks[:, 0]
        axes.set_xlabel(in_words(names[0]))
    else:
        place = np.empty(len(last))
        place[np.argsort(last)] = np.arange(1, 1 + len(last))
        axes.set_xlabel("test tasks, from the lowest to the highest last return")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if returns.shape[1] > 1:
        axes.vlines(place, first, last, color="0.75", linewidth=1.2, zorder=1)
        axes.plot(place, first, "o", color=BEFORE, markersize=5, label="episode 1")
    axes.plot(place, last, "o", color=AFTER, markersize=5, label="last episode")
    axes.set_ylabel("return")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2, borderaxespad=0.1, handletextpad=0.2)
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
    panels = panels_of(figure, len(trials))
    for axes, trial, goal in zip(panels, trials, tasks, strict=True):
        trajectories(axes, trial, goal)
        later = np.concatenate([goal[None], *(episode.tasks for episode in trial if episode.tasks is not None)])
        for number, other in enumerate(np.unique(later[(later != goal).any(axis=1)], axis=0)):
            label = "goal after a change" if number == 0 else None
            axes.plot(*other[:2], "*", color="0.45", markersize=10, markeredgecolor="white", label=label, zorder=0)
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
    label_panels(panels, "x (m)", "y (m)")


def reward_panels(
    figure: Figure, trials: Sequence[Sequence[Episode]], titles: Sequence[str], sparse: bool = False
) -> None:
    """Draws the rewards of each episode of a trial over its time steps, a panel per task.

    `sparse`: whether the sparse reward is meant.
    """
    panels = panels_of(figure, len(trials))
    shades = _MAP(np.linspace(0.0, 0.85, max(map(len, trials))))
    for axes, trial, title in zip(panels, trials, titles, strict=True):
        for number, (episode, shade) in enumerate(zip(trial, shades, strict=False), start=1):
            rewards = rewards_of(episode, sparse)
            axes.plot(np.arange(1, 1 + len(rewards)), rewards, color=shade, linewidth=1.1, label=f"episode {number}")
        axes.set_title(title, fontsize="small")
        count_steps(axes, most=5)
        tidy(axes)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    label_panels(panels, "time step of the episode", "reward")


def rewards_of(episode: Episode, sparse: bool) -> np.ndarray:
    """The rewards that a return sums."""
    return episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards


def spread(tasks: Float64[np.ndarray, "n parameters"], most: int) -> list[int]:
    """The indices of at most `most` tasks, evenly spaced in the order of their first parameter."""
    order = np.lexsort(tasks.T[::-1])
    return order[np.linspace(0, len(tasks) - 1, min(most, len(tasks))).round().astype(int)].tolist()


def panels_of(figure: Figure, n: int, same_scale: bool = True) -> list[Axes]:
    """A grid of panels; `same_scale`: with one vertical axis for all."""
    columns = min(COLUMNS, n)
    grid = figure.subplots(-(-n // columns), columns, sharex=True, sharey=same_scale, squeeze=False)
    for unused in grid.flat[n:]:
        unused.set_visible(False)
    return list(grid.flat[:n])


def label_panels(panels: Sequence[Axes], x: str, y: str, same_scale: bool = True) -> None:
    """Labels the outer panels of a grid."""
    for axes in panels:
        axes.set(xlabel=x, ylabel=y)
        axes.label_outer() if same_scale else axes.set_ylabel("")
    if not same_scale:
        panels[0].figure.supylabel(y, fontsize="medium")


def count_steps(axes: Axes, most: int = 10) -> None:
    """Whole numbers below an axis of steps, about `most` of them."""
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def task_shades(values: Float64[np.ndarray, " n"]) -> ScalarMappable:
    """Colours for the values of a task parameter."""
    low, high = values.min(), values.max()
    return ScalarMappable(Normalize(low, high if high > low else low + 1), _TASK_MAP)
