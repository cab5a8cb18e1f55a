"""Runs that survive: killed, interrupted, out of disk space, or extended, they end as if nothing had happened."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from deaths import watched
from probes import contents

from nacre import evaluation, gradient_steps, metrics, tasks, training
from nacre.agents.pearl.learner import PearlLearner
from nacre.errors import Interrupted, NacreError
from nacre.experiments import Experiment, make_experiment
from nacre.logs import read_progress_csv
from nacre.run import Run
from nacre.run_folder import create_run_folder, locked_runs, read_run
from nacre.tasks import make_family, split_tasks
from nacre.training import resume, train

LAST = "iteration_000003.npz"
TIMES = {"Train Time (s)", "(Previous) Eval Time (s)", "Sample Time (s)", "Epoch Time (s)", "Total Train Time (s)"}


@pytest.fixture(scope="module")
def fields(tiny: dict[str, int]) -> dict[str, int]:
    """Chunks of updates do not divide an iteration, nor checkpoints the run."""
    return tiny | {"iterations": 3, "updates_per_iteration": 5, "update_chunk": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def experiment(fields: dict[str, int]) -> Experiment:
    return make_experiment("pearl/point-robot", **fields)


@pytest.fixture(scope="module")
def reference(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    return train(experiment, tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture
def new_run(experiment: Experiment, tmp_path: Path) -> Path:
    """A run that has not begun: as far as it is when `train` has made its folder."""
    family = make_family(experiment.family)
    split = split_tasks(family, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list)
    return create_run_folder(tmp_path / "new run", experiment, split)


def assert_same_run(run: Path, reference: Path) -> None:
    for name in (f"checkpoints/{LAST}", "checkpoints/best.npz", *segments(reference)):
        found, expected = contents(run / name), contents(reference / name)
        assert found.keys() == expected.keys()
        assert found.get("manifest") == expected.get("manifest")
        for array in expected.keys() - {"manifest"}:
            assert found[array].dtype == expected[array].dtype
            np.testing.assert_array_equal(found[array], expected[array], err_msg=f"{name}: {array}")
    assert segments(run) == segments(reference)
    found, expected = read_progress_csv(run / "progress.csv"), read_progress_csv(reference / "progress.csv")
    assert list(found) == list(expected)
    for column in found.keys() - TIMES:
        np.testing.assert_array_equal(found[column], expected[column], err_msg=column)
    assert not list(run.rglob("*.tmp"))


def segments(run: Path) -> list[str]:
    return sorted(f"replay/{path.name}" for path in (run / "replay").iterdir())


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in nacre catches it."""


