"""Trained agents for one's own loop. Nothing of training is imported here."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing
from jaxtyping import Array, Bool, Float, Int32, Real

from nacre.agents.interface import Agent
from nacre.agents.pearl.agent import PearlAgent, evaluation_agent
from nacre.agents.pearl.networks import ActingNetworks, initial_networks
from nacre.checkpoint import latest_checkpoint, load_part
from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.experiments.experiment import nearest
from nacre.run_folder import CHECKPOINTS, read_run
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Key, Transition, Tree

Values = np.typing.ArrayLike | float | int | bool
"""Numbers or flags, in an array or not. (Spelt out for run-time type checks, to which no float is a complex number.)"""

NETWORKS = ".trained.networks"
"""Where in the state of a PEARL learner its networks are."""


@dataclass(frozen=True)
class Trained:
    """What a run has learnt, as far as acting needs it."""

    experiment: Experiment
    family: TaskFamily
    split: TaskSplit
    checkpoint: Path
    networks: ActingNetworks

    def agent(self, capacity: int) -> PearlAgent:
        """The agent as it is meta-tested, with room for `capacity` transitions of context in a trial."""
        family = self.family
        sizes = family.observation_size, family.action_size, family.horizon
        return evaluation_agent(self.experiment.algorithm, *sizes, capacity)


def read_trained(run: Path | str, checkpoint: Path | str = "latest") -> Trained:
    """Reads the experiment and the networks of a run; see :func:`load` for `checkpoint`.

    Raises:
        NacreError: the folder is no run, or the checkpoint is missing, damaged or of another experiment.
    """
    experiment, split = read_run(Path(run))
    family = make_family(experiment.family)
    path = find_checkpoint(Path(run), checkpoint)
    shapes = jax.eval_shape(
        lambda: (
            initial_networks(
                experiment.algorithm,
                family.observation_size,
                family.action_size,
                key=jax.random.key(0),
                precision=experiment.precision,
            ).acting
        )
    )
    return Trained(experiment, family, split, path, load_part(path, NETWORKS, shapes))


def load(
    run: Path | str,
    checkpoint: Path | str = "latest",
    *,
    deterministic: bool = True,
    seed: int = 0,
    capacity: int | None = None,
) -> LoadedAgent:
    """A trained agent for a loop of one's own.

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
    trained = read_trained(run, checkpoint)
    if capacity is None:
        horizon = trained.family.horizon
        capacity = max(10 * horizon, trained.experiment.algorithm.evaluation_steps + horizon)
    if capacity < 1:
        raise NacreError(f"capacity is {capacity}; allowed: at least 1")
    return LoadedAgent(trained, capacity, deterministic=deterministic, seed=seed)


