"""Where the task of an episode changed, and how soon an agent does what the new one asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from nacre.tasks.family import TaskFamily
from nacre.types import Episode

STEPS_BEFORE, STEPS_AFTER = 20, 50
"""Steps about a change over which rewards are averaged."""
HELD = 5
"""Steps for which an agent has to go on doing what the new task asks for, until it counts as followed."""


class TaskChange(NamedTuple):
    """A change of the task inside an episode."""

    episode: int
    """Of the trial, counted from 1."""
    step: int
    """Of the episode, counted from 1: the first step of the new task."""
    before: tuple[float, ...]
    after: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {"episode": self.episode, "step": self.step, "from": list(self.before), "to": list(self.after)}


@dataclass(frozen=True)
class Recovery:
    """Means over the changes of some trials, aligned at the change: step 0 is the first of the new task.

    Steps before the previous change, after the next one and outside of the episode count for nothing.
    """

    changes: int
    """How many there were."""
    rewards: Float64[np.ndarray, " window"]
    """The mean reward of each of the `steps`; NaN: no change has this step."""
    counts: Int[np.ndarray, " window"]
    """How many changes have it."""
    followed_after: tuple[int | None, ...]
    """For each change that the family's `quantity` can tell, how many steps it took until the new task was followed;
    None: it was not, before the next change or the end of the episode.

    A task is followed as soon as the agent comes nearer to its target than to that of the old task, and does so for
    `HELD` steps. Among tasks of which more is better, more of the new one than of the old one counts instead.
    """
    quantity: str | None
    """What the family measures, with its unit."""

    @property
    def steps(self) -> Int[np.ndarray, " window"]:
        return np.arange(-STEPS_BEFORE, STEPS_AFTER)

    @property
    def median(self) -> float | None:
        """The median of the steps until the new task was followed, over the changes after which it was; None: over
        none."""
        followed = [steps for steps in self.followed_after if steps is not None]
        return float(np.median(followed)) if followed else None

    def mean_reward(self, first: int, end: int) -> float | None:
        """The mean reward from step `first` to before step `end`, each change and step as much as any other; None: no
        change has such a step."""
        chosen = (self.steps >= first) & (self.steps < end) & (self.counts > 0)
        if not chosen.any():
            return None
        return float(np.average(self.rewards[chosen], weights=self.counts[chosen]))

    def in_words(self) -> list[str]:
        """Two sentences: what becomes of the reward, and how soon the new task is followed."""
        late = STEPS_AFTER - 10
        parts = [
            (self.mean_reward(-STEPS_BEFORE, 0), f"in the {STEPS_BEFORE} steps before a change"),
            (self.mean_reward(0, 10), "in the 10 steps after it"),
            (self.mean_reward(late, STEPS_AFTER), f"from step {late} to {STEPS_AFTER} after it"),
        ]
        rewards = ", ".join(f"{value:.3g} {when}" for value, when in parts if value is not None)
        sentences = [f"The task changed {self.changes} time(s) inside an episode: the mean reward is {rewards}."]
        if self.followed_after:
            n, missed = len(self.followed_after), self.followed_after.count(None)
            name = self.quantity.rpartition(" (")[0] or self.quantity if self.quantity else "agent"
            when = "" if self.median is None else f", after {self.median:g} step(s) (median)"
            sentences.append(
                f"The {name} follows the new task in {n - missed} of {n} change(s){when}, before the next change or "
                "the end of the episode."
            )
        return sentences

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes,
            "steps": self.steps.tolist(),
            "mean_rewards": [None if math.isnan(value) else value for value in self.rewards.tolist()],
            "changes_with_step": self.counts.tolist(),
            "quantity": self.quantity,
            "followed_after": list(self.followed_after),
            "median_followed_after": self.median,
        }


def changes_in(trial: Sequence[Episode], task: Float64[np.ndarray, " parameters"]) -> tuple[TaskChange, ...]:
    """The changes in the episodes of a trial, each of which begins with `task`. Episodes that carry no tasks have
    none."""
    return tuple(
        TaskChange(number, step + 1, tuple(before.tolist()), tuple(after.tolist()))
        for number, episode in enumerate(trial, start=1)
        for step, before, after in _changes(episode, task)
    )


def recovery_of(
    family: TaskFamily,
    tasks: Float64[np.ndarray, "n parameters"],
    trials: Sequence[Sequence[Sequence[Episode]]],
    sparse: bool = False,
) -> Recovery | None:
    """How agents recover from the changes in some trials; None: there were none.

    Args:
        family: of the tasks.
        tasks: with which the episodes of the trials begin.
        trials: their episodes, by task and trial. How soon a task is followed is only known of episodes with reward
            states.
        sparse: whether the sparse reward is meant.
    """
    rows: list[Float64[np.ndarray, " window"]] = []
    followed: list[int | None] = []
    for task, trials_of_task in zip(tasks, trials, strict=True):
        for episode in (episode for trial in trials_of_task for episode in trial):
            rewards = episode.sparse_rewards if sparse and episode.sparse_rewards is not None else episode.rewards
            changes = list(_changes(episode, task))
            starts = [0, *(step for step, _, _ in changes), len(episode)]
            for (step, old, new), first, end in zip(changes, starts[:-2], starts[2:], strict=True):
                rows.append(_aligned(rewards, step, first, end))
                suits = _suits_better(family, episode, step, end, old, new)
                if suits is not None:
                    followed.append(_first_held(suits))
    if not rows:
        return None
    table = np.array(rows)
    counts = (~np.isnan(table)).sum(axis=0)
    sums = np.nansum(table, axis=0)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return Recovery(len(rows), means, counts, tuple(followed), family.quantity)


def _changes(
    episode: Episode, task: Float64[np.ndarray, " parameters"]
) -> Iterator[tuple[int, Float64[np.ndarray, " parameters"], Float64[np.ndarray, " parameters"]]]:
    """The first step of each new task, counted from 0, with the old and the new task."""
    if episode.tasks is None:
        return
    tasks = np.concatenate([task[None], episode.tasks])
    for step in np.flatnonzero((tasks[1:] != tasks[:-1]).any(axis=1)).tolist():
        yield step, tasks[step], tasks[step + 1]


def _aligned(rewards: np.ndarray, step: int, first: int, end: int) -> Float64[np.ndarray, " window"]:
    """The rewards of a window about a step; NaN before `first` and from `end` on."""
    window = np.full(STEPS_BEFORE + STEPS_AFTER, np.nan)
    start, stop = max(first, step - STEPS_BEFORE), min(end, step + STEPS_AFTER)
    window[start - step + STEPS_BEFORE : stop - step + STEPS_BEFORE] = rewards[start:stop]
    return window


def _suits_better(
    family: TaskFamily,
    episode: Episode,
    step: int,
    end: int,
    old: Float64[np.ndarray, " parameters"],
    new: Float64[np.ndarray, " parameters"],
) -> Bool[np.ndarray, " steps"] | None:
    """Whether each transition suits the new task better than the old one; None: the family cannot tell."""
    states = episode.reward_states
    if family.quantity is None or states is None or _differ_in_kind(family, old, new):
        return None
    steps = slice(step, end)
    transition = states[:-1][steps], episode.actions[steps], states[1:][steps]
    scores, kinds = [], []
    for task in (old, new):
        rows = np.tile(task, (end - step, 1))
        measured = np.asarray(family.measured(*transition, rows), float)
        target = family.target(rows)
        targets = np.full(len(rows), np.nan) if target is None else np.asarray(target, float)
        has_target = bool(np.isfinite(targets).all())
        scores.append(-abs(measured - targets) if has_target else measured)
        kinds.append(has_target)
    if kinds[0] != kinds[1] or np.array_equal(scores[0], scores[1]):
        return None
    return scores[1] > scores[0]


def _differ_in_kind(
    family: TaskFamily, old: Float64[np.ndarray, " parameters"], new: Float64[np.ndarray, " parameters"]
) -> bool:
    """Whether the quantity may be something else in one task than in the other, such as a height and a speed. Kinds of
    finitely many tasks, such as directions, differ in nothing but the task."""
    if family.kinds is None or family.finite_tasks is not None:
        return False
    first, second = family.kind_of(np.stack([old, new]))
    return bool(first != second)


def _first_held(suits: Bool[np.ndarray, " steps"]) -> int | None:
    """The first of `HELD` steps that suit the new task."""
    held = np.convolve(suits, np.ones(HELD, int), "valid") == HELD if len(suits) >= HELD else np.zeros(0, bool)
    return int(held.argmax()) if held.any() else None
