"""Many environments of a task family at once, for `gymnasium.make_vec`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, Float64, Real
from numpy.typing import ArrayLike

from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, check_tasks, draw_tasks
from nacre.tasks.gymnasium import family_with
from nacre.tasks.shifts import Shift
from nacre.tasks.simulator import Simulator


class FamilyVectorEnv(VectorEnv):
    """`num_envs` environments of a family, each with its own task, stepped together by the threads of one simulator.

    Each is what a :class:`nacre.tasks.gymnasium.FamilyEnv` would be with the same seed: environment `i` has the seed
    `seed + i`. As with Gymnasium's own vector environments, the step after the end of an episode resets it: its action
    is not used and its reward is 0.

    `reset(options={"task": [...]})` chooses one task for all, `reset(options={"tasks": [[...], ...]})` one for each.
    They stay until others are chosen.

    Raises (`reset`): NacreError: tasks that are not rows of finite numbers of the right length, or not one for each.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(
        self,
        family: TaskFamily | str,
        num_envs: int = 1,
        *,
        task: ArrayLike | None = None,
        tasks: ArrayLike | None = None,
        shift: Shift | str | None = None,
        threads: int | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            family: the family, or its name.
            num_envs: how many there are.
            task: the parameters of the task of all; None: each draws its own.
            tasks: the parameters of the task of each, shape (num_envs, parameters), in place of `task`.
            shift: as of :class:`nacre.tasks.gymnasium.FamilyEnv`.
            threads: of the simulator; None: as many as there are physical cores.
            max_episode_steps: Gymnasium's name for the option `horizon`.
            options: of the family, if its name is given, as `nacre.make_family` takes them.

        Raises:
            NacreError: there is no family of that name, or no such option; a task is none; both tasks are given.
        """
        if max_episode_steps is not None:
            options = {"horizon": max_episode_steps, **options}
        family = family_with(family, shift, options)
        self._simulator = Simulator(family, num_envs, threads)
        self.family, self.num_envs = family, num_envs
        for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
            setattr(self, name, getattr(self._simulator, name))
        self._generators = [np_random(None)[0] for _ in range(num_envs)]
        self._tasks = np.full((num_envs, len(family.task_parameters)), np.nan)
        self._drawn = np.ones(num_envs, bool)
        self._pools: list[Any] = [None] * num_envs
        self._ended = np.zeros(num_envs, bool)
        self._choose(task, tasks)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Real[np.ndarray, "n *observation"], dict[str, Any]]:
        options = options or {}
        seeds = self._seeds(seed)
        for slot, own in enumerate(seeds):
            if own is not None:
                self._generators[slot], _ = np_random(int(own))
        self._choose(options.get("task"), options.get("tasks"))
        for slot, own in enumerate(seeds):
            if self._drawn[slot] and (np.isnan(self._tasks[slot]).any() or own is not None):
                self._tasks[slot] = draw_tasks(self.family, self._generators[slot], 1)[0]
        self._pools = options.get("pools", self._pools)
        observations = self._begin(np.ones(self.num_envs, bool))
        return observations, {"task": self._tasks.copy()}

    def step(
        self, actions: Float[np.ndarray, "n action"]
    ) -> tuple[
        Real[np.ndarray, "n *observation"],
        Float64[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        dict[str, Any],
    ]:
        waits = self._ended  # the simulator lets them rest
        observations, rewards, terminated, truncated, infos = self._simulator.step(actions)
        infos = {name: values for name, values in infos.items() if name != "active"}
        if waits.any():
            observations = self._begin(waits)
            terminated, truncated = terminated & ~waits, truncated & ~waits
            infos |= {"task": self._simulator.tasks}
            infos |= {} if self.family.shift is not None else {"_task": waits.copy()}
        self._ended = terminated | truncated
        return observations, rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        self._simulator.close()

    def _begin(self, mask: np.ndarray) -> np.ndarray:
        """Starts episodes with seeds of the environments' own generators, as FamilyEnv does."""
        seeds: list[Any] = [None] * self.num_envs
        for slot in np.flatnonzero(mask):
            entropy = int(self._generators[slot].integers(2**63))
            seeds[slot] = np.random.SeedSequence(entropy, spawn_key=(0,))
        chosen: dict[str, Any] = {"tasks": self._tasks, "reset_mask": mask, "pools": self._pools}
        observations, _ = self._simulator.reset(seed=seeds, options=chosen)
        self._ended = self._ended & ~mask
        return observations

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise NacreError(f"seed has {len(seeds)} entries; allowed: a whole number, or {self.num_envs} of them")
        return seeds

    def _choose(self, task: ArrayLike | None, tasks: ArrayLike | None) -> None:
        if task is not None and tasks is not None:
            raise NacreError("task and tasks are given; allowed: one of the two")
        if task is not None:
            tasks = np.repeat(check_tasks(self.family, [task]), self.num_envs, axis=0)
        if tasks is None:
            return
        checked = check_tasks(self.family, tasks)
        if len(checked) != self.num_envs:
            raise NacreError(f"tasks has {len(checked)} rows; allowed: {self.num_envs}, one for each environment")
        self._tasks, self._drawn = checked, np.zeros(self.num_envs, bool)
