"""Figures of meta-testing over the tasks: returns over the task parameters, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    """The parameters of a task with their units, or the first of many; of a task of a kind its name and what varies in
    it."""
    if has_columns(family):
        along = next(each for each in tasks_along(family, tasks) if index in each.tasks)
        return f"{along.title}, {along.label} {number(float(along.places[along.tasks == index][0]), 2)}"
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
    if not has_columns(family):
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
    """Returns over the task parameters, of test tasks, and of train tasks beside them.

    None in families of more than two parameters without kinds of tasks. Over a single parameter the returns of test
    tasks are drawn elsewhere, so that there is none without train tasks.
    """
    family, parameters = test.trained.family, len(test.trained.family.task_parameters)
    if parameters == 1:
        return [] if test.train is None else [_task_picture(test, family)]
    return [_task_picture(test, family)] if parameters == 2 or has_columns(family) else []


def has_columns(family: TaskFamily) -> bool:
    """Whether figures have a column for each kind of task: tasks differ in more than their kind."""
    return family.kinds is not None and len(family.task_parameters) > 1 and family.finite_tasks is None


class TaskReturns(NamedTuple):
    """The returns on a set of tasks."""

    name: str
    """test or train."""
    places: Float64[np.ndarray, " tasks"]
    returns: Float64[np.ndarray, "tasks episodes"]


def returns_over_parameter(axes: Axes, label: str, sets: Sequence[TaskReturns]) -> None:
    """Draws the return of episode 1 and of the last over a task parameter: test tasks as dots on a line, train tasks as
    rings."""
    several = min(each.returns.shape[1] for each in sets) > 1
    for name, places, returns in sets:
        style: dict[str, Any] = (
            {"linestyle": "-", "linewidth": 1} if name == "test" else {"linestyle": "", "fillstyle": "none"}
        )
        for episode, colour in ((0, BEFORE), (-1, AFTER)) if several else ((-1, AFTER),):
            words = f"{'episode 1' if episode == 0 else 'last episode'}, {name} tasks"
            axes.plot(places, returns[:, episode], marker="o", color=colour, markersize=5, label=words, **style)
    axes.set(xlabel=label)
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
    sets = [("test", evaluation), *([] if train is None else [("train", train)])]
    labels = labels_of(family, np.concatenate([each.tasks for _, each in sets]))
    several = min(each.returns_by_episode.shape[1] for _, each in sets) > 1
    if len(labels) == 2 and not has_columns(family):
        figure = Figure(figsize=(9, 4.0), layout="constrained")
        returns_over_plane(figure, labels, evaluation, train, several)
        over = " and ".join(labels)
    else:
        figure = _returns_by_column(family, sets)
        over = labels[0] if len(labels) == 1 else "the tasks, a column for each kind"
    means = "; ".join(f"{name} tasks {number(each.final_returns.mean())}" for name, each in sets)
    which = "on test tasks" if train is None else f"on test tasks and on {len(train.tasks)} train tasks"
    episodes = "the first and the last episode" if several else "the episode"
    return picture(
        figure,
        f"Returns over {over}, {which}; means of the last episode: {means}.",
        f"Return of {episodes} over {over}, {which}: means over trials.",
        Numbers("returns-over-tasks", joined([_set_columns(name, family, each) for name, each in sets])),
    )


def _returns_by_column(family: TaskFamily, sets: Sequence[tuple[str, Evaluation]]) -> Figure:
    tasks = np.concatenate([each.tasks for _, each in sets])
    starts = np.cumsum([0, *(len(each.tasks) for _, each in sets)])
    columns = tasks_along(family, tasks)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, along in zip(panels, columns, strict=True):
        shown = []
        for (name, each), start, end in zip(sets, starts, starts[1:], strict=False):
            own = (along.tasks >= start) & (along.tasks < end)
            shown.append(TaskReturns(name, along.places[own], each.returns_by_episode[along.tasks[own] - start]))
        returns_over_parameter(axes, along.label, shown)
        axes.set_title(along.title, fontsize="medium")
    panels[0].set_ylabel("return")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _set_columns(name: str, family: TaskFamily, evaluation: Evaluation) -> dict[str, np.ndarray]:
    columns = returns_columns(family, evaluation)
    columns.pop("success", None)
    episodes = evaluation.returns_by_episode.shape[1]
    drawn = np.isin(columns["episode"], [1, episodes])
    return {"tasks": np.full(int(drawn.sum()), name)} | {key: values[drawn] for key, values in columns.items()}
