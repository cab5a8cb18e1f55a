"""Plays on workers become what they become without: cut into parts, lost, played again. Ray is a fake here; what needs
the real one is in test_ray.py."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_ray
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_ray import FakeRay
from probes import Clock
from test_parts import HORIZON, assert_same, counting
from test_seeds import assert_same as assert_same_run

import nacre
from nacre import worker
from nacre import workers as workers_module
from nacre.cli import main
from nacre.collect import play_together
from nacre.errors import NacreError, SimulationError, WorkersLostError
from nacre.experiments import make_experiment
from nacre.interfaces import MOST_ROWS, Play, Played
from nacre.ray_cluster import Cluster
from nacre.run import Run
from nacre.run_folder import versions
from nacre.tasks import Simulator, list_families, make_family
from nacre.tasks.family import TaskFamily
from nacre.worker import Failure, Worker, answer_of, begun_with, on_device, on_host, pack_params, unpack_params
from nacre.worker_options import WorkerOptions
from nacre.workers import Workers, WorkerTraceback, check_workers, hired

CLOCK = Clock(HORIZON, sparse=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "LOOK_EVERY", 0.01)


def crew(
    number: int, fault: fake_ray.Fault = lambda *_: None, family: TaskFamily = CLOCK, timeout: float = 60.0
) -> Workers:
    return Workers(
        Cluster(FakeRay(fault), "there:1"), begun_with(family, 1), WorkerOptions(number, worker_timeout=timeout)
    )


def alone(plays: list[Play], family: TaskFamily = CLOCK) -> list[Played]:
    with contextlib.closing(Simulator(family, sum(len(play.tasks) for play in plays), threads=1)) as simulator:
        return play_together(plays, simulator)


def assert_equal(found: list[Played], expected: list[Played]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert len(one.trials) == len(other.trials)
        assert_same(*one, *other)


# The same, whoever plays


@pytest.mark.parametrize("n", [1, 7, MOST_ROWS + 3])
@pytest.mark.parametrize("number", [1, 3])
def test_a_play_is_the_same(number: int, n: int) -> None:
    play = counting(n, keeps_reward_states=True, keeps_tasks=True)
    assert_equal(crew(number).play([play]), alone([play]))


def test_several_plays_are_the_same() -> None:
    plays = [counting(7, seed, param=seed) for seed in range(4)]
    workers = crew(3)
    assert_equal(workers.play(plays), alone(plays))
    # Parameters are sent once, and again only if they change.
    assert workers.broadcasts == 4
    workers.play(plays[1:])
    assert workers.broadcasts == 4
    workers.play(plays)
    assert workers.broadcasts == 5


def test_beliefs_go_on() -> None:
    workers, (first,) = crew(2), alone([counting(7)])
    later = counting(7, seed=1, belief=first.belief, steps=4, episodes=1)
    (found,) = workers.play([dataclasses.replace(later, belief=workers.play([counting(7)])[0].belief)])
    assert_equal([found], alone([later]))


@pytest.mark.parametrize(
    ("trials", "seeds", "number", "parts"),
    [
        (20, 1, 1, [20]),
        (20, 1, 3, [7, 7, 6]),
        (2, 1, 3, [1, 1]),
        (100, 1, 2, [25, 25, 25, 25]),
        (20, 3, 2, [10, 10] * 3),
        (20, 4, 2, [20] * 4),
    ],
)
def test_every_worker_gets_about_as_much(trials: int, seeds: int, number: int, parts: list[int]) -> None:
    found = crew(number)._cut([counting(trials, seed) for seed in range(seeds)])
    assert [len(part.trials) for part in found] == parts
    assert [part.play for part in found] == sorted(part.play for part in found)
    for play in range(seeds):
        assert [trial for part in found if part.play == play for trial in part.trials] == list(range(trials))


def test_what_is_played_can_be_written(tmp_path: Path) -> None:
    (played,) = crew(1).play([counting(7)])
    played.trials[0][0].rewards[:] = 0


def test_other_plays_are_refused_as_without_workers() -> None:
    with pytest.raises(ValueError, match="alone"):
        crew(1).play([counting(3), counting(4)])


# Workers that are lost


def test_the_part_of_a_lost_worker_is_played_again() -> None:
    """Every worker dies of its second part, again and again."""
    said = []
    workers = crew(3, lambda actor, method, call: "dies" if method == "play" and call == 1 else None)
    workers.say = said.append
    plays = [counting(7, seed) for seed in range(4)]
    assert_equal(workers.play(plays), alone(plays))
    assert len(said) == 9  # twelve parts, of which three were the first of a worker that is alive at the end
    assert said[0].startswith("worker 1 (process ")
    assert said[0].endswith("is lost: actor 0 died; what it played is played again")


def test_a_worker_that_hangs_is_replaced() -> None:
    workers = crew(2, lambda actor, method, call: "hangs" if actor == 0 and method != "begin" else None, timeout=0.2)
    play = counting(7)
    assert_equal(workers.play([play]), alone([play]))
    assert workers._ray.killed == [0]


def never_begins(actor: int, method: str, call: int, *, which: Callable[[int], bool]) -> str | None:
    return "hangs" if method == "begin" and which(actor) else None


def test_workers_that_wait_for_a_processor_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster has room for one of three."""
    monkeypatch.setattr(workers_module, "TO_BEGIN", 0.0)
    workers = crew(3, functools.partial(never_begins, which=lambda actor: actor > 0), timeout=1e-9)
    workers.say = lambda text: pytest.fail(text)
    plays = [counting(7, seed) for seed in range(4)]
    assert_equal(workers.play(plays), alone(plays))
    assert workers._ray.killed == []
    assert workers._failed_starts == 0


