"""Learning runs: the whole of nacre at the smallest size that shows PEARL adapting.

The first two tests run by default. Those marked `sabotage` train broken agents and assert that each fails the same
criterion; they take minutes and are run on demand: `pytest -m sabotage tests/test_learning.py`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nacre.agents.pearl import agent as pearl_agent
from nacre.agents.pearl import losses as pearl_losses
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.tasks import register_family
from nacre.tasks.point import PointRobot
from nacre.training import train

pytestmark = pytest.mark.usefixtures("compiled_as_for_users")

LEVEL = -12.8
"""Adapted return on held-out goals; standing still gives about -21, walking straight to the goal about -6."""
GAIN = 2.5
"""By how much the third episode of a trial must be better than the first, which knows nothing of its goal."""


SHORTER = {"iterations": 15, "updates_per_iteration": 400}
WITHIN_EPISODES = "pearl/point-robot-quick"
WITHIN_FIRST, WITHIN_THIRD = -13.0, -9.0
"""Returns of an agent that infers within episodes; the best without the task is -15.9, in every episode."""


def learn(folder: Path, name: str = "pearl/point-robot-quick-between-episodes", **overrides) -> tuple[float, float]:
    """Trains, and returns the test returns of the first and third episode, averaged over the last four iterations."""
    jax.clear_caches()  # a sabotaged function must not run from the cache, nor stay in it
    try:
        train(make_experiment(name, **{**SHORTER, **overrides}), folder)
    finally:
        jax.clear_caches()
    table = read_progress_csv(folder / "progress.csv")
    first, third = (np.mean(table[f"AverageReturn_test_episode_{episode}"][-4:]) for episode in (1, 3))
    return float(first), float(third)


def has_learnt(first: float, third: float) -> bool:
    return third > LEVEL and third - first > GAIN


def test_pearl_learns_to_adapt(tmp_path):
    first, third = learn(tmp_path / "run")
    assert has_learnt(first, third), f"episode 1: {first:.2f}, episode 3: {third:.2f}"


def test_pearl_learns_to_infer_within_its_first_episode(tmp_path):
    first, third = learn(tmp_path / "run", WITHIN_EPISODES)
    assert first > WITHIN_FIRST, f"episode 1: {first:.2f}"
    assert third > WITHIN_THIRD, f"episode 3: {third:.2f}"


def blind(encoder, config, context, mask=None):
    """A posterior that tells nothing."""
    mean = jnp.zeros((len(context), config.latent_size))
    return mean, jnp.ones_like(mean)


@pytest.mark.sabotage
def test_without_an_encoder_nothing_is_inferred_within_episodes(tmp_path, monkeypatch):
    for module in (pearl_agent, pearl_losses):
        monkeypatch.setattr(module, "infer_posterior", blind)
    first, third = learn(tmp_path / "run", WITHIN_EPISODES)
    assert first < WITHIN_FIRST, f"episode 1: {first:.2f}"
    assert third < WITHIN_THIRD, f"episode 3: {third:.2f}"


@pytest.mark.sabotage
def test_without_an_encoder_it_does_not(tmp_path, monkeypatch):
    for module in (pearl_agent, pearl_losses):
        monkeypatch.setattr(module, "infer_posterior", blind)
    first, third = learn(tmp_path / "run")
    assert not has_learnt(first, third), f"episode 1: {first:.2f}, episode 3: {third:.2f}"
    assert third - first < GAIN


@pytest.mark.sabotage
def test_without_rewards_in_the_critics_it_does_not(tmp_path, monkeypatch):
    def no_reward(scaled_reward, terminated, next_value, discount):
        return discount * next_value

    monkeypatch.setattr(pearl_losses.sac, "bellman_target", no_reward)
    first, third = learn(tmp_path / "run")
    assert not has_learnt(first, third), f"episode 1: {first:.2f}, episode 3: {third:.2f}"
    assert third < LEVEL


class LeakyPointRobot(PointRobot):
    """A point robot that sees its goal: nothing is left to infer."""

    name = "leaky-point-robot"
    observation_size = 4

    def make_world(self, n_slots: int, threads: int):
        return _LeakyWorld(super().make_world(n_slots, threads), n_slots)


class _LeakyWorld:
    def __init__(self, world, n_slots: int):
        self._world = world
        self._goals = np.zeros((n_slots, 2), np.float32)

    def reset(self, slots, tasks, generators):
        self._goals[slots] = tasks
        return self._with_goal(slots, *self._world.reset(slots, tasks, generators))

    def step(self, slots, actions):
        return self._with_goal(slots, *self._world.step(slots, actions))

    def _with_goal(self, slots, observations, reward_states):
        return np.concatenate([observations, self._goals[slots]], axis=-1), reward_states

    def close(self):
        self._world.close()


@pytest.mark.sabotage
def test_with_a_leaked_task_there_is_no_gain(tmp_path):
    register_family("leaky-point-robot", LeakyPointRobot)
    first, third = learn(tmp_path / "run", family="leaky-point-robot")
    assert not has_learnt(first, third), f"episode 1: {first:.2f}, episode 3: {third:.2f}"
    assert third - first < GAIN
