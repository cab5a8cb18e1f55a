"""MELD's trials: what is drawn of them, and that what is trained on is what an agent saw and believed."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import run_trials

from nacre import acting
from nacre.agents.meld.agent import MeldAgent, RandomAgent, _split
from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.learner import MODEL, POLICY, MeldLearner
from nacre.agents.meld.losses import ActingNetworks, Frames, control_batch, filtered
from nacre.agents.meld.memory import TrialArrays, TrialMemory, draw_transitions, draw_trials, read_trials
from nacre.collect import play_together
from nacre.errors import NacreError
from nacre.interfaces import Play
from nacre.nn.gaussian import noise_of_trials
from nacre.replay import ReplayBuffer
from nacre.seeds import child, key_of
from nacre.tasks import Simulator, make_family
from nacre.tasks.family import Sizes, TaskFamily
from nacre.tasks.pixels import PixelFamily
from nacre.tasks.point import PointRobot
from nacre.types import Episode, Transition, Visit

HORIZON = 4
CONFIG = MeldConfig(
    base_depth=1,
    first_latent_size=3,
    second_latent_size=2,
    reward_repeats=2,
    episodes=2,
    episode_steps=HORIZON,
    initial_trials=2,
    rounds=3,
    model_trials=3,
    policy_trials=4,
    policy_batch_size=64,
    hidden_size=4,
)


class LeavingPoint(PointRobot):
    """Episodes end where the point is farther from the middle than its task says."""

    name = "leaving-point"
    horizon = HORIZON
    has_sparse_reward = True

    def sparse_reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return 1.0 * (self.reward(previous, action, following, task) > -1)

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return abs(following).max(axis=-1) > task[..., 0]


TASKS = np.array([[0.5, 0.0], [0.7, 0.4], [9.0, 0.3], [0.9, 0.9]])


@functools.cache
def networks() -> ActingNetworks:
    """Those of any of the configurations here."""
    learner = MeldLearner(CONFIG, Sizes((16, 16, 3), 2, HORIZON, 2))
    return learner.parameters(jax.jit(learner.initial_state)(jax.random.key(1)))


def memory_of(config: MeldConfig, family: TaskFamily, visits: list[Visit], tasks: np.ndarray = TASKS) -> TrialMemory:
    memory = MeldLearner(config, family.sizes).memory(family, tasks, 1)
    memory.add(visits)
    return memory


@pytest.mark.parametrize("context", ["dense", "sparse"])
def test_what_is_trained_on_is_what_the_agent_believed(context: Any) -> None:
    """Episodes end at different times. Each trial's last belief is that of the filter over the frames that are drawn,
    with the noise of the trial's keys."""
    config, family = replace(CONFIG, context_reward=context), PixelFamily(LeavingPoint(), size=16)
    params, seed = networks(), np.random.SeedSequence(4)
    agent = MeldAgent(config, family.sizes)
    with contextlib.closing(Simulator(family, len(TASKS), threads=1)) as simulator:
        played = run_trials(agent, params, simulator, TASKS, seed, episodes=2, deterministic=False)
    lengths = [[len(episode) for episode in trial] for trial in played.trials]
    assert lengths == [[3, 4], [1, 1], [4, 4], [1, 4]]
    visits = [Visit(task, tuple(trial)) for task, trial in enumerate(played.trials)]
    arrays = memory_of(config, family, visits).arrays
    n = len(TASKS)
    every = jnp.arange(n, dtype=jnp.int32)
    sources, numbers = jnp.stack([every, every], axis=1), jnp.tile(jnp.arange(2, dtype=jnp.int32)[None], (n, 1))
    frames = read_trials(arrays, config, sources, numbers, jnp.zeros_like(every))
    check_frames(frames, played.trials)

    noise = np.zeros((n, config.frames, config.latent_size), np.float32)
    keys = acting.trial_keys(key_of(child(seed, 0)), every)
    for trial, trial_lengths in enumerate(lengths):
        time = 0
        for episode, length in enumerate(trial_lengths):
            for step in range(length + 1):
                purpose = acting.Purpose.END_EPISODE if step == length else acting.Purpose.ACT
                time += step < length
                key = acting.keys_at(keys[trial : trial + 1], jnp.int32(time), purpose)
                key = key if step == length else _split(key)[0]
                noise[trial, episode * (HORIZON + 1) + step] = noise_of_trials(key, config.latent_size)[0]
    model = params.model
    seen = {"dense": frames.rewards, "sparse": frames.sparse_rewards, "none": jnp.zeros_like(frames.rewards)}[context]
    flat = frames.pictures.reshape(-1, *frames.pictures.shape[2:])
    embedded = model.embed(flat, seen.reshape(-1)).reshape(n, config.frames, -1)
    expected = model.filter(embedded, frames.actions, frames.mask, jnp.asarray(noise))
    np.testing.assert_allclose(played.belief.inferred.features, expected.features[:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(played.belief.inferred.latent, expected.latent[:, -1], rtol=1e-4, atol=1e-5)


def check_frames(frames: Frames, trials: list[list[Episode]]) -> None:
    """Every frame stands beside what led to it."""
    for trial, episodes in enumerate(trials):
        for number, episode in enumerate(episodes):
            start, length = number * (HORIZON + 1), len(episode)
            stretch = slice(start, start + length + 1)
            np.testing.assert_array_equal(frames.pictures[trial, stretch], episode.observations)
            later = slice(start + 1, start + length + 1)
            np.testing.assert_array_equal(frames.actions[trial, later], episode.actions)
            np.testing.assert_array_equal(frames.rewards[trial, later], episode.rewards)
            np.testing.assert_array_equal(frames.sparse_rewards[trial, later], episode.sparse_rewards)
            assert (frames.actions[trial, start] == 0).all()
            assert frames.rewards[trial, start] == frames.sparse_rewards[trial, start] == 0
            whole = slice(start, start + HORIZON + 1)
            there = np.arange(HORIZON + 1)
            np.testing.assert_array_equal(frames.mask[trial, whole], there <= length)
            np.testing.assert_array_equal(frames.acts[trial, whole], there < length)
            np.testing.assert_array_equal(frames.terminated[trial, whole], episode.terminated & (there == length))


def test_a_trial_depends_on_no_other() -> None:
    """Neither what is played nor the beliefs, bit for bit, although others end their episodes meanwhile."""
    family = PixelFamily(LeavingPoint(), size=16)
    params, seed = networks(), np.random.SeedSequence(4)
    play = Play(MeldAgent(CONFIG, family.sizes), params, TASKS, seed, deterministic=False, episodes=2)
    with contextlib.closing(Simulator(family, len(TASKS), threads=1)) as simulator:
        whole = play_together([play], simulator)[0]
    for trial in range(len(TASKS)):
        with contextlib.closing(Simulator(family, 1, threads=1)) as simulator:
            alone = play_together([play.part([trial])], simulator)[0]
        for ours, theirs in zip(alone.trials[0], whole.trials[trial], strict=True):
            np.testing.assert_array_equal(ours.observations, theirs.observations)
            np.testing.assert_array_equal(ours.actions, theirs.actions)
        for ours, theirs in zip(jax.tree.leaves(alone.belief), jax.tree.leaves(whole.belief), strict=True):
            np.testing.assert_array_equal(ours[0], theirs[trial])


def test_beliefs_outside_of_the_mask_stay() -> None:
    family = PixelFamily(LeavingPoint(), size=16)
    agent, params = MeldAgent(CONFIG, family.sizes), networks()
    keys, mask = jax.random.split(jax.random.key(0), 3), jnp.array([True, False, True])
    pictures = jnp.full((3, 16, 16, 3), 90, jnp.uint8)
    belief = agent.begin_trial(params, keys, None)
    everywhere = jnp.ones(3, bool)
    _, belief = agent.act(params, belief, pictures, keys, everywhere, False)
    transition: Any = (pictures, jnp.ones((3, 2)), jnp.ones(3), jnp.zeros(3), pictures + 1, jnp.zeros(3, bool))
    changes = [
        agent.act(params, belief, pictures, keys, mask, True)[1],
        agent.observe(params, belief, Transition(*transition), mask),
        agent.end_episode(params, belief, keys, mask),
    ]
    for changed in changes:
        moved = []
        for ours, theirs in zip(jax.tree.leaves(changed), jax.tree.leaves(belief), strict=True):
            np.testing.assert_array_equal(ours[1], theirs[1])
            moved.append(bool((ours[0] != theirs[0]).any()))
        assert any(moved)
    remembered = changes[1]
    begun = agent.begin_episode(params, remembered, keys, mask)
    assert begun.reward.tolist() == [0, 0, 0]
    assert begun.action.tolist() == [[0, 0], [0, 0], [0, 0]]
    np.testing.assert_array_equal(begun.inferred.latent, remembered.inferred.latent)


def numbered_episode(number: int, length: int = HORIZON) -> Episode:
    """Everything in it says which episode it is, and where."""
    steps = np.arange(length + 1)
    pictures = np.zeros((length + 1, 16, 16, 3), np.uint8)
    pictures[:] = (number * 8 + steps)[:, None, None, None]
    return Episode(
        pictures,
        np.tile(((number * 8 + steps[:-1]) / 256)[:, None], (1, 2)).astype(np.float32),
        (number + steps[1:] / 10).astype(np.float32),
        None,
        terminated=length < HORIZON,
    )


POINT = PixelFamily(PointRobot(), size=16)
POINT.horizon = HORIZON


def numbered_memory(config: MeldConfig) -> TrialArrays:
    """Three trials of two episodes in each of four tasks: episode 6 task + 2 trial + place."""
    visits = [
        Visit(task, tuple(numbered_episode(6 * task + 2 * trial + place) for place in range(2)))
        for trial in range(3)
        for task in range(4)
    ]
    return memory_of(config, POINT, visits).arrays


def numbers_of(frames: Frames) -> np.ndarray:
    """The numbers of the episodes of trials."""
    first = frames.pictures[:, :: HORIZON + 1, 0, 0, 0]
    assert (first % 8 == 0).all()
    return np.asarray(first) // 8


def test_consecutive_and_reassembled_trials() -> None:
    draws = {}
    for trials in ("consecutive", "reassembled"):
        config = replace(CONFIG, trials=trials)
        arrays = numbered_memory(config)
        draw = jax.jit(lambda key, arrays=arrays, config=config: draw_trials(arrays, config, 500, key))
        draws[trials] = numbers_of(draw(jax.random.key(0)))
        assert (draws[trials][:, 0] // 6 == draws[trials][:, 1] // 6).all()  # of one task
        counts = np.bincount(draws[trials][:, 0], minlength=24)
        assert (counts[: 24 : 2 if trials == "consecutive" else 1] > 5).all()  # all are drawn
    assert (draws["consecutive"][:, 0] % 2 == 0).all()
    np.testing.assert_array_equal(draws["consecutive"][:, 0] + 1, draws["consecutive"][:, 1])
    pairs = {(int(one) % 6, int(other) % 6) for one, other in draws["reassembled"]}
    assert len(pairs) == 36


@pytest.mark.parametrize("index", ["following", "published"])
def test_transitions_never_begin_in_last_frames(index: Any) -> None:
    config = replace(CONFIG, reward_index=index, reward_scale=2.0)
    visits = [Visit(task, (numbered_episode(2 * task, 1 + task), numbered_episode(2 * task + 1))) for task in range(4)]
    arrays = memory_of(config, POINT, visits).arrays
    params = networks()
    draw = jax.jit(lambda key: draw_transitions(arrays, config, key))
    build = jax.jit(control_batch, static_argnums=1)
    starts = set()
    for seed in range(20):
        batch = draw(jax.random.key(seed))
        pictures = np.asarray(batch.frames.pictures[..., 0, 0, 0]).reshape(-1).astype(int)
        code = pictures[batch.picked]  # 8 episode + step
        number, step = code // 8, code % 8
        length = np.where(number % 2 == 1, HORIZON, 1 + number // 2)
        assert (step < length).all()
        starts |= set(code.tolist())
        rows = build(params.model, config, batch, jax.random.key(0))
        np.testing.assert_array_equal(rows.actions[:, 0], (code / 256).astype(np.float32))
        rewards = number + (step + (index == "following")) / 10
        rewards = np.where((step == 0) & (index == "published"), 0, rewards)
        np.testing.assert_allclose(rows.rewards, 2 * rewards, rtol=1e-6)
        np.testing.assert_array_equal(pictures[batch.picked + 1], code + 1)
        np.testing.assert_array_equal(rows.terminated, (length < HORIZON) & (step + 1 == length))
        assert (rows.features != rows.next_features).any(axis=1).all()
    wanted = {8 * number + step for number in range(8) for step in range(HORIZON if number % 2 else 1 + number // 2)}
    assert starts == wanted


def test_a_pool_holds_filtered_trials_from_which_steps_draw_transitions() -> None:
    config = replace(CONFIG, policy_pool=6, policy_batch_size=500, reward_scale=2.0)  # 4 trials at once: 8
    visits = [Visit(task, (numbered_episode(2 * task, 1 + task), numbered_episode(2 * task + 1))) for task in range(4)]
    learner, memory = MeldLearner(config, POINT.sizes), memory_of(config, POINT, visits)
    state = jax.jit(learner.initial_state)(jax.random.key(1))
    pool = learner.derive(POLICY, state, memory, TASKS)
    assert pool is not None
    assert pool.features.shape == (8, config.frames, 2 * config.latent_size)
    assert learner.derive(MODEL, state, memory, TASKS) is None

    # Of the first trials by themselves: which they are follows from how many transitions there are.
    key = jax.random.fold_in(jax.random.key(0), sum(len(episode) for visit in visits for episode in visit.episodes))
    draw_key, filter_key = jax.random.split(jax.random.fold_in(key, 0))
    frames = draw_trials(memory.arrays, config, 4, draw_key)
    believed = jax.jit(filtered, static_argnums=1)(state.trained.networks.model, config, frames, filter_key)
    np.testing.assert_allclose(pool.features[:4], believed.features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(pool[1:], (frames.actions, frames.rewards, frames.terminated, frames.acts), strict=True):
        np.testing.assert_array_equal(ours[:4], theirs)

    again = learner.derive(POLICY, state, memory, TASKS)
    jax.tree.map(np.testing.assert_array_equal, pool, again)
    memory.add(visits[:1])
    other = learner.derive(POLICY, state, memory, TASKS)
    assert other is not None
    assert not np.array_equal(pool.features, other.features)

    batch = jax.jit(lambda key: learner.draw(POLICY, memory.arrays, pool, key))(jax.random.key(2))
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), pool)
    places = {row.tobytes(): place for place, row in enumerate(flat.features)}
    now = np.array([places[row.tobytes()] for row in np.asarray(batch.features)])
    assert set(now.tolist()) == set(np.flatnonzero(flat.acts).tolist())
    np.testing.assert_array_equal(batch.next_features, flat.features[now + 1])
    np.testing.assert_array_equal(batch.actions, flat.actions[now + 1])
    np.testing.assert_array_equal(batch.rewards, 2 * flat.rewards[now + 1])
    np.testing.assert_array_equal(batch.terminated, flat.terminated[now + 1])


def played_visits(family: TaskFamily, tasks: np.ndarray, episodes: int) -> list[Visit]:
    """One random trial in each task, with what rewards are computed from."""
    agent = RandomAgent(family.action_size)
    play = Play(agent, None, tasks, np.random.SeedSequence(5), False, episodes=episodes, keeps_reward_states=True)
    with contextlib.closing(Simulator(family, len(tasks), threads=1)) as simulator:
        trials = play_together([play], simulator)[0].trials
    return [Visit(task, tuple(trial)) for task, trial in enumerate(trials)]


def test_random_actions_fill_the_square() -> None:
    actions = np.concatenate(
        [episode.actions for visit in played_visits(POINT, TASKS, 20) for episode in visit.episodes]
    )
    assert np.abs(actions.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(actions.std(axis=0), 3**-0.5, atol=0.05)
    assert actions.min() >= -1
    assert actions.max() <= 1


def test_relabelled_trials_have_the_rewards_of_their_task() -> None:
    """They are those that the simulator would have given."""
    family = PixelFamily(LeavingPoint(), size=16)
    config = replace(CONFIG, relabelled_share=0.5)
    visits = played_visits(family, TASKS, 2)
    arrays = memory_of(config, family, visits).arrays
    assert arrays.rewards.shape[1] == len(TASKS)
    every = jnp.arange(4, dtype=jnp.int32)
    for task in range(4):
        sources, numbers = jnp.stack([every, every], axis=1), jnp.tile(jnp.arange(2, dtype=jnp.int32)[None], (4, 1))
        frames = read_trials(arrays, config, sources, numbers, jnp.full(4, task, jnp.int32))
        for source, visit in enumerate(visits):
            for number, episode in enumerate(visit.episodes):
                check_end(frames, source, number, episode, TASKS[task])
                later = slice(number * (HORIZON + 1) + 1, number * (HORIZON + 1) + 1 + len(episode))
                positions = episode.reward_states[1:]  # pyright: ignore[reportOptionalSubscript]
                expected = -np.linalg.norm(positions - TASKS[task][None], axis=1)
                np.testing.assert_allclose(frames.rewards[source, later], expected, rtol=1e-5)
                np.testing.assert_array_equal(frames.sparse_rewards[source, later], expected > -1)
                if source == task:
                    np.testing.assert_array_equal(frames.rewards[source, later], episode.rewards)
    drawn = jax.jit(lambda key: draw_trials(arrays, config, 2000, key))(jax.random.key(0))
    pictures = {visit.episodes[0].observations[0].tobytes(): task for task, visit in enumerate(visits)}
    own = 0
    for trial in range(2000):
        source = pictures[np.asarray(drawn.pictures[trial, 0]).tobytes()]
        first = visits[source].episodes[0]
        own += float(drawn.rewards[trial, 1]) == float(first.rewards[0])
    assert 0.5 + 0.5 / 4 - 0.05 < own / 2000 < 0.5 + 0.5 / 4 + 0.05  # another task may be the same


def check_end(frames: Frames, trial: int, number: int, episode: Episode, task: np.ndarray) -> None:
    """It ends with the first frame in which the task ends it, and goes on past the end that it had in its own."""
    assert episode.reward_states is not None
    outside = abs(episode.reward_states[1:]).max(axis=1) > task[0]
    steps = int(np.argmax(outside)) + 1 if outside.any() else len(episode)
    rows = slice(number * (HORIZON + 1), (number + 1) * (HORIZON + 1))
    place = np.arange(HORIZON + 1)
    np.testing.assert_array_equal(frames.mask[trial, rows], place <= steps)
    np.testing.assert_array_equal(frames.acts[trial, rows], place < steps)
    np.testing.assert_array_equal(frames.terminated[trial, rows], (place == steps) & outside.any())


def test_what_repair_left_of_a_trial_is_not_taken() -> None:
    """Or the trials after it would begin with its second episode."""
    episodes = [numbered_episode(number) for number in range(5)]
    visits = [Visit(0, tuple(episodes[:2])), Visit(0, (episodes[2],)), Visit(0, tuple(episodes[3:]))]
    others = [Visit(task, (numbered_episode(20 + task), numbered_episode(25 + task))) for task in range(1, 4)]
    drawn: dict[str, Any] = {}
    for trials in ("consecutive", "reassembled"):
        config = replace(CONFIG, trials=trials)
        arrays = memory_of(config, POINT, [*visits, *others]).arrays
        draw = jax.jit(lambda key, arrays=arrays, config=config: draw_trials(arrays, config, 300, key))
        drawn[trials] = {tuple(pair) for pair in numbers_of(draw(jax.random.key(0))).tolist()}
    assert {pair for pair in drawn["consecutive"] if pair[0] < 20} == {(0, 1), (3, 4)}
    assert {number for pair in drawn["reassembled"] for number in pair if number < 20} == {0, 1, 2, 3, 4}


def test_a_task_of_which_repair_left_no_whole_trial() -> None:
    """Drawing would read the trials of another task."""
    learner = MeldLearner(CONFIG, POINT.sizes)
    whole = [Visit(task, (numbered_episode(task), numbered_episode(10 + task))) for task in (0, 1, 3)]
    memory = learner.memory(POINT, TASKS, 1)
    memory.check()  # before the first iteration nobody has any
    memory.add([*whole, Visit(2, (numbered_episode(2),))])
    with pytest.raises(NacreError, match="train task 2 has no whole trial left: nacre repair dropped"):
        learner.derive(MODEL, jax.eval_shape(learner.initial_state, jax.random.key(0)), memory, TASKS)
    memory.add([Visit(2, (numbered_episode(2), numbered_episode(12)))])
    memory.check()


def test_episodes_of_an_earlier_run() -> None:
    """They are mixed in with their share, put together in any order, and belong to the same task."""
    for trials in ("consecutive", "reassembled"):
        config = replace(CONFIG, offline_run="elsewhere", offline_share=0.3, trials=trials)
        online = [Visit(task, tuple(numbered_episode(4 * task + place) for place in range(2))) for task in range(4)]
        offline = [
            Visit(task, (numbered_episode(4 * task + 2 + number),), relabelled=True)
            for task in range(3)  # the last one has none
            for number in range(2)
        ]
        learner = MeldLearner(config, POINT.sizes)
        memory = TrialMemory(_replay_of_both(learner), POINT, TASKS, every=False, trial=2, latest=4)
        memory.add([*online, *offline])
        arrays = memory.arrays
        drawn = numbers_of(jax.jit(lambda key: draw_trials(arrays, config, 3000, key))(jax.random.key(0)))  # noqa: B023
        assert (drawn[:, 0] // 4 == drawn[:, 1] // 4).all()
        is_offline = drawn % 4 >= 2
        tasks = drawn[:, 0] // 4
        assert not is_offline[tasks == 3].any()
        np.testing.assert_allclose(is_offline[tasks < 3].mean(), 0.3, atol=0.03)
        whole = (is_offline[:, 0] == is_offline[:, 1]).mean()
        assert whole == 1 if trials == "consecutive" else whole < 0.9
        of_both = drawn[is_offline.all(axis=1)] % 4
        assert {(2, 2), (2, 3), (3, 2), (3, 3)} == {tuple(pair) for pair in of_both.tolist()}
        mixed = drawn[~is_offline.any(axis=1)] % 4
        assert ({(0, 1)} == {tuple(pair) for pair in mixed.tolist()}) == (trials == "consecutive")


def _replay_of_both(learner: MeldLearner) -> Any:
    return ReplayBuffer(8, learner.sizes, has_sparse_reward=False, transitions=20, fullest_task=8)


def test_what_the_latest_trials_came_to() -> None:
    """Means over as many episodes as there is room for, without those of an earlier run; NaN before there are any."""
    memory = TrialMemory(
        _replay_of_both(MeldLearner(CONFIG, POINT.sizes)), POINT, TASKS, every=False, trial=2, latest=4
    )
    assert {name: np.isnan(value) for name, value in memory.latest_results().items()} == {
        "AverageReturn_collected": True,
        "AverageLength_collected": True,
        "AverageScore_collected": True,
    }
    episodes = [
        replace(numbered_episode(number), rewards=np.full(HORIZON, -1.0 * number, np.float32)) for number in range(8)
    ]
    memory.add([Visit(0, tuple(episodes[:2])), Visit(1, tuple(episodes[2:4]))])
    memory.add([Visit(0, (episodes[7],), relabelled=True), Visit(2, tuple(episodes[4:6]))])
    found = memory.latest_results()
    assert found["AverageReturn_collected"] == -HORIZON * np.mean([2, 3, 4, 5])
    assert found["AverageLength_collected"] == HORIZON


def test_the_memory_grows() -> None:
    """The table of rewards with the replay; every frame stays where it is."""
    memory = TrialMemory(
        _replay_of_both(MeldLearner(CONFIG, POINT.sizes)), POINT, TASKS, every=False, trial=2, latest=4
    )
    for round_ in range(5):
        memory.add([Visit(round_ % 4, tuple(numbered_episode(2 * round_ + place) for place in range(2)))])
    memory.add([])
    arrays = memory.arrays
    assert int(arrays.replay.counts.sum()) == 5 * 2 * HORIZON
    tasks, numbers = jnp.array([[0, 0]], jnp.int32), jnp.array([[2, 3]], jnp.int32)
    frames = read_trials(arrays, CONFIG, tasks, numbers, jnp.zeros(1, jnp.int32))
    assert numbers_of(frames).tolist() == [[8, 9]]
    np.testing.assert_allclose(frames.rewards[0], [0, 8.1, 8.2, 8.3, 8.4, 0, 9.1, 9.2, 9.3, 9.4], rtol=1e-6)


def test_sizes_of_the_point_robot() -> None:
    assert make_family("point-robot-pixels").sizes == Sizes((64, 64, 3), 2, 20, 2)
    assert make_family("point-robot-pixels", size=32).sizes.observation == (32, 32, 3)
