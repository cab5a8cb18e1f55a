"""What the configuration of an algorithm is: a frozen dataclass whose fields say which values they may have.

A field's annotation carries its bounds (`hidden_size: Width = 300`), so that a file, a flag and a keyword are checked
by the same line that declares the field. Nothing here imports JAX: `nacre list` and `--help` answer at once.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from nacre.protocol import Protocol
from nacre.tasks.family import TaskFamily


class Bounds(NamedTuple):
    """An interval; `open_below` leaves out the lower end."""

    low: float
    high: float = math.inf
    open_below: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        return (value > self.low if self.open_below else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        lower = f"more than {self.low:g}" if self.open_below else f"at least {self.low:g}"
        return lower if self.high == math.inf else f"{lower} and at most {self.high:.10g}"


# Upper ends are far above what any sensible run has, and below what could not work: they refuse a slip of the keyboard
# before it fills a memory.

Count = Annotated[int, Bounds(1, 1_000_000)]
"""A number of things of which there is at least one."""
Width = Annotated[int, Bounds(1, 10_000)]
"""Units of a layer, dimensions of a latent variable, tasks in a batch: what sizes of arrays are products of."""
Steps = Annotated[int, Bounds(0, 10_000_000)]
"""A number of steps, which may be 0."""
Positive = Annotated[float, Bounds(0, 1e6, open_below=True)]
"""A scale."""
Weight = Annotated[float, Bounds(0, 1e6)]
"""A weight, which may be 0."""
Fraction = Annotated[float, Bounds(0, 1, open_below=True)]
"""More than 0 and at most 1: a discount, a learning rate."""


def whole_episodes(steps: int, horizon: int) -> int:
    """The steps of as many whole episodes as it takes to have at least `steps`."""
    return -(-steps // horizon) * horizon


def plain_numbers(config: Any) -> None:
    """Makes Python's numbers of NumPy's in a frozen dataclass that is being made, so that JSON and files take them."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(config, field.name, value.item())


@dataclass(frozen=True)
class AlgorithmConfig(abc.ABC):
    """Hyperparameters of an algorithm, and what follows from them before anything runs.

    A subclass is a frozen dataclass. The docstring of a field is the help text of its flag.
    """

    added_later: ClassVar[Mapping[str, Any]] = {}
    """Fields that run folders of earlier versions lack, with the values that stand for what those versions did."""
    tensorboard_groups: ClassVar[Mapping[str, str]] = {}
    """The algorithm's own groups of columns in TensorBoard, by a regular expression that matches the whole name."""

    def __post_init__(self) -> None:
        plain_numbers(self)

    @classmethod
    def for_family(cls, family: TaskFamily) -> AlgorithmConfig:
        """A starting point for a family that nobody has tuned the algorithm for: amounts of data are in episodes of its
        horizon, so that :meth:`check` accepts them."""
        return cls()

    @abc.abstractmethod
    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        """Environment steps of so many iterations, if every episode is as long as the horizon."""

    @abc.abstractmethod
    def gradient_steps(self, iterations: int) -> int:
        """Gradient steps of so many iterations, of all phases, if none stops early."""

    @abc.abstractmethod
    def protocol(self, horizon: int) -> Protocol:
        """How an agent is meta-tested after each iteration."""

    def check(self, family: TaskFamily) -> None:
        """Checks the values against each other and against the task family. Bounds of single fields are checked before.

        Raises:
            NacreError: a value is impossible; the message names the field, what was given and what is allowed.
        """
        return
