"""Whether networks of an old code base ever saw a contact force (spec pearl 1.1, 4.7).

With MuJoCo 2.0 and later the original code observed zeros in place of contact forces. CEMRL and DMRLAD kept statistics
of what they saw. In PEARL the weights tell: those from an input that is always zero have no gradient, so they stay
where they were initialised, within 1 / sqrt(width of the layer).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nacre.tasks import FAMILIES, TaskFamily

NETWORKS = "encoder", "policy.network"
"""Those whose first layer is looked at: they see observations first, and are what an agent needs."""
DEVIATION = ".networks.normaliser.observation.deviation"
WITHOUT_FORCES = "-without-forces"
ROUNDING = 1e-6


def about_contact_forces(networks: Mapping[str, np.ndarray], family: TaskFamily) -> str | None:
    """A sentence if the networks were trained with contact forces and the family has none, or the other way round.

    Args:
        networks: as :func:`nacre.original.networks.read_old_networks` gives them, or that of `cemrl_networks`.
        family: which the networks fit.
    """
    if family.contact_forces is None:
        return None
    first, end = family.contact_forces
    if DEVIATION in networks:
        if (networks[DEVIATION] == 1).all():
            return None  # nothing was normalised, and no statistics were kept
        saw_none = bool(networks[DEVIATION][first:end].max() <= ROUNDING)
        why = f"these {end - first} numbers of the observation never changed"
    else:
        weights = [networks[f".networks.{network}.weights[0]"] for network in NETWORKS]
        others = [np.delete(weight, np.arange(first, end), axis=0) for weight in weights]
        if all(_as_initialised(weight) for weight in others):
            return None  # which never learned anything
        saw_none = all(_as_initialised(weight[first:end]) for weight in weights)
        why = (
            f"their weights from these {end - first} numbers of the observation are still within the bounds they were "
            "initialised in"
        )
    has_none = family.name.endswith(WITHOUT_FORCES)
    if saw_none and not has_none:
        other = family.name + WITHOUT_FORCES
        flag = f"; import it with: --family {other}" if other in FAMILIES else ""
        return (
            f"the networks never saw a contact force, as {why}: the run had MuJoCo 2.0 or later. {family.name} has "
            f"contact forces, with which its agent does worse{flag}"
        )
    if not saw_none and has_none:
        return (
            f"the networks were trained with contact forces, which {family.name} does not have; import it with: "
            f"--family {family.name.removesuffix(WITHOUT_FORCES)}"
        )
    return None


def _as_initialised(weight: np.ndarray) -> bool:
    """Whether all weights (fan_in, fan_out) are within the bounds in which the original code drew them."""
    return bool(np.abs(weight).max() <= (1 + ROUNDING) / weight.shape[1] ** 0.5)
