"""Several seeds as one: when their calls are made together, and how their values are put together and taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nacre.types import Tree


def batched(seeds: int) -> bool:
    """Whether one call serves all of so many seeds.

    A GPU is not full with the small networks of one seed, so that a call of several costs little more. The cores of a
    CPU are: there every seed has calls of its own, those of a seed alone, and so the same numbers to the bit.
    """
    return seeds > 1 and _platform() != "cpu"


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of the same structure and shapes as one, with a leading axis of trees on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Tree, n: int) -> list[Tree]:
    """The `n` trees that :func:`stack` put together."""
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(n)]


def _platform() -> str:
    device = jax.config.jax_default_device or jax.devices()[0]  # pyright: ignore[reportAttributeAccessIssue]
    return device.platform
