"""Quantile critics and their loss, against NumPy by hand and against distributions whose quantiles are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from nacre.nn.optimise import adam_state, adam_step
from nacre.rl import quantile, sac
from nacre.rl.policy import TanhGaussianPolicy
from nacre.rl.quantile import QuantileCritic, draw_fractions, expected_value, quantile_huber_loss


def huber_by_hand(predictions, midpoints, targets, widths) -> float:
    """One pair after another."""
    total = 0.0
    for row in range(len(predictions)):
        for theta, tau in zip(predictions[row], midpoints[row], strict=True):
            for y, p in zip(targets[row], widths[row], strict=True):
                indicator = 0.5 if theta == y else float(theta > y)
                error = abs(theta - y)
                huber = error**2 / 2 if error <= 1 else error - 0.5
                total += p * abs(tau - indicator) * huber
    return total / predictions.size


def random_quantiles() -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    predictions, targets = generator.normal(scale=2, size=(3, 4)), generator.normal(scale=2, size=(3, 5))
    midpoints = np.sort(generator.random((3, 4)), axis=1)
    widths = generator.dirichlet(np.ones(5), size=3)
    return tuple(array.astype(np.float32) for array in (predictions, midpoints, targets, widths))


def test_loss_by_hand():
    arrays = random_quantiles()
    np.testing.assert_allclose(quantile_huber_loss(*map(jnp.asarray, arrays)), huber_by_hand(*arrays), rtol=1e-5)
    # One prediction 0.5 above a target it is asked to be above in 3 of 4 cases, and one 2 below another.
    one = quantile_huber_loss(jnp.array([[1.5]]), jnp.array([[0.75]]), jnp.array([[1.0, 3.5]]), jnp.array([[0.4, 0.6]]))
    np.testing.assert_allclose(one, 0.4 * 0.25 * 0.125 + 0.6 * 0.75 * 1.5, rtol=1e-6)


def test_the_hand_loss_would_notice_a_wrong_loss():
    predictions, midpoints, targets, widths = arrays = random_quantiles()
    expected = huber_by_hand(*arrays)
    for wrong in (
        (predictions, 1 - midpoints, targets, widths),  # over- and underestimation exchanged
        (predictions, midpoints, targets, np.full_like(widths, 0.2)),  # widths ignored
        (targets[:, :4], midpoints, np.pad(predictions, ((0, 0), (0, 1))), widths),
    ):
        assert quantile_huber_loss(*map(jnp.asarray, wrong)) != pytest.approx(expected, rel=0.01)


def test_targets_carry_no_gradient():
    gradients = jax.grad(quantile_huber_loss, argnums=(0, 2))(*map(jnp.asarray, random_quantiles()))
    assert jnp.abs(gradients[0]).min() > 0
    np.testing.assert_array_equal(gradients[1], 0)


def test_fractions_are_a_partition():
    widths, midpoints = map(np.asarray, draw_fractions(1000, 16, jax.random.key(0)))
    np.testing.assert_allclose(widths.sum(axis=1), 1, rtol=1e-5)
    ends = widths.astype(np.float64).cumsum(axis=1)
    np.testing.assert_allclose(midpoints, (ends + np.pad(ends, ((0, 0), (1, 0)))[:, :-1]) / 2, atol=1e-6)
    assert 0.1 / (0.1 + 15 * 1.1) < widths.min() < widths.max() < 1.1 / (1.1 + 15 * 0.1)
    # Uniform numbers plus 0.1: their mean is 0.6 and their variance 1/12, and their sum hardly varies.
    np.testing.assert_allclose(widths.std() * 16, np.sqrt(1 / 12) / 0.6, rtol=0.05)


def test_expected_value():
    fractions = quantile.Fractions(jnp.array([[0.25, 0.75]]), jnp.array([[0.125, 0.625]]))
    np.testing.assert_allclose(expected_value(jnp.array([[4.0, 8.0]]), fractions), [7.0])


def critic_by_hand(critic: QuantileCritic, rows: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    def normalised(layer, inputs):
        weight, bias, scale, offset = (
            np.asarray(part, np.float64) for part in (layer.weight, layer.bias, layer.scale, layer.offset)
        )
        outputs = inputs @ weight + bias
        deviation = outputs - outputs.mean(-1, keepdims=True)
        return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-5) * scale + offset

    for layer in critic.base:
        rows = np.maximum(normalised(layer, rows), 0)
    answers = np.empty(fractions.shape)
    for column, fraction in enumerate(fractions.T):
        cosines = np.cos(np.pi * np.outer(fraction, np.arange(1, 1 + len(critic.embedding.weight))))
        embedded = 1 / (1 + np.exp(-normalised(critic.embedding, cosines)))
        merged = np.maximum(normalised(critic.merge, rows * embedded), 0)
        answers[:, column] = (merged @ np.asarray(critic.weight, np.float64) + np.asarray(critic.bias, np.float64))[
            :, 0
        ]
    return answers


def make_critic(seed: int = 1, precision="float32") -> QuantileCritic:
    critic = QuantileCritic(5, (8, 7, 6), 9, key=jax.random.key(seed), precision=precision)
    leaves, structure = jax.tree.flatten(critic)
    keys = jax.random.split(jax.random.key(10 + seed), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def test_critic_by_hand():
    generator = np.random.default_rng(3)
    rows, fractions = generator.normal(size=(4, 5)), generator.random((4, 3))
    inputs = jnp.asarray(rows, jnp.float32), jnp.asarray(fractions, jnp.float32)
    np.testing.assert_allclose(make_critic()(*inputs), critic_by_hand(make_critic(), rows, fractions), atol=1e-5)
    low = make_critic(precision="bfloat16")(*inputs)
    np.testing.assert_allclose(low, make_critic()(*inputs), atol=0.05)
    assert not np.array_equal(low, make_critic()(*inputs))  # the low precision was really used


def test_fresh_critic():
    """All linear layers start within 1/sqrt(fan in), and almost reach it."""
    critic = QuantileCritic(40, (50, 60, 70), 64, key=jax.random.key(0), precision="float32")
    layers = [(40, 50), (50, 60), (64, 60), (60, 70)]
    for layer, shape in zip([*critic.base, critic.embedding, critic.merge], layers, strict=True):
        assert layer.weight.shape == shape
        for part in (layer.weight, layer.bias):
            assert 0.9 < float(jnp.abs(part).max()) * shape[0] ** 0.5 <= 1
    assert 0.9 < float(jnp.abs(critic.weight).max()) * 70**0.5 <= 1
    assert critic.weight.shape == (70, 1)
    with pytest.raises(ValueError, match="at least two hidden layers"):
        QuantileCritic(3, (8,), 4, key=jax.random.key(0), precision="float32")


def test_target_by_hand():
    generator = np.random.default_rng(3)
    n, features, following = 6, generator.normal(size=(6, 3)), generator.normal(size=(6, 3))
    actions, rewards = np.tanh(generator.normal(size=(n, 2))), generator.normal(size=n)
    terminated = np.arange(n) % 3 == 0
    batch = sac.Batch(
        *(jnp.asarray(part, jnp.float32) for part in (features, actions, rewards, following)), jnp.asarray(terminated)
    )
    policy = TanhGaussianPolicy(3, 2, (8,), key=jax.random.key(0), precision="float32", output_bound=None)
    critics, fractions = (make_critic(1), make_critic(2)), draw_fractions(n, 4, jax.random.key(5))
    target = quantile.soft_quantile_target(policy, critics, jnp.array(0.3), batch, fractions, jax.random.key(7), 0.9)

    sample = policy.sample(batch.next_features, jax.random.key(7))
    inputs, midpoints = np.concatenate([following, sample.action], 1), np.asarray(fractions.midpoints)
    lower = np.minimum(*(critic_by_hand(critic, inputs, midpoints) for critic in critics))
    next_value = lower - 0.3 * np.asarray(sample.log_probability)[:, None]
    expected = rewards[:, None] + 0.9 * (1 - terminated)[:, None] * next_value
    np.testing.assert_allclose(target, expected, atol=1e-4)
    np.testing.assert_allclose(target[0], rewards[0].repeat(4), rtol=1e-6)


def learn_quantiles(loss=quantile_huber_loss) -> tuple[np.ndarray, np.ndarray]:
    """A critic's answers at 0.1, 0.3, … after it has seen returns of 5 (row + normal noise), and the true quantiles."""
    rows = jnp.array([[-1.0], [1.0]]).repeat(32, axis=0)
    critic = QuantileCritic(1, (32, 32, 32), 16, key=jax.random.key(0), precision="float32")

    def step(carry, key):
        critic, state = carry
        fraction_key, noise_key = jax.random.split(key)
        fractions = draw_fractions(len(rows), 8, fraction_key)
        targets = 5 * (rows + jax.random.normal(noise_key, (len(rows), 8)))
        widths = jnp.full(targets.shape, 1 / 8)
        gradient = jax.grad(
            lambda critic: loss(critic(rows, fractions.midpoints), fractions.midpoints, targets, widths)
        )(critic)
        rate = 3e-3
        return adam_step(rate, gradient, state, critic), None

    carry = critic, adam_state(critic)
    (critic, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 1500)))(carry)
    asked = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    answers = critic(jnp.array([[-1.0], [1.0]]), jnp.tile(jnp.asarray(asked, jnp.float32), (2, 1)))
    return np.asarray(answers), 5 * (np.array([[-1.0], [1.0]]) + stats.norm.ppf(asked))


