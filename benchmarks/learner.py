"""Milliseconds of a gradient step of PEARL at the half-cheetah-velocity shapes, beside what its products alone take.

    python benchmarks/learner.py [--rounds 5] [--steps 10] [--out FILE.json]

Matrix products are nearly all of a step's arithmetic. The benchmark reads from the step which products it makes, and
times each of them alone, in float32 and in bfloat16: for a layer its output, the gradient of its inputs and that of its
weights. The peak of each of these three is that of the hidden layers, (4096, 300) by (300, 300). A step could not take
less than all of its products at these peaks: that is what its share is of.

The rest is measured too: what products of narrow layers take beyond their share at the peak, the draw of batches, the
optimisers with the target network, and the passes over single elements (the step with products replaced by copies).
What then is left are casts and copies for products, and cores that wait for each other.

All of these take turns in each round, so that drift of the machine meets all of them. A figure is the best of all
repetitions for what is timed alone, and the median over rounds for steps. Times exclude compilation.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from machine import OtherWork, machine
from rich.console import Console
from rich.table import Table
from timed_learner import timed

from nacre import gradient_steps
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import Trained
from nacre.device import current_platform, options_for_products
from nacre.experiments import make_experiment
from nacre.gradient_steps import update, update_program
from nacre.nn import mlp
from nacre.nn.mlp import Precision
from nacre.nn.optimise import adam_step, follow
from nacre.replay import ReplayBuffer
from nacre.run_folder import versions
from nacre.tasks import make_family
from nacre.types import Episode, Visit

EXPERIMENT = make_experiment("pearl/cheetah-vel")
SIZES = make_family(EXPERIMENT.family).sizes
REPETITIONS = 8
"""Of each thing that is timed alone, in each round."""
DRAWS = 10
"""Batches in a call that draws."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
KINDS = ("outputs", "inputs' gradient", "weights' gradient")


class Product(NamedTuple):
    """A matrix product of a step: (rows, inner) by (inner, columns)."""

    kind: str
    rows: int
    inner: int
    columns: int
    dtype: str

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.inner * self.columns


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


def one_step(learner: PearlLearner, trained: Trained, arrays: Any, key: Any) -> Any:
    return learner.step("update", trained, learner.draw("update", arrays, None, key), key)


def products_of(function: Callable[..., Any], *arguments: Any) -> Counter[Product]:
    """The products that a function makes, and how often."""
    found: Counter[Product] = Counter()
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "dot_general":
            left, right = (operand.aval for operand in equation.invars)
            ((left_axis,), (right_axis,)), _ = equation.params["dimension_numbers"]
            rows, columns = left.size // left.shape[left_axis], right.size // right.shape[right_axis]
            inner = left.shape[left_axis]
            kind = KINDS[2] if inner > max(rows, columns) else KINDS[right_axis]
            if kind == KINDS[2] and rows > columns:
                rows, columns = columns, rows  # JAX may compute the transposed one
            found[Product(kind, rows, inner, columns, left.dtype.name)] += 1
    return found


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        values = jax.tree.leaves(equation.params)
        inner = [value for value in values if hasattr(value, "jaxpr") or hasattr(value, "eqns")]
        if equation.primitive.name == "dot_general" or not inner:
            yield equation
        for each in inner:
            yield from _equations(getattr(each, "jaxpr", each))


class Timed:
    """A call, and the best of its times."""

    def __init__(self, call: Callable[[], Any]):
        self._call, self.best = call, math.inf
        jax.block_until_ready(call())  # compiles

    def measure(self) -> None:
        self.best = min(self.best, *(timed(self._call) for _ in range(REPETITIONS)))


