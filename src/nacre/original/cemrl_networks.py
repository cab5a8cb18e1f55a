"""The networks that CEMRL and DMRLAD saved, as leaves of ours (spec cemrl-dmrlad 1.3, 1.4, 1.7, 4.1, 4.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.errors import NacreError
from nacre.original.networks import OldNetworks, mlp_leaves, side_by_side
from nacre.original.statistics_files import read_statistics
from nacre.original.torch_files import read_state_dict
from nacre.tasks.family import Sizes

State = Mapping[str, np.ndarray]
Leaves = dict[str, np.ndarray]

STATISTICS = "replay_buffer_stats_dict"
SMALLEST_DEVIATION = 1e-9
"""What the old code added to standard deviations."""
CHEETAH = np.array([*range(8), *range(11, 20), *range(8, 11)])
"""Where the observation of our half-cheetah, [positions, velocities, place of the torso], is in that of the old code,
which had the place before the velocities."""


def saved_iterations(folder: Path) -> list[int]:
    """The iterations of which an encoder was saved, in order."""
    matches = (re.fullmatch(r"encoder_itr_(\d{1,9})\.pth", path.name) for path in folder.glob("encoder_itr_*.pth"))
    return sorted(int(match[1]) for match in matches if match)


def chosen_iteration(folder: Path, iteration: int | None) -> int:
    """The iteration, or the latest.

    Raises:
        NacreError: it was not saved, or none was.
    """
    saved = saved_iterations(folder)
    if not saved:
        raise NacreError(f"{folder} has no encoder_itr_<n>.pth")
    if iteration is None:
        return saved[-1]
    if iteration not in saved:
        raise NacreError(f"iteration is {iteration}; allowed: one that {folder} has: {', '.join(map(str, saved))}")
    return iteration


def observation_order(family: str) -> np.ndarray | None:
    """Where each number of our observation is in the old code's; None: it is the same."""
    return CHEETAH if family.startswith("cheetah-") and family != "cheetah-rand-damping" else None


def read_old_networks(folder: Path, iteration: int, config: CemrlConfig, sizes: Sizes, family: str) -> OldNetworks:
    """The networks of an iteration, and the statistics that transitions were normalised with.

    Raises:
        NacreError: a file that is needed to act is missing, or one is damaged or holds another kind of network.
    """
    return _Reader(folder, iteration, config, sizes, observation_order(family)).read()


