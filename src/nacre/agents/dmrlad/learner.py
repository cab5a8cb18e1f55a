"""DMRLAD's learner (spec cemrl-dmrlad 1.7, 1.8): CEMRL's, with quantile critics, and with copies of what is collected
that have the rewards of another train task.

Its phases are those of :mod:`nacre.agents.cemrl.learner`. In each collection after the initial one:

    play visits                                                      collect
    log Z of every train task                                        relabelling.log_normalisers
    for each episode:
        its rewards in every train task, and z of these              relabelling.candidates, infer
        the value of each task with this z                           relabelling.task_values
        choose a task, and make a copy for it                        relabelling.choose, copy_of
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float64

from nacre.agents.cemrl.learner import INITIAL, CemrlLearner, WindowReplay
from nacre.agents.dmrlad import relabelling
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.agents.dmrlad.relabelling import RelabelledReplay, Scorer, without_reward_states
from nacre.interfaces import LearnerState, Schedule
from nacre.rl import sac
from nacre.rl.quantile import QuantileCritics
from nacre.seeds import child, key_of
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Episode, Metrics, Visit


@dataclass(frozen=True)
class DmrladLearner(CemrlLearner):
    """DMRLAD on tasks of given sizes."""

    config: DmrladConfig
    replay: ClassVar[type[WindowReplay]] = RelabelledReplay

    @property
    def critics(self) -> sac.CriticKind:
        config = self.config
        if config.critics == "expected":
            return sac.EXPECTED
        return QuantileCritics(
            config.quantiles, config.embedding_size, config.fractions, config.risk, config.risk_parameter
        )

    def memory(
        self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int
    ) -> RelabelledReplay:
        memory = super().memory(family, tasks, iterations)
        assert isinstance(memory, RelabelledReplay)
        memory.replaces = self.config.relabelling == "replace"
        return memory

    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: WindowReplay,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """What CEMRL collects, and copies of it. What was played is the context of its task, copies are not."""
        visited, play = self.planned(phase, state, tasks, seed)
        relabels = phase != INITIAL and self.config.relabelling != "none"
        trials, _ = yield replace(play, keeps_reward_states=relabels)
        visits = [Visit(task, tuple(trial), len(trial)) for task, trial in zip(visited, trials, strict=True)]
        return self._with_copies(state, memory, family, tasks, visits, child(seed, 2)) if relabels else visits

    def evaluate(
        self,
        state: LearnerState,
        memory: WindowReplay,
        family: TaskFamily,
        split: TaskSplit,
        seed: np.random.SeedSequence,
    ) -> Schedule[tuple[Metrics, int]]:
        """Meta-tests, and says what became of the copies of this iteration."""
        columns, steps = yield from super().evaluate(state, memory, family, split, seed)
        if self.config.relabelling == "none":
            return columns, steps
        latest = memory.latest if isinstance(memory, RelabelledReplay) else None
        copied, original, moved = (math.nan,) * 3 if latest is None else latest
        about = {"Return of Copies": copied, "Return of Originals": original, "Copies for Other Tasks": moved}
        return {**about, **columns}, steps

    def _with_copies(
        self,
        state: LearnerState,
        memory: WindowReplay,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        visits: Sequence[Visit],
        seed: np.random.SeedSequence,
    ) -> list[Visit]:
        """Visits with their copies after them, none of which have reward states. What is copied as a whole is what a
        window can be in: an episode, or a visit. If copies replace, it is a visit of its own."""
        config = self.config
        generator, key = np.random.default_rng(child(seed, 0)), key_of(child(seed, 1))
        scorer = Scorer(self.agent(0), self.critics, config.scoring_states)
        networks = state.trained.networks
        normaliser_key, key = jax.random.split(key)
        log_normaliser = np.asarray(
            relabelling.log_normalisers(scorer, networks, memory.arrays, config.log_normaliser, normaliser_key)
        )

        def copied(episodes: tuple[Episode, ...], number: int) -> Visit:
            found = [relabelling.candidates(family, episode, tasks) for episode in episodes]
            windows, counts = relabelling.last_windows(episodes, found, config.window)
            values = relabelling.task_values(
                scorer, networks, memory.arrays, windows, counts, jax.random.fold_in(key, number)
            )
            chosen = relabelling.choose(np.asarray(values), log_normaliser, config.choice, generator)
            copies = (
                relabelling.copy_of(family, *each, chosen, tasks[chosen]) for each in zip(episodes, found, strict=True)
            )
            return Visit(chosen, tuple(copies), relabelled=True)

        augments, whole = config.relabelling == "augment", config.window_within == "trial"
        stored: list[Visit] = []
        for visit in visits if augments or whole else _one_by_one(visits):
            stored.append(replace(visit, episodes=tuple(map(without_reward_states, visit.episodes))))
            for episodes in [visit.episodes] if whole else [(episode,) for episode in visit.episodes]:
                if augments or generator.random() < config.replace_probability:
                    stored.append(copied(episodes, len(stored)))
        return stored


def _one_by_one(visits: Sequence[Visit]) -> list[Visit]:
    """A visit for each episode."""
    return [Visit(visit.task, (episode,), 1) for visit in visits for episode in visit.episodes]
