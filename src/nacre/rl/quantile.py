"""Critics that predict the distribution of a return: implicit quantile networks and their loss (spec cemrl-dmrlad 1.7).

Dabney et al. 2018, *Implicit Quantile Networks for Distributional Reinforcement Learning* (arXiv 1806.06923), as Ma et
al. 2020 put it into soft actor-critic (*DSAC*, arXiv 2004.14547). A critic predicts the quantile of the return at every
fraction that it is asked for. Fractions cut (0, 1) into intervals. A critic is asked at their midpoints, and weighs the
answers with their widths. A policy may care for the mean of the return, or for a risk measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


LARGEST_RISK_WEIGHT = 5.0
"""Weights of distorted quantiles are cut off there."""
SMALL = 1e-8

FractionChoice = Literal["random", "equal"]
RiskMeasure = Literal["neutral", "std", "VaR", "wang", "cvar", "cpw"]


class Fractions(NamedTuple):
    """A partition of (0, 1) into n intervals: one for all rows (m = 1), or one for each (m = rows)."""

    widths: Float[Array, "m n"]
    """They add up to 1."""
    midpoints: Float[Array, "m n"]
    """Ascending."""


def draw_fractions(rows: int, n: int, key: Key, choice: FractionChoice = "random") -> Fractions:
    """random: widths are uniform numbers plus MINIMUM_WIDTH, normalised. equal: one partition for all rows."""
    if choice == "equal":
        midpoints = (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
        return Fractions(jnp.full((1, n), 1 / n), midpoints[None])
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
        self, rows: Float32[Array, "rows input"], fractions: Float32[Array, "m n"]
    ) -> Float32[Array, "rows n"]:
        """`fractions` are those of each row, or one row of them for all."""
        n_rows, (m, n) = len(rows), fractions.shape
        for layer in self.base:
            rows = jax.nn.relu(layer(rows))
        frequencies = jnp.pi * jnp.arange(1, len(self.embedding.weight) + 1, dtype=jnp.float32)
        cosines = jnp.cos(fractions.reshape(-1, 1) * frequencies[None])
        embedded = jax.nn.sigmoid(self.embedding(cosines)).reshape(m, n, -1)
        merged = jax.nn.relu(self.merge((rows[:, None] * embedded).reshape(n_rows * n, -1)))
        return (matmul(merged, self.weight, "float32") + self.bias[None]).reshape(n_rows, n)


@dataclass(frozen=True)
class QuantileCritics:
    """Critics that predict quantiles of a return: a :class:`nacre.rl.sac.CriticKind`."""

    quantiles: int = 16
    """Intervals of a partition."""
    embedding_size: int = 64
    fractions: FractionChoice = "random"
    risk: RiskMeasure = "neutral"
    """What the policy makes large: see :func:`risk_value`. VaR: the quantile at the fraction `risk_parameter`."""
    risk_parameter: float = 0.0

    @property
    def letter(self) -> str:
        return "Z"

    def critic(
        self, input_size: int, hidden_sizes: tuple[int, ...], *, key: Key, precision: Precision, **start: Any
    ) -> QuantileCritic:
        return QuantileCritic(input_size, hidden_sizes, self.embedding_size, key=key, precision=precision)

    def target(
        self,
        policy: TanhGaussianPolicy,
        target_critics: tuple[QuantileCritic, QuantileCritic],
        temperature: sac.Temperature,
        batch: sac.Batch,
        key: Key,
        discount: float,
    ) -> tuple[Float[Array, "rows n"], Fractions]:
        fractions = self._draw(batch.rewards, jax.random.fold_in(key, 1))
        return soft_quantile_target(policy, target_critics, temperature, batch, fractions, key, discount), fractions

    def losses(
        self,
        critics: tuple[QuantileCritic, QuantileCritic],
        batch: sac.Batch,
        target: tuple[Float[Array, "rows n"], Fractions],
        key: Key,
    ) -> tuple[Float[Array, "2"], Float[Array, "2 rows n"]]:
        midpoints = self._draw(batch.rewards, key).midpoints
        predictions = _predict(critics, batch.features, batch.actions, midpoints)
        losses = [quantile_huber_loss(each, midpoints, target[0], target[1].widths) for each in predictions]
        return jnp.stack(losses), predictions

    def values(
        self,
        critics: tuple[QuantileCritic, QuantileCritic],
        features: Float[Array, "rows feature"],
        actions: Float[Array, "rows action"],
        key: Key,
    ) -> Float[Array, "2 rows"]:
        if self.risk == "VaR":
            return _predict(critics, features, actions, jnp.full((1, 1), self.risk_parameter))[:, :, 0]
        fractions = self._draw(features[:, 0], key)
        quantiles = _predict(critics, features, actions, fractions.midpoints)
        return jnp.stack([risk_value(each, fractions, self.risk, self.risk_parameter) for each in quantiles])

    def returns(
        self,
        critics: tuple[QuantileCritic, QuantileCritic],
        features: Float[Array, "rows feature"],
        actions: Float[Array, "rows action"],
        key: Key,
    ) -> Float[Array, "rows n"]:
        return _predict(critics, features, actions, self._draw(features[:, 0], key).midpoints).min(axis=0)

    def _draw(self, rows: Float[Array, " rows"], key: Key) -> Fractions:
        return draw_fractions(len(rows), self.quantiles, key, self.fractions)


def _predict(
    critics: tuple[QuantileCritic, QuantileCritic],
    features: Float[Array, "rows feature"],
    actions: Float[Array, "rows action"],
    fractions: Float[Array, "m n"],
) -> Float[Array, "2 rows n"]:
    inputs = jnp.concatenate([features, actions], axis=-1)
    return jnp.stack([critic(inputs, fractions) for critic in critics])


def risk_value(
    quantiles: Float[Array, "rows n"], fractions: Fractions, risk: RiskMeasure, parameter: float
) -> Float[Array, " rows"]:
    """What a return is worth, from its quantiles at the midpoints.

    neutral: its mean. std: its mean less `parameter` of its standard deviations. wang, cvar, cpw: its mean under a
    distortion g of its cumulative probabilities, whose derivative weighs the quantiles (:func:`distortion_weights`).
    """
    if risk == "neutral":
        return expected_value(quantiles, fractions)
    if risk == "std":
        mean = expected_value(quantiles, fractions)
        variance = expected_value((quantiles - mean[:, None]) ** 2, fractions)
        return mean - parameter * jnp.sqrt(variance + SMALL)
    weights = distortion_weights(fractions.midpoints, risk, parameter)
    return expected_value(weights * quantiles, fractions)


def distortion_weights(fractions: Float[Array, "m n"], risk: RiskMeasure, parameter: float) -> Float[Array, "m n"]:
    """g'(τ), at most LARGEST_RISK_WEIGHT and not normalised (spec cemrl-dmrlad 1.7, 8.6).

    wang: g(τ) = Φ(Φ⁻¹(τ) + λ). cvar: g'(τ) = 1{τ < λ} / λ. cpw: g(τ) = τ^λ / (τ^λ + (1 − τ)^λ)^(1/λ). A negative λ
    mirrors: that of 1 − τ and −λ.
    """
    if parameter < 0:
        return distortion_weights(1 - fractions, risk, -parameter)
    if risk == "wang":
        point = jax.scipy.special.ndtri(fractions)
        weights = jnp.exp(-parameter * point - parameter**2 / 2)  # the ratio of two normal densities
    elif risk == "cvar":
        weights = jnp.where(fractions < parameter, 1 / parameter, 0.0)
    elif risk == "cpw":
        weights = jax.vmap(jax.grad(lambda fraction: _probability_weighting(fraction, parameter)))(fractions.ravel())
        weights = weights.reshape(fractions.shape)
    else:
        raise ValueError(f"{risk} distorts no probabilities")
    return jnp.clip(weights, 0, LARGEST_RISK_WEIGHT)


def _probability_weighting(fraction: Float[Array, ""], parameter: float) -> Float[Array, ""]:
    """Tversky and Kahneman's cumulative probability weighting."""
    raised, rest = fraction**parameter, (1 - fraction) ** parameter
    return raised / (raised + rest) ** (1 / parameter)


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
    midpoints: Float[Array, "p n"],
    targets: Float[Array, "rows m"],
    target_widths: Float[Array, "q m"],
) -> Float[Array, ""]:
    """How far predicted quantiles are from those of samples of a target, which carry no gradient.

    For a prediction θᵢ at the midpoint τᵢ, and targets yⱼ of widths pⱼ:

        mean over rows and i of  Σⱼ pⱼ |τᵢ − 1{θᵢ > yⱼ}| Huber(θᵢ − yⱼ)

    The indicator is 1/2 if both are equal, and Huber turns from square to line at 1 (Huber 1964).

    Args:
        predictions: Quantiles of a critic.
        midpoints: The fractions at which they were predicted, of each row or one row for all.
        targets: Quantiles of the return that is aimed at.
        target_widths: The widths of their intervals, of each row or one row for all.
    """
    errors = predictions[:, :, None] - jax.lax.stop_gradient(targets)[:, None]
    too_high = jax.lax.stop_gradient(0.5 * (1 + jnp.sign(errors)))
    weights = jnp.abs(midpoints[:, :, None] - too_high) * target_widths[:, None]
    return (weights * optax.huber_loss(errors, delta=1.0)).sum(axis=2).mean()
