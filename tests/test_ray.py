"""Workers on a real Ray: the same numbers, workers that are killed and frozen, and what is left at the end."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY as PEARL
from extras import NEEDS_RAY
from probes import Clock
from test_cemrl_run import TINY as CEMRL
from test_parts import HORIZON, assert_same, counting
from test_seeds import assert_same as assert_same_run

import nacre
from nacre import training
from nacre.collect import play_together
from nacre.experiments import Experiment, family_of, make_experiment
from nacre.interfaces import Play, Played
from nacre.journal import read_segments
from nacre.ray_cluster import Cluster, connected
from nacre.recovery import changes_in
from nacre.tasks import Simulator
from nacre.tasks.shifts import Shift
from nacre.worker_options import WorkerOptions
from nacre.workers import Workers, hired

pytestmark = NEEDS_RAY


@pytest.fixture(scope="module", autouse=True)
def module(own_registrations: None) -> Any:
    """A family whose tasks terminate, as a user's own."""
    return importlib.import_module("random_learner")


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Cluster]:
    """One for all tests of this file; each has workers of its own."""
    with connected() as cluster:
        yield cluster


# The same numbers

SIZES = {"pearl": PEARL, "cemrl": CEMRL | {"encoder_steps": 4}}


def changing(algorithm: str) -> Experiment:
    """Its tasks terminate, and change inside an episode."""
    shift = Shift("time", 3, 3, probability=0.8)
    return make_experiment(f"{algorithm}/fenced-point", **SIZES[algorithm], shift=shift)


@pytest.fixture(scope="module")
def crews() -> Iterator[dict[int, Workers]]:
    """Workers by their number, for both algorithms, as it takes them seconds to begin."""
    with contextlib.ExitStack() as stack:
        family = family_of(changing("pearl"))
        found = {number: stack.enter_context(hired(family, 1, WorkerOptions(number))) for number in (1, 3)}
        yield {number: workers for number, workers in found.items() if workers is not None}


@pytest.mark.parametrize("algorithm", SIZES)
def test_runs_are_the_same(
    algorithm: str, crews: dict[int, Workers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0, 1 and 3 workers."""
    experiment = changing(algorithm)
    alone = nacre.train(experiment, tmp_path / "alone")
    monkeypatch.setattr(training, "hired", lambda family, threads, o: contextlib.nullcontext(crews[o.workers]))
    for number in crews:
        assert_same_run(nacre.train(experiment, tmp_path / str(number), workers=number), alone)
    visits = [visit for segment in read_segments(alone / "replay", 2) for visit in segment]
    episodes = [episode for visit in visits for episode in visit.episodes]
    assert any(episode.terminated for episode in episodes)
    assert any(changes_in([episode], episode.tasks[0]) for episode in episodes if episode.tasks is not None)


# Workers that are killed


class SlowClock(Clock):
    """Each of its steps takes a while."""

    def make_world(self, n_slots: int, threads: int) -> Any:
        world = super().make_world(n_slots, threads)
        step = world.step

        def slow(*arguments: Any) -> Any:
            time.sleep(0.02)
            return step(*arguments)

        world.step = slow  # pyright: ignore[reportAttributeAccessIssue]
        return world


def alone(plays: list[Play]) -> list[Played]:
    with contextlib.closing(Simulator(Clock(HORIZON), sum(len(play.tasks) for play in plays), threads=1)) as simulator:
        return play_together(plays, simulator)


@contextlib.contextmanager
def disturbed(workers: Workers, times: int, number: signal.Signals) -> Iterator[list[int]]:
    """Sends a signal to workers that play, one after another; yields the processes that got it."""
    struck: list[int] = []
    is_over = threading.Event()

    def strike() -> None:
        while len(struck) < times and not is_over.wait(0.05):
            for seat in list(workers._seats):
                place = seat.place
                if seat.part is not None and place is not None and place.process not in struck and len(struck) < times:
                    os.kill(place.process, number)
                    struck.append(place.process)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield struck
    finally:
        is_over.set()
        thread.join()


def play_until(workers: Workers, is_enough: Callable[[], bool]) -> None:
    """Plays again and again, and compares each time."""
    plays = [counting(12, seed, param=seed) for seed in range(3)]
    expected = alone(plays)
    until = time.monotonic() + 120
    while True:
        for one, other in zip(workers.play(plays), expected, strict=True):
            assert_same(*one, *other)
        if is_enough():
            return
        assert time.monotonic() < until


def test_workers_are_killed_and_frozen() -> None:
    said: list[str] = []
    with hired(SlowClock(HORIZON), None, WorkerOptions(2)) as workers:
        assert workers is not None
        workers.say = said.append
        play_until(workers, lambda: all(seat.place is not None for seat in workers._seats))
        with disturbed(workers, 2, signal.SIGKILL) as killed:
            play_until(workers, lambda: len(killed) == 2)
        play_until(workers, lambda: any(seat.place is not None for seat in workers._seats))
        workers.timeout = 8.0
        with disturbed(workers, 1, signal.SIGSTOP) as frozen:
            play_until(workers, lambda: len(frozen) == 1)
        play_until(workers, lambda: True)
    for process in [*killed, *frozen]:
        (line,) = [line for line in said if f"(process {process} on " in line]
        assert line.endswith("what it played is played again")
        assert not is_alive(process)


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


# What is left


def processes_of(mark: str) -> list[str]:
    """The command lines of all processes with this in their environment: a command and what it has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_process(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal, `kill` only one. The run goes on without workers."""
    run, mark = tmp_path / "run", f"nacre-test-{os.getpid()}-{number}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nacre", "--import", "random_learner", "train", "random/fenced-point"),
            *("--out", run, "--iterations", "100000", "--workers", "1"),
        ],
        cwd=Path(__file__).parent,
        env={**os.environ, "NACRE_TEST_MARK": mark},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(run.glob("replay/*.npz")):
        time.sleep(0.05)
    assert len(processes_of(mark)) > 4
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert errors.splitlines()[-1].startswith("Stopped and saved. Continue with: nacre --import random_learner resume ")
    assert "is lost" not in output
    assert processes_of(mark) == []
    complete = len(list(run.glob("replay/*.npz")))
    nacre.resume(run, complete + 1)
    whole = nacre.train(make_experiment("random/fenced-point", iterations=complete + 1), tmp_path / "whole")
    for column, values in nacre.logs.read_progress_csv(whole / "progress.csv").items():
        if "Time" not in column:
            found = nacre.logs.read_progress_csv(run / "progress.csv")[column]
            np.testing.assert_array_equal(found, values, err_msg=column)
