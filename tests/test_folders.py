"""Run folders that processes cannot mix up: made by one, locked by one, and noticed when they are moved or removed."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deaths import watched

from nacre import files, journal, locks
from nacre.checkpoint import save_best, save_checkpoint
from nacre.errors import NacreError
from nacre.experiments import make_experiment
from nacre.locks import SIGNATURE, lock
from nacre.logs import ProgressLog, TensorBoard
from nacre.run_folder import find_seeds, locked_runs, new_run, new_seeds, read_run
from nacre.tasks.family import TaskSplit

EXPERIMENTS = [make_experiment("pearl/cheetah-vel", train_tasks=1, test_tasks=1, seed=seed) for seed in (5, 6, 7)]
SPLIT = TaskSplit(train=np.array([[1.0]]), test=np.array([[2.0]]))


@pytest.fixture(autouse=True)
def quick_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nacre.run_folder.versions", dict)


def make(out: Path | None, several: bool = False) -> Path:
    """A new run, or new runs of three seeds, that nobody trains."""
    if several:
        with new_seeds(out, EXPERIMENTS, [SPLIT] * 3) as (parent, _):
            return parent
    with new_run(out, EXPERIMENTS[0], SPLIT) as run:
        return run


several = pytest.mark.parametrize("several", [False, True])


# Many processes at once

MAKERS = """
import os, sys
from pathlib import Path
import numpy as np
from nacre import run_folder
from nacre.errors import NacreError
from nacre.experiments import make_experiment
from nacre.tasks.family import TaskSplit

out, several = sys.argv[1], sys.argv[2] == "True"
run_folder.versions = dict
experiments = [make_experiment("pearl/cheetah-vel", train_tasks=1, test_tasks=1, seed=seed) for seed in (5, 6)]
split = TaskSplit(train=np.array([[1.0]]), test=np.array([[2.0]]))

def make(iterations):
    changed = [run_folder.from_json(run_folder.to_json(each) | {"iterations": iterations}) for each in experiments]
    folder = Path(out) if out else None
    if hasattr(run_folder, "new_run"):
        if several:
            with run_folder.new_seeds(folder, changed, [split, split]) as (parent, _):
                return parent
        with run_folder.new_run(folder, changed[0], split) as run:
            return run
    if several:
        return run_folder.create_seeds_folder(folder, changed, [split, split])[0]
    return run_folder.create_run_folder(folder, changed[0], split)

start, go = os.pipe()
processes = []
for number in range(100, 116):
    process = os.fork()
    if not process:
        os.close(go)
        os.read(start, 1)  # returns when the parent closes the other end
        try:
            line = f"{number} made {make(number)}"
        except NacreError as error:
            line = f"{number} failed {error}"
        os.write(1, (line + "\\n").encode())
        os._exit(0)
    processes.append(process)
os.close(go)
for process in processes:
    os.waitpid(process, 0)
"""


def race(out: str, several: bool, folder: Path) -> tuple[dict[int, Path], list[str]]:
    """16 processes make folders at the same moment; each run's number of iterations tells whose it is.

    Returns who made which, and the sentences of those who did not.
    """
    command = [sys.executable, "-c", MAKERS, out, str(several)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(lines) == 16, done.stdout + done.stderr
    made = {int(number): folder / text for number, verb, text in lines if verb == "made"}
    return made, [text for _, verb, text in lines if verb == "failed"]


def owners(folder: Path, several: bool) -> set[int]:
    return {read_run(run)[0].iterations for run in (find_seeds(folder) if several else [folder])}


@several
def test_default_names_do_not_collide(tmp_path: Path, several: bool) -> None:
    made, failures = race("", several, tmp_path)
    assert not failures
    assert len(set(made.values())) == 16
    for number, folder in made.items():
        assert owners(folder, several) == {number}
    pattern = r"seeds?-5(-to-6)?-\d{4}(-\d\d){5}(-\d+)?"
    assert all(re.fullmatch(pattern, folder.name) for folder in made.values())


@several
@pytest.mark.parametrize("exists", [False, True])
def test_one_process_gets_a_folder(tmp_path: Path, several: bool, exists: bool) -> None:
    for attempt in range(3):
        out = tmp_path / str(attempt)
        if exists:
            out.mkdir()
        made, failures = race(str(out), several, tmp_path)
        assert list(made.values()) == [out], failures
        assert owners(out, several) == set(made)
        sentence = rf"{out} (is being trained by another process|holds (a run|runs) already: choose another folder, .*)"
        assert all(re.fullmatch(sentence, failure) for failure in failures), failures
        assert not list(out.rglob(".nacre*"))


def test_command_line(tiny: dict[str, int], tmp_path: Path) -> None:
    """Of two `nacre train` into one folder one trains, and the other says so and leaves with 2."""
    command = [sys.executable, "-m", "nacre.cli", "train", "pearl/point-robot", "--out", str(tmp_path / "run")]
    flags = [f"--{field.replace('_', '-')}={value}" for field, value in (tiny | {"iterations": 1}).items()]
    processes = [
        subprocess.Popen([*command, *flags, f"--seed={seed}"], stderr=subprocess.PIPE, text=True) for seed in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], errors
    assert read_run(tmp_path / "run")[0].seed == codes.index(0)
    for code, error in zip(codes, errors, strict=True):
        if code:
            assert re.fullmatch(r"nacre: error: .*/run (is being trained by another|holds a run already).*\n", error)


# Kills and write errors while a folder is made

KILLED = """
import os, signal, sys
from pathlib import Path
from deaths import watched
from test_folders import make
from nacre import run_folder

