"""Runs agents in simulators: trials of whole episodes, all slots together, with one policy call per time step.

What a run wants to have played it says in a *schedule*: a generator that yields each :class:`Play` and is sent what
came of it. It knows nothing of other runs, and yet the schedules of several seeds share one simulator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Real

from nacre.agents.interface import Agent
from nacre.errors import SimulationError
from nacre.seeds import batched, stack, unstack
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Key, Transition, Tree


@dataclass(frozen=True)
class Play:
    """One trial in each of `tasks`: whole episodes, until it has at least `steps` steps and `episodes` episodes.

    `seed` is the source of everything random. A `belief` that is given is continued (and used up: its arrays are
    donated); otherwise each trial begins anew.
    """

    agent: Agent
    params: Tree
    tasks: Float64[np.ndarray, "n parameters"]
    seed: np.random.SeedSequence
    deterministic: bool
    steps: int = 0
    episodes: int = 0
    belief: Tree | None = None


class Played(NamedTuple):
    """What came of a :class:`Play`."""

    trials: list[list[Episode]]
    """The episodes of each trial, in order. The `task` of an episode is the row of the trial's task."""
    belief: Tree
    """The beliefs at the end."""


Result = TypeVar("Result")
Schedule = Generator[Play, Played, Result]

Simulators = Callable[[int], Simulator]
"""Gives a simulator of so many slots."""


def key_of(seed: np.random.SeedSequence) -> Key:
    """A JAX PRNG key from a NumPy seed."""
    return jax.random.key(int(seed.generate_state(1)[0]))


def carry_out(schedules: Sequence[Schedule[Result]], simulators: Simulators) -> list[Result]:
    """Carries out schedules that differ in their seeds, tasks and parameters alone; returns what they return.

    Raises:
        SimulationError: a quantity is not finite; `part` is the index of the schedule whose it is.
    """
    answers: list[Any] = [None] * len(schedules)
    while True:
        plays: list[Play] = []
        results: list[Result] = []
        for schedule, answer in zip(schedules, answers, strict=True):
            try:
                plays.append(schedule.send(answer))
            except StopIteration as end:
                results.append(end.value)
        if not plays:
            return results
        if results:
            raise ValueError("schedules that are carried out together have equally many plays")
        answers = play_together(plays, simulators(sum(len(play.tasks) for play in plays)))


def run_trials(
    agent: Agent,
    params: Tree,
    simulator: Simulator,
    tasks: Float64[np.ndarray, "n parameters"],
    seed: np.random.SeedSequence,
    *,
    steps: int = 0,
    episodes: int = 0,
    deterministic: bool,
    belief: Tree | None = None,
) -> Played:
    """Plays one trial in each slot of a simulator: see :class:`Play`."""
    return play_together([Play(agent, params, tasks, seed, deterministic, steps, episodes, belief)], simulator)[0]


def play_together(plays: Sequence[Play], simulator: Simulator) -> list[Played]:
    """Plays what several seeds ask for, in as many slots as they have tasks together.

    Slots that have had enough rest while the others go on. Each play uses the random numbers that it would use alone.

    Raises:
        ValueError: the plays differ in more than their seeds, tasks, parameters and beliefs.
        SimulationError: a quantity is not finite; `part` is the index of the play whose it is, `slot` is counted in it.
    """
    first, n = plays[0], len(plays[0].tasks)
    for play in plays:
        if len(play.tasks) != n or _terms(play) != _terms(first):
            raise ValueError("plays of several seeds differ in their seeds, tasks, parameters and beliefs alone")
    try:
        trials, beliefs = _play(plays, simulator)
    except SimulationError as error:
        part, slot = divmod(error.slot, n)
        raise error.moved(slot=slot, part=part) from error
    return [Played(trials[part * n : (part + 1) * n], belief) for part, belief in enumerate(beliefs)]


def _terms(play: Play) -> tuple[Any, ...]:
    return play.agent, play.deterministic, play.steps, play.episodes


def _play(plays: Sequence[Play], simulator: Simulator) -> tuple[list[list[Episode]], list[Tree]]:
    """The episodes of every slot, and the beliefs of every play."""
    steps, episodes, n = plays[0].steps, plays[0].episodes, len(plays[0].tasks)
    beliefs: list[Tree] = []
    keys: list[Key] = []
    slot_seeds: list[np.random.SeedSequence] = []
    for play in plays:
        key_seed, reset_seed, trial_seed = play.seed.spawn(3)
        belief, key = _begin(play, key_of(key_seed), key_of(trial_seed))
        beliefs.append(belief)
        keys.append(key)
        slot_seeds += reset_seed.spawn(n)
    minds = (_Batched if batched(len(plays)) else _Separate)(plays, beliefs, keys)
    tasks = np.concatenate([play.tasks for play in plays])
    observation, _ = simulator.reset(seed=slot_seeds, options={"tasks": tasks})

    recorder = _Recorder(len(observation))
    transition = _no_transition(simulator)
    fresh = np.zeros(len(observation), bool)  # trials whose `transition` has not been observed yet
    playing = ~fresh
    while playing.any():
        action = minds.act(transition, fresh, observation, playing)
        following, reward, terminated, truncated, infos = simulator.step(action)
        reward = reward.astype(np.float32)
        sparse_reward = infos["sparse_reward"].astype(np.float32) if "sparse_reward" in infos else reward
        transition = Transition._make((observation, action, reward, sparse_reward, following, terminated))
        recorder.record(transition)
        fresh = playing
        observation = following
        ended = playing & (terminated | truncated)
        if ended.any():
            recorder.cut(ended, terminated)
            playing = playing & ~(ended & (recorder.steps >= steps) & (recorder.episodes >= episodes))
            begins = ended & playing
            minds.end_episode(transition, fresh, ended, begins)
            told = ended.reshape(len(plays), n).any(axis=1).repeat(n)
            fresh = fresh & ~told
            if begins.any():
                observation, _ = simulator.reset(options={"reset_mask": begins})
    return recorder.trials(simulator.family.has_sparse_reward, n), minds.beliefs


