"""Trials are recorded exactly, and agents are told of every transition once, also when episodes are out of step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, Int32
from probes import NEVER, Clock, compilations, run_trials

from nacre.interfaces import Agent, Played
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Key, Transition

HORIZON = 7
BEGIN, OBSERVE, END = 1.0, 2.0, 3.0
LOG_LENGTH, LOG_WIDTH = 200, 1 + 4 + 3 + 1 + 1 + 4 + 1
TASKS = np.array([[0.1, 3], [0.2, NEVER], [0.3, 1], [0.4, HORIZON], [0.5, 5]])
LENGTHS = [3, HORIZON, 1, HORIZON, 5]


class Log(NamedTuple):
    """What an agent was told, in order: one row per call that concerned a trial."""

    rows: Float[Array, "n capacity width"]
    count: Int32[Array, " n"]


@dataclass(frozen=True)
class Witness:
    """An agent whose belief is the log of the calls to it.

    Its first action tells how many rows the log had, its second is a parameter, its third is noise, or a function of
    the observation when it is to be deterministic.
    """

    sees_sparse_reward: ClassVar[bool] = True
    sees_task: ClassVar[bool] = False

    def begin_trial(self, params: Array, keys: Key, tasks: Array | None) -> Log:
        n = len(keys)
        return Log(jnp.zeros((n, LOG_LENGTH, LOG_WIDTH)), jnp.zeros(n, jnp.int32))

    def begin_episode(self, params: Array, belief: Log, keys: Key, mask: Bool[Array, " n"]) -> Log:
        return _note(belief, BEGIN, mask)

    def act(
        self,
        params: Array,
        belief: Log,
        observation: Array,
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], Log]:
        told = belief.count / LOG_LENGTH
        noise = jax.vmap(lambda key: jax.random.uniform(key, minval=-1))(keys)
        last = jnp.sin(observation @ jnp.arange(1.0, 5.0)) if deterministic else noise
        return jnp.stack([told, jnp.broadcast_to(params, told.shape), last], axis=-1), belief

    def observe(self, params: Array, belief: Log, transition: Transition, mask: Bool[Array, " n"]) -> Log:
        columns = [column[:, None] if column.ndim == 1 else column for column in map(jnp.asarray, transition)]
        return _note(belief, OBSERVE, mask, jnp.concatenate([column.astype(jnp.float32) for column in columns], axis=1))

    def end_episode(self, params: Array, belief: Log, keys: Key, mask: Bool[Array, " n"]) -> Log:
        return _note(belief, END, mask)


def _note(log: Log, what: float, mask: Array, columns: Array | None = None) -> Log:
    n = len(mask)
    columns = jnp.zeros((n, LOG_WIDTH - 1)) if columns is None else columns
    row = jnp.concatenate([jnp.full((n, 1), what), columns], axis=1)
    place = jnp.where(mask, log.count, LOG_LENGTH)
    return Log(log.rows.at[jnp.arange(n), place].set(row, mode="drop"), log.count + mask.astype(jnp.int32))


def expected_log(episodes: list[Episode]) -> np.ndarray:
    """What a slot's agent should have been told, from what was recorded of the slot."""
    rows = []
    for episode in episodes:
        rows.append([BEGIN] + [0.0] * (LOG_WIDTH - 1))
        sparse_rewards = episode.rewards if episode.sparse_rewards is None else episode.sparse_rewards
        for t in range(len(episode)):
            terminated = episode.terminated and t == len(episode) - 1
            numbers = (episode.rewards[t], sparse_rewards[t])
            before, after = episode.observations[t], episode.observations[t + 1]
            rows.append([OBSERVE, *before, *episode.actions[t], *numbers, *after, terminated])
        rows.append([END] + [0.0] * (LOG_WIDTH - 1))
    return np.array(rows, np.float32)


def play(seed: int = 0, *, sparse: bool = False, param: float = 0, deterministic: bool = True, **amount: int) -> Played:
    """Trials of `amount` (steps and episodes) in a new simulator."""
    simulator = Simulator(Clock(HORIZON, sparse=sparse), len(TASKS))
    entropy = np.random.SeedSequence(seed)
    return run_trials(Witness(), jnp.float32(param), simulator, TASKS, entropy, deterministic=deterministic, **amount)


def assert_same(first: list[list[Episode]], second: list[list[Episode]]) -> None:
    for these, those in zip(first, second, strict=True):
        for this, that in zip(these, those, strict=True):
            assert this.terminated == that.terminated
            np.testing.assert_array_equal(this.observations, that.observations)
            np.testing.assert_array_equal(this.actions, that.actions)
            np.testing.assert_array_equal(this.rewards, that.rewards)


def test_the_witness_is_an_agent() -> None:
    assert isinstance(Witness(), Agent)


