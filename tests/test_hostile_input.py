"""Files of other runs, sizes beyond the machine, words that are too long or not for a terminal, and signals."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import nacre.__main__
from nacre import files, make_experiment
from nacre.cli import main
from nacre.errors import Interrupted, NacreError, printable
from nacre.estimate import check_memory, estimate
from nacre.files import read_npz, write_npz
from nacre.logs import Console
from nacre.report.comparison import parse_groups
from nacre.report.html import picture
from nacre.run import Run
from nacre.run_folder import read_run
from nacre.signals import SIGNALS
from nacre.training import _signals, resume


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line, expects one sentence on stderr, and gives it."""

    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("nacre: error: ")
        assert error.count("\n") == 1
        assert len(error) < 1500
        assert error[:-1].isprintable()
        return error

    return run


def change(folder: Path, **changes: Any) -> None:
    """Edits experiment.json by hand, and says so."""
    content = json.loads((folder / "experiment.json").read_text())
    values = changes.pop("algorithm", {})
    content["experiment"]["algorithm"].update(values)
    content["experiment"].update(changes.pop("experiment", {}))
    content.update({"checksum": None, **changes})
    (folder / "experiment.json").write_text(json.dumps(content))


def read(run: Path) -> Run:
    return Run(run, *read_run(run))


# What is read is checked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": {"discount": 5.0}}, r"algorithm.discount is 5.0; allowed: more than 0"),
        ({"algorithm": {"context_size": 100_000}}, r"algorithm.context_size is 100000; allowed: at most"),
        ({"experiment": {"iterations": 10**9}}, r"iterations is 1000000000; allowed"),
        ({"experiment": {"name": "\x1b[31m"}}, r"name is '\\x1b\[31m'; allowed"),
        ({"format": True}, r"it names no format"),
        ({"run": 3}, r"run is 3; allowed: text"),
    ],
)
def test_impossible_values_of_a_run(run_copy: Path, changes: dict[str, Any], message: str) -> None:
    change(run_copy, **changes)
    with pytest.raises(NacreError, match=message):
        read_run(run_copy)


def test_tasks_of_a_run(run_copy: Path) -> None:
    tasks = json.loads((run_copy / "experiment.json").read_text())["tasks"]
    for changed, message in (
        (tasks | {"train": [["1.0", "2.0"]] * 3}, "holds something else than numbers"),
        (tasks | {"train": [[10**400, 1]] * 3}, "is a row of numbers"),
        (tasks | {"train": tasks["train"][:2]}, "tasks.train has 2 tasks; allowed: 3"),
        (tasks | {"parameters": ["x", "y", "z"]}, "tasks.parameters is"),
    ):
        change(run_copy, tasks=changed)
        with pytest.raises(NacreError, match=message):
            read_run(run_copy)


def test_any_changed_number_is_noticed(run_copy: Path) -> None:
    path = run_copy / "experiment.json"
    text = path.read_text()
    path.write_text(text.replace('"kl_weight": 0.1', '"kl_weight": 0.3'))
    assert path.read_text() != text
    with pytest.raises(NacreError, match="its checksum is not that of its content"):
        read_run(run_copy)


def test_a_number_that_json_has_not_is_noticed(run_copy: Path) -> None:
    path = run_copy / "experiment.json"
    content = json.loads(path.read_text())
    content["versions"]["cpu"] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(NacreError, match="its checksum is not that of its content"):
        read_run(run_copy)


@pytest.mark.parametrize("dtype", ["caf\udce9", "float33"])
def test_an_unknown_dtype_of_an_array(run_copy: Path, dtype: str) -> None:
    path = run_copy / "checkpoints" / "iteration_000002.npz"
    arrays = read_npz(path)
    manifest = json.loads(arrays["manifest"].tobytes())
    next(facts for facts in manifest["leaves"].values() if "dtype" in facts and "key" not in facts)["dtype"] = dtype
    write_npz(path, arrays | {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)})
    with pytest.warns(UserWarning, match="is of an unknown dtype"):
        assert read(run_copy).position.iteration < 2


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        ({"iterations": -1}, "its iterations is -1"),
        ({"updates": 10**30}, "its updates is 1000000000"),
        ({"phase": 9}, "fit no moment of an iteration"),
        ({"phase_steps": 1}, "fit no moment of an iteration"),
        ({"totals": [1]}, r"its totals is \[1\]"),
        ({"seconds": "long"}, "its seconds is 'long'"),
        ({"seconds": 10**400}, "its seconds is 10+"),
        ({"totals": {"x": 10**400}}, "its totals is"),
        ({"run": "other"}, "is of another run"),
    ],
)
def test_counters_of_a_checkpoint(run_copy: Path, progress: dict[str, Any], message: str) -> None:
    path = run_copy / "checkpoints" / "iteration_000002.npz"
    arrays = read_npz(path)
    manifest = json.loads(arrays["manifest"].tobytes())
    manifest["progress"].update(progress)
    write_npz(path, arrays | {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)})
    with pytest.raises(NacreError, match=message):
        read(run_copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visit_tasks": lambda array: array + 3}, "is to task"),
        ({"visit_tasks": lambda array: -array - 1}, "is to task -"),
        ({"episode_lengths": lambda array: array + 1}, "its observations are"),
        ({"episode_lengths": lambda array: -array}, "lengths of its episodes are impossible"),
        ({"observations": lambda array: array[:, :1]}, r"has observations of shape \(1,\)"),
        ({"actions": lambda array: array.astype(str)}, "its actions are <U"),
        ({"run": lambda array: array[::-1]}, "is of another run"),
    ],
)
def test_segments_of_another_run(run_copy: Path, changes: dict[str, Any], message: str) -> None:
    path = run_copy / "replay" / "segment_000001.npz"
    arrays = read_npz(path)
    write_npz(path, arrays | {name: np.ascontiguousarray(made(arrays[name])) for name, made in changes.items()})
    with pytest.raises(NacreError, match=message):
        read(run_copy)


