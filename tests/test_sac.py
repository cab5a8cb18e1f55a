"""Soft actor-critic: a step against one computed by hand in NumPy float64, and tasks whose values are known.

The probe tasks' closed forms: if no action matters, the best policy is the widest that a tanh-Gaussian can be; near its
middle, a reward of -k (a - a*)² makes the best policy a Gaussian of variance α / 2k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import Layers

from nacre.rl import sac
from nacre.rl.sac_config import SacConfig

FEATURES, ACTION, ROWS = 3, 2, 7
CONFIG = SacConfig(
    hidden_sizes=(6, 5),
    discount=0.9,
    initial_temperature=0.7,
    target_update_rate=0.1,
    policy_learning_rate=1e-3,
    critic_learning_rate=2e-3,
    temperature_learning_rate=3e-3,
)


def make_batch() -> sac.Batch:
    generator = np.random.default_rng(5)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    return sac.Batch(
        features=normal(ROWS, FEATURES),
        actions=jnp.tanh(normal(ROWS, ACTION)),
        rewards=normal(ROWS),
        next_features=normal(ROWS, FEATURES),
        terminated=jnp.asarray(generator.random(ROWS) < 0.4),
    )


def make_trained(precision="float32", activation="relu") -> sac.Trained:
    """Networks whose output layers are not almost zero, and targets that differ from what they follow."""
    trained = sac.initial(FEATURES, ACTION, CONFIG, key=jax.random.key(1), precision=precision, activation=activation)
    leaves, structure = jax.tree.flatten(trained.networks)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    networks = jax.tree.unflatten(structure, leaves)
    return trained._replace(networks=networks, target_critics=jax.tree.map(lambda leaf: 0.9 * leaf, networks.critics))


# A step by hand


class PolicyByHand:
    """Actions of a policy for given noise, and the way back from their gradient to its parameters."""

    def __init__(self, network: Layers, features: np.ndarray, noise: np.ndarray):
        self.network, self.noise = network, noise
        self.mean, self.raw_log_std = np.split(network.forward(features), 2, axis=1)
        self.log_std = np.clip(self.raw_log_std, -20, 2)
        self.action = np.tanh(self.mean + np.exp(self.log_std) * noise)
        log_normal = -0.5 * noise**2 - self.log_std - 0.5 * np.log(2 * np.pi)
        self.log_probability = (log_normal - np.log(1 - self.action**2 + 1e-6)).sum(1)

    def step(self, action_gradient: np.ndarray, log_probability_gradient: np.ndarray, learning_rate: float) -> None:
        slope, weight = 1 - self.action**2, log_probability_gradient[:, None]
        before_tanh = (action_gradient + weight * 2 * self.action / (slope + 1e-6)) * slope
        log_std = before_tanh * np.exp(self.log_std) * self.noise - weight
        log_std *= self.raw_log_std == self.log_std
        weights, biases, _ = self.network.backward(np.concatenate([before_tanh, log_std], 1))
        self.network.adam_first_step(weights, biases, learning_rate)


class StepByHand(NamedTuple):
    policy: Layers
    critics: list[Layers]
    target_critics: list[Layers]
    log_temperature: float
    metrics: dict[str, float]


def step_by_hand(trained: sac.Trained, batch: sac.Batch, key: jax.Array, config: SacConfig) -> StepByHand:
    """The same random numbers, and nothing else shared with the library."""
    noise, next_noise = (
        np.asarray(jax.random.normal(part, (ROWS, ACTION)), np.float64) for part in jax.random.split(key)
    )
    networks = trained.networks
    policy = Layers(networks.policy.network)
    critics, targets = ([Layers(critic) for critic in pair] for pair in (networks.critics, trained.target_critics))
    features, actions, rewards, next_features, terminated = (np.asarray(part, np.float64) for part in batch)

    # temperature
    drawn = PolicyByHand(policy, features, noise)
    target_entropy = -ACTION if config.target_entropy is None else config.target_entropy
    log_temperature = float(networks.log_temperature)
    gradient = -(drawn.log_probability + target_entropy).mean()
    temperature_loss = log_temperature * gradient
    log_temperature -= config.temperature_learning_rate * gradient / (abs(gradient) + 1e-8)
    temperature = np.exp(log_temperature)

    # critics
    following = PolicyByHand(policy, next_features, next_noise)
    next_q = np.min(
        [critic.forward(np.concatenate([next_features, following.action], 1))[:, 0] for critic in targets], 0
    )
    bootstrap = next_q - temperature * following.log_probability
    target = rewards + (1 - terminated) * config.discount * bootstrap
    critic_loss, q = 0.0, []
    for critic in critics:
        q.append(critic.forward(np.concatenate([features, actions], 1))[:, 0])
        critic_loss += ((q[-1] - target) ** 2).mean()
        weights, biases, _ = critic.backward((2 * (q[-1] - target) / ROWS)[:, None])
        critic.adam_first_step(weights, biases, config.critic_learning_rate)

    # policy, against the new critics
    drawn = PolicyByHand(policy, features, noise)
    new_q = np.stack([critic.forward(np.concatenate([features, drawn.action], 1))[:, 0] for critic in critics])
    action_gradient = np.zeros_like(drawn.action)
    for index, critic in enumerate(critics):
        _, _, input_gradient = critic.backward((np.where(new_q.argmin(0) == index, -1.0, 0.0) / ROWS)[:, None])
        action_gradient += input_gradient[:, -ACTION:]
    policy_loss = (temperature * drawn.log_probability - new_q.min(0)).mean()
    drawn.step(action_gradient, np.full(ROWS, temperature / ROWS), config.policy_learning_rate)

    for target_critic, critic in zip(targets, critics, strict=True):
        pairs = zip(target_critic.weights + target_critic.biases, critic.weights + critic.biases, strict=True)
        for old, new in pairs:
            old += config.target_update_rate * (new - old)
    metrics = {
        "critic_loss": critic_loss,
        "policy_loss": policy_loss,
        "temperature_loss": temperature_loss,
        "temperature": temperature,
        "q": np.mean(q),
        "entropy": -drawn.log_probability.mean(),
    }
    return StepByHand(policy, critics, targets, log_temperature, metrics)


def assert_equals(hand: StepByHand, new: sac.Trained, metrics: sac.StepMetrics) -> None:
    hand.policy.assert_equals(new.networks.policy.network)
    for ours, theirs in zip(hand.critics, new.networks.critics, strict=True):
        ours.assert_equals(theirs)
    for ours, theirs in zip(hand.target_critics, new.target_critics, strict=True):
        ours.assert_equals(theirs)
    np.testing.assert_allclose(new.networks.log_temperature, hand.log_temperature, rtol=1e-5)
    for name, expected in hand.metrics.items():
        np.testing.assert_allclose(getattr(metrics, name), expected, rtol=1e-4, err_msg=name)


compiled_step = jax.jit(sac.step, static_argnames="config")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_step_agrees_with_a_step_by_hand(activation):
    trained, batch, key = make_trained(activation=activation), make_batch(), jax.random.key(3)
    assert_equals(step_by_hand(trained, batch, key, CONFIG), *compiled_step(trained, batch, key, CONFIG))


@pytest.mark.parametrize(
    "change",
    [
        {"discount": 0.8},
        {"target_entropy": 5.0},
        {"target_update_rate": 0.2},
        {"temperature_learning_rate": 0.0},
    ],
)
def test_the_hand_step_would_notice_a_wrong_step(change):
    trained, batch, key = make_trained(), make_batch(), jax.random.key(3)
    hand = step_by_hand(trained, batch, key, CONFIG)
    with pytest.raises(AssertionError):
        assert_equals(hand, *compiled_step(trained, batch, key, dataclasses.replace(CONFIG, **change)))


def test_target_entropy_is_minus_the_number_of_action_dimensions_unless_given():
    assert sac.target_entropy(CONFIG, 6) == -6
    assert sac.target_entropy(dataclasses.replace(CONFIG, target_entropy=-1.5), 6) == -1.5


# Losses


def test_temperature_loss_by_hand():
    log_probability = jnp.array([0.5, -1.5, 2.0])
    expected = -np.mean(0.3 * (np.array([0.5, -1.5, 2.0]) - 2))
    loss, gradient = jax.value_and_grad(sac.temperature_loss)(jnp.array(0.3), log_probability, -2.0)
    np.testing.assert_allclose((loss, gradient), (expected, expected / 0.3), rtol=1e-6)


def test_temperature_may_differ_between_rows():
    """As where it is a function of z: equal temperatures of rows are one temperature, and each row has its own."""
    trained, batch, key = make_trained(), make_batch(), jax.random.key(3)
    policy, critics = trained.networks.policy, trained.networks.critics

    def losses(temperature):
        target = sac.soft_target(policy, critics, temperature, batch, key, 0.9)
        loss = sac.policy_loss(policy, critics, temperature, batch.features, key)[0]
        return target, loss, sac.temperature_loss(jnp.log(temperature), batch.rewards, -2.0)

    for one, other in zip(losses(jnp.array(0.4)), losses(jnp.full(ROWS, 0.4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    rising = jnp.linspace(0.1, 0.9, ROWS)
    for row in range(ROWS):
        np.testing.assert_allclose(losses(rising)[0][row], losses(rising[row])[0][row], rtol=1e-5)
    mean = np.mean([losses(rising[row : row + 1].repeat(ROWS))[2] for row in range(ROWS)])
    assert losses(rising)[2] != pytest.approx(mean)  # each row weighs its own log probability
    gradient = jax.grad(lambda logs: sac.temperature_loss(logs, batch.rewards, -2.0))(jnp.log(rising))
    np.testing.assert_allclose(gradient, -(batch.rewards - 2) / ROWS, rtol=1e-6)


def test_each_loss_moves_only_what_it_should():
    trained, batch, key = make_trained(), make_batch(), jax.random.key(3)

    def moved(loss: Callable[[sac.Trained, sac.Batch], jax.Array]) -> set[str]:
        gradients = eqx.filter_grad(lambda arrays: loss(*arrays))((trained, batch))
        parts = {
            "policy": gradients[0].networks.policy,
            "critics": gradients[0].networks.critics,
            "temperature": gradients[0].networks.log_temperature,
            "targets": gradients[0].target_critics,
            "features": gradients[1].features,
            "next": gradients[1].next_features,
        }
        return {name for name, tree in parts.items() if any(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree))}

    def temperature_of(trained):
        return jnp.exp(trained.networks.log_temperature)

    def target(trained, batch):
        return sac.soft_target(
            trained.networks.policy, trained.target_critics, temperature_of(trained), batch, key, 0.9
        )

    def critic(trained, batch):
        return sac.critic_loss(trained.networks.critics, sac.EXPECTED, batch, (target(trained, batch), None), key)[0]

    def policy(trained, batch):
        networks = trained.networks
        return sac.policy_loss(networks.policy, networks.critics, temperature_of(trained), batch.features, key)[0]

    def temperature(trained, batch):
        sample = trained.networks.policy.sample(batch.features, key)
        return sac.temperature_loss(trained.networks.log_temperature, sample.log_probability, -2.0)

    assert moved(lambda *arrays: target(*arrays).sum()) == set()
    assert moved(critic) == {"critics", "features"}  # so that an encoder may learn from the critics
    assert moved(policy) == {"policy", "critics", "features"}  # a step takes the gradient of the policy only
    assert moved(temperature) == {"temperature"}


def test_target_critics_start_as_copies():
    trained = sac.initial(FEATURES, ACTION, CONFIG, key=jax.random.key(1), precision="float32")
    for one, other in zip(*map(jax.tree.leaves, (trained.networks.critics, trained.target_critics)), strict=True):
        np.testing.assert_array_equal(one, other)
    first, second = (jax.tree.leaves(critic) for critic in trained.networks.critics)
    assert not np.array_equal(first[0], second[0])
    donating = jax.jit(sac.step, static_argnames="config", donate_argnames="trained")
    donating(trained, make_batch(), jax.random.key(0), CONFIG)  # fails if two leaves are one array


def test_bfloat16_step_is_close_to_float32():
    high, batch, key = make_trained(), make_batch(), jax.random.key(3)
    low = jax.tree.unflatten(jax.tree.structure(make_trained("bfloat16")), jax.tree.leaves(high))
    (_, one), (new, other) = (compiled_step(trained, batch, key, CONFIG) for trained in (high, low))
    np.testing.assert_allclose(other.critic_loss, one.critic_loss, rtol=0.05)
    assert not np.array_equal(other.critic_loss, one.critic_loss)  # the low precision was really used
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(new))


# Probe tasks


class Solved(NamedTuple):
    """What a probe task has made of its agent."""

    trained: sac.Trained
    metrics: sac.StepMetrics

    def q(self, features: list[float], actions: list[float]) -> np.ndarray:
        """Both critics' Q: (2, rows)."""
        critics = self.trained.networks.critics
        return np.asarray(sac.predict_q(critics, jnp.array(features)[:, None], jnp.array(actions)[:, None]))

    def mode(self, features: list[float]) -> np.ndarray:
        return np.asarray(self.trained.networks.policy.mode(jnp.array(features)[:, None]))[:, 0]


