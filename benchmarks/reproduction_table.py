"""Write the reproduction table from what is in results/, into README.md and docs/reproduction.md.

    python benchmarks/reproduction_table.py [--check]

In docs/ one row for each published experiment, each of the paper's ablations and those from pixels: what was run, what
came of it, and what others measured. An experiment without results is "not run", with the command that runs it. In the
README the rows of IN_README alone. With --check nothing is written: the exit status says whether both tables are up to
date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nacre.experiments import Experiment, named_experiments
from nacre.experiments.dmrlad import ABLATIONS
from nacre.experiments.experiment import world_of
from nacre.report import REFERENCES, Curves, Level, PublishedCurve, gap_of, read_curves, references_of
from nacre.report.curves import FIRST_EPISODE, LAST_EPISODE, STEPS, cut_to_shortest
from nacre.report.intervals import interquartile_mean, interval

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- Written by benchmarks/reproduction_table.py: do not edit from here ... -->"
END = "<!-- ... to here. -->"
ELSEWHERE = {
    "pearl/sparse-point-robot": "pearl/sparse-point-robot-kl-4",
    "pearl/sparse-point-robot-deterministic-context": "pearl/sparse-point-robot-deterministic",
}
"""Folders of results that are not named as the experiment."""
IN_README = (
    "pearl/point-robot-quick",
    "cemrl/point-robot-quick",
    "pearl/cheetah-vel-fast",
    "pearl/cheetah-dir-fast",
    "pearl/cheetah-vel",
)
LENGTH = {"iterations", "precision"}
"""Fields that may differ from the published ones without the experiment being another one."""


class Result(NamedTuple):
    """What is in a folder of results."""

    folder: str
    curves: Curves
    precision: str
    changed: tuple[str, ...]
    """Fields that are not as published, apart from LENGTH."""


def read_result(experiment: Experiment) -> Result | None:
    """The results of an experiment; None: it was not run."""
    folder = f"results/{ELSEWHERE.get(experiment.name, experiment.name)}"
    if not (ROOT / folder / "curve.csv").exists():
        return None
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    precision = re.search(r"^\| precision \| (\w+) \|$", page, re.MULTILINE)
    if precision is None:
        raise SystemExit(f"{folder}/README.md does not say in which precision its runs were trained")
    configuration = page.partition("## Configuration")[2]
    changed = set(re.findall(r"^\| `(\w+)` \|", configuration, re.MULTILINE)) - LENGTH
    return Result(folder, cut_to_shortest(read_curves(ROOT / folder / "curve.csv")), precision[1], tuple(changed))


def is_ablation(experiment: Experiment) -> bool:
    """Whether the configuration is not that of the algorithm's own experiment of the family, nor a quick one."""
    if is_quick(experiment):
        return False
    published = named_experiments().get(f"{kind(experiment)}/{experiment.family}")
    if published is None or world_of(published.experiment) != world_of(experiment):
        return False
    return experiment.algorithm != published.experiment.algorithm


def is_quick(experiment: Experiment) -> bool:
    """Whether it is one of our own, in minutes."""
    return any(part in ("quick", "small", "fast") for part in experiment.name.split("-"))


def kind(experiment: Experiment) -> str:
    """The name of the algorithm."""
    return experiment.name.partition("/")[0]


def named() -> list[Experiment]:
    """The experiments that have a row: those of algorithms of which others published curves, without the quick ones."""
    listed = [entry.experiment for entry in named_experiments().values() if not is_quick(entry.experiment)]
    curves = (it for entries in REFERENCES.values() for it in entries if isinstance(it, PublishedCurve))
    published = {curve.algorithm for curve in curves}
    return [it for it in listed if kind(it) in published]


def row(experiment: Experiment, link: bool) -> str:
    """`link`: the page of the results is linked, not only named, and sources of the numbers of others are left out."""
    result = read_result(experiment)
    budget = count(experiment.environment_steps)
    if result is None:
        command = f"`python benchmarks/reproduce.py {experiment.name} --seeds 1 2 3`"
        cells = [budget, "", "", "not run", others(experiment, None), command]
    else:
        steps = int(min(run[STEPS][-1] for run in result.curves.values()))
        what = [budget if is_quick(experiment) else f"{count(steps)} of {budget}"]
        if result.precision != "float32":
            what.append(result.precision)
        if result.changed and not is_quick(experiment):
            what.append("changed configuration")
        cells = [
            ", ".join(what),
            str(len(result.curves)),
            final(result.curves, FIRST_EPISODE),
            final(result.curves, LAST_EPISODE) + share_of_gap(experiment, result.curves),
            re.sub(r" \[\d+\]", "", others(experiment, steps)) if link else others(experiment, steps),
            f"[page]({result.folder}/README.md)" if link else f"`{result.folder}`",
        ]
    return " | ".join([f"| `{experiment.name}`", *cells]) + " |"


