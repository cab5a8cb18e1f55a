"""Copies of DMRLAD: rewards of other tasks, the windows they are judged by, values, log Z and choices, by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cemrl_by_hand import SIZES, EncoderByHand, noisy
from numpy_layers import Layers
from test_quantile import critic_by_hand

from nacre.agents.dmrlad.config import DmrladConfig
from nacre.agents.dmrlad.learner import DmrladLearner
from nacre.agents.dmrlad.relabelling import (
    RelabelledReplay,
    Scorer,
    candidates,
    choose,
    copy_of,
    draw_last_windows,
    last_windows,
    log_normalisers,
    start_states,
    task_values,
)
from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, World
from nacre.types import Episode, Visit

TASKS = np.array([[0.5], [-1.0], [2.0]])
LENGTH = 6


class Line(TaskFamily):
    """A point on a line: the reward is minus the distance to the goal, and it is over beyond 3/2 of the goal."""

    name = "line"
    observation_size = 3
    action_size = 2
    horizon = 20
    task_parameters = ("goal",)
    has_success = True
    has_sparse_reward = True

    def sample_tasks(self, generator: np.random.Generator, n: int) -> np.ndarray:
        return generator.normal(size=(n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -abs(following[..., 0] - task[..., 0]) + previous[..., 0] * action[..., 1]

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (following[..., 0] > task[..., 0]) * 1.0

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return abs(following[..., 0] - task[..., 0]) < 0.3

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (following[..., 0] > 1.5 * task[..., 0]) & (task[..., 0] > 0)

    def make_world(self, n_slots: int, threads: int) -> World:
        raise NotImplementedError


def make_episode(seed: int = 0, length: int = LENGTH, with_states: bool = True) -> Episode:
    generator = np.random.default_rng(seed)
    return Episode(
        generator.normal(size=(length + 1, 3)).astype(np.float32),
        generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        generator.normal(size=length).astype(np.float32),
        np.zeros(length, np.float32),
        terminated=False,
        successes=np.zeros(length, bool),
        reward_states=np.linspace(0, 1.2, length + 1)[:, None] if with_states else None,
    )


def test_rewards_of_other_tasks() -> None:
    """One transition and task after another; a copy ends with its first termination."""
    family, episode = Line(), make_episode()
    states, actions = episode.reward_states, episode.actions.astype(np.float64)
    assert states is not None
    found = candidates(family, episode, TASKS)
    for task, (goal,) in enumerate(TASKS):
        end = LENGTH
        for step in range(LENGTH):
            expected = -abs(states[step + 1, 0] - goal) + states[step, 0] * actions[step, 1]
            np.testing.assert_allclose(found.rewards[task, step], expected)
            if goal > 0 and states[step + 1, 0] > 1.5 * goal:
                end = min(end, step + 1)
        copy = copy_of(family, episode, found, task, TASKS[task])
        assert len(copy) == found.lengths[task] == end
        assert copy.terminated == (end < LENGTH)
        assert len(copy.observations) == end + 1
        assert copy.reward_states is None
        assert copy.sparse_rewards is not None
        assert copy.successes is not None
        np.testing.assert_array_equal(copy.rewards, found.rewards[task, :end].astype(np.float32))
        np.testing.assert_array_equal(copy.sparse_rewards, states[1 : end + 1, 0] > goal)
        np.testing.assert_array_equal(copy.successes, abs(states[1 : end + 1, 0] - goal) < 0.3)
    assert found.lengths.tolist() == [4, 6, 6]


def test_a_reward_that_is_not_finite_is_refused() -> None:
    family = Line()
    with pytest.raises(NacreError, match=r"reward of Line returned -inf .* task \[inf\]"):
        candidates(family, make_episode(), np.array([[0.5], [np.inf]]))


def test_last_windows() -> None:
    """The last transitions of each copy, the last one included; what is missing of a short one comes first."""
    episode = make_episode()
    found = candidates(Line(), episode, TASKS)
    windows, counts = last_windows([episode], [found], 5)
    assert counts.tolist() == [4, 5, 5]
    for task, count in enumerate(counts):
        end = found.lengths[task]
        np.testing.assert_array_equal(windows.observation[task, -count:], episode.observations[end - count : end])
        following = episode.observations[end - count + 1 : end + 1]
        np.testing.assert_array_equal(windows.next_observation[task, -count:], following)
        np.testing.assert_array_equal(windows.action[task, -count:], episode.actions[end - count : end])
        rewards = found.rewards[task, end - count : end].astype(np.float32)
        np.testing.assert_array_equal(windows.reward[task, -count:], rewards)


def test_last_windows_across_episodes() -> None:
    """Of a visit that is copied as a whole: the last transitions of the copies, one episode after another."""
    episodes = [make_episode(seed, length) for seed, length in ((0, 6), (1, 2), (2, 3))]
    found = [candidates(Line(), episode, TASKS) for episode in episodes]
    windows, counts = last_windows(episodes, found, 7)
    for task in range(len(TASKS)):
        rows = [
            (*episode.observations[step], each.rewards[task, step])
            for episode, each in zip(episodes, found, strict=True)
            for step in range(each.lengths[task])
        ][-7:]
        assert counts[task] == len(rows)
        got = np.concatenate([windows.observation[task], windows.reward[task][:, None]], axis=1)[-len(rows) :]
        np.testing.assert_allclose(got, rows, rtol=1e-6)
    assert len(set(counts.tolist())) > 1 or counts.tolist() == [7, 7, 7]


def make_learner(**changes: Any) -> DmrladLearner:
    fields: dict[str, Any] = {
        "latent_size": 2,
        "classes": 2,
        "window": 4,
        "width_factor": 0.7,
        "hidden_size": 6,
        "hidden_layers": 2,
        "quantiles": 3,
        "embedding_size": 4,
        "fractions": "equal",
        "scoring_states": 5,
    }
    return DmrladLearner(DmrladConfig(**(fields | changes)), SIZES)


def make_networks(learner: DmrladLearner) -> Any:
    """With weights that matter, a normaliser that does something, and a policy that draws nothing."""

    def make(key: jax.Array) -> Any:
        networks = learner.initial_state(key).trained.networks
        encoder, critics = noisy(networks.encoder, jax.random.key(1)), noisy(networks.control.critics, key)
        policy = noisy(networks.control.policy, jax.random.key(2))
        network, action = policy.network, learner.sizes.action
        object.__setattr__(network, "weights", (*network.weights[:-1], network.weights[-1].at[:, action:].set(0.0)))
        object.__setattr__(network, "biases", (*network.biases[:-1], network.biases[-1].at[action:].set(-30.0)))
        normaliser = jax.tree.map(lambda leaf: leaf + 0.3, networks.normaliser)
        control = networks.control
        object.__setattr__(control, "critics", critics)
        object.__setattr__(control, "policy", policy)
        return networks._replace(encoder=encoder, normaliser=normaliser, control=control)

    return jax.jit(make)(jax.random.key(0))


def make_replay(visits: list[Visit]) -> RelabelledReplay:
    replay = RelabelledReplay(len(TASKS), SIZES, has_sparse_reward=True, transitions=60, fullest_task=60)
    replay.kinds = jnp.zeros(len(TASKS), jnp.int32)
    replay.add(visits)
    return replay


def value_by_hand(
    learner: DmrladLearner, networks: Any, rows: list[np.ndarray], mask: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """The lower critic's predictions for one task, one start state after another; rows are not normalised yet."""
    config, normaliser = learner.config, networks.normaliser
    mean, deviation = (
        np.concatenate([np.asarray(getattr(scaling, part), np.float64) for scaling in normaliser])
        for part in ("mean", "deviation")
    )
    normalised = (np.asarray(rows, np.float64) - mean) / deviation
    z, _ = EncoderByHand(networks.encoder, config).infer(normalised, mask)
    policy, answers = Layers(networks.control.policy.network), []
    for start in starts:
        features = np.concatenate([start.astype(np.float64), z])
        action = np.tanh(policy.forward(features[None])[0, : learner.sizes.action])
        inputs = np.concatenate([features, action])[None]
        if config.critics == "quantile":
            midpoints = (np.arange(config.quantiles)[None] + 0.5) / config.quantiles
            predictions = [critic_by_hand(critic, inputs, midpoints)[0] for critic in networks.control.critics]
        else:
            predictions = [Layers(critic).forward(inputs)[0] for critic in networks.control.critics]
        answers.append(np.minimum(*predictions))
    return np.mean(answers, axis=0)


