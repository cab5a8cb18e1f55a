"""Half-cheetahs that should run at a speed, or in a direction, they are not told (spec section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import PUBLISHED_SEED, TaskFamily, World

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 5
CONTROL_STEP = 0.05
"""Seconds between two actions: FRAME_SKIP steps of 0.01 s."""
CONTROL_COST = 0.05
SUCCESS_TOLERANCE = 0.3
"""How near to the target velocity is a success, in m/s (spec meld)."""


class _HalfCheetah(TaskFamily):
    """What both families share. The reward state is the x of the root joint, in metres."""

    observation_size = 20
    action_size = 6
    horizon = 200

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody("half_cheetah.xml", FRAME_SKIP, _start, _observe, _root_x)
        return MujocoWorld(body, n_slots, threads)


def _start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
    data.qvel[:] = 0.1 * generator.standard_normal(model.nv)


def _observe(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:], data.qvel, data.body("torso").xpos]


def _root_x(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[:1]]


def _velocity(previous: Any, following: Any) -> Any:
    return (following[..., 0] - previous[..., 0]) / CONTROL_STEP


def _control_cost(action: Any) -> Any:
    return CONTROL_COST * (action**2).sum(-1)


class CheetahVel(_HalfCheetah):
    """Run forward at a target velocity, uniform in [0, 3] m/s.

    An episode is a success if its last velocity is less than 0.3 m/s from the target.
    """

    name = "cheetah-vel"
    task_parameters = ("target_velocity",)
    quantity = "velocity (m/s)"
    has_success = True
    success_at = "end"

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 1"]:
        return generator.uniform(0.0, 3.0, (n, 1))

    def published_tasks(self, n: int) -> Float64[np.ndarray, "n 1"]:
        return np.random.RandomState(PUBLISHED_SEED).uniform(0.0, 3.0, (n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -abs(_velocity(previous, following) - task[..., 0]) - _control_cost(action)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return abs(_velocity(previous, following) - task[..., 0]) < SUCCESS_TOLERANCE

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _velocity(previous, following)

    def target(self, task: Any) -> Any:
        return task[..., 0]


class CheetahDir(_HalfCheetah):
    """Run backward (direction -1) or forward (+1), as fast as possible: two tasks, for training and test alike."""

    name = "cheetah-dir"
    task_parameters = ("direction",)
    finite_tasks = ((-1.0,), (1.0,))
    quantity = "velocity in the direction (m/s)"

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 1"]:
        return generator.choice([-1.0, 1.0], (n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return task[..., 0] * _velocity(previous, following) - _control_cost(action)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return task[..., 0] * _velocity(previous, following)