def final(curves: Curves, column: str) -> str:
    """The interquartile mean over seeds after the last iteration, with its interval if there are enough seeds."""
    values = np.array([run[column][-1] for run in curves.values()])
    mean = number(float(interquartile_mean(values)))
    ends = interval(values)
    return mean if ends is None else f"{mean} ({number(float(ends.low))} to {number(float(ends.high))})"


def share_of_gap(experiment: Experiment, curves: Curves) -> str:
    """Which share of the gap between "told nothing" and "given the task" the last episode closes, if that is known."""
    gap = gap_of(experiment)
    if gap is None:
        return ""
    values = np.array([run[LAST_EPISODE][-1] for run in curves.values()])
    return f"; {100 * gap.closed(float(interquartile_mean(values))):.0f} % of the gap"


def others(experiment: Experiment, steps: int | None) -> str:
    """What others measured with the algorithm nearest to `steps`, and at their end; and what is possible with the task
    and without it, by the reference curves or computed."""
    references = references_of(experiment)
    curves = [curve for curve in references if isinstance(curve, PublishedCurve) and is_of(curve, experiment)]
    if is_ablation(experiment) and not curves:
        return f"curves without numbers in the paper; beside `{kind(experiment)}/{experiment.family}`"
    found: list[str] = []
    for curve in curves:
        nearest = min(curve.points, key=lambda point: abs(point[0] - (steps or 0)))
        points = dict.fromkeys(([] if steps is None else [nearest]) + [curve.points[-1]])
        values = "; ".join(f"{number(value)} at {count(at)}" for at, value in points)
        found.append(f"{values} [{notes().index(note(curve)) + 1}]")
    levels = [it for it in references if isinstance(it, Level) and (it.bound or not found)]
    beside = "; ".join(f"{number(level.value)} {level.label}" for level in levels)
    return "<br>".join([*(found or ["no published numbers"]), *([beside] if beside else [])])


def is_of(curve: PublishedCurve, experiment: Experiment) -> bool:
    """Whether an experiment is what the curve was made with."""
    if curve.experiment or is_thesis_ablation(experiment):
        return curve.experiment == experiment.name
    return curve.algorithm == kind(experiment) and not is_ablation(experiment)


def is_thesis_ablation(experiment: Experiment) -> bool:
    """Whether it is an ablation that stands beside every experiment of DMRLAD."""
    return kind(experiment) == "dmrlad" and experiment.name.endswith(tuple(filter(None, ABLATIONS)))


def note(curve: PublishedCurve) -> str:
    return f"{curve.label}: {curve.source}."


def notes() -> list[str]:
    """The sources of the published numbers, in the order of the rows."""
    worlds = dict.fromkeys(world_of(experiment) for experiment in named())
    curves = (it for world in worlds for it in REFERENCES.get(world, ()) if isinstance(it, PublishedCurve))
    return list(dict.fromkeys(note(curve) for curve in curves))


def number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0").replace("-", "−")


def count(steps: float) -> str:
    """Steps in millions, with at most three digits below the point."""
    return f"{steps / 1e6:.3f}".rstrip("0").rstrip(".") + " M"


def table(short: bool) -> str:
    """`short`: for the README."""
    experiments = [named_experiments()[name].experiment for name in IN_README] if short else named()
    sources = [] if short else [*(f"{number}. {text}" for number, text in enumerate(notes(), start=1)), ""]
    return "\n".join(
        [
            BEGIN,
            "",
            "| experiment | env steps | seeds | episode 1 | last episode | of others | source |",
            "|---|---:|---:|---:|---:|---|---|",
            *(row(experiment, link=short) for experiment in experiments),
            "",
            *sources,
            END,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    check = parser.parse_args(arguments).check
    stale = False
    for path, in_readme in ((ROOT / "README.md", True), (ROOT / "docs" / "reproduction.md", False)):
        text = path.read_text(encoding="utf-8")
        before, found, rest = text.partition(BEGIN)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            raise SystemExit(f"{path} has no place for the table: the lines {BEGIN} and {END}")
        written = before + table(short=in_readme) + after
        if written == text:
            continue
        stale = True
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run python benchmarks/reproduction_table.py")
        else:
            path.write_text(written, encoding="utf-8")
            print(f"Written to {path.relative_to(ROOT)}")
    return int(stale and check)


if __name__ == "__main__":
    sys.exit(main())