class _Reader:
    """Reads the files of one iteration. Inputs are brought into our order of observations."""

    def __init__(self, folder: Path, iteration: int, config: CemrlConfig, sizes: Sizes, order: np.ndarray | None):
        assert isinstance(sizes.observation, int)
        self.folder, self.iteration, self.config = folder, iteration, config
        self.observation, self.action = sizes.observation, sizes.action
        self.order = np.arange(self.observation) if order is None else order
        self.arrays: Leaves = {}
        self.files: dict[str, str] = {}

    def read(self) -> OldNetworks:
        config = self.config
        latent = np.arange(config.latent_size)
        state = np.concatenate([self.order, self.observation + latent])
        self.take("encoder", ".networks.encoder", self.encoder)
        if config.prior == "learned":
            self.take("prior_pz", ".networks.encoder.prior", self.prior)
        else:
            self.put(".networks.encoder.prior", _fixed_prior(config))

        def policy(saved: State) -> Leaves:
            return _reordered(mlp_leaves(saved), state)

        self.take("policy", ".networks.control.policy.network", policy)
        self.put(".networks.normaliser", self.normaliser())

        missing = [] if self.take_if_there("decoder", ".networks.decoder", self.decoder) else ["decoder"]
        critic_input = np.concatenate([state, len(state) + np.arange(self.action)])
        letter, critic = ("z", quantile_leaves) if isinstance(config, DmrladConfig) else ("q", mlp_leaves)
        for place, name in (
            (".networks.control.critics[0]", f"{letter}f1"),
            (".networks.control.critics[1]", f"{letter}f2"),
            (".target_critics[0]", f"target_{letter}f1"),
            (".target_critics[1]", f"target_{letter}f2"),
        ):
            if not self.take_if_there(name, place, lambda saved: _reordered(critic(saved), critic_input)):
                missing.append(name)
        if config.has_target_policy and not self.take_if_there("target_policy", ".target_policy.network", policy):
            missing.append("target_policy")
        if config.latent_temperature and not self.take_if_there("alpha_net", ".networks.temperature", mlp_leaves):
            missing.append("alpha_net")
        # The best of an iteration begin as what there is.
        for number, part in enumerate(("encoder", "decoder")):
            place = f".networks.{part}"
            own = {name: array for name, array in self.arrays.items() if name.startswith(f"{place}.")}
            self.arrays |= {f".best[{number}]{name.removeprefix(place)}": array for name, array in own.items()}
        return OldNetworks(self.arrays, self.files, [self.file(name) for name in missing])

    def file(self, name: str) -> str:
        return f"{name}_itr_{self.iteration}.pth"

    def take_if_there(self, name: str, place: str, leaves_of) -> bool:
        if not (self.folder / self.file(name)).exists():
            return False
        self.take(name, place, leaves_of)
        return True

    def take(self, name: str, place: str, leaves_of) -> None:
        path = self.folder / self.file(name)
        if not path.exists():
            raise NacreError(f"{self.folder} has no {path.name}")
        state = read_state_dict(path)
        try:
            leaves = leaves_of(state)
        except NacreError as error:
            raise NacreError(f"{path} {error}") from None
        self.put(place, leaves)
        self.files[place] = path.name

    def put(self, place: str, leaves: Leaves) -> None:
        self.arrays |= {place + leaf: np.ascontiguousarray(array, np.float32) for leaf, array in leaves.items()}

    def encoder(self, state: State) -> Leaves:
        """`shared_encoder`, `class_encoder`, a head in `gauss_encoder_list` for each class, and `pre_class_encoder` if
        classes are merged from features."""
        config, parts = self.config, _parts(state)
        heads = [f"gauss_encoder_list.{k}" for k in range(config.classes)]
        expected = {"shared_encoder", "class_encoder.linear", *heads}
        merger = config.encoder == "shared-y" and config.merge in ("linear", "mlp")
        _expect(expected | ({"pre_class_encoder"} if merger else set()), parts)
        leaves = _under(".trunk.shared", _reordered(mlp_leaves(parts["shared_encoder"]), self.rows()))
        leaves |= _under(".trunk.class_head", linear_leaves([parts["class_encoder.linear"]]))
        leaves |= _under(".trunk.gaussian_heads", linear_leaves([parts[head] for head in heads]))
        if merger:
            read = mlp_leaves if config.merge == "mlp" else lambda part: linear_leaves([part])
            leaves |= _under(".merger", read(parts["pre_class_encoder"]))
        return leaves

    def rows(self) -> np.ndarray:
        """Where each number that the encoder sees is in what the old one saw: [s, a, r, s'], or a window of these."""
        width = 2 * self.observation + self.action + 1
        others = self.observation + np.arange(self.action + 1)
        row = np.concatenate([self.order, others, self.observation + self.action + 1 + self.order])
        windows = self.config.window if self.config.encoder == "trajectory" else 1
        return np.concatenate([number * width + row for number in range(windows)])

    def prior(self, state: State) -> Leaves:
        """A linear layer of the class, as the mean and the rest for each class."""
        parts = _parts(state)
        _expect({"linear"}, parts)
        layer = linear_leaves([parts["linear"]])
        rows = layer[".weights[0]"] + layer[".biases[0]"]
        if rows.shape != (self.config.classes, 2 * self.config.latent_size):
            raise NacreError(
                f"does not fit the configuration: it has {rows.shape} numbers, and "
                f"{(self.config.classes, 2 * self.config.latent_size)} were expected"
            )
        mean, raw = np.split(rows, 2, axis=1)
        return {".mean": mean, ".raw_deviation": raw}

    def decoder(self, state: State) -> Leaves:
        parts = _parts(state)
        _expect({"net_state_decoder", "net_reward_decoder"}, parts)
        others = np.arange(self.action + self.config.latent_size)
        rows = np.concatenate([self.order, self.observation + others])
        states, rewards = (_reordered(mlp_leaves(parts[f"net_{of}_decoder"]), rows) for of in ("state", "reward"))
        last = max(number for number in range(len(states)) if f".weights[{number}]" in states)
        predicted = self.order[: len(states[f".biases[{last}]"])]
        if sorted(predicted) != list(range(len(predicted))):
            raise NacreError(
                f"predicts the first {len(predicted)} numbers of an observation, which are others here: the place of "
                "the torso comes after the velocities"
            )
        states[f".weights[{last}]"] = states[f".weights[{last}]"][:, predicted]
        states[f".biases[{last}]"] = states[f".biases[{last}]"][predicted]
        return _under(".state", states) | _under(".reward", rewards)

    def normaliser(self) -> Leaves:
        """As the old code normalised: (x - mean) / (standard deviation + 1e-9)."""
        parts = {"observation": self.order, "action": np.arange(self.action), "reward": np.arange(1)}
        parts["next_observation"] = self.order
        if not self.config.normalise:
            means = {f".{part}.mean": np.zeros(len(order)) for part, order in parts.items()}
            return means | {f".{part}.deviation": np.ones(len(order)) for part, order in parts.items()}
        path = self.folder / f"{STATISTICS}_{self.iteration}.p"
        self.files[".networks.normaliser"] = path.name
        if not path.exists():
            raise NacreError(f"{self.folder} has no {path.name}, with whose numbers its networks see transitions")
        statistics = read_statistics(path)
        leaves = {}
        for part, order in parts.items():
            name = f"{part}s"
            found = {moment: len(values) for moment, values in statistics.get(name, {}).items()}
            if found != dict.fromkeys(("mean", "std"), len(order)):
                raise NacreError(
                    f"{path} does not fit the configuration: it has {found or 'nothing'} of {name}, and {len(order)} "
                    "numbers of each were expected"
                )
            leaves[f".{part}.mean"] = statistics[name]["mean"][order]
            leaves[f".{part}.deviation"] = statistics[name]["std"][order] + SMALLEST_DEVIATION
        return leaves


