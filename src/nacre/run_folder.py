"""The run folder: where it is, its experiment.json and variant.json, and reading them back."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import NacreError, shown
from nacre.experiments.experiment import Experiment, family_of, from_json, to_json
from nacre.experiments.limits import check_fields, validate
from nacre.extensions import check_known, command, imported_modules
from nacre.files import (
    cannot,
    check_is_file,
    make_folder,
    parse_json,
    read_text,
    remove,
    sync_folder,
    temporary_name,
    write_atomically,
)
from nacre.identity import checksum, new_name, stamp_of
from nacre.locks import SIGNATURE, lock
from nacre.tasks import is_family
from nacre.tasks.family import TaskFamily, TaskSplit, check_tasks
from nacre.tasks.recorded import RecordedFamily, to_record

FORMAT = 2
"""2: random numbers by trial and time. 1: an earlier version, whose runs are read all the same."""
EXPERIMENT = "experiment.json"
CHECKPOINTS = "checkpoints"
REPLAY = "replay"
VARIANT = "variant.json"
UNFINISHED = ".nacre-unfinished"
"""The file that marks a folder until everything that makes it a run, or the runs of several seeds, is in it."""


def default_run_folder(experiment: Experiment) -> Path:
    """`runs/<algorithm>/<task>/<seed and time>`, in the current folder."""
    return Path("runs", experiment.name, f"seed-{experiment.seed}-{datetime.now():%Y-%m-%d-%H-%M-%S}")


def default_seeds_folder(experiments: Sequence[Experiment]) -> Path:
    """`runs/<algorithm>/<task>/seeds-<first>-to-<last>-<time>`, in the current folder."""
    first, last = experiments[0], experiments[-1]
    return Path("runs", first.name, f"seeds-{first.seed}-to-{last.seed}-{datetime.now():%Y-%m-%d-%H-%M-%S}")


@contextlib.contextmanager
def new_run(
    out: Path | None, experiment: Experiment, split: TaskSplit, fill: Callable[[Path], object] = lambda run: None
) -> Iterator[Path]:
    """Makes the folder of a new run, and keeps it locked.

    A kill before all is there leaves a folder that the next `new_run` may take.

    Args:
        out: the folder; None: see :func:`default_run_folder`. If that is taken, a number is added.
        experiment: the resolved configuration.
        split: the tasks of the run.
        fill: writes more into the folder, before it counts as a run.

    Raises:
        NacreError: the folder exists and is not empty, another process has it, or it cannot be written.
    """
    with _own_folder(out, default_run_folder(experiment)) as run:
        with _unfinished(run):
            _write_run(run, experiment, split)
            fill(run)
        yield run


@contextlib.contextmanager
def new_seeds(
    out: Path | None, experiments: Sequence[Experiment], splits: Sequence[TaskSplit]
) -> Iterator[tuple[Path, list[Path]]]:
    """Makes a folder for the runs of several seeds, and in it `seed-<seed>`, a run folder for each; all locked.

    It yields the folder and the run folders, in the order of the experiments.

    Raises:
        NacreError: as :func:`new_run`.
    """
    with _own_folder(out, default_seeds_folder(experiments)) as parent, contextlib.ExitStack() as locks:
        runs = [parent / f"seed-{experiment.seed}" for experiment in experiments]
        with _unfinished(parent):
            for run, experiment, split in zip(runs, experiments, splits, strict=True):
                make_folder(run)
                locks.enter_context(lock(run)).sign(is_new=True)
                _write_run(run, experiment, split)
        yield parent, runs


@contextlib.contextmanager
def locked_runs(folder: Path) -> Iterator[list[Path]]:
    """Keeps other processes from training a run, or the runs of several seeds in a folder, at the same time.

    It yields the run folders. A killed process keeps nobody out. Nothing of the runs is read, and only who has them
    locked is written.

    Raises:
        NacreError: another process trains one of them, or the folder holds no run, or not all yet.
    """
    with contextlib.ExitStack() as locks:
        seeds = find_seeds(folder)
        runs = seeds or [folder]
        for run in runs:
            _check_is_run(run)
        if seeds:
            locks.enter_context(lock(folder)).sign()
        for run in runs:
            held = locks.enter_context(lock(run))
            _check_is_run(run)
            held.sign()
        yield runs


def create_run_folder(out: Path | None, experiment: Experiment, split: TaskSplit) -> Path:
    """Makes the folder of a run that nobody trains yet; see :func:`new_run`."""
    with new_run(out, experiment, split) as run:
        return run


def find_seeds(folder: Path) -> list[Path]:
    """The `seed-<seed>` folders in a folder, by seed; none if it is a run itself."""
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
    check_known(path, content)
    try:
        experiment = from_json(content.get("experiment"))
        family = family_of(experiment)
        validate(experiment, family)
        train = _tasks(content, "train", family, experiment.train_tasks)
        test = _tasks(content, "test", family, experiment.test_tasks)
    except NacreError as error:
        raise NacreError(f"{path} is damaged: {error}") from None
    if content.get("run") is not None and content.get("checksum", "") is not None:
        _check_checksum(path, content)
    return experiment, TaskSplit(train, test)


def read_to_act(run: Path) -> tuple[Experiment, TaskSplit, TaskFamily]:
    """The experiment, the tasks and the task family of a run. A family that is not known here is what the run folder
    tells of it, which is enough to act.

    Raises:
        NacreError: as :func:`read_run`.
    """
    path, content = run / EXPERIMENT, _read(run)
    values = content.get("experiment")
    name = values.get("family") if isinstance(values, dict) else None
    if not isinstance(name, str) or is_family(name) or "sizes" not in content:
        experiment, split = read_run(run)
        return experiment, split, family_of(experiment)
    check_known(path, content, is_family_needed=False)
    try:
        experiment, family = from_json(values), RecordedFamily(name, content["sizes"])
        check_fields(experiment)
        train = _tasks(content, "train", family, experiment.train_tasks)
        test = _tasks(content, "test", family, experiment.test_tasks)
    except NacreError as error:
        raise NacreError(f"{path} is damaged: {error}") from None
    _check_checksum(path, content)
    return experiment, TaskSplit(train, test), family


def read_stamp(run: Path, experiment: Experiment, split: TaskSplit) -> str | None:
    """What the files of a run carry, even while it is being made; None: an earlier version made it, and they carry
    nothing.

    Raises:
        NacreError: as :func:`read_run`.
    """
    name = _read(run, may_be_unfinished=True).get("run")
    return None if name is None else stamp_of(name, experiment, split)


def read_name(run: Path) -> str | None:
    """The name of a run, which no other has; None: an earlier version made it, and it has none.

    Raises:
        NacreError: as :func:`read_run`.
    """
    return _read(run).get("run")


def read_versions(run: Path) -> dict[str, str | None]:
    """What a run ran on, as far as its folder says it.

    Raises:
        NacreError: as :func:`read_run`.
    """
    found = _read(run).get("versions")
    found = found if isinstance(found, dict) else {}
    return {name: value for name, value in found.items() if value is None or isinstance(value, str)}


def rewrite_experiment(run: Path, experiment: Experiment) -> None:
    """Replaces a run's experiment, in experiment.json and variant.json; what else is in them stays.

    Raises:
        NacreError: they cannot be written, or what :func:`read_run` raises.
    """
    content = _read(run) | {"experiment": to_json(experiment)}
    write_variant(run, experiment)
    write_atomically(run / EXPERIMENT, _json(_with_checksum(content)))


def make_subfolders(run: Path) -> None:
    """Makes the folders of checkpoints and of the journal. Nobody else makes them: if they are gone, the run is.

    Raises:
        NacreError: that is not possible.
    """
    for name in (CHECKPOINTS, REPLAY):
        make_folder(run / name)


def begun_by_earlier_version(run: Path) -> bool:
    """Whether the random numbers of a run were those of an earlier version of nacre."""
    return _read(run)["format"] < FORMAT


def write_variant(folder: Path, experiment: Experiment) -> None:
    """variant.json: the configuration with sorted keys, as viskit reads it.

    Raises:
        NacreError: it cannot be written.
    """
    write_atomically(folder / VARIANT, _json(to_json(experiment), sort_keys=True))


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


def _write_run(run: Path, experiment: Experiment, split: TaskSplit) -> None:
    """What a run folder holds before anything is trained."""
    family = family_of(experiment)
    content = {
        "format": FORMAT,
        "experiment": to_json(experiment),
        "sizes": to_record(family),
        "tasks": {
            "parameters": list(family.task_parameters),
            "train": split.train.tolist(),
            "test": split.test.tolist(),
        },
        "imports": imported_modules(),
        "versions": versions(),
        "run": new_name(),
    }
    make_subfolders(run)
    write_variant(run, experiment)
    write_atomically(run / EXPERIMENT, _json(_with_checksum(content)))


@contextlib.contextmanager
def _own_folder(out: Path | None, default: Path) -> Iterator[Path]:
    """An empty folder that only this process has, locked: `out`, or the default, with a number if that is taken.

    A folder that was made here and is still empty at the end, after an error, is removed.
    """
    folder, is_made = _make_first_free(default) if out is None else (out, _make(out))
    with lock(folder) as held:
        try:
            _check_is_free(folder)
            held.sign(is_new=True)
            yield folder
        finally:
            if is_made:
                held.unsign()
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _make_first_free(folder: Path) -> tuple[Path, bool]:
    number, free = 1, folder
    while not _make(free):
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free, True


def _make(folder: Path) -> bool:
    """Makes a folder, and its parents; returns whether it was not there before."""
    try:
        try:
            folder.mkdir()
        except FileNotFoundError:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            return False
        raise cannot("make the folder", folder, error) from error
    return True


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Marks a folder as unfinished, and removes what is in it if an error keeps it from being finished."""
    try:
        write_atomically(folder / UNFINISHED, b"")
        yield
        remove([folder / UNFINISHED])
        sync_folder(folder)
    except Exception:
        with contextlib.suppress(NacreError):
            _remove_unfinished(folder)
        raise