def row_of(episode: Episode, step: int, reward: float) -> np.ndarray:
    return np.concatenate([episode.observations[step], episode.actions[step], [reward], episode.observations[step + 1]])


@pytest.mark.parametrize("critics", ["quantile", "expected"])
def test_values_by_hand(critics: Any) -> None:
    """One task and start state after another. Every task has one episode, so there is one start state to draw."""
    learner = make_learner(critics=critics)
    networks, scorer = make_networks(learner), Scorer(learner.agent(0), learner.critics, 5)
    stored = [make_episode(10 + task, with_states=False) for task in range(3)]
    replay = make_replay([Visit(task, (episode,), 1) for task, episode in enumerate(stored)]).arrays
    episode = make_episode(3, length=3)
    found = candidates(Line(), episode, TASKS)
    windows, counts = last_windows([episode], [found], 4)
    values = task_values(scorer, networks, replay, windows, counts, jax.random.key(4))
    by_hand = []
    for task in range(3):
        end = int(found.lengths[task])
        rows = [row_of(episode, step, float(found.rewards[task, step])) for step in range(end)]
        padding = [np.zeros(9)] * (4 - end)
        mask = np.arange(4) >= 4 - end
        by_hand.append(value_by_hand(learner, networks, padding + rows, mask, stored[task].observations[:1]).mean())
    np.testing.assert_allclose(values, by_hand, rtol=2e-4, atol=1e-5)
    assert np.ptp(by_hand) > 0.01


