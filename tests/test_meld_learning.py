"""What MELD's latent state model learns of a toy, and its agent of a point robot.

Tests marked `sabotage` train what must not know its task: `pytest -m sabotage tests/test_meld_learning.py`. The agent
takes minutes to learn, so that it is among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meld_toy import CONFIG, HORIZON, quickly_compiled_state, toy_visits

from nacre import gradient_steps
from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.learner import MODEL, MeldLearner
from nacre.agents.meld.losses import Frames, filtered
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.nn.image import ImageDecoder
from nacre.tasks import make_family
from nacre.tasks.family import Sizes
from nacre.training import train
from nacre.types import Visit

pytestmark = pytest.mark.usefixtures("compiled_as_for_users")


class Errors(NamedTuple):
    """Mean squared errors, as shares of variances: an expectation that is always the same has 1."""

    pictures: float
    rewards: float
    other_trial: float
    """Of pictures, if what is expected of another trial is decoded."""
    other_actions: float
    """Of pictures, if the actions of another trial are taken."""


def predicted_errors(context: Any) -> Errors:
    """Trains a model, and lets it expect the second episodes of new trials after their first frames."""
    config, tasks = MeldConfig(**CONFIG, context_reward=context), 20
    learner = MeldLearner(config, Sizes((16, 16, 3), 1, HORIZON, 1))
    memory = learner.memory(make_family("point-robot"), np.zeros((tasks, 1)), 1)  # only its flag is read
    memory.add(toy_visits(tasks, 20, seed=0))
    state = quickly_compiled_state(learner)
    state, _ = gradient_steps.update(learner, MODEL, state, memory.arrays, None, 1000)

    model = state.trained.networks.model
    frames = new_frames(toy_visits(100, 1, seed=1))
    believed = jax.jit(filtered, static_argnums=1)(model, config, frames, jax.random.key(1))
    known = HORIZON + 1  # the frame after the reset
    noise = jax.random.normal(jax.random.key(2), (len(frames.mask), HORIZON, config.latent_size))
    actions = frames.actions[:, known + 1 :]

    @jax.jit
    def expect(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        expected = model.imagine(believed.latent[:, known], actions, noise)
        pictures, rewards = model.decode(expected.latent.reshape(-1, config.latent_size))
        return pictures.reshape(frames.pictures[:, known + 1 :].shape), rewards.reshape(-1, HORIZON)

    true_pictures = np.asarray(frames.pictures[:, known + 1 :], float) / 255
    true_rewards = np.asarray(frames.rewards[:, known + 1 :])

    def error(pictures: jax.Array) -> float:
        return float(((np.asarray(pictures) - true_pictures) ** 2).mean() / true_pictures.var(axis=(0, 1)).mean())

    pictures, rewards = expect(actions)
    with_others, _ = expect(jnp.roll(actions, 1, axis=0))
    reward_error = ((np.asarray(rewards) - true_rewards) ** 2).mean() / true_rewards.var()
    return Errors(error(pictures), float(reward_error), error(jnp.roll(pictures, 1, axis=0)), error(with_others))


def new_frames(visits: list[Visit]) -> Frames:
    def of(column: str, pad: int) -> jax.Array:
        parts = [
            np.concatenate(
                [
                    np.pad(array, ((pad, 0), *((0, 0),) * (array.ndim - 1)))
                    for array in (getattr(episode, column) for episode in visit.episodes)
                ]
            )
            for visit in visits
        ]
        return jnp.asarray(np.stack(parts))

    there = jnp.ones((len(visits), 2 * (HORIZON + 1)), bool)
    rewards = of("rewards", 1)
    return Frames(of("observations", 0), of("actions", 1), rewards, rewards, ~there, there, there)


def test_a_model_of_a_toy_predicts_frames_and_rewards() -> None:
    """Of an episode of which it has seen the first picture alone: where the bar goes, and what that is worth in a task
    that only the rewards of the episode before have told."""
    errors = predicted_errors("dense")
    assert errors.pictures < 0.7
    assert errors.other_trial > 1.4  # it is decoded from what is believed
    assert errors.other_actions > 0.9  # which follows the actions
    assert errors.rewards < 0.5


@pytest.mark.sabotage
def test_a_model_that_sees_no_rewards_cannot_know_them() -> None:
    errors = predicted_errors("none")
    assert errors.pictures < 0.7
    assert errors.rewards > 0.8


@pytest.mark.sabotage
def test_a_decoder_that_ignores_the_latent_state_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = ImageDecoder.__call__
    monkeypatch.setattr(ImageDecoder, "__call__", lambda decoder, latents: decode(decoder, jnp.zeros_like(latents)))
    errors = predicted_errors("dense")
    assert errors.pictures > 0.9
    assert errors.other_trial < 1.1
    assert errors.other_actions < 1.1


LEVEL = -3.2
"""Return of an episode on test tasks. Who knows the goal can get −0.9, who does not know it −3.7, who stands still −5.
MELD gets −2.6 to −3.1 (five seeds), and without rewards −3.4 to −3.8 (five)."""


def learnt(name: str, folder: Path) -> float:
    """Trains for five iterations; mean return over both episodes of the last three evaluations."""
    train(make_experiment(name, iterations=5, threads=1), folder)
    columns = read_progress_csv(folder / "progress.csv")
    return float(np.mean([columns[f"AverageReturn_test_episode_{episode}"][-3:] for episode in (1, 2)]))


def test_it_infers_the_goal_from_rewards(tmp_path: Path) -> None:
    assert learnt("meld/point-robot-quick", tmp_path / "run") > LEVEL


@pytest.mark.sabotage
def test_without_rewards_it_does_not(tmp_path: Path) -> None:
    assert learnt("meld/point-robot-quick-slac", tmp_path / "run") < LEVEL
