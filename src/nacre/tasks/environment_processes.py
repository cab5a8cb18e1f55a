"""Slots of own environments in several processes: this one, and others that are told what to do over pipes.

A process holds some of the slots, and is sent one message for all of them at each step. It does not import the user's
main module, so a script needs no guard against being run again, and it ends when this process does, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cloudpickle
import numpy as np
from jaxtyping import Float64, Int, Real, UInt8

from nacre.errors import NacreError
from nacre.tasks.rendering import Renderer

PATIENCE = 2.0
"""Seconds that a process has to close its environments, before it is killed."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nacre.tasks.environment_processes import serve; serve(int(sys.argv[2]))"
)


class SlotsFamily(Protocol):
    """A family that makes the slots of one process."""

    name: str

    def make_slots(self, n_slots: int) -> Any:
        """A world of its own, which also has `begin(slots, tasks, seeds)`: a reset with one seed for each slot."""
        ...


class DistributedWorld:
    """A world of N slots, of which the first are in this process and the others in some of their own.

    What happens in a slot does not depend on where it is.
    """

    def __init__(self, family: Any, sizes: Sequence[int]) -> None:
        """
        Args:
            family: makes the slots of a process.
            sizes: how many slots each process has, this one included.

        Raises:
            NacreError: the family cannot be sent to another process, or its slots cannot be made there.
        """
        self._bounds = np.cumsum([0, *sizes])
        self._parts: list[_Here | _Elsewhere] = []
        payload = _packed(family)
        try:
            self._parts += [_Elsewhere(family.name, payload, size) for size in sizes[1:]]
            self._parts.insert(0, _Here(family.make_slots(sizes[0])))
            _results([part.receive() for part in self._parts[1:]])
        except BaseException:
            self.close()
            raise

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        return self._both("begin", slots, tasks, draw_seeds(generators))

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        return self._both("step", slots, actions)

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"]) -> None:
        self._call("set_tasks", slots, tasks)

    def state_dict(self) -> list[Any]:
        return [state for states in self._everywhere("state_dict") for state in states]

    def load_state_dict(self, state: list[Any]) -> None:
        ends = zip(self._bounds[:-1], self._bounds[1:], strict=True)
        self._everywhere("load_state_dict", [(state[start:end],) for start, end in ends])

    def close(self) -> None:
        for part in self._parts:
            part.leave()
        for part in self._parts:
            part.close()
        self._parts = []

    def _both(self, method: str, slots: np.ndarray, *rows: Any) -> tuple[np.ndarray, np.ndarray]:
        observations, reward_states = zip(*self._call(method, slots, *rows), strict=True)
        return np.concatenate(observations), np.concatenate(reward_states)

    def _call(self, method: str, slots: np.ndarray, *rows: Any) -> list[Any]:
        """What the method returns in each process that has some of the slots; `rows` have an entry for each slot."""
        cuts = np.searchsorted(slots, self._bounds)
        calls: list[tuple[Any, ...] | None] = []
        for start, end, first in zip(cuts[:-1], cuts[1:], self._bounds, strict=False):
            own = slots[start:end] - first
            calls.append((own, *(row[start:end] for row in rows)) if len(own) else None)
        return self._everywhere(method, calls)

    def _everywhere(self, method: str, calls: Sequence[tuple[Any, ...] | None] | None = None) -> list[Any]:
        """Calls a method in all processes at the same time, but for those whose arguments are None."""
        arguments = [()] * len(self._parts) if calls is None else calls
        asked = [(part, given) for part, given in zip(self._parts, arguments, strict=True) if given is not None]
        try:
            for part, given in reversed(asked):  # this process's own slots come last, as it then works itself
                part.send(method, given)
            return _results([part.receive() for part, _ in asked])
        except NacreError:
            raise
        except BaseException:  # Ctrl-C: an answer may be under way that nobody will read
            self.close()
            raise


