"""What a user can do wrong: one sentence that names the field, exit code 2, no traceback, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nacre
import nacre.run_evaluation
from nacre.cli import main
from nacre.errors import NacreError


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line, expects it to fail as it should, and gives what it said."""

    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        assert exit_info.value.code == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return captured.err

    return run


@pytest.fixture
def says(fails: Callable[..., str]) -> Callable[..., str]:
    """As `fails`, where the message is a sentence of nacre's own."""

    def run(*arguments: str | Path) -> str:
        error = fails(*arguments)
        assert error.startswith("nacre: error: ")
        assert error.count("\n") == 1
        return error.removeprefix("nacre: error: ").rstrip("\n")

    return run


TRAIN_ERRORS = [
    ("pearl/cheeta-vel", "ALGORITHM/FAMILY): did you mean pearl/cheetah-vel"),
    ("soccer", "ALGORITHM/FAMILY): allowed: "),
    ("", "EXPERIMENT is missing; allowed: pearl/point-robot"),
    ("pearl/point-robot --iterations -2", "iterations is -2; allowed: at least 1"),
    ("pearl/point-robot --train-tasks 0", "train_tasks is 0; allowed: at least 1"),
    ("pearl/point-robot --test-tasks=-1", "test_tasks is -1; allowed: at least 1"),
    ("pearl/cheetah-dir --train-tasks 3", "train_tasks is 3; allowed for cheetah-dir: at most 2"),
    ("pearl/point-robot --prior-steps=-5", "algorithm.prior_steps is -5; allowed: at least 0"),
    ("pearl/point-robot --context-size 401", "algorithm.context_size is 401; allowed: at most 400, the context"),
    ("pearl/point-robot --exploration-episodes 3", "algorithm.exploration_episodes is 3; allowed: at most 2"),
    ("pearl/point-robot --kl-weight nan", "algorithm.kl_weight is nan; allowed: a finite number"),
    ("pearl/point-robot --discount 1.5", "algorithm.discount is 1.5; allowed: more than 0 and at most 1"),
    ("pearl/point-robot --seed -1", "seed is -1; allowed: at least 0"),
    ("pearl/point-robot --threads 0", "threads is 0; allowed: at least 1"),
    ("pearl/point-robot --family point-robt", "register_family, or nacre --import MODULE): did you mean point-robot"),
    ("pearl/point-robot --name ../up", "name is '../up'; allowed"),
    ("pearl/point-robot --device gpu", "device 'gpu' was asked for, and JAX finds only: cpu"),
    ("pearl/point-robot --config missing.json", "cannot read missing.json: No such file"),
    ("--no-probabilistic-context pearl/cheeta-vel", "did you mean pearl/cheetah-vel"),
    ("pearl/point-robot --iterations 100000000", "iterations is 100000000; allowed: at least 1 and at most 1000000"),
    ("pearl/point-robot --batch-size 1000000000", "algorithm.batch_size is 1000000000; allowed"),
    ("pearl/point-robot --hidden-size 200000", "algorithm.hidden_size is 200000; allowed"),
    ("pearl/point-robot --latent-size 9223372036854775808", "algorithm.latent_size is 9223372036854775808; allowed"),
    ("--config missing.json", "cannot read missing.json: No such file"),
]


