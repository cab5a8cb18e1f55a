"""A short attack on a run and on every named experiment; `benchmarks/reliability/attack.py` is a long one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attackers import damaged_run_files, random_configurations, small

from nacre.experiments import named_experiments


@pytest.mark.parametrize("name", sorted(named_experiments()))
def test_impossible_configurations(name: str) -> None:
    outcomes = random_configurations(small(name), np.random.default_rng(0), 25)
    assert not outcomes["FAILED"]
    assert outcomes["refused"] > 10


def test_damaged_run_files(tiny_run: Path) -> None:
    outcomes = damaged_run_files(tiny_run, np.random.default_rng(1), 40)
    assert not outcomes["FAILED"]
    assert outcomes["refused"] > 15
