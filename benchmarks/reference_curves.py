"""Write the reference curves that nacre draws beside others, from what is in results/.

    python benchmarks/reference_curves.py [--check]

An agent that is given the true task is the upper reference of its task family, and one that is told nothing the lower.
Their curves are means over seeds of results/<algorithm>/<experiment>/curve.csv, of the experiment that has the name of
the family, or that name with -fast or -quick: of these the one that ends highest, as both say what is possible. What is
seen in pictures has the references of the same family from positions.
With --check nothing is written: the exit status says whether the file in the package is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nacre.experiments import named_experiments
from nacre.report import read_curves
from nacre.report.curves import LAST_EPISODE, STEPS, cut_to_shortest
from nacre.tasks import list_families

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
WRITTEN = ROOT / "src" / "nacre" / "report" / "reference_curves.json"
ALGORITHMS = {
    "oracle": {"label": "given the task", "bound": "upper"},
    "blind": {"label": "told nothing", "bound": "lower"},
}
MOST_POINTS = 100
OURS = frozenset(list_families())


def reference_curves(results: Path) -> dict[str, list[dict[str, Any]]]:
    """The content of the file: curves by task family."""
    found: dict[str, list[dict[str, Any]]] = {}
    experiments = [entry.experiment for entry in named_experiments().values()]
    seen = {each.family for each in experiments if each.family.removesuffix("-pixels") in OURS}
    for family in sorted(OURS | seen):
        for algorithm, words in ALGORITHMS.items():
            for names in _experiments(family):
                paths = {f"results/{algorithm}/{name}": results / algorithm / name / "curve.csv" for name in names}
                if curves := [read_curve(path, folder) for folder, path in paths.items() if path.exists()]:
                    highest = max(curves, key=lambda curve: curve["points"][-1][1])
                    found.setdefault(family, []).append(words | highest)
                    break
    return found


def _experiments(family: str) -> list[list[str]]:
    """The names of experiments whose curves serve a family: of the family itself, or else the same from positions."""
    families = dict.fromkeys([family, family.removesuffix("-pixels")])
    return [[name, f"{name}-fast", f"{name}-quick"] for name in families]


def read_curve(path: Path, folder: str) -> dict[str, Any]:
    """The mean over seeds of the last episode's return, at evenly spaced iterations that include the last."""
    runs = cut_to_shortest(read_curves(path)).values()
    steps, returns = (np.mean([run[column] for run in runs], axis=0) for column in (STEPS, LAST_EPISODE))
    kept = np.unique(np.linspace(len(steps) - 1, 0, min(MOST_POINTS, len(steps))).round().astype(int))
    seeds = f"{len(runs)} seed{'' if len(runs) == 1 else 's'}"
    return {
        "source": f"our own runs, mean over {seeds} ({folder})",
        "points": [[round(float(steps[index])), round(float(returns[index]), 3)] for index in kept],
    }


def content(results: Path = RESULTS) -> str:
    """The file: a line per curve, so that changes can be read."""
    families = [
        f"  {json.dumps(family)}: [\n" + ",\n".join(f"    {json.dumps(curve)}" for curve in curves) + "\n  ]"
        for family, curves in reference_curves(results).items()
    ]
    return "{\n" + ",\n".join(families) + "\n}\n" if families else "{}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of date")
    check = parser.parse_args(arguments).check
    if WRITTEN.read_text(encoding="utf-8") == content():
        return 0
    if check:
        print(f"{WRITTEN.relative_to(ROOT)} is out of date: run python benchmarks/reference_curves.py")
        return 1
    WRITTEN.write_text(content(), encoding="utf-8")
    print(f"Written to {WRITTEN.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
