"""MELD's losses, and its two gradient steps (spec meld 1.7, 2.1 to 2.4).

For a trial of T frames, with z1 and z2 of one pass of the filter:

    ELBO = mean over frames of  log p(picture | z1, z2) + w log p(reward | z1, z2) − KL(q(z1) || p(z1))

The latent model ascends it. Soft actor-critic learns on [μ1, σ1, μ2, σ2] of frames, and no gradient of it reaches the
latent model.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.model import Inferred, LatentModel
from nacre.metrics import StepMetrics
from nacre.nn.image import scaled
from nacre.nn.optimise import adam_step
from nacre.rl import sac
from nacre.rl.policy import TanhGaussianPolicy
from nacre.types import Key


class Frames(NamedTuple):
    """All frames of n trials, episodes one after another. What leads to a frame stands beside it."""

    pictures: UInt8[Array, "n T height width 3"]
    actions: Float[Array, "n T action"]
    """Those that led to each frame; 0 after a reset."""
    rewards: Float[Array, "n T"]
    """With which one arrived in each frame; 0 after a reset."""
    sparse_rewards: Float[Array, "n T"]
    terminated: Bool[Array, "n T"]
    """Whether the task ended there."""
    mask: Bool[Array, "n T"]
    """False after the last frame of an episode that ended before the horizon."""
    acts: Bool[Array, "n T"]
    """Whether one acted in a frame: not in the last one of an episode."""


class PolicyBatch(NamedTuple):
    """What a gradient step of policy and critics reads."""

    frames: Frames
    picked: Int32[Array, " rows"]
    """The transitions: each begins in a frame of these trials, counted over all of them, in which one acted."""


class Filtered(NamedTuple):
    """Trials without their pictures, and what is believed in each frame."""

    features: Float[Array, "n T features"]
    actions: Float[Array, "n T action"]
    rewards: Float[Array, "n T"]
    terminated: Bool[Array, "n T"]
    acts: Bool[Array, "n T"]


class ActingNetworks(NamedTuple):
    """What an agent acts with."""

    model: LatentModel
    policy: TanhGaussianPolicy


class Networks(eqx.Module):
    """All that is trained. The target critics follow."""

    model: LatentModel
    control: sac.Networks

    @property
    def acting(self) -> ActingNetworks:
        return ActingNetworks(self.model, self.control.policy)


class OptimiserStates(NamedTuple):
    """Adam's moments."""

    model: optax.OptState
    control: sac.OptimiserStates


class Trained(NamedTuple):
    """All that a step changes."""

    networks: Networks
    target_critics: sac.Critics
    optimisers: OptimiserStates


class Elbo(NamedTuple):
    """The parts of the ELBO, each a mean over the frames of a trial; and errors of what is expected."""

    image: Float[Array, " n"]
    """Log likelihood of the picture, summed over pixels and colours."""
    reward: Float[Array, " n"]
    """Log likelihood of the reward, without its weight."""
    divergence: Float[Array, " n"]
    """KL(q(z1) || p(z1)). That of z2 is 0."""
    image_error: Float[Array, " n"]
    """Mean squared error of pixels and colours."""
    reward_error: Float[Array, " n"]
    """Mean absolute error."""

    def total(self, config: MeldConfig) -> Float[Array, " n"]:
        return self.image + config.reward_weight * self.reward - self.divergence


def filtered(model: LatentModel, config: MeldConfig, frames: Frames, key: Key) -> Inferred:
    """What is believed in every frame, with noise of the key."""
    n, length = frames.mask.shape
    seen = frames.pictures.reshape(n * length, *frames.pictures.shape[2:])
    embedded = model.embed(seen, seen_rewards(config, frames).reshape(-1)).reshape(n, length, -1)
    noise = jax.random.normal(key, (n, length, config.latent_size))
    return model.filter(embedded, frames.actions, frames.mask, noise)


def seen_rewards(config: MeldConfig, frames: Frames) -> Float[Array, "n T"]:
    """The rewards that tasks are inferred from."""
    if config.context_reward == "none":
        return jnp.zeros_like(frames.rewards)
    return frames.sparse_rewards if config.context_reward == "sparse" else frames.rewards


