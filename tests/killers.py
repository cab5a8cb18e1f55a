"""Commands that are killed at random moments, until each is done. All that they wrote has to be as it is without kills.

It serves any experiment. Commands run in processes of their own that a server forks, so that each begins with nacre
imported; `tests/attackers.py` and `benchmarks/reliability/attack.py` are programs that kill.
"""

from __future__ import annotations

import csv
import faulthandler
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# What the commands import, so that the server has it.
import nacre.cli
import nacre.report
import nacre.run_evaluation
import nacre.training
from nacre.experiments import Experiment, to_json
from nacre.files import read_npz
from nacre.run_evaluation import EVALUATIONS
from nacre.run_folder import EXPERIMENT, UNFINISHED

CONTEXT = multiprocessing.get_context("forkserver")
COMMANDS = {"train": 0.45, "train --seeds 2": 0.25, "evaluate": 0.15, "report": 0.15}
"""What is killed, and how often of all."""
MOST_KILLS = 12
"""Of one command. Then it may go on to its end."""


def serve() -> None:
    """Has the server import what the processes need. To be called before the first of them begins."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    CONTEXT.set_forkserver_preload(["killers"])


# Processes


class Moment(NamedTuple):
    """When a process is killed."""

    operation: int | None
    """Counted from its n-th change of a file in the folder; None: from its start."""
    delay: float | None
    """Seconds; None: before the operation is done."""


NEVER = Moment(None, None)


def random_moment(generator: np.random.Generator, seconds: float, operations: int) -> Moment:
    """One of a command that takes so many seconds, and changes files in the folder so many times; early ones are more
    frequent, as a command that goes on with what was killed is shorter."""
    kind = generator.integers(4)
    if kind == 0:
        return Moment(None, float(generator.uniform(0, 1.1 * seconds)))
    operation = 1 + int(operations * generator.uniform() ** 2)
    return Moment(operation, None if kind == 1 else float(generator.exponential(0.02)))


class End(NamedTuple):
    """How a process ended."""

    code: int | None
    """None: it hung, and was killed for that."""
    result: Any
    """What it returned; of a command, how often it changed a file in its folder. None: it did not get there."""

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def call(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    log: Path,
    limit: float,
    cpu: int | None = None,
    delay: float | None = None,
) -> End:
    """Calls a function in a process of its own, whose output goes to a file.

    Args:
        function: it is given a function to call before it may be killed, and the arguments.
        log: what is printed is added to it.
        limit: seconds after which the process counts as hanging.
        cpu: the only processor that it may use; None: all.
        delay: seconds between the call of that function and SIGKILL; None: it is not killed.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_called, args=(function, arguments, log, sender, limit, cpu))
    process.start()
    sender.close()
    deadline, result = time.monotonic() + limit, None
    while True:
        ready = multiprocessing.connection.wait([receiver, process.sentinel], max(0.0, deadline - time.monotonic()))
        if not ready:
            process.kill()
            process.join()
            receiver.close()
            return End(None, None)
        if receiver not in ready:
            break
        try:
            result = receiver.recv()
        except EOFError:
            break
        if result == NOW and delay is not None:
            process.join(delay)
            process.kill()
            result = None
            break
    process.join(max(1.0, deadline - time.monotonic()))
    hangs = process.exitcode is None
    if hangs:
        process.kill()
        process.join()
    receiver.close()
    return End(None if hangs else process.exitcode, result)


NOW = "now"


def _called(
    function: Callable[..., Any], arguments: tuple[Any, ...], log: Path, sender: Any, limit: float, cpu: int | None
) -> None:
    """What the process does."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(sys.__stderr__)
    faulthandler.dump_traceback_later(max(1.0, limit - 5), file=sys.__stderr__)
    sender.send(function(lambda: sender.send(NOW), *arguments))


def _command(now: Callable[[], None], words: list[str], folder: Path, moment: Moment) -> int:
    """A command of nacre, which is killed at a moment; returns how often it changed a file in the folder."""
    operations = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if not _changes(event, arguments, str(folder)):
            return
        operations += 1
        if operations == moment.operation:
            if moment.delay is None:
                os.kill(os.getpid(), signal.SIGKILL)
            now()

    sys.addaudithook(count)
    if moment.operation is None:
        now()
    nacre.cli.main(words)
    return operations


def _changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an event that Python tells its auditors is a change of a file in the folder, or of the folder."""
    if event == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and str(path).startswith(folder)
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(arguments[0]).startswith(folder)


# What a folder holds


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file in a folder of runs, without what is of a run's own: its random name, and times.

    TensorBoard's files are left out: each process that trains begins one of its own.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("events.")]
    return {str(path.relative_to(folder)): _digest(path, folder) for path in files}


def _digest(path: Path, folder: Path) -> str:
    if path.suffix == ".npz":
        found: Any = {name: _array(name, array) for name, array in read_npz(path).items() if name != "run"}
    elif path.name == "progress.csv":
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        found = [{key: value for key, value in row.items() if not _is_time(key)} for row in rows]
    elif path.name == EXPERIMENT:
        found = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("run", "checksum")}
    else:  # reports say when they were written, and of which folder
        found = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d", b"", path.read_bytes()).replace(str(folder).encode(), b"")
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _is_time(column: str) -> bool:
    """Of progress.csv: ours have their unit, those of the public code of CEMRL do not."""
    return "(s)" in column or column.startswith("time_")


