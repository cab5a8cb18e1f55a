"""Speed and memory of MELD: gradient steps of the latent model and of the control, collection, and the replay.

    python benchmarks/meld.py [EXPERIMENT...] [--rounds 3] [--steps 5] [--precision float32] [--out FILE.json]

Without names: the published half-cheetah and the one for two CPU cores. Of each it prints

- gradient steps per second of both phases, drawing of their batches included, their floating-point work as XLA counts
  it, and which share that is of the machine's peak: a large product of matrices in the same precision, measured in the
  same rounds;
- what the convolutions of encoder and decoder reach with their gradients, in a compiled loop as in a step, of what the
  same layers reach alone, each in a program of its own (on a CPU it should be 70 % or more);
- the memory of the replay for 1000 more frames, and how much of it are pictures;
- seconds that a trial takes to collect, and the share of rendering: what its steps take longer with pictures than
  without.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from rich.console import Console
from rich.table import Table
from timed_learner import TimedLearner, best, operations, peak, timed

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.learner import COLLECT, INITIAL, MODEL, POLICY
from nacre.agents.meld.model import LatentModel
from nacre.experiments import Experiment, make_experiment
from nacre.gradient_steps import update, update_program
from nacre.nn.mlp import matmul
from nacre.run_folder import versions
from nacre.tasks import PixelFamily, Simulator, TaskFamily

NAMES = ("meld/cheetah-vel", "meld/cheetah-vel-small")
POOL = "pool"
MARK = 0.7
"""Of what the convolutions reach alone, at least."""


class Subject(TimedLearner):
    """MELD's learner with a trial of random actions in each train task."""

    def __init__(self, experiment: Experiment):
        config = experiment.algorithm
        assert isinstance(config, MeldConfig)
        self.config = dataclasses.replace(config, initial_trials=1, offline_run=None)
        super().__init__(dataclasses.replace(experiment, algorithm=self.config), 1, experiment.threads)
        self.collect(INITIAL)

    def seconds(self, steps: int) -> dict[str, float]:
        """Of a gradient step of each phase, of a pool if there is one, and of a trial that is collected."""
        found = {}
        for phase in (MODEL, POLICY):
            derived = self.derived(phase)
            start = time.perf_counter()
            self.state, metrics = update(self.learner, phase, self.state, self.memory.arrays, derived, steps)
            jax.block_until_ready(metrics)
            found[phase] = (time.perf_counter() - start) / steps
        if self.config.policy_pool:
            found[POOL] = timed(lambda: self.derived(POLICY))
        return found | {COLLECT: timed(lambda: self.collect(COLLECT))}

    def derived(self, phase: str) -> Any:
        """What the steps of a phase read besides the memory."""
        return jax.block_until_ready(self.learner.derive(phase, self.state, self.memory, self.split.train))

    def operations(self) -> dict[str, float]:
        """Floating-point operations of a gradient step of each phase."""
        counted = {}
        for phase in (MODEL, POLICY):
            inputs = self.learner, phase, self.state, self.memory.arrays, self.derived(phase), 1
            counted[phase] = operations(update_program(self.learner).lower(*inputs))
        return counted

    def bytes_of_frames(self) -> dict[str, float]:
        """Memory that the replay needs for 1000 more frames: all of it, and pictures."""
        few, many = (self.learner.memory(self.family, self.split.train, iterations).arrays for iterations in (1, 3))
        frames = len(many.replay.observations) - len(few.replay.observations)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(many)) - sum(leaf.nbytes for leaf in jax.tree.leaves(few))
        pictures = many.replay.observations.nbytes - few.replay.observations.nbytes
        return {"replay": 1000 * whole / frames, "pictures": 1000 * pictures / frames}

    def stepping(self, family: TaskFamily) -> float:
        """Seconds of as many steps of an environment as a trial has, with its resets."""
        with contextlib.closing(Simulator(family, 1, 1)) as simulator:
            tasks = self.split.train[:1]
            actions = np.zeros((1, family.action_size), np.float32)

            def trial() -> None:
                for _ in range(self.config.episodes):
                    simulator.reset(seed=0, options={"tasks": tasks})
                    for _ in range(family.horizon):
                        simulator.step(actions)

            trial()
            return timed(trial)

    def rendering(self) -> float:
        """Seconds that pictures of a trial take."""
        assert isinstance(self.family, PixelFamily)
        return self.stepping(self.family) - self.stepping(self.family.family)


def convolutions_together(model: LatentModel, pictures: jax.Array, steps: int) -> float:
    """Seconds in which encoder and decoder see and draw pictures, with the gradients of their weights, in a loop that
    changes the weights as gradient steps do."""
    latents = jax.random.normal(jax.random.key(1), (len(pictures), sum(model.sizes)))
    networks = model.encoder, model.decoder

    def loss(networks: Any) -> jax.Array:
        encoder, decoder = networks
        return (encoder(pictures) ** 2).mean() + (decoder(latents) ** 2).mean()

    def step(networks: Any, _: None) -> tuple[Any, None]:
        gradient = jax.grad(loss)(networks)
        return jax.tree.map(lambda weight, slope: weight - 1e-6 * slope, networks, gradient), None

    loop = jax.jit(lambda networks: jax.lax.scan(step, networks, None, steps)[0])
    return best(lambda: loop(networks), 2) / steps


