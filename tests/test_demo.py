"""`make demo`, at a size of seconds."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from probes import load_script
from rich.console import Console

from nacre import Experiment, Interrupted, make_experiment
from nacre.evaluation import Evaluation, TrialResult
from nacre.protocol import Protocol
from nacre.types import Episode

demo = load_script("examples/demo.py")


def rows(text: str) -> list[list[str]]:
    """The cells of the table's rows that begin with a number."""
    cells = [[cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in text.splitlines()]
    return [row for row in cells if row and row[0].isdigit()]


def test_the_demo_prints_three_returns_and_draws(
    tiny: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    picture = demo.demo(make_experiment("pearl/point-robot", **tiny), out)
    text = capsys.readouterr().out
    table = rows(text)
    assert [row[:2] for row in table] == [["1", "nothing, a guess"], ["2", "episode 1"], ["3", "episodes 1–2"]]
    for row in table:
        assert -60 < float(row[2]) < 0 <= float(row[3])
    assert f"picture     {picture}" in text
    assert f"nacre evaluate {out}" in text
    assert f"nacre resume {out} --iterations 4" in text
    assert picture.is_relative_to(out)
    assert 30_000 < picture.stat().st_size < 300_000
    height, width, _ = imread(picture).shape
    assert width > 1.5 * height > 900


def test_the_demo_runs_beside_older_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "demo", lambda experiment, out: print(experiment.seed, out))
    assert demo.main(["--seed", "7"]) == 0
    assert re.fullmatch(r"7 runs/demo-[-\d]+\n", capsys.readouterr().out)
    assert demo.main(["--out", "here"]) == 0
    assert capsys.readouterr().out == "0 here\n"


def test_an_occupied_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path} is not empty: choose another folder\n"


def test_ctrl_c_ends_with_the_run_s_own_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(experiment: Experiment, out: Path) -> Path:
        raise Interrupted(out, signal.SIGINT)

    monkeypatch.setattr(demo, "train", interrupt)
    assert demo.main(["--out", str(tmp_path / "run")]) == 130
    assert f"nacre resume {tmp_path / 'run'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("exploration", "last", "sentence"),
    [
        (1, 0.1, "ends 1.00 away from the goal, after inference 0.10: it has learnt to infer the goal."),
        (1, 0.8, "ends 1.00 away from the goal, after inference 0.80: it needs more training."),
        (0, 0.1, "starts 2.00 away from the goal and ends 1.00 away, in episode 3 0.10: it has learnt to infer"),
        (0, 0.6, "starts 2.00 away from the goal and ends 1.00 away, in episode 3 0.60: it needs more training."),
    ],
)
def test_the_sentence_fits_the_numbers(
    exploration: int, last: float, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [1.0, 0.5, last]
    episodes = [
        Episode(
            observations=np.array([[0.25, 2], [0.25, end]], np.float32),
            actions=np.zeros((1, 2), np.float32),
            rewards=np.array([-end], np.float32),
            sparse_rewards=None,
            terminated=False,
        )
        for end in ends
    ]
    goals = np.array([[0.25, 0.0], [0.25, 0.0]])
    trial = TrialResult(returns=(-20.0, -10.0, -5.0), lengths=(1, 1, 1), successes=None)
    protocol = Protocol("deterministic-context", trials=1, steps=3, episodes=1, exploration_episodes=exploration)
    evaluation = Evaluation(protocol, goals, ((trial,), (trial,)))
    demo.print_returns(Console(file=sys.stdout, width=120), evaluation, [[episodes], [episodes]], goals)
    text = capsys.readouterr().out
    assert [row[2:] for row in rows(text)] == [["-20.0", "1.00"], ["-10.0", "0.50"], ["-5.0", f"{last:.2f}"]]
    assert [row[1] for row in rows(text)] == (
        ["nothing, a guess", "episode 1", "episodes 1–2"]
        if exploration
        else ["its own steps so far", "episode 1, and its own steps", "episodes 1–2, and its own steps"]
    )
    assert sentence in " ".join(text.split())
