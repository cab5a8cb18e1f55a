"""Seconds from `nacre train` to the first update, and the speed of collecting and evaluating.

    python benchmarks/startup.py [--out FILE.json]

Runs `nacre train pearl/cheetah-vel` twice as a user would, with two iterations of one chunk of ten updates: first with
an empty compilation cache, then with the cache that the first run left. The figures of the second iteration, in which
nothing is compiled, give environment steps per second with the published policy in the loop.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from rich.console import Console
from rich.table import Table

from nacre.experiments import make_experiment

EXPERIMENT = "pearl/cheetah-vel"
UPDATES = 10


def run_once(folder: Path, cache: Path) -> dict[str, float]:
    """One training process; times in seconds, speeds in environment steps per second."""
    command = [sys.executable, "-m", "nacre.cli", "train", EXPERIMENT, "--out", str(folder), "--iterations", "2"]
    command += ["--updates-per-iteration", str(UPDATES), "--update-chunk", str(UPDATES)]
    start = time.time()
    subprocess.run(
        command, env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}, check=True, capture_output=True
    )
    with (folder / "progress.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    config = make_experiment(EXPERIMENT).algorithm
    tasks = make_experiment(EXPERIMENT).test_tasks
    # Online trials on test tasks and as many train tasks, and the offline rollouts on the latter.
    evaluated = 2 * tasks * config.evaluation_trials * config.evaluation_steps + tasks * config.evaluation_steps
    collected = float(second["Number of env steps total"]) - float(first["Number of env steps total"])
    collecting, evaluating = float(second["Sample Time (s)"]), float(second["(Previous) Eval Time (s)"])
    # The journal's segment is written when the iteration ends: after its updates and its evaluation.
    first_end = (folder / "replay" / "segment_000000.npz").stat().st_mtime - start
    first_update = first_end - float(first["Train Time (s)"]) - float(first["(Previous) Eval Time (s)"])
    return {
        "to the first update": first_update,
        "until the first chunk of updates is done": first_update + float(first["Train Time (s)"]),
        "collection of an iteration": collecting,
        "evaluation of an iteration": evaluating,
        "environment steps per second, both": (collected + evaluated) / (collecting + evaluating),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "cache")
        results = {name: run_once(Path(scratch, name), cache) for name in ("empty cache", "warm cache")}
    table = Table(title=f"{EXPERIMENT}, seconds unless said otherwise\n{machine()}")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for quantity in results["empty cache"]:
        table.add_row(quantity, *(f"{result[quantity]:,.1f}" for result in results.values()))
    Console().print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
