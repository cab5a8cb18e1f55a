"""`nacre compare`: groups of seeds on one page, by interquartile means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from nacre.errors import NacreError, shown
from nacre.experiments import Experiment
from nacre.experiments.experiment import world_of
from nacre.files import writable
from nacre.original.curves import OldCurve, old_runs_in, read_old_curve
from nacre.report.curves import (
    EPOCH,
    FIRST_EPISODE,
    FIRST_SUCCESS,
    LAST_EPISODE,
    LAST_SUCCESS,
    SECONDS,
    STEPS,
    Curves,
    cut_to_shortest,
    distinguishing_names,
    episode_columns,
    group_by_configuration,
    have_success,
    read_runs,
)
from nacre.report.drawing import Switch
from nacre.report.figures import MOST_SEED_MARKS, draw_references, seed_lines, tidy
from nacre.report.html import Picture, Table, number, percent, picture, write_page
from nacre.report.intervals import FEWEST_RUNS, Interval, difference_interval, interquartile_mean, interval
from nacre.report.numbers import Numbers, check_data_folder, joined
from nacre.report.references import Reference, gap_of, references_of
from nacre.report.trials import protocol_in_words
from nacre.run_folder import read_run, runs_in

COMPARISON = "compare.html"
# Okabe and Ito's colours: people with any of the common kinds of colour blindness can distinguish them.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":")
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration, cut to the shortest."""

    name: str
    kind: str
    """What the runs are: the name of their experiment, or whose code they are of."""
    experiment: Experiment | None
    """None: they are of another code base, and their configuration is not known."""
    protocol: str
    """How they are meta-tested, in a sentence."""
    curves: Curves
    """An old code base may not have recorded episode 1."""
    lengths: tuple[int, ...]
    """Iterations of each run before they were cut."""
    runs: tuple[Path, ...]
    test_tasks: tuple[np.ndarray, ...] | None
    """Of each run; None: not known."""

    @property
    def has_episodes(self) -> bool:
        """Whether all episodes of a trial were recorded."""
        return all(FIRST_EPISODE in run for run in self.curves.values())

    @property
    def steps(self) -> Float64[np.ndarray, " iterations"]:
        """Environment steps after each iteration, a mean over seeds."""
        return np.mean([run[STEPS] for run in self.curves.values()], axis=0)

    def values(self, column: str) -> Float64[np.ndarray, "seeds iterations"]:
        return np.stack([run[column] for run in self.curves.values()])

    def final(self, column: str) -> Float64[np.ndarray, " seeds"]:
        """The values after the last iteration."""
        return self.values(column)[:, -1]

    def returns_at(self, steps: float) -> Float64[np.ndarray, " seeds"]:
        """Test returns of the last episode after a number of environment steps, between two iterations by a line."""
        return np.array([np.interp(steps, run[STEPS], run[LAST_EPISODE]) for run in self.curves.values()])


