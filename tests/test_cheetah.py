"""Half-cheetahs: rewards and sparse rewards by hand, kinds of tasks, options, damping of one joint against MuJoCo."""

import mujoco
import numpy as np
import pytest

from nacre.errors import NacreError
from nacre.tasks import Simulator, make_family, split_tasks
from nacre.tasks.gymnasium import FamilyEnv
from nacre.tasks.mujoco import ASSETS

START = np.zeros(3)
"""x, height and pitch before the step."""
ACTION = np.array([1.0, -0.5, 0, 0, 0, 0])
SQUARES = 1.25


def reward(name, following, task, previous=START):
    return make_family(name).reward(previous, ACTION, np.array(following), np.array(task))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2.0, 2.0),
        (2.05, 2.0 - 0.05),
        (1.95, 2.0 - 0.05),
        (2.3, -2.0),  # farther away than 0.1 m/s: the floor, -4, and 2
        (0.0, -2.0),
    ],
)
def test_sparse_velocity_by_hand(target, expected):
    assert reward("cheetah-vel-sparse", [0.1, 0, 0], [target]) == pytest.approx(expected - 0.5 * SQUARES)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(2.0, 2.0), (2.29, 2.0 - 0.29), (1.71, 2.0 - 0.29), (2.31, 0.0), (1.69, 0.0), (0.0, 0.0)],
)
def test_the_other_sparse_velocity_of_the_public_code(target, expected):
    """At 2 m/s, one by one and as relabelling computes it."""
    family = make_family("cheetah-vel-sparse", radius=0.3, floor=-2, control_cost=0.05)
    following, task = np.array([0.1, 0, 0]), np.array([target])
    assert family.reward(START, ACTION, following, task) == pytest.approx(expected - 0.05 * SQUARES)
    rows = [np.stack([row] * 2) for row in (START, ACTION, following, task)]
    np.testing.assert_allclose(family.reward(*rows), expected - 0.05 * SQUARES)


@pytest.mark.parametrize(
    ("x", "expected", "success"),
    [
        (3.0, 2.0, True),
        (3.04, 1.96, True),
        (2.96, 1.96, True),
        (3.06, 1.94, False),
        (2.51, 1.51, False),
        (2.4, -2, False),
    ],
)
def test_sparse_goal_by_hand(x, expected, success):
    assert reward("cheetah-goal-sparse", [x, 0, 0], [3.0]) == pytest.approx(expected - 0.05 * SQUARES)
    family = make_family("cheetah-goal-sparse")
    assert family.success(START, ACTION, np.array([x, 0, 0]), np.array([3.0])) == success
    assert family.success_at == "any"


@pytest.mark.parametrize(
    ("variant", "number", "expected", "measured", "target"),
    [
        ("velocity", 3.0, -1.0, 2.0, 3.0),
        ("direction", -1.0, -2.0, -2.0, np.nan),
        ("direction", 1.0, 2.0, 2.0, np.nan),
        ("goal", -4.0, -4.1, 0.1, -4.0),
        ("flipping", 1.0, 6.0, 6.0, np.nan),
        ("flipping", -1.0, -6.0, -6.0, np.nan),
        ("jumping", 0.0, 0.7, 0.7, np.nan),
    ],
)
def test_multi_task_by_hand(variant, number, expected, measured, target):
    """2 m/s forward at x = 0.1 m, turning at 6 rad/s, at a height of 0.7 m."""
    family = make_family("cheetah-multi-task")
    task, following = np.array([family.VARIANTS.index(variant), number]), np.array([0.1, 0.7, 0.3])
    transition = START, ACTION, following, task
    assert family.reward(*transition) == pytest.approx(expected - 0.05 * SQUARES)
    assert family.measured(*transition) == pytest.approx(measured)
    np.testing.assert_array_equal(family.target(task), target)


@pytest.mark.parametrize(
    ("variant", "number", "expected"),
    [
        ("forward-velocity", 2.05, 1.95),
        ("forward-velocity", 2.3, -2.0),
        ("backward-velocity", -2.0, -2.0),
        ("front-goal", 0.4, 1.7),  # 0.3 m away: a goal is felt within 0.5 m ...
        ("front-goal", 0.7, -2.0),
        ("back-goal", -0.3, 1.6),  # ... and so it is behind
        ("back-goal", -0.5, -2.0),
    ],
)
def test_sparse_multi_task_by_hand(variant, number, expected):
    family = make_family("cheetah-multi-task-sparse")
    task = np.array([family.VARIANTS.index(variant), number])
    assert reward(family.name, [0.1, 0, 0], task) == pytest.approx(expected - 0.5 * SQUARES)
    assert family.target(task) == number