@pytest.mark.parametrize(("arguments", "message"), TRAIN_ERRORS)
def test_train_refuses(says, tmp_path, arguments, message):
    assert message in says("train", *arguments.split(), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train pearl/point-robot --kl-weigth 3", ("--kl-weigth", "--kl-weight")),
        ("train pearl/point-robot --sed 3", ("--sed", "--seed")),
        ("train pearl/point-robot --nonsense-without-neighbour", ("--nonsense-without-neighbour",)),
        ("train pearl/point-robot --iterations 2.5", ("--iterations", "2.5", "INT")),
        ("train pearl/point-robot --kl-weight much", ("--kl-weight", "much", "FLOAT")),
        ("train pearl/point-robot --precision float16", ("--precision", "float16", "bfloat16")),
        ("train pearl/point-robot --iterations", ("--iterations",)),
        ("train pearl/point-robot pearl/cheetah-vel", ("pearl/cheetah-vel",)),
        ("evaluate run --checkpont best", ("--checkpont", "--checkpoint")),
        ("resume", ("RUN",)),
        ("trian", ("trian", "train")),
    ],
)
def test_arguments_that_are_not_understood(fails, arguments, words):
    error = fails(*arguments.split())
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ('{"env_name": "cheetah-vle"}', "unknown env_name 'cheetah-vle': did you mean cheetah-vel"),
        ('{"algo_params": {"kl_lamda": 1}}', "unknown key: algo_params.kl_lamda = 1 (did you mean kl_lambda?)"),
        ('{"algo_params": {"kl_lambda": "big"}}', "old.json: algo_params.kl_lambda is 'big'; allowed: a finite number"),
        ('{"algo_params": {"recurrent": true}}', "algo_params.recurrent is true; allowed: false"),
    ],
)
def test_old_configuration_files(says, tmp_path, text, message):
    (tmp_path / "old.json").write_text(text)
    assert message in says("train", "--config", tmp_path / "old.json", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_output_folder_in_use(says, run_copy, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")}
    assert f"continue it with: nacre resume {run_copy}" in says("train", "pearl/point-robot", "--out", run_copy)
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "other is not empty" in says("train", "pearl/point-robot", "--out", tmp_path / "other")


def test_output_folder_that_cannot_be_made(says, tmp_path):
    (tmp_path / "file").touch()
    assert "file: File exists" in says("train", "pearl/point-robot", "--out", tmp_path / "file")
    assert "Not a directory" in says("train", "pearl/point-robot", "--out", tmp_path / "file" / "run")


def test_read_only_folder(says, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:  # to whom no mode forbids anything; no one may make folders here:
        folder = Path("/proc/self")
    error = says("train", "pearl/point-robot", "--out", folder / "run")
    assert f"cannot make the folder {folder / 'run'}: " in error


def test_not_a_run(says, tmp_path):
    for command in ("resume", "evaluate"):
        assert f"{tmp_path / 'none'} does not exist" in says(command, tmp_path / "none")
        assert f"{tmp_path} is not a run folder: it has no experiment.json" in says(command, tmp_path)


def test_damaged_experiment_file(says, run_copy):
    path = run_copy / "experiment.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert f"{path} is damaged" in says("evaluate", run_copy)
    content = json.loads(text)
    content["experiment"]["sead"] = 1
    path.write_text(json.dumps(content))
    assert "'sead': did you mean seed" in says("resume", run_copy)


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_missing_checkpoints(says, run_copy, command):
    shutil.rmtree(run_copy / "checkpoints")
    assert f"{run_copy / 'checkpoints'} has no checkpoint" in says(command, run_copy)


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_truncated_checkpoints(says, run_copy, command):
    for path in (run_copy / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    error = says(command, run_copy)
    assert "no intact checkpoint" in error
    assert "iteration_000001.npz is damaged" in error
    assert "iteration_000002.npz is damaged" in error


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_checkpoint_of_another_experiment(says, run_copy, command):
    path = run_copy / "experiment.json"
    content = json.loads(path.read_text())
    content["experiment"]["algorithm"]["hidden_size"] = 16
    content["checksum"] = None
    path.write_text(json.dumps(content))
    error = says(command, run_copy)
    assert "iteration_000002.npz is of another experiment" in error
    assert "float32" in error  # which array, and its shapes


def test_something_else_than_a_checkpoint(says, run_copy, tmp_path):
    np.savez(tmp_path / "array.npz", weights=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("array.npz", "text.npz"):
        assert "was not written by nacre" in says("evaluate", run_copy, "--checkpoint", tmp_path / name)
    error = says("evaluate", run_copy, "--checkpoint", "iteration_000003")
    assert "has no checkpoint 'iteration_000003': did you mean iteration_00000" in error


def test_corrupt_journal_segment(says, run_copy):
    path = run_copy / "replay" / "segment_000001.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert f"{path} is damaged" in says("resume", run_copy)
    path.unlink()
    assert "segment_000001.npz" in says("resume", run_copy)
    main(["evaluate", str(run_copy)])  # which needs no journal


def test_full_disk_while_training(says, run_copy, monkeypatch):
    """Writing fails in the checkpoint (on a device that is full) and in the journal; the run goes on afterwards."""
    before = {path: path.read_bytes() for path in (run_copy / "checkpoints").iterdir()}
    checkpoint = run_copy / "checkpoints" / "iteration_000003.npz"
    segment = run_copy / "replay" / "segment_000002.npz"

    def fill_the_disk(source: Path, target: Path) -> None:
        source.rename(target)
        if target == segment:
            checkpoint.with_name(f"{checkpoint.name}.tmp").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr("nacre.files.os.replace", fill_the_disk)
        assert f"cannot write {checkpoint}: No space left on device" in says("resume", run_copy, "--iterations", "3")

    def replace(source: Path, target: Path) -> None:
        if target == segment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("nacre.files.os.replace", replace)
        assert f"cannot write {segment}: No space left on device" in says("resume", run_copy)
    assert not segment.exists()
    assert {path: path.read_bytes() for path in before} == before
    main(["resume", str(run_copy)])
    assert checkpoint.exists()


@pytest.mark.parametrize("own_file", [False, True])
def test_full_disk_while_evaluating(run_copy, tmp_path, monkeypatch, capsys, own_file):
    """What was played is shown all the same, and nothing else is lost."""
    path = run_copy / "evaluations" / "iteration_000002-test-deterministic-context.json"
    if own_file:
        path = tmp_path / "results" / "mine.json"

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nacre.files.os.replace", full)
    with pytest.raises(SystemExit) as exit_info:
        main(["evaluate", str(run_copy), *(["--out", str(path)] if own_file else [])])
    assert exit_info.value.code == 2
    output, errors = capsys.readouterr()
    assert "Return of each episode" in output
    assert errors == f"nacre: error: cannot write {path}: No space left on device\n"
    assert list(path.parent.iterdir()) == []


def test_evaluations_is_a_file(says, run_copy):
    (run_copy / "evaluations").touch()
    assert "evaluations: File exists" in says("evaluate", run_copy)


def refuse(code: int) -> Callable[..., None]:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("has_folder", [False, True])
def test_evaluating_a_run_that_is_read_only(run_copy, tmp_path, monkeypatch, capsys, code, has_folder):
    """It is said before anything is played, the result is shown all the same, and --out writes it elsewhere."""
    played = []
    play_trials = nacre.run_evaluation.play_trials
    monkeypatch.setattr(
        "nacre.run_evaluation.play_trials", lambda *args, **keeps: played.append(args) or play_trials(*args, **keeps)
    )
    if has_folder:
        (run_copy / "evaluations").mkdir()
        patched = "nacre.files.claim", refuse(code)
    else:
        patched = "nacre.files.Path.mkdir", refuse(code)
    with monkeypatch.context() as patch:
        patch.setattr(*patched, raising=False)
        with pytest.warns(UserWarning, match=r"^cannot .*evaluations.*; the result is only shown \(--out FILE\.json "):
            main(["evaluate", str(run_copy)])
        output = capsys.readouterr().out
        assert "Return of each episode" in output
        assert output.splitlines()[-1] == "Not written"
        with pytest.warns(UserWarning, match="the result is only shown"):
            evaluation = nacre.evaluate(run_copy)
        assert len(evaluation.trials) == 2
        assert len(played) == 2
        with pytest.raises(NacreError, match=r"^cannot .*evaluations.*; --out FILE\.json writes elsewhere$"):
            nacre.evaluate(run_copy, video=True)
        assert len(played) == 2
    before = sorted(run_copy.rglob("*"))
    out = tmp_path / "results" / "mine.json"
    for _ in range(2):  # the second time it is replaced
        main(["evaluate", str(run_copy), "--out", str(out)])
        assert capsys.readouterr().out.splitlines()[-1] == f"Written to {out}"
    assert json.loads(out.read_text())["checkpoint"] == "iteration_000002"
    assert sorted(run_copy.rglob("*")) == before
    assert sorted(out.parent.iterdir()) == [out]


def test_impossible_files_for_a_result(says, run_copy, tmp_path):
    assert "out is 'mine.csv'; allowed: the name of a file that ends in .json" in says(
        "evaluate", run_copy, "--out", "mine.csv"
    )
    (tmp_path / "folder.json").mkdir()
    assert "folder.json is a folder" in says("evaluate", run_copy, "--out", tmp_path / "folder.json")


def test_two_evaluations_at_once(run_copy, monkeypatch):
    """Each writes a file of its own, though neither was there when the other chose a name."""
    play_trials = nacre.run_evaluation.play_trials

    def play_meanwhile(*args: Any, **keeps: Any) -> Any:
        monkeypatch.setattr("nacre.run_evaluation.play_trials", play_trials)
        nacre.evaluate(run_copy, seed=3)
        return play_trials(*args, **keeps)

    monkeypatch.setattr("nacre.run_evaluation.play_trials", play_meanwhile)
    nacre.evaluate(run_copy)
    contents = [json.loads(path.read_text()) for path in sorted((run_copy / "evaluations").iterdir())]
    assert [content["seed"] for content in contents] == [3, 0]


def test_what_a_killed_evaluation_had_reserved_is_taken_over(run_copy):
    nacre.evaluate(run_copy)
    (result,) = (run_copy / "evaluations").iterdir()
    result.unlink()
    result.with_name(f"{result.name}.tmp").touch()
    nacre.evaluate(run_copy)
    assert list((run_copy / "evaluations").iterdir()) == [result]


@pytest.mark.parametrize("iterations", ["0", "-3", "1"])
def test_resume_with_impossible_iterations(says, run_copy, iterations):
    assert "iterations" in says("resume", run_copy, "--iterations", iterations)
    assert json.loads((run_copy / "experiment.json").read_text())["experiment"]["iterations"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tasks 1,2,3", "Tasks of point-robot have shape (tasks, 2), for goal_x, goal_y; (1, 3) was given"),
        ("--tasks 1,2;3", "row of numbers (goal_x, goal_y)"),
        ("--tasks nan,1", "(goal_x, goal_y) must be finite"),
        ("--tasks tests", "tasks is 'tests'; allowed: test, train"),
        ("--tasks missing.json", "cannot read missing.json: No such file"),
        ("--trials 0", "trials is 0; allowed: at least 1"),
        ("--episodes 0", "episodes is 0; allowed: at least 2"),
        ("--episodes 1", "episodes is 1; allowed: at least 2, as the first 1 of a trial explore"),
        ("--seed -1", "seed is -1; allowed: at least 0"),
        ("--checkpoint bestt", "has no checkpoint 'bestt': did you mean best"),
    ],
)
def test_evaluate_refuses(says, tiny_run, arguments, message):
    assert message in says("evaluate", tiny_run, *arguments.split())
    assert not (tiny_run / "evaluations").exists()


def test_task_files(says, tiny_run, tmp_path):
    path = tmp_path / "tasks.json"
    for text, message in (("[[1, 2]", "is not JSON"), ("[]", "shape"), ('{"a": 1}', "row of numbers")):
        path.write_text(text)
        assert message in says("evaluate", tiny_run, "--tasks", path)


def test_python_callers_get_the_same_sentences(tiny_run):
    with pytest.raises(NacreError, match="tasks is 'tset'; allowed: 'test', 'train' or task parameters"):
        nacre.evaluate(tiny_run, "tset")
    with pytest.raises(NacreError, match="tasks is empty; allowed: at least one task"):
        nacre.evaluate(tiny_run, np.zeros((0, 2)))
    with pytest.raises(NacreError, match="has no checkpoint 'newest'"):
        nacre.load(tiny_run, "newest")
