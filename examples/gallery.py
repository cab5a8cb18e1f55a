"""Draw the moving pictures of the documentation: what trained agents do, and the task families with random actions.

    python examples/gallery.py agent runs/oracle-cheetah-vel --tasks "0.5; 1.5; 2.5" --out docs/images/cheetah-vel.webp
    python examples/gallery.py families --out docs/images/gallery

`agent` plays one trial of a run on each task, as `nacre evaluate --video` does, and sets the videos side by side in one
animated WebP file. `families` writes one such file for each family that has a look of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

import nacre
from nacre.tasks.rendering import signs_of
from nacre.video import HEIGHT, WIDTH, RecordingSimulator

FAMILIES = ("point-robot", "sparse-point-robot", "cheetah-vel", "ant-dir", "ant-goal", "humanoid-dir")
FAMILIES += ("walker-rand-params", "hopper-rand-params")
"""Those that look different."""
PACE = 10
"""Frames per second, of the world's own time."""


def draw_agent(run: str, tasks: np.ndarray, out: Path, width: int, seconds: float) -> None:
    """One trial on each task, side by side, each `width` pixels wide; the shorter ones wait for the longest."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        nacre.evaluate(run, tasks, trials=1, video=True, out=result)
        films = [read_video(path, seconds) for path in sorted(result.with_suffix("").glob("*.mp4"))]
    length = max(map(len, films))
    films = [film + film[-1:] * (length - len(film)) for film in films]
    save(
        [Image.fromarray(np.concatenate(frames, axis=1)) for frames in zip(*films, strict=True)],
        out,
        len(films) * width,
    )


def read_video(path: Path, seconds: float) -> list[np.ndarray]:
    """The pictures of a video, PACE of them for each second of it."""
    with av.open(str(path)) as video:
        rate = video.streams.video[0].average_rate or Fraction(PACE)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return frames[:: max(1, round(rate / PACE))][: round(seconds * PACE)]


def draw_family(name: str, out: Path, width: int, seconds: float) -> None:
    """One task with random actions, again and again from the start if its episodes end early."""
    family = nacre.make_family(name)
    generator = np.random.default_rng(0)
    task = family.sample_tasks(generator, 1)
    with contextlib.closing(RecordingSimulator(family, 1)) as simulator:
        steps = round(seconds * simulator.frames_per_second)
        played, over = 0, True
        while played < steps:
            if over:
                simulator.reset(seed=played, options={"tasks": task})
            action = generator.uniform(-1, 1, (1, family.action_size)).astype(np.float32)
            _, _, terminated, truncated, _ = simulator.step(action)
            over = bool(terminated[0] or truncated[0])
            played += 1
        every = max(1, round(simulator.frames_per_second / PACE))
        configurations = [each for episode in simulator.recordings[0] for each in episode][::every]
        with contextlib.closing(simulator.make_renderer(WIDTH, HEIGHT)) as renderer:
            frames = [Image.fromarray(renderer.draw(each, signs_of(family, task[0]))) for each in configurations]
    save(frames, out, width)


def save(frames: list[Image.Image], out: Path, width: int) -> None:
    height = round(width * frames[0].height / frames[0].width)
    small = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(out, save_all=True, append_images=small[1:], duration=1000 // PACE, loop=0, quality=30, method=6)
    print(f"{out}: {len(frames)} pictures of {width} × {height}, {out.stat().st_size // 1000} kB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    agent = commands.add_parser("agent", help="what a trained agent does")
    agent.add_argument("run", help="the run folder")
    agent.add_argument("--tasks", required=True, help='task parameters, such as "0.5; 2.5" or "0.3, 0.4; 1, 0"')
    agent.add_argument("--out", type=Path, required=True, help="the WebP file")
    families = commands.add_parser("families", help="the task families with random actions")
    families.add_argument("--out", type=Path, required=True, help="the folder of the WebP files")
    for command, width, seconds in ((agent, 230, 5.0), (families, 200, 2.0)):
        command.add_argument("--width", type=int, default=width, help="of one picture, in pixels")
        command.add_argument("--seconds", type=float, default=seconds, help="the most that is shown")
    chosen = parser.parse_args(arguments)
    if chosen.command == "agent":
        tasks = np.array([[float(number) for number in task.split(",")] for task in chosen.tasks.split(";")])
        draw_agent(chosen.run, tasks, chosen.out, chosen.width, chosen.seconds)
    else:
        for name in FAMILIES:
            draw_family(name, chosen.out / f"{name}.webp", chosen.width, chosen.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
