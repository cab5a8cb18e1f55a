"""The script that compares how runs adapt from episode to episode."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from probes import load_script

from nacre import Evaluation, NacreError
from nacre.evaluation import Protocol, TrialResult

script = load_script("benchmarks/adaptation.py")


def evaluation(successes: tuple[tuple[bool, ...], ...] | None) -> Evaluation:
    """Two tasks, two trials of each, three episodes; a success earns 4."""
    rows = successes or ((False, True, True),) * 4
    trials = [
        TrialResult(tuple(4.0 * success for success in row), (20,) * 3, row if successes is not None else None)
        for row in rows
    ]
    protocol = Protocol("deterministic-context", trials=2, steps=60, episodes=1, exploration_episodes=1)
    return Evaluation(protocol, np.array([[1.0, 0.0], [0.0, 1.0]]), (tuple(trials[:2]), tuple(trials[2:])))


MIXED = ((False, True, False), (False, False, False), (True, True, True), (False, False, True))


def test_what_happens_in_each_episode() -> None:
    columns = script.adaptation(evaluation(MIXED))
    np.testing.assert_allclose(columns[script.MET_BY_NOW], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(columns[script.MET], [0.25, 0.5, 0.5])
    np.testing.assert_allclose(columns[script.RETURN], [1, 2, 2])


def test_a_family_that_defines_no_success_is_refused() -> None:
    with pytest.raises(NacreError, match="defines no success"):
        script.adaptation(evaluation(None))


def test_the_files_hold_the_figures(tmp_path: Path) -> None:
    found = evaluation(MIXED)
    results = {"one": script.adaptation(found), "other": script.adaptation(evaluation(((False,) * 3,) * 4))}
    script.write(results, found, "the command", tmp_path / "new")
    with (tmp_path / "new" / "adaptation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["episode"], row[script.MET_BY_NOW]) for row in rows[2:4]] == [
        ("one", "3", "0.75"),
        ("other", "1", "0"),
    ]
    page = (tmp_path / "new" / "ADAPTATION.md").read_text()
    assert "| one: met the goal by now | 25% | 50% | 75% |" in page
    assert "2 test tasks, 2 trials of each" in page
    assert "`the command`" in page
    assert (tmp_path / "new" / "adaptation.png").read_bytes().startswith(b"\x89PNG")


def test_each_run_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["runs/first", "--results", "nowhere"])
    assert "NAME=RUN" in capsys.readouterr().err


def test_a_missing_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([f"one={tmp_path / 'none'}", "--results", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none'} does not exist\n"
    assert not (tmp_path / "results").exists()