def test_where_cheetahs_end():
    pitches = np.array([[0.0, 0.5, pitch] for pitch in (0.0, 2.5, 2.51, -2.5, -2.51, np.nan)])
    for name in ("cheetah-vel", "cheetah-dir", "cheetah-multi-task", "cheetah-rand-damping", "cheetah-vel-sparse"):
        ended = make_family(name, terminates=True).terminated(pitches, ACTION, pitches, None)
        np.testing.assert_array_equal(ended, [False, False, True, False, True, True])
        assert not make_family(name).terminated(pitches, ACTION, pitches, None).any()


@pytest.mark.parametrize(
    ("name", "options", "low", "high"),
    [
        ("cheetah-vel", {"lowest": 0.5, "highest": 3.0}, 0.5, 3.0),
        ("cheetah-vel", {"lowest": 1, "highest": 2}, 1.0, 2.0),
        ("cheetah-vel-sparse", {}, 0.0, 3.0),
        ("cheetah-goal-sparse", {}, 1.0, 6.0),
        ("cheetah-goal-sparse", {"lowest": -2}, -2.0, 6.0),
    ],
)
def test_ranges_of_tasks(name, options, low, high):
    family = make_family(name, **options)
    tasks = family.sample_tasks(np.random.default_rng(0), 2000)
    assert low <= tasks.min() < low + 0.02
    assert high - 0.02 < tasks.max() <= high


def test_only_pearls_range_has_a_published_list():
    family = make_family("cheetah-vel", lowest=0.5)
    assert not family.has_published_tasks
    with pytest.raises(NacreError, match="has no published task list"):
        split_tasks(family, 2, 2, 0, "published")
    assert make_family("cheetah-vel", lowest=0, highest=3).has_published_tasks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cheetah-vel",
            {"lowest": 3.0},
            "lowest of cheetah-vel is 3.0 and highest is 3.0; allowed: lowest below highest",
        ),
        ("cheetah-vel", {"highest": "fast"}, "highest of cheetah-vel is 'fast'; allowed: a finite number"),
        (
            "cheetah-vel-sparse",
            {"lowest": float("nan")},
            "lowest of cheetah-vel-sparse is nan; allowed: a finite number",
        ),
        (
            "cheetah-vel-sparse",
            {"radius": 0},
            "radius of cheetah-vel-sparse is 0; allowed: a finite number above 0",
        ),
        (
            "cheetah-vel-sparse",
            {"floor": float("-inf")},
            "floor of cheetah-vel-sparse is -inf; allowed: a finite number",
        ),
        (
            "cheetah-vel-sparse",
            {"control_cost": -0.5},
            "control_cost of cheetah-vel-sparse is -0.5; allowed: a finite number of at least 0",
        ),
        ("cheetah-vel-sparse", {"control_cost": "low"}, "control_cost of cheetah-vel-sparse is 'low'; allowed: a"),
        ("cheetah-goal-sparse", {"highest": True}, "highest of cheetah-goal-sparse is True; allowed: a finite number"),
        (
            "cheetah-dir",
            {"directions": (2.0,)},
            r"directions of cheetah-dir is \(2.0,\); allowed: a list of some of -1.0",
        ),
        ("cheetah-dir", {"directions": ()}, r"directions of cheetah-dir is \(\)"),
        ("cheetah-dir", {"directions": (1, 1.0)}, r"some of -1.0, 1.0, each once"),
        (
            "cheetah-multi-task",
            {"variants": "running"},
            "variants of cheetah-multi-task is 'running'; allowed: a list",
        ),
        ("cheetah-multi-task", {"variants": ["running"]}, "allowed: a list of some of 'velocity', 'direction', 'goal'"),
        ("cheetah-multi-task", {"variants": [["goal"]]}, "allowed: a list of some of"),
        (
            "cheetah-rand-damping",
            {"log_scale_limit": 0},
            "log_scale_limit of cheetah-rand-damping is 0; allowed: a finite",
        ),
    ],
)
def test_impossible_options(name, options, message):
    with pytest.raises(NacreError, match=message):
        make_family(name, **options)


@pytest.mark.parametrize("directions", [[-1], (-1.0,), -1])  # the command line has no lists of one
def test_a_cheetah_that_always_begins_backward(directions):
    family = make_family("cheetah-dir", directions=directions)
    assert family.finite_tasks == ((-1.0,),)
    split = split_tasks(family, 1, 1, seed=0, task_list="seeded")
    np.testing.assert_array_equal(np.concatenate([split.train, split.test]), [[-1], [-1]])
    np.testing.assert_array_equal(family.kind_of(np.array([[-1.0], [1.0]])), [0, 1])  # as it may turn
    assert family.kinds == make_family("cheetah-dir").kinds == 2


