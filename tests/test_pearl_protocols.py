"""Which z PEARL acts with, when, and what it is inferred from: collection (spec 2.3, 2.4, 8) and evaluation (spec 2.5).

Agents act with networks that tell z by their actions (see `probes.py`): draws from the prior lack the mark of a
posterior, and with one context transition per posterior z says which transition that was.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import (
    NEVER,
    POSTERIOR_MARK,
    Clock,
    clock_learner,
    clock_return,
    compilations,
    run_schedule,
    told_latent,
    transition_codes,
    transparent_networks,
)

from nacre.agents.pearl.agent import PearlAgent
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import Trained, initial_optimisers
from nacre.agents.pearl.networks import context_rows, infer_posterior, initial_networks
from nacre.collect import play_together, run_schedules
from nacre.evaluation import Evaluation, MetaTest, TrialResult, episode_return, meta_test
from nacre.interfaces import LearnerState, Play, Played
from nacre.protocol import Protocol
from nacre.tasks.family import TaskSplit
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Transition, Visit

HORIZON = 5
TASKS = np.array([[0.0, NEVER], [0.1, 3], [0.2, NEVER], [0.3, 2]])
TINY = PearlConfig(
    latent_size=2,
    hidden_size=4,
    encoder_hidden_size=2,
    context_size=1,
    initial_steps=12,
    tasks_per_iteration=30,
    prior_steps=15,
    posterior_steps=0,
    extra_posterior_steps=20,
)
ALMOST_CERTAIN = 1e-7  # the least variance that a factor can have
NOISE = 6 * ALMOST_CERTAIN**0.5


def learner_and_state(
    config: PearlConfig, horizon: int = HORIZON, variance: float = ALMOST_CERTAIN, code_scale: float = 1.0
) -> tuple[PearlLearner, LearnerState]:
    networks = transparent_networks(config, factor_variance=variance, code_scale=code_scale)
    trained = Trained(networks, networks.value, initial_optimisers(networks))
    return clock_learner(horizon, config), LearnerState(trained, jax.random.key(0), jnp.zeros((), jnp.int32))


def collect(seed: int = 0, *, variance: float = ALMOST_CERTAIN, **changes: Any) -> list[Visit]:
    learner, state = learner_and_state(dataclasses.replace(TINY, **changes), variance=variance)
    visits = collect_phase("collect", learner, state, TASKS, np.random.SeedSequence(seed))
    for visit in visits:
        for episode in visit.episodes:
            np.testing.assert_array_equal(episode.observations[:, 0], np.float32(TASKS[visit.task, 0]))
    return visits


def collect_phase(
    phase: str, learner: PearlLearner, state: LearnerState, tasks: np.ndarray, seed: np.random.SeedSequence
) -> list[Visit]:
    memory = learner.memory(Clock(HORIZON), tasks, 1)
    schedule = learner.collect(phase, state, memory, Clock(HORIZON), tasks, seed)
    slots = learner.config.tasks_per_iteration if phase == "collect" else len(tasks)
    return run_schedule(schedule, Simulator(Clock(HORIZON), slots))


def lengths(visit: Visit, steps: int) -> list[int]:
    """The lengths of the whole episodes that have `steps` steps, in the visit's task."""
    length = int(min(TASKS[visit.task, 1], HORIZON))
    return [length] * -(-steps // length)


def from_prior(latents: Sequence[np.ndarray]) -> bool:
    """Whether all are different, and none is from a posterior."""
    distinct = bool((np.diff(np.sort([latent[0] for latent in latents])) > 1e-6).all())
    return distinct and all(latent[1] < POSTERIOR_MARK - 1 for latent in latents)


def source(latent: np.ndarray, episodes: Sequence[Episode]) -> tuple[int, int]:
    """The episode, and the step, of the one transition that z was inferred from."""
    assert abs(latent[1] - POSTERIOR_MARK) < NOISE
    places = [(number, step) for number, episode in enumerate(episodes) for step in range(len(episode))]
    distances = abs(transition_codes(episodes) - latent[0])
    assert distances.min() < NOISE
    return places[int(distances.argmin())]


def test_prior_and_extra_phase() -> None:
    """A new z from the prior for each episode; then one such episode, and a new posterior of the prior data each."""
    visits = collect()
    assert {visit.task for visit in visits} == {0, 1, 2, 3}
    assert len(visits) == 30  # so with replacement
    sources, unchanged = set(), 0
    for visit in visits:
        prior_lengths, extra_lengths = lengths(visit, 15), lengths(visit, 20)
        assert [len(episode) for episode in visit.episodes] == prior_lengths + extra_lengths
        assert visit.context_episodes == len(prior_lengths)
        latents = [told_latent(episode) for episode in visit.episodes]
        first = visit.context_episodes + 1
        assert from_prior(latents[:first])
        # The extra data never join the context: everything comes from the prior phase.
        found = [source(latent, visit.episodes[: visit.context_episodes]) for latent in latents[first:]]
        sources |= set(found)
        unchanged += sum(this == that for this, that in itertools.pairwise(found))
    # Any transition of the prior phase can be drawn, and each posterior has a draw of its own.
    assert {episode for episode, _ in sources} >= {0, 1, 2}
    assert {step for _, step in sources} == {0, 1, 2, 3, 4}
    assert unchanged < 0.15 * sum(len(visit.episodes) for visit in visits)


def test_posterior_phase_adds_to_the_context_it_draws_from() -> None:
    """As the sparse point robot has it; and an extra phase after it begins with the prior again."""
    own, late = 0, 0
    for visit in collect(prior_steps=10, posterior_steps=25, extra_posterior_steps=10):
        prior, posterior, extra = (len(lengths(visit, steps)) for steps in (10, 25, 10))
        assert len(visit.episodes) == prior + posterior + extra
        assert visit.context_episodes == prior + posterior
        latents = [told_latent(episode) for episode in visit.episodes]
        begins_extra = prior + posterior
        assert from_prior([*latents[: prior + 1], latents[begins_extra]])
        for number in range(prior + 1, begins_extra):
            episode, _ = source(latents[number], visit.episodes[:number])
            own += episode >= prior
        for number in range(begins_extra + 1, len(latents)):
            episode, _ = source(latents[number], visit.episodes[:begins_extra])
            late += episode >= prior
    assert own > 10
    assert late > 10


def test_no_prior_phase() -> None:
    for visit in collect(prior_steps=0, posterior_steps=20, extra_posterior_steps=0):
        assert visit.context_episodes == len(visit.episodes) == len(lengths(visit, 20))
        latents = [told_latent(episode) for episode in visit.episodes]
        assert from_prior(latents[:1])
        for number in range(1, len(latents)):
            source(latents[number], visit.episodes[:number])


def test_two_episodes_per_refresh() -> None:
    refreshed = 0
    for visit in collect(episodes_per_refresh=2, extra_posterior_steps=40):
        latents = [told_latent(episode) for episode in visit.episodes]
        assert from_prior(latents[: visit.context_episodes + 2])
        context = visit.episodes[: visit.context_episodes]
        after = latents[visit.context_episodes + 2 :]
        for latent in after:
            source(latent, context)
        # Pairs share a posterior; z is drawn anew all the same.
        for first, second in zip(after[::2], after[1::2], strict=False):
            assert 0 < abs(first - second).max() < 2 * NOISE
        refreshed += sum(abs(first - second).max() > 2 * NOISE for first, second in itertools.pairwise(after))
    assert refreshed > 20


def test_fixed_z_is_one_draw_from_the_posterior_of_the_prior_data() -> None:
    marks = []
    for variance in (ALMOST_CERTAIN, 1.0):
        for visit in collect(posterior_phase="fixed-z", variance=variance):
            latents = np.array([told_latent(episode) for episode in visit.episodes])
            prior, fixed = latents[: visit.context_episodes], latents[visit.context_episodes :]
            assert len(fixed) == len(lengths(visit, 20))
            np.testing.assert_allclose(fixed, fixed[:1].repeat(len(fixed), axis=0), atol=1e-5)
            if variance == ALMOST_CERTAIN:
                assert from_prior(list(prior))
                source(fixed[0], visit.episodes[: visit.context_episodes])
            else:
                marks.append(fixed[0, 1])
    # z is drawn, not the mean: with factors of variance 1 it is spread by 1 around the mark.
    assert abs(np.mean(marks) - POSTERIOR_MARK) < 0.6
    assert 0.6 < np.std(marks) < 1.4


def test_initial_collection_is_prior_data_of_every_task() -> None:
    learner, state = learner_and_state(TINY)
    visits = collect_phase("initial collection", learner, state, TASKS, np.random.SeedSequence(0))
    assert [visit.task for visit in visits] == [0, 1, 2, 3]
    for visit in visits:
        assert [len(episode) for episode in visit.episodes] == lengths(visit, 12)
        assert visit.context_episodes == len(visit.episodes)
        assert all(episode.observations[0, 0] == np.float32(TASKS[visit.task, 0]) for episode in visit.episodes)
    assert from_prior([told_latent(episode) for visit in visits for episode in visit.episodes])
    # With the visits of one iteration this is what room is made for, where episodes last to the horizon.
    lasting = TASKS[[0, 2]]
    collected = collect_phase("initial collection", learner, state, lasting, np.random.SeedSequence(0))
    collected += collect_phase("collect", learner, state, lasting, np.random.SeedSequence(1))
    room = len(learner.memory(Clock(HORIZON), lasting, 1).arrays.observations)  # an episode has one more than steps
    assert sum(len(episode) + 1 for visit in collected for episode in visit.episodes) == room


def test_a_deterministic_context_has_no_spread() -> None:
    """Spec 1.3: z is 0 without context, and else what the context says."""
    for visit in collect(probabilistic_context=False):
        latents = [told_latent(episode) for episode in visit.episodes]
        first = visit.context_episodes + 1
        np.testing.assert_allclose(latents[:first], 0, atol=1e-6)
        codes = transition_codes(visit.episodes[: visit.context_episodes])
        for latent in latents[first:]:
            np.testing.assert_allclose(latent[1], POSTERIOR_MARK, atol=1e-5)
            assert abs(codes - latent[0]).min() < 1e-5


def test_the_seed_decides_what_is_collected() -> None:
    def numbers(seed: int) -> list[tuple[int, bytes]]:
        return [(visit.task, episode.actions.tobytes()) for visit in collect(seed) for episode in visit.episodes]

    first = numbers(1)
    with compilations() as later:
        assert numbers(1) == first
        assert set(numbers(2)).isdisjoint(first)
    assert not later


def test_context_of_the_replay_is_context_of_the_visit() -> None:
    """Offline evaluation infers from context data of the same task in the replay, and from nothing else there."""
    learner, state = learner_and_state(dataclasses.replace(TINY, evaluation_steps=10 * HORIZON))
    visits = collect()
    buffer = learner.memory(Clock(HORIZON), TASKS, 1)
    buffer.add(visits)
    latest = {visit.task: visit.episodes[: visit.context_episodes] for visit in visits}
    assert len(latest) == 4
    asked: list[Play] = []
    answers: list[Played] = []

    def play(plays: Sequence[Play]) -> list[Played]:
        asked.extend(plays)
        answers.extend(play_together(plays, Simulator(Clock(HORIZON), len(plays[0].tasks))))
        return answers[-1:]

    split = TaskSplit(TASKS, TASKS)
    schedule = learner.evaluate(state, buffer, Clock(HORIZON), split, np.random.SeedSequence(0))
    [(columns, _)] = run_schedules([schedule], play)
    offline, (trials, _) = asked[-1], answers[-1]
    assert offline.deterministic
    tasks = [TASKS.tolist().index(task) for task in offline.tasks.tolist()]
    assert sorted(tasks) == sorted([*range(4)] * 10)
    returns = [episode_return(trial[0], sparse=False) for trial in trials]
    assert columns["AverageTrainReturn_all_train_tasks"] == pytest.approx(np.mean(returns))
    found = set()
    for task, trial in zip(tasks, trials, strict=True):
        assert len(trial) == 1
        found.add((task, *source(told_latent(trial[0]), latest[task])))
    assert len(found) > 15


# Evaluation


def evaluate(
    tasks: Any, horizon: int, protocol: Protocol, config: PearlConfig, *, seed: int = 0, code_scale: float | None = None
) -> MetaTest:
    code_scale = 4 / horizon if code_scale is None else code_scale
    learner, state = learner_and_state(config, horizon, code_scale=code_scale)
    family = Clock(horizon, sparse=config.sparse_reward_in_context)
    tasks, entropy = np.array(tasks, np.float64), np.random.SeedSequence(seed)
    schedule = meta_test(learner.agent, learner.parameters(state), family, tasks, protocol, entropy)
    return run_schedule(schedule, Simulator(family, len(tasks) * protocol.trials))


def evaluation_config(steps: int, exploration: int, **changes: Any) -> PearlConfig:
    return dataclasses.replace(
        TINY, evaluation_steps=steps, exploration_episodes=exploration, evaluation_trials=2, **changes
    )


def assert_adapts(trial: list[Episode], exploration: int, horizon: int, *, sparse: bool = False) -> None:
    """Exploration with the prior, then z from the posterior of everything so far; deterministic actions throughout."""
    latents = [told_latent(episode) for episode in trial]
    assert from_prior(latents[:exploration])
    for number in range(exploration, len(trial)):
        everything = transition_codes(trial[:number], sparse=sparse)
        expected = [4 / horizon * everything.mean(), POSTERIOR_MARK]
        np.testing.assert_allclose(latents[number], expected, atol=NOISE / len(everything) ** 0.5 + 1e-5)
    assert all((episode.actions[:, 2] == 0).all() for episode in trial)


@pytest.mark.parametrize(
    ("horizon", "steps", "exploration", "episodes"), [(200, 600, 2, 3), (20, 400, 5, 20), (20, 60, 1, 3)]
)
def test_published_protocols(horizon: int, steps: int, exploration: int, episodes: int) -> None:
    config = evaluation_config(steps, exploration)
    protocol = config.protocol(horizon)
    assert protocol.minimum_episodes(horizon) == episodes
    tasks = [[0.0, NEVER], [0.1, NEVER], [0.0, NEVER]]
    evaluation, played, belief = evaluate(tasks, horizon, protocol, config)
    priors = []
    for (label, _), trials, results in zip(tasks, played, evaluation.trials, strict=True):
        assert len(trials) == len(results) == 2
        for trial, result in zip(trials, results, strict=True):
            assert len(trial) == episodes
            assert_adapts(trial, exploration, horizon)
            priors += [told_latent(episode) for episode in trial[:exploration]]
            assert result.lengths == (horizon,) * episodes
            np.testing.assert_allclose(result.returns, clock_return(label, horizon), rtol=1e-5)
            assert result.successes is None
    assert from_prior(priors)  # independent between trials and tasks, too
    # The last posterior, which is logged, is that of the whole trial.
    everything = [transition_codes(trial).mean() for trials in played for trial in trials]
    np.testing.assert_allclose(belief.mean[:, 0], np.array(everything) * 4 / horizon, rtol=1e-4)
    np.testing.assert_allclose(belief.variance, ALMOST_CERTAIN / (episodes * horizon), rtol=1e-3)


def test_early_termination_gives_more_episodes() -> None:
    config = evaluation_config(60, 1)
    tasks = [[0.0, 7], [0.1, NEVER], [0.2, 20], [0.3, 1]]
    evaluation, played, _ = evaluate(tasks, 20, config.protocol(20), config)
    for (label, length), trials, results in zip(tasks, played, evaluation.trials, strict=True):
        length = int(min(length, 20))
        for trial, result in zip(trials, results, strict=True):
            assert [len(episode) for episode in trial] == [length] * -(-60 // length)
            assert all(episode.terminated == (label != 0.1) for episode in trial)
            assert_adapts(trial, 1, 20)
            np.testing.assert_allclose(result.returns, clock_return(label, length), rtol=1e-5)
    assert evaluation.returns_by_episode.shape == (4, 3)  # cut to the shortest trial


def test_the_posterior_depends_on_the_rewards_that_were_seen() -> None:
    """And on nothing else of the task: a task differs from another by its rewards only once these have been seen."""
    config = evaluation_config(60, 2)
    protocol = config.protocol(20)
    (_, plain, _), (_, paid, _) = (evaluate([[label, NEVER]], 20, protocol, config) for label in (0.0, 0.1))
    for one, other in zip(plain[0], paid[0], strict=True):
        for first, second in zip(one[:2], other[:2], strict=True):
            np.testing.assert_array_equal(first.actions, second.actions)
            np.testing.assert_array_equal(first.observations[:, 1:], second.observations[:, 1:])
        difference = told_latent(other[2]) - told_latent(one[2])
        np.testing.assert_allclose(difference, [4 / 20 * 10 * 0.1, 0], atol=1e-4)


def test_stochastic_context_protocol() -> None:
    """As in the paper's time (spec 8): stochastic prior data, z from a few of them, one deterministic episode."""
    config = evaluation_config(60, 3, test_context="stochastic")
    protocol = config.protocol(HORIZON)
    assert protocol.minimum_episodes(HORIZON) == 4
    tasks = [[0.1 * number, NEVER] for number in range(8)]
    _, played, _ = evaluate(tasks, HORIZON, protocol, config, code_scale=1.0)
    sources = set()
    for trials in played:
        for trial in trials:
            assert [len(episode) for episode in trial] == [HORIZON] * 4
            assert from_prior([told_latent(episode) for episode in trial[:3]])
            noise = np.concatenate([episode.actions[:, 2] for episode in trial[:3]])
            assert len(set(noise)) == len(noise)
            assert (trial[3].actions[:, 2] == 0).all()
            sources.add(source(told_latent(trial[3]), trial[:3]))
    assert len(sources) > 6


def test_stochastic_exploration_is_counted_in_steps() -> None:
    """Episodes that terminate early make exploration no shorter: three horizons of prior data, then the posterior."""
    config = evaluation_config(60, 3, test_context="stochastic")
    length = HORIZON - 1
    _, played, _ = evaluate([[0.1, length], [0.2, NEVER]], HORIZON, config.protocol(HORIZON), config, code_scale=1.0)
    for trials, explored in zip(played, (-(-3 * HORIZON // length), 3), strict=True):
        for trial in trials:
            assert len(trial) == explored + 1
            assert from_prior([told_latent(episode) for episode in trial[:explored]])
            source(told_latent(trial[explored]), trial[:explored])


def test_sparse_rewards_in_context_and_returns() -> None:
    config = evaluation_config(40, 1, sparse_reward_in_context=True)
    protocol = config.protocol(20)
    assert protocol.sparse_returns
    tasks = [[0.0, 7], [0.1, NEVER]]
    evaluation, played, _ = evaluate(tasks, 20, protocol, config)
    for trials, paid in zip(played, (True, False), strict=True):
        for trial in trials:
            assert_adapts(trial, 1, 20, sparse=True)
            assert [sum(episode.sparse_rewards) for episode in trial] == [paid] * len(trial)  # pyright: ignore
    for results, paid in zip(evaluation.trials, (True, False), strict=True):
        for result in results:
            assert result.returns == (float(paid),) * len(result.lengths)
            assert result.successes == (paid,) * len(result.lengths)
    dense, _, _ = evaluate(tasks, 20, dataclasses.replace(protocol, sparse_returns=False), config)
    np.testing.assert_allclose(dense.trials[0][0].returns, clock_return(0.0, 7), rtol=1e-5)


def test_a_stochastic_policy_can_be_asked_for() -> None:
    config = evaluation_config(60, 1)
    protocol = dataclasses.replace(config.protocol(20), deterministic=False)
    _, played, _ = evaluate([[0.0, NEVER]], 20, protocol, config)
    noise = np.concatenate([episode.actions[:, 2] for episode in played[0][0]])
    assert len(set(noise)) == len(noise)


def test_results_by_hand() -> None:
    protocol = Protocol("by-hand", trials=2, steps=0, episodes=1, exploration_episodes=1)
    first = (TrialResult((1.0, 2.0, 6.0), (4, 4, 4), None), TrialResult((3.0, 4.0), (4, 4), None))
    second = (TrialResult((0.0, 1.0), (4, 3), None), TrialResult((2.0, 5.0, 9.0, 0.0), (1, 1, 1, 1), None))
    evaluation = Evaluation(protocol, np.array([[0.5], [1.5]]), (first, second))
    assert evaluation.final_returns.tolist() == [(6 + 4) / 2, (1 + 0) / 2]
    assert evaluation.returns_by_episode.tolist() == [[2.0, 3.0], [1.0, 3.0]]
    read = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert read["protocol"]["name"] == "by-hand"
    assert read["mean_return_by_episode"] == [1.5, 3.0]
    assert read["mean_final_return"] == 2.75
    assert [task["parameters"] for task in read["tasks"]] == [[0.5], [1.5]]
    assert read["tasks"][0]["trials"][0] == {"returns": [1.0, 2.0, 6.0], "lengths": [4, 4, 4], "successes": None}


@pytest.mark.parametrize(
    ("steps", "episodes", "stochastic_steps"), [(600, 1, 0), (0, 4, 0), (7, 2, 0), (7, 2, 9), (0, 1, 40), (21, 1, 1)]
)
def test_contexts_have_room_for_every_trial(steps: int, episodes: int, stochastic_steps: int) -> None:
    """The capacity is reached where episodes are as unlucky as can be, and never passed."""
    protocol = Protocol("any", 1, steps, episodes, 1, stochastic_steps=stochastic_steps)

    def worst(steps: int, episodes: int) -> int:
        """The longest part of a trial: the worst over the number of episodes that end at once, after one step."""
        longest = 0
        for short in range(max(steps, episodes) + 1):
            taken = played = short
            while taken < steps or played < episodes or not played:
                taken, played = taken + 20, played + 1
            longest = max(longest, taken if short < max(steps, episodes) else 0)
        return longest

    expected = worst(steps, episodes) + (worst(stochastic_steps, 0) if stochastic_steps else 0)
    assert protocol.capacity(20) == expected


# The belief itself

SIZES = Clock(HORIZON).sizes


def keys_of(n: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


def transitions(seed: int, n: int) -> Transition:
    numbers = jnp.asarray(np.random.default_rng(seed).standard_normal((n, 12), np.float32))
    reward = numbers[:, 11]
    return Transition(numbers[:, :4], numbers[:, 4:7], reward, 2 * reward, numbers[:, 7:11], jnp.zeros(n, bool))


@pytest.mark.parametrize(("probabilistic", "next_observation"), [(True, True), (False, False)])
def test_padding_does_not_leak_into_the_posterior(probabilistic: bool, next_observation: bool) -> None:
    config = dataclasses.replace(
        TINY, probabilistic_context=probabilistic, next_observation_in_context=next_observation, encoder_hidden_size=16
    )
    capacity, counts = 6, [0, 1, 4, 6]
    networks = initial_networks(config, SIZES, key=jax.random.key(1), precision="float32").acting
    agent = PearlAgent(config, SIZES, capacity, exploration_episodes=1)
    belief = agent.begin_trial(networks, keys_of(len(counts)), None)
    observe = jax.jit(agent.observe)
    rows = []
    for step in range(capacity + 3):  # the last three find no room, or are masked
        transition = transitions(step, len(counts))
        wanted = [min(count, 6) > step or (count == 6) for count in counts]
        belief = observe(networks, belief, transition, np.array(wanted))
        rows.append(context_rows(config, transition))
    assert belief.context_count.tolist() == counts
    unseen = jnp.arange(capacity)[None, :, None] >= belief.context_count[:, None, None]
    spoiled = belief._replace(context=jnp.where(unseen, 1e4, belief.context))
    inferred = jax.jit(agent.infer)(networks, spoiled, keys_of(len(counts)))
    infer_all = jax.jit(infer_posterior, static_argnums=1)
    for trial, count in enumerate(counts):
        if not count:
            assert inferred.mean[trial].tolist() == [0, 0]
            assert inferred.variance[trial].tolist() == [float(probabilistic)] * 2
            continue
        context = jnp.stack(rows[:count], axis=1)[trial : trial + 1]
        np.testing.assert_array_equal(belief.context[trial, :count], context[0])
        mean, variance = infer_all(networks.encoder, config, context)
        np.testing.assert_allclose(inferred.mean[trial], mean[0], rtol=1e-5)
        np.testing.assert_allclose(inferred.variance[trial], variance[0], rtol=1e-5)


def test_deterministic_latent_is_the_mean_of_the_encoded_transitions() -> None:
    config = dataclasses.replace(TINY, probabilistic_context=False)
    networks = initial_networks(config, SIZES, key=jax.random.key(1), precision="float32").acting
    context = jax.random.normal(jax.random.key(2), (2, 5, 8))
    mean, variance = infer_posterior(networks.encoder, config, context)
    expected = np.asarray(networks.encoder(context.reshape(10, 8)), np.float64).reshape(2, 5, 2).mean(axis=1)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert not np.asarray(variance).any()


def test_a_posterior_of_drawn_transitions_has_as_many_factors() -> None:
    config = dataclasses.replace(TINY, context_size=10)
    networks = transparent_networks(config, factor_variance=0.5).acting
    agent = PearlAgent(config, SIZES, 50, exploration_episodes=1, context_draw=10)
    belief = agent.begin_trial(networks, keys_of(200), None)
    # Rewards 1 and 2 in two of 50 places; the rest is out of the question.
    context = jnp.full((200, 50, 8), 1e3).at[:, :2].set(0).at[:, 0, 7].set(1).at[:, 1, 7].set(2)
    belief = belief._replace(context=context, context_count=jnp.repeat(jnp.array([2, 0]), 100))
    inferred = jax.jit(agent.infer)(networks, belief, keys_of(200, seed=1))
    np.testing.assert_allclose(inferred.variance[:100], 0.5 / 10, rtol=1e-4)
    np.testing.assert_array_equal(inferred.variance[100:], 1)
    np.testing.assert_array_equal(inferred.mean[100:], 0)
    twos = np.asarray(inferred.mean[:100, 0] - 1) * 10
    np.testing.assert_allclose(twos, twos.round(), atol=1e-3)
    assert abs(twos.mean() - 5) < 0.6  # 10 draws with replacement from two: half of them, give or take 1.6
    assert 1.2 < twos.std() < 2.0


def test_masked_trials_keep_their_belief() -> None:
    networks = transparent_networks(TINY, factor_variance=0.5).acting
    agent = PearlAgent(TINY, SIZES, 5, exploration_episodes=1)
    belief = agent.begin_trial(networks, keys_of(2), None)
    mask = jnp.array([True, False])
    keys = keys_of(2, seed=1)
    changed = agent.begin_episode(networks, belief, keys, mask)
    changed = agent.observe(networks, changed, transitions(0, 2), mask)
    changed = agent.end_episode(networks, changed, keys, mask)
    leaves = map(jax.tree_util.tree_leaves_with_path, (belief, changed))
    for (name, old), (_, new) in zip(*leaves, strict=True):
        np.testing.assert_array_equal(old[1], new[1], err_msg=str(name))
        assert not np.array_equal(old[0], new[0]), name
