"""Soft actor-critic with twin critics, target critics and a learned temperature, as pure functions on features.

Haarnoja et al. 2018b, *Soft Actor-Critic Algorithms and Applications* (arXiv 1812.05905); spec cemrl-dmrlad
1.7, spec meld 2.4. Features are whatever policy and critics see of a state: an observation, [s, z], the parameters of a
posterior. Who makes them decides whether a gradient reaches them: the losses let it through. Shapes: `rows`
transitions.

In a step critics come before the policy (spec cemrl-dmrlad 8.3, 8.5):

    temperature   a ~ π(·|s),  J(α) = −mean log α · (log π(a|s) + H̄)
    critics       a' ~ π(·|s'),  y = r + (1 − terminated) γ (min Q̄(s', a') − α log π(a'|s')),  Σ mean (Q − y)²
    policy        mean α log π(a|s) − min Q(s, a), with the new α and the new critics
    targets       Q̄ ← Q̄ + τ (Q − Q̄)
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from nacre.nn.mlp import MLP, Activation, Initialisation, Precision
from nacre.nn.optimise import adam_state, adam_step, follow
from nacre.rl.policy import PolicySample, TanhGaussianPolicy
from nacre.rl.sac_config import SacConfig
from nacre.types import Key

Critics = tuple[MLP, MLP]

Temperature = Float[Array, ""] | Float[Array, " rows"]
"""The weight of the entropy: one for all rows or one for each, for example if it depends on z."""


class Batch(NamedTuple):
    """Transitions, in features."""

    features: Float[Array, "rows feature"]
    actions: Float[Array, "rows action"]
    rewards: Float[Array, " rows"]
    """Already scaled."""
    next_features: Float[Array, "rows feature"]
    terminated: Bool[Array, " rows"]
    """Only this stops bootstrapping: a truncated episode's last transition is False."""


class Networks(eqx.Module):
    """All that is trained. The target critics follow."""

    policy: TanhGaussianPolicy
    critics: Critics
    log_temperature: Float[Array, ""]


class OptimiserStates(NamedTuple):
    """Adam's moments, one optimiser for each."""

    policy: optax.OptState
    critics: optax.OptState
    temperature: optax.OptState


class Trained(NamedTuple):
    """All that a step changes."""

    networks: Networks
    target_critics: Critics
    optimisers: OptimiserStates


class StepMetrics(NamedTuple):
    """Scalars of one step. Temperature and losses are those that the step used."""

    critic_loss: Float[Array, ""]
    policy_loss: Float[Array, ""]
    temperature_loss: Float[Array, ""]
    temperature: Float[Array, ""]
    q: Float[Array, ""]
    """Mean prediction of both critics."""
    entropy: Float[Array, ""]
    """Mean of −log π(a|s), in nats."""


def initial(
    feature_size: int,
    action_size: int,
    config: SacConfig,
    *,
    key: Key,
    precision: Precision,
    activation: Activation = "relu",
    initialisation: Initialisation = "fan-out",
    output_bounds: tuple[float | None, float | None] = (1e-3, 3e-3),
) -> Trained:
    """Fresh networks, target critics equal to the critics, and zero moments.

    Args:
        feature_size: Width of a row of features.
        action_size: Width of an action.
        config: Gives the widths of the hidden layers and the first temperature.
        key: Draws the weights.
        precision, activation, initialisation: Of all networks, as in :class:`nacre.nn.mlp.MLP`.
        output_bounds: Of the policy's and the critics' output layer, as in :class:`nacre.nn.mlp.MLP`.
    """
    policy_key, *critic_keys = jax.random.split(key, 3)
    policy_bound, critic_bound = output_bounds
    policy = TanhGaussianPolicy(
        feature_size,
        action_size,
        config.hidden_sizes,
        key=policy_key,
        precision=precision,
        activation=activation,
        initialisation=initialisation,
        output_bound=policy_bound,
    )
    first, second = (
        MLP(
            (feature_size + action_size, *config.hidden_sizes, 1),
            key=critic_key,
            precision=precision,
            activation=activation,
            initialisation=initialisation,
            output_bound=critic_bound,
        )
        for critic_key in critic_keys
    )
    networks = Networks(policy, (first, second), jnp.log(jnp.asarray(config.initial_temperature, jnp.float32)))
    optimisers = OptimiserStates(
        adam_state(networks.policy), adam_state(networks.critics), adam_state(networks.log_temperature)
    )
    # Copies, as a step may be given its arguments' memory.
    return Trained(networks, jax.tree.map(jnp.copy, networks.critics), optimisers)


def step(trained: Trained, batch: Batch, key: Key, config: SacConfig) -> tuple[Trained, StepMetrics]:
    """Steps temperature, critics and policy, each with what the others have become before it, then the targets."""
    networks, optimisers = trained.networks, trained.optimisers
    # The losses draw the same actions again, of the same policy: the compiler finds that they are one.
    sample = networks.policy.sample(batch.features, jax.random.split(key)[0])
    temperature_value, gradient = jax.value_and_grad(temperature_loss)(
        networks.log_temperature, sample.log_probability, target_entropy(config, batch.actions.shape[1])
    )
    log_temperature, temperature_state = adam_step(
        config.temperature_learning_rate, gradient, optimisers.temperature, networks.log_temperature
    )
    temperature = jnp.exp(log_temperature)
    trained, metrics = step_without_temperature(trained, temperature, batch, key, config)
    networks = Networks(trained.networks.policy, trained.networks.critics, log_temperature)
    optimisers = trained.optimisers._replace(temperature=temperature_state)
    metrics = metrics._replace(temperature_loss=temperature_value, temperature=temperature)
    return Trained(networks, trained.target_critics, optimisers), metrics


