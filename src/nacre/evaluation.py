"""The one evaluator: returns and successes of each episode of a trial, on each task. It changes neither the agent nor
the memory."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from nacre.errors import NacreError
from nacre.interfaces import Agent, Play, Schedule
from nacre.protocol import TEST_RETURN, TEST_SUCCESS, Protocol
from nacre.recovery import Recovery, TaskChange, changes_in, recovery_of
from nacre.seeds import child
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.tasks.quantities import measure
from nacre.tasks.shifts import Shift, shift_to_json
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
    changes: tuple[TaskChange, ...] | None = None
    """Where the task changed inside an episode, in order; None in families whose tasks do not change."""
    scores: tuple[float, ...] | None = None
    """Minus how far what the family measures was from its target in the last step of each episode; None if that is not
    known."""

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.changes is not None:
            values["changes"] = [change.to_json() for change in self.changes]
        return {name: value for name, value in values.items() if name == "successes" or value is not None}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Results by task and trial."""

    protocol: Protocol
    tasks: Float64[np.ndarray, "n parameters"]
    trials: tuple[tuple[TrialResult, ...], ...]
    shift: Shift | None = None
    """How tasks changed inside an episode; None: they did not."""
    recovery: Recovery | None = None
    """How agents recovered from the changes; None: there were none."""

    @property
    def final_returns(self) -> Float64[np.ndarray, " n"]:
        """Per task: the mean over trials of the last episode's return, the measure that papers publish."""
        return np.array([np.mean([trial.returns[-1] for trial in trials]) for trials in self.trials])

    @property
    def returns_by_episode(self) -> Float64[np.ndarray, "n episodes"]:
        """Per task and episode of a trial: the mean over trials, cut to the shortest trial's number of episodes."""
        return self._by_episode([[trial.returns for trial in trials] for trials in self.trials])

    @property
    def lengths_by_episode(self) -> Float64[np.ndarray, "n episodes"]:
        """Per task and episode of a trial: the mean number of steps over trials; cut as the returns are."""
        return self._by_episode([[trial.lengths for trial in trials] for trials in self.trials])

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
        return None if self._successes is None else self._by_episode(self._successes)

    @property
    def scores_by_episode(self) -> Float64[np.ndarray, "n episodes"] | None:
        """Per task and episode of a trial: the mean score over trials; cut as the returns are. None: not all are
        known."""
        if any(trial.scores is None for trials in self.trials for trial in trials):
            return None
        return self._by_episode([[trial.scores or () for trial in trials] for trials in self.trials])

    @property
    def steps(self) -> int:
        """Environment steps of all trials."""
        return sum(sum(trial.lengths) for trials in self.trials for trial in trials)

    @property
    def _successes(self) -> list[list[tuple[bool, ...]]] | None:
        """By task and trial."""
        found = [[trial.successes for trial in trials if trial.successes is not None] for trials in self.trials]
        return found if found[0] else None

    def _by_episode(self, values: Sequence[Sequence[Sequence[int | float]]]) -> Float64[np.ndarray, "n episodes"]:
        """Of values by task, trial and episode: the means over trials, cut to as many episodes as all trials have."""
        episodes = self._common_episodes
        return np.array([np.mean([trial[:episodes] for trial in trials], axis=0) for trials in values])

    @property
    def _common_episodes(self) -> int:
        return min(len(trial.returns) for trials in self.trials for trial in trials)

    def __repr__(self) -> str:
        returns = ", ".join(f"{value:.6g}" for value in self.returns_by_episode.mean(axis=0))
        successes = [] if self.successes_by_episode is None else self.successes_by_episode.mean(axis=0)
        shares = ", ".join(f"{share:.0%}" for share in successes)
        size = f"{len(self.tasks)} task(s), {self.protocol.trials} trial(s) each"
        success = f", success {shares}" if shares else ""
        return f"<evaluation {self.protocol.name}: {size}, return by episode {returns}{success}>"

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each episode: `task` and `trial` by number, `episode` from 1 on, the parameters of the
        task as `task_0`, `task_1`, ..., `return`, `length`, `success` in families that say what it is, and `score` if
        it is known."""
        rows = []
        for number, (task, trials) in enumerate(zip(self.tasks, self.trials, strict=True)):
            parameters = {f"task_{index}": float(value) for index, value in enumerate(task)}
            for trial, result in enumerate(trials):
                for episode, (value, length) in enumerate(zip(result.returns, result.lengths, strict=True)):
                    place = {"task": number, "trial": trial, "episode": episode + 1}
                    row = {**place, **parameters, "return": value, "length": length}
                    success = {} if result.successes is None else {"success": result.successes[episode]}
                    score = {} if result.scores is None else {"score": result.scores[episode]}
                    rows.append({**row, **success, **score})
        return rows

    def to_frame(self) -> Any:
        """:meth:`to_rows` as a pandas DataFrame.

        Raises:
            NacreError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise NacreError("to_frame needs pandas: pip install pandas; to_rows does without it") from None
        return pandas.DataFrame(self.to_rows())

    def to_json(self) -> dict[str, Any]:
        successes, scores = self.successes_by_episode, self.scores_by_episode
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "mean_return_by_episode": self.returns_by_episode.mean(axis=0).tolist(),
            "mean_final_return": float(self.final_returns.mean()),
            **({} if successes is None else {"mean_success_by_episode": successes.mean(axis=0).tolist()}),
            **({} if scores is None else {"mean_score_by_episode": scores.mean(axis=0).tolist()}),
            "shift": shift_to_json(self.shift),
            **({} if self.recovery is None else {"recovery": self.recovery.to_json()}),
            "tasks": [
                {"parameters": task.tolist(), "trials": [trial.to_json() for trial in trials]}
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
    pools: Sequence[Float64[np.ndarray, "_ parameters"]] | None = None,
) -> Schedule[MetaTest]:
    """Meta-tests an agent: every trial of every task at once, each in a slot of its own.

    Args:
        make_agent: makes the agent.
        params: what it acts with.
        family: of the tasks.
        tasks: those it is tested on.
        protocol: how.
        seed: of resets and of all that agents draw.
        keeps_all: whether episodes carry what rewards are computed from, and the task of each step.
        pools: of each task, what changes inside an episode draw from; None: `tasks`.
    """
    agent = make_agent(protocol.capacity(family.horizon))
    repeated = np.repeat(tasks, protocol.trials, axis=0)
    played: list[list[Episode]] = [[] for _ in repeated]
    belief = None
    of_tasks = [tasks] * len(tasks) if pools is None else pools
    keeps = {
        "keeps_reward_states": keeps_all,
        "keeps_tasks": keeps_all,
        "pools": tuple(pool for pool in of_tasks for _ in range(protocol.trials)),
    }
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
        tuple(result_of(trial, protocol.sparse_returns, family, task) for trial in trials)
        for task, trials in zip(tasks, grouped, strict=True)
    )
    recovery = None if family.shift is None else recovery_of(family, tasks, grouped, protocol.sparse_returns)
    return MetaTest(Evaluation(protocol, tasks, results, family.shift, recovery), grouped, belief)


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
    returns: Float64[np.ndarray, " n"]
    """The final return of each task, test tasks first."""


