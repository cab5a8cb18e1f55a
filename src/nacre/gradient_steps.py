"""Gradient steps of any algorithm: many in one compiled scan, for one seed or for several at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nacre.device import current_platform, options_for_products
from nacre.interfaces import Learner, LearnerState, select
from nacre.metrics import StepMetrics
from nacre.seeds import batched, stack, unstack
from nacre.types import Tree


def update_seeds(
    learner: Learner,
    phase: str,
    states: Sequence[LearnerState],
    arrays: Sequence[Tree],
    derived: Sequence[Tree],
    steps: int,
) -> Iterator[tuple[LearnerState, StepMetrics]]:
    """What :func:`update` gives for each of several seeds: all at once, or one after another as they are asked for.

    See :func:`nacre.seeds.batched`. States are donated.
    """
    if batched(len(states)):
        yield from update_batched(learner, phase, tuple(states), tuple(arrays), tuple(derived), steps)
    else:
        for each in zip(states, arrays, derived, strict=True):
            yield update(learner, phase, *each, steps)


def update(
    learner: Learner, phase: str, state: LearnerState, arrays: Tree, derived: Tree, steps: int
) -> tuple[LearnerState, StepMetrics]:
    """`steps` gradient steps of a phase in one compiled scan, their batches drawn on the device.

    Args:
        learner: whose steps.
        phase: its name.
        state: it is donated.
        arrays: what the learner's memory holds.
        derived: what `learner.derive` gave.
        steps: how steps are cut into calls does not change what they compute.

    Returns:
        the new state, and the metrics of every step with a leading axis of `steps`. If the phase ended early, the state
        counts only the steps before that, and the metrics of the others are zeros.
    """
    return update_program(learner)(learner, phase, state, arrays, derived, steps)


def update_program(learner: Learner) -> Any:
    """The jitted function behind :func:`update`, whose arguments it takes by position."""
    return _jitted(_update, learner)


def _update(
    learner: Learner, phase: str, state: LearnerState, arrays: Tree, derived: Tree, steps: int
) -> tuple[LearnerState, StepMetrics]:
    def step(state: LearnerState, _: None) -> tuple[LearnerState, StepMetrics]:
        key, draw_key, step_key = jax.random.split(state.key, 3)
        batch = learner.draw(phase, arrays, derived, draw_key)
        trained, metrics = learner.step(phase, state.trained, batch, step_key)
        return LearnerState(trained, key, state.updates + 1), metrics

    return jax.lax.scan(_until_ended(learner, phase, step), state, length=steps)


def update_batched(
    learner: Learner,
    phase: str,
    states: tuple[LearnerState, ...],
    arrays: tuple[Tree, ...],
    derived: tuple[Tree, ...],
    steps: int,
) -> list[tuple[LearnerState, StepMetrics]]:
    """The gradient steps of several seeds, each of them one step of all seeds. Memories may have different sizes."""
    return _jitted(_update_batched, learner)(learner, phase, states, arrays, derived, steps)


def _update_batched(
    learner: Learner,
    phase: str,
    states: tuple[LearnerState, ...],
    arrays: tuple[Tree, ...],
    derived: tuple[Tree, ...],
    steps: int,
) -> list[tuple[LearnerState, StepMetrics]]:
    def step(state: LearnerState, _: None) -> tuple[LearnerState, StepMetrics]:
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(state.key)
        draws = zip(arrays, derived, range(len(states)), strict=True)
        batch = stack([learner.draw(phase, array, extra, keys[seed, 1]) for array, extra, seed in draws])
        trained, metrics = jax.vmap(functools.partial(learner.step, phase))(state.trained, batch, keys[:, 2])
        new = LearnerState(trained, keys[:, 0], state.updates + 1)
        ended = jax.vmap(lambda trained: jnp.asarray(learner.ended(phase, trained)))(state.trained)
        return select(ended, state, new), select(ended, jax.tree.map(jnp.zeros_like, metrics), metrics)

    state, metrics = jax.lax.scan(step, stack(states), length=steps)
    by_seed = jax.tree.map(lambda array: array.swapaxes(0, 1), metrics)
    return list(zip(unstack(state, len(states)), unstack(by_seed, len(states)), strict=True))


def _jitted(function: Callable[..., Any], learner: Learner) -> Any:
    options = options_for_products(current_platform(), learner.precision)
    return _jitted_with(function, tuple(options.items()))


@functools.cache
def _jitted_with(function: Callable[..., Any], options: tuple[tuple[str, str], ...]) -> Any:
    """The function, compiled; arguments 0, 1 and 5 are static, and 2, the states, are donated."""
    return jax.jit(function, static_argnums=(0, 1, 5), donate_argnums=2, compiler_options=dict(options))


Step = Callable[[LearnerState, None], tuple[LearnerState, StepMetrics]]


def _until_ended(learner: Learner, phase: str, step: Step) -> Step:
    """The step, without an effect from where the phase has ended."""

    def guarded(state: LearnerState, _: None) -> tuple[LearnerState, StepMetrics]:
        ended = learner.ended(phase, state.trained)
        if ended is False:
            return step(state, None)
        shapes = jax.eval_shape(step, state, None)[1]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(ended, lambda state: (state, nothing), lambda state: step(state, None), state)

    return guarded
