"""What PEARL infers in the course of a trial, in figures: its posteriors over z from the first transitions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Int32
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from nacre.agents.pearl.agent import PearlAgent, PearlBelief, evaluation_agent
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import ActingNetworks
from nacre.evaluation import Evaluation
from nacre.report.figures import tidy
from nacre.report.html import Picture, number, picture
from nacre.report.numbers import Numbers, crossed
from nacre.report.task_figures import MOST_PARAMETERS, parameter_columns
from nacre.report.trial_figures import task_shades
from nacre.report.trials import RunTest
from nacre.tasks.quantities import in_words
from nacre.types import Key

PARAMETERS_SHOWN = 2
SNAPSHOTS = 4
"""The most posteriors of a trial that are shown in full."""


def belief_pictures(test: RunTest) -> list[Picture]:
    """The posteriors at a few points of the trials; and their widths in the course of a trial, if they have any."""
    ends = np.array([np.cumsum(lengths) for lengths in _lengths(test.evaluation)])
    pictures = [_posterior_picture(test, ends)]
    if _config(test).probabilistic_context:
        pictures.append(_width_picture(test, ends))
    return pictures


class Posteriors(NamedTuple):
    """Diagonal Gaussians over z, of n trials at some points of their course."""

    transitions: Int[np.ndarray, "points n"]
    """How many transitions of the trial each comes from."""
    mean: Float32[np.ndarray, "points n latent"]
    variance: Float32[np.ndarray, "points n latent"]


def posteriors_after(
    agent: PearlAgent, params: ActingNetworks, belief: PearlBelief, transitions: Int[np.ndarray, "points n"]
) -> Posteriors:
    """The posteriors that the agent would have inferred after given numbers of transitions of its trials.

    Args:
        agent: the agent that played. One that draws `context_draw` transitions for a posterior draws them anew.
        params: its networks.
        belief: its beliefs at the end of n trials.
        transitions: 0 gives the prior.
    """
    keys = jax.random.split(jax.random.key(0), transitions.shape)
    mean, variance = _infer(agent, params, belief, jnp.asarray(transitions, jnp.int32), keys)
    return Posteriors(transitions, np.asarray(mean), np.asarray(variance))


@functools.partial(jax.jit, static_argnames="agent")
def _infer(
    agent: PearlAgent, params: ActingNetworks, belief: PearlBelief, transitions: Int32[Array, "points n"], keys: Key
) -> tuple[Float[Array, "points n latent"], Float[Array, "points n latent"]]:
    def infer(point: tuple[Int32[Array, " n"], Key]) -> tuple[Float[Array, "n latent"], Float[Array, "n latent"]]:
        count, point_keys = point
        inferred = agent.infer(params, belief._replace(context_count=count), point_keys)
        return inferred.mean, inferred.variance

    return jax.lax.map(infer, (transitions, keys))


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
        shades = task_shades(values)
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
        figure.colorbar(shades, ax=list(row), label=in_words(names[parameter]), pad=0.01, aspect=16)
        other = in_words(names[parameter]) if len(dimensions) == 1 else f"z{dimensions[1] + 1}"
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


def _posterior_picture(test: RunTest, ends: Int[np.ndarray, "trials episodes"]) -> Picture:
    tasks = np.repeat(test.evaluation.tasks, test.evaluation.protocol.trials, axis=0)
    names = test.trained.family.task_parameters
    transitions, moments = _moments(ends, test.trained.family.horizon)
    snapshots = _posteriors(test, transitions)
    shown = shown_parameters(snapshots.mean[-1], tasks)
    figure = Figure(figsize=(9, 0.5 + 2.3 * len(shown)), layout="constrained")
    posterior_panels(figure, snapshots, moments, tasks, names)
    parameters = " and ".join(in_words(names[index]) for index in shown)
    changes = ""
    if test.trained.family.shift is not None:
        changes = " Tasks change inside episodes here: the colour is that of the task with which they begin."
    chosen = " (of all parameters the two that the posterior says most about)" if len(names) > len(shown) else ""
    return picture(
        figure,
        f"Posteriors over z of {len(tasks)} trials, {', '.join(moments)}, coloured by {parameters}.",
        "The posterior over z as a trial goes on, from its first transitions: mean and one standard deviation, one for "
        f"each trial, coloured by the true {parameters} of the trial’s task{chosen}. The dashed ring is the prior. "
        "The dimensions of z are those that differ most between trials. "
        f"If colours separate, the agent distinguishes tasks.{changes}",
        Numbers("posteriors", _posterior_columns(test, snapshots)),
    )


def _posterior_columns(test: RunTest, snapshots: Posteriors) -> dict[str, np.ndarray]:
    trials, tasks = test.evaluation.protocol.trials, test.evaluation.tasks
    parameters = parameter_columns(test.trained.family, tasks, MOST_PARAMETERS)
    shown = {name: np.repeat(values, trials) for name, values in parameters.items()}
    return crossed(
        {"moment": range(1, 1 + len(snapshots.transitions)), "trial": range(1, 1 + snapshots.mean.shape[1])},
        {
            "transitions": snapshots.transitions,
            **{f"mean of z{index}": values for index, values in enumerate(np.moveaxis(snapshots.mean, 2, 0), start=1)},
            **{
                f"standard deviation of z{index}": np.sqrt(values)
                for index, values in enumerate(np.moveaxis(snapshots.variance, 2, 0), start=1)
            },
        },
        {"trial": {"task": np.repeat(np.arange(1, 1 + len(tasks)), trials), **shown}},
    )


def _width_picture(test: RunTest, ends: Int[np.ndarray, "trials episodes"]) -> Picture:
    points = np.unique(np.geomspace(1, ends[:, -1].min(), 16).astype(int))
    course = _posteriors(test, np.repeat(points[:, None], len(ends), axis=1))
    figure = Figure(figsize=(9, 3), layout="constrained")
    context_size = _config(test).context_size
    posterior_widths(figure.subplots(), course, context_size)
    widths = np.sqrt(course.variance[-1]).mean(axis=0).tolist()
    listed = ", ".join(f"z{dimension} {number(width, 3)}" for dimension, width in enumerate(widths, start=1))
    return picture(
        figure,
        f"Standard deviations of the posterior at the end of a trial, means over trials: {listed}.",
        "How sure the agent is: standard deviation of each dimension of the posterior, a mean over trials. The dotted "
        f"line is at the {context_size} transitions that a posterior comes from in training. A posterior is a product "
        "of factors, one for each transition. It narrows as one over the root of their number, whatever they say: a "
        "dimension that meets the prior’s 1 at the dotted line carries nothing about the task.",
        Numbers(
            "posterior-widths",
            {"transitions": points}
            | {
                f"standard deviation of z{index}, mean over trials": values
                for index, values in enumerate(np.sqrt(course.variance).mean(axis=1).T, start=1)
            },
        ),
    )


def _config(test: RunTest) -> PearlConfig:
    config = test.trained.experiment.algorithm
    assert isinstance(config, PearlConfig)
    return config


def _posteriors(test: RunTest, transitions: Int[np.ndarray, "points trials"]) -> Posteriors:
    horizon = test.trained.family.horizon
    agent = evaluation_agent(_config(test), test.trained.family.sizes, test.evaluation.protocol.capacity(horizon))
    return posteriors_after(agent, test.trained.parameters, test.belief, transitions)


def _lengths(evaluation: Evaluation) -> list[tuple[int, ...]]:
    """Steps of each episode, by trial, as far as all trials go."""
    episodes = evaluation.returns_by_episode.shape[1]
    return [trial.lengths[:episodes] for trials in evaluation.trials for trial in trials]


def _moments(
    ends: Int[np.ndarray, "trials episodes"], horizon: int
) -> tuple[Int[np.ndarray, "points trials"], tuple[str, ...]]:
    """Transitions after which posteriors are shown, and those points in words.

    `ends`: the transitions at the end of each episode.
    """
    early = max(1, horizon // 10)
    episodes = ends.shape[1]
    after = sorted({1, (1 + episodes) // 2, episodes} if episodes >= SNAPSHOTS else set(range(1, 1 + episodes)))
    transitions = [np.minimum(early, ends[:, 0]), *(ends[:, episode - 1] for episode in after)]
    words = ["after the first transition" if early == 1 else f"after {early} transitions"]
    return np.stack(transitions), (*words, *(f"after episode {episode}" for episode in after))
