"""What benchmarks of an algorithm's phases share: a learner with data, and how things are timed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nacre.collect import run_schedules
from nacre.device import current_platform
from nacre.experiments import Experiment, family_of
from nacre.nn.mlp import Precision, matmul
from nacre.runtime import SimulatorPool, learner_for
from nacre.seeds import child
from nacre.tasks.family import split_tasks


class TimedLearner:
    """A learner with data, whose phases can be timed again and again."""

    learner: Any

    def __init__(self, experiment: Experiment, iterations: int, threads: int | None):
        """`iterations`: for whose data its memory has room."""
        self.experiment, self.family = experiment, family_of(experiment)
        self.split = split_tasks(self.family, experiment.train_tasks, experiment.test_tasks, 0, experiment.task_list)
        self.learner = learner_for(experiment, self.family)
        self.memory: Any = self.learner.memory(self.family, self.split.train, iterations)
        self.state = jax.jit(self.learner.initial_state)(jax.random.key(0))
        self.simulators = SimulatorPool(self.family, threads)
        self.plays = 0

    def next_seed(self) -> np.random.SeedSequence:
        self.plays += 1
        return child(np.random.SeedSequence(0), self.plays)

    def collect(self, phase: str) -> None:
        """Plays, and remembers what was played."""
        arguments = self.state, self.memory, self.family, self.split.train, self.next_seed()
        (visits,) = run_schedules([self.learner.collect(phase, *arguments)], self.simulators.play)
        self.memory.add(visits)


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def best(call: Callable[[], Any], repetitions: int) -> float:
    """The shortest of some times, after one call that compiles."""
    timed(call)
    return min(timed(call) for _ in range(repetitions))


def peak(precision: Precision = "float32", repetitions: int = 40) -> float:
    """Floating-point operations per second of a product of matrices, as the networks compute theirs: (2048, 512) and
    (512, 512) on a CPU, which was the fastest of the sizes that we tried there, and (8192, 8192) both on a GPU."""
    height, width = (2048, 512) if current_platform() == "cpu" else (8192, 8192)
    rows = jax.random.normal(jax.random.key(0), (height, width))
    product = jax.jit(functools.partial(matmul, precision=precision))
    return 2 * rows.size * width / best(lambda: product(rows, rows[:width]), repetitions)


def operations(lowered: Any) -> float:
    """Floating-point operations of a lowered program, as XLA counts them: of a condition, both ways. (Of a program that
    is compiled for a GPU it would not count the products of matrices, which are calls of a library there.)"""
    analysis = lowered.cost_analysis()
    assert analysis is not None
    return analysis["flops"]
