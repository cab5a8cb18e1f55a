"""Iterations of many phases: a run that is stopped or killed anywhere in them ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import csv
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import phased
import pytest
from deaths import watched
from phased import PHASES, PhasedLearner, phased_experiment
from probes import contents

from nacre import gradient_steps
from nacre.agents import ALGORITHMS
from nacre.checkpoint import latest_checkpoint, read_progress
from nacre.errors import Interrupted
from nacre.experiments import Experiment
from nacre.journal import read_segments
from nacre.run import Run
from nacre.run_folder import create_run_folder, read_run
from nacre.tasks import make_family, split_tasks
from nacre.training import resume, train

LAST = "iteration_000003"


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    ALGORITHMS["phased"] = phased.ALGORITHM
    yield
    del ALGORITHMS["phased"]


@pytest.fixture(scope="module")
def experiment(known: None) -> Experiment:
    return phased_experiment()


@pytest.fixture(scope="module")
def reference(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    phased.derived.clear()
    run = train(experiment, tmp_path_factory.mktemp("phased") / "run")
    assert phased.derived == ["fit", "push", "fit"] * 3
    return run


@pytest.fixture
def new_run(experiment: Experiment, tmp_path: Path) -> Path:
    """A run that has not begun."""
    family = make_family(experiment.family)
    split = split_tasks(family, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list)
    return create_run_folder(tmp_path / "run", experiment, split)


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return [{name: value for name, value in row.items() if "Time" not in name} for row in csv.DictReader(file)]


def assert_same(run: Path, reference: Path) -> None:
    names = [f"checkpoints/{LAST}.npz", "checkpoints/best.npz"]
    segments = sorted(path.name for path in (reference / "replay").iterdir())
    assert sorted(path.name for path in (run / "replay").iterdir()) == segments
    for name in [*names, *(f"replay/{segment}" for segment in segments)]:
        found, expected = contents(run / name), contents(reference / name)
        assert found.keys() == expected.keys()
        for array in expected:
            np.testing.assert_array_equal(found[array], expected[array], err_msg=f"{name}: {array}")
    assert rows(run) == rows(reference)
    assert not list(run.rglob("*.tmp"))


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in nacre catches it."""


@contextlib.contextmanager
def killed_after(run: Path, moments: int) -> Iterator[None]:
    """A kill at a moment of writing, after `moments` others: no file is changed any more."""
    left = moments

    def moment(kind: str, name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed(f"{kind} {name}")

    with watched(run, moment):
        yield


@contextlib.contextmanager
def at_call(number: int, action: Any) -> Iterator[None]:
    """Does something before a call of the learner or a chunk of gradient steps, after `number` others.

    Calls without values, by which the memory that is needed is estimated, do not count.
    """
    left = number

    def noticing(function: Any) -> Any:
        def noticed(*args: Any) -> Any:
            nonlocal left
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):  # only asks for shapes
                left -= 1
                if left == -1:
                    action()
            return function(*args)

        return noticed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("collect", "begin", "derive", "evaluate"):
            patch.setattr(PhasedLearner, name, noticing(getattr(PhasedLearner, name)))
        patch.setattr(gradient_steps, "update", noticing(gradient_steps.update))
        yield


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_twice() -> None:
    interrupt()
    interrupt()


def test_what_a_run_writes(reference: Path) -> None:
    """Each phase has begun once; a fit stops early, a push does not."""
    checkpoint = contents(reference / "checkpoints" / f"{LAST}.npz")
    expected = [3 * PHASES.count(name) for name in sorted(set(PHASES))]
    assert checkpoint["state.trained.begun"].tolist() == expected
    updates = int(checkpoint["state.updates"])
    assert 3 * 3 < updates < 3 * (9 + 3 + 9)
    table = rows(reference)
    assert [row["Number of train steps total"] for row in table][-1] == str(updates)
    assert [row["Visits"] for row in table] == ["4.0", "8.0", "12.0"]  # three of the one kind, one of the other
    assert [row["Number of rollouts total"] for row in table] == ["4", "8", "12"]
    assert [[visit.task for visit in visits][:3] for visits in read_segments(reference / "replay", 3)] == [
        [0, 1, 2]
    ] * 3


def test_stopped_at_every_call(new_run: Path, reference: Path, tmp_path: Path) -> None:
    """A signal at any call within an iteration is obeyed at the next safe point. Nothing is lost or done twice."""
    places: set[tuple[int, int]] = set()
    for call in range(6, 27):
        run = Path(shutil.copytree(new_run, tmp_path / str(call)))
        with at_call(call, interrupt), pytest.raises(Interrupted):
            resume(run)
        progress = read_progress(latest_checkpoint(run / "checkpoints")[0])
        places.add((progress["phase"], progress["phase_steps"]))
        if call % 3 == 0:  # twice
            with at_call(call % 7, interrupt), contextlib.suppress(Interrupted):
                resume(run)
        resume(run)
        assert_same(run, reference)
        shutil.rmtree(run)
    assert {phase for phase, _ in places} == {0, 1, 2, 4}
    assert {(0, 0), (1, 0), (1, 2), (1, 4), (2, 2), (2, 3), (4, 0), (4, 2)} <= places


