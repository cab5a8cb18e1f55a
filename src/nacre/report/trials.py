"""The trials that a report shows: those of `nacre evaluate RUN`, with their episodes and final beliefs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from nacre.evaluation import Evaluation
from nacre.experiments import Experiment
from nacre.loading import Trained, read_trained
from nacre.protocol import Protocol
from nacre.run_evaluation import play_trials
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily
from nacre.types import Episode, Tree


@dataclass(frozen=True)
class MetaTest:
    """What a trained agent did on the test tasks of its run."""

    trained: Trained
    evaluation: Evaluation
    episodes: list[list[list[Episode]]]
    """By task and trial."""
    belief: Tree
    """Of all trials at their end, tasks one after another."""


def play_test_trials(run: Path, checkpoint: Path | str, say: Callable[[str], None]) -> MetaTest:
    """Lets the agent of a run adapt to its test tasks, by the run's own protocol and with its seed.

    Args:
        run: the run folder.
        checkpoint: as in :func:`nacre.load`.
        say: called with a sentence before the trials are played.

    Raises:
        NacreError: as :func:`nacre.loading.read_trained`.
    """
    trained = read_trained(run, checkpoint)
    experiment, family, tasks = trained.experiment, trained.family, trained.split.test
    protocol = experiment.algorithm.protocol(family.horizon)
    say(
        f"{run}: {trained.checkpoint.stem} plays {protocol.trials} trial(s) of "
        f"{protocol.minimum_episodes(family.horizon)} episodes on each of {len(tasks)} test tasks"
    )
    return MetaTest(trained, *play_trials(trained, tasks, protocol, experiment.seed))


def protocol_of(experiment: Experiment) -> Protocol:
    """How the experiment is meta-tested after each iteration."""
    return experiment.algorithm.protocol(make_family(experiment.family).horizon)


def protocol_in_words(experiment: Experiment) -> str:
    """The same in one sentence."""
    family = make_family(experiment.family)
    may_terminate = type(family).terminated is not TaskFamily.terminated
    return protocol_of(experiment).in_words(family.horizon, experiment.test_tasks, may_terminate)


def success_by_episode(evaluation: Evaluation) -> Float64[np.ndarray, "n episodes"] | None:
    """Per task and episode of a trial, as far as all trials go: the share of trials that were a success in it.

    None: the task family does not say what a success is.
    """
    episodes = evaluation.returns_by_episode.shape[1]
    rates = []
    for trials in evaluation.trials:
        successes = [trial.successes[:episodes] for trial in trials if trial.successes is not None]
        if len(successes) < len(trials):
            return None
        rates.append(np.mean(successes, axis=0))
    return np.array(rates, np.float64)