run_folder.versions = dict
parent, several = Path(sys.argv[1]), sys.argv[2] == "True"
for moments in range(10_000):
    out = parent / str(moments)
    process = os.fork()
    if not process:
        left = moments
        def moment(kind, name):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        with watched(parent, moment):
            make(out, several)
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        break
print(moments)
"""


@several
def test_killed_while_a_folder_is_made(tmp_path: Path, several: bool) -> None:
    """After a kill at each moment: either the run is there in full, or the same command makes it."""
    tests = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(several)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    count = int(done.stdout)
    assert count > (40 if several else 15)
    complete = 0
    for moments in range(count):
        out = tmp_path / str(moments)
        try:
            with locked_runs(out) as runs:
                assert [read_run(run)[0] for run in runs] == EXPERIMENTS[: len(runs)]
            assert len(runs) == (3 if several else 1)
            complete += 1
        except NacreError as error:
            assert re.search("does not exist|is not a run folder|is unfinished", str(error))  # noqa: PT017
            make(out, several)
        for run in find_seeds(out) or [out]:
            assert sorted(path.name for path in run.iterdir()) == [
                "checkpoints",
                "experiment.json",
                "replay",
                "variant.json",
            ]
            assert not list((run / "checkpoints").iterdir())
    assert complete < 3  # the last moments only


@several
@pytest.mark.parametrize("exists", [False, True])
def test_write_errors_while_a_folder_is_made(tmp_path: Path, several: bool, exists: bool) -> None:
    """After an error at each moment nothing is left, and the same command makes the run."""
    for moments in range(1000):
        out = tmp_path / str(moments)
        if exists:
            out.mkdir()
        left = moments

        def moment(kind: str, name: str) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        try:
            with watched(out, moment):
                make(out, several)
            break
        except NacreError as error:
            assert str(error).endswith("Input/output error")  # noqa: PT017
            assert out.exists() == exists
            assert not exists or not list(out.iterdir())
            make(out, several)
    assert 15 < moments < 999


def test_what_is_filled_in_belongs_to_the_making(tmp_path: Path) -> None:
    """As `nacre import` fills in a checkpoint: without it the folder is no run, and may be made again."""

    def fill(run: Path) -> None:
        with pytest.raises(NacreError, match="is unfinished"):
            read_run(run)
        save_checkpoint(run / "checkpoints", "iteration_000000", {}, {}, keep=1)

    def fill_and_fail(run: Path) -> None:
        fill(run)
        raise NacreError("the disk is full")

    out = tmp_path / "run"
    with pytest.raises(NacreError, match="the disk is full"), new_run(out, EXPERIMENTS[0], SPLIT, fill_and_fail):
        pass
    assert not out.exists()
    for _ in range(2):  # the second time after a kill at the last moment of the first
        with new_run(out, EXPERIMENTS[0], SPLIT, fill) as run:
            assert read_run(run)[0] == EXPERIMENTS[0]
        (out / ".nacre-unfinished").touch()


def test_what_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    """A thesis in a folder that a kill left, or a seed in it that was trained."""
    for name in (
        "thesis.tex",
        "seed-5/progress.csv",
        "seed-5/seed-6/experiment.json",
        "checkpoints/iteration_000001.npz",
    ):
        out = tmp_path / name.replace("/", " ")
        path = out / name
        path.parent.mkdir(parents=True)
        path.write_text("years of work")
        (out / ".nacre-unfinished").touch()
        (out / "experiment.json").touch()
        with pytest.raises(NacreError, match=f"{out} is not empty, and nacre did not write its .*$"):
            make(out)
        assert path.read_text() == "years of work"
        assert (out / "experiment.json").exists()


def test_unfinished_folders_are_no_runs(tmp_path: Path) -> None:
    parent = make(tmp_path / "seeds", several=True)
    (parent / ".nacre-unfinished").touch()
    for folder in (parent, parent / "seed-6"):
        with (
            pytest.raises(NacreError, match=rf"^{parent} is unfinished: .*, with --out {parent}$"),
            locked_runs(folder),
        ):
            pass
    with pytest.raises(NacreError, match="is unfinished"):
        read_run(parent / "seed-6")


def test_the_folder_of_several_seeds_is_locked_with_them(tmp_path: Path) -> None:
    """And no signature of a process that was killed stays in it."""
    parent = make(tmp_path / "seeds", several=True)
    (parent / SIGNATURE).write_text(f"{os.getpid()} {platform.node()}\n")
    with locked_runs(parent):
        assert (parent / SIGNATURE).exists()
        with pytest.raises(NacreError, match=f"^{parent} is being trained by another process"), locked_runs(parent):
            pass
    assert not (parent / SIGNATURE).exists()


# Folders that are moved or removed under their writer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "run")


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda run: save_checkpoint(run / "checkpoints", "iteration_000001", {}, {"return": 1.0}, keep=1),
    "best": lambda run: save_best(run / "checkpoints" / "iteration_000000.npz", "return"),
    "segment": lambda run: journal.append_segment(run / "replay", 0, []),
    "dropped segments": lambda run: journal.drop_segments_from(run / "replay", 0),
    "row": lambda run: ProgressLog(run).append({"Epoch": 0.0}),
    "events": lambda run: TensorBoard(run).close(),
    "file": lambda run: files.write_atomically(run / "new", b"new"),
    "folder": lambda run: files.make_folder(run / "new"),
    "damaged file": lambda run: files.set_aside(run / "experiment.json"),
}


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_nothing_is_written_into_another_folder(run: Path, tmp_path: Path, write: Callable[[Path], object]) -> None:
    """The run was moved, and there is a copy of it in its place."""
    save_checkpoint(run / "checkpoints", "iteration_000000", {}, {"return": 1.0}, keep=1)
    journal.append_segment(run / "replay", 1, [])
    moved = tmp_path / "moved here"
    with lock(run):
        run.rename(moved)
        shutil.copytree(moved, run)
        before = everything(tmp_path)
        sentence = f"{run} was moved to {moved} while .*: the run has stopped, .* continue with: nacre resume '{moved}'"
        with pytest.raises(NacreError, match=f"^{sentence}$"):
            write(run)
        assert everything(tmp_path) == before
        shutil.rmtree(run)
        moved.rename(run)
        write(run)


def test_a_folder_that_is_removed(run: Path) -> None:
    board = TensorBoard(run)
    with lock(run):
        shutil.rmtree(run)
        sentence = rf"^{run} was removed while this process wrote in it: the run has stopped, and .* is gone$"
        with pytest.raises(NacreError, match=sentence):
            board.write(0, {"Epoch": 0.0})
        with pytest.raises(NacreError, match=sentence):
            ProgressLog(run).append({"Epoch": 0.0})
    board.close()
    assert not run.exists()


def test_a_folder_that_is_moved_in_the_middle_of_a_write(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def move_and_sync(descriptor: int) -> None:
        fsync(descriptor)
        if run.exists():
            run.rename(run.with_name("moved"))

    monkeypatch.setattr(os, "fsync", move_and_sync)
    with lock(run), pytest.raises(NacreError, match=f"^{run} was moved to {run.with_name('moved')} "):
        files.write_atomically(run / "new", b"new")
    assert not run.exists()


def test_a_folder_that_a_relative_path_led_to(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with lock(Path("run")):
        files.write_atomically(Path("run", "one"), b"")
        (tmp_path / "elsewhere" / "run").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(NacreError, match=f"what it had written is there; continue with: nacre resume {run}$"):
            files.write_atomically(Path("run", "two"), b"")
    assert not list((tmp_path / "elsewhere" / "run").iterdir())


def test_parts_that_are_removed_are_not_made_anew(run: Path) -> None:
    """As `rm -r` does it, one file after the other."""
    log = ProgressLog(run)
    log.append({"Epoch": 0.0})
    (run / "progress.csv").unlink()
    shutil.rmtree(run / "replay")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(NacreError, match=r"cannot write .*progress\.csv: it was removed while the run wrote it"):
        log.append({"Epoch": 1.0})
    with pytest.raises(NacreError, match=r"cannot write .*segment_000000\.npz: No such file or directory"):
        journal.append_segment(run / "replay", 0, [])
    with pytest.raises(NacreError, match=r"cannot write .*iteration_000000\.npz: No such file or directory"):
        save_checkpoint(run / "checkpoints", "iteration_000000", {}, {}, keep=1)
    assert sorted(path.name for path in run.iterdir()) == ["experiment.json", "variant.json"]


# Where the system's locks do not hold


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Another process that lives."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as process:
        yield process.pid
        process.kill()


def test_a_live_process_is_named(run: Path, no_locks: None, sleeper: int) -> None:
    (run / SIGNATURE).write_text(f"{sleeper} {platform.node()}\n")
    sentence = rf"^{run} was last written by process {sleeper} on {platform.node()}, .*: if it still runs, stop one "
    with pytest.warns(UserWarning, match=sentence), locked_runs(run):
        assert (run / SIGNATURE).read_text() == f"{os.getpid()} {platform.node()}\n"
    assert not (run / SIGNATURE).exists()


def test_a_process_of_another_machine_is_named(run: Path) -> None:
    (run / SIGNATURE).write_text("77 elsewhere\n")
    with pytest.warns(UserWarning, match="process 77 on elsewhere"), locked_runs(run):
        pass


def test_dead_processes_are_not_named(run: Path, no_locks: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for signature in (f"{process.pid} {platform.node()}\n", "", "no number\n", f"{os.getpid()} {platform.node()}\n"):
        (run / SIGNATURE).write_text(signature)
        with locked_runs(run):
            pass


def test_where_locks_hold_they_decide(run: Path, sleeper: int) -> None:
    """The number of a killed process may be another's by now."""
    (run / SIGNATURE).write_text(f"{sleeper} {platform.node()}\n")
    with locked_runs(run), pytest.raises(NacreError, match="is being trained by another process"), lock(run):
        pass


