"""What several seeds cost: one alone, several in one process, and as many in processes of their own, one after another.

    python benchmarks/seeds.py [EXPERIMENT] [--seeds 5] [--iterations 3] [--out FILE.json] [--update-chunk 10 ...]
    python benchmarks/seeds.py --rounding 1 10 30 [--out FILE.json]

Runs `nacre train` as a user would, by default `pearl/cheetah-vel` with 100 gradient steps in an iteration; flags that
it does not know itself are fields of the configuration. The programs are compiled beforehand, once for one seed and
once for several, into a cache of the benchmark's own, by short runs that are not counted. An iteration is a later one:
the first also holds the initial collection. The whole is from the command to its end.

The second form measures instead how far gradient steps of two seeds in one call, as a GPU takes them, are from those of
each seed alone, after so many steps at the half-cheetah-velocity shapes: norm of the difference over norm of the
parameters, for each network. Both kinds run on the device that JAX chooses, and begin with the same state.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from learner import EXPERIMENT, SIZES, random_replay
from machine import machine
from rich.console import Console
from rich.table import Table

from nacre.agents.pearl.learner import PearlLearner
from nacre.gradient_steps import update, update_batched
from nacre.run_folder import versions

UPDATES = ["--updates-per-iteration", "100", "--update-chunk", "50"]
PHASES = {"collection": "Sample Time (s)", "gradient steps": "Train Time (s)", "evaluation": "(Previous) Eval Time (s)"}


def train(arguments: Sequence[str], out: Path, cache: Path) -> float:
    """One process of `nacre train`; returns its seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "nacre.cli", "train", *arguments, "--out", str(out)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def iteration_seconds(run: Path) -> dict[str, float]:
    """Means over all iterations of a run but the first."""
    with (run / "progress.csv").open(newline="") as file:
        _, *rows = csv.DictReader(file)
    phases = {phase: float(np.mean([float(row[column]) for row in rows])) for phase, column in PHASES.items()}
    return {**phases, "iteration": sum(phases.values())}


def measure(arguments: Sequence[str], seeds: int, iterations: int, scratch: Path) -> dict[str, dict[str, float]]:
    """Seconds of each way to train: per iteration, by phase, and as a whole."""
    cache = scratch / "cache"
    together = ["--seeds", str(seeds)]
    for number, several in enumerate(([], together)):  # compiles
        train([*arguments, *several, "--iterations", "2"], scratch / f"compiling {number}", cache)
    arguments = [*arguments, "--iterations", str(iterations)]
    whole = train([*arguments, *together], scratch / "together", cache)
    results = {f"{seeds} seeds, one process": {**iteration_seconds(scratch / "together" / "seed-0"), "whole": whole}}
    wholes: list[float] = []
    apart: list[dict[str, float]] = []
    for seed in range(seeds):
        run = scratch / f"alone {seed}"
        wholes.append(train([*arguments, "--seed", str(seed)], run, cache))
        apart.append(iteration_seconds(run))
    means = {quantity: float(np.mean([run[quantity] for run in apart])) for quantity in apart[0]}
    one = {**means, "whole": float(np.mean(wholes))}
    return {
        "1 seed": one,
        **results,
        f"{seeds} processes, one after another": {quantity: seeds * value for quantity, value in one.items()},
    }


def rounding(steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Relative differences of the networks, the larger of two seeds, by the number of gradient steps."""
    learner = PearlLearner(EXPERIMENT.algorithm, SIZES)
    replays = tuple(random_replay().arrays for _ in range(2))
    alone = [jax.jit(learner.initial_state)(jax.random.key(seed)) for seed in range(2)]
    together = jax.tree.map(jnp.copy, alone)
    results: dict[str, dict[str, float]] = {}
    for step in range(1, max(steps) + 1):
        alone = [
            update(learner, "update", state, replay, None, 1)[0] for state, replay in zip(alone, replays, strict=True)
        ]
        together = [state for state, _ in update_batched(learner, "update", tuple(together), replays, (None, None), 1)]
        if step in steps:
            results[str(step)] = {
                name: max(
                    _relative_difference(getattr(one.trained.networks, name), getattr(other.trained.networks, name))
                    for one, other in zip(together, alone, strict=True)
                )
                for name in ("encoder", "policy", "critics", "value")
            }
    return results


def _relative_difference(found: Any, expected: Any) -> float:
    difference = jax.tree.map(jnp.subtract, found, expected)
    return float(optax.tree.norm(difference) / optax.tree.norm(expected))


def show_rounding(results: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"relative difference between gradient steps in one call and alone\n{machine()}")
    networks = next(iter(results.values()))
    for column in ("steps", *networks):
        table.add_column(column, justify="right")
    for steps, differences in results.items():
        table.add_row(steps, *(f"{value:.1e}" for value in differences.values()))
    Console().print(table)


def show(results: dict[str, dict[str, float]], title: str) -> None:
    table = Table(title=f"{title}\n{machine()}")
    table.add_column("seconds")
    for name in results:
        table.add_column(name, justify="right")
    table.add_column("of 1 seed", justify="right")
    one, together, _ = results.values()
    for quantity in one:
        row = (f"{result[quantity]:.2f}" for result in results.values())
        table.add_row(quantity, *row, f"{together[quantity] / one[quantity]:.2f} x")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("experiment", nargs="?", default="pearl/cheetah-vel")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=3, help="at least 2; the first is not counted")
    parser.add_argument("--rounding", type=int, nargs="+", metavar="STEPS", help="compare numbers instead of times")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    options, fields = parser.parse_known_args()
    if options.rounding:
        differences = rounding(options.rounding)
        show_rounding(differences)
        store({"relative differences": differences, "versions": versions()}, options.out)
        return
    if options.seeds < 2 or options.iterations < 2:
        parser.error("--seeds and --iterations are at least 2")
    # Flags that come later win.
    arguments = [options.experiment, *UPDATES, *fields]
    with tempfile.TemporaryDirectory() as scratch:
        results: dict[str, Any] = measure(arguments, options.seeds, options.iterations, Path(scratch))
    show(results, " ".join(["nacre train", *arguments, "--iterations", str(options.iterations)]))
    content = {"arguments": arguments, "iterations": options.iterations, "seconds": results, "versions": versions()}
    store(content, options.out)


def store(content: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
