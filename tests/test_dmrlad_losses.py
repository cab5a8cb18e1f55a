"""The step of policy and quantile critics by hand: targets, losses, Adam, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cemrl_by_hand import SIZES, noisy
from test_cemrl_losses import make_policy_batch, step_policy
from test_quantile import critic_by_hand, huber_by_hand

from nacre.agents.cemrl.losses import Trained, policy_step
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.agents.dmrlad.learner import DmrladLearner
from nacre.rl import quantile
from nacre.rl.policy import TanhGaussianPolicy
from nacre.rl.quantile import draw_fractions

FIELDS: dict[str, Any] = {
    "latent_size": 2,
    "classes": 3,
    "window": 4,
    "width_factor": 0.7,
    "hidden_size": 5,
    "hidden_layers": 2,
    "quantiles": 3,
    "embedding_size": 4,
    "target_entropy_factor": 0.5,
    "critic_learning_rate": 2e-3,
}


def make_trained(learner: DmrladLearner) -> Trained:
    """Networks and targets that differ."""
    trained = jax.jit(learner.initial_state)(jax.random.key(0)).trained
    critics, targets, target_policy = (
        noisy(tree, jax.random.key(number), 0.2)
        for number, tree in enumerate(
            (trained.networks.control.critics, trained.target_critics, trained.target_policy), 1
        )
    )
    control = eqx.tree_at(lambda control: control.critics, trained.networks.control, critics)
    networks = trained.networks._replace(control=control)
    return trained._replace(networks=networks, target_critics=targets, target_policy=target_policy)


def test_a_step_by_hand() -> None:
    """Next actions are the target policy's; critics step first, the policy against the stepped ones; targets follow."""
    config = DmrladConfig(**FIELDS)
    learner = DmrladLearner(config, SIZES)
    trained, batch, key = make_trained(learner), make_policy_batch(config), jax.random.key(2)
    new, metrics = step_policy(trained, config, batch, key, learner.critics)
    rows, n = batch.sac, len(batch.sac.rewards)
    old = trained.networks.control
    alpha = float(metrics["Temperature"])
    np.testing.assert_allclose(alpha, np.exp(float(new.networks.control.log_temperature)), rtol=1e-6)

    # the same keys as the step's
    action_key, next_key = jax.random.split(key)
    assert trained.target_policy is not None
    following = trained.target_policy.sample(rows.next_features, next_key)
    target_fractions = draw_fractions(n, 3, jax.random.fold_in(next_key, 1))
    fractions = draw_fractions(n, 3, jax.random.fold_in(key, 2))

    inputs = np.concatenate([rows.next_features, following.action], 1).astype(np.float64)
    at = np.asarray(target_fractions.midpoints, np.float64)
    lower = np.minimum(*(critic_by_hand(critic, inputs, at) for critic in trained.target_critics))
    log_probability = np.asarray(following.log_probability, np.float64)[:, None]
    targets = np.asarray(rows.rewards, np.float64)[:, None] + 0.99 * (lower - alpha * log_probability)
    np.testing.assert_allclose(metrics["Z Targets"].mean, targets.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["Z Targets"].maximum, targets.max(), rtol=1e-4)

    inputs = np.concatenate([rows.features, rows.actions], 1).astype(np.float64)
    asked, widths = (np.asarray(part, np.float64) for part in (fractions.midpoints, target_fractions.widths))

    def loss_of(critic: Any) -> float:
        return huber_by_hand(critic_by_hand(critic, inputs, asked), asked, targets, widths)

    for number, critic in enumerate(old.critics):
        np.testing.assert_allclose(metrics[f"ZF{number + 1} Loss"], loss_of(critic), rtol=1e-4)

    # Adam's first step is the learning rate against the sign of the gradient, here from differences in float64
    stepped = new.networks.control.critics
    for number, (critic, moved) in enumerate(zip(old.critics, stepped, strict=True)):
        for where in (
            lambda critic: critic.base[0].weight,
            lambda critic: critic.embedding.bias,
            lambda critic: critic.merge.scale,
            lambda critic: critic.weight,
        ):
            before = np.asarray(where(critic), np.float64)
            place = np.unravel_index(number, before.shape)
            ends = []
            for step in (1e-5, -1e-5):
                changed = before.copy()
                changed[place] += step
                ends.append(loss_of(eqx.tree_at(where, critic, changed)))
            gradient = (ends[0] - ends[1]) / 2e-5
            assert abs(gradient) > 1e-6
            move = float(np.asarray(where(moved), np.float64)[place] - before[place])
            np.testing.assert_allclose(move, -2e-3 * np.sign(gradient), rtol=0.02)

    sample = old.policy.sample(rows.features, action_key)
    fractions = draw_fractions(n, 3, jax.random.fold_in(action_key, 1))
    inputs = np.concatenate([rows.features, sample.action], 1).astype(np.float64)
    asked, widths = (np.asarray(part, np.float64) for part in (fractions.midpoints, fractions.widths))
    values = np.minimum(*((critic_by_hand(critic, inputs, asked) * widths).sum(axis=1) for critic in stepped))
    loss = (alpha * np.asarray(sample.log_probability, np.float64) - values).mean()
    np.testing.assert_allclose(metrics["Policy Loss"], loss, rtol=1e-4)

    for target, followed, before in (
        (new.target_critics, stepped, trained.target_critics),
        (new.target_policy, new.networks.control.policy, trained.target_policy),
    ):
        for leaf, now, then in zip(*map(jax.tree.leaves, (target, followed, before)), strict=True):
            np.testing.assert_allclose(leaf, 0.995 * then + 0.005 * now, rtol=1e-5, atol=1e-6)


def test_targets_at_first() -> None:
    """Copies of what they follow, or, as published, networks of their own; none without a target policy."""

    def first(**changes: Any) -> Trained:
        return jax.jit(DmrladLearner(DmrladConfig(**(FIELDS | changes)), SIZES).initial_state)(
            jax.random.key(0)
        ).trained

    def same(left: Any, right: Any) -> bool:
        return all(map(np.array_equal, jax.tree.leaves(left), jax.tree.leaves(right)))

    trained, published = first(), first(target_critics="published")
    assert same(trained.target_policy, trained.networks.control.policy)
    assert same(trained.target_critics, trained.networks.control.critics)
    assert not same(published.target_policy, published.networks.control.policy)
    assert not same(published.target_critics, published.networks.control.critics)
    plain = first(critics="expected", target_policy=False)
    assert plain.target_policy is None
    assert jnp.shape(plain.networks.control.critics[0].weights[-1]) == (5, 1)


def test_no_fractions_are_drawn_with_the_key_of_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions at which returns are predicted would otherwise be the noise of the next actions."""
    config = DmrladConfig(**FIELDS)
    learner = DmrladLearner(config, SIZES)

    def recording(function: Callable[..., Any], used: list[Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            used.append(tuple(jax.random.key_data(arguments[2]).tolist()))
            return function(*arguments)

        return call

    of_fractions, of_actions = [], []
    monkeypatch.setattr(quantile, "draw_fractions", recording(draw_fractions, of_fractions))
    monkeypatch.setattr(TanhGaussianPolicy, "sample", recording(TanhGaussianPolicy.sample, of_actions))
    policy_step(make_trained(learner), config, make_policy_batch(config), jax.random.key(2), learner.critics)
    assert len(of_fractions) == len(set(of_fractions)) == 3
    assert len(set(of_actions)) == 2  # the temperature sees what the policy's loss sees
    assert not set(of_fractions) & set(of_actions)
