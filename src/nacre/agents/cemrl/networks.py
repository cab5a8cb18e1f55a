"""CEMRL's networks: a mixture posterior q(y, z | window), and what predicts with z (spec cemrl-dmrlad 1.3, 1.4, 8.1).

An encoder is split in two: `factors` reads rows one by one, `combine` makes the posterior of a window of factors. So a
transition is encoded once, whatever number of windows it is in. Shapes: T transitions of a window, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from nacre.agents.cemrl.config import CemrlConfig
from nacre.nn.gaussian import MINIMUM_VARIANCE
from nacre.nn.mlp import MLP, Precision
from nacre.rl import sac
from nacre.rl.policy import TanhGaussianPolicy
from nacre.tasks.family import Sizes
from nacre.types import Key, Transition, Tree

SMALLEST_PROBABILITY = 1e-30


class Mixture(NamedTuple):
    """q(y | window), and q(z | window, y) for each class."""

    class_probabilities: Float[Array, "n K"]
    mean: Float[Array, "n K latent"]
    deviation: Float[Array, "n K latent"]


class Inferred(NamedTuple):
    """What an agent makes of a window: nothing in it is drawn."""

    latent: Float[Array, "n latent"]
    """The mean of the likeliest class."""
    task_class: Int32[Array, " n"]
    """The likeliest class."""
    class_probabilities: Float[Array, "n K"]


class Scaling(NamedTuple):
    """Mean and standard deviation of each number of a kind."""

    mean: Float32[Array, " width"]
    deviation: Float32[Array, " width"]

    def __call__(self, rows: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        shape = (1,) * (rows.ndim - 1) + (-1,)
        return (rows - self.mean.reshape(shape)) / self.deviation.reshape(shape)


class Normaliser(NamedTuple):
    """What brings transitions to mean 0 and standard deviation 1, each of their parts by itself."""

    observation: Scaling
    action: Scaling
    reward: Scaling
    next_observation: Scaling

    def __call__(self, transition: Transition) -> Transition:
        return transition._replace(
            observation=self.observation(transition.observation),
            action=self.action(transition.action),
            reward=self.reward(transition.reward[..., None])[..., 0],
            next_observation=self.next_observation(transition.next_observation),
        )


class Prior(eqx.Module):
    """p(z | y), as what one would like deviations to be: `raw_deviation` is that before the softplus."""

    mean: Float32[Array, "K latent"]
    raw_deviation: Float32[Array, "K latent"]

    @property
    def deviation(self) -> Float[Array, "K latent"]:
        return jax.nn.softplus(self.raw_deviation)


class TransitionFactors(NamedTuple):
    """What single transitions say."""

    log_class: Float[Array, "*n K"]
    """Log probabilities."""
    mean: Float[Array, "*n K latent"]
    spread: Float[Array, "*n K latent"]
    """Variances, or what the public code took for variances and deviations by turns."""
    features: Float[Array, "*n features"]
    """Of width 0, unless classes are merged from features."""


class Trunk(eqx.Module):
    """The shared network and its heads."""

    shared: MLP
    class_head: MLP
    gaussian_heads: MLP

    def __init__(self, input_size: int, config: CemrlConfig, *, key: Key, precision: Precision):
        shared_key, class_key, gaussian_key = jax.random.split(key, 3)
        width = hidden_width(config, input_size)
        self.shared = MLP((input_size, width, width, width), key=shared_key, precision=precision)
        self.class_head = _linear(width, config.classes, key=class_key)
        self.gaussian_heads = _linear(width, config.classes * 2 * config.latent_size, key=gaussian_key)

    def log_class(self, features: Float[Array, "n width"]) -> Float[Array, "n K"]:
        return jax.nn.log_softmax(self.class_head(features), axis=-1)

    def gaussians(
        self, features: Float[Array, "n width"], config: CemrlConfig
    ) -> tuple[Float[Array, "n K latent"], Float[Array, "n K latent"]]:
        """Means, and softplus of the rest."""
        heads = self.gaussian_heads(features).reshape(len(features), config.classes, 2, config.latent_size)
        return heads[:, :, 0], jnp.maximum(jax.nn.softplus(heads[:, :, 1]), MINIMUM_VARIANCE)


class TrajectoryEncoder(eqx.Module):
    """Reads a window as one vector. What is missing of it is zeros."""

    trunk: Trunk
    prior: Prior
    config: CemrlConfig = eqx.field(static=True)

    def __init__(self, row_size: int, config: CemrlConfig, *, key: Key, precision: Precision):
        self.trunk = Trunk(config.window * row_size, config, key=key, precision=precision)
        self.prior = initial_prior(config, key=jax.random.fold_in(key, 1))
        self.config = config

    def factors(self, rows: Float[Array, "n row"]) -> Float[Array, "n row"]:
        return rows

    def combine(self, factors: Float[Array, "n T row"], mask: Bool[Array, "n T"]) -> Mixture:
        window = jnp.where(mask[..., None], factors, 0).reshape(len(factors), -1)
        features = self.trunk.shared(window)
        return Mixture(jnp.exp(self.trunk.log_class(features)), *self.trunk.gaussians(features, self.config))

    def infer(self, factors: Float[Array, "n T row"], mask: Bool[Array, "n T"]) -> Inferred:
        return likeliest(self.combine(factors, mask))


class TransitionEncoder(eqx.Module):
    """Reads transitions one by one. Their Gaussians are multiplied; classes are merged, or each has its own."""

    trunk: Trunk
    merger: MLP | None
    prior: Prior
    config: CemrlConfig = eqx.field(static=True)

    def __init__(self, row_size: int, config: CemrlConfig, *, key: Key, precision: Precision):
        trunk_key, merger_key = jax.random.split(key)
        width = hidden_width(config, row_size)
        self.trunk = Trunk(row_size, config, key=trunk_key, precision=precision)
        self.merger = None
        if config.encoder == "shared-y" and config.merge == "linear":
            self.merger = _linear(config.window * width, width, key=merger_key)
        elif config.encoder == "shared-y" and config.merge == "mlp":
            self.merger = MLP((config.window * width, width, width), key=merger_key, precision=precision)
        self.prior = initial_prior(config, key=jax.random.fold_in(key, 1))
        self.config = config

    def factors(self, rows: Float[Array, "n row"]) -> TransitionFactors:
        features = self.trunk.shared(rows)
        mean, spread = self.trunk.gaussians(features, self.config)
        kept = features if self.merger is not None else features[:, :0]
        return TransitionFactors(self.trunk.log_class(features), mean, spread, kept)

    def combine(self, factors: TransitionFactors, mask: Bool[Array, "n T"]) -> Mixture:
        """Each class's Gaussian is the product of those of all transitions; the prior if there are none."""
        mean, deviation = self.product(factors.mean, factors.spread, mask, self.prior.mean, self.prior.deviation)
        return Mixture(self._class_probabilities(factors, mask), mean, deviation)

    def infer(self, factors: TransitionFactors, mask: Bool[Array, "n T"]) -> Inferred:
        """With a class for each transition, each gives the Gaussian of its own likeliest class."""
        if self.config.encoder == "shared-y":
            return likeliest(self.combine(factors, mask))
        own = factors.log_class.argmax(axis=-1)[..., None, None]
        mean, spread = (jnp.take_along_axis(part, own, axis=2) for part in (factors.mean, factors.spread))
        prior = self.prior
        latent, _ = self.product(mean, spread, mask, prior.mean[:1], prior.deviation[:1])
        probabilities = self._class_probabilities(factors, mask)
        return Inferred(latent[:, 0], probabilities.argmax(axis=-1).astype(jnp.int32), probabilities)

    def product(
        self,
        mean: Float[Array, "n T k latent"],
        spread: Float[Array, "n T k latent"],
        mask: Bool[Array, "n T"],
        prior_mean: Float[Array, "k latent"],
        prior_deviation: Float[Array, "k latent"],
    ) -> tuple[Float[Array, "n k latent"], Float[Array, "n k latent"]]:
        """Mean and standard deviation of the product over a window; those of the prior for an empty one."""
        weight = jnp.where(mask[..., None, None], 1 / spread, 0)
        empty = ~mask.any(axis=1)[:, None, None]
        total = jnp.where(empty, 1, weight.sum(axis=1))
        product_mean = (weight * mean).sum(axis=1) / total
        deviation = deviation_of(1 / total, self.config)
        return jnp.where(empty, prior_mean[None], product_mean), jnp.where(empty, prior_deviation[None], deviation)

    def _class_probabilities(self, factors: TransitionFactors, mask: Bool[Array, "n T"]) -> Float[Array, "n K"]:
        """Of a whole window; uniform for an empty one, unless they come from features."""
        config, shown = self.config, mask[..., None]
        if self.merger is not None:
            features = jnp.where(shown, factors.features, 0).reshape(len(mask), -1)
            return jnp.exp(self.trunk.log_class(self.merger(features)))
        log_probabilities = jnp.where(shown, factors.log_class, 0)
        normalised = jax.nn.softmax(log_probabilities.sum(axis=1), axis=-1)
        if config.encoder == "individual-y":
            return normalised
        probabilities = jnp.where(shown, jnp.exp(factors.log_class), 0)
        if config.merge == "add":
            count = mask.sum(axis=1)[:, None].astype(probabilities.dtype)
            mean = probabilities.sum(axis=1) / jnp.maximum(count, 1)
            return jnp.where(count > 0, mean, 1 / config.classes)
        if config.class_scores == "normalised":
            return normalised
        if config.merge == "add-softmax":
            return jax.nn.softmax(probabilities.sum(axis=1), axis=-1)
        return jax.nn.softmax(jnp.exp(log_probabilities.sum(axis=1)), axis=-1)


