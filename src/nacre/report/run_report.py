"""`nacre report`: how runs learnt, and how their agents adapt, on one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nacre.errors import NacreError
from nacre.evaluation import Evaluation
from nacre.experiments import EXPERIMENTS, Experiment
from nacre.files import writable
from nacre.report.curves import (
    EPOCH,
    FIRST_EPISODE,
    LAST_EPISODE,
    SECONDS,
    STEPS,
    UPDATES,
    Curves,
    cut_to_shortest,
    distinguishing_names,
    flat_fields,
    group_by_configuration,
    read_runs,
)
from nacre.report.figures import learning_curve
from nacre.report.html import Picture, Table, number, picture, span, write_page
from nacre.report.meta_test import MetaTest, meta_test
from nacre.report.references import REFERENCES, Level, PublishedCurve
from nacre.report.trial_figures import (
    COLUMNS,
    posterior_panels,
    posterior_widths,
    returns_by_episode,
    returns_by_task,
    reward_panels,
    shown_parameters,
    spread,
    trajectory_figure,
    trajectory_panels,
)
from nacre.run_folder import EXPERIMENT, read_run, runs_in
from nacre.runtime import training_protocol
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily
from nacre.tasks.point import PointRobot, SparsePointRobot

REPORT = "report.html"
DRAWN_TASKS = 6
"""Test tasks whose trials are drawn."""


@dataclass(frozen=True)
class SeedPart:
    """What one run did when it was meta-tested."""

    seed: int
    run: str
    checkpoint: str
    pictures: Sequence[Picture]
    returns: Table


@dataclass(frozen=True)
class Section:
    """The runs of one configuration."""

    name: str
    highlights: Sequence[tuple[str, str]]
    """Numbers to see first, and what they are."""
    curve: Picture
    references: Sequence[PublishedCurve | Level]
    tables: Sequence[Table]
    seeds: Sequence[SeedPart]


def write_report(
    runs: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    checkpoint: Path | str = "latest",
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Writes one HTML page about runs: how they learnt, and how their agents adapt to the test tasks.

    Runs that differ in nothing but the seed are drawn together. The trials are played anew, and as `nacre evaluate RUN`
    would play them.

    Args:
        runs: run folders, which may still be in training, or folders that hold the runs of several seeds.
        out: the page; None: `report.html` in the first of the folders. What was there is replaced.
        checkpoint: of each run, as in :func:`nacre.load`.
        say: called with a sentence before each run is meta-tested.

    Returns:
        the page.

    Raises:
        NacreError: no runs; one is missing, damaged or without a complete iteration; two have the same configuration
            and seed; the page cannot be written.
    """
    if not runs:
        raise NacreError("RUN is missing; allowed: one run folder or more")
    groups = [sorted(group, key=_seed) for group in group_by_configuration(runs_in(map(Path, runs)))]
    learnt = [read_runs(group) for group in groups]
    page = writable(Path(runs[0]) / REPORT if out is None else Path(out))
    names = distinguishing_names([experiments[0] for experiments, _ in learnt])
    sections = [
        _section(name, experiments, curves, group, [meta_test(run, checkpoint, say) for run in group])
        for name, group, (experiments, curves) in zip(names, groups, learnt, strict=True)
    ]
    title = names[0] if len(names) == 1 else f"{len(names)} experiments"
    write_page(page, "report.html", title=title, sections=sections)
    return page


def protocol_in_words(experiment: Experiment) -> str:
    """How the experiment is meta-tested, in one sentence."""
    family = make_family(experiment.family)
    protocol = training_protocol(experiment, family)
    more = "" if type(family).terminated is TaskFamily.terminated else " or more"
    return (
        f"{protocol.name}: {protocol.trials} trial(s) on each of {experiment.test_tasks} test tasks; a trial has "
        f"{protocol.minimum_episodes(family.horizon)}{more} episodes of up to {family.horizon} steps, the first "
        f"{protocol.exploration_episodes} with z from the prior"
        + (" and stochastic actions" if protocol.stochastic_steps else "")
        + ", the others with z from the posterior"
        + ("; returns are sums of the sparse reward" if protocol.sparse_returns else "")
    )


def curve_in_words(curves: Curves) -> str:
    """What a figure of learning curves shows, for those who do not see it."""
    common = cut_to_shortest(curves).values()
    steps, first, last = (
        np.mean([run[column] for run in common], axis=0) for column in (STEPS, FIRST_EPISODE, LAST_EPISODE)
    )
    return (
        f"Learning curve of {len(curves)} seed(s). From {number(steps[0], 0)} to {number(steps[-1], 0)} environment "
        f"steps the test return of the last episode of a trial goes from {number(last[0])} to {number(last[-1])}, and "
        f"that of episode 1 from {number(first[0])} to {number(first[-1])}."
    )