# Files of another run


def test_a_checkpoint_of_another_run_of_the_same_sizes(run_copy: Path, says: Callable[..., str]) -> None:
    change(run_copy, run="0123456789abcdef")
    for command in ("resume", "evaluate"):
        assert "iteration_000002.npz is of another run than experiment.json" in says(command, run_copy)


def test_a_run_whose_configuration_was_changed_under_it(run_copy: Path) -> None:
    change(run_copy, algorithm={"discount": 0.5})
    with pytest.raises(NacreError, match=r"iteration_000002.npz was written under another configuration"):
        read(run_copy)
    change(run_copy, algorithm={"discount": 0.99}, experiment={"threads": 2, "iterations": 7})
    read(run_copy)  # which change nothing that is learned


def test_an_edited_progress_csv_is_told(run_copy: Path) -> None:
    path = run_copy / "progress.csv"
    text = path.read_text()
    path.write_text(text.replace(text.splitlines()[1].split(",")[0], "0.125", 1))
    with pytest.warns(UserWarning, match="are not those that this run wrote"):
        read(run_copy)


def test_missing_checkpoints_are_told(run_copy: Path) -> None:
    (run_copy / "checkpoints" / "iteration_000002.npz").unlink()
    assert any("1 row(s) ahead of iteration_000001" in note for note in read(run_copy).notes)


