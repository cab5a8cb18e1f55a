"""One gradient step of PEARL, in the order of the original (PEARL, algorithm 1; spec 1.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import Context, Encoder, PearlNetworks, drawn_context, infer_posterior, with_features
from nacre.metrics import PerTask, StepMetrics, summarise
from nacre.nn.convolution import ConvolutionalTrunk
from nacre.nn.gaussian import draw_normal, kl_to_standard_normal
from nacre.nn.mlp import MLP
from nacre.nn.optimise import adam_state, adam_step, follow
from nacre.rl import sac, sac_with_value
from nacre.rl.policy import PolicySample, TanhGaussianPolicy
from nacre.types import Key, Transition, Tree

Trunk = ConvolutionalTrunk | None
"""There is one if observations are pictures."""


class OptimiserStates(NamedTuple):
    """Adam's moments for each network; there is one optimiser per network."""

    encoder: optax.OptState
    policy: optax.OptState
    critics: optax.OptState
    value: optax.OptState
    trunk: Tree = None
    """None if there is no trunk."""


class Batch(NamedTuple):
    """What one gradient step reads. All transitions have two leading axes, meta-batch and transitions per task."""

    tasks: Int[Array, " meta_batch"]
    rl: Transition
    context: Context


class Trained(NamedTuple):
    """All that a gradient step changes."""

    networks: PearlNetworks
    target_value: MLP
    optimisers: OptimiserStates
    target_trunk: Trunk = None


class CriticAuxiliary(NamedTuple):
    latent: Float[Array, "meta_batch latent"]
    mean: Float[Array, "meta_batch latent"]
    variance: Float[Array, "meta_batch latent"]
    kl: Float[Array, " meta_batch"]
    predictions: Float[Array, "2 rows"]
    target: Float[Array, " rows"]


def critic_and_encoder_loss(
    trained: tuple[Encoder, sac.Critics], target_value: MLP, config: PearlConfig, batch: Batch, key: Key
) -> tuple[Float[Array, ""], CriticAuxiliary]:
    """Bellman errors of both critics plus the weighted KL: the only losses that reach the encoder.

    `trained` is (encoder, critics). The KL is summed over the tasks of the meta-batch while the Bellman errors are
    means, so its weight per task grows with the meta-batch (spec 1.2).
    """
    encoder, critics = trained
    mean, variance = infer_posterior(encoder, config, *drawn_context(config, batch.context))
    latent = draw_normal(mean, variance, jax.random.normal(key, mean.shape))
    kl = kl_to_standard_normal(mean, variance) if config.probabilistic_context else jnp.zeros(len(mean))
    next_inputs = policy_inputs(batch.rl.next_observation, jax.lax.stop_gradient(latent))
    target = sac.bellman_target(
        config.reward_scale * batch.rl.reward.reshape(-1),
        batch.rl.terminated.reshape(-1),
        target_value(next_inputs)[:, 0],
        config.discount,
    )
    predictions = sac.predict_q(critics, policy_inputs(batch.rl.observation, latent), _rows(batch.rl.action))
    loss = sac.squared_error(predictions, target) + config.kl_weight * kl.sum()
    return loss, CriticAuxiliary(latent, mean, variance, kl, predictions, target)


def batch_features(trunk: Trunk, target_trunk: Trunk, batch: Batch) -> Batch:
    """The batch with features in place of pictures.

    The observations of the RL batch are the only way to the trunk, so that the critics alone train it: the context
    encoder, and with it the KL, sees fixed features. Next observations are seen by the target trunk, which follows the
    trunk as the target value network follows the value network.
    """
    if trunk is None or target_trunk is None:
        return batch
    following = jax.lax.stop_gradient(target_trunk(batch.rl.next_observation))
    rl = batch.rl._replace(observation=trunk(batch.rl.observation), next_observation=following)
    return batch._replace(rl=rl, context=with_features(jax.lax.stop_gradient(trunk), batch.context))


def policy_loss(
    policy: TanhGaussianPolicy, critics: sac.Critics, config: PearlConfig, inputs: Float[Array, "rows input"], key: Key
) -> tuple[Float[Array, ""], tuple[PolicySample, Float[Array, " rows"]]]:
    """The policy's loss on fresh actions, and what the value loss shares with it: those actions and their min Q."""
    sample = policy.sample(inputs, key)
    q_minimum = sac.predict_q(critics, inputs, sample.action).min(axis=0)
    loss = sac_with_value.policy_loss(sample, q_minimum, config.policy_mean_penalty, config.policy_log_std_penalty)
    return loss, (sample, q_minimum)


def value_loss(
    value: MLP, inputs: Float[Array, "rows input"], q_minimum: Float[Array, " rows"], sample: PolicySample
) -> tuple[Float[Array, ""], Float[Array, " rows"]]:
    """The value network's loss, and its predictions."""
    predictions = value(inputs)[:, 0]
    return sac_with_value.value_loss(predictions, q_minimum, sample.log_probability), predictions


