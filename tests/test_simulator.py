"""The simulator: independent slots, seeds, partial resets, frozen slots, ends of episodes, and what goes wrong."""

import pickle
import threading
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from nacre.errors import Interrupted, NacreError, SimulationError
from nacre.tasks import Simulator, TaskFamily, make_family
from nacre.tasks.mujoco import ASSETS


class CountingWorld:
    """Each slot counts its steps and adds up its actions; the first action component may be poison."""

    def __init__(self, n_slots):
        self.state = np.zeros((n_slots, 2))
        self.stepped = []

    def reset(self, slots, tasks, generators):
        self.state[slots] = 0
        return self.state[slots].astype(np.float32), self.state[slots]

    def step(self, slots, actions):
        self.stepped.append(slots.tolist())
        self.state[slots] += np.stack([np.ones(len(slots)), actions[:, 0]], axis=-1)
        return self.state[slots].astype(np.float32), self.state[slots]

    def close(self):
        pass


class Counting(TaskFamily):
    """The task says after how many steps the episode terminates; beyond 100 rewards are NaN."""

    name = "counting"
    observation_size = 2
    action_size = 1
    horizon = 4
    task_parameters = ("terminates_after",)

    def sample_tasks(self, generator, n):
        return generator.integers(1, 10, (n, 1)).astype(np.float64)

    def reward(self, previous, action, following, task):
        return np.where(task[..., 0] > 100, np.nan, following[..., 0])

    def terminated(self, previous, action, following, task):
        return following[..., 0] >= task[..., 0]

    def make_world(self, n_slots, threads):
        return CountingWorld(n_slots)


class Succeeding(Counting):
    """A success is every second step."""

    has_success = True

    def success(self, previous, action, following, task):
        return following[..., 0] % 2 == 0


def counting(tasks):
    simulator = Simulator(Counting(), len(tasks))
    simulator.reset(seed=0, options={"tasks": np.array(tasks, float)[:, None]})
    return simulator


def step(simulator, action=0.5):
    return simulator.step(np.full((simulator.num_envs, simulator.family.action_size), action, np.float32))


def cheetah_rollout(tasks, seeds, actions, threads=1):
    """Observations (time, slots, 20) and rewards (time, slots)."""
    simulator = Simulator(make_family("cheetah-vel"), len(tasks), threads)
    observations = [simulator.reset(seed=seeds, options={"tasks": tasks})[0]]
    rewards = []
    for action in actions:
        observation, reward, *_ = simulator.step(action)
        observations.append(observation)
        rewards.append(reward)
    simulator.close()
    return np.array(observations), np.array(rewards)


@pytest.fixture(scope="module")
def rollout():
    generator = np.random.default_rng(0)
    tasks = generator.uniform(0, 3, (6, 1))
    actions = generator.uniform(-1, 1, (60, 6, 6)).astype(np.float32)
    seeds = [10, 11, 12, 13, 14, 15]
    return tasks, seeds, actions, *cheetah_rollout(tasks, seeds, actions)


def test_slots_are_independent_of_their_order_number_and_threads(rollout):
    tasks, seeds, actions, observations, rewards = rollout
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = cheetah_rollout(tasks[order], [seeds[i] for i in order], actions[:, order])
    np.testing.assert_array_equal(permuted[0], observations[:, order])
    np.testing.assert_array_equal(permuted[1], rewards[:, order])
    alone = cheetah_rollout(tasks[4:5], seeds[4:5], actions[:, 4:5])
    np.testing.assert_array_equal(alone[0], observations[:, 4:5])
    for threads in (2, 3, 16):
        threaded = cheetah_rollout(tasks, seeds, actions, threads)
        np.testing.assert_array_equal(threaded[0], observations)
        np.testing.assert_array_equal(threaded[1], rewards)