def test_critic_learns_the_quantiles_of_a_return():
    answers, quantiles = learn_quantiles()
    np.testing.assert_allclose(answers, quantiles, atol=0.8)  # the noise's own deviation is 5


@pytest.mark.parametrize(
    "broken",
    [
        lambda predictions, midpoints, *rest: quantile_huber_loss(predictions, 1 - midpoints, *rest),
        lambda predictions, midpoints, targets, widths: optax.huber_loss(predictions, targets).mean(),
    ],
    ids=["fractions upside down", "no fractions"],
)
def test_a_broken_loss_does_not(broken):
    answers, quantiles = learn_quantiles(broken)
    assert np.abs(answers - quantiles).max() > 2


PARTS = 4000


def equal_parts() -> quantile.Fractions:
    return draw_fractions(1, PARTS, jax.random.key(0), "equal")


def test_equal_fractions():
    widths, midpoints = draw_fractions(7, 4, jax.random.key(0), "equal")
    np.testing.assert_allclose(widths, [[0.25] * 4])
    np.testing.assert_allclose(midpoints, [[0.125, 0.375, 0.625, 0.875]])
    rows = jax.random.normal(jax.random.key(1), (7, 5))
    for_all, for_each = make_critic()(rows, midpoints), make_critic()(rows, jnp.tile(midpoints, (7, 1)))
    np.testing.assert_allclose(for_all, for_each, rtol=1e-5)


