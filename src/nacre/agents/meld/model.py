"""MELD's latent state model (spec meld 1.1 to 1.6): what is believed of a state, and what that says of a frame.

A *frame* is a picture and the reward with which one arrived in it. A trial is one sequence of frames, across the resets
between its episodes. Each has two latent variables:

    z1 ~ p(z1 | z2 before, action before)      inferred from the frame as well: q(z1 | frame, z2 before, action before)
    z2 ~ p(z2 | z1, z2 before, action before)  inferred by the same network, so that it adds no divergence

The first frame of a trial has networks of its own, and p(z1) = N(0, 1). Of a Gaussian an MLP gives the mean, and what
becomes the standard deviation by softplus. Shapes: n trials, T frames of a trial.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, UInt8

from nacre.agents.meld.config import MeldConfig
from nacre.interfaces import select
from nacre.nn.image import ImageDecoder, ImageEncoder
from nacre.nn.mlp import MLP, Precision
from nacre.tasks.family import Sizes
from nacre.types import Key, short_repr

SMALLEST_DEVIATION = 1e-5


class Gaussian(NamedTuple):
    """Independent dimensions."""

    mean: Float[Array, "*n latent"]
    deviation: Float[Array, "*n latent"]

    def sample(self, noise: Float[Array, "*n latent"]) -> Float[Array, "*n latent"]:
        """Of standard normal noise; a gradient passes."""
        return self.mean + self.deviation * noise

    def divergence_from(self, other: Gaussian) -> Float[Array, "*n"]:
        """KL(self || other) in nats, summed over dimensions."""
        ratio = (self.deviation / other.deviation) ** 2
        distance = ((self.mean - other.mean) / other.deviation) ** 2
        return 0.5 * (ratio + distance - 1 - jnp.log(ratio)).sum(axis=-1)


class Inferred(NamedTuple):
    """What is believed of the state in a frame."""

    latent: Float[Array, "*n latent"]
    """A sample, [z1, z2]: what the next frame is inferred from."""
    first: Gaussian
    """q(z1)."""
    second: Gaussian
    """q(z2), given the sample of z1."""

    @property
    def features(self) -> Float[Array, "*n features"]:
        """What policy and critics see: [μ1, σ1, μ2, σ2]."""
        return jnp.concatenate([*self.first, *self.second], axis=-1)

    __repr__ = short_repr


class LatentModel(eqx.Module):
    """The networks of the latent state model."""

    encoder: ImageEncoder
    initial_posterior: MLP
    """q(z1 | frame) of the first frame of a trial."""
    posterior: MLP
    """q(z1 | frame, z2 before, action before) of another."""
    initial_second: MLP
    """p(z2 | z1) of the first frame of a trial."""
    second: MLP
    """p(z2 | z1, z2 before, action before)."""
    prior: MLP
    """p(z1 | z2 before, action before)."""
    decoder: ImageDecoder
    reward_decoder: MLP
    sizes: tuple[int, int] = eqx.field(static=True)
    """Dimensions of z1 and of z2."""
    reward_repeats: int = eqx.field(static=True)

    def __init__(self, config: MeldConfig, sizes: Sizes, *, key: Key, precision: Precision):
        """Layers start as Glorot and Bengio 2010 have it, biases at 0."""
        picture = sizes.observation
        assert isinstance(picture, tuple)
        first, second = self.sizes = config.first_latent_size, config.second_latent_size
        self.reward_repeats = config.reward_repeats
        width, frame = 8 * config.base_depth, 8 * config.base_depth + config.reward_repeats
        before = second + sizes.action
        keys = iter(jax.random.split(key, 8))

        def network(inputs: int, outputs: int) -> MLP:
            return MLP(
                (inputs, width, width, outputs),
                key=next(keys),
                precision=precision,
                activation="leaky-relu",
                initialisation="glorot",
                output_bound=None,
            )

        self.encoder = ImageEncoder(picture, config.base_depth, key=next(keys), precision=precision)
        self.decoder = ImageDecoder(first + second, picture, config.base_depth, key=next(keys), precision=precision)
        self.initial_posterior = network(frame, 2 * first)
        self.posterior = network(frame + before, 2 * first)
        self.initial_second = network(first, 2 * second)
        self.second = network(first + before, 2 * second)
        self.prior = network(before, 2 * first)
        self.reward_decoder = network(first + second, 1)

    def embed(self, pictures: UInt8[Array, "n height width 3"], rewards: Float[Array, " n"]) -> Float[Array, "n frame"]:
        """Frames as posteriors read them: features of the picture, and the reward a number of times."""
        repeated = jnp.broadcast_to(rewards[:, None], (len(rewards), self.reward_repeats))
        return jnp.concatenate([self.encoder(pictures), repeated], axis=-1)

    def begin(self, frame: Float[Array, "n frame"] | None, noise: Float[Array, "n latent"]) -> Inferred:
        """What is believed in the first frame of trials; of a frame that is not seen: its prior."""
        first_noise, second_noise = self._split(noise)
        first = standard_normal(first_noise.shape) if frame is None else gaussian(self.initial_posterior(frame))
        z1 = first.sample(first_noise)
        second = gaussian(self.initial_second(z1))
        return Inferred(jnp.concatenate([z1, second.sample(second_noise)], axis=-1), first, second)

    def advance(
        self,
        latent: Float[Array, "n latent"],
        action: Float[Array, "n action"],
        frame: Float[Array, "n frame"] | None,
        noise: Float[Array, "n latent"],
    ) -> Inferred:
        """What is believed in a later frame; of a frame that is not seen: its prior.

        Args:
            latent: the sample of the frame before.
            action: that which led here; 0 after a reset.
            frame: what :meth:`embed` made of the frame.
            noise: standard normal.
        """
        before = jnp.concatenate([self._split(latent)[1], action], axis=-1)
        first_noise, second_noise = self._split(noise)
        if frame is None:
            first = gaussian(self.prior(before))
        else:
            first = gaussian(self.posterior(jnp.concatenate([frame, before], axis=-1)))
        z1 = first.sample(first_noise)
        second = gaussian(self.second(jnp.concatenate([z1, before], axis=-1)))
        return Inferred(jnp.concatenate([z1, second.sample(second_noise)], axis=-1), first, second)

    def filter(
        self,
        frames: Float[Array, "n T frame"],
        actions: Float[Array, "n T action"],
        mask: Bool[Array, "n T"],
        noise: Float[Array, "n T latent"],
    ) -> Inferred:
        """What is believed in every frame of trials.

        Args:
            frames: what :meth:`embed` made of them.
            actions: those that led to each frame; 0 after a reset.
            mask: False: there is no such frame, and what is believed stays. Each trial has its first frame.
            noise: standard normal.
        """

        def step(before: Inferred, at: tuple[Array, Array, Array, Array]) -> tuple[Inferred, Inferred]:
            frame, action, there, drawn = at
            after = select(there, self.advance(before.latent, action, frame, drawn), before)
            return after, after

        start = self.begin(frames[:, 0], noise[:, 0])
        later = jax.tree.map(lambda part: jnp.swapaxes(part[:, 1:], 0, 1), (frames, actions, mask, noise))
        _, others = jax.lax.scan(step, start, later)
        return jax.tree.map(lambda one, rest: jnp.swapaxes(jnp.concatenate([one[None], rest]), 0, 1), start, others)

    def imagine(
        self,
        latent: Float[Array, "n latent"],
        actions: Float[Array, "n T action"],
        noise: Float[Array, "n T latent"],
    ) -> Inferred:
        """What is expected in the frames after one, of which none is seen.

        Args:
            latent: the sample of the frame before the first of them.
            actions: those that lead to each frame.
            noise: standard normal.
        """

        def step(latent: Array, at: tuple[Array, Array]) -> tuple[Array, Inferred]:
            after = self.advance(latent, at[0], None, at[1])
            return after.latent, after

        _, expected = jax.lax.scan(step, latent, (jnp.swapaxes(actions, 0, 1), jnp.swapaxes(noise, 0, 1)))
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), expected)

    def priors(self, latents: Float[Array, "n T latent"], actions: Float[Array, "n T action"]) -> Gaussian:
        """p(z1) of every frame of trials, of the samples of the frames before and the actions that led to each."""
        n, frames, _ = actions.shape
        before = jnp.concatenate([self._split(latents[:, :-1])[1], actions[:, 1:]], axis=-1)
        later = gaussian(self.prior(before.reshape(n * (frames - 1), -1)))
        start = standard_normal((n, 1, self.sizes[0]))
        return Gaussian(
            *(
                jnp.concatenate([one, rest.reshape(n, frames - 1, -1)], axis=1)
                for one, rest in zip(start, later, strict=True)
            )
        )

    def decode(
        self, latents: Float[Array, "n latent"]
    ) -> tuple[Float32[Array, "n height width 3"], Float[Array, " n"]]:
        """The pictures, within 0 and 1, and the rewards that are expected."""
        return self.decoder(latents), self.reward_decoder(latents)[:, 0]

    def _split(self, latents: Float[Array, "*n latent"]) -> tuple[Float[Array, "*n first"], Float[Array, "*n second"]]:
        return latents[..., : self.sizes[0]], latents[..., self.sizes[0] :]


def gaussian(outputs: Float[Array, "*n outputs"]) -> Gaussian:
    """That of a network's outputs: means, then what softplus makes standard deviations of."""
    mean, raw = jnp.split(outputs, 2, axis=-1)
    return Gaussian(mean, jax.nn.softplus(raw) + SMALLEST_DEVIATION)


def standard_normal(shape: tuple[int, ...]) -> Gaussian:
    return Gaussian(jnp.zeros(shape), jnp.ones(shape))