_MADE = {SIGNATURE, UNFINISHED, EXPERIMENT, VARIANT, CHECKPOINTS, REPLAY, f"{CHECKPOINTS}/iteration_000000.npz"}
"""What may be in an unfinished folder, or in the folder of a seed in it."""


def _remove_unfinished(folder: Path) -> None:
    """Empties an unfinished folder, if nothing is in it but what nacre puts there before the folder is finished."""
    made = {*_MADE, *(str(temporary_name(Path(name))) for name in _MADE)}
    found = sorted(folder.rglob("*"))
    for path in found:
        name = re.sub(r"seed-\d+(/|$)", "", path.relative_to(folder).as_posix(), count=1)
        if name and name not in made:
            raise NacreError(f"{folder} is not empty, and nacre did not write its {path.relative_to(folder)}")
    mark = folder / UNFINISHED  # it goes last, so that a kill leaves the folder unfinished
    remove([path for path in found if not path.is_dir() and path != mark])
    for path in reversed(found):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
    remove([mark])


def _check_is_free(run: Path) -> None:
    """Raises NacreError if the folder is not empty; what is left of an unfinished run is removed before."""
    if (run / UNFINISHED).exists():
        _remove_unfinished(run)
    if (run / EXPERIMENT).exists():
        way_on = command("resume", run)
        raise NacreError(f"{run} holds a run already: choose another folder, or continue it with: {way_on}")
    if find_seeds(run):
        way_on = command("resume", run)
        raise NacreError(f"{run} holds runs already: choose another folder, or continue them with: {way_on}")
    try:
        occupied = {path.name for path in run.iterdir()} - {SIGNATURE, temporary_name(Path(UNFINISHED)).name}
    except OSError as error:
        raise cannot("read", run, error) from error
    if occupied:
        raise NacreError(f"{run} is not empty: choose another folder")


