"""The learning curves of several seeds of one experiment, and the file that keeps them: curve.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.files import write_atomically
from nacre.logs import CSV, read_progress_csv
from nacre.protocol import TEST_RETURN, TEST_SUCCESS
from nacre.run_folder import read_run

EPOCH = "Epoch"
STEPS = "Number of env steps total"
UPDATES = "Number of train steps total"
SECONDS = "Total Train Time (s)"
FIRST_EPISODE = "AverageReturn_test_episode_1"
LAST_EPISODE = TEST_RETURN
FIRST_SUCCESS = "AverageSuccess_test_episode_1"
LAST_SUCCESS = TEST_SUCCESS
"""Only in task families that say what a success is."""

FIRST_SCORE = "AverageScore_test_episode_1"
"""Only of algorithms that report scores."""

Curves = Mapping[int, Mapping[str, np.ndarray]]
"""By seed, columns of a run's progress.csv: float64 arrays with one value per iteration."""


def episode_columns(columns: Mapping[str, np.ndarray], first: str = FIRST_EPISODE) -> list[str]:
    """The columns with the test return of episode 1, 2, ... of a trial, in that order; `first` may name another
    quantity's column of episode 1."""
    prefix = first.removesuffix("1")
    found = [column for column in columns if column.startswith(prefix)]
    return sorted(found, key=lambda column: int(column.removeprefix(prefix)))


def read_runs(runs: Sequence[Path]) -> tuple[list[Experiment], Curves]:
    """The experiments of run folders, by seed, and their curves.

    Raises:
        NacreError: a folder is not a run's or is damaged; a run has not completed an iteration; the runs differ in
            more than the seed and what does not change results; two have the same seed.
    """
    experiments: list[Experiment] = []
    curves: dict[int, Mapping[str, np.ndarray]] = {}
    for run in runs:
        experiment = read_run(run)[0]
        if experiments and not same_experiment(experiment, experiments[0]):
            raise NacreError(f"{run} is a run of another configuration than {runs[0]}")
        if experiment.seed in curves:
            raise NacreError(f"{run} has seed {experiment.seed}, as another of the runs has")
        columns = read_progress_csv(run / CSV) if (run / CSV).exists() else {}
        if not max(map(len, columns.values()), default=0):
            raise NacreError(f"{run} has not completed an iteration")
        for column in (EPOCH, STEPS, UPDATES, SECONDS, FIRST_EPISODE, LAST_EPISODE):
            if column not in columns:
                raise NacreError(f"{run / CSV} is damaged: it has no column {column!r}")
        experiments.append(experiment)
        curves[experiment.seed] = columns
    return sorted(experiments, key=lambda experiment: experiment.seed), dict(sorted(curves.items()))


def have_success(curves: Curves) -> bool:
    """Whether all runs have recorded successes."""
    return all({FIRST_SUCCESS, LAST_SUCCESS} <= run.keys() for run in curves.values())


def have_scores(curves: Curves) -> bool:
    """Whether all runs have recorded scores."""
    return all(FIRST_SCORE in run for run in curves.values())


def cut_to_shortest(curves: Curves) -> Curves:
    """The curves as far as all seeds have come."""
    iterations = min(len(run[EPOCH]) for run in curves.values())
    return {seed: {column: values[:iterations] for column, values in run.items()} for seed, run in curves.items()}


def learning_columns(curves: Curves) -> dict[str, np.ndarray]:
    """A table of test returns, and of successes and scores if all runs have them, after each iteration of each seed."""
    first = next(iter(curves.values()))
    columns = {EPOCH: "iteration", STEPS: "environment steps"}
    columns |= {name: f"return of episode {number}" for number, name in enumerate(episode_columns(first), start=1)}
    columns[LAST_EPISODE] = "return of the last episode"
    if have_success(curves):
        found = enumerate(episode_columns(first, FIRST_SUCCESS), start=1)
        columns |= {name: f"success in episode {number}" for number, name in found}
        columns[LAST_SUCCESS] = "success in the last episode"
    if have_scores(curves):
        found = enumerate(episode_columns(first, FIRST_SCORE), start=1)
        columns |= {name: f"score of episode {number}" for number, name in found}
    return {
        "seed": np.concatenate([np.full(len(run[EPOCH]), seed) for seed, run in curves.items()]),
        **{words: np.concatenate([run[name] for run in curves.values()]) for name, words in columns.items()},
    }


def same_experiment(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments are the same but for the seed, how long they run, and where and how they are run."""
    return comparable(one) == comparable(other)


def comparable(experiment: Experiment) -> Experiment:
    """The experiment without what does not change a learning curve, except by chance or by ending it."""
    return replace(
        experiment,
        seed=0,
        iterations=1,
        threads=None,
        device=None,
        update_chunk=1,
        checkpoint_every=1,
        keep_checkpoints=1,
    )


def group_by_configuration(runs: Sequence[Path]) -> list[list[Path]]:
    """Run folders in groups of the same experiment but for the seed and what :func:`comparable` leaves out.

    Raises:
        NacreError: a folder is not a run's or is damaged.
    """
    groups: dict[Experiment, list[Path]] = {}
    for run in runs:
        groups.setdefault(comparable(read_run(run)[0]), []).append(run)
    return list(groups.values())


def distinguishing_names(experiments: Sequence[Experiment]) -> list[str]:
    """The names of experiments. If several have the same name, the fields in which they differ are added."""
    fields = [flat_fields(comparable(experiment)) for experiment in experiments]
    names: list[str] = []
    for own in fields:
        namesakes = [other for other in fields if other["name"] == own["name"]]
        details = [field for field in own if any(other.get(field) != own[field] for other in namesakes)]
        listed = ", ".join(f"{field} {own[field]}" for field in details)
        names.append(f"{own['name']} ({listed})" if listed else own["name"])
    return names


def flat_fields(experiment: Experiment) -> dict[str, Any]:
    """The fields of an experiment and of its algorithm's configuration, as they are on the command line."""
    values = asdict(experiment)
    if experiment.shift is not None:
        values["shift"] = str(experiment.shift)
    return values | values.pop("algorithm")


def write_curves(path: Path, curves: Curves) -> None:
    """Writes curve.csv: one row per seed and iteration, with the seed, the iteration, the environment steps and every
    column of returns and successes, under their names in progress.csv.

    Raises:
        NacreError: the file cannot be written.
    """
    first = next(iter(curves.values()))
    results = [column for column in first if "Return" in column]
    if have_success(curves):
        results += [column for column in first if "Success" in column]
    columns = [EPOCH, STEPS, *results]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", *columns])
    for seed, run in curves.items():
        for row in zip(*(run[column] for column in columns), strict=True):
            writer.writerow([seed, *(int(value) if value.is_integer() else float(value) for value in row)])
    write_atomically(path, text.getvalue().encode())


def read_curves(path: Path) -> Curves:
    """What :func:`write_curves` wrote.

    Raises:
        NacreError: the file cannot be read or is damaged.
    """
    columns = read_progress_csv(path)
    seeds = columns.pop("seed", None)
    if seeds is None:
        raise NacreError(f"{path} is not a file of curves: it has no column 'seed'")
    return {
        int(seed): {column: values[seeds == seed] for column, values in columns.items()} for seed in np.unique(seeds)
    }