Encoder = TrajectoryEncoder | TransitionEncoder


class Decoder(eqx.Module):
    """Predicts the next observation's first coordinates and the reward, each by a network of its own."""

    state: MLP
    reward: MLP

    def __call__(self, rows: Float[Array, "n input"]) -> tuple[Float[Array, "n coordinates"], Float[Array, " n"]]:
        """`rows` are [s, a, z]."""
        return self.state(rows), self.reward(rows)[:, 0]


class ActingNetworks(NamedTuple):
    """What an agent acts with."""

    encoder: Encoder
    policy: TanhGaussianPolicy
    normaliser: Normaliser


class Networks(NamedTuple):
    """All that is trained, and what the data are normalised with."""

    encoder: Encoder
    decoder: Decoder
    control: sac.Networks
    temperature: MLP | None
    """log α of z; None: one for all z, which is part of `control`."""
    normaliser: Normaliser

    @property
    def acting(self) -> ActingNetworks:
        return ActingNetworks(self.encoder, self.control.policy, self.normaliser)


def initial_encoder(config: CemrlConfig, sizes: Sizes, *, key: Key, precision: Precision) -> Encoder:
    make = TrajectoryEncoder if config.encoder == "trajectory" else TransitionEncoder
    return make(row_width(sizes), config, key=key, precision=precision)


