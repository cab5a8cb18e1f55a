"""A short attack on a run and on every named experiment; `benchmarks/reliability/attack.py` is a long one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attackers import INPUTS, random_configurations, small
from killers import Storm, serve
from probes import load_script

from nacre.experiments import named_experiments


@pytest.mark.parametrize("name", sorted(named_experiments()))
def test_random_configurations(name: str) -> None:
    outcomes = random_configurations(small(name), np.random.default_rng(0), 3)
    assert not outcomes["FAILED"]
    assert outcomes["refused"]


@pytest.mark.parametrize(("kind", "n"), [(kind, 40 if kind == "files of a run" else 15) for kind in INPUTS])
def test_hostile_input(kind: str, n: int, tiny_run: Path) -> None:
    outcomes = INPUTS[kind](tiny_run, np.random.default_rng(1), n)
    assert not outcomes["FAILED"]
    assert outcomes["refused"] > n / 3


KILLED = ("train", "evaluate")


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    serve()
    folder = tmp_path_factory.mktemp("storm") / "oracle"
    return Storm(small("oracle/point-robot-quick"), folder, commands=KILLED)


@pytest.mark.parametrize("command", KILLED)
def test_killed_again_and_again(storm: Storm, command: str) -> None:
    """Until it is done, and then all is as it is without kills."""
    outcome = storm.attack(command, np.random.default_rng(2), command.replace(" ", ""), most=2)
    assert outcome.failure is None
    assert outcome.kills


def test_the_page_has_the_figures_of_the_results() -> None:
    assert load_script("benchmarks/reliability/table.py").main(["--check"]) == 0