def elbo(model: LatentModel, config: MeldConfig, frames: Frames, key: Key) -> Elbo:
    """The parts of the ELBO of each trial."""
    n, length = frames.mask.shape
    believed = filtered(model, config, frames, key)
    pictures, rewards = model.decode(believed.latent.reshape(n * length, -1))
    errors = scaled(frames.pictures) - pictures.reshape(frames.pictures.shape)
    reward_errors = frames.rewards - rewards.reshape(n, length)
    squares = (errors**2).sum(axis=(2, 3, 4))
    pixels = errors[0, 0].size
    divergence = believed.first.divergence_from(model.priors(believed.latent, frames.actions))
    parts = (
        log_normal(squares, config.image_deviation, pixels),
        log_normal(reward_errors**2, config.reward_deviation, 1),
        divergence,
        squares / pixels,
        jnp.abs(reward_errors),
    )
    return Elbo(*(part.mean(axis=1, where=frames.mask) for part in parts))


def log_normal(squares: Float[Array, "*n"], deviation: float, dimensions: int) -> Float[Array, "*n"]:
    """Log density of a Gaussian of that standard deviation, of the squared distance from its mean."""
    constant = jnp.log(jnp.float32(2 * jnp.pi * deviation**2))
    return -0.5 * (squares / deviation**2 + dimensions * constant)


def model_loss(model: LatentModel, config: MeldConfig, frames: Frames, key: Key) -> tuple[Float[Array, ""], Elbo]:
    """Minus the mean ELBO over trials."""
    parts = elbo(model, config, frames, key)
    return -parts.total(config).mean(), parts


def model_step(trained: Trained, config: MeldConfig, frames: Frames, key: Key) -> tuple[Trained, StepMetrics]:
    """Steps the latent model."""
    networks, optimisers = trained.networks, trained.optimisers
    (loss, parts), gradient = jax.value_and_grad(model_loss, has_aux=True)(networks.model, config, frames, key)
    model, state = adam_step(config.model_learning_rate, gradient, optimisers.model, networks.model)
    metrics: StepMetrics = OrderedDict(
        {
            "Model Loss": loss,
            "ELBO": -loss,
            "KL of z1": parts.divergence.mean(),
            "Image Log Likelihood": parts.image.mean(),
            "Image Error": parts.image_error.mean(),
            "Reward Log Likelihood": parts.reward.mean(),
            "Reward Error": parts.reward_error.mean(),
        }
    )
    stepped = Networks(model, networks.control)
    return trained._replace(networks=stepped, optimisers=optimisers._replace(model=state)), metrics


def policy_step(
    trained: Trained, config: MeldConfig, batch: PolicyBatch | sac.Batch, key: Key
) -> tuple[Trained, StepMetrics]:
    """Steps temperature, critics, policy and targets."""
    networks, optimisers = trained.networks, trained.optimisers
    filter_key, step_key = jax.random.split(key)
    control = sac.Trained(networks.control, trained.target_critics, optimisers.control)
    transitions = batch if isinstance(batch, sac.Batch) else control_batch(networks.model, config, batch, filter_key)
    stepped, reported = sac.step(control, transitions, step_key, config.sac)
    metrics: StepMetrics = OrderedDict(
        {
            "QF Loss": reported.critic_loss,
            "Policy Loss": reported.policy_loss,
            "Temperature Loss": reported.temperature_loss,
            "Temperature": reported.temperature,
            "Q Predictions Mean": reported.q,
            "Policy Entropy": reported.entropy,
        }
    )
    new = Trained(
        Networks(networks.model, stepped.networks),
        stepped.target_critics,
        optimisers._replace(control=stepped.optimisers),
    )
    return new, metrics


def control_batch(model: LatentModel, config: MeldConfig, batch: PolicyBatch, key: Key) -> sac.Batch:
    """Transitions in features of one pass of the filter, through which no gradient goes."""
    return transitions_of(config, filter_trials(model, config, batch.frames, key), batch.picked)


def filter_trials(model: LatentModel, config: MeldConfig, frames: Frames, key: Key) -> Filtered:
    """One pass of the filter, through which no gradient goes."""
    features = jax.lax.stop_gradient(filtered(model, config, frames, key).features)
    return Filtered(features, frames.actions, frames.rewards, frames.terminated, frames.acts)


def transitions_of(config: MeldConfig, trials: Filtered, picked: Int32[Array, " rows"]) -> sac.Batch:
    """Transitions of such trials, numbered as in :class:`PolicyBatch`."""
    flat, now = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trials), picked
    return sac.Batch(
        features=flat.features[now],
        actions=flat.actions[now + 1],
        rewards=config.reward_scale * flat.rewards[now + 1 if config.reward_index == "following" else now],
        next_features=flat.features[now + 1],
        terminated=flat.terminated[now + 1],
    )