PROBE = SacConfig(
    hidden_sizes=(32, 32),
    discount=0.8,
    initial_temperature=0.2,
    target_update_rate=0.05,
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=0.0,
)


def solve(
    transitions: list[tuple[float, float, bool]],
    config: SacConfig = PROBE,
    reward: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    steps: int = 1500,
) -> Solved:
    """Trains on all `transitions` (feature, next feature, terminated) at once.

    Each has 16 fresh uniform actions in every step. The rewards, functions of features and actions, are 1 by default.
    """
    table = jnp.array([list(map(float, row)) for row in transitions]).repeat(16, axis=0)
    features, following, terminated = table[:, :1], table[:, 1:2], table[:, 2] == 1

    def step(trained: sac.Trained, key: jax.Array) -> tuple[sac.Trained, sac.StepMetrics]:
        action_key, step_key = jax.random.split(key)
        actions = jax.random.uniform(action_key, (len(table), 1), minval=-1.0, maxval=1.0)
        rewards = jnp.ones(len(table)) if reward is None else reward(features[:, 0], actions[:, 0])
        return sac.step(trained, sac.Batch(features, actions, rewards, following, terminated), step_key, config)

    trained = sac.initial(1, 1, config, key=jax.random.key(0), precision="float32", initialisation="glorot")
    keys = jax.random.split(jax.random.key(1), steps)
    trained, metrics = jax.jit(lambda trained: jax.lax.scan(step, trained, keys))(trained)
    return Solved(trained, jax.tree.map(lambda values: np.asarray(values[-200:]).mean(), metrics))