def parse_groups(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """Groups of runs by name, from `NAME=RUN,RUN,…` or plain run folders.

    Plain folders are grouped by their configuration apart from the seed, and named by their experiment. A folder that
    holds the runs of several seeds stands for all of them.

    Raises:
        NacreError: a name is empty or given twice, a group is empty, or a plain folder is not a run's.
    """
    named: dict[str, list[Path]] = {}
    plain: list[Path] = []
    old: list[Path] = []
    places: dict[str | Path, int] = {}  # groups come in the order of their first mention: the first is compared with
    for place, argument in enumerate(arguments):
        name, equals, runs = argument.partition("=")
        if not equals or _exists(Path(argument)):
            found = old_runs_in(Path(argument)) or runs_in([Path(argument)])
            (old if old_runs_in(Path(argument)) else plain).extend(found)
            places.update((run, place) for run in found if run not in places)
            continue
        if not name or not all(runs.split(",")):
            raise NacreError(f"RUN_OR_GROUP is {shown(argument)}; allowed: a run folder, or NAME=RUN,RUN,…")
        if name in named:
            raise NacreError(f"the group {name!r} is given twice")
        named[name] = [run for path in map(Path, runs.split(",")) for run in old_runs_in(path) or runs_in([path])]
        places[name] = place
    groups = group_by_configuration(plain)
    for name, group in zip(distinguishing_names([read_run(group[0])[0] for group in groups]), groups, strict=True):
        if name in named:
            raise NacreError(f"the group {name!r} has the name of the experiment of {group[0]}, which is not in it")
        named[name] = group
        places[name] = places[group[0]]
    for name, group in _grouped_old_runs(old).items():
        if name in named:
            raise NacreError(f"the group {name!r} has the name of {group[0]}, which is not in it")
        named[name] = group
        places[name] = places[group[0]]
    return dict(sorted(named.items(), key=lambda item: places[item[0]]))


def _grouped_old_runs(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs of old code bases by the name of their group, of which the runs differ in nothing but the seed."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        curve = read_old_curve(run)
        groups.setdefault((curve.kind, curve.configuration), []).append(run)
    names: dict[str, list[Path]] = {}
    for (kind, _), group in groups.items():
        namesakes = sum(other == kind for other, _ in groups)
        names[kind if namesakes == 1 else f"{kind} ({group[0].name})"] = group
    return names


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a list of runs that is longer than a name may be
        return False


def write_comparison(groups: Mapping[str, Sequence[Path | str]], out: Path | str = COMPARISON) -> Path:
    """Writes one HTML page that compares groups of seeds: learning curves, returns of each episode of a trial, final
    returns, and successes if all runs have recorded them. All are interquartile means with 95 % bootstrap intervals.

    Args:
        groups: run folders by the name of their group. The runs of a group differ in nothing but the seed.
        out: the page. What was there is replaced.

    Returns:
        the page.

    Raises:
        NacreError: no groups; a run is missing, damaged or without a complete iteration; a group holds several
            configurations or a seed twice; the groups are of different task families; the page cannot be written.
    """
    if not groups:
        raise NacreError("RUN_OR_GROUP is missing; allowed: run folders, or groups such as NAME=RUN,RUN,…")
    read = [_read_group(name, [Path(run) for run in runs]) for name, runs in groups.items()]
    family = _common_family(read)
    page = writable(Path(out))
    check_data_folder(page)
    curves = [_curve_picture(read), _quartile_picture(read), *_success_pictures(read)]
    adaptation = _episode_pictures(read)
    write_page(
        page,
        "comparison.html",
        [*curves, *adaptation],
        title=" vs ".join(group.name for group in read) if len(read) <= 3 else f"{len(read)} groups",
        family=family,
        notes=_notes(read),
        tables=[_final_returns(read), *_final_successes(read), *_gap_closed(read), *_at_common_steps(read)],
        curves=curves,
        adaptation=adaptation,
        references=_references(read),
        groups=read,
    )
    return page


def _common_family(groups: Sequence[Group]) -> str | None:
    """The task family of all groups of which it is known."""
    known = [(group, group.experiment.family) for group in groups if group.experiment is not None]
    for group, family in known[1:]:
        first, first_family = known[0]
        if family != first_family:
            raise NacreError(
                f"{group.runs[0]} is of the task family {family}, and {first.runs[0]} of {first_family}: returns of "
                "different families cannot be compared"
            )
    return known[0][1] if known else None


def _references(groups: Sequence[Group]) -> tuple[Reference, ...]:
    world = _common_world(groups)
    return () if world is None else references_of(world)


def _common_world(groups: Sequence[Group]) -> Experiment | None:
    """An experiment of the groups of which it is known, if they are all in the same world; None if they are not."""
    known = [group.experiment for group in groups if group.experiment is not None]
    return known[0] if len({world_of(experiment) for experiment in known}) == 1 else None


def compared_curves(axes: Axes, groups: Sequence[Group]) -> list[Switch]:
    """Draws the test return of the last episode against environment steps: interquartile mean over the seeds of each
    group, and 95 % bootstrap intervals if there are enough seeds. Each seed has a thin line, which the page shows if it
    is asked to.

    Returns:
        What a reader can hide and show.
    """
    switches = _draw_over_steps(axes, groups, LAST_EPISODE)
    draw_references(axes, _references(groups), max(group.steps[-1] for group in groups))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="environment steps", ylabel="test return of the last episode")
    tidy(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, alignment="left", borderaxespad=0.2)
    return switches


def compared_quartiles(axes: Axes, groups: Sequence[Group]) -> None:
    """Draws the same against the logarithm of environment steps, as the median over seeds and the band from 25 to 75 %
    of them."""
    for group, (colour, dash) in zip(groups, _styles(len(groups)), strict=True):
        low, median, high = np.quantile(group.values(LAST_EPISODE), QUARTILES, axis=0)
        axes.plot(group.steps, median, dash, color=colour, linewidth=2, marker=".", markersize=4, label=_legend(group))
        if len(group.curves) > 1:
            axes.fill_between(group.steps, low, high, color=colour, alpha=0.18, linewidth=0)
    draw_references(axes, _references(groups), max(group.steps[-1] for group in groups))
    axes.set(xscale="log", xlabel="environment steps", ylabel="test return of the last episode")
    tidy(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, alignment="left", borderaxespad=0.2)


def compared_successes(axes: Axes, groups: Sequence[Group]) -> list[Switch]:
    """Draws the success in the last episode as :func:`compared_curves` draws its return."""
    switches = _draw_over_steps(axes, groups, LAST_SUCCESS)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="environment steps", ylabel="success in the last episode", ylim=(-0.05, 1.05))
    tidy(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, alignment="left", borderaxespad=0.2)
    return switches


