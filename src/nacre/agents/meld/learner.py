"""MELD's learner (spec meld 2.5 to 2.7).

repeat:                                                              phases
    [first iteration] episodes of an earlier run, if there is one    earlier run
    [first iteration] repeat: a random trial in every train task     initial collection
    [first iteration] repeat: draw trials, step the latent model     model
    for each round:
        one trial in one train task                                  collect
        repeat: draw trials, step the latent model                   model (losses.model_step)
        [with a pool] filter trials                                  policy: derive
        repeat: draw trials and transitions of theirs,               policy (losses.policy_step)
                filter them (or draw transitions of the pool),
                step policy, critics and targets
    play test tasks and train tasks                                  evaluate

What is believed of frames is never stored: each step of the policy filters the trials that it draws, or those of a
round draw from one pool.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32

from nacre.agents.meld.agent import MeldAgent, RandomAgent
from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.losses import (
    ActingNetworks,
    Filtered,
    Frames,
    Networks,
    OptimiserStates,
    PolicyBatch,
    Trained,
    filter_trials,
    model_step,
    policy_step,
    transitions_of,
)
from nacre.agents.meld.memory import (
    TrialArrays,
    TrialMemory,
    draw_transitions,
    draw_trials,
    empty_memory,
    find_earlier_run,
    pick_transitions,
    visits_of,
)
from nacre.agents.meld.model import LatentModel
from nacre.evaluation import evaluate_split
from nacre.interfaces import Agent, Learner, LearnerState, Phase, Play, Schedule
from nacre.metrics import StepMetrics
from nacre.nn.image import activations_of
from nacre.nn.optimise import adam_state
from nacre.rl import sac
from nacre.seeds import child
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Key, Metrics, Visit

INITIAL, EARLIER, COLLECT, MODEL, POLICY = "initial collection", "earlier run", "collect", "model", "policy"


@dataclass(frozen=True)
class MeldLearner(Learner):
    """MELD on tasks of given sizes."""

    config: MeldConfig

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        config = self.config
        first = (
            *((Phase(EARLIER),) if config.offline_run is not None else ()),  # first, as it may not fit
            *(Phase(INITIAL),) * config.initial_trials,  # a trial in each, so that one that fails costs no other
            *_steps(MODEL, config.initial_model_steps),
        )
        with_model = config.rounds_with_model(iteration)
        rounds = (
            part
            for number in range(config.rounds)
            for part in (
                Phase(COLLECT),
                *(_steps(MODEL, config.model_steps) if number < with_model else ()),
                Phase(POLICY, config.policy_steps),
            )
        )
        return (*(first if iteration == 0 else ()), *rounds)

    def initial_state(self, key: Key) -> LearnerState:
        model_key, control_key, target_key, state_key = jax.random.split(key, 4)
        model = LatentModel(self.config, self.sizes, key=model_key, precision=self.precision)
        control = self._initial_control(control_key)
        targets = self._initial_control(target_key) if self.config.target_critics == "published" else control
        trained = Trained(
            Networks(model, control.networks),
            targets.target_critics,
            OptimiserStates(adam_state(model), control.optimisers),
        )
        return LearnerState(trained, state_key, jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> ActingNetworks:
        return state.trained.networks.acting

    def agent(self, capacity: int) -> MeldAgent:
        return MeldAgent(self.config, self.sizes)

    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> TrialMemory:
        return empty_memory(self, family, tasks, iterations)

    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: TrialMemory,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """A random trial in every train task, what an earlier run collected, or a trial in one of them.

        Episodes carry what rewards are computed from, so that later runs can go on from this one.
        """
        config = self.config
        if phase == EARLIER:
            return visits_of(find_earlier_run(config, family, tasks), family, tasks)
        agent: Agent = self.agent(0)
        visited = np.random.default_rng(child(seed, 0)).integers(len(tasks), size=1)
        if phase == INITIAL:
            agent, visited = RandomAgent(self.sizes.action), np.arange(len(tasks))
        trials, _ = yield Play(
            agent,
            self.parameters(state),
            tasks[visited],
            child(seed, 1),
            deterministic=False,
            episodes=config.episodes,
            keeps_reward_states=True,
        )
        return [Visit(task, tuple(trial)) for task, trial in zip(visited.tolist(), trials, strict=True)]

    def derive(
        self, phase: str, state: LearnerState, memory: TrialMemory, tasks: Float64[np.ndarray, "n parameters"]
    ) -> Filtered | None:
        """The pool, if there is one, after a check that there are trials to draw from."""
        memory.check()
        pooled = phase == POLICY and self.config.policy_pool > 0
        return filter_pool(memory.arrays, self.config, state.trained.networks.model) if pooled else None

    def draw(
        self, phase: str, arrays: TrialArrays, derived: Filtered | None, key: Key
    ) -> Frames | PolicyBatch | sac.Batch:
        if phase == MODEL:
            return draw_trials(arrays, self.config, self.config.model_trials, key)
        if derived is None:
            return draw_transitions(arrays, self.config, key)
        return transitions_of(self.config, derived, pick_transitions(derived.acts, self.config, key))

    def step(
        self, phase: str, trained: Trained, batch: Frames | PolicyBatch | sac.Batch, key: Key
    ) -> tuple[Trained, StepMetrics]:
        if isinstance(batch, Frames):
            return model_step(trained, self.config, batch, key)
        return policy_step(trained, self.config, batch, key)

    def step_bytes(self, phase: str, batch: Frames | PolicyBatch | sac.Batch) -> float:
        """The latent model's, or what the pool needs: nothing of it is kept for a backward pass."""
        picture, config = self.sizes.observation, self.config
        assert isinstance(picture, tuple)
        passes = 4 if phase == MODEL else 1  # encoder and decoder, and their gradients
        trials = config.model_trials if phase == MODEL else config.policy_trials
        numbers = 2 * config.latent_size + self.sizes.action + 3
        pool = 4.0 * numbers * config.frames * config.policy_pool if phase == POLICY else 0.0
        return pool + 4.0 * passes * activations_of(picture, config.base_depth) * trials * config.frames

    def evaluate(
        self,
        state: LearnerState,
        memory: TrialMemory,
        family: TaskFamily,
        split: TaskSplit,
        seed: np.random.SeedSequence,
    ) -> Schedule[tuple[Metrics, int]]:
        """Meta-tests, with lengths and scores, and what the latest trials in train tasks came to."""
        protocol = self.config.protocol(self.sizes.horizon)
        found = yield from evaluate_split(
            self.agent, self.parameters(state), family, split, protocol, seed, details=True
        )
        return {**memory.latest_results(), **found.columns}, found.steps

    def _initial_control(self, key: Key) -> sac.Trained:
        config = self.config
        return sac.initial(
            2 * config.latent_size,
            self.sizes.action,
            config.sac,
            key=key,
            precision=self.precision,
            initialisation="glorot",
            output_bounds=(None, None),
        )


@functools.partial(jax.jit, static_argnames="config")
def filter_pool(arrays: TrialArrays, config: MeldConfig, model: LatentModel) -> Filtered:
    """A pool of trials, filtered `policy_trials` at once. The number of transitions is the seed: there are other trials
    in it after something was collected, and the same if a run goes on."""
    key = jax.random.fold_in(jax.random.key(0), arrays.replay.counts.sum())

    def some(number: Int32[Array, ""]) -> Filtered:
        draw_key, filter_key = jax.random.split(jax.random.fold_in(key, number))
        return filter_trials(model, config, draw_trials(arrays, config, config.policy_trials, draw_key), filter_key)

    parts = jax.lax.map(some, jnp.arange(-(-config.policy_pool // config.policy_trials)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)


def _steps(name: str, steps: int) -> tuple[Phase, ...]:
    """A phase of gradient steps, unless there are none."""
    return (Phase(name, steps),) if steps else ()
