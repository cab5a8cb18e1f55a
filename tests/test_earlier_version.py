"""A run that an earlier version began: it is read as ever, and goes on to its end.

`data/run-of-earlier-version` was written before phases, keys by trial, and journals of format 2. It was interrupted in
the third of its four iterations, after 30 of 40 gradient steps.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import stop_after

import nacre
from nacre import make_experiment, resume, train
from nacre.checkpoint import read_progress
from nacre.errors import Interrupted
from nacre.files import read_npz, write_npz
from nacre.journal import read_segment
from nacre.report import write_report
from nacre.run import Run
from nacre.run_folder import read_run

OLD = Path(__file__).parent / "data" / "run-of-earlier-version"
INSIDE = "iteration_000002_update_000030"
SENTENCE = (
    "An earlier version of nacre began this run. Its results count, but from here on the random numbers are those of "
    "this version, so the run becomes another than it would have become there."
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def said(output: str) -> int:
    """How often the sentence was printed, wherever its lines were broken."""
    return " ".join(output.split()).count(SENTENCE)


def test_it_is_evaluated_loaded_and_reported_without_a_word(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = nacre.evaluate(old)
    assert evaluation.returns_by_episode.shape == (2, 3)
    for checkpoint, found in (("latest", INSIDE), ("best", "best"), ("iteration_000002", "iteration_000002")):
        agent = nacre.load(old, checkpoint)
        assert agent.checkpoint.stem == found
        agent.begin_trial()
        agent.act(np.zeros(2))
        agent.observe(np.ones(2), -1.0, False, True)
        assert (agent.belief.variance < 1).all()
    page = write_report([old])
    assert page.exists()
    captured = capsys.readouterr()
    assert said(captured.out + captured.err) == 0
    assert "earlier version" not in page.read_text()


def test_what_it_has_collected_and_counted(old: Path) -> None:
    run = Run(old, *read_run(old))
    assert run.position == (2, 1, 30)
    assert (run._steps, run._rollouts, int(run.state.updates)) == (360, 18, 110)
    assert run.memory.transitions == 360


def test_it_goes_on_to_the_end(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = Path(shutil.copytree(old, tmp_path / "again"))
    resume(old)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"pearl/point-robot, seed 0: {old}", f"going on from {INSIDE}", SENTENCE]
    assert said("\n".join(lines)) == 1

    before, after = rows(OLD), rows(old)
    assert list(after[0]) == list(before[0])  # no column is new, and none is lost
    assert after[:2] == before
    assert all(math.isfinite(float(value)) for row in after for value in row.values())
    assert [row["Number of train steps total"] for row in after] == ["40", "80", "120", "160"]
    assert [row["Number of env steps total"] for row in after] == ["200", "280", "360", "440"]
    assert [row["Number of rollouts total"] for row in after] == ["10", "14", "18", "22"]
    times = [float(row["Total Train Time (s)"]) for row in after]
    assert times == sorted(times)
    for name in ("segment_000000.npz", "segment_000001.npz"):
        assert (old / "replay" / name).read_bytes() == (OLD / "replay" / name).read_bytes()
    for found, expected in zip(read_segment(old / "replay", 2), read_segment(OLD / "replay", 2), strict=True):
        for episode, same in zip(found.episodes, expected.episodes, strict=True):
            np.testing.assert_array_equal(episode.actions, same.actions)

    # Its best checkpoint stays, unless one is better.
    best = max(float(row["AverageReturn_all_test_tasks"]) for row in after)
    assert read_progress(old / "checkpoints" / "best.npz")["AverageReturn_all_test_tasks"] == pytest.approx(best)

    # However often it is interrupted on the way.
    for call in (2, 7):
        with stop_after(call + 1), pytest.raises(Interrupted):
            resume(again)
    resume(again)
    assert_same(again, old)


def assert_same(run: Path, reference: Path) -> None:
    segments = [f"replay/segment_{iteration:06d}.npz" for iteration in range(4)]
    for file in ("checkpoints/iteration_000004.npz", "checkpoints/best.npz", *segments):
        found, expected = read_npz(run / file), read_npz(reference / file)
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"manifest"}:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{file}: {name}")
    for found, expected in zip(rows(run), rows(reference), strict=True):
        assert {c: v for c, v in found.items() if "Time" not in c} == {
            c: v for c, v in expected.items() if "Time" not in c
        }


def test_its_best_checkpoint_is_respected(old: Path) -> None:
    """One that none of this version reaches."""
    best = old / "checkpoints" / "best.npz"
    arrays = read_npz(best)
    manifest = json.loads(arrays["manifest"].tobytes())
    manifest["progress"]["AverageReturn_all_test_tasks"] = 0.0
    write_npz(best, arrays | {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)})
    content = best.read_bytes()
    resume(old)
    assert best.read_bytes() == content


def test_interrupted_after_its_last_gradient_step(old: Path) -> None:
    """What the steps of the iteration reported is not known any more; the run goes on all the same."""
    path = old / "checkpoints" / f"{INSIDE}.npz"
    arrays = read_npz(path)
    manifest = json.loads(arrays["manifest"].tobytes())
    manifest["progress"]["updates"] = 40
    text = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    write_npz(path.with_name("iteration_000002_update_000040.npz"), arrays | {"manifest": text})
    resume(old)
    third, fourth = rows(old)[2:]
    unknown = {column for column, value in third.items() if math.isnan(float(value))}
    assert unknown == set(list(third)[:27])
    assert all(math.isfinite(float(value)) for value in fourth.values())


def test_a_warm_start_from_it(old: Path, tiny: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    experiment = make_experiment("pearl/point-robot", **tiny | {"iterations": 1, "warm_start": str(old)})
    run = train(experiment, tmp_path / "new")
    assert said(capsys.readouterr().out) == 0  # the new run is of this version
    begun, source = (
        read_npz(path) for path in (run / "checkpoints" / "iteration_000000.npz", old / "checkpoints" / f"{INSIDE}.npz")
    )
    taken = [name for name in source if name.startswith(("state.trained.networks", "state.trained.target_value"))]
    assert len(taken) > 30
    for name in taken:
        np.testing.assert_array_equal(begun[name], source[name])
    resume(run, iterations=2)
    assert said(capsys.readouterr().out) == 0
