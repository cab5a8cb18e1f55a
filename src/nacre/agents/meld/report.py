"""What MELD's latent model makes of trials, in figures: pictures and rewards that it expects, and what it believes.

Trials that were played are filtered again, with noise of their own. Three expectations stand beside what was seen:

    after the frame        of the belief that has seen the frame: a reconstruction
    from the first frame   of an episode: the belief has seen all before, and that frame (conditional prior)
    from nothing           the whole trial is imagined, of its actions alone (prior)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.losses import Frames, filtered
from nacre.agents.meld.model import LatentModel
from nacre.nn.image import scaled
from nacre.report.figures import AFTER, BEFORE, tidy
from nacre.report.html import Picture, picture, with_film
from nacre.report.numbers import Numbers, crossed, rows_of
from nacre.report.task_figures import parameter_columns, task_in_words
from nacre.report.trial_figures import count_steps, label_panels, panels_of, spread
from nacre.report.trials import RunTest
from nacre.types import Episode, Key
from nacre.video import encode, font_of

FILMED_TASKS, DRAWN_TASKS = 2, 6
"""Test tasks, of each the first trial, whose pictures and whose rewards are shown."""
MOST_PICTURES = 24
"""Of a trial, side by side."""
GAP = 1
"""Pixels between pictures."""
FILM_WIDTH, FILM_GAP, FILM_RATE = 160, 4, 5
"""Of the film: about the width of a picture and the gap between two of them, in pixels, and frames per second."""
AFTER_FRAME, FROM_FIRST, FROM_NOTHING = "after the frame", "from the first frame", "from nothing"
EXPECTATIONS = (AFTER_FRAME, FROM_FIRST, FROM_NOTHING)


class Expected(NamedTuple):
    """What is expected in the frames of n trials."""

    pictures: Float[Array, "3 n T height width 3"]
    """Within 0 and 1; by :data:`EXPECTATIONS`."""
    rewards: Float[Array, "3 n T"]


class Course(NamedTuple):
    """What is believed, and what is expected, in the frames of n trials."""

    frames: Frames
    expected: Expected
    norms: Float[Array, "2 n T"]
    """Lengths of the means of z1 and z2."""
    deviations: Float[Array, "2 n T"]
    """Means over their dimensions of the standard deviations."""


def belief_pictures(test: RunTest) -> list[Picture]:
    """Film strips, rewards over trials, and the sizes of what is believed."""
    config = test.trained.experiment.algorithm
    assert isinstance(config, MeldConfig)
    tasks = spread(test.evaluation.tasks, DRAWN_TASKS)
    course = follow_trials(test.trained.parameters.model, config, [test.episodes[task][0] for task in tasks])
    return [
        _strip_picture(test, course, tasks),
        _reward_picture(test, config, course, tasks),
        _latent_picture(test, config, course, tasks),
    ]


def follow_trials(model: LatentModel, config: MeldConfig, trials: Sequence[Sequence[Episode]]) -> Course:
    """Filters trials that were played, and imagines them."""
    frames = frames_of(trials, max(len(episode) for trial in trials for episode in trial))
    return _follow(model, config, len(trials[0]), frames, jax.random.key(0))


def frames_of(trials: Sequence[Sequence[Episode]], steps: int) -> Frames:
    """The frames of trials of equally many episodes, each filled up to `steps` by its last frame."""

    def of(rows: Sequence[np.ndarray]) -> Array:
        width = len(trials[0])
        return jnp.asarray(np.stack([np.concatenate(rows[at : at + width]) for at in range(0, len(rows), width)]))

    def filled(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows, np.repeat(rows[-1:], steps + 1 - len(rows), axis=0)])

    def after_reset(rows: np.ndarray) -> np.ndarray:
        return filled(np.concatenate([np.zeros_like(rows[:1]), rows]))

    episodes = [episode for trial in trials for episode in trial]
    rewards = of([after_reset(episode.rewards) for episode in episodes])
    sparse = [episode.rewards if episode.sparse_rewards is None else episode.sparse_rewards for episode in episodes]
    place = np.arange(steps + 1)
    return Frames(
        pictures=of([filled(episode.observations) for episode in episodes]),
        actions=of([after_reset(episode.actions) for episode in episodes]),
        rewards=rewards,
        sparse_rewards=of([after_reset(each) for each in sparse]),
        terminated=jnp.zeros(rewards.shape, bool),
        mask=of([place <= len(episode) for episode in episodes]),
        acts=of([place < len(episode) for episode in episodes]),
    )


@eqx.filter_jit
def _follow(model: LatentModel, config: MeldConfig, episodes: int, frames: Frames, key: Key) -> Course:
    n, length = frames.mask.shape
    filter_key, start_key, trial_key, episode_key = jax.random.split(key, 4)
    believed = filtered(model, config, frames, filter_key)
    size = believed.latent.shape[-1]

    start = model.begin(None, jax.random.normal(start_key, (n, size))).latent
    noise = jax.random.normal(trial_key, (n, length - 1, size))
    imagined = model.imagine(start, frames.actions[:, 1:], noise).latent
    from_nothing = jnp.concatenate([start[:, None], imagined], axis=1)

    each = (n * episodes, length // episodes)
    actions = frames.actions.reshape(*each, -1)[:, 1:]
    first = believed.latent.reshape(*each, size)[:, 0]
    noise = jax.random.normal(episode_key, (each[0], each[1] - 1, size))
    imagined = model.imagine(first, actions, noise).latent
    from_first = jnp.concatenate([first[:, None], imagined], axis=1).reshape(n, length, size)

    pictures, rewards = model.decode(jnp.stack([believed.latent, from_first, from_nothing]).reshape(-1, size))
    expected = Expected(
        pictures.reshape(len(EXPECTATIONS), *frames.pictures.shape), rewards.reshape(len(EXPECTATIONS), n, length)
    )
    both = believed.first, believed.second
    return Course(
        frames,
        expected,
        jnp.stack([jnp.linalg.norm(each.mean, axis=-1) for each in both]),
        jnp.stack([each.deviation.mean(axis=-1) for each in both]),
    )


def _strip_picture(test: RunTest, course: Course, tasks: Sequence[int]) -> Picture:
    """Pictures of the first few trials, below one another: what was seen, and what was expected."""
    shown = min(FILMED_TASKS, len(tasks))
    mask = np.asarray(course.frames.mask)
    strips = []
    for trial in range(shown):
        there = np.flatnonzero(mask[trial])
        at = there[np.unique(np.linspace(0, len(there) - 1, min(MOST_PICTURES, len(there))).round().astype(int))]
        seen = np.asarray(scaled(course.frames.pictures[trial, at]))
        rows = [seen, *(np.asarray(each[trial, at]) for each in course.expected.pictures)]
        apart = [np.pad(row, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=0.8) for row in rows]
        strips.append((at, np.concatenate([np.concatenate(list(row), axis=1) for row in apart]).clip(0, 1)))
    height, width = (side + GAP for side in course.frames.pictures.shape[2:4])
    size = max(strip.shape[0] / strip.shape[1] for _, strip in strips)
    figure = Figure(figsize=(9, shown * (7.4 * size + 0.75)), layout="constrained")
    panels = figure.subplots(shown, 1, squeeze=False)[:, 0]
    for axes, (at, strip), task in zip(panels, strips, tasks, strict=False):
        axes.imshow(strip, interpolation="nearest")
        axes.set_yticks((np.arange(1 + len(EXPECTATIONS)) + 0.5) * height, ["seen", *EXPECTATIONS])
        axes.set_xticks((np.arange(len(at)) + 0.5) * width, [str(frame + 1) for frame in at], fontsize="x-small")
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(task_in_words(test.trained.family, test.evaluation.tasks, task), fontsize="small")
    panels[-1].set_xlabel("frame of the trial")
    errors = _errors(course)
    drawn = picture(
        figure,
        f"Film strips of {shown} trials: the pictures that the agent saw, and those that its model expects.",
        "What the model expects to see, below what was seen: from a belief that has seen the frame itself "
        "(a reconstruction); from the first frame of an episode on, of its actions, with what the episodes before have "
        "told (conditional prior); and from nothing, of the actions of the trial alone (prior). The film has "
        "every frame.",
        Numbers(
            "expected-pictures",
            _columns(test, course, tasks, {f"squared error {name}": values for name, values in errors.items()}),
        ),
    )
    film = encode(film_frames(course, shown), FILM_RATE)
    return with_film(drawn, film, f"Film of {shown} trials: what the agent saw, and what its model expects.")


def film_frames(course: Course, trials: int) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Of the first few trials, a row for each: what was seen, and beside it what is expected. A trial that has ended
    keeps its last frame."""
    seen = np.asarray(scaled(course.frames.pictures[:trials]))
    pictures = np.stack([seen, *np.asarray(course.expected.pictures[:, :trials])]).clip(0, 1)
    mask = np.asarray(course.frames.mask[:trials])
    times = [np.flatnonzero(each) for each in mask]
    width = pictures.shape[4]
    enlarged = max(1, round(FILM_WIDTH / width))
    for number in range(max(map(len, times))):
        lines = []
        for trial, there in enumerate(times):
            at = there[min(number, len(there) - 1)]
            shown = (255 * pictures[:, trial, at]).round().astype(np.uint8).repeat(enlarged, 1).repeat(enlarged, 2)
            apart = np.pad(shown, ((0, 0), (FILM_GAP, 0), (0, FILM_GAP), (0, 0)), constant_values=255)
            lines.append(np.concatenate(list(apart), axis=1))
        frame = np.concatenate([_film_heading(lines[0].shape[1], number + 1), *lines])
        yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), constant_values=255)


