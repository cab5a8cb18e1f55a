"""Environments in several processes: what happens in a slot does not depend on it, errors come through, and nobody is
left behind."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from walks import CountingWalk, Walk, make_walks

from nacre import make_experiment, register_family, train
from nacre.errors import NacreError
from nacre.logs import read_progress_csv
from nacre.runtime import SimulatorPool
from nacre.tasks import GymnasiumFamily, Simulator
from nacre.tasks.environment_processes import DistributedWorld, _Elsewhere
from nacre.video import RecordingSimulator

SLOTS = 5


def children(simulator: Simulator) -> list[int]:
    """The processes of a simulator, this one excluded."""
    world = simulator._world
    parts = world._parts if isinstance(world, DistributedWorld) else []
    return [part._process.pid for part in parts if isinstance(part, _Elsewhere)]


def is_there(process: int) -> bool:
    """Whether a process is there, and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end(*processes: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(is_there, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_there, processes))


@pytest.fixture
def simulators() -> Iterator[Any]:
    """Makes simulators of walks, and closes them."""
    made: list[Simulator] = []

    def make(threads: int, slots: int = SLOTS, kind: type[Simulator] = Simulator, **arguments: Any) -> Simulator:
        walk = arguments.pop("walk", Walk)
        made.append(kind(make_walks(walk, **arguments), slots, threads))
        return made[-1]

    yield make
    for simulator in made:
        simulator.close()


def rows_of(simulator: Simulator) -> list[Any]:
    """Whatever comes of some episodes, of which each slot begins the next as soon as one ends."""
    generator = np.random.default_rng(0)
    tasks = generator.uniform(-0.5, 0.5, (simulator.num_envs, 1))
    rows: list[Any] = [simulator.reset(seed=3, options={"tasks": tasks})[0]]
    for time_step in range(15):
        actions = generator.uniform(-1, 1, (simulator.num_envs, 1)).astype(np.float32)
        *results, infos = simulator.step(actions)
        rows += [*results, infos["success"]]
        ended = results[2] | results[3]
        if ended.any():
            rows.append(simulator.reset(options={"reset_mask": ended})[0])
        if time_step == 7:
            rows.append(simulator.reset(seed=4, options={"tasks": -tasks})[0])
    return rows


def test_slots_do_not_depend_on_where_they_are(simulators: Any) -> None:
    alone = simulators(1, walk=CountingWalk)
    expected, state = rows_of(alone), alone.state_dict()
    assert children(alone) == []
    for threads, processes in ((2, 1), (4, 3), (9, 4)):
        several = simulators(threads, walk=CountingWalk)
        assert len(children(several)) == processes
        for row, other in zip(expected, rows_of(several), strict=True):
            assert row.tobytes() == other.tobytes()
        assert several.state_dict() == state
    assert min(slot[0]["resets"] for slot in state) > 2
    again = {"seed": 5, "options": {"tasks": np.zeros((SLOTS, 1))}}
    other = simulators(3, walk=CountingWalk)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.reset(**again)[0], alone.reset(**again)[0])
    in_one = simulators(3, processes=False)
    assert children(in_one) == []


def test_tasks_that_change_and_pictures(simulators: Any) -> None:
    results = []
    for threads in (1, 3):
        simulator = simulators(threads, kind=RecordingSimulator, draws=True)
        renderer = simulator.make_renderer(8, 8)  # before anything is played, as a video does it
        simulator.reset(seed=0, options={"tasks": np.zeros((SLOTS, 1))})
        simulator._world.set_tasks(np.array([1, 4]), np.array([[0.25], [0.5]]))
        observations, *_ = simulator.step(np.zeros((SLOTS, 1), np.float32))
        np.testing.assert_array_equal(observations[:, 1], [0, 0.25, 0, 0, 0.5])
        pictures = [renderer.draw(row).tobytes() for row in simulator.configurations()]
        results.append((observations.tobytes(), pictures, simulator.recordings, simulator.frames_per_second))
    assert results[0] == results[1]


def test_errors_are_those_of_one_process(simulators: Any) -> None:
    tasks = np.array([[0.0], [0.0], [0.0], [100.0], [100.0]])
    messages = []
    for threads in (1, 3):
        simulator = simulators(threads)
        simulator.reset(seed=0, options={"tasks": tasks})
        with pytest.raises(
            NacreError, match=r"step of Walk raised ValueError: the wheel is off .*walks.py, line"
        ) as got:
            simulator.step(np.zeros((SLOTS, 1), np.float32))
        messages.append(str(got.value))
        assert "in step\n    raise ValueError" in "".join(traceback.format_exception(got.value))
        # Every answer was read, so that the next is that of the next question.
        simulator.reset(seed=1, options={"tasks": 0 * tasks})
        assert rows_of(simulator)[0].tobytes() == rows_of(simulators(1))[0].tobytes() or threads == 1
    assert messages[0] == messages[1]


