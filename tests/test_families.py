"""Task families: task lists to the digit, rewards against an independent computation, sizes, splits, the registry."""

from typing import Any

import jax
import numpy as np
import pytest
from extras import NEEDS_METAWORLD

from nacre.errors import NacreError
from nacre.tasks import (
    FAMILIES,
    Simulator,
    TaskFamily,
    TaskSplit,
    list_families,
    make_family,
    register_family,
    split_tasks,
)
from nacre.tasks.family import check_family

REWARD_STATES = {
    "point-robot": 2,
    "sparse-point-robot": 2,
    "cheetah-vel": 3,
    "cheetah-dir": 3,
    "cheetah-multi-task": 3,
    "cheetah-rand-damping": 3,
    "cheetah-vel-10hz": 3,
    "cheetah-vel-sparse": 3,
    "cheetah-goal-sparse": 3,
    "cheetah-multi-task-sparse": 3,
    "ant-dir": 87,
    "ant-random-dir": 87,
    "ant-goal": 87,
    "ant-dir-weighted": 87,
    "ant-vel": 87,
    "ant-vel-sparse": 87,
    "ant-goal-sparse": 87,
    "humanoid-dir": 87,
    "walker-rand-params": 18,
    "hopper-rand-params": 12,
    "walker-vel": 18,
    "hopper-vel": 12,
    "walker-vel-sparse": 18,
    "hopper-vel-sparse": 12,
    "sawyer-reach-sparse": 9,
    "sawyer-push-sparse": 9,
    "sawyer-reacher": 3,
    "sawyer-peg": 3,
    "sawyer-buttons": 3,
    "sawyer-shelf": 6,
    "ant-dir-without-forces": 87,
    "ant-random-dir-without-forces": 87,
    "ant-goal-without-forces": 87,
    "humanoid-dir-without-forces": 87,
}
"""Every family, and the size of its reward state."""
ALL = list(REWARD_STATES)
PUBLISHED = [
    "cheetah-vel-10hz",
    "point-robot",
    "sparse-point-robot",
    "cheetah-vel",
    "cheetah-dir",
    "ant-dir",
    "ant-dir-without-forces",
    "ant-dir-weighted",
    "sawyer-peg",
    "sawyer-buttons",
    "sawyer-shelf",
]
"""Those whose task list the original code always draws the same."""


def test_published_cheetah_velocities():
    split = split_tasks(make_family("cheetah-vel"), 100, 30, seed=0, task_list="published")
    first, last = split.train[:5, 0], split.test[-5:, 0]
    np.testing.assert_allclose(first, [0.786074, 0.476052, 0.834380, 1.377951, 0.963002], rtol=0, atol=5e-7)
    np.testing.assert_allclose(last, [2.046521, 1.443656, 2.809525, 1.744196, 0.558322], rtol=0, atol=5e-7)
    assert split.train.shape == (100, 1)
    assert split.test.shape == (30, 1)
    assert split.train.mean() == pytest.approx(1.52457, abs=5e-6)
    assert split.test.mean() == pytest.approx(1.41769, abs=5e-6)


@pytest.mark.parametrize(
    ("name", "goals"),
    [
        ("point-robot", [(-0.475951, -0.682632), (-0.443747, -0.081366), (-0.357999, 0.036786)]),
        ("sparse-point-robot", [(0.997987, 0.063424), (0.047582, 0.998867), (-0.916108, 0.400931)]),
    ],
)
def test_published_goals(name, goals):
    split = split_tasks(make_family(name), 80, 20, seed=0, task_list="published")
    np.testing.assert_allclose(split.train[:3], goals, rtol=0, atol=5e-7)
    assert (split.train.shape, split.test.shape) == ((80, 2), (20, 2))
    np.testing.assert_array_equal(np.concatenate([split.train, split.test]), make_family(name).published_tasks(100))


def test_task_lists_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ALL:
        for task_list in ("published", "seeded") if name in PUBLISHED else ("seeded", "shared"):
            split_tasks(make_family(name), 2, 2, seed=3, task_list=task_list)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("name", [name for name in ALL if make_family(name).finite_tasks is None])