def timed_product(product: Product, precision: Precision) -> Timed:
    """A product alone, as a step in that precision makes it, of operands that are cast and copied already."""
    axes = {KINDS[0]: (1, 0), KINDS[1]: (1, 1), KINDS[2]: (1 if product.dtype == "bfloat16" else 0, 0)}[product.kind]
    shapes = [[product.rows, product.inner], [product.inner, product.columns]]
    left, right = (
        jax.random.normal(jax.random.key(0), shape if axis == place else shape[::-1]).astype(product.dtype)
        for shape, axis, place in zip(shapes, axes, (1, 0), strict=True)
    )

    def multiply(left: Any, right: Any) -> Any:
        contraction = (((axes[0],), (axes[1],)), ((), ()))
        return jax.lax.dot_general(
            left, right, contraction, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )

    return Timed(functools.partial(_jitted(multiply, precision), left, right))


def _jitted(function: Callable[..., Any], precision: Precision) -> Any:
    return jax.jit(function, compiler_options=options_for_products(current_platform(), precision))


class Steps:
    """Steps in one precision."""

    def __init__(self, precision: Precision, replay: ReplayBuffer, steps: int):
        self.learner = PearlLearner(EXPERIMENT.algorithm, SIZES, precision)
        self._replay, self._steps = replay, steps
        self.state = jax.jit(self.learner.initial_state)(jax.random.key(0))
        start = time.perf_counter()
        program = update_program(self.learner)
        program.lower(self.learner, "update", self.state, replay.arrays, None, steps).compile()
        self.compile_seconds = time.perf_counter() - start
        self.seconds: list[float] = []

    def measure(self) -> None:
        start = time.perf_counter()
        self.state, metrics = update(self.learner, "update", self.state, self._replay.arrays, None, self._steps)
        jax.block_until_ready(metrics)
        self.seconds.append((time.perf_counter() - start) / self._steps)


class StepsByDefault(Steps):
    """In float32, compiled as XLA does if it is told nothing."""

    def __init__(self, replay: ReplayBuffer, steps: int):
        with self._nothing_said():
            super().__init__("float32", replay, steps)

    def measure(self) -> None:
        with self._nothing_said():
            super().measure()

    def _nothing_said(self) -> Any:
        return mock.patch.object(gradient_steps, "options_for_products", return_value={})


class StepsAndParts(Steps):
    """Steps in one precision, and all that they consist of."""

    def __init__(self, precision: Precision, replay: ReplayBuffer, steps: int):
        super().__init__(precision, replay, steps)
        learner, config, arrays, key = self.learner, self.learner.config, replay.arrays, jax.random.key(1)
        trained = jax.tree.map(jnp.copy, self.state.trained)  # steps are given the memory of the state
        self.products = products_of(functools.partial(one_step, learner), trained, arrays, key)
        self.alone = {product: timed_product(product, precision) for product in self.products}

        def draw(arrays: Any, key: Any) -> Any:
            return jax.lax.map(lambda key: learner.draw("update", arrays, None, key), jax.random.split(key, DRAWS))

        def optimise(trained: Trained) -> Any:
            networks = trained.networks
            stepped = [
                adam_step(1e-3, network, state, network)
                for network, state in zip(
                    (networks.encoder, networks.policy, networks.critics, networks.value),
                    trained.optimisers[:4],
                    strict=True,
                )
            ]
            return stepped, follow(trained.target_value, networks.value, config.target_update_rate)

        self.draw = Timed(functools.partial(_jitted(draw, precision), arrays, key))
        self.optimise = Timed(functools.partial(_jitted(optimise, precision), trained))
        with mock.patch.object(mlp, "matmul", _copied):
            compiled = _jitted(functools.partial(one_step, learner), precision).lower(trained, arrays, key).compile()
        self.without_products = Timed(functools.partial(compiled, trained, arrays, key))

    def measure(self) -> None:
        super().measure()
        for part in (*self.alone.values(), self.draw, self.optimise, self.without_products):
            part.measure()

    def peaks(self) -> dict[str, float]:
        """Operations per second of the three products of a hidden layer of the widest networks."""
        most = max(product.operations for product in self.products)
        return {
            product.kind: product.operations / timed.best
            for product, timed in self.alone.items()
            if product.operations == most and product.dtype == self.learner.precision
        }

    def result(self) -> dict[str, Any]:
        """Seconds of a step and of its parts."""
        peaks, step = self.peaks(), float(np.median(self.seconds))
        at_peak = sum(n * product.operations / peaks[product.kind] for product, n in self.products.items())
        alone = sum(n * self.alone[product].best for product, n in self.products.items())
        draw, optimise = self.draw.best / DRAWS, self.optimise.best
        elements = max(self.without_products.best - draw - optimise, 0.0)
        return {
            "seconds_per_step": self.seconds,
            "peak_operations_per_second": peaks,
            "share_of_products_at_peak": at_peak / step,
            "parts": {
                "products at their peaks": at_peak,
                "more for narrow products": alone - at_peak,
                "draw of the batch": draw,
                "optimisers and targets": optimise,
                "passes over elements": elements,
                "casts, copies and waiting": step - alone - draw - optimise - elements,
            },
            "compile_seconds": self.compile_seconds,
            "products": [{**product._asdict(), "number": n} for product, n in self.products.items()],
        }


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _copied(rows: Any, weight: Any, precision: Precision) -> Any:
    """In place of a product: an array of its shape, made in one pass."""
    return rows[:, :1] * weight[:1]


