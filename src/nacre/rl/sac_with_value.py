"""Soft actor-critic with a value network and no temperature: what differs from :mod:`nacre.rl.sac`.

This is the first version of SAC (Haarnoja et al. 2018a, section 4; spec pearl 1.4). The scale of the reward sets the
weight of the entropy. Shapes: `rows` transitions.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from nacre.rl.policy import PolicySample


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
