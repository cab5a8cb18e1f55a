"""A Sawyer arm whose joints are moved one by one: reach, insert a peg, press a button, put a cup on a shelf (spec meld
4). Nobody is told the task; rewards tell how far the goal is."""

from __future__ import annotations

import abc
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import TaskFamily, TaskList, TaskSplit, World
from nacre.tasks.rewards import choose, log10
from nacre.tasks.sawyer import find_assets, length

SCALE = 5.0
"""Rewards see distances five times as large as they are in metres."""
LEAST = 1e-5
SPARSE_DISTANCE = 0.15
"""A scaled distance: 3 cm."""
SPARSE_CUP_DISTANCE = 0.3
"""A scaled distance: 6 cm."""
SUCCESS_RADIUS = 0.03
"""In metres."""

MAIN, REACHER_SIDE, WRIST, SHELF_SIDE = "track", "track_aux_reach", "track_aux_insert", "track_aux_shelf2"
"""Names of cameras, those of the public code."""

BLOCKS = 4
BLOCK_LOW = np.array([(0.44, 0.07), (0.44, -0.08), (0.60, 0.07), (0.60, -0.08)])
"""The smallest x and y of each block with a hole. The largest are 1 cm more."""
BUTTON_PLACES = (0.14, 0.0, -0.14)
"""y of the red button, the green one and the blue one."""
BUTTON_GOAL = -0.03
"""The height of the place above a button that has to be reached."""
PANEL_LOW, PANEL_HIGH = 0.72, 0.78
"""Of x of the buttons."""
SHELF_GOAL = (0.95, 0.221)
"""y and z of the place for the cup's bottom."""
CUP_SITES = 0.1
"""How far the place in the cup that is told beside its bottom is above that."""


def nearness(distance: Any) -> Any:
    """What rewards are made of: 5 at a scaled distance of 0, and less the farther, at first steeply."""
    return -(distance**2 + log10(distance**2 + LEAST))


NEAR, CUP_NEAR = (float(nearness(np.float64(distance))) for distance in (SPARSE_DISTANCE, SPARSE_CUP_DISTANCE))


class _SawyerJoints(TaskFamily):
    """What the families share. All episodes begin in the same pose, and none ends before the horizon. The reward state
    begins with the place of what should get to the goal."""

    horizon = 40
    has_sparse_reward = True
    has_success = True
    success_at = "end"
    quantity = "distance to the goal (m)"
    scene: str
    """Which of `sawyer_scenes.SCENES` the arm is in."""

    @abc.abstractmethod
    def goal(self, task: Any) -> Any:
        """The places to get to (..., 3), in metres, in tasks (..., parameters)."""

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return length(following[..., 0:3] - self.goal(task))

    def target(self, task: Any) -> Any:
        return np.zeros(np.shape(task)[:-1])

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.measured(previous, action, following, task) < SUCCESS_RADIUS

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoWorld
        from nacre.tasks.sawyer_scenes import SCENES

        return MujocoWorld(SCENES[self.scene].body(lambda: find_assets(self.name)), n_slots, threads)


class _Reaching(_SawyerJoints):
    """The end of the arm should get to the goal. An action says how far each joint is pulled from where it is."""

    observation_size = 17
    action_size = 7

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return nearness(SCALE * self.measured(previous, action, following, task)) - NEAR

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = SCALE * self.measured(previous, action, following, task)
        return choose(distance < SPARSE_DISTANCE, nearness(distance) - NEAR + 1.0, 0.0)


class SawyerReacher(_Reaching):
    """Reach a place in the air, uniform in a box 15 cm deep, 60 cm wide and 40 cm high."""

    name = "sawyer-reacher"
    scene = "reacher"
    views = (MAIN, REACHER_SIDE)
    task_parameters = ("goal_x", "goal_y", "goal_z")

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 3"]:
        return generator.uniform((0.75, -0.3, 0.3), (0.9, 0.3, 0.7), (n, 3))

    def goal(self, task: Any) -> Any:
        return task


class _Listed(_SawyerJoints):
    """Families whose tasks the public code drew from two seeds."""

    train_seed: int
    test_seed: int

    @property
    def has_published_tasks(self) -> bool:
        return True

    def split(self, train_tasks: int, test_tasks: int, seed: int, task_list: TaskList) -> TaskSplit:
        if task_list != "published":
            return super().split(train_tasks, test_tasks, seed, task_list)
        return TaskSplit(self.listed(train_tasks, self.train_seed), self.listed(test_tasks, self.test_seed))

    @abc.abstractmethod
    def listed(self, n: int, seed: int) -> Float64[np.ndarray, "n parameters"]:
        """The list of `n` tasks that the public code draws with a seed."""


