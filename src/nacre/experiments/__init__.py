"""Named, complete, typed configurations; their JSON; their limits; and files of configurations."""

from __future__ import annotations

import importlib
from typing import Any

from nacre.agents import ALGORITHMS, algorithm_of
from nacre.errors import NacreError, nearest
from nacre.experiments.experiment import (
    Experiment,
    NamedExperiment,
    family_of,
    from_json,
    options,
    override,
    to_json,
)
from nacre.experiments.limits import validate
from nacre.experiments.starting_point import starting_point, starting_points
from nacre.tasks import is_family

_REGISTERED: dict[str, NamedExperiment] = {}


def named_experiments() -> dict[str, NamedExperiment]:
    """The named experiments with their descriptions: those of every algorithm, in order, and those registered."""
    modules = [
        importlib.import_module(algorithm.experiments) for algorithm in ALGORITHMS.values() if algorithm.experiments
    ]
    entries = [NamedExperiment(*entry) for module in modules for entry in module.EXPERIMENTS]
    return {entry.experiment.name: entry for entry in entries} | _REGISTERED


def register_experiment(experiment: Experiment, description: str) -> None:
    """Gives an experiment of one's own a place among the named ones: in `make_experiment` and on the command line.

    Args:
        experiment: its `name` is the name.
        description: one line for `nacre list`.

    Raises:
        NacreError: the name is taken by another experiment, or its algorithm is not registered.
    """
    algorithm_of(experiment.algorithm)
    entry = NamedExperiment(experiment, description)
    if named_experiments().get(experiment.name, entry) != entry:
        raise NacreError(f"there is an experiment {experiment.name!r} already; choose another name")
    _REGISTERED[experiment.name] = entry


def make_experiment(name: str, /, **overrides: Any) -> Experiment:
    """The experiment called `name`, with some fields replaced.

    Args:
        name: a named experiment. Or any algorithm and any family, as in "<algorithm>/ant-dir-pixels": a starting
            point whose amounts of data are in episodes of the family's horizon.
        overrides: any fields of :class:`Experiment` or of its algorithm's configuration, for example `seed=1,
            iterations=60`.

    Raises:
        NacreError: there is no such experiment or field, or a value is not of the field's type.
    """
    named = named_experiments()
    if name not in named:
        algorithm, _, family = name.partition("/")
        if algorithm in ALGORITHMS and is_family(family):
            return override(starting_point(algorithm, family, overrides.get("family_options", ())), overrides)
        known = [*named, *starting_points()] if family else named
        raise NacreError(
            f"unknown experiment {name!r} (one of your own is registered first: nacre.register_experiment, or nacre "
            "--import MODULE; any algorithm trains on any family, ALGORITHM/FAMILY): "
            f"{nearest(name, known)}"
        )
    return override(named[name].experiment, overrides)


__all__ = [
    "Experiment",
    "NamedExperiment",
    "family_of",
    "from_json",
    "make_experiment",
    "named_experiments",
    "options",
    "register_experiment",
    "to_json",
    "validate",
]
