"""What CEMRL infers in the course of a trial, in figures: z and the class at each step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32
from matplotlib.figure import Figure

from nacre.agents.cemrl.agent import CemrlAgent, CemrlBelief
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.networks import ActingNetworks
from nacre.report.figures import tidy
from nacre.report.html import Picture, picture
from nacre.report.trial_figures import in_words, task_shades
from nacre.report.trials import RunTest
from nacre.types import Episode, Key, Transition

PARAMETERS_SHOWN = 2


class Course(NamedTuple):
    """What an agent infers before each step of n trials. NaN where a trial is over."""

    latent: Float32[np.ndarray, "steps n latent"]
    class_probabilities: Float32[np.ndarray, "steps n K"]
    begins: Bool[np.ndarray, "steps n"]
    """Whether a step is the first of its episode."""


def belief_pictures(test: RunTest) -> list[Picture]:
    """z over the trials, z of each task, and, if there are several, the classes of each task."""
    config = test.trained.experiment.algorithm
    assert isinstance(config, CemrlConfig)
    trials = [trial for task in test.episodes for trial in task]
    course = follow_trials(CemrlAgent(config, test.trained.family.sizes), test.trained.parameters, trials)
    pictures = [_course_picture(test, course), _encoding_picture(test, course)]
    return [*pictures, _class_picture(test, course)] if config.classes > 1 else pictures


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


def _tasks(test: RunTest) -> np.ndarray:
    """The task of each trial."""
    return np.repeat(test.evaluation.tasks, test.evaluation.protocol.trials, axis=0)


def _dimension_about(course: Course, parameter: Float[np.ndarray, " n"]) -> int:
    """The dimension of z that goes most with a task parameter in the second half of the trials' steps."""
    late = np.nanmean(course.latent[len(course.latent) // 2 :], axis=0)
    centred, wanted = late - late.mean(axis=0), parameter - parameter.mean()
    scale = np.maximum(np.sqrt((centred**2).sum(axis=0) * (wanted**2).sum()), np.finfo(float).tiny)
    return int(np.abs(wanted @ centred / scale).argmax())


def _course_picture(test: RunTest, course: Course) -> Picture:
    names = test.trained.family.task_parameters[:PARAMETERS_SHOWN]
    tasks = _tasks(test)
    dimensions = [_dimension_about(course, tasks[:, index]) for index in range(len(names))]
    figure = Figure(figsize=(9, 0.5 + 2.4 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    time = np.arange(1, 1 + len(course.latent))
    for index, (axes, name, dimension) in enumerate(zip(panels, names, dimensions, strict=True)):
        shades = task_shades(tasks[:, index])
        for trial, task in enumerate(tasks):
            colour = shades.to_rgba(task[index])
            axes.plot(time, course.latent[:, trial, dimension], color=colour, linewidth=0.9, alpha=0.8)
        for start in np.flatnonzero(course.begins[:, 0])[1:]:
            axes.axvline(start + 1, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
        axes.set_ylabel(f"z{dimension + 1}")
        figure.colorbar(shades, ax=axes, label=in_words(name), pad=0.02)
        tidy(axes)
    panels[-1].set_xlabel("step of the trial")
    shown = " and ".join(
        f"z{dimension + 1} by {in_words(name)}" for name, dimension in zip(names, dimensions, strict=True)
    )
    return picture(
        figure,
        f"z at each step of {len(tasks)} trials: {shown}.",
        "What the agent infers as a trial goes on: one line for each trial, coloured by the true parameter of its "
        "task. Shown is the dimension of z that goes most with the parameter. Dotted lines are resets. Where colours "
        "separate, the agent distinguishes tasks.",
    )


def _by_task(test: RunTest, values: Float[np.ndarray, "steps n width"]) -> np.ndarray:
    """Values of the second half of the trials' steps, by task: (tasks, rows, width)."""
    late = values[len(values) // 2 :]
    trials = test.evaluation.protocol.trials
    grouped = late.reshape(len(late), -1, trials, values.shape[2])
    return grouped.transpose(1, 0, 2, 3).reshape(grouped.shape[1], -1, values.shape[2])


def _places(test: RunTest) -> tuple[np.ndarray, str]:
    """Where each task stands on an axis, and what the axis is."""
    return test.evaluation.tasks[:, 0], in_words(test.trained.family.task_parameters[0])


def _encoding_picture(test: RunTest, course: Course) -> Picture:
    places, label = _places(test)
    found = _by_task(test, course.latent)
    mean, deviation = np.nanmean(found, axis=1), np.nanstd(found, axis=1)
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for dimension in range(mean.shape[1]):
        axes.errorbar(
            places, mean[:, dimension], deviation[:, dimension], fmt="o", markersize=4, label=f"z{dimension + 1}"
        )
    axes.set(xlabel=label, ylabel="z")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    tidy(axes)
    return picture(
        figure,
        f"Mean and standard deviation of z of each test task over its {label}.",
        f"z of each test task over its {label}: mean and standard deviation over the second half of the trials’ steps.",
    )


def _class_picture(test: RunTest, course: Course) -> Picture:
    places, label = _places(test)
    share = np.nanmean(_by_task(test, course.class_probabilities), axis=1)
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    order, bottom = np.argsort(places, kind="stable"), np.zeros(len(places))
    for number in range(share.shape[1]):
        axes.bar(np.arange(len(places)), share[order, number], bottom=bottom, label=f"class {number}")
        bottom += share[order, number]
    axes.set_xticks(np.arange(len(places)), [f"{value:.3g}" for value in places[order]], rotation=90)
    axes.set(xlabel=label, ylabel="probability")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    tidy(axes)
    return picture(
        figure,
        "Probabilities of the classes in each test task.",
        "Which class the agent takes each test task for: mean probabilities over the second half of the trials’ steps.",
    )
