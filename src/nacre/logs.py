"""What a run reports while it goes on: progress.csv, TensorBoard, and lines or a live bar on the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from nacre.errors import NacreError
from nacre.files import append_durably, cannot, write_atomically
from nacre.locks import check_place
from nacre.types import Metrics

CSV = "progress.csv"
TEST_RETURN = "AverageReturn_all_test_tasks"
"""The column the papers plot: mean return of the last episode of a trial over all test tasks."""


class ProgressLog:
    """progress.csv: a header and one row per iteration, on the disk before `append` returns.

    A kill in the middle of a row leaves a partial last line, which `truncate` removes at the next start.
    """

    def __init__(self, folder: Path):
        self._path = folder / CSV
        lines = _complete_lines(self._path) if self._path.exists() else []
        self._columns = next(csv.reader(lines[:1])) if lines else None

    def append(self, row: Metrics) -> None:
        """Adds a row. The first one fixes the columns and their order.

        Raises:
            ValueError: the row has other columns than the first.
            NacreError: the disk is full, read-only or the like.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        is_new = self._columns is None
        if self._columns is None:
            self._columns = list(row)
            writer.writerow(self._columns)
        missing, unknown = self._columns - row.keys(), row.keys() - set(self._columns)
        if missing or unknown:
            raise ValueError(f"the columns of {CSV} may not change: missing {sorted(missing)}, new {sorted(unknown)}")
        values = [row[column] for column in self._columns]
        writer.writerow([value if isinstance(value, int) else float(value) for value in values])
        append_durably(self._path, text.getvalue().encode(), is_new=is_new)

    def check(self, rows: int) -> list[str]:
        """The complete lines, the header among them.

        Raises:
            NacreError: there are fewer than `rows` complete rows, or the file cannot be read.
        """
        lines = _complete_lines(self._path) if self._path.exists() else []
        if len(lines) - 1 < rows and rows > 0:
            raise NacreError(f"{self._path} is damaged: it has {max(0, len(lines) - 1)} complete rows of {rows}")
        return lines

    def truncate(self, rows: int) -> None:
        """Keeps the header and the first `rows` rows, and drops later and partial ones.

        Raises:
            NacreError: as :meth:`check`, or the file cannot be written.
        """
        lines = self.check(rows)
        kept = lines[: rows + 1] if rows else []
        if not kept:
            self._columns = None
        content = "".join(kept).encode()
        if self._path.exists() and self._path.read_bytes() != content:
            write_atomically(self._path, content)


def read_progress_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a progress.csv as float64 arrays; a partial last row, of a run that goes on, is left out.

    Raises:
        NacreError: the file cannot be read, or holds something else than numbers; the message says in which line.
    """
    lines = _complete_lines(path)
    header, *rows = list(csv.reader(lines)) if lines else [[]]
    values = np.empty((len(rows), len(header)))
    for number, row in enumerate(rows):
        try:
            numbers = [float(value) for value in row]
        except ValueError:
            numbers = []
        if len(numbers) != len(header):
            raise NacreError(f"{path}, line {number + 2}, is damaged: {len(header)} numbers were expected")
        values[number] = numbers
    return {column: values[:, index] for index, column in enumerate(header)}


def _complete_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise cannot("read", path, error) from error
    except UnicodeDecodeError:
        raise NacreError(f"{path} is damaged: it is not text") from None
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


class TensorBoard:
    """Writes rows as TensorBoard scalars, grouped by what they are about.

    Events are written at once and not by tensorboardX's background thread, whose death on a full disk would leave the
    run waiting for ever.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        """`first_step`: where the run goes on; TensorBoard forgets what a killed one wrote from there.

        Raises:
            NacreError: the disk is full, read-only or the like.
        """
        self._folder = folder
        check_place(folder)
        try:
            self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            start = SessionLog(status=SessionLog.SessionStatus.START)
            self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))
            self._writer.flush()
        except OSError as error:
            raise cannot("write events in", folder, error) from error

    def write(self, step: int, row: Metrics) -> None:
        """Writes every column of a row.

        Raises:
            NacreError: the disk is full or the like, or the run folder was moved or removed.
        """
        check_place(self._folder)
        try:
            for column, value in row.items():
                summary = scalar(tensorboard_tag(column), value)
                self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._writer.flush()
        except OSError as error:
            raise cannot("write events in", self._folder, error) from error

    def close(self) -> None:
        """Raises NacreError if the disk is full or the like."""
        try:
            self._writer.close()
        except OSError as error:
            raise cannot("write events in", self._folder, error) from error


