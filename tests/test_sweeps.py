"""Sweeps: what is asked for, what is refused, and runs that are killed, stopped and taken up again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
from fake_ray import FakeRay
from probes import contents

from nacre import cli
from nacre.errors import Interrupted, NacreError
from nacre.experiments import make_experiment
from nacre.logs import read_progress_csv
from nacre.sweeps import cluster, running
from nacre.sweeps.board import WIDTH, Board, Progress, State
from nacre.sweeps.processes import SAVED, Process, ThisMachine, request_of
from nacre.sweeps.resources import Resources, most_at_once
from nacre.sweeps.running import Part, _Loop, parse_part
from nacre.sweeps.search import Halving
from nacre.sweeps.specification import Planned, Specification, cell_name, read_specification, specify
from nacre.training import train

HERE = Path(__file__).parent
POINT = "pearl/point-robot-quick"


def spec(**keys: Any) -> Specification:
    return specify({"experiments": [POINT], **keys}, "kl.toml")


def refused(content: Any) -> str:
    with pytest.raises(NacreError) as refusal:
        specify(content, "kl.toml")
    return str(refusal.value)


def test_every_combination_is_a_run() -> None:
    found = spec(
        seeds=[3, 5], values={"kl_weight": [0.1, 1], "shift": [None, "time:10"]}, fixed={"iterations": 7}, cores=2
    )
    assert list(found.cells) == [
        "pearl-point-robot-quick_kl_weight-0.1_shift-none",
        f"pearl-point-robot-quick_kl_weight-0.1_shift-time-10-{hashlib.sha256(b'time:10').hexdigest()[:6]}",
        "pearl-point-robot-quick_kl_weight-1.0_shift-none",
        f"pearl-point-robot-quick_kl_weight-1.0_shift-time-10-{hashlib.sha256(b'time:10').hexdigest()[:6]}",
    ]
    assert len(found.runs) == 8
    assert [run.experiment.seed for run in found.runs] == [3] * 4 + [5] * 4
    first = found.runs[0].experiment
    assert first == make_experiment(POINT, seed=3, kl_weight=0.1, iterations=7)
    assert str(found.runs[3].experiment.shift) == "time:10"
    assert found.runs[4].place == Path("runs", next(iter(found.cells)), "seed-5")
    assert (found.cores, found.retries) == (2, 2)


def test_experiments_have_fields_of_their_own() -> None:
    content = {
        "experiments": [
            {"name": POINT, "values": {"kl_weight": [0.1, 1.0]}},
            "cemrl/point-robot-quick",
            {"name": "cemrl/point-robot-quick", "label": "short", "fixed": {"iterations": 3}},
            make_experiment("oracle/point-robot-quick", seed=9),
        ],
        "fixed": {"iterations": 5},
    }
    cells = specify(content, "it").cells
    assert list(cells) == [
        "pearl-point-robot-quick_kl_weight-0.1",
        "pearl-point-robot-quick_kl_weight-1.0",
        "cemrl-point-robot-quick",
        "short",
        "oracle-point-robot-quick",
    ]
    assert [experiment.iterations for experiment in cells.values()] == [5, 5, 5, 3, 5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "kl.toml is []; allowed: an object with experiments, seeds, fixed, values, search, halving, cores"),
        ({}, "kl.toml: experiments is missing; allowed: a list of names of experiments, see nacre list"),
        ({"experiments": POINT}, f"experiments is '{POINT}'; allowed: a list of names"),
        ({"experiments": []}, "experiments is []; allowed: a list of names"),
        ({"experiments": [3]}, "experiments[0] is 3; allowed: the name of an experiment"),
        ({"experiments": [{"nam": POINT}]}, "unknown key 'experiments[0].nam': did you mean name?"),
        ({"experiments": ["pearl/point"]}, "unknown experiment 'pearl/point'"),
        (
            {"experiments": [POINT, POINT]},
            f"experiments has '{POINT}' 2 times; allowed: once, or with a label for each",
        ),
        ({"experiments": [{"name": POINT, "label": " "}]}, "experiments[0].label is ' '; allowed: text"),
        ({"seed": 3}, "unknown key 'seed': did you mean seeds?"),
        (
            {"seeds": 0},
            "seeds is 0; allowed: how many, from 1 to 10,000, or a list of whole numbers from 0 to 2**32 - 1",
        ),
        ({"seeds": True}, "seeds is True; allowed: how many"),
        ({"seeds": []}, "seeds is []; allowed: how many"),
        ({"seeds": [1, 1.5]}, "seeds is [1, 1.5]; allowed: how many"),
        ({"seeds": [1, 2, 1]}, "seeds has 1 2 times; allowed: each once"),
        ({"cores": 0}, "cores is 0; allowed: a whole number from 1 to 1024"),
        ({"retries": -1}, "retries is -1; allowed: a whole number from 0 to 100"),
        ({"values": [1]}, "values is [1]; allowed: a table of fields, as nacre train has them as flags"),
        ({"values": {"kl_weight": 1.0}}, "values.kl_weight is 1.0; allowed: a list of values (one value for all runs"),
        ({"values": {"kl_weight": []}}, "values.kl_weight is an empty list; allowed: at least one value"),
        ({"values": {"kl_wait": [1.0]}}, f"{POINT}: unknown field 'kl_wait': did you mean kl_weight or"),
        ({"values": {"kl_weight": ["x"]}}, f"{POINT}: kl_weight is 'x'; allowed: a finite number"),
        ({"values": {"kl_weight": [-1.0]}}, f"{POINT}: kl_weight is -1.0; allowed: at least 0 and at most 1000000"),
        ({"values": {"kl_weight": [1, 1.0]}}, f"{POINT}: values.kl_weight has 1.0 twice"),
        ({"values": {"seed": [1, 2]}}, "values.seed is given; allowed: seeds, beside values"),
        ({"fixed": {"algorithm": {}}}, "fixed.algorithm is given; allowed: its fields by their names, beside fixed"),
        (
            {"fixed": {"kl_weight": 1.0}, "values": {"kl_weight": [1.0]}},
            "fixed.kl_weight is given, and values.kl_weight too; allowed: one of the two",
        ),
        ({"values": {"train_tasks": [3, 0]}}, f"{POINT}: train_tasks is 0; allowed: at least 1 and at most 100000"),
        ({"fixed": {"family_options": {"horizn": 3}}}, f"{POINT}: "),
        (
            {"experiments": [POINT, {"name": POINT, "label": "again"}]},
            "pearl-point-robot-quick and again are the same configuration; allowed: each once",
        ),
        (
            {"experiments": [{"name": POINT, "label": "Mine"}, {"name": "cemrl/point-robot-quick", "label": "mine"}]},
            "two configurations would have the folder 'mine'; allowed: labels that give each its own",
        ),
        ({"search": 3}, "search is 3; allowed: a table of samples, seed, ranges"),
        ({"search": {"samples": 2}}, "search.ranges is None; allowed: a table of ranges, by field"),
        ({"search": {"samples": 0, "ranges": {"kl_weight": {"low": 1, "high": 2}}}}, "search.samples is 0; allowed: a"),
        ({"search": {"samples": 2, "ranges": {"kl_weight": {"low": 2, "high": 1}}}}, "with A less than B"),
        ({"search": {"samples": 2, "ranges": {"kl_weight": {"low": 0, "high": 1, "log": True}}}}, "if A is more than"),
        ({"search": {"samples": 2, "ranges": {"kl_weight": {"low": -1, "high": 1}}}}, "kl_weight is -1; allowed: at"),
        ({"search": {"samples": 2, "ranges": {"kl_wait": {"low": 0, "high": 1}}}}, "unknown field 'kl_wait' in search"),
        ({"search": {"samples": 2, "ranges": {"task_list": {"low": 0, "high": 1}}}}, "task_list is 0; allowed:"),
        (
            {"search": {"samples": 9, "ranges": {"latent_size": {"low": 2, "high": 4}}}},
            "search.samples is 9; allowed: about 3, as search.ranges has few different values",
        ),
        (
            {"search": {"samples": 2, "ranges": {"kl_weight": {"low": 0, "high": 1}}}, "fixed": {"kl_weight": 2.0}},
            "search.ranges.kl_weight is given, and kl_weight elsewhere too; allowed: one of the two",
        ),
        ({"halving": {}}, "halving.after is None; allowed: a whole number from 1 to 1000000"),
        ({"halving": {"after": 2}, "seeds": 2}, "seeds are 2 beside halving; allowed: one, as halving would keep the"),
        (
            {"halving": {"after": 2}, "experiments": [POINT, "pearl/cheetah-vel"]},
            "halving compares returns, and there are several kinds of tasks: cheetah-vel, point-robot; allowed: one",
        ),
        (
            {"seeds": 1000, "values": {"kl_weight": list(range(100)), "iterations": list(range(1, 101))}},
            "it asks for 10,000,000 runs; allowed: at most 10,000",
        ),
    ],
)
def test_what_is_refused(content: Any, sentence: str) -> None:
    whole = {"experiments": [POINT], **content} if isinstance(content, dict) and content else content
    told = refused(whole)
    assert sentence in told
    assert "mistakes" not in told


def test_all_mistakes_are_told_at_once() -> None:
    told = refused(
        {
            "experiments": [POINT, "cemrl/point-robot-quick"],
            "seeds": 0,
            "colour": 1,
            "values": {"kl_weight": [0.1, "x", -1.0], "iterations": []},
            "fixed": {"train_tasks": 0},
        }
    )
    assert told.startswith("kl.toml has 7 mistakes: (1) unknown key 'colour'")
    for sentence in (
        "seeds is 0;",
        "values.iterations is an empty list",
        f"{POINT} and cemrl/point-robot-quick: train_tasks is 0",
        f"{POINT}: kl_weight is 'x'",
        f"{POINT}: kl_weight is -1.0",
        "cemrl/point-robot-quick: unknown field 'kl_weight'",
    ):
        assert told.count(sentence) == 1
    assert "\n" not in told


def test_names_of_folders() -> None:
    names = [cell_name("a/b", {"x": value}) for value in ("a b", "a-b", "a/b", 1, 1.0, 10**30, "é" * 300, True, None)]
    assert len(set(names)) == len(names)
    assert names[1] == "a-b_x-a-b"
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]+", name) for name in names)
    many = cell_name("a", {f"field_{number}": "v" * 30 for number in range(20)})
    assert len(many) <= 200


def test_files(tmp_path: Path) -> None:
    toml, text = tmp_path / "kl.toml", f'experiments = ["{POINT}"]\nseeds = 2\n[values]\nkl_weight = [0.1, 1.0]\n'
    toml.write_text(text)
    values = {"experiments": [POINT], "seeds": 2, "values": {"kl_weight": [0.1, 1.0]}}
    (tmp_path / "kl.json").write_text(json.dumps(values))
    assert read_specification(toml) == read_specification(tmp_path / "kl.json") == specify(values, "")
    for name, content, sentence in (
        ("twice.toml", text + "kl_weight = [3.0]\n", "twice.toml is not TOML"),
        ("twice.json", '{"seeds": 1, "experiments": [], "seeds": 2}', "the key 'seeds' is given 2 times in one object"),
        ("damaged.json", "{", "damaged.json is not JSON"),
        ("missing.json", None, "missing.json: No such file"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(NacreError, match=re.escape(sentence)):
            read_specification(tmp_path / name)


def test_parts() -> None:
    assert parse_part("2/10") == Part(2, 10)
    for text in ("0/3", "4/3", "2", "a/b", "-1/3"):
        with pytest.raises(NacreError, match="allowed: K/N, such as 2/10"):
            parse_part(text)


def test_how_many_at_once() -> None:
    machine = Resources(cores=tuple(range(8)), memory=10e9)
    assert most_at_once(machine, 1, [1e9] * 100, False) == 8
    assert most_at_once(machine, 3, [1e9] * 100, False) == 2
    assert most_at_once(machine, 1, [4e9, 4e9, 4e9, 1e9], False) == 2
    assert most_at_once(machine, 1, [40e9], False) == 1  # a run alone is refused by its own estimate, or not at all
    assert most_at_once(machine._replace(gpus=("0", "1")), 1, [1e9] * 100, True) == 2
    assert most_at_once(machine, 1, [1e9] * 100, True) == 8


class FakeJob:
    """A run that ends when it is told to."""

    def __init__(self, progress: dict[str, Any], folder: Path):
        self.progress, self.folder = progress, folder
        self.calls: list[str] = []
        self.how: str | None = None

    def poll(self) -> str | None:
        plan = self.progress["plan"]
        if self.how is None and plan:
            self.how = plan.pop(0)
            if self.how == "finishes":
                (self.folder / "checkpoints").mkdir(parents=True)
                (self.folder / "checkpoints" / "iteration_000002.npz").touch()
        return self.how

    def stop(self) -> None:
        self.calls.append("stop")
        self.how = SAVED

    def kill(self) -> None:
        self.calls.append("kill")


class FakeWorkplace:
    """Places for runs that do what was planned for them."""

    def __init__(self, plans: dict[int, list[str]]):
        self.plans, self.begun, self.places = plans, [], 2
        self.jobs: list[FakeJob] = []

    def room(self) -> int:
        return self.places - sum(job.how is None for job in self.jobs)

    def begin(self, run: Planned, folder: Path, log: Path) -> FakeJob:
        self.begun.append(run.experiment.seed)
        self.jobs.append(FakeJob({"plan": self.plans[run.experiment.seed][:1]}, folder))
        self.plans[run.experiment.seed] = self.plans[run.experiment.seed][1:]
        return self.jobs[-1]

    def close(self) -> None:
        pass


def loop_of(
    plans: dict[int, list[str]], tmp_path: Path, halving: Halving | None = None
) -> tuple[_Loop, FakeWorkplace, list[Progress], io.StringIO]:
    experiment = make_experiment(POINT, iterations=2)
    runs = [Planned("cell", make_experiment(POINT, iterations=2, seed=seed)) for seed in plans]
    assert runs[0].experiment.iterations == experiment.iterations
    found = [Progress(run, tmp_path / str(run.experiment.seed), tmp_path / "log") for run in runs]
    said = io.StringIO()
    specification = Specification({}, (), cores=1, retries=2, halving=halving)
    board = Board(found, console=rich.console.Console(file=said, width=200))
    workplace = FakeWorkplace(plans)
    return _Loop(found, workplace, specification, board, tmp_path), workplace, found, said


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_POLL_SECONDS", 0.0)


def test_runs_are_tried_again_and_not_for_ever(no_waiting: None, tmp_path: Path) -> None:
    plans = {0: ["killed", "killed", "finishes"], 1: ["failed"] * 9, 2: ["finishes"], 3: ["ended", "finishes"]}
    loop, workplace, found, said = loop_of(plans, tmp_path)
    loop.to_the_end([])
    assert [run.state for run in found] == [State.FINISHED, State.FAILED, State.FINISHED, State.FINISHED]
    assert [workplace.begun.count(seed) for seed in range(4)] == [3, 3, 1, 2]
    assert [run.failures for run in found] == [2, 3, 0, 1]
    assert "cell/seed-0: killed; try 1 of 2 to go on" in said.getvalue()
    assert "cell/seed-1: failed: failed" in said.getvalue()


def test_a_signal_stops_all_and_begins_nothing(no_waiting: None, tmp_path: Path) -> None:
    loop, workplace, found, _ = loop_of({seed: [] for seed in range(4)}, tmp_path)
    signals: list[int] = []
    begin = workplace.begin

    def begin_and_signal(*arguments: Any) -> FakeJob:
        if len(workplace.begun) == 1:
            signals.append(signal.SIGTERM)
        return begin(*arguments)

    workplace.begin = begin_and_signal
    loop.to_the_end(signals)
    loop.stop()
    assert workplace.begun == [0, 1]
    assert [job.calls for job in workplace.jobs] == [["stop"], ["stop"]]
    assert [run.state for run in found] == [State.SAVED, State.SAVED, State.WAITING, State.WAITING]


def test_a_run_that_cannot_save_is_not_told_as_saved(
    no_waiting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, workplace, found, said = loop_of({0: [], 1: []}, tmp_path)

    def to_the_end(signals: list[int]) -> None:
        for run in found:
            loop._begin(run)
        workplace.jobs[1].stop = lambda: setattr(workplace.jobs[1], "how", "ended with status 2: the disk is full")
        signals.append(signal.SIGTERM)

    monkeypatch.setattr(loop, "to_the_end", to_the_end)
    monkeypatch.setattr(running, "_Loop", lambda *_: loop)
    specification = Specification({}, (), cores=1, retries=2, halving=None)
    with pytest.raises(Interrupted, match=r"^Stopped without saving: .* Continue with: again$") as stopped:
        running._train(found, workplace, specification, tmp_path, True, "again")
    assert not stopped.value.is_saved
    assert [run.state for run in found] == [State.SAVED, State.FAILED]
    assert "cell/seed-1: failed while it was to save: ended with status 2: the disk is full" in said.getvalue()


class FakeOnNode:
    """An actor whose run goes on for ever."""

    def __init__(self, *given: Any):
        pass

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        return None


def nodes_of(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[cluster.Nodes, list[Any]]:
    """Four runs have begun; those whose actors answer are known to have."""
    monkeypatch.setattr(cluster, "_OnNode", FakeOnNode)
    nodes = cluster.Nodes(ray, "it", 1, 1e9, 4, False)
    run = Planned("cell", make_experiment(POINT))
    jobs = [nodes.begin(run, tmp_path / str(number), tmp_path / "log") for number in range(4)]
    assert [job.poll() for job in jobs] == [None] * 4
    return nodes, jobs


def test_runs_that_wait_for_room_on_a_cluster_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(lambda actor, method, call: "hangs" if actor > 1 else None)
    _, jobs = nodes_of(ray, tmp_path, monkeypatch)
    for job in jobs:
        job.stop()
    assert [job.poll() for job in jobs] == [None, None, SAVED, SAVED]
    assert ray.killed == [2, 3]
    assert [actor for actor, method in ray.calls if method == "stop"] == [0, 1]


def test_runs_on_a_cluster_are_killed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors do not answer any more, and one has not begun."""
    ray = FakeRay(lambda actor, method, call: "hangs" if actor == 3 or (method == "kill" and actor) else None)
    nodes, jobs = nodes_of(ray, tmp_path, monkeypatch)
    monkeypatch.setattr(cluster, "SECONDS_TO_KILL", 0.01)
    monkeypatch.setattr(ray, "get", lambda *_, **__: pytest.fail("an answer was waited for"))
    waits: list[tuple[int, float]] = []
    wait = ray.wait

    def counted(references: Any, *, num_returns: int = 1, timeout: float) -> Any:
        waits.append((len(references), timeout))
        return wait(references, num_returns=num_returns, timeout=timeout)

    monkeypatch.setattr(ray, "wait", counted)
    for job in jobs:
        job.kill()
    assert (ray.killed, waits) == ([3], [])
    nodes.close()
    assert waits == [(3, 0.01)]
    assert {*ray.killed} == {0, 1, 2, 3}
    assert [actor for actor, method in ray.calls if method == "kill"] == [0, 1, 2]


