"""Named, complete, typed configurations; their JSON; their limits; and the old code's configuration files."""

from __future__ import annotations

from typing import Any

from nacre.errors import NacreError
from nacre.experiments import pearl
from nacre.experiments.experiment import Experiment, from_json, nearest, override, to_json
from nacre.experiments.limits import validate

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in pearl.EXPERIMENTS}
"""The named experiments."""

DESCRIPTIONS: dict[str, str] = pearl.DESCRIPTIONS
"""One line about each named experiment."""


def make_experiment(name: str, /, **overrides: Any) -> Experiment:
    """The experiment called `name`, with some fields replaced.

    `overrides` may name any field of :class:`Experiment` or of its algorithm's configuration, for example
    `make_experiment("pearl/cheetah-vel", seed=1, iterations=60, kl_weight=0.5)`.

    Raises:
        NacreError: there is no such experiment or field, or a value is not of the field's type.
    """
    if name not in EXPERIMENTS:
        raise NacreError(f"unknown experiment {name!r}: {nearest(name, EXPERIMENTS)}")
    return override(EXPERIMENTS[name], overrides)


__all__ = ["DESCRIPTIONS", "EXPERIMENTS", "Experiment", "from_json", "make_experiment", "to_json", "validate"]