def _check_is_run(run: Path) -> None:
    if not run.exists():
        raise NacreError(f"{run} does not exist")
    for folder in (run, run.parent):
        if (folder / UNFINISHED).exists():
            raise NacreError(
                f"{folder} is unfinished: it is still being made, or its making was cut short before anything was "
                f"trained; in the second case make it again, with --out {folder}"
            )
    if not (run / EXPERIMENT).exists():
        seeds = find_seeds(run)
        hint = f"; it holds the runs of seeds: name one, such as {seeds[0]}" if seeds else ""
        raise NacreError(f"{run} is not a run folder: it has no {EXPERIMENT}{hint}")


def _json(content: Any, sort_keys: bool = False) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n").encode()


def _with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its checksum at its end; that of a run of an earlier version has none."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    return content if content.get("run") is None else content | {"checksum": checksum(content)}


def _check_checksum(path: Path, content: dict[str, Any]) -> None:
    """Raises NacreError if a number or a letter of experiment.json is not what was written."""
    if _with_checksum(content)["checksum"] != content.get("checksum"):
        raise NacreError(
            f"{path} is damaged, or was edited: its checksum is not that of its content; write null in place of the "
            "checksum if the content is right"
        )


def _read(run: Path, may_be_unfinished: bool = False) -> dict[str, Any]:
    """experiment.json as JSON values, of a format that is known."""
    path = run / EXPERIMENT
    if not may_be_unfinished:
        _check_is_run(run)
    if path.exists():
        check_is_file(path)
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise NacreError(f"{path} is damaged: it {error}") from None
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise NacreError(f"{path} is not an experiment of nacre: it names no format")
    if not 1 <= content["format"] <= FORMAT:
        raise NacreError(f"{path} has format {shown(content['format'])}; this version of nacre reads up to {FORMAT}")
    if not isinstance(content.get("run"), str | None):
        raise NacreError(f"{path} is damaged: run is {shown(content['run'])}; allowed: text")
    return content


def _tasks(content: dict[str, Any], split: str, family: TaskFamily, n: int) -> np.ndarray:
    """`content["tasks"][split]` as a float64 array (n, parameters)."""
    try:
        tasks, parameters = content["tasks"][split], content["tasks"]["parameters"]
        are_numbers = all(type(value) in (int, float) for task in tasks for value in task)
    except (KeyError, TypeError):
        are_numbers, tasks, parameters = False, [], None
    if not are_numbers:
        raise NacreError(f"tasks.{split} is missing or holds something else than numbers")
    if parameters != list(family.task_parameters):
        raise NacreError(
            f"tasks.parameters is {shown(parameters)}; allowed for {family.name}: {shown(list(family.task_parameters))}"
        )
    if len(tasks) != n:
        raise NacreError(f"tasks.{split} has {len(tasks)} tasks; allowed: {n}, as experiment.{split}_tasks says")
    return check_tasks(family, tasks)


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _device() -> str:
    """What JAX computes on: "cpu", or the name of the GPU."""
    from nacre.device import current_device  # not at the top: who only reads a run folder does not wait for JAX

    return current_device().device_kind


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