def test_a_search_draws_what_the_ranges_say() -> None:
    ranges = {"kl_weight": {"low": 0.01, "high": 100, "log": True}, "latent_size": {"low": 2, "high": 4}}
    found = spec(search={"samples": 60, "ranges": ranges}, fixed={"iterations": 3})
    assert found == spec(search={"samples": 60, "ranges": ranges, "seed": 0}, fixed={"iterations": 3})
    assert found != spec(search={"samples": 60, "ranges": ranges, "seed": 1}, fixed={"iterations": 3})
    drawn = np.array([[cell.algorithm.kl_weight, cell.algorithm.latent_size] for cell in found.cells.values()])  # pyright: ignore[reportAttributeAccessIssue]
    assert len(drawn) == 60
    assert set(drawn[:, 1]) == {2, 3, 4}
    assert 0.01 <= drawn[:, 0].min() < 0.1
    assert 10 < drawn[:, 0].max() <= 100
    assert 20 < sum(drawn[:, 0] < 1) < 40
    both = spec(search={"samples": 3, "ranges": {"kl_weight": {"low": 1, "high": 2}}}, values={"latent_size": [2, 3]})
    assert len(both.cells) == 6
    assert len({cell.algorithm.kl_weight for cell in both.cells.values()}) == 3  # pyright: ignore[reportAttributeAccessIssue]