def _section(
    name: str, experiments: Sequence[Experiment], curves: Curves, runs: Sequence[Path], tests: Sequence[MetaTest]
) -> Section:
    references = REFERENCES.get(experiments[0].family, ())
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    learning_curve(figure.subplots(), curves, references)
    bands = " Lines are means over seeds; bands go from the lowest to the highest seed." if len(curves) > 1 else ""
    last, first, steps = (
        float(np.mean([run[column][-1] for run in curves.values()])) for column in (LAST_EPISODE, FIRST_EPISODE, STEPS)
    )
    return Section(
        name=name,
        highlights=[
            (number(last), "return of the last episode of a trial: task inferred"),
            (number(first), "return of episode 1: task unknown"),
            (number(steps, 0), "environment steps"),
            (str(len(curves)), f"{'seed' if len(curves) == 1 else 'seeds'}: {', '.join(map(str, curves))}"),
        ],
        curve=picture(
            figure,
            curve_in_words(curves),
            f"Return on test tasks after each iteration, against environment steps of collection.{bands}",
        ),
        references=references,
        tables=[
            _facts(experiments, curves),
            _versions(list(curves), [_recorded_versions(run) for run in runs]),
            _configuration(experiments[0]),
        ],
        seeds=[
            _seed_part(experiment.seed, run, test)
            for experiment, run, test in zip(experiments, runs, tests, strict=True)
        ],
    )


def _seed_part(seed: int, run: Path, test: MetaTest) -> SeedPart:
    config = test.trained.experiment.algorithm
    return SeedPart(
        seed=seed,
        run=str(run),
        checkpoint=test.trained.checkpoint.stem,
        pictures=[
            _adaptation_picture(test),
            _posterior_picture(test),
            *([_width_picture(test)] if config.probabilistic_context else []),
            _episodes_picture(test),
        ],
        returns=_returns_table(test.evaluation, test.trained.family.task_parameters),
    )


def _adaptation_picture(test: MetaTest) -> Picture:
    evaluation, names = test.evaluation, test.trained.family.task_parameters
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    returns_by_episode(left, evaluation, names)
    returns_by_task(right, evaluation, names)
    means = ", ".join(number(value) for value in evaluation.returns_by_episode.mean(axis=0))
    better = (evaluation.returns_by_episode[:, -1] > evaluation.returns_by_episode[:, 0]).sum()
    return picture(
        figure,
        f"Mean return over test tasks of each episode of a trial: {means}. In {better} of {len(evaluation.tasks)} "
        "tasks the last episode is better than episode 1.",
        "Return of each episode of a trial. Left: a line for each test task, a mean over its trials. "
        "Right: the first and the last episode on each test task.",
    )


def _posterior_picture(test: MetaTest) -> Picture:
    tasks = np.repeat(test.evaluation.tasks, test.evaluation.protocol.trials, axis=0)
    names = test.trained.family.task_parameters
    shown = shown_parameters(test.snapshots.mean[-1], tasks)
    figure = Figure(figsize=(9, 0.5 + 2.3 * len(shown)), layout="constrained")
    posterior_panels(figure, test.snapshots, test.moments, tasks, names)
    parameters = " and ".join(names[index].replace("_", " ") for index in shown)
    chosen = " (of all parameters the two that the posterior tells most about)" if len(names) > len(shown) else ""
    return picture(
        figure,
        f"Posteriors over z of {len(tasks)} trials, {', '.join(test.moments)}, coloured by {parameters}.",
        "The posterior over z as a trial goes on, from its first transitions: mean and one standard deviation, one for "
        f"each trial, coloured by the true {parameters} of the trial’s task{chosen}. The dashed ring is the prior. "
        "Shown are the dimensions of z that differ most between trials. "
        "Where colours separate, the agent has told tasks apart.",
    )


def _width_picture(test: MetaTest) -> Picture:
    figure = Figure(figsize=(9, 3), layout="constrained")
    context_size = test.trained.experiment.algorithm.context_size
    posterior_widths(figure.subplots(), test.course, context_size)
    widths = np.sqrt(test.course.variance[-1]).mean(axis=0).tolist()
    listed = ", ".join(f"z{dimension} {number(width, 3)}" for dimension, width in enumerate(widths, start=1))
    return picture(
        figure,
        f"Standard deviations of the posterior at the end of a trial, means over trials: {listed}.",
        "How sure the agent is: standard deviation of each dimension of the posterior, a mean over trials. The dotted "
        f"line is at the {context_size} transitions that a posterior comes from in training. A product of factors, one "
        "for each transition, narrows as one over the root of their number whatever they say: a dimension that meets "
        "the prior’s 1 at the dotted line carries nothing about the task.",
    )


