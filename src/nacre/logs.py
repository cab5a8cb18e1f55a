"""What a run reports while it goes on: progress.csv, TensorBoard, and lines or a live bar on the terminal."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
from rich.text import Text
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import hparams, scalar

from nacre.errors import NacreError, printable, shown
from nacre.files import append_durably, cannot, check_is_file, write_atomically
from nacre.locks import check_place
from nacre.protocol import TEST_RETURN, TEST_SUCCESS
from nacre.types import Metrics

LOGGER = logging.getLogger("nacre")
"""Gets every line that training prints."""

CSV = "progress.csv"
LARGEST = 1e100
"""No quantity of a run is larger, and sums of squares of larger ones overflow."""


class ProgressLog:
    """progress.csv: a header and one row per iteration, on the disk before `append` returns.

    A kill in the middle of a row leaves a partial last line, which `truncate` removes at the next start.
    """

    def __init__(self, folder: Path):
        self._path = folder / CSV
        lines = _complete_lines(self._path) if self._path.exists() else []
        self._columns = _header(self._path, lines[0]) if lines else None
        self._content = hashlib.sha256("".join(lines).encode())

    @property
    def digest(self) -> str:
        """Of the complete lines: a checkpoint keeps it, so that a later start knows them again."""
        return self._content.hexdigest()

    @property
    def columns(self) -> list[str]:
        """Those of the rows that are there; empty before the first."""
        return self._columns or []

    def append(self, row: Metrics) -> None:
        """Adds a row. The first one fixes the columns and their order.

        Columns that the first row lacks are left out: an older version may have begun the file.

        Raises:
            NacreError: the row lacks a column of the first; the disk is full, read-only or the like.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        is_new = self._columns is None
        if self._columns is None:
            self._columns = list(row)
            writer.writerow(self._columns)
        missing = [column for column in self._columns if column not in row]
        if missing:
            raise NacreError(
                f"{self._path} has columns that this run does not write: {', '.join(map(repr, missing))}; another "
                "version of nacre began the file, or it is damaged"
            )
        values = [row[column] for column in self._columns]
        writer.writerow([value if isinstance(value, int) else float(value) for value in values])
        append_durably(self._path, text.getvalue().encode(), is_new=is_new)
        self._content.update(text.getvalue().encode())

    def check(self, rows: int) -> list[str]:
        """The complete lines, the header among them.

        Raises:
            NacreError: there are fewer than `rows` complete rows, one of them is not that of its iteration, or the file
                cannot be read.
        """
        lines = _complete_lines(self._path) if self._path.exists() else []
        if len(lines) - 1 < rows and rows > 0:
            raise NacreError(f"{self._path} is damaged: it has {max(0, len(lines) - 1)} complete rows of {rows}")
        epochs = _columns(self._path, lines[: rows + 1]).get("Epoch", np.arange(rows)) if rows else np.zeros(0)
        for row in np.flatnonzero(epochs != np.arange(rows)):
            raise NacreError(
                f"{self._path}, line {row + 2}, is damaged: it is of iteration {epochs[row]:g}, and {row} was expected"
            )
        return lines

    def is_known(self, rows: int, digest: str) -> bool:
        """Whether the first rows are those that a checkpoint with this digest knew."""
        kept = self.check(rows)[: rows + 1] if rows else []
        return hashlib.sha256("".join(kept).encode()).hexdigest() == digest

    def rows_ahead(self, rows: int) -> int:
        """How many complete rows there are beyond those."""
        return max(0, len(self.check(rows)) - 1 - rows)

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
        self._content = hashlib.sha256(content)
        if self._path.exists() and self._path.read_bytes() != content:
            write_atomically(self._path, content)


def read_progress_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a progress.csv as float64 arrays; a partial last row, of a run that goes on, is left out.

    Raises:
        NacreError: the file cannot be read, or holds something else than columns of numbers; the message says in which
            line.
    """
    return _columns(path, _complete_lines(path))


def _columns(path: Path, lines: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of complete lines, the header among them."""
    first, *lines = lines or [""]
    header = _header(path, first) if first else []
    values = np.empty((len(lines), len(header)))
    for number, line in enumerate(lines):
        try:
            row = [float(value) for value in _fields(line)]
        except (ValueError, csv.Error):
            row = []
        if len(row) != len(header):
            raise NacreError(f"{path}, line {number + 2}, is damaged: {len(header)} numbers were expected")
        values[number] = row
        too_large = np.isfinite(row) & (np.abs(row) > LARGEST)
        if too_large.any():
            column = int(np.flatnonzero(too_large)[0])
            raise NacreError(
                f"{path}, line {number + 2}, is damaged: {shown(header[column])} is {row[column]:g}; allowed: at most "
                f"{LARGEST:g} in magnitude"
            )
    return {column: values[:, index] for index, column in enumerate(header)}