def test_halving_keeps_those_that_are_ahead() -> None:
    halving = Halving(after=5, factor=3)
    assert [halving.rung(complete) for complete in (0, 4, 5, 14, 15, 44, 45)] == [0, 0, 5, 5, 15, 15, 45]
    assert not halving.is_behind(-9.0, [-9.0])
    assert halving.is_behind(-9.0, [-8.0, -9.0])
    values = [-1.0, -2.0, -3.0, -4.0, -5.0, float("nan")]
    assert [halving.is_behind(value, values) for value in values] == [False, False, True, True, True, True]


def test_runs_that_are_behind_end_and_stay_so(
    no_waiting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {0: [-1.0], 1: [-5.0], 2: [-0.5], 3: [-7.0]}
    loop, workplace, found, said = loop_of({seed: [] for seed in results}, tmp_path, Halving(after=1, factor=2))
    workplace.places = 3

    def look(run: Progress) -> None:
        run.returns = results[run.run.experiment.seed]
        run.complete = len(run.returns)

    def end(progress: Progress) -> bool:  # the two that are ahead finish when the others have ended
        ended = all(other.state is State.BEHIND for other in (found[1], found[3]))
        return ended and progress in (found[0], found[2])

    poll = FakeJob.poll
    monkeypatch.setattr(FakeJob, "poll", lambda job: "ended" if end_of(job) else poll(job))
    monkeypatch.setattr(running, "_look", look)
    monkeypatch.setattr(running, "_is_finished", end)

    def end_of(job: FakeJob) -> bool:
        return any(end(run) and run.folder == job.folder for run in found)

    loop.to_the_end([])
    assert [run.state for run in found] == [State.FINISHED, State.BEHIND, State.FINISHED, State.BEHIND]
    assert "cell/seed-1: ended early, as others are ahead after 1 iterations" in said.getvalue()
    assert json.loads((tmp_path / "ended-early.json").read_text()) == ["cell/seed-1", "cell/seed-3"]
    # When the sweep goes on, they have ended.
    again = [Progress(run.run, run.folder, run.log) for run in found]
    running._mark_ended_early(tmp_path, again)
    assert [run.state for run in again] == [State.WAITING, State.BEHIND, State.WAITING, State.BEHIND]
    (tmp_path / "ended-early.json").write_text("3")
    with pytest.raises(NacreError, match=r"ended-early\.json is damaged: it is 3; allowed: a list"):
        running._mark_ended_early(tmp_path, again)


def test_halving_is_not_done_in_parts(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match="part is 1/2; allowed with halving: the whole"):
        running.run_sweep(spec(halving={"after": 2}), tmp_path, part=Part(1, 2), again="")


def test_the_table_has_80_columns() -> None:
    experiment = make_experiment(POINT, iterations=1000)
    runs = [Progress(Planned("c" * number, experiment), Path(), Path()) for number in range(1, 70)]
    for run, state in zip(runs, [*State] * 20, strict=False):
        run.state, run.complete, run.returns = state, 123, [-12345.678]
        run.begun = (time.monotonic() - 1e5, 0)
    said = io.StringIO()
    console = rich.console.Console(file=said, width=200, force_terminal=True, color_system=None)
    board = Board(runs, console=console)
    console.print(board._table())
    lines = [line.rstrip() for line in said.getvalue().splitlines() if line.strip()]
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) <= 24
    assert "-12345.7" in said.getvalue()
    below = " ".join(lines[21:])
    assert below.startswith("11 failed, 11 finished, 11 ended early, 12 stopped, 12 running, 12 waiting: 8487 of 69000")
    assert below.endswith("(49 not shown)")