def test_cheetah_against_a_plain_loop(rollout):
    """Observation and reward of slot 2, computed from one MjData in float64 as the spec writes them."""
    tasks, seeds, actions, observations, rewards = rollout
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
    data = mujoco.MjData(model)
    generator = np.random.default_rng(seeds[2])
    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, 9)
    data.qvel[:] = 0.1 * generator.standard_normal(9)
    mujoco.mj_forward(model, data)
    torso = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "torso")
    for t, action in enumerate(actions[:, 2].astype(np.float64)):
        x = data.qpos[0]
        data.ctrl[:] = action
        for _ in range(5):
            mujoco.mj_step(model, data)
        expected = np.concatenate([data.qpos[1:9], data.qvel, data.xpos[torso]])
        np.testing.assert_array_equal(observations[t + 1, 2], expected.astype(np.float32))
        velocity = (data.qpos[0] - x) / (model.opt.timestep * 5)
        reward = -np.abs(velocity - tasks[2, 0]) - 0.05 * np.sum(np.square(action))
        np.testing.assert_allclose(rewards[t, 2], reward, rtol=1e-12)


def test_cheetah_against_gymnasiums_own():
    """The same physics as Gymnasium's half-cheetah from the same state; its observation lacks the torso position."""
    env = gymnasium.make("HalfCheetah-v5", reset_noise_scale=0.1, ctrl_cost_weight=0.05).unwrapped
    reference, _ = env.reset(seed=21)
    simulator = Simulator(make_family("cheetah-dir"), 1)
    observations, _ = simulator.reset(seed=[21], options={"tasks": np.array([[1.0]])})
    np.testing.assert_allclose(observations[0, :17], reference, rtol=1e-6)
    generator = np.random.default_rng(1)
    for _ in range(50):
        action = generator.uniform(-1, 1, 6).astype(np.float32)
        reference, reward, *_ = env.step(action)
        observations, rewards, *_ = simulator.step(action[None])
        np.testing.assert_allclose(observations[0, :17], reference, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(rewards[0], reward, rtol=1e-5, atol=1e-6)
    simulator.close()
    env.close()


def test_reset_noise_of_the_cheetah():
    simulator = Simulator(make_family("cheetah-vel"), 300)
    observations, _ = simulator.reset(seed=0, options={"tasks": np.ones((300, 1))})
    simulator.close()
    positions, velocities = observations[:, :8], observations[:, 8:17]
    assert 0.099 < np.abs(positions).max() <= 0.1
    assert positions.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert velocities.std() == pytest.approx(0.1, rel=0.05)
    np.testing.assert_allclose(observations[:, 17].std(), 0.2 / 12**0.5, rtol=0.15)  # the torso's absolute x


def test_nothing_of_an_episode_leaks_into_the_next(rollout):
    tasks, seeds, actions, observations, _ = rollout
    simulator = Simulator(make_family("cheetah-vel"), 6)
    simulator.reset(seed=99, options={"tasks": tasks})
    for _ in range(30):
        step(simulator, 1.0)
    np.testing.assert_array_equal(simulator.reset(seed=seeds)[0], observations[0])
    fresh = Simulator(make_family("cheetah-vel"), 6)
    fresh.reset(seed=seeds, options={"tasks": tasks})
    # Everything the next step depends on, the solver's warm start included.
    for used_slot, fresh_slot in zip(simulator._world._slots, fresh._world._slots, strict=True):
        np.testing.assert_array_equal(integration_state(used_slot), integration_state(fresh_slot))
    fresh.close()
    for action, expected in zip(actions, observations[1:], strict=True):
        np.testing.assert_array_equal(simulator.step(action)[0], expected)
    simulator.close()


def integration_state(slot):
    what = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(slot.model, what))
    mujoco.mj_getState(slot.model, slot.data, state, what)
    return state