def _copied_forward(rows: Any, weight: Any, precision: Precision) -> Any:
    return _copied(rows, weight, precision), (rows, weight)


def _copied_backward(precision: Precision, operands: Any, cotangent: Any) -> Any:
    rows, weight = operands
    return cotangent[:, :1] * weight[None, :, 0], rows[:1].T * cotangent[:1]


_copied.defvjp(_copied_forward, _copied_backward)


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """All figures of the tables."""
    others, replay = OtherWork(), random_replay()
    by_default = StepsByDefault(replay, steps)
    subjects = {precision: StepsAndParts(precision, replay, steps) for precision in PRECISIONS}
    for number in range(rounds + 1):
        for subject in (by_default, *subjects.values()):
            subject.measure()
            if number == 0:
                subject.seconds.clear()  # they include compilation
    return {
        "precisions": {precision: subject.result() for precision, subject in subjects.items()},
        "float32_seconds_per_step_by_default": by_default.seconds,
        "operations_per_step": sum(n * product.operations for product, n in subjects["float32"].products.items()),
        "warning": others.warning(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": machine(),
        "versions": versions(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    found = result["precisions"]
    work = result["operations_per_step"]
    table = Table(title=f"PEARL's step: 16 tasks x 256, context 100, 3 x 300\n{result['machine']}")
    for column in ("", *found):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, value: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(name, *(value(each) for each in found.values()))

    row("ms per step (median)", lambda it: f"{np.median(it['seconds_per_step']) * 1e3:.1f}")
    row("ms per step (best)", lambda it: f"{min(it['seconds_per_step']) * 1e3:.1f}")
    row("share of products at peak", lambda it: f"{it['share_of_products_at_peak']:.2f}")
    for name in next(iter(found.values()))["parts"]:
        row(f"  ms: {name}", lambda it, name=name: f"{it['parts'][name] * 1e3:.1f}")
    for kind in KINDS:
        row(f"GFLOP/s, {kind}", lambda it, kind=kind: f"{it['peak_operations_per_second'][kind] / 1e9:.0f}")
    row("compilation, s", lambda it: f"{it['compile_seconds']:.1f}")
    console.print(table)
    default = np.median(result["float32_seconds_per_step_by_default"])
    ratio = np.median(np.divide(*(found[precision]["seconds_per_step"] for precision in PRECISIONS)))
    console.print(
        f"{work / 1e9:.2f} GFLOP of products in a step. bfloat16 is {ratio:.2f} times as fast as float32. "
        f"Compiled as XLA does by default, a step in float32 takes {default * 1e3:.1f} ms (median). Peak memory "
        f"{result['peak_memory_bytes'] / 2**20:.0f} MiB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="gradient steps per timed call")
    parser.add_argument("--out", type=Path, help="also store the figures as JSON")
    arguments = parser.parse_args()
    console = Console()
    result = measure(arguments.rounds, arguments.steps)
    show(result, console)
    if result["warning"]:
        console.print(f"[yellow]{result['warning']}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