# What follows trains.

LONG = 100_000


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Where `random_learner` can be imported."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    return dict(os.environ)


def write_spec(folder: Path, iterations: int) -> Path:
    content = {
        "experiments": ["random/point-robot"],
        "values": {"nudges": [4, 6]},
        "fixed": {"iterations": iterations},
    }
    path = folder / "sweep.json"
    path.write_text(json.dumps(content))
    return path


@contextlib.contextmanager
def started(spec: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "nacre", "--import", "random_learner", "sweep", str(spec), *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=spec.parent) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == process and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def wait_until(is_so: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def rows(run: Path) -> int:
    path = run / "progress.csv"
    with contextlib.suppress(NacreError):
        return len(next(iter(read_progress_csv(path).values()), [])) if path.exists() else 0
    return 0


def runs_of(out: Path) -> list[Path]:
    return sorted((out / "runs").glob("*/seed-*"))


@pytest.mark.usefixtures("environment")
def test_a_sweep_is_killed_taken_up_again_and_stopped(tmp_path: Path) -> None:
    spec, out = write_spec(tmp_path, LONG), tmp_path / "out"
    flags = ("--out", str(out), "--jobs", "2")

    with started(spec, *flags) as process:
        # A run is killed: it goes on from its checkpoint.
        wait_until(lambda: sum(rows(run) > 1 for run in runs_of(out)) == 2)
        first = children(process.pid)
        assert len(first) == 2
        before = [rows(run) for run in runs_of(out)]
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: all(rows(run) > many + 1 for run, many in zip(runs_of(out), before, strict=True)))
        second = children(process.pid)
        assert len(set(second) & set(first)) == 1
        assert len(second) == 2
        # The sweep itself is killed: its runs notice, and save.
        process.kill()
        wait_until(lambda: not any(Path(f"/proc/{job}").exists() for job in second))
        assert process.stdout is not None
        assert "killed by SIGKILL; try 1 of 2 to go on" in process.stdout.read()
    logs = sorted((out / "logs").iterdir())
    assert [log.read_text().splitlines()[-1].partition(".")[0] for log in logs] == ["Stopped and saved"] * 2

    # Ctrl-C: all runs are saved, and no process stays.
    before = [rows(run) for run in runs_of(out)]
    with started(spec, *flags) as process:
        wait_until(lambda: all(rows(run) > many for run, many in zip(runs_of(out), before, strict=True)))
        jobs = children(process.pid)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"Stopped and saved. Continue with: nacre --import random_learner sweep {spec}" in error
    assert "2 stopped: " in output
    assert not any(Path(f"/proc/{job}").exists() for job in jobs)
    assert {run.parent.name for run in runs_of(out)} == {f"random-point-robot_nudges-{nudges}" for nudges in (4, 6)}