def test_seeded_tasks_are_disjoint_and_belong_to_the_seed(name):
    family = make_family(name)
    if name == "cheetah-multi-task":  # some of its kinds have no more than two tasks
        family = make_family(name, variants=("velocity", "goal"))
    split = split_tasks(family, 50, 20, seed=7, task_list="seeded")
    again = split_tasks(family, 50, 20, seed=7, task_list="seeded")
    other = split_tasks(family, 50, 20, seed=8, task_list="seeded")
    rows = {tuple(row) for row in np.concatenate([split.train, split.test])}
    assert len(rows) == 70
    np.testing.assert_array_equal(split.train, again.train)
    np.testing.assert_array_equal(split.test, again.test)
    assert not np.any((split.train == other.train).all(axis=1))
    # More test tasks do not change the train tasks.
    np.testing.assert_array_equal(split_tasks(family, 50, 3, 7, "seeded").train, split.train)
    # Shared tasks are the train tasks.
    shared = split_tasks(family, 50, 20, 7, "shared")
    np.testing.assert_array_equal(shared.train, split.train)
    np.testing.assert_array_equal(shared.test, split.train[30:])


@pytest.mark.parametrize("name", ALL)
def test_published_lists_are_those_of_seeded_families(name):
    family = make_family(name)
    assert family.has_published_tasks == (name in PUBLISHED)
    if name not in PUBLISHED:
        with pytest.raises(NacreError, match=f"The family {name} has no published task list"):
            split_tasks(family, 2, 2, seed=0, task_list="published")


def test_seeded_tasks_cover_their_ranges():
    generator = np.random.default_rng(0)
    velocities = make_family("cheetah-vel").sample_tasks(generator, 2000)
    assert 0 <= velocities.min() < 0.01
    assert 2.99 < velocities.max() <= 3
    goals = make_family("point-robot").sample_tasks(generator, 2000)
    assert goals.min() < -0.99
    assert goals.max() > 0.99
    goals = make_family("sparse-point-robot").sample_tasks(generator, 2000)
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1)
    assert goals[:, 1].min() >= 0
    assert goals[:, 0].min() < -0.99


@pytest.mark.parametrize("task_list", ["published", "seeded", "shared"])
@pytest.mark.parametrize(("name", "tasks"), [("cheetah-dir", [[-1], [1]]), ("ant-dir", [[1, 0], [-1, 0]])])
def test_both_directions_are_train_and_test_tasks(name, tasks, task_list):
    split = split_tasks(make_family(name), 2, 2, seed=0, task_list=task_list)
    np.testing.assert_array_equal(split.train, tasks)
    np.testing.assert_array_equal(split.test, tasks)


def test_more_test_tasks_than_can_be_shared():
    with pytest.raises(NacreError, match="test_tasks is 3, but only 2 train tasks"):
        split_tasks(make_family("ant-random-dir"), 2, 3, seed=0, task_list="shared")


@pytest.mark.parametrize(
    ("name", "train", "test", "message"),
    [
        ("cheetah-vel", 0, 1, "train_tasks must be at least 1"),
        ("cheetah-vel", 1, -3, "test_tasks must be at least 1, and -3"),
        ("cheetah-dir", 3, 1, "train_tasks is 3, but the family cheetah-dir has only 2 tasks"),
    ],
)
def test_impossible_numbers_of_tasks(name, train, test, message):
    with pytest.raises(NacreError, match=message):
        split_tasks(make_family(name), train, test, seed=0, task_list="seeded")


