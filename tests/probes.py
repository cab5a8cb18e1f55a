"""What several tests share: a tiny world whose every number is known, networks that act out their beliefs, a count of
compilations, a loader of scripts.

The networks make PEARL's hidden quantities visible from outside: with :func:`transparent_networks` an episode's
actions say which z was in force, and z says which transitions it was inferred from. So the protocols are tested on
the very code that trains, without spies inside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Bool, Float64

from nacre import gradient_steps
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.networks import PearlNetworks, initial_networks
from nacre.collect import play_together, run_schedules
from nacre.files import read_npz
from nacre.interfaces import Agent, Play, Played, Result, Schedule
from nacre.nn.mlp import MLP
from nacre.tasks.family import TaskFamily, World
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Tree


@contextlib.contextmanager
def stop_after(calls: int) -> Iterator[None]:
    """Sends SIGINT before the `calls`-th chunk of gradient steps, counted from 1."""
    left, update = calls, gradient_steps.update

    def noticing(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_steps, "update", noticing)
        yield


NEVER = 1000.0
"""A length beyond every horizon: the episodes of such a task are truncated."""


class ClockWorld:
    """Each slot counts its steps, adds up the last of its actions, and remembers a random number of its reset."""

    def __init__(self, n_slots: int):
        self._state = np.zeros((n_slots, 4))

    def reset(
        self, slots: np.ndarray, tasks: np.ndarray, generators: list[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        self._state[slots, 0] = tasks[:, 0]
        self._state[slots, 1] = [generator.random() for generator in generators]
        self._state[slots, 2:] = 0
        return self._read(slots)

    def step(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._state[slots, 2] += 1
        self._state[slots, 3] += actions[:, -1]
        return self._read(slots)

    def close(self) -> None:
        pass

    def _read(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._state[slots].astype(np.float32), self._state[slots, 2:3]


class Clock(TaskFamily):
    """A task is a label and a length: its episodes terminate after `length` steps, if the horizon comes not before.

    Observations are (label, random number of the reset, step, sum of the last action). The reward of step t = 1, 2, ...
    is 10 label + t, so that an episode of L steps returns 10 label L + L (L + 1) / 2. The sparse reward, if there is
    one, is 1 at termination and 0 before, and termination is then a success.
    """

    name = "clock"
    observation_size = 4
    action_size = 3
    task_parameters = ("label", "length")

    def __init__(self, horizon: int, *, sparse: bool = False):
        self.horizon = horizon
        self.has_sparse_reward = self.has_success = sparse

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        return np.stack([generator.random(n), generator.integers(1, 2 * self.horizon, n)], axis=-1)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return 10 * task[..., 0] + following[..., 0]

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.terminated(previous, action, following, task).astype(np.float64)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[np.ndarray, "..."]:
        return self.terminated(previous, action, following, task)

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Bool[np.ndarray, "..."]:
        return following[..., 0] >= task[..., 1]

    def make_world(self, n_slots: int, threads: int) -> World:
        return ClockWorld(n_slots)


def clock_return(label: float, length: int) -> float:
    return 10 * label * length + length * (length + 1) / 2


def clock_learner(horizon: int, config: PearlConfig) -> PearlLearner:
    return PearlLearner(config, Clock(horizon).sizes)


def run_trials(
    agent: Agent,
    params: Tree,
    simulator: Simulator,
    tasks: Float64[np.ndarray, "n parameters"],
    seed: np.random.SeedSequence,
    *,
    steps: int = 0,
    episodes: int = 0,
    deterministic: bool,
    belief: Tree | None = None,
) -> Played:
    """Plays one trial in each slot of a simulator."""
    return play_together([Play(agent, params, tasks, seed, deterministic, steps, episodes, belief)], simulator)[0]


def run_schedule(schedule: Schedule[Result], simulator: Simulator) -> Result:
    """Plays in one simulator what a schedule asks for."""
    return run_schedules([schedule], lambda plays: play_together(plays, simulator))[0]


POSTERIOR_MARK = 6.0
"""The second component of the mean of every posterior; no draw from the prior comes near."""
_Z_SCALE = 0.125  # keeps tanh(z) invertible in float32 for |z| up to about 10


def transparent_networks(config: PearlConfig, *, factor_variance: float, code_scale: float = 1.0) -> PearlNetworks:
    """Networks for `Clock` and `latent_size=2`, as if someone had trained them to be read.

    The encoder maps a transition to the mean (code_scale * :func:`transition_codes`, POSTERIOR_MARK), and to the
    variance `factor_variance` if the context is probabilistic. The first two actions of the policy tell z, with hardly
    any noise; the third has mean 0 and standard deviation 1.
    """
    assert config.latent_size == 2
    networks = initial_networks(config, Clock(1).sizes, key=jax.random.key(0), precision="float32")
    latent_columns = slice(Clock.observation_size, Clock.observation_size + 2)
    z_input = np.zeros((Clock.observation_size + 2, 2))
    z_input[latent_columns] = _Z_SCALE * np.eye(2)
    policy_output = np.zeros((2, 6))
    policy_output[:, :2] = np.eye(2)
    policy = _linear(networks.policy.network, z_input, policy_output, np.array([0, 0, 0, -20, -20, 0]))

    code_input = np.zeros((networks.encoder.weights[0].shape[0], 1))
    code_input[1] = 1  # random number of the reset
    code_input[Clock.observation_size + Clock.action_size] = 1  # reward
    encoder_output = np.zeros((1, 4 if config.probabilistic_context else 2))
    encoder_output[0, 0] = code_scale
    raw_variance = np.log(np.expm1(factor_variance))
    bias = [0, POSTERIOR_MARK, raw_variance, raw_variance] if config.probabilistic_context else [0, POSTERIOR_MARK]
    encoder = _linear(networks.encoder, code_input, encoder_output, np.array(bias))
    return eqx.tree_at(lambda tree: (tree.policy.network, tree.encoder), networks, (policy, encoder))


def transition_codes(episodes: Sequence[Episode], *, sparse: bool = False) -> Float64[np.ndarray, " transitions"]:
    """A number that tells transitions of a task apart: the random number of the reset plus the reward."""
    rewards = [episode.sparse_rewards if sparse else episode.rewards for episode in episodes]
    codes = [episode.observations[:-1, 1] + reward for episode, reward in zip(episodes, rewards, strict=True)]
    return np.concatenate(codes).astype(np.float64)


def told_latent(episode: Episode) -> Float64[np.ndarray, " 2"]:
    """The z that was in force, from the actions of :func:`transparent_networks`; it must be one and the same."""
    latents = np.arctanh(episode.actions[:, :2].astype(np.float64)) / _Z_SCALE
    np.testing.assert_allclose(latents, latents[:1].repeat(len(latents), axis=0), atol=1e-5)
    return latents[0]


def _linear(network: MLP, first: np.ndarray, last: np.ndarray, bias: np.ndarray) -> MLP:
    """The network with the linear map `rows @ first @ last + bias`: relu(x) and relu(-x) side by side carry x."""
    weights = [np.zeros(weight.shape, np.float32) for weight in network.weights]
    width = first.shape[1]
    weights[0][:, : 2 * width] = np.concatenate([first, -first], axis=1)
    for weight in weights[1:-1]:
        weight[: 2 * width, : 2 * width] = np.eye(2 * width)
    weights[-1][: 2 * width] = np.concatenate([last, -last])
    biases = [np.zeros(array.shape, np.float32) for array in network.biases[:-1]] + [bias.astype(np.float32)]
    return eqx.tree_at(
        lambda tree: (tree.weights, tree.biases),
        network,
        (tuple(map(jnp.asarray, weights)), tuple(map(jnp.asarray, biases))),
    )


def contents(path: Path) -> dict[str, Any]:
    """The arrays of a checkpoint or of a segment, and the counters of a checkpoint, without what differs between two
    equal runs: times, and the name of the run."""
    arrays: dict[str, Any] = read_npz(path)
    if "manifest" in arrays:
        progress = json.loads(arrays["manifest"].tobytes())["progress"]
        arrays["manifest"] = {name: value for name, value in progress.items() if name not in ("seconds", "run", "log")}
    return {name: array for name, array in arrays.items() if name != "run"}


_compiled: list[str] = []


def _note_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(str(kwargs.get("fun_name", "")))


jax.monitoring.register_event_duration_secs_listener(_note_compilation)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Fills the list it gives with one entry for each function that is compiled inside."""
    start, found = len(_compiled), []
    yield found
    found += _compiled[start:]


def load_script(path: str) -> ModuleType:
    """A script outside the package, by its path in the project."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parents[1] / path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
