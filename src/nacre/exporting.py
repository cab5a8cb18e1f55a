"""Trained agents for programs without nacre: what acts and adapts, as StableHLO in one file.

The file is a zip archive. JAX alone runs it; see `examples/exported_agent.py`.

    agent.json          sizes, protocol, and the arguments of each program by name, shape and dtype
    parameters.npz      arrays `0`, `1`, ...: what the programs read and never change
    *.stablehlo         the programs, as :mod:`jax.export` serialises them, for CPUs and NVIDIA's GPUs

Between calls the agent is a list of arrays, its `state`. The programs are pure functions: `begin_trial` makes a state,
`act` and `observe` take one and return the next.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Real, UInt32

from nacre import acting
from nacre.acting import trial_keys
from nacre.errors import NacreError, in_one_line, shown
from nacre.experiments import to_json
from nacre.files import npz, writable, write_atomically
from nacre.interfaces import Agent
from nacre.loading import TrainedRun, read_trained
from nacre.run_folder import versions
from nacre.runtime import prepare_jax
from nacre.types import Transition, Tree

FORMAT = 1
PLATFORMS = ("cpu", "cuda")
MOST_SLOTS = 100_000
DESCRIPTION = "agent.json"
PARAMETERS = "parameters.npz"
SUFFIX = ".stablehlo"


def export(
    run: Path | str,
    out: Path | str,
    *,
    checkpoint: Path | str = "latest",
    slots: int = 1,
    capacity: int | None = None,
) -> Path:
    """Writes a trained agent into a file that JAX can run without nacre.

    Args:
        run: the run folder.
        out: the file, a zip archive. What was there is replaced.
        checkpoint: as in :func:`nacre.load`.
        slots: trials that it plays at once. The programs are made for this number.
        capacity: as in :func:`nacre.load`.

    Returns:
        `out`.

    Raises:
        NacreError: the run or its checkpoint cannot be read; JAX cannot export what the agent computes; the file cannot
            be written; an argument is impossible.
    """
    if not 1 <= slots <= MOST_SLOTS:
        raise NacreError(f"slots is {shown(slots)}; allowed: 1 to {MOST_SLOTS}")
    file = writable(Path(out))
    with prepare_jax(None):
        trained = read_trained(run, checkpoint)
        content = _content(trained, slots, trained.capacity(capacity))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name, data in content.items():
            opened.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)
    write_atomically(file, archive.getbuffer())
    return file


class State(NamedTuple):
    """What goes from one call to the next; the file has its leaves as a list."""

    belief: Tree
    keys: UInt32[Array, "n words"]
    """Of the trials: the data of their random keys."""
    time: Int32[Array, ""]
    """Calls of `act` in this trial."""
    observation: Real[Array, "n *observation"]
    """What was last acted on."""
    action: Float32[Array, "n action"]
    active: Bool[Array, " n"]
    """The trials that acted."""


class _Programs:
    """The agent as three pure functions of lists of arrays, which do what :class:`nacre.LoadedAgent` does."""

    def __init__(self, trained: TrainedRun, slots: int, capacity: int):
        self.agent: Agent = trained.agent(capacity)
        self._family, self._slots = trained.family, slots
        arrays, self._rest = eqx.partition(trained.parameters, eqx.is_array)
        self.parameters, self._parameters_tree = jax.tree.flatten(arrays)
        task = [jax.ShapeDtypeStruct((slots, trained.family.sizes.task), jnp.float32)] if self.agent.sees_task else []
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        state = jax.eval_shape(self._first_state, self.parameters, seed, *task)
        self.state, self._state_tree = jax.tree.flatten(state)
        self.state_names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]

    def begin_trial(self, parameters: list[Array], seed: Array, *tasks: Array) -> list[Array]:
        return jax.tree.leaves(self._first_state(parameters, seed, *tasks))

    def act(
        self, parameters: list[Array], state: list[Array], observation: Array, active: Array, deterministic: Array
    ) -> tuple[Array, list[Array]]:
        before, params = self._state(state), self._params(parameters)
        time, keys = before.time + 1, jax.random.wrap_key_data(before.keys)

        def choose(is_deterministic: bool) -> tuple[Array, Tree]:
            return acting.act(
                self.agent, params, before.belief, observation, keys, time, active, deterministic=is_deterministic
            )

        action, belief = jax.lax.cond(deterministic, lambda: choose(True), lambda: choose(False))
        after = State(belief, before.keys, time, observation, action.astype(jnp.float32), active)
        return after.action, self._flat(after)

    def observe(
        self,
        parameters: list[Array],
        state: list[Array],
        next_observation: Array,
        reward: Array,
        sparse_reward: Array,
        terminated: Array,
        truncated: Array,
    ) -> list[Array]:
        before, params = self._state(state), self._params(parameters)
        transition = Transition(before.observation, before.action, reward, sparse_reward, next_observation, terminated)
        belief = self.agent.observe(params, before.belief, transition, before.active)
        ended = before.active & (terminated | truncated)
        keys = jax.random.wrap_key_data(before.keys)

        def end(belief: Tree) -> Tree:
            return acting.end_episode(self.agent, params, belief, keys, before.time, ended, ended)

        belief = jax.lax.cond(ended.any(), end, lambda belief: belief, belief)
        return self._flat(before._replace(belief=belief))

    def arguments(self) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
        """Each program, and its arguments by name: shapes and dtypes."""
        n, sizes = self._slots, self._family.sizes
        of = jax.ShapeDtypeStruct
        observation = of((n, *self._family.observation_shape), self._family.observation_dtype)
        flags, numbers = of((n,), jnp.bool_), of((n,), jnp.float32)
        task = {"tasks": of((n, sizes.task), jnp.float32)} if self.agent.sees_task else {}
        parameters = [of(leaf.shape, leaf.dtype) for leaf in self.parameters]
        known = {"parameters": parameters, "state": self.state}
        return {
            "begin_trial": (self.begin_trial, {"parameters": parameters, "seed": of((), jnp.uint32), **task}),
            "act": (self.act, {**known, "observation": observation, "active": flags, "deterministic": of((), bool)}),
            "observe": (
                self.observe,
                {
                    **known,
                    "next_observation": observation,
                    "reward": numbers,
                    "sparse_reward": numbers,
                    "terminated": flags,
                    "truncated": flags,
                },
            ),
        }

    def _first_state(self, parameters: list[Array], seed: Array, *tasks: Array) -> State:
        n, sizes = self._slots, self._family.sizes
        key = jax.random.fold_in(jax.random.key(seed), 0)
        keys = trial_keys(key, jnp.arange(n, dtype=jnp.int32))
        told = tasks[0] if tasks else jnp.zeros((n, sizes.task), jnp.float32)
        return State(
            acting.begin(self.agent, self._params(parameters), keys, told),
            jax.random.key_data(keys),
            jnp.int32(0),
            jnp.zeros((n, *self._family.observation_shape), self._family.observation_dtype),
            jnp.zeros((n, sizes.action), jnp.float32),
            jnp.zeros(n, bool),
        )

    def _params(self, parameters: list[Array]) -> Tree:
        return eqx.combine(jax.tree.unflatten(self._parameters_tree, parameters), self._rest)

    def _state(self, leaves: list[Array]) -> State:
        return jax.tree.unflatten(self._state_tree, leaves)

    def _flat(self, state: State) -> list[Array]:
        """The leaves, of the types that the first state has: a program is made for these."""
        leaves, tree = jax.tree.flatten(state)
        if tree != self._state_tree:
            raise NacreError("the agent's belief changes its structure; allowed in an export: one that stays")
        for name, leaf, first in zip(self.state_names, leaves, self.state, strict=True):
            if (leaf.shape, leaf.dtype) != (first.shape, first.dtype):
                raise NacreError(
                    f"the agent's belief changes from {first.dtype}{first.shape} to {leaf.dtype}{leaf.shape} at "
                    f"{name}; allowed in an export: shapes and dtypes that stay"
                )
        return leaves


def _content(trained: TrainedRun, slots: int, capacity: int) -> dict[str, bytes]:
    """The files of the archive."""
    name = trained.experiment.name
    try:
        programs = _Programs(trained, slots, capacity)
        exported = {
            program: jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments.values())
            for program, (function, arguments) in programs.arguments().items()
        }
        serialised = {f"{program}{SUFFIX}": bytes(found.serialize()) for program, found in exported.items()}
    except NacreError:
        raise
    except Exception as error:  # whatever an algorithm of one's own computes
        raise NacreError(
            f"the agent of {name} cannot be exported: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    description = _description(trained, programs, slots, capacity)
    description["calling_convention_version"] = exported["act"].calling_convention_version
    return {
        DESCRIPTION: (json.dumps(description, indent=2, allow_nan=False) + "\n").encode(),
        PARAMETERS: bytes(npz({str(number): np.asarray(leaf) for number, leaf in enumerate(programs.parameters)})),
        **serialised,
    }


def _description(trained: TrainedRun, programs: _Programs, slots: int, capacity: int) -> dict[str, Any]:
    from nacre.report.trials import protocol_in_words  # here, as it imports what draws

    family, protocol = trained.family, trained.protocol
    return {
        "format": FORMAT,
        "experiment": to_json(trained.experiment),
        "checkpoint": trained.checkpoint.stem,
        "versions": versions(),
        "platforms": list(PLATFORMS),
        "slots": slots,
        "capacity": capacity,
        "observation": {"shape": list(family.observation_shape), "dtype": str(np.dtype(family.observation_dtype))},
        "action": {"shape": [family.sizes.action], "dtype": "float32", "low": -1.0, "high": 1.0},
        "horizon": family.horizon,
        "task_parameters": list(family.task_parameters),
        "sees_task": programs.agent.sees_task,
        "sees_sparse_reward": programs.agent.sees_sparse_reward,
        "protocol": {**dataclasses.asdict(protocol), "in_words": protocol_in_words(trained.experiment)},
        "state": [
            {"name": name, **_described(leaf)} for name, leaf in zip(programs.state_names, programs.state, strict=True)
        ],
        "parameters": [_described(leaf) for leaf in programs.parameters],
        "programs": {
            program: {
                "file": f"{program}{SUFFIX}",
                "arguments": [_argument(name, value) for name, value in arguments.items()],
                "returns": ["action", "state"] if program == "act" else ["state"],
            }
            for program, (_, arguments) in programs.arguments().items()
        },
    }


def _argument(name: str, value: Any) -> dict[str, Any]:
    """An argument in words; `parameters` and `state` are lists that stand elsewhere in the file."""
    return {"name": name} if isinstance(value, list) else {"name": name, **_described(value)}


def _described(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
