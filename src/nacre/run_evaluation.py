"""Meta-testing a run: any of its checkpoints, on any tasks of its family, with the result in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from nacre.collect import play_together, run_schedules
from nacre.errors import NacreError
from nacre.evaluation import Evaluation, MetaTest, meta_test
from nacre.files import make_folder, write_atomically
from nacre.loading import Trained, read_trained
from nacre.protocol import Protocol
from nacre.run_folder import versions
from nacre.runtime import Stream, prepare_jax, seed_of
from nacre.tasks.family import check_tasks
from nacre.tasks.simulator import Simulator
from nacre.video import HEIGHT, WIDTH, RecordingSimulator, write_videos

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
) -> Evaluation:
    """Meta-tests a run and writes the result into its `evaluations` folder.

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

    Raises:
        NacreError: the run or its checkpoint cannot be read, the result cannot be written, an argument is impossible;
            the family, or this machine, cannot draw.
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
    )
    return evaluation


def evaluate_run(
    trained: Trained,
    run: Path,
    tasks: Any,  # of which check_tasks says what is wrong with it
    *,
    trials: int | None,
    episodes: int | None,
    deterministic: bool,
    seed: int | None,
    video: bool,
) -> tuple[Evaluation, Path]:
    """Does what :func:`evaluate` says, and also returns the path of the JSON file.

    The videos are in a folder of the same name without the suffix, and the file names those that are complete.
    """
    task_set, parameters = _choose_tasks(trained, tasks)
    protocol = _choose_protocol(trained.protocol, trials, episodes, deterministic)
    experiment = trained.experiment if seed is None else dataclasses.replace(trained.experiment, seed=seed)
    if not 0 <= experiment.seed < 2**32:
        raise NacreError(f"seed is {seed}; allowed: at least 0 and less than 2**32")
    folder = run / EVALUATIONS
    make_folder(folder)  # now, and not after minutes of simulation
    path = _free_name(folder, f"{trained.checkpoint.stem}-{task_set}-{protocol.name}")
    with contextlib.ExitStack() as stack:
        simulator = renderer = None
        if video:
            n_slots = len(parameters) * protocol.trials
            simulator = RecordingSimulator(trained.family, n_slots, experiment.threads)
            stack.enter_context(contextlib.closing(simulator))
            renderer = stack.enter_context(contextlib.closing(simulator.make_renderer(WIDTH, HEIGHT)))
        evaluation, played, _ = play_trials(trained, parameters, protocol, experiment.seed, simulator)
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
            print(f"Written to {path}. Now drawing into {videos}{os.sep}", flush=True)

            def written(task: int, file: Path) -> None:
                content["tasks"][task]["video"] = str(file.relative_to(folder))
                _write_json(path, content)

            write_videos(videos, simulator, renderer, evaluation, played, written)
    return evaluation, path


def play_trials(
    trained: Trained,
    tasks: Float64[np.ndarray, "n parameters"],
    protocol: Protocol,
    seed: int,
    simulator: Simulator | None = None,
) -> MetaTest:
    """Lets a trained agent adapt to tasks; with the experiment's seed this is what `nacre evaluate RUN` plays.

    Args:
        seed: of resets, z and actions.
        simulator: with a slot for each trial; None: one is made and closed.
    """
    experiment = dataclasses.replace(trained.experiment, seed=seed)
    if simulator is None:
        made = Simulator(trained.family, len(tasks) * protocol.trials, experiment.threads)
        closing = contextlib.closing(made)
    else:
        closing = contextlib.nullcontext(simulator)
    with prepare_jax(None), closing as chosen:
        source = seed_of(experiment, Stream.COMMAND_EVALUATION)
        schedule = meta_test(trained.agent, trained.parameters, trained.family, tasks, protocol, source)
        return run_schedules([schedule], lambda plays: play_together(plays, chosen))[0]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _choose_tasks(trained: Trained, tasks: Any) -> tuple[TaskSet, Float64[np.ndarray, "n parameters"]]:
    if isinstance(tasks, str):
        if tasks == "test":
            return "test", trained.split.test
        if tasks == "train":
            return "train", trained.split.train
        raise NacreError(f"tasks is {tasks!r}; allowed: 'test', 'train' or task parameters")
    parameters = check_tasks(trained.family, tasks)
    if not len(parameters):
        raise NacreError("tasks is empty; allowed: at least one task")
    return "own", parameters


def _choose_protocol(own: Protocol, trials: int | None, episodes: int | None, deterministic: bool) -> Protocol:
    protocol = own
    if trials is not None:
        if trials < 1:
            raise NacreError(f"trials is {trials}; allowed: at least 1")
        protocol = dataclasses.replace(protocol, trials=trials)
    if episodes is not None:
        exploration = own.exploration_episodes
        if episodes <= exploration:
            reason = (
                f", as the first {exploration} of a trial explore, and only later ones show what adaptation brings"
                if own.explores
                else ""
            )
            raise NacreError(f"episodes is {episodes}; allowed: at least {exploration + 1}{reason}")
        explored = exploration if own.stochastic_steps else 0
        protocol = dataclasses.replace(protocol, steps=0, episodes=episodes - explored)
    if not deterministic:
        protocol = dataclasses.replace(protocol, deterministic=False)
    if dataclasses.replace(protocol, trials=own.trials) != own:
        protocol = dataclasses.replace(protocol, name="custom")
    return protocol


def _free_name(folder: Path, name: str) -> Path:
    """`name.json`, or with a number: no result replaces another, nor its videos."""
    path, number = folder / f"{name}.json", 1
    while path.exists() or path.with_suffix("").exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    return path
