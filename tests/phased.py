"""A learner whose iterations have five phases: two collections, one of them in the middle, and three of gradient steps
of two kinds, of which one stops early.

Its numbers mean nothing, but each depends on all that came before: on every draw, on the data in the order in which
they were collected, on what `begin` has set, and on what `derive` gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nacre.agents import Algorithm
from nacre.configuration import AlgorithmConfig, Count
from nacre.evaluation import evaluate_split
from nacre.experiments import Experiment
from nacre.interfaces import Learner, LearnerState, Phase, Play, select
from nacre.metrics import PerTask, summarise
from nacre.protocol import Protocol
from nacre.types import Key, Metrics, Transition, Tree, Visit

PHASES = ("collect", "fit", "push", "explore", "fit")

derived: list[str] = []
"""The phase of each call of `derive`, except those that only ask for shapes."""


@dataclass(frozen=True)
class PhasedConfig(AlgorithmConfig):
    """Hyperparameters."""

    fits: Count = 9
    """Gradient steps of a fit, if it does not stop early."""
    pushes: Count = 3
    """Gradient steps of a push."""

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        return iterations * train_tasks * 60

    def gradient_steps(self, iterations: int) -> int:
        return iterations * (2 * self.fits + self.pushes)

    def protocol(self, horizon: int) -> Protocol:
        return Protocol("phased", trials=1, steps=0, episodes=2, exploration_episodes=0)


class CountingBelief(NamedTuple):
    """What an agent counts, and the noise of its episode."""

    acted: jax.Array
    observed: jax.Array
    ended: jax.Array
    noise: jax.Array


@dataclass(frozen=True)
class CountingAgent:
    """Counts its actions in `act`, and draws in every method that is given keys."""

    actions: int
    sees_sparse_reward: bool = False
    sees_task: bool = False

    def begin_trial(self, params: Tree, keys: Key, tasks: Any) -> CountingBelief:
        zeros = jnp.zeros(len(keys), jnp.int32)
        return CountingBelief(zeros, zeros, zeros, self._normal(keys) if tasks is None else tasks)

    def begin_episode(self, params: Tree, belief: CountingBelief, keys: Key, mask: Any) -> CountingBelief:
        return select(mask, belief._replace(noise=belief.noise / 2 + self._normal(keys)), belief)

    def act(
        self, params: Tree, belief: CountingBelief, observation: Any, keys: Key, mask: Any, deterministic: bool
    ) -> tuple[Any, CountingBelief]:
        action = params["bias"][None] + 0.1 * belief.noise - 0.1 * observation
        if not deterministic:
            action = action + 0.1 * self._normal(keys)
        return jnp.tanh(action), select(mask, belief._replace(acted=belief.acted + 1), belief)

    def observe(self, params: Tree, belief: CountingBelief, transition: Transition, mask: Any) -> CountingBelief:
        return select(mask, belief._replace(observed=belief.observed + 1), belief)

    def end_episode(self, params: Tree, belief: CountingBelief, keys: Key, mask: Any) -> CountingBelief:
        changed = belief._replace(ended=belief.ended + 1, noise=belief.noise + self._normal(keys))
        return select(mask, changed, belief)

    def _normal(self, keys: Key) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(key, (self.actions,)))(keys)


class LatestRewards:
    """A running mix of mean rewards by task, in which the order of visits counts; and how many visits there were."""

    def __init__(self, tasks: int):
        self._mix, self._visits = np.zeros(tasks, np.float32), 0

    @property
    def arrays(self) -> Any:
        return jnp.asarray(self._mix), jnp.float32(self._visits)

    def add(self, visits: Iterable[Visit]) -> None:
        for visit in visits:
            rewards = np.concatenate([episode.rewards for episode in visit.episodes])
            self._mix[visit.task] = 0.5 * self._mix[visit.task] + rewards.mean()
            self._visits += 1


class Trained(NamedTuple):
    """What changes."""

    networks: dict[str, jax.Array]
    optimisers: dict[str, jax.Array]
    begun: jax.Array
    """How often each kind of phase has begun."""
    statistics: jax.Array
    """Of the data, as `begin` has found them."""
    left: jax.Array
    """Of a number that has to become small before a fit ends."""


@dataclass(frozen=True)
class PhasedLearner(Learner):
    """See the top of the file."""

    config: PhasedConfig

    def initial_state(self, key: Key) -> LearnerState:
        networks = {"bias": jax.random.normal(key, (self.sizes.action,))}
        moments = {"bias": jnp.zeros(self.sizes.action)}
        trained = Trained(networks, moments, jnp.zeros(4, jnp.int32), jnp.zeros(2), jnp.zeros(()))
        return LearnerState(trained, jax.random.split(key)[0], jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> Tree:
        return state.trained.networks

    def agent(self, capacity: int) -> CountingAgent:
        return CountingAgent(self.sizes.action)

    def memory(self, family: Any, tasks: Any, iterations: int) -> LatestRewards:
        return LatestRewards(len(tasks))

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        steps = {"fit": self.config.fits, "push": self.config.pushes}
        return tuple(Phase(name, steps.get(name, 0)) for name in PHASES)

    def collect(self, phase: str, state: LearnerState, memory: Any, family: Any, tasks: Any, seed: Any) -> Any:
        count = 1 if phase == "explore" else len(tasks)
        first = int(memory.arrays[1]) % (len(tasks) - count + 1)
        trials, _ = yield Play(
            self.agent(0), self.parameters(state), tasks[first : first + count], seed, deterministic=False, episodes=1
        )
        return [Visit(first + index, tuple(trial)) for index, trial in enumerate(trials)]

    def begin(self, phase: str, state: LearnerState, memory: LatestRewards, tasks: np.ndarray) -> LearnerState:
        mix, visits = memory.arrays
        kind = sorted(set(PHASES)).index(phase)
        trained = state.trained._replace(
            begun=state.trained.begun.at[kind].add(1),
            statistics=state.trained.statistics / 2 + jnp.stack([mix.mean(), visits]),
            left=jnp.float32(1.0),
        )
        return state._replace(trained=trained)

    def derive(self, phase: str, state: LearnerState, memory: LatestRewards, tasks: np.ndarray) -> Tree:
        if not isinstance(state.updates, jax.core.Tracer):
            derived.append(phase)
        return memory.arrays[0].sum() + state.trained.statistics.sum()

    def draw(self, phase: str, arrays: Any, derived: Any, key: Key) -> Any:
        return arrays[0], derived * 0.01 + jax.random.normal(key, (self.sizes.action,))

    def step(self, phase: str, trained: Trained, batch: Any, key: Key) -> Any:
        rewards, drawn = batch
        gradient = trained.networks["bias"] - 0.1 * drawn + 0.1 * jax.random.normal(key, drawn.shape)
        moment = 0.9 * trained.optimisers["bias"] + gradient
        bias = trained.networks["bias"] - (0.05 if phase == "fit" else 0.2) * moment
        metrics = OrderedDict({f"{phase} loss": (gradient**2).mean(), f"{phase} bias": summarise(bias)})
        metrics[f"{phase} reward"] = PerTask(jnp.arange(len(rewards)), rewards)
        left = trained.left * (0.4 + 0.4 * jax.random.uniform(key))
        return trained._replace(networks={"bias": bias}, optimisers={"bias": moment}, left=left), metrics

    def ended(self, phase: str, trained: Trained) -> Any:
        return trained.left < 0.05 if phase == "fit" else False

    def evaluate(self, state: LearnerState, memory: Any, family: Any, split: Any, seed: Any) -> Any:
        protocol = self.config.protocol(self.sizes.horizon)
        found = yield from evaluate_split(self.agent, self.parameters(state), family, split, protocol, seed)
        columns: Metrics = {**found.columns, "Visits": float(memory.arrays[1])}
        return columns, found.steps


ALGORITHM = Algorithm("phased", PhasedConfig, learner="phased:PhasedLearner")


def phased_experiment(**changes: Any) -> Experiment:
    """A small one."""
    fields: dict[str, Any] = {
        "name": "phased/point-robot",
        "family": "point-robot",
        "algorithm": PhasedConfig(),
        "train_tasks": 3,
        "test_tasks": 2,
        "task_list": "seeded",
        "iterations": 3,
        "update_chunk": 2,
        "checkpoint_every": 2,
        "threads": 1,
    }
    return Experiment(**(fields | changes))