@pytest.mark.parametrize(
    ("name", "observation", "action", "horizon"),
    [
        ("point-robot", 2, 2, 20),
        ("sparse-point-robot", 2, 2, 20),
        ("cheetah-vel", 20, 6, 200),
        ("cheetah-dir", 20, 6, 200),
        ("cheetah-multi-task", 20, 6, 200),
        ("cheetah-rand-damping", 17, 6, 200),
        ("cheetah-vel-sparse", 20, 6, 200),
        ("cheetah-goal-sparse", 20, 6, 200),
        ("cheetah-multi-task-sparse", 20, 6, 200),
        ("ant-dir", 27, 8, 200),
        ("ant-random-dir", 27, 8, 200),
        ("ant-goal", 113, 8, 200),
        ("ant-dir-weighted", 30, 8, 200),
        ("ant-vel", 30, 8, 200),
        ("ant-vel-sparse", 30, 8, 200),
        ("ant-goal-sparse", 116, 8, 200),
        ("humanoid-dir", 376, 17, 200),
        ("walker-rand-params", 17, 6, 200),
        ("hopper-rand-params", 11, 3, 200),
        ("walker-vel", 17, 6, 200),
        ("hopper-vel", 14, 3, 200),
        ("walker-vel-sparse", 17, 6, 200),
        ("hopper-vel-sparse", 14, 3, 200),
        pytest.param("sawyer-reach-sparse", 6, 4, 150, marks=NEEDS_METAWORLD),
        pytest.param("sawyer-push-sparse", 6, 4, 150, marks=NEEDS_METAWORLD),
        ("sawyer-reacher", 17, 7, 40),
        ("sawyer-peg", 17, 7, 40),
        ("sawyer-buttons", 17, 7, 40),
        ("sawyer-shelf", 18, 9, 40),
    ],
)
def test_sizes(name, observation, action, horizon):
    family = make_family(name)
    assert (family.observation_size, family.action_size, family.horizon) == (observation, action, horizon)
    simulator = Simulator(family, 2, threads=1)
    observations, _ = simulator.reset(seed=0, options={"tasks": family.sample_tasks(np.random.default_rng(0), 2)})
    assert observations.shape == (2, observation)
    assert observations.dtype == np.float32
    simulator.close()


def test_point_rewards_by_hand():
    state = np.array([[0.3, 0.4], [0.95, 0.0], [0.7, 0.0]])
    goal = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    family = make_family("sparse-point-robot")
    rewards = family.reward(np.zeros((3, 2)), np.zeros((3, 2)), state, goal)
    np.testing.assert_allclose(rewards, [-0.5, -0.05, -0.3])
    sparse = family.sparse_reward(np.zeros((3, 2)), np.zeros((3, 2)), state, goal)
    np.testing.assert_allclose(sparse, [0, 0.95, 0])
    dense = make_family("point-robot").reward(np.zeros((3, 2)), np.zeros((3, 2)), state, goal)
    np.testing.assert_array_equal(dense, rewards)


def test_cheetah_rewards_by_hand():
    previous, following = np.array([[1.0], [1.0]]), np.array([[1.1], [0.9]])  # 2 m/s forward, 2 m/s backward
    action = np.array([[1.0, 0, 0, 0, 0, 0], [0.5, -0.5, 0, 0, 0, 0]])
    velocity = make_family("cheetah-vel").reward(previous, action, following, np.array([[0.5], [0.5]]))
    np.testing.assert_allclose(velocity, [-1.5 - 0.05, -2.5 - 0.025])
    direction = make_family("cheetah-dir").reward(previous, action, following, np.array([[-1.0], [-1.0]]))
    np.testing.assert_allclose(direction, [-2 - 0.05, 2 - 0.025])


def test_point_successes_by_hand():
    state = np.array([[0.3, 0.4], [0.85, 0.0], [0.7, 0.0], [0.79, 0.0]])
    goal = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.0]])
    for name, at in (("point-robot", "end"), ("sparse-point-robot", "any"), ("point-robot-pixels", "end")):
        family = make_family(name)
        assert (family.has_success, family.success_at) == (True, at)
        successes = family.success(np.zeros((4, 2)), np.zeros((4, 2)), state, goal)
        np.testing.assert_array_equal(successes, [False, True, False, True])


