"""Several seeds in one process: each becomes what it would be alone, whatever happens to the process."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Clock, clock_learner, compilations, contents

import nacre
import nacre.run
from nacre import gradient_steps, runtime, seeds, tasks, training
from nacre.agents.pearl.config import PearlConfig
from nacre.cli import main
from nacre.collect import play_together, run_schedules
from nacre.errors import Interrupted, NacreError, NonFiniteError, SimulationError
from nacre.experiments import Experiment, make_experiment
from nacre.interfaces import Play, Schedule
from nacre.replay import ReplayBuffer
from nacre.run_folder import find_seeds, locked_runs, read_run
from nacre.tasks.simulator import Simulator
from nacre.training import resume, train
from nacre.types import Episode, Visit

SEEDS = (5, 6, 7)
LAST = "checkpoints/iteration_000002.npz"


class ShortClock(Clock):
    """Its episodes terminate at different times, in every seed at others."""

    def __init__(self) -> None:
        super().__init__(horizon=20)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return 0.1 * super().reward(previous, action, following, task) + action[..., 0]


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[None]:
    tasks.FAMILIES["clock"] = ShortClock
    yield
    del tasks.FAMILIES["clock"]


@pytest.fixture(scope="module", params=["point-robot", "clock"])
def experiment(request: pytest.FixtureRequest, tiny: dict[str, int]) -> Experiment:
    """Of a family whose episodes end with the clock, and of one whose episodes terminate."""
    return make_experiment("pearl/point-robot", **tiny, family=request.param, seed=SEEDS[0], task_list="seeded")


one_family = pytest.mark.parametrize("experiment", ["clock"], indirect=True)


@pytest.fixture(scope="module")
def alone(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run of each seed by itself."""
    folder = tmp_path_factory.mktemp("alone")
    return {seed: train(dataclasses.replace(experiment, seed=seed), folder / f"by itself {seed}") for seed in SEEDS}


def columns(run: Path) -> list[dict[str, str]]:
    """progress.csv without the times."""
    with open(run / "progress.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if "time" not in name.lower()} for row in csv.DictReader(file)
        ]


def files(run: Path) -> list[Path]:
    """What a complete run has of numbers, however often it was interrupted."""
    names = [LAST, "checkpoints/best.npz", *(f"replay/{path.name}" for path in (run / "replay").glob("*"))]
    return sorted(run / name for name in names)


def assert_same(run: Path, reference: Path) -> None:
    for file, expected_file in zip(files(run), files(reference), strict=True):
        assert file.name == expected_file.name
        found, expected = contents(file), contents(expected_file)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.array_equal(found[name], values), (file, name)
    assert columns(run) == columns(reference)
    assert read_run(run)[0] == read_run(reference)[0]
    for found, expected in zip(*(dataclasses.astuple(read_run(each)[1]) for each in (run, reference)), strict=True):
        np.testing.assert_array_equal(found, expected)


def assert_all_same(parent: Path, alone: dict[int, Path]) -> None:
    assert find_seeds(parent) == [parent / f"seed-{seed}" for seed in SEEDS]
    for seed, reference in alone.items():
        assert_same(parent / f"seed-{seed}", reference)


