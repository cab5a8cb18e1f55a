"""The house on an algorithm that it does not know (`random_learner`): all that it does for PEARL it does for any."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nacre
from nacre import metrics
from nacre.cli import main
from nacre.errors import Interrupted, NacreError
from nacre.estimate import estimate
from nacre.experiments import Experiment, from_json, make_experiment, to_json
from nacre.gradient_steps import update_seeds
from nacre.interfaces import Agent, Memory
from nacre.journal import read_segments
from nacre.loading import read_trained
from nacre.logs import read_progress_csv
from nacre.run_folder import read_run
from nacre.runtime import learner_for
from nacre.tasks import make_family

EXPERIMENTS = ("random/point-robot", "random/fenced-point")


@pytest.fixture(scope="module", autouse=True)
def module(own_registrations: None) -> ModuleType:
    """The user's module, as `--import random_learner` finds it."""
    return importlib.import_module("random_learner")


@pytest.fixture(scope="module", params=EXPERIMENTS)
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return make_experiment(request.param)


one_family = pytest.mark.parametrize("experiment", ["random/fenced-point"], indirect=True)


@pytest.fixture(scope="module")
def reference(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    return nacre.train(experiment, tmp_path_factory.mktemp("reference") / "run")


def contents(run: Path) -> dict[str, Any]:
    """All numbers of a run but for the times and the stamp of the run."""
    found: dict[str, Any] = {}
    for path in sorted([*run.glob("checkpoints/*.npz"), *run.glob("replay/*.npz")]):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "run"}
        if "manifest" in arrays:
            progress = json.loads(arrays.pop("manifest").tobytes())["progress"]
            found[f"{path.name} progress"] = progress | {"seconds": 0, "run": "", "log": ""}
        found |= {f"{path.name} {name}": array.tolist() for name, array in arrays.items()}
    columns = read_progress_csv(run / "progress.csv").items()
    return found | {name: column.tolist() for name, column in columns if "Time" not in name}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "nacre", "--import", "random_learner", *map(str, arguments)]


# Training


def test_it_is_an_agent_and_a_memory(module: ModuleType) -> None:
    assert isinstance(module.RandomAgent(2), Agent)
    assert isinstance(module.Latest(3), Memory)


def test_a_run_has_what_the_algorithm_says(experiment: Experiment, reference: Path) -> None:
    columns = read_progress_csv(reference / "progress.csv")
    assert list(columns)[:4] == ["Nudge Loss", "Latest Reward", "Calm Loss", "nudge Mean"]
    assert {"Nudge Time (s)", "Calm Time (s)", "AverageReturn_test_episode_2"} <= set(columns)
    visits = [visit for segment in read_segments(reference / "replay", 3) for visit in segment]
    assert [visit.task for visit in visits] == [0, 1, 2] * 3
    lengths = [len(episode) for visit in visits for episode in visit.episodes]
    assert columns["Number of env steps total"][-1] == sum(lengths)
    assert columns["Number of rollouts total"][-1] == len(lengths)
    terminated = [episode.terminated for visit in visits for episode in visit.episodes]
    assert any(terminated) == (experiment.family == "fenced-point")
    # The memory has the latest visits alone: the mean over tasks is what the column of the last iteration says.
    latest = [np.concatenate([episode.rewards for episode in visit.episodes]).mean() for visit in visits[-3:]]
    assert columns["Latest Reward"][-1] == pytest.approx(np.mean(latest), rel=1e-5)
    trained = read_trained(reference)
    with np.load(trained.checkpoint) as file:
        assert file["state.trained.optimisers['calmed']"] == 3  # `begin` ran once in each iteration


def test_a_phase_stops_early_and_counts_what_it_did(reference: Path) -> None:
    columns = read_progress_csv(reference / "progress.csv")
    steps = np.diff([0, *columns["Number of train steps total"]])
    assert ((steps >= 5) & (steps < 10)).all()
    numbers = read_trained(reference).parameters["numbers"]
    assert (abs(numbers) < 0.5).all()


