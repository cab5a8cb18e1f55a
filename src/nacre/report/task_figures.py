"""Figures of meta-testing over the tasks: returns over the task parameters, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nacre.evaluation import Evaluation
from nacre.report.figures import AFTER, BEFORE, tidy
from nacre.report.html import Picture, number, picture
from nacre.report.numbers import Numbers, crossed, joined
from nacre.report.trials import RunTest
from nacre.tasks.family import TaskFamily
from nacre.tasks.quantities import in_words, labels_of, units_of

MOST_PARAMETERS = 4
"""Of dozens of physical parameters, enough to tell tasks apart."""


def parameter_columns(
    family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], most: int | None = None
) -> dict[str, np.ndarray]:
    """The parameters of tasks as columns, at most the first `most`."""
    return dict(list(zip(labels_of(family, tasks), tasks.T, strict=True))[:most])


def task_in_words(family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], index: int) -> str:
    """The parameters of a task with their units, or the first of many."""
    names, units = family.task_parameters, units_of(family, tasks)
    words = [
        f"{in_words(name)} {number(value, 2)}{f' {unit}' if unit else ''}"
        for name, value, unit in zip(names, tasks[index], units, strict=True)
    ]
    return ", ".join(words if len(words) <= 2 else [words[0], "…"])


class Along(NamedTuple):
    """Tasks side by side along an axis: a column of a figure."""

    title: str
    label: str
    """What the axis is."""
    tasks: Int[np.ndarray, " shown"]
    """Which of the tasks, in the order of their places."""
    places: Float64[np.ndarray, " shown"]


def tasks_along(family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> list[Along]:
    """How tasks are laid out along axes.

    Along each of one or two parameters; of more, along the first. In families of several kinds of tasks that differ in
    more than their kind, a column for each kind, along the first parameter that varies in it.
    """
    labels = labels_of(family, tasks)
    if family.kinds is None or len(labels) == 1 or family.finite_tasks is not None:
        every = np.arange(len(tasks))
        return [
            _along("", tasks, labels, every, parameter) for parameter in range(len(labels) if len(labels) <= 2 else 1)
        ]
    kinds = family.kind_of(tasks)
    columns = []
    for kind in np.unique(kinds):
        chosen = np.flatnonzero(kinds == kind)
        varying = np.flatnonzero(np.ptp(tasks[chosen], axis=0) > 0)
        parameter = int(varying[0]) if len(varying) else len(labels) - 1
        columns.append(_along(family.kind_names[kind], tasks, labels, chosen, parameter))
    return columns


def _along(
    title: str,
    tasks: Float64[np.ndarray, "n parameters"],
    labels: Sequence[str],
    chosen: Int[np.ndarray, " shown"],
    parameter: int,
) -> Along:
    order = chosen[np.argsort(tasks[chosen, parameter], kind="stable")]
    return Along(title, labels[parameter], order, tasks[order, parameter])


def returns_columns(family: TaskFamily, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """The return, and the success if there is one, of each episode on each task: means over trials."""
    returns, success = evaluation.returns_by_episode, evaluation.successes_by_episode
    return crossed(
        {"task": range(1, 1 + len(returns)), "episode": range(1, 1 + returns.shape[1])},
        {"return": returns, **({} if success is None else {"success": success})},
        {"task": parameter_columns(family, evaluation.tasks)},
    )


def task_pictures(test: RunTest) -> list[Picture]:
    """Returns over the task parameters, in families of one or two: of test tasks, and of train tasks beside them."""
    parameters = len(test.trained.family.task_parameters)
    if parameters > 2 or (parameters == 1 and test.train is None):
        return []  # over a single parameter the returns of test tasks are drawn elsewhere
    return [_task_picture(test, test.trained.family)]


def returns_over_parameter(
    axes: Axes, label: str, test: Evaluation, train: Evaluation | None, several_episodes: bool
) -> None:
    """Draws the return of episode 1 and of the last over the only task parameter: test tasks as dots on a line, train
    tasks as rings."""
    for evaluation, style in ((train, "rings"), (test, "dots")):
        if evaluation is None:
            continue
        order = np.argsort(evaluation.tasks[:, 0], kind="stable")
        place, returns = evaluation.tasks[order, 0], evaluation.returns_by_episode[order]
        name = "train" if style == "rings" else "test"
        for episode, colour in ((0, BEFORE), (-1, AFTER)) if several_episodes else ((-1, AFTER),):
            words = f"{'episode 1' if episode == 0 else 'last episode'}, {name} tasks"
            if style == "rings":
                axes.plot(place, returns[:, episode], "o", color=colour, markersize=5, fillstyle="none", label=words)
            else:
                axes.plot(place, returns[:, episode], "-o", color=colour, markersize=5, linewidth=1, label=words)
    axes.set(xlabel=label, ylabel="return")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    tidy(axes)


def returns_over_plane(
    figure: Figure, labels: Sequence[str], test: Evaluation, train: Evaluation | None, several_episodes: bool
) -> None:
    """Draws tasks of two parameters as marks in a plane, coloured by the return of episode 1 and of the last: test
    tasks as dots, train tasks as squares."""
    episodes = [("episode 1", 0), ("last episode", -1)] if several_episodes else [("return", -1)]
    shown = [(test, "o", "test tasks"), *([] if train is None else [(train, "s", "train tasks")])]
    values = np.concatenate([evaluation.returns_by_episode[:, [0, -1]] for evaluation, _, _ in shown])
    values = values if several_episodes else values[:, 1:]
    low, high = float(values.min()), float(values.max())
    scale = Normalize(low, high if high > low else low + 1)
    panels = figure.subplots(1, len(episodes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, episode) in zip(panels, episodes, strict=True):
        for evaluation, marker, name in shown:
            axes.scatter(
                *evaluation.tasks.T,
                c=evaluation.returns_by_episode[:, episode],
                norm=scale,
                marker=marker,
                s=36 if marker == "o" else 26,
                edgecolors="0.5",
                linewidths=0.5,
                label=name,
            )
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.label_outer()
        tidy(axes)
    figure.colorbar(ScalarMappable(scale), ax=list(panels), label="return", pad=0.01)
    if len(shown) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)


def _task_picture(test: RunTest, family: TaskFamily) -> Picture:
    evaluation, train = test.evaluation, test.train
    tasks = evaluation.tasks if train is None else np.concatenate([evaluation.tasks, train.tasks])
    labels = labels_of(family, tasks)
    several = min(each.returns_by_episode.shape[1] for each in (evaluation, train or evaluation)) > 1
    figure = Figure(figsize=(9, 3.4 if len(labels) == 1 else 4.0), layout="constrained")
    if len(labels) == 1:
        returns_over_parameter(figure.subplots(), labels[0], evaluation, train, several)
    else:
        returns_over_plane(figure, labels, evaluation, train, several)
    sets = [("test", evaluation), *([] if train is None else [("train", train)])]
    means = "; ".join(f"{name} tasks {number(each.final_returns.mean())}" for name, each in sets)
    which = "on test tasks" if train is None else f"on test tasks and on {len(train.tasks)} train tasks"
    episodes = "the first and the last episode" if several else "the episode"
    return picture(
        figure,
        f"Returns over {' and '.join(labels)} {which}; means of the last episode: {means}.",
        f"Return of {episodes} over {' and '.join(labels)}, {which}: means over trials.",
        Numbers("returns-over-tasks", joined([_set_columns(name, family, each) for name, each in sets])),
    )


def _set_columns(name: str, family: TaskFamily, evaluation: Evaluation) -> dict[str, np.ndarray]:
    columns = returns_columns(family, evaluation)
    columns.pop("success", None)
    episodes = evaluation.returns_by_episode.shape[1]
    drawn = np.isin(columns["episode"], [1, episodes])
    return {"tasks": np.full(int(drawn.sum()), name)} | {key: values[drawn] for key, values in columns.items()}
