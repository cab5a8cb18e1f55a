"""What CEMRL infers in the course of a trial, in figures: z and the class at each step, and of each task."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nacre.agents.cemrl.agent import CemrlAgent, CemrlBelief
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.networks import ActingNetworks
from nacre.report.figures import tidy
from nacre.report.html import Picture, picture
from nacre.report.numbers import Numbers, crossed, rows_of
from nacre.report.task_figures import MOST_PARAMETERS, Along, parameter_columns, tasks_along
from nacre.report.trial_figures import count_steps, task_shades
from nacre.report.trials import RunTest
from nacre.tasks.family import TaskFamily
from nacre.tasks.quantities import labels_of
from nacre.types import Episode, Key, Transition

PARAMETERS_SHOWN = 2
MOST_TICKS = 10
"""Values that are written below the classes of tasks."""


class Course(NamedTuple):
    """What an agent infers before each step of n trials. NaN once a trial is over."""

    latent: Float32[np.ndarray, "steps n latent"]
    class_probabilities: Float32[np.ndarray, "steps n K"]
    begins: Bool[np.ndarray, "steps n"]
    """Whether a step is the first of its episode."""


def belief_pictures(test: RunTest) -> list[Picture]:
    """z over the trials; and of each task z and, if there are several, the classes."""
    config = test.trained.experiment.algorithm
    assert isinstance(config, CemrlConfig)
    trials = [trial for task in test.episodes for trial in task]
    agent = test.trained.agent(test.evaluation.protocol.capacity(test.trained.family.horizon))
    assert isinstance(agent, CemrlAgent)
    course = follow_trials(agent, test.trained.parameters, trials)
    in_force = tasks_in_force(test)
    return [
        _course_picture(test, course, in_force),
        _encoding_picture(test, encodings_of(course, in_force, config.window)),
    ]


def follow_trials(agent: CemrlAgent, params: ActingNetworks, trials: Sequence[Sequence[Episode]]) -> Course:
    """Walks through episodes that were played, and infers at each step as the agent did.

    Args:
        agent: the agent. With permuted windows the permutations are other ones.
        params: its networks.
        trials: the episodes of n trials.
    """
    n, steps = len(trials), max(sum(map(len, trial)) for trial in trials)
    keys = jax.random.split(jax.random.key(0), n)
    belief = agent.begin_trial(params, keys, None)
    flat = [[(episode, step) for episode in trial for step in range(len(episode))] for trial in trials]  # of each trial
    latents, classes, begins = [], [], []
    for time in range(steps):
        playing = np.array([time < len(trial) for trial in flat])
        places = [trial[min(time, len(trial) - 1)] for trial in flat]
        first = playing & np.array([step == 0 for _, step in places])
        belief, latent, probabilities = _step(agent, params, belief, keys, _transition(places), first, playing)
        latents.append(np.where(playing[:, None], latent, np.float32(np.nan)))
        classes.append(np.where(playing[:, None], probabilities, np.float32(np.nan)))
        begins.append(first)
    return Course(np.stack(latents), np.stack(classes), np.stack(begins))


@functools.partial(jax.jit, static_argnames="agent")
def _step(
    agent: CemrlAgent,
    params: ActingNetworks,
    belief: CemrlBelief,
    keys: Key,
    transition: Transition,
    first: Bool[Array, " n"],
    playing: Bool[Array, " n"],
) -> tuple[CemrlBelief, Float[Array, "n latent"], Float[Array, "n K"]]:
    belief = agent.begin_episode(params, belief, keys, first)
    inferred = agent.infer(params, belief, keys)
    return agent.observe(params, belief, transition, playing), inferred.latent, inferred.class_probabilities


def _transition(places: Sequence[tuple[Episode, int]]) -> Transition:
    """Step by step of several episodes."""

    def stacked(rows: Sequence[np.ndarray | np.float32]) -> Array:
        return jnp.asarray(np.stack(rows), jnp.float32)

    rewards = stacked([episode.rewards[step] for episode, step in places])
    return Transition(
        observation=stacked([episode.observations[step] for episode, step in places]),
        action=stacked([episode.actions[step] for episode, step in places]),
        reward=rewards,
        sparse_reward=rewards,
        next_observation=stacked([episode.observations[step + 1] for episode, step in places]),
        terminated=jnp.zeros(len(places), bool),
    )


def tasks_in_force(test: RunTest) -> Float64[np.ndarray, "steps n parameters"]:
    """The task of each step of each trial; NaN once a trial is over."""
    trials = [trial for trials in test.episodes for trial in trials]
    own = np.repeat(test.evaluation.tasks, test.evaluation.protocol.trials, axis=0)
    steps = max(sum(map(len, trial)) for trial in trials)
    found = np.full((steps, len(trials), own.shape[1]), np.nan)
    for index, (trial, task) in enumerate(zip(trials, own, strict=True)):
        rows = [
            np.broadcast_to(task, (len(episode), len(task))) if episode.tasks is None else episode.tasks
            for episode in trial
        ]
        together = np.concatenate(rows)
        found[: len(together), index] = together
    return found


class Encodings(NamedTuple):
    """What an agent infers in each of some tasks, in the second half of each trial's steps."""

    tasks: Float64[np.ndarray, "tasks parameters"]
    steps: Int[np.ndarray, " tasks"]
    mean: Float[np.ndarray, "tasks latent"]
    deviation: Float[np.ndarray, "tasks latent"]
    class_probabilities: Float[np.ndarray, "tasks K"]
    class_share: Float[np.ndarray, "tasks K"]
    """In how many of the steps each class was the most probable one, which is what the agent acts on."""


