"""Task families: distributions of tasks that share observation and action spaces.

A task is one draw, and always data: a row of float64 parameters. Nothing here remembers which task is being
played; a simulator is told the task of each of its slots.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int, Real

from nacre.errors import NacreError

TaskList = Literal["published", "seeded", "shared"]

ObservationSize = int | tuple[int, int, int]
"""Of a vector of float32: how many numbers. Of a picture of uint8: height, width, and 3 colours."""


@runtime_checkable
class World(Protocol):
    """The physics of N slots, without tasks' rewards, clocks or random numbers of its own.

    `slots` are increasing indices into the N slots; every other array has one row per entry of `slots`. Returned
    arrays may change with the next call. What a slot does depends on nothing but its own task, generator and actions.
    """

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        """Starts an episode in each of `slots`; returns observations and reward states."""
        ...

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        """Advances `slots` by one control step; actions are in [-1, 1]."""
        ...

    def close(self) -> None:
        """Releases threads and memory; may be called twice."""
        ...


class TaskFamily(abc.ABC):
    """What the world is: its sizes, its tasks, and the rewards as pure functions.

    Actions are in [-1, 1] everywhere in nacre; a world maps them to its actuators' ranges.

    `reward`, `sparse_reward`, `success` and `terminated` take *reward states*: the few quantities a reward depends on,
    as the world measured them before and after the action (a cheetah's root x in metres, a point's position). They are
    written with operators that NumPy and JAX share, so the same function serves stepping and relabelling, for any
    leading axes.
    """

    name: str
    observation_size: ObservationSize
    action_size: int
    horizon: int
    """Control steps after which an episode is truncated."""
    task_parameters: tuple[str, ...]
    """The names of a task's parameters, in order."""
    has_sparse_reward: bool = False
    has_success: bool = False
    """Whether `success` says something."""
    success_at: Literal["any", "end"] = "any"
    """An episode is a success if any of its steps was one, or if its last step was."""
    finite_tasks: tuple[tuple[float, ...], ...] | None = None
    """Every task there is, in order, in a family that has only a few; None where tasks are drawn from a continuum."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (self.observation_size,) if isinstance(self.observation_size, int) else self.observation_size

    @property
    def observation_dtype(self) -> type[np.float32] | type[np.uint8]:
        return np.float32 if isinstance(self.observation_size, int) else np.uint8

    @property
    def has_published_tasks(self) -> bool:
        """Whether the task list `published` is there."""
        return self.finite_tasks is not None or type(self).published_tasks is not TaskFamily.published_tasks

    @abc.abstractmethod
    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        """Draws `n` tasks."""

    def published_tasks(self, n: int) -> Float64[np.ndarray, "n parameters"]:
        """The list of `n` tasks that the original code trained and tested on (train first, test last).

        Raises:
            NacreError: the family has no such list.
        """
        raise NacreError(f"The family {self.name} has no published task list; use the seeded one.")

    @abc.abstractmethod
    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        """Rewards (...) for reward states (..., reward_state), actions (..., action) and tasks (..., parameters)."""

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        """The reward an agent may see in its context where it differs from the one it is trained on."""
        raise NotImplementedError(f"{self.name} has no sparse reward")

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[Any, "..."]:
        """Whether the task is achieved after this transition (see `success_at`); pure as `reward` is."""
        raise NotImplementedError(f"{self.name} does not say what a success is")

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[np.ndarray, "..."]:
        """Whether the task ended with this transition. Never, unless a family says otherwise."""
        return np.zeros(np.shape(following)[:-1], dtype=bool)

    @abc.abstractmethod
    def make_world(self, n_slots: int, threads: int) -> World:
        """The physics of `n_slots` slots, stepped by `threads` threads."""


@dataclass(frozen=True)
class TaskSplit:
    """The tasks of one run. Train tasks are learned on, test tasks are only adapted to."""

    train: Float64[np.ndarray, "n_train parameters"]
    test: Float64[np.ndarray, "n_test parameters"]


def split_tasks(family: TaskFamily, train_tasks: int, test_tasks: int, seed: int, task_list: TaskList) -> TaskSplit:
    """The train and test tasks of a run.

    - `published`: the first `train_tasks` and the last `test_tasks` of the original code's list; `seed` has no effect.
    - `seeded`: train and test tasks are separate draws from `numpy.random.SeedSequence(seed)`. The train tasks do not
      change when the number of test tasks does, and the other way round.
    - `shared`: the train tasks of `seeded`; the last `test_tasks` of them are also the test tasks.

    A family of finitely many tasks (`cheetah-dir` has two) has no other tasks to hold out: any list gives the
    first `train_tasks` and the last `test_tasks` of all there are, so that with two of two the train tasks are also
    the test tasks.

    Raises:
        NacreError: a number of tasks that is not positive, or more tasks than a finite family has; more test tasks
            than train tasks where they are shared; a published list that the family does not have.
    """
    for field, number in (("train_tasks", train_tasks), ("test_tasks", test_tasks)):
        if number < 1:
            raise NacreError(f"{field} must be at least 1, and {number} was given.")
        if family.finite_tasks is not None and number > len(family.finite_tasks):
            raise NacreError(
                f"{field} is {number}, but the family {family.name} has only {len(family.finite_tasks)} tasks."
            )
    if family.finite_tasks is not None:
        tasks = np.array(family.finite_tasks, dtype=np.float64)
        return TaskSplit(train=tasks[:train_tasks], test=tasks[-test_tasks:])
    if task_list == "published":
        tasks = family.published_tasks(train_tasks + test_tasks)
        return TaskSplit(train=tasks[:train_tasks], test=tasks[train_tasks:])
    train_seed, test_seed = np.random.SeedSequence(seed).spawn(2)
    train = family.sample_tasks(np.random.default_rng(train_seed), train_tasks)
    if task_list == "shared":
        if test_tasks > train_tasks:
            raise NacreError(f"test_tasks is {test_tasks}, but only {train_tasks} train tasks are there to share.")
        return TaskSplit(train, test=train[-test_tasks:])
    return TaskSplit(train, test=family.sample_tasks(np.random.default_rng(test_seed), test_tasks))
