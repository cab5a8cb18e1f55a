"""The one evaluator: returns and successes of each episode of a trial, on each task. It changes neither the agent nor
the memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from nacre.interfaces import Agent, Play, Schedule
from nacre.protocol import TEST_RETURN, TEST_SUCCESS, Protocol
from nacre.seeds import child
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Episode, Metrics, Tree

AgentFactory = Callable[[int], Agent]
"""Makes an agent with room for a number of transitions of context."""


@dataclass(frozen=True)
class TrialResult:
    """Undiscounted return and length of each episode of one trial, in order."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...] | None
    """Whether each episode was a success, as the family defines it; None in families without."""


@dataclass(frozen=True)
class Evaluation:
    """Results by task and trial."""

    protocol: Protocol
    tasks: Float64[np.ndarray, "n parameters"]
    trials: tuple[tuple[TrialResult, ...], ...]

    @property
    def final_returns(self) -> Float64[np.ndarray, " n"]:
        """Per task: the mean over trials of the last episode's return, the measure that papers publish."""
        return np.array([np.mean([trial.returns[-1] for trial in trials]) for trials in self.trials])

    @property
    def returns_by_episode(self) -> Float64[np.ndarray, "n episodes"]:
        """Per task and episode of a trial: the mean over trials, cut to the shortest trial's number of episodes."""
        episodes = self._common_episodes
        return np.array([np.mean([trial.returns[:episodes] for trial in trials], axis=0) for trials in self.trials])

    @property
    def final_successes(self) -> Float64[np.ndarray, " n"] | None:
        """Per task: the share of trials whose last episode was a success; None in families without successes."""
        successes = self._successes
        return (
            None if successes is None else np.array([[trial[-1] for trial in trials] for trials in successes]).mean(1)
        )

    @property
    def successes_by_episode(self) -> Float64[np.ndarray, "n episodes"] | None:
        """Per task and episode of a trial: the share of trials in which it was a success; cut as the returns are."""
        successes, episodes = self._successes, self._common_episodes
        if successes is None:
            return None
        return np.array([np.mean([trial[:episodes] for trial in trials], axis=0) for trials in successes])

    @property
    def steps(self) -> int:
        """Environment steps of all trials."""
        return sum(sum(trial.lengths) for trials in self.trials for trial in trials)

    @property
    def _successes(self) -> list[list[tuple[bool, ...]]] | None:
        """By task and trial."""
        found = [[trial.successes for trial in trials if trial.successes is not None] for trials in self.trials]
        return found if found[0] else None

    @property
    def _common_episodes(self) -> int:
        return min(len(trial.returns) for trials in self.trials for trial in trials)

    def to_json(self) -> dict[str, Any]:
        successes = self.successes_by_episode
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "mean_return_by_episode": self.returns_by_episode.mean(axis=0).tolist(),
            "mean_final_return": float(self.final_returns.mean()),
            **({} if successes is None else {"mean_success_by_episode": successes.mean(axis=0).tolist()}),
            "tasks": [
                {"parameters": task.tolist(), "trials": [dataclasses.asdict(trial) for trial in trials]}
                for task, trials in zip(self.tasks, self.trials, strict=True)
            ],
        }


class MetaTest(NamedTuple):
    """What a meta-test gives."""

    evaluation: Evaluation
    episodes: list[list[list[Episode]]]
    """By task and trial."""
    belief: Tree
    """The beliefs at the end, tasks one after another."""


def meta_test(
    make_agent: AgentFactory,
    params: Tree,
    family: TaskFamily,
    tasks: Float64[np.ndarray, "n parameters"],
    protocol: Protocol,
    seed: np.random.SeedSequence,
    keeps_all: bool = False,
) -> Schedule[MetaTest]:
    """Meta-tests an agent: every trial of every task at once, each in a slot of its own.

    `keeps_all`: whether episodes carry what rewards are computed from, and the task of each step.
    """
    agent = make_agent(protocol.capacity(family.horizon))
    repeated = np.repeat(tasks, protocol.trials, axis=0)
    played: list[list[Episode]] = [[] for _ in repeated]
    belief = None
    keeps = {"keeps_reward_states": keeps_all, "keeps_tasks": keeps_all}
    if protocol.stochastic_steps:
        steps = protocol.stochastic_steps
        played, belief = yield Play(agent, params, repeated, child(seed, 0), deterministic=False, steps=steps, **keeps)
    adapted, belief = yield Play(
        agent,
        params,
        repeated,
        child(seed, 1),
        protocol.deterministic,
        protocol.steps,
        protocol.episodes,
        belief,
        **keeps,
    )
    played = [first + second for first, second in zip(played, adapted, strict=True)]
    grouped = [played[start : start + protocol.trials] for start in range(0, len(played), protocol.trials)]
    results = tuple(
        tuple(_result(trial, protocol.sparse_returns, family.success_at) for trial in trials) for trials in grouped
    )
    return MetaTest(Evaluation(protocol, tasks, results), grouped, belief)


class SplitEvaluation(NamedTuple):
    """What a meta-test on both task sets of a run gives."""

    columns: Metrics
    """Of progress.csv."""
    steps: int
    """Environment steps that it took."""
    belief: Tree
    """The beliefs at the end, those of the test tasks first."""
    picked: Int[np.ndarray, " picked"]
    """Indices of the train tasks."""


def evaluate_split(
    make_agent: AgentFactory,
    params: Tree,
    family: TaskFamily,
    split: TaskSplit,
    protocol: Protocol,
    seed: np.random.SeedSequence,
) -> Schedule[SplitEvaluation]:
    """Meta-tests an agent on the test tasks and on as many train tasks: what every algorithm reports."""
    train, test = split.train, split.test
    pick = np.random.default_rng(child(seed, 0))
    picked = pick.choice(len(train), size=min(len(train), len(test)), replace=False)
    tasks = np.concatenate([test, train[picked]])
    evaluation, _, belief = yield from meta_test(make_agent, params, family, tasks, protocol, child(seed, 1))
    final, n = evaluation.final_returns, len(test)
    episodes = protocol.minimum_episodes(family.horizon)
    by_episode = evaluation.returns_by_episode[:n].mean(axis=0)
    columns = {
        "AverageReturn_all_train_tasks": float(final[n:].mean()),
        TEST_RETURN: float(final[:n].mean()),
        **{f"AverageReturn_test_episode_{i + 1}": float(by_episode[i]) for i in range(episodes)},
    }
    successes, final_successes = evaluation.successes_by_episode, evaluation.final_successes
    if successes is not None and final_successes is not None:
        columns["AverageSuccess_all_train_tasks"] = float(final_successes[n:].mean())
        columns[TEST_SUCCESS] = float(final_successes[:n].mean())
        by_episode = successes[:n].mean(axis=0)
        columns |= {f"AverageSuccess_test_episode_{i + 1}": float(by_episode[i]) for i in range(episodes)}
    return SplitEvaluation(columns, evaluation.steps, belief, picked)


def episode_return(episode: Episode, sparse: bool) -> float:
    """The undiscounted sum of an episode's rewards."""
    rewards = episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards
    return math.fsum(rewards)


def _result(trial: list[Episode], sparse: bool, success_at: Literal["any", "end"]) -> TrialResult:
    successes = [
        bool(episode.successes.any() if success_at == "any" else episode.successes[-1])
        for episode in trial
        if episode.successes is not None
    ]
    return TrialResult(
        returns=tuple(episode_return(episode, sparse) for episode in trial),
        lengths=tuple(len(episode) for episode in trial),
        successes=tuple(successes) if successes else None,
    )