class _Separate:
    """The agents of all plays, each play's by calls of its own: those that it would make alone."""

    def __init__(self, plays: Sequence[Play], beliefs: list[Tree], keys: list[Key]):
        self.beliefs = beliefs
        self._plays, self._keys, n = plays, keys, len(plays[0].tasks)
        self._rows = [slice(start, start + n) for start in range(0, len(plays) * n, n)]
        self._actions: list[np.ndarray] = [np.empty(0)] * len(plays)

    def act(
        self,
        transition: Transition,
        fresh: Bool[np.ndarray, " slots"],
        observation: Real[np.ndarray, "slots *observation"],
        playing: Bool[np.ndarray, " slots"],
    ) -> Float32[np.ndarray, "slots action"]:
        """Observes the last transition and acts, in one call per time step. Plays that are over only rest."""
        for part, (play, rows) in enumerate(zip(self._plays, self._rows, strict=True)):
            if playing[rows].any():
                action, self.beliefs[part], self._keys[part] = _act(
                    play.agent,
                    play.params,
                    self.beliefs[part],
                    Transition._make(column[rows] for column in transition),
                    fresh[rows],
                    observation[rows],
                    self._keys[part],
                    play.deterministic,
                )
                self._actions[part] = np.asarray(action)
        return np.concatenate(self._actions)

    def end_episode(
        self,
        transition: Transition,
        fresh: Bool[np.ndarray, " slots"],
        ended: Bool[np.ndarray, " slots"],
        begins: Bool[np.ndarray, " slots"],
    ) -> None:
        """Observes the last transition of the episodes that ended, and begins the next ones."""
        for part, (play, rows) in enumerate(zip(self._plays, self._rows, strict=True)):
            if ended[rows].any():
                self.beliefs[part], self._keys[part] = _end_episode(
                    play.agent,
                    play.params,
                    self.beliefs[part],
                    Transition._make(column[rows] for column in transition),
                    fresh[rows],
                    ended[rows],
                    begins[rows],
                    self._keys[part],
                )


class _Batched:
    """The agents of all plays by one call: the numbers of a play alone up to rounding, in about the time of one."""

    def __init__(self, plays: Sequence[Play], beliefs: list[Tree], keys: list[Key]):
        self._shape = len(plays), len(plays[0].tasks)
        self._agent, self._deterministic = plays[0].agent, plays[0].deterministic
        self._params, self._belief, self._key = stack([play.params for play in plays]), stack(beliefs), stack(keys)

    @property
    def beliefs(self) -> list[Tree]:
        return unstack(self._belief, self._shape[0])

    def act(
        self,
        transition: Transition,
        fresh: Bool[np.ndarray, " slots"],
        observation: Real[np.ndarray, "slots *observation"],
        playing: Bool[np.ndarray, " slots"],
    ) -> Float32[np.ndarray, "slots action"]:
        """As in :class:`_Separate`. What plays that are over do is without effect."""
        act = _for_all_seeds(_act, self._agent, self._deterministic)
        action, self._belief, self._key = act(
            self._params, self._belief, *self._split((transition, fresh, observation)), self._key
        )
        return np.asarray(action).reshape(len(playing), -1)

    def end_episode(
        self,
        transition: Transition,
        fresh: Bool[np.ndarray, " slots"],
        ended: Bool[np.ndarray, " slots"],
        begins: Bool[np.ndarray, " slots"],
    ) -> None:
        """As in :class:`_Separate`."""
        end_episode = _for_all_seeds(_end_episode_if_any, self._agent)
        self._belief, self._key = end_episode(
            self._params, self._belief, *self._split((transition, fresh, ended, begins)), self._key
        )

    def _split(self, tree: Tree) -> Tree:
        """Arrays by slot as arrays by play and slot."""
        return jax.tree.map(lambda array: array.reshape(*self._shape, *array.shape[1:]), tree)


