"""An environment that runs in wall-clock time, such as a robot, as a task family."""

from __future__ import annotations

import csv
import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float64, Int, Real

from nacre.errors import NacreError, StoppedError, shown
from nacre.tasks.checks import call
from nacre.tasks.own_environment import GymnasiumFamily, SetTask, _DrawableGymnasiumWorld, _GymnasiumWorld

LOGGER = logging.getLogger("nacre")


class EmergencyStop(Exception):
    """An environment raises it in `step` if somebody or something has stopped the robot."""


class Timing(NamedTuple):
    """How an episode kept its control rate."""

    steps: int
    late: int
    """Steps that took longer than a control step should, with what nacre did before them."""
    latest: float
    """By how many seconds, at most."""
    dropped: int
    """Frames that did not come in time."""
    end: str
    """horizon, terminated, dropped frames, emergency stop, fault, or left: a new episode began before the end."""


class Clock:
    """Keeps a control rate. `make_env` of a :class:`RealTimeFamily` is given it."""

    def __init__(
        self, rate: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`rate` is in control steps per second."""
        self.period = 1.0 / rate
        self._now, self._sleep = now, sleep
        self.rest()

    def wait(self) -> None:
        """Returns when the control step is over. An environment calls it in `step`, between sending the action and
        reading what the robot sees; if it does not, `step` is followed by a wait.

        A step that is late already is counted, and the next one is given its whole time: lost time is not made up for
        by steps that follow too fast.
        """
        now = self._now()
        if self._due is None:
            self._due = now + self.period
        lateness = now - self._due
        if lateness > 0:
            self.late, self.latest = self.late + 1, max(self.latest, lateness)
        else:
            self._sleep(-lateness)
        self._due += max(lateness, 0.0) + self.period
        self._has_waited = True

    def rest(self) -> None:
        """Begins an episode. Its first control step begins with its first action."""
        self._due: float | None = None
        self._has_waited = False
        self.late, self.latest = 0, 0.0

    def begin_step(self) -> None:
        if self._due is None:
            self._due = self._now() + self.period
        self._has_waited = False

    def end_step(self) -> None:
        if not self._has_waited:
            self.wait()


class RealTimeFamily(GymnasiumFamily):
    """One environment that runs in wall-clock time, such as a robot, as a task family.

    A control rate is kept from the first action of an episode to its end; steps that are late are counted and reported.
    There is one environment, so that trials take turns. Rewards and terminations are its own, as in
    :class:`GymnasiumFamily`, which says what its spaces may be.

    An episode is cut off, which is a truncation, if `is_stopped` says so or `step` raises :class:`EmergencyStop`. No
    action is sent after that, and the next reset raises StoppedError: a run then saves itself and ends. It does so as
    well if the environment raises any other error, as at a lost connection. A `step` that raises TimeoutError has lost
    its frame: the latest observation and reward stand for those that are missing.
    """

    may_be_cut = True

    def __init__(
        self,
        name: str,
        make_env: Callable[[Clock], gymnasium.Env],
        set_up: SetTask,
        control_rate: float,
        *,
        is_stopped: Callable[[], bool] | None = None,
        most_dropped: int = 3,
        timing_file: Path | str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            name: the family's name.
            make_env: `make_env(clock)` makes the environment. It is called here once, to look at it; that one is closed
                before another is made.
            set_up: `set_up(env, task)` is called before each reset and returns when an episode may begin: the robot is
                where it should be, and whoever arranges the world has arranged this task.
            control_rate: control steps per second.
            is_stopped: says before and after each step whether the emergency stop is pressed; None: there is none.
            most_dropped: frames in a row that may be missing; one more ends the episode.
            timing_file: a CSV file to which a row is added for each episode; see :class:`Timing`.
            options: as those of :class:`GymnasiumFamily`, such as `sample_tasks`, `tasks`, `task_parameters`, `horizon`
                and `success_key`.

        Raises:
            NacreError: an argument is impossible, or as :class:`GymnasiumFamily` says.
        """
        if not isinstance(control_rate, int | float) or not 0 < control_rate < math.inf:
            raise NacreError(f"control_rate of {name} is {shown(control_rate)}; allowed: steps per second, above 0")
        if type(most_dropped) is not int or most_dropped < 0:
            raise NacreError(f"most_dropped of {name} is {shown(most_dropped)}; allowed: a whole number from 0 on")
        for option in ("processes", "most_slots", "set_task", "follows_changes"):
            if option in options:
                raise NacreError(f"unknown option {option!r} of {name}: a robot is one, and set_up tells it its task")
        self.clock = Clock(control_rate)
        self.is_stopped = is_stopped
        self.most_dropped = most_dropped
        self.timing_file = None if timing_file is None else Path(timing_file)
        make = functools.update_wrapper(functools.partial(make_env, self.clock), make_env)  # errors name it
        super().__init__(name, make, set_up, most_slots=1, **options)

    def cut(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 3] > 0

    @property
    def _kind(self) -> type[_GymnasiumWorld]:
        return _RealTimeWorld

    @property
    def _drawable_kind(self) -> type[_GymnasiumWorld]:
        return _DrawableRealTimeWorld


class _RealTimeWorld(_GymnasiumWorld):
    """The one environment. The reward state is (reward, terminated, success, cut off)."""

    def __init__(self, family: RealTimeFamily, *arguments: Any) -> None:
        super().__init__(family, *arguments)
        self._clock, self._is_stopped = family.clock, family.is_stopped
        self._most_dropped, self._timing_file = family.most_dropped, family.timing_file
        self._episode: _Episode | None = None
        self._why_stopped = ""

    def begin(
        self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"], seeds: Sequence[int]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n 4"]]:
        self._end("left")
        if self._asks_to_stop():
            self._why_stopped = self._why_stopped or "emergency stop"
        if self._why_stopped:
            raise StoppedError(f"{self._name} has stopped ({self._why_stopped})")
        try:
            observations, _ = super().begin(slots, tasks, seeds)
        except NacreError as error:
            raise self._stopped("fault", error) from error
        self._clock.rest()
        reward_states = np.zeros((len(slots), 4))
        self._episode = _Episode(observations, reward_states)
        return observations, reward_states

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n 4"]]:
        episode = self._episode
        assert episode is not None
        episode.steps += 1
        end = "" if not self._asks_to_stop() else "emergency stop"
        if not end:
            end = self._act(episode, slots, actions)
        if not end and self._asks_to_stop():
            end = "emergency stop"
        if end == "emergency stop":
            self._why_stopped = end
        reward_states = episode.reward_states.copy()
        reward_states[:, 3] = end != ""
        if not end and reward_states[0, 1]:
            end = "terminated"
        if not end and episode.steps == self._horizon:
            end = "horizon"
        if end:
            self._end(end)
        return episode.observations, reward_states

    def close(self) -> None:
        self._end("left")
        super().close()

    def _act(self, episode: _Episode, slots: np.ndarray, actions: np.ndarray) -> str:
        """Carries out an action, and remembers what was seen; returns what ends the episode, if anything does."""
        self._clock.begin_step()
        try:
            observations, reward_states = super().step(slots, actions)
        except NacreError as error:
            if isinstance(error.__cause__, EmergencyStop):
                return "emergency stop"
            if not isinstance(error.__cause__, TimeoutError):
                self._end("fault")
                raise self._stopped("fault", error) from error
            self._clock.end_step()
            episode.dropped += 1
            episode.dropped_in_a_row += 1
            return "dropped frames" if episode.dropped_in_a_row > self._most_dropped else ""
        self._clock.end_step()
        episode.dropped_in_a_row = 0
        episode.observations = observations
        episode.reward_states = np.column_stack([reward_states, np.zeros(len(slots))])
        return ""

    def _asks_to_stop(self) -> bool:
        if self._is_stopped is None:
            return False
        try:
            return bool(call(self._is_stopped))
        except NacreError as error:
            self._end("fault")
            raise self._stopped("fault", error) from error

    def _stopped(self, why: str, error: NacreError) -> StoppedError:
        self._why_stopped = why
        return StoppedError(f"{self._name} has stopped ({why}): {error}")

    def _end(self, end: str) -> None:
        """Reports the episode that is running, if one is."""
        episode, self._episode = self._episode, None
        if episode is None or not episode.steps:
            return
        timing = Timing(episode.steps, self._clock.late, self._clock.latest, episode.dropped, end)
        if timing.late or timing.dropped or end not in ("horizon", "terminated"):
            LOGGER.warning(
                "%s: %d of %d steps late, by at most %.3f s; %d frames dropped; the episode ended with: %s",
                self._name,
                timing.late,
                timing.steps,
                timing.latest,
                timing.dropped,
                end,
            )
        if self._timing_file is not None:
            _add_row(self._timing_file, timing)


class _DrawableRealTimeWorld(_RealTimeWorld, _DrawableGymnasiumWorld):
    """Of an environment that draws itself."""


class _Episode:
    """What is known of the episode that is running."""

    def __init__(self, observations: np.ndarray, reward_states: np.ndarray) -> None:
        self.observations, self.reward_states = observations, reward_states
        self.steps = self.dropped = self.dropped_in_a_row = 0


def _add_row(path: Path, timing: Timing) -> None:
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(Timing._fields)
        writer.writerow(timing)
