"""Point robots: a point in the plane that should go to a goal it is not told (spec section 4.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from nacre.tasks.family import PUBLISHED_SEED, TaskFamily, World
from nacre.tasks.options import Number, Truth, positive, truth
from nacre.tasks.rendering import PointRenderer

STEP_SIZE = 0.1
"""Distance that a full action moves the point along each axis."""


class PointWorld:
    """A point per slot: each action moves it by up to `STEP_SIZE` along each axis, without bounds.

    An episode starts uniformly in a square around the origin. The reward state is the position.
    """

    frames_per_second = 10.0

    def __init__(self, n_slots: int, start_range: float, goal_radius: float) -> None:
        """`goal_radius` is that of the goal in pictures."""
        self._positions = np.zeros((n_slots, 2))
        self._start_range = start_range
        self._goal_radius = goal_radius

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n 2"],
        generators: list[np.random.Generator],
    ) -> tuple[Float32[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
        starts = [generator.uniform(-self._start_range, self._start_range, 2) for generator in generators]
        self._positions[slots] = starts
        return self._read(slots)

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n 2"]
    ) -> tuple[Float32[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
        self._positions[slots] += STEP_SIZE * actions
        return self._read(slots)

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n 2"]) -> None:
        pass

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n 2"]:
        return self._positions[slots]

    def make_renderer(self, width: int, height: int) -> PointRenderer:
        return PointRenderer(width, height, self._goal_radius)

    def close(self) -> None:
        pass

    def _read(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = self._positions[slots]
        return positions.astype(np.float32), positions


def _distance(position: Any, goal: Any) -> Any:
    return ((position - goal) ** 2).sum(-1) ** 0.5


class PointRobot(TaskFamily):
    """Goals uniform in the square [-1, 1] x [-1, 1], starts too; the reward is minus the distance after the move.

    An episode is a success if it ends within `goal_radius` of the goal.
    """

    name = "point-robot"
    observation_size = 2
    action_size = 2
    horizon = 20
    task_parameters = ("goal_x", "goal_y")
    quantity = "distance to the goal (m)"
    has_success = True
    success_at = "end"
    goal_radius = 0.2

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        return generator.uniform(-1.0, 1.0, (n, 2))

    def published_tasks(self, n: int) -> Float64[np.ndarray, "n 2"]:
        return np.random.RandomState(PUBLISHED_SEED).uniform(-1.0, 1.0, (n, 2))

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -_distance(following, task)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _distance(following, task) <= self.goal_radius

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _distance(following, task)

    def target(self, task: Any) -> Any:
        return np.zeros(np.shape(task)[:-1])

    def make_world(self, n_slots: int, threads: int) -> World:
        return PointWorld(n_slots, start_range=1.0, goal_radius=0.1)


class SparsePointRobot(TaskFamily):
    """Goals on the upper half of a circle around the origin, where episodes start.

    The reward is dense, as in `PointRobot`; the sparse reward is (1 - distance) within `goal_radius` of the goal and
    0 elsewhere, so inside the disc it lies in [0.8, 1]. An episode is a success if it was ever inside the disc.
    With `dense=False` the sparse reward is the only one, in learning too.
    """

    name = "sparse-point-robot"
    observation_size = 2
    action_size = 2
    horizon = 20
    task_parameters = ("goal_x", "goal_y")
    quantity = "distance to the goal (m)"
    has_sparse_reward = True
    has_success = True
    success_at = "any"
    goal_radius = 0.2

    def __init__(self, dense: Truth = True, distance: Number = 1.0, goal_radius: Number = 0.2) -> None:
        """`dense` and `goal_radius` are explained above; `distance` is the radius of the circle."""
        self.dense = truth(self.name, "dense", dense)
        self.distance = positive(self.name, "distance", distance)
        self.goal_radius = positive(self.name, "goal_radius", goal_radius)
        self.has_sparse_reward = self.dense

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        return self._goals(generator.uniform(0.0, np.pi, n))

    def published_tasks(self, n: int) -> Float64[np.ndarray, "n 2"]:
        """`n` equally spaced goals from angle 0 to pi, shuffled: the whole list depends on `n`."""
        goals = self._goals(np.linspace(0.0, np.pi, n))
        np.random.RandomState(PUBLISHED_SEED).shuffle(goals)
        return goals

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        if not self.dense:
            return self.sparse_reward(previous, action, following, task)
        return -_distance(following, task)

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = _distance(following, task)
        return (1.0 - distance) * (distance <= self.goal_radius).astype(distance.dtype)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _distance(following, task) <= self.goal_radius

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _distance(following, task)

    def target(self, task: Any) -> Any:
        return np.zeros(np.shape(task)[:-1])

    def make_world(self, n_slots: int, threads: int) -> World:
        return PointWorld(n_slots, start_range=0.0, goal_radius=self.goal_radius)

    def _goals(self, angles: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 2"]:
        return self.distance * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