def compared_episodes(axes: Axes, groups: Sequence[Group], first: str = FIRST_EPISODE) -> None:
    """Draws the test return of each episode of a trial after the last iteration, in the same way.

    `first`: the column of episode 1; with `FIRST_SUCCESS` successes are drawn.
    """
    for group, style in zip(groups, _styles(len(groups)), strict=True):
        if not group.has_episodes:
            continue
        columns = episode_columns(next(iter(group.curves.values())), first)
        values = np.stack([group.final(column) for column in columns], axis=1)
        _draw(axes, np.arange(1, 1 + len(columns)), values, *style, marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="episode of a trial", ylabel="test return")
    if first == FIRST_SUCCESS:
        axes.set(ylabel="success", ylim=(-0.05, 1.05))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    tidy(axes)


def _draw_over_steps(axes: Axes, groups: Sequence[Group], column: str) -> list[Switch]:
    """A column of each group over environment steps, and of each seed. The seeds are hidden at first, and with their
    group."""
    switches, every = [], []
    several = [group for group in groups if len(group.curves) > 1]
    for group, (colour, dash) in zip(groups, _styles(len(groups)), strict=True):
        artists = _draw(axes, group.steps, group.values(column), colour, dash, label=_legend(group))
        if group in several:
            most, words = MOST_SEED_MARKS // len(several), f"{group.name}, seed"
            lines = seed_lines(axes, group.curves, {column: colour}, max(1, most), words)
            every += [line for of_seed in lines.values() for line in of_seed]
            artists += [line for of_seed in lines.values() for line in of_seed]
        switches.append(Switch(group.name, artists))
    return [*switches, Switch("each seed", every, is_on=False)] if every else switches


def _draw(
    axes: Axes, x: np.ndarray, returns: Float64[np.ndarray, "seeds points"], colour: str, dash: str, **line: Any
) -> list[Artist]:
    """The interquartile mean over seeds as a line, and its interval as a band if there is one."""
    drawn: list[Artist] = [*axes.plot(x, interquartile_mean(returns), dash, color=colour, linewidth=2, **line)]
    band = interval(returns)
    if band is not None:
        drawn.append(axes.fill_between(x, *band, color=colour, alpha=0.18, linewidth=0))
    return drawn


def _read_group(name: str, runs: Sequence[Path]) -> Group:
    if not runs:
        raise NacreError(f"the group {name!r} has no runs")
    old = [bool(old_runs_in(run)) for run in runs]
    if any(old):
        if not all(old):
            raise NacreError(
                f"the group {name!r} has {runs[old.index(False)]}, a run of nacre, and {runs[old.index(True)]}, one of "
                "other code: a group is of one code base"
            )
        return _read_old_group(name, runs)
    experiments, curves = read_runs(runs)
    experiment = experiments[0]
    return Group(
        name,
        experiment.name,
        experiment,
        protocol_in_words(experiment),
        cut_to_shortest(curves),
        tuple(len(run[EPOCH]) for run in curves.values()),
        tuple(runs),
        tuple(read_run(run)[1].test for run in runs),
    )


