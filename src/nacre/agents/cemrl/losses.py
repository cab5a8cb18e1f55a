"""Gradient steps of CEMRL: encoder and decoder from the evidence lower bound, policy and critics on [s, z] (spec
cemrl-dmrlad 1.5, 1.7, 8.2, 8.3, 8.5)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.networks import (
    SMALLEST_PROBABILITY,
    Decoder,
    Encoder,
    Mixture,
    Networks,
    TransitionEncoder,
    TransitionFactors,
    deviation_of,
    padded,
    window_rows,
    zero_transition,
)
from nacre.metrics import StepMetrics, summarise
from nacre.nn.mlp import MLP
from nacre.nn.optimise import adam_state, adam_step
from nacre.rl import sac
from nacre.rl.policy import TanhGaussianPolicy
from nacre.tasks.family import Sizes
from nacre.types import Key, Transition, Tree

FAR = jnp.finfo(jnp.float32).max
"""More than any loss: checkpoints hold no infinities."""


class LossWeights(NamedTuple):
    """Of the squared errors of state and reward in the ELBO."""

    state: Float32[Array, ""]
    reward: Float32[Array, ""]


class Fit(NamedTuple):
    """How far the fitting of encoder and decoder is in this iteration."""

    step: Int32[Array, ""]
    """Gradient steps done."""
    best_step: Int32[Array, ""]
    """The step with the least validation loss, counted from 0."""
    best_loss: Float32[Array, ""]
    ended: Bool[Array, ""]


class OptimiserStates(NamedTuple):
    """Adam's moments."""

    encoder: optax.OptState
    decoder: optax.OptState
    control: sac.OptimiserStates
    temperature: Tree
    """Of the temperature as a function of z; None if it is none."""


class Trained(NamedTuple):
    """All that steps change. The best encoder and decoder wait here for the end of their phase."""

    networks: Networks
    target_critics: sac.AnyCritics
    optimisers: OptimiserStates
    weights: LossWeights
    fit: Fit
    best: tuple[Encoder, Decoder]
    target_policy: TanhGaussianPolicy | None = None
    """None: there is none."""


class Windows(NamedTuple):
    """Transitions to be explained, normalised, and the windows before them."""

    rows: Float[Array, "n T row"]
    mask: Bool[Array, "n T"]
    explained: Transition
    kinds: Int32[Array, " n"]
    """True kinds of tasks; zeros if they are not used."""


class EncoderBatch(NamedTuple):
    """What a gradient step of the encoder reads."""

    train: Windows
    validation: Windows


class PolicyBatch(NamedTuple):
    """What a gradient step of policy and critics reads."""

    sac: sac.Batch
    latent: Float[Array, "rows latent"]
    """The part z of the features."""


class Bound(NamedTuple):
    """The negative ELBO, summed over the batch as published, and means of what it is made of."""

    state_loss: Float[Array, ""]
    reward_loss: Float[Array, ""]
    latent_kl: Float[Array, ""]
    class_kl: Float[Array, ""]


