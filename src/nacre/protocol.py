"""How an agent is meta-tested, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass

TEST_RETURN = "AverageReturn_all_test_tasks"
"""The column that papers plot: mean return of the last episode of a trial over all test tasks."""
TEST_SUCCESS = "AverageSuccess_all_test_tasks"
"""The share of test trials whose last episode was a success."""


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
    """Episodes of a trial before the agent uses what it inferred. 0: the agent has nothing to explore."""
    stochastic_steps: int = 0
    deterministic: bool = True
    """Whether the second part of a trial uses the deterministic policy."""
    sparse_returns: bool = False
    """Whether returns sum the sparse reward."""

    def minimum_episodes(self, horizon: int) -> int:
        """Episodes that every trial has; more only if episodes terminate before the horizon."""
        return max(self.episodes, -(-self.steps // horizon)) + -(-self.stochastic_steps // horizon)

    def capacity(self, horizon: int) -> int:
        """Transitions that a trial can have at most."""
        second = max(self.steps + horizon - 1, self.episodes * horizon)
        return second + (self.stochastic_steps + horizon - 1 if self.stochastic_steps else 0)

    @property
    def explores(self) -> bool:
        """Whether the first episodes of a trial differ from later ones: the agent does not use an inference yet."""
        return self.exploration_episodes > 0

    @property
    def first_label(self) -> str:
        """What episode 1 of a trial is called in figures and tables."""
        return "episode 1, task unknown" if self.explores else "episode 1"

    @property
    def last_label(self) -> str:
        """What the last episode of a trial is called in figures and tables."""
        return "last episode, task inferred" if self.explores else "last episode"

    def activity(self, episode: int) -> str:
        """What the agent does in an episode of a trial, counted from 0; empty if there is nothing to tell."""
        if not self.explores:
            return ""
        return "explores" if episode < self.exploration_episodes else "has adapted"

    def in_words(self, horizon: int, test_tasks: int, may_terminate: bool) -> str:
        """The protocol in one sentence."""
        episodes = f"{self.minimum_episodes(horizon)}{' or more' if may_terminate else ''}"
        parts = [
            f"{self.name}: {self.trials} trial(s) on each of {test_tasks} test tasks; a trial has {episodes} episodes "
            f"of up to {horizon} steps"
        ]
        if self.explores:
            actions = " with stochastic actions" if self.stochastic_steps else ""
            parts.append(f", the first {self.exploration_episodes} before the agent uses what it inferred{actions}")
        if self.sparse_returns:
            parts.append("; returns are sums of the sparse reward")
        return "".join(parts)
