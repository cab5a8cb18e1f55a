"""What training, evaluation and loaded agents share: the device, the sources of randomness, simulators, learners."""

from __future__ import annotations

import contextlib
import enum
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nacre.agents import algorithm_of
from nacre.collect import play_in_turns, play_together
from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.interfaces import Learner, Play, Played
from nacre.tasks.family import TaskFamily
from nacre.tasks.simulator import Simulator


class Stream(enum.IntEnum):
    """Independent sources of randomness, all from the experiment's one seed. Values are part of what a seed means."""

    NETWORKS = 1
    COLLECTION = 3
    EVALUATION = 4
    COMMAND_EVALUATION = 7


def seed_of(experiment: Experiment, stream: Stream, *numbers: int) -> np.random.SeedSequence:
    """The seed of one purpose, in one iteration and phase if they are given, independent of all others."""
    return np.random.SeedSequence([experiment.seed, stream, *numbers])


@contextlib.contextmanager
def prepare_jax(device: str | None) -> Iterator[None]:
    """Chooses the device, keeps compiled programs in the user's cache folder unless JAX is told another, and makes room
    for new ones.

    Raises:
        NacreError: the device is not there, or there is no room for programs; see :func:`make_room_for_programs`.
    """
    make_room_for_programs()
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "nacre" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX's 1 second leaves out the dozen programs of acting, which together take longer than the gradient step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    if device is None:
        yield
        return
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError:
        present = ", ".join(sorted({found.platform for found in jax.devices()}))
        raise NacreError(
            f"device {device!r} was asked for, and JAX finds only: {present}"
            + (" (pip install '.[cuda]' in a clone brings NVIDIA support)" if device == "gpu" else "")
        ) from None
    with jax.default_device(chosen):
        yield


REFUSE_AT = 0.9
"""The share of the memory maps that Linux allows a process from which on no program is compiled any more."""

_kept = 0
"""Memory maps that were left when programs were forgotten the last time."""


def make_room_for_programs() -> None:
    """Forgets compiled programs, all of JAX in this process, if there may be no room for those that come.

    Every program has memory maps of its own. XLA aborts a process that reaches the number of maps that Linux allows it,
    and one that trains some twenty configurations gets there. What is still needed is compiled again, or read from the
    cache folder. That happens each time that half of the maps that were free the last time are taken: what else has
    maps does not have programs forgotten again and again.

    Raises:
        NacreError: something else than programs has taken the maps.
    """
    global _kept
    allowed, used = maps_allowed(), maps_used()
    if allowed is None or used < min((_kept + allowed) / 2, REFUSE_AT * allowed):
        return
    jax.clear_caches()
    gc.collect()  # programs in cycles of references keep their maps until then
    _kept = maps_used()
    if _kept >= REFUSE_AT * allowed:
        raise NacreError(
            f"this process has {_kept} of the {allowed} memory maps that Linux allows it, and compiled programs need "
            "thousands: begin in a new process, or raise the limit: sysctl vm.max_map_count"
        )


def maps_used() -> int:
    """Memory maps of this process; 0: the system does not tell."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def maps_allowed() -> int | None:
    """How many memory maps a process may have; None: the system has no such limit, or does not tell."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return None


class SimulatorPool:
    """Simulators of one family by their number of slots, made when first asked for."""

    def __init__(self, family: TaskFamily, threads: int | None, make: Callable[..., Simulator] = Simulator):
        """`make(family, n_slots, threads)` makes one."""
        self._family, self._threads, self._make = family, threads, make
        self._simulators: dict[int, Simulator] = {}
        self._used: set[int] = set()

    def __call__(self, n_slots: int) -> Simulator:
        self._used.add(n_slots)
        if n_slots not in self._simulators:
            self._simulators[n_slots] = self._make(self._family, n_slots, self._threads)
        return self._simulators[n_slots]

    def play(self, plays: Sequence[Play]) -> list[Played]:
        """Plays what several seeds ask for, all together, or in turns if the family allows no more slots; see
        :func:`nacre.collect.play_together`."""
        n_slots, most = sum(len(play.tasks) for play in plays), self._family.most_slots
        if most is None or n_slots <= most:
            return play_together(plays, self(n_slots))
        sizes = [-(-len(play.tasks) // -(-len(play.tasks) // most)) for play in plays]  # of turns that are equally long
        return [
            play_in_turns(play, index, size, self(size))
            for index, (play, size) in enumerate(zip(plays, sizes, strict=True))
        ]

    def close_unused(self) -> None:
        """Closes the simulators that were not used since the last call: an initial collection may have had a slot for
        every train task. Worlds that remember stay."""
        if not self._family.remembers:
            for n_slots in self._simulators.keys() - self._used:
                self._simulators.pop(n_slots).close()
        self._used = set()

    def state_dict(self) -> dict[str, Any]:
        """What worlds remember across episodes, by number of slots, as JSON values; empty if no world offers any.

        Raises:
            NacreError: a world remembers something else than numbers, text, lists, dictionaries and NumPy arrays.
        """
        states = {n_slots: simulator.state_dict() for n_slots, simulator in self._simulators.items()}
        return {str(n_slots): _to_json(self._family.name, state) for n_slots, state in states.items() if state}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Makes the simulators that :meth:`state_dict` knew, and gives their worlds back what they remembered."""
        for n_slots, state in states.items():
            self(int(n_slots)).load_state_dict(_from_json(state))

    def close(self) -> None:
        for simulator in self._simulators.values():
            simulator.close()
        self._simulators.clear()


def learner_for(experiment: Experiment, family: TaskFamily) -> Learner:
    """The learner of an experiment's algorithm, in the family's sizes."""
    return algorithm_of(experiment.algorithm).learner_class()(experiment.algorithm, family.sizes, experiment.precision)


def _to_json(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"dtype": str(value.dtype), "values": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_json(name, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(name, entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise NacreError(
        f"the state_dict of an environment of {name} holds a {type(value).__name__}; allowed: numbers, text, lists, "
        "dictionaries with names as keys, and NumPy arrays of numbers"
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(entry) for entry in value]
    if isinstance(value, dict):
        if value.keys() == {"dtype", "values"}:
            return np.array(value["values"], value["dtype"])
        return {key: _from_json(entry) for key, entry in value.items()}
    return value
