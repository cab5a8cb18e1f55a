"""From pictures to features and back: five convolutions, and their mirror image (SLAC; spec meld 1.2, 1.3).

Pictures of one camera are square. Those of two cameras stand one above the other, and all kernels are then twice as
high. Convolutions are matrix products of patches, but on a CPU for narrow ones such as those that see or make pictures:
that is faster to differentiate than XLA's own, and its precision is that of :func:`nacre.nn.mlp.matmul`.

What agents without a model see pictures with is :mod:`nacre.nn.convolution`: it does not pad, and has no way back.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from nacre.device import current_platform
from nacre.nn.convolution import patches_of
from nacre.nn.mlp import Precision, leaky_relu, matmul
from nacre.types import Key

HALVINGS = 4
"""Convolutions that halve height and width."""
SMALLEST_UNIT = 2**HALVINGS
"""Heights and widths of pictures are multiples of it."""
STRIDE = 2
FIRST_SIZE, SIZE = 5, 3
"""Of the kernels, in pixels: of those that see or make pictures, and of the others."""
NARROW = 8
"""With fewer channels, convolutions are XLA's on a CPU. (On an H100, products took one to two thirds of their time.)"""


def cameras_of(shape: tuple[int, ...]) -> int | None:
    """How many cameras a picture (height, width, 3) is of: 1 or 2; None: it cannot be encoded."""
    height, width = shape[0], shape[1]
    if width % SMALLEST_UNIT or height not in (width, 2 * width):
        return None
    return height // width


class HalvingConvolution(eqx.Module):
    """A convolution with stride 2, padded so that heights and widths are halved: as TensorFlow's "SAME", with the odd
    pixel at the end."""

    weight: Float32[Array, "patch filters"]
    """The first axis has a kernel's rows, columns and input channels, in this order."""
    bias: Float32[Array, " filters"]
    size: tuple[int, int] = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(self, channels: int, filters: int, size: tuple[int, int], *, key: Key, precision: Precision):
        """`size` is the kernel's height and width."""
        self.weight = _glorot(key, channels, filters, size).reshape(-1, filters)
        self.bias = jnp.zeros(filters)
        self.size, self.precision = size, precision

    def __call__(self, pictures: Float32[Array, "n height width channels"]) -> Float32[Array, "n rows columns filters"]:
        channels = pictures.shape[3]
        if _is_narrow(channels):
            return _convolve(pictures, self.weight.reshape(*self.size, channels, -1)) + self.bias[None, None, None]
        ends = (same_padding(length, size) for length, size in zip(pictures.shape[1:3], self.size, strict=True))
        patches = patches_of(jnp.pad(pictures, ((0, 0), *ends, (0, 0))), self.size, STRIDE)
        outputs = matmul(patches.reshape(-1, patches.shape[-1]), self.weight, self.precision) + self.bias[None]
        return outputs.reshape(*patches.shape[:3], -1)


