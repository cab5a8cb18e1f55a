"""Environments in wall-clock time: the clock by hand, and a simulated robot in a process of its own, with delays, lost
frames, an emergency stop and a crash."""

import contextlib
import csv
import importlib
import json
import logging
import re
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import nacre
from nacre.errors import NacreError, StoppedError
from nacre.journal import read_segments
from nacre.tasks import FAMILIES, EmergencyStop, RealTimeFamily, Simulator
from nacre.tasks.real_time import Clock

RATE = 50.0
HORIZON = 6
PATIENCE = 0.15
"""Seconds that a frame may take."""


class Robot(gymnasium.Env):
    """What a lab would write: it sends an action, waits for the end of the control step, and reads a frame."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def __init__(self, port: int, clock: Clock, waits: bool = True):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._clock, self._waits = clock, waits
        self._number, self._received = 0, b""
        self.goal = 0.0

    def ask(self, **message: float) -> dict[str, float]:
        self._send(**message)
        return self._receive()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(self.ask()), {}

    def step(self, action):
        self._send(action=float(action[0]))
        if self._waits:
            self._clock.wait()
        frame = self._receive()
        return self._observation(frame), -abs(frame["position"] - self.goal), False, False, {}

    def close(self):
        self._socket.close()

    def _send(self, **message: float) -> None:
        self._number += 1
        self._socket.sendall(json.dumps({"number": self._number, **message}).encode() + b"\n")

    def _receive(self) -> dict[str, float]:
        """The answer to the latest message; those that came too late are passed over."""
        while True:
            while b"\n" not in self._received:
                received = self._socket.recv(4096)  # raises TimeoutError
                if not received:
                    raise ConnectionError("the robot has closed the connection")
                self._received += received
            line, self._received = self._received.split(b"\n", 1)
            if (answer := json.loads(line))["number"] == self._number:
                return answer

    @staticmethod
    def _observation(frame):
        return np.array([frame["position"]], np.float32)


@contextlib.contextmanager
def robot(**plan):
    """The port of a simulated robot."""
    program = Path(__file__).with_name("simulated_robot.py")
    words = [sys.executable, str(program), json.dumps({str(number[1:]): fault for number, fault in plan.items()})]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def set_up(env, task):
    """Puts the robot where episodes begin, and tells who computes rewards the goal."""
    env.goal = task[0]
    env.ask(go_to=0.25)


def family_of(port, waits=True, **options):
    return RealTimeFamily(
        "line-robot",
        lambda clock: Robot(port, clock, waits),
        set_up,
        RATE,
        sample_tasks=lambda generator, n: generator.uniform(-1, 1, (n, 1)),
        task_parameters=("goal",),
        horizon=HORIZON,
        **options,
    )


def play(simulator, actions):
    """Rows of (position, reward, truncated), from a reset on."""
    observation, _ = simulator.reset(seed=0, options={"tasks": np.array([[1.0]])})
    rows = [(float(observation[0, 0]), 0.0, False)]
    for action in actions:
        observation, reward, terminated, truncated, _ = simulator.step(np.full((1, 1), action, np.float32))
        assert not terminated.any()
        rows.append((float(observation[0, 0]), float(reward[0]), bool(truncated[0])))
    return rows


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_clock_by_hand():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    clock = Clock(10.0, lambda: now[0], sleep)
    for busy in (0.02, 0.07, 0.13, 0.04, 0.1):
        clock.begin_step()
        now[0] += busy
        clock.end_step()
        clock.end_step()  # has no effect, as nothing has begun since
    np.testing.assert_allclose(slept, [0.08, 0.03, 0.06, 0.0], atol=1e-9)
    assert clock.late == 1
    assert clock.latest == pytest.approx(0.03)
    assert now[0] == pytest.approx(100.53)  # the step after the late one had its whole time
    clock.rest()
    assert (clock.late, clock.latest) == (0, 0.0)
    now[0] += 50.0  # a pause between episodes makes no step late
    clock.begin_step()
    clock.wait()
    assert clock.late == 0


@pytest.mark.parametrize("waits", [True, False])
def test_the_rate_is_kept_and_late_steps_are_counted(waits, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "nacre")
    with robot(n3=0.1) as port:
        simulator = Simulator(family_of(port, waits, timing_file=tmp_path / "timing.csv"), 1)
        simulator.reset(seed=0, options={"tasks": np.array([[1.0]])})
        start = time.monotonic()
        rows = play(simulator, [1.0] * HORIZON)
        assert time.monotonic() - start >= HORIZON / RATE
        simulator.close()
    np.testing.assert_allclose([row[0] for row in rows], 0.25 + 0.1 * np.arange(HORIZON + 1), atol=1e-6)
    np.testing.assert_allclose([row[1] for row in rows[1:]], 0.1 * np.arange(1, HORIZON + 1) - 0.75, atol=1e-6)
    assert [row[2] for row in rows] == [False] * HORIZON + [True]
    (timing,) = rows_of(tmp_path / "timing.csv")
    assert (timing["steps"], timing["dropped"], timing["end"]) == (str(HORIZON), "0", "horizon")
    assert 1 <= int(timing["late"]) <= HORIZON
    assert float(timing["latest"]) > 0.05
    assert "line-robot: " in caplog.text
    assert "of 6 steps late, by at most 0." in caplog.text


def test_frames_that_are_lost(tmp_path):
    """One is stood for by the latest; one more in a row than is allowed ends the episode, and the next may begin."""
    with robot(n2="drop", n4="drop", n5="drop") as port:
        simulator = Simulator(family_of(port, most_dropped=1, timing_file=tmp_path / "timing.csv"), 1)
        rows = play(simulator, [1.0] * 5)
        np.testing.assert_allclose([row[0] for row in rows], [0.25, 0.35, 0.35, 0.55, 0.55, 0.55], atol=1e-6)
        np.testing.assert_allclose([row[1] for row in rows[1:]], [-0.65, -0.65, -0.45, -0.45, -0.45], atol=1e-6)
        assert [row[2] for row in rows] == [False] * 5 + [True]
        assert play(simulator, [0.0])[1][0] == pytest.approx(0.25)
        simulator.close()
    timing, left = rows_of(tmp_path / "timing.csv")
    assert (timing["steps"], timing["dropped"], timing["end"]) == ("5", "3", "dropped frames")
    assert (left["steps"], left["end"]) == ("1", "left")


def test_an_emergency_stop_ends_the_episode_and_nothing_is_sent_after_it():
    with robot() as port:
        pressed = []
        simulator = Simulator(family_of(port, is_stopped=lambda: bool(pressed)), 1)
        play(simulator, [1.0, 1.0])
        pressed.append(True)
        observation, reward, terminated, truncated, _ = simulator.step(np.ones((1, 1), np.float32))
        assert float(observation[0, 0]) == pytest.approx(0.45)  # the robot did not move
        assert float(reward[0]) == pytest.approx(-0.55)
        assert (terminated[0], truncated[0]) == (False, True)
        pressed.clear()
        with pytest.raises(StoppedError, match=r"line-robot has stopped \(emergency stop\)"):
            simulator.reset(seed=1)
        simulator.close()
        with contextlib.closing(Robot(port, Clock(RATE))) as other:
            assert other.ask()["actions"] == 2


def test_a_driver_that_cannot_say_whether_it_was_stopped_has_stopped(tmp_path):
    def is_stopped():
        if broken:
            raise ConnectionError("no answer")
        return False

    broken = False
    with robot() as port:
        simulator = Simulator(family_of(port, is_stopped=is_stopped, timing_file=tmp_path / "timing.csv"), 1)
        play(simulator, [1.0])
        broken = True
        with pytest.raises(StoppedError, match=r"line-robot has stopped \(fault\): .*no answer"):
            simulator.step(np.ones((1, 1), np.float32))
        broken = False
        with pytest.raises(StoppedError, match=r"line-robot has stopped \(fault\)"):
            simulator.reset(seed=1)
        simulator.close()
    assert [row["end"] for row in rows_of(tmp_path / "timing.csv")] == ["fault"]


def test_an_environment_may_say_itself_that_it_was_stopped():
    class Fragile(Robot):
        def step(self, action):
            if self._number > 3:
                raise EmergencyStop
            return super().step(action)

    with robot() as port:
        family = family_of(port)
        family._make_env = lambda: Fragile(port, family.clock)
        simulator = Simulator(family, 1)
        rows = play(simulator, [1.0] * 3)
        assert [row[2] for row in rows] == [False, False, False, True]
        simulator.close()


def test_a_run_saves_itself_if_the_robot_crashes_and_goes_on_with_another(tmp_path):
    importlib.import_module("random_learner")
    ports = []
    FAMILIES["line-robot"] = lambda: family_of(ports[-1])
    try:
        experiment = nacre.make_experiment(
            "random/point-robot", family="line-robot", train_tasks=2, test_tasks=1, iterations=2, collection_steps=6
        )
        # An iteration has two train tasks, and two episodes in three evaluations: it crashes in the second one.
        with robot(n51="crash") as port:
            ports.append(port)
            with pytest.raises(StoppedError) as caught:
                nacre.train(experiment, tmp_path / "run", quiet=True)
        assert str(caught.value).startswith("line-robot has stopped (fault): step of Robot raised Connection")
        assert str(caught.value).endswith(f"; all is saved, go on with: nacre resume {tmp_path / 'run'}")
        before = read_segments(tmp_path / "run" / "replay", 1)
        assert [len(segment) for segment in before] == [2]
        with robot() as port:
            ports.append(port)
            nacre.resume(tmp_path / "run", quiet=True)
    finally:
        del FAMILIES["line-robot"]
    after = read_segments(tmp_path / "run" / "replay", 2)
    assert [len(segment) for segment in after] == [2, 2]
    for segment, again in zip(before, after, strict=False):
        for visit, same in zip(segment, again, strict=True):
            np.testing.assert_array_equal(visit.episodes[0].observations, same.episodes[0].observations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_rate": -1.0}, "control_rate of line is -1.0; allowed: steps per second, above 0"),
        ({"most_dropped": -1}, "most_dropped of line is -1; allowed: a whole number from 0 on"),
        ({"processes": True}, "unknown option 'processes' of line: a robot is one"),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(NacreError, match=message):
        RealTimeFamily("line", lambda clock: None, set_up, **{"control_rate": RATE, **options})


def test_robots_with_a_camera():
    class Camera(gymnasium.Env):
        observation_space, action_space = Box(0, 255, (8, 6, 3), np.uint8), Box(-1.0, 1.0, (1,))

        def reset(self, *, seed=None, options=None):
            return np.full((8, 6, 3), 7, np.uint8), {}

        def step(self, action):
            return np.full((8, 6, 3), 9, np.uint8), 0.5, False, False, {}

    family = RealTimeFamily(
        "eye",
        lambda clock: Camera(),
        lambda env, task: None,
        1000.0,
        tasks=[[1.0]],
        task_parameters=("kind",),
        horizon=3,
    )
    assert family.observation_size == (8, 6, 3)
    simulator = Simulator(family, 1)
    observation, _ = simulator.reset(seed=0, options={"tasks": np.array([[1.0]])})
    assert (observation.dtype, observation.shape) == (np.uint8, (1, 8, 6, 3))
    assert (simulator.step(np.zeros((1, 1), np.float32))[0] == 9).all()
    simulator.close()


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    """With an arm and a camera that are pretended, and a stop in the second step."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "real-robots.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    commands: list[np.ndarray] = []
    told: list[str] = []
    arm = types.SimpleNamespace(
        connect=lambda: None,
        release=lambda: None,
        go_home=lambda: None,
        command=commands.append,
        plug_is_inside=lambda: True,
        has_fault=lambda: len(commands) == 1,
        emergency_button_is_pressed=lambda: False,
    )
    camera = types.SimpleNamespace(read=lambda timeout: np.full((64, 64, 3), len(commands), np.uint8))
    names = {"arm": arm, "camera": camera, "tell": told.append}
    try:
        exec(code, names)
        family = nacre.make_family("widowx-insertion")
    finally:
        FAMILIES.pop("widowx-insertion", None)
    simulator = Simulator(family, 1)
    simulator.reset(seed=0, options={"tasks": np.array(family.finite_tasks[:1])})
    start = time.monotonic()
    observation, reward, _, truncated, infos = simulator.step(np.ones((1, 5), np.float32))
    assert time.monotonic() - start >= 0.25
    assert (observation == 1).all()
    assert (float(reward[0]), bool(truncated[0]), bool(infos["success"][0])) == (1.0, False, True)
    np.testing.assert_allclose(commands, [[0.04] * 5])
    assert simulator.step(np.ones((1, 5), np.float32))[3].all()
    assert len(commands) == 1
    assert "screw the port down at [0.21 0.04]" in told[0]
    simulator.close()
    assert rows_of(tmp_path / "timing.csv")[0]["end"] == "emergency stop"