def negative_elbo(
    trained: tuple[Encoder, Decoder],
    config: CemrlConfig,
    windows: Windows,
    weights: LossWeights,
    padding: Transition | None,
    key: Key,
) -> tuple[Float[Array, ""], Bound]:
    """−ELBO of encoder and decoder, a sum over windows.

    ELBO = Σ_windows Σ_k q(k|x) (−nll_k − α KL(q(z|x,k) ‖ p(z|k))) − β KL(q(y|x) ‖ uniform), with z_k ~ q(z|x,k) and
    nll_k the weighted squared errors of what is predicted with z_k. With a class for each transition both divergences
    and the class weights are those of transitions, summed over the window. With `true_classes` the true class has
    weight 1 and its negative log probability takes the place of the divergence of y.
    """
    encoder, decoder = trained
    if config.prior == "fixed":
        encoder = eqx.tree_at(lambda encoder: encoder.prior, encoder, jax.lax.stop_gradient(encoder.prior))
    factors, mask = encode(encoder, config, windows, padding)
    mixture = encoder.combine(factors, mask)
    latents = mixture.mean + mixture.deviation * jax.random.normal(key, mixture.mean.shape)
    state_loss, reward_loss = jax.vmap(
        lambda latent: prediction_losses(decoder, config, windows.explained, latent), in_axes=1, out_axes=1
    )(latents)
    nll = weights.state * state_loss + weights.reward * reward_loss  # (n, K)

    # From here on with an axis of positions: one, or those of the window if each transition has a class.
    if isinstance(encoder, TransitionEncoder) and config.encoder == "individual-y":
        mixture_at = _of_transitions(factors, config)
        shown = mask.astype(nll.dtype)
    else:
        mixture_at = jax.tree.map(lambda leaf: leaf[:, None], mixture)
        shown = jnp.ones((len(nll), 1))
    log_class = jnp.log(jnp.maximum(mixture_at.class_probabilities, SMALLEST_PROBABILITY))
    latent_kl = _kl(mixture_at, encoder.prior.mean, encoder.prior.deviation)  # (n, T, K)
    if config.true_classes:
        class_weights = jax.nn.one_hot(windows.kinds, config.classes)[:, None]
        class_kl = -(class_weights * log_class).sum(axis=-1)
    else:
        class_weights = mixture_at.class_probabilities
        class_kl = (class_weights * log_class).sum(axis=-1) + jnp.log(jnp.float32(config.classes))
    weighted = (class_weights * (nll[:, None] + config.latent_kl_weight * latent_kl)).sum(axis=-1)
    loss = (shown * (weighted + config.class_kl_weight * class_kl)).sum()

    def mean(values: Float[Array, "n T"]) -> Float[Array, ""]:
        return (shown * values).sum() / jnp.maximum(shown.sum(), 1)

    bound = Bound(
        mean((class_weights * state_loss[:, None]).sum(axis=-1)),
        mean((class_weights * reward_loss[:, None]).sum(axis=-1)),
        mean((class_weights * latent_kl).sum(axis=-1)),
        mean(class_kl),
    )
    return loss, bound


def encode(
    encoder: Encoder, config: CemrlConfig, windows: Windows, padding: Transition | None
) -> tuple[Tree, Bool[Array, "n T"]]:
    """Factors of windows. `padding`: a normalised row of zeros, if that stands for what is missing; nothing is then."""
    n, length, width = windows.rows.shape
    flat = encoder.factors(windows.rows.reshape(n * length, width))
    factors = jax.tree.map(lambda leaf: leaf.reshape(n, length, *leaf.shape[1:]), flat)
    if padding is None:
        return factors, windows.mask
    return padded(factors, windows.mask, encoder.factors(window_rows(padding))), jnp.ones_like(windows.mask)


