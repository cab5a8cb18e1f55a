"""Soft actor-critic on all train tasks at once: the two ends between which every result of meta-learning lies.

    repeat:                                                              phases
        [first iteration] collect `initial_steps` in every train task    collect
        one visit to some train tasks                                    collect
        repeat:
            draw tasks, and transitions of each                          draw
            step temperature, critics, policy and targets                step (rl.sac.step)
        play one episode on test tasks and train tasks                   evaluate

If observations are pictures, a trunk that the critics alone train makes features of them for all networks.

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
from jaxtyping import Array, Float32, Float64

from nacre.agents.multitask.agent import ActingNetworks, MultitaskAgent, TaskScaling
from nacre.agents.multitask.config import MultitaskConfig
from nacre.interfaces import Learner, LearnerState, Phase, Play, Schedule
from nacre.metrics import StepMetrics
from nacre.nn.convolution import ConvolutionalTrunk
from nacre.nn.optimise import adam_state, adam_step, follow
from nacre.replay import Replay, ReplayBuffer
from nacre.rl import sac
from nacre.seeds import child
from nacre.tasks.family import TaskFamily
from nacre.types import Key, Transition, Tree, Visit


class Networks(NamedTuple):
    """What is trained, and the scaling of tasks."""

    control: sac.Networks
    scaling: TaskScaling
    trunk: ConvolutionalTrunk | None = None
    """There is one if observations are pictures; the others see its features in their place."""


class Trained(NamedTuple):
    """All that a step changes, and the scaling, which it does not."""

    networks: Networks
    target_critics: sac.Critics
    optimisers: sac.OptimiserStates
    trunk_optimiser: Tree = None
    target_trunk: ConvolutionalTrunk | None = None


class Drawn(NamedTuple):
    """What one gradient step reads: transitions with two leading axes, tasks and transitions of each."""

    transitions: Transition
    seen: Float32[Array, "tasks seen"]
    """What policy and critics see of each task."""


@dataclass(frozen=True)
class MultitaskLearner(Learner):
    """Soft actor-critic that is given the task, or told nothing of it, as its configuration says."""

    config: MultitaskConfig

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        each = (Phase("collect"), Phase("update", self.config.updates_per_iteration))
        return (Phase("initial collection"), *each) if iteration == 0 else each

    def initial_state(self, key: Key) -> LearnerState:
        network_key, state_key = jax.random.split(key)
        trunk = self._initial_trunk(jax.random.fold_in(network_key, 1))
        observed = self.config.picture_features if trunk is not None else self.sizes.observation
        assert isinstance(observed, int)
        control = sac.initial(
            observed + self._seen, self.sizes.action, self.config.sac, key=network_key, precision=self.precision
        )
        scaling = TaskScaling(jnp.zeros(self._seen), jnp.ones(self._seen))
        trained = Trained(
            Networks(control.networks, scaling, trunk),
            control.target_critics,
            control.optimisers,
            None if trunk is None else adam_state(trunk),
            jax.tree.map(jnp.copy, trunk),
        )
        return LearnerState(trained, state_key, jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> ActingNetworks:
        networks: Networks = state.trained.networks
        return ActingNetworks(networks.control.policy, networks.scaling, networks.trunk)

    def agent(self, capacity: int) -> MultitaskAgent:
        return MultitaskAgent(self.config, self.sizes)

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

    def draw(self, phase: str, arrays: Replay, derived: Float32[Array, "n seen"], key: Key) -> Drawn:
        config = self.config
        task_key, draw_key = jax.random.split(key)
        tasks = jax.random.randint(task_key, (config.meta_batch_size,), 0, len(arrays.counts))
        frames = 1 if isinstance(self.sizes.observation, int) else config.frame_stack
        return Drawn(arrays.draw(tasks, config.batch_size, draw_key, frames), derived[tasks])

    def step(self, phase: str, trained: Trained, batch: Drawn, key: Key) -> tuple[Trained, StepMetrics]:
        trunk = trained.networks.trunk
        if trunk is None:
            observations, following = batch.transitions.observation, batch.transitions.next_observation
            return self._step(trained, self._rows(batch, observations, following), key)[:2]
        assert trained.target_trunk is not None
        observations, back = jax.vjp(lambda trunk: trunk(batch.transitions.observation), trunk)
        following = trained.target_trunk(batch.transitions.next_observation)
        new, metrics, targets = self._step(trained, self._rows(batch, observations, following), key)

        def critic_loss(observations: Float32[Array, "tasks batch features"]) -> Float32[Array, ""]:
            rows = self._rows(batch, observations, following)
            return sac.squared_error(
                sac.predict_q(trained.networks.control.critics, rows.features, rows.actions), targets
            )

        (gradient,) = back(jax.grad(critic_loss)(observations))
        rate = self.config.critic_learning_rate
        trunk, optimiser = adam_step(rate, gradient, trained.trunk_optimiser, trunk)
        new = new._replace(
            networks=new.networks._replace(trunk=trunk),
            trunk_optimiser=optimiser,
            target_trunk=follow(trained.target_trunk, trunk, self.config.target_update_rate),
        )
        return new, metrics

    def _step(
        self, trained: Trained, batch: sac.Batch, key: Key
    ) -> tuple[Trained, StepMetrics, Float32[Array, " rows"]]:
        """Steps control, with features that stay as they are; the last is what critics should have predicted."""
        networks = trained.networks
        control = sac.Trained(networks.control, trained.target_critics, trained.optimisers)
        stepped, reported = sac.step(control, batch, key, self.config.sac)
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
        new = trained._replace(
            networks=networks._replace(control=stepped.networks),
            target_critics=stepped.target_critics,
            optimisers=stepped.optimisers,
        )
        return new, metrics, reported.details.targets

    def _rows(
        self,
        batch: Drawn,
        observations: Float32[Array, "tasks batch observation"],
        following: Float32[Array, "tasks batch observation"],
    ) -> sac.Batch:
        """[s, task] for every transition, tasks one after another."""
        drawn = batch.transitions
        return sac.Batch(
            features=_features(observations, batch.seen),
            actions=_rows(drawn.action),
            rewards=self.config.reward_scale * drawn.reward.reshape(-1),
            next_features=_features(following, batch.seen),
            terminated=drawn.terminated.reshape(-1),
        )

    def _initial_trunk(self, key: Key) -> ConvolutionalTrunk | None:
        if isinstance(self.sizes.observation, int):
            return None
        height, width, colours = self.sizes.observation
        config = self.config
        return ConvolutionalTrunk(
            (height, width, config.frame_stack * colours),
            config.picture_filters,
            config.picture_features,
            key=key,
            precision=self.precision,
        )

    @property
    def _seen(self) -> int:
        """Numbers that are seen of a task."""
        return self.sizes.task if self.config.sees_task else 0


def _features(
    observations: Float32[Array, "tasks batch observation"], seen: Float32[Array, "tasks seen"]
) -> Float32[Array, "rows feature"]:
    repeated = jnp.broadcast_to(seen[:, None], (*observations.shape[:2], seen.shape[1]))
    return _rows(jnp.concatenate([observations, repeated], axis=-1))


def _rows(array: Float32[Array, "tasks batch width"]) -> Float32[Array, "rows width"]:
    return array.reshape(-1, array.shape[-1])
