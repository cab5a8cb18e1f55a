"""Which transitions CEMRL reads, and what it makes of them: windows, the split for validation, draws by age,
statistics, z of the replay, which is that of acting, and masks of acting."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cemrl_by_hand import SIZES, make_config, noisy

from nacre.agents.cemrl.learner import (
    CemrlLearner,
    EncoderDerived,
    WindowReplay,
    derive_latents,
    draw_numbers,
    draw_training,
    draw_validation,
    statistics,
)
from nacre.agents.cemrl.losses import Trained, Windows
from nacre.agents.cemrl.networks import Networks, Normaliser
from nacre.types import Episode, Transition, Visit

TASKS = 3
LENGTHS = ((5, 1, 7), (3,), (2, 6), (20,), (4, 4))
"""Of the episodes of each visit."""
VISITED = (0, 2, 0, 1, 2)


def make_visits() -> list[Visit]:
    generator = np.random.default_rng(0)

    def episode(length: int) -> Episode:
        return Episode(
            generator.normal(size=(length + 1, 3)).astype(np.float32),
            generator.uniform(-1, 1, (length, 2)).astype(np.float32),
            generator.normal(size=length).astype(np.float32),
            None,
            terminated=False,
        )

    return [Visit(task, tuple(map(episode, lengths))) for task, lengths in zip(VISITED, LENGTHS, strict=True)]


def make_replay(visits: list[Visit]) -> WindowReplay:
    replay = WindowReplay(TASKS, SIZES, has_sparse_reward=False, transitions=60, fullest_task=60)
    replay.kinds = jnp.arange(TASKS)
    replay.add(visits)
    return replay


def make_learner(**changes: Any) -> tuple[CemrlLearner, Trained]:
    """With weights that tell transitions apart, and a normaliser that does something."""
    learner = CemrlLearner(make_config(**changes), SIZES)
    trained = jax.jit(learner.initial_state)(jax.random.key(0)).trained
    networks: Networks = trained.networks
    encoder = noisy(networks.encoder, jax.random.key(1))
    normaliser = jax.tree.map(lambda leaf: leaf + 0.3, networks.normaliser)
    return learner, trained._replace(networks=networks._replace(encoder=encoder, normaliser=normaliser))


def test_order_of_collection() -> None:
    visits = make_visits()
    points = make_replay(visits).arrays.by_age()
    assert points.count == sum(map(sum, LENGTHS))
    expected, counts = [], [0] * TASKS
    for visit in visits:
        for _ in range(sum(map(len, visit.episodes))):
            expected.append((visit.task, counts[visit.task]))
            counts[visit.task] += 1
    n = len(expected)
    assert list(zip(points.tasks[:n].tolist(), points.ranks[:n].tolist(), strict=True)) == expected


@pytest.mark.parametrize("within", ["episode", "trial"])
def test_windows(within: Any) -> None:
    """What is before a transition, in its episode or in its visit, at the end of the window; the transition itself is
    explained and not in it."""
    visits, (learner, trained) = make_visits(), make_learner(window_within=within)
    replay, normaliser = make_replay(visits), trained.networks.normaliser
    points = replay.arrays.by_age()
    derived = EncoderDerived(points, replay.kinds, normaliser)
    n = int(points.count)
    found: Windows = jax.jit(lambda arrays: learner._windows(arrays, derived, jnp.arange(n), None))(replay.arrays)
    number = 0
    for visit in visits:
        before: list[np.ndarray] = []
        for episode in visit.episodes:
            before = before if within == "trial" else []
            for step in range(len(episode)):
                expected = before[-4:]
                assert found.mask[number].tolist() == [False] * (4 - len(expected)) + [True] * len(expected)
                if expected:
                    np.testing.assert_allclose(found.rows[number][-len(expected) :], expected, rtol=1e-5, atol=1e-6)
                row = row_of(episode, step, normaliser)
                explained = jax.tree.map(lambda leaf, number=number: leaf[number], found.explained)
                np.testing.assert_allclose(explained.observation, row[:3], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(explained.reward, row[5], rtol=1e-5, atol=1e-6)
                assert found.kinds[number] == visit.task
                before = [*before, row]
                number += 1


def row_of(episode: Episode, step: int, normaliser: Normaliser) -> np.ndarray:
    parts = (
        episode.observations[step],
        episode.actions[step],
        episode.rewards[step : step + 1],
        episode.observations[step + 1],
    )
    return np.concatenate(
        [(part - scale.mean) / scale.deviation for part, scale in zip(parts, normaliser, strict=True)]
    )


def test_permuted_windows() -> None:
    visits, (learner, trained) = make_visits(), make_learner(permute_windows=True, encoder_batch_size=50)
    replay = make_replay(visits)
    derived = EncoderDerived(replay.arrays.by_age(), replay.kinds, trained.networks.normaliser)
    batch = jax.jit(lambda arrays, key: learner.draw("encoder", arrays, derived, key))(replay.arrays, jax.random.key(1))
    orders = {tuple(mask) for mask in np.asarray(batch.train.mask).tolist()}
    assert any(mask[0] and not mask[-1] for mask in orders)  # what is missing is no longer in front
    assert len(orders) <= 5  # but in the same places for the whole batch


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "trajectory"},
        {"encoder": "individual-y"},
        {"merge": "linear"},
        {"window_within": "trial"},
        {"window": 30, "window_within": "trial"},
        {"padding": "published", "normalise": False},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_derived_z_is_that_of_acting(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of which several are needed; an agent that walks through the same episodes infers the same."""
    monkeypatch.setattr("nacre.agents.cemrl.learner.CHUNK", 8)
    visits, (learner, trained) = make_visits(), make_learner(**changes)
    networks = trained.networks
    if learner.config.padding == "published":  # acting and training differ otherwise, as published
        networks = networks._replace(normaliser=learner.initial_state(jax.random.key(0)).trained.networks.normaliser)
    replay = make_replay(visits)
    derived = derive_latents(learner, networks, replay.arrays)
    agent, params = learner.agent(0), networks.acting
    infer, observe = (
        jax.jit(lambda belief, keys: agent.infer(params, belief, keys)),
        jax.jit(lambda belief, transition, mask: agent.observe(params, belief, transition, mask)),
    )
    keys, one = jax.random.split(jax.random.key(1), 1), jnp.ones(1, bool)
    number, z_before, z_after = 0, [], []
    for visit in visits:
        belief = agent.begin_trial(params, keys, None)
        for episode in visit.episodes:
            belief = agent.begin_episode(params, belief, keys, one)
            for step in range(len(episode)):
                z_before.append(infer(belief, keys).latent[0])
                belief = observe(belief, transition_of(episode, step), one)
                z_after.append(infer(belief, keys).latent[0])
                number += 1
    np.testing.assert_allclose(derived.latents[:number], np.array(z_after), rtol=1e-3, atol=1e-5)

    # a draw finds both by number
    with monkeypatch.context() as patch:
        patch.setattr("nacre.agents.cemrl.learner.draw_numbers", lambda *_: jnp.arange(number))
        drawn = learner._draw_policy(replay.arrays, derived, jax.random.key(0)).sac
    np.testing.assert_allclose(drawn.features[:, 3:], np.array(z_before), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(drawn.next_features[:, 3:], np.array(z_after), rtol=1e-3, atol=1e-5)


def transition_of(episode: Episode, step: int) -> Transition:
    return Transition(
        jnp.asarray(episode.observations[step][None]),
        jnp.asarray(episode.actions[step][None]),
        jnp.asarray(episode.rewards[step][None]),
        jnp.asarray(episode.rewards[step][None]),
        jnp.asarray(episode.observations[step + 1][None]),
        jnp.zeros(1, bool),
    )


def test_published_z_of_the_next_state() -> None:
    visits, (learner, trained) = make_visits(), make_learner(next_latent="published")
    replay = make_replay(visits)
    derived = derive_latents(learner, trained.networks, replay.arrays)
    drawn = learner._draw_policy(replay.arrays, derived, jax.random.key(0)).sac
    np.testing.assert_array_equal(drawn.features[:, 3:], drawn.next_features[:, 3:])


def test_split_for_validation() -> None:
    """One of each block of five, the same ones whatever is added; the newest transitions wait for their block."""
    config = make_config(encoder_batch_size=20_000)
    few, many = jnp.int32(53), jnp.int32(105)
    training, validation = (
        {*np.asarray(draw(config, few, jax.random.key(0))).tolist()} for draw in (draw_training, draw_validation)
    )
    assert training | validation == set(range(50))
    assert not training & validation
    assert sorted(number // 5 for number in validation) == list(range(10))
    assert len({number % 5 for number in validation}) > 2
    later = {*np.asarray(draw_validation(config, many, jax.random.key(1))).tolist()}
    assert {number for number in later if number < 50} == validation
    assert len(later) == 21


def test_draws_by_age() -> None:
    count, size = jnp.int32(1000), 200_000
    uniform = np.asarray(draw_numbers("uniform", count, 10, size, jax.random.key(0)))
    last = np.asarray(draw_numbers("last", count, 10, size, jax.random.key(0)))
    rising = np.asarray(draw_numbers("rising", count, 10, size, jax.random.key(0)))
    assert (uniform.min(), uniform.max()) == (0, 999)
    assert set(last.tolist()) == set(range(990, 1000))
    shares = np.histogram(rising, bins=10, range=(0, 1000))[0] / size
    middles = (np.arange(10) + 0.5) / 10
    np.testing.assert_allclose(shares, (0.1 + 0.8 * middles) / 5, atol=3e-3)
    assert draw_numbers("last", jnp.int32(3), 10, 50, jax.random.key(0)).max() == 2


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all transitions, chunk by chunk; a coordinate that never changes is not blown up."""
    monkeypatch.setattr("nacre.agents.cemrl.learner.CHUNK", 16)
    visits = make_visits()
    for visit in visits:
        for episode in visit.episodes:
            episode.observations[:, 2] = 3.3
    found = statistics(make_replay(visits).arrays)
    episodes = [episode for visit in visits for episode in visit.episodes]
    for scaling, parts in zip(
        found,
        (
            [episode.observations[:-1] for episode in episodes],
            [episode.actions for episode in episodes],
            [episode.rewards[:, None] for episode in episodes],
            [episode.observations[1:] for episode in episodes],
        ),
        strict=True,
    ):
        rows = np.concatenate(parts).astype(np.float64)
        np.testing.assert_allclose(scaling.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
        deviation = rows.std(0)
        np.testing.assert_allclose(scaling.deviation, np.where(deviation > 1e-5, deviation, 1), rtol=1e-4)


@pytest.mark.parametrize("encoder", ["trajectory", "shared-y"])
def test_masks_of_acting(encoder: Any) -> None:
    """Trials outside a mask keep their beliefs; those within change theirs and no other's."""
    learner, trained = make_learner(encoder=encoder)
    agent, params, n = learner.agent(0), trained.networks.acting, 4
    keys, everyone = jax.random.split(jax.random.key(0), n), jnp.ones(n, bool)
    mask = jnp.array([True, False, True, False])
    generator = np.random.default_rng(1)
    observations = jnp.asarray(generator.normal(size=(3, n, 3)), jnp.float32)
    zeros, actions = jnp.zeros(n), jnp.zeros((n, 2))
    belief = agent.begin_trial(params, keys, None)
    for index in range(2):
        transition = Transition(observations[index], actions, zeros, zeros, observations[index + 1], jnp.zeros(n, bool))
        belief = agent.observe(params, belief, transition, everyone)
    for changed in (
        agent.observe(params, belief, transition, mask),
        agent.act(params, belief, observations[0], keys, mask, True)[1],
        agent.begin_episode(params, belief, keys, mask),
    ):
        differs = [
            [not np.array_equal(new[row], old[row]) for row in range(n)]
            for new, old in zip(jax.tree.leaves(changed), jax.tree.leaves(belief), strict=True)
        ]
        assert np.any(differs, axis=0).tolist() == mask.tolist()
    counts = agent.begin_episode(params, belief, keys, mask).count
    assert counts.tolist() == [0, 2, 0, 2]
    across = CemrlLearner(make_config(window_within="trial"), SIZES).agent(0)
    assert across.begin_episode(params, belief, keys, mask).count.tolist() == [2, 2, 2, 2]


def test_a_trial_acts_alone() -> None:
    """Permuted windows too: what a trial does depends on no other's key."""
    learner, trained = make_learner(encoder="trajectory", permute_windows=True)
    agent, params, n = learner.agent(0), trained.networks.acting, 3
    keys = jax.random.split(jax.random.key(0), n)
    belief = agent.begin_trial(params, keys, None)._replace(
        factors=jax.random.normal(jax.random.key(1), (n, 4, 9)), count=jnp.full(n, 3, jnp.int32)
    )
    latents = agent.infer(params, belief, keys).latent
    other = agent.infer(params, belief, keys.at[1].set(jax.random.key(7))).latent
    same = [np.array_equal(latents[row], other[row]) for row in range(n)]
    assert same == [True, False, True]