class _Recorder:
    """Keeps every time step of all slots, and cuts them into episodes at the end."""

    def __init__(self, n: int):
        self.steps = np.zeros(n, int)
        self.episodes = np.zeros(n, int)
        self._rows: list[Transition] = []
        self._starts = np.zeros(n, int)
        self._cuts: list[list[tuple[int, int, bool]]] = [[] for _ in range(n)]

    def record(self, transition: Transition) -> None:
        self._rows.append(transition)

    def cut(self, ended: Bool[np.ndarray, " n"], terminated: Bool[np.ndarray, " n"]) -> None:
        """Ends the episode of each slot of `ended` with the latest time step."""
        now = len(self._rows)
        for slot in np.flatnonzero(ended):
            self._cuts[slot].append((int(self._starts[slot]), now, bool(terminated[slot])))
        self.steps[ended] += now - self._starts[ended]
        self.episodes[ended] += 1
        self._starts[ended] = now

    def trials(self, has_sparse_reward: bool, n_tasks: int) -> list[list[Episode]]:
        """The episodes of each slot. Every `n_tasks` slots the tasks are counted anew."""
        observations = np.stack([row.observation for row in self._rows])
        actions = np.stack([row.action for row in self._rows])
        rewards = np.stack([row.reward for row in self._rows])
        sparse_rewards = np.stack([row.sparse_reward for row in self._rows])

        def episode(slot: int, start: int, end: int, terminated: bool) -> Episode:
            last = np.asarray(self._rows[end - 1].next_observation)[slot]
            return Episode(
                task=slot % n_tasks,
                observations=np.concatenate([observations[start:end, slot], last[None]]),
                actions=actions[start:end, slot],
                rewards=rewards[start:end, slot],
                sparse_rewards=sparse_rewards[start:end, slot] if has_sparse_reward else None,
                terminated=terminated,
            )

        return [[episode(slot, *cut) for cut in cuts] for slot, cuts in enumerate(self._cuts)]


def _no_transition(simulator: Simulator) -> Transition:
    """Zeros in the shape of a transition, for the first call of `_act`, so that it is compiled only once."""
    n, family = simulator.num_envs, simulator.family
    observation = np.zeros((n, *family.observation_shape), family.observation_dtype)
    reward = np.zeros(n, np.float32)
    action = np.zeros((n, family.action_size), np.float32)
    return Transition._make((observation, action, reward, reward, observation, np.zeros(n, bool)))


def _begin(play: Play, key: Key, trial_key: Key) -> tuple[Tree, Key]:
    """The belief with which the first episodes begin, and the key for what comes after."""
    belief = play.belief
    if belief is None:
        belief = _begin_trial(play.agent, play.params, trial_key, len(play.tasks))
    return _begin_episode(play.agent, play.params, belief, key, np.ones(len(play.tasks), bool))


@functools.cache
def _for_all_seeds(function: Callable[..., Any], agent: Agent, *last: Any) -> Callable[..., Any]:
    """`function(agent, params, belief, ..., *last)` for all seeds at once: arrays have a leading axis of seeds."""
    return jax.jit(jax.vmap(lambda *arrays: function(agent, *arrays, *last)), donate_argnums=1)


@functools.partial(jax.jit, static_argnames=("agent", "n"))
def _begin_trial(agent: Agent, params: Tree, key: Key, n: int) -> Tree:
    return agent.begin_trial(params, key, n)


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _begin_episode(agent: Agent, params: Tree, belief: Tree, key: Key, mask: Bool[Array, " n"]) -> tuple[Tree, Key]:
    key, episode_key = jax.random.split(key)
    return agent.begin_episode(params, belief, episode_key, mask), key


@functools.partial(jax.jit, static_argnames=("agent", "deterministic"), donate_argnames="belief")
def _act(
    agent: Agent,
    params: Tree,
    belief: Tree,
    transition: Transition,
    fresh: Bool[Array, " n"],
    observation: Real[Array, "n *observation"],
    key: Key,
    deterministic: bool,
) -> tuple[Float[Array, "n action"], Tree, Key]:
    """Observes the last transition and acts, in one call per time step."""
    key, action_key = jax.random.split(key)
    belief = agent.observe(params, belief, transition, fresh)
    action, belief = agent.act(params, belief, observation, action_key, deterministic)
    return action, belief, key


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _end_episode(
    agent: Agent,
    params: Tree,
    belief: Tree,
    transition: Transition,
    fresh: Bool[Array, " n"],
    ended: Bool[Array, " n"],
    begins: Bool[Array, " n"],
    key: Key,
) -> tuple[Tree, Key]:
    """Observes the last transition of the episodes that ended, and begins the next ones."""
    key, end_key, begin_key = jax.random.split(key, 3)
    belief = agent.observe(params, belief, transition, fresh)
    belief = agent.end_episode(params, belief, end_key, ended)
    return agent.begin_episode(params, belief, begin_key, begins), key


def _end_episode_if_any(
    agent: Agent,
    params: Tree,
    belief: Tree,
    transition: Transition,
    fresh: Bool[Array, " n"],
    ended: Bool[Array, " n"],
    begins: Bool[Array, " n"],
    key: Key,
) -> tuple[Tree, Key]:
    """The same, but without an effect and without the use of a random number where no episode of the seed ended."""
    any_ended = ended.any()
    belief, following = _end_episode(agent, params, belief, transition, fresh & any_ended, ended, begins, key)
    return belief, jnp.where(any_ended, following, key)
