"""Gymnasium environments of one's own as families, and what is wrong with some."""

import json
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit, TransformAction

from nacre import make_experiment, register_family, resume, train
from nacre.errors import NacreError, SimulationError
from nacre.logs import read_progress_csv
from nacre.runtime import SimulatorPool
from nacre.tasks import FAMILIES, GymnasiumFamily, Simulator, split_tasks
from nacre.tasks.gymnasium import FamilyEnv
from nacre.video import RecordingSimulator, unpacked


class Drift(gymnasium.Env):
    """x += action + drift, terminating beyond 10; the action space is [0, 4]."""

    observation_space = Box(-100.0, 100.0, (1,), np.float64)
    action_space = Box(0.0, 4.0, (1,), np.float64)
    truncate_after = None

    def __init__(self):
        self.drift = None
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.age = self.np_random.uniform(0, 0.5), 0
        return np.array([self.x]), {}

    def step(self, action):
        assert action in self.action_space
        self.x += float(action[0]) + self.drift
        self.age += 1
        return np.array([self.x]), -abs(self.x), self.x > 10, self.age == self.truncate_after, {}

    def close(self):
        self.closed = True


def set_drift(env, task):
    env.unwrapped.drift = task[0]


def sample_drifts(generator, n):
    return generator.uniform(-1, 1, (n, 1))


def drift_family(make_env=Drift, horizon=5, **arguments):
    arguments = {"set_task": set_drift, "sample_tasks": sample_drifts, "task_parameters": ("drift",), **arguments}
    return GymnasiumFamily("drift", make_env, horizon=horizon, **arguments)


def play(family, action=0.0, tasks=((0.5,),)):
    """A simulator that was reset, and what its first step returned."""
    simulator = Simulator(family, len(tasks))
    simulator.reset(seed=0, options={"tasks": np.array(tasks)})
    return simulator, simulator.step(np.full((len(tasks), family.action_size), action, np.float32))


def test_own_environment_as_a_family():
    made = []

    def make_env():
        made.append(Drift())
        return made[-1]

    family = drift_family(make_env)
    assert (family.observation_size, family.action_size) == (1, 1)
    simulator = Simulator(family, 3)
    start, _ = simulator.reset(seed=0, options={"tasks": np.array([[0.0], [0.5], [8.0]])})
    assert len(np.unique(start)) == 3
    # -1, 0 and 1 become 0, 2 and 4.
    observations, rewards, terminations, truncations, _ = simulator.step(np.array([[-1], [0], [1]], np.float32))
    np.testing.assert_allclose(observations, start + np.array([[0.0], [2.5], [12.0]]), rtol=1e-6)
    np.testing.assert_allclose(rewards, -observations[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(terminations, [False, False, True])
    for _ in range(4):
        observations, rewards, terminations, truncations, _ = simulator.step(-np.ones((3, 1), np.float32))
    np.testing.assert_array_equal(truncations, [True, True, False])
    np.testing.assert_allclose(observations, start + np.array([[0.0], [4.5], [12.0]]), rtol=1e-6)
    again, _ = simulator.reset(seed=0)
    np.testing.assert_array_equal(again, start)
    simulator.close()
    assert len(made) == 4
    assert all(env.closed for env in made)


def test_own_environment_that_truncates_too_early():
    class Short(Drift):
        truncate_after = 3

    simulator = Simulator(drift_family(Short), 1)
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    for _ in range(2):
        simulator.step(np.zeros((1, 1), np.float32))
    with pytest.raises(NacreError, match="after 3 steps, before its family's horizon of 5"):
        simulator.step(np.zeros((1, 1), np.float32))
    simulator = Simulator(drift_family(Short, horizon=3), 1)  # a TimeLimit of the same length is no matter
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    truncations = [simulator.step(-np.ones((1, 1), np.float32))[3][0] for _ in range(3)]
    assert truncations == [False, False, True]


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (
            {"observation_space": Dict({"x": Box(-1, 1, (1,))})},
            "must be a Box .*FilterObservation",
        ),
        (
            {"observation_space": Dict({"x": Box(-1, 1, (1,))})},
            "What tells the task, such as a desired goal",
        ),
        (
            {"observation_space": Box(-1, 1, (8, 8))},
            "FlattenObservation makes a vector of it, which must",
        ),
        (
            {"observation_space": Discrete(4)},
            "observation space of drift must be a Box .* is Discrete",
        ),
        ({"observation_space": Box(-1, 1, (0,))}, "observation space of drift must be a Box of one dimension"),
        (
            {"action_space": Discrete(3)},
            r"must be a Box .*TransformAction.*Box\(0, 2, \(1,\), int\)",
        ),
        ({"action_space": MultiDiscrete([2, 3])}, "action space of drift must be a Box .*spaces.unflatten"),
        (
            {"action_space": Dict({"x": Box(-1, 1, (1,))})},
            "action space of drift must be a Box .*spaces.unflatten",
        ),
        ({"action_space": Box(-np.inf, np.inf, (1,))}, "must have finite bounds, .*TransformAction"),
        ({"action_space": Box(-(2**62), 2**62, (1,), np.int64)}, "must have finite bounds"),
    ],
)
def test_own_environment_with_spaces_that_do_not_fit(spaces, message):
    with pytest.raises(NacreError, match=message):
        drift_family(type("Unfit", (Drift,), spaces))