def widest_entropy() -> float:
    """The highest entropy of tanh(N(0, σ²)), by quadrature; a little below log 2, that of the uniform distribution."""
    x = np.linspace(-12, 12, 4001)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    stds = np.linspace(0.3, 3, 200)[:, None]
    correction = (density * np.log(1 - np.tanh(stds * x) ** 2 + 1e-300)).sum(1)
    return float((0.5 * np.log(2 * np.pi * np.e * stds[:, 0] ** 2) + correction).max())


WIDEST = widest_entropy()
ALPHA, DISCOUNT = PROBE.initial_temperature, PROBE.discount
ACTIONS = [-0.9, 0.0, 0.9]


def near(values: np.ndarray, expected: float | list[float], tolerance: float) -> None:
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=tolerance)


def probe_one_step() -> None:
    """Reward 1 and the end, whatever is done: Q = 1."""
    near(solve([(0.5, 0.0, True)]).q([0.5] * 3, ACTIONS), 1.0, 0.02)


def probe_endless() -> None:
    """Reward 1 for ever: Q = 1 + γ (Q + α H), with the widest policy's entropy H."""
    expected = (1 + DISCOUNT * ALPHA * WIDEST) / (1 - DISCOUNT)
    near(solve([(0.5, 0.5, False)]).q([0.5] * 3, ACTIONS), expected, 0.2)