def test_a_worker_that_hangs_before_it_begins_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a Ray of our own, on which no worker has to wait."""
    monkeypatch.setattr(workers_module, "TO_BEGIN", 0.0)
    ray = FakeRay(functools.partial(never_begins, which=lambda actor: actor == 0))
    workers = Workers(Cluster(ray, None, tmp_path), begun_with(CLOCK, 1), WorkerOptions(2, worker_timeout=1e-9))
    said: list[str] = []
    workers.say = said.append
    play = counting(7)
    assert_equal(workers.play([play]), alone([play]))
    assert said == ["worker 1 is lost: it did not begin within 1e-09 s; another takes its place"]


def test_a_slow_worker_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked how far it is: as long as that changes, it may take its time."""
    workers = crew(1, timeout=0.2)
    steps = iter(range(1000))
    monkeypatch.setattr(Worker, "progress", lambda self: (1, "here", next(steps)))
    ray, waits = workers._ray, []
    wait = ray.wait

    def late(references: Any, *, num_returns: int = 1, timeout: float) -> Any:
        """Parts are answered after a second."""
        if num_returns == 1 and timeout:
            waits.append(timeout)
            if 2 < len(waits) < 60:
                time.sleep(timeout)
                return [], references
        return wait(references, num_returns=num_returns if len(waits) >= 60 or len(waits) <= 2 else 0, timeout=timeout)

    monkeypatch.setattr(ray, "wait", late)
    play = counting(7)
    assert_equal(workers.play([play]), alone([play]))
    assert ray.killed == []


def test_a_part_of_which_every_worker_dies() -> None:
    workers = crew(2, lambda actor, method, call: "dies" if method == "play" else None)
    message = r"10 workers were lost one after another while they played the same trials \(\d to \d\): actor \d+ died"
    with pytest.raises(WorkersLostError, match=message):
        workers.play([counting(7)])