class DrawableDistributedWorld(DistributedWorld):
    """Of environments that draw themselves."""

    @property
    def frames_per_second(self) -> float:
        return self._own.frames_per_second

    def configurations(self, slots: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n configuration"]:
        return np.concatenate(self._call("configurations", slots))

    def make_renderer(self, width: int, height: int) -> Renderer:
        return self._own.make_renderer(width, height)

    @property
    def _own(self) -> Any:
        """The slots of this process, whose pictures are like those of the others."""
        first = self._parts[0]
        assert isinstance(first, _Here)
        return first.world


def draw_seeds(generators: Sequence[np.random.Generator]) -> list[int]:
    """The seed of a reset for each slot."""
    return [int(generator.integers(2**31)) for generator in generators]


Outcome = tuple[bool, Any]
"""Whether a call returned, and what; or what it raised."""


def _outcome(function: Callable[..., Any], arguments: Sequence[Any]) -> Outcome:
    try:
        return True, function(*arguments)
    except Exception as error:
        return False, error


def _results(outcomes: Sequence[Outcome]) -> list[Any]:
    """What calls returned; the first error is raised, that of the first slots."""
    for returned, value in outcomes:
        if not returned:
            raise value
    return [value for _, value in outcomes]


class _Here:
    """The slots of this process."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self._outcome: Outcome = True, None

    def send(self, method: str, arguments: tuple[Any, ...]) -> None:
        self._outcome = _outcome(getattr(self.world, method), arguments)

    def receive(self) -> Outcome:
        return self._outcome

    def leave(self) -> None:
        pass

    def close(self) -> None:
        self.world.close()


class _Elsewhere:
    """A process with some of the slots."""

    def __init__(self, name: str, payload: bytes, n_slots: int) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps([*map(str, sys.path)]), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this process's business
        )
        self._end = weakref.finalize(self, _end, self._process)
        self.send("", (payload, n_slots))

    def send(self, method: str, arguments: tuple[Any, ...]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `receive` says what has become of it
            pickle.dump((method, arguments), stdin, pickle.HIGHEST_PROTOCOL)
            stdin.flush()

    def receive(self) -> Outcome:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            return pickle.load(stdout)
        except (EOFError, pickle.UnpicklingError):
            return False, NacreError(f"a process with environments of {self._name} has ended: {self._how_it_ended()}")

    def leave(self) -> None:
        """Lets the process end."""
        _close_pipe(self._process.stdin)

    def close(self) -> None:
        self._end()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if status >= 0:
            return f"exit status {status}; what it printed may say why"
        name = signal.Signals(-status).name
        return f"{name}{', perhaps as the memory was full' if name == 'SIGKILL' else ''}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that has nothing more to do."""
    _close_pipe(process.stdin)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _close_pipe(process.stdout)


def _close_pipe(pipe: Any) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet has no reader any more
        pipe.close()


def _packed(family: Any) -> bytes:
    try:
        return cloudpickle.dumps(family)
    except Exception as error:  # whatever the user's objects raise
        raise NacreError(
            f"{family.name} cannot be sent to another process: {type(error).__name__}: {error}; allowed with "
            "processes=True: functions that hold nothing which belongs to this process, such as open files or "
            "environments."
        ) from error


def serve(parent: int) -> None:
    """What a process with some of the slots does: it makes them, and then what it is told while somebody tells it.
    Whatever an environment prints goes to the standard error, as the standard output is for answers."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    world: Any = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            method, arguments = pickle.load(requests)
            if world is None:
                outcome = _outcome(_make_slots, arguments)
                world = outcome[1] if outcome[0] else None
                outcome = outcome if world is None else (True, None)
            else:
                outcome = _outcome(getattr(world, method), arguments)
            answers.write(_sendable(outcome))
            answers.flush()
    if world is not None:
        world.close()


def _make_slots(payload: bytes, n_slots: int) -> Any:
    try:
        family: SlotsFamily = cloudpickle.loads(payload)
    except Exception as error:  # whatever the user's modules raise
        raise NacreError(
            f"an environment cannot be made in another process: {type(error).__name__}: {error}; allowed with "
            "processes=True: functions of modules that can be imported there, or of the main module."
        ) from error
    return family.make_slots(n_slots)


def _sendable(outcome: Outcome) -> bytes:
    """The answer of a call. An error carries where it was raised as a note, which a traceback shows."""
    returned, value = outcome
    try:
        if not returned:
            value.add_note("In a process with environments:\n" + "".join(traceback.format_exception(value)))
        answer = pickle.dumps((returned, value), pickle.HIGHEST_PROTOCOL)
        pickle.loads(answer)  # some errors can be taken apart, but not be put together again
        return answer
    except Exception as error:
        said = value if not returned else error
        return pickle.dumps((False, NacreError(f"{type(said).__name__} in a process with environments: {said}")))


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent, even if an environment never returns."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