class LoadedAgent:
    """A trained agent that adapts to the task it plays: call `begin_trial`, then `act` and `observe` in turn.

    It plays one trial, or n at once. With n trials every array has a leading axis n, episodes may end at different
    times, and no trial influences another.

    Attributes:
        deterministic: whether to act with the mode of the policy, or with draws from it.
        checkpoint: the file the agent was read from.
        experiment: the experiment it was trained in.
    """

    def __init__(self, trained: Trained, capacity: int, *, deterministic: bool, seed: int):
        """Use :func:`load`."""
        self.deterministic = deterministic
        self.checkpoint = trained.checkpoint
        self.experiment = trained.experiment
        self._family = trained.family
        self._params = trained.networks
        self._capacity = capacity
        self._agent: Agent = trained.agent(capacity)
        self._root = jax.random.key(seed)
        self._trials = 0
        self._single = True
        self._belief: Tree | None = None
        self._acted: tuple[Any, Any] | None = None  # the observation and action that `observe` will complete

    def begin_trial(self, n: int | None = None) -> None:
        """Forgets the task: begins a new trial, or n new trials at once.

        Args:
            n: None: one trial, and arrays without a leading axis.

        Raises:
            ValueError: n is less than 1.
        """
        if n is not None and n < 1:
            raise ValueError(f"n is {n}; allowed: None or at least 1")
        self._single, self._n = n is None, n or 1
        self._key = jax.random.fold_in(self._root, self._trials)
        self._trials += 1
        self._time = 0  # calls of act and begin_episode in this trial
        self._seen = np.zeros(self._n, int)
        self._acted = None
        self._belief = _begin_trial(self._agent, self._params, self._key, self._n)

    def begin_episode(self) -> None:
        """Begins an episode without ending one: what the agent draws for an episode (PEARL: z, from the posterior) is
        drawn anew, in all trials; what it has inferred stays.

        `begin_trial` does this already, and so does `observe` where an episode has ended. It is for an episode that
        was broken off, and for looking at several draws of one belief.

        Raises:
            RuntimeError: no trial has begun.
        """
        if self._belief is None:
            raise RuntimeError("begin_episode: no trial has begun; call begin_trial first")
        self._time += 1  # so that every draw has a key of its own
        self._acted = None
        self._belief = _begin_episode(self._agent, self._params, self._belief, self._key, np.int32(self._time))

    def act(self, observation: Values) -> np.ndarray:
        """The action for an observation.

        Args:
            observation: shape (observation,), or (n, observation) in n trials; of a family of pictures uint8 of shape
                (height, width, 3), or (n, height, width, 3): the agent remembers those before it.

        Returns:
            float32 in [-1, 1], shape (action,) or (n, action).

        Raises:
            RuntimeError: no trial has begun.
            ValueError: the observation is of another shape, or no picture of uint8 where it has to be one.
            NacreError: it is not finite.
        """
        if self._belief is None:
            raise RuntimeError("act: no trial has begun; call begin_trial first")
        rows = self._observations("observation", observation)
        self._time += 1
        action, self._belief = _act(
            self._agent, self._params, self._belief, rows, self._key, np.int32(self._time), self.deterministic
        )
        self._acted = rows, np.array(action)
        return self._acted[1][0].copy() if self._single else self._acted[1].copy()

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

        Where an episode has ended, the belief is updated as the algorithm does it (PEARL: from all episodes of the
        trial), and the next `act` there is the first of a new episode.

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
        if sparse_reward is None and self.experiment.algorithm.sparse_reward_in_context:
            raise ValueError("sparse_reward is missing: this agent was trained with the sparse reward in its context")
        played = self._flags("active", True if active is None else active, may_be_scalar=active is None)
        rewards = self._rows("reward", reward)
        transition = Transition(
            observation=self._acted[0],
            action=self._acted[1],
            reward=rewards,
            sparse_reward=rewards if sparse_reward is None else self._rows("sparse_reward", sparse_reward),
            next_observation=self._observations("next_observation", next_observation),
            terminated=self._flags("terminated", terminated),
        )
        ended = played & (transition.terminated | self._flags("truncated", truncated))
        self._acted = None
        self._belief = _observe(self._agent, self._params, self._belief, transition, played)
        self._warn_when_full(played)
        if ended.any():
            self._belief = _end_episode(self._agent, self._params, self._belief, ended, self._key, np.int32(self._time))

    @property
    def belief(self) -> Any:
        """A copy of what the agent believes, as the algorithm keeps it, in NumPy arrays.

        PEARL's has among its fields `mean` and `variance` of the posterior over z, `latent` (the z in force) and
        `episodes` (how many have ended). Without leading axis in a single trial.

        Raises:
            RuntimeError: no trial has begun.
        """
        if self._belief is None:
            raise RuntimeError("belief: no trial has begun; call begin_trial first")
        return jax.tree.map(lambda leaf: np.array(leaf[0] if self._single else leaf), self._belief)

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
        if path.is_file():
            return path
    known = ["latest", *(path.stem for path in folder.glob("*.npz"))]
    raise NacreError(f"{run} has no checkpoint {str(checkpoint)!r}: {nearest(str(checkpoint), known)}")


# Keys are made from the number of the time step, not from one another: what a trial draws does not depend on when the
# episodes of other trials end.


@functools.partial(jax.jit, static_argnames=("agent", "n"))
def _begin_trial(agent: Agent, params: Tree, key: Key, n: int) -> Tree:
    begin_key, episode_key = jax.random.split(jax.random.fold_in(key, 0))
    belief = agent.begin_trial(params, begin_key, n)
    return agent.begin_episode(params, belief, episode_key, jnp.ones(n, bool))


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _begin_episode(agent: Agent, params: Tree, belief: Tree, key: Key, time: Int32[Array, ""]) -> Tree:
    _, begin_key = jax.random.split(jax.random.fold_in(key, time))
    return agent.begin_episode(params, belief, begin_key, jnp.ones(jax.tree.leaves(belief)[0].shape[0], bool))


@functools.partial(jax.jit, static_argnames=("agent", "deterministic"), donate_argnames="belief")
def _act(
    agent: Agent,
    params: Tree,
    belief: Tree,
    observation: Real[Array, "n *observation"],
    key: Key,
    time: Int32[Array, ""],
    deterministic: bool,
) -> tuple[Float[Array, "n action"], Tree]:
    action_key, _ = jax.random.split(jax.random.fold_in(key, time))
    return agent.act(params, belief, observation, action_key, deterministic)


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _observe(agent: Agent, params: Tree, belief: Tree, transition: Transition, active: Bool[Array, " n"]) -> Tree:
    return agent.observe(params, belief, transition, active)


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _end_episode(
    agent: Agent, params: Tree, belief: Tree, ended: Bool[Array, " n"], key: Key, time: Int32[Array, ""]
) -> Tree:
    """Updates the beliefs of the trials whose episode ended, and begins their next episodes."""
    _, ending_key = jax.random.split(jax.random.fold_in(key, time))
    end_key, begin_key = jax.random.split(ending_key)
    belief = agent.end_episode(params, belief, end_key, ended)
    return agent.begin_episode(params, belief, begin_key, ended)
