"""The simulator: N slots, each with its own task, stepped together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Float64, Real

from nacre.errors import NacreError, SimulationError
from nacre.tasks.changes import Changes
from nacre.tasks.checks import LARGEST, call, name_of, numbers, several, shortened, truths
from nacre.tasks.family import ChangingWorld, RememberingWorld, TaskFamily, World, check_family, check_tasks
from nacre.tasks.rendering import Renderer, check_drawable
from nacre.tasks.shifts import check_shift


class Simulator(VectorEnv):
    """N slots of one task family behind the interface of `gymnasium.vector.VectorEnv`, without automatic resets.

    Actions are in [-1, 1] and clipped to it. A slot whose episode has terminated or been truncated is frozen until it
    is reset: its physics rest, its observation and flags stay, its reward is 0. What happens in a slot depends only
    on its task, seed and actions, not on the other slots nor on the number of threads.

    In a family with a `shift` the task of a slot may change before a step: physics and rewards of that step are those
    of the new task. It stays until the next change or reset; then the slot's own task is back.

    Raises (`reset` and `step`):
        SimulationError: an observation, reward or reward state is not finite or larger than 1e9, or an action is not
            finite.
        NacreError: tasks of the wrong shape, or not finite; the family or its world returned something else than it
            should, or raised an error.
        ValueError, TypeError: misuse of the interface.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(self, family: TaskFamily, n_slots: int, threads: int | None = None) -> None:
        """`threads` step the slots, the calling one included; None means as many as there are physical cores.

        Raises:
            NacreError: no slots or no threads; the family has impossible sizes, or tasks that cannot change as its
                `shift` says.
        """
        check_family(family)
        check_shift(family, family.shift)
        if n_slots < 1:
            raise NacreError(f"A simulator needs at least 1 slot, and {n_slots} were asked for.")
        if threads is not None and threads < 1:
            raise NacreError(f"threads must be at least 1, and {threads} was given.")
        self.family = family
        self.num_envs = n_slots
        self.single_observation_space = observation_space(family)
        self.single_action_space = action_space(family)
        self.observation_space = batch_space(self.single_observation_space, n_slots)
        self.action_space = batch_space(self.single_action_space, n_slots)

        self._world = call(family.make_world, n_slots, physical_cores() if threads is None else threads)
        if not isinstance(self._world, World):
            raise NacreError(
                f"{name_of(family.make_world)} returned {shortened(self._world)}; allowed: a world, with the methods "
                "reset, step and close."
            )
        if family.shift is not None and not isinstance(self._world, ChangingWorld):
            self._world.close()
            raise NacreError(
                f"The tasks of {family.name} change within an episode, and its world, {shortened(self._world)}, has no "
                "set_tasks; allowed: a world with the method set_tasks(slots, tasks)."
            )
        self._all_slots = np.arange(n_slots)
        self._started = False
        self._tasks = np.full((n_slots, len(family.task_parameters)), np.nan)
        self._own_tasks = self._tasks  # what episodes begin with: the same array, unless tasks change
        self._changes: Changes | None = None
        if family.shift is not None:
            self._own_tasks = self._tasks.copy()
            self._changes = Changes(family, family.shift, n_slots)
        self._generators: list[np.random.Generator] = []
        self._observation_shape = family.observation_shape
        self._observations = np.zeros((n_slots, *self._observation_shape), family.observation_dtype)
        self._reward_states = np.zeros((n_slots, 0))
        self._ages = np.zeros(n_slots, np.int64)
        self._terminations = np.zeros(n_slots, bool)
        self._truncations = np.zeros(n_slots, bool)
        self._cut: Any = False
        """Which of the slots that were stepped last something cut off."""

    def __repr__(self) -> str:
        return f"<simulator of {self.family.name}: {self.num_envs} slot(s)>"

    def reset(
        self,
        *,
        seed: int | Sequence[int | np.random.SeedSequence | None] | np.random.SeedSequence | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Real[np.ndarray, "n *observation"], dict[str, Any]]:
        """Starts new episodes, in all slots or in those of a mask; returns the observations of all slots.

        Args:
            seed: an int or a SeedSequence gives each slot the generator of its own child seed; a sequence gives one
                seed per slot, None leaving that slot's generator as it is. None as a whole lets all generators run
                on. Only slots that are reset are seeded.
            options: `tasks`, shape (N, parameters), needed at the first reset and when tasks change; only the rows
                of slots that are reset are read. `reset_mask`, bool, shape (N,): the slots to reset. `pools`, if tasks
                change: for each slot the tasks that its changes draw from, shape (any, parameters), or None: what the
                family draws. They stay until others are given.
        """
        self._check_open()
        options = options or {}
        mask = self._reset_mask(options.get("reset_mask"))
        slots = np.flatnonzero(mask)
        self._set_tasks(options.get("tasks"), slots)
        self._set_seeds(seed, slots)
        self._begin_changes(options.get("pools"), slots)

        generators = [self._generators[slot] for slot in slots]
        returned = call(self._world.reset, slots, self._tasks[slots], generators)
        observations, reward_states = self._read_world(self._world.reset, returned, slots)
        self._check_size("reward state", reward_states, slots)
        if not self._started:
            self._reward_states = np.zeros((self.num_envs, reward_states.shape[-1]))
            self._started = True
        self._observations[slots] = observations
        self._reward_states[slots] = reward_states
        self._ages[slots] = 0
        self._terminations[slots] = False
        self._truncations[slots] = False
        return self._observations.copy(), {}

    def step(
        self, actions: Float[np.ndarray, "n action"]
    ) -> tuple[
        Real[np.ndarray, "n *observation"],
        Float64[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        dict[str, Any],
    ]:
        """Advances every slot whose episode is running by one control step.

        Returns observations, rewards, terminations, truncations (only where not terminated) and infos: `active`,
        the slots that were stepped, and if the family has them `sparse_reward` and `success`, each of shape (N,). If
        tasks change there are also `task`, shape (N, parameters), the task of this step in each slot, and `changed`,
        shape (N,), whether it is another than in the step before.
        """
        self._check_open()
        if not self._started:
            raise gymnasium.error.ResetNeeded("Call reset before step.")
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, self.family.action_size):
            expected = (self.num_envs, self.family.action_size)
            raise ValueError(f"actions must have shape {expected}, and have {actions.shape}.")

        active = ~(self._terminations | self._truncations)
        infos: dict[str, Any] = {"active": active}
        if self._changes is not None:
            infos["changed"] = self._change_tasks(self._changes, np.flatnonzero(active))
            infos["task"] = self._tasks.copy()
        if np.count_nonzero(active) == self.num_envs:  # faster than `active.all()`
            # Nothing is gathered or scattered in the usual case: with 20 slots of cheap physics that would show.
            results = self._step_slots(self._all_slots, actions, self._tasks, self._reward_states)
            self._observations, self._reward_states, rewards, self._terminations, sparse_rewards, successes = results
            self._ages += 1
            ended = (self._ages >= self.family.horizon) | self._cut
            self._truncations = ended & ~self._terminations
        else:
            rewards, sparse_rewards = np.zeros(self.num_envs), np.zeros(self.num_envs)
            successes = np.zeros(self.num_envs, bool)
            slots = np.flatnonzero(active)
            if slots.size:
                results = self._step_slots(slots, actions[slots], self._tasks[slots], self._reward_states[slots])
                observations, reward_states, rewards[slots], terminated, sparse_rewards[slots], successes[slots] = (
                    results
                )
                self._observations[slots] = observations
                self._reward_states[slots] = reward_states
                self._ages[slots] += 1
                self._terminations[slots] = terminated
                ended = (self._ages[slots] >= self.family.horizon) | self._cut
                self._truncations[slots] = ended & ~terminated
        if self.family.has_sparse_reward:
            infos["sparse_reward"] = sparse_rewards
        if self.family.has_success:
            infos["success"] = successes
        return self._observations.copy(), rewards, self._terminations.copy(), self._truncations.copy(), infos

    @property
    def reward_states(self) -> Float64[np.ndarray, "n reward_state"]:
        """What rewards are computed from, as the last reset or step left it."""
        return self._reward_states.copy()

    @property
    def tasks(self) -> Float64[np.ndarray, "n parameters"]:
        """The task of each slot that is in force."""
        return self._tasks.copy()

    def configurations(self) -> Real[np.ndarray, "n configuration"]:
        """All that a picture of each slot depends on, for a renderer that :meth:`make_renderer` made.

        Raises:
            NacreError: the family cannot be drawn.
        """
        return check_drawable(self.family, self._world).configurations(self._all_slots)

    def make_renderer(self, width: int, height: int) -> Renderer:
        """Draws configurations of this simulator, in pixels. Close it.

        Raises:
            NacreError: the family, or this machine, cannot draw.
        """
        return check_drawable(self.family, self._world).make_renderer(width, height)

    @property
    def frames_per_second(self) -> float:
        """Control steps in a second of the world's own time.

        Raises:
            NacreError: the family cannot be drawn.
        """
        return check_drawable(self.family, self._world).frames_per_second

    def state_dict(self) -> Any:
        """What the world remembers across episodes, if it offers `state_dict`; None for any other, which has to
        remember nothing. Only own environments can: see :class:`nacre.tasks.GymnasiumFamily`."""
        return call(self._world.state_dict) if isinstance(self._world, RememberingWorld) else None

    def load_state_dict(self, state: Any) -> None:
        """Gives the world back what :meth:`state_dict` of a simulator with as many slots returned."""
        if state is not None and isinstance(self._world, RememberingWorld):
            call(self._world.load_state_dict, state)

    def close_extras(self, **kwargs: Any) -> None:
        self._world.close()

    def _step_slots(
        self, slots: np.ndarray, actions: np.ndarray, tasks: np.ndarray, previous: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, reward states, rewards, terminations, sparse rewards and successes of stepping `slots`.

        Sparse rewards are the rewards in a family that has no others; without successes there are none.
        """
        family = self.family
        # One reduction answers in the usual case whether actions are in range and finite; no comparison holds for NaN.
        if not abs(actions).max() <= 1.0:
            self._check_size("action", actions, slots, float(np.finfo(np.float32).max))
            actions = actions.clip(-1.0, 1.0)
        actions = actions.astype(np.float64)
        returned = call(self._world.step, slots, actions)
        observations, following = self._read_world(self._world.step, returned, slots)
        transition = previous, actions, following, tasks
        rewards = numbers(family.reward, "rewards", call(family.reward, *transition), len(slots))
        rewards = rewards.astype(np.float64)  # a copy: a reward may be a view of a reward state
        self._check_size("reward", rewards, slots)
        sparse_rewards = rewards
        if family.has_sparse_reward:
            sparse_rewards = call(family.sparse_reward, *transition)
            sparse_rewards = numbers(family.sparse_reward, "sparse rewards", sparse_rewards, len(slots))
            sparse_rewards = sparse_rewards.astype(np.float64)
            self._check_size("sparse reward", sparse_rewards, slots)
        self._check_size("reward state", following, slots)
        terminated = truths(family.terminated, call(family.terminated, *transition), len(slots))
        if family.may_be_cut:
            self._cut = truths(family.cut, call(family.cut, *transition), len(slots))
        successes = np.zeros(len(slots), bool)
        if family.has_success:
            successes = truths(family.success, call(family.success, *transition), len(slots))
        return observations, following, rewards, terminated, sparse_rewards, successes

    def _read_world(
        self, source: Callable[..., Any], returned: Any, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Observations and reward states that the world returned, checked: copies, as a world may keep its arrays."""
        n = len(slots)
        observations, reward_states = several(source, returned, "observations", "reward states")
        observations = numbers(source, "observations", observations, n, *self._observation_shape)
        width = self._reward_states.shape[-1] if self._started else "reward_state"
        reward_states = numbers(source, "reward states", reward_states, n, width)
        if self._observations.dtype == np.uint8:
            if observations.dtype != np.uint8:
                raise NacreError(f"{name_of(source)} returned pictures of {observations.dtype}; allowed: uint8.")
        else:
            self._check_size("observation", observations, slots)
        return observations.astype(self._observations.dtype), reward_states.astype(np.float64)

    def _check_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("The simulator has been closed.")

    def _check_size(self, quantity: str, rows: np.ndarray, slots: np.ndarray, limit: float = LARGEST) -> None:
        """Raises SimulationError if a number is not finite, or larger than `limit`."""
        # One product answers in the usual case, four times as fast as maximum and minimum. No comparison holds for NaN.
        flat = rows.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if rows.dtype.kind == "f" and float(flat.dot(flat)) <= limit**2:
                return
        good = (rows <= limit) & (rows >= -limit)
        if good.all():
            return
        index = np.unravel_index(np.argmin(good), good.shape)
        slot = int(slots[index[0]])
        task = dict(zip(self.family.task_parameters, self._tasks[slot].tolist(), strict=True))
        raise SimulationError(quantity, slot, task, value=float(rows[index]))

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,):
            raise TypeError(f"reset_mask must be a NumPy array of bool, of shape ({self.num_envs},).")
        if not mask.any():
            raise ValueError("reset_mask must name at least one slot.")
        if not self._started and not mask.all():
            raise ValueError("The first reset must reset every slot.")
        return mask

    def _set_tasks(self, tasks: Any, slots: np.ndarray) -> None:
        if tasks is None:
            if not self._started:
                raise ValueError("The first reset needs options={'tasks': array of shape (slots, parameters)}.")
            return
        checked = check_tasks(self.family, tasks)
        if len(checked) != self.num_envs:
            raise NacreError(f"Each of {self.num_envs} slots needs a task, and {len(checked)} were given.")
        self._own_tasks[slots] = checked[slots]

    def _begin_changes(self, pools: Any, slots: np.ndarray) -> None:
        """Gives the slots their own tasks back, and their clocks a new episode."""
        if self._changes is None:
            return
        self._tasks[slots] = self._own_tasks[slots]
        if pools is not None:
            if len(pools) != self.num_envs:
                raise NacreError(f"Each of {self.num_envs} slots needs a pool or None, and {len(pools)} were given.")
            checked = {id(pool): None if pool is None else check_tasks(self.family, pool) for pool in pools}
            self._changes.set_pools(slots, [checked[id(pools[slot])] for slot in slots])
        self._changes.begin(slots)

    def _change_tasks(self, changes: Changes, slots: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Changes the tasks that are due to change, of slots that are about to be stepped; returns which."""
        changed = np.zeros(self.num_envs, bool)
        due, tasks = changes.due(slots, self._tasks[slots], self._reward_states[slots])
        if due.size:
            changed[due] = True
            self._tasks[due] = tasks
            call(self._world.set_tasks, due, tasks)  # pyright: ignore[reportAttributeAccessIssue]
        return changed

    def _set_seeds(
        self,
        seed: int | Sequence[int | np.random.SeedSequence | None] | np.random.SeedSequence | None,
        slots: np.ndarray,
    ) -> None:
        if not self._generators:
            self._generators = [np.random.default_rng() for _ in range(self.num_envs)]
        if seed is None:
            return
        if isinstance(seed, np.random.SeedSequence | int | np.integer):
            root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(int(seed))
            # What root.spawn would give the first time, but without changing root: the same seed twice is the same.
            seeds = [
                np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, slot)) for slot in range(self.num_envs)
            ]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"Each of {self.num_envs} slots needs a seed or None, and {len(seeds)} were given.")
        for slot in slots:
            if seeds[slot] is not None:
                self._generators[slot] = np.random.default_rng(seeds[slot])
                if self._changes is not None:
                    self._changes.set_seed(int(slot), seeds[slot])


def observation_space(family: TaskFamily) -> gymnasium.spaces.Box:
    """Every picture of the family's size, or every finite float32 vector: the simulator lets no other pass."""
    shape, dtype = family.observation_shape, family.observation_dtype
    low, high = (0, 255) if dtype == np.uint8 else (np.finfo(np.float32).min, np.finfo(np.float32).max)
    return gymnasium.spaces.Box(low, high, shape, dtype)


def action_space(family: TaskFamily) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-1.0, 1.0, (family.action_size,), np.float32)


def physical_cores() -> int:
    """The number of physical cores this process may run on.

    Two hardware threads of one core gain nothing from two threads of floating-point work. Where the system does not
    tell which share a core (outside Linux), every processor counts as one.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(processor))
    return len(cores)
