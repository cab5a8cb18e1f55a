"""Runs as the old code of CEMRL and DMRLAD left them, at a small size, and what their agents do, in NumPy float64.

The layers have the names, order and shapes of the old code's (spec cemrl-dmrlad 1.2 to 1.4, 1.7, 4.1), and the agent is
that of 1.3 and 1.10. Nothing of it is from the library.
"""

from __future__ import annotations

import itertools
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

OBSERVATION, ACTION = 20, 6
ORDER = [*range(8), *range(11, 20), *range(8, 11)]
"""Where the numbers of our half-cheetah's observation are in the old one's: [8 positions, 3 of the torso, 9
velocities]."""

State = dict[str, np.ndarray]


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nested = {key: one[key] | value for key, value in other.items() if isinstance(one.get(key), dict)}
    return one | other | nested


VARIANT: dict[str, Any] = {
    "env_name": "cheetah-stationary-dir",
    "exp_name": "cheetah-stationary-dir",
    "path_to_weights": "/home/somebody/output",
    "showcase_itr": 7,
    "env_params": {
        "n_train_tasks": 2,
        "n_eval_tasks": 2,
        "use_normalized_env": True,
        "positive_change_point_basis": 1_000_000,
        "negative_change_point_basis": -1_000_000,
        "state_reconstruction_clip": 8,
    },
    "algo_params": {
        "encoding_mode": "transitionSharedY",
        "merge_mode": "add",
        "time_steps": 4,
        "latent_size": 2,
        "sac_layer_size": 8,
    },
    "reconstruction_params": {"num_classes": 3, "net_complex_enc_dec": 0.2},
}


class Run:
    """The networks of a run, with random weights, and its statistics."""

    def __init__(self, variant: dict[str, Any], seed: int = 0):
        self.variant = merged(VARIANT, variant)
        self.generator = np.random.default_rng(seed)
        algo, reconstruction = self.variant["algo_params"], self.variant["reconstruction_params"]
        self.mode, self.merge, self.steps = algo["encoding_mode"], algo["merge_mode"], algo["time_steps"]
        self.latent, self.classes = algo["latent_size"], reconstruction["num_classes"]
        self.row = 2 * OBSERVATION + ACTION + 1
        factor, sac = reconstruction["net_complex_enc_dec"], [algo["sac_layer_size"]] * 3
        width, state = int(factor * self.inputs), OBSERVATION + self.latent
        self.networks = {
            "encoder": self._encoder(width),
            "prior_pz": self._linear("linear", self.classes, 2 * self.latent),
            "decoder": self._decoder(int(factor * (state + ACTION))),
            "policy": self._mlp([state, *sac, ACTION], ("last_fc", "last_fc_log_std")),
            "alpha_net": self._mlp([self.latent, 10 * self.latent, 1]),
        }
        policy = self.networks["policy"]
        if "num_quantiles" in algo:
            critics = ("zf1", "zf2", "target_zf1", "target_zf2")
            self.networks |= {name: self._quantile(state + ACTION, sac) for name in critics}
            self.networks["target_policy"] = {name: self._normal(*array.shape) for name, array in policy.items()}
        else:
            critics = ("qf1", "qf2", "target_qf1", "target_qf2")
            self.networks |= {name: self._mlp([state + ACTION, *sac, 1]) for name in critics}
        sizes = {"observations": OBSERVATION, "next_observations": OBSERVATION, "actions": ACTION, "rewards": 1}
        self.statistics = {name: self._moments(size) for name, size in sizes.items()}
        self.forget()

    @property
    def inputs(self) -> int:
        return self.row * (self.steps if self.mode == "trajectory" else 1)

    def write(self, folder: Path, iteration: int = 7, only: tuple[str, ...] | None = None) -> Path:
        """Writes variant.json, and the networks and statistics of an iteration."""
        folder.mkdir(exist_ok=True)
        (folder / "variant.json").write_text(json.dumps(self.variant))
        for name, state in self.networks.items():
            if only is None or name in only:
                save(folder / f"{name}_itr_{iteration}.pth", state)
        statistics = folder / f"replay_buffer_stats_dict_{iteration}.p"
        statistics.write_bytes(pickle.dumps(self.statistics, protocol=3))
        return folder

    # What an agent does

    def forget(self) -> None:
        """An episode begins: the window is zeros, as the old code has them here, not normalised."""
        self.window = np.zeros((self.steps, self.row))

    def observe(self, observation: np.ndarray, action: np.ndarray, reward: float, following: np.ndarray) -> None:
        parts = zip(
            ("observations", "actions", "rewards", "next_observations"),
            (observation, action, np.array([reward]), following),
            strict=True,
        )
        row = [(value - self.statistics[name]["mean"]) / (self.statistics[name]["std"] + 1e-9) for name, value in parts]
        self.window = np.concatenate([self.window[1:], np.concatenate(row)[None]])

    def infer(self) -> np.ndarray:
        """z of the window: the mean of the likeliest class."""
        state = self.networks["encoder"]
        if self.mode == "trajectory":
            features = forward(state, self.window.reshape(1, -1), "shared_encoder.")
            chosen = int(self._classes(features)[0].argmax())
            return self._gaussian(features, chosen)[0][0]
        features = forward(state, self.window, "shared_encoder.")
        gaussians = [self._gaussian(features, k) for k in range(self.classes)]
        classes = self._classes(features)
        if self.mode == "transitionIndividualY":
            own = classes.argmax(axis=1)
            mean, spread = (np.array([gaussians[k][part][t] for t, k in enumerate(own)]) for part in (0, 1))
            return product(mean, spread)
        return product(*gaussians[int(self._merged(features, classes).argmax())])

    def act(self, observation: np.ndarray) -> np.ndarray:
        rows = np.concatenate([observation, self.infer()])[None]
        return np.tanh(forward(self.networks["policy"], rows)[0])

    def _classes(self, features: np.ndarray) -> np.ndarray:
        return softmax(linear(self.networks["encoder"], features, "class_encoder.linear"))

    def _gaussian(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        mean, raw = np.split(linear(self.networks["encoder"], features, f"gauss_encoder_list.{k}"), 2, axis=1)
        return mean, np.maximum(np.log1p(np.exp(raw)), 1e-7)

    def _merged(self, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
        if self.merge == "add":
            return classes.mean(axis=0)
        if self.merge == "add_softmax":
            return softmax(classes.sum(axis=0))
        if self.merge == "multiply":
            return softmax(classes.prod(axis=0))
        state, flat = self.networks["encoder"], features.reshape(1, -1)
        merge = (
            linear(state, flat, "pre_class_encoder")
            if self.merge == "linear"
            else forward(state, flat, "pre_class_encoder.")
        )
        return self._classes(merge)[0]

    # Fresh networks

    def _encoder(self, width: int) -> State:
        state = self._mlp([self.inputs, width, width, width], under="shared_encoder.")
        state |= self._linear("class_encoder.linear", width, self.classes)
        for k in range(self.classes):
            state |= self._linear(f"gauss_encoder_list.{k}", width, 2 * self.latent)
        if self.mode == "transitionSharedY" and self.merge == "linear":
            state |= self._linear("pre_class_encoder", self.steps * width, width)
        elif self.mode == "transitionSharedY" and self.merge == "mlp":
            state |= self._mlp([self.steps * width, width, width], under="pre_class_encoder.")
        return state

    def _decoder(self, width: int) -> State:
        inputs = OBSERVATION + ACTION + self.latent
        clip = self.variant["env_params"]["state_reconstruction_clip"]
        return self._mlp([inputs, width, width, clip], under="net_state_decoder.") | self._mlp(
            [inputs, width, width, 1], under="net_reward_decoder."
        )

    def _quantile(self, inputs: int, sizes: list[int]) -> State:
        first, second, merged = sizes
        layers = {"base_fc.0": (inputs, first), "base_fc.3": (first, second), "tau_fc.0": (64, second)}
        state = self._linear("last_fc", merged, 1)
        for name, (fan_in, fan_out) in (layers | {"merge_fc.0": (second, merged)}).items():
            module, number = name.split(".")
            state |= self._linear(name, fan_in, fan_out)
            state |= {f"{module}.{int(number) + 1}.{kind}": self._normal(fan_out) for kind in ("weight", "bias")}
        return state

    def _mlp(self, sizes: list[int], heads: tuple[str, ...] = ("last_fc",), under: str = "") -> State:
        state = {}
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes[:-1])):
            state |= self._linear(f"{under}fc{number}", fan_in, fan_out)
        for head in heads:
            state |= self._linear(under + head, sizes[-2], sizes[-1])
        return state

    def _linear(self, name: str, fan_in: int, fan_out: int) -> State:
        return {
            f"{name}.weight": self._normal(fan_out, fan_in) / np.float32(fan_in**0.5),
            f"{name}.bias": self._normal(fan_out),
        }

    def _normal(self, *shape: int) -> np.ndarray:
        return self.generator.normal(size=shape).astype(np.float32)

    def _moments(self, size: int) -> dict[str, np.ndarray]:
        moments = {"max": 3 + self._normal(size), "min": self._normal(size) - 3, "mean": self._normal(size)}
        return moments | {"std": np.exp(self._normal(size))}