def test_point_robot_moves_without_bounds():
    simulator = Simulator(make_family("point-robot"), 3)
    start, _ = simulator.reset(seed=0, options={"tasks": np.zeros((3, 2))})
    assert np.abs(start).max() <= 1
    assert len(np.unique(start)) == 6
    actions = np.array([[1, -1], [0.5, 0], [30, -30]], np.float32)  # the last is clipped
    total = np.zeros(3)
    for _ in range(20):
        observations, rewards, *_ = simulator.step(actions)
        total += rewards
    moved = 20 * 0.1 * np.array([[1, -1], [0.5, 0], [1, -1]])
    np.testing.assert_allclose(observations, start + moved, rtol=1e-5)
    np.testing.assert_allclose(rewards, -np.linalg.norm(observations, axis=1), rtol=1e-6)


def test_sparse_point_robot_starts_at_the_origin_and_pays_in_the_disc():
    """A straight line to an axis-aligned goal reaches the disc at step 8; the best return is 12.7 (spec 4.6)."""
    simulator = Simulator(make_family("sparse-point-robot"), 2)
    # A hair nearer than 1, because eight moves of 0.1 in floating point end a hair short of 0.8.
    observations, _ = simulator.reset(seed=0, options={"tasks": np.array([[1.0 - 1e-9, 0.0], [0.0, 1.0]])})
    np.testing.assert_array_equal(observations, np.zeros((2, 2)))
    sparse = []
    for t in range(20):
        action = np.array([[1.0 if t < 10 else 0.0, 0.0], [0.0, 0.0]], np.float32)
        _, rewards, _, _, infos = simulator.step(action)
        sparse.append(infos["sparse_reward"])
    sparse = np.array(sparse)
    assert np.flatnonzero(sparse[:, 0])[0] == 7
    assert sparse[:, 0].sum() == pytest.approx(12.7)
    np.testing.assert_array_equal(sparse[:, 1], 0)
    assert rewards[1] == pytest.approx(-1)


def test_seeds():
    simulator = Simulator(make_family("point-robot"), 4)
    tasks = {"tasks": np.zeros((4, 2))}
    first, _ = simulator.reset(seed=3, options=tasks)
    later, _ = simulator.reset()
    assert len(np.unique(np.concatenate([first, later]))) == 16
    np.testing.assert_array_equal(simulator.reset(seed=3)[0], first)
    np.testing.assert_array_equal(simulator.reset()[0], later)
    sequence = np.random.SeedSequence([3, 1, 4])
    from_sequence, _ = simulator.reset(seed=sequence)
    np.testing.assert_array_equal(simulator.reset(seed=sequence)[0], from_sequence)
    assert not np.any(from_sequence == first)
    # Neighbouring seeds share no slot, as they would with seed + slot.
    assert not np.any(np.isin(simulator.reset(seed=4)[0], first))
    # A slot that is not reset is not seeded.
    simulator.reset(seed=3)
    simulator.reset(seed=5, options={"reset_mask": np.array([False, True, True, True])})
    np.testing.assert_array_equal(simulator.reset()[0][0], later[0])
    # One seed per slot; None lets a generator run on. And the number of slots does not matter.
    one, _ = simulator.reset(seed=[7, 7, 8, None])
    np.testing.assert_array_equal(one[0], one[1])
    assert not np.any(one[1] == one[2])
    smaller, _ = Simulator(make_family("point-robot"), 2).reset(seed=3, options={"tasks": np.zeros((2, 2))})
    np.testing.assert_array_equal(smaller, first[:2])


def test_truncation_is_not_termination():
    simulator = counting([2, 4, 9])
    ends = [step(simulator)[2:4] for _ in range(5)]
    terminations, truncations = np.array([end[0] for end in ends]), np.array([end[1] for end in ends])
    np.testing.assert_array_equal(terminations.argmax(axis=0), [1, 3, 0])
    # Slot 1 terminates just when the clock runs out: terminated, not truncated.
    np.testing.assert_array_equal(terminations[-1], [True, True, False])
    np.testing.assert_array_equal(truncations[-1], [False, False, True])
    np.testing.assert_array_equal(truncations[:, 2], [False, False, False, True, True])
    # The same when all slots do.
    simulator = counting([4, 4])
    for _ in range(4):
        _, _, terminations, truncations, _ = step(simulator)
    assert terminations.all()
    assert not truncations.any()


