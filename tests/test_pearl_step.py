"""One gradient step of PEARL against a step computed by hand in NumPy float64 (spec pearl 1.2, 1.4, 1.5)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import Layers

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.losses import (
    Batch,
    Trained,
    critic_and_encoder_loss,
    gradient_step,
    initial_optimisers,
    policy_inputs,
    policy_loss,
    value_loss,
)
from nacre.agents.pearl.networks import Context, initial_networks
from nacre.metrics import PerTask
from nacre.tasks.family import Sizes
from nacre.types import Transition

OBSERVATION, ACTION, TASKS, BATCH, CONTEXT = 3, 2, 2, 5, 4
SIZES = Sizes(OBSERVATION, ACTION, horizon=9, task=1)
CONFIG = PearlConfig(
    latent_size=2,
    hidden_size=6,
    encoder_hidden_size=7,
    meta_batch_size=TASKS,
    batch_size=BATCH,
    context_size=CONTEXT,
    kl_weight=0.3,
    policy_learning_rate=1e-3,
    critic_learning_rate=2e-3,
    value_learning_rate=3e-3,
    encoder_learning_rate=4e-3,
)


def make_batch(config: PearlConfig) -> Batch:
    generator = np.random.default_rng(5)

    def transitions(size: int) -> Transition:
        def normal(*shape: int):
            return jnp.asarray(generator.normal(size=(TASKS, size, *shape)), jnp.float32)

        return Transition(
            observation=normal(OBSERVATION),
            action=jnp.tanh(normal(ACTION)),
            reward=normal(),
            sparse_reward=normal(),
            next_observation=normal(OBSERVATION),
            terminated=jnp.asarray(generator.random((TASKS, size)) < 0.4),
        )

    return Batch(jnp.arange(TASKS), transitions(BATCH), Context(transitions(CONTEXT)))


def with_context(batch: Batch, **changes: jax.Array) -> Batch:
    return batch._replace(context=batch.context._replace(transitions=batch.context.transitions._replace(**changes)))


def make_trained(config: PearlConfig) -> Trained:
    """Networks whose output layers are not almost zero, so that every path carries a gradient."""
    networks = initial_networks(config, SIZES, key=jax.random.key(1), precision="float32")
    leaves, structure = jax.tree.flatten(networks)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    networks = jax.tree.unflatten(structure, leaves)
    target_value = jax.tree.map(lambda leaf: 0.9 * leaf, networks.value)
    return Trained(networks, target_value, initial_optimisers(networks))


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step_by_hand(trained: Trained, config: PearlConfig, batch: Batch, key):
    """The whole of spec 1.4, with the same random numbers and nothing else shared with the library."""
    latent_key, action_key = jax.random.split(key)
    latent_noise = np.asarray(jax.random.normal(latent_key, (TASKS, config.latent_size)), np.float64)
    rows = TASKS * BATCH
    action_noise = np.asarray(jax.random.normal(action_key, (rows, ACTION)), np.float64)
    networks = trained.networks
    encoder, value, target_value = Layers(networks.encoder), Layers(networks.value), Layers(trained.target_value)
    policy, critics = Layers(networks.policy.network), [Layers(critic) for critic in networks.critics]
    rl, context = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part) for part in (batch.rl, batch.context.transitions)
    )

    # posterior
    encoder_input = np.concatenate([context.observation, context.action, context.reward[..., None]], -1)
    encoded = encoder.forward(encoder_input.reshape(TASKS * CONTEXT, -1)).reshape(TASKS, CONTEXT, -1)
    m, rho = encoded[..., : config.latent_size], encoded[..., config.latent_size :]
    s = np.maximum(softplus(rho), 1e-7)
    variance = 1 / (1 / s).sum(1)
    mean = variance * (m / s).sum(1)
    z = mean + np.sqrt(variance) * latent_noise
    repeated_z = np.repeat(z, BATCH, axis=0)
    observation, following = rl.observation.reshape(rows, -1), rl.next_observation.reshape(rows, -1)
    action = rl.action.reshape(rows, -1)

    # critics and encoder
    bootstrap = target_value.forward(np.concatenate([following, repeated_z], -1))[:, 0]
    target = config.reward_scale * rl.reward.ravel() + (1 - rl.terminated.ravel()) * config.discount * bootstrap
    z_gradient = np.zeros_like(z)
    critic_input = np.concatenate([observation, repeated_z, action], -1)
    for critic in critics:
        error = critic.forward(critic_input)[:, 0] - target
        weights, biases, input_gradient = critic.backward((2 * error / rows)[:, None])
        latent_columns = slice(OBSERVATION, OBSERVATION + config.latent_size)
        z_gradient += input_gradient[:, latent_columns].reshape(TASKS, BATCH, -1).sum(1)
        critic.adam_first_step(weights, biases, config.critic_learning_rate)
    mean_gradient = z_gradient + config.kl_weight * mean
    variance_gradient = z_gradient * latent_noise / (2 * np.sqrt(variance))
    variance_gradient += config.kl_weight * 0.5 * (1 - 1 / variance)
    # mean = variance * sum(m / s) and variance = 1 / sum(1 / s)
    m_gradient = mean_gradient[:, None] * variance[:, None] / s
    s_gradient = variance_gradient[:, None] * variance[:, None] ** 2 / s**2
    s_gradient += mean_gradient[:, None] * variance[:, None] * (mean[:, None] - m) / s**2
    encoded_gradient = np.concatenate([m_gradient, s_gradient * sigmoid(rho)], -1)
    weights, biases, _ = encoder.backward(encoded_gradient.reshape(TASKS * CONTEXT, -1))
    encoder.adam_first_step(weights, biases, config.encoder_learning_rate)

    # value and policy, against the new critics
    policy_input = np.concatenate([observation, repeated_z], -1)
    output = policy.forward(policy_input)
    policy_mean, raw_log_std = output[:, :ACTION], output[:, ACTION:]
    log_std = np.clip(raw_log_std, -20, 2)
    std = np.exp(log_std)
    new_action = np.tanh(policy_mean + std * action_noise)
    log_probability = (
        -0.5 * action_noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - new_action**2 + 1e-6)
    ).sum(1)
    new_input = np.concatenate([policy_input, new_action], -1)
    q = np.stack([critic.forward(new_input)[:, 0] for critic in critics])
    q_minimum, chosen = q.min(0), q.argmin(0)
    action_gradient = np.zeros_like(new_action)
    for index, critic in enumerate(critics):
        _, _, input_gradient = critic.backward((np.where(chosen == index, -1.0, 0.0) / rows)[:, None])
        action_gradient += input_gradient[:, -ACTION:]
    tanh_slope = 1 - new_action**2
    pre_tanh_gradient = action_gradient * tanh_slope
    pre_tanh_gradient += 2 * new_action * tanh_slope / (tanh_slope + 1e-6) / rows
    mean_penalty_gradient = config.policy_mean_penalty * 2 * policy_mean / policy_mean.size
    log_std_gradient = pre_tanh_gradient * std * action_noise - 1 / rows
    log_std_gradient += config.policy_log_std_penalty * 2 * log_std / log_std.size
    log_std_gradient *= raw_log_std == log_std
    weights, biases, _ = policy.backward(
        np.concatenate([pre_tanh_gradient + mean_penalty_gradient, log_std_gradient], -1)
    )
    policy.adam_first_step(weights, biases, config.policy_learning_rate)

    value_error = value.forward(policy_input)[:, 0] - (q_minimum - log_probability)
    weights, biases, _ = value.backward((2 * value_error / rows)[:, None])
    value.adam_first_step(weights, biases, config.value_learning_rate)
    for ours, new in zip(target_value.weights + target_value.biases, value.weights + value.biases, strict=True):
        ours += config.target_update_rate * (new - ours)
    losses = {
        "VF Loss": (value_error**2).mean(),
        "Policy Loss": (log_probability - q_minimum).mean()
        + config.policy_mean_penalty * (policy_mean**2).mean()
        + config.policy_log_std_penalty * (log_std**2).mean(),
        "KL Divergence": TASKS * 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1),
    }
    return encoder, critics, value, target_value, policy, losses


compiled_step = jax.jit(gradient_step, static_argnums=1)


def test_gradient_step_agrees_with_a_step_by_hand():
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)
    encoder, critics, value, target_value, policy, losses = step_by_hand(trained, CONFIG, batch, key)
    new, metrics = compiled_step(trained, CONFIG, batch, key)
    encoder.assert_equals(new.networks.encoder)
    for ours, theirs in zip(critics, new.networks.critics, strict=True):
        ours.assert_equals(theirs)
    policy.assert_equals(new.networks.policy.network)
    value.assert_equals(new.networks.value)
    target_value.assert_equals(new.target_value)
    for name, expected in losses.items():
        found = metrics[name].values if isinstance(metrics[name], PerTask) else metrics[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_hand_step_would_notice_a_wrong_step():
    """The comparison is sensitive: each of these changes to the step makes it fail."""
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)
    encoder, critics, *_ = step_by_hand(trained, CONFIG, batch, key)
    new, _ = compiled_step(trained, dataclasses.replace(CONFIG, kl_weight=0.0), batch, key)
    with pytest.raises(AssertionError):
        encoder.assert_equals(new.networks.encoder)
    for change in ({"reward_scale": 1.0}, {"discount": 0.5}):
        new, _ = compiled_step(trained, dataclasses.replace(CONFIG, **change), batch, key)
        with pytest.raises(AssertionError):
            critics[0].assert_equals(new.networks.critics[0])


def gradient_norm(tree) -> float:
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


def test_encoder_learns_from_critics_and_kl_only():
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)
    networks = trained.networks

    def critic_part(encoder, config):
        return critic_and_encoder_loss((encoder, networks.critics), trained.target_value, config, batch, key)[0]

    without_kl = jax.grad(critic_part)(networks.encoder, dataclasses.replace(CONFIG, kl_weight=0.0))
    with_kl = jax.grad(critic_part)(networks.encoder, CONFIG)
    assert gradient_norm(without_kl) > 1e-3
    assert gradient_norm(jax.tree.map(jnp.subtract, with_kl, without_kl)) > 1e-3

    # The target sees z but gives the encoder nothing: with the critics' z cut off, no gradient is left.
    def target_only(encoder):
        _, auxiliary = critic_and_encoder_loss((encoder, networks.critics), trained.target_value, CONFIG, batch, key)
        return auxiliary.target.sum()

    assert gradient_norm(jax.grad(target_only)(networks.encoder)) == 0

    # A change of the policy or the value network alone leaves the encoder's step as it is.
    step, _ = compiled_step(trained, CONFIG, batch, key)
    changed = dataclasses.replace(
        networks,
        policy=jax.tree.map(lambda leaf: leaf * 1.5, networks.policy),
        value=jax.tree.map(lambda leaf: leaf * 1.5, networks.value),
    )
    other_step, _ = compiled_step(trained._replace(networks=changed), CONFIG, batch, key)
    for one, other in zip(*map(jax.tree.leaves, (step.networks.encoder, other_step.networks.encoder)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_value_and_policy_losses_move_only_their_own_network():
    trained, batch = make_trained(CONFIG), make_batch(CONFIG)
    networks = trained.networks
    inputs = policy_inputs(batch.rl.observation, jnp.ones((TASKS, CONFIG.latent_size)))

    def losses(networks):
        loss, (sample, q_minimum) = policy_loss(networks.policy, networks.critics, CONFIG, inputs, jax.random.key(0))
        return value_loss(networks.value, inputs, q_minimum, sample)[0], loss

    gradient = jax.grad(lambda networks: losses(networks)[0])(networks)
    assert gradient_norm(gradient.value) > 0
    assert gradient_norm((gradient.policy, gradient.critics, gradient.encoder)) == 0


def test_kl_is_summed_over_tasks():
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)

    def loss(weight):
        config = dataclasses.replace(CONFIG, kl_weight=weight)
        pair = (trained.networks.encoder, trained.networks.critics)
        return critic_and_encoder_loss(pair, trained.target_value, config, batch, key)

    (without, _), (weighted, auxiliary) = loss(0.0), loss(1.0)
    np.testing.assert_allclose(weighted - without, auxiliary.kl.sum(), rtol=1e-5)
    assert auxiliary.kl.shape == (TASKS,)


def test_only_termination_stops_bootstrapping():
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)
    pair = (trained.networks.encoder, trained.networks.critics)

    def target(terminated: bool):
        changed = batch._replace(rl=batch.rl._replace(terminated=jnp.full((TASKS, BATCH), terminated)))
        return critic_and_encoder_loss(pair, trained.target_value, CONFIG, changed, key)[1].target

    np.testing.assert_allclose(target(True), CONFIG.reward_scale * batch.rl.reward.ravel(), rtol=1e-6)
    assert (target(False) != target(True)).all()


def test_sparse_reward_reaches_the_context_and_not_the_rl_losses():
    config = dataclasses.replace(CONFIG, sparse_reward_in_context=True)
    trained, batch, key = make_trained(config), make_batch(config), jax.random.key(3)
    pair = (trained.networks.encoder, trained.networks.critics)

    def auxiliary(batch):
        return critic_and_encoder_loss(pair, trained.target_value, config, batch, key)[1]

    before = auxiliary(batch)
    other_sparse = batch._replace(rl=batch.rl._replace(sparse_reward=batch.rl.sparse_reward + 1))
    np.testing.assert_array_equal(auxiliary(other_sparse).target, before.target)
    other_dense = with_context(batch, reward=batch.context.transitions.reward + 1)
    np.testing.assert_array_equal(auxiliary(other_dense).mean, before.mean)
    other_context = with_context(batch, sparse_reward=batch.context.transitions.sparse_reward + 1)
    assert (auxiliary(other_context).mean != before.mean).all()


def test_next_observation_in_context():
    config = dataclasses.replace(CONFIG, next_observation_in_context=True)
    trained, batch, key = make_trained(config), make_batch(config), jax.random.key(3)
    pair = (trained.networks.encoder, trained.networks.critics)
    assert trained.networks.encoder.weights[0].shape[0] == 2 * OBSERVATION + ACTION + 1

    def mean(batch):
        return critic_and_encoder_loss(pair, trained.target_value, config, batch, key)[1].mean

    changed = with_context(batch, next_observation=batch.context.transitions.next_observation + 1)
    assert (mean(changed) != mean(batch)).all()


def test_deterministic_context_is_the_mean_and_has_no_kl():
    config = dataclasses.replace(CONFIG, probabilistic_context=False)
    trained, batch, key = make_trained(config), make_batch(config), jax.random.key(3)
    pair = (trained.networks.encoder, trained.networks.critics)
    _, auxiliary = critic_and_encoder_loss(pair, trained.target_value, config, batch, key)
    context = batch.context.transitions
    rows = np.concatenate([context.observation, context.action, context.reward[..., None]], -1).astype(np.float64)
    expected = Layers(trained.networks.encoder).forward(rows.reshape(TASKS * CONTEXT, -1)).reshape(TASKS, CONTEXT, -1)
    np.testing.assert_allclose(auxiliary.latent, expected.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(auxiliary.kl, 0)
    new, _ = compiled_step(trained, config, batch, key)
    assert gradient_norm(jax.tree.map(jnp.subtract, new.networks.encoder, trained.networks.encoder)) > 0


def test_bfloat16_step_is_close_to_float32():
    trained, batch, key = make_trained(CONFIG), make_batch(CONFIG), jax.random.key(3)
    structure = jax.tree.structure(initial_networks(CONFIG, SIZES, key=jax.random.key(0), precision="bfloat16"))
    low_networks = jax.tree.unflatten(structure, jax.tree.leaves(trained.networks))
    low = Trained(low_networks, low_networks.value, initial_optimisers(low_networks))
    high = trained._replace(target_value=trained.networks.value)
    (_, one), (_, other) = compiled_step(high, CONFIG, batch, key), compiled_step(low, CONFIG, batch, key)
    np.testing.assert_allclose(other["QF Loss"].values, one["QF Loss"].values, rtol=0.03)
    assert not np.array_equal(other["QF Loss"].values, one["QF Loss"].values)  # the low precision was really used
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(low))
