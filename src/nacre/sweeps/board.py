"""How a sweep shows what it does: a live table on a terminal, and plain lines otherwise."""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import rich.console
import rich.live
from rich.table import Table
from rich.text import Text

from nacre.errors import printable, without_middle
from nacre.logs import LOGGER, Lasting, duration
from nacre.sweeps.specification import Planned

WIDTH = 80
"""Columns of the table."""
MOST_ROWS = 20
"""Runs in the table; there may be thousands."""
_NAME = 38
_SUMMARY_SECONDS = 60.0
"""Between two lines of summary, if the output is not a terminal."""


class State(enum.Enum):
    """What a run of a sweep is doing; the value is the word for it."""

    WAITING = "waiting"
    RUNNING = "running"
    SAVED = "stopped"
    BEHIND = "ended early"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(eq=False)
class Progress:
    """How far a run of a sweep is."""

    run: Planned
    folder: Path
    log: Path
    state: State = State.WAITING
    complete: int = 0
    """Iterations."""
    returns: Sequence[float] = ()
    """On test tasks, after each iteration."""
    compared: int = 0
    """After how many iterations it was last compared with others; see :class:`nacre.sweeps.search.Halving`."""
    is_behind: bool = False
    """Whether it ends early, or has."""
    size: int = 0
    """Of its progress.csv when it was read."""
    failures: int = 0
    """In this start of the sweep."""
    why: str = ""
    """What its latest failure was."""
    begun: tuple[float, int] | None = None
    """When this process began it, and how many iterations were complete then."""

    @property
    def test_return(self) -> float | None:
        """The latest."""
        return self.returns[-1] if self.returns else None

    def seconds_left(self, now: float) -> float | None:
        """By the iterations since it was begun; None: there is none yet."""
        if self.begun is None or self.complete <= self.begun[1] or self.state is not State.RUNNING:
            return None
        then, before = self.begun
        return (now - then) / (self.complete - before) * (self.run.experiment.iterations - self.complete)


class Board:
    """Shows the runs of a sweep, in 80 columns."""

    def __init__(
        self, runs: Sequence[Progress], *, console: rich.console.Console | None = None, quiet: bool = False
    ) -> None:
        self._runs, self._quiet, self._note = runs, quiet, ""
        if console is None:
            import sys

            console = rich.console.Console(highlight=False, file=cast(IO[str], Lasting(sys.stdout)), quiet=quiet)
        self._console = console
        self._is_live = console.is_terminal and not quiet
        self._live = rich.live.Live(console=console, refresh_per_second=2, get_renderable=self._table)
        self._summarised = time.monotonic()

    def __enter__(self) -> Board:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def message(self, text: str) -> None:
        """Prints a line, above the table if there is one."""
        LOGGER.info("%s", printable(text))
        self._console.print(printable(text), markup=False, soft_wrap=True)

    def stopping(self) -> None:
        """Says that a signal has arrived; it may be called in a signal handler."""
        self._note = "stopping: every run saves at its next safe point (once more: at once)"
        if not self._quiet and not self._is_live:
            with contextlib.suppress(OSError):
                os.write(2, f"{self._note}\n".encode())

    def tick(self) -> None:
        """Without a table, says from time to time how far the sweep is."""
        now = time.monotonic()
        if not self._is_live and now - self._summarised >= _SUMMARY_SECONDS:
            self._summarised = now
            self.message(self.summary())

    def summary(self) -> str:
        """Such as `3 finished, 2 running, 7 waiting: 41 of 120 iterations`."""
        counts = Counter(run.state for run in self._runs)
        states = ", ".join(f"{counts[state]} {state.value}" for state in reversed(State) if counts[state])
        complete = sum(min(run.complete, run.run.experiment.iterations) for run in self._runs)
        return f"{states}: {complete} of {sum(run.run.experiment.iterations for run in self._runs)} iterations"

    def _table(self) -> Table:
        order = (State.RUNNING, State.FAILED, State.SAVED, State.WAITING, State.FINISHED, State.BEHIND)
        rows = sorted(self._runs, key=lambda run: order.index(run.state))[:MOST_ROWS]
        now = time.monotonic()
        table = Table(box=None, pad_edge=False, width=min(WIDTH, self._console.width), header_style="bold")
        table.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in ("iteration", "return", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for run in rows:
            left = run.seconds_left(now)
            table.add_row(
                Text(without_middle(printable(run.run.name), _NAME)),
                f"{run.complete}/{run.run.experiment.iterations}",
                "" if run.test_return is None else f"{run.test_return:.1f}",
                run.state.value if left is None else duration(left),
            )
        hidden = len(self._runs) - len(rows)
        table.caption = Text(self.summary() + (f" ({hidden} not shown)" if hidden else ""), justify="left")
        table.caption_justify = "left"
        if self._note:
            table.caption = Text(f"{table.caption}\n{self._note}", justify="left")
        return table