def test_there_are_as_many_tasks_of_each_kind():
    family = make_family("cheetah-multi-task")
    tasks = split_tasks(family, 60, 30, seed=5, task_list="seeded")
    for rows in (tasks.train, tasks.test):
        np.testing.assert_array_equal(np.bincount(family.kind_of(rows)), len(rows) // 5)
    numbers = {kind: tasks.train[tasks.train[:, 0] == kind, 1] for kind in range(5)}
    assert len(np.unique(numbers[0])) == len(np.unique(numbers[2])) == 12
    np.testing.assert_array_equal([numbers[1].sum(), numbers[3].sum()], 0)  # both directions alike
    np.testing.assert_array_equal(abs(np.array([numbers[1], numbers[3]])), 1)
    np.testing.assert_array_equal(numbers[4], 0)
    held_out = tasks.test[np.isin(tasks.test[:, 0], [0, 2])]
    assert not (held_out[:, None] == tasks.train).all(-1).any()
    # A single task may be of any kind.
    drawn = [family.sample_tasks(np.random.default_rng(seed), 1)[0, 0] for seed in range(40)]
    assert set(drawn) == set(range(5))


def test_numbers_of_kinds_are_in_their_ranges():
    dense = make_family("cheetah-multi-task").sample_tasks(np.random.default_rng(0), 5000)
    for kind, low, high in ((0, 1, 3), (2, -5, 5)):
        numbers = dense[dense[:, 0] == kind, 1]
        assert low <= numbers.min() < low + 0.05
        assert high - 0.05 < numbers.max() <= high
    sparse = make_family("cheetah-multi-task-sparse").sample_tasks(np.random.default_rng(0), 4000)
    for kind, low, high in ((0, 0, 3), (1, -3, 0), (2, 0, 5), (3, -5, 0)):
        numbers = sparse[sparse[:, 0] == kind, 1]
        assert len(numbers) == 1000
        assert low <= numbers.min() < low + 0.05
        assert high - 0.05 < numbers.max() <= high


def test_kinds_count_the_chosen_variants():
    family = make_family("cheetah-multi-task", variants=["jumping", "velocity"])
    tasks = family.sample_tasks(np.random.default_rng(0), 10)
    assert family.kinds == 2
    np.testing.assert_array_equal(np.bincount(family.kind_of(tasks)), 5)
    np.testing.assert_array_equal(family.kind_of(np.array([[4.0, 0.0], [0.0, 1.5]])), [0, 1])


def test_tasks_that_may_not_be_repeated_are_held_out():
    family = make_family("cheetah-multi-task", variants=("velocity", "jumping"))
    jumping, velocity = [4.0, 0.0], [0.0, 1.5]
    np.testing.assert_array_equal(family.repeatable(np.array([jumping, velocity])), [True, False])
    assert not make_family("cheetah-vel").repeatable(np.zeros((3, 1))).any()


def test_damping_of_one_joint_against_a_plain_loop():
    family = make_family("cheetah-rand-damping")
    tasks = np.array([[0.0, 1.0], [3.0, 10.0]])
    simulator = Simulator(family, 2, threads=1)
    observations, _ = simulator.reset(seed=[1, 2], options={"tasks": tasks})
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
    assert model.joint(6).name == "fthigh"
    model.dof_damping[6] *= 10
    data = mujoco.MjData(model)
    generator = np.random.default_rng(2)
    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, 9)
    data.qvel[:] = 0.1 * generator.standard_normal(9)
    mujoco.mj_forward(model, data)
    for action in np.random.default_rng(3).uniform(-1, 1, (30, 2, 6)).astype(np.float32):
        np.testing.assert_array_equal(observations[1], np.concatenate([data.qpos[1:], data.qvel]).astype(np.float32))
        observations, rewards, *_ = simulator.step(action)
        x = data.qpos[0]
        data.ctrl[:] = action[1]
        mujoco.mj_step(model, data, 5)
        expected = (data.qpos[0] - x) / 0.05 - 0.1 * np.square(action[1].astype(float)).sum()
        np.testing.assert_allclose(rewards[1], expected, rtol=1e-9, atol=1e-12)
    first, second = (slot.model.dof_damping for slot in simulator._world._slots)
    np.testing.assert_array_equal(second, model.dof_damping)
    simulator.reset(options={"tasks": np.array([[0.0, 1.0], [0.0, 1.0]])})  # nothing is left of the last task
    np.testing.assert_array_equal(second, first)
    simulator.close()