@pytest.mark.parametrize("form", ["hfr", "published"])
def test_log_normaliser_by_hand(form: Any) -> None:
    """With one episode in each task: hfr is the value of its last window, published that of an empty one and of the
    lowest quantile alone."""
    learner = make_learner()
    networks, scorer = make_networks(learner), Scorer(learner.agent(0), learner.critics, 5)
    stored = [make_episode(10 + task, with_states=False) for task in range(3)]
    copies = [Visit(task, (make_episode(20, 4, with_states=False),), relabelled=True) for task in range(3)]
    replay = make_replay([Visit(task, (episode,), 1) for task, episode in enumerate(stored)]).arrays
    found = log_normalisers(scorer, networks, replay, form, jax.random.key(4))
    for task, episode in enumerate(stored):
        rows = [row_of(episode, step, float(episode.rewards[step])) for step in range(LENGTH - 4, LENGTH)]
        mask = np.full(4, form == "hfr")
        answers = value_by_hand(learner, networks, rows, mask, episode.observations[:1])
        expected = answers.mean() if form == "hfr" else answers[0]
        np.testing.assert_allclose(found[task], expected, rtol=2e-4, atol=1e-5)
    assert copies


def test_log_normaliser_is_the_mean_of_exponentials() -> None:
    """Two windows in a task, some of 20 draws of each: log Z is the logarithm of the mean of exp(q)."""
    learner = make_learner()
    networks, scorer = make_networks(learner), Scorer(learner.agent(0), learner.critics, 1)
    pairs = [
        (make_episode(10 + task, with_states=False), make_episode(30 + task, with_states=False)) for task in range(3)
    ]
    # the same start, so that only windows differ
    for first, second in pairs:
        second.observations[0] = first.observations[0]
    replay = make_replay([Visit(task, pair, 2) for task, pair in enumerate(pairs)]).arrays
    found = np.asarray(log_normalisers(scorer, networks, replay, "hfr", jax.random.key(4)))
    for task, pair in enumerate(pairs):
        values = []
        for episode in pair:
            rows = [row_of(episode, step, float(episode.rewards[step])) for step in range(LENGTH - 4, LENGTH)]
            values.append(value_by_hand(learner, networks, rows, np.ones(4, bool), episode.observations[:1]).mean())
        possible = [np.log((n * np.exp(values[0]) + (20 - n) * np.exp(values[1])) / 20) for n in range(3, 18)]
        assert np.abs(np.array(possible) - found[task]).min() < 1e-4


