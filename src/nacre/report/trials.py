"""The trials that a report shows: those of `nacre evaluate RUN`, with their episodes and final beliefs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nacre.evaluation import Evaluation
from nacre.experiments import Experiment, family_of
from nacre.loading import TrainedRun, read_trained
from nacre.protocol import Protocol
from nacre.report.trial_figures import spread
from nacre.run_evaluation import play_trials, with_shift
from nacre.tasks.family import TaskFamily
from nacre.tasks.shifts import Shift, read_shift
from nacre.types import Episode, Tree


@dataclass(frozen=True)
class RunTest:
    """A run, and what its agent did on the test tasks."""

    trained: TrainedRun
    evaluation: Evaluation
    episodes: list[list[list[Episode]]]
    """By task and trial."""
    belief: Tree
    """Of all trials at their end, tasks one after another."""
    train: Evaluation | None = None
    """On as many train tasks; None: there are none but the test tasks."""


def play_test_trials(
    run: Path, checkpoint: Path | str, say: Callable[[str], None], shift: Shift | str | None = None
) -> RunTest:
    """Lets the agent of a run adapt to its test tasks, by the run's own protocol and with its seed.

    Args:
        run: the run folder.
        checkpoint: as in :func:`nacre.load`.
        say: called with a sentence before the trials are played.
        shift: how the task changes inside an episode, as in :func:`nacre.evaluate`.

    Raises:
        NacreError: as :func:`nacre.loading.read_trained`; or the tasks of the family cannot change so.
    """
    trained = read_trained(run, checkpoint)
    if shift is not None:
        trained = with_shift(trained, read_shift(shift))
    protocol, tasks, train = trained.protocol, trained.split.test, _train_tasks(trained)
    say(
        f"{run}: {trained.checkpoint.stem} plays {protocol.trials} trial(s) of "
        f"{protocol.minimum_episodes(trained.family.horizon)} episodes on each of {len(tasks)} test tasks"
        + (f" and {len(train)} train tasks" if len(train) else "")
    )
    seed = trained.experiment.seed
    test = play_trials(trained, tasks, protocol, seed, keeps_all=True)
    known = None
    if len(train):
        known = play_trials(trained, train, protocol, seed, pool=trained.split.train).evaluation
    return RunTest(trained, *test, known)


def _train_tasks(trained: TrainedRun) -> np.ndarray:
    """As many train tasks as there are test tasks, spread over those there are; none if all of them are test tasks."""
    train, test = trained.split.train, trained.split.test
    others = train[~(train[:, None] == test[None]).all(axis=2).any(axis=1)]
    return others[spread(others, len(test))] if len(others) else others


def protocol_of(experiment: Experiment) -> Protocol:
    """How the experiment is meta-tested after each iteration."""
    return experiment.algorithm.protocol(family_of(experiment).horizon)


def protocol_in_words(experiment: Experiment) -> str:
    """The same in one sentence."""
    family = family_of(experiment)
    may_terminate = type(family).terminated is not TaskFamily.terminated
    words = protocol_of(experiment).in_words(family.horizon, experiment.test_tasks, may_terminate)
    return words if experiment.shift is None else f"{words}; {experiment.shift.in_words()}"
