"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from nacre.run_folder import versions
from nacre.tasks.simulator import physical_cores

STATISTICS = Path("/proc/stat")


def machine() -> str:
    """The processor."""
    return f"{versions()['cpu'] or platform.machine()}, {physical_cores()} cores"


class OtherWork:
    """What else the machine did while a benchmark ran: make one before, ask it afterwards."""

    def __init__(self) -> None:
        self._begin = self._seconds()

    def warning(self) -> str:
        """A sentence if other processes, or other machines on the same host, took more than 5 % of the processors'
        time; nothing where that is not known (outside Linux)."""
        wall, own, all_of_them = (end - begin for begin, end in zip(self._begin, self._seconds(), strict=True))
        share = max(all_of_them - own, 0.0) / (wall * (os.cpu_count() or 1))
        if share < 0.05:
            return ""
        return f"This machine was busy: {share:.0%} of its time went to other work. Do not compare these figures."

    def _seconds(self) -> tuple[float, float, float]:
        """Now: by the clock, and the processor time of this process and of all."""
        own = sum(os.times()[:4])
        if not STATISTICS.exists():
            return time.perf_counter(), own, own
        fields = [int(number) for number in STATISTICS.read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = fields
        ticks = user + nice + system + interrupts + soft_interrupts + stolen
        return time.perf_counter(), own, ticks / os.sysconf("SC_CLK_TCK")
