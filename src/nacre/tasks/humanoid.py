"""Humanoids that should walk in a direction they are not told (spec section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import TaskFamily, World

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 5
TIMESTEP = 0.003
CONTROL_RANGE = 0.4
"""What a full action becomes at the actuators."""
SURVIVAL_REWARD = 5.0


class HumanoidDir(TaskFamily):
    """Walk in a direction, a unit vector that may be any in the plane, without falling. It is over if the torso is
    lower than 1 m or higher than 2 m.

    The reward state is x and y of the centre of mass and the height qpos[2] of the torso, in metres, and the external
    forces and torques on the 14 bodies, in newtons and newton metres.
    """

    name = "humanoid-dir"
    observation_size = 376
    action_size = 17
    horizon = 200
    task_parameters = ("direction_x", "direction_y")
    quantity = "velocity in the direction (m/s)"
    contact_forces = (292, 376)
    feels_contacts: bool = True
    """Whether contact forces are computed; without, they are 0."""

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        angles = generator.uniform(0.0, 2 * np.pi, n)
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        # The original divides by one physics step, although a control step has five: 1.25 times the speed.
        progress = 0.25 * (task * (following[..., :2] - previous[..., :2])).sum(-1) / TIMESTEP
        control_cost = 0.1 * ((CONTROL_RANGE * action) ** 2).sum(-1)
        impact_cost = (0.5e-6 * (following[..., 3:] ** 2).sum(-1)).clip(None, 10.0)
        return progress - control_cost - impact_cost + SURVIVAL_REWARD

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (task * (following[..., :2] - previous[..., :2])).sum(-1) / (FRAME_SKIP * TIMESTEP)

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        height = following[..., 2]
        return (height < 1.0) | (height > 2.0)

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(
            "humanoid.xml", FRAME_SKIP, _start, _observe, _reward_state, contact_forces=self.feels_contacts
        )
        return MujocoWorld(body, n_slots, threads)


class HumanoidDirWithoutForces(HumanoidDir):
    """Humanoid-dir as those saw it whose MuJoCo was 2.0 or later: contact forces are seen as 0, and cost nothing."""

    name = "humanoid-dir-without-forces"
    feels_contacts = False


def _start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    import mujoco

    data.qpos[:] = model.qpos0 + generator.uniform(-0.01, 0.01, model.nq)
    data.qvel[:] = generator.uniform(-0.01, 0.01, model.nv)
    mujoco.mj_normalizeQuat(model, data.qpos)  # as for the ants


def _observe(data: mujoco.MjData) -> list[np.ndarray]:
    matrices = (data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext)
    return [data.qpos[2:], data.qvel, *(matrix.reshape(-1) for matrix in matrices)]


def _reward_state(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.subtree_com[0, :2], data.qpos[2:3], data.cfrc_ext.reshape(-1)]