def tensorboard_tag(column: str) -> str:
    """`Q Predictions Mean` as `Q_Predictions/Mean`, `Train Time (s)` as `time/Train_Time_s`, and so on."""
    groups = [
        (r".*Return.*", "return"),
        (r".*\(s\)", "time"),
        (r"Z .*|KL .*", "belief"),
        (r".* Loss", "loss"),
        (r"Number of .*|Epoch", "count"),
    ]
    group = next((group for pattern, group in groups if re.fullmatch(pattern, column)), None)
    if group is None:
        statistic = re.fullmatch(r"(.*) (Mean|Std|Max|Min)", column)
        group, column = statistic.groups() if statistic else ("other", column)
    return "/".join(re.sub(r"\W+", "_", part).strip("_") for part in (group, column))


Phase = Literal["collect", "update", "evaluate"]


class Console:
    """Shows how a run goes on: a live bar on a terminal, otherwise one plain line per iteration.

    Each iteration calls `phase` and `advance` as it works, and `iteration` when it is complete.
    """

    def __init__(self, iterations: int, *, complete: int = 0, console: rich.console.Console | None = None):
        """`complete`: how many of the `iterations` are complete already, in a resumed run."""
        self._console = console or rich.console.Console(highlight=False)
        self._iterations, self._complete, self._complete_before = iterations, complete, complete
        self._phase: Phase = "collect"
        self._note = ""  # about the phase
        self._amounts: dict[Phase, int] = {}
        self._seconds: dict[Phase, float] = {}
        self._start = self._phase_start = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._whole = self._progress.add_task("iterations", total=iterations, completed=complete, note="")
        self._part = self._progress.add_task("collect", total=None, note="")

    def __enter__(self) -> Console:
        self._progress.start()
        self._start = self._phase_start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        self._console.print(text, markup=False, soft_wrap=True)

    def phase(self, phase: Phase, total: int | None = None, *, done: int = 0) -> None:
        """Begins a phase of `total` environment steps (collect, evaluate) or gradient steps (update).

        `done` of them were done before a resumed run was stopped.
        """
        self._end_phase()
        self._phase = phase
        # A new row, as a row cannot go back to an unknown total; never without one, as `stopping` may come any time.
        finished = self._part
        self._part = self._progress.add_task(phase, total=total, completed=done, note=self._note)
        self._progress.remove_task(finished)

    def stopping(self) -> None:
        """Tells that a signal has arrived. It may be called in a signal handler: it prints nothing through Python's
        streams, which the interrupted code may be using."""
        self._note = "stopping at the next safe point, and saving (once more: at once)"
        if self._console.is_terminal:
            self._progress.update(self._part, note=self._note)
        else:
            with contextlib.suppress(OSError):
                os.write(2, f"{self._note}\n".encode())

    def advance(self, n: int) -> None:
        """`n` more steps of the phase are done."""
        self._amounts[self._phase] = self._amounts.get(self._phase, 0) + n
        self._progress.update(self._part, advance=n)

    def iteration(self, *rows: Metrics, complete: int | None = None) -> None:
        """An iteration is complete, and `rows` are its rows of progress.csv: one for each seed.

        `complete`: how many iterations now are, where not one more than before.
        """
        self._end_phase()
        self._complete = self._complete + 1 if complete is None else complete
        now = time.monotonic()
        per_iteration = (now - self._start) / (self._complete - self._complete_before)
        parts = _test_return([row[TEST_RETURN] for row in rows if TEST_RETURN in row])
        units: dict[Phase, str] = {"collect": "env steps/s", "update": "gradient steps/s"}
        for phase, unit in units.items():
            if self._amounts.get(phase) and self._seconds.get(phase):
                rate = self._amounts[phase] / self._seconds[phase]
                parts.append(f"{rate:.0f} {unit}" if rate >= 100 else f"{rate:.3g} {unit}")
        parts.append(f"{_duration(per_iteration * (self._iterations - self._complete))} left")
        self._progress.update(self._whole, completed=self._complete, note=" · ".join(parts))
        if not self._console.is_terminal:
            self.message(" · ".join([f"iteration {self._complete}/{self._iterations}", *parts]))
        self._amounts, self._seconds = {}, {}

    def _end_phase(self) -> None:
        now = time.monotonic()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._phase_start
        self._phase_start = now


def _test_return(returns: list[float]) -> list[str]:
    if not returns:
        return []
    told = f"test return {np.mean(returns):.1f}"
    spread = f" ({min(returns):.1f} to {max(returns):.1f}, {len(returns)} seeds)" if len(returns) > 1 else ""
    return [told + spread]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
