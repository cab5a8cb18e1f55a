"""The device that JAX computes on."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax


def current_device() -> Any:
    """A `jax.Device`: that of `jax_default_device`, or else JAX's first."""
    return jax.config.jax_default_device or jax.devices()[0]  # pyright: ignore[reportAttributeAccessIssue]


def current_platform() -> str:
    """Of the current device: cpu, gpu or tpu."""
    return current_device().platform


@functools.cache
def options_for_products(platform: str, precision: Literal["float32", "bfloat16"]) -> dict[str, str]:
    """Options of XLA's compiler with which it multiplies matrices of this precision fastest; none if it knows better.

    On a CPU there are two libraries. The newer one, which XLA prefers, is the only one that is fast with bfloat16. In
    float32 the older one took 12 % less time (benchmarks/learner.py).
    """
    older: dict[str, str] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if platform != "cpu" or precision != "float32":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=older).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA has no such option
        return {}
    return older