def gradient_step(trained: Trained, config: PearlConfig, batch: Batch, key: Key) -> tuple[Trained, StepMetrics]:
    """Steps critics, encoder and trunk, then value and policy against the new critics, then the targets.

    The policy's actions come from its parameters before the step. Trunk, encoder and critics share one backward pass;
    value and policy share one pass through the new critics, and see the features of before the step.
    """
    networks, target_value, optimisers, target_trunk = trained
    latent_key, action_key = jax.random.split(key)

    def critic_loss(
        encoder: Encoder, critics: sac.Critics, trunk: Trunk
    ) -> tuple[Float[Array, ""], tuple[CriticAuxiliary, Float[Array, "meta_batch batch seen"]]]:
        features = batch_features(trunk, target_trunk, batch)
        loss, auxiliary = critic_and_encoder_loss((encoder, critics), target_value, config, features, latent_key)
        return loss, (auxiliary, features.rl.observation)

    (_, (critic, observations)), gradients = jax.value_and_grad(critic_loss, argnums=(0, 1, 2), has_aux=True)(
        networks.encoder, networks.critics, networks.trunk
    )
    encoder_gradient, critics_gradient, trunk_gradient = gradients
    critics, critics_state = adam_step(
        config.critic_learning_rate, critics_gradient, optimisers.critics, networks.critics
    )
    encoder, encoder_state = adam_step(
        config.encoder_learning_rate, encoder_gradient, optimisers.encoder, networks.encoder
    )

    trunk, trunk_state = networks.trunk, optimisers.trunk
    if trunk is not None:
        trunk, trunk_state = adam_step(config.critic_learning_rate, trunk_gradient, trunk_state, trunk)

    inputs = policy_inputs(observations, critic.latent)
    (policy_loss_value, (sample, q_minimum)), policy_gradient = jax.value_and_grad(policy_loss, has_aux=True)(
        networks.policy, critics, config, inputs, action_key
    )
    (value_loss_value, v), value_gradient = jax.value_and_grad(value_loss, has_aux=True)(
        networks.value, inputs, q_minimum, sample
    )
    policy, policy_state = adam_step(config.policy_learning_rate, policy_gradient, optimisers.policy, networks.policy)
    value, value_state = adam_step(config.value_learning_rate, value_gradient, optimisers.value, networks.value)
    target_value, target_trunk = follow((target_value, target_trunk), (value, trunk), config.target_update_rate)

    losses = {"VF Loss": value_loss_value, "Policy Loss": policy_loss_value}
    metrics = step_metrics(config, batch.tasks, critic, losses, sample, v)
    networks = PearlNetworks(encoder=encoder, policy=policy, critics=critics, value=value, trunk=trunk)
    states = OptimiserStates(encoder_state, policy_state, critics_state, value_state, trunk_state)
    return Trained(networks, target_value, states, target_trunk), metrics


def step_metrics(
    config: PearlConfig,
    tasks: Int[Array, " meta_batch"],
    critic: CriticAuxiliary,
    losses: Mapping[str, Float[Array, ""]],
    sample: PolicySample,
    v: Float[Array, " rows"],
) -> StepMetrics:
    """What a step reports, as the original's columns (spec 2.6); the KL divergence is summed over the meta-batch."""
    squared_errors = ((critic.predictions - critic.target[None]) ** 2).sum(axis=0)
    metrics: StepMetrics = OrderedDict()
    if config.probabilistic_context:
        metrics["Z mean train"] = PerTask(tasks, jnp.abs(critic.mean).mean(axis=1))
        metrics["Z variance train"] = PerTask(tasks, critic.variance.mean(axis=1))
        metrics["KL Divergence"] = PerTask(tasks, len(tasks) * critic.kl)
        metrics["KL Loss"] = config.kl_weight * critic.kl.sum()
    metrics["QF Loss"] = PerTask(tasks, squared_errors.reshape(len(tasks), -1).mean(axis=1))
    metrics.update(losses)
    metrics["Q Predictions"] = summarise(critic.predictions[0])
    metrics["V Predictions"] = summarise(v)
    metrics["Log Pis"] = summarise(sample.log_probability)
    metrics["Policy mu"] = summarise(sample.mean)
    metrics["Policy log std"] = summarise(sample.log_std)
    return metrics


def initial_optimisers(networks: PearlNetworks) -> OptimiserStates:
    """Zero moments for every network; they do not depend on the learning rates."""

    def moments(network: Tree) -> Tree:
        return None if network is None else adam_state(network)

    return OptimiserStates(*(moments(getattr(networks, name)) for name in OptimiserStates._fields))


def policy_inputs(
    observations: Float[Array, "meta_batch batch observation"], latent: Float[Array, "meta_batch latent"]
) -> Float[Array, "rows input"]:
    """[s, z] for every transition, tasks one after another: rows = meta_batch * batch."""
    tasks, batch, _ = observations.shape
    repeated = jnp.broadcast_to(latent[:, None], (tasks, batch, latent.shape[-1]))
    return _rows(jnp.concatenate([observations, repeated], axis=-1))


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])
