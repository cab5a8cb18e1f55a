"""An agent that infers nothing: its policy is given the true task, or nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Real, UInt8

from nacre.agents.multitask.config import MultitaskConfig
from nacre.interfaces import Agent
from nacre.nn.convolution import ConvolutionalTrunk, stack_with
from nacre.rl.policy import TanhGaussianPolicy
from nacre.tasks.family import Sizes
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
    trunk: ConvolutionalTrunk | None = None
    """There is one if observations are pictures."""


class TaskBelief(NamedTuple):
    """The scaled parameters of the tasks of N trials, of width 0 for an agent that is told nothing."""

    task: Float32[Array, "n seen"]
    pictures: UInt8[Array, "n height width stack"] | None = None
    """If observations are pictures: the latest of them, oldest first."""
    begins: Bool[Array, " n"] | None = None
    """If observations are pictures: whether the next one is the first of its episode."""

    __repr__ = short_repr


@dataclass(frozen=True)
class MultitaskAgent(Agent):
    """pi(a | s, task), or pi(a | s)."""

    config: MultitaskConfig
    sizes: Sizes

    @property
    def sees_task(self) -> bool:
        return self.config.sees_task

    def begin_trial(
        self, params: ActingNetworks, keys: Key, tasks: Float32[Array, "n parameters"] | None
    ) -> TaskBelief:
        n, observation = len(keys), self.sizes.observation
        task = jnp.zeros((n, 0)) if tasks is None else params.scaling(tasks)
        if isinstance(observation, int):
            return TaskBelief(task)
        height, width, colours = observation
        pictures = jnp.zeros((n, height, width, self.config.frame_stack * colours), jnp.uint8)
        return TaskBelief(task, pictures, jnp.ones(n, bool))

    def begin_episode(
        self, params: ActingNetworks, belief: TaskBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> TaskBelief:
        return belief if belief.begins is None else belief._replace(begins=belief.begins | mask)

    def act(
        self,
        params: ActingNetworks,
        belief: TaskBelief,
        observation: Real[Array, "n *observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], TaskBelief]:
        if params.trunk is not None:
            assert belief.pictures is not None
            assert belief.begins is not None
            pictures = stack_with(belief.pictures, belief.begins, observation)
            observation = params.trunk(pictures)
            kept = jnp.where(mask[:, None, None, None], pictures, belief.pictures)
            belief = belief._replace(pictures=kept, begins=belief.begins & ~mask)
        features = jnp.concatenate([observation, belief.task], axis=-1)
        return params.policy.act(features, keys, deterministic), belief
