"""CEMRL's learner (spec cemrl-dmrlad 1.5, 1.6, 1.9, 1.11).

repeat:                                                              phases
    [first iteration] collect `initial_steps` in every train task    initial collection
    one visit to some train tasks                                    collect
    statistics of all data; forget the best weights                  encoder: begin
    repeat, until the validation loss is no longer improved:
        draw transitions and the windows before them                 draw
        step encoder and decoder                                     step (losses.encoder_step)
    take the best weights                                            policy: begin
    infer z of every transition with them                            policy: derive
    repeat:
        draw transitions with their z                                draw
        step temperature, critics, policy and targets                step (losses.policy_step)
    play test tasks and train tasks                                  evaluate

z is never stored: it is derived at the start of the policy's phase, and each transition is encoded once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int32

from nacre.agents.cemrl.agent import CemrlAgent
from nacre.agents.cemrl.config import CemrlConfig, Usage
from nacre.agents.cemrl.losses import (
    EncoderBatch,
    PolicyBatch,
    Trained,
    Windows,
    encoder_step,
    inferred_losses,
    initial_loss_weights,
    initial_optimisers,
    padding_row,
    policy_step,
    unfitted,
)
from nacre.agents.cemrl.networks import (
    ActingNetworks,
    Networks,
    Normaliser,
    Scaling,
    initial_decoder,
    initial_encoder,
    initial_normaliser,
    observation_width,
    padded,
    row_width,
    state_coordinates,
    window_rows,
)
from nacre.evaluation import evaluate_split
from nacre.interfaces import Learner, LearnerState, Phase, Play, Schedule
from nacre.metrics import StepMetrics
from nacre.nn.mlp import MLP
from nacre.replay import ByAge, Replay, ReplayBuffer
from nacre.rl import sac
from nacre.seeds import child, key_of
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Key, Metrics, Tree, Visit

INITIAL, COLLECT, ENCODER, POLICY = "initial collection", "collect", "encoder", "policy"
CHUNK = 1024
"""Transitions that are encoded at once when z is derived."""


class WindowReplay(ReplayBuffer):
    """A replay that knows of which kind its tasks are."""

    kinds: Int32[Array, " tasks"]


class EncoderDerived(NamedTuple):
    """What steps of the encoder read besides the replay."""

    points: ByAge
    kinds: Int32[Array, " tasks"]
    normaliser: Normaliser


class PolicyDerived(NamedTuple):
    """What steps of the policy read besides the replay."""

    points: ByAge
    latents: Float32[Array, "capacity latent"]
    """z after each transition, by age."""
    first_latent: Float32[Array, " latent"]
    """z of a window without transitions."""


@dataclass(frozen=True)
class CemrlLearner(Learner):
    """CEMRL on tasks of given sizes."""

    config: CemrlConfig
    replay: ClassVar[type[WindowReplay]] = WindowReplay

    @property
    def critics(self) -> sac.CriticKind:
        """What critics predict."""
        return sac.EXPECTED

    def phases(self, iteration: int) -> tuple[Phase, ...]:
        config = self.config
        each = (Phase(COLLECT), Phase(ENCODER, config.encoder_steps), Phase(POLICY, config.policy_steps))
        return (Phase(INITIAL), *each) if iteration == 0 and config.initial_steps else each

    def initial_state(self, key: Key) -> LearnerState:
        config, sizes, precision = self.config, self.sizes, self.precision
        keys = jax.random.split(key, 6)
        encoder = initial_encoder(config, sizes, key=keys[0], precision=precision)
        decoder = initial_decoder(config, sizes, key=keys[1], precision=precision)
        control = self._initial_control(keys[2])
        targets = self._initial_control(keys[3]) if config.target_critics == "published" else control
        temperature = None
        if config.latent_temperature:
            latent = config.latent_size
            temperature = MLP((latent, 10 * latent, 1), key=keys[4], precision=precision)
            start = temperature.biases[-1] + math.log(config.initial_temperature)
            temperature = eqx.tree_at(lambda mlp: mlp.biases[-1], temperature, start)
        networks = Networks(encoder, decoder, control.networks, temperature, initial_normaliser(sizes))
        trained = Trained(
            networks=networks,
            target_critics=targets.target_critics,
            optimisers=initial_optimisers(networks, control.optimisers),
            weights=initial_loss_weights(state_coordinates(config, sizes)),
            fit=unfitted(),
            best=(encoder, decoder),
            target_policy=targets.target_policy,
        )
        return LearnerState(trained, keys[5], jnp.zeros((), jnp.int32))

    def parameters(self, state: LearnerState) -> ActingNetworks:
        return state.trained.networks.acting

    def agent(self, capacity: int) -> CemrlAgent:
        return CemrlAgent(self.config, self.sizes)

    def memory(self, family: TaskFamily, tasks: Float64[np.ndarray, "n parameters"], iterations: int) -> WindowReplay:
        config = self.config
        visits = iterations * config.stored_visits(len(tasks))
        replay = self.replay.for_visits(
            len(tasks),
            self.sizes,
            has_sparse_reward=family.has_sparse_reward,
            initial_steps=config.initial_steps,
            visits=visits,
            visit_steps=(config.visit_steps,),
            fullest=None if config.stores_evenly else visits,
        )
        kinds = family.kind_of(tasks) if config.true_classes else np.zeros(len(tasks))
        replay.kinds = jnp.asarray(kinds, jnp.int32)
        return replay

    def collect(
        self,
        phase: str,
        state: LearnerState,
        memory: WindowReplay,
        family: TaskFamily,
        tasks: Float64[np.ndarray, "n parameters"],
        seed: np.random.SeedSequence,
    ) -> Schedule[list[Visit]]:
        """`initial_steps` in every train task, or one visit to some of them, all at once."""
        visited, play = self.planned(phase, state, tasks, seed)
        trials, _ = yield play
        return [Visit(task, tuple(trial)) for task, trial in zip(visited, trials, strict=True)]

    def planned(
        self, phase: str, state: LearnerState, tasks: Float64[np.ndarray, "n parameters"], seed: np.random.SeedSequence
    ) -> tuple[list[int], Play]:
        """The train tasks that a phase visits, and how they are played."""
        config = self.config
        visited, steps = np.arange(len(tasks)), config.initial_steps
        if phase == COLLECT:
            visits = min(config.tasks_per_iteration, len(tasks))
            visited = np.random.default_rng(child(seed, 0)).choice(len(tasks), size=visits, replace=False)
            steps = config.visit_steps
        agent, params = self.agent(0), self.parameters(state)
        play = Play(agent, params, tasks[visited], child(seed, 1), deterministic=False, steps=steps)
        return visited.tolist(), play

    def begin(
        self, phase: str, state: LearnerState, memory: WindowReplay, tasks: Float64[np.ndarray, "n parameters"]
    ) -> LearnerState:
        """The encoder's phase begins with statistics of the data, the policy's with the best weights."""
        trained: Trained = state.trained
        networks = trained.networks
        if phase == ENCODER:
            if self.config.normalise:
                networks = networks._replace(normaliser=statistics(memory.arrays))
            return state._replace(trained=trained._replace(networks=networks, fit=unfitted()))
        if phase == POLICY:
            encoder, decoder = jax.tree.map(jnp.copy, trained.best)  # copies, as steps are given their state's memory
            networks = networks._replace(encoder=encoder, decoder=decoder)
            return state._replace(trained=trained._replace(networks=networks))
        return state

    def derive(
        self, phase: str, state: LearnerState, memory: WindowReplay, tasks: Float64[np.ndarray, "n parameters"]
    ) -> EncoderDerived | PolicyDerived:
        networks: Networks = state.trained.networks
        if phase == ENCODER:
            # A copy, as steps are given their state's memory.
            return EncoderDerived(_by_age(memory.arrays), memory.kinds, jax.tree.map(jnp.copy, networks.normaliser))
        return derive_latents(self, networks, memory.arrays)

    def draw(
        self, phase: str, arrays: Replay, derived: EncoderDerived | PolicyDerived, key: Key
    ) -> EncoderBatch | PolicyBatch:
        if isinstance(derived, EncoderDerived):
            train_key, validation_key, order_key = jax.random.split(key, 3)
            order = jax.random.permutation(order_key, self.config.window) if self.config.permute_windows else None
            return EncoderBatch(
                self._windows(arrays, derived, draw_training(self.config, derived.points.count, train_key), order),
                self._windows(
                    arrays, derived, draw_validation(self.config, derived.points.count, validation_key), order
                ),
            )
        return self._draw_policy(arrays, derived, key)

    def step(
        self, phase: str, trained: Trained, batch: EncoderBatch | PolicyBatch, key: Key
    ) -> tuple[Trained, StepMetrics]:
        if isinstance(batch, EncoderBatch):
            return encoder_step(trained, self.config, self.sizes, batch, key)
        return policy_step(trained, self.config, batch, key, self.critics)

    def ended(self, phase: str, trained: Trained) -> Bool[Array, ""] | bool:
        return trained.fit.ended if phase == ENCODER else False

    def evaluate(
        self,
        state: LearnerState,
        memory: WindowReplay,
        family: TaskFamily,
        split: TaskSplit,
        seed: np.random.SeedSequence,
    ) -> Schedule[tuple[Metrics, int]]:
        """Meta-tests, and says how the fitting of the encoder went."""
        protocol = self.config.protocol(self.sizes.horizon)
        online = yield from evaluate_split(self.agent, self.parameters(state), family, split, protocol, seed)
        trained: Trained = state.trained
        policy_optimiser: Any = trained.optimisers.control.policy
        fit, derived = trained.fit, self.derive(ENCODER, state, memory, split.train)
        losses = reconstruction_losses(self, trained.networks, memory.arrays, derived, key_of(child(seed, 2)))
        columns = {
            "Encoder Steps": float(fit.step),
            "Encoder Best Step": float(fit.best_step),
            "Validation Loss": float(fit.best_loss),
            **{name: float(loss) for name, loss in losses.items()},
            "policy_train_steps_total": int(policy_optimiser[0].count),
            **self._return_columns(online.returns, len(split.test), protocol.deterministic),
            **online.columns,
        }
        return columns, online.steps

    def _return_columns(self, returns: Float64[np.ndarray, " n"], tests: int, deterministic: bool) -> Metrics:
        """Returns over tasks in the public code's columns."""
        policy = "deterministic" if deterministic else "non_deterministic"
        return {
            f"{name}_eval_{statistic}_reward_{policy}": float(function(part))
            for name, part in (("train", returns[tests:]), ("test", returns[:tests]))
            for statistic, function in (("avg", np.mean), ("std", np.std), ("max", np.max), ("min", np.min))
        }

    def _initial_control(self, key: Key) -> sac.Trained:
        config, sizes = self.config, self.sizes
        return sac.initial(
            observation_width(sizes) + config.latent_size,
            sizes.action,
            config.sac,
            key=key,
            precision=self.precision,
            kind=self.critics,
            target_policy=config.has_target_policy,
        )

    def _windows(
        self, replay: Replay, derived: EncoderDerived, numbers: Int32[Array, " n"], order: Int32[Array, " T"] | None
    ) -> Windows:
        """Transitions by their number, normalised, and the windows before them."""
        tasks, ranks = derived.points.tasks[numbers], derived.points.ranks[numbers][:, None]
        stretch = replay.windows(tasks, ranks, self.config.window, self.config.window_within)
        rows = window_rows(derived.normaliser(stretch.transitions))[:, 0]
        mask = stretch.mask[:, 0]
        if order is not None:
            rows, mask = rows[:, order], mask[:, order]
        explained = jax.tree.map(lambda leaf: leaf[:, 0], derived.normaliser(replay.read(tasks, ranks)))
        return Windows(rows, mask, explained, derived.kinds[tasks])

    def _draw_policy(self, replay: Replay, derived: PolicyDerived, key: Key) -> PolicyBatch:
        config, points = self.config, derived.points
        numbers = draw_numbers(config.policy_data, points.count, config.last_transitions, config.policy_batch_size, key)
        tasks, ranks = points.tasks[numbers], points.ranks[numbers][:, None]
        drawn = jax.tree.map(lambda leaf: leaf[:, 0], replay.read(tasks, ranks))
        begins = ranks[:, 0] == self._first_ranks(replay, tasks, ranks)[:, 0]
        before = derived.latents[jnp.maximum(numbers - 1, 0)]
        latent = jnp.where(begins[:, None], derived.first_latent[None], before)
        after = derived.latents[numbers] if config.next_latent == "following" else latent
        batch = sac.Batch(
            features=jnp.concatenate([drawn.observation, latent], axis=-1),
            actions=drawn.action,
            rewards=config.reward_scale * drawn.reward,
            next_features=jnp.concatenate([drawn.next_observation, after], axis=-1),
            terminated=drawn.terminated,
        )
        return PolicyBatch(batch, latent)

    def _first_ranks(
        self, replay: Replay, tasks: Int32[Array, " n"], ranks: Int32[Array, "n size"]
    ) -> Int32[Array, "n size"]:
        """Ranks of the transitions with which windows begin."""
        firsts = replay.first_rank if self.config.window_within == "episode" else replay.trial_first_rank
        return firsts[replay.episode[replay.frame_of(tasks, ranks)]]