def prediction_losses(
    decoder: Decoder, config: CemrlConfig, explained: Transition, latent: Float[Array, "n latent"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Squared errors of the next observation, summed over its coordinates, and of the reward."""
    rows = jnp.concatenate([explained.observation, explained.action, latent], axis=-1)
    state, reward = decoder(rows)
    target = explained.next_observation
    if config.state_difference:
        target = target - explained.observation
    state_loss = ((state - target[:, : state.shape[1]]) ** 2).sum(axis=-1)
    return state_loss, (reward - explained.reward) ** 2


def inferred_losses(
    trained: tuple[Encoder, Decoder], config: CemrlConfig, windows: Windows, padding: Transition | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean losses of state and reward with z as an agent infers it."""
    encoder, decoder = trained
    latent = encoder.infer(*encode(encoder, config, windows, padding)).latent
    state_loss, reward_loss = prediction_losses(decoder, config, windows.explained, latent)
    return state_loss.mean(), reward_loss.mean()


def encoder_step(
    trained: Trained, config: CemrlConfig, sizes: Sizes, batch: EncoderBatch, key: Key
) -> tuple[Trained, StepMetrics]:
    """Steps encoder and decoder; every `evaluate_every` steps, the first included, looks at the validation loss too."""
    networks, optimisers = trained.networks, trained.optimisers
    padding = padding_row(networks, config, sizes)
    (loss, bound), gradients = jax.value_and_grad(negative_elbo, has_aux=True)(
        (networks.encoder, networks.decoder), config, batch.train, trained.weights, padding, key
    )
    encoder, encoder_state = adam_step(config.encoder_learning_rate, gradients[0], optimisers.encoder, networks.encoder)
    decoder, decoder_state = adam_step(config.decoder_learning_rate, gradients[1], optimisers.decoder, networks.decoder)
    new = trained._replace(
        networks=networks._replace(encoder=encoder, decoder=decoder),
        optimisers=optimisers._replace(encoder=encoder_state, decoder=decoder_state),
    )
    due = trained.fit.step % config.evaluate_every == 0
    new = jax.lax.cond(due, lambda new: _looked(new, config, batch, padding), lambda new: new, new)
    new = new._replace(fit=new.fit._replace(step=new.fit.step + 1))
    metrics: StepMetrics = OrderedDict(
        {
            "Encoder Loss": loss / len(batch.train.mask),
            "State Loss": bound.state_loss,
            "Reward Loss": bound.reward_loss,
            "KL of z": bound.latent_kl,
            "KL of y": bound.class_kl,
            "State Loss Weight": trained.weights.state,
        }
    )
    return new, metrics


def _looked(trained: Trained, config: CemrlConfig, batch: EncoderBatch, padding: Transition | None) -> Trained:
    """Validation first, then the weights of the losses from the training batch (spec cemrl-dmrlad 8.2)."""
    current, fit = (trained.networks.encoder, trained.networks.decoder), trained.fit
    validation = sum(inferred_losses(current, config, batch.validation, padding))
    better = validation < fit.best_loss
    best_step = jnp.where(better, fit.step, fit.best_step)
    return trained._replace(
        best=jax.tree.map(lambda new, old: jnp.where(better, new, old), current, trained.best),
        fit=Fit(
            fit.step,
            best_step,
            jnp.where(better, validation, fit.best_loss),
            fit.step - best_step > config.patience,
        ),
        weights=loss_weights(
            trained.best[1].state.biases[-1].shape[0], *inferred_losses(current, config, batch.train, padding)
        ),
    )


def loss_weights(coordinates: int, state_loss: Float[Array, ""], reward_loss: Float[Array, ""]) -> LossWeights:
    """The larger loss gets the larger weight. The state's is a sum over coordinates, the reward's counts as often."""
    state, reward = state_loss, coordinates * reward_loss
    total = jnp.maximum(state + reward, SMALLEST_PROBABILITY)
    return LossWeights(state / total, reward / total)


def initial_loss_weights(coordinates: int) -> LossWeights:
    return LossWeights(jnp.float32(1 / (1 + coordinates)), jnp.float32(coordinates / (1 + coordinates)))


def unfitted() -> Fit:
    """Before the first step of an iteration."""
    return Fit(jnp.int32(0), jnp.int32(0), jnp.float32(FAR), jnp.array(False))


def padding_row(networks: Networks, config: CemrlConfig, sizes: Sizes) -> Transition | None:
    """What stands for missing transitions in training; None if nothing does."""
    if config.padding == "masked":
        return None
    return networks.normaliser(zero_transition(sizes))


def policy_step(
    trained: Trained, config: CemrlConfig, batch: PolicyBatch, key: Key, kind: sac.CriticKind = sac.EXPECTED
) -> tuple[Trained, StepMetrics]:
    """Steps temperature, critics, policy and targets on [s, z]. No gradient reaches the encoder."""
    networks, optimisers = trained.networks, trained.optimisers
    settings = config.sac
    target_entropy = -config.target_entropy_factor * batch.sac.actions.shape[1]
    control = sac.Trained(networks.control, trained.target_critics, optimisers.control, trained.target_policy)
    temperature, temperature_state = networks.temperature, optimisers.temperature
    if temperature is None:
        control, reported = sac.step(control, batch.sac, key, replace(settings, target_entropy=target_entropy), kind)
    else:
        before = jnp.exp(temperature(batch.latent)[:, 0])  # the losses use α as it was (spec cemrl-dmrlad 8.3)
        sample = networks.control.policy.sample(batch.sac.features, jax.random.split(key)[0])
        loss, gradient = jax.value_and_grad(_latent_temperature_loss)(
            temperature, batch.latent, sample.log_probability, target_entropy
        )
        temperature, temperature_state = adam_step(
            config.temperature_learning_rate, gradient, temperature_state, temperature
        )
        control, reported = sac.step_without_temperature(control, before, batch.sac, key, settings, kind)
        reported = reported._replace(temperature_loss=loss)
    new = trained._replace(
        networks=networks._replace(control=control.networks, temperature=temperature),
        target_critics=control.target_critics,
        optimisers=optimisers._replace(control=control.optimisers, temperature=temperature_state),
        target_policy=control.target_policy,
    )
    return new, policy_metrics(reported, kind)


def policy_metrics(reported: sac.StepMetrics, kind: sac.CriticKind) -> StepMetrics:
    """Columns of a step of policy and critics: ours, and then those of the public code under its names."""
    letter, details = kind.letter, reported.details
    return OrderedDict(
        {
            "QF Loss": reported.critic_loss,
            "Policy Loss": reported.policy_loss,
            "Temperature Loss": reported.temperature_loss,
            "Temperature": reported.temperature,
            "Q Predictions Mean": reported.q,
            "Policy Entropy": reported.entropy,
            f"{letter}F1 Loss": details.critic_losses[0],
            f"{letter}F2 Loss": details.critic_losses[1],
            f"{letter}1 Predictions": summarise(details.predictions[0]),
            f"{letter}2 Predictions": summarise(details.predictions[1]),
            f"{letter} Targets": summarise(details.targets),
            "Log Pis": summarise(details.sample.log_probability),
            "Policy mu": summarise(details.sample.mean),
            "Policy log std": summarise(details.sample.log_std),
        }
    )


def initial_optimisers(networks: Networks, control: sac.OptimiserStates) -> OptimiserStates:
    """Zero moments."""
    return OptimiserStates(
        encoder=adam_state(networks.encoder),
        decoder=adam_state(networks.decoder),
        control=control,
        temperature=None if networks.temperature is None else adam_state(networks.temperature),
    )


def _latent_temperature_loss(
    temperature: MLP,
    latent: Float[Array, "rows latent"],
    log_probability: Float[Array, " rows"],
    target_entropy: float,
) -> Float[Array, ""]:
    return sac.temperature_loss(temperature(latent)[:, 0], log_probability, target_entropy)


def _of_transitions(factors: TransitionFactors, config: CemrlConfig) -> Mixture:
    """A mixture for each transition of windows; leading axes (n, T)."""
    return Mixture(jnp.exp(factors.log_class), factors.mean, deviation_of(factors.spread, config))


def _kl(
    mixture: Mixture, prior_mean: Float[Array, "K latent"], prior_deviation: Float[Array, "K latent"]
) -> Float[Array, "n T K"]:
    """KL( q(z|x,k) ‖ p(z|k) ) for each class, summed over dimensions."""
    mean, deviation = prior_mean[None, None], prior_deviation[None, None]
    ratio = (mixture.deviation / deviation) ** 2
    distance = ((mixture.mean - mean) / deviation) ** 2
    return 0.5 * (ratio + distance - 1 - jnp.log(ratio)).sum(axis=-1)
