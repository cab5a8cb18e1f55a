"""The trials that a report shows: those of `nacre evaluate RUN`, with their episodes and posteriors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nacre.evaluation import Evaluation
from nacre.loading import Trained, read_trained
from nacre.report.posterior import Posteriors, posteriors_after
from nacre.run_evaluation import play_trials
from nacre.runtime import training_protocol
from nacre.types import Episode

SNAPSHOTS = 4
"""At most so many posteriors of a trial are shown in full."""


@dataclass(frozen=True)
class MetaTest:
    """What a trained agent did on the test tasks of its run."""

    trained: Trained
    evaluation: Evaluation
    episodes: list[list[list[Episode]]]
    """By task and trial."""
    snapshots: Posteriors
    """Posteriors of all trials, tasks one after another, at a few points."""
    moments: tuple[str, ...]
    """Those points in words."""
    course: Posteriors
    """Posteriors at about evenly spaced points on a logarithmic axis."""


def meta_test(run: Path, checkpoint: Path | str, say: Callable[[str], None]) -> MetaTest:
    """Lets the agent of a run adapt to its test tasks, by the run's own protocol and with its seed.

    Raises:
        NacreError: as :func:`nacre.loading.read_trained`.
    """
    trained = read_trained(run, checkpoint)
    experiment, family, tasks = trained.experiment, trained.family, trained.split.test
    protocol = training_protocol(experiment, family)
    say(
        f"{run}: {trained.checkpoint.stem} plays {protocol.trials} trial(s) of "
        f"{protocol.minimum_episodes(family.horizon)} episodes on each of {len(tasks)} test tasks"
    )
    evaluation, episodes, belief = play_trials(trained, tasks, protocol, experiment.seed)
    ends = np.array([np.cumsum(lengths) for lengths in _lengths(evaluation)])
    shown, moments = _moments(ends, family.horizon)
    course = np.unique(np.geomspace(1, ends[:, -1].min(), 16).astype(int))
    course = np.repeat(course[:, None], len(ends), axis=1)
    agent = trained.agent(protocol.capacity(family.horizon))
    return MetaTest(
        trained=trained,
        evaluation=evaluation,
        episodes=episodes,
        snapshots=posteriors_after(agent, trained.networks, belief, shown),
        moments=moments,
        course=posteriors_after(agent, trained.networks, belief, course),
    )


def _lengths(evaluation: Evaluation) -> list[tuple[int, ...]]:
    """Steps of each episode, by trial, as far as all trials go."""
    episodes = evaluation.returns_by_episode.shape[1]
    return [trial.lengths[:episodes] for trials in evaluation.trials for trial in trials]


def _moments(ends: np.ndarray, horizon: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Transitions after which posteriors are shown, shape (points, trials), and those points in words.

    `ends`: the transitions at the end of each episode, shape (trials, episodes).
    """
    early = max(1, horizon // 10)
    episodes = ends.shape[1]
    after = sorted({1, (1 + episodes) // 2, episodes} if episodes >= SNAPSHOTS else set(range(1, 1 + episodes)))
    transitions = [np.minimum(early, ends[:, 0]), *(ends[:, episode - 1] for episode in after)]
    words = ["after the first transition" if early == 1 else f"after {early} transitions"]
    return np.stack(transitions), (*words, *(f"after episode {episode}" for episode in after))