def test_a_part_of_which_every_worker_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "MOST_LOSSES", 2)
    workers = crew(1, lambda actor, method, call: "hangs" if method != "begin" else None, timeout=0.05)
    with pytest.raises(WorkersLostError, match=r"2 workers were lost .* \(0 to 6\): it made no step for 0\.05 s$"):
        workers.play([counting(7)])


def test_no_worker_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """None begins, as on a cluster that is full."""
    monkeypatch.setattr(workers_module, "TO_BEGIN", 0.2)
    workers = crew(2, lambda actor, method, call: "hangs", timeout=0.05)
    message = (
        r"no worker could be had in \d+ s: 2 were asked for on the Ray cluster at there:1, which has 3 processor\(s\), "
        "1 of them free"
    )
    with pytest.raises(WorkersLostError, match=message):
        workers.play([counting(7)])


def test_workers_that_cannot_start() -> None:
    workers = crew(2, lambda actor, method, call: "dies")
    with pytest.raises(
        WorkersLostError, match=r"no worker could be had in \d s: .*the last one was lost: actor \d died"
    ):
        workers.play([counting(7)])
    # Some that do suffice.
    workers = crew(3, lambda actor, method, call: "dies" if actor % 3 else None)
    assert_equal(workers.play([counting(7)]), alone([counting(7)]))


def test_whoever_is_asked_to_stop_waits_for_no_worker() -> None:
    workers = crew(2, lambda actor, method, call: "hangs")
    workers.is_stopping = lambda: True
    with pytest.raises(WorkersLostError, match=r"no worker could be had in \d s"):
        workers.play([counting(7)])


# Errors


class Bursting(Clock):
    """Its rewards are NaN from a step on, in the task with a label."""

    def __init__(self, label: float):
        super().__init__(HORIZON)
        self.label = label

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        broken = (following[..., 0] >= 2) & (task[..., 0] == self.label)
        return np.where(broken, np.nan, super().reward(previous, action, following, task))


@pytest.mark.parametrize("number", [1, 3])
def test_a_simulation_error_comes_whole(number: int) -> None:
    plays = [counting(7, seed, tasks=np.array([[seed + i / 10, 5.0] for i in range(7)])) for seed in range(2)]
    workers = crew(number, family=Bursting(1.4))
    with pytest.raises(SimulationError) as raised:
        workers.play(plays)
    error = raised.value
    assert (error.quantity, error.part, error.slot, error.task) == ("reward", 1, 4, {"label": 1.4, "length": 5.0})
    assert np.isnan(error.value)
    assert error.worker.startswith("worker ")
    assert str(error).endswith(f"It was simulated by {error.worker}.")
    assert "play_together" in str(error.__cause__)
    # As without workers, apart from the worker.
    with pytest.raises(SimulationError) as expected:
        alone(plays, Bursting(1.4))
    assert str(expected.value) == str(error.moved(worker=""))
    # And the workers go on.
    fine = counting(7)
    assert_equal(workers.play([fine]), alone([fine], Bursting(1.4)))


class OddError(NacreError):
    def __init__(self, first: int, second: int):
        super().__init__(f"{first} and {second}")


class Raising(Clock):
    def __init__(self, error: Exception):
        super().__init__(HORIZON)
        self.error = error

    def make_world(self, n_slots: int, threads: int) -> Any:
        if n_slots < 100:
            raise self.error
        return super().make_world(n_slots, threads)


class Local(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (NacreError("the field x is 3"), NacreError, "the field x is 3"),
        (OddError(1, 2), NacreError, "1 and 2"),
        (Local("something"), RuntimeError, "Local: something"),
    ],
)
def test_errors_of_workers(error: Exception, kind: type[Exception], message: str) -> None:
    def fail() -> None:
        raise error

    failure = answer_of(worker._answer(fail))
    assert isinstance(failure, Failure)
    assert type(failure.error) is kind
    assert str(failure.error) == message
    assert type(error).__name__ in failure.where


