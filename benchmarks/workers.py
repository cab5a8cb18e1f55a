"""What workers bring: control steps per second in this process and on workers, what a broadcast costs, and from which
cost of a step workers pay.

    python benchmarks/workers.py [--rounds 5] [--tasks 20] [--steps 400] [--workers 1 2] [--out FILE.json]

Each row is one play: trials of full-size agents of the named experiments, one in each task, with drawn actions. All
rows of a world are measured in one process and in turns, so that drift of the machine meets all; medians are shown. A
simulator in this process has as many threads as there are physical cores, that of a worker one. Workers have begun and
all programs are compiled before the clock starts.

The last table has point robots whose step takes so much more of Python's time, as an environment of one's own may:
workers pay from the cost on from which they are always a tenth faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import machine
from rich.console import Console
from rich.table import Table

from nacre.collect import Player
from nacre.experiments import Experiment, family_of, make_experiment
from nacre.interfaces import Play
from nacre.ray_cluster import connected
from nacre.run_folder import versions
from nacre.runtime import SimulatorPool, learner_for, prepare_jax
from nacre.tasks.family import TaskFamily, World, split_tasks
from nacre.tasks.point import PointRobot
from nacre.tasks.simulator import physical_cores
from nacre.worker import pack_params
from nacre.worker_options import WorkerOptions
from nacre.workers import Workers, hired

NAMES = ("pearl/point-robot", "pearl/cheetah-vel", "pearl/humanoid-dir")
COSTS = (0, 10, 30, 100, 300, 1000)
"""Microseconds that a step of a point robot takes longer."""
PAYS = 1.1
"""How much faster workers have to be."""


def burn(rounds: int) -> float:
    """Python's own work, which no other thread can do at the same time."""
    total = 0.0
    for number in range(rounds):
        total += number * 0.5
    return total


def rounds_in_a_microsecond() -> float:
    best = min(timed(lambda: burn(100_000)) for _ in range(5))
    return 100_000 / best / 1e6


class SlowPoint(PointRobot):
    """A point robot whose step takes longer in each slot."""

    name = "slow-point"

    def __init__(self, rounds: int):
        super().__init__()
        self._rounds = rounds

    def make_world(self, n_slots: int, threads: int) -> World:
        world = super().make_world(n_slots, threads)
        step, rounds = world.step, self._rounds

        def slow_step(slots: np.ndarray, actions: np.ndarray) -> Any:
            for _ in slots:
                burn(rounds)
            return step(slots, actions)

        world.step = slow_step  # pyright: ignore[reportAttributeAccessIssue]
        return world


class Subject:
    """A play of an experiment's agent, whose time can be taken again and again."""

    def __init__(self, experiment: Experiment, family: TaskFamily, tasks: int, steps: int):
        self.family = family
        learner = learner_for(experiment, family)
        state = jax.jit(learner.initial_state)(jax.random.key(0))
        split = split_tasks(family, tasks, 1, 0, "seeded")
        self.params = learner.parameters(state)
        capacity = experiment.algorithm.protocol(family.horizon).capacity(family.horizon)
        seed = np.random.SeedSequence(1)
        self.play = Play(learner.agent(capacity), self.params, split.train, seed, deterministic=False, steps=steps)

    def steps_per_second(self, player: Player) -> tuple[float, float]:
        """And the seconds that it took."""
        start = time.perf_counter()
        (played,) = player([self.play])
        jax.block_until_ready(played.belief)
        seconds = time.perf_counter() - start
        return sum(len(episode) for trial in played.trials for episode in trial) / seconds, seconds


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextlib.contextmanager
def players(family: TaskFamily, numbers: Sequence[int]) -> Any:
    """Who plays, by the number of workers; 0 is this process."""
    with contextlib.ExitStack() as stack:
        simulators = stack.enter_context(contextlib.closing(SimulatorPool(family, None)))
        crews: dict[int, Any] = {0: simulators}
        for number in numbers:
            crews[number] = stack.enter_context(hired(family, None, WorkerOptions(number)))
        yield crews


