"""Figures of what a family measures over time: the true velocity, say, against the one that the task asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nacre.report.figures import AFTER, BEFORE, tidy
from nacre.report.html import Picture, number, picture
from nacre.report.numbers import Numbers, joined
from nacre.report.task_figures import (
    MOST_PARAMETERS,
    Along,
    has_columns,
    parameter_columns,
    task_in_words,
    tasks_along,
)
from nacre.report.trial_figures import COLUMNS, count_steps, label_panels, panels_of, spread, task_shades
from nacre.report.trials import RunTest
from nacre.tasks.family import TaskFamily
from nacre.tasks.quantities import measure
from nacre.types import Episode

DRAWN_TASKS = 6
"""Test tasks that have a panel of their own."""
LONGEST_WINDOW = 10
"""Steps of the moving mean; fewer in short episodes."""


class Response(NamedTuple):
    """What a family measured in a trial, or in a part of one."""

    episode: Int[np.ndarray, " steps"]
    """The number of the episode of each step, from 1 on."""
    step: Int[np.ndarray, " steps"]
    """The number of each step in its episode, from 1 on."""
    measured: Float64[np.ndarray, " steps"]
    smooth: Float64[np.ndarray, " steps"]
    """Mean of the latest steps of the episode."""
    target: Float64[np.ndarray, " steps"]
    """NaN: there is none."""
    changes: Bool[np.ndarray, " steps"]
    """Whether the task changed before the step."""
    reward: Float[np.ndarray, " steps"]

    def of_episode(self, number: int) -> Response:
        return Response._make(column[self.episode == number] for column in self)


def response_pictures(test: RunTest) -> list[Picture]:
    """The quantity of the family over the time of a trial, for some test tasks and for all; none if the family says of
    no quantity what its tasks are about."""
    if test.trained.family.quantity is None or test.episodes[0][0][0].reward_states is None:
        return []
    family, tasks = test.trained.family, test.evaluation.tasks
    responses = [trial_response(family, trials[0], task) for trials, task in zip(test.episodes, tasks, strict=True)]
    drawn = spread(tasks, DRAWN_TASKS)
    return [_panels_picture(test, responses, drawn), _together_picture(test, responses)]


def trial_response(family: TaskFamily, trial: Sequence[Episode], task: Float64[np.ndarray, " parameters"]) -> Response:
    """What the family measured in the episodes of a trial."""
    window = moving_window(family.horizon)
    parts = []
    for number_, episode in enumerate(trial, start=1):
        found = measure(family, episode, task)
        steps = np.arange(1, 1 + len(episode))
        smooth = moving_mean(found.measured, window)
        parts.append(
            (np.full(len(steps), number_), steps, found.measured, smooth, found.target, found.changes, episode.rewards)
        )
    return Response._make(np.concatenate(column) for column in zip(*parts, strict=True))


def moving_window(horizon: int) -> int:
    """Over how many steps means are taken."""
    return max(1, min(LONGEST_WINDOW, horizon // 20))


def moving_mean(values: Float64[np.ndarray, " steps"], window: int) -> Float64[np.ndarray, " steps"]:
    """The mean of each value and those before it, of `window` values or as many as there are."""
    total = np.cumsum(np.append(0.0, values))
    end = np.arange(1, 1 + len(values))
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def response_panels(
    figure: Figure,
    responses: Sequence[Response],
    titles: Sequence[str],
    quantity: str,
    window: int,
    same_scale: bool = True,
) -> None:
    """Draws what was measured in trials over their steps, a panel for each, with the target and the changes of task."""
    panels = panels_of(figure, len(responses), same_scale)
    for axes, response, title in zip(panels, responses, titles, strict=True):
        time = np.arange(1, 1 + len(response.step))
        _mark(axes, response, time)
        gaps = np.flatnonzero(response.step[1:] == 1) + 1  # a line does not go on from one episode to the next
        lines = [("measured", response.measured, 0.7, 0.45), (f"mean of {window} steps", response.smooth, 1.6, 1.0)]
        for name, values, width, alpha in lines if window > 1 else [("measured", response.measured, 1.4, 1.0)]:
            x, y = np.insert(time.astype(float), gaps, np.nan), np.insert(values, gaps, np.nan)
            axes.plot(x, y, color=AFTER, label=name, linewidth=width, alpha=alpha)
        if not np.isnan(response.target).all():
            axes.plot(time, response.target, color="black", linestyle="--", linewidth=1.2, label="target", zorder=3)
        axes.set_title(title, fontsize="small")
        count_steps(axes, most=5)
        tidy(axes)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    label_panels(panels, "step of the trial", quantity, same_scale)


def responses_together(axes: Axes, responses: Sequence[Response], along: Along) -> None:
    """Draws the last episodes of trials on some tasks over their steps, in the colours of a task parameter; the target
    of each is dashed."""
    shades = task_shades(along.places)
    for task, place in zip(along.tasks, along.places, strict=True):
        response, colour = responses[task], shades.to_rgba(place)
        label = f"task {task + 1}: {along.label} {number(place, 2)}"
        axes.plot(response.step, response.smooth, color=colour, linewidth=1.1, label=f"_{label}")
        if not np.isnan(response.target).all():
            style: dict[str, Any] = {"linewidth": 0.9, "linestyle": "--", "label": f"_target of {label}"}
            axes.plot(response.step, response.target, color=colour, **style)
        changed = response.changes
        style = {"color": BEFORE, "markersize": 5, "label": f"_change in {label}"}
        axes.plot(response.step[changed], response.smooth[changed], "v", **style)
    axes.figure.colorbar(shades, ax=axes, label=along.label, pad=0.02)
    axes.set_title(along.title, fontsize="medium")
    axes.set(xlabel="step of the last episode")
    count_steps(axes, most=10 if not along.title else 5)
    tidy(axes)


def _mark(axes: Axes, response: Response, time: Int[np.ndarray, " steps"]) -> None:
    """Lines where an episode begins, and where the task changes."""
    for start in time[response.step == 1][1:]:
        axes.axvline(start - 0.5, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    for index, change in enumerate(time[response.changes]):
        label = "task changes" if index == 0 else None
        axes.axvline(change - 0.5, color=BEFORE, linewidth=1, linestyle="-", alpha=0.7, zorder=0, label=label)


def _panels_picture(test: RunTest, responses: Sequence[Response], drawn: Sequence[int]) -> Picture:
    family, tasks = test.trained.family, test.evaluation.tasks
    quantity, window = family.quantity or "", moving_window(family.horizon)
    titles = [f"task {index + 1}: {task_in_words(family, tasks, index)}" for index in drawn]
    figure = Figure(figsize=(9, 0.9 + 2.1 * -(-len(drawn) // COLUMNS)), layout="constrained")
    response_panels(figure, [responses[index] for index in drawn], titles, quantity, window, not has_columns(family))
    target = " The dashed line is what the task asks for." if _have_targets(responses) else ""
    mean = f" The thick line is the mean of the latest {window} steps." if window > 1 else ""
    changes = " Vertical lines are changes of the task." if any(each.changes.any() for each in responses) else ""
    resets = " Dotted lines are resets." if any(each.episode[-1] > 1 for each in responses) else ""
    return picture(
        figure,
        f"Time response: {quantity} over the steps of one trial on each of {len(drawn)} test tasks.{target}",
        f"Time response: {quantity} in one trial on each of some test tasks.{target}{mean}{changes}{resets}",
        Numbers("response", joined([_columns(family, tasks, index, responses[index]) for index in drawn])),
    )


def _together_picture(test: RunTest, responses: Sequence[Response]) -> Picture:
    family, tasks = test.trained.family, test.evaluation.tasks
    last = [each.of_episode(int(each.episode[-1])) for each in responses]
    columns = tasks_along(family, tasks) if has_columns(family) else tasks_along(family, tasks)[:1]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, along in zip(panels, columns, strict=True):
        responses_together(axes, last, along)
    panels[0].set_ylabel(family.quantity or "")
    window = moving_window(family.horizon)
    mean = f", mean of the latest {window} steps" if window > 1 else ""
    target = " The dashed line of the same colour is what the task asks for." if _have_targets(last) else ""
    changes = " Triangles are changes of the task." if any(each.changes.any() for each in last) else ""
    return picture(
        figure,
        f"Time response: {family.quantity} over the steps of the last episode of one trial on each of {len(tasks)} "
        f"test tasks; {_distance_in_words(last)}.",
        f"Time response on all test tasks: {family.quantity} in the last episode of a trial{mean}.{target}{changes}",
        Numbers(
            "response-all-tasks",
            joined([_columns(family, tasks, index, response) for index, response in enumerate(last)]),
        ),
    )


def _distance_in_words(responses: Sequence[Response]) -> str:
    """How near the second halves of episodes are to their targets, or what is measured there if there are none."""
    late = [slice(len(each.step) // 2, None) for each in responses]
    measured = np.concatenate([each.measured[part] for each, part in zip(responses, late, strict=True)])
    distance = abs(measured - np.concatenate([each.target[part] for each, part in zip(responses, late, strict=True)]))
    known = distance[~np.isnan(distance)]
    what, values = ("the mean distance to the target", known) if len(known) else ("the mean", measured)
    return f"in the second half of the episode {what} is {number(float(values.mean()), 2)}"


def _have_targets(responses: Sequence[Response]) -> bool:
    return any(not np.isnan(each.target).all() for each in responses)


def _columns(
    family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], index: int, response: Response
) -> dict[str, np.ndarray]:
    n, quantity, window = len(response.step), family.quantity or "", moving_window(family.horizon)
    parameters = parameter_columns(family, tasks, MOST_PARAMETERS)
    return {
        "task": np.full(n, index + 1),
        **{name: np.full(n, values[index]) for name, values in parameters.items()},
        "episode": response.episode,
        "step of the episode": response.step,
        quantity: response.measured,
        f"mean of {window} steps of the {quantity}": response.smooth,
        f"target of the {quantity}": response.target,
        "task changes": response.changes,
        "reward": response.reward,
    }