def test_a_phase_that_needs_no_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its columns are there from the first row on, without a number."""
    run = nacre.train(make_experiment("random/point-robot", calm_below=1000.0), tmp_path / "run")
    columns = read_progress_csv(run / "progress.csv")
    assert columns["Number of train steps total"].tolist() == [5, 10, 15]
    for name in ("Calm Loss", "calm Mean", "calm Std", "calm Max", "calm Min"):
        assert np.isnan(columns[name]).all()
    assert "NaN" not in "".join(capfd.readouterr())
    nacre.report.write_report([run])


@one_family
def test_killed_and_resumed(experiment: Experiment, reference: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second iteration, in a process of its own."""
    run = tmp_path / "run"
    program = f"""
import os, signal, random_learner
from nacre.cli import main
begin, calls = random_learner.RandomLearner.begin, []
def dies(self, phase, *rest):
    calls.append(phase)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return begin(self, phase, *rest)
random_learner.RandomLearner.begin = dies
main({command("train", experiment.name, "--out", run)[3:]!r})
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_progress_csv(run / "progress.csv")["Epoch"]) == 1
    nacre.resume(run)
    assert contents(run) == contents(reference)


@pytest.mark.parametrize("phase", ["nudge", "calm"])
@one_family
def test_interrupted_within_a_phase_and_resumed(
    experiment: Experiment, reference: Path, tmp_path: Path, module: ModuleType, monkeypatch: Any, phase: str
) -> None:
    """A signal stops it between two gradient steps. `derive` is called anew, and `begin` is not."""
    begin, run = module.RandomLearner.begin, tmp_path / "run"

    def interrupted(self: Any, name: str, *rest: Any) -> Any:
        if name == phase:
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module.RandomLearner, "begin", interrupted)
        with pytest.raises(Interrupted):
            nacre.train(experiment, run)
    assert max(path.stem for path in (run / "checkpoints").glob("*.npz")) > "iteration_000000"
    nacre.resume(run)
    assert contents(run) == contents(reference)


def test_several_seeds_are_each_what_they_are_alone(experiment: Experiment, reference: Path, tmp_path: Path) -> None:
    """In one of them the phase that stops early takes fewer steps than in the other."""
    folder = nacre.train(experiment, tmp_path / "two", seeds=2)
    assert contents(folder / "seed-0") == contents(reference)
    alone = nacre.train(dataclasses.replace(experiment, seed=1), tmp_path / "alone")
    assert contents(folder / "seed-1") == contents(alone)


def test_a_seed_that_has_ended_waits_for_the_others(module: ModuleType) -> None:
    experiment = make_experiment("random/point-robot")
    learner = learner_for(experiment, make_family("point-robot"))
    states = [learner.initial_state(jax.random.key(seed)) for seed in (0, 1)]
    high = states[1].trained._replace(networks={"numbers": jnp.full(2, 0.9)})
    states[1] = states[1]._replace(trained=high)
    arrays, derived = [jnp.zeros(3)] * 2, [jnp.zeros(())] * 2
    (first, _), (second, _) = update_seeds(learner, "calm", states, arrays, derived, 5)
    assert (int(first.updates), int(second.updates)) == (0, 1)


def test_no_steps_have_names_but_no_numbers() -> None:
    none = jnp.zeros(0)
    steps = metrics.StepMetrics(
        loss=none,
        each=metrics.PerTask(jnp.zeros((0, 3), int), jnp.zeros((0, 3))),
        q=metrics.Summary(none, none, none, none),
    )
    assert metrics.find_non_finite(steps) is None
    row = metrics.columns(metrics.accumulate(None, steps))
    assert list(row) == ["loss", "each", "q Mean", "q Std", "q Max", "q Min"]
    assert np.isnan(list(row.values())).all()
    some = metrics.StepMetrics({"loss": jnp.ones(2)})
    assert metrics.columns(metrics.accumulate(metrics.accumulate(None, steps), some))["loss"] == 1.0


# What comes after


def test_evaluate_and_video(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    main(["evaluate", str(reference), "--episodes", "3", "--trials", "2", "--video", "--out", str(result)])
    content = json.loads(result.read_text())
    assert [len(task["trials"]) for task in content["tasks"]] == [2, 2]
    assert {len(trial["returns"]) for task in content["tasks"] for trial in task["trials"]} == {3}
    assert len(list(result.with_suffix("").glob("*.mp4"))) == 2
    assert "without adaptation" not in capsys.readouterr().out.replace("first 0 episode(s) of each without", "")


def test_load(reference: Path) -> None:
    agent = nacre.load(reference, seed=1)
    agent.begin_trial(3)
    active = np.array([True, True, False])
    for step in range(4):
        assert agent.act(np.zeros((3, 2), np.float32)).shape == (3, 2)
        ends = np.array([step == 3, False, False])
        agent.observe(np.zeros((3, 2)), np.zeros(3), np.zeros(3, bool), ends, active=active)
    assert agent.belief.acts.tolist() == [4, 4, 0]  # an action that was not carried out does not count
    assert agent.belief.episodes.tolist() == [1, 0, 0]


def test_report_and_compare(reference: Path, tmp_path: Path) -> None:
    main(["report", str(reference), "--out", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert "task inferred" not in page  # nothing is explored
    assert "own_flag" in page
    main(["compare", str(reference), "--out", str(tmp_path / "compare.html")])
    assert "random/" in (tmp_path / "compare.html").read_text()


# The command line


def test_a_process_that_imports_it(tmp_path: Path) -> None:
    """Flags of its own, and what the process tells to go on with."""
    run = tmp_path / "run"
    arguments = command("train", "random/point-robot", "--own-flag", "3", "--iterations", "1", "--out", run)
    done = subprocess.run(arguments, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"nacre --import random_learner evaluate {run}" in done.stdout
    assert to_json(read_run(run)[0])["algorithm"]["own_flag"] == 3
    assert read_trained(run).parameters["numbers"].shape == (3,)
    without = subprocess.run(
        [sys.executable, "-m", "nacre", "evaluate", str(run)], cwd=tmp_path, capture_output=True, text=True
    )
    assert without.returncode == 2
    assert "the algorithm 'random', which is not known here" in without.stderr
    assert "nacre --import random_learner COMMAND" in without.stderr


def test_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--import", "random_learner", "list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in EXPERIMENTS)
    assert "fenced-point" in listed
    with pytest.raises(SystemExit) as stopped:
        main(["--import", "random_learner", "train", "random/point-robot", "--help"])
    assert stopped.value.code == 0
    helped = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "--own-flag INT" in helped
    assert "Numbers that are drawn. (default: 2)" in helped
    assert "latent" not in helped


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--own-flag", "0"], "algorithm.own_flag is 0; allowed: at least 1"),
        (["--calm-below", "0"], "algorithm.calm_below is 0.0; allowed: more than 0"),
        (["--collection-steps", "7"], "algorithm.collection_steps is 7; allowed: 20 or more"),
    ],
)
def test_wrong_values(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "random/point-robot", *flags, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_json_round_trip(experiment: Experiment, reference: Path) -> None:
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment
    assert read_run(reference)[0] == experiment
    content = to_json(experiment)
    del content["algorithm"]["own_flag"]
    with pytest.raises(NacreError, match=r"'algorithm\.own_flag' is missing"):
        from_json(content)


def test_the_estimate_of_a_memory_that_is_no_replay(
    experiment: Experiment, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its draws count, and a memory that computes on the host is passed over."""
    found = estimate(experiment)
    assert (found.replay, found.optimisers) == (3 * 4, 4)
    assert found.batch > 0

    def on_the_host(memory: Any, tasks: int) -> None:
        memory.arrays = jnp.zeros(tasks) + float(jnp.zeros(()))

    monkeypatch.setattr(module.Latest, "__init__", on_the_host)
    assert estimate(experiment).replay == 0


def test_names_that_are_taken(module: ModuleType) -> None:
    other = nacre.Algorithm("random", module.RandomConfig, learner="elsewhere:Learner")
    with pytest.raises(NacreError, match="there is an algorithm 'random' already"):
        nacre.register_algorithm(other)
    with pytest.raises(NacreError, match="is the configuration of 'random' already"):
        nacre.register_algorithm(dataclasses.replace(other, name="other"))
