"""Ants that should run in a direction, at a speed, or to a goal, they are not told (spec pearl 4.3, cemrl-dmrlad 3.2
and 3.3)."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.tasks.family import TaskFamily, World
from nacre.tasks.options import Number, Truth, positive
from nacre.tasks.rewards import choose, sparsified
from nacre.tasks.running import DirectionTasks, Runner, VelocityTasks

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 5
CONTROL_STEP = 0.05
"""Seconds between two actions: FRAME_SKIP steps of 0.01 s."""
CONTACT_COST = 0.0005
SURVIVAL_REWARD = 1.0
GOAL_RADIUS = 3.0
"""Goals are in a disc of this radius, in metres."""
DIRECTION_WEIGHT = 10.0
"""On the velocity in a direction, in ant-dir-weighted."""
VELOCITY_RADIUS = 0.3
"""How near to the target velocity sparse rewards say how near, in m/s."""
FLOOR = -4.0
"""What sparse rewards take for the difference farther away."""
SPARSE_GOAL_RADIUS = 0.8
"""How near to the goal sparse rewards say how near, in metres."""
SPARSE_GOAL_BONUS = 4.0


class _Ant(TaskFamily):
    """What the families share. The reward state is x and y of the torso and its height qpos[2], in metres, and the
    external forces and torques on the 14 bodies, in newtons and newton metres."""

    action_size = 8
    horizon = 200
    clip: tuple[int, float] | None = None
    """As in MujocoBody."""
    feels_contacts: bool = True
    """Whether contact forces are computed; without, they are 0."""

    def place(self, reward_state: Any) -> Any:
        return reward_state[..., 0]

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(
            "ant.xml",
            FRAME_SKIP,
            _start,
            self.observe,
            _reward_state,
            contact_forces=self.feels_contacts,
            clip=self.clip,
        )
        return MujocoWorld(body, n_slots, threads)

    @staticmethod
    @abc.abstractmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        """What is observed."""


def _start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    import mujoco

    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
    data.qvel[:] = 0.1 * generator.standard_normal(model.nv)
    # The noise makes the root's quaternion too long or short. The original's MuJoCo mended qpos itself, later ones do
    # not, and it is observed.
    mujoco.mj_normalizeQuat(model, data.qpos)


def _reward_state(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.body("torso").xpos[:2], data.qpos[2:3], data.cfrc_ext.reshape(-1)]


def _contact_cost(following: Any) -> Any:
    return CONTACT_COST * (following[..., 3:].clip(-1.0, 1.0) ** 2).sum(-1)


def _has_fallen(following: Any) -> Any:
    height = following[..., 2]
    return (height < 0.2) | (height > 1.0)


class _AntDirection(_Ant):
    """Run in a direction, a unit vector, as fast as possible. It is over if the torso is lower than 0.2 m or
    higher than 1 m."""

    observation_size = 27
    task_parameters = ("direction_x", "direction_y")
    quantity = "velocity in the direction (m/s)"

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        velocity = self.measured(previous, action, following, task)
        control_cost = 0.5 * (action**2).sum(-1)
        return velocity - control_cost - _contact_cost(following) + SURVIVAL_REWARD

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return (task * ((following[..., :2] - previous[..., :2]) / CONTROL_STEP)).sum(-1)

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _has_fallen(following)

    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos[2:], data.qvel]


class AntDir(_AntDirection):
    """Run forward (along x) or backward: two tasks, for training and test alike, as in the paper."""

    name = "ant-dir"
    finite_tasks = ((1.0, 0.0), (-1.0, 0.0))

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        return generator.choice(np.array(self.finite_tasks), n)


class AntRandomDir(_AntDirection):
    """Run in a direction that may be any in the plane, uniformly."""

    name = "ant-random-dir"

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        angles = generator.uniform(0.0, 2 * np.pi, n)
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


class AntGoal(_Ant):
    """Run to a goal, uniform in a disc around the start, and stay there. The distance is the sum of those along x
    and y. Never over before the horizon."""

    name = "ant-goal"
    observation_size = 113
    task_parameters = ("goal_x", "goal_y")
    quantity = "distance to the goal (m)"
    contact_forces = (29, 113)  # after qpos and qvel
    clip = (29, 1.0)
    goal_range = GOAL_RADIUS

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        angles = generator.uniform(0.0, 2 * np.pi, n)
        radii = self.goal_range * generator.uniform(0.0, 1.0, n) ** 0.5
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = abs(following[..., :2] - task).sum(-1)
        return -distance - 0.1 * (action**2).sum(-1) - _contact_cost(following)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return ((following[..., :2] - task) ** 2).sum(-1) ** 0.5

    def target(self, task: Any) -> Any:
        return np.zeros(np.shape(task)[:-1])

    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos, data.qvel, data.cfrc_ext.reshape(-1)]


class _RunningAnt(Runner, _Ant):
    """An ant along x, which sees where its torso is. It has fallen where the torso is lower than 0.3 m or higher than
    10 m."""

    observation_size = 30
    control_step = CONTROL_STEP

    def has_fallen(self, following: Any) -> Any:
        return ~((following[..., 2] >= 0.3) & (following[..., 2] <= 10.0))

    def _costs(self, action: Any, following: Any) -> Any:
        return 0.5 * (action**2).sum(-1) + _contact_cost(following) - SURVIVAL_REWARD


class _AntVelocity(VelocityTasks, _RunningAnt):
    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos[2:], data.qvel, data.body("torso").xpos]


class AntVel(_AntVelocity):
    """Run forward at a target velocity, uniform in [1, 5] m/s."""

    name = "ant-vel"

    def __init__(self, lowest: Number = 1.0, highest: Number = 5.0, terminates: Truth = False) -> None:
        """As VelocityTasks, with another range."""
        super().__init__(lowest, highest, terminates)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -self.difference(previous, following, task) - self._costs(action, following)


class AntVelSparse(_AntVelocity):
    """Run forward at a target velocity, uniform in [0, 3] m/s, that the reward tells only within 0.3 m/s."""

    name = "ant-vel-sparse"

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        difference = self.difference(previous, following, task)
        return sparsified(-difference, VELOCITY_RADIUS, FLOOR) - self._costs(action, following)


class AntDirWeighted(DirectionTasks, _RunningAnt):
    """Run backward or forward, as fast as possible: the velocity counts ten times as much as in ant-dir."""

    name = "ant-dir-weighted"

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return DIRECTION_WEIGHT * self.measured(previous, action, following, task) - self._costs(action, following)

    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos[2:], data.body("torso").xpos, data.qvel]


class AntGoalSparse(AntGoal):
    """Run to a goal in a disc around the start, by default of radius 1 m, that the reward tells only within 0.8 m.
    Farther away the reward does not depend on where the ant is. It is over if the torso is lower than 0.2 m or
    higher than 1 m."""

    name = "ant-goal-sparse"
    observation_size = 116
    contact_forces = (32, 116)  # after qpos, qvel and the torso's position
    clip = (32, 1.0)

    def __init__(self, radius: Number = 1.0) -> None:
        """`radius` is that of the disc, in metres."""
        self.goal_range = positive(self.name, "radius", radius)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = abs(following[..., :2] - task).sum(-1)
        is_near = self.measured(previous, action, following, task) <= SPARSE_GOAL_RADIUS
        progress = SPARSE_GOAL_BONUS - choose(is_near, distance, abs(task).sum(-1))
        return progress - 0.1 * (action**2).sum(-1) - _contact_cost(following) + SURVIVAL_REWARD

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return _has_fallen(following)

    @staticmethod
    def observe(data: mujoco.MjData) -> list[np.ndarray]:
        return [data.qpos, data.qvel, data.body("torso").xpos, data.cfrc_ext.reshape(-1)]


class AntDirWithoutForces(AntDir):
    """Ant-dir as those saw it whose MuJoCo was 2.0 or later: contacts cost nothing."""

    name = "ant-dir-without-forces"
    feels_contacts = False


class AntRandomDirWithoutForces(AntRandomDir):
    """Ant-random-dir as those saw it whose MuJoCo was 2.0 or later: contacts cost nothing."""

    name = "ant-random-dir-without-forces"
    feels_contacts = False


class AntGoalWithoutForces(AntGoal):
    """Ant-goal as those saw it whose MuJoCo was 2.0 or later: contact forces are observed as 0, and cost nothing."""

    name = "ant-goal-without-forces"
    feels_contacts = False
