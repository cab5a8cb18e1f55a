"""Learning runs of CEMRL: it adapts within the first episode of a trial.

The first test runs by default. Those marked `sabotage` train broken agents and assert that each fails the same
criterion: `pytest -m sabotage tests/test_cemrl_learning.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nacre.agents.cemrl import losses
from nacre.agents.cemrl.learner import CemrlLearner
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.training import train

pytestmark = pytest.mark.usefixtures("compiled_as_for_users")

LEVEL = -13.3
"""Return on held-out goals. An agent that is told nothing reaches -17.4, one that is given the goal -5.0."""


def learn(folder: Path) -> float:
    """Trains for nine iterations, and returns the mean test return of the last three."""
    jax.clear_caches()  # a sabotaged function must not run from the cache, nor stay in it
    try:
        train(make_experiment("cemrl/point-robot-quick", iterations=9, threads=1), folder)
    finally:
        jax.clear_caches()
    return float(np.mean(read_progress_csv(folder / "progress.csv")["AverageReturn_test_episode_1"][-3:]))


def test_it_adapts_within_the_first_episode(tmp_path: Path) -> None:
    assert learn(tmp_path / "run") > LEVEL


@pytest.mark.sabotage
def test_with_windows_of_other_transitions_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows_of = CemrlLearner._windows

    def shuffled(learner: CemrlLearner, *arguments: Any) -> losses.Windows:
        windows = windows_of(learner, *arguments)
        return windows._replace(rows=jnp.roll(windows.rows, 1, axis=0), mask=jnp.roll(windows.mask, 1, axis=0))

    monkeypatch.setattr(CemrlLearner, "_windows", shuffled)
    assert learn(tmp_path / "run") < LEVEL


@pytest.mark.sabotage
def test_with_a_decoder_without_z_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction_losses = losses.prediction_losses

    def without(decoder: Any, config: Any, explained: Any, latent: Any) -> Any:
        return prediction_losses(decoder, config, explained, jnp.zeros_like(latent))

    monkeypatch.setattr(losses, "prediction_losses", without)
    assert learn(tmp_path / "run") < LEVEL
