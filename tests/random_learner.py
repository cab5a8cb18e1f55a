"""An algorithm that acts at random and counts, to see whether the house knows any other algorithm than its own.

It is a module as a user's would be: importing it makes its algorithm, a task family that terminates and two experiments
known. Its memory is not a replay, its two kinds of gradient steps follow no gradient, and one of them stops early.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nacre import Algorithm, Experiment, register_algorithm, register_experiment, register_family
from nacre.configuration import AlgorithmConfig, Count, Positive, Width
from nacre.errors import NacreError
from nacre.interfaces import Agent, Learner, LearnerState, Phase, Play, select
from nacre.metrics import PerTask, summarise
from nacre.protocol import Protocol
from nacre.tasks.point import PointRobot
from nacre.types import Visit


@dataclass(frozen=True)
class RandomConfig(AlgorithmConfig):
    """What can be set."""

    collection_steps: Count = 20
    """Environment steps in each train task in an iteration."""
    nudges: Count = 5
    """Steps that add a drawn number."""
    own_flag: Width = 2
    """Numbers that are drawn."""
    calm_below: Positive = 0.5
    """The phase of calming ends when all numbers are smaller."""

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        return iterations * train_tasks * self.collection_steps

    def gradient_steps(self, iterations: int) -> int:
        return iterations * 2 * self.nudges

    def protocol(self, horizon: int) -> Protocol:
        return Protocol("two-episodes", trials=1, steps=0, episodes=2, exploration_episodes=0)

    def check(self, family: Any) -> None:
        if self.collection_steps < family.horizon:
            raise NacreError(
                f"algorithm.collection_steps is {self.collection_steps}; allowed: {family.horizon} or more"
            )


class Counts(NamedTuple):
    acts: jax.Array
    episodes: jax.Array


@dataclass(frozen=True)
class RandomAgent(Agent):
    actions: int

    def begin_trial(self, params: Any, keys: Any, tasks: None) -> Counts:
        return Counts(*jnp.zeros((2, len(keys)), jnp.int32))

    def act(self, params: Any, belief: Counts, observation: Any, keys: Any, mask: Any, deterministic: bool) -> Any:
        actions = jax.vmap(lambda key: jax.random.uniform(key, (self.actions,), minval=-1, maxval=1))(keys)
        return actions, select(mask, belief._replace(acts=belief.acts + 1), belief)

    def end_episode(self, params: Any, belief: Counts, keys: Any, mask: Any) -> Counts:
        return select(mask, belief._replace(episodes=belief.episodes + 1), belief)


class Latest:
    """The mean reward of the latest visit to each task, and nothing else."""

    def __init__(self, tasks: int):
        self.arrays = jnp.zeros(tasks)

    def add(self, visits: Iterable[Any]) -> None:
        for visit in visits:
            rewards = np.concatenate([episode.rewards for episode in visit.episodes])
            self.arrays = self.arrays.at[visit.task].set(rewards.mean())


class Trained(NamedTuple):
    networks: dict[str, jax.Array]
    optimisers: dict[str, jax.Array]


@dataclass(frozen=True)
class RandomLearner(Learner):
    config: RandomConfig

    def initial_state(self, key: Any) -> LearnerState:
        trained = Trained({"numbers": jnp.zeros(self.config.own_flag)}, {"calmed": jnp.zeros((), jnp.int32)})
        return LearnerState(trained, key, jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> Any:
        return state.trained.networks

    def agent(self, capacity: int) -> RandomAgent:
        return RandomAgent(self.sizes.action)

    def memory(self, family: Any, tasks: Any, iterations: int) -> Latest:
        return Latest(len(tasks))

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        return Phase("collect"), Phase("nudge", self.config.nudges), Phase("calm", self.config.nudges)

    def collect(self, phase: str, state: Any, memory: Any, family: Any, tasks: Any, seed: Any) -> Any:
        play = Play(self.agent(0), self.parameters(state), tasks, seed, False, steps=self.config.collection_steps)
        trials, _ = yield play
        return [Visit(task, tuple(trial)) for task, trial in enumerate(trials)]

    def begin(self, phase: str, state: LearnerState, memory: Latest, tasks: np.ndarray) -> LearnerState:
        counts = {"calmed": state.trained.optimisers["calmed"] + int(phase == "calm")}
        return state._replace(trained=state.trained._replace(optimisers=counts))

    def derive(self, phase: str, state: LearnerState, memory: Latest, tasks: Any) -> Any:
        return jnp.asarray(tasks, jnp.float32).mean()

    def draw(self, phase: str, arrays: Any, derived: Any, key: Any) -> Any:
        return arrays, derived + jax.random.normal(key, (self.config.own_flag,))

    def step(self, phase: str, trained: Trained, batch: Any, key: Any) -> Any:
        rewards, drawn = batch
        numbers = trained.networks["numbers"]
        numbers = numbers + drawn + jax.random.normal(key) if phase == "nudge" else numbers / 2
        metrics = OrderedDict({f"{phase.capitalize()} Loss": (numbers**2).mean(), phase: summarise(numbers)})
        if phase == "nudge":
            metrics["Latest Reward"] = PerTask(jnp.arange(len(rewards)), rewards)
        return trained._replace(networks={"numbers": numbers}), metrics

    def ended(self, phase: str, trained: Trained) -> Any:
        return phase == "calm" and (abs(trained.networks["numbers"]) < self.config.calm_below).all()


class FencedPoint(PointRobot):
    """A point robot whose episodes end outside a square."""

    name = "fenced-point"

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (abs(following) > 1).any(-1)


register_family("fenced-point", FencedPoint)
register_algorithm(Algorithm("random", RandomConfig, learner="random_learner:RandomLearner"))
for family in ("point-robot", "fenced-point"):
    register_experiment(
        Experiment(
            name=f"random/{family}",
            family=family,
            algorithm=RandomConfig(),
            train_tasks=3,
            test_tasks=2,
            task_list="seeded",
            iterations=3,
            update_chunk=2,
            threads=1,
        ),
        "acts at random and counts",
    )
