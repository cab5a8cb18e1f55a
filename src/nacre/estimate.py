"""How much memory an experiment needs, found out before anything is allocated.

All sizes come from the shapes of what the learner would make: nothing is computed, and nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nacre.device import current_device
from nacre.errors import NacreError
from nacre.experiments import Experiment, family_of, validate
from nacre.experiments.experiment import bounds_of, field_types
from nacre.files import in_words, memory_of_machine
from nacre.interfaces import Learner, Memory
from nacre.runtime import learner_for
from nacre.tasks.family import TaskFamily
from nacre.types import Tree

MOST_SEEDS = 10_000
"""Of one process."""


class Estimate(NamedTuple):
    """Bytes at the end of training, for all seeds of a process."""

    replay: float
    """What the learner keeps of the data, if episodes end at the horizon."""
    parameters: float
    """Networks, targets and all else that training changes, but for the optimisers."""
    optimisers: float
    batch: float
    """Batch and activations of a gradient step, roughly."""

    @property
    def total(self) -> float:
        return sum(self)

    def __str__(self) -> str:
        return ", ".join(f"{name} {in_words(size)}" for name, size in self._asdict().items() if size)


def estimate(experiment: Experiment, seeds: int = 1) -> Estimate:
    """What an experiment needs, infinite if its sizes are beyond every machine."""
    family = family_of(experiment)
    learner = learner_for(experiment, family)
    try:
        state = _state_shapes(learner)
        memory, step = _memory_and_step(learner, family, experiment)
    except (MemoryError, OverflowError, TypeError, ValueError):
        return Estimate(math.inf, math.inf, math.inf, math.inf)
    optimisers = _bytes(state.trained.optimisers)
    return Estimate(seeds * memory, seeds * (_bytes(state) - optimisers), seeds * optimisers, step)


def check_memory(experiment: Experiment, seeds: int = 1, available: float | None = None) -> Estimate:
    """The estimate of an experiment, if it fits.

    Args:
        experiment: a valid one.
        seeds: how many are trained in this process.
        available: bytes; None: what this machine has.

    Raises:
        NacreError: it does not fit; the message has the estimate, and what would fit.
    """
    needed = estimate(experiment, seeds)
    available = memory_of_device() if available is None else available
    if needed.total <= available:
        return needed
    raise NacreError(
        f"{experiment.name} needs about {in_words(needed.total)} of memory ({needed}"
        f"{f', for {seeds} seeds' if seeds > 1 else ''}), and there are {in_words(available)}; "
        f"{_what_would_fit(experiment, seeds, available)}"
    )


def memory_of_device() -> float:
    """Bytes of the memory that JAX computes in: the device's own, or what this process may use of the machine's."""
    device = current_device()
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return float(statistics["bytes_limit"])
    return memory_of_machine()


@functools.lru_cache(maxsize=4)
def _state_shapes(learner: Learner) -> Tree:
    return jax.eval_shape(learner.initial_state, jax.random.key(0))


def _step_bytes(learner: Learner, memory: Memory, state: Tree, tasks: np.ndarray) -> float:
    """A batch, and its activations: every row goes through every layer, and its gradient back; of the largest phase.

    It is called without computing anything. A learner that computes on the host to draw a batch is passed over.
    """
    largest = 0.0
    weights = [leaf for leaf in jax.tree.leaves(state.trained.networks) if getattr(leaf, "ndim", 0) == 2]
    for phase in {phase.name for phase in learner.phases(0) if phase.steps}:
        try:
            derived = learner.derive(phase, state, memory, tasks)
            batch = learner.draw(phase, memory.arrays, derived, state.key)
            activations = learner.step_bytes(phase, batch)
        except Exception:  # whatever an algorithm of one's own does with values that are not there
            continue
        if activations is None:
            rows = max((math.prod(leaf.shape[:2]) for leaf in jax.tree.leaves(batch)), default=0)
            activations = 2 * 4 * rows * sum(leaf.shape[-1] for leaf in weights)
        largest = max(largest, _bytes(batch) + activations)
    return largest


def _memory_and_step(learner: Learner, family: TaskFamily, experiment: Experiment) -> tuple[float, float]:
    """The bytes of the memory and of a gradient step; of a memory that computes on the host nothing is known."""
    tasks = np.broadcast_to(0.0, (experiment.train_tasks, family.sizes.task))
    found: list[float] = []

    def shapes(state: Tree) -> Tree:
        memory = learner.memory(family, tasks, experiment.iterations)
        found.append(_step_bytes(learner, memory, state, tasks))
        return memory.arrays

    try:
        return _bytes(jax.eval_shape(shapes, _state_shapes(learner))), found[0]
    except jax.errors.JAXTypeError:
        return 0.0, 0.0


def _bytes(tree: Tree) -> float:
    return float(sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree)))


def _leaf_bytes(leaf: Any) -> int:
    if not hasattr(leaf, "shape"):  # an activation function
        return 0
    itemsize = getattr(leaf.dtype, "itemsize", 8)
    return math.prod(leaf.shape) * itemsize


def _what_would_fit(experiment: Experiment, seeds: int, available: float) -> str:
    """The number that has to be smaller, and how small: that of which a half saves the most."""
    if seeds > 1 and estimate(experiment).total <= available:
        return f"seeds up to {_largest(lambda n: estimate(experiment, n).total <= available, seeds)} would fit"
    numbers = _numbers(experiment)
    halves = {field: _change(experiment, field, value // 2) for field, value in numbers.items()}
    totals = {field: estimate(half, seeds).total for field, half in halves.items() if half is not None}
    if not totals:
        return "choose smaller sizes"
    field = min(totals, key=totals.__getitem__)

    def fits(value: int) -> bool:
        changed = _change(experiment, field, value)
        return changed is not None and estimate(changed, seeds).total <= available

    most = _largest(fits, numbers[field])
    return f"{field} up to {most} would fit" if most else f"choose a smaller {field}, and other sizes too"


def _numbers(experiment: Experiment) -> dict[str, int]:
    """Its whole numbers that are large enough to matter."""
    found = {}
    for config in (experiment, experiment.algorithm):
        for field, annotation in field_types(type(config)).items():
            value = getattr(config, field)
            if type(value) is int and value >= 64 and field != "seed" and bounds_of(annotation) is not None:
                found[field] = value
    return found


def _change(experiment: Experiment, field: str, value: int) -> Experiment | None:
    """The experiment with another number, if it is valid."""
    if field in field_types(Experiment):
        changed = dataclasses.replace(experiment, **{field: value})
    else:
        changed = dataclasses.replace(experiment, algorithm=dataclasses.replace(experiment.algorithm, **{field: value}))
    try:
        validate(changed, family_of(changed))
    except NacreError:
        return None
    return changed


def _largest(fits: Callable[[int], bool], too_large: int) -> int:
    """The largest number that fits, below one that does not; 0: none does. Two digits are exact enough."""
    low, high = 0, too_large
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
