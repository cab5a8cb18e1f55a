"""Families whose episodes end early, from the simulator to the replay: no step is lost, and terminations arrive."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import run_schedule

from nacre.evaluation import meta_test
from nacre.experiments import Experiment, make_experiment
from nacre.replay import ReplayBuffer
from nacre.runtime import learner_for
from nacre.tasks import Simulator, make_family
from nacre.types import Episode, Visit

HOPPER = make_family("hopper-rand-params")


class CountingSimulator(Simulator):
    """Counts the control steps that were really taken."""

    steps = 0

    def step(self, actions):
        results = super().step(actions)
        self.steps += int(results[-1]["active"].sum())
        return results


def hoppers(n_slots: int) -> CountingSimulator:
    return CountingSimulator(HOPPER, n_slots, threads=2)


def hopper_experiment() -> Experiment:
    return make_experiment(
        "pearl/hopper-rand-params",
        train_tasks=6,
        test_tasks=3,
        hidden_size=8,
        encoder_hidden_size=8,
        latent_size=2,
        initial_steps=70,
        prior_steps=50,
        extra_posterior_steps=90,
        context_size=10,
        evaluation_steps=400,
        exploration_episodes=1,
    )


def upright(observations: np.ndarray) -> np.ndarray:
    """Whether a hopper is alive, by what is observed of it."""
    return (observations[..., 0] > 0.7) & (np.abs(observations[..., 1]) < 0.2)


def assert_whole(episode: Episode) -> None:
    """It ends where it was over, or with the clock, and not earlier or later."""
    assert upright(episode.observations[:-1]).all()
    assert episode.terminated == (not upright(episode.observations[-1]))
    assert episode.terminated or len(episode) == HOPPER.horizon
    assert len(episode.actions) == len(episode.rewards) == len(episode.observations) - 1


@pytest.fixture(scope="module")
def collected() -> tuple[list[Visit], list[Visit], int]:
    """The visits before the first update and of one iteration, and the steps simulated for them."""
    learner = learner_for(hopper_experiment(), HOPPER)
    state = learner.initial_state(jax.random.key(0))
    tasks = HOPPER.sample_tasks(np.random.default_rng(0), 6)
    memory = learner.memory(HOPPER, tasks, 1)
    collected, steps = [], 0
    for seed, phase, slots in ((1, "initial collection", 6), (2, "collect", learner.config.tasks_per_iteration)):
        simulator = hoppers(slots)
        schedule = learner.collect(phase, state, memory, HOPPER, tasks, np.random.SeedSequence(seed))
        collected.append(run_schedule(schedule, simulator))
        steps += simulator.steps
        simulator.close()
    return collected[0], collected[1], steps


def test_collection_loses_no_step(collected: tuple[list[Visit], list[Visit], int]) -> None:
    first, visits, steps = collected
    episodes = [episode for visit in first + visits for episode in visit.episodes]
    assert sum(map(len, episodes)) == steps
    assert len({len(episode) for episode in episodes}) > 5  # the slots ended at different times
    for episode in episodes:
        assert_whole(episode)
    assert sum(episode.terminated for episode in episodes) > 20
    for visit in first:
        lengths = [len(episode) for episode in visit.episodes]
        assert sum(lengths) >= 70 > sum(lengths[:-1])
    for visit in visits:
        lengths = [len(episode) for episode in visit.episodes]
        context, extra = lengths[: visit.context_episodes], lengths[visit.context_episodes :]
        assert sum(context) >= 50 > sum(context[:-1])
        assert sum(extra) >= 90 > sum(extra[:-1])


def test_terminal_transitions_reach_the_replay(collected: tuple[list[Visit], list[Visit], int]) -> None:
    first, visits, steps = collected
    replay = ReplayBuffer(6, HOPPER.sizes, has_sparse_reward=False, transitions=steps, fullest_task=1)
    replay.add(first)
    replay.add(visits)
    assert replay.transitions == steps
    arrays = replay.arrays
    terminal = np.flatnonzero(np.asarray(arrays.terminated))
    following = np.asarray(arrays.observations[arrays.frame[terminal] + 1])
    ends = [visit.episodes[i].observations[-1] for visit in first + visits for i in range(len(visit.episodes))]
    ends = np.array([end for end in ends if not upright(end)])
    assert not upright(following).any()
    np.testing.assert_array_equal(np.sort(following, axis=0), np.sort(ends, axis=0))
    # And their share of what gradient steps draw is what it was of what happened.
    drawn = arrays.draw(jnp.arange(6), 20_000, jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(drawn.terminated), ~upright(np.asarray(drawn.next_observation)))
    for task in range(6):
        own = [episode for visit in first + visits if visit.task == task for episode in visit.episodes]
        share = sum(episode.terminated for episode in own) / sum(map(len, own))
        assert float(drawn.terminated[task].mean()) == pytest.approx(share, rel=0.15)


def test_trials_go_on_until_they_have_their_steps() -> None:
    learner = learner_for(hopper_experiment(), HOPPER)
    tasks = HOPPER.sample_tasks(np.random.default_rng(3), 3)
    protocol = learner.config.protocol(HOPPER.horizon)
    params = learner.parameters(learner.initial_state(jax.random.key(0)))
    simulator = hoppers(3 * protocol.trials)
    evaluation, played, belief = run_schedule(
        meta_test(learner.agent, params, HOPPER, tasks, protocol, np.random.SeedSequence(0)), simulator
    )
    contexts = iter(np.asarray(belief.context_count))
    total = 0
    for trials, trial_episodes in zip(evaluation.trials, played, strict=True):
        assert len(trials) == 2
        for trial, episodes in zip(trials, trial_episodes, strict=True):
            assert trial.lengths == tuple(map(len, episodes))
            assert sum(trial.lengths) >= 400 > sum(trial.lengths[:-1])
            assert trial.returns == pytest.approx([episode.rewards.sum() for episode in episodes], rel=1e-4)
            assert next(contexts) == sum(trial.lengths)  # the posterior knows them all
            for episode in episodes:
                assert_whole(episode)
            total += sum(trial.lengths)
    assert total == simulator.steps
    assert min(len(trial.lengths) for trials in evaluation.trials for trial in trials) > 2


def rollout(name: str, tasks: np.ndarray, seeds: list[int], actions: np.ndarray, threads: int) -> list[np.ndarray]:
    """Observations, rewards and terminations of every step, shape (time, slots, ...)."""
    simulator = Simulator(make_family(name), len(tasks), threads)
    simulator.reset(seed=seeds, options={"tasks": tasks})
    steps = [simulator.step(action)[:3] for action in actions]
    simulator.close()
    return [np.array(column) for column in zip(*steps, strict=True)]


@pytest.mark.parametrize(
    "name", ["ant-dir", "ant-random-dir", "ant-goal", "humanoid-dir", "walker-rand-params", "hopper-rand-params"]
)
def test_slots_are_independent_of_their_order_number_and_threads(name: str) -> None:
    family = make_family(name)
    generator = np.random.default_rng(0)
    tasks = family.sample_tasks(generator, 4)
    actions = generator.uniform(-1, 1, (40, 4, family.action_size)).astype(np.float32)
    seeds, order = [20, 21, 22, 23], np.array([3, 0, 2, 1])
    alone = rollout(name, tasks, seeds, actions, threads=1)
    if name in ("humanoid-dir", "walker-rand-params", "hopper-rand-params"):
        assert len(set(alone[2].argmax(axis=0))) > 1  # they fall at different times
    permuted = rollout(name, tasks[order], [seeds[i] for i in order], actions[:, order], threads=3)
    single = rollout(name, tasks[2:3], seeds[2:3], actions[:, 2:3], threads=1)
    for expected, shuffled, one in zip(alone, permuted, single, strict=True):
        np.testing.assert_array_equal(shuffled, expected[:, order])
        np.testing.assert_array_equal(one, expected[:, 2:3])