def probe_two_steps() -> None:
    """Reward 0.5, then 2, then the end: Q = 0.5 + γ (2 + α H) at first, 2 then."""
    solved = solve([(0.0, 1.0, False), (1.0, 0.0, True)], reward=lambda features, _: 0.5 + 1.5 * features)
    near(solved.q([0.0] * 3, ACTIONS), 0.5 + DISCOUNT * (2 + ALPHA * WIDEST), 0.04)
    near(solved.q([1.0] * 3, ACTIONS), 2.0, 0.03)


def probe_observation() -> None:
    """The reward is what is seen."""
    places = [-1.0, 0.0, 1.0]
    solved = solve([(place, 0.0, True) for place in places], reward=lambda features, _: features)
    near(solved.q(places, [0.3] * 3), places, 0.03)


def probe_action() -> None:
    """Reward -(a - a*)², with a* half of what is seen: the mode becomes a*."""
    places = [-1.0, 0.0, 1.0]
    solved = solve(
        [(place, 0.0, True) for place in places],
        dataclasses.replace(PROBE, initial_temperature=0.01),
        reward=lambda features, actions: -((actions - features / 2) ** 2),
    )
    near(solved.mode(places), [-0.5, 0.0, 0.5], 0.06)


def probe_truncated() -> None:
    """Two states of reward 1 before one of reward 1: an episode that ends is worth 1, one that is cut is worth more.

    Truncation is no field of a batch: the transition is one that has not terminated.
    """
    solved = solve([(-1.0, 0.0, True), (1.0, 0.0, False), (0.0, 0.0, True)])
    near(solved.q([-1.0] * 3, ACTIONS), 1.0, 0.03)
    near(solved.q([1.0] * 3, ACTIONS), 1 + DISCOUNT * (1 + ALPHA * WIDEST), 0.04)


