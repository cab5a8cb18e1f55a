"""CEMRL's encoder in NumPy float64, written from the spec and not from the library: loops over windows and classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy_layers import Layers

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.losses import Windows
from nacre.agents.cemrl.networks import Encoder, initial_encoder
from nacre.tasks.family import Sizes
from nacre.types import Transition

SIZES = Sizes(3, 2, 20, 1)
ROW = 2 * 3 + 2 + 1


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max())
    return raised / raised.sum()


def make_config(**changes: Any) -> CemrlConfig:
    fields: dict[str, Any] = {"latent_size": 2, "classes": 3, "window": 4, "width_factor": 0.7}
    return CemrlConfig(**(fields | changes))


def make_encoder(config: CemrlConfig) -> Encoder:
    """With weights that are not almost zero."""

    def make(key: jax.Array) -> Encoder:
        return noisy(initial_encoder(config, SIZES, key=key, precision="float32"), jax.random.key(2))

    return jax.jit(make)(jax.random.key(1))


def noisy(tree: Any, key: jax.Array, scale: float = 0.5) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + scale * jax.random.normal(part, leaf.shape) for leaf, part in zip(leaves, keys, strict=True)]
    )


def make_windows(n: int, config: CemrlConfig, seed: int = 3) -> Windows:
    """Windows of every number of transitions, from none on."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    count = np.arange(n) % (config.window + 1)
    mask = np.arange(config.window)[None] >= config.window - count[:, None]
    explained = Transition(normal(n, 3), normal(n, 2), normal(n), normal(n), normal(n, 3), jnp.zeros(n, bool))
    kinds = jnp.asarray(np.arange(n) % config.classes, jnp.int32)
    return Windows(normal(n, config.window, ROW), jnp.asarray(mask), explained, kinds)


class EncoderByHand:
    """q(y, z | window), one window at a time."""

    def __init__(self, encoder: Encoder, config: CemrlConfig):
        trunk = encoder.trunk
        self.config = config
        self.shared, self.class_head, self.heads = map(Layers, (trunk.shared, trunk.class_head, trunk.gaussian_heads))
        merger = getattr(encoder, "merger", None)
        self.merger = None if merger is None else Layers(merger)
        self.prior_mean = np.asarray(encoder.prior.mean, np.float64)
        self.prior_deviation = softplus(np.asarray(encoder.prior.raw_deviation, np.float64))

    def gaussian(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and softplus of the rest, of head k."""
        latent = self.config.latent_size
        output = self.heads.forward(features[None])[0][2 * latent * k : 2 * latent * (k + 1)]
        return output[:latent], np.maximum(softplus(output[latent:]), 1e-7)

    def classes(self, features: np.ndarray) -> np.ndarray:
        return softmax(self.class_head.forward(features[None])[0])

    def deviation(self, spread: np.ndarray) -> np.ndarray:
        return np.sqrt(spread) if self.config.gaussian_product == "variance" else spread

    def product(self, gaussians: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
        if not gaussians:
            return self.prior_mean[k], self.prior_deviation[k]
        precision = np.sum([1 / spread for _, spread in gaussians], axis=0)
        mean = np.sum([mean / spread for mean, spread in gaussians], axis=0) / precision
        return mean, self.deviation(1 / precision)

    def posterior(self, rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class probabilities (K,), means and deviations (K, latent) of one window."""
        config, k_all = self.config, range(self.config.classes)
        if config.encoder == "trajectory":
            features = self.shared.forward(np.where(mask[:, None], rows, 0).reshape(1, -1))[0]
            mean, deviation = zip(*(self.gaussian(features, k) for k in k_all), strict=True)
            return self.classes(features), np.array(mean), np.array(deviation)
        features = [self.shared.forward(row[None])[0] for row in rows]
        seen = [feature for feature, shown in zip(features, mask, strict=True) if shown]
        mean, deviation = zip(
            *(self.product([self.gaussian(feature, k) for feature in seen], k) for k in k_all), strict=True
        )
        return self.merged(features, seen, mask), np.array(mean), np.array(deviation)

    def merged(self, features: list[np.ndarray], seen: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
        config, uniform = self.config, np.full(self.config.classes, 1 / self.config.classes)
        if self.merger is not None:
            flat = np.concatenate(
                [feature if shown else 0 * feature for feature, shown in zip(features, mask, strict=True)]
            )
            return self.classes(self.merger.forward(flat[None])[0])
        if not seen:
            return uniform
        probabilities = np.array([self.classes(feature) for feature in seen])
        product = probabilities.prod(axis=0)
        if config.encoder == "individual-y":
            return product / product.sum()
        if config.merge == "add":
            return probabilities.mean(axis=0)
        if config.class_scores == "normalised":
            return product / product.sum()
        return softmax(probabilities.sum(axis=0) if config.merge == "add-softmax" else product)

    def infer(self, rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
        """z and the class as an agent takes them."""
        probabilities, mean, _ = self.posterior(rows, mask)
        chosen = int(probabilities.argmax())
        if self.config.encoder != "individual-y":
            return mean[chosen], chosen
        features = [self.shared.forward(row[None])[0] for row, shown in zip(rows, mask, strict=True) if shown]
        own = [self.gaussian(feature, int(self.classes(feature).argmax())) for feature in features]
        return self.product(own, 0)[0], chosen
