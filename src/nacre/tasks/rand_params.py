"""Walkers and hoppers whose masses, inertias, joint damping and friction vary between tasks (spec section 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import TaskFamily, World

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 4
TIMESTEP = 0.004
CONTROL_STEP = 0.016
"""Seconds between two actions: FRAME_SKIP steps of 0.004 s."""
LOG_SCALE_LIMIT = 3.0
"""A multiplier is a base to the power of u, with u uniform in [-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT]."""
ARRAYS = {
    "mass": ("body_mass", 1.5),
    "inertia": ("body_inertia", 1.5),
    "damping": ("dof_damping", 1.3),
    "friction": ("geom_friction", 1.5),
}
"""The arrays of the model that vary, in the order of a task's parameters, and the bases of their multipliers."""
LARGEST_VELOCITY = 10.0
"""Velocities are observed up to this size."""


def _parameters(bodies: str, joints: str, geoms: str) -> tuple[str, ...]:
    """The names of a task's parameters, in the order of ARRAYS, from the model's names."""
    return (
        *(f"mass_{body}" for body in bodies.split()),
        *(f"inertia_{body}_{axis}" for body in bodies.split() for axis in ("x", "y", "z")),
        *(f"damping_{joint}" for joint in joints.split()),
        *(f"friction_{geom}_{kind}" for geom in geoms.split() for kind in ("slide", "spin", "roll")),
    )


class _RandomParameters(TaskFamily):
    """Run forward, as fast as possible, without falling.

    A task is a multiplier for each number of the original model's arrays ARRAYS; some have no effect, such as those of
    the world's mass or of the root's damping, which are 0. The reward state is qpos and qvel.
    """

    can_relabel = False
    horizon = 200
    asset: str

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        bases = np.array([ARRAYS[parameter.split("_")[0]][1] for parameter in self.task_parameters])
        return bases ** generator.uniform(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT, (n, len(bases)))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        velocity = (following[..., 0] - previous[..., 0]) / CONTROL_STEP
        return velocity + 1.0 - 1e-3 * (action**2).sum(-1)

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(
            self.asset,
            FRAME_SKIP,
            _start,
            _observe,
            _state,
            timestep=TIMESTEP,
            clip=(self.action_size + 2, LARGEST_VELOCITY),  # the columns after qpos, of which x is not observed
            set_task=_set_task,
        )
        return MujocoWorld(body, n_slots, threads)


def _start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    data.qpos[:] = model.qpos0 + generator.uniform(-0.005, 0.005, model.nq)
    data.qvel[:] = generator.uniform(-0.005, 0.005, model.nv)


def _observe(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:], data.qvel]


def _state(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos, data.qvel]


def _set_task(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    """Multiplies as the original does: what MuJoCo derived from these numbers when it compiled the model stays."""
    start = 0
    for name, _ in ARRAYS.values():
        values = getattr(original, name)
        multipliers = task[start : start + values.size].reshape(values.shape)
        getattr(model, name)[:] = values * multipliers
        start += values.size


class WalkerRandParams(_RandomParameters):
    """A two-legged walker. It is over where the torso is not between 0.8 and 2 m high, or leans 1 rad or more."""

    name = "walker-rand-params"
    observation_size = 17
    action_size = 6
    asset = "walker2d.xml"
    task_parameters = _parameters(
        bodies="world torso thigh leg foot thigh_left leg_left foot_left",
        joints="rootx rootz rooty thigh_joint leg_joint foot_joint thigh_left_joint leg_left_joint foot_left_joint",
        geoms="floor torso_geom thigh_geom leg_geom foot_geom thigh_left_geom leg_left_geom foot_left_geom",
    )

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        height, angle = following[..., 1], following[..., 2]
        return ~((height > 0.8) & (height < 2.0) & (abs(angle) < 1.0))


class HopperRandParams(_RandomParameters):
    """A one-legged hopper. It is over where the torso is not above 0.7 m, leans 0.2 rad or more, or where any
    coordinate but x and the height, or any velocity, is 100 or more."""

    name = "hopper-rand-params"
    observation_size = 11
    action_size = 3
    asset = "hopper.xml"
    task_parameters = _parameters(
        bodies="world torso thigh leg foot",
        joints="rootx rootz rooty thigh_joint leg_joint foot_joint",
        geoms="floor torso_geom thigh_geom leg_geom foot_geom",
    )

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        height, angle = following[..., 1], following[..., 2]
        return ~((abs(following[..., 2:]) < 100.0).all(-1) & (height > 0.7) & (abs(angle) < 0.2))