@pytest.mark.usefixtures("environment")
def test_runs_are_what_they_are_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(HERE)
    path, out = write_spec(tmp_path, iterations=3), tmp_path / "out"
    cli.main(["--import", "random_learner", "sweep", str(path), "--out", str(out), "--part", "2/2"])
    (run,) = runs_of(out)
    assert run.parent.name == "random-point-robot_nudges-6"
    assert not (out / "compare.html").exists()
    alone = train(make_experiment("random/point-robot", nudges=6), tmp_path / "alone", quiet=True)
    found, expected = (contents(each / "checkpoints" / "iteration_000003.npz") for each in (run, alone))
    for name in expected.keys() - {"manifest"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert "1 finished" in capfd.readouterr().out

    # What is left: the other run, and the page.
    monkeypatch.setattr(running, "estimates", lambda cells: dict.fromkeys(cells, 1e9))
    specification = read_specification(path)
    running.run_sweep(specification, out, again="")
    output = capfd.readouterr().out
    assert output.count("begins") == 1
    assert "2 finished" in output
    assert "random-point-robot_nudges-4" in (out / "compare.html").read_text()

    # Nothing is left. And another configuration in the same folder is refused.
    monkeypatch.setattr(ThisMachine, "begin", lambda *_: pytest.fail("a run was begun"))
    running.run_sweep(specification, out, again="")
    other = dataclasses.replace(
        specification,
        cells={name: dataclasses.replace(cell, train_tasks=4) for name, cell in specification.cells.items()},
    )
    with pytest.raises(NacreError, match=r"seed-0 differs in train_tasks, which is 3 and not 4; .*seed-0 differs in"):
        running.run_sweep(other, out, again="")


@pytest.mark.usefixtures("environment")
def test_what_cannot_be_trained_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = tmp_path / "large.json"
    content = {"experiments": [POINT], "fixed": {"hidden_size": 10000}, "values": {"batch_size": [9**6, 10]}}
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", str(path), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "1 of 2 configurations cannot be trained: (1) pearl-point-robot-quick_batch_size-531441: " in error
    assert "of memory" in error
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(running, "estimates", lambda cells: dict.fromkeys(cells, 1e9))
    cli.main(["sweep", str(path), "--dry-run", "--jobs", "1"])
    assert "2 runs: 2 configurations × 1 seeds, 1 at once" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("content", "words", "sentence"),
    [
        ({}, ["--jobs", "0"], "jobs is 0; allowed: at least 1"),
        ({"cores": 1024}, [], "cores is 1024; allowed: at most 4, as this machine has"),
        ({"halving": {"after": 2}}, ["--part", "1/2"], "part is 1/2; allowed with halving: the whole"),
    ],
)
def test_a_dry_run_refuses_what_the_sweep_refuses(
    content: Any, words: list[str], sentence: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "estimates", lambda cells: dict.fromkeys(cells, 1e9))
    monkeypatch.setattr(running, "of_machine", lambda: Resources(cores=(0, 1, 2, 3), memory=10e9))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"experiments": [POINT], **content}))
    said = io.StringIO()
    with pytest.raises(SystemExit) as end, contextlib.redirect_stderr(said):
        cli.main(["sweep", str(path), *words, *flags])
    assert end.value.code == 2
    assert sentence in said.getvalue()
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "estimates", lambda cells: dict.fromkeys(cells, 1e9))
    *_, runs, _ = running.plan_sweep(spec(cores=1024), ray_address="auto")
    assert runs == "1 runs: 1 configurations × 1 seeds, as many as the cluster has room for at once"


