"""The exceptions whose messages are meant for the person at the keyboard."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class NacreError(Exception):
    """Something the user can mend: the message names the field, what was given and what is allowed.

    The command line prints it as one sentence and exits with 2.
    """


class SimulationError(NacreError):
    """A quantity of one simulator slot is no longer a finite number, or too large to learn from.

    Fields: `quantity` (observation, reward, sparse reward, reward state or action), `slot` (its index), `task` (the
    parameters of the slot's task by name) and `value` (what it is). `place` is a sentence that says where in a run it
    was. If several seeds share the simulator, `part` is the index of the one it belongs to, and `slot` is counted among
    the slots of that one. `worker` names the worker process that simulated it; empty: there are no workers.
    """

    def __init__(
        self,
        quantity: str,
        slot: int,
        task: dict[str, float],
        place: str = "",
        part: int = 0,
        value: float = math.nan,
        worker: str = "",
    ) -> None:
        self.quantity = quantity
        self.slot = slot
        self.task = task
        self.place = place
        self.part = part
        self.value = value
        self.worker = worker
        described = ", ".join(f"{name} = {number:g}" for name, number in task.items())
        fault = f"{value:g}, which is too large to learn from" if math.isfinite(value) else "not finite"
        sentence = f"The {quantity} of simulator slot {slot} is {fault}; its task is {described}."
        simulated = f"It was simulated by {worker}." if worker else ""
        super().__init__(" ".join(filter(None, (sentence, place, simulated))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.quantity, self.slot, self.task, self.place, self.part, self.value, self.worker)

    def moved(
        self,
        *,
        slot: int | None = None,
        place: str | None = None,
        part: int | None = None,
        worker: str | None = None,
    ) -> SimulationError:
        """The same error, as one who knows more of its surroundings tells it."""
        return SimulationError(
            self.quantity,
            self.slot if slot is None else slot,
            self.task,
            self.place if place is None else place,
            self.part if part is None else part,
            self.value,
            self.worker if worker is None else worker,
        )


class NonFiniteError(NacreError):
    """A number of the learner is no longer finite: training stopped, and the last checkpoint is good."""


class StoppedError(NacreError):
    """A world that cannot be played again, such as a robot, has stopped: by an emergency stop, or by a fault. A run
    saves all that was collected before this phase."""


class WorkersLostError(NacreError):
    """There is no worker, and none could be had in the time that was allowed for it."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP ended a run after everything was saved; or, twice, at once.

    Fields: `run` (the run folder, or that of a sweep), `signal` (its number), `is_saved` (off if the run, or one of
    the sweep, goes on from its latest checkpoint, as after a kill) and `again` (how to go on; None: with nacre resume).
    """

    def __init__(self, run: Path, signal: int, is_saved: bool = True, again: str | None = None) -> None:
        self.run = run
        self.signal = signal
        self.is_saved = is_saved
        self.again = again
        from nacre.extensions import command  # here, as it imports this module

        how = (
            "Stopped and saved."
            if is_saved
            else "Stopped without saving: what came after the latest checkpoint is lost."
        )
        super().__init__(f"{how} Continue with: {command('resume', run) if again is None else again}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run, self.signal, self.is_saved, self.again)


MOST_CHARACTERS = 2000
"""How long a message may be. What was given may be longer."""


def shown(value: Any, most: int = 120) -> str:
    """The value as Python writes it, without its middle if it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a whole number of more digits than Python writes
        text = f"a {type(value).__name__} that is too large to show"
    return without_middle(text, most)


def without_middle(text: str, most: int) -> str:
    """The text, or its beginning and its end if it is longer."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]}[...]{text[len(text) - most // 3 :]}"


def in_one_line(error: BaseException) -> str:
    """What an error of other people's code says, for a sentence of ours."""
    return without_middle(" ".join(str(error).split()), 300)


def printable(text: str) -> str:
    """A text that a terminal shows and does not obey: names in files of other people may hold control characters.

    They, and what a path holds that is not UTF-8, become what Python writes for them, such as \\x1b. Words that are too
    long to be read lose their middle, and so does the whole.
    """
    text = without_middle(re.sub(r"\S{300,}", lambda word: without_middle(word[0], 299), text), MOST_CHARACTERS)
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the names nearest to a mistaken one, or all if none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"