def draw_numbers(usage: Usage, count: Int32[Array, ""], last: int, size: int, key: Key) -> Int32[Array, " size"]:
    """Numbers below `count`, of which greater ones are newer.

    `rising`: the density rises linearly from 0.1 of a scale for the oldest to 0.9 for the newest.
    """
    if usage == "rising":
        uniform = jax.random.uniform(key, (size,))
        age = (jnp.sqrt(0.04 + 3.2 * uniform) - 0.2) / 1.6  # where 0.2 age + 0.8 age² = uniform
        return jnp.minimum((age * count.astype(jnp.float32)).astype(jnp.int32), count - 1)
    first = jnp.maximum(count - last, 0) if usage == "last" else jnp.zeros_like(count)
    return jax.random.randint(key, (size,), first, count)


def draw_training(config: CemrlConfig, count: Int32[Array, ""], key: Key) -> Int32[Array, " size"]:
    """Numbers of transitions that are not for validation."""
    block_key, offset_key = jax.random.split(key)
    blocks = _draw_blocks(config, count, block_key)
    offset = 1 + jax.random.randint(offset_key, blocks.shape, 0, config.validation_block - 1)
    return blocks * config.validation_block + (validation_place(config, blocks) + offset) % config.validation_block


def draw_validation(config: CemrlConfig, count: Int32[Array, ""], key: Key) -> Int32[Array, " size"]:
    """Numbers of transitions that are for validation."""
    blocks = _draw_blocks(config, count, key)
    return blocks * config.validation_block + validation_place(config, blocks)


