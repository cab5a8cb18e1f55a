"""The seams of the house: what an algorithm offers, and what it is given.

An algorithm is an :class:`Agent`, which infers a task and acts on it, and a :class:`Learner`, which says what is
collected, what a gradient step does and how the result is evaluated. Everything else (simulators, the loop, exact
resume, several seeds, logs, reports) knows an algorithm through this file alone.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int32, Real

from nacre.metrics import StepMetrics
from nacre.nn.mlp import Precision
from nacre.tasks.family import Sizes, TaskFamily, TaskSplit
from nacre.types import Episode, Key, Metrics, Transition, Tree, Visit


@runtime_checkable
class Agent(Protocol):
    """Task inference (`begin_*`, `observe`, `end_episode`) and control (`act`), as pure functions of N trials.

    An agent is a frozen, hashable dataclass of settings. Its parameters and beliefs are pytrees that it alone looks
    into. Every leaf of a belief has a leading axis N. `keys` has a random key for each trial, and a trial's result may
    depend on no other's key. `mask` says which trials a call concerns: the beliefs of the others come back unchanged.
    """

    @property
    def sees_sparse_reward(self) -> bool:
        """Whether it reads the sparse reward of what it observes."""
        ...

    @property
    def sees_task(self) -> bool:
        """Whether it is given the true task. Only a reference that has nothing to infer is."""
        ...

    def begin_trial(self, params: Tree, keys: Key, tasks: Float32[Array, "n parameters"] | None) -> Tree:
        """The beliefs of n agents that have seen nothing of their tasks; `tasks` is None unless `sees_task`."""
        ...

    def begin_episode(self, params: Tree, belief: Tree, keys: Key, mask: Bool[Array, " n"]) -> Tree:
        """At each reset."""
        ...

    def act(
        self,
        params: Tree,
        belief: Tree,
        observation: Real[Array, "n *observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], Tree]:
        """Actions in [-1, 1], and the beliefs. Actions of trials outside the mask are not used."""
        ...

    def observe(self, params: Tree, belief: Tree, transition: Transition, mask: Bool[Array, " n"]) -> Tree:
        """After each time step."""
        ...

    def end_episode(self, params: Tree, belief: Tree, keys: Key, mask: Bool[Array, " n"]) -> Tree:
        """When an episode has terminated or been truncated, after its last transition was observed."""
        ...


MOST_ROWS = 32
"""Trials that one call of an agent serves on a CPU; see :attr:`Play.rows`."""


@dataclass(frozen=True)
class Play:
    """One trial in each of `tasks`: whole episodes, until it has at least `steps` steps and `episodes` episodes.

    What a trial becomes depends on the seed, its number in the play and its task, and on no other trial.
    """

    agent: Agent
    params: Tree
    tasks: Float64[np.ndarray, "n parameters"]
    seed: np.random.SeedSequence
    """The source of everything random."""
    deterministic: bool
    steps: int = 0
    episodes: int = 0
    belief: Tree | None = None
    """Beliefs to go on from; None: each trial begins anew."""
    keeps_reward_states: bool = False
    """Whether episodes carry what rewards are computed from, for relabelling."""
    keeps_tasks: bool = False
    """Whether episodes carry the task of each step."""
    numbers: tuple[int, ...] | None = None
    """The numbers of these trials in the play that they are a part of; None: it is a whole play."""
    rows: int | None = None
    """Trials in one call of the agent; None: all of them, but at most `MOST_ROWS`.

    The rows of a matrix product may differ in their last bits with the number of rows, so a part of a play makes calls
    of the same number of rows as the whole.
    """

    @property
    def rows_per_call(self) -> int:
        return min(len(self.tasks), MOST_ROWS) if self.rows is None else self.rows

    def part(self, trials: Sequence[int]) -> Play:
        """Some trials of the play, in any order: what they become is what they become in the whole, bit for bit on a
        CPU."""
        numbers = range(len(self.tasks)) if self.numbers is None else self.numbers
        index = np.asarray(trials, int)
        return dataclasses.replace(
            self,
            tasks=self.tasks[index],
            numbers=tuple(numbers[trial] for trial in trials),
            rows=self.rows_per_call,
            belief=jax.tree.map(lambda leaf: leaf[index], self.belief),
        )


class Played(NamedTuple):
    """What came of a :class:`Play`."""

    trials: list[list[Episode]]
    """The episodes of each trial, in order."""
    belief: Tree
    """The beliefs at the end."""


Result = TypeVar("Result")
Schedule = Generator[Play, Played, Result]
"""Yields each play that it wants, and is sent what came of it. It knows nothing of other runs, and yet the schedules of
several seeds share one simulator."""


class LearnerState(NamedTuple):
    """All that meta-training changes, in every algorithm."""

    trained: Tree
    """Has fields `networks` and `optimisers`. Everything else in it, such as target networks, is read and written
    together with the networks."""
    key: Key
    updates: Int32[Array, ""]
    """Gradient steps done."""


class Phase(NamedTuple):
    """A part of an iteration. Its name stands in the progress bar, in errors and in columns of time."""

    name: str
    steps: int = 0
    """Gradient steps, at most; 0: the phase collects."""


@runtime_checkable
class Memory(Protocol):
    """What a learner keeps of the data that were collected. A replay keeps all, an on-policy method the latest."""

    @property
    def arrays(self) -> Tree:
        """What `Learner.draw` reads, on the device. Adding visits invalidates it: take it anew afterwards."""
        ...

    def add(self, visits: Iterable[Visit]) -> None:
        """Takes visits, in the order in which they were made."""
        ...


@dataclass(frozen=True)
class Learner(abc.ABC):
    """Meta-training of one algorithm on tasks of given sizes.

    It is hashable and holds no arrays: what changes is in a :class:`LearnerState`. `phases` is its outline. The house
    goes through the phases of an iteration in order and evaluates at the end; it can stop and go on between any two
    gradient steps.
    """

    config: Any  # an AlgorithmConfig: subclasses narrow the type
    sizes: Sizes
    precision: Precision = "float32"

    @abc.abstractmethod
    def initial_state(self, key: Key) -> LearnerState:
        """Fresh networks, targets equal to what they follow, and optimisers that have not moved."""

    @abc.abstractmethod
    def parameters(self, state: LearnerState) -> Tree:
        """What agents act with. It selects parts of the state and computes nothing, so that a trained agent can be read
        from a checkpoint without the rest."""

    @abc.abstractmethod
    def agent(self, capacity: int) -> Agent:
        """The agent as it is meta-tested, for trials of at most `capacity` transitions."""

    @abc.abstractmethod
    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> Memory:
        """An empty memory for the train tasks, with room for what so many iterations collect."""

    @abc.abstractmethod
    def phases(self, iteration: int) -> tuple[Phase, ...]:
        """The phases of an iteration, in order. A name may occur several times."""

    @abc.abstractmethod
    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: Memory,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """What a phase without gradient steps collects; `tasks` are the train tasks."""

    def begin(self, phase: str, state: LearnerState, memory: Memory) -> LearnerState:
        """The state with which a phase begins, whether it collects or steps: statistics of the data, best weights.

        It is called once for each phase, and not again if a run is resumed within it.
        """
        return state

    def derive(self, phase: str, state: LearnerState, memory: Memory) -> Tree:
        """What the steps of a phase read besides the memory and can be computed anew from it and the state.

        It is called whenever the gradient steps of a phase begin or go on, and its result is never saved. It may depend
        on nothing that a step of this phase changes.
        """
        return None

    def draw(self, phase: str, arrays: Tree, derived: Tree, key: Key) -> Tree:
        """The batch of a gradient step; `arrays` are the memory's."""
        raise NotImplementedError(f"{type(self).__name__} draws no batch in the phase {phase}")

    def step(self, phase: str, trained: Tree, batch: Tree, key: Key) -> tuple[Tree, StepMetrics]:
        """One gradient step."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient step in the phase {phase}")

    def ended(self, phase: str, trained: Tree) -> Bool[Array, ""] | bool:
        """Whether the phase needs no further steps: the rest are left out. False: it never stops early."""
        return False

    @abc.abstractmethod
    def evaluate(
        self, state: LearnerState, memory: Memory, family: TaskFamily, split: TaskSplit, seed: np.random.SeedSequence
    ) -> Schedule[tuple[Metrics, int]]:
        """Columns of progress.csv at the end of an iteration, and the environment steps that they took.

        Among them is `nacre.protocol.TEST_RETURN`, by which the best checkpoint is chosen.
        """


def select(mask: Bool[Array, " n"], chosen: Tree, others: Tree) -> Tree:
    """The rows of `chosen` that are in the mask, and the other rows of `others`, leaf by leaf: what an agent needs to
    leave the beliefs of resting trials unchanged."""

    def rows(leaf: Array, other: Array) -> Array:
        return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, other)

    return jax.tree.map(rows, chosen, others)
