"""What this machine has for a sweep, and what each run needs of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nacre.errors import NacreError
from nacre.experiments import Experiment, to_json
from nacre.extensions import imported_modules
from nacre.files import memory_of_machine

PYTHON_AND_XLA = 0.85e9
"""Bytes of a process that trains, beside what an estimate counts: Python, JAX, MuJoCo, compilation. Measured on a CPU:
at most 0.81 GB for a point robot and 0.84 GB for a half-cheetah, all included."""
_SHARE = 0.9
"""Of the machine's memory, for runs."""


class Resources(NamedTuple):
    """What runs may take at once."""

    cores: tuple[int, ...]
    """Numbers of logical processors."""
    memory: float
    """Bytes."""
    gpus: tuple[str, ...] = ()
    """As CUDA names them."""


def of_machine() -> Resources:
    """What this process may use of the machine, or of the container."""
    memory = memory_of_machine()
    return Resources(_cores(), memory * _SHARE if math.isfinite(memory) else memory, _gpus())


def estimates(experiments: Mapping[str, Experiment]) -> dict[str, float | str]:
    """The bytes that each experiment needs, or the sentence that says why it cannot be trained here.

    Another process computes them, as one that trains nothing should take no memory of a GPU. It imports the modules
    that runs will import: what it does not know, they would not know either.

    Raises:
        NacreError: that process failed.
    """
    request = {
        "imports": imported_modules(),
        "experiments": {name: to_json(experiment) for name, experiment in experiments.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", "nacre.sweeps.resources"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NacreError(
            f"the process that estimates the memory of runs ended with {done.returncode}: {last}"
        ) from None
    if "error" in answer:
        raise NacreError(answer["error"])
    return answer["bytes"]


def most_at_once(available: Resources, cores: int, needed: Sequence[float], uses_gpu: bool) -> int:
    """How many runs fit at once: by cores, by the memory that the largest of them need, and one for each GPU."""
    by_cores = max(1, len(available.cores) // cores)
    largest = sorted(needed, reverse=True)
    by_memory = 1
    while by_memory < len(largest) and sum(largest[: by_memory + 1]) <= available.memory:
        by_memory += 1
    return min(by_cores, by_memory, *([len(available.gpus)] if uses_gpu and available.gpus else []))


def _cores() -> tuple[int, ...]:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    try:  # the quota of a container
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        most = max(1, int(quota) // int(period))
    except (OSError, ValueError):
        most = len(cores)
    return tuple(cores[:most])


def _gpus() -> tuple[str, ...]:
    """NVIDIA's GPUs, found without JAX, which would take their memory."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name and name != "-1")
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        done = subprocess.run([command, "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU "))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`estimates` asks of the other process."""
    from nacre.estimate import check_memory
    from nacre.experiments import from_json
    from nacre.extensions import import_modules, load_plugins

    load_plugins()
    import_modules(request["imports"])
    machine = memory_of_machine()
    found: dict[str, float | str] = {}
    for name, values in request["experiments"].items():
        found[name] = _bytes(lambda values=values: check_memory(from_json(values), available=machine).total)
    return {"bytes": found}


def _bytes(needed: Callable[[], float]) -> float | str:
    try:
        return needed() + PYTHON_AND_XLA
    except NacreError as error:
        return str(error)


def _main() -> None:
    try:
        answer = _answer(json.load(sys.stdin))
    except NacreError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
