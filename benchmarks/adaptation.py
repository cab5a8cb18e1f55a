"""Compare how trained runs adapt, episode by episode of a trial, in a family with a sparse reward.

    python benchmarks/adaptation.py probabilistic=runs/p/seed-0 deterministic=runs/d/seed-0 --results results/somewhere

Each run is meta-tested on its test tasks as its experiment says. Three figures for each episode of a trial: the share
of trials that have met the goal by then, the share that meet it in that very episode, and the mean sparse return.
Written to adaptation.csv, adaptation.png and ADAPTATION.md in the folder of the results.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nacre import Evaluation, NacreError, evaluate
from nacre.files import make_folder, write_atomically
from nacre.report.figures import tidy

Columns = dict[str, Float[np.ndarray, " episodes"]]

MET_BY_NOW, MET, RETURN = "met the goal by now", "meets the goal", "sparse return"


def adaptation(evaluation: Evaluation) -> Columns:
    """What happens in each episode of a trial, averaged over tasks and trials.

    Raises:
        NacreError: the family defines no success.
    """
    trials = [trial for trials in evaluation.trials for trial in trials]
    episodes = evaluation.returns_by_episode.shape[1]
    successes = [trial.successes[:episodes] for trial in trials if trial.successes is not None]
    if not successes:
        raise NacreError("the runs are of a family that defines no success: nothing tells whether the goal was met")
    met = np.array(successes)
    return {
        MET_BY_NOW: np.logical_or.accumulate(met, axis=1).mean(axis=0),
        MET: met.mean(axis=0),
        RETURN: evaluation.returns_by_episode.mean(axis=0),
    }


def draw(results: Mapping[str, Columns], exploration_episodes: int) -> Figure:
    """One panel for each column, one line for each run."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, (column, label) in zip(
        figure.subplots(1, 3, sharex=True),
        (
            (MET_BY_NOW, "trials that have met the goal so far"),
            (MET, "trials that meet it in this episode"),
            (RETURN, "sparse return of the episode"),
        ),
        strict=True,
    ):
        for (name, columns), colour in zip(results.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False):
            values = columns[column]
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=4, color=colour, label=name)
        axes.axvline(exploration_episodes + 0.5, color="0.35", linewidth=1, linestyle=(0, (5, 4)), zorder=0)
        axes.set(xlabel="episode of a trial", ylabel=label)
        if column != RETURN:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        tidy(axes)
    handles, labels = axes.get_legend_handles_labels()
    title = f"z from the prior in the first {exploration_episodes} episodes, then (dashed line) from the posterior"
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, title=title)
    return figure


def table(results: Mapping[str, Columns]) -> list[str]:
    """The figures of some episodes, in Markdown."""
    episodes = min(len(columns[RETURN]) for columns in results.values())
    shown = [number for number in (1, 2, 3, 4, 5, 6, 7, 10, 15, 20) if number <= episodes]
    lines = ["| | " + " | ".join(f"ep. {number}" for number in shown) + " |", "|---|" + "---:|" * len(shown)]
    for name, columns in results.items():
        for column, form in ((MET_BY_NOW, "{:.0%}"), (MET, "{:.0%}"), (RETURN, "{:.1f}")):
            cells = " | ".join(form.format(columns[column][number - 1]) for number in shown)
            lines.append(f"| {name}: {column} | {cells} |")
    return lines


def write(results: Mapping[str, Columns], evaluation: Evaluation, command: str, folder: Path) -> None:
    """adaptation.csv, adaptation.png and ADAPTATION.md."""
    protocol = evaluation.protocol
    make_folder(folder)
    draw(results, protocol.exploration_episodes).savefig(folder / "adaptation.png", dpi=130)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "episode", *next(iter(results.values()))])
    for name, columns in results.items():
        for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
            writer.writerow([name, number, *(f"{value:.6g}" for value in row)])
    write_atomically(folder / "adaptation.csv", text.getvalue().encode())
    lines = [
        "# Adaptation, episode by episode of a trial\n",
        "Written by `benchmarks/adaptation.py`: do not edit.\n",
        "![What happens in each episode of a trial](adaptation.png)\n",
        f"{len(evaluation.tasks)} test tasks, {protocol.trials} trials of each. Protocol: {protocol.name}. z is drawn "
        f"from the prior in the first {protocol.exploration_episodes} episodes of a trial, then from the posterior.\n",
        *table(results),
        f"\nCommand: `{command}`\n",
    ]
    write_atomically(folder / "ADAPTATION.md", "\n".join(lines).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="run folders, and what to call them")
    parser.add_argument("--trials", type=int, default=20, help="trials per test task")
    parser.add_argument("--checkpoint", default="latest", help="which checkpoint of each run")
    parser.add_argument("--results", type=Path, required=True, help="the folder to write")
    options = parser.parse_args(arguments)
    named = dict(each.partition("=")[::2] for each in options.runs)
    if len(named) < len(options.runs) or not all(named.values()):
        parser.error("give each run as NAME=RUN, under a name of its own")
    try:
        evaluations = {
            name: evaluate(run, trials=options.trials, checkpoint=options.checkpoint) for name, run in named.items()
        }
        protocols = {evaluation.protocol for evaluation in evaluations.values()}
        if len(protocols) > 1:
            raise NacreError("the runs are meta-tested by different protocols, so their episodes cannot be compared")
        results = {name: adaptation(evaluation) for name, evaluation in evaluations.items()}
        command = f"python benchmarks/adaptation.py {' '.join(options.runs)} --trials {options.trials}"
        write(results, next(iter(evaluations.values())), f"{command} --results {options.results}", options.results)
        print("\n".join(table(results)))
        print(f"Written to {options.results}")
    except NacreError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