def test_an_unbounded_observation_is_no_matter():
    assert drift_family(type("Wide", (Drift,), {"observation_space": Box(-np.inf, np.inf, (1,))})).observation_size == 1


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 10, np.int64), (-2, 2, np.int32), (0, 1, np.int8), (0, 255, np.uint8), (-128, 127, np.int8)],
)
def test_whole_numbers_have_equal_shares_of_actions(low, high, dtype):
    got = []

    class Whole(Drift):
        action_space = Box(low, high, (1,), dtype)

        def step(self, action):
            assert action in self.action_space
            got.append(int(action[0]))
            return super().step(action * 0)

    values = high - low + 1
    simulator = Simulator(drift_family(Whole, horizon=10**6), 1)
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    actions = (np.arange(4 * values) + 0.5) / (2 * values) - 1  # four in each share
    for action in (-1.0, *actions, 1.0):
        simulator.step(np.full((1, 1), action, np.float32))
    assert got == [low, *np.repeat(np.arange(low, high + 1), 4), high]


def test_the_hint_for_discrete_actions_works():
    class Three(Drift):
        action_space = Discrete(3, start=5)

        def step(self, action):
            assert type(action) is int
            got.append(action)
            return np.zeros(1), 0.0, False, False, {}

    got = []

    def make_env():
        return TransformAction(Three(), lambda action: int(action[0]), Box(5, 7, (1,), int))

    simulator = Simulator(drift_family(make_env), 1)
    simulator.reset(options={"tasks": np.zeros((1, 1))})
    for action in (-0.9, 0.0, 0.9):
        simulator.step(np.full((1, 1), action, np.float32))
    assert got == [5, 6, 7]


def returning(**changes):
    """An environment whose step returns something else in some places."""

    class Odd(Drift):
        def step(self, action):
            names = ("observation", "reward", "terminated", "truncated", "info")
            return tuple((dict(zip(names, super().step(action), strict=True)) | changes).values())

    return Odd


class OldStep(Drift):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Failing(Drift):
    def step(self, action):
        raise KeyError("wheel")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            OldStep,
            "step of OldStep returned 4 values .*allowed: the 5 values observation, reward, term",
        ),
        (Failing, "step of Failing raised KeyError: 'wheel' .*test_own_environment.py, line"),
        (returning(reward=np.ones(1)), r"step of Odd returned a reward of shape \(1,\); allowed: the shape \(\)"),
        (returning(reward=None), "step of Odd returned a reward of type NoneType"),
        (returning(reward="good"), "step of Odd returned a reward of type str"),
        (
            returning(observation=np.zeros(2)),
            r"step of Odd returned an observation of shape \(2,\); allowed: the",
        ),
        (returning(observation=0.5), r"step of Odd returned an observation of shape \(\)"),
        (returning(observation=None), "step of Odd returned an observation of type NoneType"),
        (returning(terminated=0), "step of Odd returned 0 as terminated; allowed: True or False"),
        (returning(terminated=np.array([True])), r"step of Odd returned array\(\[ True\]\) as terminated"),
        (returning(truncated=None), "step of Odd returned None as truncated"),
    ],
)
def test_what_a_step_should_not_return(env, message):
    with pytest.raises(NacreError, match=message):
        play(drift_family(env))


@pytest.mark.parametrize("reward", [np.float32(0.5), np.array(0.5), 1, True])
def test_rewards_that_are_numbers(reward):
    assert play(drift_family(returning(reward=reward)))[1][1] == float(reward)