class _Laid(_Listed):
    """Families in which several tasks that follow one another have the same layout, and a goal each."""

    goals: int
    """In a layout."""

    @abc.abstractmethod
    def layouts(self, draw: Callable[..., np.ndarray], n: int) -> Float64[np.ndarray, "n parameters_but_one"]:
        """`n` layouts, drawn by a generator's `uniform`."""

    def listed(self, n: int, seed: int) -> Float64[np.ndarray, "n parameters"]:
        return self._tasks(np.random.RandomState(seed).uniform, np.arange(n))

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        return self._tasks(generator.uniform, generator.integers(self.goals) + np.arange(n))

    def _tasks(self, draw: Callable[..., np.ndarray], numbers: np.ndarray) -> np.ndarray:
        layouts = self.layouts(draw, int(numbers[-1]) // self.goals + 1)
        return np.column_stack([numbers % self.goals, layouts[numbers // self.goals]])


class SawyerPeg(_Laid, _Reaching):
    """Put the peg that the arm ends in into the hole of one of four blocks on a table. The hole is 5 mm wider on each
    side. Blocks look alike. Each is placed uniformly in a square of 1 cm. Four tasks that follow one another have the
    same blocks."""

    name = "sawyer-peg"
    scene = "peg"
    views = (MAIN, WRIST)
    can_relabel = False
    task_parameters = ("block", *(f"block_{number}_{axis}" for number in range(1, BLOCKS + 1) for axis in "xy"))
    task_choices = MappingProxyType({"block": tuple(map(float, range(BLOCKS)))})
    goals = BLOCKS
    train_seed, test_seed = 1, 0

    def layouts(self, draw: Callable[..., np.ndarray], n: int) -> Float64[np.ndarray, "n 8"]:
        return draw(BLOCK_LOW, BLOCK_LOW + 0.01, (n, BLOCKS, 2)).reshape(n, 2 * BLOCKS)

    def goal(self, task: Any) -> Any:
        """The middle of the hole's bottom."""
        names = task.__array_namespace__()
        chosen = [(task[..., 0] == number).astype(task.dtype) for number in range(BLOCKS)]
        x, y = (sum(chosen[number] * task[..., 1 + 2 * number + axis] for number in range(BLOCKS)) for axis in (0, 1))
        return names.stack([x, y, names.zeros_like(x)], axis=-1)


class SawyerButtons(_Laid, _Reaching):
    """Press one of three buttons on a panel, whose distance is uniform in 6 cm: get to the place above it. Three tasks
    that follow one another have the same panel."""

    name = "sawyer-buttons"
    scene = "buttons"
    views = (MAIN, WRIST)
    can_relabel = False
    task_parameters = ("button", "panel_x")
    task_choices = MappingProxyType({"button": tuple(map(float, range(len(BUTTON_PLACES))))})
    goals = len(BUTTON_PLACES)
    train_seed, test_seed = 101, 100

    def layouts(self, draw: Callable[..., np.ndarray], n: int) -> Float64[np.ndarray, "n 1"]:
        # Three numbers are drawn for each, of which the public code leaves two constant.
        return draw((PANEL_LOW, 0.0, 0.0), (PANEL_HIGH, 0.0, 0.0), (n, 3))[:, :1]

    def goal(self, task: Any) -> Any:
        names = task.__array_namespace__()
        button, x = task[..., 0], task[..., 1]
        y = sum((button == number).astype(task.dtype) * place for number, place in enumerate(BUTTON_PLACES))
        return names.stack([x, y, names.full_like(x, BUTTON_GOAL)], axis=-1)


class SawyerShelf(_Listed):
    """Put the cup that stands between two fingers on a shelf, at a place that is uniform in 40 cm. The cup's weight is
    uniform between 5 and 15 kg. An action is the torque of each joint and the force of each finger.

    The reward state is the place of the middle of the cup's bottom, and of what is 10 cm above it.
    """

    name = "sawyer-shelf"
    scene = "shelf"
    views = (MAIN, SHELF_SIDE)
    can_relabel = False
    observation_size = 18
    action_size = 9
    task_parameters = ("weight", "goal_x")
    train_seed, test_seed = 2, 1

    def listed(self, n: int, seed: int) -> Float64[np.ndarray, "n 2"]:
        return self._tasks(np.random.RandomState(seed).uniform, n)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        return self._tasks(generator.uniform, n)

    def _tasks(self, draw: Callable[..., np.ndarray], n: int) -> np.ndarray:
        weights = draw(5.0, 15.0, n)
        return np.column_stack([weights, draw(-0.2, 0.2, n)])

    def goal(self, task: Any) -> Any:
        names = task.__array_namespace__()
        x = task[..., 1]
        return names.stack([x, *(names.full_like(x, value) for value in SHELF_GOAL)], axis=-1)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return nearness(self._distance(following, task))

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = self._distance(following, task)
        return choose(distance < SPARSE_CUP_DISTANCE, nearness(distance) - CUP_NEAR, 0.0)

    def _distance(self, following: Any, task: Any) -> Any:
        """Scaled: the mean of that of the bottom and that of what is above it. A cup that leans is not there yet."""
        goal = self.goal(task)
        bottom = length(following[..., 0:3] - goal)
        x, y, z = (following[..., 3 + axis] - goal[..., axis] for axis in range(3))
        top = (x**2 + y**2 + (z - CUP_SITES) ** 2) ** 0.5
        return SCALE * (bottom + top) / 2
