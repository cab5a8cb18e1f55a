"""PEARL's learner: its state, what it collects, and its gradient steps (PEARL, algorithm 1; spec 1.4, 2.3, 2.4)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32

from nacre.agents.pearl.agent import PearlAgent, PearlBelief, evaluation_agent, random_context
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.losses import Batch, StepMetrics, Trained, gradient_step, initial_optimisers
from nacre.agents.pearl.networks import ActingNetworks, drawn_context, infer_posterior, initial_networks
from nacre.collect import key_of, run_trials
from nacre.nn.mlp import Precision
from nacre.replay import Replay
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Key, Metrics, Stretch, Transition, Visit

Simulators = Callable[[int], Simulator]
"""Gives a simulator of so many slots."""


class PearlState(NamedTuple):
    """All that meta-training changes."""

    trained: Trained
    key: Key
    updates: Int32[Array, ""]


@dataclass(frozen=True)
class PearlLearner:
    """PEARL on tasks of given sizes. It is hashable and holds no arrays: what changes is in a :class:`PearlState`."""

    config: PearlConfig
    observation_size: int
    action_size: int
    horizon: int
    precision: Precision = "float32"

    @functools.partial(jax.jit, static_argnames="self")
    def initial_state(self, key: Key) -> PearlState:
        """Fresh networks, target value network equal to the value network, and zero moments."""
        network_key, state_key = jax.random.split(key)
        networks = initial_networks(
            self.config, self.observation_size, self.action_size, key=network_key, precision=self.precision
        )
        trained = Trained(networks, networks.value, initial_optimisers(networks))
        return PearlState(trained, state_key, jnp.zeros((), jnp.int32))

    @functools.partial(jax.jit, static_argnames=("self", "steps"), donate_argnames="state")
    def update(self, state: PearlState, replay: Replay, steps: int) -> tuple[PearlState, StepMetrics]:
        """`steps` gradient steps in one compiled scan, their batches drawn on the device.

        Returns the new state and the metrics of every step, with a leading axis of `steps`. How steps are cut into
        calls does not change what they compute.
        """
        config = self.config

        def step(state: PearlState, _: None) -> tuple[PearlState, StepMetrics]:
            key, task_key, rl_key, context_key, step_key = jax.random.split(state.key, 5)
            tasks = jax.random.randint(task_key, (config.meta_batch_size,), 0, len(replay.counts))
            rl = _draw_rl(config, replay, tasks, rl_key)
            context = rl if config.context_source == "rl-batch" else _draw_context(config, replay, tasks, context_key)
            trained, metrics = gradient_step(state.trained, config, Batch(tasks, rl, context), step_key)
            return PearlState(trained, key, state.updates + 1), metrics

        return jax.lax.scan(step, state, length=steps)

    def parameters(self, state: PearlState) -> ActingNetworks:
        """What agents act with."""
        return state.trained.networks.acting

    def collect_initial(
        self,
        state: PearlState,
        simulators: Simulators,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> list[Visit]:
        """`initial_steps` in every train task with z from the prior; all of it is context data."""
        agent = self._collecting_agent(0, exploration_episodes=self.horizon * self.config.initial_steps)
        episodes, _ = run_trials(
            agent,
            self.parameters(state),
            simulators(len(tasks)),
            tasks,
            seed,
            steps=self.config.initial_steps,
            deterministic=False,
        )
        return [_visit(task, trial, len(trial)) for task, trial in enumerate(episodes)]

    def collect(
        self,
        state: PearlState,
        simulators: Simulators,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> list[Visit]:
        """One iteration's visits to `tasks_per_iteration` train tasks, drawn with replacement, all at once.

        Each has up to three phases: prior data and posterior data, both of which become the task's context, and extra
        posterior data for the RL losses alone. A phase with the posterior sees the context of the visit, of which it
        draws `context_size` transitions for each new posterior; a recurrent encoder reads all of it.
        """
        config = self.config
        task_seed, *phase_seeds = seed.spawn(4)
        visited = np.random.default_rng(task_seed).integers(len(tasks), size=config.tasks_per_iteration)
        play = functools.partial(
            run_trials,
            params=self.parameters(state),
            simulator=simulators(len(visited)),
            tasks=tasks[visited],
            deterministic=False,
        )
        context_steps = config.prior_steps + config.posterior_steps
        capacity = context_steps + 2 * (self.horizon - 1)  # phases end with whole episodes
        episodes: list[list[Episode]] = [[] for _ in visited]
        belief: PearlBelief | None = None

        if config.prior_steps:
            agent = self._collecting_agent(capacity, exploration_episodes=config.prior_steps)
            trials, belief = play(agent, seed=phase_seeds[0], steps=config.prior_steps)
            episodes = [old + new for old, new in zip(episodes, trials, strict=True)]
        context_episodes = [len(trial) for trial in episodes]
        for steps, keeps_context, phase_seed in (
            (config.posterior_steps, True, phase_seeds[1]),
            (config.extra_posterior_steps, False, phase_seeds[2]),
        ):
            if not steps:
                continue
            agent, belief = self._posterior_phase(state, belief, capacity, keeps_context, phase_seed)
            trials, belief = play(agent, seed=phase_seed, steps=steps, belief=belief)
            episodes = [old + new for old, new in zip(episodes, trials, strict=True)]
            if keeps_context:
                context_episodes = [len(trial) for trial in episodes]
        return [_visit(int(task), trial, n) for task, trial, n in zip(visited, episodes, context_episodes, strict=True)]

    def _posterior_phase(
        self,
        state: PearlState,
        belief: PearlBelief | None,
        capacity: int,
        keeps_context: bool,
        seed: np.random.SeedSequence,
    ) -> tuple[PearlAgent, PearlBelief | None]:
        """The agent and the first belief of a phase with the posterior, by the collection protocol in force."""
        config = self.config
        if config.posterior_phase == "refresh":
            agent = self._collecting_agent(
                capacity, config.episodes_per_refresh, config.episodes_per_refresh, keeps_context
            )
            return agent, None if belief is None else agent.forget(belief)
        never = config.posterior_steps + config.extra_posterior_steps + 1
        agent = self._collecting_agent(capacity, exploration_episodes=never, keeps_context=keeps_context)
        if belief is None:
            return agent, None
        infer_key, commit_key = jax.random.split(key_of(seed))
        return agent, agent.commit(agent.infer(self.parameters(state), agent.forget(belief), infer_key), commit_key)

    def _collecting_agent(
        self, capacity: int, exploration_episodes: int, refresh_every: int = 1, keeps_context: bool = True
    ) -> PearlAgent:
        return PearlAgent(
            self.config,
            self.observation_size,
            self.action_size,
            capacity,
            exploration_episodes,
            refresh_every,
            context_draw=random_context(self.config),
            keeps_context=keeps_context and capacity > 0,
        )

    def evaluation_agent(self, capacity: int) -> PearlAgent:
        """The agent as it is meta-tested, with room for `capacity` transitions of context in a trial."""
        return evaluation_agent(self.config, self.observation_size, self.action_size, self.horizon, capacity)

    def capacity(self, train_tasks: int, iterations: int) -> int:
        """Transitions that a run collects, as long as episodes end at the horizon."""

        def whole_episodes(steps: int) -> int:
            return -(-steps // self.horizon) * self.horizon

        config = self.config
        phases = (config.prior_steps, config.posterior_steps, config.extra_posterior_steps)
        per_iteration = config.tasks_per_iteration * sum(whole_episodes(steps) for steps in phases)
        return train_tasks * whole_episodes(config.initial_steps) + iterations * per_iteration

    def replay_belief(self, state: PearlState, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> PearlBelief:
        """Posteriors from random context data of train tasks, as in a gradient step (spec 2.5, offline evaluation)."""
        return _replay_belief(self, self.parameters(state), replay, tasks, key)

    def offline_agent(self) -> PearlAgent:
        """Acts on a belief from :meth:`replay_belief` for one episode, without inference of its own."""
        return self._collecting_agent(0, exploration_episodes=2)

    def belief_columns(self, belief: PearlBelief, n: int) -> Metrics:
        """Mean |mu| and mean variance of the first n beliefs, as columns of progress.csv (spec 2.6)."""
        mean, variance = np.abs(belief.mean[:n]).mean(), np.asarray(belief.variance[:n]).mean()
        return {"Z mean eval": float(mean), "Z variance eval": float(variance)}


@functools.partial(jax.jit, static_argnames="learner")
def _replay_belief(
    learner: PearlLearner, networks: ActingNetworks, replay: Replay, tasks: Int32[Array, " n"], key: Key
) -> PearlBelief:
    agent = learner.offline_agent()
    drawn = _draw_context(learner.config, replay, tasks, key)
    mean, variance = infer_posterior(networks.encoder, learner.config, *drawn_context(learner.config, drawn))
    return agent.begin_trial(networks, key, len(tasks))._replace(mean=mean, variance=variance)


def _draw_rl(config: PearlConfig, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Transition:
    if config.rl_batch == "episodes":
        return replay.draw_episodes(tasks, config.batch_size, key).transitions
    return replay.draw(tasks, config.batch_size, key)


def _draw_context(config: PearlConfig, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Transition | Stretch:
    """What posteriors are inferred from. (An RL batch is random data of the whole replay.)"""
    recent = config.context_source == "recent"
    if config.encoder == "recurrent":
        draw = replay.draw_context_episodes if recent else replay.draw_episodes
    else:
        draw = replay.draw_context if recent else replay.draw
    return draw(tasks, config.context_size, key)


def _visit(task: int, trial: Sequence[Episode], context_episodes: int) -> Visit:
    return Visit(task, tuple(dataclasses.replace(episode, task=task) for episode in trial), context_episodes)
