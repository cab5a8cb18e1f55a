"""Tanh-Gaussian policies: a diagonal Gaussian squashed into [-1, 1] (SAC, appendix C; spec pearl 1.5)."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nacre.nn.gaussian import noise_of_trials
from nacre.nn.mlp import MLP, Activation, Initialisation, Precision
from nacre.types import Key


class PolicySample(NamedTuple):
    """Actions with what the losses need of their distribution."""

    action: Float[Array, "rows action"]
    log_probability: Float[Array, " rows"]
    mean: Float[Array, "rows action"]
    log_std: Float[Array, "rows action"]


class TanhGaussianPolicy(eqx.Module):
    """An MLP whose linear output holds the means and the log standard deviations, which are clipped."""

    network: MLP
    log_std_bounds: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        action_size: int,
        hidden_sizes: tuple[int, ...],
        *,
        key: Key,
        precision: Precision,
        activation: Activation = "relu",
        initialisation: Initialisation = "fan-out",
        output_bound: float | None = 1e-3,
        log_std_bounds: tuple[float, float] = (-20.0, 2.0),
    ):
        """The defaults are those of spec pearl 1.1 and 1.5.

        Args:
            input_size: Width of the rows it acts on.
            action_size: Width of an action.
            hidden_sizes: Widths of the hidden layers, from the input on.
            key, precision, activation, initialisation, output_bound: As in :class:`nacre.nn.mlp.MLP`.
            log_std_bounds: Minimum and maximum of the log standard deviations.
        """
        self.network = MLP(
            (input_size, *hidden_sizes, 2 * action_size),
            key=key,
            precision=precision,
            activation=activation,
            initialisation=initialisation,
            output_bound=output_bound,
        )
        self.log_std_bounds = log_std_bounds

    def distribution(
        self, rows: Float[Array, "rows input"]
    ) -> tuple[Float[Array, "rows action"], Float[Array, "rows action"]]:
        """Mean and log standard deviation before the tanh."""
        mean, log_std = jnp.split(self.network(rows), 2, axis=-1)
        return mean, jnp.clip(log_std, *self.log_std_bounds)

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