def validation_place(config: CemrlConfig, blocks: Int32[Array, " n"]) -> Int32[Array, " n"]:
    """Which transition of each block is for validation: a hash of its number, the same in every run."""
    draw = jax.vmap(
        lambda block: jax.random.randint(jax.random.fold_in(jax.random.key(0), block), (), 0, config.validation_block)
    )
    return draw(blocks)


def _draw_blocks(config: CemrlConfig, count: Int32[Array, ""], key: Key) -> Int32[Array, " size"]:
    """Complete blocks: the newest transitions wait until theirs is complete."""
    size = config.validation_block
    last = max(1, config.last_transitions // size)
    return draw_numbers(config.encoder_data, count // size, last, config.encoder_batch_size, key)


_by_age: Callable[[Replay], ByAge] = jax.jit(lambda replay: replay.by_age())


@jax.jit
def statistics(replay: Replay) -> Normaliser:
    """Mean and standard deviation of all transitions. What never changes is only moved to 0."""
    points = replay.by_age()
    count = points.count.astype(jnp.float32)

    def values(chunk: Int32[Array, ""]) -> list[Float32[Array, "chunk width"]]:
        numbers = jnp.minimum(chunk * CHUNK + jnp.arange(CHUNK), points.count - 1)
        rows = replay.read(points.tasks[numbers], points.ranks[numbers][:, None])
        parts = (rows.observation, rows.action, rows.reward[..., None], rows.next_observation)
        return [part[:, 0] for part in parts]

    def mean_of(function: Callable[[Array, Array], Array], others: list[Array]) -> list[Array]:
        """Means over transitions, chunk by chunk: a sum of millions in one go would lose digits."""

        def add(chunk: Int32[Array, ""], sums: list[Array]) -> list[Array]:
            real = (chunk * CHUNK + jnp.arange(CHUNK) < points.count)[:, None]
            found = map(function, values(chunk), others)
            return [so_far + jnp.where(real, new, 0).sum(axis=0) for so_far, new in zip(sums, found, strict=True)]

        sums = jax.lax.fori_loop(0, -(-points.count // CHUNK), add, list(map(jnp.zeros_like, others)))
        return [total / count for total in sums]

    zeros = [jnp.zeros(part.shape[1]) for part in jax.eval_shape(values, jnp.int32(0))]
    means = mean_of(lambda part, zero: part, zeros)
    variances = mean_of(lambda part, mean: (part - mean[None]) ** 2, means)

    def scaling(mean: Array, variance: Array) -> Scaling:
        deviation = jnp.sqrt(variance)
        moves = deviation > 1e-6 * jnp.maximum(jnp.abs(mean), 1e-3)
        return Scaling(mean, jnp.where(moves, deviation, 1))

    return Normaliser(*map(scaling, means, variances))


@functools.partial(jax.jit, static_argnames="learner")
def reconstruction_losses(
    learner: CemrlLearner, networks: Networks, replay: Replay, derived: EncoderDerived, key: Key
) -> dict[str, Float32[Array, ""]]:
    """Losses of the encoder and decoder that were taken, with z as an agent infers it, on a batch of the data that are
    trained on and one of the others: columns of the public code."""
    batch = learner.draw(ENCODER, replay, derived, key)
    assert isinstance(batch, EncoderBatch)
    padding, trained = padding_row(networks, learner.config, learner.sizes), (networks.encoder, networks.decoder)
    found = {}
    for name, windows in (("train_val", batch.train), ("val", batch.validation)):
        state_loss, reward_loss = inferred_losses(trained, learner.config, windows, padding)
        found |= {
            f"Reconstruction_{name}_state_loss": state_loss,
            f"Reconstruction_{name}_reward_loss": reward_loss,
        }
    return found


@functools.partial(jax.jit, static_argnames="learner")
def derive_latents(learner: CemrlLearner, networks: Networks, replay: Replay) -> PolicyDerived:
    """z after every transition, as an agent infers it. Each is encoded once, and those before a chunk once more."""
    config, encoder, points = learner.config, networks.encoder, replay.by_age()
    length = config.window
    padding = padding_row(networks, config, learner.sizes)
    nothing = None if padding is None else encoder.factors(window_rows(padding))

    def infer(factors: Tree, mask: Bool[Array, "n T"]) -> Float32[Array, "n latent"]:
        if nothing is not None:
            factors, mask = padded(factors, mask, nothing), jnp.ones_like(mask)
        return encoder.infer(factors, mask).latent

    def of_chunk(chunk: Int32[Array, ""], latents: Float32[Array, "capacity latent"]) -> Array:
        numbers = chunk * CHUNK + jnp.arange(1 - length, CHUNK)
        inside = jnp.clip(numbers, 0, points.count - 1)
        tasks, ranks = points.tasks[inside], points.ranks[inside][:, None]
        steps = (ranks - learner._first_ranks(replay, tasks, ranks))[length - 1 :, 0]
        rows = window_rows(networks.normaliser(replay.read(tasks, ranks)))[:, 0]
        factors = encoder.factors(rows)
        windows = jnp.arange(CHUNK)[:, None] + jnp.arange(length)[None]
        mask = jnp.arange(length)[None] >= length - 1 - steps[:, None]
        found = infer(jax.tree.map(lambda leaf: leaf[windows], factors), mask)
        return latents.at[numbers[length - 1 :]].set(found, mode="drop")

    capacity = len(points.tasks)
    latents = jax.lax.fori_loop(0, -(-points.count // CHUNK), of_chunk, jnp.zeros((capacity, config.latent_size)))
    one_row = jax.eval_shape(encoder.factors, jnp.zeros((1, row_width(learner.sizes))))
    empty = jax.tree.map(lambda leaf: jnp.zeros((1, length, *leaf.shape[1:])), one_row)
    return PolicyDerived(points, latents, infer(empty, jnp.zeros((1, length), bool))[0])
