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

A :class:`CriticKind` says what critics predict of a return: its mean, which is what the lines above say, or its
quantiles (:mod:`nacre.rl.quantile`). With a target policy, which follows the policy as target critics do, a' is its
action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from nacre.nn.mlp import MLP, Activation, Initialisation, Precision
from nacre.nn.optimise import adam_state, adam_step, follow
from nacre.rl.policy import PolicySample, TanhGaussianPolicy
from nacre.rl.sac_config import SacConfig
from nacre.types import Key, Tree

Critics = tuple[MLP, MLP]
"""Of the mean of a return."""
AnyCritics = tuple[Any, Any]
"""Two modules of a :class:`CriticKind`."""

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
    critics: AnyCritics
    log_temperature: Float[Array, ""]


class OptimiserStates(NamedTuple):
    """Adam's moments, one optimiser for each."""

    policy: optax.OptState
    critics: optax.OptState
    temperature: optax.OptState


class Trained(NamedTuple):
    """All that a step changes."""

    networks: Networks
    target_critics: AnyCritics
    optimisers: OptimiserStates
    target_policy: TanhGaussianPolicy | None = None
    """None: next actions in the target are the policy's own."""


class StepDetails(NamedTuple):
    """What the numbers of a step are means of. A compiled step computes only what is used of it."""

    critic_losses: Float[Array, "2"]
    predictions: Float[Array, "2 rows *n"]
    """Of both critics."""
    targets: Float[Array, "rows *n"]
    sample: PolicySample
    """Actions of the policy before its step."""


class StepMetrics(NamedTuple):
    """One step in numbers. Temperature and losses are those that the step used."""

    critic_loss: Float[Array, ""]
    policy_loss: Float[Array, ""]
    temperature_loss: Float[Array, ""]
    temperature: Float[Array, ""]
    q: Float[Array, ""]
    """Mean prediction of both critics."""
    entropy: Float[Array, ""]
    """Mean of −log π(a|s), in nats."""
    details: StepDetails


@runtime_checkable
class CriticKind(Protocol):
    """What critics predict of a return, and what the policy makes of it. It is a frozen, hashable dataclass."""

    @property
    def letter(self) -> str:
        """Of their predictions: Q, or Z of distributions."""
        ...

    def critic(
        self, input_size: int, hidden_sizes: tuple[int, ...], *, key: Key, precision: Precision, **start: Any
    ) -> eqx.Module:
        """A fresh critic of rows [features, action]. A kind may ignore `start`: activation, initialisation and
        output_bound of :class:`nacre.nn.mlp.MLP`."""
        ...

    def target(
        self,
        policy: TanhGaussianPolicy,
        target_critics: AnyCritics,
        temperature: Temperature,
        batch: Batch,
        key: Key,
        discount: float,
    ) -> tuple[Float[Array, "rows *n"], Tree]:
        """What the critics learn to predict, with next actions of `policy`, and what else `losses` needs of it; without
        a gradient."""
        ...

    def losses(
        self, critics: AnyCritics, batch: Batch, target: tuple[Float[Array, "rows *n"], Tree], key: Key
    ) -> tuple[Float[Array, "2"], Float[Array, "2 rows *n"]]:
        """The loss of each critic, and their predictions."""
        ...

    def values(
        self,
        critics: AnyCritics,
        features: Float[Array, "rows feature"],
        actions: Float[Array, "rows action"],
        key: Key,
    ) -> Float[Array, "2 rows"]:
        """What the policy is to make large, by each critic."""
        ...

    def returns(
        self,
        critics: AnyCritics,
        features: Float[Array, "rows feature"],
        actions: Float[Array, "rows action"],
        key: Key,
    ) -> Float[Array, "rows n"]:
        """The lower of both critics' predictions, of which the mean over n is the mean of the return."""
        ...


@dataclass(frozen=True)
class ExpectedCritics:
    """Critics that predict the mean of a return, Q."""

    @property
    def letter(self) -> str:
        return "Q"

    def critic(
        self, input_size: int, hidden_sizes: tuple[int, ...], *, key: Key, precision: Precision, **start: Any
    ) -> MLP:
        return MLP((input_size, *hidden_sizes, 1), key=key, precision=precision, **start)

    def target(
        self,
        policy: TanhGaussianPolicy,
        target_critics: Critics,
        temperature: Temperature,
        batch: Batch,
        key: Key,
        discount: float,
    ) -> tuple[Float[Array, " rows"], None]:
        return soft_target(policy, target_critics, temperature, batch, key, discount), None

    def losses(
        self, critics: Critics, batch: Batch, target: tuple[Float[Array, " rows"], None], key: Key
    ) -> tuple[Float[Array, "2"], Float[Array, "2 rows"]]:
        predictions = predict_q(critics, batch.features, batch.actions)
        return squared_errors(predictions, target[0]), predictions

    def values(
        self, critics: Critics, features: Float[Array, "rows feature"], actions: Float[Array, "rows action"], key: Key
    ) -> Float[Array, "2 rows"]:
        return predict_q(critics, features, actions)

    def returns(
        self, critics: Critics, features: Float[Array, "rows feature"], actions: Float[Array, "rows action"], key: Key
    ) -> Float[Array, "rows 1"]:
        return predict_q(critics, features, actions).min(axis=0)[:, None]


