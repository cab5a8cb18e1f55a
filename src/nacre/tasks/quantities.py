"""What tasks are about, in words and over time: the quantity that a family measures, what it should be, and units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from nacre.tasks.family import TaskFamily
from nacre.types import Episode


class Measurement(NamedTuple):
    """What a family measures in the steps of an episode, and what it should be."""

    measured: Float64[np.ndarray, " steps"]
    target: Float64[np.ndarray, " steps"]
    """NaN: the task has no target."""
    changes: Bool[np.ndarray, " steps"]
    """Whether the task is another one than in the step before."""


def measure(family: TaskFamily, episode: Episode, task: Float64[np.ndarray, " parameters"]) -> Measurement:
    """What a family that has a `quantity` measures in an episode.

    Args:
        family: of the episode.
        episode: with its reward states.
        task: with which the episode begins.
    """
    states = episode.reward_states
    assert states is not None
    tasks = np.broadcast_to(task, (len(episode), len(task))) if episode.tasks is None else episode.tasks
    measured = np.asarray(family.measured(states[:-1], episode.actions, states[1:], tasks), float)
    changes = (tasks != np.concatenate([task[None], tasks[:-1]])).any(axis=1)  # a task may change before the first step
    return Measurement(measured, targets_of(family, tasks), changes)


def targets_of(family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> Float64[np.ndarray, " n"]:
    """What is measured should be this in each task; NaN: the task has no target."""
    found = family.target(tasks) if family.quantity is not None else None
    return np.full(len(tasks), np.nan) if found is None else np.array(found, float)


def in_words(parameter: str) -> str:
    """The name of a task parameter as people write it."""
    return parameter.replace("_", " ")


def unit_of(quantity: str) -> str:
    """The unit that stands in brackets at the end of a quantity; empty: there is none, or there are several."""
    words, bracket, unit = quantity.rpartition("(")
    unit = unit.removesuffix(")") if bracket and words and unit.endswith(")") else ""
    return "" if " or " in unit else unit


def units_of(family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> list[str]:
    """The unit of each task parameter; empty: it has none that is known.

    A parameter that is the target of what the family measures has the unit of that.
    """
    targets = targets_of(family, tasks)
    known = ~np.isnan(targets)
    unit = unit_of(family.quantity or "")
    return [unit if known.any() and (column == targets)[known].all() else "" for column in tasks.T]


def labels_of(family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"]) -> list[str]:
    """The task parameters as people write them, with their units: "target velocity (m/s)"."""
    units = units_of(family, tasks)
    return [
        f"{in_words(name)} ({unit})" if unit else in_words(name)
        for name, unit in zip(family.task_parameters, units, strict=True)
    ]