@pytest.mark.parametrize(
    ("changes", "quantity"), [({"reward": 1e39}, "reward"), ({"observation": [1e39]}, "observation")]
)
def test_numbers_that_are_too_large(changes, quantity):
    with pytest.raises(SimulationError, match=rf"The {quantity} of simulator slot 0 is 1e\+39, .* drift = 0.5"):
        play(drift_family(returning(**changes)))


def test_a_shorter_observation_is_not_repeated():
    class Short(Drift):
        observation_space = Box(-100.0, 100.0, (3,), np.float64)

    with pytest.raises(NacreError, match=r"reset of Short returned an observation of shape \(1,\); allowed: the"):
        play(drift_family(Short))


def test_an_old_reset():
    class OldReset(Drift):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    with pytest.raises(NacreError, match=r"reset of OldReset returned a ndarray .*allowed: the 2 values obs"):
        play(drift_family(OldReset))


def test_errors_of_other_functions_name_them():
    def broken_task(env, task):
        env.unwrapped.drift = task[1]

    with pytest.raises(NacreError, match=r"broken_task raised IndexError: .*test_own_environment.py, line"):
        play(drift_family(set_task=broken_task))
    with pytest.raises(NacreError, match="<lambda> raised ZeroDivisionError"):
        drift_family(lambda: 1 / 0)


@pytest.mark.parametrize("make_env", [lambda: None, lambda: gymnasium.make_vec("CartPole-v1", 2)])
def test_what_is_no_environment(make_env):
    with pytest.raises(NacreError, match=r"returned .* for drift; allowed: one gymnasium.Env"):
        drift_family(make_env)


def test_one_environment_for_all_slots():
    env = Drift()
    with pytest.raises(NacreError, match="returned the same environment twice"):
        Simulator(drift_family(lambda: env), 2)


def test_a_task_that_only_a_wrapper_is_told():
    def set_on_wrapper(env, task):
        env.drift = task[0]

    with pytest.raises(NacreError, match="set_on_wrapper set drift on the wrapper TimeLimit, and not on Drift inside"):
        play(drift_family(lambda: TimeLimit(Drift(), 5), set_task=set_on_wrapper))


def test_a_time_limit_that_is_shorter_than_the_horizon():
    with pytest.raises(NacreError, match="horizon of drift is 5, but its environment has a TimeLimit of 4 steps"):
        drift_family(lambda: TimeLimit(Drift(), 4))
    drift_family(lambda: TimeLimit(Drift(), 5))
    assert drift_family(lambda: TimeLimit(Drift(), 7), horizon=None).horizon == 7
    with pytest.raises(NacreError, match="horizon of GymnasiumFamily is None"):
        drift_family(horizon=None)


@pytest.mark.parametrize("wrapper", [NormalizeObservation, NormalizeReward])
def test_environments_that_remember(wrapper):
    def make_env():
        return TimeLimit(wrapper(Drift()), 5)

    with pytest.raises(NacreError, match=f"{wrapper.__name__} of drift remembers from one episode to the next"):
        drift_family(make_env)
    play(drift_family(make_env, accept_memory=True))

    def make_frozen():
        env = wrapper(Drift())
        env.update_running_mean = False
        return env

    play(drift_family(make_frozen))


class Counting(gymnasium.ObservationWrapper):
    """Counts its observations, and offers the count."""

    def __init__(self, env):
        super().__init__(env)
        self.count = 0

    def observation(self, observation):
        self.count += 1
        return observation * 0 + self.count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_environments_that_offer_what_they_remember():
    def make_env():
        return TimeLimit(Counting(Drift()), 5)

    family = drift_family(make_env)
    assert family.remembers
    assert not drift_family().remembers
    with pytest.raises(NacreError, match="NormalizeObservation of drift remembers"):
        drift_family(lambda: NormalizeObservation(Drift()))
    pool = SimulatorPool(family, 1)
    for simulator in (pool(1), pool(2), pool(2)):
        simulator.reset(seed=0, options={"tasks": np.zeros((simulator.num_envs, 1))})
    state = pool.state_dict()
    assert json.loads(json.dumps(state)) == {"1": [[{"count": 1}]], "2": [[{"count": 2}], [{"count": 2}]]}
    pool.close()
    other = SimulatorPool(family, 1)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(2).reset(seed=0, options={"tasks": np.zeros((2, 1))})[0], [[3], [3]])
    assert other(1).state_dict() == [[{"count": 1}]]
    other.close()