@pytest.mark.parametrize("seed", range(12))
def test_a_life_of_accidents(seed: int, new_run: Path, reference: Path) -> None:
    """Kills at moments of writing, signals, and second signals, which act at once: as often as it takes."""
    chance, complete = random.Random(seed), False
    while not complete:
        accident, number = chance.choice(("kill", "signal", "two signals")), chance.randrange(40)
        with contextlib.suppress(Killed, Interrupted, KeyboardInterrupt):
            if accident == "kill":
                with killed_after(new_run, number):
                    resume(new_run)
            else:
                with at_call(number, interrupt if accident == "signal" else interrupt_twice):
                    resume(new_run)
            complete = True
    assert_same(new_run, reference)


def test_a_stop_between_two_phases_saves_what_was_collected(new_run: Path, reference: Path) -> None:
    with at_call(1, interrupt), pytest.raises(Interrupted):  # `begin`, and then `collect`
        resume(new_run)
    path, _ = latest_checkpoint(new_run / "checkpoints")
    progress = read_progress(path)
    assert (progress["iterations"], progress["phase"], progress["phase_steps"], progress["segments"]) == (0, 1, 0, 1)
    [visits] = read_segments(new_run / "replay", 1)
    [expected] = read_segments(reference / "replay", 1)
    assert len(visits) == 3
    for found, other in zip(visits, expected, strict=False):
        np.testing.assert_array_equal(found.episodes[0].actions, other.episodes[0].actions)
    collected: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        collect = PhasedLearner.collect

        def noting(learner: PhasedLearner, phase: str, *args: Any) -> Any:
            collected.append(phase)
            return collect(learner, phase, *args)

        patch.setattr(PhasedLearner, "collect", noting)
        resume(new_run)
    assert collected == ["explore", *["collect", "explore"] * 2]  # not again what was saved
    assert_same(new_run, reference)


@pytest.mark.parametrize("lost", ["killed before its checkpoint", "its checkpoint is damaged"])
def test_a_segment_that_holds_more_than_the_checkpoint_knows(new_run: Path, reference: Path, lost: str) -> None:
    """The segment of an iteration is written anew with all that was collected: more than an earlier checkpoint, from
    inside the iteration, is about."""
    with at_call(1, interrupt), pytest.raises(Interrupted):
        resume(new_run)
    if lost == "its checkpoint is damaged":
        with at_call(14, interrupt), pytest.raises(Interrupted):
            resume(new_run)
        checkpoints = sorted((new_run / "checkpoints").glob("iteration*"))
        assert len(checkpoints) == 2
        checkpoints[-1].write_bytes(b"damaged")
    else:

        def moment(kind: str, name: str) -> None:
            if kind == "before writing" and name == "progress.csv":
                raise Killed

        with watched(new_run, moment), pytest.raises(Killed):
            resume(new_run)
    [visits] = read_segments(new_run / "replay", 1)
    assert len(visits) == 4
    run = None
    with pytest.warns(UserWarning, match="is damaged") if "damaged" in lost else contextlib.nullcontext():
        run = Run(new_run, *read_run(new_run))
    assert (run.position, run._rollouts, len(run._visits)) == ((0, 1, 0), 3, 3)
    with pytest.warns(UserWarning, match="is damaged") if "damaged" in lost else contextlib.nullcontext():
        resume(new_run)
    assert_same(new_run, reference)


def test_begin_is_called_once_and_derive_at_every_entry(new_run: Path) -> None:
    begun: list[str] = []
    phased.derived.clear()
    with pytest.MonkeyPatch.context() as patch:
        begin = PhasedLearner.begin

        def noting(learner: PhasedLearner, phase: str, *args: Any) -> Any:
            begun.append(phase)
            return begin(learner, phase, *args)

        patch.setattr(PhasedLearner, "begin", noting)
        for call in (5, 2, 1):  # within the first fit, twice, and within the push
            with at_call(call, interrupt), contextlib.suppress(Interrupted):
                resume(new_run)
        resume(new_run)
    assert begun == list(PHASES) * 3
    assert len(phased.derived) > 9
    assert set(phased.derived) == {"fit", "push"}


def test_several_seeds(experiment: Experiment, tmp_path: Path, reference: Path) -> None:
    """Their fits stop at different steps. Each seed becomes what it would be alone."""
    seeds = train(experiment, tmp_path / "seeds", seeds=3)
    assert_same(seeds / "seed-0", reference)
    assert len({row["Number of train steps total"] for seed in range(3) for row in rows(seeds / f"seed-{seed}")}) > 3