def encodings_of(course: Course, in_force: Float64[np.ndarray, "steps n parameters"], window: int) -> Encodings:
    """The encodings of each task that was in force.

    After a change of the task, steps whose window still holds transitions of the task before are left out.
    """
    there = np.logical_not(np.isnan(in_force).any(axis=2))
    counted = _settled(in_force, window) & _second_half(there)
    if not counted.any():
        counted = there
    rows, latent, classes = (values[counted] for values in (in_force, course.latent, course.class_probabilities))
    tasks, which = np.unique(rows, axis=0, return_inverse=True)
    groups = [np.flatnonzero(which.reshape(-1) == index) for index in range(len(tasks))]
    chosen = np.eye(classes.shape[1])[classes.argmax(axis=1)]
    return Encodings(
        tasks,
        np.array([len(group) for group in groups]),
        np.stack([latent[group].mean(axis=0) for group in groups]),
        np.stack([latent[group].std(axis=0) for group in groups]),
        np.stack([classes[group].mean(axis=0) for group in groups]),
        np.stack([chosen[group].mean(axis=0) for group in groups]),
    )


def _second_half(there: Bool[np.ndarray, "steps n"]) -> Bool[np.ndarray, "steps n"]:
    """Of each trial's own steps: one may end long before another."""
    return there & (np.arange(len(there))[:, None] >= there.sum(axis=0) // 2)


def _settled(in_force: Float64[np.ndarray, "steps n parameters"], window: int) -> Bool[np.ndarray, "steps n"]:
    """Whether the task of a step has been in force since the trial began, or for a whole window."""
    settled = np.logical_not(np.isnan(in_force).any(axis=2))
    changes = _changes(in_force)
    for time, trial in zip(*np.nonzero(changes), strict=True):
        settled[time : time + window, trial] = False
    return settled


def _changes(in_force: Float64[np.ndarray, "steps n parameters"]) -> Bool[np.ndarray, "steps n"]:
    """Whether the task of a step is another one than that of the step before."""
    differs = (in_force[1:] != in_force[:-1]) & ~np.isnan(in_force[1:])
    return np.concatenate([np.zeros((1, in_force.shape[1]), bool), differs.any(axis=2)])


def _dimension_about(course: Course, parameter: Float[np.ndarray, "steps n"]) -> int:
    """The dimension of z that goes most with a task parameter in the second half of each trial's steps."""
    late = _second_half(~np.isnan(parameter))
    latent, wanted = course.latent[late], parameter[late]
    centred, wanted = latent - latent.mean(axis=0), wanted - wanted.mean()
    scale = np.maximum(np.sqrt((centred**2).sum(axis=0) * (wanted**2).sum()), np.finfo(float).tiny)
    return int(np.abs(wanted @ centred / scale).argmax())


def _course_picture(test: RunTest, course: Course, in_force: Float64[np.ndarray, "steps n parameters"]) -> Picture:
    family, tasks = test.trained.family, test.evaluation.tasks
    labels = labels_of(family, tasks)[:PARAMETERS_SHOWN]
    dimensions = [_dimension_about(course, in_force[:, :, index]) for index in range(len(labels))]
    figure = Figure(figsize=(9, 0.5 + 2.4 * len(labels)), layout="constrained")
    panels = figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, label, dimension) in enumerate(zip(panels, labels, dimensions, strict=True)):
        _draw_course(axes, course, in_force[:, :, index], dimension, label)
        axes.set_ylabel(f"z{dimension + 1}")
        tidy(axes)
    panels[-1].set_xlabel("step of the trial")
    count_steps(panels[-1])
    shown = " and ".join(f"z{dimension + 1} by {label}" for label, dimension in zip(labels, dimensions, strict=True))
    changes = " A line changes its colour as its task changes." if _changes(in_force).any() else ""
    return picture(
        figure,
        f"z at each step of {course.latent.shape[1]} trials: {shown}.",
        "What the agent infers as a trial goes on: one line for each trial, coloured by the true parameter of its "
        "task. Shown is the dimension of z that goes most with the parameter. Dotted lines are resets. If colours "
        f"separate, the agent distinguishes tasks.{changes}",
        Numbers("z-over-time", _course_columns(test, course, in_force)),
    )


