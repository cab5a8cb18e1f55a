"""The networks that the original PEARL code saved, as leaves of ours (spec pearl 1.1, 2.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nacre.errors import NacreError
from nacre.original.torch_files import read_state_dict

FILES = {
    ".networks.encoder": "context_encoder.pth",
    ".networks.policy.network": "policy.pth",
    ".networks.critics[0]": "qf1.pth",
    ".networks.critics[1]": "qf2.pth",
    ".networks.value": "vf.pth",
    ".target_value": "target_vf.pth",
}
"""The file of each network, by where it belongs in :class:`nacre.agents.pearl.losses.Trained`."""


ACTING = ("context_encoder.pth", "policy.pth")
"""All that the original code's own simulation script reads, and so what people kept and passed on."""


class OldNetworks(NamedTuple):
    """Networks that were found."""

    arrays: dict[str, np.ndarray]
    """By where they belong in what a learner has trained, such as `.target_value.weights[0]`."""
    files: Mapping[str, str]
    """The file of each place that arrays were read for."""
    missing: list[str]
    """Files without which an agent can act, and not learn on."""


def missing_files(folder: Path) -> list[str]:
    """The files of networks that are not in a folder."""
    return [file for file in FILES.values() if not (folder / file).exists()]


def read_old_networks(folder: Path, acting_suffices: bool = False) -> dict[str, np.ndarray]:
    """The arrays of the networks in a folder of the original code, by where they belong, such as
    `.target_value.weights[0]`.

    Args:
        folder: the folder.
        acting_suffices: whether all but encoder and policy may be missing; they are then left out.

    Raises:
        NacreError: files are missing, or one is damaged or holds another kind of network.
    """
    missing = missing_files(folder)
    if lacking := [file for file in missing if file in ACTING or not acting_suffices]:
        hint = (
            ""
            if any(file in lacking for file in ACTING)
            else ("; encoder and policy alone can be evaluated (nacre import), but no run can go on from them")
        )
        raise NacreError(f"{folder} has no {' and no '.join(lacking)}{hint}")
    arrays: dict[str, np.ndarray] = {}
    for place, file in FILES.items():
        if file in missing:
            continue
        state = read_state_dict(folder / file)
        try:
            arrays |= {place + leaf: array for leaf, array in mlp_leaves(state).items()}
        except NacreError as error:
            raise NacreError(f"{folder / file} {error}") from None
    return arrays


def mlp_leaves(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of the original code as the leaves of an :class:`nacre.nn.mlp.MLP`, float32.

    There the layers are `fc0`, `fc1`, ..., `last_fc`, and a weight has shape (fan_out, fan_in). A policy has two output
    layers, `last_fc` for means and `last_fc_log_std`; they become the two halves of one.

    Raises:
        NacreError: the state dict is of another kind of network; the message goes on from its name.
    """
    if any(name.startswith("lstm.") for name in state):
        raise NacreError(
            "holds a recurrent encoder, which has no counterpart: that of the original code carried its state from one "
            "posterior to the next and lost half of it on the way"
        )
    hidden = sum(re.fullmatch(r"fc\d+\.weight", name) is not None for name in state)
    layers = [*(f"fc{number}" for number in range(hidden)), "last_fc"]
    heads = ["last_fc_log_std"] if "last_fc_log_std.weight" in state else []
    expected = {f"{layer}.{kind}" for layer in [*layers, *heads] for kind in ("weight", "bias")}
    if odd := expected ^ state.keys():
        name = min(odd)
        raise NacreError(f"is not of the original code: it has {'no' if name in expected else 'a'} {name!r}")
    outputs = [["last_fc", *heads] if layer == "last_fc" else [layer] for layer in layers]
    leaves: dict[str, np.ndarray] = {}
    for number, parts in enumerate(outputs):
        own = [{kind: state[f"{part}.{kind}"] for kind in ("weight", "bias")} for part in parts]
        leaves[f".weights[{number}]"], leaves[f".biases[{number}]"] = side_by_side(own)
    return leaves


def side_by_side(layers: Sequence[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Linear layers on the same input as one: weights (fan_in, fan_out) and biases (fan_out,), float32.

    Raises:
        NacreError: their sizes are impossible; the message goes on from the name of the file.
    """
    weights, biases = ([layer[kind] for layer in layers] for kind in ("weight", "bias"))
    for weight, bias in zip(weights, biases, strict=True):
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1:] != weights[0].shape[1:]:
            raise NacreError(f"is not of the original code: a layer has weights {weight.shape} and biases {bias.shape}")
    return np.ascontiguousarray(np.concatenate(weights).T, np.float32), np.concatenate(biases).astype(np.float32)