def test_the_folder_of_a_sweep_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"

    def move_and_write(*_: Any) -> None:
        out.rename(moved)
        running.write_atomically(out / running.ENDED_EARLY, b"[]")

    monkeypatch.setattr(running, "estimates", lambda cells: dict.fromkeys(cells, 1e9))
    monkeypatch.setattr(running, "_train", move_and_write)
    sentence = f"was moved to {moved} while .*: the sweep has stopped, .* continue with: the same sweep, with the new"
    with pytest.raises(NacreError, match=sentence):
        running.run_sweep(spec(), out, again="")


def test_the_block_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (HERE.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    found: list[tuple[Specification, Path]] = []
    monkeypatch.setattr(running, "run_sweep", lambda specification, out, **_: found.append((specification, out)) or out)
    exec(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0], {})
    ((specification, out),) = found
    assert out == Path("runs/kl")
    assert [(run.experiment.seed, run.experiment.algorithm.kl_weight) for run in specification.runs] == [  # pyright: ignore[reportAttributeAccessIssue]
        (0, 0.1),
        (0, 1.0),
        (1, 0.1),
        (1, 1.0),
    ]
    for number, text in enumerate(re.findall(r"^```toml.*?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        assert len(read_specification(file).runs) == (12, 20, 30)[number]


@pytest.mark.usefixtures("environment")
def test_a_job_that_fails_at_once(tmp_path: Path) -> None:
    request = json.loads(request_of(Planned("cell", make_experiment(POINT)), tmp_path / "run", None, 1))
    request["imports"] = ["no_such_module"]
    job = Process(json.dumps(request).encode() + b"\n", tmp_path / "log", {})
    wait_until(lambda: job.poll() is not None)
    assert str(job.poll()).startswith("ended with status 2: there is no module 'no_such_module' to import")
    job.wait()


def test_a_job_is_stopped_once(tmp_path: Path) -> None:
    """A second signal would end it before it has saved."""
    job = Process(request_of(Planned("cell", make_experiment(POINT)), tmp_path / "run", None, 1), tmp_path / "log", {})
    send, sent = job._process.send_signal, []
    job._process.send_signal = sent.append
    job.stop()
    job.stop()
    assert sent == [signal.SIGTERM]
    send(signal.SIGTERM)  # it has not begun
    job.wait()
    assert job.poll() == SAVED


def test_interruptions_say_how_to_go_on() -> None:
    import pickle

    interrupted = pickle.loads(pickle.dumps(Interrupted(Path("x"), 2, again="nacre sweep a.toml")))
    assert str(interrupted) == "Stopped and saved. Continue with: nacre sweep a.toml"
