"""A worker process: it plays parts of plays in simulators of its own, on the CPU.

Plays and what comes of them travel as bytes, so that every array belongs to the process that reads it, and may be
written. Errors are answers like any other: Ray would lose their fields.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import platform
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np

from nacre.errors import NacreError
from nacre.extensions import import_modules, imported_modules, load_plugins
from nacre.interfaces import Play, Played
from nacre.run_folder import versions
from nacre.runtime import SimulatorPool, prepare_jax
from nacre.tasks.family import TaskFamily
from nacre.tasks.simulator import Simulator
from nacre.types import Tree

JAX_SETTINGS = (
    "jax_debug_nans",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_most_optimizations",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
)
"""What agents do may depend on these: workers take them over from the process that learns."""

SAME_VERSIONS = ("python", "nacre", "jax", "jaxlib", "equinox", "mujoco", "gymnasium", "numpy")


class Begun(NamedTuple):
    """What a worker has to know before it plays."""

    paths: list[str]
    """Where modules are found that are not installed."""
    imports: list[str]
    """The modules that the command line named."""
    versions: dict[str, str | None]
    """Those of the process that learns."""
    jax_settings: dict[str, Any]
    family: bytes
    threads: int
    """Of a simulator."""


class Progress(NamedTuple):
    """How far a worker is, and where."""

    process: int
    machine: str
    steps: int
    """Control steps of its simulators."""


@dataclass(frozen=True)
class Failure:
    """An error of a worker, as it travels."""

    error: Exception
    where: str
    """Its traceback."""


class Worker:
    """What Ray makes an actor of."""

    def __init__(self, begun: tuple[Any, ...]) -> None:
        """Prepares for plays in a family; `begun` is a :class:`Begun`. Ray does this in the main thread, in which other
        people's modules expect to be imported, and calls the other methods in others: `play` always in the same one."""
        self._simulators: SimulatorPool | None = None
        self._answer = _answer(lambda: self._begin(Begun(*begun)))

    def begin(self) -> bytes:
        """The answer is a :class:`Progress`, or why it cannot begin."""
        return self._answer

    def play(self, part: bytes, params: bytes) -> bytes:
        """Plays a part of a play, of which the params come by themselves. The answer is a :class:`Played`."""
        return _answer(lambda: self._play(part, params))

    def progress(self) -> tuple[Any, ...]:
        """The fields of a :class:`Progress`. It answers while the worker plays."""
        return tuple(_progress())

    def _begin(self, begun: Begun) -> Progress:
        sys.path += [path for path in begun.paths if path not in sys.path]
        _check_versions(begun.versions)
        load_plugins()
        import_modules(begun.imports)
        for name, value in begun.jax_settings.items():
            jax.config.update(name, value)
        with prepare_jax(None):
            pass
        try:
            family = pickle.loads(begun.family)
        except Exception as error:  # whatever the family's own code may raise
            raise NacreError(
                f"the task family cannot be made in a worker: {type(error).__name__}: {error}; allowed: a family whose "
                "modules can be imported there"
            ) from error
        self._simulators = SimulatorPool(family, begun.threads, make=_Counting)
        return _progress()

    def _play(self, part: bytes, params: bytes) -> Played:
        if self._simulators is None:
            raise RuntimeError("a worker has to be begun before it plays")
        play: Play = pickle.loads(part)
        play = dataclasses.replace(play, params=unpack_params(params), belief=on_device(play.belief))
        trials, belief = self._simulators.play([play])[0]
        return Played(trials, on_host(belief))


def begun_with(family: TaskFamily, threads: int) -> Begun:
    """What workers of this process have to know.

    Raises:
        NacreError: the family cannot be sent.
    """
    try:
        sent = dumps(family)
    except Exception as error:  # whatever the family's own code may raise
        raise NacreError(
            f"the task family {family.name} cannot be sent to workers: {type(error).__name__}: {error}; allowed: a "
            "family that can be pickled, or no workers"
        ) from error
    paths = [os.path.abspath(path) for path in sys.path if not os.path.abspath(path).startswith(sys.prefix)]
    settings = {name: jax.config.values[name] for name in JAX_SETTINGS if name in jax.config.values}
    return Begun(paths, imported_modules(), versions(), settings, sent, threads)


def pack_part(part: Play) -> bytes:
    """A part of a play for :meth:`Worker.play`."""
    return dumps(dataclasses.replace(part, params=None, belief=on_host(part.belief)))


def pack_params(params: Tree) -> bytes:
    """What agents act with, for :meth:`Worker.play`.

    Its structure is packed apart from its numbers: the same structure is unpacked once, so that a worker compiles
    nothing again even if parts of it, such as functions, would not be equal to those that came before.
    """
    leaves, structure = jax.tree.flatten(params)
    return dumps((dumps(jax.tree.unflatten(structure, range(len(leaves)))), on_host(leaves)))


def unpack_params(packed: bytes) -> Tree:
    """What :func:`pack_params` packed."""
    structure, leaves = pickle.loads(packed)
    return jax.tree.unflatten(_structure(structure), on_device(leaves))


@functools.lru_cache(maxsize=64)
def _structure(packed: bytes) -> Any:
    return jax.tree.structure(pickle.loads(packed))


def answer_of(packed: bytes) -> Any:
    """What a worker answered; a :class:`Failure` if there was an error."""
    answer = pickle.loads(packed)
    return answer._replace(belief=on_device(answer.belief)) if isinstance(answer, Played) else answer


def dumps(value: Any) -> bytes:
    """Pickled, with what cannot be imported: classes and functions of the main program."""
    return cloudpickle.dumps(value)


@dataclass(frozen=True)
class _Keys:
    """Random keys as numbers."""

    implementation: str
    data: np.ndarray


def on_host(tree: Tree) -> Tree:
    """Its arrays in NumPy."""

    def leaf_on_host(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return _Keys(str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)))
        return jax.device_get(leaf)

    return jax.tree.map(leaf_on_host, tree)


def on_device(tree: Tree) -> Tree:
    """What :func:`on_host` was given."""

    def leaf_on_device(leaf: Any) -> Any:
        if isinstance(leaf, _Keys):
            return jax.random.wrap_key_data(jnp.asarray(leaf.data), impl=leaf.implementation)
        return jax.device_put(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf

    return jax.tree.map(leaf_on_device, tree)


class _Counting(Simulator):
    """Counts the control steps of a process, so that who waits for it sees whether there is progress."""

    steps = 0

    def step(self, actions: Any) -> Any:
        _Counting.steps += 1
        return super().step(actions)


def _progress() -> Progress:
    return Progress(os.getpid(), platform.node(), _Counting.steps)


def _check_versions(expected: dict[str, str | None]) -> None:
    """Raises NacreError if this process would compute something else."""
    own = versions()
    for name in SAME_VERSIONS:
        if own[name] != expected[name]:
            raise NacreError(
                f"a worker on {platform.node()} has {name} {own[name]}, and the process that learns {expected[name]}; "
                "allowed: the same"
            )


def _answer(call: Callable[[], Any]) -> bytes:
    try:
        return dumps(call())
    except Exception as error:
        return dumps(Failure(_sendable(error), traceback.format_exc()))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same if it cannot be sent."""
    try:
        if type(pickle.loads(dumps(error))) is type(error):
            return error
    except Exception:  # whatever the error's own code may raise
        pass
    return NacreError(str(error)) if isinstance(error, NacreError) else RuntimeError(f"{type(error).__name__}: {error}")