def test_a_run_without_a_name_goes_on(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As those of earlier versions are."""
    content = json.loads((run_copy / "experiment.json").read_text())
    del content["run"], content["checksum"]
    (run_copy / "experiment.json").write_text(json.dumps(content))
    for path in [*(run_copy / "checkpoints").iterdir()]:
        arrays = read_npz(path)
        manifest = json.loads(arrays["manifest"].tobytes())
        del manifest["progress"]["run"], manifest["progress"]["log"]
        write_npz(path, arrays | {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)})
    for path in (run_copy / "replay").iterdir():
        write_npz(path, {name: array for name, array in read_npz(path).items() if name != "run"})
    resume(run_copy, iterations=3)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("its files do not say which run they are of") == 1


# Sizes


def test_an_experiment_that_does_not_fit() -> None:
    experiment = make_experiment("pearl/cheetah-vel", iterations=1_000_000, tasks_per_iteration=10_000)
    with pytest.raises(NacreError, match=r"needs about .* TB of memory .* up to \d+ would fit"):
        check_memory(experiment, available=16e9)
    wide = make_experiment("pearl/point-robot", hidden_size=10_000, batch_size=1_000_000)
    with pytest.raises(NacreError, match=r"needs about .* would fit"):
        check_memory(wide, available=16e9)
    usual = make_experiment("pearl/point-robot")
    assert check_memory(usual, available=16e9) == estimate(usual)
    with pytest.raises(NacreError, match=r"for 1000 seeds\), .*; seeds up to \d+ would fit"):
        check_memory(usual, 1000, available=16e9)


def test_the_estimate_is_what_is_allocated(tiny_run: Path) -> None:
    made = read(tiny_run)
    arrays = sum(leaf.nbytes for leaf in made.memory.arrays)
    assert estimate(made.experiment).replay == pytest.approx(arrays, rel=0.01)


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Callable[..., str]) -> None:
    out = tmp_path / "run"
    main(["train", "pearl/point-robot", "--dry-run", "--out", str(out)])
    assert "memory, about: " in capsys.readouterr().out
    assert "seeds is 100000000; allowed: 1 to 10000" in says("train", "pearl/point-robot", "--seeds", "100000000")
    dry = ("train", "pearl/point-robot", "--dry-run")
    assert "workers is 99999999; allowed: 0 to 10000" in says(*dry, "--workers", "99999999")
    assert "ray_address is 'here:1' without workers" in says(*dry, "--ray-address", "here:1")
    assert "worker_timeout is 0.0; allowed" in says(*dry, "--workers", "1", "--worker-timeout", "0")
    assert not out.exists()


# Words


def test_words_that_are_too_long(tmp_path: Path, says: Callable[..., str]) -> None:
    digits, name = "9" * 5000, "x" * 300
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "digits.json").write_text('{"experiment": {"seed": ' + digits + "}}")
    (tmp_path / "tasks.json").write_text(f"[[{'9' * 400}, 1]]")
    assert "deep.json is nested too deeply" in says("train", "--config", tmp_path / "deep.json")
    assert "a number has too many digits" in says("train", "--config", tmp_path / "digits.json")
    for command in ("resume", "evaluate", "report", "compare", "repair", "import"):
        assert "File name too long" in says(command, name)
    assert "File name too long" in says("train", "pearl/point-robot", "--warm-start", name)
    assert "File name too long" in says("train", "pearl/point-robot", "--out", name)
    assert "not understood" in says("train", "pearl/point-robot", "--seed", digits)
    assert "not understood" in says("train", "pearl/point-robot", "--precision", digits)
    assert "not understood" in says("resume", "run", "\x1b[31m")


def test_tasks_of_too_many_digits(tiny_run: Path, tmp_path: Path, says: Callable[..., str]) -> None:
    (tmp_path / "tasks.json").write_text(f"[[{'9' * 400}, 1]]")
    assert "is a row of numbers" in says("evaluate", tiny_run, "--tasks", tmp_path / "tasks.json")


def test_a_long_list_of_runs(tmp_path: Path) -> None:
    runs = [tmp_path / f"run-{number}" for number in range(800)]
    assert parse_groups([f"base={','.join(map(str, runs))}"]) == {"base": runs}


def test_foreign_names_do_not_reach_the_terminal(tmp_path: Path, says: Callable[..., str]) -> None:
    name = tmp_path / "x\x1b[31mred\x9b2J\u202e"
    assert r"x\x1b[31mred\x9b2J\u202e does not exist" in says("resume", name)
    broken = tmp_path / os.fsdecode(b"caf\xe9")
    assert r"caf\udce9 does not exist" in says("evaluate", broken)
    assert printable("a\tb\n") == "a\\tb\n"


def test_names_that_matplotlib_would_read_as_formulas() -> None:
    figure = Figure()
    figure.subplots().set_title(r"cost $\frac{$")
    assert picture(figure, "", "").svg


# Signals and terminals


def test_every_signal_saves(tmp_path: Path) -> None:
    assert signal.SIGHUP in SIGNALS
    with _signals(tmp_path, lambda: None) as received:
        signal.raise_signal(signal.SIGHUP)
        assert received == [signal.SIGHUP]


def test_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals(tmp_path, lambda: None) as received:
            signal.raise_signal(signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_is_told(tmp_path: Path) -> None:
    def interrupted_twice() -> None:
        with _signals(tmp_path, lambda: None):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="Stopped without saving"):
        interrupted_twice()


def test_ctrl_c_while_starting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nacre.cli.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        nacre.__main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "nacre: stopped by Ctrl-C\n"


def test_a_closed_terminal_does_not_end_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdout", Closed())
    with Console(3) as console:
        console.message("Hello")
        console.phase("collect")
        console.advance(3)
        console.iteration({})


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("experiment.json", ["evaluate"]),
        ("checkpoints/best.npz", ["evaluate", "--checkpoint", "best"]),
        ("progress.csv", ["resume"]),
        ("replay/segment_000000.npz", ["resume"]),
    ],
)
def test_a_pipe_in_place_of_a_file(run_copy: Path, says: Callable[..., str], name: str, command: list[str]) -> None:
    (run_copy / name).unlink()
    os.mkfifo(run_copy / name)
    assert f"{run_copy / name} is a pipe or a device; allowed: a file" in says(*command, run_copy)


def test_a_file_that_unpacks_to_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(tmp_path / "zeros.npz", {"zeros": np.zeros(10**6)}, compress=True)
    assert read_npz(tmp_path / "zeros.npz")["zeros"].shape == (10**6,)
    monkeypatch.setattr(files, "memory_of_machine", lambda: 1e6)
    with pytest.raises(NacreError, match="are said to have 8000128 bytes, which no memory here holds"):
        read_npz(tmp_path / "zeros.npz")
