"""Critics that predict the distribution of a return: implicit quantile networks and their loss (spec cemrl-dmrlad 1.7).

Dabney et al. 2018, *Implicit Quantile Networks for Distributional Reinforcement Learning* (arXiv 1806.06923), as Ma et
al. 2020 put it into soft actor-critic (*DSAC*, arXiv 2004.14547). A critic predicts the quantile of the return at every
fraction that it is asked for. Fractions cut (0, 1) into intervals. A critic is asked at their midpoints, and weighs the
answers with their widths.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32

from nacre.nn.mlp import Precision, initial_layer, matmul
from nacre.rl import sac
from nacre.rl.policy import TanhGaussianPolicy
from nacre.types import Key

MINIMUM_WIDTH = 0.1
"""Added to every width before they are normalised, so that none is close to 0."""
LAYER_NORM_EPSILON = 1e-5


class Fractions(NamedTuple):
    """A partition of (0, 1) into n intervals for each of some rows."""

    widths: Float[Array, "rows n"]
    """They add up to 1."""
    midpoints: Float[Array, "rows n"]
    """Ascending."""


def draw_fractions(rows: int, n: int, key: Key) -> Fractions:
    """Intervals of random widths: uniform numbers, plus MINIMUM_WIDTH, normalised."""
    widths = jax.random.uniform(key, (rows, n)) + MINIMUM_WIDTH
    widths = widths / widths.sum(axis=1, keepdims=True)
    return Fractions(widths, jnp.cumsum(widths, axis=1) - widths / 2)


class NormalisedLayer(eqx.Module):
    """A linear layer and layer normalisation, over rows (Ba et al. 2016)."""

    weight: Float32[Array, "fan_in fan_out"]
    bias: Float32[Array, " fan_out"]
    scale: Float32[Array, " fan_out"]
    offset: Float32[Array, " fan_out"]
    precision: Precision = eqx.field(static=True)

    def __init__(self, fan_in: int, fan_out: int, *, key: Key, precision: Precision):
        """The linear layer starts as in PyTorch, the normalisation with scale 1 and offset 0."""
        self.weight, self.bias = initial_layer("fan-in", fan_in, fan_out, key=key)
        self.scale, self.offset = jnp.ones(fan_out), jnp.zeros(fan_out)
        self.precision = precision

    def __call__(self, rows: Float32[Array, "rows fan_in"]) -> Float32[Array, "rows fan_out"]:
        outputs = matmul(rows, self.weight, self.precision) + self.bias[None]
        # The variance of deviations: JAX's own default, a difference of squares, can lose it to rounding.
        variance = outputs.var(axis=-1, keepdims=True)
        normalised = jax.nn.standardize(outputs, variance=variance, epsilon=LAYER_NORM_EPSILON)
        return normalised * self.scale[None] + self.offset[None]


class QuantileCritic(eqx.Module):
    """Quantiles of the return of rows of [features, action] at given fractions.

    Base: layers with normalisation and ReLU, from the rows alone. Embedding: one layer with normalisation and sigmoid,
    from cos(π i fraction), i = 1, 2, … Their product goes through one more layer with normalisation and ReLU, and a
    linear one.
    """

    base: tuple[NormalisedLayer, ...]
    embedding: NormalisedLayer
    merge: NormalisedLayer
    weight: Float32[Array, "hidden 1"]
    bias: Float32[Array, "1"]

    def __init__(
        self, input_size: int, hidden_sizes: tuple[int, ...], embedding_size: int, *, key: Key, precision: Precision
    ):
        """A fresh critic; every linear layer starts as in PyTorch (spec cemrl-dmrlad 8.4).

        Args:
            input_size: Width of a row.
            hidden_sizes: Widths of the layers of the base, at least one, and last that of the merged layer.
            embedding_size: Number of cosines.
            key: Draws the weights.
            precision: Of the products of the inner layers. Those of first and last layers stay float32.

        Raises:
            ValueError: `hidden_sizes` has fewer than two widths.
        """
        if len(hidden_sizes) < 2:
            raise ValueError(f"a quantile critic needs at least two hidden layers, not {hidden_sizes}")
        output_key, merge_key, embedding_key, *keys = jax.random.split(key, len(hidden_sizes) + 2)
        *base_sizes, merged = hidden_sizes
        base, width = [], input_size
        for size, layer_key in zip(base_sizes, keys, strict=True):
            layer_precision: Precision = precision if base else "float32"
            base.append(NormalisedLayer(width, size, key=layer_key, precision=layer_precision))
            width = size
        self.base = tuple(base)
        self.embedding = NormalisedLayer(embedding_size, width, key=embedding_key, precision="float32")
        self.merge = NormalisedLayer(width, merged, key=merge_key, precision=precision)
        self.weight, self.bias = initial_layer("fan-in", merged, 1, key=output_key)

    def __call__(
        self, rows: Float32[Array, "rows input"], fractions: Float32[Array, "rows n"]
    ) -> Float32[Array, "rows n"]:
        n_rows, n = fractions.shape
        for layer in self.base:
            rows = jax.nn.relu(layer(rows))
        frequencies = jnp.pi * jnp.arange(1, len(self.embedding.weight) + 1, dtype=jnp.float32)
        cosines = jnp.cos(fractions.reshape(-1, 1) * frequencies[None])
        embedded = jax.nn.sigmoid(self.embedding(cosines)).reshape(n_rows, n, -1)
        merged = jax.nn.relu(self.merge((rows[:, None] * embedded).reshape(n_rows * n, -1)))
        return (matmul(merged, self.weight, "float32") + self.bias[None]).reshape(n_rows, n)


def expected_value(quantiles: Float[Array, "rows n"], fractions: Fractions) -> Float[Array, " rows"]:
    """The mean of a return: its quantiles at the midpoints, weighed with the widths."""
    return (quantiles * fractions.widths).sum(axis=1)


def soft_quantile_target(
    policy: TanhGaussianPolicy,
    target_critics: tuple[QuantileCritic, QuantileCritic],
    temperature: sac.Temperature,
    batch: sac.Batch,
    fractions: Fractions,
    key: Key,
    discount: float,
) -> Float[Array, "rows n"]:
    """What quantile critics learn to predict: :func:`nacre.rl.sac.soft_target` for each interval of `fractions`.

    The lower of the two target critics' quantiles counts at each midpoint. Fresh next actions are `policy`'s.
    """
    following = policy.sample(batch.next_features, key)
    inputs = jnp.concatenate([batch.next_features, following.action], axis=-1)
    first, second = (critic(inputs, fractions.midpoints) for critic in target_critics)
    next_values = jnp.minimum(first, second) - (temperature * following.log_probability)[:, None]
    per_interval = jax.vmap(sac.bellman_target, in_axes=(None, None, 1, None), out_axes=1)
    return jax.lax.stop_gradient(per_interval(batch.rewards, batch.terminated, next_values, discount))


def quantile_huber_loss(
    predictions: Float[Array, "rows n"],
    midpoints: Float[Array, "rows n"],
    targets: Float[Array, "rows m"],
    target_widths: Float[Array, "rows m"],
) -> Float[Array, ""]:
    """How far predicted quantiles are from those of samples of a target, which carry no gradient.

    For a prediction θᵢ at the midpoint τᵢ, and targets yⱼ of widths pⱼ:

        mean over rows and i of  Σⱼ pⱼ |τᵢ − 1{θᵢ > yⱼ}| Huber(θᵢ − yⱼ)

    The indicator is 1/2 if both are equal, and Huber turns from square to line at 1 (Huber 1964).

    Args:
        predictions: Quantiles of a critic.
        midpoints: The fractions at which they were predicted.
        targets: Quantiles of the return that is aimed at.
        target_widths: The widths of their intervals.
    """
    errors = predictions[:, :, None] - jax.lax.stop_gradient(targets)[:, None]
    too_high = jax.lax.stop_gradient(0.5 * (1 + jnp.sign(errors)))
    weights = jnp.abs(midpoints[:, :, None] - too_high) * target_widths[:, None]
    return (weights * optax.huber_loss(errors, delta=1.0)).sum(axis=2).mean()
