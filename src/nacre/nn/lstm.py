"""One layer of long short-term memory over batches of sequences of different lengths."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from nacre.nn.mlp import Precision, matmul
from nacre.types import Key


class LSTMState(NamedTuple):
    """What n sequences have left behind so far. Both parts are carried on: the cell alone or the output alone is
    another network (spec pearl 1.8, item 4)."""

    hidden: Float32[Array, "n hidden"]
    """The output."""
    cell: Float32[Array, "n hidden"]


class LSTM(eqx.Module):
    """Long short-term memory with forget gates (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000).

    With [i, f, g, o] = W_x x + W_h h + b: cell = sigmoid(f) cell + sigmoid(i) tanh(g), and h = sigmoid(o) tanh(cell).

    It differs from `equinox.nn.LSTMCell` in what it takes: all of a sequence, so that the products with the inputs are
    one matrix product before the scan; a mask; and a precision.
    """

    input_weight: Float32[Array, "fan_in gates"]
    hidden_weight: Float32[Array, "hidden gates"]
    bias: Float32[Array, " gates"]
    precision: Precision = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: Key, precision: Precision):
        """Every parameter starts uniform within 1/sqrt(hidden_size), as in PyTorch, where the original had its LSTM."""
        shapes = ((input_size, 4 * hidden_size), (hidden_size, 4 * hidden_size), (4 * hidden_size,))
        bound = hidden_size**-0.5
        self.input_weight, self.hidden_weight, self.bias = (
            jax.random.uniform(part_key, shape, minval=-bound, maxval=bound)
            for part_key, shape in zip(jax.random.split(key, 3), shapes, strict=True)
        )
        self.precision = precision

    def initial_state(self, n: int) -> LSTMState:
        """Zeros: nothing seen."""
        zeros = jnp.zeros((n, len(self.hidden_weight)))
        return LSTMState(zeros, zeros)

    def __call__(
        self, inputs: Float32[Array, "n size fan_in"], mask: Bool[Array, "n size"], state: LSTMState
    ) -> LSTMState:
        """The state after the steps whose mask is True; the others change nothing."""
        n, size, fan_in = inputs.shape
        from_inputs = matmul(inputs.reshape(n * size, fan_in), self.input_weight, self.precision) + self.bias[None]

        def step(state: LSTMState, at: tuple[Array, Array]) -> tuple[LSTMState, None]:
            from_input, valid = at
            gates = from_input + matmul(state.hidden, self.hidden_weight, self.precision)
            enter, keep, candidate, leave = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(keep) * state.cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
            new = LSTMState(jax.nn.sigmoid(leave) * jnp.tanh(cell), cell)
            return jax.tree.map(lambda after, before: jnp.where(valid[:, None], after, before), new, state), None

        steps = jnp.swapaxes(from_inputs.reshape(n, size, self.bias.size), 0, 1), mask.T
        return jax.lax.scan(step, state, steps)[0]
