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
from nacre.replay import ReplayBuffer
from nacre.tasks.family import Sizes, TaskFamily, TaskSplit
from nacre.types import Episode, Key, Metrics, Transition, Tree, Visit


@runtime_checkable
class Agent(Protocol):
    """Task inference (`begin_*`, `observe`, `end_episode`) and control (`act`), as pure functions of n trials.

    An agent is a frozen, hashable dataclass of settings: the house compiles its methods once for each agent. A subclass
    needs `begin_trial`, `act` and, if it infers anything, `observe`; the other methods change nothing.

    The methods are called in this order, at the same time for all trials of a play:

        begin_trial, begin_episode, then act and observe at each step, end_episode, begin_episode, act, observe, ...

    Arguments that have the same meaning everywhere:

        params: what `Learner.parameters` selected. It does not change within a trial.
        belief: what the agent carries from one call to the next. It is any pytree, but every leaf has a leading axis n.
        keys: a random key for each trial. What a trial draws may come from no other trial's key.
        mask: the trials that the call concerns. The beliefs of the others have to come back unchanged: see
            :func:`select`.
    """

    @property
    def sees_sparse_reward(self) -> bool:
        """Whether `observe` reads the sparse reward of a transition. A loaded agent then asks its user for it."""
        return False

    @property
    def sees_task(self) -> bool:
        """Whether `begin_trial` is given the true tasks. Only a reference that has nothing to infer is. If tasks change
        within an episode it is given those of the beginning."""
        return False

    def begin_trial(self, params: Tree, keys: Key, tasks: Float32[Array, "n parameters"] | None) -> Tree:
        """Begins n trials.

        Args:
            params: see above.
            keys: see above; their number is n.
            tasks: the true tasks if the agent `sees_task`, or None.

        Returns:
            The beliefs of agents that have seen nothing of their tasks.
        """
        ...

    def begin_episode(self, params: Tree, belief: Tree, keys: Key, mask: Bool[Array, " n"]) -> Tree:
        """Begins an episode, of which nothing was observed yet: a hypothesis may be drawn here, a hidden state reset.

        Returns:
            The beliefs.
        """
        return belief

    def act(
        self,
        params: Tree,
        belief: Tree,
        observation: Real[Array, "n *observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], Tree]:
        """Chooses actions.

        Args:
            params: see above.
            belief: see above.
            keys: see above.
            mask: see above.
            observation: what each trial is in now.
            deterministic: whether to take the mode of the policy, and not a draw from it.

        Returns:
            Actions in [-1, 1], of which those outside the mask are not used; and the beliefs.
        """
        ...

    def observe(self, params: Tree, belief: Tree, transition: Transition, mask: Bool[Array, " n"]) -> Tree:
        """Takes in what came of the latest actions: one transition for each trial, after each time step.

        Returns:
            The beliefs.
        """
        return belief

    def end_episode(self, params: Tree, belief: Tree, keys: Key, mask: Bool[Array, " n"]) -> Tree:
        """Ends an episode that has terminated or been truncated. Its last transition was observed before.

        Returns:
            The beliefs.
        """
        return belief


MOST_ROWS = 32
"""Trials that one call of an agent serves on a CPU; see :attr:`Play.rows`."""


@dataclass(frozen=True)
class Play:
    """One trial in each of `tasks`: whole episodes, until it has at least `steps` steps and `episodes` episodes.

    What a trial becomes depends on the seed, its number in the play, its task and its pool, and on no other trial.
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
    """Whether episodes carry the task of each step. If tasks change within an episode they do in any case."""
    pools: tuple[Float64[np.ndarray, "_ parameters"], ...] | None = None
    """For each trial, the tasks that changes within an episode draw from; see :class:`nacre.tasks.shifts.Shift`. None:
    the run's train tasks, and in an evaluation its test tasks."""
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
            pools=None if self.pools is None else tuple(self.pools[trial] for trial in trials),
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
    """All that meta-training changes, in every algorithm: it is what a checkpoint holds."""

    trained: Tree
    """A NamedTuple with the fields `networks` and `optimisers`. All else in it, such as target networks, follows the
    networks: a warm start takes it from the other run together with them, while optimisers begin anew."""
    key: Key
    """The source of what gradient steps draw. The house splits it before each step."""
    updates: Int32[Array, ""]
    """Gradient steps done. The house counts them."""


class Phase(NamedTuple):
    """A part of an iteration: it collects, or it takes gradient steps.

    Its name stands in the progress bar, in errors and in columns of time, and is the `phase` that the methods of a
    learner are given.
    """

    name: str
    steps: int = 0
    """Gradient steps, at most; 0: the phase collects."""


@runtime_checkable
class Memory(Protocol):
    """What a learner keeps of the data that were collected. A replay (:class:`nacre.replay.ReplayBuffer`) keeps all; an
    on-policy method may keep the latest alone.

    No checkpoint holds it. A run that goes on makes an empty memory and adds all visits again, phase by phase as they
    were made, so what it holds may depend on the visits alone.
    """

    @property
    def arrays(self) -> Tree:
        """What `Learner.draw` reads: a pytree of arrays on the device.

        Adding visits invalidates it: take it anew afterwards. Gradient steps are compiled anew if its shapes change.
        """
        ...

    def add(self, visits: Iterable[Visit]) -> None:
        """Takes visits, in the order in which they were made."""
        ...


@dataclass(frozen=True)
class Learner(abc.ABC):
    """Meta-training of one algorithm on tasks of given sizes.

    It is a frozen, hashable dataclass and holds no arrays: what changes is in a :class:`LearnerState`. `phases` is its
    outline. In each iteration the house goes through the phases in order, and then evaluates:

        a phase that collects      begin, collect; the memory adds what came of it
        one of gradient steps      begin, derive, and then for each step: ended, draw, step
        at the end                 evaluate

    A run can be stopped between any two gradient steps, and is then continued exactly. The house does that, and trains
    several seeds at once, if the methods below are pure: what they return follows from their arguments alone.
    `draw`, `step` and `ended` are compiled by JAX; the others are plain Python. Before a run begins, `memory`, `derive`
    and `draw` are also called without values, to estimate the memory that is needed.
    """

    config: Any  # an AlgorithmConfig: subclasses narrow the type
    """The hyperparameters."""
    sizes: Sizes
    """Of the task family: observation, action, horizon, task."""
    precision: Precision = "float32"
    """Of the hidden layers' matrix products; networks are made with it."""

    @abc.abstractmethod
    def initial_state(self, key: Key) -> LearnerState:
        """Fresh networks, targets equal to what they follow, and optimisers that have not moved.

        It is compiled too. No two leaves may be one array, as a gradient step is given their memory: copy networks to
        make targets of them.
        """

    @abc.abstractmethod
    def parameters(self, state: LearnerState) -> Tree:
        """What agents act with: their `params`. It selects parts of the state and computes nothing, so that a trained
        agent can be read from a checkpoint without the rest."""

    @abc.abstractmethod
    def agent(self, capacity: int) -> Agent:
        """The agent as it is meta-tested, for trials of at most `capacity` transitions.

        An agent that keeps the transitions of a trial has to make room for so many; another may ignore it.
        """

    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> Memory:
        """An empty memory for the train tasks: unless a subclass has another, a replay with room for the environment
        steps that so many iterations collect."""
        transitions = self.config.environment_steps(len(tasks), iterations)
        return ReplayBuffer(
            len(tasks),
            self.sizes,
            has_sparse_reward=family.has_sparse_reward,
            transitions=transitions,
            fullest_task=-(-transitions // len(tasks)),
        )

    @abc.abstractmethod
    def phases(self, iteration: int) -> tuple[Phase, ...]:
        """The phases of an iteration, in order. A name may occur several times; iterations are counted from 0.

        What the gradient steps of the first iteration report are the columns of progress.csv. They are NaN in a later
        iteration that has no such steps.
        """

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
        """What a phase without gradient steps collects.

        It is a generator: it yields each :class:`Play` that it wants, and is sent the :class:`Played` that came of it.

        Args:
            phase: its name.
            state: what has been learnt; `self.parameters(state)` are the params of a play.
            memory: what was collected before.
            family: of the tasks.
            tasks: the train tasks. `Visit.task` is an index into them.
            seed: the source of everything random here; :func:`nacre.seeds.child` makes independent ones of it.

        Returns:
            The visits, in the order in which the memory takes them.
        """

    def begin(
        self, phase: str, state: LearnerState, memory: Memory, tasks: Float64[np.ndarray, "n parameters"]
    ) -> LearnerState:
        """The state with which a phase begins, whether it collects or steps: statistics of the data, best weights.

        It is called once for each phase, and not again if a run is resumed within it. Arguments are as in `collect`.
        """
        return state

    def derive(
        self, phase: str, state: LearnerState, memory: Memory, tasks: Float64[np.ndarray, "n parameters"]
    ) -> Tree:
        """What the gradient steps of a phase read besides the memory, such as the train tasks or statistics.

        It is called whenever the gradient steps of a phase begin or go on, and its result is never saved. So it has to
        be the same each time, and may depend on nothing that a step of this phase changes.

        Args:
            phase: as in `collect`.
            state: as in `collect`.
            memory: as in `collect`.
            tasks: the train tasks.

        Returns:
            A pytree of arrays.
        """
        return None

    def draw(self, phase: str, arrays: Tree, derived: Tree, key: Key) -> Tree:
        """The batch of a gradient step.

        Args:
            phase: its name.
            arrays: those of the memory.
            derived: what `derive` gave.
            key: the source of everything random here.

        Returns:
            Any pytree of arrays, for `step` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no batch in the phase {phase}")

    def step(self, phase: str, trained: Tree, batch: Tree, key: Key) -> tuple[Tree, StepMetrics]:
        """One gradient step.

        Args:
            phase: its name.
            trained: `LearnerState.trained`.
            batch: what `draw` gave.
            key: the source of everything random here.

        Returns:
            The new `trained`, of the same shapes; and an OrderedDict of metrics by column of progress.csv, the same
            columns in every step of the phase. See :mod:`nacre.metrics` for their kinds.
        """
        raise NotImplementedError(f"{type(self).__name__} has no gradient step in the phase {phase}")

    def step_bytes(self, phase: str, batch: Tree) -> float | None:
        """What the activations of a gradient step take, roughly, for a batch of which only shapes are known.

        Returns:
            Bytes; None: as for networks through which every row of the batch goes once.
        """
        return None

    def ended(self, phase: str, trained: Tree) -> Bool[Array, ""] | bool:
        """Whether the phase needs no further steps: the rest are left out. False: it never stops early."""
        return False

    def evaluate(
        self, state: LearnerState, memory: Memory, family: TaskFamily, split: TaskSplit, seed: np.random.SeedSequence
    ) -> Schedule[tuple[Metrics, int]]:
        """Evaluates at the end of an iteration: unless a subclass adds to it, by the protocol of the configuration.

        Args:
            state: as in `collect`.
            memory: as in `collect`.
            family: as in `collect`.
            seed: as in `collect`.
            split: train and test tasks.

        Returns:
            Columns of progress.csv, and the environment steps that they took. `nacre.protocol.TEST_RETURN` has to be
            among them, as the best checkpoint is chosen by it.
        """
        from nacre.evaluation import evaluate_split  # here, as it imports this module

        protocol = self.config.protocol(self.sizes.horizon)
        found = yield from evaluate_split(self.agent, self.parameters(state), family, split, protocol, seed)
        return found.columns, found.steps


def select(mask: Bool[Array, " n"], chosen: Tree, others: Tree) -> Tree:
    """The rows of `chosen` that are in the mask, and the other rows of `others`, leaf by leaf: what an agent needs to
    leave the beliefs of resting trials unchanged."""

    def rows(leaf: Array, other: Array) -> Array:
        return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, other)

    return jax.tree.map(rows, chosen, others)
