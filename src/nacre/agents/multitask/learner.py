"""Soft actor-critic on all train tasks at once: the two ends between which every result of meta-learning lies.

    repeat:                                                              phases
        [first iteration] collect `initial_steps` in every train task    collect
        one visit to some train tasks                                    collect
        repeat:
            draw tasks, and transitions of each                          draw
            step temperature, critics, policy and targets                step (rl.sac.step)
        play one episode on test tasks and train tasks                   evaluate

With `sees_task` policy and critics are given the parameters of the task, scaled over the train tasks: no agent that has
to infer them does better in the long run. Without, they see the observation alone: what an agent that cannot infer
anything reaches.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int32

from nacre.agents.multitask.agent import ActingNetworks, MultitaskAgent, TaskScaling
from nacre.agents.multitask.config import MultitaskConfig
from nacre.interfaces import Learner, LearnerState, Phase, Play, Schedule
from nacre.metrics import StepMetrics
from nacre.replay import Replay, ReplayBuffer
from nacre.rl import sac
from nacre.seeds import child
from nacre.tasks.family import TaskFamily
from nacre.types import Key, Visit


class Networks(NamedTuple):
    """What is trained, and the scaling of tasks."""

    control: sac.Networks
    scaling: TaskScaling


class Trained(NamedTuple):
    """All that a step changes, and the scaling, which it does not."""

    networks: Networks
    target_critics: sac.Critics
    optimisers: sac.OptimiserStates


@dataclass(frozen=True)
class MultitaskLearner(Learner):
    """Soft actor-critic that is given the task, or told nothing of it, as its configuration says."""

    config: MultitaskConfig

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        each = (Phase("collect"), Phase("update", self.config.updates_per_iteration))
        return (Phase("initial collection"), *each) if iteration == 0 else each

    def initial_state(self, key: Key) -> LearnerState:
        network_key, state_key = jax.random.split(key)
        assert isinstance(self.sizes.observation, int)
        features = self.sizes.observation + self._seen
        trained = sac.initial(features, self.sizes.action, self.config.sac, key=network_key, precision=self.precision)
        scaling = TaskScaling(jnp.zeros(self._seen), jnp.ones(self._seen))
        networks = Networks(trained.networks, scaling)
        return LearnerState(
            Trained(networks, trained.target_critics, trained.optimisers), state_key, jnp.zeros((), jnp.int32)
        )

    def parameters(self, state: LearnerState) -> ActingNetworks:
        networks: Networks = state.trained.networks
        return ActingNetworks(networks.control.policy, networks.scaling)

    def agent(self, capacity: int) -> MultitaskAgent:
        return MultitaskAgent(self.config)

    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> ReplayBuffer:
        config = self.config
        return ReplayBuffer.for_visits(
            len(tasks),
            self.sizes,
            has_sparse_reward=family.has_sparse_reward,
            initial_steps=config.initial_steps,
            visits=iterations * config.tasks_per_iteration,
            visit_steps=(config.visit_steps,),
        )

    def begin(
        self, phase: str, state: LearnerState, memory: ReplayBuffer, tasks: Float64[np.ndarray, "n parameters"]
    ) -> LearnerState:
        """Scales tasks as the train tasks say, from the first phase on."""
        if not self.config.sees_task:
            return state
        deviation = tasks.std(axis=0)
        scaling = TaskScaling(
            jnp.asarray(tasks.mean(axis=0), jnp.float32),
            jnp.asarray(np.where(deviation > 0, deviation, 1.0), jnp.float32),
        )
        trained: Trained = state.trained
        return state._replace(trained=trained._replace(networks=trained.networks._replace(scaling=scaling)))

    def derive(
        self, phase: str, state: LearnerState, memory: ReplayBuffer, tasks: Float64[np.ndarray, "n parameters"]
    ) -> Float32[Array, "n seen"]:
        """What policy and critics see of each train task."""
        if not self.config.sees_task:
            return jnp.zeros((len(tasks), 0))
        return state.trained.networks.scaling(jnp.asarray(tasks, jnp.float32))

    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: ReplayBuffer,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """`initial_steps` in every train task, or one visit to `tasks_per_iteration` of them, all at once."""
        config = self.config
        if phase == "initial collection":
            visited, steps = np.arange(len(tasks)), config.initial_steps
        else:
            visited = np.random.default_rng(child(seed, 0)).integers(len(tasks), size=config.tasks_per_iteration)
            steps = config.visit_steps
        trials, _ = yield Play(
            self.agent(0), self.parameters(state), tasks[visited], child(seed, 1), deterministic=False, steps=steps
        )
        return [Visit(task, tuple(trial)) for task, trial in zip(visited.tolist(), trials, strict=True)]

    def draw(self, phase: str, arrays: Replay, derived: Float32[Array, "n seen"], key: Key) -> sac.Batch:
        config = self.config
        task_key, draw_key = jax.random.split(key)
        tasks = jax.random.randint(task_key, (config.meta_batch_size,), 0, len(arrays.counts))
        drawn = arrays.draw(tasks, config.batch_size, draw_key)
        return sac.Batch(
            features=_features(drawn.observation, derived, tasks),
            actions=_rows(drawn.action),
            rewards=config.reward_scale * drawn.reward.reshape(-1),
            next_features=_features(drawn.next_observation, derived, tasks),
            terminated=drawn.terminated.reshape(-1),
        )

    def step(self, phase: str, trained: Trained, batch: sac.Batch, key: Key) -> tuple[Trained, StepMetrics]:
        networks, target_critics, optimisers = trained
        stepped, reported = sac.step(
            sac.Trained(networks.control, target_critics, optimisers), batch, key, self.config.sac
        )
        metrics: StepMetrics = OrderedDict(
            {
                "QF Loss": reported.critic_loss,
                "Policy Loss": reported.policy_loss,
                "Temperature Loss": reported.temperature_loss,
                "Temperature": reported.temperature,
                "Q Predictions Mean": reported.q,
                "Policy Entropy": reported.entropy,
            }
        )
        networks = networks._replace(control=stepped.networks)
        return Trained(networks, stepped.target_critics, stepped.optimisers), metrics

    @property
    def _seen(self) -> int:
        """Numbers that are seen of a task."""
        return self.sizes.task if self.config.sees_task else 0


def _features(
    observations: Float32[Array, "tasks batch observation"],
    derived: Float32[Array, "n seen"],
    tasks: Int32[Array, " tasks"],
) -> Float32[Array, "rows feature"]:
    """[s, task] for every transition, tasks one after another."""
    seen = jnp.broadcast_to(derived[tasks][:, None], (*observations.shape[:2], derived.shape[1]))
    return _rows(jnp.concatenate([observations, seen], axis=-1))


def _rows(array: Float32[Array, "tasks batch width"]) -> Float32[Array, "rows width"]:
    return array.reshape(-1, array.shape[-1])
