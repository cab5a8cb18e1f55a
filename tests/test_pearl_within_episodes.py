"""PEARL that infers within episodes: when posteriors are refreshed and z is drawn, and contexts of any size."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import transparent_networks
from test_pearl_protocols import SIZES, TINY, keys_of, transitions

from nacre.agents.pearl.agent import PearlAgent, PearlBelief, evaluation_agent
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.networks import context_width, drawn_context, infer_posterior, initial_networks
from nacre.errors import NacreError
from nacre.experiments import make_experiment
from nacre.experiments.experiment import family_of
from nacre.experiments.limits import validate
from nacre.nn.gaussian import product_of_gaussians
from nacre.replay import ReplayBuffer
from nacre.tasks.point import PointRobot
from nacre.types import Episode, Visit

EVERY = 2
CONFIG = dataclasses.replace(TINY, infer_every=EVERY)
NETWORKS = transparent_networks(CONFIG, factor_variance=0.5).acting


def play(agent: PearlAgent, steps: int, playing: np.ndarray) -> tuple[list[PearlBelief], np.ndarray]:
    """The beliefs after each action of an episode of two trials, and the rewards."""
    mask = jnp.asarray(playing)
    belief = agent.begin_trial(NETWORKS, keys_of(2), None)
    belief = agent.begin_episode(NETWORKS, belief, keys_of(2, seed=1), jnp.ones(2, bool))
    act, observe = jax.jit(agent.act, static_argnums=5), jax.jit(agent.observe)
    beliefs, rewards = [], []
    for step in range(steps):
        transition = transitions(step, 2)
        _, belief = act(NETWORKS, belief, transition.observation, keys_of(2, seed=10 + step), mask, True)
        beliefs.append(belief)
        belief = observe(NETWORKS, belief, transition, mask)
        rewards.append(np.asarray(transition.observation[:, 1] + transition.reward, np.float64))
    return beliefs, np.array(rewards)


def test_posteriors_are_refreshed_every_few_steps() -> None:
    beliefs, rewards = play(PearlAgent(CONFIG, SIZES, 10, exploration_episodes=0), 6, np.array([True, True]))
    for step, belief in enumerate(beliefs):
        known = step - step % EVERY
        mean, variance = (rewards[:known].mean(axis=0), 0.5 / known) if known else (np.zeros(2), 1.0)
        np.testing.assert_allclose(belief.mean[:, 0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(belief.variance[:, 0], variance, rtol=1e-4)
        if step:
            same = np.asarray(belief.latent == beliefs[step - 1].latent)
            assert same.all() if step % EVERY else not same.any()


def test_without_a_posterior_z_is_drawn_from_the_prior() -> None:
    agent = PearlAgent(CONFIG, SIZES, 0, exploration_episodes=None, keeps_context=False)
    beliefs, _ = play(agent, 2 * 50, np.array([True, True]))
    assert all(not belief.mean.any() and (belief.variance == 1).all() for belief in beliefs)
    drawn = np.array([belief.latent for belief in beliefs[::EVERY]])
    assert abs(drawn.mean()) < 0.25
    assert 0.8 < drawn.std() < 1.2
    np.testing.assert_array_equal(drawn, np.array([belief.latent for belief in beliefs[1::EVERY]]))


def test_noise_that_is_kept_for_an_episode() -> None:
    """z changes as the posterior does; the next episode has noise of its own."""
    agent = PearlAgent(dataclasses.replace(CONFIG, latent_noise="kept"), SIZES, 10, exploration_episodes=0)
    beliefs, _ = play(agent, 6, np.array([True, True]))
    first = np.asarray(beliefs[0].latent, np.float64)
    for belief in beliefs:
        mean, variance = (np.asarray(part, np.float64) for part in (belief.mean, belief.variance))
        np.testing.assert_allclose(belief.latent, mean + np.sqrt(variance) * first, rtol=1e-4, atol=1e-5)
    begun = agent.begin_episode(NETWORKS, beliefs[-1], keys_of(2, seed=5), jnp.array([True, False]))
    assert begun.noise is not None
    assert not (begun.noise[0] == first[0].astype(np.float32)).any()
    np.testing.assert_array_equal(begun.noise[1], first[1].astype(np.float32))

    unknowing = PearlAgent(agent.config, SIZES, 0, exploration_episodes=None, keeps_context=False)
    beliefs, _ = play(unknowing, 6, np.array([True, True]))
    for belief in beliefs:
        np.testing.assert_array_equal(belief.latent, beliefs[0].latent)


def test_a_trial_that_does_not_play_stays_as_it_is() -> None:
    agent = PearlAgent(CONFIG, SIZES, 10, exploration_episodes=0)
    alone, _ = play(agent, 5, np.array([True, False]))
    both, _ = play(agent, 5, np.array([True, True]))
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_array_equal(one.latent[0], two.latent[0])
        np.testing.assert_array_equal(one.latent[1], alone[0].latent[1])
        assert one.context_count[1] == 0


def test_an_episode_begins_its_own_count() -> None:
    agent = evaluation_agent(CONFIG, SIZES, 10)
    beliefs, rewards = play(agent, 3, np.array([True, True]))
    belief = agent.end_episode(NETWORKS, beliefs[-1], keys_of(2), jnp.array([True, False]))
    np.testing.assert_allclose(belief.mean[0, 0], rewards[:2, 0].mean(), rtol=1e-4)
    belief = agent.begin_episode(NETWORKS, belief, keys_of(2, seed=5), jnp.array([True, False]))
    assert belief.steps is not None
    assert belief.steps.tolist() == [0, 2]
    _, after = agent.act(NETWORKS, belief, transitions(9, 2).observation, keys_of(2), jnp.ones(2, bool), True)
    assert (after.latent[0] == belief.latent[0]).all()
    assert not (after.latent[1] == belief.latent[1]).any()


def test_contexts_of_any_size() -> None:
    """A step infers from as many transitions as the mask has, and every number from one on is as frequent."""
    family = PointRobot()
    config = dataclasses.replace(TINY, context_sizes="any", context_size=4, meta_batch_size=500, batch_size=1)
    learner = PearlLearner(config, family.sizes)
    buffer = ReplayBuffer(1, family.sizes, has_sparse_reward=False, transitions=20, fullest_task=20)
    length = 20
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((length + 1, 2)).astype(np.float32)
    actions = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
    rewards = generator.standard_normal(length).astype(np.float32)
    buffer.add([Visit(0, (Episode(observations, actions, rewards, sparse_rewards=None, terminated=False),), 1)])
    batch = jax.jit(lambda arrays, key: learner.draw("update", arrays, None, key))(buffer.arrays, jax.random.key(0))
    assert batch.context.mask is not None
    counts = np.bincount(np.asarray(batch.context.mask.sum(axis=1)), minlength=5)
    assert counts[0] == 0
    assert (abs(counts[1:] - 125) < 40).all()  # four standard deviations

    networks = initial_networks(config, family.sizes, key=jax.random.key(1), precision="float32")
    context, mask = drawn_context(config, batch.context)
    assert mask is not None
    mean, variance = infer_posterior(networks.encoder, config, context, mask)
    for index in range(8):
        kept = context[index : index + 1, : int(mask[index].sum())]
        alone = infer_posterior(networks.encoder, config, kept)
        np.testing.assert_allclose(mean[index], alone[0][0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance[index], alone[1][0], rtol=1e-4)


def test_the_prior_as_a_factor() -> None:
    """By hand in float64, for masked contexts and for an empty one, which is the prior either way."""
    generator = np.random.default_rng(0)
    means, raw = generator.standard_normal((2, 3, 4, 2))
    mask = np.array([[True] * 4, [True, False, True, False], [False] * 4])
    precisions = mask[..., None] / np.log1p(np.exp(raw))
    total = 1 + precisions.sum(axis=1)
    mean, variance = product_of_gaussians(
        jnp.asarray(means, jnp.float32), jnp.asarray(raw, jnp.float32), jnp.asarray(mask), with_prior=True
    )
    np.testing.assert_allclose(mean, (precisions * means).sum(axis=1) / total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, 1 / total, rtol=1e-5)
    assert (mean[2] == 0).all()
    assert (variance[2] == 1).all()


def test_the_prior_is_a_factor_if_it_is_asked_for() -> None:
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, context_width(CONFIG, SIZES))), jnp.float32)
    (_, without), (_, beside) = (
        infer_posterior(NETWORKS.encoder, dataclasses.replace(CONFIG, prior_factor=asked), rows)
        for asked in (False, True)
    )
    np.testing.assert_allclose(1 / beside, 1 + 1 / without, rtol=1e-5)


def test_what_does_not_go_together() -> None:
    experiment = make_experiment("pearl/point-robot", probabilistic_context=False, prior_factor=True)
    with pytest.raises(NacreError, match="prior_factor is True; allowed with probabilistic_context=False: False"):
        validate(experiment, family_of(experiment))
    experiment = make_experiment("pearl/sparse-point-robot", latent_noise="kept")
    with pytest.raises(NacreError, match="latent_noise is 'kept'; allowed with infer_every=0: 'new'"):
        validate(experiment, family_of(experiment))
    experiment = make_experiment("pearl/sparse-point-robot", encoder="recurrent", context_sizes="any")
    with pytest.raises(NacreError, match="context_sizes is 'any'; allowed with encoder='recurrent': 'fixed'"):
        validate(experiment, family_of(experiment))
