"""Multilayer perceptrons over rows, with the matmul precision written down."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from nacre.types import Key

Precision = Literal["float32", "bfloat16"]
"""float32: full float32 products everywhere (no TF32). bfloat16: products of bfloat16 operands summed in float32."""


class MLP(eqx.Module):
    """Linear layers with ReLU between them.

    It maps rows, not single vectors: every weight gradient is then one matrix product, also under the bfloat16 rule
    of :func:`matmul`, where a `vmap` over rows would form one outer product per row.
    """

    weights: tuple[Float32[Array, "fan_in fan_out"], ...]
    biases: tuple[Float32[Array, " fan_out"], ...]
    precision: Precision = eqx.field(static=True)

    def __init__(self, sizes: tuple[int, ...], *, key: Key, precision: Precision, output_bound: float = 3e-3):
        """Initialises as the original PEARL did (spec 1.1).

        Hidden weights are U(-b, b) with b = 1/sqrt(layer's output width), hidden biases 0.1, and the output layer's
        weights and biases U(-output_bound, output_bound). `sizes` are the widths from input to output.
        """
        keys = jax.random.split(key, len(sizes))
        weights, biases = [], []
        for fan_in, fan_out, layer_key in zip(sizes[:-2], sizes[1:-1], keys[2:], strict=True):
            bound = fan_out**-0.5
            weights.append(jax.random.uniform(layer_key, (fan_in, fan_out), minval=-bound, maxval=bound))
            biases.append(jnp.full(fan_out, 0.1, jnp.float32))
        shape = sizes[-2:]
        weights.append(jax.random.uniform(keys[0], shape, minval=-output_bound, maxval=output_bound))
        biases.append(jax.random.uniform(keys[1], shape[1:], minval=-output_bound, maxval=output_bound))
        self.weights, self.biases, self.precision = tuple(weights), tuple(biases), precision

    # The first and last layers stay in float32: they see observations and give results, and are narrow anyway.

    def __call__(self, rows: Float32[Array, "rows fan_in"]) -> Float32[Array, "rows fan_out"]:
        return self.output(self.hidden(rows))

    def hidden(self, rows: Float32[Array, "rows fan_in"]) -> Float32[Array, "rows hidden"]:
        """The last hidden layer."""
        precisions: list[Precision] = [self.precision] * (len(self.weights) - 1)
        precisions[0] = "float32"
        for weight, bias, precision in zip(self.weights[:-1], self.biases[:-1], precisions, strict=True):
            rows = jax.nn.relu(matmul(rows, weight, precision) + bias[None])
        return rows

    def output(self, hidden: Float32[Array, "rows hidden"]) -> Float32[Array, "rows fan_out"]:
        """The output layer, from the last hidden one."""
        return matmul(hidden, self.weights[-1], "float32") + self.biases[-1][None]


def matmul(
    rows: Float32[Array, "rows fan_in"], weight: Float32[Array, "fan_in fan_out"], precision: Precision
) -> Float32[Array, "rows fan_out"]:
    """`rows @ weight`, differentiable, in the given precision. The result is float32 in both."""
    if precision == "bfloat16":
        return _bfloat16_matmul(rows, weight)
    return jnp.matmul(rows, weight, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _bfloat16_matmul(rows: Array, weight: Array) -> Array:
    return _bfloat16_matmul_forward(rows, weight)[0]


def _bfloat16_matmul_forward(rows: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    rows, weight = rows.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    return _dot(rows, weight, 1, 0), (rows, weight)


def _bfloat16_matmul_backward(operands: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # A dot's gradient does not inherit the operand type, hence this rule: the cotangents are cast as well.
    rows, weight = operands
    cotangent = cotangent.astype(jnp.bfloat16)
    return _dot(cotangent, weight, 1, 1), _dot(rows, cotangent, 0, 0)


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    contraction = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, contraction, preferred_element_type=jnp.float32)


_bfloat16_matmul.defvjp(_bfloat16_matmul_forward, _bfloat16_matmul_backward)