def test_frozen_slots_rest():
    simulator = counting([2, 9])
    step(simulator)
    end, rewards, *_ = step(simulator)
    np.testing.assert_array_equal(rewards, [2, 2])
    observations, rewards, terminations, _, infos = step(simulator, 1.0)
    np.testing.assert_array_equal(infos["active"], [False, True])
    np.testing.assert_array_equal(observations[0], end[0])
    np.testing.assert_array_equal(observations[1], [3, 2])
    np.testing.assert_array_equal(rewards, [0, 3])
    np.testing.assert_array_equal(terminations, [True, False])
    assert simulator._world.stepped == [[0, 1], [0, 1], [1]]
    # A frozen slot's action does not matter, not even if it is not a number.
    simulator.step(np.array([[np.nan], [0.0]], np.float32))
    np.testing.assert_array_equal(simulator._world.stepped[-1], [1])
    observations, rewards, *_, infos = step(simulator)
    assert len(simulator._world.stepped) == 4
    assert not infos["active"].any()
    np.testing.assert_array_equal(rewards, 0)


def test_partial_reset_of_desynchronised_episodes():
    """Slots whose episodes start at different times do just what they would have done on their own."""
    generator = np.random.default_rng(5)
    actions = generator.uniform(-1, 1, (40, 3, 6)).astype(np.float32)
    tasks = np.array([[0.5], [1.0], [2.0]])
    simulator = Simulator(make_family("cheetah-vel"), 3, threads=2)
    first, _ = simulator.reset(seed=[1, 2, 3], options={"tasks": tasks})
    resets = {10: [False, True, False], 17: [True, False, False]}
    observations, rewards = [first], []
    for t, action in enumerate(actions):
        if t in resets:
            changed = tasks + 0.25
            options = {"reset_mask": np.array(resets[t]), "tasks": changed}
            before = observations[-1]
            after, _ = simulator.reset(seed=[20, 20, 20], options=options)
            untouched = ~np.array(resets[t])
            np.testing.assert_array_equal(after[untouched], before[untouched])
            assert set(options) == {"reset_mask", "tasks"}
        observation, reward, *_ = simulator.step(action)
        observations.append(observation)
        rewards.append(reward)
    simulator.close()
    observations, rewards = np.array(observations), np.array(rewards)

    alone = cheetah_rollout(tasks[2:], [3], actions[:, 2:])  # its task was not its to change: it was never reset
    np.testing.assert_array_equal(observations[:, 2], alone[0][:, 0])
    np.testing.assert_array_equal(rewards[:, 2], alone[1][:, 0])
    for slot, start in ((1, 10), (0, 17)):
        alone = cheetah_rollout(tasks[[slot]] + 0.25, [20], actions[start:, [slot]])
        np.testing.assert_array_equal(observations[start + 1 :, slot], alone[0][1:, 0])
        np.testing.assert_array_equal(rewards[start:, slot], alone[1][:, 0])


def test_a_reset_slot_gets_a_whole_episode():
    simulator = counting([9, 9])
    for _ in range(2):
        step(simulator)
    simulator.reset(options={"reset_mask": np.array([False, True])})
    truncations = np.array([step(simulator)[3] for _ in range(4)])
    np.testing.assert_array_equal(truncations.argmax(axis=0), [1, 3])


