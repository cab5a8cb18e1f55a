"""Random seeds by purpose; and several seeds as one: when their calls are made together, and how their values are put
together and taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nacre.device import current_platform
from nacre.types import Key, Tree


def child(seed: np.random.SeedSequence, *numbers: int) -> np.random.SeedSequence:
    """A seed of its own for each sequence of numbers. `SeedSequence.spawn` would count its calls, and so change
    `seed`."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *numbers))


def key_of(seed: np.random.SeedSequence) -> Key:
    """A JAX PRNG key from a NumPy seed."""
    return jax.random.key(int(seed.generate_state(1)[0]))


def batched(seeds: int) -> bool:
    """Whether one call serves all seeds.

    A GPU is not full with the small networks of one seed, so that a call of several costs little more. The cores of a
    CPU are: there every seed has calls of its own, those of a seed alone, and so the same numbers to the last bit.
    """
    return seeds > 1 and current_platform() != "cpu"


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of the same structure and shapes as one, with a leading axis of trees on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Tree, n: int) -> list[Tree]:
    """The `n` trees that :func:`stack` put together."""
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(n)]
