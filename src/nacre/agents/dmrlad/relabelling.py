"""Copies of what was collected, with the rewards of a train task that it fits (spec cemrl-dmrlad 1.8, 8.7, 8.8).

Wan et al. 2022, *Hindsight Foresight Relabeling for Meta-Reinforcement Learning* (arXiv 2109.09031). An episode is
worth to a task ψ what the agent expects there after it has seen the episode with the rewards of ψ:

    q(ψ) = mean over start states s of ψ of Q(s, a, z),  a ~ π(s, z),  z from the episode's last window, rewards of ψ
    P(ψ) ∝ exp(q(ψ) − log Z(ψ)),  Z(ψ) = mean over windows that were collected in ψ of exp(q(ψ) of that window)

What is random comes from keys and generators that are given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, Int32

from nacre.agents.cemrl.agent import CemrlAgent, CemrlBelief
from nacre.agents.cemrl.learner import WindowReplay
from nacre.agents.cemrl.networks import ActingNetworks, Networks, window_rows
from nacre.replay import Replay
from nacre.rl import sac
from nacre.tasks.checks import call, truths
from nacre.tasks.family import TaskFamily
from nacre.tasks.hindsight import in_tasks, rewards_in, with_outcomes
from nacre.types import Episode, Key, Transition, Visit

REPETITIONS = 20
"""Windows of each task that log Z is a mean over."""
ROWS_AT_ONCE = 1024
"""About so many rows go through the critics at once, which bounds the memory."""


class Scorer(NamedTuple):
    """What values are computed with: static, and so hashable."""

    agent: CemrlAgent
    critics: sac.CriticKind
    states: int
    """Start states of a task."""


class Candidates(NamedTuple):
    """An episode as it would have been in each of some tasks. A copy ends with its first termination."""

    rewards: Float64[np.ndarray, "tasks length"]
    terminated: Bool[np.ndarray, "tasks length"]
    lengths: Int[np.ndarray, " tasks"]


def candidates(family: TaskFamily, episode: Episode, tasks: Float64[np.ndarray, "tasks parameters"]) -> Candidates:
    """Rewards and terminations of an episode in each task. It carries its reward states.

    Raises:
        NacreError: a reward is not finite or too large to learn from, or of another shape.
    """
    n, length = len(tasks), len(episode)
    rewards, transition = rewards_in(family, episode, tasks), in_tasks(episode, tasks)
    terminated = truths(family.terminated, call(family.terminated, *transition), n * length).reshape(n, length)
    ends = np.where(terminated.any(axis=1), terminated.argmax(axis=1) + 1, length)
    return Candidates(rewards, terminated, ends)


def copy_of(
    family: TaskFamily, episode: Episode, found: Candidates, task: int, parameters: Float64[np.ndarray, " parameters"]
) -> Episode:
    """The episode as it would have been in one of the tasks, without its reward states."""
    end = int(found.lengths[task])
    cut = replace(
        episode,
        observations=episode.observations[: end + 1],
        actions=episode.actions[:end],
        rewards=found.rewards[task, :end].astype(np.float32),
        terminated=bool(found.terminated[task, end - 1]),
        sparse_rewards=None,
        successes=None,
        tasks=None if episode.tasks is None else np.tile(parameters, (end, 1)),
        reward_states=None if episode.reward_states is None else episode.reward_states[: end + 1],
    )
    return without_reward_states(with_outcomes(family, cut, parameters))


def without_reward_states(episode: Episode) -> Episode:
    """The episode as it is stored."""
    return replace(episode, reward_states=None)


def last_windows(
    episodes: Sequence[Episode], found: Sequence[Candidates], length: int
) -> tuple[Transition, Int[np.ndarray, " tasks"]]:
    """The last `length` transitions of the copies of consecutive episodes; leading axes (tasks, length). What is
    missing of shorter ones comes first and means nothing.

    Returns:
        The windows, and the number of transitions in each.
    """
    parts = [_last_window(*each, length) for each in zip(episodes, found, strict=True)]
    windows = Transition._make(
        np.concatenate(columns, axis=1) for columns in zip(*(part[0] for part in parts), strict=True)
    )
    there = np.concatenate([np.arange(length)[None] >= length - counts[:, None] for _, counts in parts], axis=1)
    latest = np.argsort(there, axis=1, kind="stable")[:, -length:]  # what is missing comes first
    rows = np.arange(len(latest))[:, None]
    return Transition._make(column[rows, latest] for column in windows), np.minimum(there.sum(axis=1), length)


def _last_window(episode: Episode, found: Candidates, length: int) -> tuple[Transition, Int[np.ndarray, " tasks"]]:
    places = found.lengths[:, None] - length + np.arange(length)[None]
    inside = np.maximum(places, 0)
    rewards = np.take_along_axis(found.rewards, inside, axis=1).astype(np.float32)
    windows = Transition._make(
        (
            episode.observations[inside],
            episode.actions[inside],
            rewards,
            rewards,
            episode.observations[inside + 1],
            np.take_along_axis(found.terminated, inside, axis=1),
        )
    )
    return windows, np.minimum(found.lengths, length)


@functools.partial(jax.jit, static_argnames="scorer")
def task_values(
    scorer: Scorer,
    networks: Networks,
    replay: Replay,
    windows: Transition,
    counts: Int[Array, " tasks"],
    key: Key,
) -> Float[Array, " tasks"]:
    """q of each train task: what it expects of start states with z of its window."""
    latent_key, value_key = jax.random.split(key)
    latents = infer(scorer.agent, networks.acting, windows, counts, latent_key)
    return start_values(scorer, networks.control, replay, latents, value_key).mean(axis=1)


@functools.partial(jax.jit, static_argnames=("scorer", "form"))
def log_normalisers(
    scorer: Scorer, networks: Networks, replay: Replay, form: Literal["hfr", "published"], key: Key
) -> Float[Array, " tasks"]:
    """log Z of each train task: the logarithm of the mean of exp(q) over REPETITIONS windows.

    hfr: last windows of episodes of the latest collection in the task that was not relabelled. published: windows
    without a transition, and q from the lowest quantile alone.
    """
    tasks = jnp.arange(len(replay.counts), dtype=jnp.int32)

    def value(key: Key) -> Float[Array, " tasks"]:
        window_key, latent_key, value_key = jax.random.split(key, 3)
        windows, counts = draw_last_windows(replay, tasks, scorer.agent, window_key)
        if form == "published":
            counts = jnp.zeros_like(counts)
        latents = infer(scorer.agent, networks.acting, windows, counts, latent_key)
        returns = start_values(scorer, networks.control, replay, latents, value_key)
        return returns[:, 0] if form == "published" else returns.mean(axis=1)

    values = jax.lax.map(value, jax.random.split(key, REPETITIONS))
    return jax.nn.logsumexp(values, axis=0) - jnp.log(jnp.float32(REPETITIONS))


def choose(
    values: Float[np.ndarray, " tasks"],
    log_normaliser: Float[np.ndarray, " tasks"],
    choice: Literal["softmax", "arg-max"],
    generator: np.random.Generator,
) -> int:
    """The task of a copy."""
    scores = np.asarray(values, np.float64) - np.asarray(log_normaliser, np.float64)
    if choice == "arg-max":
        return int(scores.argmax())
    raised = np.exp(scores - scores.max())
    return int(generator.choice(len(scores), p=raised / raised.sum()))


def infer(
    agent: CemrlAgent, params: ActingNetworks, windows: Transition, counts: Int[Array, " n"], key: Key
) -> Float[Array, "n latent"]:
    """z of windows as the agent infers it while it acts; leading axes (n, T), of which the last `counts` are there."""
    n, length = windows.reward.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(n * length, *leaf.shape[2:]), windows)
    factors = params.encoder.factors(window_rows(params.normaliser(flat)))
    belief = CemrlBelief(
        factors=jax.tree.map(lambda leaf: leaf.reshape(n, length, *leaf.shape[1:]), factors),
        count=counts.astype(jnp.int32),
        latent=jnp.zeros((n, agent.config.latent_size)),
        class_probabilities=jnp.zeros((n, agent.config.classes)),
    )
    return agent.infer(params, belief, jax.random.split(key, n)).latent


def start_values(
    scorer: Scorer, control: sac.Networks, replay: Replay, latents: Float[Array, "tasks latent"], key: Key
) -> Float[Array, "tasks n"]:
    """The lower critic's predictions of the return, each a mean over start states of a task, with its z."""

    def value(task: tuple[Int32[Array, ""], Float[Array, " latent"], Key]) -> Float[Array, " n"]:
        number, latent, key = task
        state_key, action_key, critic_key = jax.random.split(key, 3)
        observations = start_states(replay, number, scorer.states, state_key)
        features = jnp.concatenate([observations, jnp.tile(latent[None], (scorer.states, 1))], axis=-1)
        action = control.policy.sample(features, action_key).action
        return scorer.critics.returns(control.critics, features, action, critic_key).mean(axis=0)

    n = len(latents)
    each = jnp.arange(n, dtype=jnp.int32), latents, jax.random.split(key, n)
    return jax.lax.map(value, each, batch_size=max(1, ROWS_AT_ONCE // scorer.states))


def start_states(replay: Replay, task: Int32[Array, ""], n: int, key: Key) -> Float32[Array, "n observation"]:
    """First observations of episodes that are stored under a task, uniformly and with replacement."""
    starts = replay.episode_starts[task]
    episodes = jnp.searchsorted(starts, replay.counts[task])
    ranks = starts[jax.random.randint(key, (n,), 0, episodes)]
    return replay.read(task[None], ranks[None]).observation[0]


def draw_last_windows(
    replay: Replay, tasks: Int32[Array, " tasks"], agent: CemrlAgent, key: Key
) -> tuple[Transition, Int32[Array, " tasks"]]:
    """The last window of an episode of each task's context, drawn uniformly, as :func:`last_windows` gives it."""
    length, starts = agent.config.window, replay.episode_starts[tasks]
    begin = replay.context_start[tasks]
    end = begin + replay.context_count[tasks]
    low, high = jax.vmap(jnp.searchsorted)(starts, begin), jax.vmap(jnp.searchsorted)(starts, end)
    drawn = jax.random.randint(key, tasks.shape, low, high)
    column = jnp.minimum(drawn + 1, starts.shape[1] - 1)[:, None]
    following = jnp.where(drawn + 1 < high, jnp.take_along_axis(starts, column, axis=1)[:, 0], end)
    places = following[:, None] - length + jnp.arange(length)[None]
    last = (following - 1)[:, None]
    firsts = replay.first_rank if agent.config.window_within == "episode" else replay.trial_first_rank
    first = firsts[replay.episode[replay.frame_of(tasks, last)]]
    windows = replay.read(tasks, jnp.maximum(places, first))
    return windows, (places >= first).sum(axis=1).astype(jnp.int32)


class RelabelledReplay(WindowReplay):
    """A replay of what was played and of copies. A copy stands right after the visit that it is of."""

    replaces: bool = False
    """Whether a copy takes the place of the visit before it."""
    latest: Summary | None = None
    """About the latest copies."""

    def add(self, visits: Sequence[Visit]) -> None:
        visits = list(visits)
        pairs = copies_with_originals(visits)
        if pairs:
            self.latest = summarise_copies(pairs)
        if self.replaces:
            replaced = {id(visits[index - 1]) for index in range(1, len(visits)) if visits[index].relabelled}
            visits = [visit for visit in visits if id(visit) not in replaced]
        super().add(visits)


class Summary(NamedTuple):
    """Means over the copies of an iteration."""

    copied_return: float
    original_return: float
    moved: float
    """The share of copies for another task than the original's."""


def copies_with_originals(visits: Sequence[Visit]) -> list[tuple[tuple[int, Episode], tuple[int, Episode]]]:
    """(task, episode) of each copy and of what it is a copy of."""
    pairs, original, number = [], None, 0
    for visit in visits:
        if not visit.relabelled:
            original, number = visit, 0
        elif original is not None:  # of which a repair may have dropped episodes
            originals = original.episodes[number : number + len(visit.episodes)]
            pairs += [
                ((visit.task, copy), (original.task, played))
                for copy, played in zip(visit.episodes, originals, strict=False)
            ]
            number += len(visit.episodes)
    return pairs


def summarise_copies(pairs: Sequence[tuple[tuple[int, Episode], tuple[int, Episode]]]) -> Summary:
    return Summary(
        float(np.mean([copied.rewards.sum(dtype=np.float64) for (_, copied), _ in pairs])),
        float(np.mean([original.rewards.sum(dtype=np.float64) for _, (_, original) in pairs])),
        float(np.mean([chosen != task for (chosen, _), (task, _) in pairs])),
    )