def linear(state: State, rows: np.ndarray, name: str) -> np.ndarray:
    return rows @ state[f"{name}.weight"].T.astype(np.float64) + state[f"{name}.bias"]


def forward(state: State, rows: np.ndarray, under: str = "") -> np.ndarray:
    """An MLP with ReLU between its layers."""
    hidden = sum(name.startswith(f"{under}fc") and name.endswith("weight") for name in state)
    for number in range(hidden):
        rows = np.maximum(linear(state, rows, f"{under}fc{number}"), 0)
    return linear(state, rows, f"{under}last_fc")


def quantiles(state: State, rows: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """A quantile critic of [s, z, a]."""
    for number in (0, 3):
        rows = np.maximum(normalised(state, linear(state, rows, f"base_fc.{number}"), f"base_fc.{number + 1}"), 0)
    cosines = np.cos(np.pi * np.arange(1, 65) * fractions[..., None])
    embedded = normalised(state, linear(state, cosines, "tau_fc.0"), "tau_fc.1")
    product = rows[:, None] / (1 + np.exp(-embedded))
    both = np.maximum(normalised(state, linear(state, product, "merge_fc.0"), "merge_fc.1"), 0)
    return linear(state, both, "last_fc")[..., 0]


def normalised(state: State, rows: np.ndarray, name: str) -> np.ndarray:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def product(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The mean of a product of Gaussians over time."""
    return (mean / spread).sum(axis=0) / (1 / spread).sum(axis=0)


def save(path: Path, state: State) -> None:
    """What `torch.save` makes of a state dict of float32 tensors: the zip archive, by hand."""

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    pickled = b"\x80\x02}("
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, array) in enumerate(state.items()):
            storage = (
                b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu") + number(array.size)
            )
            shape = b"(" + b"".join(map(number, array.shape)) + b"t"
            strides = b"(" + b"".join(number(stride // 4) for stride in np.ascontiguousarray(array).strides) + b"t"
            tensor = b"(" + storage + b"tQ" + number(0) + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"
            pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array, "<f4").tobytes())
        archive.writestr("archive/data.pkl", pickled + b"u.")