@pytest.mark.parametrize("name", ["cheetah-vel", "cheetah-vel-pixels"])
def test_cheetah_successes_by_hand(name):
    family = make_family(name)
    assert (family.has_success, family.success_at) == (True, "end")
    previous, following = np.full((4, 1), 1.0), np.array([[1.1], [1.1], [1.1], [0.9]])  # 2 m/s, and -2 m/s
    successes = family.success(previous, np.zeros((4, 6)), following, np.array([[1.8], [2.29], [1.6], [2.0]]))
    np.testing.assert_array_equal(successes, [True, True, False, False])


WITH_SUCCESS = [
    "sawyer-reach-sparse",
    "sawyer-push-sparse",
    "sawyer-reacher",
    "sawyer-peg",
    "sawyer-buttons",
    "sawyer-shelf",
    "point-robot",
    "sparse-point-robot",
    "cheetah-vel",
    "cheetah-vel-10hz",
    "cheetah-goal-sparse",
]


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITH_SUCCESS])
def test_families_whose_success_nobody_defined(name):
    family = make_family(name)
    assert not family.has_success
    with pytest.raises(NotImplementedError, match=f"{name} does not say what a success is"):
        family.success(None, None, None, None)


@pytest.mark.parametrize("name", ALL)
def test_rewards_are_the_same_function_in_numpy_and_jax_and_for_any_leading_axes(name):
    family = make_family(name)
    generator = np.random.default_rng(0)
    previous, following = generator.normal(size=(2, 3, 4, REWARD_STATES[name])).astype(np.float32)
    action = generator.uniform(-1, 1, (3, 4, family.action_size)).astype(np.float32)
    task = family.sample_tasks(generator, 12).reshape(3, 4, -1).astype(np.float32)
    rewards = [family.reward] + ([family.sparse_reward] if family.has_sparse_reward else [])
    rewards += [family.success] if family.has_success else []
    rewards += [family.measured] if family.quantity is not None else []
    for reward in rewards:
        batched = reward(previous, action, following, task)
        assert batched.shape == (3, 4)
        single = reward(previous[1, 2], action[1, 2], following[1, 2], task[1, 2])
        np.testing.assert_allclose(single, batched[1, 2], rtol=1e-6)
        traced = jax.jit(reward)(previous, action, following, task)
        np.testing.assert_allclose(traced, batched, rtol=1e-5, atol=1e-6)