def step_without_temperature(
    trained: Trained, temperature: Temperature, batch: Batch, key: Key, config: SacConfig
) -> tuple[Trained, StepMetrics]:
    """Steps critics and policy with a temperature that is given, then the targets. The metrics have its mean, and 0 for
    its loss."""
    networks, target_critics, optimisers = trained
    policy, critics = networks.policy, networks.critics
    action_key, next_action_key = jax.random.split(key)

    target = soft_target(policy, target_critics, temperature, batch, next_action_key, config.discount)
    (critic_value, q), gradient = jax.value_and_grad(critic_loss, has_aux=True)(critics, batch, target)
    critics, critics_state = adam_step(config.critic_learning_rate, gradient, optimisers.critics, critics)

    (policy_value, sample), gradient = jax.value_and_grad(policy_loss, has_aux=True)(
        policy, critics, temperature, batch.features, action_key
    )
    policy, policy_state = adam_step(config.policy_learning_rate, gradient, optimisers.policy, policy)

    target_critics = follow(target_critics, critics, config.target_update_rate)
    metrics = StepMetrics(
        critic_value,
        policy_value,
        jnp.zeros_like(critic_value),
        temperature.mean(),
        q.mean(),
        -sample.log_probability.mean(),
    )
    states = OptimiserStates(policy_state, critics_state, optimisers.temperature)
    return Trained(Networks(policy, critics, networks.log_temperature), target_critics, states), metrics


def target_entropy(config: SacConfig, action_size: int) -> float:
    """The entropy that the temperature is tuned for; by default minus the number of action dimensions."""
    return -float(action_size) if config.target_entropy is None else config.target_entropy


def temperature_loss(
    log_temperature: Temperature, log_probability: Float[Array, " rows"], target_entropy: float
) -> Float[Array, ""]:
    """Mean of −log α · (log π(a|s) + H̄), with no gradient to the policy.

    The paper has α in place of log α before the bracket. The code of its authors, and all that
    followed it, have log α: the step then does not shrink with α.
    """
    return (-log_temperature * jax.lax.stop_gradient(log_probability + target_entropy)).mean()


def soft_target(
    policy: TanhGaussianPolicy,
    target_critics: Critics,
    temperature: Temperature,
    batch: Batch,
    key: Key,
    discount: float,
) -> Float[Array, " rows"]:
    """What the critics learn to predict: reward, and the discounted value of fresh next actions less their cost."""
    following = policy.sample(batch.next_features, key)
    q_minimum = predict_q(target_critics, batch.next_features, following.action).min(axis=0)
    next_value = q_minimum - temperature * following.log_probability
    return jax.lax.stop_gradient(bellman_target(batch.rewards, batch.terminated, next_value, discount))


def critic_loss(
    critics: Critics, batch: Batch, target: Float[Array, " rows"]
) -> tuple[Float[Array, ""], Float[Array, "2 rows"]]:
    """The squared error of both critics, and their predictions."""
    predictions = predict_q(critics, batch.features, batch.actions)
    return squared_error(predictions, target), predictions


def policy_loss(
    policy: TanhGaussianPolicy,
    critics: Critics,
    temperature: Temperature,
    features: Float[Array, "rows feature"],
    key: Key,
) -> tuple[Float[Array, ""], PolicySample]:
    """Mean of α log π(a|s) − min Q(s, a) for fresh actions, with no gradient to the temperature; and the actions."""
    sample = policy.sample(features, key)
    q_minimum = predict_q(critics, features, sample.action).min(axis=0)
    return (jax.lax.stop_gradient(temperature) * sample.log_probability - q_minimum).mean(), sample


def predict_q(
    critics: Critics, features: Float[Array, "rows feature"], actions: Float[Array, "rows action"]
) -> Float[Array, "2 rows"]:
    """Both critics' Q."""
    inputs = jnp.concatenate([features, actions], axis=-1)
    return jnp.stack([critic(inputs)[:, 0] for critic in critics])


def bellman_target(
    scaled_reward: Float[Array, " rows"],
    terminated: Bool[Array, " rows"],
    next_value: Float[Array, " rows"],
    discount: float,
) -> Float[Array, " rows"]:
    """r + discount * V(s'). Only termination stops bootstrapping; truncation does not."""
    return scaled_reward + jnp.where(terminated, 0, discount * next_value)


def squared_error(predictions: Float[Array, "2 rows"], target: Float[Array, " rows"]) -> Float[Array, ""]:
    """Sum over the two critics of the mean squared Bellman error (no factor 1/2), with no gradient to the target."""
    return ((predictions - jax.lax.stop_gradient(target)[None]) ** 2).mean(axis=1).sum()