def test_each_seed_is_what_it_would_be_alone(
    experiment: Experiment,
    alone: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the bit, with no program that a seed alone does not need, and in simulators that hold the slots of all."""
    slots: list[int] = []

    made = Simulator.__init__

    def counted(self: Simulator, family: Any, n_slots: int, threads: int | None = None) -> None:
        slots.append(n_slots)
        made(self, family, n_slots, threads)

    monkeypatch.setattr(Simulator, "__init__", counted)
    with compilations() as compiled:
        parent = train(experiment, tmp_path / "seeds", seeds=3)
    assert_all_same(parent, alone)
    assert compiled == []
    # Two visits; three train tasks before the first update; two trials in each of four tasks; and three of two.
    assert sorted(slots) == [3 * 2, 3 * 3, 3 * 6, 3 * 8]
    starts = {float(columns(run)[0]["AverageReturn_all_test_tasks"]) for run in alone.values()}
    assert len(starts) == 3  # they differ from each other

    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"pearl/point-robot, 3 seeds (5 to 7): {parent}"
    assert len(lines) == 2
    number = r"-?[\d.e+]+"
    success = r" · success \d+%" if experiment.family == "point-robot" else ""
    returns = rf"test return {number} \({number} to {number}, 3 seeds\)"
    assert re.match(rf"iteration 1/2 · {returns}{success} · {number} env steps/s", lines[0])


@one_family
def test_one_seed(experiment: Experiment, alone: dict[int, Path], tmp_path: Path) -> None:
    parent = train(experiment, tmp_path / "seeds", seeds=1)
    assert find_seeds(parent) == [parent / "seed-5"]
    assert_same(parent / "seed-5", alone[5])


@pytest.fixture
def started(experiment: Experiment, tmp_path: Path) -> Path:
    """Three seeds that were interrupted in the update phase of the second iteration."""
    parent = tmp_path / "three seeds"
    with interrupting("update", 7, signal.SIGINT), pytest.raises(Interrupted) as interrupted:
        train(experiment, parent, seeds=3)
    assert str(interrupted.value) == f"Stopped and saved. Continue with: nacre resume {shlex.quote(str(parent))}"
    return parent


@contextlib.contextmanager
def calling(owner: Any, name: str, call: int, action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` before the call of a function after `call` other calls."""
    function, left = getattr(owner, name), call

    def wrapper(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1:
            action()
        return function(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapper)
        yield


def interrupting(name: str, call: int, number: int) -> contextlib.AbstractContextManager[None]:
    """Sends this process a signal before some gradient steps, after `call` others: of a seed, or of all."""
    owner = training if name == "update_seeds" else gradient_steps
    return calling(owner, name, call, lambda: signal.raise_signal(number))


def latest(parent: Path) -> list[str]:
    return [max(path.stem for path in (run / "checkpoints").glob("iteration*")) for run in find_seeds(parent)]


@one_family
def test_interrupted_and_resumed_together(
    started: Path, alone: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert latest(started) == ["iteration_000001_update_000002"] * 3
    capsys.readouterr()
    assert resume(started) == started
    assert_all_same(started, alone)
    assert capsys.readouterr().out.splitlines()[1] == "going on from iteration_000001_update_000002"
    resume(started)
    assert (
        f"all 2 iterations are complete. For more: nacre resume {shlex.quote(str(started))}" in capsys.readouterr().out
    )


@one_family
def test_resumed_alone_and_then_together(started: Path, alone: dict[int, Path]) -> None:
    resume(started / "seed-6")
    assert_same(started / "seed-6", alone[6])
    assert not (started / "seed-5" / LAST).exists()
    resume(started)
    assert_all_same(started, alone)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in nacre catches it."""


def kill() -> None:
    raise Killed


@one_family
@pytest.mark.parametrize(
    ("name", "call", "labels"),
    [
        # The beginning: two of three have their first checkpoint.
        ("save_checkpoint", 2, ["iteration_000000", "iteration_000000", None]),
        # After the first iteration: one has its checkpoint.
        ("save_checkpoint", 4, ["iteration_000001", "iteration_000000", "iteration_000000"]),
        # After the second: its row is written, its checkpoint is not.
        ("save_checkpoint", 7, ["iteration_000002", "iteration_000001", "iteration_000001"]),
    ],
)
def test_killed_between_seeds(
    experiment: Experiment,
    alone: dict[int, Path],
    tmp_path: Path,
    name: str,
    call: int,
    labels: list[str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seeds that are behind catch up, and no seed does anything twice that is saved."""
    parent = tmp_path / "seeds"
    with calling(nacre.run, name, call, kill), pytest.raises(Killed):
        train(experiment, parent, seeds=3)
    found = [[path.stem for path in sorted((run / "checkpoints").glob("iteration*"))] for run in find_seeds(parent)]
    assert [names[-1] if names else None for names in found] == labels
    capsys.readouterr()
    resume(parent)
    assert_all_same(parent, alone)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert [line.split(" · ")[0] for line in lines] == ["iteration 1/2", "iteration 2/2"][call == 7 :]


@one_family
def test_interrupted_while_some_catch_up(experiment: Experiment, alone: dict[int, Path], tmp_path: Path) -> None:
    parent = tmp_path / "seeds"
    with calling(nacre.run, "save_checkpoint", 4, kill), pytest.raises(Killed):
        train(experiment, parent, seeds=3)
    with interrupting("update", 1, signal.SIGTERM), pytest.raises(Interrupted):
        resume(parent)
    assert latest(parent) == ["iteration_000001", *["iteration_000000_update_000002"] * 2]
    resume(parent)
    assert_all_same(parent, alone)


@one_family
def test_more_iterations(experiment: Experiment, alone: dict[int, Path], tmp_path: Path) -> None:
    """One was made longer by itself; then all are."""
    parent = train(dataclasses.replace(experiment, iterations=1), tmp_path / "seeds", seeds=3)
    resume(parent / "seed-7", iterations=2)
    assert_same(parent / "seed-7", alone[7])
    with pytest.raises(NacreError, match=r"^iterations is 1; allowed: at least 2, which have begun in .*/seed-7$"):
        resume(parent, iterations=1)
    assert [read_run(run)[0].iterations for run in find_seeds(parent)] == [1, 1, 2]
    resume(parent, iterations=2)
    assert_all_same(parent, alone)


# What goes wrong


@one_family
def test_numbers_of_seeds_that_cannot_be(experiment: Experiment, tmp_path: Path) -> None:
    for number in (0, -2):
        with pytest.raises(NacreError, match=rf"^seeds is {number}; allowed: 1 to 10000$"):
            train(experiment, tmp_path / "out", seeds=number)
    last = dataclasses.replace(experiment, seed=2**32 - 2)
    with pytest.raises(
        NacreError, match=r"^seeds is 3; allowed: 1 to 2, as seeds go up from 4294967294 to 2\*\*32 - 1"
    ):
        train(last, tmp_path / "out", seeds=3)
    assert not (tmp_path / "out").exists()


@one_family
def test_folders_that_are_not_free(alone: dict[int, Path], experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(NacreError, match="holds a run already: choose another folder"):
        train(experiment, alone[5], seeds=2)
    (tmp_path / "seed-5").mkdir()
    with pytest.raises(NacreError, match=f"holds runs already: .*: nacre resume {tmp_path}$"):
        train(experiment, tmp_path, seeds=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(NacreError, match="other is not empty: choose another folder"):
        train(experiment, tmp_path / "other", seeds=2)


@one_family
def test_what_is_no_folder_of_seeds(alone: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(NacreError, match=r"is not a run folder: it has no experiment\.json$"):
        resume(tmp_path)
    for seed in (5, 6):
        shutil.copytree(alone[seed], tmp_path / f"seed-{seed}")
    with pytest.raises(
        NacreError, match=r"no experiment\.json; it holds the runs of seeds: name one, such as .*seed-5$"
    ):
        nacre.load(tmp_path)
    (tmp_path / "seed-7").mkdir()  # as a kill at the very beginning leaves it
    with pytest.raises(NacreError, match=r"seed-7 is not a run folder: it has no experiment\.json$"):
        resume(tmp_path)
    (tmp_path / "seed-7").rmdir()
    path = tmp_path / "seed-6" / "experiment.json"
    content = json.loads(path.read_text())
    content["experiment"]["algorithm"]["discount"] = 0.5
    content["checksum"] = None  # the content is right
    path.write_text(json.dumps(content))
    with pytest.raises(NacreError, match=r"seed-6 is a run of another configuration than .*/seed-5: resume each by it"):
        resume(tmp_path)


@one_family
def test_a_seed_that_another_process_trains(alone: dict[int, Path], tmp_path: Path) -> None:
    for seed in SEEDS:
        shutil.copytree(alone[seed], tmp_path / f"seed-{seed}")
    with (
        locked_runs(tmp_path / "seed-6"),
        pytest.raises(NacreError, match="seed-6 is being trained by another process"),
    ):
        resume(tmp_path)
    resume(tmp_path)


@one_family
def test_a_loss_of_one_seed_is_not_finite(
    experiment: Experiment, alone: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, calls = gradient_steps.update, iter(range(100))

    def sometimes_broken(*args: Any) -> Any:
        state, metrics = update(*args)
        # Two chunks of three seeds in an iteration: the second seed in the second chunk of the second one.
        if next(calls) == 10:
            metrics["VF Loss"] *= jnp.nan
        return state, metrics

    parent = tmp_path / "seeds"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_steps, "update", sometimes_broken)
        message = (
            "the VF Loss of seed 6 is not finite in iteration 1, gradient step 2; the last good checkpoint is "
            f"{parent}/seed-6/checkpoints/iteration_000001.npz"
        )
        with pytest.raises(NonFiniteError, match=f"^{re.escape(message)}$"):
            train(experiment, parent, seeds=3)
    assert latest(parent) == ["iteration_000001"] * 3
    resume(parent)
    assert_all_same(parent, alone)


@one_family
def test_an_error_of_the_simulator_names_the_seed(experiment: Experiment, tmp_path: Path) -> None:
    parent = train(dataclasses.replace(experiment, iterations=1), tmp_path / "seeds", seeds=2)
    bad = read_run(parent / "seed-6")[1].test[1]

    class Broken(ShortClock):
        def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
            reward = super().reward(previous, action, following, task)
            return np.where((task == bad).all(-1), np.nan, reward)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.FAMILIES, experiment.family, Broken)
        with pytest.raises(SimulationError) as caught:
            resume(parent, iterations=2)
    assert (caught.value.part, caught.value.slot) == (1, 2)  # with two trials of each task
    assert "simulator slot 2 is not finite" in str(caught.value)
    assert (
        f"This is test task 1 of seed 6, in iteration 1 (evaluate); the last good checkpoint is {parent}/seed-6/"
        in (str(caught.value))
    )


def test_schedules_that_cannot_be_run_together() -> None:
    family = ShortClock()
    learner = clock_learner(family.horizon, PearlConfig(latent_size=2, hidden_size=8, encoder_hidden_size=8))
    simulator, agent = Simulator(family, 2), learner.agent(family.horizon)
    params = learner.parameters(learner.initial_state(jax.random.key(0)))

    def schedule(*steps: int) -> Schedule[None]:
        for number in steps:
            yield Play(agent, params, np.ones((1, 2)), np.random.SeedSequence(0), deterministic=True, steps=number)

    def run(*schedules: Schedule[None]) -> None:
        run_schedules(schedules, lambda plays: play_together(plays, simulator))

    run(schedule(1), schedule(1))
    with pytest.raises(ValueError, match="differ in their seeds, tasks, parameters and beliefs alone"):
        run(schedule(1), schedule(2))
    with pytest.raises(ValueError, match="have equally many plays"):
        run(schedule(1), schedule())


# The command line


def test_command_line(tiny: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = [f"--{field.replace('_', '-')}={value}" for field, value in tiny.items()]
    main(["train", "pearl/point-robot", *flags, "--iterations=1", "--seed=8", "--seeds=2", f"--out={out}"])
    assert find_seeds(out) == [out / "seed-8", out / "seed-9"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Done. Meta-test a seed with: nacre evaluate {out}/seed-8; draw all with: nacre report {out}"
    main(["resume", str(out), "--iterations=2"])
    assert [len(columns(run)) for run in find_seeds(out)] == [2, 2]
    main(["evaluate", str(out / "seed-9")])
    for arguments, sentence in (
        (["train", "pearl/point-robot", "--seeds=0"], "seeds is 0; allowed: 1 to 10000"),
        (["train", "pearl/point-robot", "--seeds=2", f"--out={out}"], "holds runs already"),
        (["evaluate", str(out)], "it holds the runs of seeds: name one, such as"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 2
        assert sentence in capsys.readouterr().err


@one_family
def test_default_folder(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parent = train(dataclasses.replace(experiment, iterations=1), seeds=2)
    assert parent.parent == Path("runs/pearl/point-robot")
    assert re.fullmatch(r"seeds-5-to-6-\d{4}(-\d\d){5}", parent.name)
    assert [run.name for run in find_seeds(parent)] == ["seed-5", "seed-6"]


# On a GPU: all seeds in one call


def test_where_calls_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not seeds.batched(5)
    with jax.default_device(jax.devices("cpu")[0]):
        assert not seeds.batched(5)
    monkeypatch.setattr(seeds, "current_platform", lambda: "gpu")
    assert seeds.batched(2)
    assert not seeds.batched(1)  # as before there were several


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "current_platform", lambda: "gpu")


def test_batched_seeds_are_what_they_would_be_alone_up_to_rounding(
    experiment: Experiment, alone: dict[int, Path], batched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loop; not a random number differs, or the differences would be of the order of the numbers."""
    monkeypatch.delattr(gradient_steps, "update")  # nothing is done one by one
    parent = train(experiment, tmp_path / "seeds", seeds=3)
    for seed, reference in alone.items():
        run = parent / f"seed-{seed}"
        for file, expected_file in zip(files(run), files(reference), strict=True):
            found, expected = contents(file), contents(expected_file)
            for name in expected.keys() - {"manifest"}:
                if expected[name].dtype.kind == "f":
                    np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
                else:
                    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        for row, expected_row in zip(columns(run), columns(reference), strict=True):
            assert row.keys() == expected_row.keys()
            for name in row:
                assert float(row[name]) == pytest.approx(float(expected_row[name]), rel=1e-3, abs=1e-3), name


@one_family
def test_batched_group_is_resumed(experiment: Experiment, batched: None, tmp_path: Path) -> None:
    """From the same state, the same programs give the same."""
    whole = train(experiment, tmp_path / "whole", seeds=2)
    parent = tmp_path / "parts"
    with interrupting("update_seeds", 3, signal.SIGINT), pytest.raises(Interrupted):
        train(experiment, parent, seeds=2)
    assert latest(parent) == ["iteration_000001_update_000004"] * 2
    resume(parent)
    for run, reference in zip(find_seeds(parent), find_seeds(whole), strict=True):
        assert_same(run, reference)


@one_family
def test_replays_of_batched_seeds_may_have_different_sizes(experiment: Experiment, batched: None) -> None:
    family = tasks.make_family(experiment.family)
    learner = runtime.learner_for(experiment, family)
    generator = np.random.default_rng(0)

    def replay(episodes: int, length: int) -> ReplayBuffer:
        buffer = ReplayBuffer(
            3,
            learner.sizes,
            has_sparse_reward=True,
            transitions=3 * length,
            fullest_task=length,
        )

        def normal(*shape: int) -> np.ndarray:
            return generator.normal(size=shape).astype(np.float32)

        def episode() -> Episode:
            observations = normal(length + 1, *family.observation_shape)
            actions, rewards = normal(length, family.action_size), normal(length)
            return Episode(observations, actions, rewards, rewards, False)

        buffer.add([Visit(task, tuple(episode() for _ in range(episodes)), 1) for task in range(3)])
        return buffer

    replays = [replay(4, 30).arrays, replay(40, 30).arrays]
    assert len(replays[0].rewards) != len(replays[1].rewards)
    initial_state = jax.jit(learner.initial_state)  # so that no leaf is another one, too: they are donated
    states = [initial_state(jax.random.key(seed)) for seed in SEEDS[:2]]
    expected = [
        gradient_steps.update(learner, "update", jax.tree.map(jnp.copy, state), replay, None, 3)
        for state, replay in zip(states, replays, strict=True)
    ]
    found = list(gradient_steps.update_seeds(learner, "update", states, replays, [None, None], 3))
    for (state, metrics), (alone_state, alone_metrics) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(metrics["QF Loss"].tasks, alone_metrics["QF Loss"].tasks)
        np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(alone_state.key))
        assert int(state.updates) == 3
        for one, other in zip(jax.tree.leaves(metrics), jax.tree.leaves(alone_metrics), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        for one, other in zip(jax.tree.leaves(state.trained), jax.tree.leaves(alone_state.trained), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
