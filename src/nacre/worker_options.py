"""How many workers play what is collected and evaluated, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from nacre.errors import NacreError, shown
from nacre.tasks.options import is_finite_number

MOST_WORKERS = 10_000
WORKER_TIMEOUT = 300.0
"""Seconds."""


@dataclass(frozen=True)
class WorkerOptions:
    """Processes that play what is collected and evaluated. What is played does not depend on them, so they are no part
    of an experiment, and a run can be resumed with others, or without."""

    workers: Annotated[int, arg(metavar="INT")] = 0
    """Worker processes that simulate and act, by Ray; 0: this process does it alone."""
    ray_address: Annotated[str | None, arg(metavar="HOST:PORT|auto", help_behavior_hint="(default: this machine)")] = (
        None
    )
    """The head of the Ray cluster on which the workers are."""
    worker_timeout: Annotated[float, arg(metavar="SECONDS")] = WORKER_TIMEOUT
    """How long a worker may make no control step until another takes its place, and how long to wait if there is no
    worker at all (a minute at least)."""

    def check(self) -> None:
        """Raises NacreError if an option is impossible."""
        if type(self.workers) is not int or not 0 <= self.workers <= MOST_WORKERS:
            raise NacreError(f"workers is {shown(self.workers)}; allowed: 0 to {MOST_WORKERS}")
        if self.ray_address is not None and not self.workers:
            raise NacreError(
                f"ray_address is {shown(self.ray_address)} without workers; allowed: together with workers, of which "
                "there is at least 1"
            )
        if not (is_finite_number(self.worker_timeout) and self.worker_timeout > 0):
            raise NacreError(f"worker_timeout is {shown(self.worker_timeout)}; allowed: seconds, more than 0")


NO_WORKERS = WorkerOptions()
