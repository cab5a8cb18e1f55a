"""Runs agents in simulators: trials of whole episodes, all slots together, with one policy call per time step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64

from nacre.agents.interface import Agent
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Key, Transition, Tree


def key_of(seed: np.random.SeedSequence) -> Key:
    """A JAX PRNG key from a NumPy seed."""
    return jax.random.key(int(seed.generate_state(1)[0]))


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
) -> tuple[list[list[Episode]], Tree]:
    """Plays one trial in each slot: whole episodes, until it has at least `steps` steps and `episodes` episodes.

    Slots that have had enough rest while the others go on. `seed` is the source of everything random. A `belief` that
    is given is continued (and used up: its arrays are donated); otherwise each trial begins anew. The `task` of the
    episodes is the row of `tasks`.

    Returns the episodes of each slot, in order, and the beliefs at the end.
    """
    key_seed, reset_seed, trial_seed = seed.spawn(3)
    key, trial_key = key_of(key_seed), key_of(trial_seed)
    everyone, nobody = np.ones(len(tasks), bool), np.zeros(len(tasks), bool)
    if belief is None:
        belief = _begin_trial(agent, params, trial_key, len(tasks))
    belief, key = _begin_episode(agent, params, belief, key, everyone)
    observation, _ = simulator.reset(seed=reset_seed, options={"tasks": tasks})

    recorder = _Recorder(len(tasks))
    transition = _no_transition(simulator)
    fresh = nobody  # trials whose `transition` has not been observed yet
    playing = everyone
    while playing.any():
        action, belief, key = _act(agent, params, belief, transition, fresh, observation, key, deterministic)
        following, reward, terminated, truncated, infos = simulator.step(np.asarray(action))
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
            belief, key = _end_episode(agent, params, belief, transition, fresh, ended, begins, key)
            fresh = nobody
            if begins.any():
                observation, _ = simulator.reset(options={"reset_mask": begins})
    return recorder.trials(simulator.family.has_sparse_reward), belief


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

    def trials(self, has_sparse_reward: bool) -> list[list[Episode]]:
        observations = np.stack([row.observation for row in self._rows])
        actions = np.stack([np.asarray(row.action) for row in self._rows])
        rewards = np.stack([row.reward for row in self._rows])
        sparse_rewards = np.stack([row.sparse_reward for row in self._rows])

        def episode(slot: int, start: int, end: int, terminated: bool) -> Episode:
            last = np.asarray(self._rows[end - 1].next_observation)[slot]
            return Episode(
                task=slot,
                observations=np.concatenate([observations[start:end, slot], last[None]]),
                actions=actions[start:end, slot],
                rewards=rewards[start:end, slot],
                sparse_rewards=sparse_rewards[start:end, slot] if has_sparse_reward else None,
                terminated=terminated,
            )

        return [[episode(slot, *cut) for cut in cuts] for slot, cuts in enumerate(self._cuts)]


def _no_transition(simulator: Simulator) -> Transition:
    """Zeros in the shape of a transition, for the first call of `_act`, so that it is compiled only once."""
    n = simulator.num_envs
    observation = np.zeros((n, simulator.family.observation_size), np.float32)
    reward = np.zeros(n, np.float32)
    action = jnp.zeros((n, simulator.family.action_size))
    return Transition._make((observation, action, reward, reward, observation, np.zeros(n, bool)))


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
    observation: Float[Array, "n observation"],
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