def _episodes_picture(test: MetaTest) -> Picture:
    evaluation, family = test.evaluation, test.trained.family
    drawn = spread(evaluation.tasks, DRAWN_TASKS)
    trials, tasks = [test.episodes[index][0] for index in drawn], evaluation.tasks[drawn]
    if isinstance(family, PointRobot | SparsePointRobot) and family.observation_size == 2:
        figure = trajectory_figure(trials, tasks)
        trajectory_panels(figure, trials, tasks)
        return picture(
            figure,
            f"Paths of the robot in one trial on each of {len(drawn)} test tasks, with the goal of each.",
            "Sample trajectories: one trial on each of some test tasks. Earlier episodes are darker.",
        )
    figure = Figure(figsize=(9, 0.8 + 2.1 * -(-len(drawn) // COLUMNS)), layout="constrained")
    titles = [_task_in_words(family.task_parameters, task) for task in tasks]
    reward_panels(figure, trials, titles, evaluation.protocol.sparse_returns)
    return picture(
        figure,
        f"Rewards over the time steps of each episode of one trial on each of {len(drawn)} test tasks.",
        "Reward at each time step, in one trial on each of some test tasks. Earlier episodes are darker.",
    )


def _task_in_words(names: Sequence[str], task: np.ndarray) -> str:
    words = [f"{name.replace('_', ' ')} {number(value, 2)}" for name, value in zip(names, task, strict=True)]
    return ", ".join(words if len(words) <= 2 else [words[0], "…"])


def _returns_table(evaluation: Evaluation, names: Sequence[str]) -> Table:
    returns = evaluation.returns_by_episode
    shown = names[:4]  # of dozens of physical parameters, enough to tell tasks apart
    rows = [
        [str(index), *(number(value, 3) for value in task[: len(shown)]), *(number(value) for value in row)]
        for index, (task, row) in enumerate(zip(evaluation.tasks, returns, strict=True), start=1)
    ]
    rows.append(["mean", *[""] * len(shown), *(number(value) for value in returns.mean(axis=0))])
    return Table(
        "Return of each episode on each test task, mean over trials",
        ["task", *(name.replace("_", " ") for name in shown), *(f"ep. {1 + e}" for e in range(returns.shape[1]))],
        rows,
        numeric=True,
    )


def _facts(experiments: Sequence[Experiment], curves: Curves) -> Table:
    """How the numbers came about."""
    experiment = experiments[0]

    def each(values: Sequence[float | int], decimals: int = 0) -> str:
        return ", ".join(dict.fromkeys(number(value, decimals) for value in values))

    done = [len(run[EPOCH]) for run in curves.values()]
    planned = [experiment.iterations for experiment in experiments]
    of = "" if done == planned else f" of {each(planned)}"
    return Table(
        "How it was trained and tested",
        [],
        [
            ["Experiment", experiment.name],
            ["Task family", experiment.family],
            [
                "Tasks",
                f"{experiment.train_tasks} to train on, {experiment.test_tasks} to test on ({experiment.task_list})",
            ],
            ["Protocol", protocol_in_words(experiment)],
            ["Iterations", each(done) + of],
            ["Environment steps", each([run[STEPS][-1] for run in curves.values()])],
            ["Gradient steps", each([run[UPDATES][-1] for run in curves.values()])],
            ["Minutes for a seed", span([run[SECONDS][-1] / 60 for run in curves.values()])],
            ["Seeds", ", ".join(map(str, curves))],
        ],
    )


def _versions(seeds: Sequence[int], recorded: Sequence[dict[str, Any]]) -> Table:
    """What the runs ran on; a row that is the same for all seeds has one cell."""
    rows: list[list[str]] = []
    for name in dict.fromkeys(name for versions in recorded for name in versions):
        values = [str(versions.get(name) or "not recorded") for versions in recorded]
        told = [f"{value} (seed {seed})" for seed, value in zip(seeds, values, strict=True)]
        rows.append([name.replace("_", " "), values[0] if len(set(values)) == 1 else "; ".join(told)])
    return Table("Machine, versions and git commit", [], rows)


def _configuration(experiment: Experiment) -> Table:
    """Every field, beside that of the named experiment where it differs."""
    named = EXPERIMENTS.get(experiment.name)
    theirs = flat_fields(named) if named else {}
    rows = [
        [field, str(value), str(theirs[field]) if field in theirs and theirs[field] != value else ""]
        for field, value in flat_fields(experiment).items()
    ]
    if named and any(other for _, _, other in rows):
        return Table("Configuration", ["field", "here", f"in {named.name}, where it differs"], rows)
    told = f", which is that of {named.name}" if named else ""
    return Table(f"Configuration{told}", ["field", "value"], [row[:2] for row in rows])


def _seed(run: Path) -> int:
    return read_run(run)[0].seed


def _recorded_versions(run: Path) -> dict[str, Any]:
    versions = json.loads((run / EXPERIMENT).read_text(encoding="utf-8")).get("versions")
    return versions if isinstance(versions, dict) else {}
