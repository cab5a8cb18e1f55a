"""Gradient steps per second of PEARL's learner at the half-cheetah-velocity shapes, beside the machine's own peak.

    python benchmarks/learner.py [--rounds 5] [--steps 20] [--out FILE.json]

A round measures the peak (a float32 matrix product of (4096, 300) by (300, 300), the learner's commonest one) and then
each precision, so that all figures come from one run and drift of the machine shows. Floating-point work is counted by
XLA from the compiled step. Times exclude compilation, which is listed apart.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import Batch, gradient_step
from nacre.agents.pearl.networks import Context
from nacre.experiments import make_experiment
from nacre.gradient_steps import update, update_program
from nacre.replay import ReplayBuffer
from nacre.run_folder import versions
from nacre.tasks import make_family
from nacre.types import Episode, Visit

EXPERIMENT = make_experiment("pearl/cheetah-vel")
SIZES = make_family(EXPERIMENT.family).sizes
PEAK_REPETITIONS = 40


def random_replay() -> ReplayBuffer:
    """Context and RL data for every train task; the values do not matter for speed."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    def episode() -> Episode:
        observations = normal(SIZES.horizon + 1, *SIZES.observation_shape)
        actions, rewards = np.tanh(normal(SIZES.horizon, SIZES.action)), normal(SIZES.horizon)
        return Episode(observations, actions, rewards, sparse_rewards=None, terminated=False)

    tasks = EXPERIMENT.train_tasks
    each = 5 * SIZES.horizon
    replay = ReplayBuffer(tasks, SIZES, has_sparse_reward=False, transitions=tasks * each, fullest_task=each)
    replay.add([Visit(task, tuple(episode() for _ in range(5)), 2) for task in range(tasks)])
    return replay


def counted_work(learner: PearlLearner, replay: ReplayBuffer) -> float:
    """Floating-point operations of one gradient step, as XLA counts them in the compiled program."""

    def step(state, arrays, key):
        config = learner.config
        tasks = jnp.zeros(config.meta_batch_size, jnp.int32)
        context = Context(arrays.draw_context(tasks, config.context_size, key))
        batch = Batch(tasks, arrays.draw(tasks, config.batch_size, key), context)
        return gradient_step(state.trained, config, batch, key)

    state = jax.jit(learner.initial_state)(jax.random.key(0))
    compiled = jax.jit(step).lower(state, replay.arrays, jax.random.key(1)).compile()
    return compiled.cost_analysis()["flops"]


def best_seconds(call: Callable[[], Any], repetitions: int) -> float:
    """The fastest of several calls, each waited for."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """All figures of the table, per round."""
    replay = random_replay()
    rows = jax.random.normal(jax.random.key(0), (4096, 300))
    weight = rows[:300]
    product = jax.jit(jnp.matmul)
    operations = 2 * 4096 * 300 * 300
    learners = {
        precision: PearlLearner(EXPERIMENT.algorithm, SIZES, precision) for precision in ("float32", "bfloat16")
    }
    work = counted_work(learners["float32"], replay)
    states, compile_seconds = {}, {}
    for precision, learner in learners.items():
        start = time.perf_counter()
        state = jax.jit(learner.initial_state)(jax.random.key(0))
        compiled = update_program(learner).lower(learner, "update", state, replay.arrays, None, steps).compile()
        compile_seconds[precision] = time.perf_counter() - start
        del compiled
        states[precision], metrics = update(learner, "update", state, replay.arrays, None, steps)
        jax.block_until_ready(metrics)
    peaks, seconds = [], {precision: [] for precision in learners}
    jax.block_until_ready(product(rows, weight))
    for _ in range(rounds):
        peaks.append(operations / best_seconds(lambda: product(rows, weight), PEAK_REPETITIONS))
        for precision, learner in learners.items():
            start = time.perf_counter()
            states[precision], metrics = update(learner, "update", states[precision], replay.arrays, None, steps)
            jax.block_until_ready(metrics)
            seconds[precision].append((time.perf_counter() - start) / steps)
    return {
        "operations_per_step": work,
        "peak_operations_per_second": peaks,
        "seconds_per_step": seconds,
        "compile_seconds": compile_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": str(jax.devices()[0].device_kind),
        "machine": platform.machine(),
        "versions": versions(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    work, peak = result["operations_per_step"], np.median(result["peak_operations_per_second"])
    table = Table(title="PEARL learner, 16 tasks x 256 transitions, context 100, 3 x 300 networks (medians)")
    for column in ("precision", "ms/step", "steps/s", "GFLOP/s", "share of float32 peak", "compile s"):
        table.add_column(column, justify="right")
    for precision, seconds in result["seconds_per_step"].items():
        rates = work / np.array(seconds)
        share = np.median(rates / np.array(result["peak_operations_per_second"]))
        middle = np.median(seconds)
        table.add_row(
            precision,
            f"{middle * 1e3:.1f}",
            f"{1 / middle:.1f}",
            f"{work / middle / 1e9:.0f}",
            f"{share:.2f}",
            f"{result['compile_seconds'][precision]:.1f}",
        )
    console.print(table)
    ratio = np.median(
        np.array(result["seconds_per_step"]["float32"]) / np.array(result["seconds_per_step"]["bfloat16"])
    )
    console.print(
        f"{work / 1e9:.2f} GFLOP per step (counted by XLA) · float32 peak {peak / 1e9:.0f} GFLOP/s · bfloat16 is "
        f"{ratio:.2f} times as fast as float32 · peak memory {result['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="gradient steps per timed call")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.steps)
    show(result, Console())
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