def _array(name: str, array: np.ndarray) -> Any:
    if name != "manifest":
        return str(array.dtype), array.shape, array.tobytes()
    manifest = json.loads(array.tobytes())
    progress = manifest["progress"]
    manifest["progress"] = {key: value for key, value in progress.items() if key not in ("seconds", "run", "log")}
    return manifest


def difference(found: dict[str, str], expected: dict[str, str]) -> str | None:
    """In words, if there is one. A result that was written just before a kill may be there twice."""
    copies = {name for name, digest in found.items() if name.startswith(EVALUATIONS) and digest in expected.values()}
    missing, more = expected.keys() - found.keys(), found.keys() - expected.keys() - copies
    other = [name for name in expected.keys() & found.keys() if found[name] != expected[name]]
    parts = {"missing": missing, "too many": more, "different": other}
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in parts.items() if names) or None


# Storms


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody kills."""

    seconds: float
    operations: int
    contents: dict[str, str]
    log: str


@dataclass(frozen=True)
class Outcome:
    """Of a command that was killed until it was done."""

    kills: int
    failure: str | None = None
    """None: all is as it is without kills."""


class OutOfTime(Exception):
    """There is no time left to begin."""


LIMIT = 600.0
"""Seconds that a command may take that nobody kills."""


class Storm:
    """Kills the commands of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        cpu: int | None = None,
        is_late: Callable[[], bool] = lambda: False,
        commands: Sequence[str] = tuple(COMMANDS),
    ):
        """Runs each command once without a kill, in a folder that is made.

        Raises:
            RuntimeError: a command fails.
            OutOfTime: `is_late` says so.
        """
        self.folder, self._is_late = folder, is_late
        folder.mkdir(parents=True)
        self.configuration = folder / "configuration.json"
        self.configuration.write_text(json.dumps(to_json(experiment)))
        self.undisturbed = {command: self._undisturbed(command, cpu) for command in commands}

    @property
    def run(self) -> Path:
        """The run that nobody has killed."""
        return self.folder / "undisturbed-0" / "folder"

    def attack(
        self,
        command: str,
        generator: np.random.Generator,
        name: str,
        cpu: int | None = None,
        most: int = MOST_KILLS,
    ) -> Outcome:
        """Kills a command until it is done, or at most so often, and compares what it has left.

        `name`: a new one, for its folder.
        """
        expected, kills = self.undisturbed[command], 0
        made = self._begin(command, name)
        log = made.with_name("log")
        # The first command that trained had everything to compile.
        seconds = min(each.seconds for name, each in self.undisturbed.items() if name.split()[0] == command.split()[0])
        limit = max(60.0, 20 * expected.seconds)
        while True:
            rest = kills >= most or self._is_late()
            moment = NEVER if rest else random_moment(generator, seconds, expected.operations)
            end = self._end(command, made, log, moment, limit, cpu)
            if end.is_killed:
                kills += 1
                continue
            failure = self._failure(end, log, made, expected)
            if failure is None:
                shutil.rmtree(made.parent)
            return Outcome(kills, failure)

    def _failure(self, end: End, log: Path, made: Path, expected: Undisturbed) -> str | None:
        said = log.read_text(errors="replace")
        if end.code is None:
            return f"it hangs: {said[-2000:]}"
        if end.code != 0 or "Traceback" in said:
            return f"it ended with {end.code}: {said[-2000:]}"
        return difference(contents(made), expected.contents)

    def _undisturbed(self, command: str, cpu: int | None) -> Undisturbed:
        if self._is_late():
            raise OutOfTime
        made = self._begin(command, f"undisturbed-{list(COMMANDS).index(command)}")
        log, start = made.with_name("log"), time.monotonic()
        end = self._end(command, made, log, NEVER, LIMIT, cpu)
        said = log.read_text(errors="replace")
        if end.code != 0:
            raise RuntimeError(f"{command} ended with {end.code} although nobody killed it: {said[-3000:]}")
        return Undisturbed(time.monotonic() - start, end.result, contents(made), said)

    def _begin(self, command: str, name: str) -> Path:
        """The folder that a command is about."""
        made = self.folder / name / "folder"
        made.parent.mkdir()
        if not command.startswith("train"):
            shutil.copytree(self.run, made)
        return made

    def _end(self, command: str, made: Path, log: Path, moment: Moment, limit: float, cpu: int | None) -> End:
        words = self._words(command, made)
        return call(_command, (words, made, moment), log, limit, cpu, moment.delay)

    def _words(self, command: str, made: Path) -> list[str]:
        """What a user would type next."""
        if not command.startswith("train"):
            return [command, str(made)]
        if any(made.rglob(EXPERIMENT)) and not (made / UNFINISHED).exists():
            return ["resume", str(made)]
        return [*command.split(), "--config", str(self.configuration), "--out", str(made)]
