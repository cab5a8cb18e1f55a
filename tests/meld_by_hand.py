"""MELD's ELBO in NumPy float64, by loops over time and taps, on the arrays of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

Parameters = dict[str, Any]
"""The arrays of a model by name: `encoder.convolutions[0].weight`; see :func:`parameters_of`."""


def parameters_of(model: Any) -> Parameters:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf, np.float64) for path, leaf in leaves}


def leaky(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 0.2 * values)


def mlp(parameters: Parameters, name: str, rows: np.ndarray) -> np.ndarray:
    for layer in range(3):
        rows = rows @ parameters[f"{name}.weights[{layer}]"] + parameters[f"{name}.biases[{layer}]"]
        rows = leaky(rows) if layer < 2 else rows
    return rows


def padding_before(length: int, size: int) -> int:
    """TensorFlow's rule for "SAME" with stride 2, as spec meld 9.1 states it."""
    return max((-(-length // 2) - 1) * 2 + size - length, 0) // 2


def convolve(pictures: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(n, h, w, c) with (kh, kw, c, filters), stride 2, "SAME"."""
    n, height, width, _ = pictures.shape
    found = np.zeros((n, height // 2, width // 2, kernel.shape[3]))
    top, left = padding_before(height, kernel.shape[0]), padding_before(width, kernel.shape[1])
    for row in range(height // 2):
        for column in range(width // 2):
            for down in range(kernel.shape[0]):
                for right in range(kernel.shape[1]):
                    y, x = 2 * row + down - top, 2 * column + right - left
                    if 0 <= y < height and 0 <= x < width:
                        found[:, row, column] += pictures[:, y, x] @ kernel[down, right]
    return found


def convolve_transposed(pictures: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(n, h, w, c) with (kh, kw, filters, c): each input is spread over the outputs that it would be computed from."""
    n, rows, columns, _ = pictures.shape
    height, width = 2 * rows, 2 * columns
    found = np.zeros((n, height, width, kernel.shape[2]))
    top, left = padding_before(height, kernel.shape[0]), padding_before(width, kernel.shape[1])
    for row in range(rows):
        for column in range(columns):
            for down in range(kernel.shape[0]):
                for right in range(kernel.shape[1]):
                    y, x = 2 * row + down - top, 2 * column + right - left
                    if 0 <= y < height and 0 <= x < width:
                        found[:, y, x] += pictures[:, row, column] @ kernel[down, right].T
    return found


SIZES = ((5, 5), (3, 3), (3, 3), (3, 3))


def encode(parameters: Parameters, pictures: np.ndarray) -> np.ndarray:
    hidden = pictures / 255.0
    for layer, size in enumerate(SIZES):
        weight = parameters[f"encoder.convolutions[{layer}].weight"]
        kernel = weight.reshape(*size, hidden.shape[-1], -1)
        hidden = leaky(convolve(hidden, kernel) + parameters[f"encoder.convolutions[{layer}].bias"])
    flat = hidden.reshape(len(hidden), -1)
    return leaky(flat @ parameters["encoder.weight"] + parameters["encoder.bias"])


def decode(parameters: Parameters, latents: np.ndarray) -> np.ndarray:
    hidden = leaky((latents @ parameters["decoder.weight"])[:, None, None] + parameters["decoder.bias"])
    for layer, size in enumerate(reversed(SIZES)):
        weight = parameters[f"decoder.convolutions[{layer}].weight"]
        kernel = weight.T.reshape(*size, -1, hidden.shape[-1])
        hidden = convolve_transposed(hidden, kernel) + parameters[f"decoder.convolutions[{layer}].bias"]
        hidden = leaky(hidden) if layer < 3 else hidden
    return hidden


def gaussian(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, raw = np.split(outputs, 2, axis=-1)
    return mean, np.logaddexp(raw, 0) + 1e-5


def log_density(value: np.ndarray, mean: np.ndarray, deviation: float) -> np.ndarray:
    return -((value - mean) ** 2) / (2 * deviation**2) - np.log(deviation) - 0.5 * np.log(2 * np.pi)


def divergence(q: tuple[np.ndarray, np.ndarray], p: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    (mean, deviation), (other_mean, other_deviation) = q, p
    terms = np.log(other_deviation / deviation)
    terms = terms + (deviation**2 + (mean - other_mean) ** 2) / (2 * other_deviation**2) - 0.5
    return terms.sum(axis=-1)


def elbo_of_trial(
    parameters: Parameters, config: Any, trial: dict[str, np.ndarray], noise: np.ndarray
) -> dict[str, float]:
    """The parts of the ELBO of one trial, frame after frame; both divergences."""
    there = np.flatnonzero(trial["mask"])
    embedded = encode(parameters, trial["pictures"][there])
    first, z2 = config.first_latent_size, None
    latents, divergences = [], {"first": 0.0, "second": 0.0}
    for place, time in enumerate(there):
        repeated = np.full(config.reward_repeats, trial["seen"][time])
        frame = np.concatenate([embedded[place], repeated])[None]
        if z2 is None:
            q1 = gaussian(mlp(parameters, "initial_posterior", frame))
            p1 = np.zeros((1, first)), np.ones((1, first))
        else:
            before = np.concatenate([z2, trial["actions"][time][None]], axis=1)
            q1 = gaussian(mlp(parameters, "posterior", np.concatenate([frame, before], axis=1)))
            p1 = gaussian(mlp(parameters, "prior", before))
        z1 = q1[0] + q1[1] * noise[time, :first]
        if z2 is None:
            q2 = p2 = gaussian(mlp(parameters, "initial_second", z1))
        else:
            q2 = p2 = gaussian(mlp(parameters, "second", np.concatenate([z1, before], axis=1)))
        z2 = q2[0] + q2[1] * noise[time, first:]
        latents.append(np.concatenate([z1, z2], axis=1))
        divergences["first"] += float(divergence(q1, p1)[0])
        divergences["second"] += float(divergence(q2, p2)[0])
    both = np.concatenate(latents)
    seen, expected = trial["pictures"][there] / 255.0, mlp(parameters, "reward_decoder", both)[:, 0]
    sums = {
        "image": float(log_density(seen, decode(parameters, both), config.image_deviation).sum()),
        "reward": float(log_density(trial["rewards"][there], expected, config.reward_deviation).sum()),
        **divergences,
    }
    return {name: value / len(there) for name, value in sums.items()}


def loss(parameters: Parameters, config: Any, trials: list[dict[str, np.ndarray]], noise: np.ndarray) -> float:
    """Minus the mean ELBO."""
    parts = [elbo_of_trial(parameters, config, trial, drawn) for trial, drawn in zip(trials, noise, strict=True)]
    return -float(
        np.mean(
            [part["image"] + config.reward_weight * part["reward"] - part["first"] - part["second"] for part in parts]
        )
    )