def test_what_log_normalisers_and_values_are_drawn_from() -> None:
    """Windows: the last ones of episodes of the latest visit that was played. Start states: of all episodes, copies
    included."""
    learner = make_learner()
    episodes = [make_episode(seed, length, with_states=False) for seed, length in enumerate((5, 6, 2, 7, 3))]
    old, first, second, copy, other = episodes
    replay = make_replay(
        [
            Visit(0, (old,), 1),
            Visit(0, (first, second), 2),
            Visit(1, (other,), 1),
            Visit(0, (copy,), relabelled=True),
            Visit(2, (other,), 1),
        ]
    ).arrays
    draw = jax.jit(lambda key: draw_last_windows(replay, jnp.arange(3), learner.agent(0), key))
    drawn = [draw(jax.random.key(number)) for number in range(20)]
    found = {(int(counts[0]), float(windows.reward[0, -1])) for windows, counts in drawn}
    assert found == {(4, float(first.rewards[-1])), (2, float(second.rewards[-1]))}
    windows, counts = drawn[0]
    assert counts[1:].tolist() == [3, 3]
    np.testing.assert_array_equal(windows.reward[1, -3:], other.rewards)
    np.testing.assert_array_equal(windows.next_observation[1, -1], other.observations[-1])

    states = np.asarray(jax.jit(start_states, static_argnums=2)(replay, jnp.int32(0), 4000, jax.random.key(1)))
    for episode in (old, first, second, copy):
        share = (states == episode.observations[0]).all(axis=1).mean()
        np.testing.assert_allclose(share, 1 / 4, atol=0.03)


def test_choice() -> None:
    values, normaliser = np.array([1.0, 2.0, 1000.0], np.float32), np.array([0.0, 0.5, 999.0], np.float32)
    generator = np.random.default_rng(0)
    chosen = [choose(values, normaliser, "softmax", generator) for _ in range(4000)]
    expected = np.exp([1.0, 1.5, 1.0]) / np.exp([1.0, 1.5, 1.0]).sum()
    np.testing.assert_allclose(np.bincount(chosen) / 4000, expected, atol=0.03)
    assert choose(values, normaliser, "arg-max", generator) == 1


def test_a_copy_in_place_of_an_episode() -> None:
    """A memory whose copies replace drops the visit before a copy; the other keeps both."""
    first, second, third = (make_episode(seed, with_states=False) for seed in range(3))
    visits = [Visit(0, (first,), 1), Visit(2, (second,), relabelled=True), Visit(1, (third,), 1)]
    kept = RelabelledReplay(len(TASKS), SIZES, has_sparse_reward=True, transitions=60, fullest_task=60)
    kept.replaces = True
    kept.add(visits)
    assert kept.arrays.counts.tolist() == [0, LENGTH, LENGTH]
    assert make_replay(visits).arrays.counts.tolist() == [LENGTH] * 3
    assert kept.latest is not None
    np.testing.assert_allclose(kept.latest, [second.rewards.sum(), first.rewards.sum(), 1.0], rtol=1e-5)
