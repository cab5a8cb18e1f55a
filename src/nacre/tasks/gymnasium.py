"""Both ways between nacre and Gymnasium: our families as environments, and your environment as a family."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Float32, Float64, Int, Real, UInt8

from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, World, check_tasks, draw_tasks
from nacre.tasks.rendering import Renderer, signs_of
from nacre.tasks.simulator import Simulator, action_space, observation_space

SetTask = Callable[[gymnasium.Env, np.ndarray], None]

RENDER_SIZE = 480, 480
"""Width and height of what `render` returns, in pixels, as of Gymnasium's own MuJoCo environments."""


class FamilyEnv(gymnasium.Env):
    """One task of a family as an ordinary Gymnasium environment.

    `reset(options={"task": [...]})` chooses the task by its parameters; it stays until another is chosen. If none was
    chosen by the first reset, one is drawn from the family, and drawn again whenever a seed is given, so that a seed
    fixes the whole episode. The info of a reset carries the `task`, that of a step the `sparse_reward` and the
    `success` if the family has them.

    Raises (`reset`): NacreError: the task is not a row of finite numbers of the right length.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, family: TaskFamily | str, render_mode: str | None = None) -> None:
        """
        Args:
            family: the family, or its name.
            render_mode: "rgb_array": `render` returns pictures, which also show the goal or direction of the task.

        Raises:
            NacreError: there is no family of that name, or no such mode; the family, or this machine, cannot draw.
        """
        if isinstance(family, str):
            from nacre.tasks import make_family  # here, because nacre.tasks imports this module

            family = make_family(family)
        if render_mode not in (None, "rgb_array"):
            raise NacreError(f"render_mode is {render_mode!r}; allowed: None, 'rgb_array'")
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
        episode_seed = int(self.np_random.integers(2**63))
        observations, _ = self._simulator.reset(seed=episode_seed, options={"tasks": self._task})
        return observations[0], {"task": self._task[0].copy()}

    def step(
        self, action: Float32[np.ndarray, " action"]
    ) -> tuple[Real[np.ndarray, "*observation"], float, bool, bool, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self._simulator.step(np.asarray(action)[None])
        info = {name: infos[name][0].item() for name in ("sparse_reward", "success") if name in infos}
        return observations[0], float(rewards[0]), bool(terminations[0]), bool(truncations[0]), info

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """The picture of what is now, 480 pixels wide and high; None where no render mode was asked for."""
        if self._renderer is None:
            gymnasium.logger.warn("render shows nothing unless the environment is made with render_mode='rgb_array'")
            return None
        if self._task is None:
            raise gymnasium.error.ResetNeeded("Call reset before render.")
        return self._renderer.draw(self._simulator.configurations()[0], signs_of(self.family, self._task[0]))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._simulator.close()


class GymnasiumFamily(TaskFamily):
    """Any Gymnasium environment with a settable task as a task family.

    Its observations must be a Box of one dimension, its actions a Box of one dimension with finite bounds, to which
    nacre's actions in [-1, 1] are mapped affinely. Rewards and terminations are the environment's own: the reward
    state is what it returned (reward, whether it terminated), so rewards cannot be recomputed for another task. Leave
    out a TimeLimit: the `horizon` truncates.

    Slots are stepped one after another; each holds an environment of its own.
    """

    def __init__(
        self,
        name: str,
        make_env: Callable[[], gymnasium.Env],
        set_task: SetTask,
        sample_tasks: Callable[[np.random.Generator, int], np.ndarray],
        task_parameters: tuple[str, ...],
        horizon: int,
    ) -> None:
        """
        Args:
            name: the family's name.
            make_env: makes one environment. It is called here once, to look at the spaces, and once per slot.
            set_task: `set_task(env, task)` with one row of task parameters; called before each reset of `env`.
            sample_tasks: `sample_tasks(generator, n)` draws tasks, shape (n, parameters).
            task_parameters: the names of a task's parameters.
            horizon: steps after which an episode is truncated.

        Raises:
            NacreError: the spaces are not of the kinds above.
        """
        env = make_env()
        try:
            observation_box = _vector_space(name, "observation", env.observation_space)
            action_box = _vector_space(name, "action", env.action_space)
        finally:
            env.close()
        if not action_box.is_bounded():
            raise NacreError(f"The action space of {name} must have finite bounds, and is {action_box}.")
        self.name = name
        self.observation_size = observation_box.shape[0]
        self.action_size = action_box.shape[0]
        self.horizon = horizon
        self.task_parameters = tuple(task_parameters)
        self._make_env = make_env
        self._set_task = set_task
        self._sample_tasks = sample_tasks

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        return check_tasks(self, self._sample_tasks(generator, n))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 0]

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 1] > 0

    def make_world(self, n_slots: int, threads: int) -> World:
        return _GymnasiumWorld(self.name, [self._make_env() for _ in range(n_slots)], self._set_task, self.horizon)


class _GymnasiumWorld:
    """One Gymnasium environment per slot. The reward state is (reward, terminated)."""

    def __init__(self, name: str, envs: list[gymnasium.Env], set_task: SetTask, horizon: int) -> None:
        self._name = name
        self._envs = envs
        self._set_task = set_task
        self._horizon = horizon
        self._ages = np.zeros(len(envs), np.int64)
        box = _vector_space(name, "action", envs[0].action_space)
        self._low, self._high = box.low.astype(np.float64), box.high.astype(np.float64)
        self._action_type = box.dtype

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Float32[np.ndarray, "n observation"], Float64[np.ndarray, "n 2"]]:
        observations = []
        for slot, task, generator in zip(slots, tasks, generators, strict=True):
            self._set_task(self._envs[slot], task)
            observation, _ = self._envs[slot].reset(seed=int(generator.integers(2**31)))
            observations.append(observation)
        self._ages[slots] = 0
        return np.array(observations, np.float32), np.zeros((len(slots), 2))

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Float32[np.ndarray, "n observation"], Float64[np.ndarray, "n 2"]]:
        # Written so that -1 and 1 give the bounds to the bit.
        actions = (0.5 * (1 - actions) * self._low + 0.5 * (1 + actions) * self._high).astype(self._action_type)
        self._ages[slots] += 1
        observations, reward_states = [], []
        for slot, action in zip(slots, actions, strict=True):
            observation, reward, terminated, truncated, _ = self._envs[slot].step(action)
            if truncated and not terminated and self._ages[slot] < self._horizon:
                raise NacreError(
                    f"The environment of {self._name} truncated an episode after {self._ages[slot]} steps, before its "
                    f"family's horizon of {self._horizon}; give the family the shorter horizon."
                )
            observations.append(observation)
            reward_states.append((reward, terminated))
        return np.array(observations, np.float32), np.array(reward_states, np.float64)

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _vector_space(name: str, kind: str, space: gymnasium.Space) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise NacreError(
            f"The {kind} space of {name} must be a Box of one dimension, and is {space}; wrap the environment first "
            f"(gymnasium.wrappers.FlattenObservation for dictionaries and images)."
        )
    return space
