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


def peak(repetitions: int = 40) -> float:
    """Floating-point operations per second of the float32 product of matrices (2048, 512) and (512, 512), which was the
    fastest of the sizes that we tried on CPUs."""
    rows = jax.random.normal(jax.random.key(0), (2048, 512))
    product = jax.jit(jnp.matmul)
    return 2 * rows.size * 512 / best(lambda: product(rows, rows[:512]), repetitions)


def operations(compiled: Any) -> float:
    """Floating-point operations of a compiled program, as XLA counts them: of a condition, both ways."""
    analysis = compiled.cost_analysis()
    assert analysis is not None
    return analysis["flops"]
