"""Walkers and hoppers: when they have fallen, and families that should run at a speed they are not told
(spec cemrl-dmrlad 3.2 and 3.3). Those whose physics vary are in `rand_params`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nacre.tasks.family import World
from nacre.tasks.options import Number, Truth
from nacre.tasks.rewards import sparsified
from nacre.tasks.running import VelocityTasks

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 4
CONTROL_STEP = 0.008
"""Seconds between two actions: FRAME_SKIP steps of 0.002 s."""
LARGEST_VELOCITY = 10.0
"""Velocities are observed up to this size."""
VELOCITY_RADIUS = 0.1
"""How near to the target velocity sparse rewards say how near, in m/s."""
FLOOR = -2.0
"""What sparse rewards take for the difference farther away."""


def start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    data.qpos[:] = model.qpos0 + generator.uniform(-0.005, 0.005, model.nq)
    data.qvel[:] = generator.uniform(-0.005, 0.005, model.nv)


def observe(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:], data.qvel]


def positions_and_velocities(data: mujoco.MjData) -> list[np.ndarray]:
    """The reward state of all walkers and hoppers."""
    return [data.qpos, data.qvel]


def walker_has_fallen(following: Any) -> Any:
    """Its torso is not between 0.8 and 2 m high, or leans 1 rad or more."""
    height, angle = following[..., 1], following[..., 2]
    return ~((height > 0.8) & (height < 2.0) & (abs(angle) < 1.0))


def hopper_has_fallen(following: Any) -> Any:
    """Its torso is not above 0.7 m, leans 0.2 rad or more, or any coordinate but x and the height, or any velocity, is
    100 or more."""
    height, angle = following[..., 1], following[..., 2]
    return ~((abs(following[..., 2:]) < 100.0).all(-1) & (height > 0.7) & (abs(angle) < 0.2))


def control_cost(action: Any) -> Any:
    return 1e-3 * (action**2).sum(-1)


class _Velocity(VelocityTasks):
    """What the families share. The reward state is qpos and qvel."""

    horizon = 200
    control_step = CONTROL_STEP
    asset: str
    clip: tuple[int, float]
    """As in MujocoBody."""

    def __init__(self, lowest: Number = 0.5, highest: Number = 3.0, terminates: Truth = False) -> None:
        """As VelocityTasks, with another range."""
        super().__init__(lowest, highest, terminates)

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(self.asset, FRAME_SKIP, start, self.observe, positions_and_velocities, clip=self.clip)
        return MujocoWorld(body, n_slots, threads)

    observe = staticmethod(observe)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -self.difference(previous, following, task) + self.bonus - control_cost(action)

    @property
    def bonus(self) -> float:
        """What a step is worth that the body lives."""
        return 1.0


class WalkerVel(_Velocity):
    """A two-legged walker runs forward at a target velocity, uniform in [0.5, 3] m/s."""

    name = "walker-vel"
    observation_size = 17
    action_size = 6
    asset = "walker2d.xml"
    clip = (8, LARGEST_VELOCITY)  # the columns after qpos, of which x is not observed

    def has_fallen(self, following: Any) -> Any:
        return walker_has_fallen(following)


class HopperVel(_Velocity):
    """A one-legged hopper runs forward at a target velocity, uniform in [0.5, 3] m/s. To live is worth the highest
    target velocity. It sees where its torso is."""

    name = "hopper-vel"
    observation_size = 14
    action_size = 3
    asset = "hopper.xml"
    clip = (8, LARGEST_VELOCITY)  # the columns after qpos and the torso's position

    def has_fallen(self, following: Any) -> Any:
        return hopper_has_fallen(following)

    @property
    def bonus(self) -> float:
        return self.highest

    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos[1:], data.body("torso").xpos, data.qvel]


class _Sparse(_Velocity):
    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        difference = self.difference(previous, following, task)
        return sparsified(-difference, VELOCITY_RADIUS, FLOOR) + self.bonus - control_cost(action)


class WalkerVelSparse(_Sparse, WalkerVel):
    """Walker-vel with a reward that tells the target only within 0.1 m/s."""

    name = "walker-vel-sparse"


class HopperVelSparse(_Sparse, HopperVel):
    """Hopper-vel with a reward that tells the target only within 0.1 m/s."""

    name = "hopper-vel-sparse"
