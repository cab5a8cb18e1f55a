"""CEMRL's losses by hand: the ELBO, a whole gradient step, what follows a look at the validation loss, and the step of
policy and critics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cemrl_by_hand import SIZES, EncoderByHand, Layers, make_config, make_encoder, make_windows, noisy

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.learner import CemrlLearner
from nacre.agents.cemrl.losses import (
    Bound,
    EncoderBatch,
    LossWeights,
    PolicyBatch,
    Trained,
    Windows,
    encoder_step,
    inferred_losses,
    loss_weights,
    negative_elbo,
    policy_step,
)
from nacre.agents.cemrl.networks import Decoder, initial_decoder
from nacre.rl import sac

N = 10
step_encoder = jax.jit(encoder_step, static_argnums=(1, 2))
step_policy = jax.jit(policy_step, static_argnums=(1, 4))
losses_of = jax.jit(inferred_losses, static_argnums=1)
WEIGHTS = LossWeights(jnp.float32(0.3), jnp.float32(0.9))


def make_decoder(config: CemrlConfig) -> Decoder:
    return noisy(initial_decoder(config, SIZES, key=jax.random.key(5), precision="float32"), jax.random.key(6))


def elbo_by_hand(
    encoder: Any, decoder: Decoder, config: CemrlConfig, windows: Windows, noise: np.ndarray
) -> dict[str, float]:
    """The negative ELBO window by window, class by class."""
    hand, state_net, reward_net = EncoderByHand(encoder, config), Layers(decoder.state), Layers(decoder.reward)
    explained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), windows.explained)
    total, parts = 0.0, []
    for n in range(len(noise)):
        rows, mask = np.asarray(windows.rows[n], np.float64), np.asarray(windows.mask[n])
        probabilities, mean, deviation = hand.posterior(rows, mask)
        target = explained.next_observation[n] - (explained.observation[n] if config.state_difference else 0)
        state_loss, reward_loss = np.zeros(config.classes), np.zeros(config.classes)
        for k in range(config.classes):
            z = mean[k] + deviation[k] * noise[n, k]
            inputs = np.concatenate([explained.observation[n], explained.action[n], z])[None]
            state = state_net.forward(inputs)[0]
            state_loss[k] = ((state - target[: len(state)]) ** 2).sum()
            reward_loss[k] = (reward_net.forward(inputs)[0, 0] - explained.reward[n]) ** 2
        nll = float(WEIGHTS.state) * state_loss + float(WEIGHTS.reward) * reward_loss
        positions = [(probabilities, mean, deviation)]
        if config.encoder == "individual-y":
            features = [hand.shared.forward(row[None])[0] for row, shown in zip(rows, mask, strict=True) if shown]
            positions = []
            for feature in features:
                gaussians = [hand.gaussian(feature, k) for k in range(config.classes)]
                positions.append(
                    (
                        hand.classes(feature),
                        np.array([mean for mean, _ in gaussians]),
                        np.array([hand.deviation(spread) for _, spread in gaussians]),
                    )
                )
        for q, mu, sigma in positions:
            prior_mean, prior_deviation = hand.prior_mean, hand.prior_deviation
            kl = np.log(prior_deviation / sigma) + (sigma**2 + (mu - prior_mean) ** 2) / (2 * prior_deviation**2) - 0.5
            kl = kl.sum(axis=1)
            if config.true_classes:
                truth = int(windows.kinds[n])
                class_kl = -np.log(q[truth])
                q = np.eye(config.classes)[truth]
            else:
                class_kl = (q * np.log(q * config.classes)).sum()
            total += (q * (nll + config.latent_kl_weight * kl)).sum() + config.class_kl_weight * class_kl
            parts.append([(q * state_loss).sum(), (q * reward_loss).sum(), (q * kl).sum(), class_kl])
    return {"loss": total} | dict(zip(Bound._fields, np.mean(parts, axis=0).tolist(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 1},
        {"classes": 3},
        {"classes": 3, "prior": "learned", "state_coordinates": 2, "state_difference": True},
        {"classes": 3, "true_classes": True},
        {"encoder": "trajectory"},
        {"encoder": "individual-y"},
        {"encoder": "individual-y", "true_classes": True, "gaussian_product": "published"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_elbo(changes: dict[str, Any]) -> None:
    config = make_config(latent_kl_weight=0.2, class_kl_weight=0.3, **changes)
    encoder, decoder, windows = make_encoder(config), make_decoder(config), make_windows(N, config)
    key = jax.random.key(7)
    noise = np.asarray(jax.random.normal(key, (N, config.classes, config.latent_size)), np.float64)
    loss, bound = jax.jit(negative_elbo, static_argnums=1)((encoder, decoder), config, windows, WEIGHTS, None, key)
    expected = elbo_by_hand(encoder, decoder, config, windows, noise)
    for name, value in {"loss": loss, **bound._asdict()}.items():
        np.testing.assert_allclose(value, expected[name], rtol=5e-4, err_msg=name)


def make_trained(config: CemrlConfig) -> Trained:
    trained = jax.jit(CemrlLearner(config, SIZES).initial_state)(jax.random.key(0)).trained
    networks = trained.networks
    networks = networks._replace(encoder=make_encoder(config), decoder=make_decoder(config))
    return trained._replace(networks=networks, weights=WEIGHTS)


def test_a_gradient_step() -> None:
    """On a network whose gradient can be written down: one class, no divergence, a window of one transition and a
    deviation of almost nothing. Adam moves encoder and decoder against it."""
    config = make_config(
        classes=1,
        window=1,
        latent_kl_weight=0.0,
        class_kl_weight=0.0,
        encoder_learning_rate=1e-3,
        decoder_learning_rate=2e-3,
    )
    trained = make_trained(config)
    encoder = trained.networks.encoder
    # softplus(-60) is less than the smallest spread: z is the mean, and no gradient reaches the other half of the head
    head = encoder.trunk.gaussian_heads
    biases = (jnp.asarray([0.3, -0.2, -60.0, -60.0]),)
    encoder = jax.tree.map(lambda leaf: leaf, encoder)
    object.__setattr__(encoder.trunk.gaussian_heads, "biases", biases)
    object.__setattr__(encoder.trunk.gaussian_heads, "weights", (head.weights[0].at[:, 2:].set(0.0),))
    trained = trained._replace(networks=trained.networks._replace(encoder=encoder))
    windows = make_windows(6, config)._replace(mask=jnp.ones((6, 1), bool))
    key = jax.random.key(3)
    new, metrics = step_encoder(trained, config, SIZES, EncoderBatch(windows, windows), key)

    shared, heads = Layers(encoder.trunk.shared), Layers(encoder.trunk.gaussian_heads)
    state_net, reward_net = Layers(trained.networks.decoder.state), Layers(trained.networks.decoder.reward)
    explained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), windows.explained)
    noise = np.asarray(jax.random.normal(key, (6, 1, 2)), np.float64)[:, 0]
    output = heads.forward(shared.forward(np.asarray(windows.rows[:, 0], np.float64)))
    z = output[:, :2] + np.sqrt(1e-7) * noise
    inputs = np.concatenate([explained.observation, explained.action, z], axis=1)
    state_error = state_net.forward(inputs) - explained.next_observation
    reward_error = reward_net.forward(inputs)[:, 0] - explained.reward
    weights = tuple(map(float, WEIGHTS))
    np.testing.assert_allclose(
        metrics["Encoder Loss"],
        (weights[0] * (state_error**2).sum(1) + weights[1] * reward_error**2).mean(),
        rtol=1e-4,
    )
    *state_step, to_state = state_net.backward(2 * weights[0] * state_error)
    *reward_step, to_reward = reward_net.backward(2 * weights[1] * reward_error[:, None])
    to_latent = np.concatenate([(to_state + to_reward)[:, -2:], np.zeros((6, 2))], axis=1)
    *head_step, to_features = heads.backward(to_latent)
    *shared_step, _ = shared.backward(to_features)
    for layers, step, rate, found in (
        (state_net, state_step, 2e-3, new.networks.decoder.state),
        (reward_net, reward_step, 2e-3, new.networks.decoder.reward),
        (heads, head_step, 1e-3, new.networks.encoder.trunk.gaussian_heads),
        (shared, shared_step, 1e-3, new.networks.encoder.trunk.shared),
    ):
        weight_steps, bias_steps = step
        layers.adam_first_step(weight_steps, bias_steps, rate)
        layers.assert_equals(found)
    # the class head has nothing to learn, and a fixed prior stays
    np.testing.assert_array_equal(new.networks.encoder.prior.mean, encoder.prior.mean)
    np.testing.assert_array_equal(new.networks.encoder.trunk.class_head.weights[0], encoder.trunk.class_head.weights[0])


@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_only_a_learned_prior_moves(prior: Any) -> None:
    config = make_config(prior=prior)
    trained, windows = make_trained(config), make_windows(N, config)
    new, _ = step_encoder(trained, config, SIZES, EncoderBatch(windows, windows), jax.random.key(0))
    moved = not np.array_equal(new.networks.encoder.prior.mean, trained.networks.encoder.prior.mean)
    assert moved == (prior == "learned")


def test_looks_at_the_validation_loss() -> None:
    """After the optimiser's step: validation first, then the weights from the training batch, which count from the next
    step on. The best weights are those of the least loss so far; the phase ends at a look, `patience` steps later."""
    config = make_config(evaluate_every=2, patience=3)
    trained, train, validation = make_trained(config), make_windows(N, config), make_windows(N, config, seed=9)
    batch = EncoderBatch(train, validation)
    new, metrics = step_encoder(trained, config, SIZES, batch, jax.random.key(0))
    assert metrics["State Loss Weight"] == WEIGHTS.state
    current = (new.networks.encoder, new.networks.decoder)
    np.testing.assert_allclose(new.fit.best_loss, sum(losses_of(current, config, validation, None)), rtol=1e-5)
    expected = loss_weights(3, *losses_of(current, config, train, None))
    np.testing.assert_allclose(new.weights, expected, rtol=1e-5)
    assert (int(new.fit.step), int(new.fit.best_step), bool(new.fit.ended)) == (1, 0, False)
    for best, now in zip(jax.tree.leaves(new.best), jax.tree.leaves(current), strict=True):
        np.testing.assert_array_equal(best, now)

    # nothing is ever better again
    best = new.best
    new = new._replace(fit=new.fit._replace(best_loss=jnp.float32(0.0)))
    ended = []
    for number in range(1, 6):
        new, _ = step_encoder(new, config, SIZES, batch, jax.random.key(number))
        ended.append(bool(new.fit.ended))
    assert ended == [False, False, False, True, True]  # step 4 is the first look more than 3 steps after step 0
    for kept, then in zip(jax.tree.leaves(new.best), jax.tree.leaves(best), strict=True):
        np.testing.assert_array_equal(kept, then)


def test_loss_weights() -> None:
    state, reward = loss_weights(4, jnp.float32(2.0), jnp.float32(1.0))
    np.testing.assert_allclose([state, reward], [2 / 6, 4 / 6], rtol=1e-6)
    trained = jax.jit(CemrlLearner(make_config(state_coordinates=2), SIZES).initial_state)(jax.random.key(0)).trained
    np.testing.assert_allclose(trained.weights, [1 / 3, 2 / 3], rtol=1e-6)


def make_policy_batch(config: CemrlConfig) -> PolicyBatch:
    generator = np.random.default_rng(4)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    latent = normal(N, config.latent_size)
    features = jnp.concatenate([normal(N, 3), latent], axis=1)
    actions = jnp.tanh(normal(N, 2))
    return PolicyBatch(sac.Batch(features, actions, normal(N), features + 0.1, jnp.zeros(N, bool)), latent)


def test_a_temperature_for_all_is_that_of_soft_actor_critic() -> None:
    config = make_config(hidden_size=5, hidden_layers=1, target_entropy_factor=0.5)
    trained, batch, key = make_trained(config), make_policy_batch(config), jax.random.key(2)
    # Not compiled: XLA may round two programs differently.
    new, metrics = policy_step(trained, config, batch, key)
    control = sac.Trained(trained.networks.control, trained.target_critics, trained.optimisers.control)
    expected, reported = sac.step(control, batch.sac, key, replace(config.sac, target_entropy=-1.0))
    for ours, theirs in zip(jax.tree.leaves(new.networks.control), jax.tree.leaves(expected.networks), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert metrics["Temperature"] == reported.temperature
    for ours, theirs in zip(
        jax.tree.leaves(new.networks.encoder), jax.tree.leaves(trained.networks.encoder), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_temperature_of_z() -> None:
    """Each row has its own, as it was before its step; the step goes against the mean over rows."""
    config = make_config(hidden_size=5, hidden_layers=1, latent_temperature=True)
    trained, batch, key = make_trained(config), make_policy_batch(config), jax.random.key(2)
    temperature = noisy(trained.networks.temperature, jax.random.key(8))
    trained = trained._replace(networks=trained.networks._replace(temperature=temperature))
    new, metrics = step_policy(trained, config, batch, key)
    layers = Layers(temperature)
    log_alpha = layers.forward(np.asarray(batch.latent, np.float64))[:, 0]
    np.testing.assert_allclose(metrics["Temperature"], np.exp(log_alpha).mean(), rtol=1e-5)
    sample = trained.networks.control.policy.sample(batch.sac.features, jax.random.split(key)[0])
    excess = np.asarray(sample.log_probability, np.float64) - 2.0
    np.testing.assert_allclose(metrics["Temperature Loss"], -(log_alpha * excess).mean(), rtol=1e-4)
    weights, biases, _ = layers.backward(-excess[:, None] / N)
    layers.adam_first_step(weights, biases, config.temperature_learning_rate)
    layers.assert_equals(new.networks.temperature)
    control = sac.Trained(trained.networks.control, trained.target_critics, trained.optimisers.control)
    alpha = jnp.asarray(np.exp(log_alpha), jnp.float32)
    expected, _ = jax.jit(sac.step_without_temperature, static_argnums=4)(control, alpha, batch.sac, key, config.sac)
    for ours, theirs in zip(jax.tree.leaves(new.networks.control), jax.tree.leaves(expected.networks), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_temperature_of_z_begins_as_it_is_told() -> None:
    config = make_config(latent_temperature=True, initial_temperature=0.05)
    temperature = make_trained(config).networks.temperature
    assert temperature is not None
    latent = jax.random.normal(jax.random.key(0), (N, config.latent_size))
    np.testing.assert_allclose(jnp.exp(temperature(latent)), 0.05, rtol=0.2)


def test_target_critics() -> None:
    """Copies at first, or, as published, networks of their own."""

    def same(trained: Trained) -> bool:
        pairs = zip(
            jax.tree.leaves(trained.networks.control.critics), jax.tree.leaves(trained.target_critics), strict=True
        )
        return all(np.array_equal(*pair) for pair in pairs)

    assert same(make_trained(make_config()))
    assert not same(make_trained(make_config(target_critics="published")))
