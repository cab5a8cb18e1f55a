"""Wall-clock of DMRLAD beside CEMRL, phase by phase, at the published sizes of the sparse half-cheetah.

    python benchmarks/dmrlad.py [--rounds 3] [--steps 20] [--precision float32] [--out FILE.json]

Both are measured in one process and in turns, so that drift of the machine meets both. A phase of gradient steps is
measured over some steps after compilation, and counts with as many as the configuration has. Per environment step: the
time of an iteration, its evaluation included, over the steps that it plays. The encoder's phase is the same in both; it
may stop early, so figures are given for all of its steps and for the fewest after which it can stop. Beside them stand
each part's share of an iteration, and the share that gradient steps reach of the machine's peak: a float32 matrix
product of (2048, 512) by (512, 512), measured in the same rounds. Floating-point work is counted by XLA.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import machine
from rich.console import Console
from rich.table import Table
from timed_learner import TimedLearner, best, operations, peak, timed

from nacre.agents.cemrl.learner import COLLECT, ENCODER, INITIAL, POLICY, CemrlLearner
from nacre.agents.cemrl.losses import inferred_losses
from nacre.agents.dmrlad import relabelling
from nacre.agents.dmrlad.learner import DmrladLearner
from nacre.collect import run_schedules
from nacre.experiments import Experiment, make_experiment
from nacre.gradient_steps import update, update_program
from nacre.run_folder import versions

NAMES = {"CEMRL": "dmrlad/cheetah-vel-sparse-cemrl", "DMRLAD": "dmrlad/cheetah-vel-sparse"}
MARK = 1.3
"""DMRLAD's time over CEMRL's, at most."""


class Subject(TimedLearner):
    """The learner of one of the two algorithms."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment, 10, None)
        assert isinstance(self.learner, CemrlLearner)
        self.config = self.learner.config
        self.collect(INITIAL)

    def evaluate(self) -> None:
        arguments = self.state, self.memory, self.family, self.split, self.next_seed()
        run_schedules([self.learner.evaluate(*arguments)], self.simulators.play)

    def seconds(self, steps: int) -> dict[str, float]:
        """Of each part of an iteration; of gradient steps, one."""
        found = {"collect": timed(lambda: self.collect(COLLECT))}
        for phase in (ENCODER, POLICY):
            self.state = self.learner.begin(phase, self.state, self.memory, self.split.train)
            arguments = phase, self.state, self.memory, self.split.train
            found[f"{phase}: derive"] = timed(lambda arguments=arguments: self.learner.derive(*arguments))
            derived = self.learner.derive(*arguments)
            start = time.perf_counter()
            self.state, metrics = update(self.learner, phase, self.state, self.memory.arrays, derived, steps)
            jax.block_until_ready(metrics)
            found[f"{phase}: step"] = (time.perf_counter() - start) / steps
        return found | {"evaluate": timed(self.evaluate)}

    def operations(self) -> dict[str, float]:
        """Floating-point operations of a gradient step of each phase; of the encoder, with its share of a look at the
        validation loss."""
        learner, counted = self.learner, {}
        for phase in (ENCODER, POLICY):
            derived = learner.derive(phase, self.state, self.memory, self.split.train)
            counted[f"{phase}: step"] = operations(
                update_program(learner).lower(learner, phase, self.state, self.memory.arrays, derived, 1)
            )
            if phase == ENCODER:
                batch = jax.jit(learner.draw, static_argnums=0)(phase, self.memory.arrays, derived, jax.random.key(0))
                networks = self.state.trained.networks
                trained = networks.encoder, networks.decoder
                look = sum(
                    operations(jax.jit(inferred_losses, static_argnums=1).lower(trained, self.config, windows, None))
                    for windows in (batch.train, batch.validation)
                )
                counted[f"{phase}: step"] -= look * (1 - 1 / self.config.evaluate_every)
        return counted

    def parts(self, found: dict[str, float], encoder_steps: int) -> dict[str, float]:
        """Seconds of each part of an iteration with so many steps of the encoder."""
        steps = {f"{ENCODER}: step": encoder_steps, f"{POLICY}: step": self.config.policy_steps}
        return {name: seconds * steps.get(name, 1) for name, seconds in found.items()}

    def iteration(self, found: dict[str, float], encoder_steps: int) -> float:
        """Seconds of an iteration with so many steps of the encoder."""
        return sum(self.parts(found, encoder_steps).values())

    @property
    def steps_played(self) -> int:
        """In an iteration."""
        return self.config.environment_steps(self.experiment.train_tasks, 1) - self.config.environment_steps(
            self.experiment.train_tasks, 0
        )


