"""Learning runs of DMRLAD: it finds what only a sparse reward betrays.

The first trains DMRLAD, the others broken agents, of which each should fail the same criterion. They take minutes, and
how they end depends on the seed still: `pytest -m sabotage tests/test_dmrlad_learning.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nacre.agents.dmrlad import relabelling
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.training import train

LEVEL = 12.5
"""Return on held-out goals, of at most 32. An agent that stays where a fifth of the goals are gets about 5."""


def learn(folder: Path, **changes: Any) -> float:
    """Trains for 20 iterations, and returns the mean test return of the last three iterations."""
    jax.clear_caches()  # a sabotaged function must not run from the cache, nor stay in it
    try:
        train(make_experiment("dmrlad/sparse-point-robot-quick", iterations=20, threads=1, **changes), folder)
    finally:
        jax.clear_caches()
    return float(np.mean(read_progress_csv(folder / "progress.csv")["AverageReturn_test_episode_1"][-3:]))


@pytest.mark.sabotage
def test_it_finds_goals(tmp_path: Path) -> None:
    assert learn(tmp_path / "run") > LEVEL


@pytest.mark.sabotage
def test_without_copies_it_does_not(tmp_path: Path) -> None:
    assert learn(tmp_path / "run", relabelling="none") < LEVEL


@pytest.mark.sabotage
def test_with_copies_for_tasks_at_random_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_random(values: Any, log_normaliser: Any, choice: Any, generator: np.random.Generator) -> int:
        return int(generator.integers(len(values)))

    monkeypatch.setattr(relabelling, "choose", at_random)
    assert learn(tmp_path / "run") < LEVEL
