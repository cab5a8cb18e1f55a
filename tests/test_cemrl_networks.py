"""Every mode of CEMRL's encoder against a calculation in NumPy float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cemrl_by_hand import ROW, SIZES, EncoderByHand, make_config, make_encoder, make_windows

from nacre.agents.cemrl.losses import encode
from nacre.agents.cemrl.networks import (
    initial_decoder,
    initial_encoder,
    initial_normaliser,
    padded,
    row_width,
    zero_transition,
)

MODES: list[dict[str, Any]] = [
    {"encoder": "trajectory"},
    {"encoder": "individual-y"},
    {"encoder": "individual-y", "gaussian_product": "published"},
    *({"merge": merge} for merge in ("add", "add-softmax", "multiply", "linear", "mlp")),
    *({"merge": merge, "class_scores": "published"} for merge in ("add-softmax", "multiply")),
    {"gaussian_product": "published"},
    {"classes": 1},
    {"prior": "learned"},
]


@pytest.mark.parametrize("changes", MODES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_posterior_and_inference(changes: dict[str, Any]) -> None:
    config = make_config(**changes)
    encoder, windows = make_encoder(config), make_windows(10, config)

    @jax.jit
    def both(encoder, windows):
        factors, mask = encode(encoder, config, windows, None)
        return encoder.combine(factors, mask), encoder.infer(factors, mask)

    found, inferred = both(encoder, windows)
    hand = EncoderByHand(encoder, config)
    for n in range(10):
        rows, shown = np.asarray(windows.rows[n], np.float64), np.asarray(windows.mask[n])
        expected = hand.posterior(rows, shown)
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs[n], ours, rtol=2e-4, atol=2e-5)
        latent, chosen = hand.infer(rows, shown)
        np.testing.assert_allclose(inferred.latent[n], latent, rtol=2e-4, atol=2e-5)
        assert inferred.task_class[n] == chosen
        np.testing.assert_allclose(inferred.class_probabilities[n].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("encoder_kind", ["trajectory", "shared-y", "individual-y"])
def test_what_is_masked_has_no_effect(encoder_kind: Any) -> None:
    config = make_config(encoder=encoder_kind)
    encoder, windows = make_encoder(config), make_windows(5, config)
    other = windows._replace(rows=jnp.where(windows.mask[..., None], windows.rows, 7.0))
    infer = jax.jit(lambda windows: encoder.infer(*encode(encoder, config, windows, None)))
    for first, second in zip(infer(windows), infer(other), strict=True):
        np.testing.assert_array_equal(first, second)


def test_published_padding() -> None:
    """Missing transitions are rows of zeros, as they are after normalisation."""
    config = make_config()
    encoder, windows = make_encoder(config), make_windows(5, config)
    normaliser = jax.tree.map(lambda leaf: leaf + 0.5, initial_normaliser(SIZES))
    row = normaliser(zero_transition(SIZES))
    factors, mask = encode(encoder, config, windows, row)
    assert mask.all()
    zeros = np.float32(-0.5 / 1.5)
    filled = windows._replace(
        rows=jnp.where(windows.mask[..., None], windows.rows, zeros), mask=jnp.ones_like(windows.mask)
    )
    np.testing.assert_allclose(
        encoder.infer(factors, mask).latent,
        encoder.infer(*encode(encoder, config, filled, None)).latent,
        rtol=1e-4,
        atol=1e-6,
    )


def test_padded_leaves_what_is_there() -> None:
    mask = jnp.array([[False, True]])
    filled = padded(jnp.array([[[1.0], [2.0]]]), mask, jnp.array([[5.0]]))
    np.testing.assert_array_equal(filled, [[[5.0], [2.0]]])


def test_fresh_networks() -> None:
    """Widths, the fixed priors and the first values are those of the spec."""
    config = make_config(width_factor=10.0, window=4)
    encoder = initial_encoder(config, SIZES, key=jax.random.key(0), precision="float32")
    assert row_width(SIZES) == ROW
    assert [weight.shape for weight in encoder.trunk.shared.weights] == [(ROW, 90), (90, 90), (90, 90)]
    assert encoder.trunk.gaussian_heads.weights[0].shape == (90, 3 * 2 * 2)
    np.testing.assert_array_equal(encoder.trunk.shared.biases[0], np.float32(0.1))
    assert np.abs(encoder.trunk.shared.weights[-1]).max() <= 3e-3
    assert 0.9 / 90**0.5 < np.abs(encoder.trunk.class_head.weights[0]).max() <= 90**-0.5
    np.testing.assert_allclose(encoder.prior.mean, [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_allclose(encoder.prior.deviation, 0.5, rtol=1e-6)
    trajectory = initial_encoder(
        make_config(encoder="trajectory", width_factor=1.0), SIZES, key=jax.random.key(0), precision="float32"
    )
    assert trajectory.trunk.shared.weights[0].shape == (4 * ROW, 4 * ROW)
    decoder = initial_decoder(
        make_config(width_factor=10.0, state_coordinates=2), SIZES, key=jax.random.key(0), precision="float32"
    )
    assert [weight.shape for weight in decoder.state.weights] == [(7, 70), (70, 70), (70, 2)]
    assert decoder.reward.weights[-1].shape == (70, 1)