@pytest.mark.parametrize(
    ("risk", "parameter", "expected"),
    [
        ("neutral", 0.0, 3.0),
        ("std", 0.7, 3.0 - 0.7 * 2),
        ("cvar", 0.25, 3.0 - 2 * stats.norm.pdf(stats.norm.ppf(0.25)) / 0.25),  # the mean of the lowest quarter
        ("cvar", -0.25, 3.0 + 2 * stats.norm.pdf(stats.norm.ppf(0.25)) / 0.25),  # of the highest
        ("wang", 0.3, 3.0 - 0.3 * 2),  # g(F) is the distribution of a Gaussian that is moved
        ("wang", -0.3, 3.0 + 0.3 * 2),
    ],
)
def test_risk_of_a_gaussian(risk, parameter, expected):
    fractions = equal_parts()
    quantiles = jnp.asarray(3 + 2 * stats.norm.ppf(np.asarray(fractions.midpoints, np.float64)), jnp.float32)
    np.testing.assert_allclose(quantile.risk_value(quantiles, fractions, risk, parameter), [expected], atol=0.01)


@pytest.mark.parametrize("parameter", [0.5, 0.71, -0.71])
def test_probability_weighting(parameter):
    """cpw: the weights are the slope of the curve that is written down in the paper, cut off at 5."""
    fractions = equal_parts()
    tau, power = np.asarray(fractions.midpoints[0], np.float64), abs(parameter)

    def curve(x):
        return x**power / (x**power + (1 - x) ** power) ** (1 / power)

    at = tau if parameter > 0 else 1 - tau
    slope = (curve(at + 1e-7) - curve(at - 1e-7)) / 2e-7
    weights = quantile.distortion_weights(fractions.midpoints, "cpw", parameter)[0]
    np.testing.assert_allclose(weights, np.minimum(slope, 5), rtol=2e-3)
    assert weights.max() == 5  # rare extremes count for more


def test_what_a_policy_is_told():
    """The risk measure of each critic; VaR asks for one quantile. Unknown distortions are refused."""
    features, actions = jax.random.normal(jax.random.key(1), (3, 4)), jax.random.normal(jax.random.key(2), (3, 1))
    critics, rows = (make_critic(1), make_critic(2)), np.concatenate([features, actions], axis=1).astype(np.float64)
    kind = quantile.QuantileCritics(quantiles=4, fractions="equal", risk="VaR", risk_parameter=0.1)
    values = kind.values(critics, features, actions, jax.random.key(0))
    expected = [critic_by_hand(critic, rows, np.full((3, 1), 0.1))[:, 0] for critic in critics]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    kind = quantile.QuantileCritics(quantiles=4, fractions="equal", risk="cvar", risk_parameter=0.5)
    midpoints = np.tile([0.125, 0.375, 0.625, 0.875], (3, 1))
    by_hand = [critic_by_hand(critic, rows, midpoints) for critic in critics]
    values = kind.values(critics, features, actions, jax.random.key(0))
    np.testing.assert_allclose(values, [answers[:, :2].mean(axis=1) for answers in by_hand], atol=1e-5)
    returns = kind.returns(critics, features, actions, jax.random.key(0))
    np.testing.assert_allclose(returns, np.minimum(*by_hand), atol=1e-5)
    with pytest.raises(ValueError, match="neutral distorts no probabilities"):
        quantile.distortion_weights(jnp.ones((1, 1)) / 2, "neutral", 0.0)