def test_new_runs_without_locks(tmp_path: Path, no_locks: None, sleeper: int) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / SIGNATURE).write_text(f"{sleeper} {platform.node()}\n")
    with pytest.raises(NacreError, match=f"is being made by process {sleeper} on .*; if that has ended, remove the"):
        make(out)
    (out / SIGNATURE).unlink()
    assert read_run(make(out))[0] == EXPERIMENTS[0]


def test_a_file_is_claimed_once(tmp_path: Path) -> None:
    """Also if it was left by a process that has ended, and again when it is given up."""
    path = tmp_path / "result.json.tmp"
    path.touch()
    for _ in range(2):
        descriptor = locks.claim(path)
        assert descriptor is not None
        assert locks.claim(path) is None
        os.close(descriptor)


def test_a_file_is_claimed_once_without_locks(tmp_path: Path, no_locks: None) -> None:
    path = tmp_path / "result.json.tmp"
    descriptor = locks.claim(path)
    assert descriptor is not None
    assert locks.claim(path) is None
    os.close(descriptor)
    assert locks.claim(path) is None
    with pytest.raises(FileNotFoundError):
        locks.claim(tmp_path / "nowhere" / "result.json.tmp")


def test_reading_needs_no_locks(run: Path) -> None:
    """Nor the module, which some systems do not have."""
    program = "import sys; sys.modules['fcntl'] = None; import nacre.loading, nacre.run_evaluation, nacre.run_folder"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_locks_end_with_their_block(run: Path) -> None:
    for _ in range(2):
        with lock(run) as held:
            held.sign()
    assert locks._held == []
    assert json.loads((run / "experiment.json").read_text())["experiment"]["seed"] == 5
    with pytest.raises(NacreError, match="nowhere does not exist"), lock(run / "nowhere"):
        pass
    with pytest.raises(NacreError, match="is not a folder"), lock(run / "experiment.json"):
        pass