def test_an_error_names_the_worker() -> None:
    class Broken(Clock):
        def make_world(self, n_slots: int, threads: int) -> Any:
            raise NacreError("there is no such file")

    with pytest.raises(NacreError, match=r"^there is no such file") as raised:
        crew(1, family=Broken(HORIZON)).play([counting(7)])
    assert str(raised.value) == "there is no such file"
    assert raised.value.__notes__[0].startswith("It was raised in worker 1 (process ")
    assert isinstance(raised.value.__cause__, WorkerTraceback)


def test_workers_of_other_versions_are_refused() -> None:
    begun = begun_with(CLOCK, 1)._replace(versions=versions() | {"jax": "0.1"})
    workers = Workers(Cluster(FakeRay(), None), begun, WorkerOptions(1))
    with pytest.raises(NacreError, match=r"has jax \S+, and the process that learns 0\.1; allowed: the same"):
        workers.play([counting(7)])


def test_families_that_cannot_be_sent() -> None:
    family = Clock(HORIZON)
    family.file = sys.stdout  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(NacreError, match=r"the task family clock cannot be sent to workers: .*; allowed: a family"):
        begun_with(family, 1)


# What travels


@pytest.mark.parametrize("name", list_families())
def test_every_family_travels(name: str) -> None:
    family = make_family(name)
    found = pickle.loads(begun_with(family, 1).family)
    assert (found.name, found.sizes) == (family.name, family.sizes)


def test_families_of_the_main_program_travel() -> None:
    """A process that has never seen their classes and functions makes them, and their environments."""
    program = """
import gymnasium, numpy, sys
from nacre.tasks import GymnasiumFamily
from nacre.worker import begun_with

class Point(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

family = GymnasiumFamily("mine", lambda: Point(), lambda env, task: None, lambda rng, n: rng.random((n, 1)), ("x",), 5)
sys.stdout.buffer.write(begun_with(family, 1).family)
"""
    sent = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True).stdout
    world = pickle.loads(sent).make_world(2, 1)
    assert [type(env).__name__ for env in world._envs] == ["Point", "Point"]


class Net(NamedTuple):
    weights: Any
    activation: Any


def test_params_travel() -> None:
    """Also with parts that are equal to nothing else, such as functions: their structure is the same each time."""
    partial = jax.tree_util.Partial(functools.partial(jnp.tanh))
    params = {"net": Net(jnp.arange(3.0), partial), "empty": None, "number": 2.5}
    packed = pack_params(params)
    one, other = unpack_params(packed), unpack_params(pack_params(params))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    np.testing.assert_array_equal(one["net"].weights, [0, 1, 2])
    assert one["number"] == 2.5
    np.testing.assert_allclose(one["net"].activation(one["net"].weights), np.tanh([0, 1, 2]), rtol=1e-6)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_random_keys_travel(implementation: str) -> None:
    keys = jax.random.split(jax.random.key(3, impl=implementation), 4)
    (found,) = on_device(on_host([keys]))
    assert found.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(keys))