def test_a_process_that_dies(simulators: Any) -> None:
    simulator = simulators(3)
    simulator.reset(seed=0, options={"tasks": np.array([[0.0]] * 4 + [[101.0]])})
    with pytest.raises(NacreError, match="a process with environments of walks has ended: SIGKILL, perhaps as the mem"):
        simulator.step(np.zeros((SLOTS, 1), np.float32))
    processes = children(simulator)
    simulator.close()
    assert wait_for_the_end(*processes)


def test_what_cannot_be_in_another_process() -> None:
    lock = threading.Lock()

    def make_env() -> gymnasium.Env:
        with lock:
            return Walk()

    def family(make: Any) -> GymnasiumFamily:
        return GymnasiumFamily(
            "mine", make, None, lambda *_: 0, ("x",), 5, reset_options=lambda task: {}, processes=True
        )

    with pytest.raises(NacreError, match=r"mine cannot be sent to another process: TypeError: cannot pickle .*lock"):
        Simulator(family(make_env), 2, 2)
    module = type(sys)("nowhere_to_be_found")
    exec("from walks import Walk\ndef make_env(): return Walk()", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        with pytest.raises(NacreError, match=r"cannot be made in another process: ModuleNotFoundError.*nowhere_to_be"):
            Simulator(family(module.__dict__["make_env"]), 2, 2)
    finally:
        del sys.modules[module.__name__]


SCRIPT = """
import gymnasium, numpy as np
from nacre.tasks import GymnasiumFamily, Simulator
from walks import Walk
print("once")
class Mine(Walk):  # only the main module knows it
    pass
def set_drift(env, task):
    env.unwrapped.drift = float(task[0])
tasks = [[0.0], [102.0]]
family = GymnasiumFamily("mine", lambda: Mine(), set_drift, None, ("drift",), 5, tasks=tasks, processes=True)
simulator = Simulator(family, 2, 2)
simulator.reset(seed=0, options={"tasks": np.zeros((2, 1))})
simulator.step(np.zeros((2, 1), np.float32))
print(simulator._world._parts[1]._process.pid, flush=True)
simulator.reset(seed=0, options={"tasks": np.array([[0.0], [102.0]])})
simulator.step(np.zeros((2, 1), np.float32))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_script_that_ends_takes_its_processes_along(number: signal.Signals, tmp_path: Path) -> None:
    """Even while an environment hangs. The script needs no guard, and its own classes come along."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with started as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "once\n"
        child = int(process.stdout.readline())
        assert process.stderr.readline() == f"hangs in {child}\n"  # its standard output is for answers
        assert is_there(child)
        process.send_signal(number)
        process.stdout.read()
        process.wait(20)
    assert wait_for_the_end(child)


class Watched(Simulator):
    """Notes when simulators are made and closed: their numbers of slots, negative if they are closed."""

    made: ClassVar[list[int]] = []

    def __init__(self, family: Any, n_slots: int, threads: int | None) -> None:
        super().__init__(family, n_slots, threads)
        self.made.append(n_slots)

    def close_extras(self, **kwargs: Any) -> None:
        super().close_extras(**kwargs)
        self.made.append(-self.num_envs)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr("nacre.training.SimulatorPool", functools.partial(SimulatorPool, make=Watched))
    monkeypatch.setattr(Watched, "made", [])
    return Watched.made


def test_a_run_in_processes_and_in_turns_is_the_same(tmp_path: Path, made: list[int]) -> None:
    importlib.import_module("random_learner")
    columns = []
    for name, threads, most in (("whole", 1, None), ("parts", 2, 2)):
        register_family(name, functools.partial(make_walks, most_slots=most))
        fields = {"family": name, "task_list": "seeded", "threads": threads, "iterations": 2, "train_tasks": 5}
        run = train(make_experiment("random/point-robot", **fields), tmp_path / name, quiet=True)
        read = read_progress_csv(run / "progress.csv")
        columns.append({column: values for column, values in read.items() if "(s)" not in column})
    np.testing.assert_equal(*columns)
    assert len(set(columns[0]["AverageReturn_all_test_tasks"])) == 2
    assert made == [5, 4, -5, -4, 2, -2]


def test_simulators_that_are_not_used_are_closed(made: list[int]) -> None:
    pool = SimulatorPool(make_walks(), 1, make=Watched)
    pool(50)
    pool(2)
    pool.close_unused()
    pool(2)
    assert made == [50, 2]
    pool.close_unused()
    assert made == [50, 2, -50]
    pool.close()
    remembers = SimulatorPool(make_walks(CountingWalk), 1)
    remembers(3)
    for _ in range(2):
        remembers.close_unused()
    assert list(remembers.state_dict()) == ["3"]
    remembers.close()


def test_most_slots_that_are_none() -> None:
    with pytest.raises(NacreError, match="most_slots of GymnasiumFamily is 0; allowed: None, or at least 1"):
        make_walks(most_slots=0)
