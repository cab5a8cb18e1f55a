"""Soft actor-critic with a value network and no temperature, as pure functions of predictions.

This is the first version of SAC (Haarnoja et al. 2018, section 4; spec pearl 1.4): the weight of the entropy is set by
scaling the reward. Shapes: `rows` transitions; critics predict (2, rows).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nacre.rl.policy import PolicySample


def bellman_target(
    scaled_reward: Float[Array, " rows"],
    terminated: Bool[Array, " rows"],
    next_value: Float[Array, " rows"],
    discount: float,
) -> Float[Array, " rows"]:
    """r + discount * V(s'), where only termination (not truncation) stops bootstrapping."""
    return scaled_reward + jnp.where(terminated, 0, discount * next_value)


def critic_loss(predictions: Float[Array, "2 rows"], target: Float[Array, " rows"]) -> Float[Array, ""]:
    """Sum over the two critics of the mean squared Bellman error (no factor 1/2)."""
    return ((predictions - jax.lax.stop_gradient(target)[None]) ** 2).mean(axis=1).sum()


def value_loss(
    predictions: Float[Array, " rows"], q_minimum: Float[Array, " rows"], log_probability: Float[Array, " rows"]
) -> Float[Array, ""]:
    """Mean squared error of V(s) against min Q(s, a) - log pi(a | s), for a fresh action a."""
    return ((predictions - jax.lax.stop_gradient(q_minimum - log_probability)) ** 2).mean()


def policy_loss(
    sample: PolicySample, q_minimum: Float[Array, " rows"], mean_penalty: float, log_std_penalty: float
) -> Float[Array, ""]:
    """Mean of log pi(a | s) - min Q(s, a), plus penalties on the squared means and log standard deviations."""
    penalty = mean_penalty * (sample.mean**2).mean() + log_std_penalty * (sample.log_std**2).mean()
    return (sample.log_probability - q_minimum).mean() + penalty
