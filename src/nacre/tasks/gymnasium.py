"""Task families as Gymnasium environments."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, ClassVar

import gymnasium
import numpy as np
from jaxtyping import Float32, Real, UInt8

from nacre.errors import NacreError, shown
from nacre.tasks.family import TaskFamily, check_tasks, draw_tasks
from nacre.tasks.rendering import Renderer, signs_of
from nacre.tasks.shifts import Shift, read_shift
from nacre.tasks.simulator import Simulator, action_space, observation_space

RENDER_SIZE = 480, 480
"""Width and height of what `render` returns, in pixels, as of Gymnasium's own MuJoCo environments."""


class FamilyEnv(gymnasium.Env):
    """One task of a family as an ordinary Gymnasium environment.

    `reset(options={"task": [...]})` chooses the task by its parameters; it stays until another is chosen. If none was
    chosen by the first reset, one is drawn from the family, and drawn again whenever a seed is given, so that a seed
    fixes the whole episode. The info of a reset carries the `task`, that of a step the `sparse_reward` and the
    `success` if the family has them.

    If tasks change within an episode, the info of a step also carries the `task` of that step, and whether it has just
    `changed`. Changes draw from `reset(options={"pool": [[...], ...]})`, which stays until another is given; without a
    pool the family draws them.

    Raises (`reset`): NacreError: the task is not a row of finite numbers of the right length.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        family: TaskFamily | str,
        render_mode: str | None = None,
        shift: Shift | str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            family: the family, or its name.
            render_mode: "rgb_array": `render` returns pictures, which also show the goal or direction of the task.
            shift: how the task changes within an episode, as a `Shift` or as text such as "time:200"; None: as the
                family says, which is not at all for a family that is given by its name.
            options: of the family, if its name is given, as `nacre.make_family` takes them.

        Raises:
            NacreError: there is no family of that name, or no such option or mode; the family, or this machine, cannot
                draw; its tasks cannot change so.
        """
        if isinstance(family, str):
            from nacre.tasks import make_family  # here, because nacre.tasks imports this module

            family = make_family(family, **options)
        elif options:
            raise NacreError(f"options are {shown(options)}; allowed with a family that is made already: none")
        if render_mode not in (None, "rgb_array"):
            raise NacreError(f"render_mode is {render_mode!r}; allowed: None, 'rgb_array'")
        if shift is not None:
            family = copy.copy(family)  # it may be others' too
            family.shift = read_shift(shift)
        self.family = family
        self.observation_space = observation_space(family)
        self.action_space = action_space(family)
        self.render_mode = render_mode
        self._renderer: Renderer | None = None
        self._simulator = Simulator(family, n_slots=1, threads=1)
        if render_mode is not None:
            self._renderer = self._simulator.make_renderer(*RENDER_SIZE)
        with contextlib.suppress(NacreError):  # a family that cannot be drawn
            frames = {"render_fps": self._simulator.frames_per_second}
            self.metadata = {**self.metadata, **frames}  # pyright: ignore[reportAttributeAccessIssue]
        self._task: np.ndarray | None = None
        self._pool: Any = None
        self._task_was_drawn = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Real[np.ndarray, "*observation"], dict[str, Any]]:
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        if chosen is not None:
            self._task, self._task_was_drawn = check_tasks(self.family, [chosen]), False
        elif self._task is None or (self._task_was_drawn and seed is not None):
            self._task, self._task_was_drawn = draw_tasks(self.family, self.np_random, 1), True
        self._pool = (options or {}).get("pool", self._pool)
        episode_seed = int(self.np_random.integers(2**63))
        observations, _ = self._simulator.reset(seed=episode_seed, options={"tasks": self._task, "pools": [self._pool]})
        return observations[0], {"task": self._task[0].copy()}

    def step(
        self, action: Float32[np.ndarray, " action"]
    ) -> tuple[Real[np.ndarray, "*observation"], float, bool, bool, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self._simulator.step(np.asarray(action)[None])
        info = {name: infos[name][0].item() for name in ("sparse_reward", "success") if name in infos}
        if self.family.shift is not None:
            info |= {"task": infos["task"][0], "changed": bool(infos["changed"][0])}
        return observations[0], float(rewards[0]), bool(terminations[0]), bool(truncations[0]), info

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """The picture of what is now, 480 pixels wide and high; None if no render mode was asked for."""
        if self._renderer is None:
            gymnasium.logger.warn("render shows nothing unless the environment is made with render_mode='rgb_array'")
            return None
        if self._task is None:
            raise gymnasium.error.ResetNeeded("Call reset before render.")
        return self._renderer.draw(self._simulator.configurations()[0], signs_of(self.family, self._simulator.tasks[0]))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._simulator.close()
