"""Writes the folders beside it: a run of the original PEARL code, at a small size, in both formats of PyTorch.

`python tests/old_run/write.py` needs PyTorch, which the tests do not: what is in the folders was written by version
2.13, on a CPU, but labelled as from a GPU, as the original code's files are. The networks have random weights.
`outputs.npz` holds what PyTorch computes with them, in float64, from inputs of realistic sizes.

The layers have the names, order and shapes of the original code's (spec pearl 1.1).
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch

OBSERVATION, ACTION, LATENT = 2, 2, 2
ROWS = 50
VARIANT = {
    "env_name": "point-robot",
    "n_train_tasks": 3,
    "n_eval_tasks": 2,
    "latent_size": LATENT,
    "net_size": 8,
    "path_to_weights": "output/point-robot/2019_06_01_12_00_00",
    "env_params": {"n_tasks": 5, "randomize_tasks": True},
    "algo_params": {
        "max_path_length": 20,
        "num_initial_steps": 40,
        "num_tasks_sample": 2,
        "num_steps_prior": 40,
        "num_extra_rl_steps_posterior": 20,
        "num_train_steps_per_itr": 4,
        "num_steps_per_eval": 60,
        "num_evals": 1,
        "meta_batch": 2,
        "batch_size": 8,
    },
}


def network(sizes: list[int], heads: tuple[str, ...] = ("last_fc",)) -> torch.nn.Module:
    module = torch.nn.Module()
    *hidden, output = itertools.pairwise(sizes)
    for number, (fan_in, fan_out) in enumerate(hidden):
        module.add_module(f"fc{number}", torch.nn.Linear(fan_in, fan_out))
    for head in heads:
        module.add_module(head, torch.nn.Linear(*output))
    return module


def outputs(module: torch.nn.Module, rows: torch.Tensor) -> np.ndarray:
    """Those of the heads side by side, in float64."""
    layers = {name: layer.double() for name, layer in module.named_children()}
    for name, layer in layers.items():
        if name.startswith("fc"):
            rows = torch.relu(layer(rows))
    heads = [layer(rows) for name, layer in layers.items() if name.startswith("last")]
    return torch.cat(heads, dim=-1).detach().numpy()


def write(
    folder: Path,
    observation: int = OBSERVATION,
    action: int = ACTION,
    latent: int = LATENT,
    hidden: int = 8,
    encoder_hidden: int = 8,
    context: int = OBSERVATION + ACTION + 1,
) -> None:
    """Writes `zip` and `legacy`, with six files each, and `outputs.npz`."""
    torch.manual_seed(0)
    width = observation + latent
    networks = {
        "context_encoder": network([context, *[encoder_hidden] * 3, 2 * latent]),
        "policy": network([width, *[hidden] * 3, action], ("last_fc", "last_fc_log_std")),
        "qf1": network([width + action, *[hidden] * 3, 1]),
        "qf2": network([width + action, *[hidden] * 3, 1]),
        "vf": network([width, *[hidden] * 3, 1]),
        "target_vf": network([width, *[hidden] * 3, 1]),
    }
    # Outputs of a trained agent's sizes: factors with variances far from those of fresh networks, log standard
    # deviations beyond both ends of the range that they are clipped to.
    with torch.no_grad():
        networks["context_encoder"].last_fc.weight *= 20
        networks["policy"].last_fc_log_std.weight *= 100
        for name in ("qf1", "qf2", "vf", "target_vf"):
            networks[name].last_fc.weight *= 100
    torch.serialization.location_tag = lambda storage: "cuda:0"
    arrays = {}
    for kind in ("zip", "legacy"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, module in networks.items():
            path = folder / kind / f"{name}.pth"
            torch.save(module.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    for name, module in networks.items():
        rows = 3 * torch.randn(ROWS, module.fc0.in_features, generator=torch.manual_seed(1)).float()
        arrays |= {f"{name}_inputs": rows.numpy(), f"{name}_outputs": outputs(module, rows.double())}
    factors = torch.from_numpy(arrays["context_encoder_outputs"])
    means, variances = factors[:, :latent], torch.nn.functional.softplus(factors[:, latent:]).clamp(min=1e-7)
    variance = 1 / (1 / variances).sum(dim=0)
    arrays |= {"posterior_mean": (variance * (means / variances).sum(dim=0)).numpy()}
    arrays |= {"posterior_variance": variance.numpy()}
    np.savez(folder / "outputs.npz", **arrays)


if __name__ == "__main__":
    here = Path(__file__).parent
    write(here)
    for kind in ("zip", "legacy"):
        (here / kind / "variant.json").write_text(json.dumps(VARIANT, indent=2, sort_keys=True) + "\n")
    print(torch.__version__, sys.version)