STEEPNESS = 4.0


def probe_temperature() -> None:
    """Reward -k a²: the entropy becomes its target, -1, and the temperature 2k times a variance: that of entropy -1."""
    solved = solve(
        [(0.0, 0.0, True)],
        dataclasses.replace(PROBE, temperature_learning_rate=1e-3),
        reward=lambda _, actions: -STEEPNESS * actions**2,
        steps=5000,
    )
    near(solved.metrics.entropy, -1.0, 0.05)
    variance = np.exp(2 * -1.0) / (2 * np.pi * np.e)
    np.testing.assert_allclose(solved.metrics.temperature, 2 * STEEPNESS * variance, rtol=0.1)


PROBES = (
    probe_one_step,
    probe_endless,
    probe_two_steps,
    probe_observation,
    probe_action,
    probe_truncated,
    probe_temperature,
)


@pytest.mark.parametrize("probe", PROBES)
def test_probe(probe):
    probe()


def test_the_widest_entropy_is_near_that_of_the_uniform_distribution():
    assert np.log(2) - 0.02 < WIDEST < np.log(2)


# Sabotage: each of these makes a probe fail.

bellman_target, soft_target, policy_loss, temperature_loss, predict_q = (
    sac.bellman_target,
    sac.soft_target,
    sac.policy_loss,
    sac.temperature_loss,
    sac.predict_q,
)
SABOTAGES = {
    "no reward": ("bellman_target", lambda r, end, v, g: bellman_target(jnp.zeros_like(r), end, v, g), probe_one_step),
    "past termination": ("bellman_target", lambda r, end, v, g: r + g * v, probe_truncated),
    "everything terminates": ("bellman_target", lambda r, end, v, g: r, probe_truncated),
    "no discount": ("bellman_target", lambda r, end, v, g: bellman_target(r, end, v, 1.0), probe_two_steps),
    "entropy costs": (
        "soft_target",
        lambda policy, targets, alpha, *rest: soft_target(policy, targets, -alpha, *rest),
        probe_endless,
    ),
    "no entropy": (
        "soft_target",
        lambda policy, targets, alpha, *rest: soft_target(policy, targets, 0 * alpha, *rest),
        probe_two_steps,
    ),
    "targets stand still": ("follow", lambda targets, followed, rate: targets, probe_endless),
    "blind": (
        "predict_q",
        lambda critics, features, actions: predict_q(critics, jnp.zeros_like(features), actions),
        probe_observation,
    ),
    "policy shuns reward": (
        "policy_loss",
        lambda *arguments: (lambda loss, sample: (-loss, sample))(*policy_loss(*arguments)),
        probe_action,
    ),
    "temperature runs away": (
        "temperature_loss",
        lambda *arguments: -temperature_loss(*arguments),
        probe_temperature,
    ),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotaged_step_fails_its_probe(name, monkeypatch):
    place, broken, probe = SABOTAGES[name]
    monkeypatch.setattr(sac, place, broken)
    with pytest.raises(AssertionError):
        probe()