def _read_old_group(name: str, runs: Sequence[Path]) -> Group:
    read = [read_old_curve(run) for run in runs]
    for run, curve in zip(runs, read, strict=True):
        if runs.count(run) > 1:
            raise NacreError(f"the group {name!r} has {run} twice")
        if (curve.kind, curve.configuration) != (read[0].kind, read[0].configuration):
            raise NacreError(f"{run} is a run of another configuration than {runs[0]}")
    curves = {number: _under_our_names(curve) for number, curve in enumerate(read)}
    return Group(
        name,
        read[0].kind,
        read[0].experiment,
        read[0].protocol,
        cut_to_shortest(curves),
        tuple(len(curve.steps) for curve in read),
        tuple(runs),
        None,
    )


def _under_our_names(curve: OldCurve) -> dict[str, np.ndarray]:
    """Columns of our progress.csv, as far as an old code base recorded them."""
    columns = {EPOCH: np.arange(len(curve.steps)), STEPS: curve.steps, SECONDS: curve.seconds}
    columns[LAST_EPISODE] = curve.returns
    if curve.successes is not None:
        columns[LAST_SUCCESS] = curve.successes
    if curve.has_one_episode:
        columns[FIRST_EPISODE] = curve.returns
        if curve.successes is not None:
            columns[FIRST_SUCCESS] = curve.successes
    return columns


def _styles(n: int) -> list[tuple[str, str]]:
    """A colour and a dash for each of n lines; all differ up to 21."""
    return [(_COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)]) for i in range(n)]


def _legend(group: Group) -> str:
    return f"{group.name}, {_seeds(group)}"


def _seeds(group: Group) -> str:
    return f"{len(group.curves)} seed{'s' if len(group.curves) > 1 else ''}"


def _curve_picture(groups: Sequence[Group]) -> Picture:
    figure = Figure(figsize=(9, 4.4 + 0.22 * len(groups)), layout="constrained")
    switches = compared_curves(figure.subplots(), groups)
    ends = "; ".join(
        f"{group.name} ends at {_middle(group, LAST_EPISODE)} after {number(group.steps[-1], 0)} environment steps"
        for group in groups
    )
    return picture(
        figure,
        f"Learning curves of {len(groups)} group(s): {ends}.",
        "Test return of the last episode of a trial against environment steps: interquartile mean over seeds, with "
        f"pointwise 95 % bootstrap intervals if a group has {FEWEST_RUNS} seeds or more.",
        Numbers("learning", joined([_interval_columns(group, LAST_EPISODE, "return") for group in groups])),
        switches,
    )


def _quartile_picture(groups: Sequence[Group]) -> Picture:
    figure = Figure(figsize=(9, 4.0 + 0.22 * len(groups)), layout="constrained")
    compared_quartiles(figure.subplots(), groups)
    ends = "; ".join(
        f"{group.name} ends at a median of {number(float(np.median(group.final(LAST_EPISODE))))}" for group in groups
    )
    return picture(
        figure,
        f"Learning curves of {len(groups)} group(s) over a logarithmic axis of environment steps: {ends}.",
        "The same with a logarithmic axis of environment steps: median over seeds, and the band that holds the middle "
        "half of them (25 to 75 %).",
        Numbers("learning-quartiles", joined([_quartile_columns(group) for group in groups])),
    )


def _success_pictures(groups: Sequence[Group]) -> list[Picture]:
    """A picture if all runs have recorded successes."""
    if not _have_success(groups):
        return []
    figure = Figure(figsize=(9, 3.2 + 0.22 * len(groups)), layout="constrained")
    switches = compared_successes(figure.subplots(), groups)
    ends = "; ".join(
        f"{group.name} ends at {percent(interquartile_mean(group.final(LAST_SUCCESS)).item())}" for group in groups
    )
    return [
        picture(
            figure,
            f"Success in the last episode of a trial of {len(groups)} group(s): {ends}.",
            "Success in the last episode of a trial against environment steps, with the same colours and intervals.",
            Numbers("success", joined([_interval_columns(group, LAST_SUCCESS, "success") for group in groups])),
            switches,
        )
    ]