def _header(path: Path, line: str) -> list[str]:
    """The names of the columns.

    Raises:
        NacreError: they are not names that differ.
    """
    try:
        columns = _fields(line)
    except csv.Error:
        columns = []
    if not columns or not all(name.strip() for name in columns) or len(set(columns)) < len(columns):
        raise NacreError(f"{path}, line 1, is damaged: names of columns were expected, each of them once")
    return columns


def _fields(line: str) -> list[str]:
    return next(csv.reader([line], strict=True))


def _complete_lines(path: Path) -> list[str]:
    check_is_file(path)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise cannot("read", path, error) from error
    except UnicodeDecodeError:
        raise NacreError(f"{path} is damaged: it is not text") from None
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def new_events(folder: Path) -> EventsWriter:
    """Begins a file for TensorBoard. Its name has more than the second of now, or one that was begun in the same second
    would be overwritten."""
    return EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")


class TensorBoard:
    """Writes rows as TensorBoard scalars, grouped by what they are about.

    Events are written at once and not by tensorboardX's background thread, whose death on a full disk would leave the
    run waiting for ever.
    """

    def __init__(
        self,
        folder: Path,
        first_step: int = 0,
        groups: Mapping[str, str] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ):
        """Opens a file of events.

        Args:
            folder: of the run.
            first_step: where the run goes on; TensorBoard forgets what a killed one wrote from there.
            groups: the algorithm's own; see :func:`tensorboard_tag`.
            configuration: for the page of hyperparameters: the experiment as JSON values.

        Raises:
            NacreError: the disk is full, read-only or the like.
        """
        self._folder = folder
        self._groups = groups or {}
        check_place(folder)
        try:
            self._writer = new_events(folder)
            start = SessionLog(status=SessionLog.SessionStatus.START)
            self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))
            if configuration is not None:
                measures = [tensorboard_tag(TEST_RETURN, self._groups)]
                for summary in hparams(_flat(configuration), dict.fromkeys(measures)):
                    self._writer.write_event(Event(wall_time=time.time(), step=first_step, summary=summary))
            self._writer.flush()
        except OSError as error:
            raise cannot("write events in", folder, error) from error

    def write(self, step: int, row: Metrics) -> None:
        """Writes every column of a row that has a value; NaN stands for none. `step` is of the environment.

        Raises:
            NacreError: the disk is full or the like, or the run folder was moved or removed.
        """
        check_place(self._folder)
        try:
            for column, value in row.items():
                if math.isnan(value):
                    continue
                summary = scalar(tensorboard_tag(column, self._groups), value)
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Hyperparameters by dotted names: numbers, truth values and text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


_GROUPS = {
    r".*Return.*": "return",
    r".*Success.*": "success",
    r".*\(s\)": "time",
    r".* Loss": "loss",
    r"Number of .*|Epoch": "count",
}
"""Groups of the columns that every algorithm may have, by a pattern that the whole name matches."""


def tensorboard_tag(column: str, groups: Mapping[str, str] | None = None) -> str:
    """`Q Predictions Mean` as `Q_Predictions/Mean`, `Train Time (s)` as `time/Train_Time_s`, and so on.

    Args:
        column: of progress.csv. One with a slash, such as `belief/width`, names its group itself.
        groups: the algorithm's own: a group by a pattern that the whole name matches. They come first.
    """
    patterns = {**(groups or {}), **_GROUPS}
    chosen = next((group for pattern, group in patterns.items() if re.fullmatch(pattern, column)), None)
    if chosen is None:
        own_group = re.fullmatch(r"([^/]+)/(.+)", column)
        statistic = re.fullmatch(r"(.*) (Mean|Std|Max|Min)", column)
        found = own_group or statistic
        chosen, column = found.groups() if found else ("other", column)
    return "/".join(re.sub(r"\W+", "_", part).strip("_") for part in (chosen, column))


EVALUATE = "evaluate"
"""The phase in which test tasks are played: its environment steps are not those of collection."""


