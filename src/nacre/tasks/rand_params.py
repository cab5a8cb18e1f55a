"""Walkers and hoppers whose masses, inertias, joint damping and friction vary between tasks (spec pearl 4.5,
cemrl-dmrlad 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import TaskFamily, World
from nacre.tasks.options import Number, Several, Truth, positive, some_of, truth
from nacre.tasks.walkers import (
    FRAME_SKIP,
    LARGEST_VELOCITY,
    control_cost,
    hopper_has_fallen,
    observe,
    positions_and_velocities,
    start,
    walker_has_fallen,
)

if TYPE_CHECKING:
    import mujoco

TIMESTEP = 0.004
LOG_SCALE_LIMIT = 3.0
"""A multiplier is a base to the power of u, with u uniform in [-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT]."""
ARRAYS = {
    "mass": ("body_mass", 1.5),
    "inertia": ("body_inertia", 1.5),
    "damping": ("dof_damping", 1.3),
    "friction": ("geom_friction", 1.5),
}
"""The arrays of the model that may vary, in the order of a task's parameters, and the bases of their multipliers."""


def _parameters(bodies: str, joints: str, geoms: str) -> dict[str, tuple[str, ...]]:
    """The names of the multipliers of each of ARRAYS, from the model's names."""
    return {
        "mass": tuple(f"mass_{body}" for body in bodies.split()),
        "inertia": tuple(f"inertia_{body}_{axis}" for body in bodies.split() for axis in ("x", "y", "z")),
        "damping": tuple(f"damping_{joint}" for joint in joints.split()),
        "friction": tuple(f"friction_{geom}_{kind}" for geom in geoms.split() for kind in ("slide", "spin", "roll")),
    }


class _RandomParameters(TaskFamily):
    """Run forward, as fast as possible, without falling.

    A task is a multiplier for each number of the original model's arrays that vary; some have no effect, such as those
    of the world's mass or of the root's damping, which are 0. The reward state is qpos and qvel.
    """

    can_relabel = False
    horizon = 200
    quantity = "velocity (m/s)"
    asset: str
    parameters: dict[str, tuple[str, ...]]

    def __init__(
        self,
        varied: Several = tuple(ARRAYS),
        log_scale_limit: Number = LOG_SCALE_LIMIT,
        sees_velocities: Truth = True,
        timestep: Number = TIMESTEP,
    ) -> None:
        """
        Args:
            varied: which of ARRAYS vary.
            log_scale_limit: a multiplier is a base to the power of u, with u uniform up to this size.
            sees_velocities: whether velocities are observed.
            timestep: seconds in a physics step, of which an action lasts four.
        """
        chosen = some_of(self.name, "varied", varied, tuple(ARRAYS))
        self.varied = tuple(array for array in ARRAYS if array in chosen)
        self.log_scale_limit = positive(self.name, "log_scale_limit", log_scale_limit)
        self.sees_velocities = truth(self.name, "sees_velocities", sees_velocities)
        self.timestep = positive(self.name, "timestep", timestep)
        self.task_parameters = tuple(name for array in self.varied for name in self.parameters[array])
        # The root has three degrees of freedom, and x is not observed.
        self.observation_size = self.action_size + 2 + self.sees_velocities * (self.action_size + 3)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        bases = np.array([ARRAYS[parameter.split("_")[0]][1] for parameter in self.task_parameters])
        return bases ** generator.uniform(-self.log_scale_limit, self.log_scale_limit, (n, len(bases)))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.measured(previous, action, following, task) + 1.0 - control_cost(action)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (following[..., 0] - previous[..., 0]) / (FRAME_SKIP * self.timestep)

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(
            self.asset,
            FRAME_SKIP,
            start,
            observe if self.sees_velocities else _observe_positions,
            positions_and_velocities,
            timestep=self.timestep,
            clip=(self.action_size + 2, LARGEST_VELOCITY),  # the columns after qpos, of which x is not observed
            set_task=self._set_task,
        )
        return MujocoWorld(body, n_slots, threads)

    def _set_task(self, model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
        """Multiplies as the original does: what MuJoCo derived from these numbers when it compiled the model stays."""
        first = 0
        for array in self.varied:
            name, _ = ARRAYS[array]
            values = getattr(original, name)
            multipliers = task[first : first + values.size].reshape(values.shape)
            getattr(model, name)[:] = values * multipliers
            first += values.size


def _observe_positions(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:]]


class WalkerRandParams(_RandomParameters):
    """A two-legged walker. It is over if the torso is not between 0.8 and 2 m high, or leans 1 rad or more."""

    name = "walker-rand-params"
    action_size = 6
    asset = "walker2d.xml"
    parameters = _parameters(
        bodies="world torso thigh leg foot thigh_left leg_left foot_left",
        joints="rootx rootz rooty thigh_joint leg_joint foot_joint thigh_left_joint leg_left_joint foot_left_joint",
        geoms="floor torso_geom thigh_geom leg_geom foot_geom thigh_left_geom leg_left_geom foot_left_geom",
    )

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return walker_has_fallen(following)


class HopperRandParams(_RandomParameters):
    """A one-legged hopper. It is over if the torso is not above 0.7 m, leans 0.2 rad or more, or if any
    coordinate but x and the height, or any velocity, is 100 or more."""

    name = "hopper-rand-params"
    action_size = 3
    asset = "hopper.xml"
    parameters = _parameters(
        bodies="world torso thigh leg foot",
        joints="rootx rootz rooty thigh_joint leg_joint foot_joint",
        geoms="floor torso_geom thigh_geom leg_geom foot_geom",
    )

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return hopper_has_fallen(following)
