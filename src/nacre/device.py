"""The device that JAX computes on."""

from __future__ import annotations

from typing import Any

import jax


def current_device() -> Any:
    """A `jax.Device`: that of `jax_default_device`, or else JAX's first."""
    return jax.config.jax_default_device or jax.devices()[0]  # pyright: ignore[reportAttributeAccessIssue]


def current_platform() -> str:
    """Of the current device: cpu, gpu or tpu."""
    return current_device().platform