def scoring(subject: Subject, tasks: int, repetitions: int) -> dict[str, float]:
    """Seconds for what an episode costs that is scored for so many tasks, and for log Z of these."""
    experiment = make_experiment(NAMES["DMRLAD"], train_tasks=tasks, precision=subject.experiment.precision)
    few = Subject(experiment)
    learner, family, train = few.learner, few.family, few.split.train
    assert isinstance(learner, DmrladLearner)
    _, play = learner.planned(COLLECT, few.state, train, np.random.SeedSequence(1))
    play = dataclasses.replace(play.part([0]), keeps_reward_states=True)
    episode = few.simulators.play([play])[0].trials[0][0]
    scorer = relabelling.Scorer(learner.agent(0), learner.critics, learner.config.scoring_states)
    networks, arrays, key = few.state.trained.networks, few.memory.arrays, jax.random.key(0)

    def score() -> Any:
        found = relabelling.candidates(family, episode, train)
        windows, counts = relabelling.last_windows([episode], [found], learner.config.window)
        return relabelling.task_values(scorer, networks, arrays, windows, counts, key)

    def normalise() -> Any:
        return relabelling.log_normalisers(scorer, networks, arrays, "hfr", key)

    return {
        "an episode": best(score, repetitions),
        "log Z": best(normalise, repetitions),
    }


def measure(rounds: int, steps: int, precision: str, scored: int) -> dict[str, Any]:
    subjects = {name: Subject(make_experiment(experiment, precision=precision)) for name, experiment in NAMES.items()}
    for subject in subjects.values():
        subject.seconds(steps)  # compiles
    found: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak())
        for name, subject in subjects.items():
            found[name].append(subject.seconds(steps))
    medians = {
        name: {part: float(np.median([each[part] for each in parts])) for part in parts[0]}
        for name, parts in found.items()
    }
    work = {name: subject.operations() for name, subject in subjects.items()}
    config = subjects["CEMRL"].config
    fewest = -(-(config.patience + 1) // config.evaluate_every) * config.evaluate_every
    iterations = {
        str(count): {name: subject.iteration(medians[name], count) for name, subject in subjects.items()}
        for count in (config.encoder_steps, fewest)
    }
    return {
        "seconds": medians,
        "shares_of_iteration": {
            name: {
                part: seconds / subject.iteration(medians[name], config.encoder_steps)
                for part, seconds in subject.parts(medians[name], config.encoder_steps).items()
            }
            for name, subject in subjects.items()
        },
        "operations_per_step": work,
        "peak_operations_per_second": peaks,
        "shares_of_peak": {
            name: {part: count / medians[name][part] / float(np.median(peaks)) for part, count in counts.items()}
            for name, counts in work.items()
        },
        "iteration_seconds_by_encoder_steps": iterations,
        "environment_steps": subjects["CEMRL"].steps_played,
        "policy_steps": config.policy_steps,
        "scoring_seconds": scoring(subjects["DMRLAD"], scored, 3),
        "scored_tasks": scored,
        "precision": precision,
        "device": str(jax.devices()[0].device_kind),
        "machine": machine(),
        "versions": versions(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Seconds, {result['precision']} (medians)\n{machine()}")
    for column in ("part", *NAMES, "ratio", "of CEMRL's iteration", "of DMRLAD's", "of the peak"):
        table.add_column(column, justify="left" if column == "part" else "right")
    cemrl, dmrlad = (result["seconds"][name] for name in NAMES)
    for part in cemrl:
        shares = (f"{result['shares_of_iteration'][name][part]:.1%}" for name in NAMES)
        peaks = [f"{each[part]:.0%}" for each in result["shares_of_peak"].values() if part in each]
        ratio = f"{dmrlad[part] / cemrl[part]:.2f}"
        table.add_row(part, f"{cemrl[part]:.4f}", f"{dmrlad[part]:.4f}", ratio, *shares, ", ".join(peaks))
    console.print(table)
    console.print(f"float32 peak {np.median(result['peak_operations_per_second']) / 1e9:.0f} GFLOP/s")
    for count, seconds in result["iteration_seconds_by_encoder_steps"].items():
        each = {name: 1e3 * value / result["environment_steps"] for name, value in seconds.items()}
        ratio = each["DMRLAD"] / each["CEMRL"]
        console.print(
            f"{count} steps of the encoder and {result['policy_steps']} of the policy: CEMRL {each['CEMRL']:.1f} ms "
            f"and DMRLAD {each['DMRLAD']:.1f} ms per environment step, {ratio:.2f} times as much (the mark is {MARK})"
        )
    scores = result["scoring_seconds"]
    console.print(
        f"To score an episode for {result['scored_tasks']} tasks takes {scores['an episode'] * 1e3:.0f} ms, log Z of "
        f"these once an iteration {scores['log Z'] * 1e3:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="gradient steps per timed call")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tasks", type=int, default=50, help="tasks that an episode is scored for")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.steps, arguments.precision, arguments.tasks)
    show(result, Console())
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