class Console:
    """Shows how a run goes on: a plain line per iteration, and on a terminal a live bar below the lines.

    Each iteration calls `phase` and `advance` as it works, and `iteration` when it is complete. The bar fits into 80
    columns.
    """

    def __init__(
        self,
        iterations: int,
        *,
        complete: int = 0,
        console: rich.console.Console | None = None,
        quiet: bool = False,
    ):
        """
        Args:
            iterations: of the run.
            complete: how many of them are complete already, in a resumed run.
            console: where to print; None: the standard output.
            quiet: nothing is printed. Every line goes to the logger `nacre` in any case.
        """
        self._quiet = quiet
        if console is None:
            console = rich.console.Console(highlight=False, file=cast(IO[str], Lasting(sys.stdout)), quiet=quiet)
        self._console = console
        self._iterations, self._complete, self._complete_before = iterations, complete, complete
        self._first: tuple[int, float] | None = None  # complete iterations and time at the end of the first one here
        self._phase, self._is_gradient = "", False
        self._amounts: dict[bool, int] = {}  # gradient steps by True, environment steps of collection by False
        self._seconds: dict[bool, float] = {}
        self._start = self._phase_start = time.monotonic()
        self._bars = _Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Amount(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._whole = self._bars.add_task(self._number(complete + 1), total=iterations, completed=complete, note=" ")
        self._part = self._bars.add_task("", total=None, note=None)

    def __enter__(self) -> Console:
        self._bars.start()
        self._start = self._phase_start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def message(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        LOGGER.info("%s", printable(text))
        self._console.print(printable(text), markup=False, soft_wrap=True)

    def phase(self, name: str, total: int | None = None, *, done: int = 0) -> None:
        """Begins a phase.

        Args:
            name: what the algorithm calls it, or `EVALUATE`.
            total: gradient steps; None: the phase collects environment steps, and their number is not known.
            done: how many steps were done before a resumed run was stopped.
        """
        self._end_phase()
        self._phase, self._is_gradient = name, total is not None
        # A new row, as a row cannot go back to an unknown total; never without one, as `stopping` may come any time.
        finished = self._part
        self._part = self._bars.add_task(name, total=total, completed=done, note=None)
        self._bars.remove_task(finished)

    def stopping(self) -> None:
        """Says that a signal has arrived. It may be called in a signal handler: it prints nothing through Python's
        streams, which the interrupted code may be using."""
        note = "stopping at the next safe point, and saving (once more: at once)"
        if self._quiet:
            return
        if self._console.is_terminal:
            self._bars.note = note
        else:
            with contextlib.suppress(OSError):
                os.write(2, f"{note}\n".encode())

    def advance(self, n: int) -> None:
        """`n` more steps of the phase are done."""
        if self._phase != EVALUATE:
            self._amounts[self._is_gradient] = self._amounts.get(self._is_gradient, 0) + n
        self._bars.update(self._part, advance=n)

    def iteration(self, *rows: Metrics, complete: int | None = None) -> None:
        """An iteration is complete, and `rows` are its rows of progress.csv: one for each seed.

        `complete`: how many iterations now are; None: one more than before.
        """
        self._end_phase()
        self._complete = self._complete + 1 if complete is None else complete
        left = self._time_left()
        parts = [self._number(self._complete), *_test_results(rows), *self._rates()]
        if self._console.is_terminal and not self._quiet:
            LOGGER.info("%s", " · ".join([*parts, left]))
            self._console.print(Text(" · ".join(parts)))
        else:
            self.message(" · ".join([*parts, left]))
        following = self._number(self._complete + 1)
        self._bars.update(self._whole, completed=self._complete, description=following, note=left)
        self._amounts, self._seconds = {}, {}

    def _number(self, iteration: int) -> str:
        return f"iteration {min(iteration, self._iterations)}/{self._iterations}"

    def _rates(self) -> list[str]:
        """Steps per second, over all phases of a kind in this iteration."""
        rates = []
        for is_gradient, unit in ((False, "env steps/s"), (True, "gradient steps/s")):
            if self._amounts.get(is_gradient) and self._seconds.get(is_gradient):
                rate = self._amounts[is_gradient] / self._seconds[is_gradient]
                rates.append(f"{rate:.0f} {unit}" if rate >= 100 else f"{rate:.3g} {unit}")
        return rates

    def _time_left(self) -> str:
        """By the iterations after the first, as programs are compiled in the first; after it, by the first itself."""
        now, left = time.monotonic(), self._iterations - self._complete
        is_first = self._first is None
        complete, then = self._first or (self._complete_before, self._start)
        if is_first:
            self._first = self._complete, now
        seconds = (now - then) / max(1, self._complete - complete) * left
        return f"{'under ' if is_first and left else ''}{duration(seconds)} left"

    def _end_phase(self) -> None:
        now = time.monotonic()
        if self._phase != EVALUATE:
            self._seconds[self._is_gradient] = self._seconds.get(self._is_gradient, 0.0) + now - self._phase_start
        self._phase_start = now


class Lasting:
    """A stream whose reader may go away: a closed terminal or pipe takes nothing more, and the run goes on."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Bars(Progress):
    """Bars with a note on a line of its own."""

    note = ""

    def get_renderables(self) -> Iterable[rich.console.RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note)


class _Amount(MofNCompleteColumn):
    """How many steps are done, or what `note` says instead."""

    def render(self, task: Task) -> Text:
        note = task.fields["note"]
        return super().render(task) if note is None else Text(note, style="progress.remaining")


def _test_results(rows: tuple[Metrics, ...]) -> list[str]:
    """The mean test return and success of the seeds, and the range of their returns."""
    returns = [row[TEST_RETURN] for row in rows if TEST_RETURN in row]
    successes = [row[TEST_SUCCESS] for row in rows if TEST_SUCCESS in row]
    parts = []
    if returns:
        spread = f" ({min(returns):.1f} to {max(returns):.1f}, {len(returns)} seeds)" if len(returns) > 1 else ""
        parts.append(f"test return {np.mean(returns):.1f}{spread}")
    if successes:
        parts.append(f"success {np.mean(successes):.0%}")
    return parts


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