EXPECTED: CriticKind = ExpectedCritics()


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
    kind: CriticKind = EXPECTED,
    target_policy: bool = False,
) -> Trained:
    """Fresh networks, targets equal to what they follow, and zero moments.

    Args:
        feature_size: Width of a row of features.
        action_size: Width of an action.
        config: Gives the widths of the hidden layers and the first temperature.
        key: Draws the weights.
        precision, activation, initialisation: Of all networks, as in :class:`nacre.nn.mlp.MLP`.
        output_bounds: Of the policy's and the critics' output layer, as in :class:`nacre.nn.mlp.MLP`.
        kind: Of the critics.
        target_policy: Whether there is one.
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
        kind.critic(
            feature_size + action_size,
            config.hidden_sizes,
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
    followed = jax.tree.map(jnp.copy, (networks.critics, networks.policy))
    return Trained(networks, followed[0], optimisers, followed[1] if target_policy else None)


def step(
    trained: Trained, batch: Batch, key: Key, config: SacConfig, kind: CriticKind = EXPECTED
) -> tuple[Trained, StepMetrics]:
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
    trained, metrics = step_without_temperature(trained, temperature, batch, key, config, kind)
    networks = Networks(trained.networks.policy, trained.networks.critics, log_temperature)
    optimisers = trained.optimisers._replace(temperature=temperature_state)
    metrics = metrics._replace(temperature_loss=temperature_value, temperature=temperature)
    return trained._replace(networks=networks, optimisers=optimisers), metrics


def step_without_temperature(
    trained: Trained,
    temperature: Temperature,
    batch: Batch,
    key: Key,
    config: SacConfig,
    kind: CriticKind = EXPECTED,
) -> tuple[Trained, StepMetrics]:
    """Steps critics and policy with a temperature that is given, then the targets. The metrics have its mean, and 0 for
    its loss."""
    networks, target_critics, optimisers, target_policy = trained
    policy, critics = networks.policy, networks.critics
    action_key, next_action_key = jax.random.split(key)
    loss_key = jax.random.fold_in(key, 2)  # 0 and 1 give the two keys above

    next_policy = policy if target_policy is None else target_policy
    target = kind.target(next_policy, target_critics, temperature, batch, next_action_key, config.discount)
    (critic_value, (critic_losses, predictions)), gradient = jax.value_and_grad(critic_loss, has_aux=True)(
        critics, kind, batch, target, loss_key
    )
    critics, critics_state = adam_step(config.critic_learning_rate, gradient, optimisers.critics, critics)

    (policy_value, sample), gradient = jax.value_and_grad(policy_loss, has_aux=True)(
        policy, critics, temperature, batch.features, action_key, kind
    )
    policy, policy_state = adam_step(config.policy_learning_rate, gradient, optimisers.policy, policy)

    rate = config.target_update_rate
    metrics = StepMetrics(
        critic_value,
        policy_value,
        jnp.zeros_like(critic_value),
        temperature.mean(),
        predictions.mean(),
        -sample.log_probability.mean(),
        StepDetails(critic_losses, predictions, target[0], sample),
    )
    states = OptimiserStates(policy_state, critics_state, optimisers.temperature)
    new = Trained(
        Networks(policy, critics, networks.log_temperature),
        follow(target_critics, critics, rate),
        states,
        None if target_policy is None else follow(target_policy, policy, rate),
    )
    return new, metrics


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
    critics: AnyCritics, kind: CriticKind, batch: Batch, target: tuple[Float[Array, "rows *n"], Tree], key: Key
) -> tuple[Float[Array, ""], tuple[Float[Array, "2"], Float[Array, "2 rows *n"]]]:
    """The sum of both critics' losses; these, and their predictions."""
    losses, predictions = kind.losses(critics, batch, target, key)
    return losses.sum(), (losses, predictions)


def policy_loss(
    policy: TanhGaussianPolicy,
    critics: AnyCritics,
    temperature: Temperature,
    features: Float[Array, "rows feature"],
    key: Key,
    kind: CriticKind = EXPECTED,
) -> tuple[Float[Array, ""], PolicySample]:
    """Mean of α log π(a|s) − min Q(s, a) for fresh actions, with no gradient to the temperature; and the actions."""
    sample = policy.sample(features, key)
    q_minimum = kind.values(critics, features, sample.action, jax.random.fold_in(key, 1)).min(axis=0)
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
    return squared_errors(predictions, target).sum()


def squared_errors(predictions: Float[Array, "2 rows"], target: Float[Array, " rows"]) -> Float[Array, "2"]:
    """Those of each critic."""
    return ((predictions - jax.lax.stop_gradient(target)[None]) ** 2).mean(axis=1)