@pytest.mark.parametrize(("steps", "episodes"), [(0, 0), (1, 0), (12, 0), (14, 0), (15, 0), (0, 3), (9, 4), (20, 2)])
def test_whole_episodes_until_there_is_enough(steps: int, episodes: int) -> None:
    trials, _ = play(steps=steps, episodes=episodes)
    for trial, length in zip(trials, LENGTHS, strict=True):
        assert [len(episode) for episode in trial] == [length] * max(1, episodes, -(-steps // length))


@pytest.mark.parametrize("sparse", [False, True])
def test_episodes_hold_what_happened(sparse: bool) -> None:
    trials, _ = play(steps=20, deterministic=False, sparse=sparse)
    starts = []
    for trial, (label, length) in zip(trials, TASKS, strict=True):
        for episode in trial:
            clock = np.arange(len(episode) + 1, dtype=np.float32)
            assert episode.terminated == (length <= HORIZON)
            np.testing.assert_array_equal(episode.observations[:, 0], np.float32(label))
            np.testing.assert_array_equal(episode.observations[:, 1], episode.observations[0, 1])
            np.testing.assert_array_equal(episode.observations[:, 2], clock)
            drift = np.concatenate([[0], episode.actions[:, 2].astype(np.float64).cumsum()])
            np.testing.assert_array_equal(episode.observations[:, 3], drift.astype(np.float32))
            np.testing.assert_allclose(episode.rewards, 10 * label + clock[1:], rtol=1e-6)
            if sparse:
                np.testing.assert_array_equal(episode.sparse_rewards, clock[1:] == length)
            else:
                assert episode.sparse_rewards is None
            starts.append(episode.observations[0, 1])
    assert len(set(starts)) == len(starts)  # every reset is a new one
    noise = np.concatenate([episode.actions[:, 2] for trial in trials for episode in trial])
    assert len(set(noise)) == len(noise)


def test_agents_are_told_everything_once_and_in_order() -> None:
    """Also the last transition of an episode comes before its end, and nothing is told of slots that rest."""
    trials, log = play(steps=20)
    counts = np.asarray(log.count)
    for slot, trial in enumerate(trials):
        expected = expected_log(trial)
        assert counts[slot] == len(expected)
        np.testing.assert_array_equal(log.rows[slot, : len(expected)], expected)
        assert not np.asarray(log.rows[slot, len(expected) :]).any()
        # Every action was chosen after all that came before it had been told.
        told = np.concatenate([episode.actions[:, 0] for episode in trial]) * LOG_LENGTH
        np.testing.assert_allclose(told, np.flatnonzero(expected[:, 0] == OBSERVE), atol=1e-3)


def test_out_of_step_slots_do_what_they_would_do_alone() -> None:
    """Each slot's trial, once more in a world of its own, fed with the recorded actions."""
    trials, _ = play(seed=5, steps=20)
    for slot, trial in enumerate(trials):
        family = Clock(HORIZON)
        world = family.make_world(1, threads=1)
        generator = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(1, slot)))
        for episode in trial:
            observation, state = world.reset(np.array([0]), TASKS[slot : slot + 1], [generator])
            ends = False
            for t in range(len(episode)):
                assert not ends
                np.testing.assert_array_equal(episode.observations[t], observation[0])
                action = episode.actions[t : t + 1].astype(np.float64)
                observation, following = world.step(np.array([0]), action)
                reward = family.reward(state, action, following, TASKS[slot])
                terminated = bool(family.terminated(state, action, following, TASKS[slot])[0])
                assert episode.rewards[t] == np.float32(reward[0])
                ends, state = terminated or t + 1 == HORIZON, following
            np.testing.assert_array_equal(episode.observations[-1], observation[0])
            assert ends
            assert episode.terminated == terminated


def test_a_belief_is_continued() -> None:
    simulator = Simulator(Clock(HORIZON), len(TASKS))
    first_seed, second_seed = np.random.SeedSequence(3).spawn(2)
    params = jnp.float32(0)
    first, belief = run_trials(Witness(), params, simulator, TASKS, first_seed, episodes=1, deterministic=True)
    second, belief = run_trials(
        Witness(), params, simulator, TASKS, second_seed, steps=9, deterministic=False, belief=belief
    )
    for slot, (one, two) in enumerate(zip(first, second, strict=True)):
        expected = expected_log(one + two)
        np.testing.assert_array_equal(belief.rows[slot, : len(expected)], expected)
        assert belief.count[slot] == len(expected)


def test_the_seed_decides() -> None:
    first, _ = play(seed=1, steps=15, deterministic=False)
    assert_same(first, play(seed=1, steps=15, deterministic=False)[0])
    other, _ = play(seed=2, steps=15, deterministic=False)
    for these, those in zip(first, other, strict=True):
        assert these[0].observations[0, 1] != those[0].observations[0, 1]
        assert these[0].actions[0, 2] != those[0].actions[0, 2]


def test_a_used_simulator_leaves_no_trace() -> None:
    """What a phase does depends on its seed and not on what the simulator did before: resuming relies on it."""
    simulator = Simulator(Clock(HORIZON), len(TASKS))
    params = jnp.float32(0)
    for seed in (8, 1):
        trials, _ = run_trials(
            Witness(), params, simulator, TASKS, np.random.SeedSequence(seed), steps=15, deterministic=False
        )
    assert_same(trials, play(seed=1, steps=15, deterministic=False)[0])


def test_nothing_is_compiled_after_the_first_use() -> None:
    play(seed=0, steps=15, deterministic=False)
    with compilations() as later:
        play(seed=1, steps=25, deterministic=False, param=0.5)
        play(seed=1, episodes=4, deterministic=False)
    assert not later
    with compilations() as control:
        jax.jit(lambda x: x * jnp.arange(13.0))(2.0)
    assert control
