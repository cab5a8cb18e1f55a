"""The run folder: where it is, its experiment.json and variant.json, and reading them back."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import NacreError
from nacre.experiments.experiment import Experiment, from_json, to_json
from nacre.files import cannot, make_folder, write_atomically
from nacre.tasks import make_family
from nacre.tasks.family import TaskSplit

FORMAT = 2
"""2: random numbers by trial and time. 1: an earlier version, whose runs are read all the same."""
EXPERIMENT = "experiment.json"
CHECKPOINTS = "checkpoints"
REPLAY = "replay"


def default_run_folder(experiment: Experiment) -> Path:
    """`runs/<algorithm>/<task>/<seed and time>`, in the current folder."""
    return Path("runs", experiment.name, f"seed-{experiment.seed}-{datetime.now():%Y-%m-%d-%H-%M-%S}")


def default_seeds_folder(experiments: Sequence[Experiment]) -> Path:
    """`runs/<algorithm>/<task>/seeds-<first>-to-<last>-<time>`, in the current folder."""
    first, last = experiments[0], experiments[-1]
    return Path("runs", first.name, f"seeds-{first.seed}-to-{last.seed}-{datetime.now():%Y-%m-%d-%H-%M-%S}")


def create_run_folder(out: Path | None, experiment: Experiment, split: TaskSplit) -> Path:
    """Makes the folder of a new run and writes experiment.json and variant.json.

    Args:
        out: the folder; None: see :func:`default_run_folder`.
        experiment: the resolved configuration.
        split: the tasks of the run.

    Raises:
        NacreError: the folder exists and is not empty, or cannot be written.
    """
    run = default_run_folder(experiment) if out is None else out
    _make_empty_folder(run)
    content = {
        "format": FORMAT,
        "experiment": to_json(experiment),
        "tasks": {
            "parameters": list(make_family(experiment.family).task_parameters),
            "train": split.train.tolist(),
            "test": split.test.tolist(),
        },
        "versions": versions(),
    }
    write_variant(run, experiment)
    write_atomically(run / EXPERIMENT, _json(content))
    return run


def create_seeds_folder(
    out: Path | None, experiments: Sequence[Experiment], splits: Sequence[TaskSplit]
) -> tuple[Path, list[Path]]:
    """Makes a folder for the runs of several seeds, and in it `seed-<seed>`, a run folder for each.

    Returns:
        the folder and the run folders, in the order of the experiments.

    Raises:
        NacreError: as :func:`create_run_folder`.
    """
    parent = default_seeds_folder(experiments) if out is None else out
    _make_empty_folder(parent)
    runs = [parent / f"seed-{experiment.seed}" for experiment in experiments]
    for run in runs:  # all of them before the first is a run: a kill in between leaves no smaller number of seeds
        make_folder(run)
    for run, experiment, split in zip(runs, experiments, splits, strict=True):
        create_run_folder(run, experiment, split)
    return parent, runs


def find_seeds(folder: Path) -> list[Path]:
    """The `seed-<seed>` folders in a folder, by seed; none where it is a run itself."""
    if (folder / EXPERIMENT).exists() or not folder.is_dir():
        return []
    try:
        matches = [(re.fullmatch(r"seed-(\d+)", path.name), path) for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise cannot("read", folder, error) from error
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def runs_in(folders: Iterable[Path]) -> list[Path]:
    """Run folders: each folder itself, or the runs of several seeds that it holds."""
    return [run for folder in folders for run in find_seeds(folder) or [folder]]


def read_run(run: Path) -> tuple[Experiment, TaskSplit]:
    """The experiment and the tasks of a run.

    Raises:
        NacreError: the folder is missing or not a run's, or its experiment.json is damaged or of a newer format; the
            message says where.
    """
    path, content = run / EXPERIMENT, _read(run)
    try:
        experiment = from_json(content.get("experiment"))
    except NacreError as error:
        raise NacreError(f"{path} is damaged: {error}") from None
    train = _tasks(path, content, "train", experiment.train_tasks)
    return experiment, TaskSplit(train, _tasks(path, content, "test", experiment.test_tasks))


def extend_run(run: Path, iterations: int, begun: int = 0) -> Experiment:
    """Gives a run another total number of iterations, in experiment.json and variant.json.

    Returns:
        its experiment with that number.

    Raises:
        NacreError: the number is less than 1 or than the number of iterations that have `begun`, or what
            :func:`read_run` raises.
    """
    if iterations < max(1, begun):
        reason = f", which have begun in {run}" if begun else ""
        raise NacreError(f"iterations is {iterations}; allowed: at least {max(1, begun)}{reason}")
    experiment = replace(read_run(run)[0], iterations=iterations)
    write_variant(run, experiment)
    write_atomically(run / EXPERIMENT, _json(_read(run) | {"experiment": to_json(experiment)}))
    return experiment


@contextlib.contextmanager
def sole_user(run: Path) -> Iterator[None]:
    """Keeps other processes from training the same run at the same time. A killed process keeps nobody out.

    Raises:
        NacreError: another process trains it.
    """
    descriptor = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NacreError(f"{run} is being trained by another process") from None
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        os.close(descriptor)


def begun_by_earlier_version(run: Path) -> bool:
    """Whether the random numbers of a run were those of an earlier version of nacre."""
    return _read(run)["format"] < FORMAT


def write_variant(folder: Path, experiment: Experiment) -> None:
    """variant.json: the configuration with sorted keys, as viskit reads it.

    Raises:
        NacreError: it cannot be written.
    """
    write_atomically(folder / "variant.json", _json(to_json(experiment), sort_keys=True))


def versions() -> dict[str, str | None]:
    """What a run ran on. Never fails: what cannot be found out is None."""
    packages = ("nacre", "jax", "jaxlib", "equinox", "optax", "mujoco", "gymnasium", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "device": _device(),
        **{package: _package_version(package) for package in packages},
        "git_commit": _git_commit(),
    }


def _make_empty_folder(run: Path) -> None:
    """Raises NacreError if the folder exists and is not empty, or cannot be made."""
    make_folder(run)
    try:
        occupied = next(run.iterdir(), None)
    except OSError as error:
        raise cannot("read", run, error) from error
    if (run / EXPERIMENT).exists():
        raise NacreError(f"{run} holds a run already: choose another folder, or continue it with: nacre resume {run}")
    if find_seeds(run):
        raise NacreError(f"{run} holds runs already: choose another folder, or continue them with: nacre resume {run}")
    if occupied:
        raise NacreError(f"{run} is not empty: choose another folder")


def _json(content: Any, sort_keys: bool = False) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n").encode()


def _read(run: Path) -> dict[str, Any]:
    """experiment.json as JSON values, of a format that is known."""
    path = run / EXPERIMENT
    if not run.exists():
        raise NacreError(f"{run} does not exist")
    if not path.exists():
        seeds = find_seeds(run)
        hint = f"; it holds the runs of seeds: name one, such as {seeds[0]}" if seeds else ""
        raise NacreError(f"{run} is not a run folder: it has no {EXPERIMENT}{hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot("read", path, error) from error
    except ValueError as error:  # not UTF-8, or not JSON: both say where
        raise NacreError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise NacreError(f"{path} is not an experiment of nacre: it names no format")
    if content["format"] > FORMAT:
        raise NacreError(f"{path} has format {content['format']}; this version of nacre reads up to {FORMAT}")
    return content


def _tasks(path: Path, content: dict[str, Any], split: str, n: int) -> np.ndarray:
    """`content["tasks"][split]` as a float64 array (n, parameters)."""
    try:
        tasks = np.array(content["tasks"][split], dtype=np.float64)
        expected = (n, len(content["tasks"]["parameters"]))
    except (KeyError, TypeError, ValueError):
        raise NacreError(f"{path} is damaged: tasks.{split} is missing or holds something else than numbers") from None
    if tasks.shape != expected or not np.isfinite(tasks).all():
        raise NacreError(
            f"{path} is damaged: tasks.{split} has shape {tasks.shape}, not {expected}, or a value that is not finite"
        )
    return tasks


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _device() -> str:
    """What JAX computes on: "cpu", or the name of the GPU."""
    import jax  # not at the top: who only reads a run folder does not wait for it

    return (jax.config.jax_default_device or jax.devices()[0]).device_kind  # pyright: ignore[reportAttributeAccessIssue]


def _package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that this file is in, with `-dirty` if it was changed since."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # an installed package may lie in somebody else's checkout
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
