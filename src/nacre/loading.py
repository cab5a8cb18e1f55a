"""Trained agents for one's own loop."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing
from jaxtyping import Array, Bool

from nacre import acting
from nacre.checkpoint import latest_checkpoint, load_selected, read_progress
from nacre.errors import NacreError
from nacre.experiments import Experiment, family_of
from nacre.experiments.experiment import nearest
from nacre.identity import check_stamp
from nacre.interfaces import Agent, Learner, select
from nacre.protocol import Protocol
from nacre.run_folder import CHECKPOINTS, read_run, read_stamp, read_to_act
from nacre.runtime import learner_for, prepare_jax
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Transition, Tree

Values = np.typing.ArrayLike | float | int | bool
"""Numbers or flags, in an array or not. (Spelt out for run-time type checks, to which no float is a complex number.)"""


@dataclass(frozen=True)
class TrainedRun:
    """What a run has learnt, as far as acting needs it."""

    experiment: Experiment
    family: TaskFamily
    split: TaskSplit
    checkpoint: Path
    learner: Learner
    parameters: Tree
    """What agents act with."""

    def agent(self, capacity: int) -> Agent:
        """The agent as it is meta-tested, for trials of at most `capacity` transitions."""
        return self.learner.agent(capacity)

    @property
    def protocol(self) -> Protocol:
        """How the run meta-tests its agent after each iteration."""
        return self.experiment.algorithm.protocol(self.family.horizon)

    def capacity(self, asked: int | None) -> int:
        """The transitions of a trial that a belief can come from; see :func:`load`.

        Raises:
            NacreError: what is asked for is less than 1.
        """
        if asked is None:
            return max(10 * self.family.horizon, self.protocol.capacity(self.family.horizon))
        if asked < 1:
            raise NacreError(f"capacity is {asked}; allowed: at least 1")
        return asked


def read_trained(run: Path | str, checkpoint: Path | str = "latest") -> TrainedRun:
    """Reads the experiment of a run and what its agent acts with; see :func:`load` for `checkpoint`.

    Raises:
        NacreError: the folder is no run, or the checkpoint is missing, damaged or of another experiment.
    """
    experiment, split = read_run(Path(run))
    return _read_parameters(Path(run), checkpoint, experiment, split, family_of(experiment))


def _read_parameters(
    run: Path, checkpoint: Path | str, experiment: Experiment, split: TaskSplit, family: TaskFamily
) -> TrainedRun:
    learner = learner_for(experiment, family)
    path = find_checkpoint(run, checkpoint)
    shapes = jax.eval_shape(learner.initial_state, jax.random.key(0))
    parameters = load_selected(path, shapes, learner.parameters)
    stamp = read_progress(path).get("run")
    check_stamp(path, stamp, read_stamp(run, experiment, split))
    return TrainedRun(experiment, family, split, path, learner, parameters)


def load(
    run: Path | str,
    checkpoint: Path | str = "latest",
    *,
    deterministic: bool = True,
    seed: int = 0,
    capacity: int | None = None,
) -> LoadedAgent:
    """A trained agent for a loop of one's own. It needs no simulator: if the task family is not known here, the run
    folder tells its sizes.

    Args:
        run: the run folder.
        checkpoint: "latest" (the latest intact one), "best" (by the return on test tasks), a label such as
            "iteration_000012", or a path.
        deterministic: whether to act with the mode of the policy, or with draws from it. It can be changed at any
            time: `agent.deterministic = False`.
        seed: fixes all that the agent draws.
        capacity: transitions of a trial that the belief can come from; later ones change it no more. None: ten
            episodes of the family's horizon, or as many as a trial of the run's own evaluation has.

    Raises:
        NacreError: the folder is no run, or the checkpoint is missing, damaged or of another experiment.
    """
    with prepare_jax(None):
        trained = _read_parameters(Path(run), checkpoint, *read_to_act(Path(run)))
    return LoadedAgent(trained, trained.capacity(capacity), deterministic=deterministic, seed=seed)


class _Acted(NamedTuple):
    """What an agent did last."""

    observation: Any
    action: np.ndarray
    belief: Tree
    """That of before."""


class LoadedAgent:
    """A trained agent that adapts to the task it plays: call `begin_trial`, then `act` and `observe` in turn.

    It plays one trial, or n at once. With n trials every array has a leading axis n, episodes may end at different
    times, and no trial influences another.

    Attributes:
        deterministic: whether to act with the mode of the policy, or with draws from it.
        checkpoint: the file the agent was read from.
        experiment: the experiment it was trained in.
    """

    def __init__(self, trained: TrainedRun, capacity: int, *, deterministic: bool, seed: int):
        """Use :func:`load`."""
        self.deterministic = deterministic
        self.checkpoint = trained.checkpoint
        self.experiment = trained.experiment
        self._family = trained.family
        self._params = trained.parameters
        self._capacity = capacity
        self._agent: Agent = trained.agent(capacity)
        self._root = jax.random.key(seed)
        self._trials = 0
        self._single, self._n = True, 1
        self._belief: Tree | None = None
        self._acted: _Acted | None = None  # what `observe` will complete
        self._compiled: set[tuple[int, bool]] = set()  # for which numbers of trials, deterministic or not

    def __repr__(self) -> str:
        begun = "no trial has begun" if self._belief is None else f"in {self._trials_in_words()}"
        return f"<agent of {self.experiment.name}, {self.checkpoint}: {begun}>"

    @property
    def family(self) -> TaskFamily:
        """The task family that it was trained on."""
        return self._family

    @property
    def sees_task(self) -> bool:
        """Whether it is given its task, instead of inferring it."""
        return self._agent.sees_task

    @property
    def sees_sparse_reward(self) -> bool:
        """Whether :meth:`observe` needs the sparse reward."""
        return self._agent.sees_sparse_reward

    def begin_trial(self, n: int | None = None, *, task: Values | None = None) -> None:
        """Forgets the task: begins a new trial, or n new trials at once.

        The first time for a number of trials, all that a trial needs is compiled here, which may take seconds, so that
        nothing waits for it later.

        Args:
            n: None: one trial, and arrays without a leading axis.
            task: only for an agent that is given its task instead of inferring it: the parameters, shape (parameters,)
                or (n, parameters).

        Raises:
            ValueError: n is less than 1; a task is missing, of another shape, or given to an agent that infers it.
            NacreError: a task is not finite.
        """
        if n is not None and n < 1:
            raise ValueError(f"n is {n}; allowed: None or at least 1")
        before = self._single, self._n
        self._single, self._n = n is None, n or 1
        try:
            tasks = self._tasks(task)
        except (ValueError, NacreError):
            self._single, self._n = before
            raise
        key = jax.random.fold_in(self._root, self._trials)
        self._keys = _trial_keys(key, np.arange(self._n, dtype=np.int32))
        self._trials += 1
        self._time = 0  # calls of act and begin_episode in this trial
        self._seen = np.zeros(self._n, int)
        self._acted = None
        self._belief = _begin(self._agent, self._params, self._keys, tasks)
        if (self._n, self.deterministic) not in self._compiled:
            self._compile(self._belief)
            self._compiled.add((self._n, self.deterministic))

    def _compile(self, belief: Tree) -> None:
        """Calls every program once, and forgets what it returns. Twice, as what goes round may change its type."""
        agent, params, keys, time = self._agent, self._params, self._keys, np.int32(0)
        observation = np.zeros((self._n, *self._family.observation_shape), self._family.observation_dtype)
        everywhere, zeros = np.ones(self._n, bool), np.zeros(self._n, np.float32)
        for _ in range(2):
            before = belief
            action, belief = _act(
                agent, params, belief, observation, keys, time, everywhere, deterministic=self.deterministic
            )
            belief = _select(everywhere, belief, before)
            transition: Any = Transition(observation, np.array(action), zeros, zeros, observation, everywhere)  # pyright: ignore[reportArgumentType]
            belief = _observe(agent, params, belief, transition, everywhere)
            belief = _end_episode(agent, params, belief, keys, time, everywhere, everywhere)
            belief = _begin_episode(agent, params, belief, keys, time, everywhere)

    def begin_episode(self) -> None:
        """Begins an episode without ending one, in all trials: what the agent draws for an episode, such as a guess of
        the task, is drawn anew; what it has inferred stays.

        `begin_trial` does this already, and so does `observe` when an episode has ended. It is for an episode that
        was broken off, and for looking at several draws of one belief.

        Raises:
            RuntimeError: no trial has begun.
        """
        if self._belief is None:
            raise RuntimeError("begin_episode: no trial has begun; call begin_trial first")
        self._time += 1  # so that every draw has a key of its own
        self._acted = None
        everywhere = np.ones(self._n, bool)
        self._belief = _begin_episode(
            self._agent, self._params, self._belief, self._keys, np.int32(self._time), everywhere
        )

    def act(self, observation: Values) -> np.ndarray:
        """The action for an observation.

        Args:
            observation: shape (observation,), or (n, observation) in n trials; of a family of pictures uint8 of shape
                (height, width, 3), or (n, height, width, 3): the agent remembers those before it.

        Returns:
            float32 in [-1, 1], shape (action,) or (n, action).

        Raises:
            RuntimeError: no trial has begun.
            ValueError: the observation is of another shape, or is no picture of uint8 although it has to be one.
            NacreError: it is not finite.
        """
        if self._belief is None:
            raise RuntimeError("act: no trial has begun; call begin_trial first")
        rows = self._observations("observation", observation)
        self._time += 1
        before = self._belief
        action, self._belief = _act(
            self._agent,
            self._params,
            before,
            rows,
            self._keys,
            np.int32(self._time),
            np.ones(self._n, bool),
            deterministic=self.deterministic,
        )
        self._acted = _Acted(rows, np.array(action), before)
        return self._acted.action[0].copy() if self._single else self._acted.action.copy()

    def observe(
        self,
        next_observation: Values,
        reward: Values,
        terminated: Values,
        truncated: Values,
        *,
        sparse_reward: Values | None = None,
        active: Values | None = None,
    ) -> None:
        """What came of the latest action.

        If an episode has ended in a trial, the belief is updated as the algorithm does it, and the next `act` there is
        the first of a new episode.

        Args:
            next_observation: shaped like an `observation` of :meth:`act`.
            reward: a number, or shape (n,).
            terminated: whether the task ended; a bool, or shape (n,).
            truncated: whether the clock ran out; a bool, or shape (n,).
            sparse_reward: a number, or shape (n,); only for an agent that was trained with it in its context.
            active: the trials that this concerns, shape (n,); None: all. Leave out those whose environment only
                waited or was reset, such as Gymnasium's vector environments in the step after an episode's end.

        Raises:
            RuntimeError: `act` was not called before.
            ValueError: something is of another shape, or the sparse reward is missing.
            NacreError: something is not finite.
        """
        if self._acted is None or self._belief is None:
            raise RuntimeError("observe: there is no action yet to observe the result of; call act first")
        if sparse_reward is None and self._agent.sees_sparse_reward:
            raise ValueError("sparse_reward is missing: this agent was trained with the sparse reward in its context")
        played = self._flags("active", True if active is None else active, may_be_scalar=active is None)
        rewards = self._rows("reward", reward)
        transition = Transition(
            observation=self._acted.observation,
            action=self._acted.action,  # pyright: ignore[reportArgumentType]
            reward=rewards,
            sparse_reward=rewards if sparse_reward is None else self._rows("sparse_reward", sparse_reward),
            next_observation=self._observations("next_observation", next_observation),
            terminated=self._flags("terminated", terminated),
        )
        ended = played & (transition.terminated | self._flags("truncated", truncated))
        if not played.all():  # there the action was not carried out, so that it changed no belief either
            self._belief = _select(played, self._belief, self._acted.belief)
        self._acted = None
        self._belief = _observe(self._agent, self._params, self._belief, transition, played)
        self._warn_when_full(played)
        if ended.any():
            time = np.int32(self._time)
            self._belief = _end_episode(self._agent, self._params, self._belief, self._keys, time, ended, ended)

    @property
    def belief(self) -> Any:
        """A copy of what the agent believes, as the algorithm keeps it, in NumPy arrays.

        Its fields are on the page of each algorithm. Arrays have no leading axis in a single trial.

        Raises:
            RuntimeError: no trial has begun.
        """
        if self._belief is None:
            raise RuntimeError("belief: no trial has begun; call begin_trial first")
        return jax.tree.map(lambda leaf: np.array(leaf[0] if self._single else leaf), self._belief)

    def _tasks(self, task: Values | None) -> Any:
        sizes = self._family.sizes
        if not self._agent.sees_task:
            if task is not None:
                raise ValueError("task is given; allowed for this agent: None, as it infers its task")
            return np.zeros((self._n, sizes.task), np.float32)
        if task is None:
            names = ", ".join(self._family.task_parameters)
            raise ValueError(f"task is missing: this agent does not infer its task but has to be given it ({names})")
        return self._rows("task", task, (sizes.task,))

    def _observations(self, name: str, value: Values) -> Any:
        shape = self._family.observation_shape
        if self._family.observation_dtype == np.float32:
            return self._rows(name, value, shape)
        pictures = np.asarray(value)
        if pictures.dtype != np.uint8:
            raise ValueError(f"{name} is of {pictures.dtype}; allowed: uint8, as it is a picture")
        return self._shaped(name, pictures, shape)

    def _rows(self, name: str, value: Values, shape: tuple[int, ...] = ()) -> Any:
        """`value` as a NumPy array of float32 with a leading axis n."""
        rows = self._shaped(name, np.asarray(value, np.float32), shape)
        if not np.isfinite(rows).all():
            raise NacreError(f"the {name} given to the agent is not finite: {value}")
        return rows

    def _flags(self, name: str, value: Values, may_be_scalar: bool = False) -> Any:
        flags = np.asarray(value, bool)
        return np.full(self._n, flags) if may_be_scalar else self._shaped(name, flags, ())

    def _shaped(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> Any:
        shape = shape if self._single else (self._n, *shape)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; allowed in {self._trials_in_words()}: {shape}")
        return array[None] if self._single else array

    def _trials_in_words(self) -> str:
        return "a single trial" if self._single else f"{self._n} trials"

    def _warn_when_full(self, played: np.ndarray) -> None:
        was_full = (self._seen > self._capacity).any()
        self._seen += played
        if not was_full and (self._seen > self._capacity).any():
            warnings.warn(
                f"a trial has more than {self._capacity} transitions, and the belief does not learn from later ones; "
                "load the agent with a larger capacity",
                stacklevel=3,
            )


def find_checkpoint(run: Path, checkpoint: Path | str) -> Path:
    """The file of a run's checkpoint; see :func:`load` for `checkpoint`.

    Raises:
        NacreError: there is none.
    """
    folder = run / CHECKPOINTS
    if checkpoint == "latest":
        path, damages = latest_checkpoint(folder)
        for damage in damages:
            warnings.warn(damage, stacklevel=4)
        return path
    for path in (folder / f"{checkpoint}.npz", Path(checkpoint)):
        if path.exists():
            return path
    known = ["latest", *(path.stem for path in folder.glob("*.npz"))]
    raise NacreError(f"{run} has no checkpoint {str(checkpoint)!r}: {nearest(str(checkpoint), known)}")


_begin = jax.jit(acting.begin, static_argnames="agent")
_begin_episode = jax.jit(acting.begin_episode, static_argnames="agent")
_act = jax.jit(acting.act, static_argnames=("agent", "deterministic"))
_end_episode = jax.jit(acting.end_episode, static_argnames="agent")
_trial_keys = jax.jit(acting.trial_keys)


@functools.partial(jax.jit, static_argnames="agent")
def _observe(agent: Agent, params: Tree, belief: Tree, transition: Transition, active: Bool[Array, " n"]) -> Tree:
    return agent.observe(params, belief, transition, active)


_select = jax.jit(select)
