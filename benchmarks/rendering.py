"""How fast pictures are drawn: `python benchmarks/rendering.py [--family cheetah-vel] [--sizes 64 128] [--slots 8]`.

First, pictures per second of the slots of a family from pixels, by threads: medians over rounds in which all ways take
turns, so that a noisy machine disturbs all alike. `ms` is processor time of this process per picture. Mesa, which draws
without a GPU, has threads of its own, whose time is in it: compare with LP_NUM_THREADS=0, which turns them off.

Then what drawing costs a collection: seconds of control steps with random actions from pixels and without, in turns,
and the share of them that is drawing. An agent's own time, which is not in it, makes the share smaller.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
from machine import machine

from nacre.tasks import PixelFamily, Simulator, TaskFamily, make_family
from nacre.tasks.pixels import PixelWorld
from nacre.tasks.rendering import OWN_VIEW, DrawableWorld
from nacre.tasks.simulator import physical_cores

PICTURES = 64
"""Of a round, at least."""


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock and processor seconds of each way; a first round is not counted."""
    wall: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if number:
                wall[way].append(time.perf_counter() - start)
                processor[way].append(time.process_time() - used)
    return {way: (statistics.median(wall[way]), statistics.median(processor[way])) for way in ways}


def started_world(family: TaskFamily, cameras: tuple[str, ...], size: int, slots: int, threads: int) -> PixelWorld:
    world = family.make_world(slots, 1)
    assert isinstance(world, DrawableWorld)
    seen = PixelWorld(world, cameras, size, size, threads)
    tasks = family.sample_tasks(np.random.default_rng(0), slots)
    seen.reset(np.arange(slots), tasks, [np.random.default_rng(slot) for slot in range(slots)])
    return seen


def measure_drawing(
    family: TaskFamily, cameras: tuple[str, ...], size: int, slots: int, threads: Sequence[int], rounds: int
) -> dict[int, tuple[float, float]]:
    """Pictures per second, and processor seconds per picture, by number of threads."""
    worlds = {number: started_world(family, cameras, size, slots, number) for number in threads}
    repeats = -(-PICTURES // (slots * len(cameras)))
    ways = {
        str(number): lambda world=world: [world._draw(np.arange(slots)) for _ in range(repeats)]
        for number, world in worlds.items()
    }
    measured = in_turns(ways, rounds)
    for world in worlds.values():
        world.close()
    drawn = repeats * slots * len(cameras)
    return {int(way): (drawn / wall, processor / drawn) for way, (wall, processor) in measured.items()}


def measure_collection(
    family: TaskFamily, cameras: tuple[str, ...], size: int, slots: int, rounds: int
) -> dict[str, float]:
    """Seconds of 20 control steps of all slots, from pixels and without, and the share of drawing."""
    simulators = {
        "without": Simulator(family, slots),
        "from pixels": Simulator(PixelFamily(family, camera=cameras, size=size), slots),
    }
    tasks = family.sample_tasks(np.random.default_rng(0), slots)
    actions = np.random.default_rng(1).uniform(-1, 1, (20, slots, family.action_size)).astype(np.float32)

    def collect(simulator: Simulator) -> None:
        simulator.reset(seed=0, options={"tasks": tasks})
        for action in actions:
            simulator.step(action)

    ways = {name: lambda simulator=simulator: collect(simulator) for name, simulator in simulators.items()}
    measured = {name: wall for name, (wall, _) in in_turns(ways, rounds).items()}
    for simulator in simulators.values():
        simulator.close()
    return measured | {"share": 1 - measured["without"] / measured["from pixels"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="cheetah-vel-10hz", help="a family of vectors that can be drawn")
    parser.add_argument("--cameras", nargs="+", default=[OWN_VIEW], help="names of cameras")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128], help="heights and widths of pictures")
    parser.add_argument("--slots", type=int, default=8, help="slots that are drawn")
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default: 1 and the physical cores")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    threads = arguments.threads or sorted({1, physical_cores()})
    family, cameras = make_family(arguments.family), tuple(arguments.cameras)

    cameras_shown = ", ".join(cameras)
    print(f"{family.name}, cameras {cameras_shown}, {arguments.slots} slots, MuJoCo {mujoco.__version__}")
    print(f"{machine()}, ", end="")
    print(f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} LP_NUM_THREADS={os.environ.get('LP_NUM_THREADS', '')}")
    print(f"{'size':>6}{'threads':>9}{'pictures/s':>12}{'per thread':>12}{'ms':>8}{'of one':>9}")
    for size in arguments.sizes:
        rows = measure_drawing(family, cameras, size, arguments.slots, threads, arguments.rounds)
        for number, (rate, seconds) in rows.items():
            ratio = rate / rows[threads[0]][0]
            print(f"{size:6}{number:9}{rate:12,.0f}{rate / number:12,.0f}{1000 * seconds:8.2f}{ratio:9.2f}")
    print(f"{'size':>6}{'slots':>9}{'without (s)':>13}{'from pixels (s)':>17}{'share of drawing':>18}")
    for size in arguments.sizes:
        for slots in (1, arguments.slots):
            row = measure_collection(family, cameras, size, slots, arguments.rounds)
            print(f"{size:6}{slots:9}{row['without']:13.3f}{row['from pixels']:17.3f}{row['share']:18.0%}")


if __name__ == "__main__":
    main()
