"""The one evaluator: returns per episode of a trial, per task. It never changes the agent nor the replay."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from nacre.agents.interface import Agent
from nacre.collect import Play, Schedule, Simulators, carry_out
from nacre.types import Episode, Tree

AgentFactory = Callable[[int], Agent]
"""Makes an agent with room for so many transitions of context."""


@dataclass(frozen=True)
class Protocol:
    """How an agent is meta-tested; recorded with every result.

    A trial first plays whole episodes with the stochastic policy until it has `stochastic_steps` steps (if any), then
    whole episodes until it has `steps` more steps and `episodes` more episodes.
    """

    name: str
    trials: int
    """Trials per task."""
    steps: int
    episodes: int
    exploration_episodes: int
    """Episodes of a trial before the agent uses what it inferred."""
    stochastic_steps: int = 0
    deterministic: bool = True
    """Whether the second part of a trial uses the deterministic policy."""
    sparse_returns: bool = False
    """Whether returns sum the sparse reward."""

    def minimum_episodes(self, horizon: int) -> int:
        """Episodes that every trial has; more only where episodes terminate before the horizon."""
        return max(self.episodes, -(-self.steps // horizon)) + -(-self.stochastic_steps // horizon)

    def capacity(self, horizon: int) -> int:
        """Transitions that a trial can have at most."""
        second = max(self.steps + horizon - 1, self.episodes * horizon)
        return second + (self.stochastic_steps + horizon - 1 if self.stochastic_steps else 0)


@dataclass(frozen=True)
class TrialResult:
    """Undiscounted return and length of each episode of one trial, in order."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...] | None
    """Whether an episode got any sparse reward; None in families without."""


@dataclass(frozen=True)
class Evaluation:
    """Results by task and trial."""

    protocol: Protocol
    tasks: Float64[np.ndarray, "n parameters"]
    trials: tuple[tuple[TrialResult, ...], ...]

    @property
    def final_returns(self) -> Float64[np.ndarray, " n"]:
        """Per task: the mean over trials of the last episode's return, PEARL's published measure (spec 2.5)."""
        return np.array([np.mean([trial.returns[-1] for trial in trials]) for trials in self.trials])

    @property
    def returns_by_episode(self) -> Float64[np.ndarray, "n episodes"]:
        """Per task and episode of a trial: the mean over trials, cut to the shortest trial's number of episodes."""
        episodes = min(len(trial.returns) for trials in self.trials for trial in trials)
        return np.array([np.mean([trial.returns[:episodes] for trial in trials], axis=0) for trials in self.trials])

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "mean_return_by_episode": self.returns_by_episode.mean(axis=0).tolist(),
            "mean_final_return": float(self.final_returns.mean()),
            "tasks": [
                {"parameters": task.tolist(), "trials": [dataclasses.asdict(trial) for trial in trials]}
                for task, trials in zip(self.tasks, self.trials, strict=True)
            ],
        }


def evaluate_agent(
    make_agent: AgentFactory,
    params: Tree,
    simulators: Simulators,
    tasks: Float64[np.ndarray, "n parameters"],
    protocol: Protocol,
    seed: np.random.SeedSequence,
) -> tuple[Evaluation, list[list[list[Episode]]], Tree]:
    """Meta-tests an agent: every trial of every task at once, each in a slot of its own.

    Returns the results, the episodes by task and trial, and the beliefs at the end (tasks one after another).
    """
    horizon = simulators(len(tasks) * protocol.trials).family.horizon
    return carry_out([meta_test(make_agent, params, tasks, horizon, protocol, seed)], simulators)[0]


def meta_test(
    make_agent: AgentFactory,
    params: Tree,
    tasks: Float64[np.ndarray, "n parameters"],
    horizon: int,
    protocol: Protocol,
    seed: np.random.SeedSequence,
) -> Schedule[tuple[Evaluation, list[list[list[Episode]]], Tree]]:
    """What :func:`evaluate_agent` does, as a schedule; `horizon` is that of the task family."""
    agent = make_agent(protocol.capacity(horizon))
    repeated = np.repeat(tasks, protocol.trials, axis=0)
    stochastic_seed, seed = seed.spawn(2)
    played: list[list[Episode]] = [[] for _ in repeated]
    belief = None
    if protocol.stochastic_steps:
        played, belief = yield Play(
            agent, params, repeated, stochastic_seed, deterministic=False, steps=protocol.stochastic_steps
        )
    adapted, belief = yield Play(
        agent, params, repeated, seed, protocol.deterministic, protocol.steps, protocol.episodes, belief
    )
    played = [first + second for first, second in zip(played, adapted, strict=True)]
    grouped = [played[start : start + protocol.trials] for start in range(0, len(played), protocol.trials)]
    results = tuple(tuple(_result(trial, protocol.sparse_returns) for trial in trials) for trials in grouped)
    return Evaluation(protocol, tasks, results), grouped, belief


def episode_return(episode: Episode, sparse: bool) -> float:
    """The undiscounted sum of an episode's rewards."""
    rewards = episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards
    return math.fsum(rewards)


def _result(trial: list[Episode], sparse: bool) -> TrialResult:
    successes = [bool((episode.sparse_rewards > 0).any()) for episode in trial if episode.sparse_rewards is not None]
    return TrialResult(
        returns=tuple(episode_return(episode, sparse) for episode in trial),
        lengths=tuple(len(episode) for episode in trial),
        successes=tuple(successes) if successes else None,
    )