class DoublingConvolution(eqx.Module):
    """The transpose of a :class:`HalvingConvolution`: heights and widths are doubled.

    Each square of 2 × 2 outputs is a sum of products of the inputs around it, shifted, so that all products are one.
    """

    weight: Float32[Array, "channels patch"]
    """The last axis has a kernel's rows, columns and output channels, in this order."""
    bias: Float32[Array, " filters"]
    size: tuple[int, int] = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(self, channels: int, filters: int, size: tuple[int, int], *, key: Key, precision: Precision):
        """`size` is the kernel's height and width."""
        weight = _glorot(key, filters, channels, size)  # (height, width, filters, channels)
        self.weight = weight.reshape(-1, channels).T
        self.bias = jnp.zeros(filters)
        self.size, self.precision = size, precision

    def __call__(self, pictures: Float32[Array, "n rows columns channels"]) -> Float32[Array, "n height width filters"]:
        n, rows, columns, channels = pictures.shape
        kernel = self.weight.T.reshape(*self.size, -1, channels)
        if _is_narrow(len(self.bias)):
            return _convolve_transposed(pictures, kernel) + self.bias[None, None, None]
        deep, wide = (-(-size // STRIDE) for size in self.size)
        products = matmul(pictures.reshape(-1, channels), _kernel_of_squares(kernel).T, self.precision)
        products = products.reshape(n, rows, columns, deep * wide, -1)
        shifted = [
            jnp.pad(products[:, :, :, tap], ((0, 0), (down, deep - 1 - down), (right, wide - 1 - right), (0, 0)))
            for tap, (down, right) in enumerate(itertools.product(range(deep), range(wide)))
        ]
        return _open_squares(sum(shifted[1:], shifted[0]), (rows, columns), self.size) + self.bias[None, None, None]


def _is_narrow(channels: int) -> bool:
    return channels < NARROW and current_platform() == "cpu"


@jax.custom_vjp
def _convolve(
    pictures: Float32[Array, "n height width channels"], kernel: Float32[Array, "down right channels filters"]
) -> Float32[Array, "n rows columns filters"]:
    """A halving convolution by XLA: what is as narrow as a picture makes narrow patches, which are slow to copy."""
    return jax.lax.conv_general_dilated(
        pictures,
        kernel,
        (STRIDE, STRIDE),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def _convolve_forward(pictures: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(pictures, kernel), (pictures, kernel)


def _convolve_backward(operands: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    pictures, kernel = operands
    return _convolve_transposed(cotangent, kernel), _kernel_gradient(pictures, cotangent, kernel.shape)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _kernel_gradient(
    pictures: Float32[Array, "n height width channels"],
    cotangent: Float32[Array, "n rows columns filters"],
    shape: tuple[int, ...],
) -> Float32[Array, "down right channels filters"]:
    """That of the kernel of a halving convolution: inside of a scan on a CPU, XLA's own takes eight times as long."""
    n, rows, columns, filters = cotangent.shape
    deep, wide = (-(-size // STRIDE) for size in shape[:2])
    tops = [same_padding(length, size)[0] for length, size in zip(pictures.shape[1:3], shape[:2], strict=True)]
    ends = [
        (top, STRIDE * (places + taps - 1) - length - top)
        for top, places, taps, length in zip(tops, (rows, columns), (deep, wide), pictures.shape[1:3], strict=True)
    ]
    padded = jax.lax.pad(pictures, jnp.float32(0), [(0, 0, 0), *((*end, 0) for end in ends), (0, 0, 0)])
    squares = padded.reshape(n, rows + deep - 1, STRIDE, columns + wide - 1, STRIDE, -1).swapaxes(2, 3)
    squares = squares.reshape(n, rows + deep - 1, columns + wide - 1, -1)
    outputs = cotangent.reshape(-1, filters)
    taps = [
        matmul(squares[:, down : down + rows, right : right + columns].reshape(len(outputs), -1).T, outputs, "float32")
        for down, right in itertools.product(range(deep), range(wide))
    ]
    whole = jnp.stack(taps).reshape(deep, wide, STRIDE, STRIDE, -1, filters).swapaxes(1, 2)
    return whole.reshape(STRIDE * deep, STRIDE * wide, -1, filters)[: shape[0], : shape[1]]


@jax.custom_vjp
def _convolve_transposed(
    inputs: Float32[Array, "n rows columns channels"], kernel: Float32[Array, "down right filters channels"]
) -> Float32[Array, "n height width filters"]:
    """The transpose of :func:`_convolve`: each square of 2 × 2 outputs is computed at once."""
    deep, wide = (-(-size // STRIDE) for size in kernel.shape[:2])
    filters = STRIDE**2 * kernel.shape[2]
    squares = _kernel_of_squares(kernel).reshape(deep, wide, filters, -1)[::-1, ::-1].swapaxes(2, 3)
    spread = jax.lax.conv_general_dilated(
        inputs,
        squares,
        (1, 1),
        [(deep - 1, deep - 1), (wide - 1, wide - 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _open_squares(spread, (inputs.shape[1], inputs.shape[2]), (kernel.shape[0], kernel.shape[1]))


def _convolve_transposed_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_transposed(inputs, kernel), (inputs, kernel)


def _convolve_transposed_backward(operands: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = operands
    return _convolve(cotangent, kernel), _kernel_gradient(cotangent, inputs, kernel.shape)


_convolve_transposed.defvjp(_convolve_transposed_forward, _convolve_transposed_backward)


def _open_squares(
    squares: Float32[Array, "n down right channels"], places: tuple[int, int], size: tuple[int, int]
) -> Float32[Array, "n height width filters"]:
    """Squares of 2 × 2 outputs, whose channels lie together, as a picture of twice as many rows and columns as there
    are `places`; what a kernel of `size` makes beyond them is cut off."""
    n, down, right, channels = squares.shape
    apart = squares.reshape(n, down, right, STRIDE, STRIDE, channels // STRIDE**2).swapaxes(2, 3)
    whole = apart.reshape(n, STRIDE * down, STRIDE * right, -1)
    height, width = (STRIDE * length for length in places)
    top, left = same_padding(height, size[0])[0], same_padding(width, size[1])[0]
    return whole[:, top : top + height, left : left + width]


def _kernel_of_squares(kernel: Float32[Array, "height width into out"]) -> Float32[Array, "patch out"]:
    """The kernel as one of squares of 2 × 2 pixels, with zeros where it has an odd length. The first axis has rows and
    columns of squares, and then those inside of a square, and channels."""
    height, width, into, out = kernel.shape
    deep, wide = -(-height // STRIDE), -(-width // STRIDE)
    padded = jnp.pad(kernel, ((0, STRIDE * deep - height), (0, STRIDE * wide - width), (0, 0), (0, 0)))
    squares = padded.reshape(deep, STRIDE, wide, STRIDE, into, out).swapaxes(1, 2)
    return squares.reshape(deep * wide * STRIDE * STRIDE * into, out)


class ImageEncoder(eqx.Module):
    """Five convolutions with leaky ReLU after each, the last of which leaves one position: 8 `depth` features."""

    convolutions: tuple[HalvingConvolution, ...]
    weight: Float32[Array, "patch features"]
    bias: Float32[Array, " features"]
    precision: Precision = eqx.field(static=True)

    def __init__(self, shape: tuple[int, int, int], depth: int, *, key: Key, precision: Precision):
        """A fresh encoder; weights start as Glorot and Bengio 2010 have it, biases at 0.

        Args:
            shape: Of a picture; see :func:`cameras_of`.
            depth: Filters of the first convolution. The others have 2, 4, 8 and 8 times as many.
            key: Draws the weights.
            precision: Of the products of all convolutions but the first.
        """
        tall = _checked_cameras(shape)
        *keys, last_key = jax.random.split(key, HALVINGS + 1)
        channels, filters = (shape[2], depth, 2 * depth, 4 * depth), (depth, 2 * depth, 4 * depth, 8 * depth)
        sizes = (FIRST_SIZE, SIZE, SIZE, SIZE)
        precisions: tuple[Precision, ...] = ("float32", precision, precision, precision)
        self.convolutions = tuple(
            HalvingConvolution(into, out, (tall * size, size), key=layer_key, precision=each)
            for into, out, size, layer_key, each in zip(channels, filters, sizes, keys, precisions, strict=True)
        )
        rows, columns = _smallest(shape)
        self.weight = _glorot(last_key, 8 * depth, 8 * depth, (rows, columns)).reshape(-1, 8 * depth)
        self.bias = jnp.zeros(8 * depth)
        self.precision = precision

    def __call__(self, pictures: UInt8[Array, "n height width 3"]) -> Float32[Array, "n features"]:
        hidden = scaled(pictures)
        for convolution in self.convolutions:
            hidden = leaky_relu(convolution(hidden))
        return leaky_relu(matmul(hidden.reshape(len(hidden), -1), self.weight, self.precision) + self.bias[None])


class ImageDecoder(eqx.Module):
    """The mirror image of :class:`ImageEncoder`: five transposed convolutions with leaky ReLU between them."""

    weight: Float32[Array, "latent patch"]
    bias: Float32[Array, " features"]
    convolutions: tuple[DoublingConvolution, ...]
    smallest: tuple[int, int] = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(self, latent_size: int, shape: tuple[int, int, int], depth: int, *, key: Key, precision: Precision):
        """Arguments are those of :class:`ImageEncoder`, but that `precision` leaves out the last convolution;
        `latent_size` is the width of a row that is decoded."""
        tall = _checked_cameras(shape)
        first_key, *keys = jax.random.split(key, HALVINGS + 1)
        self.smallest, self.precision = _smallest(shape), precision
        self.weight = _glorot(first_key, 8 * depth, latent_size, self.smallest).reshape(-1, latent_size).T
        self.bias = jnp.zeros(8 * depth)
        channels, filters = (8 * depth, 4 * depth, 2 * depth, depth), (4 * depth, 2 * depth, depth, shape[2])
        sizes = (SIZE, SIZE, SIZE, FIRST_SIZE)
        precisions: tuple[Precision, ...] = (precision, precision, precision, "float32")
        self.convolutions = tuple(
            DoublingConvolution(into, out, (tall * size, size), key=layer_key, precision=each)
            for into, out, size, layer_key, each in zip(channels, filters, sizes, keys, precisions, strict=True)
        )

    def __call__(self, latents: Float32[Array, "n latent"]) -> Float32[Array, "n height width 3"]:
        """Pictures; values that a picture can have are within 0 and 1."""
        products = matmul(latents, self.weight, self.precision).reshape(len(latents), *self.smallest, -1)
        hidden = leaky_relu(products + self.bias[None, None, None])
        for convolution in self.convolutions[:-1]:
            hidden = leaky_relu(convolution(hidden))
        return self.convolutions[-1](hidden)


def activations_of(shape: tuple[int, int, int], depth: int) -> int:
    """Numbers that encoder and decoder keep of a picture each, for a backward pass: patches, and outputs before and
    after the activation."""
    tall, total, channels = _checked_cameras(shape), 0, shape[2]
    for layer, size in enumerate((FIRST_SIZE, SIZE, SIZE, SIZE), start=1):
        places, filters = math.prod(shape[:2]) // STRIDE ** (2 * layer), depth * 2 ** (layer - 1)
        total += places * (tall * size * size * channels + 2 * filters)
        channels = filters
    return total


def scaled(pictures: UInt8[Array, "*n height width 3"]) -> Float32[Array, "*n height width 3"]:
    """Within 0 and 1."""
    return pictures.astype(jnp.float32) / 255


def same_padding(length: int, size: int) -> tuple[int, int]:
    """Pixels to add before and after, so that kernels of `size` with stride 2 fit in ⌈length / 2⌉ times."""
    total = max((-(-length // STRIDE) - 1) * STRIDE + size - length, 0)
    return total // 2, total - total // 2


def _smallest(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width after all halvings."""
    return shape[0] // SMALLEST_UNIT, shape[1] // SMALLEST_UNIT


def _checked_cameras(shape: tuple[int, int, int]) -> int:
    cameras = cameras_of(shape)
    if cameras is None:
        raise ValueError(
            f"pictures of {shape[:2]} pixels; a width is a multiple of {SMALLEST_UNIT}, a height the same or twice"
        )
    return cameras


def _glorot(
    key: Key, channels: int, filters: int, size: tuple[int, int]
) -> Float32[Array, "height width channels filters"]:
    """Weights U(-b, b) with b = sqrt(6 / (fan in + fan out)), where a fan counts the positions of the kernel."""
    bound = math.sqrt(6 / (math.prod(size) * (channels + filters)))
    return jax.random.uniform(key, (*size, channels, filters), minval=-bound, maxval=bound)