@pytest.mark.parametrize("tasks", [[9, 9], [1, 9]])  # all slots running; one frozen after the first step
def test_what_is_returned_is_the_callers(tasks):
    simulator = counting(tasks)
    step(simulator)
    returned = step(simulator)
    copies = [array.copy() for array in returned[:4]]
    step(simulator)
    for array, copy in zip(returned, copies, strict=False):
        np.testing.assert_array_equal(array, copy)
        array[:] = 1
    observations, _, terminations, _, infos = step(simulator)
    running = np.array(tasks) == 9
    np.testing.assert_array_equal(observations[running, 0], 4)
    np.testing.assert_array_equal(terminations, ~running)
    np.testing.assert_array_equal(infos["active"], running)


def test_a_reward_that_is_not_finite_is_named():
    simulator = counting([1, 2, 999])
    with pytest.raises(SimulationError, match=r"reward of simulator slot 2 .* terminates_after = 999") as error:
        step(simulator)
    assert (error.value.quantity, error.value.slot, error.value.task) == ("reward", 2, {"terminates_after": 999.0})
    # Also when the slot is not the same row among the running ones.
    simulator = counting([1, 2, 3])
    step(simulator)
    simulator._tasks[2] = 999
    with pytest.raises(SimulationError) as error:
        step(simulator)
    assert error.value.slot == 2


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_named(poison):
    simulator = counting([9, 9])
    with pytest.raises(SimulationError) as error:
        simulator.step(np.array([[0.0], [poison]], np.float32))
    assert (error.value.quantity, error.value.slot) == ("action", 1)
    assert simulator._world.stepped == []


def test_a_cheetah_that_blows_up_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its own
    simulator = Simulator(make_family("cheetah-vel"), 3)
    simulator.reset(seed=0, options={"tasks": np.array([[1.0], [2.0], [3.0]])})
    simulator._world._slots[1].data.qvel[:] = np.nan
    with pytest.raises(SimulationError) as error:
        step(simulator)
    assert (error.value.quantity, error.value.slot) == ("observation", 1)
    assert error.value.task == {"target_velocity": 2.0}
    # And it is over with the episode.
    simulator.reset(options={"reset_mask": np.array([False, True, False])})
    assert np.isfinite(step(simulator)[0]).all()
    simulator.close()


def test_rewards_of_the_wrong_shape_are_refused():
    class Wrong(Counting):
        def reward(self, previous, action, following, task):
            return following[..., :1]

    simulator = Simulator(Wrong(), 2)
    simulator.reset(options={"tasks": np.ones((2, 1))})
    with pytest.raises(NacreError, match=r"reward of Wrong returned rewards of shape \(2, 1\); allowed: the shape"):
        step(simulator)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (np.ones((3, 1)), "Each of 2 slots needs a task"),
        (np.ones((2, 2)), r"shape \(tasks, 1\)"),
        (np.ones(2), r"shape \(tasks, 1\)"),
        (np.array([[1.0], [np.nan]]), "finite"),
        ([["fast"], ["slow"]], "row of numbers"),
    ],
)
def test_wrong_tasks(tasks, message):
    with pytest.raises(NacreError, match=message):
        Simulator(Counting(), 2).reset(options={"tasks": tasks})


