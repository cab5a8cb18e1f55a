"""What an episode would have been in other tasks, of its reward states: rewards as pure functions allow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from nacre.errors import NacreError
from nacre.tasks.checks import LARGEST, call, name_of, numbers, truths
from nacre.tasks.family import TaskFamily
from nacre.types import Episode


def rewards_in(
    family: TaskFamily, episode: Episode, tasks: Float64[np.ndarray, "tasks parameters"], *, sparse: bool = False
) -> Float64[np.ndarray, "tasks length"]:
    """Rewards of an episode in each task. It carries its reward states.

    Args:
        family: of the tasks.
        episode: what was played.
        tasks: any.
        sparse: whether it is about the sparse reward.

    Raises:
        NacreError: a reward is not finite or too large to learn from, or of another shape.
    """
    n, length = len(tasks), len(episode)
    function: Callable[..., Any] = family.sparse_reward if sparse else family.reward
    found = call(function, *in_tasks(episode, tasks))
    rewards = numbers(function, "sparse rewards" if sparse else "rewards", found, n * length).astype(np.float64)
    good = (rewards <= LARGEST) & (rewards >= -LARGEST)
    if not good.all():
        place = int(np.argmin(good))
        raise NacreError(
            f"{name_of(function)} returned {rewards[place]:g} for an episode that is relabelled for the task "
            f"{tasks[place // length].tolist()}; allowed: finite numbers of at most {LARGEST:g}"
        )
    return rewards.reshape(n, length)


def terminated_in(
    family: TaskFamily, episode: Episode, tasks: Float64[np.ndarray, "tasks parameters"]
) -> Bool[np.ndarray, "tasks length"]:
    """Whether each task would have ended with each transition of an episode, which carries its reward states.

    Raises:
        NacreError: something else than truth values, or of another shape.
    """
    n, length = len(tasks), len(episode)
    found = call(family.terminated, *in_tasks(episode, tasks))
    return truths(family.terminated, found, n * length).reshape(n, length)


def with_outcomes(family: TaskFamily, episode: Episode, task: Float64[np.ndarray, " parameters"]) -> Episode:
    """The episode with the sparse rewards and successes that it has in a task, if the family has them.

    Raises:
        NacreError: as :func:`rewards_in`.
    """
    own = task[None]
    if family.has_sparse_reward:
        episode = replace(episode, sparse_rewards=rewards_in(family, episode, own, sparse=True)[0].astype(np.float32))
    if family.has_success:
        found = call(family.success, *in_tasks(episode, own))
        episode = replace(episode, successes=truths(family.success, found, len(episode)))
    return episode


def in_tasks(episode: Episode, tasks: Float64[np.ndarray, "tasks parameters"]) -> tuple[np.ndarray, ...]:
    """(previous, action, following, task) of every transition in every task, a row each, tasks one after another: as
    they are when they are played."""
    states = episode.reward_states
    assert states is not None
    n = len(tasks)
    actions = episode.actions.astype(np.float64)
    return (
        np.tile(states[:-1], (n, 1)),
        np.tile(actions, (n, 1)),
        np.tile(states[1:], (n, 1)),
        np.repeat(tasks, len(episode), axis=0),
    )
