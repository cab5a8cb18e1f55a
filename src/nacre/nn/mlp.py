"""Multilayer perceptrons over rows, with the matmul precision written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float32

from nacre.device import current_platform
from nacre.types import Key

Precision = Literal["float32", "bfloat16"]
"""float32: full float32 products everywhere (no TF32). bfloat16: products of bfloat16 operands summed in float32."""

Activation = Literal["relu", "tanh", "leaky-relu"]
"""What stands between the layers: a name in :data:`ACTIVATIONS`."""


def leaky_relu(array: Array) -> Array:
    """x, and 0.2 x below 0."""
    return jax.nn.leaky_relu(array, 0.2)


ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "leaky-relu": leaky_relu,
}

Initialisation = Literal["fan-out", "fan-in", "glorot"]
"""How a layer starts.

fan-out: weights U(-b, b) with b = 1/sqrt(output width), biases 0.1 (spec pearl 1.1).
fan-in: weights and biases U(-b, b) with b = 1/sqrt(input width). PyTorch's own.
glorot: weights U(-b, b) with b = sqrt(6 / (input + output width)), biases 0 (Glorot and Bengio 2010).
"""


class MLP(eqx.Module):
    """Linear layers with an activation between them.

    It maps rows, not single vectors: every weight gradient is then one matrix product, also under the bfloat16 rule
    of :func:`matmul`, whereas a `vmap` over rows would form one outer product per row.
    """

    weights: tuple[Float32[Array, "fan_in fan_out"], ...]
    biases: tuple[Float32[Array, " fan_out"], ...]
    precision: Precision = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        key: Key,
        precision: Precision,
        activation: Activation = "relu",
        initialisation: Initialisation = "fan-out",
        output_bound: float | None = 3e-3,
    ):
        """The defaults are those of spec pearl 1.1.

        Args:
            sizes: Widths from input to output: one layer fewer than there are widths, at least one.
            key: Draws the weights.
            precision: Of the products of the inner layers. The first and last layers stay float32.
            activation: Between the layers. The output is linear.
            initialisation: How the hidden layers start.
            output_bound: The output layer's weights and biases start uniform within ±output_bound. If None, the output
                layer starts as the hidden ones do.

        Raises:
            ValueError: `sizes` has fewer than two widths.
        """
        if len(sizes) < 2:
            raise ValueError(f"an MLP needs at least an input and an output width, not {sizes}")
        weight_key, bias_key, *keys = jax.random.split(key, len(sizes))
        layers = [
            initial_layer(initialisation, fan_in, fan_out, key=layer_key)
            for fan_in, fan_out, layer_key in zip(sizes[:-2], sizes[1:-1], keys, strict=True)
        ]
        fan_in, fan_out = sizes[-2:]
        if output_bound is None:
            layers.append(initial_layer(initialisation, fan_in, fan_out, key=weight_key))
        else:
            layers.append(
                (uniform(weight_key, (fan_in, fan_out), output_bound), uniform(bias_key, fan_out, output_bound))
            )
        self.weights, self.biases = (tuple(part) for part in zip(*layers, strict=True))
        self.precision, self.activation = precision, activation

    # The first and last layers stay in float32: they see observations and give results, and are narrow anyway.

    def __call__(self, rows: Float32[Array, "rows fan_in"]) -> Float32[Array, "rows fan_out"]:
        return self.output(self.hidden(rows))

    def hidden(self, rows: Float32[Array, "rows fan_in"]) -> Float32[Array, "rows hidden"]:
        """The last hidden layer."""
        precision: Precision = "float32"
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = ACTIVATIONS[self.activation](matmul(rows, weight, precision) + bias[None])
            precision = self.precision
        return rows

    def output(self, hidden: Float32[Array, "rows hidden"]) -> Float32[Array, "rows fan_out"]:
        """The output layer, from the last hidden one."""
        return matmul(hidden, self.weights[-1], "float32") + self.biases[-1][None]


def initial_layer(
    initialisation: Initialisation, fan_in: int, fan_out: int, *, key: Key
) -> tuple[Float32[Array, "fan_in fan_out"], Float32[Array, " fan_out"]]:
    """Weights and biases of a fresh layer."""
    shape = (fan_in, fan_out)
    if initialisation == "fan-out":
        return uniform(key, shape, fan_out**-0.5), jnp.full(fan_out, 0.1, jnp.float32)
    if initialisation == "glorot":
        return jax.nn.initializers.glorot_uniform()(key, shape, jnp.float32), jnp.zeros(fan_out)
    weight_key, bias_key = jax.random.split(key)
    return uniform(weight_key, shape, fan_in**-0.5), uniform(bias_key, fan_out, fan_in**-0.5)


def uniform(key: Key, shape: int | tuple[int, ...], bound: float) -> Float32[Array, "..."]:
    """Numbers uniform within ±bound."""
    return jax.random.uniform(key, shape if isinstance(shape, tuple) else (shape,), minval=-bound, maxval=bound)


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
    of_rows = _dot(cotangent, weight, 1, 1)
    if current_platform() != "cpu":
        return of_rows, _dot(rows, cotangent, 0, 0)
    # On a CPU, XLA's fast products of bfloat16 take no transposed left operand: without the copy float32 is as fast.
    transposed = with_layout_constraint(rows.T, Layout(major_to_minor=(0, 1)))
    return of_rows, _dot(transposed, cotangent, 1, 0)


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    contraction = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, contraction, preferred_element_type=jnp.float32)


_bfloat16_matmul.defvjp(_bfloat16_matmul_forward, _bfloat16_matmul_backward)
