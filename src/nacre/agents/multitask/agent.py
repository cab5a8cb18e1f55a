"""An agent that infers nothing: its policy is given the true task, or nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from nacre.agents.multitask.config import MultitaskConfig
from nacre.interfaces import Agent
from nacre.rl.policy import TanhGaussianPolicy
from nacre.types import Key, short_repr


class TaskScaling(NamedTuple):
    """What brings task parameters to mean 0 and standard deviation 1 over the train tasks; empty if none are seen."""

    mean: Float32[Array, " parameters"]
    deviation: Float32[Array, " parameters"]

    def __call__(self, tasks: Float32[Array, "n parameters"]) -> Float32[Array, "n parameters"]:
        return (tasks - self.mean[None]) / self.deviation[None]


class ActingNetworks(NamedTuple):
    """What an agent acts with."""

    policy: TanhGaussianPolicy
    scaling: TaskScaling


class TaskBelief(NamedTuple):
    """The scaled parameters of the tasks of N trials, of width 0 for an agent that is told nothing."""

    task: Float32[Array, "n seen"]

    __repr__ = short_repr


@dataclass(frozen=True)
class MultitaskAgent(Agent):
    """pi(a | s, task), or pi(a | s)."""

    config: MultitaskConfig

    @property
    def sees_task(self) -> bool:
        return self.config.sees_task

    def begin_trial(
        self, params: ActingNetworks, keys: Key, tasks: Float32[Array, "n parameters"] | None
    ) -> TaskBelief:
        return TaskBelief(jnp.zeros((len(keys), 0)) if tasks is None else params.scaling(tasks))

    def act(
        self,
        params: ActingNetworks,
        belief: TaskBelief,
        observation: Float[Array, "n observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], TaskBelief]:
        features = jnp.concatenate([observation, belief.task], axis=-1)
        return params.policy.act(features, keys, deterministic), belief
