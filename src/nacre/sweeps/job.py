"""The process of one run of a sweep: `python -m nacre.sweeps.job`, with what it has to do on its standard input.

It trains a run, or goes on with it. It is `nacre train` or `nacre resume` in all that it prints and in its exit status.
When its standard input ends, the process that started it is gone, or wants it to end: then it saves, as after SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any


def main() -> None:
    """Reads a line of JSON: what :func:`nacre.sweeps.processes.request_of` wrote."""
    request = json.loads(_first_line())
    os.environ["NPROC"] = str(request["threads"])  # how many threads XLA makes
    if request["cores"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is heard by the process that started it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which that process may ignore, as `nohup` and others make it
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_input, daemon=True).start()

    from nacre.cli import ending

    ending(lambda: _run(request))


def has_begun(folder: Path) -> bool:
    """Whether a folder holds a run to go on with; else it is to be made, or made again."""
    from nacre.run_folder import EXPERIMENT, UNFINISHED

    return (folder / EXPERIMENT).exists() and not (folder / UNFINISHED).exists()


def _run(request: dict[str, Any]) -> None:
    from nacre.experiments import from_json
    from nacre.extensions import import_modules, load_plugins

    load_plugins()
    import_modules(request["imports"])
    folder, experiment = Path(request["folder"]), from_json(request["experiment"])
    if experiment.threads is None:
        experiment = dataclasses.replace(experiment, threads=request["threads"])

    from nacre.run_folder import read_run
    from nacre.training import resume, train

    with _boards(request["wandb"], *([folder] if has_begun(folder) else [])) as board:
        if has_begun(folder):
            has_all = read_run(folder)[0].iterations == experiment.iterations
            resume(folder, None if has_all else experiment.iterations, on_iteration=board)
        else:
            train(experiment, folder, on_iteration=board)


def _boards(group: str | None, *runs: Path) -> contextlib.AbstractContextManager[Any]:
    """Boards of Weights & Biases, if there is a group for them; `runs` are those that are there already."""
    if group is None:
        return contextlib.nullcontext()
    os.environ.setdefault("WANDB_RUN_GROUP", group)
    from nacre.weights_and_biases import boards

    return boards(*runs)


def _first_line() -> bytes:
    """Of the standard input, read without Python's streams: a thread that waits in one keeps Python from ending."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 2**16)):
        line += more
    return line


def _end_with_input() -> None:
    while os.read(0, 2**16):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
