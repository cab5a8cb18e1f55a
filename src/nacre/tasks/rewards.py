"""Parts of rewards, for NumPy and JAX alike."""

from __future__ import annotations

from typing import Any

SPARSE_BONUS = 2.0


def choose(condition: Any, value: Any, otherwise: Any) -> Any:
    """`value` where the condition holds, `otherwise` elsewhere; both are finite. `value` is an array."""
    share = condition.astype(value.dtype)
    return share * value + (1 - share) * otherwise


def sparsified(reward: Any, radius: float, floor: float) -> Any:
    """A reward that is minus a distance, made sparse (spec cemrl-dmrlad 3.3): 2 minus the distance within `radius`,
    and `floor` + 2 elsewhere."""
    return choose(reward >= -radius, reward, floor) + SPARSE_BONUS


def log10(value: Any) -> Any:
    """The logarithm to the base 10, elementwise."""
    return value.__array_namespace__().log10(value)