def convolutions_alone(model: LatentModel, pictures: jax.Array, repetitions: int) -> list[float]:
    """Seconds of each layer, with the gradients of its weights and, but for pictures, of its input. The fifth
    convolution of the encoder, and the first of the decoder, are products."""
    n, seconds = len(pictures), []

    def measure_layer(
        layer: Any, shape: tuple[int, ...], call: Callable[[Any, jax.Array], jax.Array]
    ) -> tuple[int, ...]:
        inputs = jax.random.normal(jax.random.key(0), (n, *shape))
        wanted = 0 if shape == pictures.shape[1:] else (0, 1)
        gradient = jax.jit(jax.grad(lambda layer, inputs: (call(layer, inputs) ** 2).mean(), argnums=wanted))
        seconds.append(best(lambda: gradient(layer, inputs), repetitions))
        return jax.eval_shape(call, layer, inputs).shape[1:]

    def product(weight: jax.Array, rows: jax.Array) -> jax.Array:
        return matmul(rows.reshape(n, -1), weight, model.encoder.precision)

    shape = pictures.shape[1:]
    for layer in model.encoder.convolutions:
        shape = measure_layer(layer, shape, lambda layer, inputs: layer(inputs))
    measure_layer(model.encoder.weight, shape, product)
    measure_layer(model.decoder.weight, (sum(model.sizes),), product)
    for layer in model.decoder.convolutions:
        shape = measure_layer(layer, shape, lambda layer, inputs: layer(inputs))
    return seconds


def measure(experiment: Experiment, rounds: int, steps: int) -> dict[str, Any]:
    subject = Subject(experiment)
    subject.seconds(steps)  # compiles
    found, peaks = [], []
    for _ in range(rounds):
        peaks.append(peak(experiment.precision))
        found.append(subject.seconds(steps))
    seconds = {part: float(np.median([each[part] for each in found])) for part in found[0]}
    work, config = subject.operations(), subject.config
    shape = subject.family.observation_shape
    pictures = jnp.zeros((config.model_trials * config.frames, *shape), jnp.uint8)
    model = subject.state.trained.networks.model
    alone = convolutions_alone(model, pictures, rounds)
    together = convolutions_together(model, pictures, steps)
    rendering = subject.rendering()
    return {
        "seconds": seconds,
        "steps_per_second": {phase: 1 / seconds[phase] for phase in work},
        "operations_per_step": work,
        "peak_operations_per_second": peaks,
        "shares_of_peak": {phase: count / seconds[phase] / float(np.median(peaks)) for phase, count in work.items()},
        "convolutions": {"alone": alone, "together": together, "reached": sum(alone) / together},
        "bytes_of_1000_frames": subject.bytes_of_frames(),
        "rendering_seconds": rendering,
        "rendering_share": rendering / seconds[COLLECT],
        "steps_of_a_trial": config.episodes * config.episode_steps,
        "precision": experiment.precision,
        "device": str(jax.devices()[0].device_kind),
        "machine": machine(),
        "versions": versions(),
    }


def show(name: str, result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{name}, {result['precision']} (medians)\n{machine()}")
    for column in ("gradient step of", "per second", "GFLOP", "of the peak"):
        table.add_column(column, justify="left" if column == "gradient step of" else "right")
    for phase, count in result["operations_per_step"].items():
        per_second, share = result["steps_per_second"][phase], result["shares_of_peak"][phase]
        table.add_row(phase, f"{per_second:.2f}", f"{count / 1e9:.2f}", f"{share:.0%}")
    console.print(table)
    if POOL in result["seconds"]:
        console.print(f"A pool of trials is filtered, once a round, in {result['seconds'][POOL]:.3f} s")
    console.print(f"{result['precision']} peak {np.median(result['peak_operations_per_second']) / 1e9:.0f} GFLOP/s")
    layers = result["convolutions"]
    console.print(
        f"Convolutions: {layers['together']:.4f} s with all gradients, {layers['reached']:.0%} of what the same layers "
        f"reach alone (the mark is {MARK:.0%})"
    )
    memory = {part: f"{size / 1e6:.2f} MB" for part, size in result["bytes_of_1000_frames"].items()}
    console.print(f"1000 frames of the replay: {memory['replay']}, of which pictures {memory['pictures']}")
    console.print(
        f"A trial of {result['steps_of_a_trial']} steps is collected in {result['seconds'][COLLECT]:.3f} s; rendering "
        f"takes {result['rendering_seconds']:.3f} s, {result['rendering_share']:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=NAMES, metavar="EXPERIMENT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="gradient steps per timed call")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.experiments:
        experiment = make_experiment(name, precision=arguments.precision)
        results[name] = measure(experiment, arguments.rounds, arguments.steps)
        show(name, results[name], Console())
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