@contextlib.contextmanager
def killed_after(run: Path, moments: int) -> Iterator[None]:
    """Ends at a moment of writing, after `moments` others, as a kill does: no file is changed any more."""
    left = moments

    def moment(kind: str, name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed(f"{kind} {name}")

    with watched(run, moment), contextlib.suppress(Killed):
        yield


def test_killed_at_every_kind_of_moment(new_run: Path, reference: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    complete = Path(shutil.copytree(new_run, tmp_path / "complete"))
    with watched(complete, lambda *moment: seen.append(moment)):
        resume(complete)
    assert_same_run(complete, reference)
    for kind in ("before writing", "half way through", "after writing", "before replacing", "after replacing"):
        expected = {"iteration_000002.npz", "segment_000001.npz", "best.npz"}
        if "writ" in kind or "way" in kind:
            expected = {f"{name}.tmp" for name in expected} | {"progress.csv"}
        assert expected <= {name for moment, name in seen if moment == kind}
    assert ("before removing", "iteration_000000.npz") in seen

    last = {(kind, re.sub(r"\d", "", name)): index for index, (kind, name) in enumerate(seen)}
    assert len(last) > 15
    for moments in last.values():
        run = Path(shutil.copytree(new_run, tmp_path / str(moments)))
        with killed_after(run, moments):
            resume(run)
            pytest.fail("it has not been killed")
        resume(run)
        assert_same_run(run, reference)
        shutil.rmtree(run)


def test_sigterm_and_the_command_it_tells(reference: Path, fields: dict[str, int], tmp_path: Path) -> None:
    run = tmp_path / "my run"
    flags = [f"--{field.replace('_', '-')}={value}" for field, value in fields.items()]
    nacre = [sys.executable, "-m", "nacre.cli"]
    process = subprocess.Popen(
        [*nacre, "train", "pearl/point-robot", "--out", str(run), *flags], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(run.glob("replay/*.npz")):
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    message = errors.splitlines()[-1]
    assert message.startswith("Stopped and saved. Continue with: nacre resume ")
    command = shlex.split(message.partition(": ")[2])
    assert command == ["nacre", "resume", str(run)]
    assert not (run / "checkpoints" / LAST).exists()
    subprocess.run([*nacre, *command[1:]], check=True, timeout=300)
    assert_same_run(run, reference)


PLACES = {
    "collection": (PearlLearner, "_collect_visits", 1, "iteration_000001"),
    "first chunk": (gradient_steps, "update", 3, "iteration_000001_update_000002"),
    "last chunk": (gradient_steps, "update", 5, "iteration_000001_update_000005"),
    "evaluation": (evaluation, "meta_test", 0, "iteration_000001"),
    "compilation": (gradient_steps, "update", 0, "iteration_000000_update_000002"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("owner", "name", "calls", "label"), PLACES.values(), ids=PLACES)
def test_signals(new_run: Path, reference: Path, number: int, owner: Any, name: str, calls: int, label: str) -> None:
    """A signal at call number `calls` of a function leaves a checkpoint and ends the run."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signalling(owner, name, number, calls), pytest.raises(Interrupted) as interrupted:
        resume(new_run)
    assert (interrupted.value.run, interrupted.value.signal) == (new_run, number)
    assert str(interrupted.value) == f"Stopped and saved. Continue with: nacre resume {shlex.quote(str(new_run))}"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert max(path.stem for path in (new_run / "checkpoints").glob("iteration*")) == label
    resume(new_run)
    assert_same_run(new_run, reference)


@contextlib.contextmanager
def doing(owner: Any, name: str, calls: int, what: Callable[[], object]) -> Iterator[None]:
    """Before the call of a function after `calls` other calls, something happens."""
    function, left = getattr(owner, name), calls

    def wrapper(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1:
            what()
        return function(*args, **named)

    with mock.patch.object(owner, name, wrapper):
        yield


def signalling(owner: Any, name: str, number: int, calls: int) -> contextlib.AbstractContextManager[None]:
    """The function `name` of `owner` sends a signal to this process when it is called after `calls` other calls."""
    return doing(owner, name, calls, lambda: signal.raise_signal(number))


def test_second_interrupt_acts_at_once(new_run: Path, reference: Path) -> None:
    with (
        signalling(gradient_steps, "update", signal.SIGINT, 0),
        signalling(metrics, "accumulate", signal.SIGINT, 0),
        pytest.raises(Interrupted, match=r"^Stopped without saving: what came after the latest checkpoint is lost"),
    ):
        resume(new_run)
    resume(new_run)
    assert_same_run(new_run, reference)


@pytest.mark.parametrize("file", ["iteration_000002.npz", "best.npz", "segment_000001.npz", "progress.csv"])
def test_full_disk(new_run: Path, reference: Path, file: str) -> None:
    def moment(kind: str, name: str) -> None:
        if kind == "half way through" and name.removesuffix(".tmp") == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sentence = rf"^cannot write .*/{file}: No space left on device$"
    with watched(new_run, moment), pytest.raises(NacreError, match=sentence):
        resume(new_run)
    resume(new_run)
    assert_same_run(new_run, reference)


def test_restored_replay_is_the_one_that_was_filled(new_run: Path, experiment: Experiment) -> None:
    split = read_run(new_run)[1]
    group = training._Group(new_run, [new_run], [experiment], [split])
    group.to_the_end()
    [run] = group.runs
    restored = Run(new_run, experiment, split)
    assert (restored._steps, restored._rollouts) == (run._steps, run._rollouts)
    assert run._rollouts > 0
    jax.tree.map(np.testing.assert_array_equal, restored.memory.arrays, run.memory.arrays)


def test_damaged_checkpoint(reference: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    path = run / "checkpoints" / LAST
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"iteration_000003\.npz is damaged.*; going on from iteration_000002\.npz"):
        resume(run)
    assert_same_run(run, reference)


LONGER = """
import dataclasses, json, sys
from nacre import make_experiment, resume, train
fields, (complete, stopped, long) = json.loads(sys.argv[1]), sys.argv[2:]
experiment = make_experiment("pearl/point-robot", **fields)
train(experiment, long)
train(dataclasses.replace(experiment, iterations=2), complete)
train(dataclasses.replace(experiment, iterations=2), stopped, on_iteration=lambda iteration: "stop")
for run in (complete, stopped):
    resume(run, iterations=3)
"""


def test_more_iterations(fields: dict[str, int], experiment: Experiment, tmp_path: Path) -> None:
    """A run that is made longer, complete or not, ends as one that was long from the start, though its replay had less
    room. Sizes of arrays may change what XLA compiles, so it has the emitters here that users have."""
    complete, stopped, long = (tmp_path / name for name in ("complete", "stopped", "long"))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", LONGER, json.dumps(fields), complete, stopped, long]
    subprocess.run(command, env=environment, check=True, timeout=300)
    for run in (complete, stopped):
        assert_same_run(run, long)
        assert read_run(run)[0] == experiment
        assert json.loads((run / "variant.json").read_text()) == json.loads((long / "variant.json").read_text())


def test_fewer_iterations(new_run: Path) -> None:
    with signalling(gradient_steps, "update", signal.SIGINT, 4), pytest.raises(Interrupted):
        resume(new_run)
    with pytest.raises(NacreError, match="iterations is 1; allowed: at least 2, which have begun in "):
        resume(new_run, iterations=1)
    assert read_run(new_run)[0].iterations == 3


def test_complete_run(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(reference.rglob("*"))
    assert resume(reference) == reference
    assert sorted(reference.rglob("*")) == before
    output = capsys.readouterr().out
    assert "all 3 iterations are complete" in output
    assert f"nacre resume {reference} --iterations 6" in output


MOMENTS = {
    "collection": (PearlLearner, "_collect_visits", 1),
    "update": (gradient_steps, "update", 3),
    "evaluation": (evaluation, "meta_test", 1),
}


@pytest.mark.parametrize(("owner", "name", "calls"), MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("replaced", [False, True])
def test_moved_while_it_is_trained(
    new_run: Path, reference: Path, tmp_path: Path, owner: Any, name: str, calls: int, replaced: bool
) -> None:
    """The run stops, says where its data are, and goes on there; nothing is written where it was."""
    moved = tmp_path / "other" / "place"

    def move() -> None:
        moved.parent.mkdir()
        new_run.rename(moved)
        if replaced:
            new_run.mkdir()

    sentence = rf"^{new_run} was moved to {moved} while .*; continue with: nacre resume {moved}$"
    with doing(owner, name, calls, move), pytest.raises(NacreError, match=sentence):
        resume(new_run)
    assert new_run.exists() == replaced
    assert not replaced or not list(new_run.iterdir())
    assert not list(moved.glob(".nacre*"))
    resume(moved)
    assert_same_run(moved, reference)


def test_removed_while_it_is_trained(experiment: Experiment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        doing(gradient_steps, "update", 3, lambda: shutil.rmtree(run)),
        pytest.raises(
            NacreError, match=rf"^{run} was removed while .*: the run has stopped, and what it had written is g"
        ),
    ):
        train(experiment, run)
    assert not run.exists()


def test_interrupted_after_it_was_moved(new_run: Path, tmp_path: Path) -> None:
    def move_and_stop() -> None:
        new_run.rename(tmp_path / "moved")
        signal.raise_signal(signal.SIGTERM)

    with doing(gradient_steps, "update", 3, move_and_stop), pytest.raises(NacreError, match="was moved to"):
        resume(new_run)


def damage_segment(run: Path) -> None:
    path = run / "replay" / "segment_000001.npz"
    path.write_bytes(path.read_bytes()[:-100])


def damage_checkpoints(run: Path) -> None:
    for path in (run / "checkpoints").glob("iteration*.npz"):
        path.write_bytes(b"")


def cut_progress(run: Path) -> None:
    path = run / "progress.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_sizes(run: Path) -> None:
    for path in run.parent.glob("*/experiment.json"):
        content = json.loads(path.read_text().replace('"hidden_size": 8', '"hidden_size": 9'))
        path.write_text(json.dumps(content | {"checksum": None}))  # as its error says: the content is right


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_segment, "segment_000001.npz is damaged"),
        (damage_checkpoints, "has no intact checkpoint"),
        (cut_progress, "has 2 complete rows of 3"),
        (change_sizes, "is of another experiment"),
    ],
)
@pytest.mark.parametrize("iterations", [None, 99])
def test_a_refused_resume_changes_nothing(
    reference: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, iterations: int | None
) -> None:
    """Of two seeds the first could go on, the second is damaged: neither is touched, not even what a kill left."""
    parent = tmp_path / "seeds"
    for seed in (0, 1):
        run = Path(shutil.copytree(reference, parent / f"seed-{seed}"))
        (run / "replay" / "segment_000003.npz").write_bytes(b"of the future")
        (run / "checkpoints" / "iteration_000004.npz.tmp").write_bytes(b"half")
    damage(parent / "seed-1")
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in parent.glob("*/**/*")}
    for _ in range(2):
        with pytest.raises(NacreError, match=message):
            resume(parent, iterations)
    after = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in parent.glob("*/**/*")}
    assert after == before


def test_a_family_that_is_not_there(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a run of one's own family where nothing registers it."""
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.delitem(tasks.FAMILIES, "point-robot")
    with pytest.raises(NacreError, match="point-robot"):
        resume(run, 99)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_more_checkpoints_than_are_kept(experiment: Experiment, reference: Path, tmp_path: Path) -> None:
    """As they are left where they could not be removed."""
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    for label in ("iteration_000000", "iteration_000001"):
        shutil.copy(run / "checkpoints" / LAST, run / "checkpoints" / f"{label}.npz")
    resume(run)
    assert len(list((run / "checkpoints").glob("iteration*"))) == experiment.keep_checkpoints


def test_one_process_at_a_time(reference: Path) -> None:
    with locked_runs(reference), pytest.raises(NacreError, match="is being trained by another process"):
        resume(reference)
    resume(reference)


def test_no_checkpoint_left(reference: Path, tmp_path: Path) -> None:
    """A run that has lost its checkpoints is not silently begun anew."""
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(NacreError, match="checkpoints has no checkpoint"):
        resume(run)
