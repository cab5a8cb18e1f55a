"""From pictures to features: the convolutional trunk that stands before the networks of agents that see pixels.

It is small, and is trained by critics. The encoder of a latent state model, which also draws pictures, is another one:
:mod:`nacre.nn.image`.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, UInt8

from nacre.errors import NacreError
from nacre.nn.mlp import Precision, matmul
from nacre.types import Key

Layers = tuple[tuple[int, int], ...]
"""Size and stride of each convolution; none pads."""
LAYERS: Layers = ((4, 4), (3, 2), (3, 2))
"""Pictures of 64 × 64 become 16 × 16, 7 × 7 and 3 × 3."""


def positions(length: int, size: int, stride: int) -> int:
    """How often a patch of `size` fits in, moved by `stride`."""
    return (length - size) // stride + 1


def smallest_picture(layers: Layers) -> int:
    """Height and width of which one position is left after `layers`."""
    length = 1
    for size, stride in reversed(layers):
        length = (length - 1) * stride + size
    return length


SMALLEST_PICTURE = smallest_picture(LAYERS)


def patches_of(
    pictures: Float32[Array, "n height width channels"], size: tuple[int, int], stride: int
) -> Float32[Array, "n rows columns patch"]:
    """What a kernel of `size` sees wherever it fits in: its rows, columns and channels, in this order."""
    rows, columns = (positions(length, each, stride) for length, each in zip(pictures.shape[1:3], size, strict=True))
    return jnp.concatenate(
        [
            pictures[:, down : down + stride * rows : stride, right : right + stride * columns : stride]
            for down, right in itertools.product(*map(range, size))
        ],
        axis=-1,
    )


class Convolution(eqx.Module):
    """A convolution as one matrix product, of the patches of its input with its filters.

    On a CPU that is faster to differentiate than XLA's own convolution, and its precision is that of :func:`matmul`.
    """

    weight: Float32[Array, "patch filters"]
    bias: Float32[Array, " filters"]
    size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(self, channels: int, filters: int, size: int, stride: int, *, key: Key, precision: Precision):
        """Weights start uniform with variance 2 / patch (He et al. 2015), biases at 0."""
        self.weight = jax.nn.initializers.he_uniform()(key, (size * size * channels, filters))
        self.bias = jnp.zeros(filters)
        self.size, self.stride, self.precision = size, stride, precision

    def __call__(self, pictures: Float32[Array, "n height width channels"]) -> Float32[Array, "n rows columns filters"]:
        patches = patches_of(pictures, (self.size, self.size), self.stride)
        outputs = matmul(patches.reshape(-1, patches.shape[-1]), self.weight, self.precision) + self.bias[None]
        return outputs.reshape(*patches.shape[:3], -1)


class ConvolutionalTrunk(eqx.Module):
    """Convolutions with ReLU, a linear layer, layer normalisation and tanh: a few features of a picture.

    Bounded features of one scale are what keeps critics on a trunk of their own training stable (Yarats et al. 2021,
    *Improving sample efficiency in model-free reinforcement learning from images*). As in :class:`nacre.nn.mlp.MLP`
    the first and last layers stay in float32.
    """

    convolutions: tuple[Convolution, ...]
    weight: Float32[Array, "fan_in features"]
    bias: Float32[Array, " features"]

    def __init__(
        self,
        shape: tuple[int, int, int],
        filters: int,
        features: int,
        *,
        key: Key,
        precision: Precision,
        layers: Layers = LAYERS,
    ):
        """A fresh trunk.

        Args:
            shape: Of a picture: height and width, each at least `smallest_picture(layers)`, and channels.
            filters: Of each convolution.
            features: Of a picture.
            key: Draws the weights.
            precision: Of the products of all convolutions but the first.
            layers: Size and stride of each convolution, at least one.

        Raises:
            ValueError: The convolutions leave nothing of a picture.
        """
        *lengths, channels = shape
        if min(lengths) < smallest_picture(layers):
            raise ValueError(f"a picture of {lengths} pixels leaves nothing after the convolutions")
        *keys, linear_key = jax.random.split(key, len(layers) + 1)
        convolutions = []
        for (size, stride), layer_key in zip(layers, keys, strict=True):
            first: Precision = precision if convolutions else "float32"
            convolutions.append(Convolution(channels, filters, size, stride, key=layer_key, precision=first))
            lengths, channels = [positions(length, size, stride) for length in lengths], filters
        self.convolutions = tuple(convolutions)
        fan_in = math.prod(lengths) * filters
        self.weight = jax.nn.initializers.he_uniform()(linear_key, (fan_in, features))
        self.bias = jnp.zeros(features)

    def __call__(self, pictures: UInt8[Array, "*batch height width channels"]) -> Float32[Array, "*batch features"]:
        """Features within (-1, 1)."""
        batch, shape = pictures.shape[:-3], pictures.shape[-3:]
        hidden = pictures.reshape(-1, *shape).astype(jnp.float32) / 255
        # Without the mean colour: most of a picture is background, which would drown what moves before it.
        hidden = hidden - hidden.mean(axis=(1, 2), keepdims=True)
        for convolution in self.convolutions:
            hidden = jax.nn.relu(convolution(hidden))
        features = matmul(hidden.reshape(len(hidden), -1), self.weight, "float32") + self.bias[None]
        return jnp.tanh(jax.nn.standardize(features)).reshape(*batch, -1)


def stack_with(
    stack: UInt8[Array, "n height width stack"], begins: Bool[Array, " n"], picture: UInt8[Array, "n height width 3"]
) -> UInt8[Array, "n height width stack"]:
    """The stack that a new picture ends, oldest first; if an episode begins, it also stands for those before it."""
    older = stack[..., picture.shape[-1] :]
    firsts = jnp.tile(picture, older.shape[-1] // picture.shape[-1])
    return jnp.concatenate([jnp.where(begins[:, None, None, None], firsts, older), picture], axis=-1)


def check_pictures(family: str, size: tuple[int, int, int]) -> None:
    """Raises NacreError if the pictures of a family are too small for the trunk."""
    height, width, _ = size
    if min(height, width) < SMALLEST_PICTURE:
        raise NacreError(
            f"The pictures of {family} are {height} pixels high and {width} wide; allowed: at least "
            f"{SMALLEST_PICTURE} each, or the convolutions leave nothing of them"
        )