def _interval_columns(group: Group, column: str, words: str) -> dict[str, np.ndarray]:
    values = group.values(column)
    return {**_curve_index(group), **_estimate_columns(values, f"{words} of the last episode")}


def _estimate_columns(values: Float64[np.ndarray, "seeds points"], words: str) -> dict[str, np.ndarray]:
    """The interquartile mean over seeds, and the interval; empty cells if there is none."""
    band = interval(values)
    nothing = np.full(values.shape[1], np.nan)
    return {
        f"{words}, interquartile mean": interquartile_mean(values),
        f"{words}, low end of the 95 % interval": nothing if band is None else band.low,
        f"{words}, high end of the 95 % interval": nothing if band is None else band.high,
    }


def _quartile_columns(group: Group) -> dict[str, np.ndarray]:
    low, median, high = np.quantile(group.values(LAST_EPISODE), QUARTILES, axis=0)
    return {**_curve_index(group), "return of the last episode, median": median, "25 %": low, "75 %": high}


def _curve_index(group: Group) -> dict[str, np.ndarray]:
    n = len(group.steps)
    return {
        "group": np.full(n, group.name),
        "seeds": np.full(n, len(group.curves)),
        "iteration": np.arange(n),
        "environment steps": group.steps,
    }


def _episode_columns(group: Group, column: str, words: str) -> dict[str, np.ndarray]:
    columns = episode_columns(next(iter(group.curves.values())), column)
    n = len(columns)
    return {
        "group": np.full(n, group.name),
        "episode": np.arange(1, 1 + n),
        **_estimate_columns(np.stack([group.final(each) for each in columns], axis=1), words),
    }


def _episode_pictures(groups: Sequence[Group]) -> list[Picture]:
    """A picture if episodes were recorded in any group."""
    recorded = [group for group in groups if group.has_episodes]
    if not recorded:
        return []
    columns = [FIRST_EPISODE, *([FIRST_SUCCESS] if _have_success(groups) else [])]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        compared_episodes(axes, groups, column)
    ends = "; ".join(
        f"{group.name} goes from {_middle(group, FIRST_EPISODE)} in episode 1 to {_middle(group, LAST_EPISODE)} in the "
        "last"
        for group in recorded
    )
    what = "Test return and success" if len(columns) > 1 else "Test return"
    return [
        picture(
            figure,
            f"Returns of the episodes of a trial: {ends}.",
            f"{what} of each episode of a trial after the last iteration, with the same colours and intervals.",
            Numbers("episodes", joined([_trial_columns(group, columns) for group in recorded])),
        )
    ]


