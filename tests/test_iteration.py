"""Who watches training: `on_iteration`, `quiet`, logging, and the steps of TensorBoard's curves."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from probes import contents
from tensorboardX import event_file_writer
from written import read_events

import nacre
from nacre.experiments import Experiment
from nacre.logs import read_progress_csv


@pytest.fixture(scope="module")
def experiment(tiny: dict[str, int]) -> Experiment:
    # With a checkpoint at the end alone, it matters that a run which is stopped is saved.
    return nacre.make_experiment("pearl/point-robot", **tiny | {"iterations": 3, "checkpoint_every": 3})


@pytest.fixture(scope="module")
def seen() -> list[nacre.Iteration]:
    return []


@pytest.fixture(scope="module")
def reference(experiment: Experiment, seen: list[nacre.Iteration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nacre.train(experiment, tmp_path_factory.mktemp("reference") / "run", on_iteration=seen.append)


def columns(run: Path) -> dict[str, list[float]]:
    table = read_progress_csv(run / "progress.csv")
    return {name: values.tolist() for name, values in table.items() if "Time" not in name}


def assert_same(run: Path, reference: Path) -> None:
    assert columns(run) == columns(reference)
    name = Path("checkpoints", "iteration_000003.npz")
    found, expected = contents(run / name), contents(reference / name)
    assert found.keys() == expected.keys()
    for entry, values in expected.items():
        assert (found[entry] == values).all() if hasattr(values, "all") else found[entry] == values, entry


def test_what_a_callback_is_given(experiment: Experiment, reference: Path, seen: list[nacre.Iteration]) -> None:
    table = read_progress_csv(reference / "progress.csv")
    assert [iteration.complete for iteration in seen] == [1, 2, 3]
    for row, iteration in enumerate(seen):
        assert iteration.run == reference
        assert iteration.experiment == experiment
        assert iteration.columns == {name: values[row] for name, values in table.items()}
        assert iteration.test_return == table["AverageReturn_all_test_tasks"][row]
        assert iteration.environment_steps == table["Number of env steps total"][row]
    assert repr(seen[1]) == f"<iteration 2/3 of {reference}: test return {seen[1].test_return:.6g}>"


def stop(iteration: nacre.Iteration) -> str:
    return "stop"


def fail(iteration: nacre.Iteration) -> None:
    raise ZeroDivisionError("pruned")


def wrong(iteration: nacre.Iteration) -> bool:
    return True


@pytest.mark.parametrize("callback", [stop, fail, wrong])
def test_a_run_that_a_callback_ends_is_saved_and_goes_on(
    experiment: Experiment, reference: Path, tmp_path: Path, callback: Any
) -> None:
    run = tmp_path / "run"
    if callback is stop:
        assert nacre.train(experiment, run, on_iteration=callback) == run
    elif callback is fail:
        with pytest.raises(ZeroDivisionError, match="pruned"):
            nacre.train(experiment, run, on_iteration=callback)
    else:
        with pytest.raises(nacre.NacreError, match=r"^on_iteration returned True; allowed: None, or 'stop' to end"):
            nacre.train(experiment, run, on_iteration=callback)
    assert [path.stem for path in sorted((run / "checkpoints").glob("iteration*"))] == [
        "iteration_000000",
        "iteration_000001",
    ]
    seen = []
    nacre.resume(run, on_iteration=lambda iteration: seen.append(iteration.complete))
    assert seen == [2, 3]
    assert_same(run, reference)


def test_one_of_several_seeds_is_stopped(experiment: Experiment, reference: Path, tmp_path: Path) -> None:
    """The others go on, and it becomes what it would have become."""

    def stop_seed_1(iteration: nacre.Iteration) -> str | None:
        calls.append((iteration.experiment.seed, iteration.complete))
        return "stop" if iteration.experiment.seed == 1 and iteration.complete == 2 else None

    calls: list[tuple[int, int]] = []
    group = nacre.train(experiment, tmp_path / "seeds", seeds=2, on_iteration=stop_seed_1)
    assert calls == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    assert_same(group / "seed-0", reference)
    assert len(columns(group / "seed-1")["Epoch"]) == 2
    nacre.resume(group)
    assert len(columns(group / "seed-1")["Epoch"]) == 3


def test_quiet_training_is_logged(
    experiment: Experiment,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="nacre")
    run = nacre.train(experiment, tmp_path / "run", quiet=True, on_iteration=stop)
    assert capfd.readouterr() == ("", "")
    first, row, last = caplog.messages
    assert first == f"pearl/point-robot, seed 0: {run}"
    assert row.startswith("iteration 1/3 · test return ")
    assert last == f"{run}: stopped as asked after iteration 1, and saved"
    caplog.clear()
    nacre.resume(run)
    assert caplog.messages == capfd.readouterr().out.splitlines()
    assert len(caplog.messages) == 4
    nacre.resume(run, quiet=True)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages[4].startswith(f"{run}: all 3 iterations are complete. For more: nacre resume ")


def test_tensorboard_has_environment_steps(
    reference: Path, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a run goes on in the second in which it was begun."""
    now = time.time()
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: now))

    def curve(run: Path) -> list[tuple[int, float]]:
        return [
            (event.step, value.simple_value)
            for event in read_events(run)
            for value in event.summary.value
            if value.tag == "count/Epoch"
        ]

    steps = columns(reference)["Number of env steps total"]
    assert curve(reference) == list(zip(steps, [0, 1, 2], strict=True))
    run = nacre.train(experiment, tmp_path / "run", on_iteration=stop)
    nacre.resume(run)
    assert sorted(curve(run)) == curve(reference)
    # TensorBoard forgets what was written from these steps on, which is nothing here.
    starts = [event.step for event in read_events(run) if event.HasField("session_log")]
    assert sorted(starts) == [0, steps[0] + 1]
