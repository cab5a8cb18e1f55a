"""What bodies that run along x have in common: tasks of a velocity, tasks of a direction, and falling."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from nacre.tasks.family import TaskFamily
from nacre.tasks.options import Number, Several, Truth, interval, some_of, truth


class Runner(TaskFamily):
    """A body that runs along x. The first number of its reward state is x, in metres."""

    control_step: float
    """Seconds between two actions."""

    def __init__(self, terminates: Truth = False) -> None:
        """`terminates`: an episode is over once the body has fallen."""
        self.terminates = truth(self.name, "terminates", terminates)

    def velocity(self, previous: Any, following: Any) -> Any:
        """Along x, in metres per second."""
        return (following[..., 0] - previous[..., 0]) / self.control_step

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    @abc.abstractmethod
    def has_fallen(self, following: Any) -> Any:
        """Whether the body has fallen; pure as `reward` is."""

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        if not self.terminates:
            return super().terminated(previous, action, following, task)
        return self.has_fallen(following)


class VelocityTasks(Runner):
    """Run at a target velocity, uniform in a range."""

    task_parameters = ("target_velocity",)
    quantity = "velocity (m/s)"

    def __init__(self, lowest: Number = 0.0, highest: Number = 3.0, terminates: Truth = False) -> None:
        """`lowest` and `highest` are the range of target velocities in m/s; for `terminates` see Runner."""
        super().__init__(terminates)
        self.lowest, self.highest = interval(self.name, lowest, highest)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 1"]:
        return generator.uniform(self.lowest, self.highest, (n, 1))

    def difference(self, previous: Any, following: Any, task: Any) -> Any:
        """How far the velocity is from the target."""
        return abs(self.velocity(previous, following) - task[..., 0])

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.velocity(previous, following)

    def target(self, task: Any) -> Any:
        return task[..., 0]


class DirectionTasks(Runner):
    """Run backward (direction -1) or forward (+1), as fast as possible: two tasks, for training and test alike."""

    task_parameters = ("direction",)
    quantity = "velocity in the direction (m/s)"

    def __init__(self, directions: Several = (-1.0, 1.0), terminates: Truth = False) -> None:
        """`directions` are those there are. With one of them every episode begins in it, and may turn if tasks change
        inside episodes. For `terminates` see Runner."""
        super().__init__(terminates)
        self.directions = some_of(self.name, "directions", directions, (-1.0, 1.0))
        self.finite_tasks = tuple((direction,) for direction in self.directions)

    @property
    def kinds(self) -> int:
        return 2

    def kind_of(self, tasks: Float64[np.ndarray, "n 1"]) -> Int[np.ndarray, " n"]:
        return (tasks[:, 0] > 0).astype(int)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 1"]:
        return generator.choice(self.directions, (n, 1))

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return task[..., 0] * self.velocity(previous, following)
