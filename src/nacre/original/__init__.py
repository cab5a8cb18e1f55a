"""What old code bases left: configurations, runs and networks. The rest of the house names none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nacre.original import networks

NETWORK_FILES = f"a folder of the original PEARL code with {', '.join(networks.FILES.values())}"
"""What holds networks of an old code base, in words for a message."""


def read_networks(folder: Path) -> dict[str, np.ndarray] | None:
    """The networks that an old code base left in a folder.

    Returns:
        arrays by where they belong in `LearnerState.trained`, such as `.target_value.weights[0]`; None: the folder
        holds no networks of an old code base.

    Raises:
        NacreError: a file is missing, damaged, or holds another kind of network.
    """
    if not any((folder / file).exists() for file in networks.FILES.values()):
        return None
    return networks.read_old_networks(folder)
