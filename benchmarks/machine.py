"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import os
import platform

from nacre.run_folder import versions
from nacre.tasks.simulator import physical_cores


def machine() -> str:
    """The processor."""
    return f"{versions()['cpu'] or platform.machine()}, {physical_cores()} cores"


def busy() -> str:
    """What says that the machine works on something else already, if it does. To be asked before a benchmark begins."""
    load = os.getloadavg()[0]
    return f"its load was {load:.1f} in the minute before" if load > 0.5 * physical_cores() else ""