def _film_heading(width: int, frame: int) -> UInt8[np.ndarray, "height width 3"]:
    """The frame's number, and what is in each column."""
    image = Image.new("RGB", (width, 44), "white")
    pen = ImageDraw.Draw(image)
    pen.text((2, 2), f"frame {frame} of the trial", fill="black", font=font_of(14))
    for column, name in enumerate(("seen", *EXPECTATIONS)):
        pen.text((2 + column * width // (1 + len(EXPECTATIONS)), 24), name, fill="black", font=font_of(14))
    return np.array(image)


def _errors(course: Course) -> dict[str, np.ndarray]:
    """Mean squared errors of a pixel in each frame of each trial."""
    seen = np.asarray(scaled(course.frames.pictures))
    return {
        name: ((np.asarray(expected) - seen) ** 2).mean(axis=(2, 3, 4))
        for name, expected in zip(EXPECTATIONS, course.expected.pictures, strict=True)
    }


def _reward_picture(test: RunTest, config: MeldConfig, course: Course, tasks: Sequence[int]) -> Picture:
    """Rewards over trials, a panel for each."""
    figure = Figure(figsize=(9, 0.9 + 2.0 * -(-len(tasks) // 3)), layout="constrained")
    panels = panels_of(figure, len(tasks))
    styles = ("-", AFTER), ("--", BEFORE), (":", "0.5")
    for trial, axes in enumerate(panels):
        time = 1 + np.flatnonzero(np.asarray(course.frames.mask[trial]))
        for name, rewards, (line, colour) in zip(EXPECTATIONS, course.expected.rewards, styles, strict=True):
            label = f"expected {name}"
            axes.plot(time, np.asarray(rewards)[trial, time - 1], line, color=colour, linewidth=1.1, label=label)
        true = np.asarray(course.frames.rewards)[trial, time - 1]
        axes.plot(time, true, ".", color="black", markersize=3.5, label="rewarded")
        _mark_resets(axes, config, course)
        axes.set_title(task_in_words(test.trained.family, test.evaluation.tasks, tasks[trial]), fontsize="small")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    label_panels(panels, "frame of the trial", "reward")
    values = {"reward": np.asarray(course.frames.rewards)} | {
        f"expected {name}": np.asarray(rewards)
        for name, rewards in zip(EXPECTATIONS, course.expected.rewards, strict=True)
    }
    return picture(
        figure,
        f"Rewards over {len(tasks)} trials, and what the model expects.",
        "The reward with which the agent arrived in each frame, and what its model expects: see the film strips. The "
        "first frame of an episode has none, which counts as 0. If the rewards of a later episode are expected well "
        "from its first frame on, the model remembers the task.",
        Numbers("expected-rewards", _columns(test, course, tasks, values)),
    )


def _latent_picture(test: RunTest, config: MeldConfig, course: Course, tasks: Sequence[int]) -> Picture:
    """Norms of the means, and deviations, of z1 and z2 over trials."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, squeeze=False)
    kinds = ("length of the mean", course.norms), ("mean standard deviation", course.deviations)
    values = {}
    for row, (kind, both) in zip(panels, kinds, strict=True):
        for number, (axes, sizes) in enumerate(zip(row, np.asarray(both), strict=True), start=1):
            values[f"{kind} of z{number}"] = sizes
            for trial, task in enumerate(tasks):
                time = 1 + np.flatnonzero(np.asarray(course.frames.mask[trial]))
                words = "_" + task_in_words(test.trained.family, test.evaluation.tasks, task)
                axes.plot(time, sizes[trial, time - 1], linewidth=0.9, alpha=0.8, label=words)
            _mark_resets(axes, config, course)
            axes.set_title(f"{kind} of z{number}", fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("frame of the trial")
    return picture(
        figure,
        f"The lengths of the means, and the standard deviations, of z1 and z2 over {len(tasks)} trials.",
        "What is believed over trials, one line for each: how long the means of z1 and z2 are, and how uncertain they "
        "are. Dotted lines are resets. A belief that becomes more certain, and stays so over a reset, has learnt of "
        "the task.",
        Numbers("latent-states", _columns(test, course, tasks, values)),
    )


def _mark_resets(axes: Axes, config: MeldConfig, course: Course) -> None:
    length = course.frames.mask.shape[1]
    for start in range(length // config.episodes, length, length // config.episodes):
        axes.axvline(start + 1, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    count_steps(axes, most=6)
    tidy(axes)


def _columns(
    test: RunTest, course: Course, tasks: Sequence[int], values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A row for each frame that there is."""
    mask: Bool[np.ndarray, "n T"] = np.asarray(course.frames.mask)
    beside = {
        "task": np.asarray(tasks) + 1,
        **parameter_columns(test.trained.family, test.evaluation.tasks[list(tasks)]),
    }
    columns = crossed(
        {"trial": range(1, 1 + mask.shape[0]), "frame of the trial": range(1, 1 + mask.shape[1])},
        values,
        {"trial": beside},
    )
    return rows_of(columns, np.flatnonzero(mask.reshape(-1)))
