"""Tasks that change inside an episode, in the simulator: when, to what, and that each slot is alone."""

import dataclasses
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from probes import Clock, ClockWorld
from test_parts import HORIZON, assert_parts_are_the_whole, assert_same, counting, tasks_of

from nacre.collect import drawing_from, play_together, run_schedules
from nacre.errors import NacreError
from nacre.tasks import GymnasiumFamily, Simulator, TaskFamily, make_family
from nacre.tasks.gymnasium import FamilyEnv
from nacre.tasks.shifts import Shift

RIGHT, LEFT, STAY = np.array([1.0, 0.0]), np.array([-1.0, 0.0]), np.zeros(2)


def shifting(name: str, shift: Shift | None, **options: Any) -> TaskFamily:
    family = make_family(name, **options)
    family.shift = shift
    return family


class Played:
    """What a simulator gave, step by step, with arrays of shape (steps, slots, ...)."""

    def __init__(self, simulator: Simulator, actions: Any, steps: int):
        shape = simulator.num_envs, simulator.family.action_size
        before, rewards, tasks, changed = [], [], [], []
        for step in range(steps):
            before.append(simulator.reward_states)
            given: Any = actions(step) if callable(actions) else actions
            _, reward, _, _, infos = simulator.step(np.broadcast_to(given, shape))
            rewards.append(reward)
            tasks.append(infos["task"])
            changed.append(infos["changed"])
        self.before, self.rewards = np.array(before), np.array(rewards)
        self.tasks, self.changed = np.array(tasks), np.array(changed)
        self.after = simulator.reward_states


def started(family: TaskFamily, tasks: Any, seed: int = 0, pools: Any = None) -> Simulator:
    simulator = Simulator(family, len(tasks), threads=1)
    simulator.reset(seed=seed, options={"tasks": tasks, "pools": pools})
    return simulator


# By time


def test_after_more_than_first_steps_and_again_and_again() -> None:
    family = shifting("point-robot", Shift("time", 4), horizon=18)
    pool = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, -0.5]])
    played = Played(started(family, pool[:1], pools=[pool]), STAY, 18)
    np.testing.assert_array_equal(np.flatnonzero(played.changed[:, 0]), [5, 10, 15])
    assert {task.tobytes() for task in played.tasks[:, 0]} <= {task.tobytes() for task in pool}
    np.testing.assert_array_equal(played.tasks[:5, 0], np.tile(pool[0], (5, 1)))
    moved = (played.tasks[1:, 0] != played.tasks[:-1, 0]).any(axis=1)
    np.testing.assert_array_equal(moved, played.changed[1:, 0])  # a change is one to another task
    # Rewards are those of the task in force, from the step of the change on.
    place = played.after[0]
    np.testing.assert_allclose(played.rewards[:, 0], -np.linalg.norm(played.tasks[:, 0] - place, axis=1))


def test_a_spread_makes_changes_later() -> None:
    family = shifting("point-robot", Shift("time", 2, 6), horizon=200)
    pool = family.sample_tasks(np.random.default_rng(0), 5)
    played = Played(started(family, pool, pools=[pool] * 5), STAY, 200)
    gaps = np.concatenate([np.diff(np.append(0, np.flatnonzero(column))) for column in played.changed.T])
    assert (gaps.min(), gaps.max()) == (3, 8)
    assert len({np.flatnonzero(column)[0] for column in played.changed.T}) > 1


def test_chance() -> None:
    family = shifting("point-robot", Shift("time", 3, probability=0.25), horizon=400)
    pool = family.sample_tasks(np.random.default_rng(0), 20)
    played = Played(started(family, pool, pools=[pool] * 20), STAY, 400)
    gaps = np.concatenate([np.diff(np.append(0, np.flatnonzero(column))) for column in played.changed.T])
    assert gaps.min() == 4
    assert gaps.mean() == pytest.approx(4 + (1 - 0.25) / 0.25, rel=0.08)  # a geometric distribution after 4


def test_every_other_task_of_the_pool_is_as_likely() -> None:
    family = shifting("point-robot", Shift("time", 0.5), horizon=3000)
    pool = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, -0.5], [0.25, 0.0]])
    played = Played(started(family, pool[:1], pools=[pool]), STAY, 3000)
    names = (played.tasks[played.changed[:, 0], 0][:, None] == pool[None]).all(axis=-1).argmax(axis=1)
    assert (names[1:] != names[:-1]).all()
    counts = np.bincount(names, minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.03)