def test_misuse():
    simulator = Simulator(Counting(), 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        step(simulator)
    with pytest.raises(ValueError, match="tasks"):
        simulator.reset()
    tasks = {"tasks": np.ones((2, 1))}
    with pytest.raises(ValueError, match="first reset"):
        simulator.reset(options={**tasks, "reset_mask": np.array([True, False])})
    simulator.reset(options=tasks)
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        simulator.step(np.zeros((3, 1), np.float32))
    with pytest.raises(TypeError, match="reset_mask"):
        simulator.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(ValueError, match="at least one"):
        simulator.reset(options={"reset_mask": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="needs a seed"):
        simulator.reset(seed=[1])
    with pytest.raises(NacreError, match="at least 1 slot"):
        Simulator(Counting(), 0)
    with pytest.raises(NacreError, match="threads"):
        Simulator(Counting(), 1, threads=0)


def test_spaces():
    simulator = Simulator(make_family("cheetah-vel"), 3)
    assert simulator.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    assert simulator.single_action_space == gymnasium.spaces.Box(-1, 1, (6,), np.float32)
    assert simulator.action_space.shape == (3, 6)
    observations, _ = simulator.reset(seed=0, options={"tasks": np.ones((3, 1))})
    assert observations in simulator.observation_space
    simulator.close()


def test_closing_ends_the_threads():
    def running():
        return sum(thread.name.startswith("nacre-mujoco") for thread in threading.enumerate())

    before = running()
    simulator = Simulator(make_family("cheetah-vel"), 4, threads=3)
    simulator.reset(options={"tasks": np.ones((4, 1))})
    step(simulator)
    assert running() == before + 2
    simulator.close()
    simulator.close()
    assert running() == before
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        step(simulator)


def test_successes_are_of_the_slots_that_were_stepped():
    simulator = Simulator(Succeeding(), 2)
    simulator.reset(seed=0, options={"tasks": np.array([[2.0], [9.0]])})
    successes = [step(simulator)[4]["success"] for _ in range(4)]
    # Slot 0 is over after two steps, and rests.
    np.testing.assert_array_equal(successes, [[False, False], [True, True], [False, False], [False, True]])
    assert {row.dtype for row in successes} == {np.dtype(bool)}
    assert "success" not in step(counting([2]))[4]


@pytest.mark.parametrize("value", [1e39, -1e30, 1e19, 1.01e9])
def test_a_reward_that_is_too_large_to_learn_from_is_named(value):
    """1e39 is inf as float32; 1e30 and 1e19 are not, but the square of an error is. Each ended a run for ever."""

    class Huge(Counting):
        def reward(self, previous, action, following, task):
            return np.where(task[..., 0] == 7, value, 1e9)

    simulator = Simulator(Huge(), 2)
    simulator.reset(options={"tasks": np.array([[5.0], [7.0]])})
    with pytest.raises(SimulationError) as error:
        step(simulator)
    assert str(error.value) == (
        f"The reward of simulator slot 1 is {value:g}, which is too large to learn from; its task is "
        "terminates_after = 7."
    )
    assert (error.value.quantity, error.value.slot, error.value.value) == ("reward", 1, value)


class Returning(CountingWorld):
    """A world whose step returns what the test says."""

    returned = None

    def step(self, slots, actions):
        result = super().step(slots, actions)
        return self.returned(*result)


def simulator_of(world=CountingWorld, **attributes):
    family = type("Own", (Counting,), {"make_world": lambda self, n_slots, threads: world(n_slots), **attributes})()
    simulator = Simulator(family, 2)
    simulator.reset(options={"tasks": np.ones((2, 1))})
    return simulator


@pytest.mark.parametrize("value", [1e39, -1e10])
def test_observations_and_reward_states_that_are_too_large(value):
    for quantity, returned in (
        ("observation", lambda observations, states: (observations.astype(np.float64) + value, states)),
        ("reward state", lambda observations, states: (observations, states + np.array([0, value]))),
    ):
        simulator = simulator_of(type("Huge", (Returning,), {"returned": staticmethod(returned)}))
        with pytest.raises(SimulationError, match=f"The {quantity} of simulator slot 0 is .*too large") as error:
            step(simulator)
        assert error.value.quantity == quantity


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda o, s: o, "step of Odd returned a ndarray .*; allowed: the 2 values observations, reward states"),
        (lambda o, s: (o, s, s), "step of Odd returned 3 values"),
        (
            lambda o, s: (o[:, :1], s),
            r"step of Odd returned observations of shape \(2, 1\); allowed: the shape",
        ),
        (lambda o, s: (o[:1], s), r"observations of shape \(1, 2\); allowed: the shape \(2, 2\)"),
        (lambda o, s: (o[0], s), r"observations of shape \(2,\)"),
        (lambda o, s: (o, s[:, 0]), r"reward states of shape \(2,\); allowed: the shape \(2, 2\)"),
        (lambda o, s: (o, s[:, :1]), r"reward states of shape \(2, 1\); allowed: the shape \(2, 2\)"),
        (lambda o, s: (o.astype(str), s), "step of Odd returned observations of type ndarray .*; allowed: numbers"),
        (lambda o, s: ([[1.0], [1.0, 2.0]], s), "observations of type list .*; allowed: numbers"),
        (lambda o, s: (None, s), "observations of type NoneType"),
        (lambda o, s: {}["key"], "step of Odd raised KeyError: 'key' .*test_simulator.py, line"),
    ],
)
def test_what_a_world_should_not_return(returned, message):
    simulator = simulator_of(type("Odd", (Returning,), {"returned": staticmethod(returned)}))
    with pytest.raises(NacreError, match=message):
        step(simulator)


