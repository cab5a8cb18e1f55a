"""Whether a change moved a learning curve: two files curve.csv of the same experiment on one page.

    python benchmarks/before_and_after.py BEFORE/curve.csv AFTER/curve.csv --labels "before" "after" --out FOLDER

Writes before-and-after.md and before-and-after.png into FOLDER. A curve is the mean over seeds with the range of seeds.
The table has the interquartile mean over seeds of the mean over the last iterations, and the bootstrap interval of the
difference, as `nacre compare` draws them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nacre.report.curves import FIRST_EPISODE, LAST_EPISODE, STEPS
from nacre.report.figures import tidy
from nacre.report.html import number
from nacre.report.intervals import difference_interval, interquartile_mean

COLOURS = ("0.45", "#0072B2")
LAST_ITERATIONS = 5


def read_curves(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """The columns of a curve.csv, by seed."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = sorted({int(row["seed"]) for row in rows})
    columns = [column for column in rows[0] if column != "seed"]
    return {
        seed: {column: np.array([float(row[column]) for row in rows if int(row["seed"]) == seed]) for column in columns}
        for seed in seeds
    }


def final(curves: dict[int, dict[str, np.ndarray]], column: str) -> np.ndarray:
    """Per seed: the mean over the last iterations."""
    return np.array([run[column][-LAST_ITERATIONS:].mean() for run in curves.values()])


def table(curves: Sequence[dict[int, dict[str, np.ndarray]]], labels: Sequence[str]) -> list[str]:
    rows = [
        f"| return on test tasks, mean of the last {LAST_ITERATIONS} iterations | {' | '.join(labels)} | difference "
        "(95 % interval) |",
        "|---|---:|---:|---:|",
    ]
    for column, name in ((FIRST_EPISODE, "episode 1"), (LAST_EPISODE, "last episode")):
        before, after = (final(group, column) for group in curves)
        means = [f"{number(float(interquartile_mean(values)), 2)}" for values in (before, after)]
        difference = number(float(interquartile_mean(after) - interquartile_mean(before)), 2)
        ends = difference_interval(after, before)
        within = "" if ends is None else f" ({number(float(ends.low), 2)} to {number(float(ends.high), 2)})"
        rows.append(f"| {name} | {' | '.join(means)} | {difference}{within} |")
    return rows


def draw(path: Path, curves: Sequence[dict[int, dict[str, np.ndarray]]], labels: Sequence[str]) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (column, name) in zip(
        figure.subplots(1, 2, sharey=True),
        ((FIRST_EPISODE, "episode 1"), (LAST_EPISODE, "last episode")),
        strict=True,
    ):
        for group, label, colour in zip(curves, labels, COLOURS, strict=True):
            steps = np.mean([run[STEPS] for run in group.values()], axis=0)
            returns = np.stack([run[column] for run in group.values()])
            axes.plot(steps, returns.mean(axis=0), color=colour, linewidth=2, label=f"{label}, {len(group)} seeds")
            axes.fill_between(steps, returns.min(axis=0), returns.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel="environment steps")
        tidy(axes)
    figure.axes[0].set_ylabel("test return (sum of an episode's rewards)")
    figure.axes[1].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs=2)
    parser.add_argument("--labels", nargs=2, default=("before", "after"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    curves = [read_curves(file) for file in options.files]
    draw(options.out / "before-and-after.png", curves, options.labels)
    page = [
        "# Before and after",
        "",
        "Written by `benchmarks/before_and_after.py`: do not edit.",
        "",
        "![Learning curves before and after](before-and-after.png)",
        "",
        *table(curves, options.labels),
        "",
        "Interquartile means over seeds. Lines are means over seeds, and bands go from the lowest to the highest seed.",
        "",
    ]
    (options.out / "before-and-after.md").write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page[6:-1]))


if __name__ == "__main__":
    main()
