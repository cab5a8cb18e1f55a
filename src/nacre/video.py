"""Videos of trials: what an agent did in an evaluation, with the task, the episode and its return written above."""

from __future__ import annotations

import functools
import io
import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.console
from jaxtyping import Float, Float64, Real, UInt8
from PIL import Image, ImageDraw, ImageFont
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nacre.evaluation import Evaluation
from nacre.files import make_folder, write_atomically
from nacre.tasks.family import TaskFamily
from nacre.tasks.quantities import Measurement, in_words, measure, unit_of, units_of
from nacre.tasks.rendering import Renderer, Signs, signs_of
from nacre.tasks.simulator import Simulator
from nacre.types import Episode

Frame = UInt8[np.ndarray, "height width 3"]

WIDTH, HEIGHT = 400, 300
"""Of the picture of the world, in pixels."""
CAPTION_HEIGHT = 94
"""Of the text above it. Video in H.264 has even sizes."""
MOST_FRAMES_PER_SECOND = 50
"""Of a faster world every second or third step is shown, still in its own time."""
PAUSE = 0.5
"""Seconds for which the last picture of an episode stays."""
MOST_PARAMETERS = 6
"""Of a task with more parameters the number alone is shown; the file of the evaluation has them all."""


class RecordingSimulator(Simulator):
    """A simulator that remembers what pictures of its episodes will need."""

    def __init__(self, family: TaskFamily, n_slots: int, threads: int | None = None) -> None:
        super().__init__(family, n_slots, threads)
        self.recordings: list[list[list[Any]]] = [[] for _ in range(n_slots)]
        """By slot and episode: the configurations after its reset and after each of its steps, as :func:`packed`."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        configurations = self.configurations()
        for slot in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            self.recordings[slot].append([packed(configurations[slot])])
        return result

    def step(self, actions: Float[np.ndarray, "n action"]) -> Any:
        result = super().step(actions)
        configurations = self.configurations()
        for slot in np.flatnonzero(result[-1]["active"]):
            self.recordings[slot][-1].append(packed(configurations[slot]))
        return result


class Shot(NamedTuple):
    """One picture of a video and how many frames it stays."""

    lines: tuple[str, ...]
    configuration: Any
    signs: Signs
    frames: int


def write_videos(
    folder: Path,
    simulator: RecordingSimulator,
    renderer: Renderer,
    evaluation: Evaluation,
    episodes: list[list[list[Episode]]],
    written: Callable[[int, Path], None],
    quiet: bool = False,
) -> None:
    """Draws the first trial of each task into a file of its own, task-00.mp4 and so on, and shows how far it is.

    Args:
        folder: of the files. It is made; a video that is interrupted leaves nothing in it.
        simulator: the one that the evaluation was played in.
        renderer: draws its configurations, in WIDTH and HEIGHT.
        evaluation: its results.
        episodes: what was played, by task and trial, as `play_trials` returns it.
        written: is called with the number of a task and the file of its video when that is complete.
        quiet: shows nothing.

    Raises:
        NacreError: a file cannot be written.
    """
    make_folder(folder)
    films = [shots_of(simulator, evaluation, task, trials[0]) for task, trials in enumerate(episodes)]
    digits = max(2, len(str(len(films) - 1)))
    console = rich.console.Console(highlight=False, quiet=quiet)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures ·"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        bar = progress.add_task("", total=sum(map(len, films)))
        for task, shots in enumerate(films):
            path = folder / f"task-{task:0{digits}d}.mp4"
            progress.update(bar, description=path.name)
            frames = _draw(shots, renderer, lambda: progress.advance(bar))
            write_atomically(path, encode(frames, _pace(simulator)[1]))
            if not console.is_terminal:
                console.print(f"video {task + 1} of {len(films)}: {path}", markup=False, soft_wrap=True)
            written(task, path)


def shots_of(simulator: RecordingSimulator, evaluation: Evaluation, task: int, trial: list[Episode]) -> list[Shot]:
    """The pictures of the first trial of a task, of which `trial` has the episodes."""
    family, protocol = simulator.family, evaluation.protocol
    units = units_of(family, evaluation.tasks)
    every, rate = _pace(simulator)
    shots = []
    recorded = simulator.recordings[task * protocol.trials]
    for index, (episode, configurations) in enumerate(zip(trial, recorded, strict=True)):
        activity = protocol.activity(index)
        rewards = episode.sparse_rewards if protocol.sparse_returns else None
        rewards = episode.rewards if rewards is None else rewards
        steps = len(episode)
        measured = family.quantity is not None and episode.reward_states is not None
        course = measure(family, episode, evaluation.tasks[task]) if measured else None
        for step in [*range(0, steps, every), steps]:
            # The task of the step that comes next; after the last step, that of the last.
            now = evaluation.tasks[task] if episode.tasks is None else episode.tasks[min(step, steps - 1)]
            changed = not np.array_equal(now, evaluation.tasks[task])
            lines = (
                _caption_of(family, task, now, units, changed),
                f"episode {index + 1} of {len(trial)}" + (f": {activity}" if activity else ""),
                f"step {step} of {family.horizon} · return {math.fsum(rewards[:step]):.2f}",
                *([] if course is None else [_measured_of(family, course, step)]),
            )
            frames = 1 + round(PAUSE * rate) if step == steps else 1
            shots.append(Shot(lines, configurations[step], signs_of(family, now), frames))
    return shots


def encode(frames: Iterable[Frame], rate: Fraction | int) -> bytes:
    """Frames of one size, which is even, as an MP4 file that browsers play (H.264, 4:2:0)."""
    import av  # here: it takes as long as NumPy to import, and no other command needs it

    file, frames = io.BytesIO(), iter(frames)
    first = next(frames)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        for frame in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def draw_caption(lines: tuple[str, ...]) -> Frame:
    """Text on grey, each line as large as the width allows, shape (CAPTION_HEIGHT, WIDTH, 3)."""
    image = Image.new("RGB", (WIDTH, CAPTION_HEIGHT), "gainsboro")
    pen = ImageDraw.Draw(image)
    margin, distance, size = 8, 21, 15
    for number, line in enumerate(lines):
        width = font_of(size).getlength(line)
        fitting = font_of(min(size, math.floor(size * (WIDTH - 2 * margin) / width)))
        pen.text((margin, margin + number * distance), line, fill="black", font=fitting)
    return np.array(image)


def _draw(shots: list[Shot], renderer: Renderer, drawn: Callable[[], None]) -> Iterator[Frame]:
    for lines, configuration, signs, frames in shots:
        picture = np.concatenate([draw_caption(lines), renderer.draw(unpacked(configuration), signs)])
        yield from itertools.repeat(picture, frames)
        drawn()


def packed(configuration: Real[np.ndarray, " configuration"]) -> Any:
    """Less to keep of a picture: thousands of them would fill the memory."""
    return zlib.compress(configuration.tobytes(), 1) if configuration.dtype == np.uint8 else configuration


def unpacked(packed: Any) -> Real[np.ndarray, " configuration"]:
    return np.frombuffer(zlib.decompress(packed), np.uint8) if isinstance(packed, bytes) else packed


def _pace(simulator: Simulator) -> tuple[int, Fraction]:
    """Every how many steps there is a frame, and the frames per second that make the world's time real."""
    every = math.ceil(simulator.frames_per_second / MOST_FRAMES_PER_SECOND)
    return every, Fraction(simulator.frames_per_second / every).limit_denominator(1000)


def _caption_of(
    family: TaskFamily,
    number: int,
    task: Float64[np.ndarray, " parameters"],
    units: Sequence[str],
    has_changed: bool = False,
) -> str:
    """`task` is what is in force, and `number` that of the task with which the episode began."""
    changed = ", changed" if has_changed else ""
    if len(task) > MOST_PARAMETERS:
        return f"task {number}{changed}"
    values = [
        f"{in_words(name)} {value:.3f}{f' {unit}' if unit else ''}"
        for name, value, unit in zip(family.task_parameters, task, units, strict=True)
    ]
    return f"task {number}{changed}: {', '.join(values)}"


def _measured_of(family: TaskFamily, course: Measurement, step: int) -> str:
    """What was measured in the latest step, and what it should have been; before the first, what it should be."""
    quantity = family.quantity or ""
    unit = unit_of(quantity)
    words = quantity.removesuffix(f" ({unit})")
    measured = f"{course.measured[step - 1]:.2f}" if step else "–"
    target = course.target[max(step - 1, 0)]
    asked = "" if math.isnan(target) else f", target {target:.2f}"
    return f"{words} {measured}{asked}{f' {unit}' if unit else ''}"


@functools.cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib. Pillow's own font has no letters but those of English."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
