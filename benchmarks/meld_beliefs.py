"""What runs of MELD know of their task while they play, and what they do with it.

    python benchmarks/meld_beliefs.py RUN [RUN ...] [--tasks 100] [--seed 0] [--out FILE.json]

Each run plays a trial in each of N new tasks, with the policy's mode. A linear map from the features of a frame
(means and standard deviations of z1 and z2) to a parameter of the task is fitted to every other task. How well it does
in the others is printed for each fifth of a trial as R²: 1 is all that there is to know, 0 is what the mean knows, and
less is worse than that. Beside it: what the family measures over the second half of the last episode, against what it
should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from nacre import NacreError
from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.losses import filter_trials
from nacre.agents.meld.report import frames_of
from nacre.collect import play_together
from nacre.evaluation import result_of
from nacre.files import write_atomically
from nacre.interfaces import Play
from nacre.loading import TrainedRun, read_trained
from nacre.tasks.quantities import measure
from nacre.tasks.simulator import Simulator
from nacre.types import Episode

PARTS = 5
"""Of a trial, and of the tasks by what they ask for."""
AT_ONCE = 10
"""Trials that are filtered in one call."""
RIDGE = 1e-3
"""Weight of the squared map, against the mean squared error."""


def measure_run(trained: TrainedRun, tasks: int, seed: int) -> dict[str, Any]:
    """The figures of one run.

    Raises:
        NacreError: it is no run of MELD.
    """
    experiment, family = trained.experiment, trained.family
    config = experiment.algorithm
    if not isinstance(config, MeldConfig):
        raise NacreError(f"{trained.checkpoint.parent.parent} is a run of {experiment.name}; allowed: runs of MELD")
    drawn = family.sample_tasks(np.random.default_rng(seed), tasks)
    play = Play(
        trained.agent(0),
        trained.parameters,
        drawn,
        np.random.SeedSequence(seed),
        deterministic=True,
        episodes=config.episodes,
        keeps_reward_states=True,
    )
    with contextlib.closing(Simulator(family, len(drawn), experiment.threads)) as simulator:
        trials = play_together([play], simulator)[0].trials
    returns = [result_of(trial, False, family, task).returns for trial, task in zip(trials, drawn, strict=True)]
    features, mask = features_of(trained, config, trials)
    return {
        "experiment": experiment.name,
        "checkpoint": trained.checkpoint.stem,
        "tasks": len(drawn),
        "returns": np.mean(returns, axis=0).tolist(),
        "known": {name: known(features, drawn[:, column], mask) for column, name in enumerate(family.task_parameters)},
        "measured": None if family.quantity is None else followed(trained, trials, drawn),
    }


def features_of(
    trained: TrainedRun, config: MeldConfig, trials: Sequence[Sequence[Episode]]
) -> tuple[Float[np.ndarray, "n T features"], np.ndarray]:
    """The features of all frames, and which frames there are."""
    frames = frames_of(trials, config.episode_steps)
    call = jax.jit(filter_trials, static_argnums=1)
    parts = [
        np.asarray(
            call(
                trained.parameters.model,
                config,
                jax.tree.map(lambda leaf, at=at: leaf[at : at + AT_ONCE], frames),
                jax.random.key(at),
            ).features
        )
        for at in range(0, len(trials), AT_ONCE)
    ]
    return np.concatenate(parts), np.asarray(frames.mask)


def known(
    features: Float[np.ndarray, "n T features"], parameter: Float[np.ndarray, " n"], mask: np.ndarray
) -> list[float]:
    """R² of a parameter of the task in each part of a trial, by a map of that part alone."""
    values = np.broadcast_to(parameter[:, None], mask.shape)

    def r2(part: np.ndarray) -> float:
        halves = slice(0, None, 2), slice(1, None, 2)
        frames = [mask[half][:, part] for half in halves]
        return explained(
            *(
                array[half][:, part][there]
                for half, there in zip(halves, frames, strict=True)
                for array in (features, values)
            )
        )

    return [r2(part) for part in np.array_split(np.arange(mask.shape[1]), PARTS)]


def explained(
    inputs: Float[np.ndarray, "n features"],
    outputs: Float[np.ndarray, " n"],
    new_inputs: Float[np.ndarray, "m features"],
    new_outputs: Float[np.ndarray, " m"],
) -> float:
    """R² on new data of a linear map, by ridge regression on standardised inputs."""
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    scaled, centre = (inputs - mean) / deviation, outputs.mean()
    square = scaled.T @ scaled / len(scaled) + RIDGE * np.eye(scaled.shape[1])
    weights = np.linalg.solve(square, scaled.T @ (outputs - centre) / len(scaled))
    errors = (new_inputs - mean) / deviation @ weights + centre - new_outputs
    return float(1 - (errors**2).mean() / new_outputs.var())


def followed(
    trained: TrainedRun, trials: Sequence[Sequence[Episode]], tasks: Float[np.ndarray, "n parameters"]
) -> dict[str, Any]:
    """What is measured over the second half of the last episode, against what it should be."""
    family = trained.family
    found, wanted = [], []
    for trial, task in zip(trials, tasks, strict=True):
        course = measure(family, trial[-1], task)
        half = len(course.measured) // 2
        found.append(course.measured[half:].mean())
        wanted.append(course.target[half:].mean())
    measured, target = np.array(found), np.array(wanted)
    if np.ptp(target) == 0 or np.isnan(target).any():  # such as a distance, which should be 0 in every task
        return {"quantity": family.quantity, "mean": float(measured.mean())}
    groups = np.array_split(np.argsort(target), PARTS)
    return {
        "quantity": family.quantity,
        "correlation": float(np.corrcoef(measured, target)[0, 1]),
        "targets": [float(target[group].mean()) for group in groups],
        "means": [float(measured[group].mean()) for group in groups],
    }


def show(run: str, result: dict[str, Any], console: Console) -> None:
    """Prints the figures of a run."""
    returns = ", ".join(f"{value:.1f}" for value in result["returns"])
    console.print(
        f"{run}: {result['experiment']}, {result['checkpoint']}, {result['tasks']} new tasks; mean returns of the "
        f"episodes of a trial: {returns}",
        soft_wrap=True,
        highlight=False,
    )
    table = Table("R² of", *(f"{part}/{PARTS}" for part in range(1, PARTS + 1)))
    for name, values in result["known"].items():
        table.add_row(name, *(f"{value:.2f}" for value in values))
    console.print(table)
    measured = result["measured"]
    if measured is None:
        return
    if "mean" in measured:
        console.print(f"{measured['quantity']} at the end: {measured['mean']:.3g}", highlight=False)
        return
    table = Table(f"{measured['quantity']}, at the end", *(f"{part}/{PARTS}" for part in range(1, PARTS + 1)))
    for name in ("targets", "means"):
        table.add_row({"targets": "asked for", "means": "played"}[name], *(f"{value:.2f}" for value in measured[name]))
    console.print(table, f"correlation {measured['correlation']:.2f}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--tasks", type=int, default=100, help="how many new tasks, at least 10 (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks and of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="a file for the figures")
    options = parser.parse_args(arguments)
    if options.tasks < 2 * PARTS or options.seed < 0:
        parser.error(f"tasks is {options.tasks} and seed {options.seed}; allowed: at least {2 * PARTS}, and at least 0")
    console, results = Console(), []
    try:
        for run in options.runs:
            results.append(measure_run(read_trained(run), options.tasks, options.seed))
            show(str(run), results[-1], console)
        if options.out is not None:
            write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())
    except NacreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
