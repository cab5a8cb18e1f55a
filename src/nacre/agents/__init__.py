"""The algorithms there are, by name. Nothing of them is imported until it is needed, and their configurations need no
JAX."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nacre.agents.blind.config import BlindConfig
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.agents.meld.config import MeldConfig
from nacre.agents.oracle.config import OracleConfig
from nacre.agents.pearl.config import PearlConfig
from nacre.configuration import AlgorithmConfig
from nacre.errors import NacreError

if TYPE_CHECKING:
    from nacre.interfaces import Learner


@dataclass(frozen=True)
class Algorithm:
    """An algorithm as the house knows it."""

    name: str
    """Stands in JSON and in the first half of an experiment's name."""
    config: type[AlgorithmConfig]
    learner: str
    """Where its :class:`nacre.interfaces.Learner` is, such as `my_package.learner:MyLearner`."""
    experiments: str | None = None
    """The module with its named experiments; None: they are registered one by one."""
    report: str | None = None
    """A module with `belief_pictures`, which draws what its agents infer; None: there is nothing to draw."""

    def learner_class(self) -> type[Learner]:
        """Imports the learner."""
        module, _, name = self.learner.partition(":")
        return getattr(importlib.import_module(module), name)

    def report_module(self) -> Any | None:
        """Imports the module that draws what its agents infer."""
        return None if self.report is None else importlib.import_module(self.report)


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "pearl",
            PearlConfig,
            learner="nacre.agents.pearl.learner:PearlLearner",
            experiments="nacre.experiments.pearl",
            report="nacre.agents.pearl.report",
        ),
        Algorithm(
            "cemrl",
            CemrlConfig,
            learner="nacre.agents.cemrl.learner:CemrlLearner",
            experiments="nacre.experiments.cemrl",
            report="nacre.agents.cemrl.report",
        ),
        Algorithm(
            "dmrlad",
            DmrladConfig,
            learner="nacre.agents.dmrlad.learner:DmrladLearner",
            experiments="nacre.experiments.dmrlad",
            report="nacre.agents.cemrl.report",
        ),
        Algorithm(
            "meld",
            MeldConfig,
            learner="nacre.agents.meld.learner:MeldLearner",
            experiments="nacre.experiments.meld",
            report="nacre.agents.meld.report",
        ),
        Algorithm(
            "oracle",
            OracleConfig,
            learner="nacre.agents.multitask.learner:MultitaskLearner",
            experiments="nacre.experiments.oracle",
        ),
        Algorithm(
            "blind",
            BlindConfig,
            learner="nacre.agents.multitask.learner:MultitaskLearner",
            experiments="nacre.experiments.blind",
        ),
    )
}
"""Every algorithm by name."""


def algorithm_of(config: AlgorithmConfig) -> Algorithm:
    """The algorithm that a configuration configures.

    Raises:
        NacreError: there is none; the message says how to make one known.
    """
    for algorithm in ALGORITHMS.values():
        if type(config) is algorithm.config:
            return algorithm
    raise NacreError(
        f"{type(config).__name__} is the configuration of no algorithm that is known here: {', '.join(ALGORITHMS)}; "
        "make yours known with nacre.register_algorithm"
    )


def register_algorithm(algorithm: Algorithm) -> None:
    """Makes an algorithm of one's own known: to experiments, files, flags and run folders.

    Raises:
        NacreError: the name or the configuration class is taken by another algorithm, or a field of the configuration
            has a name that every experiment has.
    """
    known = ALGORITHMS.get(algorithm.name, algorithm)
    if known != algorithm:
        raise NacreError(f"there is an algorithm {algorithm.name!r} already; choose another name")
    for other in ALGORITHMS.values():
        if other != algorithm and other.config is algorithm.config:
            raise NacreError(f"{algorithm.config.__name__} is the configuration of {other.name!r} already")
    taken = sorted({field.name for field in fields(algorithm.config)} & _taken_names())
    if taken:
        raise NacreError(
            f"{algorithm.config.__name__} has a field {taken[0]!r}; allowed: other names than those that flags and "
            f"files of every experiment have, which are {', '.join(sorted(_taken_names()))}"
        )
    ALGORITHMS[algorithm.name] = algorithm


def _taken_names() -> set[str]:
    from nacre.experiments.experiment import Experiment  # here, as it imports this module

    flags = {
        "config",
        "dry_run",
        "experiment",
        "experiment_name",
        "help",
        "ignore_unknown",
        "import",
        "kind",
        "out",
        "ray_address",
        "seeds",
        "worker_timeout",
        "workers",
        "wandb",
    }
    return flags | {field.name for field in fields(Experiment)}
