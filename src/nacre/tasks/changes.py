"""When the tasks of a simulator's slots change, and to which: a clock and random numbers for each slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int

from nacre.errors import NacreError
from nacre.tasks.checks import call, name_of, numbers
from nacre.tasks.family import TaskFamily, check_tasks, draw_tasks
from nacre.tasks.shifts import Shift

Pool = Float64[np.ndarray, "_ parameters"]

_STREAM = 1
"""The child of a slot's seed that changes are drawn from, so that resets are the same with and without changes."""


class Changes:
    """The clocks of N slots. What happens in one depends on its seed, its place, its task and its pool alone."""

    def __init__(self, family: TaskFamily, shift: Shift, n_slots: int) -> None:
        self._family, self._shift = family, shift
        self._generators = [np.random.default_rng() for _ in range(n_slots)]
        self._pools: list[Pool | None] = [None] * n_slots
        self._since = np.zeros(n_slots, np.int64)
        """Steps that the task of each slot has been in force."""
        self._limits = np.zeros((n_slots, 2))
        """By place: in front and behind, as distances. By time: after how many steps the task may change, twice."""

    def set_seed(self, slot: int, seed: int | np.integer | np.random.SeedSequence) -> None:
        """Gives a slot random numbers that are independent of those of its resets."""
        root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(int(seed))
        own = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, _STREAM))
        self._generators[slot] = np.random.default_rng(own)

    def set_pools(self, slots: Int[np.ndarray, " n"], pools: Sequence[Pool | None]) -> None:
        """The tasks that changes draw from, in each of the slots; None: whatever the family draws."""
        for slot, pool in zip(slots, pools, strict=True):
            self._pools[slot] = pool

    def begin(self, slots: Int[np.ndarray, " n"]) -> None:
        """Begins an episode in each of the slots."""
        self._since[slots] = 0
        for slot in slots:
            self._limits[slot] = self._draw_limit(slot), self._draw_limit(slot)

    def due(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        reward_states: Float64[np.ndarray, "n reward_state"],
    ) -> tuple[Int[np.ndarray, " changed"], Float64[np.ndarray, "changed parameters"]]:
        """Which of the slots have another task from their next step on, and which task that is.

        Args:
            slots: those that are about to take a step.
            tasks: what is in force in each of them.
            reward_states: of each of them, before the step.
        """
        reached = self._passed(slots, reward_states) if self._shift.trigger == "place" else self._elapsed(slots)
        self._since[slots] += 1
        changed, new = [], []
        for index in np.flatnonzero(reached):
            slot, task = int(slots[index]), tasks[index]
            other = self._next(slot, task, int(reached[index]))
            if other is not None and not np.array_equal(other, task):
                changed.append(slot)
                new.append(other)
        return np.array(changed, np.int64), np.array(new).reshape(-1, tasks.shape[1])

    def _passed(
        self, slots: Int[np.ndarray, " n"], reward_states: Float64[np.ndarray, "n reward_state"]
    ) -> Int[np.ndarray, " n"]:
        """1 in slots that have passed their limit in front, -1 in those that have passed the one behind, which move on.
        0 elsewhere."""
        places = place_of(self._family, reward_states)
        sides = (places > self._limits[slots, 0]).astype(np.int64) - (places < -self._limits[slots, 1])
        for index in np.flatnonzero(sides):
            slot = slots[index]
            self._limits[slot, 0 if sides[index] > 0 else 1] += self._draw_limit(slot)
        return sides

    def _elapsed(self, slots: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """1 in slots whose task has been in force long enough, if chance wants it. Their clocks begin anew."""
        ripe: Bool[np.ndarray, " n"] = self._since[slots] > self._limits[slots, 0]
        reached = np.zeros(len(slots), np.int64)
        for index in np.flatnonzero(ripe):
            slot = slots[index]
            if self._shift.probability == 1 or self._generators[slot].random() < self._shift.probability:
                self._since[slot] = 0
                self._limits[slot, 0] = self._draw_limit(slot)
                reached[index] = 1
        return reached

    def _draw_limit(self, slot: int | np.integer) -> float:
        spread = self._generators[slot].uniform(0.0, self._shift.spread) if self._shift.spread else 0.0
        return self._shift.first + spread

    def _next(
        self, slot: int, task: Float64[np.ndarray, " parameters"], side: int
    ) -> Float64[np.ndarray, " parameters"] | None:
        """The task after `task`; None: it stays."""
        if self._shift.draw == "opposite":
            if self._shift.trigger == "place" and side * task[0] < 0:
                return None
            opposite = numbers(self._family.opposite, "a task", call(self._family.opposite, task.copy()), len(task))
            return check_tasks(self._family, opposite[None], self._family.opposite)[0]
        pool = self._pools[slot]
        if pool is None:
            return draw_tasks(self._family, self._generators[slot], 1)[0]
        others = pool[(pool != task).any(axis=1)]
        return others[self._generators[slot].integers(len(others))] if len(others) else None


def place_of(family: TaskFamily, reward_states: Float64[np.ndarray, "n reward_state"]) -> Float64[np.ndarray, " n"]:
    """The places of reward states, checked.

    Raises:
        NacreError: what the family's `place` returned is of another shape, or not finite.
    """
    places = numbers(family.place, "places", call(family.place, reward_states), len(reward_states))
    if not np.isfinite(places).all():
        raise NacreError(f"{name_of(family.place)} returned a place that is not finite; allowed: finite numbers.")
    return places.astype(np.float64)
