"""Where tasks changed, and how rewards recover, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nacre.recovery import HELD, STEPS_AFTER, STEPS_BEFORE, Recovery, TaskChange, changes_in, recovery_of
from nacre.tasks import make_family
from nacre.tasks.cheetah import CheetahVel
from nacre.tasks.quantities import measure
from nacre.types import Episode

FIRST = np.array([1.0])


def episode_of(tasks: list[float], rewards: Any = 0.0, velocities: Any = None) -> Episode:
    """An episode of a cheetah, of which only tasks, rewards and velocities matter."""
    steps = len(tasks)
    states = np.zeros((steps + 1, 3))
    if velocities is not None:
        states[1:, 0] = 0.05 * np.cumsum(velocities)
    return Episode(
        observations=np.zeros((steps + 1, 20), np.float32),
        actions=np.zeros((steps, 6), np.float32),
        rewards=np.broadcast_to(np.asarray(rewards, np.float32), steps).copy(),
        sparse_rewards=None,
        terminated=False,
        reward_states=None if velocities is None else states,
        tasks=np.array(tasks, float)[:, None],
    )


def recovered(trial: list[Episode], family: str = "cheetah-vel", first: np.ndarray = FIRST) -> Recovery:
    found = recovery_of(make_family(family), first[None], [[trial]])
    assert found is not None
    return found


def test_each_change_is_named() -> None:
    trial = [episode_of([1, 1, 2, 2, 2, 3]), episode_of([1, 1]), episode_of([2, 2, 1])]
    assert changes_in(trial, FIRST) == (
        TaskChange(1, 3, (1.0,), (2.0,)),
        TaskChange(1, 6, (2.0,), (3.0,)),
        TaskChange(3, 1, (1.0,), (2.0,)),  # before the first step
        TaskChange(3, 3, (2.0,), (1.0,)),
    )
    assert changes_in(trial, FIRST)[0].to_json() == {"episode": 1, "step": 3, "from": [1.0], "to": [2.0]}


def test_episodes_without_tasks_or_changes() -> None:
    plain = episode_of([1, 1])
    object.__setattr__(plain, "tasks", None)
    family = make_family("cheetah-vel")
    for trial in ([plain], [episode_of([1, 1])], []):
        assert changes_in(trial, FIRST) == ()
        assert recovery_of(family, FIRST[None], [[trial]]) is None


def test_rewards_are_aligned_and_cut_at_the_changes() -> None:
    tasks = [1.0] * 30 + [2.0] * 10 + [3.0] * 80
    rewards = np.arange(120.0)
    found = recovered([episode_of(tasks, rewards)])
    assert found.changes == 2
    window = dict(zip(found.steps.tolist(), zip(found.rewards, found.counts, strict=True), strict=True))
    assert min(window) == -STEPS_BEFORE
    assert max(window) == STEPS_AFTER - 1
    assert window[-20] == (10.0, 1)  # of the first change alone: the second task is 10 steps old
    assert window[-1] == ((29 + 39) / 2, 2)
    assert window[0] == ((30 + 40) / 2, 2)
    assert window[9] == ((39 + 49) / 2, 2)
    assert window[10] == (50.0, 1)  # of the second alone
    assert found.mean_reward(0, 2) == (30 + 31 + 40 + 41) / 4
    assert found.mean_reward(9, 11) == pytest.approx((39 + 49 + 50) / 3)


def test_steps_that_no_change_has() -> None:
    found = recovered([episode_of([1, 1, 2], [1.0, 2.0, 3.0])])
    assert np.isnan(found.rewards[found.counts == 0]).all()
    assert found.counts.sum() == 3
    assert found.mean_reward(10, 50) is None
    assert found.to_json()["mean_rewards"][STEPS_BEFORE - 3 : STEPS_BEFORE + 2] == [None, 1.0, 2.0, 3.0, None]
    assert found.in_words()[0] == (
        "The task changed 1 time(s) inside an episode: the mean reward is 1.5 in the 20 steps before a change, 3 in "
        "the 10 steps after it."
    )


@pytest.mark.parametrize(
    ("velocities", "steps"),
    [
        ([1.0] * 5 + [3.0] * 10, 0),
        ([1.0] * 5 + [1.0] * 4 + [2.5] * 6, 4),  # nearer to 3 than to 1
        ([1.0] * 5 + [1.9] * 4 + [2.1] * 6, 4),
        ([1.0] * 5 + [3.0, 1.0] * 2 + [3.0] * 6, 4),  # it has to hold
        ([1.0] * 5 + [1.0] * 6 + [3.0] * 4, None),  # it does not hold for long enough to be known
        ([1.0] * 5 + [1.5] * 10, None),
    ],
)
def test_a_target_is_followed(velocities: list[float], steps: int | None) -> None:
    found = recovered([episode_of([1.0] * 5 + [3.0] * 10, 0.0, velocities)])
    assert found.followed_after == (steps,)
    assert found.median == steps


def test_a_direction_is_followed() -> None:
    velocities = [2.0] * 6 + [1.0, 0.5, -0.1] + [-2.0] * 8
    tasks = [1.0] * 6 + [-1.0] * 11
    found = recovered([episode_of(tasks, 0.0, velocities)], "cheetah-dir")
    assert found.followed_after == (2,)
    assert found.in_words()[1] == (
        "The velocity in the direction follows the new task in 1 of 1 change(s), after 2 step(s) (median), before the "
        "next change or the end of the episode."
    )


def test_the_next_change_ends_the_wait() -> None:
    tasks = [1.0] * 2 + [3.0] * (HELD - 1) + [1.0] * 8
    velocities = [3.0] * (HELD + 1) + [1.0] * 8
    found = recovered([episode_of(tasks, 0.0, velocities)])
    assert found.followed_after == (None, 0)
    assert found.median == 0
    assert "in 1 of 2 change(s), after 0 step(s) (median), before" in found.in_words()[1]


def moving(states: np.ndarray, tasks: np.ndarray) -> Episode:
    """An episode of which only reward states and tasks count."""
    steps = len(tasks)
    return Episode(
        observations=np.zeros((steps + 1, 17), np.float32),
        actions=np.zeros((steps, 6), np.float32),
        rewards=np.zeros(steps, np.float32),
        sparse_rewards=None,
        terminated=False,
        reward_states=states,
        tasks=tasks,
    )


def test_a_quantity_that_is_the_same_in_both_tasks_tells_nothing() -> None:
    family = make_family("walker-rand-params")
    tasks = family.sample_tasks(np.random.default_rng(0), 2)
    states = np.random.default_rng(0).standard_normal((21, 18))
    episode = moving(states, tasks.repeat(10, axis=0))
    found = recovery_of(family, tasks[:1], [[[episode]]])
    assert found is not None
    assert found.followed_after == ()
    assert found.median is None
    assert len(found.in_words()) == 1


def test_kinds_that_cannot_be_compared_tell_nothing() -> None:
    class TwoKinds(CheetahVel):
        def target(self, task: Any) -> Any:
            return np.where(task[..., 0] > 1, np.nan, task[..., 0])

    found = recovery_of(TwoKinds(), FIRST[None], [[[episode_of([1.0] * 5 + [3.0] * 9, 0.0, [1.0] * 14)]]])
    assert found is not None
    assert found.followed_after == ()


def test_a_height_and_a_speed_are_not_compared() -> None:
    """Kinds of tasks measure different things, also if none of them has a target."""
    family = make_family("cheetah-multi-task", variants=("flipping", "jumping"))
    tasks = family.sample_tasks(np.random.default_rng(0), 2).repeat(10, axis=0)
    episode = moving(np.zeros((21, 18)) - np.arange(21)[:, None], tasks)
    found = recovery_of(family, tasks[:1], [[[episode]]])
    assert found is not None
    assert found.followed_after == ()


def test_the_median_is_over_the_changes_that_were_followed() -> None:
    def with_steps(*steps: int | None) -> Recovery:
        empty = np.zeros(STEPS_BEFORE + STEPS_AFTER)
        return Recovery(len(steps), empty, empty.astype(int), steps, "velocity (m/s)")

    assert with_steps(3, None, 5).median == 4
    assert with_steps(None).median is None
    assert with_steps().median is None
    assert with_steps(None).in_words()[1] == (
        "The velocity follows the new task in 0 of 1 change(s), before the next change or the end of the episode."
    )
    assert not any(isinstance(value, float) and math.isnan(value) for value in with_steps(3).to_json().values())


def test_sparse_rewards_on_request() -> None:
    episode = episode_of([1, 2, 2], [1.0, 2.0, 3.0])
    object.__setattr__(episode, "sparse_rewards", np.array([0, 1, 0], np.float32))
    family = make_family("cheetah-vel")
    found = recovery_of(family, FIRST[None], [[[episode]]], sparse=True)
    assert found is not None
    assert found.mean_reward(0, 1) == 1.0


def test_measurements_know_a_change_before_the_first_step() -> None:
    found = measure(make_family("cheetah-vel"), episode_of([2, 2, 1], 0.0, [0.0] * 3), FIRST)
    np.testing.assert_array_equal(found.changes, [True, False, True])
    np.testing.assert_array_equal(found.target, [2, 2, 1])
