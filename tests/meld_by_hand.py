"""MELD's filter, ELBO and soft actor-critic in NumPy float64, by loops over time and taps, on arrays of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Parameters = dict[str, Any]
"""The arrays of a model by name: `encoder.convolutions[0].weight`; see :func:`parameters_of`."""


def parameters_of(model: Any) -> Parameters:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf, np.float64) for path, leaf in leaves}


def leaky(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 0.2 * values)


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def mlp(
    parameters: Parameters, name: str, rows: np.ndarray, activation: Callable[[np.ndarray], np.ndarray] = leaky
) -> np.ndarray:
    for layer in range(3):
        rows = rows @ parameters[f"{name}.weights[{layer}]"] + parameters[f"{name}.biases[{layer}]"]
        rows = activation(rows) if layer < 2 else rows
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


Gaussian = tuple[np.ndarray, np.ndarray]


class Believed(NamedTuple):
    """Of a frame."""

    q1: Gaussian
    p1: Gaussian
    q2: Gaussian
    p2: Gaussian
    latent: np.ndarray


def filter_trial(
    parameters: Parameters, config: Any, trial: dict[str, np.ndarray], noise: np.ndarray
) -> dict[int, Believed]:
    """What is believed in the frames that are there, frame after frame."""
    there = np.flatnonzero(trial["mask"])
    embedded = encode(parameters, trial["pictures"][there])
    first, z2 = config.first_latent_size, None
    believed = {}
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
        believed[int(time)] = Believed(q1, p1, q2, p2, np.concatenate([z1, z2], axis=1))
    return believed


def elbo_of_trial(
    parameters: Parameters, config: Any, trial: dict[str, np.ndarray], noise: np.ndarray
) -> dict[str, float]:
    """The parts of the ELBO of one trial; both divergences."""
    there, believed = np.flatnonzero(trial["mask"]), filter_trial(parameters, config, trial, noise).values()
    both = np.concatenate([each.latent for each in believed])
    seen, expected = trial["pictures"][there] / 255.0, mlp(parameters, "reward_decoder", both)[:, 0]
    sums = {
        "image": float(log_density(seen, decode(parameters, both), config.image_deviation).sum()),
        "reward": float(log_density(trial["rewards"][there], expected, config.reward_deviation).sum()),
        "first": sum(float(divergence(each.q1, each.p1)[0]) for each in believed),
        "second": sum(float(divergence(each.q2, each.p2)[0]) for each in believed),
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


class Transitions(NamedTuple):
    """Rows of features, actions, rewards, features after them, and whether the task ended."""

    features: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_features: np.ndarray
    terminated: np.ndarray


def sample(parameters: Parameters, rows: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions of the policy, and their log densities."""
    mean, raw = np.split(mlp(parameters, "policy.network", rows, relu), 2, axis=1)
    log_deviation = np.clip(raw, -20, 2)
    action = np.tanh(mean + np.exp(log_deviation) * noise)
    normal = -0.5 * noise**2 - log_deviation - 0.5 * np.log(2 * np.pi)
    return action, (normal - np.log(1 - action**2 + 1e-6)).sum(axis=1)


def values(parameters: Parameters, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Of both critics."""
    inputs = np.concatenate([rows, actions], axis=1)
    return np.stack([mlp(parameters, f"critics[{number}]", inputs, relu)[:, 0] for number in range(2)])


def targets(
    parameters: Parameters, target_critics: Parameters, alpha: float, discount: float, batch: Transitions, noise: Any
) -> np.ndarray:
    """What critics learn to predict."""
    action, log_density = sample(parameters, batch.next_features, noise)
    following = values(target_critics, batch.next_features, action).min(axis=0) - alpha * log_density
    return batch.rewards + np.where(batch.terminated, 0, discount * following)


def critic_loss(parameters: Parameters, batch: Transitions, wanted: np.ndarray) -> float:
    return float(((values(parameters, batch.features, batch.actions) - wanted) ** 2).mean(axis=1).sum())


def policy_loss(
    parameters: Parameters, critics: Parameters, alpha: float, rows: np.ndarray, noise: np.ndarray
) -> float:
    action, log_density = sample(parameters, rows, noise)
    return float((alpha * log_density - values(critics, rows, action).min(axis=0)).mean())
