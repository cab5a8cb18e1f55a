"""PEARL from nothing to adaptation in a few minutes: `python examples/demo.py [--seed N] [--out DIR]`.

Meta-trains on the point robot, whose hidden goal is another one in every task, lets the agent adapt to goals it was not
trained on, prints what the episodes of a trial earned, and draws where the agent went and how it learnt.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nacre import Evaluation, Experiment, Interrupted, NacreError, make_experiment, train
from nacre.loading import read_trained
from nacre.report import learning_curve, read_runs, references_of, trajectories
from nacre.run_evaluation import play_trials
from nacre.types import Episode

TRIALS = 10
"""Trials on each held-out goal."""
DRAWN = 6
"""Held-out goals in the picture, in two rows."""

Trials = list[list[list[Episode]]]
"""Episodes by held-out goal and trial."""


def demo(experiment: Experiment, out: Path) -> Path:
    """Meta-trains an experiment of the family point-robot into the run folder `out`, and shows what came of it.

    Returns:
        the picture.
    """
    console = Console(highlight=False)
    console.print(
        f"Meta-training PEARL on {experiment.train_tasks} tasks of a point robot. In each of them it has another goal, "
        "of which\nit sees nothing but its rewards. The first update waits for the compiler."
    )
    train(experiment, out)
    evaluation, trials, goals = play_held_out_goals(out)
    print_returns(console, evaluation, trials, goals)
    picture = out / "demo.png"
    draw(picture, out, evaluation, trials)
    nacre, run = nacre_command(), shlex.quote(str(out))
    for line in (
        f"\npicture     {picture}",
        f"run folder  {out}\n",
        f"next        {nacre} evaluate {run}",
        f"            {nacre} resume {run} --iterations {2 * experiment.iterations}",
    ):
        console.print(line, soft_wrap=True, markup=False)
    return picture


def play_held_out_goals(run: Path) -> tuple[Evaluation, Trials, np.ndarray]:
    """Lets the trained agent adapt to the held-out goals of its run, shape (goals, 2)."""
    trained = read_trained(run)
    experiment, goals = trained.experiment, trained.split.test
    protocol = dataclasses.replace(experiment.algorithm.protocol(trained.family.horizon), trials=TRIALS)
    evaluation, trials, _ = play_trials(trained, goals, protocol, experiment.seed)
    return evaluation, trials, goals


def print_returns(console: Console, evaluation: Evaluation, trials: Trials, goals: np.ndarray) -> None:
    """What the episodes of a trial earned, and how far from the goal they ended."""
    returns = evaluation.returns_by_episode.mean(axis=0)
    starts, distances = (mean_distances(trials, goals, place) for place in (0, -1))
    explored = evaluation.protocol.exploration_episodes

    table = Table(title=f"{len(goals)} held-out goals, {evaluation.protocol.trials} trials each", title_justify="left")
    table.add_column("episode", justify="center")
    table.add_column("goal inferred from")
    table.add_column("mean return", justify="right")
    table.add_column("final distance to the goal", justify="right")
    for index, (value, distance) in enumerate(zip(returns, distances, strict=True)):
        before = "episode 1" if index == 1 else f"episodes 1–{index}"
        if explored:
            source = "nothing, a guess" if index < explored else before
        else:
            source = f"{before}, and its own steps" if index else "its own steps so far"
        table.add_row(str(index + 1), source, f"{value:.1f}", f"{distance:.2f}")
    console.print()
    console.print(table)
    if explored:
        learnt = distances[-1] < distances[0] / 2
        sentence = f"Before inference the robot ends {distances[0]:.2f} away from the goal, after inference "
        sentence += f"{distances[-1]:.2f}"
    else:
        learnt = distances[-1] < starts[0] / 4
        sentence = "The robot infers the goal while it moves. "
        sentence += f"In episode 1 it starts {starts[0]:.2f} away from the goal and ends {distances[0]:.2f} away, "
        sentence += f"in episode {len(distances)} {distances[-1]:.2f}"
    console.print(f"{sentence}: it {'has learnt to infer the goal' if learnt else 'needs more training'}.")


def mean_distances(trials: Trials, goals: np.ndarray, place: int) -> np.ndarray:
    """How far from the goal the robot is at one place of each episode of a trial, as a mean over goals and trials."""
    seen = np.array([[[episode.observations[place] for episode in trial] for trial in of_goal] for of_goal in trials])
    return np.linalg.norm(seen - goals[:, None, None], axis=-1).mean(axis=(0, 1))


def draw(picture: Path, run: Path, evaluation: Evaluation, trials: Trials) -> None:
    """Left, one trial on each of a few held-out goals; right, the learning curve of the run."""
    goals = evaluation.tasks
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.25, 1), wspace=0.04)[0]

    shown = min(DRAWN, len(goals))
    panels = left.subplots(2, (shown + 1) // 2, sharex=True, sharey=True, squeeze=False)
    for axes, of_goal, goal in zip(panels.flat, trials, goals, strict=False):
        trajectories(axes, of_goal[0], goal)
    panels[0, 0].set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    for axes in panels[-1]:
        axes.set_xlabel("x (no unit)")
    for axes in panels[:, 0]:
        axes.set_ylabel("y (no unit)")
    left.suptitle(f"One trial on each of {shown} held-out goals", fontweight="bold")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    left.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, columnspacing=1.3)

    axes = right.subplots()
    learning_curve(axes, read_runs([run])[1], references_of("point-robot"), evaluation.protocol)
    right.suptitle("Learning curve", fontweight="bold")
    figure.savefig(picture, dpi=150)


def nacre_command() -> str:
    """How to call nacre from here: it may be in an environment that is not active."""
    beside = Path(sys.executable).with_name("nacre")
    return "nacre" if shutil.which("nacre") or not beside.exists() else os.path.relpath(beside)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, help="the run folder (default: runs/demo-<time>)")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs", f"demo-{datetime.now():%Y-%m-%d-%H-%M-%S}")
    try:
        demo(make_experiment("pearl/point-robot-quick", seed=options.seed), out)
    except NacreError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped)
        return 128 + stopped.signal
    return 0


if __name__ == "__main__":
    sys.exit(main())
