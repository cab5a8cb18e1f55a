"""How long a step of own environments takes: all slots in this process, in several, and Gymnasium's AsyncVectorEnv.

    pip install 'metaworld>=3.1,<4' 'gymnasium[box2d]'
    python benchmarks/own_environments.py [--slots 5 20] [--processes 2] [--rounds 5]

A step is one of all slots. The table has medians of the time on the clock, and the memory. In brackets is the
processor's time of the busiest process, which says what a machine with idle cores would need. Every round measures each
way once, so that other work on the machine meets all of them alike. The slots play random actions for 100 control
steps. AsyncVectorEnv has a process for each slot.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from machine import machine

from nacre.tasks import GymnasiumFamily, Simulator

STEPS = 100


def make_reach() -> gymnasium.Env:
    import metaworld

    env = metaworld.ALL_V3_ENVIRONMENTS["reach-v3"]()
    env.max_path_length = 500
    return env


@functools.cache
def reach_tasks() -> np.ndarray:
    """The train tasks of ML1: places of the object, then of the goal."""
    import pickle

    import metaworld

    return np.array([pickle.loads(task.data)["rand_vec"] for task in metaworld.ML1("reach-v3", seed=1).train_tasks])


def set_reach(env: gymnasium.Env, task: np.ndarray) -> None:
    import pickle

    import metaworld

    own: Any = env.unwrapped
    values = {"rand_vec": task, "env_cls": type(own), "partially_observable": True}
    own.set_task(metaworld.Task("reach-v3", pickle.dumps(values)))


def make_lander() -> gymnasium.Env:
    return gymnasium.make("LunarLander-v3", continuous=True)


def set_gravity(env: gymnasium.Env, task: np.ndarray) -> None:
    own: Any = env.unwrapped
    own.gravity = float(task[0])


def families(processes: bool) -> dict[str, GymnasiumFamily]:
    names = tuple(f"{what}_{axis}" for what in ("object", "goal") for axis in "xyz")
    return {
        "Meta-World ML1 reach": GymnasiumFamily(
            "reach", make_reach, set_reach, None, names, 500, tasks=reach_tasks(), processes=processes
        ),
        "LunarLander": GymnasiumFamily(
            "lander",
            make_lander,
            set_gravity,
            lambda generator, n: generator.uniform(-11.0, -5.0, (n, 1)),
            ("gravity",),
            processes=processes,
        ),
    }


def in_simulator(family: GymnasiumFamily, slots: int, threads: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    simulator = Simulator(family, slots, threads)
    tasks = family.sample_tasks(np.random.default_rng(0), slots)
    generator = np.random.default_rng(0)

    def play() -> None:
        simulator.reset(seed=0, options={"tasks": tasks})
        for _ in range(STEPS):
            *_, terminated, truncated, _ = simulator.step(generator.uniform(-1, 1, (slots, family.action_size)))
            if (ended := terminated | truncated).any():
                simulator.reset(options={"reset_mask": ended})

    return play, simulator.close


class Told(gymnasium.Wrapper):
    """Tells its environment a task."""

    def __init__(self, env: gymnasium.Env, set_task: Callable[[Any, np.ndarray], None], task: np.ndarray):
        super().__init__(env)
        set_task(env, task)


def in_async(name: str, slots: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    family = families(False)[name]
    tasks = family.sample_tasks(np.random.default_rng(0), slots)
    make, told = (make_reach, set_reach) if "reach" in name else (make_lander, set_gravity)
    envs = AsyncVectorEnv([lambda task=task: Told(make(), told, task) for task in tasks], context="spawn")
    generator = np.random.default_rng(0)

    def play() -> None:
        envs.reset(seed=0)
        for _ in range(STEPS):
            envs.step(generator.uniform(-1, 1, (slots, family.action_size)).astype(np.float32))

    return play, envs.close


def processes() -> list[int]:
    """This process and its children."""
    found, rest = [], [os.getpid()]
    while rest:
        found.append(rest.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            rest += map(int, children.read_text().split())
    return found


def megabytes() -> float:
    """Resident memory of all processes."""
    pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds() -> dict[int, float]:
    """What each process has used so far."""
    used = {}
    for process in processes():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


class Way:
    """One way of stepping, and what it took."""

    def __init__(self, made: Callable[[], tuple[Callable[[], Any], Callable[[], None]]]):
        before = megabytes()
        self._play, self.close = made()
        self._play()
        self.memory = megabytes() - before
        self._seconds: list[float] = []
        self._busiest = 0.0

    def measure(self) -> None:
        before, start = processor_seconds(), time.perf_counter()
        self._play()
        self._seconds.append(time.perf_counter() - start)
        after = processor_seconds()
        self._busiest += max(after[process] - before[process] for process in after)

    def in_words(self) -> str:
        wall = statistics.median(self._seconds) / STEPS
        busiest = self._busiest / (STEPS * len(self._seconds))
        return f"{1e3 * wall:.2f} ms ({1e3 * busiest:.2f} ms), {self.memory:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="*", default=[5, 20])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-async", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}\n")
    print(f"| environment | slots | one process | {options.processes} processes | AsyncVectorEnv |")
    print("|---|---:|---:|---:|---:|")
    for name in families(False):
        for slots in options.slots:
            ways = [
                Way(functools.partial(in_simulator, families(several)[name], slots, options.processes))
                for several in (False, True)
            ]
            if not options.without_async:
                ways.append(Way(functools.partial(in_async, name, slots)))
            for _ in range(options.rounds):
                for way in ways:
                    way.measure()
            for way in ways:
                way.close()
            print(f"| {name} | {slots} | {' | '.join(way.in_words() for way in ways)} |", flush=True)


if __name__ == "__main__":
    main()
