"""Meta-testing a run: any of its checkpoints, on any tasks of its family, with the result in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from nacre.collect import Player, play_together, run_schedules
from nacre.errors import NacreError, printable, shown
from nacre.evaluation import Evaluation, MetaTest, meta_test
from nacre.experiments import family_of
from nacre.files import cannot, make_folder, release, reserve, writable, write_atomically
from nacre.loading import TrainedRun, read_trained
from nacre.protocol import Protocol
from nacre.run_folder import versions
from nacre.runtime import SimulatorPool, Stream, prepare_jax, seed_of
from nacre.tasks.family import check_tasks
from nacre.tasks.shifts import Shift, check_shift, read_shift
from nacre.video import HEIGHT, WIDTH, RecordingSimulator, write_videos
from nacre.worker_options import NO_WORKERS, WORKER_TIMEOUT, WorkerOptions
from nacre.workers import Workers, hired

EVALUATIONS = "evaluations"
TaskSet = Literal["test", "train", "own"]


def evaluate(
    run: Path | str,
    tasks: ArrayLike = "test",
    *,
    trials: int | None = None,
    episodes: int | None = None,
    deterministic: bool = True,
    checkpoint: Path | str = "latest",
    seed: int | None = None,
    video: bool = False,
    out: Path | str | None = None,
    shift: Shift | str | None = None,
    quiet: bool = False,
    workers: int = 0,
    ray_address: str | None = None,
    worker_timeout: float = WORKER_TIMEOUT,
) -> Evaluation:
    """Meta-tests a run and writes the result into its `evaluations` folder, or into a file of your choice.

    If the run is read-only and no file is named, it warns and writes nothing.

    Without further arguments the protocol is that of the run's own evaluation while training. With other episodes or
    stochastic actions it is recorded under the name "custom".

    Args:
        run: the run folder.
        tasks: "test" or "train", the run's own; or task parameters, shape (n, parameters).
        trials: per task; None: as the experiment says.
        episodes: of each trial, exploration included; None: as the experiment says.
        deterministic: off: the policy draws its actions throughout.
        checkpoint: as in :func:`nacre.load`.
        seed: of resets, z and actions, at least 0; None: the experiment's.
        video: whether to draw the first trial of each task into an MP4 file as well, in a folder beside the result.
        out: the file of the result, which ends in .json and is replaced if it is there; None: a new one in the run.
        shift: how the task changes inside an episode, as a `Shift` or as text such as "time:200"; "none": it does not;
            None: as the experiment says. It changes to other test tasks; if the run's train tasks are played, to those.
        quiet: prints nothing of how far the drawing of videos is.
        workers: as in :func:`nacre.train`; 0 if a video is drawn.
        ray_address: as in :func:`nacre.train`.
        worker_timeout: as in :func:`nacre.train`.

    Raises:
        NacreError: the run or its checkpoint cannot be read, the result cannot be written, an argument is impossible;
            the family, or this machine, cannot draw; or Ray is not installed or cannot be reached.
        WorkersLostError: there is no worker.
    """
    evaluation, _ = evaluate_run(
        read_trained(run, checkpoint),
        Path(run),
        tasks,
        trials=trials,
        episodes=episodes,
        deterministic=deterministic,
        seed=seed,
        video=video,
        out=None if out is None else Path(out),
        shift=shift,
        quiet=quiet,
        options=WorkerOptions(workers, ray_address, worker_timeout),
    )
    return evaluation


def evaluate_run(
    trained: TrainedRun,
    run: Path,
    tasks: Any,  # of which check_tasks says what is wrong with it
    *,
    trials: int | None,
    episodes: int | None,
    deterministic: bool,
    seed: int | None,
    video: bool,
    out: Path | None = None,
    shift: Shift | str | None = None,
    options: WorkerOptions = NO_WORKERS,
    show: Callable[[Evaluation], object] = lambda evaluation: None,
    quiet: bool = False,
) -> tuple[Evaluation, Path | None]:
    """Does what :func:`evaluate` says, and also returns the path of the JSON file; None: none was written.

    `show` is called with the result when all is played, before anything is written. The videos are in a
    folder of the file's name without the suffix, and the file names those that are complete.
    """
    options.check()
    if video and options.workers:
        raise NacreError(
            f"workers is {options.workers} and a video is asked for; allowed with a video: no workers, as it is drawn "
            "from this process's own simulator"
        )
    named = trained.checkpoint.stem
    if shift is not None:
        changed = with_shift(trained, read_shift(shift))
        if changed.family.shift != trained.family.shift:
            named += "-unchanging" if changed.family.shift is None else "-changing"
        trained = changed
    task_set, parameters = _choose_tasks(trained, tasks)
    protocol = _choose_protocol(trained.protocol, trials, episodes, deterministic)
    experiment = trained.experiment if seed is None else dataclasses.replace(trained.experiment, seed=seed)
    if not 0 <= experiment.seed < 2**32:
        raise NacreError(f"seed is {shown(seed)}; allowed: at least 0 and less than 2**32")
    with contextlib.ExitStack() as stack:
        name = f"{named}-{task_set}-{protocol.name}"
        path = stack.enter_context(_result_file(run / EVALUATIONS, name, out, needed=video))
        simulator = renderer = play = None
        if video:
            n_slots = len(parameters) * protocol.trials
            simulator = RecordingSimulator(trained.family, n_slots, experiment.threads)
            stack.enter_context(contextlib.closing(simulator))
            renderer = stack.enter_context(contextlib.closing(simulator.make_renderer(WIDTH, HEIGHT)))
            play = functools.partial(play_together, simulator=simulator)
        elif options.workers:
            play = stack.enter_context(_workers(trained, options)).play
        pool = trained.split.train if task_set == "train" else trained.split.test
        evaluation, played, _ = play_trials(
            trained, parameters, protocol, experiment.seed, play, keeps_all=video, pool=pool
        )
        show(evaluation)
        if path is None:
            return evaluation, None
        content = {
            "checkpoint": trained.checkpoint.stem,
            "task_set": task_set,
            "task_parameters": list(trained.family.task_parameters),
            "family": trained.family.name,
            "experiment": experiment.name,
            "seed": experiment.seed,
            "versions": versions(),
            **evaluation.to_json(),
        }
        _write_json(path, content)
        if simulator is not None and renderer is not None:
            videos = path.with_suffix("")
            if not quiet:
                print(printable(f"Written to {path}. Now drawing into {videos}{os.sep}"), flush=True)

            def written(task: int, file: Path) -> None:
                content["tasks"][task]["video"] = str(file.relative_to(path.parent))
                _write_json(path, content)

            write_videos(videos, simulator, renderer, evaluation, played, written, quiet)
    return evaluation, path


def play_trials(
    trained: TrainedRun,
    tasks: Float64[np.ndarray, "n parameters"],
    protocol: Protocol,
    seed: int,
    play: Player | None = None,
    *,
    keeps_all: bool = False,
    pool: Float64[np.ndarray, "_ parameters"] | None = None,
) -> MetaTest:
    """Lets a trained agent adapt to tasks; with the experiment's seed this is what `nacre evaluate RUN` plays.

    Args:
        seed: of resets, z and actions.
        play: plays the trials; None: a simulator is made for it, and closed.
        keeps_all: as in :func:`nacre.evaluation.meta_test`. If the family measures something, all is kept in any case.
        pool: what changes of tasks inside an episode draw from; None: the run's test tasks.
    """
    keeps_all = keeps_all or trained.family.quantity is not None
    pools = [trained.split.test if pool is None else pool] * len(tasks)
    experiment = dataclasses.replace(trained.experiment, seed=seed)
    with prepare_jax(None), contextlib.closing(SimulatorPool(trained.family, experiment.threads)) as simulators:
        source = seed_of(experiment, Stream.COMMAND_EVALUATION)
        schedule = meta_test(
            trained.agent, trained.parameters, trained.family, tasks, protocol, source, keeps_all, pools
        )
        return run_schedules([schedule], simulators.play if play is None else play)[0]


@contextlib.contextmanager
def _workers(trained: TrainedRun, options: WorkerOptions) -> Iterator[Workers]:
    with hired(trained.family, trained.experiment.threads, options) as workers:
        assert workers is not None
        workers.say = lambda text: print(printable(text), file=sys.stderr, flush=True)
        yield workers


def with_shift(trained: TrainedRun, shift: Shift | None) -> TrainedRun:
    """The run with tasks that change in this way.

    Raises:
        NacreError: its family, or its agent, cannot have that.
    """
    check_shift(trained.family, shift)
    if shift is not None and trained.agent(1).sees_task:
        raise NacreError(
            f"shift is '{shift}'; allowed for this agent: none, as it is given the task at the beginning of a trial "
            "and would not be told that it changes"
        )
    experiment = dataclasses.replace(trained.experiment, shift=shift)
    return dataclasses.replace(trained, experiment=experiment, family=family_of(experiment))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _choose_tasks(trained: TrainedRun, tasks: Any) -> tuple[TaskSet, Float64[np.ndarray, "n parameters"]]:
    if isinstance(tasks, str):
        if tasks == "test":
            return "test", trained.split.test
        if tasks == "train":
            return "train", trained.split.train
        raise NacreError(f"tasks is {shown(tasks)}; allowed: 'test', 'train' or task parameters")
    parameters = check_tasks(trained.family, tasks)
    if not len(parameters):
        raise NacreError("tasks is empty; allowed: at least one task")
    return "own", parameters


def _choose_protocol(own: Protocol, trials: int | None, episodes: int | None, deterministic: bool) -> Protocol:
    protocol = own
    if trials is not None:
        if trials < 1:
            raise NacreError(f"trials is {shown(trials)}; allowed: at least 1")
        protocol = dataclasses.replace(protocol, trials=trials)
    if episodes is not None:
        exploration = own.exploration_episodes
        if episodes <= exploration:
            reason = (
                f", as the first {exploration} of a trial explore, and only later ones show what adaptation brings"
                if own.explores
                else ""
            )
            raise NacreError(f"episodes is {shown(episodes)}; allowed: at least {exploration + 1}{reason}")
        explored = exploration if own.stochastic_steps else 0
        protocol = dataclasses.replace(protocol, steps=0, episodes=episodes - explored)
    if not deterministic:
        protocol = dataclasses.replace(protocol, deterministic=False)
    if dataclasses.replace(protocol, trials=own.trials) != own:
        protocol = dataclasses.replace(protocol, name="custom")
    return protocol


@contextlib.contextmanager
def _result_file(folder: Path, name: str, out: Path | None, needed: bool) -> Iterator[Path | None]:
    """The file of a result, `out` or a new one in the folder, found out to be writable before anything is played.

    It yields None, after a warning, if the folder is read-only, unless the file is `needed`.
    """
    if out is not None:
        if out.suffix != ".json":
            raise NacreError(f"out is {str(out)!r}; allowed: the name of a file that ends in .json")
        yield writable(out)
        return
    try:
        make_folder(folder)
        path, reserved = _reserve_free_name(folder, name)
    except NacreError as error:
        refused = isinstance(error.__cause__, OSError) and error.__cause__.errno in (
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
        )
        if not refused:
            raise
        if needed:
            raise NacreError(f"{error}; --out FILE.json writes elsewhere") from None
        warnings.warn(f"{error}; the result is only shown (--out FILE.json writes elsewhere)", stacklevel=4)
        yield None
        return
    try:
        yield path
    finally:
        release(path, reserved)


def _reserve_free_name(folder: Path, name: str) -> tuple[Path, int]:
    """`name.json`, or with a number: no result replaces another, nor its videos. And what gives it back."""
    path, number = folder / f"{name}.json", 1
    while True:
        try:
            is_free = not path.exists() and not path.with_suffix("").exists()
            reserved = reserve(path) if is_free else None
        except OSError as error:
            raise cannot("write", path, error) from error
        if reserved is not None:
            return path, reserved
        number += 1
        path = folder / f"{name}-{number}.json"