TERMINATING: dict[str, dict[str, Any]] = {
    name: {"terminates": True}
    for name in ALL
    if name.endswith(("-vel", "-vel-sparse", "-weighted")) or name.startswith("cheetah")
}
"""Families that end only if they are asked to."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NEEDS_METAWORLD if name in ("sawyer-reach-sparse", "sawyer-push-sparse") else ())
        for name in ALL
    ],
)
def test_rewards_of_replay_are_those_of_stepping(name):
    """What the simulator paid, counted as a success and took for an end, computed again for all steps at once."""
    family = make_family(name, **TERMINATING.get(name, {}))
    generator = np.random.default_rng(4)
    tasks = family.sample_tasks(generator, 3)
    simulator = Simulator(family, 3, threads=1)
    simulator.reset(seed=1, options={"tasks": tasks})
    actions = generator.uniform(-1, 1, (12, 3, family.action_size)).astype(np.float32)
    states, stepped = [simulator.reward_states], []
    for action in actions:
        _, rewards, terminations, _, infos = simulator.step(action)
        active = infos["active"]
        seen = [rewards, terminations, infos.get("sparse_reward", rewards), infos.get("success", terminations)]
        stepped.append([np.where(active, column, 0) for column in seen])
        states.append(simulator.reward_states)
        if not (active & ~terminations).all():
            break
    simulator.close()
    states, actions = np.array(states), actions[: len(stepped)].astype(np.float64)
    transition = states[:-1], actions, states[1:], tasks
    stepped = np.array(stepped).transpose(1, 0, 2)
    np.testing.assert_array_equal(family.reward(*transition), stepped[0])
    np.testing.assert_array_equal(family.terminated(*transition), stepped[1])
    if family.has_sparse_reward:
        np.testing.assert_array_equal(family.sparse_reward(*transition), stepped[2])
    if family.has_success:
        np.testing.assert_array_equal(family.success(*transition), stepped[3])
    assert family.measured(*transition).shape == stepped[0].shape
    target = family.target(tasks)
    assert target is None or target.shape == (3,)


@pytest.mark.parametrize("name", TERMINATING)
def test_optional_terminations_are_the_same_function_in_numpy_and_jax(name):
    following = np.random.default_rng(0).normal(0.9, 1.5, (5, 40, REWARD_STATES[name])).astype(np.float32)
    family = make_family(name, **TERMINATING[name])
    ended = family.terminated(following, None, following, None)
    assert 0 < ended.sum() < ended.size
    np.testing.assert_array_equal(jax.jit(lambda state: family.terminated(state, None, state, None))(following), ended)
    assert not make_family(name).terminated(following, None, following, None).any()
    with pytest.raises(NacreError, match=f"terminates of {name} is 1; allowed: true or false"):
        make_family(name, terminates=1)


@pytest.mark.parametrize(
    "name",
    [
        "ant-dir",
        "ant-random-dir",
        "ant-goal",
        "ant-goal-sparse",
        "humanoid-dir",
        "walker-rand-params",
        "hopper-rand-params",
    ],
)
def test_terminations_are_the_same_function_in_numpy_and_jax(name):
    family = make_family(name)
    following = np.random.default_rng(0).normal(0.9, 0.4, (5, 40, REWARD_STATES[name])).astype(np.float32)
    action, task = np.zeros(family.action_size), np.zeros(len(family.task_parameters))
    ended = family.terminated(following, action, following, task)
    assert ended.shape == (5, 40)
    assert ended.any() == (name != "ant-goal")
    assert not ended.all()
    if name != "ant-goal":  # which never ends, and does not look
        np.testing.assert_array_equal(jax.jit(family.terminated)(following, action, following, task), ended)


def test_doing_nothing_in_cheetah_vel_returns_what_was_published():
    """-283.5 over the 30 test tasks (spec section 6.3); the first evaluation of real logs: -281."""
    family = make_family("cheetah-vel")
    tasks = split_tasks(family, 100, 30, seed=0, task_list="published").test
    simulator = Simulator(family, 30)
    simulator.reset(seed=0, options={"tasks": tasks})
    rewards = np.array([simulator.step(np.zeros((30, 6), np.float32))[1] for _ in range(family.horizon)])
    simulator.close()
    # Its feet slip a little on landing: the return is not exactly minus 200 target velocities.
    assert rewards.sum(axis=0).mean() == pytest.approx(-283.5, abs=1.5)
    assert -family.horizon * tasks.mean() == pytest.approx(-283.5, abs=0.1)


def test_doing_nothing_in_cheetah_dir_returns_nothing_on_average():
    family = make_family("cheetah-dir")
    simulator = Simulator(family, 2)
    # The same seed, so the same fall, seen from the two directions.
    simulator.reset(seed=[5, 5], options={"tasks": np.array([[-1.0], [1.0]])})
    rewards = np.array([simulator.step(np.zeros((2, 6), np.float32))[1] for _ in range(family.horizon)])
    simulator.close()
    np.testing.assert_array_equal(rewards[:, 0], -rewards[:, 1])
    assert np.any(rewards != 0)


def test_unknown_family_names_its_neighbours():
    with pytest.raises(NacreError, match="cheetah-vel"):
        make_family("cheeta-vel")
    with pytest.raises(NacreError, match="point-robot"):
        make_family("zzz")


def test_registering_a_family():
    register_family("test-family", FAMILIES["point-robot"])
    try:
        assert "test-family" in list_families()
        assert make_family("test-family").name == "point-robot"
        with pytest.raises(NacreError, match="already"):
            register_family("test-family", FAMILIES["point-robot"])
    finally:
        del FAMILIES["test-family"]


class Numbered(TaskFamily):
    """Fifty tasks with numbers, drawn one by one."""

    name = "numbered"
    observation_size, action_size, horizon = 2, 1, 5
    task_parameters = ("number",)
    tasks_there_are = 50

    def sample_tasks(self, generator, n):
        return generator.integers(self.tasks_there_are, size=(n, 1)).astype(np.float64)

    def reward(self, previous, action, following, task):
        return -abs(following[..., 0] - task[..., 0])

    def make_world(self, n_slots, threads):
        raise NotImplementedError


@pytest.mark.parametrize("seed", range(5))
def test_numbered_tasks_are_held_out(seed):
    """Separate draws alone had 7 or 8 of 10 test tasks among 40 of 50 train tasks."""
    split = split_tasks(Numbered(), 40, 10, seed, "seeded")
    assert set(split.train[:, 0]) | set(split.test[:, 0]) == set(range(50))
    shared = split_tasks(Numbered(), 40, 10, seed, "shared")
    np.testing.assert_array_equal(shared.train, split.train)
    np.testing.assert_array_equal(split_tasks(Numbered(), 40, 3, seed, "seeded").train, split.train)


def test_draws_without_equal_rows_are_as_they_were():
    """Pinned: the lists that runs have drawn from these seeds so far."""
    split = split_tasks(make_family("cheetah-vel"), 2, 2, seed=1, task_list="seeded")
    train_seed, test_seed = np.random.SeedSequence(1).spawn(2)
    np.testing.assert_array_equal(split.train, np.random.default_rng(train_seed).uniform(0, 3, (2, 1)))
    np.testing.assert_array_equal(split.test, np.random.default_rng(test_seed).uniform(0, 3, (2, 1)))


def test_more_different_tasks_than_there_are():
    message = (
        r"51 different tasks of numbered are asked for \(train_tasks \+ test_tasks\), and in 1000 rounds "
        "sample_tasks of Numbered gave only 50: ask for fewer, or list all tasks of the family in its finite_tasks"
    )
    with pytest.raises(NacreError, match=message):
        split_tasks(Numbered(), 41, 10, 0, "seeded")


def numbered(**attributes):
    return type("Odd", (Numbered,), attributes)()


@pytest.mark.parametrize(
    ("sample_tasks", "message"),
    [
        (lambda self, generator, n: np.arange(5.0)[:, None], "sample_tasks of Odd .numbered. gave 5 tasks, and 3 were"),
        (lambda self, generator, n: np.full((n, 1), np.nan), "must be finite, and are .nan. .sample_tasks of Odd ret"),
        (
            lambda self, generator, n: np.zeros(n),
            r"\(tasks, 1\), for number; \(3,\) was given .sample_tasks of Odd",
        ),
        (
            lambda self, generator, n: [["a"]] * n,
            "a row of numbers .number.; .*'a'.* was given .sample_tasks of Odd",
        ),
        (lambda self, generator, n: None, "sample_tasks of Odd returned them"),
        (lambda self, generator, n: [][n], "sample_tasks of Odd raised IndexError: .*test_families.py, line"),
    ],
)
def test_tasks_that_a_family_should_not_draw(sample_tasks, message):
    with pytest.raises(NacreError, match=message):
        split_tasks(numbered(sample_tasks=sample_tasks), 3, 2, 0, "seeded")


def test_a_list_of_rows_is_as_good_as_an_array():
    family = numbered(sample_tasks=lambda self, generator, n: [[float(generator.integers(10**6))] for _ in range(n)])
    assert split_tasks(family, 3, 2, 0, "seeded").train.dtype == np.float64


def test_a_family_may_split_its_tasks_itself():
    odd, even = np.arange(1.0, 50, 2)[:, None], np.arange(0.0, 50, 2)[:, None]

    def split(self, train_tasks, test_tasks, seed, task_list):
        return TaskSplit(odd[:train_tasks], even[:test_tasks])

    result = split_tasks(numbered(split=split), 4, 3, 0, "seeded")
    np.testing.assert_array_equal(result.train[:, 0], [1, 3, 5, 7])
    np.testing.assert_array_equal(result.test[:, 0], [0, 2, 4])
    with pytest.raises(NacreError, match=r"split of Odd .numbered. gave 25 train tasks, and 26 were asked for"):
        split_tasks(numbered(split=split), 26, 3, 0, "seeded")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            lambda self, train, test, seed, tasks: TaskSplit(np.eye(2)[:, :1], np.eye(2)[:1, :1]),
            r"Test task 0 of numbered \(\[1.0\]\) is train task 0 too; allowed: test tasks that are held out",
        ),
        (
            lambda self, train, test, seed, tasks: ([[1]], [[2]]),
            "split of Odd returned a tuple .*allowed: a TaskSplit",
        ),
    ],
)
def test_splits_that_are_none(split, message):
    with pytest.raises(NacreError, match=message):
        split_tasks(numbered(split=split), 2, 1, 0, "seeded")


def test_a_finite_family_holds_out_all_test_tasks_or_none():
    family = numbered(finite_tasks=tuple((float(number),) for number in range(10)))
    split = split_tasks(family, 7, 3, 0, "seeded")
    np.testing.assert_array_equal(split.test[:, 0], [7, 8, 9])
    split_tasks(family, 10, 10, 0, "seeded")  # as cheetah-dir does
    with pytest.raises(NacreError, match=r"Test task 0 of numbered .* is train task 7 too, as numbered has only 10"):
        split_tasks(family, 8, 3, 0, "seeded")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"horizon": 0}, "horizon of Odd is 0; allowed: a whole number of at least 1"),
        ({"horizon": 2.5}, "horizon of Odd is 2.5"),
        ({"action_size": None}, "action_size of Odd is None"),
        (
            {"observation_size": (8, 8)},
            r"observation_size of Odd is \(8, 8\); allowed of pictures: \(height, width",
        ),
        ({"task_parameters": "goal"}, "task_parameters of Odd is 'goal'; allowed: a tuple"),
        ({"task_parameters": ()}, "task_parameters of Odd is"),
        ({"name": None}, "name of Odd is None; allowed: text"),
        ({"success_at": "start"}, "success_at of Odd is 'start'; allowed: 'any' or 'end'"),
        ({"finite_tasks": ((1.0,), (1.0,))}, "Task 1 of the finite tasks of numbered .* is there twice"),
        ({"finite_tasks": ((1.0, 2.0),)}, "Tasks of numbered have shape"),
    ],
)
def test_families_with_impossible_sizes(attributes, message):
    register_family("odd", lambda: numbered(**attributes))
    try:
        with pytest.raises(NacreError, match=message):
            make_family("odd")
    finally:
        del FAMILIES["odd"]


def test_a_family_that_is_none_or_cannot_be_made():
    register_family("odd", lambda: 3)
    register_family("failing", lambda: [][1])
    try:
        with pytest.raises(NacreError, match="a subclass of TaskFamily, and 3 was given"):
            make_family("odd")
        with pytest.raises(NacreError, match="raised IndexError: list index out of range"):
            make_family("failing")
    finally:
        del FAMILIES["odd"], FAMILIES["failing"]


def test_numpys_whole_numbers_are_sizes():
    family = numbered(observation_size=np.int64(2), horizon=np.int32(5))
    check_family(family)
    assert (type(family.observation_size), family.observation_shape) == (int, (2,))


QUANTITIES = {
    "point-robot": ([0.3, 0.4], [0.0, 0.0], 0.5, 0.0),
    "sparse-point-robot": ([0.3, 0.4], [0.0, 0.0], 0.5, 0.0),
    "cheetah-vel": ([0.1], [3.0], 2.0, 3.0),
    "cheetah-vel-sparse": ([0.1], [3.0], 2.0, 3.0),
    "cheetah-goal-sparse": ([0.1], [3.0], 0.1, 3.0),
    "cheetah-rand-damping": ([0.1], [3.0, 2.0], 2.0, None),
    "cheetah-dir": ([0.1], [-1.0], -2.0, None),
    "ant-dir": ([0.1, 0.0, 0.5], [-1.0, 0.0], -2.0, None),
    "ant-random-dir": ([0.1, 0.2, 0.5], [0.6, 0.8], 4.4, None),
    "ant-goal": ([3.0, 1.0, 0.5], [0.0, -3.0], 5.0, 0.0),
    "ant-goal-sparse": ([3.0, 1.0, 0.5], [0.0, -3.0], 5.0, 0.0),
    "ant-vel": ([0.1, 9.0, 0.5], [3.0], 2.0, 3.0),
    "ant-vel-sparse": ([0.1, 9.0, 0.5], [3.0], 2.0, 3.0),
    "ant-dir-weighted": ([0.1, 9.0, 0.5], [-1.0], -2.0, None),
    "humanoid-dir": ([0.015, 0.03, 1.4], [0.0, 1.0], 2.0, None),
    "walker-vel": ([0.016], [1.5], 2.0, 1.5),
    "hopper-vel": ([0.016], [1.5], 2.0, 1.5),
    "walker-vel-sparse": ([0.016], [1.5], 2.0, 1.5),
    "hopper-vel-sparse": ([0.016], [1.5], 2.0, 1.5),
    "sawyer-reach-sparse": ([0, 0.6, 0.1, 0.2, 0.6, 0.1, 9, 9, 9], [0.1, 0.3, 0.5], 0.5, 0.0),
    "sawyer-push-sparse": ([9, 9, 9, 9, 9, 9, 0.1, 0.6, 0.1], [0.1, 0.8, 9], 0.2, 0.0),
    "walker-rand-params": ([0.032], [1.0], 2.0, None),
    "hopper-rand-params": ([0.032], [1.0], 2.0, None),
}
"""Reward state after a step that began at 0, task, what is measured and its target."""


@pytest.mark.parametrize("name", QUANTITIES)
def test_what_tasks_are_about_by_hand(name):
    following, task, expected, target = QUANTITIES[name]
    family = make_family(name)
    assert family.quantity
    following, task = np.array([following, following]), np.array([task, task])
    measured = family.measured(np.zeros_like(following), None, following, task)
    np.testing.assert_allclose(measured, [expected, expected], rtol=1e-12)
    if target is None:
        assert family.target(task) is None
    else:
        np.testing.assert_array_equal(family.target(task), [target, target])


def test_a_family_need_not_say_what_its_tasks_are_about():
    assert Numbered().quantity is None
    assert Numbered().target(np.zeros((1, 1))) is None
    with pytest.raises(NotImplementedError, match="numbered does not say what its tasks are about"):
        Numbered().measured(None, None, None, None)


def test_choices_of_a_parameter_that_is_not_there():
    family = Numbered()
    family.task_choices = {"kind": (0, 1)}
    with pytest.raises(NacreError, match="task_choices of Numbered has 'kind'; allowed: number"):
        check_family(family)


def test_a_point_robot_with_nothing_but_the_sparse_reward():
    """The reward is then what the sparse reward is otherwise; goals are where they are wanted."""
    usual, hidden = (
        make_family("sparse-point-robot", distance=0.5, goal_radius=0.1, dense=dense) for dense in (True, False)
    )
    assert (usual.has_sparse_reward, hidden.has_sparse_reward) == (True, False)
    tasks = hidden.sample_tasks(np.random.default_rng(0), 50)
    np.testing.assert_allclose(np.linalg.norm(tasks, axis=1), 0.5)
    np.testing.assert_allclose(np.linalg.norm(hidden.published_tasks(50), axis=1), 0.5)
    states = tasks + np.random.default_rng(1).uniform(-0.1, 0.1, tasks.shape)
    rewards = hidden.reward(states, states, states, tasks)
    distance = np.linalg.norm(states - tasks, axis=1)
    np.testing.assert_allclose(rewards, np.where(distance <= 0.1, 1 - distance, 0))
    np.testing.assert_array_equal(usual.sparse_reward(states, states, states, tasks), rewards)
    np.testing.assert_array_equal(hidden.success(states, states, states, tasks), distance <= 0.1)
    for option, value in (("dense", 1), ("distance", 0.0), ("goal_radius", -1.0)):
        with pytest.raises(NacreError, match=f"{option} of sparse-point-robot is"):
            make_family("sparse-point-robot", **{option: value})