def test_lists_and_other_numbers_are_observations_too():
    lists = type("Lists", (Returning,), {"returned": staticmethod(lambda o, s: (o.astype(int).tolist(), s.tolist()))})
    observations = step(simulator_of(lists))[0]
    assert observations.dtype == np.float32
    np.testing.assert_array_equal(observations, [[1, 0], [1, 0]])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"reward": lambda *_: 1.0}, r"reward of Own returned rewards of shape \(\); allowed: the shape \(2,\)"),
        ({"reward": lambda *_: None}, "reward of Own returned rewards of type NoneType .None.; allowed: numbers"),
        ({"reward": lambda *_: np.ones(2) * 1j}, "reward of Own returned rewards of type ndarray"),
        ({"reward": lambda *_: 1 / 0}, "reward of Own raised ZeroDivisionError: division by zero .*test_simulator.py"),
        (
            {"terminated": lambda *_: False},
            r"terminated of Own returned False; allowed: an array of bool of shape",
        ),
        ({"terminated": lambda *_: np.full(2, np.nan)}, r"terminated of Own returned array\(\[nan, nan\]\); allowed"),
        ({"terminated": lambda *_: np.zeros((2, 1), bool)}, r"terminated of Own returned values of shape \(2, 1\)"),
        ({"has_success": True}, "success of Own raised NotImplementedError: counting does not say"),
        ({"has_success": True, "success": lambda *_: np.ones(2)}, r"success of Own returned array\(\[1., 1.\]\)"),
        ({"has_sparse_reward": True, "sparse_reward": lambda *_: np.ones(3)}, r"sparse rewards of shape \(3,\)"),
    ],
)
def test_what_a_family_should_not_return(attributes, message):
    simulator = simulator_of(**attributes)
    with pytest.raises(NacreError, match=message):
        step(simulator)


def test_a_world_that_is_none():
    with pytest.raises(NacreError, match="make_world of Own returned 3; allowed: a world, with the methods"):
        simulator_of(lambda n_slots: 3)


def test_pictures_that_are_not_uint8():
    """Numbers from 0 to 1 would all be black."""

    class Bright(CountingWorld):
        def reset(self, slots, tasks, generators):
            return np.full((len(slots), 32, 32, 3), 0.9), self.state[slots]

    with pytest.raises(NacreError, match="reset of Bright returned pictures of float64; allowed: uint8"):
        simulator_of(Bright, observation_size=(32, 32, 3))


def test_errors_survive_a_process_border():
    error = SimulationError("reward", 3, {"goal": 0.5}, "Somewhere.", 2, 1e19)
    other = pickle.loads(pickle.dumps(error))
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert vars(error.moved(slot=1, place="There.")) == vars(
        SimulationError("reward", 1, {"goal": 0.5}, "There.", 2, 1e19)
    )
    interrupted = Interrupted(Path("runs/first"), 15)
    other = pickle.loads(pickle.dumps(interrupted))
    assert (str(other), vars(other)) == (str(interrupted), vars(interrupted))
