"""Runs whose tasks change inside episodes: trained, stopped and resumed, several at once, evaluated, drawn."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY as PEARL
from probes import stop_after
from test_cemrl_run import TINY as CEMRL
from test_dmrlad_run import SMALL as DMRLAD

import nacre
from nacre import evaluation
from nacre.cli import main
from nacre.errors import Interrupted, NacreError
from nacre.experiments import Experiment, family_of, from_json, make_experiment, to_json, validate
from nacre.files import read_npz
from nacre.identity import stamp_of
from nacre.journal import read_segment, read_segments
from nacre.listing import listing
from nacre.loading import read_trained
from nacre.recovery import changes_in
from nacre.report.trials import play_test_trials, protocol_in_words
from nacre.run import owner_of
from nacre.run_folder import read_run, read_stamp
from nacre.tasks.family import TaskSplit
from nacre.tasks.shifts import Shift
from nacre.training import resume, train
from nacre.types import Episode
from nacre.video import RecordingSimulator, shots_of

SHIFT = Shift("time", 4, 3, probability=0.8)


@pytest.fixture(scope="module", autouse=True)
def module(own_registrations: None) -> Any:
    return importlib.import_module("random_learner")


@pytest.fixture(scope="module")
def experiment(module: Any) -> Experiment:
    return make_experiment("random/point-robot", shift=SHIFT, test_tasks=3)


@pytest.fixture(scope="module")
def run(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(experiment, tmp_path_factory.mktemp("shifting") / "run")


def episodes_of(run: Path) -> list[tuple[int, Episode]]:
    """The episodes of the journal with the number of their train task."""
    count = len(list((run / "replay").glob("*.npz")))
    return [
        (visit.task, episode)
        for visits in read_segments(run / "replay", count)
        for visit in visits
        for episode in visit.episodes
    ]


def rows(tasks: np.ndarray | None) -> set[bytes]:
    assert tasks is not None
    return {row.tobytes() for row in tasks}


def assert_same(run: Path, other: Path) -> None:
    """The last checkpoint, the best one and the journals are the same to the bit."""
    segments = [f"replay/{path.name}" for path in sorted((other / "replay").iterdir())]
    assert segments == [f"replay/{path.name}" for path in sorted((run / "replay").iterdir())]
    last = max(path.name for path in (other / "checkpoints").glob("iteration_*"))
    for name in (f"checkpoints/{last}", "checkpoints/best.npz", *segments):
        found, expected = read_npz(run / name), read_npz(other / name)
        assert found.keys() == expected.keys()
        for array in found.keys() - {"manifest", "run"}:  # they have the time, and the name of the run
            np.testing.assert_array_equal(found[array], expected[array], err_msg=f"{name}: {array}")


# Training


def test_training_draws_from_the_train_tasks(run: Path, experiment: Experiment) -> None:
    _, split = read_run(run)
    family = family_of(experiment)
    changed = 0
    for task, episode in episodes_of(run):
        assert episode.tasks is not None
        np.testing.assert_array_equal(episode.tasks[0], split.train[task])
        assert rows(episode.tasks) <= rows(split.train)
        changed += len(changes_in([episode], split.train[task]))
        # Observations are positions: the rewards are those of the task in force.
        rewards = family.reward(None, None, episode.observations[1:].astype(float), episode.tasks)
        np.testing.assert_allclose(episode.rewards, rewards, rtol=1e-5, atol=1e-6)
    assert changed > 10


def test_evaluation_while_training_draws_from_the_same_set(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, Any]] = []
    recovery_of = evaluation.recovery_of

    def watching(family: Any, tasks: np.ndarray, trials: Any, sparse: bool) -> Any:
        seen.append((tasks, trials))
        return recovery_of(family, tasks, trials, sparse)

    monkeypatch.setattr(evaluation, "recovery_of", watching)
    _, split = read_run(train(dataclasses.replace(experiment, iterations=1), tmp_path / "run"))
    ((tasks, trials),) = seen
    np.testing.assert_array_equal(tasks[:3], split.test)
    played = [np.concatenate([episode.tasks for trial in of_task for episode in trial]) for of_task in trials]
    assert all(rows(of_task) <= rows(split.test) for of_task in played[:3])
    assert all(rows(of_task) <= rows(split.train) for of_task in played[3:])
    assert all(len(rows(of_task)) > 1 for of_task in played)


def test_the_journal_is_read_back_and_checked(run: Path, experiment: Experiment, tmp_path: Path) -> None:
    _, split = read_run(run)
    owner = owner_of(family_of(experiment), split, read_stamp(run, experiment, split))
    assert all(
        episode.tasks is not None for visit in read_segment(run / "replay", 0, owner) for episode in visit.episodes
    )
    other = owner._replace(sizes=dataclasses.replace(owner.sizes, task=5))
    with pytest.raises(NacreError, match="has tasks of 2 parameters; allowed: 5 parameters"):
        read_segment(run / "replay", 0, other)


def test_several_seeds_are_each_what_they_are_alone(experiment: Experiment, run: Path, tmp_path: Path) -> None:
    folder = train(experiment, tmp_path / "two", seeds=2)
    assert_same(folder / "seed-0", run)
    _, split = read_run(folder / "seed-1")
    assert all(rows(episode.tasks) <= rows(split.train) for _, episode in episodes_of(folder / "seed-1"))


def test_a_resumed_run_is_the_same(experiment: Experiment, run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted), stop_after(4):
        train(experiment, stopped)
    resume(stopped)
    assert_same(stopped, run)


@pytest.mark.parametrize(
    ("name", "changes", "shift"),
    [
        ("pearl/point-robot", PEARL, "time:6"),
        ("cemrl/point-robot-quick", CEMRL, "place:0.2+0.2"),
        ("dmrlad/sparse-point-robot-quick", DMRLAD, "time:6"),  # copies that are relabelled carry the task they are for
    ],
)
def test_algorithms_are_resumed_to_the_bit(name: str, changes: dict[str, Any], shift: str, tmp_path: Path) -> None:
    experiment = make_experiment(name, shift=shift, **changes)
    reference, stopped = train(experiment, tmp_path / "reference"), tmp_path / "stopped"
    with pytest.raises(Interrupted), stop_after(3):
        train(experiment, stopped)
    resume(stopped)
    assert_same(stopped, reference)
    assert sum(len(rows(episode.tasks)) > 1 for _, episode in episodes_of(reference)) > 0


def test_what_cannot_learn_from_changes_is_refused() -> None:
    for name, changes in (("oracle/point-robot", {}), ("cemrl/cheetah-stationary-dir", {"true_classes": True})):
        experiment = make_experiment(name, shift="time:5", **changes)
        with pytest.raises(NacreError, match=r"shift.* 'time:5'.*none|allowed with the shift 'time:5'"):
            validate(experiment, family_of(experiment))
    for name in ("blind/point-robot", "pearl/point-robot", "cemrl/point-robot-quick"):
        experiment = make_experiment(name, shift="time:5")
        validate(experiment, family_of(experiment))
    experiment = make_experiment("pearl/point-robot", shift="time:5,opposite")
    with pytest.raises(NacreError, match="allowed for point-robot: without 'opposite'"):
        validate(experiment, family_of(experiment))


# Configuration


def test_an_experiment_has_a_shift(experiment: Experiment) -> None:
    assert experiment.shift == SHIFT
    assert family_of(experiment).shift == SHIFT
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment
    assert to_json(experiment)["shift"]["first"] == 4
    for given in ("none", None):
        assert make_experiment("random/point-robot", shift=given).shift is None
    with pytest.raises(NacreError, match=r"shift is 3; allowed: a shift such as 'place:10\+2'.* or None"):
        make_experiment("random/point-robot", shift=3)
    with pytest.raises(NacreError, match=r"unknown field 'shift\.when'"):
        make_experiment("random/point-robot", shift={"trigger": "time", "first": 3, "when": 4})


def test_without_a_shift_runs_are_those_of_earlier_versions() -> None:
    plain = make_experiment("random/point-robot")
    values = to_json(plain)
    del values["shift"]
    assert from_json(values) == plain
    split = TaskSplit(np.zeros((1, 2)), np.zeros((1, 2)))
    changed = dataclasses.replace(plain, shift=SHIFT)
    assert stamp_of("name", plain, split) != stamp_of("name", changed, split)
    assert not family_of(plain).shift


def test_families_do_not_share_a_shift(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nacre.tasks import FAMILIES, make_family

    always = make_family("point-robot")
    monkeypatch.setitem(FAMILIES, "point-robot", lambda: always)
    assert family_of(make_experiment("random/point-robot", shift="time:5")).shift == Shift("time", 5)
    assert family_of(make_experiment("random/point-robot")).shift is None


def test_in_words(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    words = "the task changes to another one within an episode, each time after more than 4 to 7 steps"
    assert protocol_in_words(experiment).endswith(f"{words}, with a probability of 0.8 in each step")
    nacre.register_experiment(dataclasses.replace(experiment, name="random/changing-point"), "acts at random")
    assert any(words in line for line in listing(None))
    main(["train", "random/changing-point", "--dry-run"])
    assert words in capsys.readouterr().out
    main(["train", "random/changing-point", "--shift", "none", "--dry-run"])
    assert words not in capsys.readouterr().out
    main(["train", "random/point-robot", "--shift", "place:2", "--dry-run"])
    assert "at each further 2 along x, forward or backward" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "random/point-robot", "--shift", "soon", "--dry-run"])
    assert "shift is 'soon'; allowed: none, or TRIGGER:FIRST" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "random/point-robot", "--help"])
    assert "--shift none|TRIGGER:FIRST..." in capsys.readouterr().out


# Evaluation


def evaluated(run: Path, path: Path, *flags: str) -> dict[str, Any]:
    main(["evaluate", str(run), "--out", str(path), *flags])
    return json.loads(path.read_text())


def test_results_name_each_change(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluated(run, tmp_path / "as-trained.json")
    told = capsys.readouterr().out
    _, split = read_run(run)
    assert content["shift"] == {"trigger": "time", "first": 4, "spread": 3, "probability": 0.8, "draw": "tasks"}
    changes = [
        (task["parameters"], change)
        for task in content["tasks"]
        for trial in task["trials"]
        for change in trial["changes"]
    ]
    assert len(changes) == content["recovery"]["changes"] > 5
    for own, change in changes:
        assert change["episode"] in (1, 2)
        assert 5 < change["step"] <= 20
        assert change["from"] != change["to"]
        assert change["to"] in split.test.tolist()
        if change["step"] <= 9:  # the first of the episode
            assert change["from"] == own
    assert f"The task changed {len(changes)} time(s) inside an episode: the mean reward is" in told
    assert "The distance to the goal follows the new task in " in told
    assert len(content["recovery"]["followed_after"]) == len(changes)


def test_a_shift_of_ones_own_and_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = evaluated(run, tmp_path / "other.json", "--shift", "time:15")
    steps = {change["step"] for task in other["tasks"] for trial in task["trials"] for change in trial["changes"]}
    assert steps == {17}
    never = evaluated(run, tmp_path / "never.json", "--shift", "time:500")
    assert "recovery" not in never
    assert "With the shift 'time:500' no task changed inside an episode." in capsys.readouterr().out
    still = evaluated(run, tmp_path / "still.json", "--shift", "none")
    assert still["shift"] is None
    assert "changes" not in still["tasks"][0]["trials"][0]
    assert "changed" not in capsys.readouterr().out
    for path in (run / "evaluations").glob("*"):
        path.unlink()
    for shift in ("none", "time:3", str(SHIFT)):
        nacre.evaluate(run, shift=shift)
    names = sorted(path.name.partition("-")[2] for path in (run / "evaluations").iterdir())
    assert names == ["changing-test-two-episodes.json", "test-two-episodes.json", "unchanging-test-two-episodes.json"]
    with pytest.raises(NacreError, match="allowed for point-robot: without 'opposite'"):
        nacre.evaluate(run, shift="time:3,opposite")


def test_pools_of_an_evaluation(run: Path) -> None:
    _, split = read_run(run)
    for tasks, pool in (("train", split.train), ("test", split.test), ([[0.3, 0.3]], split.test)):
        found = nacre.evaluate(run, tasks, shift=Shift("time", 2))
        new = {change.after for trials in found.trials for trial in trials for change in trial.changes or ()}
        assert new <= set(map(tuple, pool.tolist()))
        assert new


def test_an_agent_that_is_given_its_task_is_not_tested_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    monkeypatch.setattr(module.RandomAgent, "sees_task", True)
    with pytest.raises(NacreError, match="allowed for this agent: none, as it is given the task at the beginning"):
        nacre.evaluate(run, shift="time:5")


# Pictures


def test_the_report_draws_the_recovery(run: Path, tmp_path: Path) -> None:
    from nacre.report import write_report

    page = write_report([run], tmp_path / "page.html").read_text()
    assert "Recovery after changes of task: the task changes to another one within an episode" in page
    assert "control step, counted from the change" in page
    assert "goal after a change" in page


def test_a_report_may_change_tasks_in_another_way(run: Path, tmp_path: Path) -> None:
    from nacre.report import write_report

    page = write_report([run], tmp_path / "page.html", shift="none").read_text()
    assert "Recovery after changes of task" not in page
    assert "In these trials" not in page
    assert "Vertical lines are changes of the task." not in page
    with pytest.raises(NacreError, match="shift is 'sometimes'"):
        write_report([run], tmp_path / "page.html", shift="sometimes")


def test_videos_show_the_task_in_force(run: Path) -> None:
    trained = read_trained(run)
    test = play_test_trials(run, "latest", lambda message: None)
    trial = test.episodes[0][0]
    simulator = RecordingSimulator(trained.family, 1, threads=1)
    simulator.recordings[0] = [list(np.zeros((len(episode) + 1, 2))) for episode in trial]
    shots = shots_of(simulator, test.evaluation, 0, trial)
    own = test.evaluation.tasks[0]
    length = len(trial[0])
    assert trial[0].tasks is not None
    for step, shot in enumerate(shots[: length + 1]):
        now = trial[0].tasks[min(step, length - 1)]
        changed = "" if np.array_equal(now, own) else ", changed"
        assert shot.lines[0] == f"task 0{changed}: goal x {now[0]:.3f}, goal y {now[1]:.3f}"
        np.testing.assert_array_equal(shot.signs.goal, now)
    assert len({shot.lines[0] for shot in shots}) > 1
