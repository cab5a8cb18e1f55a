"""A Sawyer arm that should reach a place, or push a puck to one, it is not told; the reward says no more than whether
it is there (spec cemrl-dmrlad 3.3). The models are those of the package metaworld."""

from __future__ import annotations

import abc
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, World

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 5
STEP_SIZE = 0.01
"""How far a full action moves the place that the hand is pulled to, along each axis, in metres."""
HAND_LOW, HAND_HIGH = np.array([-0.5, 0.4, 0.05]), np.array([0.5, 1.0, 0.5])
"""Where that place may be, in metres."""
HAND_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
PUCK_START = np.array([0.0, 0.6, 0.02])
PUCK_POSITIONS, PUCK_VELOCITIES = slice(9, 12), slice(9, 15)
"""In qpos and qvel, after seven joints of the arm and two of the gripper."""
START_STEPS = 250
"""Physics steps in which the hand is pulled to where an episode begins. (The original's 50 would leave it halfway.)"""
REACH_RADIUS = 0.05
PUSH_RADIUS = 0.07
SUCCESS_RADIUS = 0.05


class _Sawyer(TaskFamily):
    """What the families share. The first three numbers of an action move the hand, the fourth closes the gripper. The
    reward state is the place of the right finger's end, of the left one's, and of the puck, in metres. Every step costs
    1. The episode is over once the task is done, which costs nothing."""

    observation_size = 6
    action_size = 4
    horizon = 150
    task_parameters = ("goal_x", "goal_y", "goal_z")
    quantity = "distance to the goal (m)"
    has_success = True
    success_at = "any"
    asset: str
    hand_start: tuple[float, float, float]
    goal_low: tuple[float, float, float]
    goal_high: tuple[float, float, float]
    radius: float
    """How near to the goal the task is done, in metres."""

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 3"]:
        return generator.uniform(self.goal_low, self.goal_high, (n, 3))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        distance = self.measured(previous, action, following, task)
        return (distance <= self.radius).astype(distance.dtype) - 1

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.measured(previous, action, following, task) <= self.radius

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.measured(previous, action, following, task) <= SUCCESS_RADIUS

    @abc.abstractmethod
    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any: ...

    def target(self, task: Any) -> Any:
        return np.zeros(np.shape(task)[:-1])

    def make_world(self, n_slots: int, threads: int) -> World:
        """Raises NacreError: the package metaworld is not installed."""
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody(
            str(find_assets(self.name) / "sawyer_xyz" / self.asset),
            FRAME_SKIP,
            _Start(self.hand_start),
            _observe,
            _reward_state,
            prepare=_stiffen,
            control=_control,
        )
        return MujocoWorld(body, n_slots, threads)


class _Start:
    """The beginning of an episode: the hand has been pulled to its place, with an open gripper, and the puck has been
    put down. It is the same for all episodes, so it is simulated once."""

    def __init__(self, hand: tuple[float, float, float]) -> None:
        self._hand = hand
        self._state: np.ndarray | None = None

    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
        import mujoco

        everything = mujoco.mjtState.mjSTATE_INTEGRATION
        if self._state is None:
            self._pull(model, data)
            self._state = np.empty(mujoco.mj_stateSize(model, everything))
            mujoco.mj_getState(model, data, self._state, everything)
        mujoco.mj_setState(model, data, self._state, everything)

    def _pull(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        import mujoco

        data.mocap_pos[0], data.mocap_quat[0] = self._hand, HAND_QUATERNION
        data.ctrl[:] = -1.0, 1.0
        mujoco.mj_step(model, data, START_STEPS)
        data.qpos[PUCK_POSITIONS] = PUCK_START
        data.qvel[PUCK_VELOCITIES] = 0.0


def find_assets(family: str) -> Path:
    """The folder of models, meshes and textures in the package metaworld. The package itself is not imported.

    Raises:
        NacreError: it is not installed.
    """
    package = importlib.util.find_spec("metaworld")
    if package is None or package.origin is None:
        raise NacreError(
            f"The family {family} needs the robot's models, which the package metaworld has and which is not installed "
            "(the extra metaworld brings it: pip install '.[metaworld]' in a clone)."
        )
    return Path(package.origin).parent / "assets"


def _stiffen(model: mujoco.MjModel) -> None:
    """The hand takes the place and the orientation of what pulls it, and turns five times as stiffly as it moves."""
    model.eq_data[0] = [*np.zeros(6), -1.0, 0.0, 0.0, 0.0, 5.0]


def _control(data: mujoco.MjData, action: np.ndarray) -> None:
    data.mocap_pos[0] = np.clip(data.mocap_pos[0] + STEP_SIZE * action[:3], HAND_LOW, HAND_HIGH)
    data.ctrl[:] = action[3], -action[3]


def _observe(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.body("hand").xpos, data.body("obj").xpos]


def _reward_state(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos, data.body("obj").xpos]


def length(vector: Any) -> Any:
    return (vector**2).sum(-1) ** 0.5


class SawyerReachSparse(_Sawyer):
    """Reach a place, uniform in a box 20 cm wide, 10 cm deep and 25 cm high. It is done where the middle between the
    fingers is within 0.05 m."""

    name = "sawyer-reach-sparse"
    asset = "sawyer_reach_v3.xml"
    hand_start = (0.0, 0.6, 0.2)
    goal_low, goal_high = (-0.1, 0.7, 0.05), (0.1, 0.8, 0.3)
    radius = REACH_RADIUS

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return length((following[..., 0:3] + following[..., 3:6]) / 2 - task)


class SawyerPushSparse(_Sawyer):
    """Push the puck to a place on the table, uniform in a box 20 cm wide and 10 cm deep, whose height does not matter.
    It is done where the puck is within 0.07 m, and a success within 0.05 m. The hand begins low, around the puck."""

    name = "sawyer-push-sparse"
    asset = "sawyer_push_v3.xml"
    # The original's y of 0.65 m would put a finger into the puck of today's models, which then rolls away.
    hand_start = (0.0, 0.6, 0.0)
    goal_low, goal_high = (-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)
    radius = PUSH_RADIUS

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return length(following[..., 6:8] - task[..., :2])
