"""The scan over gradient steps, of a learner that fits one number: chunks, early ends, and several seeds at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float32, Int32

from nacre import seeds
from nacre.device import options_for_products
from nacre.gradient_steps import update, update_seeds
from nacre.interfaces import Learner, LearnerState, Phase
from nacre.metrics import PerTask, StepMetrics, summarise
from nacre.tasks.family import Sizes
from nacre.types import Key, Tree

STEPS = 10


class Fit(NamedTuple):
    """A number that follows the data, and how many steps are left for it."""

    networks: Float32[Array, ""]
    optimisers: Float32[Array, ""]
    left: Int32[Array, ""]


@dataclass(frozen=True)
class Fitting(Learner):
    """Draws numbers of the memory and moves towards their mean. The phase "short" ends when no steps are left."""

    def initial_state(self, key: Key) -> LearnerState:
        return LearnerState(Fit(jnp.float32(10), jnp.float32(0), jnp.int32(STEPS)), key, jnp.zeros((), jnp.int32))

    def draw(self, phase: str, arrays: Float32[Array, " size"], derived: Tree, key: Key) -> Float32[Array, " batch"]:
        return arrays[jax.random.randint(key, (4,), 0, len(arrays))] + derived

    def step(self, phase: str, trained: Fit, batch: Float32[Array, " batch"], key: Key) -> tuple[Fit, StepMetrics]:
        error = trained.networks - batch.mean() + 0.01 * jax.random.normal(key)
        velocity = 0.5 * trained.optimisers - 0.1 * error
        metrics: StepMetrics = OrderedDict()
        metrics["zebra"] = error**2
        metrics["ape"] = PerTask(jnp.arange(1, 5), batch)
        metrics["Batch"] = summarise(batch)
        return Fit(trained.networks + velocity, velocity, trained.left - 1), metrics

    def ended(self, phase: str, trained: Fit) -> Bool[Array, ""] | bool:
        return trained.left <= 0 if phase == "short" else False

    def parameters(self, state: LearnerState) -> Any:
        return state.trained.networks

    def agent(self, capacity: int) -> Any:
        raise NotImplementedError

    def memory(self, family: Any, tasks: Any, iterations: int) -> Any:
        raise NotImplementedError

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        return (Phase("short", STEPS),)

    def collect(self, *arguments: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, *arguments: Any) -> Any:
        raise NotImplementedError


LEARNER = Fitting(config=None, sizes=Sizes(1, 1, horizon=1, task=1))
MEMORY, DERIVED = jnp.arange(7.0), jnp.float32(0.5)


def state_of(seed: int = 0, left: int = STEPS) -> LearnerState:
    state = LEARNER.initial_state(jax.random.key(seed))
    return state._replace(trained=state.trained._replace(left=jnp.int32(left)))


def steps_in_chunks(state: LearnerState, phase: str, *chunks: int) -> tuple[LearnerState, StepMetrics]:
    found = []
    for steps in chunks:
        state, metrics = update(LEARNER, phase, state, MEMORY, DERIVED, steps)
        found.append(jax.device_get(metrics))
    return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


def numbers(tree: Tree) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def assert_equal(one: Tree, other: Tree, compare: Callable[..., None] = np.testing.assert_array_equal) -> None:
    for this, that in zip(numbers(one), numbers(other), strict=True):
        compare(this, that)


def assert_close(one: Tree, other: Tree) -> None:
    assert_equal(one, other, lambda this, that: np.testing.assert_allclose(this, that, rtol=1e-5, atol=1e-6))


def test_steps_are_those_of_a_loop() -> None:
    """One after another, outside a scan: what the order of keys, draws and steps is."""
    state, metrics = steps_in_chunks(state_of(), "long", STEPS)
    trained, key = state_of().trained, state_of().key
    for step in range(STEPS):
        key, draw_key, step_key = jax.random.split(key, 3)
        batch = LEARNER.draw("long", MEMORY, DERIVED, draw_key)
        trained, expected = LEARNER.step("long", trained, batch, step_key)
        assert_close(expected, jax.tree.map(lambda leaf, step=step: leaf[step], metrics))
    assert_close(state.trained, trained)
    assert_equal(state.key, key)
    assert int(state.updates) == STEPS
    assert list(metrics) == ["zebra", "ape", "Batch"]


@pytest.mark.parametrize("chunks", [(3, 7), (1,) * STEPS, (9, 1)])
@pytest.mark.parametrize("phase", ["long", "short"])
@pytest.mark.parametrize("left", [4, STEPS])
def test_chunks_change_nothing(phase: str, chunks: tuple[int, ...], left: int) -> None:
    whole, whole_metrics = steps_in_chunks(state_of(left=left), phase, STEPS)
    state, metrics = steps_in_chunks(state_of(left=left), phase, *chunks)
    assert_equal(whole, state)
    assert_equal(whole_metrics, metrics)


@pytest.mark.parametrize("left", [0, 1, 4, 9])
def test_an_early_end_makes_later_steps_without_effect(left: int) -> None:
    state, metrics = steps_in_chunks(state_of(left=left), "short", STEPS)
    assert int(state.updates) == left
    expected, expected_metrics = state_of(left=left), None
    if left:
        expected, expected_metrics = steps_in_chunks(expected, "long", left)
        assert_equal(expected_metrics, jax.tree.map(lambda leaf: leaf[:left], metrics))
    assert_equal(expected, state)
    for leaf in jax.tree.leaves(metrics):
        assert len(leaf) == STEPS
        assert not leaf[left:].any()
    assert_equal(expected, steps_in_chunks(state, "short", 3)[0])


@pytest.fixture
def several() -> tuple[list[LearnerState], list[Array], list[Array]]:
    """Seeds whose phase ends after 3, 10 and 0 steps, with memories of different sizes."""
    states = [state_of(seed, left) for seed, left in enumerate((3, STEPS + 5, 0))]
    memories = [jnp.arange(float(size)) for size in (7, 3, 12)]
    return states, memories, [jnp.float32(seed) for seed in range(3)]


@pytest.mark.parametrize("phase", ["long", "short"])
def test_several_seeds_in_one_call_are_each_alone(
    phase: str, several: tuple[list[LearnerState], list[Array], list[Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    states, memories, derived = several
    alone = [
        update(LEARNER, phase, jax.tree.map(jnp.copy, state), memory, extra, STEPS)
        for state, memory, extra in zip(states, memories, derived, strict=True)
    ]
    monkeypatch.setattr(seeds, "current_platform", lambda: "gpu")
    together = list(update_seeds(LEARNER, phase, states, memories, derived, STEPS))
    for (state, metrics), (other, other_metrics) in zip(alone, together, strict=True):
        assert_close(state.trained, other.trained)
        assert_equal((state.key, state.updates), (other.key, other.updates))
        assert_close(metrics, other_metrics)
        assert list(metrics) == list(other_metrics)
        assert jax.tree.structure(metrics) == jax.tree.structure(other_metrics)
    if phase == "short":
        assert [int(state.updates) for state, _ in together] == [3, STEPS, 0]
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(together[2][1]))


def test_on_a_cpu_each_seed_has_calls_of_its_own_and_only_when_asked(
    several: tuple[list[LearnerState], list[Array], list[Array]],
) -> None:
    states, memories, derived = several
    alone = [
        update(LEARNER, "short", jax.tree.map(jnp.copy, state), memory, extra, STEPS)
        for state, memory, extra in zip(states, memories, derived, strict=True)
    ]
    results = update_seeds(LEARNER, "short", states, memories, derived, STEPS)
    assert not any(state.updates.is_deleted() for state in states)
    for number, (state, metrics) in enumerate(results):
        assert [state.updates.is_deleted() for state in states] == [other <= number for other in range(3)]
        assert_equal(alone[number], (state, metrics))


def test_products_of_float32_are_compiled_with_the_option_that_xla_has_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another version of XLA it may be gone: then nothing is said."""
    option = options_for_products("cpu", "float32")
    assert list(option) == ["xla_cpu_experimental_ynn_fusion_type"]  # of the version in constraints.txt
    assert options_for_products("cpu", "bfloat16") == options_for_products("gpu", "float32") == {}

    def jit(function: Callable[..., Any], **options: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(jax, "jit", jit)
    assert options_for_products.__wrapped__("cpu", "float32") == {}


def test_the_option_changes_who_multiplies_and_not_what_comes_out() -> None:
    rows, weight = (np.random.default_rng(seed).normal(size=(300, 300)).astype(np.float32) for seed in (0, 1))
    programs = []
    for options in ({}, options_for_products("cpu", "float32")):
        compiled = jax.jit(jnp.matmul, compiler_options=options).lower(rows, weight).compile()
        np.testing.assert_allclose(compiled(rows, weight), rows.astype(float) @ weight, rtol=0, atol=1e-4)
        programs.append(compiled.as_text())
    assert ["ynn" in program for program in programs] == [True, False]