def test_a_pool_without_another_task_changes_nothing() -> None:
    family = shifting("point-robot", Shift("time", 1), horizon=10)
    pool = np.array([[0.5, 0.5]])
    assert not Played(started(family, pool, pools=[pool]), STAY, 10).changed.any()


def test_without_a_pool_the_family_draws() -> None:
    family = shifting("cheetah-dir", Shift("time", 1), horizon=10)
    played = Played(started(family, [[1.0]], seed=1), 0.0, 10)
    assert set(played.tasks.reshape(-1)) == {-1.0, 1.0}


# By place


def test_each_further_place_in_front_and_behind() -> None:
    family = shifting("sparse-point-robot", Shift("place", 0.33), horizon=40)
    pool = family.sample_tasks(np.random.default_rng(0), 6)

    def there_and_back(step: int) -> np.ndarray:
        return RIGHT if step < 12 else LEFT

    played = Played(started(family, pool[:1], pools=[pool]), there_and_back, 40)
    x = played.before[:, 0, 0]
    # 0.33, 0.66 and 0.99 in front, and so on behind: checked before each step.
    np.testing.assert_array_equal(np.flatnonzero(played.changed[:12, 0]), [4, 7, 10])
    behind = np.flatnonzero(played.changed[12:, 0]) + 12
    np.testing.assert_allclose(x[behind], [-0.4, -0.7, -1.0, -1.4], atol=1e-9)


def test_places_are_spread_anew_in_each_episode() -> None:
    family = shifting("sparse-point-robot", Shift("place", 0.3, 0.5), horizon=20)
    pool = family.sample_tasks(np.random.default_rng(0), 6)
    simulator = started(family, pool, pools=[pool] * 6)
    first = []
    for _ in range(4):
        played = Played(simulator, RIGHT, 10)
        first += [np.flatnonzero(column)[0] for column in played.changed.T if column.any()]
        simulator.reset()
    assert 4 <= min(first) <= max(first) <= 9
    assert len(set(first)) > 3