def evaluate_split(
    make_agent: AgentFactory,
    params: Tree,
    family: TaskFamily,
    split: TaskSplit,
    protocol: Protocol,
    seed: np.random.SeedSequence,
    details: bool = False,
) -> Schedule[SplitEvaluation]:
    """Meta-tests an agent on the test tasks and on as many train tasks: what every algorithm reports. A task that
    changes inside an episode becomes another one of the same set. `details`: whether to report lengths of episodes
    too, and scores if the family has them."""
    train, test = split.train, split.test
    pick = np.random.default_rng(child(seed, 0))
    picked = pick.choice(len(train), size=min(len(train), len(test)), replace=False)
    tasks = np.concatenate([test, train[picked]])
    pools = [test] * len(test) + [train] * len(picked)
    evaluation, _, belief = yield from meta_test(
        make_agent, params, family, tasks, protocol, child(seed, 1), keeps_all=details, pools=pools
    )
    final, n = evaluation.final_returns, len(test)
    episodes = protocol.minimum_episodes(family.horizon)

    def by_episode(what: str, values: Float64[np.ndarray, "n episodes"]) -> Metrics:
        means = values[:n].mean(axis=0)
        return {f"Average{what}_test_episode_{i + 1}": float(means[i]) for i in range(episodes)}

    columns = {
        "AverageReturn_all_train_tasks": float(final[n:].mean()),
        TEST_RETURN: float(final[:n].mean()),
        **by_episode("Return", evaluation.returns_by_episode),
    }
    successes, final_successes = evaluation.successes_by_episode, evaluation.final_successes
    if successes is not None and final_successes is not None:
        columns["AverageSuccess_all_train_tasks"] = float(final_successes[n:].mean())
        columns[TEST_SUCCESS] = float(final_successes[:n].mean())
        columns.update(by_episode("Success", successes))
    if details:
        columns.update(by_episode("Length", evaluation.lengths_by_episode))
    if evaluation.scores_by_episode is not None:
        columns.update(by_episode("Score", evaluation.scores_by_episode))
    return SplitEvaluation(columns, evaluation.steps, belief, picked, final)


def episode_return(episode: Episode, sparse: bool) -> float:
    """The undiscounted sum of an episode's rewards."""
    rewards = episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards
    return math.fsum(rewards)


def result_of(
    trial: Sequence[Episode], sparse: bool, family: TaskFamily, task: Float64[np.ndarray, " parameters"]
) -> TrialResult:
    """What a trial came to. `sparse`: whether returns are of the sparse reward, if there is one."""
    successes = [
        bool(episode.successes.any() if family.success_at == "any" else episode.successes[-1])
        for episode in trial
        if episode.successes is not None
    ]
    return TrialResult(
        returns=tuple(episode_return(episode, sparse) for episode in trial),
        lengths=tuple(len(episode) for episode in trial),
        successes=tuple(successes) if successes else None,
        changes=None if family.shift is None else changes_in(trial, task),
        scores=_scores(family, trial, task),
    )


def _scores(
    family: TaskFamily, trial: Sequence[Episode], task: Float64[np.ndarray, " parameters"]
) -> tuple[float, ...] | None:
    """Of each episode of a trial, if what is measured has a target and episodes carry what it is computed from."""
    if family.quantity is None or any(episode.reward_states is None for episode in trial):
        return None
    found = [measure(family, episode, task) for episode in trial]
    scores = [-abs(float(each.measured[-1] - each.target[-1])) for each in found]
    return None if any(map(math.isnan, scores)) else tuple(scores)