def test_a_run_whose_environments_remember_is_resumed_exactly(tiny, tmp_path, monkeypatch):
    """The observations are counts of observations, so that a resumed run differs if the counts are lost."""
    monkeypatch.setattr("nacre.tasks.FAMILIES", dict(FAMILIES))
    register_family("counting", lambda: drift_family(lambda: Counting(Drift())))
    fields = tiny | {"family": "counting", "task_list": "seeded", "evaluation_steps": 10, "iterations": 2}
    experiment = make_experiment("pearl/point-robot", **fields)
    whole = train(experiment, tmp_path / "whole")
    parts = train(make_experiment("pearl/point-robot", **fields | {"iterations": 1}), tmp_path / "parts")
    resume(parts, 2)
    first, second = (
        {name: column for name, column in read_progress_csv(Path(run, "progress.csv")).items() if "(s)" not in name}
        for run in (whole, parts)
    )
    np.testing.assert_equal(first, second)
    with pytest.raises(NacreError, match=r"environments of drift remember across episodes.*allowed: one seed"):
        train(experiment, tmp_path / "seeds", seeds=2)


def test_a_list_of_tasks():
    family = drift_family(sample_tasks=None, tasks=np.arange(10.0)[:, None])
    split = split_tasks(family, 7, 3, 0, "seeded")
    np.testing.assert_array_equal(split.train[:, 0], np.arange(7))
    np.testing.assert_array_equal(split.test[:, 0], [7, 8, 9])
    drawn = family.sample_tasks(np.random.default_rng(0), 50)
    assert set(drawn[:, 0]) <= set(range(10))
    assert drawn.shape == (50, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": [[1.0]]}, "drift needs sample_tasks or tasks, one of the two"),
        ({"sample_tasks": None}, "drift needs sample_tasks or tasks, one of the two"),
        ({"sample_tasks": None, "tasks": [[1.0, 2.0]]}, r"Tasks of drift have shape \(tasks, 1\)"),
        ({"sample_tasks": None, "tasks": [[1.0], [1.0]]}, "is there twice"),
        ({"task_parameters": "drift"}, "task_parameters of GymnasiumFamily is 'drift'; allowed: a tuple"),
        ({"task_parameters": ()}, r"task_parameters of GymnasiumFamily is \(\); allowed: a tuple"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(NacreError, match=message):
        drift_family(**arguments)


def test_another_number_of_tasks_than_was_asked_for():
    family = drift_family(sample_tasks=lambda generator, n: np.zeros((5, 1)))
    with pytest.raises(NacreError, match=r"sample_tasks of GymnasiumFamily .drift. gave 5 tasks, and 3 were asked for"):
        split_tasks(family, 3, 2, 0, "seeded")


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.array(1)])
def test_successes_of_an_own_environment(value):
    family = drift_family(returning(info={"is_success": value}), success_key="is_success", success_at="end")
    assert (family.has_success, family.success_at) == (True, "end")
    infos = play(family)[1][4]
    np.testing.assert_array_equal(infos["success"], [True])
    assert not drift_family().has_success


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "success_key of drift is 'success', which the info of step of Odd does not have; it has: nothing"),
        ({"is_success": True}, "does not have; it has: 'is_success'"),
        ({"success": 0.3}, r"step of Odd returned 0.3 as info\['success'\]; allowed: true or false"),
        ({"success": np.ones(1)}, r"step of Odd returned array\(\[1.\]\) as info"),
        (None, "does not have; it has: None"),
    ],
)
def test_successes_that_are_none(info, message):
    with pytest.raises(NacreError, match=message):
        play(drift_family(returning(info=info), success_key="success"))


class DrawnGoal(gymnasium.Env):
    """Chooses its goal in `reset`, or takes it from the options; observes it. Goal / 10 of its picture are white."""

    observation_space = Box(-100.0, 100.0, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float64)
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, render_mode=None, size=(60, 40), draws=True):
        self.render_mode, self.size, self.draws, self.seen = render_mode, size, draws, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = options
        if self.draws:
            self.goal = self.np_random.uniform(50, 60) if options is None else options["goal"]
        return np.array([self.goal]), {}

    def step(self, action):
        return np.array([self.goal]), -self.goal, False, False, {}

    def render(self):
        picture = np.zeros((*self.size, 3), np.uint8)
        picture[: round(self.goal * self.size[0] / 10)] = 255
        return picture