def _trial_columns(group: Group, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The returns of the episodes of a trial, and the successes if they are among the columns."""
    found = _episode_columns(group, FIRST_EPISODE, "return")
    return found | _episode_columns(group, FIRST_SUCCESS, "success") if FIRST_SUCCESS in columns else found


def _middle(group: Group, column: str) -> str:
    """The interquartile mean after the last iteration."""
    return number(interquartile_mean(group.final(column)).item())


def _have_success(groups: Sequence[Group]) -> bool:
    return all(have_success(group.curves) for group in groups)


def _final_returns(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        last = group.final(LAST_EPISODE)
        first = group.final(FIRST_EPISODE) if group.has_episodes else None
        rows.append(
            [
                group.name,
                str(len(last)),
                number(group.steps[-1], 0),
                "not recorded" if first is None else _estimate(interquartile_mean(first), interval(first)),
                _estimate(interquartile_mean(last), interval(last)),
                f"{number(last.min())} to {number(last.max())}" if len(last) > 1 else number(last[0]),
                _hours(group),
            ]
        )
    head = ["group", "seeds", "environment steps", "episode 1", "last episode", "range of seeds", "hours for a seed"]
    return Table("Test returns after the last iteration: interquartile mean [95 % interval]", head, rows, numeric=True)


def _hours(group: Group) -> str:
    seconds = float(np.mean(group.final(SECONDS)))
    return number(seconds / 3600) if np.isfinite(seconds) else "not recorded"


def _final_successes(groups: Sequence[Group]) -> list[Table]:
    """A table if all runs have recorded successes."""
    if not _have_success(groups):
        return []
    rows = []
    for group in groups:
        values = [group.final(column) for column in (FIRST_SUCCESS, LAST_SUCCESS)]
        rows.append([group.name, *(_estimate(interquartile_mean(each), interval(each), percent) for each in values)])
    return [Table("Success on test tasks after the last iteration", ["group", "episode 1", "last episode"], rows, True)]


def _gap_closed(groups: Sequence[Group]) -> list[Table]:
    """A table if both reference curves of the task family are known."""
    world = _common_world(groups)
    gap = None if world is None else gap_of(world)
    if gap is None:
        return []
    rows = [[group.name, percent(gap.closed(interquartile_mean(group.final(LAST_EPISODE)).item()))] for group in groups]
    return [Table(f"Share {gap.words} that the last episode closes", ["group", "share"], rows, numeric=True)]


def _at_common_steps(groups: Sequence[Group]) -> list[Table]:
    """One table: the groups after the most environment steps that all of them have done. Empty if there is none."""
    first = max(run[STEPS][0] for group in groups for run in group.curves.values())
    common = min(run[STEPS][-1] for group in groups for run in group.curves.values())
    if len(groups) < 2 or common < first:
        return []
    returns = [group.returns_at(common) for group in groups]
    rows = [[groups[0].name, _estimate(interquartile_mean(returns[0]), interval(returns[0])), ""]]
    for group, values in zip(groups[1:], returns[1:], strict=True):
        difference = interquartile_mean(values) - interquartile_mean(returns[0])
        rows.append(
            [
                group.name,
                _estimate(interquartile_mean(values), interval(values)),
                _estimate(difference, difference_interval(values, returns[0])),
            ]
        )
    caption = f"Test returns after {number(common, 0)} environment steps, which all seeds have done"
    return [Table(caption, ["group", "last episode", f"difference to {groups[0].name}"], rows, numeric=True)]


def _estimate(value: np.ndarray | np.float64, interval: Interval | None, words: Callable[[float], str] = number) -> str:
    ends = "" if interval is None else f" [{words(interval.low.item())}, {words(interval.high.item())}]"
    return words(value.item()) + ends


def _notes(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know before comparing."""
    notes = []
    if len(groups) == 1:
        notes.append(only_group(groups[0].name, len(groups[0].curves)))
    few = [group.name for group in groups if len(group.curves) < FEWEST_RUNS]
    if few:
        notes.append(
            f"No interval for {', '.join(few)}: fewer than {FEWEST_RUNS} seeds say too little about the next seed."
        )
    if len({group.protocol for group in groups}) > 1:
        notes.append("The groups are meta-tested by different protocols: their returns are not the same measurement.")
    tasks = [test for group in groups for test in group.test_tasks or ()]
    if any(not np.array_equal(tasks[0], other) for other in tasks[1:]):
        notes.append("Not all runs have the same test tasks: returns also differ because the tasks do.")
    old = [group.name for group in groups if group.test_tasks is None]
    if old:
        notes.append(
            f"{', '.join(old)}: runs of other code, with test tasks of their own. Episode 1 of a trial and successes "
            "are only shown if that code recorded them."
        )
    unknown = [group.name for group in groups if group.experiment is None]
    if unknown:
        notes.append(f"Nobody checked that {', '.join(unknown)} are of the same task family as the others.")
    settings = {_setting(group.experiment) for group in groups if group.experiment is not None}
    if len(settings) > 1:
        notes.append(f"The groups differ in their tasks: {'; '.join(sorted(settings))}.")
    notes += [
        f"The seeds of {group.name} are of different length; all are cut to {min(group.lengths)} iterations."
        for group in groups
        if min(group.lengths) < max(group.lengths)
    ]
    return notes


def only_group(name: str, runs: int) -> str:
    """What to say if there is nothing to compare."""
    what = "one run" if runs == 1 else f"one group of {runs} runs"
    return f"This is {what}, {name}: there is nothing to compare it with. A report (nacre report) shows more of it."


def _setting(experiment: Experiment) -> str:
    """What a task is beside its family, in words."""
    options = ", ".join(f"{name} {value}" for name, value in experiment.family_options) or "the family's own options"
    return options if experiment.shift is None else f"{options}, {experiment.shift.in_words()}"
