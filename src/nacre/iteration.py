"""What a run says of each complete iteration to who watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacre.errors import NacreError, shown
from nacre.experiments import Experiment
from nacre.protocol import TEST_RETURN


@dataclass(frozen=True, repr=False)
class Iteration:
    """A complete iteration. Its row of progress.csv is written, and a checkpoint if one was due."""

    run: Path
    """The run folder."""
    experiment: Experiment
    """That of the run: among several seeds `experiment.seed` says which one it is."""
    complete: int
    """How many iterations are complete, this one among them."""
    columns: Mapping[str, float]
    """The row of progress.csv: values by column."""

    @property
    def test_return(self) -> float:
        """The mean return of the last episode of a trial over all test tasks: the measure that papers plot."""
        return self.columns[TEST_RETURN]

    @property
    def environment_steps(self) -> int:
        """Environment steps that were collected so far."""
        return int(self.columns["Number of env steps total"])

    def __repr__(self) -> str:
        whole = self.experiment.iterations
        return f"<iteration {self.complete}/{whole} of {self.run}: test return {self.test_return:.6g}>"


OnIteration = Callable[[Iteration], Any]
"""Is called after each iteration of each run. It returns None, or "stop"."""


def asks_to_stop(on_iteration: OnIteration, iteration: Iteration) -> bool:
    """Calls it, and says whether the run should stop.

    Raises:
        NacreError: it returned something else than None or "stop".
        and whatever it raised.
    """
    answer = on_iteration(iteration)
    if answer is not None and not (isinstance(answer, str) and answer == "stop"):
        raise NacreError(f"on_iteration returned {shown(answer)}; allowed: None, or 'stop' to end training")
    return answer is not None