def compared(subject: Subject, numbers: Sequence[int], rounds: int) -> dict[str, Any]:
    """Medians of control steps per second by the number of workers."""
    with players(subject.family, numbers) as crews:
        for crew in crews.values():
            subject.steps_per_second(crew.play)  # compiles
        speeds: dict[int, list[float]] = {number: [] for number in crews}
        for _ in range(rounds):
            for number, crew in crews.items():
                speeds[number].append(subject.steps_per_second(crew.play)[0])
        result: dict[str, Any] = {str(number): float(np.median(each)) for number, each in speeds.items()}
        crew = crews[max(numbers)]
        assert isinstance(crew, Workers)
        return result | broadcast(crew, subject.params, rounds)


def broadcast(crew: Workers, params: Any, rounds: int) -> dict[str, float]:
    """Bytes of what agents act with, and the milliseconds to pack and hand over those of one iteration."""
    packed = pack_params(params)
    milliseconds = []
    for number in range(rounds):
        changed = jax.tree.map(lambda leaf, number=number: leaf + number, params)
        jax.block_until_ready(changed)
        milliseconds.append(1e3 * timed(lambda changed=changed: crew.broadcast([pack_params(changed)])))
    return {"broadcast_bytes": len(packed), "broadcast_ms": float(np.median(milliseconds))}


def measure(names: Sequence[str], numbers: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    console = Console(width=140)
    worlds: dict[str, Any] = {}
    slow: dict[str, Any] = {}
    with prepare_jax("cpu"), connected():
        for name in names:
            experiment = make_experiment(name)
            subject = Subject(experiment, family_of(experiment), arguments.tasks, arguments.steps)
            worlds[name] = compared(subject, numbers, arguments.rounds)
            console.print(f"{name}: {worlds[name]}")
        rate = rounds_in_a_microsecond()
        for cost in arguments.costs:
            family = SlowPoint(round(cost * rate))
            subject = Subject(make_experiment(NAMES[0]), family, arguments.tasks, arguments.steps)
            slow[str(cost)] = compared(subject, numbers, arguments.rounds)
            console.print(f"{cost} µs: {slow[str(cost)]}")
    return {
        "steps_per_second": worlds,
        "steps_per_second_by_added_microseconds": slow,
        "tasks": arguments.tasks,
        "steps_of_a_trial": arguments.steps,
        "rounds": arguments.rounds,
        "processors": os.cpu_count(),
        "physical_cores": physical_cores(),
        "machine": machine(),
        "versions": versions(),
    }


def show(result: dict[str, Any], numbers: Sequence[int], console: Console) -> None:
    for title, key, first in (
        ("Control steps per second", "steps_per_second", "experiment"),
        ("The same of point robots with a slower step", "steps_per_second_by_added_microseconds", "added µs"),
    ):
        table = Table(title=f"{title}\n{machine()}")
        workers = [column for number in numbers for column in (f"{number} worker(s)", "ratio")]
        for column in (first, "in-process", *workers, "broadcast"):
            table.add_column(column, justify="left" if column == first else "right")
        for name, row in result[key].items():
            speeds = [cell for n in numbers for cell in (f"{row[str(n)]:,.0f}", f"{row[str(n)] / row['0']:.2f}")]
            sent = f"{row['broadcast_bytes'] / 1e6:.2f} MB, {row['broadcast_ms']:.1f} ms"
            table.add_row(name, f"{row['0']:,.0f}", *speeds, sent)
        console.print(table)
    for number in numbers:
        rows = list(result["steps_per_second_by_added_microseconds"].values())
        cost = least_cost(rows, str(number))
        console.print(
            f"{number} worker(s) pay {f'from {cost:.0f} µs of a control step on' if cost else 'nowhere here'}"
        )


def least_cost(rows: Sequence[dict[str, Any]], workers: str) -> float | None:
    """From how many microseconds of a control step in-process on the workers pay; None: nowhere."""
    paying = list(takewhile(lambda row: row[workers] >= PAYS * row["0"], reversed(rows)))
    return 1e6 / paying[-1]["0"] if paying else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=20, help="trials of a play")
    parser.add_argument("--steps", type=int, default=400, help="control steps of a trial, at least")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--experiments", nargs="+", default=list(NAMES))
    parser.add_argument("--costs", type=int, nargs="*", default=COSTS, help="added microseconds of a step, rising")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.experiments, arguments.workers, arguments)
    show(result, arguments.workers, Console(width=140))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
