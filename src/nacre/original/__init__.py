"""What old code bases left: configurations, runs and networks. The rest of the house names none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nacre.original import cemrl_networks, networks

NETWORK_FILES = f"a folder of the original PEARL code with {', '.join(networks.FILES.values())}"
"""What holds networks of an old code base, in words for a message."""


def has_networks(folder: Path) -> bool:
    """Whether a folder holds a file of networks of an old code base."""
    return any((folder / file).exists() for file in networks.FILES.values())


def is_to_be_imported(folder: Path) -> bool:
    """Whether a folder holds networks of an old code base of which a run has to be made first."""
    return folder.is_dir() and bool(cemrl_networks.saved_iterations(folder))


def read_networks(folder: Path) -> dict[str, np.ndarray]:
    """The networks that an old code base left in a folder.

    Returns:
        arrays by where they belong in `LearnerState.trained`, such as `.target_value.weights[0]`.

    Raises:
        NacreError: a file is missing, damaged, or holds another kind of network.
    """
    return networks.read_old_networks(folder)
