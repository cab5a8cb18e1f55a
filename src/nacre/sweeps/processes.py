"""Runs of a sweep as processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nacre.errors import without_middle
from nacre.experiments import to_json
from nacre.extensions import imported_modules
from nacre.files import cannot, make_folder
from nacre.sweeps.resources import Resources
from nacre.sweeps.specification import Planned

SAVED = "stopped and saved"
"""How a run ended that was asked for that, or that had nothing to save yet."""


@runtime_checkable
class Job(Protocol):
    """A run that is being trained somewhere."""

    def poll(self) -> str | None:
        """How it ended, in words, such as :data:`SAVED`; None: it goes on."""
        ...

    def stop(self) -> None:
        """Has it save and end."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...


@runtime_checkable
class Workplace(Protocol):
    """Where runs are trained."""

    def room(self) -> int:
        """How many more runs can be begun now."""
        ...

    def begin(self, run: Planned, folder: Path, log: Path) -> Job:
        """Begins to train a run, or goes on with it.

        Args:
            run: what is trained.
            folder: of the run.
            log: what it prints is added to this file.
        """
        ...

    def close(self) -> None:
        """Ends what is still trained, and frees what it holds."""
        ...


def request_of(run: Planned, folder: Path, cores: list[int] | None, threads: int, wandb: bool = False) -> bytes:
    """What :mod:`nacre.sweeps.job` reads.

    Args:
        run: what is trained.
        folder: of the run.
        cores: to stay on; None: any.
        threads: how many cores it may use.
        wandb: whether it has a board of Weights & Biases.
    """
    values = {
        "folder": str(folder),
        "experiment": to_json(run.experiment),
        "imports": imported_modules(),
        "cores": cores,
        "threads": threads,
        "wandb": run.cell if wandb else None,
    }
    return json.dumps(values).encode() + b"\n"


class ThisMachine:
    """Each run has cores of its own, and a GPU of its own if there are any."""

    def __init__(self, available: Resources, cores: int, jobs: int, wandb: bool):
        """
        Args:
            available: what runs may take.
            cores: for each run.
            jobs: at most so many runs at once. If they need more cores than there are, they share them.
            wandb: whether runs have boards of Weights & Biases.
        """
        self._wandb = wandb
        self._cores, self._gpus, self._jobs = available.cores, available.gpus, jobs
        self._shares = jobs * cores > len(available.cores)
        self._cores_each = cores
        self._processes: dict[int, Process] = {}  # by place

    def room(self) -> int:
        return self._jobs - len(self._busy())

    def begin(self, run: Planned, folder: Path, log: Path) -> Job:
        place = next(number for number in range(self._jobs) if number not in self._busy())
        first = place * self._cores_each
        cores = None if self._shares else list(self._cores[first : first + self._cores_each])
        environment = {}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        process = Process(request_of(run, folder, cores, self._cores_each, self._wandb), log, environment)
        self._processes[place] = process
        return process

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _busy(self) -> set[int]:
        return {place for place, process in self._processes.items() if process.poll() is None}


class Process:
    """A process of its own session: a terminal's Ctrl-C does not reach it. It saves and ends if this process dies."""

    def __init__(self, request: bytes, log: Path, environment: Mapping[str, str]):
        """
        Args:
            request: see :func:`request_of`.
            log: what it prints is added to this file.
            environment: variables of its own.

        Raises:
            NacreError: it cannot be started.
        """
        self._log, self._is_stopping = log, False
        make_folder(log.parent)
        try:
            with open(log, "ab") as output:
                self._process: subprocess.Popen[Any] = subprocess.Popen(
                    [sys.executable, "-m", "nacre.sweeps.job"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=os.environ | environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise cannot("begin a run that writes", log, error) from error
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which `poll` tells
            self._process.stdin.write(request)
            self._process.stdin.flush()  # it stays open: its end would end the run

    def poll(self) -> str | None:
        status = self._process.poll()
        has_not_begun = self._is_stopping and status == -signal.SIGTERM  # else it would have saved
        if status == 128 + signal.SIGTERM or has_not_begun:
            return SAVED
        return None if status is None else _in_words(status, self._log)

    def wait(self) -> int:
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        return self._process.wait()

    def stop(self) -> None:
        if not self._is_stopping:  # a second signal would end it at once
            self._is_stopping = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


def _in_words(status: int, log: Path) -> str:
    """How a process ended, with the last that it said if that was an error."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = lines[-1].removeprefix("nacre: error: ") if lines else "it said nothing"
    return f"ended with status {status}: {without_middle(said, 300)}"
