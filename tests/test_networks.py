"""The settings of the network modules, and that their defaults are what PEARL's checkpoints and numbers rest on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_layers import Layers

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import initial_networks
from nacre.nn.convolution import LAYERS, ConvolutionalTrunk, smallest_picture
from nacre.nn.mlp import MLP
from nacre.rl.policy import TanhGaussianPolicy
from nacre.tasks.family import Sizes

KEY = jax.random.key(4)


def test_default_initialisation_draws_what_it_always_drew():
    """The bits of a fresh network of PEARL: a run of old goes on, and is repeated, with the same numbers."""
    mlp = MLP((3, 5, 4, 2), key=KEY, precision="float32")
    keys = jax.random.split(KEY, 4)

    def within(key, shape, bound):
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weights = [within(keys[2], (3, 5), 5**-0.5), within(keys[3], (5, 4), 4**-0.5), within(keys[0], (4, 2), 3e-3)]
    biases = [jnp.full(5, 0.1), jnp.full(4, 0.1), within(keys[1], (2,), 3e-3)]
    for ours, theirs in zip([*mlp.weights, *mlp.biases], [*weights, *biases], strict=True):
        np.testing.assert_array_equal(ours, theirs)

    policy = TanhGaussianPolicy(3, 1, (5, 4), key=KEY, precision="float32").network
    np.testing.assert_array_equal(policy.weights[-1], within(keys[0], (4, 2), 1e-3))
    np.testing.assert_array_equal(policy.weights[0], weights[0])


@pytest.mark.parametrize(
    ("initialisation", "weight_bounds", "bias_bounds"),
    [
        ("fan-out", [60**-0.5, 80**-0.5, 50**-0.5], None),
        ("fan-in", [40**-0.5, 60**-0.5, 80**-0.5], [40**-0.5, 60**-0.5, 80**-0.5]),
        ("glorot", [(6 / 100) ** 0.5, (6 / 140) ** 0.5, (6 / 130) ** 0.5], [0, 0, 0]),
    ],
)
def test_initialisations(initialisation, weight_bounds, bias_bounds):
    """Uniform: within a bound, almost up to it, with its variance; all layers alike if the output has no bound."""
    mlp = MLP((40, 60, 80, 50), key=KEY, precision="float32", initialisation=initialisation, output_bound=None)
    for weight, bound in zip(mlp.weights, weight_bounds, strict=True):
        assert 0.98 * bound < float(jnp.abs(weight).max()) <= bound
        np.testing.assert_allclose(weight.std(), bound / 3**0.5, rtol=0.05)
    if bias_bounds is None:
        assert all(np.array_equal(bias, np.full(len(bias), np.float32(0.1))) for bias in mlp.biases)
        return
    for bias, bound in zip(mlp.biases, bias_bounds, strict=True):
        assert 0.8 * bound <= float(jnp.abs(bias).max()) <= bound


def test_output_bound_is_apart_from_the_initialisation():
    mlp = MLP((40, 60, 50), key=KEY, precision="float32", initialisation="glorot", output_bound=0.01)
    for output in (mlp.weights[-1], mlp.biases[-1]):
        assert 0.009 < float(jnp.abs(output).max()) <= 0.01
    assert float(jnp.abs(mlp.weights[0]).max()) > 0.2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 8, 7, 6, 2)])
def test_depth_and_activation(sizes, activation, precision):
    mlp = MLP(sizes, key=KEY, precision=precision, activation=activation, output_bound=None)
    rows = np.random.default_rng(0).normal(size=(4, 3))
    tolerance = 1e-5 if precision == "float32" or len(sizes) < 4 else 0.05  # first and last layers stay float32
    np.testing.assert_allclose(mlp(jnp.asarray(rows, jnp.float32)), Layers(mlp).forward(rows), atol=tolerance)
    assert len(mlp.weights) == len(sizes) - 1


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least an input and an output width"):
        MLP((3,), key=KEY, precision="float32")


def test_bounds_of_the_policy():
    policy = TanhGaussianPolicy(2, 3, (), key=KEY, precision="float32", output_bound=100.0, log_std_bounds=(-5.0, 0.5))
    rows = jax.random.normal(jax.random.key(0), (50, 2))
    mean, log_std = policy.distribution(rows)
    assert len(policy.network.weights) == 1
    assert (float(log_std.min()), float(log_std.max())) == (-5.0, 0.5)
    assert float(jnp.abs(mean).max()) > 5
    wide = TanhGaussianPolicy(2, 3, (), key=KEY, precision="float32", output_bound=100.0).distribution(rows)[1]
    assert (float(wide.min()), float(wide.max())) == (-20.0, 2.0)


def test_layers_of_the_trunk():
    layers = ((5, 3), (3, 1))
    assert smallest_picture(LAYERS) == 28
    assert smallest_picture(layers) == 11
    trunk = ConvolutionalTrunk((11, 14, 3), 4, 6, key=KEY, precision="float32", layers=layers)
    assert [(c.weight.shape, c.stride) for c in trunk.convolutions] == [((75, 4), 3), ((36, 4), 1)]
    assert trunk.weight.shape == (1 * 2 * 4, 6)
    assert trunk(jnp.zeros((2, 11, 14, 3), jnp.uint8)).shape == (2, 6)
    with pytest.raises(ValueError, match="leaves nothing"):
        ConvolutionalTrunk((10, 14, 3), 4, 6, key=KEY, precision="float32", layers=layers)


def test_names_of_leaves_in_checkpoints():
    """A checkpoint finds its arrays by these names: another name, and old checkpoints of PEARL no longer load."""
    networks = initial_networks(PearlConfig(hidden_size=4), Sizes((64, 64, 3), 2, 20, 1), key=KEY, precision="float32")
    leaves = jax.tree_util.tree_leaves_with_path(networks)
    mlps = (".encoder", ".policy.network", ".critics[0]", ".critics[1]", ".value")
    expected = {f"{mlp}.{part}[{layer}]" for mlp in mlps for part in ("weights", "biases") for layer in range(4)}
    expected |= {f".trunk.convolutions[{layer}].{part}" for part in ("weight", "bias") for layer in range(3)}
    assert {jax.tree_util.keystr(path) for path, _ in leaves} == expected | {".trunk.weight", ".trunk.bias"}