def test_jax_is_set_as_it_is_here() -> None:
    begun = begun_with(CLOCK, 1)
    assert begun.jax_settings["jax_disable_most_optimizations"] is True  # by conftest.py
    assert begun.jax_settings["jax_enable_x64"] is False


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WorkerOptions(-1), "workers is -1; allowed: 0 to 10000"),
        (WorkerOptions(0, "here:1"), "ray_address is 'here:1' without workers; allowed: together with workers"),
        (WorkerOptions(1, worker_timeout=0.0), "worker_timeout is 0.0; allowed: seconds, more than 0"),
        (WorkerOptions(1, worker_timeout=float("nan")), "worker_timeout is nan; allowed"),
    ],
)
def test_impossible_options(options: WorkerOptions, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        options.check()
    values = dataclasses.asdict(options)
    with pytest.raises(NacreError, match=message):
        nacre.train(make_experiment("pearl/point-robot"), "unused", **values)
    with pytest.raises(NacreError, match=message):
        nacre.resume("unused", **values)
    assert not Path("unused").exists()


def test_without_ray_the_extra_is_named(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "run"
    for words in (
        ["train", "pearl/point-robot", "--out", str(out)],
        ["resume", str(tiny_run), "--iterations", "3"],
        ["evaluate", str(tiny_run), "--out", str(tmp_path / "result.json")],
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, "--workers", "2"])
        assert end.value.code == 2
        assert "pip install '.[cluster]'" in capsys.readouterr().err
    assert not out.exists()
    assert json.loads((tiny_run / "experiment.json").read_text())["experiment"]["iterations"] == 2


def test_worlds_that_remember_need_this_process() -> None:
    family = Clock(HORIZON)
    family.remembers = True
    with pytest.raises(NacreError, match="workers is 2; allowed for clock: 0, as its environments remember"):
        hired(family, None, WorkerOptions(2)).__enter__()
    check_workers(family, WorkerOptions(0))


def test_videos_need_this_process(tiny_run: Path) -> None:
    with pytest.raises(NacreError, match="workers is 2 and a video is asked for; allowed with a video: no workers"):
        nacre.evaluate(tiny_run, video=True, workers=2)


# Runs


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[fake_ray.Fault], FakeRay]:
    """Lets runs find a fake Ray."""

    def install(fault: fake_ray.Fault = lambda *_: None) -> FakeRay:
        ray = FakeRay(fault)

        @contextlib.contextmanager
        def connected(address: str | None = None, cpus: int = 1) -> Iterator[Cluster]:
            yield Cluster(ray, address)

        monkeypatch.setattr(workers_module, "connected", connected)
        return ray

    return install


@pytest.fixture(scope="module")
def run_alone(tiny: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without workers."""
    return nacre.train(make_experiment("pearl/point-robot", **tiny), tmp_path_factory.mktemp("alone") / "run")


def test_a_run_without_workers_any_more_is_saved(
    fake: Callable[..., FakeRay],
    tiny: dict[str, int],
    run_alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They die when the second iteration is evaluated. The run goes on from there without workers, and becomes what it
    would have become."""
    ray = fake()
    evaluation, evaluations = Run.evaluation, []
    ray.fault = lambda *_: "dies" if len(evaluations) == 2 else None

    def counted(run: Run) -> Any:
        evaluations.append(run)
        return evaluation(run)

    monkeypatch.setattr(Run, "evaluation", counted)
    run = tmp_path / "run"
    with pytest.raises(WorkersLostError, match=f"all is saved, go on with: nacre resume {run}$"):
        nacre.train(make_experiment("pearl/point-robot", **tiny), run, workers=1)
    assert "collecting and evaluating with 1 worker(s) on this machine" in capsys.readouterr().out
    nacre.resume(run)
    assert_same_run(run, run_alone)


def test_an_evaluation_is_the_same(fake: Callable[..., FakeRay], run_copy: Path) -> None:
    ray = fake()
    expected = nacre.evaluate(run_copy, "train", trials=2)
    found = nacre.evaluate(run_copy, "train", trials=2, workers=3)
    assert found.trials == expected.trials
    assert {actor for actor, method in ray.calls if method == "play"} == {0, 1, 2}
    assert sorted(ray.killed) == [0, 1, 2]


def test_the_number_of_workers_is_no_part_of_a_run(
    fake: Callable[..., FakeRay], tiny: dict[str, int], run_alone: Path, tmp_path: Path
) -> None:
    fake()
    run = tmp_path / "run"
    experiment = make_experiment("pearl/point-robot", **tiny)
    nacre.train(experiment, run, workers=2, on_iteration=lambda iteration: "stop")
    assert not [word for word in ("worker", "ray") if word in (run / "experiment.json").read_text().lower()]
    nacre.resume(run, workers=3)
    assert_same_run(run, run_alone)