def _draw_course(
    axes: Axes, course: Course, parameter: Float64[np.ndarray, "steps n"], dimension: int, label: str
) -> None:
    shades = task_shades(parameter[~np.isnan(parameter)])
    time = np.arange(1, 1 + len(course.latent))
    for trial, values in enumerate(parameter.T):
        steps = int((~np.isnan(values)).sum())
        ends = [*(1 + np.flatnonzero(np.diff(values[:steps]))), steps]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            part = slice(start, min(end + 1, steps))  # up to the next part, so that there is no gap
            words = f"_trial {trial + 1}: {label} {values[start]:.4g}"
            axes.plot(
                time[part],
                course.latent[part, trial, dimension],
                color=shades.to_rgba(values[start]),
                linewidth=0.9,
                alpha=0.8,
                label=words,
            )
    for start in np.flatnonzero(course.begins[:, 0])[1:]:
        axes.axvline(start + 1, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    axes.figure.colorbar(shades, ax=axes, label=label, pad=0.02)


def _course_columns(
    test: RunTest, course: Course, in_force: Float64[np.ndarray, "steps n parameters"]
) -> dict[str, np.ndarray]:
    steps, n = course.begins.shape
    task = np.repeat(np.arange(len(test.evaluation.tasks)), n // len(test.evaluation.tasks)) + 1
    labels = labels_of(test.trained.family, test.evaluation.tasks)[:MOST_PARAMETERS]
    columns = crossed(
        {"trial": range(1, 1 + n), "step of the trial": range(1, 1 + steps)},
        {
            **{label: in_force[:, :, index].T for index, label in enumerate(labels)},
            **{f"z{index + 1}": values for index, values in enumerate(course.latent.transpose(2, 1, 0))},
            **{
                f"q(class {index})": values
                for index, values in enumerate(course.class_probabilities.transpose(2, 1, 0))
            },
        },
        {"trial": {"task": task}},
    )
    there = np.flatnonzero(~np.isnan(columns["z1"]))
    return rows_of(columns, there)


def _encoding_picture(test: RunTest, found: Encodings) -> Picture:
    family, classes = test.trained.family, found.class_share.shape[1]
    columns = tasks_along(family, found.tasks)
    rows = 2 if classes > 1 else 1
    figure = Figure(figsize=(9, 0.7 + (2.4 if rows == 1 else 4.3)), layout="constrained")
    panels = figure.subplots(rows, len(columns), sharey="row", squeeze=False)
    for place, along in enumerate(columns):
        _draw_encodings(panels[0, place], along, found)
        if rows == 2:
            _draw_classes(panels[1, place], along, found.class_share)
    panels[0, 0].set_ylabel("z")
    panels[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    if rows == 2:
        panels[1, 0].set_ylabel("share of steps")
        panels[1, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    titled = any(along.title for along in columns)
    each = "kind of task" if titled else "task parameter" if len(columns) > 1 else ""
    beside = f", a column for each {each}" if each else ""
    below = (
        " Below: which class the agent takes the task for, by the share of those steps in which it is the likeliest."
        if rows == 2
        else ""
    )
    return picture(
        figure,
        f"Encodings of {len(found.tasks)} tasks: mean and standard deviation of z of each{beside}.",
        f"Encodings: mean and standard deviation of z in each task{beside}, over the second half of the trials’ "
        f"steps.{below}",
        Numbers("encodings", _encoding_columns(family, found)),
    )


def _draw_encodings(axes: Axes, along: Along, found: Encodings) -> None:
    for dimension in range(found.mean.shape[1]):
        axes.errorbar(
            along.places,
            found.mean[along.tasks, dimension],
            found.deviation[along.tasks, dimension],
            fmt="o",
            markersize=4,
            label=f"z{dimension + 1}",
        )
    axes.set_title(along.title, fontsize="medium")
    axes.set_xlabel(along.label)
    tidy(axes)


def _draw_classes(axes: Axes, along: Along, share: Float[np.ndarray, "tasks K"]) -> None:
    places, bottom = np.arange(len(along.tasks)), np.zeros(len(along.tasks))
    for number in range(share.shape[1]):
        axes.bar(places, share[along.tasks, number], bottom=bottom, width=0.9, label=f"class {number}")
        bottom += share[along.tasks, number]
    shown = np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST_TICKS)).round().astype(int))
    axes.set_xticks(shown, [f"{along.places[place]:.3g}" for place in shown], rotation=90)
    axes.set(xlabel=f"{along.label}, in order", ylim=(0, 1))
    tidy(axes)


def _encoding_columns(family: TaskFamily, found: Encodings) -> dict[str, np.ndarray]:
    kinds = {} if family.kinds is None else {"kind": np.array(family.kind_names)[family.kind_of(found.tasks)]}
    return crossed(
        {"encoding": range(1, 1 + len(found.tasks))},
        {
            "steps": found.steps,
            **{f"mean of z{index + 1}": values for index, values in enumerate(found.mean.T)},
            **{f"standard deviation of z{index + 1}": values for index, values in enumerate(found.deviation.T)},
            **{f"share of steps in class {index}": values for index, values in enumerate(found.class_share.T)},
            **{f"mean of q(class {index})": values for index, values in enumerate(found.class_probabilities.T)},
        },
        {"encoding": {**kinds, **parameter_columns(family, found.tasks)}},
    )
