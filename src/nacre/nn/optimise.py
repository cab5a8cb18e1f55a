"""What a gradient step does with a gradient: Adam, and targets that follow."""

from __future__ import annotations

from typing import TypeVar

import jax
import optax

from nacre.types import Tree

AnyTree = TypeVar("AnyTree", bound=Tree)


def adam_state(parameters: Tree) -> optax.OptState:
    """Zero moments; they do not depend on the learning rate."""
    return optax.adam(0.0).init(parameters)


def adam_step(
    learning_rate: float, gradient: Tree, state: optax.OptState, parameters: Tree
) -> tuple[Tree, optax.OptState]:
    """One step of Adam with its default moments (Kingma and Ba 2015).

    Returns:
        The new parameters and the new state.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to an integer array's power
        updates, state = optax.adam(learning_rate).update(gradient, state)
    return optax.apply_updates(parameters, updates), state


def follow(targets: AnyTree, followed: AnyTree, rate: float) -> AnyTree:
    """`targets`, moved by `rate` of the way towards `followed`."""
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, targets, followed)
