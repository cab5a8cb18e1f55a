"""PEARL's learner: its state, what it collects, and its gradient steps (PEARL, algorithm 1; spec 1.4, 2.3, 2.4)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32

from nacre.agents.pearl.agent import PearlAgent, PearlBelief, evaluation_agent, random_context
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.losses import Batch, StepMetrics, Trained, gradient_step, initial_optimisers
from nacre.agents.pearl.networks import ActingNetworks, drawn_context, infer_posterior, initial_networks, seen
from nacre.collect import Play, Schedule, key_of
from nacre.nn.mlp import Precision
from nacre.replay import Replay
from nacre.seeds import batched, stack, unstack
from nacre.tasks.family import ObservationSize
from nacre.types import Episode, Key, Metrics, Stretch, Transition, Visit


class PearlState(NamedTuple):
    """All that meta-training changes."""

    trained: Trained
    key: Key
    updates: Int32[Array, ""]


@dataclass(frozen=True)
class PearlLearner:
    """PEARL on tasks of given sizes. It is hashable and holds no arrays: what changes is in a :class:`PearlState`."""

    config: PearlConfig
    observation_size: ObservationSize
    action_size: int
    horizon: int
    precision: Precision = "float32"

    @functools.partial(jax.jit, static_argnames="self")
    def initial_state(self, key: Key) -> PearlState:
        """Fresh networks, targets equal to what they follow, and zero moments."""
        network_key, state_key = jax.random.split(key)
        networks = initial_networks(
            self.config, self.observation_size, self.action_size, key=network_key, precision=self.precision
        )
        trained = Trained(networks, networks.value, initial_optimisers(networks), networks.trunk)
        return PearlState(trained, state_key, jnp.zeros((), jnp.int32))

    @functools.partial(jax.jit, static_argnames=("self", "steps"), donate_argnames="state")
    def update(self, state: PearlState, replay: Replay, steps: int) -> tuple[PearlState, StepMetrics]:
        """`steps` gradient steps in one compiled scan, their batches drawn on the device.

        Returns the new state and the metrics of every step, with a leading axis of `steps`. How steps are cut into
        calls does not change what they compute.
        """

        def step(state: PearlState, _: None) -> tuple[PearlState, StepMetrics]:
            key, batch, step_key = _draw_batch(self.config, replay, state.key)
            trained, metrics = gradient_step(state.trained, self.config, batch, step_key)
            return PearlState(trained, key, state.updates + 1), metrics

        return jax.lax.scan(step, state, length=steps)

    def update_seeds(
        self, states: Sequence[PearlState], replays: Sequence[Replay], steps: int
    ) -> Iterator[tuple[PearlState, StepMetrics]]:
        """What :meth:`update` gives for each of several seeds: all at once, or one after another as they are asked for.

        See :func:`nacre.seeds.batched`. States are donated.
        """
        if batched(len(states)):
            yield from update_batched(self, tuple(states), tuple(replays), steps)
        else:
            for state, replay in zip(states, replays, strict=True):
                yield self.update(state, replay, steps)

    def parameters(self, state: PearlState) -> ActingNetworks:
        """What agents act with."""
        return state.trained.networks.acting

    def collect_initial(
        self,
        state: PearlState,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """`initial_steps` in every train task with z from the prior; all of it is context data."""
        agent = self._collecting_agent(0, exploration_episodes=self.horizon * self.config.initial_steps)
        episodes, _ = yield Play(
            agent, self.parameters(state), tasks, seed, deterministic=False, steps=self.config.initial_steps
        )
        return [_visit(task, trial, len(trial)) for task, trial in enumerate(episodes)]

    def collect(
        self,
        state: PearlState,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """One iteration's visits to `tasks_per_iteration` train tasks, drawn with replacement, all at once.

        Each has up to three phases: prior data and posterior data, both of which become the task's context, and extra
        posterior data for the RL losses alone. A phase with the posterior sees the context of the visit, of which it
        draws `context_size` transitions for each new posterior; a recurrent encoder reads all of it.
        """
        config = self.config
        task_seed, *phase_seeds = seed.spawn(4)
        visited = np.random.default_rng(task_seed).integers(len(tasks), size=config.tasks_per_iteration)
        play = functools.partial(Play, params=self.parameters(state), tasks=tasks[visited], deterministic=False)
        context_steps = config.prior_steps + config.posterior_steps
        capacity = context_steps + 2 * (self.horizon - 1)  # phases end with whole episodes
        episodes: list[list[Episode]] = [[] for _ in visited]
        belief: PearlBelief | None = None

        if config.prior_steps:
            agent = self._collecting_agent(capacity, exploration_episodes=config.prior_steps)
            trials, belief = yield play(agent, seed=phase_seeds[0], steps=config.prior_steps)
            episodes = [old + new for old, new in zip(episodes, trials, strict=True)]
        context_episodes = [len(trial) for trial in episodes]
        for steps, keeps_context, phase_seed in (
            (config.posterior_steps, True, phase_seeds[1]),
            (config.extra_posterior_steps, False, phase_seeds[2]),
        ):
            if not steps:
                continue
            agent, belief = self._posterior_phase(state, belief, capacity, keeps_context, phase_seed)
            trials, belief = yield play(agent, seed=phase_seed, steps=steps, belief=belief)
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


@functools.partial(jax.jit, static_argnames=("learner", "steps"), donate_argnames="states")
def update_batched(
    learner: PearlLearner, states: tuple[PearlState, ...], replays: tuple[Replay, ...], steps: int
) -> list[tuple[PearlState, StepMetrics]]:
    """The gradient steps of several seeds, each of them one step of all seeds. Replays may have different sizes."""
    config = learner.config

    def step(state: PearlState, _: None) -> tuple[PearlState, StepMetrics]:
        key, batch, step_key = stack([_draw_batch(config, replay, state.key[i]) for i, replay in enumerate(replays)])
        trained, metrics = jax.vmap(gradient_step, in_axes=(0, None, 0, 0))(state.trained, config, batch, step_key)
        return PearlState(trained, key, state.updates + 1), metrics

    state, metrics = jax.lax.scan(step, stack(states), length=steps)
    by_seed = jax.tree.map(lambda array: array.swapaxes(0, 1), metrics)
    return list(zip(unstack(state, len(states)), unstack(by_seed, len(states)), strict=True))


@functools.partial(jax.jit, static_argnames="learner")
def _replay_belief(
    learner: PearlLearner, networks: ActingNetworks, replay: Replay, tasks: Int32[Array, " n"], key: Key
) -> PearlBelief:
    agent = learner.offline_agent()
    drawn = seen(networks.trunk, _draw_context(learner.config, replay, tasks, key))
    mean, variance = infer_posterior(networks.encoder, learner.config, *drawn_context(learner.config, drawn))
    return agent.begin_trial(networks, key, len(tasks))._replace(mean=mean, variance=variance)


def _draw_batch(config: PearlConfig, replay: Replay, key: Key) -> tuple[Key, Batch, Key]:
    """The batch of a gradient step, between the key of the next step and that of the rest of this one."""
    key, task_key, rl_key, context_key, step_key = jax.random.split(key, 5)
    tasks = jax.random.randint(task_key, (config.meta_batch_size,), 0, len(replay.counts))
    rl = _draw_rl(config, replay, tasks, rl_key)
    context = rl if config.context_source == "rl-batch" else _draw_context(config, replay, tasks, context_key)
    return key, Batch(tasks, rl, context), step_key


def _draw_rl(config: PearlConfig, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Transition:
    frames = _frames(config, replay)
    if config.rl_batch == "episodes":
        return replay.draw_episodes(tasks, config.batch_size, key, frames).transitions
    return replay.draw(tasks, config.batch_size, key, frames)


def _draw_context(config: PearlConfig, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Transition | Stretch:
    """What posteriors are inferred from. (An RL batch is random data of the whole replay.)"""
    recent = config.context_source == "recent"
    if config.encoder == "recurrent":
        draw = replay.draw_context_episodes if recent else replay.draw_episodes
    else:
        draw = replay.draw_context if recent else replay.draw
    return draw(tasks, config.context_size, key, _frames(config, replay))


def _frames(config: PearlConfig, replay: Replay) -> int:
    """How many observations the networks see at once: only pictures are stacked."""
    return config.frame_stack if replay.observations.dtype == jnp.uint8 else 1


def _visit(task: int, trial: Sequence[Episode], context_episodes: int) -> Visit:
    return Visit(task, tuple(dataclasses.replace(episode, task=task) for episode in trial), context_episodes)
