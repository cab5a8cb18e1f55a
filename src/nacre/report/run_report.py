"""`nacre report`: how runs learnt, and how their agents adapt, on one page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nacre.agents import algorithm_of
from nacre.checkpoint import read_progress
from nacre.errors import NacreError
from nacre.experiments import Experiment, named_experiments
from nacre.files import writable
from nacre.loading import find_checkpoint
from nacre.logs import CSV
from nacre.report.board import write_board
from nacre.report.curves import (
    EPOCH,
    FIRST_EPISODE,
    FIRST_SCORE,
    FIRST_SUCCESS,
    LAST_EPISODE,
    LAST_SUCCESS,
    SECONDS,
    STEPS,
    UPDATES,
    Curves,
    cut_to_shortest,
    distinguishing_names,
    episode_columns,
    flat_fields,
    group_by_configuration,
    have_scores,
    have_success,
    learning_columns,
    read_runs,
)
from nacre.report.drawing import Switch
from nacre.report.figures import AFTER, BEFORE, learning_curve, outcome_curve, seed_lines
from nacre.report.films import MOST_INSIDE, Films, films_of, find_videos
from nacre.report.html import Picture, Table, number, percent, picture, span, write_page
from nacre.report.numbers import Numbers, check_data_folder, crossed, joined, rows_of
from nacre.report.recovery_figures import recovery_pictures
from nacre.report.references import Reference, gap_of, references_of
from nacre.report.response_figures import response_pictures
from nacre.report.task_figures import (
    MOST_PARAMETERS,
    parameter_columns,
    returns_columns,
    task_in_words,
    task_pictures,
)
from nacre.report.trial_figures import (
    COLUMNS,
    returns_by_episode,
    returns_by_task,
    reward_panels,
    rewards_of,
    spread,
    success_of_episodes,
    trajectory_figure,
    trajectory_panels,
)
from nacre.report.trials import RunTest, play_test_trials, protocol_in_words, protocol_of
from nacre.run_folder import read_run, read_versions, runs_in
from nacre.tasks.point import PointRobot, SparsePointRobot
from nacre.tasks.quantities import in_words, labels_of
from nacre.tasks.shifts import Shift, read_shift

REPORT = "report.html"
DRAWN_TASKS = 6
"""Test tasks whose trials are drawn."""


@dataclass(frozen=True)
class SeedPart:
    """What one run did when it was meta-tested."""

    seed: int
    run: str
    checkpoint: str
    changes: str
    """How the task changes inside an episode; empty: it does not."""
    pictures: Sequence[Picture]
    returns: Table
    films: Films | None
    """None: nobody has drawn videos."""


@dataclass(frozen=True)
class Section:
    """The runs of one configuration."""

    name: str
    highlights: Sequence[tuple[str, str]]
    """Numbers to see first, and what they are."""
    curve: Picture | None
    """None: the runs were imported, and have learnt elsewhere."""
    references: Sequence[Reference]
    tables: Sequence[Table]
    seeds: Sequence[SeedPart]

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        learning = [] if self.curve is None else [self.curve]
        return [*learning, *(picture for seed in self.seeds for picture in seed.pictures)]

    def numbered(self, number: int) -> Section:
        """The section of a page with several: its files have other names than those of the others."""
        prefix = f"{number}-"
        seeds = [replace(seed, pictures=[each.prefixed(prefix) for each in seed.pictures]) for seed in self.seeds]
        return replace(self, curve=None if self.curve is None else self.curve.prefixed(prefix), seeds=seeds)


def write_report(
    runs: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    checkpoint: Path | str = "latest",
    shift: Shift | str | None = None,
    tensorboard: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Writes one HTML page about runs: how they learnt, and how their agents adapt to the test tasks.

    Runs that differ in nothing but the seed are drawn together. The trials are played anew, as `nacre evaluate RUN`
    plays them. Videos that `nacre evaluate RUN --video` has drawn are in the page.

    Args:
        runs: run folders, which may still be in training, or folders that hold the runs of several seeds.
        out: the page; None: `report.html` in the first of the folders. What was there is replaced.
        checkpoint: of each run, as in :func:`nacre.load`.
        shift: how the task changes inside an episode of the trials, as in :func:`nacre.evaluate`.
        tensorboard: whether to write the figures and the first of the videos for TensorBoard as well, into the folder
            `figures` of each run.
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
    read_shift(shift)  # what is impossible is said before anything is made
    learnt = [_learnt(group) for group in groups]
    page = writable(Path(runs[0]) / REPORT if out is None else Path(out))
    check_data_folder(page)
    names = distinguishing_names([experiments[0] for experiments, _ in learnt])
    inside = Inside(page, MOST_INSIDE // sum(map(len, groups)))
    sections = [
        _section(
            name, experiments, curves, group, [play_test_trials(run, checkpoint, say, shift) for run in group], inside
        )
        for name, group, (experiments, curves) in zip(names, groups, learnt, strict=True)
    ]
    if tensorboard:
        for section, group, (_, curves) in zip(sections, groups, learnt, strict=True):
            for seed, run in zip(section.seeds, group, strict=True):
                say(f"Figures for TensorBoard: {_write_board(section, seed, run, curves)}")
    if len(sections) > 1:
        sections = [section.numbered(number) for number, section in enumerate(sections, start=1)]
    title = names[0] if len(names) == 1 else f"{len(names)} experiments"
    write_page(
        page,
        "report.html",
        [picture for section in sections for picture in section.pictures],
        title=title,
        sections=sections,
    )
    return page


class Inside(NamedTuple):
    """What a page may hold."""

    page: Path
    room: int
    """Bytes of videos of each run."""


def _write_board(section: Section, seed: SeedPart, run: Path, curves: Curves) -> Path:
    """The figures of a run, and that of how its seeds learnt; see :func:`nacre.report.board.write_board`."""
    pictures = [*([] if section.curve is None else [section.curve]), *seed.pictures]
    figures = {
        f"report/{picture.numbers.name.removeprefix(f'seed-{seed.seed}-')}": picture.figure
        for picture in pictures
        if picture.numbers is not None and picture.figure is not None
    }
    iterations = read_progress(find_checkpoint(run, seed.checkpoint))["iterations"]
    steps = curves[seed.seed][STEPS][:iterations] if curves else np.zeros(0)
    return write_board(run, int(steps[-1]) if len(steps) else 0, figures, find_videos(run, seed.checkpoint)[:1])


def _learnt(runs: Sequence[Path]) -> tuple[list[Experiment], Curves]:
    """What :func:`nacre.report.curves.read_runs` gives; without curves, if all the runs were imported."""
    if not all(_is_imported(run) for run in runs):
        return read_runs(runs)
    experiments = [read_run(run)[0] for run in runs]
    for run, experiment, other in zip(runs[1:], experiments[1:], experiments, strict=False):
        if experiment.seed == other.seed:
            raise NacreError(f"{run} has seed {experiment.seed}, as another of the runs has")
    return experiments, {}


def _is_imported(run: Path) -> bool:
    """Whether a run has learnt elsewhere, and not completed an iteration here."""
    with contextlib.suppress(NacreError):
        return not (run / CSV).exists() and read_progress(find_checkpoint(run, "latest"))["iterations"] == 0
    return False


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
    name: str,
    experiments: Sequence[Experiment],
    curves: Curves,
    runs: Sequence[Path],
    tests: Sequence[RunTest],
    inside: Inside,
) -> Section:
    references = references_of(experiments[0])
    return Section(
        name=name,
        highlights=_highlights(experiments[0], curves) if curves else _returns_in_words(experiments[0], tests),
        curve=_learning_picture(experiments[0], curves, references) if curves else None,
        references=references if curves else (),
        tables=[
            _facts(experiments, curves),
            _versions([experiment.seed for experiment in experiments], [read_versions(run) for run in runs]),
            _configuration(experiments[0]),
        ],
        seeds=[
            _seed_part(experiment.seed, run, test, inside)
            for experiment, run, test in zip(experiments, runs, tests, strict=True)
        ],
    )


def _learning_picture(experiment: Experiment, curves: Curves, references: Sequence[Reference]) -> Picture:
    outcomes = [(FIRST_SUCCESS, "success")] if have_success(curves) else []
    outcomes += [(FIRST_SCORE, "score")] if have_scores(curves) else []
    figure = Figure(figsize=(9, 4.6 + 1.8 * len(outcomes)), layout="constrained")
    panels = figure.subplots(
        1 + len(outcomes), 1, squeeze=False, height_ratios=[4.6, *[1.8] * len(outcomes)], sharex=True
    )
    axes, *others = panels[:, 0]
    together = learning_curve(axes, curves, references, protocol_of(experiment))
    for panel, (first, label) in zip(others, outcomes, strict=True):
        together += outcome_curve(panel, curves, first, label)
    if others:
        others[-1].set_xlabel(axes.get_xlabel())
        axes.set_xlabel("")
    below = f" Below: {' and '.join(label for _, label in outcomes)}, in the same episodes." if outcomes else ""
    bands, switches = "", []
    if len(curves) > 1:
        bands = (
            " Thick lines are means over seeds, bands go from the lowest to the highest seed; thin lines are the seeds."
        )
        has_first = len(episode_columns(next(iter(curves.values())))) > 1
        ends = [(LAST_EPISODE, FIRST_EPISODE)]
        ends += [(episode_columns(next(iter(curves.values())), first)[-1], first) for first, _ in outcomes]
        each: dict[int, list[Artist]] = {seed: [] for seed in curves}
        for panel, (last, first) in zip(panels[:, 0], ends, strict=True):
            columns = {last: AFTER} | ({first: BEFORE} if has_first else {})
            for seed, lines in seed_lines(panel, curves, columns).items():
                each[seed] += lines
        switches = [
            Switch("mean and range", together),
            *(Switch(f"seed {seed}", lines) for seed, lines in each.items()),
        ]
    return picture(
        figure,
        curve_in_words(curves),
        f"Return on test tasks after each iteration, against environment steps of collection.{below}{bands}",
        Numbers("learning", learning_columns(curves)),
        switches,
    )


def _returns_in_words(experiment: Experiment, tests: Sequence[RunTest]) -> list[tuple[str, str]]:
    """Means of the trials in the page, for runs that have learnt elsewhere."""
    last = np.mean([test.evaluation.final_returns.mean() for test in tests])
    return [(number(float(last)), f"return of the {protocol_of(experiment).last_label}")]


def _highlights(experiment: Experiment, curves: Curves) -> list[tuple[str, str]]:
    """Means over seeds after the last iteration."""

    def final(column: str) -> float:
        return float(np.mean([run[column][-1] for run in curves.values()]))

    protocol, last = protocol_of(experiment), final(LAST_EPISODE)
    found = [(number(last), f"return of the {protocol.last_label}")]
    if have_success(curves):
        found.append((percent(final(LAST_SUCCESS)), f"success in the {protocol.last_label}"))
    if len(episode_columns(next(iter(curves.values())))) > 1:
        found.append((number(final(FIRST_EPISODE)), f"return of {protocol.first_label}"))
    gap = gap_of(experiment)
    if gap is not None:
        found.append((percent(gap.closed(last)), f"{gap.words}, closed by the last episode"))
    seeds = f"{'seed' if len(curves) == 1 else 'seeds'}: {', '.join(map(str, curves))}"
    return [*found, (number(final(STEPS), 0), "environment steps"), (str(len(curves)), seeds)]


def _seed_part(seed: int, run: Path, test: RunTest, inside: Inside) -> SeedPart:
    module = algorithm_of(test.trained.experiment.algorithm).report_module()
    return SeedPart(
        seed=seed,
        run=str(run),
        checkpoint=test.trained.checkpoint.stem,
        changes="" if test.evaluation.shift is None else test.evaluation.shift.in_words(),
        pictures=[each.prefixed(f"seed-{seed}-") for each in pictures_of(test, module)],
        returns=_returns_table(test),
        films=films_of(find_videos(run, test.trained.checkpoint.stem), inside.page, inside.room),
    )


def pictures_of(test: RunTest, algorithm: Any | None) -> list[Picture]:
    """What is drawn of a meta-test.

    `algorithm`: the module that draws beliefs, by `belief_pictures`; None: there is nothing to draw.
    """
    beliefs = [] if algorithm is None else algorithm.belief_pictures(test)
    return [
        _adaptation_picture(test),
        *task_pictures(test),
        *beliefs,
        *response_pictures(test),
        *recovery_pictures(test),
        _episodes_picture(test),
    ]


def _adaptation_picture(test: RunTest) -> Picture:
    evaluation, names = test.evaluation, labels_of(test.trained.family, test.evaluation.tasks)
    returns, success = evaluation.returns_by_episode, evaluation.successes_by_episode
    rows, heights = [["returns", "tasks"]], [3.6]
    if success is not None:
        rows, heights = [*rows, ["success", "success"]], [*heights, 2.2]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    panels: dict[str, Axes] = figure.subplot_mosaic(rows, height_ratios=heights)  # pyright: ignore
    returns_by_episode(panels["returns"], evaluation, names)
    returns_by_task(panels["tasks"], evaluation, names)
    words = [f"Mean return over test tasks of each episode of a trial: {_listed(returns)}."]
    caption = "Return of each episode of a trial. Left: a line for each test task, a mean over its trials. "
    if returns.shape[1] > 1:
        better = (returns[:, -1] > returns[:, 0]).sum()
        words.append(f"In {better} of {len(returns)} tasks the last episode is better than episode 1.")
        caption += "Right: the first and the last episode on each test task."
    else:
        caption += "Right: the return on each test task."
    if success is not None:
        success_of_episodes(panels["success"], evaluation, success, names)
        words.append(f"Success in each episode: {', '.join(percent(share) for share in success.mean(axis=0))}.")
        caption += " Below: the share of trials that are a success in each episode."
    return picture(
        figure, " ".join(words), caption, Numbers("returns", returns_columns(test.trained.family, evaluation))
    )


def _listed(values: np.ndarray) -> str:
    return ", ".join(number(value) for value in values.mean(axis=0))


def _episodes_picture(test: RunTest) -> Picture:
    evaluation, family = test.evaluation, test.trained.family
    drawn = spread(evaluation.tasks, DRAWN_TASKS)
    trials, tasks = [test.episodes[index][0] for index in drawn], evaluation.tasks[drawn]
    if isinstance(family, PointRobot | SparsePointRobot) and family.observation_size == 2:
        figure = trajectory_figure(trials, tasks)
        trajectory_panels(figure, trials, tasks)
        return picture(
            figure,
            f"Paths of the robot in one trial on each of {len(drawn)} test tasks, with the goal of each.",
            "Sample trajectories: one trial on each of some test tasks. Colours go from violet in the first episode to "
            "green in the last.",
            Numbers("trajectories", joined([_path_columns(test, index) for index in drawn])),
        )
    figure = Figure(figsize=(9, 0.8 + 2.1 * -(-len(drawn) // COLUMNS)), layout="constrained")
    titles = [task_in_words(family, evaluation.tasks, index) for index in drawn]
    reward_panels(figure, trials, titles, evaluation.protocol.sparse_returns)
    return picture(
        figure,
        f"Rewards over the time steps of each episode of one trial on each of {len(drawn)} test tasks.",
        "Reward at each time step, in one trial on each of some test tasks. Colours go from violet in the first "
        "episode to green in the last.",
        Numbers("rewards", joined([_reward_columns(test, index) for index in drawn])),
    )


def _path_columns(test: RunTest, index: int) -> dict[str, np.ndarray]:
    """Where the robot was in the first trial on a task; step 0 is the start of an episode."""
    family, tasks = test.trained.family, test.evaluation.tasks
    return joined(
        [
            crossed(
                {"task": [index + 1], "episode": [episode], "step": range(len(path))},
                {"x": path[:, 0], "y": path[:, 1]},
                {"task": rows_of(parameter_columns(family, tasks), [index])},
            )
            for episode, path in enumerate((each.observations[:, :2] for each in test.episodes[index][0]), start=1)
        ]
    )


def _reward_columns(test: RunTest, index: int) -> dict[str, np.ndarray]:
    """The rewards of the first trial on a task."""
    family, tasks = test.trained.family, test.evaluation.tasks
    sparse = test.evaluation.protocol.sparse_returns
    return joined(
        [
            crossed(
                {"task": [index + 1], "episode": [number_], "step": range(1, 1 + len(episode))},
                {"reward": rewards_of(episode, sparse)},
                {"task": rows_of(parameter_columns(family, tasks, MOST_PARAMETERS), [index])},
            )
            for number_, episode in enumerate(test.episodes[index][0], start=1)
        ]
    )


def _returns_table(test: RunTest) -> Table:
    """A row per task, with the returns of its episodes and, if the family says what a success is, their successes."""
    evaluation, names = test.evaluation, labels_of(test.trained.family, test.evaluation.tasks)
    returns, success = evaluation.returns_by_episode, evaluation.successes_by_episode
    episodes = range(1, 1 + returns.shape[1])
    shown = names[:4]  # of dozens of physical parameters, enough to tell tasks apart
    columns = [[number(value) for value in [*values, values.mean()]] for values in returns.T]
    head = [f"ep. {episode}" for episode in episodes]
    if success is not None:
        columns += [[percent(share) for share in [*shares, shares.mean()]] for shares in success.T]
        head += [f"success {episode}" for episode in episodes]
    tasks = [
        [str(index), *(number(value, 3) for value in task[: len(shown)])]
        for index, task in enumerate(evaluation.tasks, start=1)
    ]
    tasks.append(["mean", *[""] * len(shown)])
    return Table(
        f"Return{'' if success is None else ' and success'} of each episode on each test task, mean over trials",
        ["task", *shown, *head],
        [[*task, *values] for task, values in zip(tasks, zip(*columns, strict=True), strict=True)],
        numeric=True,
    )


def _facts(experiments: Sequence[Experiment], curves: Curves) -> Table:
    """What the numbers come from."""
    experiment = experiments[0]

    def each(values: Sequence[float | int], decimals: int = 0) -> str:
        return ", ".join(dict.fromkeys(number(value, decimals) for value in values))

    done = [len(run[EPOCH]) for run in curves.values()]
    planned = [experiment.iterations for experiment in experiments]
    of = "" if done == planned else f" of {each(planned)}"
    learnt = [["Imported from", str(experiment.warm_start)]]
    if curves:
        learnt = [
            ["Iterations", each(done) + of],
            ["Environment steps", each([run[STEPS][-1] for run in curves.values()])],
            ["Gradient steps", each([run[UPDATES][-1] for run in curves.values()])],
            ["Minutes for a seed", span([run[SECONDS][-1] / 60 for run in curves.values()])],
        ]
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
            *learnt,
            ["Seeds", ", ".join(str(experiment.seed) for experiment in experiments)],
        ],
    )


def _versions(seeds: Sequence[int], recorded: Sequence[dict[str, Any]]) -> Table:
    """The machine and the versions of the runs. A value that all seeds share is named once."""
    rows: list[list[str]] = []
    for name in dict.fromkeys(name for versions in recorded for name in versions):
        values = [str(versions.get(name) or "not recorded") for versions in recorded]
        by_seed = [f"{value} (seed {seed})" for seed, value in zip(seeds, values, strict=True)]
        rows.append([in_words(name), values[0] if len(set(values)) == 1 else "; ".join(by_seed)])
    return Table("Machine, versions and git commit", [], rows)


def _configuration(experiment: Experiment) -> Table:
    """Every field, and that of the named experiment if it differs."""
    entry = named_experiments().get(experiment.name)
    named = entry.experiment if entry else None
    theirs = flat_fields(named) if named else {}
    rows = [
        [field, str(value), str(theirs[field]) if field in theirs and theirs[field] != value else ""]
        for field, value in flat_fields(experiment).items()
    ]
    if named and any(other for _, _, other in rows):
        return Table("Configuration", ["field", "here", f"in {named.name}, if it differs"], rows)
    which = f", which is that of {named.name}" if named else ""
    return Table(f"Configuration{which}", ["field", "value"], [row[:2] for row in rows])


def _seed(run: Path) -> int:
    return read_run(run)[0].seed
