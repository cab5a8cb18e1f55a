"""Tanh-Gaussian policies: a diagonal Gaussian squashed into [-1, 1] (SAC, appendix C; spec pearl 1.5)."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nacre.nn.gaussian import noise_of_trials
from nacre.nn.mlp import MLP, Precision
from nacre.types import Key

LOG_STD_MINIMUM, LOG_STD_MAXIMUM = -20.0, 2.0


class PolicySample(NamedTuple):
    """Actions with what the losses need of their distribution."""

    action: Float[Array, "rows action"]
    log_probability: Float[Array, " rows"]
    mean: Float[Array, "rows action"]
    log_std: Float[Array, "rows action"]


class TanhGaussianPolicy(eqx.Module):
    """An MLP whose linear output holds the means and the log standard deviations, clipped to [-20, 2]."""

    network: MLP

    def __init__(self, input_size: int, action_size: int, hidden_size: int, *, key: Key, precision: Precision):
        sizes = (input_size, hidden_size, hidden_size, hidden_size, 2 * action_size)
        self.network = MLP(sizes, key=key, precision=precision, output_bound=1e-3)

    def distribution(
        self, rows: Float[Array, "rows input"]
    ) -> tuple[Float[Array, "rows action"], Float[Array, "rows action"]]:
        """Mean and log standard deviation before the tanh."""
        mean, log_std = jnp.split(self.network(rows), 2, axis=-1)
        return mean, jnp.clip(log_std, LOG_STD_MINIMUM, LOG_STD_MAXIMUM)

    def mode(self, rows: Float[Array, "rows input"]) -> Float[Array, "rows action"]:
        """The deterministic action, tanh of the mean."""
        return jnp.tanh(self.distribution(rows)[0])

    def sample(self, rows: Float[Array, "rows input"], key: Key) -> PolicySample:
        """Reparameterised actions and their log densities."""
        mean, log_std = self.distribution(rows)
        noise = jax.random.normal(key, mean.shape)
        action = jnp.tanh(mean + jnp.exp(log_std) * noise)
        log_normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        log_probability = (log_normal - jnp.log(1 - action**2 + 1e-6)).sum(axis=-1)
        return PolicySample(action, log_probability, mean, log_std)

    def act(self, rows: Float[Array, "rows input"], keys: Key, deterministic: bool) -> Float[Array, "rows action"]:
        """The mode, or draws of which each is from the key of its row."""
        mean, log_std = self.distribution(rows)
        if deterministic:
            return jnp.tanh(mean)
        return jnp.tanh(mean + jnp.exp(log_std) * noise_of_trials(keys, mean.shape[-1]))