def initial_decoder(config: CemrlConfig, sizes: Sizes, *, key: Key, precision: Precision) -> Decoder:
    state_key, reward_key = jax.random.split(key)
    input_size = observation_width(sizes) + sizes.action + config.latent_size
    hidden = (hidden_width(config, input_size),) * 2
    return Decoder(
        MLP((input_size, *hidden, state_coordinates(config, sizes)), key=state_key, precision=precision),
        MLP((input_size, *hidden, 1), key=reward_key, precision=precision),
    )


def initial_prior(config: CemrlConfig, *, key: Key) -> Prior:
    """Fixed: N(k, prior_deviation²). Learned: those of a fresh linear layer on the class, as one column each."""
    shape = (config.classes, config.latent_size)
    if config.prior == "learned":
        layer = _linear(config.classes, 2 * config.latent_size, key=key)
        mean, raw = jnp.split(layer(jnp.eye(config.classes)), 2, axis=-1)
        return Prior(mean, raw)
    mean = jnp.broadcast_to(jnp.arange(config.classes, dtype=jnp.float32)[:, None], shape)
    return Prior(mean, jnp.full(shape, jnp.log(jnp.expm1(jnp.float32(config.prior_deviation)))))


def initial_normaliser(sizes: Sizes) -> Normaliser:
    """It changes nothing."""

    def identity(width: int) -> Scaling:
        return Scaling(jnp.zeros(width), jnp.ones(width))

    size = observation_width(sizes)
    return Normaliser(identity(size), identity(sizes.action), identity(1), identity(size))


def window_rows(transition: Transition) -> Float[Array, "*n row"]:
    """What the encoder sees of transitions: [s, a, r, s']."""
    return jnp.concatenate(
        [transition.observation, transition.action, transition.reward[..., None], transition.next_observation], axis=-1
    )


def zero_transition(sizes: Sizes) -> Transition:
    """One row of zeros: what the public code took for a missing transition."""
    size = observation_width(sizes)
    return Transition(
        observation=jnp.zeros((1, size)),
        action=jnp.zeros((1, sizes.action)),
        reward=jnp.zeros(1),
        sparse_reward=jnp.zeros(1),
        next_observation=jnp.zeros((1, size)),
        terminated=jnp.zeros(1, bool),
    )


def padded(factors: Tree, mask: Bool[Array, "n T"], padding: Tree) -> Tree:
    """Windows of factors with `padding` in place of what is missing."""

    def fill(leaf: Array, missing: Array) -> Array:
        return jnp.where(mask.reshape(*mask.shape, *(1,) * (leaf.ndim - 2)), leaf, missing[None])

    return jax.tree.map(fill, factors, padding)


def likeliest(mixture: Mixture) -> Inferred:
    """The mean of the likeliest class."""
    chosen = mixture.class_probabilities.argmax(axis=-1)
    latent = jnp.take_along_axis(mixture.mean, chosen[:, None, None], axis=1)[:, 0]
    return Inferred(latent, chosen.astype(jnp.int32), mixture.class_probabilities)


def deviation_of(spread: Float[Array, "..."], config: CemrlConfig) -> Float[Array, "..."]:
    """The standard deviation of a Gaussian of a transition encoder."""
    return jnp.sqrt(spread) if config.gaussian_product == "variance" else spread


def row_width(sizes: Sizes) -> int:
    return 2 * observation_width(sizes) + sizes.action + 1


def observation_width(sizes: Sizes) -> int:
    assert isinstance(sizes.observation, int)
    return sizes.observation


def state_coordinates(config: CemrlConfig, sizes: Sizes) -> int:
    """How many coordinates of the next observation are predicted."""
    return config.state_coordinates or observation_width(sizes)


def hidden_width(config: CemrlConfig, input_size: int) -> int:
    return max(1, int(config.width_factor * input_size))


def _linear(input_size: int, output_size: int, *, key: Key) -> MLP:
    """A layer that begins as PyTorch's do."""
    return MLP((input_size, output_size), key=key, precision="float32", initialisation="fan-in", output_bound=None)
