"""What benchmarks of an algorithm's phases share: a learner with data, and how things are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre.collect import run_schedules
from nacre.experiments import Experiment, family_of
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


def peak(n: int, width: int, repetitions: int) -> float:
    """Floating-point operations per second of the product of matrices (n, width) and (width, width)."""
    rows = jax.random.normal(jax.random.key(0), (n, width))
    product = jax.jit(jnp.matmul)
    return 2 * n * width * width / best(lambda: product(rows, rows[:width]), repetitions)
