"""The exceptions whose messages are meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class NacreError(Exception):
    """Something the user can mend: the message names the field, what was given and what is allowed.

    The command line prints it as one sentence and exits with 2.
    """


class SimulationError(NacreError):
    """A quantity of one simulator slot is no longer a finite number.

    Fields: `quantity` (observation, reward, sparse reward or action), `slot` (its index) and `task` (the parameters
    of the slot's task by name). `place` is a sentence that says where in a run it was. Where several seeds share the
    simulator, `part` is the index of the one it belongs to, and `slot` is counted among the slots of that one.
    """

    def __init__(self, quantity: str, slot: int, task: dict[str, float], place: str = "", part: int = 0) -> None:
        self.quantity = quantity
        self.slot = slot
        self.task = task
        self.part = part
        described = ", ".join(f"{name} = {value:g}" for name, value in task.items())
        sentence = f"The {quantity} of simulator slot {slot} is not finite; its task is {described}."
        super().__init__(f"{sentence} {place}".strip())


class NonFiniteError(NacreError):
    """A number of the learner is no longer finite: training stopped, and the last checkpoint is good."""


class Interrupted(Exception):
    """SIGINT or SIGTERM ended a run after everything was saved.

    Fields: `run` (the run folder) and `signal` (its number).
    """

    def __init__(self, run: Path, signal: int) -> None:
        self.run = run
        self.signal = signal
        from nacre.extensions import command  # here, as it imports this module

        super().__init__(f"Stopped and saved. Continue with: {command('resume', run)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the names nearest to a mistaken one, or all if none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"