def set_goal(env, task):
    env.unwrapped.goal = float(task[0])


def set_goal_and_observe(env, task):
    set_goal(env, task)
    return np.array([env.unwrapped.goal])


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ({"set_task": set_goal, "set_task_at": "after reset"}, None),
        ({"set_task": set_goal_and_observe, "set_task_at": "after reset"}, [2.0, 4.0]),
        ({"set_task": None, "reset_options": lambda task: {"goal": float(task[0])}}, [2.0, 4.0]),
    ],
)
def test_when_an_environment_is_told_its_task(arguments, first):
    """One that chooses its goal in `reset` forgets what it was told before."""
    tasks = np.array([[2.0], [4.0]])
    for told, reached in ((arguments, True), ({"set_task": set_goal}, False)):
        simulator = Simulator(drift_family(DrawnGoal, **told), 2)
        start, _ = simulator.reset(seed=0, options={"tasks": tasks})
        _, rewards, *_ = simulator.step(np.zeros((2, 1), np.float32))
        assert np.array_equal(rewards, [-2.0, -4.0]) is reached
        if told is arguments:
            assert np.array_equal(start[:, 0], first) if first else (start > 49).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"set_task": None}, "drift needs set_task or reset_options: nothing tells its environment the task"),
        ({"set_task_at": "later"}, "set_task_at of drift is 'later'; allowed: 'before reset' or 'after reset'"),
    ],
)
def test_an_environment_that_is_told_nothing(arguments, message):
    with pytest.raises(NacreError, match=message):
        drift_family(**arguments)


def test_what_set_task_returns_is_checked():
    arguments = {"set_task": lambda env, task: np.zeros(3), "set_task_at": "after reset"}
    with pytest.raises(NacreError, match=r"<lambda> returned an observation of shape \(3,\); allowed: the shape"):
        play(drift_family(**arguments))


def drawn_family(size=(60, 40), **arguments):
    return drift_family(
        lambda: DrawnGoal("rgb_array", size), set_task=set_goal, set_task_at="after reset", horizon=4, **arguments
    )


def test_pictures_of_own_environments():
    simulator = Simulator(drawn_family(), 2)
    renderer = simulator.make_renderer(100, 120)
    simulator.reset(seed=0, options={"tasks": np.array([[5.0], [10.0]])})
    assert simulator.frames_per_second == 12
    configurations = simulator.configurations()
    assert configurations.dtype == np.uint8
    half, whole = map(renderer.draw, configurations)
    assert half.shape == (120, 100, 3)
    # 40 wide and 60 high become 80 wide and 120 high, in the middle of 100.
    assert (half[:58, 12:88] == 255).all()
    assert (half[62:, 12:88] == 0).all()
    assert (half[:, :8] == 255).all()
    assert (whole == 255).all()
    env = FamilyEnv(drawn_family(size=(700, 900)), render_mode="rgb_array", task=[5.0])
    env.reset(seed=0)
    assert env.render().shape == (480, 480, 3)
    assert env.metadata["render_fps"] == 12


def test_environments_that_do_not_draw_say_so_before_anything_is_played():
    with pytest.raises(NacreError, match=r"drift cannot be drawn: make its environment with render_mode='rgb_array'"):
        Simulator(drift_family(DrawnGoal), 1).make_renderer(8, 8)

    class Broken(DrawnGoal):
        def render(self):
            return np.zeros((2, 2))

    class Missing(DrawnGoal):
        def render(self):
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run pip install pygame")

    for kind, message in ((Broken, r"render of Broken returned a picture of shape \(2, 2\)"), (Missing, "pip install")):
        with pytest.raises(NacreError, match=message):
            Simulator(drift_family(lambda kind=kind: kind("rgb_array")), 1).make_renderer(8, 8)


def test_videos_of_own_environments_keep_little():
    simulator = RecordingSimulator(drawn_family(size=(400, 400)), 1)
    renderer = simulator.make_renderer(40, 40)
    simulator.reset(seed=0, options={"tasks": np.array([[5.0]])})
    simulator.step(np.zeros((1, 1), np.float32))
    [[first, second]] = simulator.recordings[0]
    assert len(first) < 400 * 400 * 3 / 50
    np.testing.assert_array_equal(unpacked(first), simulator.configurations()[0])
    assert (renderer.draw(unpacked(second))[:18] == 255).all()