def test_multipliers_of_damping():
    family = make_family("cheetah-rand-damping", log_scale_limit=2)
    tasks = family.sample_tasks(np.random.default_rng(0), 4000)
    assert (np.unique(tasks[:, 0]) == np.arange(5)).all()
    exponents = np.log(tasks[:, 1]) / np.log(1.5)
    assert -2 <= exponents.min() < -1.99
    assert 1.99 < exponents.max() <= 2
    assert family.kinds == 5
    np.testing.assert_array_equal(family.kind_of(tasks), tasks[:, 0])


@pytest.mark.parametrize("name", ["cheetah-vel-sparse", "cheetah-goal-sparse", "cheetah-multi-task"])
def test_the_same_body_is_seen_by_all(name):
    """Eight positions without x, nine velocities, and the torso's place (spec pearl 4.2)."""
    observations = []
    for family in (make_family("cheetah-dir"), make_family(name)):
        simulator = Simulator(family, 1)
        task = family.sample_tasks(np.random.default_rng(0), 1)
        observations.append([simulator.reset(seed=3, options={"tasks": task})[0]])
        observations[-1] += [simulator.step(np.full((1, 6), 0.3, np.float32))[0] for _ in range(3)]
        simulator.close()
    np.testing.assert_array_equal(*observations)


@pytest.mark.parametrize(
    ("name", "options", "task", "message"),
    [
        ("cheetah-multi-task", {}, [7, 1], "kind of a task of cheetah-multi-task is 7; allowed: 0, 1, 2, 3, 4"),
        ("cheetah-multi-task", {}, [0.5, 1], "kind of a task of cheetah-multi-task is 0.5; allowed: 0"),
        ("cheetah-multi-task", {"variants": ["goal", "jumping"]}, [0, 1], "multi-task is 0; allowed: 2, 4"),
        (
            "cheetah-multi-task-sparse",
            {},
            [-1, 1],
            "kind of a task of cheetah-multi-task-sparse is -1; allowed: 0, 1, 2, 3",
        ),
        ("cheetah-rand-damping", {}, [5, 1], "joint of a task of cheetah-rand-damping is 5; allowed: 0, 1, 2, 3, 4"),
    ],
)
def test_kinds_that_are_not_there(name, options, task, message):
    """Before, such a task was silently one of another kind."""
    with pytest.raises(NacreError, match=message):
        FamilyEnv(name, **options).reset(options={"task": task})


# MELD's half-cheetah


def test_the_published_velocities_of_meld():
    split = split_tasks(make_family("cheetah-vel-10hz"), 20, 10, seed=3, task_list="published")
    train = "1.5492 1.712 .0854 .5146 2.0558 2.5017 .9209 2.6808 2.1646 .5698 1.6627 1.0564 .5457 2.3568 2.8964 .6971"
    test = "1.6302 .8351 1.2736 2.5343 .0142 .3647 2.0122 2.4776 .4101 1.7253"
    expected = [[float(word) for word in words.split()] for words in (f"{train} .2507 1.8106 2.187 .8287", test)]
    np.testing.assert_allclose(split.train[:, 0], expected[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(split.test[:, 0], expected[1], rtol=0, atol=1e-3)
    other = make_family("cheetah-vel-10hz", highest=2)
    assert not other.has_published_tasks
    assert split_tasks(other, 4, 2, seed=0, task_list="seeded").train.max() < 2


def test_melds_half_cheetah_by_hand():
    """v is over 0.1 s, and the cost is that of what actuators get: four fifths of the action."""
    family = make_family("cheetah-vel-10hz")
    assert (family.horizon, family.success_at) == (50, "end")
    transition = np.array([1.0, 0, 0]), ACTION, np.array([1.25, 0, 0]), np.array([2.0])
    assert family.reward(*transition) == pytest.approx(-0.5 - 0.01 * 0.64 * (ACTION**2).sum(), abs=1e-6)
    assert not family.success(*transition)
    assert family.success(*transition[:3], np.array([2.79]))


def test_a_step_of_melds_half_cheetah_is_two_of_the_other_with_smaller_actions():
    simulators = [Simulator(make_family(name), 1, threads=1) for name in ("cheetah-vel-10hz", "cheetah-vel")]
    for simulator in simulators:
        simulator.reset(seed=0, options={"tasks": np.array([[1.0]])})
    assert simulators[0].frames_per_second == pytest.approx(10)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 1, 6)).astype(np.float32)
    for action in actions:
        slow, *_ = simulators[0].step(action)
        for _ in range(2):
            fast, *_ = simulators[1].step(0.8 * action)
        np.testing.assert_allclose(slow, fast, rtol=0, atol=1e-3)
    for simulator in simulators:
        simulator.close()