def linear_leaves(layers: Sequence[State]) -> Leaves:
    """Linear layers on the same input as one, side by side."""
    for layer in layers:
        _expect({"weight", "bias"}, layer)
    weights, biases = side_by_side(layers)
    return {".weights[0]": weights, ".biases[0]": biases}


def quantile_leaves(state: State) -> Leaves:
    """A quantile critic: blocks of a linear layer, layer normalisation and an activation in `base_fc`, `tau_fc` and
    `merge_fc`, numbered each, and `last_fc`."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = array
    blocks = max(1, sum(re.fullmatch(r"base_fc\.\d+", layer) is not None for layer in layers) // 2)
    places = {f".base[{number}]": ("base_fc", 3 * number) for number in range(blocks)}
    places |= {".embedding": ("tau_fc", 0), ".merge": ("merge_fc", 0)}
    _expect(
        {f"{module}.{number + part}" for module, number in places.values() for part in (0, 1)} | {"last_fc"}, layers
    )
    for layer in layers.values():
        _expect({"weight", "bias"}, layer)
    leaves: Leaves = {}
    for place, (module, number) in places.items():
        linear, normalisation = (layers[f"{module}.{number + part}"] for part in (0, 1))
        leaves[f"{place}.weight"], leaves[f"{place}.bias"] = side_by_side([linear])
        leaves |= {f"{place}.scale": normalisation["weight"], f"{place}.offset": normalisation["bias"]}
    leaves[".weight"], leaves[".bias"] = side_by_side([layers["last_fc"]])
    return leaves


def _fixed_prior(config: CemrlConfig) -> Leaves:
    shape = (config.classes, config.latent_size)
    mean = np.broadcast_to(np.arange(config.classes)[:, None], shape)
    return {".mean": mean, ".raw_deviation": np.full(shape, np.log(np.expm1(config.prior_deviation)))}


def _reordered(leaves: Leaves, order: np.ndarray) -> Leaves:
    """A network whose inputs come in another order: input i is what was input order[i]."""
    name = ".weights[0]" if ".weights[0]" in leaves else ".base[0].weight"
    first = leaves[name]
    if len(first) != len(order):
        raise NacreError(f"does not fit the configuration: it has {len(first)} inputs, and {len(order)} were expected")
    return leaves | {name: first[order]}


def _parts(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts of the parts of a module: what ends in `fc0.weight`, `last_fc.bias` or the like is of an MLP, and
    the rest of a linear layer."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        match = re.fullmatch(r"(?P<part>.+?)\.(?P<leaf>(?:(?:fc\d+|last_fc)\.)?\w+)", name)
        part, leaf = (match["part"], match["leaf"]) if match else (name, "")
        parts.setdefault(part, {})[leaf] = array
    return parts


def _under(place: str, leaves: Leaves) -> Leaves:
    return {place + leaf: array for leaf, array in leaves.items()}


def _expect(names: set[str], found: Mapping[str, object]) -> None:
    if odd := names ^ found.keys():
        name = min(odd)
        raise NacreError(f"is not of the original code: it has {'no' if name in names else 'a'} {name!r}")