class LineWorld:
    """A full action moves each slot by 0.1; the reward state is the place."""

    def __init__(self, n_slots: int):
        self._places = np.zeros((n_slots, 1))

    def reset(self, slots: np.ndarray, tasks: np.ndarray, generators: list[np.random.Generator]) -> Any:
        self._places[slots] = 0.0
        return self._places[slots].astype(np.float32), self._places[slots]

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Any:
        self._places[slots] += 0.1 * actions[:, :1]
        return self._places[slots].astype(np.float32), self._places[slots]

    def set_tasks(self, slots: np.ndarray, tasks: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


class Direction(TaskFamily):
    """The tasks of another family of directions, on a line."""

    name, observation_size, action_size, horizon = "line-dir", 1, 1, 20

    def __init__(self, family: TaskFamily):
        self.task_parameters, self.finite_tasks = family.task_parameters, family.finite_tasks

    def sample_tasks(self, generator: np.random.Generator, n: int) -> np.ndarray:
        return generator.choice(np.array(self.finite_tasks), n)

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return task[..., 0] * (following[..., 0] - previous[..., 0])

    def make_world(self, n_slots: int, threads: int) -> Any:
        return LineWorld(n_slots)


@pytest.mark.parametrize(
    ("direction", "action", "turns"), [(1.0, 1.0, True), (-1.0, 1.0, False), (-1.0, -1.0, True), (1.0, -1.0, False)]
)
@pytest.mark.parametrize("name", ["cheetah-dir", "ant-dir"])
def test_opposite_by_place_turns_back_alone(name: str, direction: float, action: float, turns: bool) -> None:
    """Forward becomes backward in front, backward becomes forward behind, and nothing else."""
    family = Direction(make_family(name))
    family.shift = Shift("place", 0.25, draw="opposite")
    task = np.array([direction, *[0.0] * (len(family.task_parameters) - 1)])
    played = Played(started(family, [task]), action, 6)
    np.testing.assert_array_equal(np.flatnonzero(played.changed[:, 0]), [3] if turns else [])
    np.testing.assert_array_equal(played.tasks[-1, 0], -task if turns else task)
    signs = np.where(np.arange(6) < (3 if turns else 6), direction, -direction)
    np.testing.assert_allclose(played.rewards[:, 0], 0.1 * signs * action)


def test_opposite_of_a_single_direction() -> None:
    """As in the continual task: every episode begins backward, and may turn."""
    family = shifting("cheetah-dir", Shift("time", 2, draw="opposite"), horizon=12)
    family.finite_tasks = ((-1.0,),)
    played = Played(started(family, [[-1.0]]), 0.0, 12)
    np.testing.assert_array_equal(played.tasks[:, 0, 0], [-1.0] * 3 + [1.0] * 3 + [-1.0] * 3 + [1.0] * 3)


def test_opposite_is_the_next_of_other_finite_tasks() -> None:
    family = shifting("point-robot", Shift("time", 0.5, draw="opposite"))
    family.finite_tasks = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    played = Played(started(family, [[0.0, 1.0]]), STAY, 5)
    assert [row.tolist() for row in played.tasks[played.changed[:, 0], 0]] == [
        [1.0, 1.0],
        [0.0, 0.0],
        [0.0, 1.0],
        [1.0, 1.0],
    ]


def test_a_cheetah_that_runs() -> None:
    family = shifting("cheetah-vel", Shift("place", 0.05), horizon=60)
    pool = np.array([[0.0], [1.0], [2.0], [3.0]])
    simulator = started(family, pool, pools=[pool] * 4)
    generator = np.random.default_rng(0)
    played = Played(simulator, lambda step: generator.uniform(-1, 1, (4, 6)).astype(np.float32), 60)
    assert played.changed.any(axis=0).all()
    for slot in range(4):
        front = behind = 0.05
        for step in range(60):
            x = played.before[step, slot, 0]
            assert played.changed[step, slot] == (x > front or x < -behind)
            front, behind = front + 0.05 * (x > front), behind + 0.05 * (x < -behind)


# Physics


def test_physics_follow() -> None:
    """After the change a walker moves as one does that has the other task's body, from the same state."""
    family = shifting("walker-rand-params", Shift("time", 3, draw="tasks"), horizon=8)
    pool = family.sample_tasks(np.random.default_rng(3), 2)
    simulator = started(family, pool[:1], pools=[pool])
    other = Simulator(make_family("walker-rand-params"), 1, threads=1)
    other.reset(seed=5, options={"tasks": pool[1:]})
    action = np.full((1, 6), 0.3, np.float32)
    for step in range(8):
        data, reference = simulator._world._slots[0].data, other._world._slots[0].data
        for name in ("qpos", "qvel", "act", "qacc_warmstart", "time"):
            source = getattr(data, name)
            if name == "time":
                reference.time = source
            else:
                getattr(reference, name)[:] = source
        _, _, _, _, infos = simulator.step(action)
        other.step(action)
        same = np.array_equal(data.qpos, reference.qpos)
        assert same == (step >= 4), step
        assert infos["changed"][0] == (step == 4)
    # The next episode is one of the first task again.
    again = started(make_family("walker-rand-params"), pool[:1], seed=9)
    simulator.reset(seed=9)
    for _ in range(3):
        np.testing.assert_array_equal(simulator.step(action)[0], again.step(action)[0])


def test_a_world_that_cannot_follow_is_refused() -> None:
    family = Clock(5)
    Simulator(family, 1, threads=1)
    family.shift = Shift("time", 2)
    with pytest.raises(NacreError, match=r"tasks of clock change within an episode, and its world, .*has no set_tasks"):
        Simulator(family, 1, threads=1)


def test_a_shift_has_to_be_one() -> None:
    family = make_family("point-robot")
    family.shift = "time:2"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(NacreError, match="shift of PointRobot is 'time:2'; allowed: None or a Shift"):
        Simulator(family, 1, threads=1)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (Shift("place", 2, draw="opposite"), "allowed for point-robot: without 'opposite'"),
        (Shift("time", 2, draw="opposite"), "allowed for point-robot: without 'opposite'"),
    ],
)
def test_an_impossible_shift_is_refused(shift: Shift, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        Simulator(shifting("point-robot", shift), 1, threads=1)


def test_pools_of_the_wrong_number_or_shape() -> None:
    family = shifting("point-robot", Shift("time", 2))
    pool = np.zeros((3, 2))
    with pytest.raises(NacreError, match="Each of 2 slots needs a pool or None, and 1 were given"):
        started(family, pool[:2], pools=[pool])
    with pytest.raises(NacreError, match=r"Tasks of point-robot have shape \(tasks, 2\)"):
        started(family, pool[:1], pools=[np.zeros((3, 5))])


# Episodes and slots


def test_each_episode_begins_with_its_own_task() -> None:
    family = shifting("point-robot", Shift("time", 2), horizon=6)
    pool = np.array([[0.0, 0.0], [1.0, 1.0]])
    simulator = started(family, pool, pools=[pool] * 2)
    played = Played(simulator, STAY, 6)
    assert played.changed[3].all()
    simulator.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(simulator.tasks, [pool[0], played.tasks[-1, 1]])
    simulator.reset()
    np.testing.assert_array_equal(simulator.tasks, pool)
    again = Played(simulator, STAY, 6)
    np.testing.assert_array_equal(again.changed, played.changed)  # clocks begin anew


def test_slots_that_rest_do_not_change() -> None:
    family = shifting("point-robot", Shift("time", 2), horizon=4)
    pool = np.array([[0.0, 0.0], [1.0, 1.0]])
    played = Played(started(family, pool, pools=[pool] * 2), STAY, 9)
    assert played.changed[3].all()
    assert not played.changed[4:].any()


def test_starts_are_the_same_with_and_without_changes() -> None:
    pool = np.array([[0.0, 0.0], [1.0, 1.0]])
    for _ in range(3):
        plain, changing = (
            started(shifting("point-robot", shift), pool, seed=3, pools=[pool] * 2)
            for shift in (None, Shift("time", 1, 5, probability=0.5))
        )
        for _ in range(3):
            for _ in range(5):
                np.testing.assert_array_equal(plain.step(np.ones((2, 2)))[0], changing.step(np.ones((2, 2)))[0])
            np.testing.assert_array_equal(plain.reset()[0], changing.reset()[0])


@pytest.mark.parametrize("shift", [Shift("time", 2, 3, 0.5), Shift("place", 0.1, 0.3)], ids=str)
def test_a_slot_depends_on_no_other(shift: Shift) -> None:
    family = shifting("point-robot", shift, horizon=30)
    tasks = family.sample_tasks(np.random.default_rng(0), 4)
    pools = [tasks[:2], tasks, tasks[1:], tasks]
    seeds = [11, 12, 13, 14]
    actions = np.random.default_rng(1).uniform(-1, 1, (30, 4, 2)).astype(np.float32)
    simulator = Simulator(family, 4, threads=1)
    simulator.reset(seed=seeds, options={"tasks": tasks, "pools": pools})
    together = Played(simulator, lambda step: actions[step], 30)
    assert together.changed.sum() > 8
    for slot in range(4):
        simulator = Simulator(family, 1, threads=1)
        simulator.reset(seed=[seeds[slot]], options={"tasks": tasks[slot][None], "pools": [pools[slot]]})
        alone = Played(simulator, lambda step, slot=slot: actions[step, slot], 30)
        for name in ("before", "rewards", "tasks", "changed"):
            np.testing.assert_array_equal(getattr(alone, name)[:, 0], getattr(together, name)[:, slot])
        assert {task.tobytes() for task in alone.tasks[:, 0]} <= {task.tobytes() for task in pools[slot]}


# Plays


class ChangingClockWorld(ClockWorld):
    def set_tasks(self, slots: np.ndarray, tasks: np.ndarray) -> None:
        self._state[slots, 0] = tasks[:, 0]


class ChangingClock(Clock):
    """A clock whose label is seen, and follows."""

    def make_world(self, n_slots: int, threads: int) -> Any:
        return ChangingClockWorld(n_slots)


def changing_clock(shift: Shift) -> ChangingClock:
    family = ChangingClock(HORIZON, sparse=True)
    family.shift = shift
    return family


class TestPlays:
    SHIFT = Shift("time", 1, 2, probability=0.7)

    def test_parts_of_a_play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What becomes of a trial depends on its number, its task and its pool alone."""
        monkeypatch.setattr("test_parts.FAMILY", changing_clock(self.SHIFT))
        pools = tuple(tasks_of(12)[number % 3 :] for number in range(12))
        whole = counting(12, keeps_reward_states=True, pools=pools)
        for parts in ([[trial] for trial in range(12)], [[7, 2, 11], [10, 1], [5], [9, 8, 6, 4, 3, 0]]):
            assert_parts_are_the_whole(whole, parts)

    def test_several_plays_are_each_alone(self) -> None:
        family = changing_clock(self.SHIFT)

        def played(*plays: Any) -> Any:
            return play_together(plays, Simulator(family, sum(len(play.tasks) for play in plays), threads=1))

        plays = [counting(5, seed, param=seed, pools=(tasks_of(9)[seed:],) * 5) for seed in range(3)]
        for alone, together in zip([played(play)[0] for play in plays], played(*plays), strict=True):
            assert_same(*together, *alone)

    def test_episodes_carry_their_tasks(self) -> None:
        family = changing_clock(self.SHIFT)
        pool = tasks_of(9)
        play = counting(7, keeps_reward_states=True, pools=(pool,) * 7)
        trials, _ = play_together([play], Simulator(family, 7, threads=1))[0]
        in_force = [episode.tasks for episode in itertools.chain(*trials) if episode.tasks is not None]
        assert any((tasks[1:] != tasks[:-1]).any() for tasks in in_force)
        for trial, task in zip(trials, tasks_of(7), strict=True):
            for episode in trial:
                assert episode.tasks is not None
                assert episode.reward_states is not None
                np.testing.assert_array_equal(episode.tasks[0], task)
                before, after = episode.reward_states[:-1], episode.reward_states[1:]
                rewards = family.reward(before, episode.actions, after, episode.tasks)
                np.testing.assert_array_equal(rewards.astype(np.float32), episode.rewards)
                np.testing.assert_array_equal(episode.observations[1:, 0], episode.tasks[:, 0].astype(np.float32))

    def test_the_house_gives_pools_to_plays_that_have_none(self) -> None:
        own = tasks_of(3)

        def schedule() -> Any:
            first = yield counting(2)
            second = yield counting(2, pools=(own, own))
            return first, second

        asked = []

        def play(plays: Any) -> Any:
            asked.extend(plays)
            return [None]

        pool = tasks_of(5)
        run_schedules([drawing_from(schedule(), pool)], play)
        assert [[given is pool for given in play.pools] for play in asked] == [[True, True], [False, False]]


# Gymnasium's interface


def test_a_single_environment_changes_too() -> None:
    family = shifting("point-robot", Shift("time", 3), horizon=12)
    env = FamilyEnv(family)
    pool = [[0.0, 0.0], [1.0, 1.0]]
    for reset in range(2):
        _, info = env.reset(seed=0, options={"task": pool[0], "pool": pool})
        np.testing.assert_array_equal(info["task"], pool[0])
        infos = [env.step(STAY.astype(np.float32))[-1] for _ in range(12)]
        tasks = [info["task"].tolist() for info in infos]
        assert tasks == [pool[0]] * 4 + [pool[1]] * 4 + [pool[0]] * 4, reset
        assert [index for index, info in enumerate(infos) if info["changed"]] == [4, 8]
    env.close()


def test_a_single_environment_by_name() -> None:
    env = gymnasium.make("nacre/PointRobot-v0", shift="time:2")
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    assert [env.step(STAY.astype(np.float32))[-1]["changed"] for _ in range(4)] == [False, False, False, True]
    env.close()
    plain = gymnasium.make("nacre/PointRobot-v0")
    plain.reset(seed=0)
    assert "task" not in plain.step(STAY.astype(np.float32))[-1]
    with pytest.raises(NacreError, match="shift is 'soon'; allowed: none, or TRIGGER"):
        FamilyEnv("point-robot", shift="soon")


class Line(gymnasium.Env):
    """The reward is the task."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    target = 0.0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), float(self.target), False, False, {}


def line_family(**arguments: Any) -> GymnasiumFamily:
    def set_task(env: Any, task: np.ndarray) -> None:
        env.unwrapped.target = task[0]

    return GymnasiumFamily(
        "line", Line, set_task, task_parameters=("target",), horizon=9, tasks=[[1], [2]], **arguments
    )


def test_own_environments_change_if_they_say_so() -> None:
    family = line_family(follows_changes=True)
    family.shift = Shift("time", 2)
    played = Played(started(family, [[1.0]]), 0.0, 9)
    np.testing.assert_array_equal(played.rewards[:, 0], [1, 1, 1, 2, 2, 2, 1, 1, 1])
    family.shift = Shift("place", 2)
    with pytest.raises(NacreError, match="allowed for line: changes by time, as the family has no place"):
        Simulator(family, 1, threads=1)


def test_own_environments_that_do_not_say_so_are_refused() -> None:
    family = line_family()
    family.shift = Shift("time", 2)
    with pytest.raises(NacreError, match=r"shift is 'time:2'; allowed for line: none.*follows_changes=True"):
        Simulator(family, 1, threads=1)


def test_a_shift_is_part_of_no_class() -> None:
    shifting("point-robot", Shift("time", 2))
    assert make_family("point-robot").shift is None
    assert "shift" not in {field.name for field in dataclasses.fields(make_family("point-robot").sizes)}
