"""PEARL's learner (PEARL, algorithm 1; spec 1.4, 2.3, 2.4).

repeat:                                                              phases
    [first iteration] collect `initial_steps` in every train task    _collect_initial
    visit some train tasks: prior data, posterior data, extra data   _collect_visits
    repeat:
        draw a meta-batch of tasks, an RL batch and a context        draw
        infer z; step critics, encoder, value, policy, targets       step (losses.gradient_step)
    meta-test on test tasks and train tasks                          evaluate
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32

from nacre.agents.pearl.agent import PearlAgent, PearlBelief, evaluation_agent, random_context
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.losses import Batch, Trained, gradient_step, initial_optimisers
from nacre.agents.pearl.networks import (
    ActingNetworks,
    Context,
    context_reward,
    drawn_context,
    encoder_class,
    infer_posterior,
    initial_networks,
    with_features,
)
from nacre.evaluation import episode_return, evaluate_split
from nacre.interfaces import Learner, LearnerState, Phase, Play, Schedule
from nacre.metrics import StepMetrics
from nacre.replay import Replay, ReplayBuffer
from nacre.seeds import child, key_of
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Episode, Key, Metrics, Transition, Visit


@dataclass(frozen=True)
class PearlLearner(Learner):
    """PEARL on tasks of given sizes."""

    config: PearlConfig

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        each = (Phase("collect"), Phase("update", self.config.updates_per_iteration))
        return (Phase("initial collection"), *each) if iteration == 0 else each

    def initial_state(self, key: Key) -> LearnerState:
        network_key, state_key = jax.random.split(key)
        networks = initial_networks(self.config, self.sizes, key=network_key, precision=self.precision)
        trained = Trained(networks, networks.value, initial_optimisers(networks), networks.trunk)
        return LearnerState(trained, state_key, jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> ActingNetworks:
        return state.trained.networks.acting

    def agent(self, capacity: int) -> PearlAgent:
        return evaluation_agent(self.config, self.sizes, capacity)

    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> ReplayBuffer:
        config = self.config
        return ReplayBuffer.for_visits(
            len(tasks),
            self.sizes,
            has_sparse_reward=family.has_sparse_reward,
            initial_steps=config.initial_steps,
            visits=iterations * config.tasks_per_iteration,
            visit_steps=(config.prior_steps, config.posterior_steps, config.extra_posterior_steps),
        )

    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: ReplayBuffer,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        schedule = self._collect_initial if phase == "initial collection" else self._collect_visits
        return (yield from schedule(state, tasks, seed))

    def draw(self, phase: str, arrays: Replay, derived: None, key: Key) -> Batch:
        config = self.config
        task_key, rl_key, context_key = jax.random.split(key, 3)
        tasks = jax.random.randint(task_key, (config.meta_batch_size,), 0, len(arrays.counts))
        rl = self._draw_rl(arrays, tasks, rl_key)
        context = Context(rl) if config.context_source == "rl-batch" else self._draw_context(arrays, tasks, context_key)
        if config.context_sizes == "any":
            context = _cut(context, jax.random.fold_in(context_key, 1))
        return Batch(tasks, rl, context)

    def step(self, phase: str, trained: Trained, batch: Batch, key: Key) -> tuple[Trained, StepMetrics]:
        return gradient_step(trained, self.config, batch, key)

    def evaluate(
        self,
        state: LearnerState,
        memory: ReplayBuffer,
        family: TaskFamily,
        split: TaskSplit,
        seed: np.random.SeedSequence,
    ) -> Schedule[tuple[Metrics, int]]:
        """Meta-tests online, and on the same train tasks with posteriors from the replay ("offline"; spec 2.5)."""
        protocol, params = self.config.protocol(self.sizes.horizon), self.parameters(state)
        online = yield from evaluate_split(self.agent, params, family, split, protocol, child(seed, 0))
        belief = jax.tree.map(lambda leaf: leaf[: len(split.test) * protocol.trials], online.belief)
        columns = {
            "Z mean eval": float(np.abs(belief.mean).mean()),
            "Z variance eval": float(np.asarray(belief.variance).mean()),
            "AverageTrainReturn_all_train_tasks": (
                yield from self._offline_return(state, memory, split, online.picked, child(seed, 1))
            ),
            **online.columns,
        }
        return columns, online.steps

    def _collect_initial(
        self, state: LearnerState, tasks: Float64[np.ndarray, "n parameters"], seed: np.random.SeedSequence
    ) -> Schedule[list[Visit]]:
        """`initial_steps` in every train task with z from the prior; all of it is context data."""
        agent = self._collecting_agent(0, exploration_episodes=None)
        trials, _ = yield Play(
            agent, self.parameters(state), tasks, seed, deterministic=False, steps=self.config.initial_steps
        )
        return [Visit(task, tuple(trial), len(trial)) for task, trial in enumerate(trials)]

    def _collect_visits(
        self, state: LearnerState, tasks: Float64[np.ndarray, "n parameters"], seed: np.random.SeedSequence
    ) -> Schedule[list[Visit]]:
        """Visits to `tasks_per_iteration` train tasks, drawn with replacement, all at once.

        Each has up to three parts: prior data and posterior data, both of which become the task's context, and extra
        posterior data for the RL losses alone. A part with the posterior sees the context of the visit, of which it
        draws `context_size` transitions for each new posterior, or reads all of it, in order: see `random_context`.
        """
        config = self.config
        visited = np.random.default_rng(child(seed, 0)).integers(len(tasks), size=config.tasks_per_iteration)
        play = functools.partial(Play, params=self.parameters(state), tasks=tasks[visited], deterministic=False)
        context_steps = config.prior_steps + config.posterior_steps
        capacity = context_steps + 2 * (self.sizes.horizon - 1)  # parts end with whole episodes
        episodes: list[list[Episode]] = [[] for _ in visited]
        belief: PearlBelief | None = None

        if config.prior_steps:
            agent = self._collecting_agent(capacity, exploration_episodes=None)
            trials, belief = yield play(agent, seed=child(seed, 1), steps=config.prior_steps)
            episodes = _appended(episodes, trials)
        context_episodes = [len(trial) for trial in episodes]
        for number, steps, keeps_context in (
            (2, config.posterior_steps, True),
            (3, config.extra_posterior_steps, False),
        ):
            if not steps:
                continue
            agent, belief = self._posterior_part(state, belief, capacity, keeps_context, child(seed, number, 0))
            trials, belief = yield play(agent, seed=child(seed, number, 1), steps=steps, belief=belief)
            episodes = _appended(episodes, trials)
            if keeps_context:
                context_episodes = [len(trial) for trial in episodes]
        return [
            Visit(int(task), tuple(trial), n)
            for task, trial, n in zip(visited, episodes, context_episodes, strict=True)
        ]

    def _posterior_part(
        self,
        state: LearnerState,
        belief: PearlBelief | None,
        capacity: int,
        keeps_context: bool,
        seed: np.random.SeedSequence,
    ) -> tuple[PearlAgent, PearlBelief | None]:
        """The agent and the first belief of a part with the posterior, by the collection protocol in force."""
        config = self.config
        if config.posterior_phase == "refresh":
            before = 0 if config.infer_every else config.episodes_per_refresh
            agent = self._collecting_agent(capacity, before, config.episodes_per_refresh, keeps_context)
            return agent, None if belief is None else agent.forget(belief)
        agent = self._collecting_agent(capacity, exploration_episodes=None, keeps_context=keeps_context)
        if belief is None:
            return agent, None
        infer_keys, commit_keys = (
            jax.random.split(key_of(child(seed, number)), config.tasks_per_iteration) for number in (0, 1)
        )
        return agent, agent.commit(agent.infer(self.parameters(state), agent.forget(belief), infer_keys), commit_keys)

    def _collecting_agent(
        self, capacity: int, exploration_episodes: int | None, refresh_every: int = 1, keeps_context: bool = True
    ) -> PearlAgent:
        return PearlAgent(
            self.config,
            self.sizes,
            capacity,
            exploration_episodes,
            refresh_every,
            context_draw=random_context(self.config),
            keeps_context=keeps_context and capacity > 0,
        )

    def _draw_rl(self, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Transition:
        config = self.config
        if config.rl_batch == "episodes":
            return replay.draw_episodes(tasks, config.batch_size, key, self._frames).transitions
        return replay.draw(tasks, config.batch_size, key, self._frames)

    def _draw_context(self, replay: Replay, tasks: Int32[Array, " n"], key: Key) -> Context:
        """What posteriors are inferred from. (An RL batch is random data of the whole replay.)"""
        config, frames = self.config, self._frames
        if config.context_source == "trials":
            ranks = replay.draw_ranks(tasks, 1, key)[:, 0]
            return Context.of_stretch(config, replay.trials(tasks, ranks, config.context_size, frames))
        recent = config.context_source == "recent"
        if encoder_class(config).reads_episodes:
            draw = replay.draw_context_episodes if recent else replay.draw_episodes
            return Context.of_stretch(config, draw(tasks, config.context_size, key, frames))
        draw_ranks = replay.draw_context_ranks if recent else replay.draw_ranks
        ranks = draw_ranks(tasks, config.context_size, key)
        transitions = replay.read(tasks, ranks, frames)
        if not config.reward_change_in_context:
            return Context(transitions)
        before = replay.windows(tasks, ranks, 1, "episode")
        rewards = context_reward(config, before.transitions)[:, :, 0]
        return Context(transitions, begins=~before.mask[:, :, 0], reward_before=rewards)

    @property
    def _frames(self) -> int:
        """How many observations the networks see at once: only pictures are stacked."""
        return 1 if isinstance(self.sizes.observation, int) else self.config.frame_stack

    def _offline_return(
        self,
        state: LearnerState,
        memory: ReplayBuffer,
        split: TaskSplit,
        picked: np.ndarray,
        seed: np.random.SeedSequence,
    ) -> Schedule[float]:
        rollouts = max(1, self.config.evaluation_steps // self.sizes.horizon)
        tasks = np.repeat(picked, rollouts)
        agent, params = self._collecting_agent(0, exploration_episodes=None), self.parameters(state)
        belief = _replay_belief(self, agent, params, memory.arrays, jnp.asarray(tasks), key_of(child(seed, 0)))
        trials, _ = yield Play(
            agent,
            params,
            split.train[tasks],
            child(seed, 1),
            deterministic=True,
            episodes=1,
            belief=belief,
            pools=(split.train,) * len(tasks),
        )
        sparse = self.config.sparse_reward_in_context
        return float(np.mean([episode_return(trial[0], sparse) for trial in trials]))


@functools.partial(jax.jit, static_argnames=("learner", "agent"))
def _replay_belief(
    learner: PearlLearner,
    agent: PearlAgent,
    networks: ActingNetworks,
    replay: Replay,
    tasks: Int32[Array, " n"],
    key: Key,
) -> PearlBelief:
    """Posteriors of train tasks from contexts that are drawn as for a gradient step."""
    drawn = with_features(networks.trunk, learner._draw_context(replay, tasks, key))
    mean, variance = infer_posterior(networks.encoder, learner.config, *drawn_context(learner.config, drawn))
    belief = agent.begin_trial(networks, jax.random.split(key, len(tasks)), None)
    return belief._replace(mean=mean, variance=variance)


def _cut(context: Context, key: Key) -> Context:
    """The first of each task's transitions, as many as are drawn, at least one."""
    n, size = context.transitions.reward.shape
    mask = jnp.ones((n, size), bool) if context.mask is None else context.mask
    kept = jax.random.randint(key, (n, 1), 1, mask.sum(axis=1, keepdims=True) + 1)
    return context._replace(mask=mask & (jnp.arange(size)[None] < kept))


def _appended(episodes: Sequence[Sequence[Episode]], trials: Sequence[Sequence[Episode]]) -> list[list[Episode]]:
    return [[*old, *new] for old, new in zip(episodes, trials, strict=True)]
