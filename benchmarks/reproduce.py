"""Train an experiment over several seeds, and write down what came of it.

    python benchmarks/reproduce.py pearl/point-robot-quick --seeds 0 1 2 3 4 --out runs/quick [--iterations 10 ...]
    python benchmarks/reproduce.py --runs runs/monday runs/tuesday

The first form trains one run per seed, one after another, in DIR/seed-<seed>; what is there already is kept, and
resumed where it is incomplete. Any field of the configuration is a flag. The second form takes runs as they are. Both
write curve.csv, curve.png and README.md into results/<algorithm>/<task>/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from nacre import Experiment, Interrupted, NacreError, make_experiment, resume, train
from nacre.cli import registry
from nacre.experiments import named_experiments
from nacre.files import make_folder, write_atomically
from nacre.logs import CSV, read_progress_csv
from nacre.report import Curves, Level, PublishedCurve, gap_of, learning_curve, read_runs, references_of, write_curves
from nacre.report.curves import (
    EPOCH,
    LAST_EPISODE,
    SECONDS,
    STEPS,
    UPDATES,
    comparable,
    cut_to_shortest,
    episode_columns,
    flat_fields,
    same_experiment,
)
from nacre.report.trials import protocol_of
from nacre.run_folder import EXPERIMENT, read_run, versions
from nacre.tasks.simulator import physical_cores

RESULTS = Path(__file__).parents[1] / "results"


def train_seeds(experiment: Experiment, seeds: Sequence[int], out: Path) -> list[Path]:
    """Brings the runs of all seeds to the experiment's number of iterations; returns their folders."""
    runs = [out / f"seed-{seed}" for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        wanted = dataclasses.replace(experiment, seed=seed)
        if not (run / EXPERIMENT).exists():
            train(wanted, run)
            continue
        found = read_run(run)[0]
        if found.seed != seed or not same_experiment(found, wanted):
            raise NacreError(f"{run} holds a run of another configuration: choose another folder with --out")
        complete = len(read_progress_csv(run / CSV)[EPOCH]) if (run / CSV).exists() else 0
        if complete < wanted.iterations:
            resume(run, wanted.iterations)
    return runs


def write_results(runs: Sequence[Path], results: Path | None = None) -> Path:
    """Writes curve.csv, curve.png and README.md about the runs, which differ in nothing but their seeds.

    Returns:
        the folder: `results`, or by default results/<name of the experiment>.
    """
    experiments, curves = read_runs(runs)
    experiment = experiments[0]
    if experiment.name not in named_experiments():
        raise NacreError(f"{runs[0]} is a run of {experiment.name}, which is not a named experiment")
    folder = RESULTS / experiment.name if results is None else results
    make_folder(folder)
    write_curves(folder / "curve.csv", curves)
    common = cut_to_shortest(curves)
    iterations = len(next(iter(common.values()))[EPOCH])  # some runs may go on, and some were made longer
    experiments = [dataclasses.replace(each, iterations=iterations) for each in experiments]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    learning_curve(figure.subplots(), curves, references_of(experiment), protocol_of(experiment))
    figure.suptitle(experiment.name, fontweight="bold")
    figure.savefig(folder / "curve.png", dpi=130)
    write_atomically(
        folder / "README.md",
        page(experiments, common, [recorded_versions(run) for run in runs]).encode(),
    )
    return folder


def page(experiments: Sequence[Experiment], curves: Curves, recorded: Sequence[dict[str, Any]]) -> str:
    """README.md of a results folder, from curves of equal length."""
    experiment = experiments[0]
    kind, references = experiment.name.partition("/")[0], references_of(experiment)
    published = [it for it in references if isinstance(it, PublishedCurve) and it.algorithm == kind]
    return "\n".join(
        [
            f"# {experiment.name}\n",
            "Written by `benchmarks/reproduce.py`: do not edit.\n",
            "![Return on test tasks against environment steps](curve.png)\n",
            *facts(experiments, curves, recorded),
            "\n## Final returns\n",
            *final_returns(experiment, curves),
            "\n## Beside the numbers of others\n",
            *published_comparison(published, curves),
            *level_comparison([it for it in references if isinstance(it, Level)], curves),
            *gap_closed(experiment, curves),
            "\n## Configuration\n",
            *configuration(experiment),
            "",
        ]
    )


def facts(experiments: Sequence[Experiment], curves: Curves, recorded: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers come from."""

    def each(name: str) -> str:
        return ", ".join(dict.fromkeys(str(run.get(name) or "not recorded") for run in recorded))

    cores = f", {physical_cores()} physical cores" if each("cpu") == versions()["cpu"] else ""
    packages = ("nacre", "python", "jax", "equinox", "optax", "mujoco", "gymnasium", "numpy")
    run = next(iter(curves.values()))
    minutes = [run[SECONDS][-1] / 60 for run in curves.values()]
    return [
        "| | |",
        "|---|---|",
        f"| command | `{command(experiments)}` |",
        f"| machine | {each('cpu')}{cores} |",
        f"| device | {each('device')} |",
        f"| precision | {experiments[0].precision} |",
        f"| iterations | {experiments[0].iterations} |",
        f"| environment steps | {run[STEPS][-1]:,.0f} |",
        f"| gradient steps | {run[UPDATES][-1]:,.0f} |",
        f"| minutes for a seed | {span(minutes)} |",
        f"| git commit | {each('git_commit')} |",
        f"| versions | {'; '.join(f'{package} {each(package)}' for package in packages)} |",
    ]


def command(experiments: Sequence[Experiment]) -> str:
    """The command that trains these experiments."""
    experiment = experiments[0]
    flags: list[str] = []
    for field, (value, _) in differences(experiment, make_experiment(experiment.name)).items():
        flag = field.replace("_", "-")
        flags.append(f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}")
    seeds = " ".join(str(each.seed) for each in experiments)
    return " ".join(["python benchmarks/reproduce.py", experiment.name, "--seeds", seeds, *flags])


def differences(experiment: Experiment, other: Experiment) -> dict[str, tuple[Any, Any]]:
    """The fields of the experiment and its algorithm that change a curve and are not as in the other: both values."""

    def fields(experiment: Experiment) -> dict[str, Any]:
        return flat_fields(dataclasses.replace(comparable(experiment), iterations=experiment.iterations, name=""))

    theirs = fields(other)
    return {field: (value, theirs[field]) for field, value in fields(experiment).items() if value != theirs[field]}


def final_returns(experiment: Experiment, curves: Curves) -> list[str]:
    """A table: return of each episode of a trial, by seed, after the last iteration."""
    protocol = protocol_of(experiment)
    columns = episode_columns(next(iter(curves.values())))
    exploration = protocol.exploration_episodes
    rows = [
        (f"{number}{', task unknown' if number <= exploration else ''}", [run[column][-1] for run in curves.values()])
        for number, column in enumerate(columns, start=1)
    ]
    return [
        f"By episode of a trial, after the last iteration: mean over {experiment.test_tasks} test tasks and "
        f"{protocol.trials} trial(s) of each. Protocol: {protocol.name}.\n",
        "| episode | mean | " + " | ".join(f"seed {seed}" for seed in curves) + " |",
        "|---|" + "---:|" * (1 + len(curves)),
        *(
            f"| {episode} | {np.mean(returns):.1f} | " + " | ".join(f"{value:.1f}" for value in returns) + " |"
            for episode, returns in rows
        ),
    ]


def published_comparison(published: Sequence[PublishedCurve], curves: Curves) -> list[str]:
    """Published numbers and ours at the same steps, and whether ours match at the last point that both have."""
    if not published:
        return ["There are no published numbers for this task family.\n"]
    first = max(run[STEPS][0] for run in curves.values())
    last = min(run[STEPS][-1] for run in curves.values())
    lines: list[str] = []
    for curve in published:
        lines.append(f"**{curve.label}** ({curve.source}).\n")
        points = [(steps, theirs) for steps, theirs in curve.points if first <= steps <= last]
        if not points:
            begin = curve.points[0][0]
            lines.append(f"No comparison: theirs begins at {begin:,.0f} environment steps, ours ends at {last:,.0f}.\n")
            continue
        lines += ["| environment steps | theirs | ours |", "|---:|---:|---:|"]
        for steps, theirs in points:
            ours = np.array([np.interp(steps, run[STEPS], run[LAST_EPISODE]) for run in curves.values()])
            lines.append(f"| {steps:,.0f} | {theirs:.1f} | {span(ours)} |")
        lines.append(f"\n{verdict(*points[-1], ours)}\n")
    return lines


def verdict(steps: float, theirs: float, ours: np.ndarray) -> str:
    """Whether our returns, one per seed, match one of theirs."""
    if ours.mean() >= theirs:
        judgement = f"Matches: at {steps:,.0f} environment steps our mean is higher by"
    elif ours.max() >= theirs:
        judgement = f"Our best seed matches, the mean does not: at {steps:,.0f} environment steps it is lower by"
    else:
        judgement = f"Does not match: at {steps:,.0f} environment steps our mean is lower by"
    return f"{judgement} {abs(ours.mean() - theirs):.1f}."


def level_comparison(levels: Sequence[Level], curves: Curves) -> list[str]:
    """What is possible without knowing the task, or with knowing it, and our last episode between them."""
    ours = [run[LAST_EPISODE][-1] for run in curves.values()]
    rows = [(level.value, level.label, level.source) for level in levels]
    rows.append((float(np.mean(ours)), "**ours, last episode**", "mean over seeds, after the last iteration"))
    table = [f"| {value:.1f} | {label} | {source} |" for value, label, source in sorted(rows, reverse=True)]
    return ["| return | of | known from |", "|---:|---|---|", *table]


def gap_closed(experiment: Experiment, curves: Curves) -> list[str]:
    """The share of what lies between the two reference curves, if there are both and the experiment is neither."""
    gap = gap_of(experiment)
    if gap is None or experiment.name.startswith(("oracle/", "blind/")):
        return []
    last = float(np.mean([run[LAST_EPISODE][-1] for run in curves.values()]))
    return [f"\nThe last episode closes **{gap.closed(last):.0%}** {gap.words}."]


def configuration(experiment: Experiment) -> list[str]:
    """What is not as in the algorithm's experiment of the family, or if there is none in the named experiment."""
    of_family = f"{experiment.name.partition('/')[0]}/{experiment.family}"
    published = make_experiment(of_family if of_family in named_experiments() else experiment.name)
    changed = differences(experiment, published)
    if not changed:
        return [f"That of `{published.name}`."]
    return [
        f"That of `{published.name}`, except for:\n",
        "| field | there | here |",
        "|---|---|---|",
        *(f"| `{field}` | {theirs} | {ours} |" for field, (ours, theirs) in changed.items()),
    ]


def span(values: Sequence[float] | np.ndarray) -> str:
    """The mean, and the range if there is one."""
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({np.min(values):.1f} to {np.max(values):.1f})"


def recorded_versions(run: Path) -> dict[str, Any]:
    """What the run wrote down about where it was trained."""
    return json.loads((run / EXPERIMENT).read_text(encoding="utf-8"))["versions"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("experiment", nargs="?", help="the named experiment to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each (default: 0)")
    parser.add_argument("--out", type=Path, help="where the runs are (default: runs/reproduce/<experiment>)")
    parser.add_argument("--runs", type=Path, nargs="+", help="take these runs as they are")
    parser.add_argument("--results", type=Path, help="the folder to write (default: results/<experiment>)")
    options, fields = parser.parse_known_args(arguments)
    if bool(options.runs) == bool(options.experiment) or (options.runs and fields):
        parser.error("give an experiment, with flags for its fields, or --runs")
    try:
        runs = options.runs
        if options.experiment:
            named = make_experiment(options.experiment)
            experiment = tyro.cli(
                Experiment, args=fields, default=named, config=(tyro.conf.OmitArgPrefixes,), registry=registry()
            )
            runs = train_seeds(experiment, options.seeds, options.out or Path("runs", "reproduce", named.name))
        print(f"Written to {write_results(runs, options.results)}")
    except NacreError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f"{stopped}\nor, with all seeds, by the same command again.")
        return 128 + stopped.signal
    return 0


if __name__ == "__main__":
    sys.exit(main())
