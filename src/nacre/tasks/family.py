"""Task families: distributions of tasks that share observation and action spaces.

A task is one draw, and always data: a row of float64 parameters. Nothing here remembers which task is being
played; a simulator is told the task of each of its slots.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int, Real

from nacre.errors import NacreError
from nacre.tasks.checks import call, name_of, shortened, truths
from nacre.tasks.shifts import Shift

TaskList = Literal["published", "seeded", "shared"]

PUBLISHED_SEED = 1337
"""With which the original code drew its lists of tasks."""

ObservationSize = int | tuple[int, int, int]
"""Of a vector of float32: how many numbers. Of a picture of uint8: height, width, and 3 colours."""


@dataclass(frozen=True)
class Sizes:
    """What networks and clocks need to know of a task family."""

    observation: ObservationSize
    action: int
    horizon: int
    task: int
    """Numbers that describe a task."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (self.observation,) if isinstance(self.observation, int) else self.observation


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


@dataclass(frozen=True)
class TaskSplit:
    """The tasks of one run. Train tasks are learned on, test tasks are only adapted to."""

    train: Float64[np.ndarray, "n_train parameters"]
    test: Float64[np.ndarray, "n_test parameters"]


@runtime_checkable
class RememberingWorld(Protocol):
    """A world that remembers across episodes, and offers what it remembers, for all its slots: numbers, text, lists,
    dictionaries and NumPy arrays."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


@runtime_checkable
class ChangingWorld(World, Protocol):
    """A world whose slots may be given another task within an episode."""

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"]) -> None:
        """Gives slots other tasks, between two steps. Physics that depend on the task follow; whatever else is in a
        slot, such as positions and velocities, stays. Where no physics depend on it, nothing has to be done."""
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
    remembers: bool = False
    """Whether worlds remember across episodes, and offer what by `state_dict` (see :class:`RememberingWorld`)."""
    most_slots: int | None = None
    """How many slots a simulator of a run has at most, if slots need much memory: more trials than that take turns.
    None: as many as there are trials."""
    can_relabel: bool = True
    """Whether `reward`, `terminated` and `success` say of what was played in one task what it were in another: not if
    they are an environment's own, nor if tasks differ in their physics."""
    has_success: bool = False
    """Whether `success` says something."""
    success_at: Literal["any", "end"] = "any"
    """An episode is a success if any of its steps was one, or if its last step was."""
    quantity: str | None = None
    """What `measured` measures, with its unit: "velocity (m/s)". None: it says nothing."""
    views: tuple[str, ...] = ()
    """The cameras by which the family is seen from pixels, the uppermost first, if no others are asked for. None of
    them: as in videos."""
    contact_forces: tuple[int, int] | None = None
    """(first, end): which columns of the observation are contact forces; None if it has none."""
    task_choices: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    """What a task's parameter may be, by its name, if it is one of only a few numbers, such as that of a kind."""
    finite_tasks: tuple[tuple[float, ...], ...] | None = None
    """Every task there is, in order, in a family that has only a few; None if tasks are drawn from a continuum."""
    shift: Shift | None = None
    """How tasks change within an episode; None: they never do. An experiment sets it to its own."""
    may_be_cut: bool = False
    """Whether `cut` says something."""
    follows_changes: bool = True
    """Whether tasks may change within an episode. Worlds then need `set_tasks` (see :class:`ChangingWorld`)."""

    def __repr__(self) -> str:
        parameters = ", ".join(self.task_parameters)
        return f"<task family {self.name}: task ({parameters}), horizon {self.horizon}>"

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.observation_size, self.action_size, self.horizon, len(self.task_parameters))

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return self.sizes.observation_shape

    @property
    def observation_dtype(self) -> type[np.float32] | type[np.uint8]:
        return np.float32 if isinstance(self.observation_size, int) else np.uint8

    @property
    def has_published_tasks(self) -> bool:
        """Whether the task list `published` is there."""
        return self.finite_tasks is not None or type(self).published_tasks is not TaskFamily.published_tasks

    @property
    def kinds(self) -> int | None:
        """How many kinds of tasks there are; None: they differ by degrees alone. In a family of finitely many tasks
        each is a kind of its own."""
        return None if self.finite_tasks is None else len(self.finite_tasks)

    @property
    def kind_names(self) -> tuple[str, ...]:
        """What each kind is called."""
        return tuple(f"kind {kind + 1}" for kind in range(self.kinds or 0))

    def kind_of(self, tasks: Float64[np.ndarray, "n parameters"]) -> Int[np.ndarray, " n"]:
        """Which kind each task is of, from 0 on, in families that have `kinds`."""
        if self.finite_tasks is None:
            raise NotImplementedError(f"{self.name} has no kinds of tasks")
        same = (tasks[:, None] == np.array(self.finite_tasks)[None]).all(axis=-1)
        return same.argmax(axis=1)

    @property
    def has_opposites(self) -> bool:
        """Whether tasks may change to their opposites."""
        directions = all(name.startswith("direction") for name in self.task_parameters)
        return directions or len(self.finite_tasks or ()) > 1 or type(self).opposite is not TaskFamily.opposite

    def opposite(self, task: Float64[np.ndarray, " parameters"]) -> Float64[np.ndarray, " parameters"]:
        """What a task changes to if tasks change to their opposites: the other way if it is a direction, otherwise the
        next of the finite tasks, after the last of them the first."""
        if self.finite_tasks is None or all(name.startswith("direction") for name in self.task_parameters):
            return 0.0 - task
        every = np.array(self.finite_tasks)
        own = (every == task).all(axis=1)
        return every[(int(own.argmax()) + 1) % len(every)] if own.any() else task

    @property
    def has_place(self) -> bool:
        """Whether tasks may change by place."""
        return type(self).place is not TaskFamily.place

    def place(self, reward_state: Any) -> Any:
        """Where the body is, (...) for reward states (..., reward_state): what changes by place go by, such as x of the
        root in metres."""
        raise NotImplementedError(f"{self.name} has no place")

    def repeatable(self, tasks: Float64[np.ndarray, "n parameters"]) -> Bool[np.ndarray, " n"]:
        """Which of these may be there several times, for training and for testing alike, as there are hardly any others
        to draw of their kind. None, unless a family says otherwise."""
        return np.zeros(len(tasks), bool)

    @abc.abstractmethod
    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        """Draws `n` tasks."""

    def split(self, train_tasks: int, test_tasks: int, seed: int, task_list: TaskList) -> TaskSplit:
        """The train and test tasks of a run; :func:`split_tasks` calls this and checks what it returns.

        A family may have its own: to hold out a part of the tasks that is not drawn at random, or to take lists of
        its own. What it returns should depend on the arguments alone.

        - `published`: the first `train_tasks` and the last `test_tasks` of the original code's list; `seed` has no
          effect.
        - `seeded`: train and test tasks are separate draws from `numpy.random.SeedSequence(seed)`, all different but
          for those that are `repeatable`. The train tasks do not change when the number of test tasks does. The test
          tasks change with the number of train tasks only if a draw was a train task already, and so was drawn anew.
        - `shared`: the train tasks of `seeded`; the last `test_tasks` of them are also the test tasks.

        A family of finitely many tasks has no others to draw: any list gives the first `train_tasks` and the last
        `test_tasks` of all there are. With two of two (`cheetah-dir`) the train tasks are also the test tasks.

        Raises:
            NacreError: there are not enough different tasks; more test tasks than train tasks if they are shared; a
                published list that the family does not have.
        """
        if self.finite_tasks is not None:
            tasks = np.array(self.finite_tasks, dtype=np.float64)
            return TaskSplit(train=tasks[:train_tasks], test=tasks[-test_tasks:])
        if task_list == "published":
            tasks = call(self.published_tasks, train_tasks + test_tasks)
            tasks = check_tasks(self, tasks, self.published_tasks, train_tasks + test_tasks)
            return TaskSplit(train=tasks[:train_tasks], test=tasks[train_tasks:])
        train_seed, test_seed = np.random.SeedSequence(seed).spawn(2)
        train = _different_tasks(self, np.random.default_rng(train_seed), train_tasks)
        if task_list == "shared":
            if test_tasks > train_tasks:
                raise NacreError(f"test_tasks is {test_tasks}, but only {train_tasks} train tasks are there to share.")
            return TaskSplit(train, test=train[-test_tasks:])
        return TaskSplit(train, test=_different_tasks(self, np.random.default_rng(test_seed), test_tasks, train))

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
        """The reward that an agent may see in its context, if it differs from the one it is trained on."""
        raise NotImplementedError(f"{self.name} has no sparse reward")

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[Any, "..."]:
        """Whether the task is achieved after this transition (see `success_at`); pure as `reward` is."""
        raise NotImplementedError(f"{self.name} does not say what a success is")

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        """The quantity that the task is about, such as a velocity, over this transition (...); pure as `reward` is.
        Plots show it over time, and how soon it follows a task that changes."""
        raise NotImplementedError(f"{self.name} does not say what its tasks are about")

    def target(self, task: Any) -> Any:
        """What `measured` should be, for NumPy arrays of tasks (..., parameters): shape (...), NaN for tasks without
        a target. None: no task has one, and more is better."""
        return None

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[np.ndarray, "..."]:
        """Whether the task ended with this transition. Never, unless a family says otherwise."""
        return np.zeros(np.shape(following)[:-1], dtype=bool)

    def cut(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[np.ndarray, "..."]:
        """Whether something else than the task or the horizon ended the episode after this transition, such as an
        emergency stop. That is a truncation."""
        return np.zeros(np.shape(following)[:-1], dtype=bool)

    def check_machine(self) -> None:  # noqa: B027 - most families need nothing
        """Called before a run is begun whose episodes are played here.

        Raises:
            NacreError: this machine has not what the worlds need, such as OpenGL or a package.
        """

    @abc.abstractmethod
    def make_world(self, n_slots: int, threads: int) -> World:
        """The physics of `n_slots` slots, stepped by `threads` threads."""


def split_tasks(family: TaskFamily, train_tasks: int, test_tasks: int, seed: int, task_list: TaskList) -> TaskSplit:
    """The train and test tasks of a run: what :meth:`TaskFamily.split` says, checked.

    Raises:
        NacreError: a number of tasks that is not positive, or more tasks than a finite family has; `split` returns
            other tasks than it was asked for, or test tasks that are train tasks and should be held out.
    """
    for field, number in (("train_tasks", train_tasks), ("test_tasks", test_tasks)):
        if number < 1:
            raise NacreError(f"{field} must be at least 1, and {number} was given.")
        if family.finite_tasks is not None and number > len(family.finite_tasks):
            raise NacreError(
                f"{field} is {number}, but the family {family.name} has only {len(family.finite_tasks)} tasks."
            )
    split = call(family.split, train_tasks, test_tasks, seed, task_list)
    if not isinstance(split, TaskSplit):
        raise NacreError(
            f"{name_of(family.split)} returned a {type(split).__name__} ({shortened(split)}); allowed: a TaskSplit."
        )
    train = check_tasks(family, split.train, family.split, train_tasks, "train tasks")
    test = check_tasks(family, split.test, family.split, test_tasks, "test tasks")
    if task_list != "shared":
        _check_held_out(family, train, test)
    return TaskSplit(train, test)


def draw_tasks(family: TaskFamily, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
    """`n` tasks as the family draws them, checked.

    Raises:
        NacreError: `sample_tasks` returned something else than `n` rows of finite numbers.
    """
    return check_tasks(family, call(family.sample_tasks, generator, n), family.sample_tasks, n)


def check_tasks(
    family: TaskFamily,
    tasks: Any,
    source: Callable[..., Any] | None = None,
    n: int | None = None,
    what: str = "tasks",
) -> Float64[np.ndarray, "n parameters"]:
    """`tasks` as an array of task parameters.

    Args:
        family: whose tasks they are.
        tasks: what was given.
        source: the function that returned them; None: the user gave them.
        n: how many there have to be; None: any number.
        what: how a message calls them.

    Raises:
        NacreError: they are not numbers, or not finite, or there are not `n` tasks, or not as many
            numbers per task as the family has parameters, or one is none of the `task_choices`.
    """
    names = ", ".join(family.task_parameters)
    origin = f" ({name_of(source)} returned them)" if source is not None else ""
    try:
        array = np.array(tasks, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise NacreError(
            f"A task of {family.name} is a row of numbers ({names}); {shortened(tasks)} was given{origin}."
        ) from None
    if array.ndim != 2 or array.shape[1] != len(family.task_parameters):
        raise NacreError(
            f"Tasks of {family.name} have shape (tasks, {len(family.task_parameters)}), for {names}; "
            f"{array.shape} was given{origin}."
        )
    if n is not None and len(array) != n:
        whose = f"{name_of(source)} ({family.name})" if source is not None else family.name
        raise NacreError(f"{whose} gave {len(array)} {what}, and {n} were asked for.")
    if not np.isfinite(array).all():
        row = array[~np.isfinite(array).all(axis=1)][0]
        raise NacreError(
            f"The parameters of a task of {family.name} ({names}) must be finite, and are {row.tolist()}{origin}."
        )
    for parameter, choices in family.task_choices.items():
        column = array[:, family.task_parameters.index(parameter)]
        for value in column[~np.isin(column, choices)]:
            allowed = ", ".join(f"{choice:g}" for choice in choices)
            raise NacreError(f"{parameter} of a task of {family.name} is {value:g}{origin}; allowed: {allowed}.")
    return array


def check_family(family: Any) -> None:
    """Checks the sizes and names that a family is made of; NumPy's integers become Python's.

    Raises:
        NacreError: one of them is missing or impossible; the message names the class.
    """
    kind = type(family).__name__
    if not isinstance(family, TaskFamily):
        raise NacreError(
            f"A task family is an instance of a subclass of TaskFamily, and {shortened(family)} was given."
        )
    for field in ("observation_size", "action_size", "horizon"):
        value = getattr(family, field, None)
        if isinstance(value, np.integer):
            setattr(family, field, int(value))
        elif field == "observation_size" and isinstance(value, tuple):
            if len(value) != 3 or value[2] != 3 or not all(type(size) is int and size > 0 for size in value):
                raise NacreError(f"{field} of {kind} is {value}; allowed of pictures: (height, width, 3).")
        elif type(value) is not int or value < 1:
            raise NacreError(f"{field} of {kind} is {value!r}; allowed: a whole number of at least 1.")
    if family.most_slots is not None and (type(family.most_slots) is not int or family.most_slots < 1):
        raise NacreError(f"most_slots of {kind} is {family.most_slots!r}; allowed: None, or at least 1.")
    if not isinstance(getattr(family, "name", None), str):
        raise NacreError(f"name of {kind} is {getattr(family, 'name', None)!r}; allowed: text.")
    names = getattr(family, "task_parameters", None)
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise NacreError(
            f"task_parameters of {kind} is {names!r}; allowed: a tuple of the names of a task's parameters, such as "
            "('goal',)."
        )
    for parameter in family.task_choices:
        if parameter not in names:
            raise NacreError(f"task_choices of {kind} has {parameter!r}; allowed: {', '.join(names)}.")
    if family.success_at not in ("any", "end"):
        raise NacreError(f"success_at of {kind} is {family.success_at!r}; allowed: 'any' or 'end'.")
    if family.shift is not None and not isinstance(family.shift, Shift):
        raise NacreError(f"shift of {kind} is {shortened(family.shift)}; allowed: None or a Shift.")
    if family.finite_tasks is not None:
        _check_different(family, check_tasks(family, family.finite_tasks))


ROUNDS = 1000
"""How often tasks that are there already are drawn anew, until the family is said to have no others."""


def _different_tasks(
    family: TaskFamily,
    generator: np.random.Generator,
    n: int,
    taken: Float64[np.ndarray, "n_taken parameters"] | None = None,
) -> Float64[np.ndarray, "n parameters"]:
    """`n` tasks that differ from each other and from those of `taken`, but for those that are repeatable."""
    tasks = draw_tasks(family, generator, n)
    others = tasks[:0] if taken is None else taken
    for _ in range(ROUNDS):
        again = _repeated(np.concatenate([others, tasks]))[len(others) :] & ~_repeatable(family, tasks)
        if not again.any():
            return tasks
        tasks[again] = draw_tasks(family, generator, int(again.sum()))
    raise NacreError(
        f"{len(others) + n} different tasks of {family.name} are asked for (train_tasks + test_tasks), and in {ROUNDS} "
        f"rounds {name_of(family.sample_tasks)} gave only {len(others) + n - int(again.sum())}: ask for fewer, or list "
        "all tasks of the family in its finite_tasks."
    )


def _repeated(rows: Float64[np.ndarray, "n parameters"]) -> Bool[np.ndarray, " n"]:
    """Whether a row is equal to one before it."""
    _, first = np.unique(rows + 0.0, axis=0, return_index=True)  # + 0.0 makes 0.0 of -0.0
    repeated = np.ones(len(rows), bool)
    repeated[first] = False
    return repeated


def _repeatable(family: TaskFamily, tasks: np.ndarray) -> Bool[np.ndarray, " n"]:
    return truths(family.repeatable, call(family.repeatable, tasks), len(tasks))


def _check_different(family: TaskFamily, tasks: np.ndarray) -> None:
    repeated = _repeated(tasks)
    if repeated.any():
        row = int(np.argmax(repeated))
        raise NacreError(
            f"Task {row} of the finite tasks of {family.name} ({tasks[row].tolist()}) is there twice; allowed: "
            "different tasks."
        )


def _check_held_out(family: TaskFamily, train: np.ndarray, test: np.ndarray) -> None:
    """Raises NacreError if a test task is a train task. In a family of few tasks all of them may be."""
    known = (train[None] == test[:, None]).all(axis=-1)
    trained_on = known.any(axis=1) & ~_repeatable(family, test)
    if not trained_on.any() or (family.finite_tasks is not None and trained_on.all()):
        return
    row = int(np.argmax(trained_on))
    few = f", as {family.name} has only {len(family.finite_tasks)} tasks" if family.finite_tasks is not None else ""
    raise NacreError(
        f"Test task {row} of {family.name} ({test[row].tolist()}) is train task {int(np.argmax(known[row]))} too{few}; "
        "allowed: test tasks that are held out, or task_list='shared', with which all of them are train tasks."
    )
