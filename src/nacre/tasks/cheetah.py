"""Half-cheetahs that should run at a speed, in a direction, or to a place, or flip, or jump; they are not told which
(spec pearl 4.2, cemrl-dmrlad 3.2 and 3.3, meld 4.6)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from nacre.tasks.family import PUBLISHED_SEED, TaskList, TaskSplit, World
from nacre.tasks.options import Number, Several, Truth, finite, interval, not_negative, positive, some_of
from nacre.tasks.rewards import choose, sparsified
from nacre.tasks.running import DirectionTasks, Runner, VelocityTasks

if TYPE_CHECKING:
    import mujoco

FRAME_SKIP = 5
CONTROL_STEP = 0.05
"""Seconds between two actions: FRAME_SKIP steps of 0.01 s."""
CONTROL_COST = 0.05
SPARSE_CONTROL_COST = 0.5
ACTION_SCALE = 0.8
"""How much of an actuator's range the half-cheetah has that acts ten times in a second."""
LIST_SEEDS = 101, 100
"""With which its lists of train tasks and test tasks were drawn."""
SUCCESS_TOLERANCE = 0.3
"""How near to the target velocity is a success, in m/s (spec meld)."""
GOAL_TOLERANCE = 0.05
"""How near to a goal is a success, in metres."""
LARGEST_PITCH = 2.5
"""Beyond which a cheetah has fallen, in radians."""
VELOCITY_RADIUS = 0.1
"""How near to the target velocity sparse rewards say how near, in m/s."""
PLACE_RADIUS = 0.5
"""How near to the goal sparse rewards say how near, in metres."""
FLOOR = -4.0
"""What sparse rewards take for the distance farther away."""


class _HalfCheetah(Runner):
    """What the families share. The reward state is x, height and pitch of the root joint, in metres and radians. A
    cheetah has fallen where its pitch is not between -2.5 and 2.5 rad."""

    observation_size = 20
    action_size = 6
    horizon = 200
    control_step = CONTROL_STEP

    def has_fallen(self, following: Any) -> Any:
        return ~(abs(following[..., 2]) <= LARGEST_PITCH)

    def make_world(self, n_slots: int, threads: int) -> World:
        # Imported here, so that naming a family does not load MuJoCo.
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        return MujocoWorld(MujocoBody("half_cheetah.xml", FRAME_SKIP, _start, _observe, _root), n_slots, threads)


def _start(model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
    data.qpos[:] = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
    data.qvel[:] = 0.1 * generator.standard_normal(model.nv)


def _observe(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:], data.qvel, data.body("torso").xpos]


def _root(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[:3]]


def _squares(action: Any) -> Any:
    return (action**2).sum(-1)


def _control_cost(action: Any) -> Any:
    return CONTROL_COST * _squares(action)


class CheetahVel(VelocityTasks, _HalfCheetah):
    """Run forward at a target velocity, uniform in [0, 3] m/s.

    An episode is a success if its last velocity is less than 0.3 m/s from the target.
    """

    name = "cheetah-vel"
    has_success = True
    success_at = "end"

    @property
    def has_published_tasks(self) -> bool:
        return (self.lowest, self.highest) == (0.0, 3.0)

    def published_tasks(self, n: int) -> Float64[np.ndarray, "n 1"]:
        if not self.has_published_tasks:
            return super().published_tasks(n)
        return np.random.RandomState(PUBLISHED_SEED).uniform(0.0, 3.0, (n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -self.difference(previous, following, task) - _control_cost(action)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.difference(previous, following, task) < SUCCESS_TOLERANCE


class CheetahVel10Hz(CheetahVel):
    """Run forward at a target velocity, uniform in [0, 3] m/s, with 10 actions in a second, each of them four fifths of
    what the actuators can do, and episodes of 5 seconds.

    The published train tasks and test tasks are two lists.
    """

    name = "cheetah-vel-10hz"
    horizon = 50
    control_step = 0.1

    def split(self, train_tasks: int, test_tasks: int, seed: int, task_list: TaskList) -> TaskSplit:
        if task_list != "published" or not self.has_published_tasks:
            return super().split(train_tasks, test_tasks, seed, task_list)
        train, test = (
            np.random.RandomState(list_seed).uniform(0.0, 3.0, (n, 1))
            for list_seed, n in zip(LIST_SEEDS, (train_tasks, test_tasks), strict=True)
        )
        return TaskSplit(train, test)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return -self.difference(previous, following, task) - 0.01 * _squares(ACTION_SCALE * action)

    def make_world(self, n_slots: int, threads: int) -> World:
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        frame_skip = 2 * FRAME_SKIP
        body = MujocoBody("half_cheetah.xml", frame_skip, _start, _observe, _root, control=_scaled_control)
        return MujocoWorld(body, n_slots, threads)


def _scaled_control(data: mujoco.MjData, action: np.ndarray) -> None:
    data.ctrl[:] = ACTION_SCALE * action


class CheetahVelSparse(VelocityTasks, _HalfCheetah):
    """Run forward at a target velocity, uniform in [0, 3] m/s, that the reward tells only within `radius`."""

    name = "cheetah-vel-sparse"

    def __init__(
        self,
        lowest: Number = 0.0,
        highest: Number = 3.0,
        terminates: Truth = False,
        radius: Number = VELOCITY_RADIUS,
        floor: Number = FLOOR,
        control_cost: Number = SPARSE_CONTROL_COST,
    ) -> None:
        """`radius` is how near to the target, in m/s, the reward tells the difference; `floor` is what stands for minus
        the difference farther away; `control_cost` is the weight of the squares of the action. For the others see
        VelocityTasks."""
        super().__init__(lowest, highest, terminates)
        self.radius = positive(self.name, "radius", radius)
        self.floor = finite(self.name, "floor", floor)
        self.control_cost = not_negative(self.name, "control_cost", control_cost)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        difference = self.difference(previous, following, task)
        return sparsified(-difference, self.radius, self.floor) - self.control_cost * _squares(action)


class CheetahDir(DirectionTasks, _HalfCheetah):
    """Run backward or forward, as fast as possible."""

    name = "cheetah-dir"

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.measured(previous, action, following, task) - _control_cost(action)


class CheetahGoalSparse(_HalfCheetah):
    """Run to a place in front, uniform in [1, 6] m, that the reward tells only within 0.5 m.

    An episode is a success if it was ever within 0.05 m.
    """

    name = "cheetah-goal-sparse"
    task_parameters = ("goal",)
    quantity = "position (m)"
    has_success = True
    success_at = "any"

    def __init__(self, lowest: Number = 1.0, highest: Number = 6.0, terminates: Truth = False) -> None:
        """`lowest` and `highest` are the range of goals in metres; for `terminates` see Runner."""
        super().__init__(terminates)
        self.lowest, self.highest = interval(self.name, lowest, highest)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 1"]:
        return generator.uniform(self.lowest, self.highest, (n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return sparsified(-abs(following[..., 0] - task[..., 0]), PLACE_RADIUS, FLOOR) - _control_cost(action)

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return abs(following[..., 0] - task[..., 0]) <= GOAL_TOLERANCE

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 0]

    def target(self, task: Any) -> Any:
        return task[..., 0]


class _MultiTask(_HalfCheetah):
    """Tasks of several kinds. A task is the place of its kind in `VARIANTS`, and a number: what that kind asks for."""

    task_parameters = ("kind", "number")
    VARIANTS: tuple[str, ...]

    def __init__(self, variants: Several = None, terminates: Truth = False) -> None:
        """`variants` are the kinds of tasks there are, as many tasks of each; None: all of VARIANTS. For `terminates`
        see Runner."""
        super().__init__(terminates)
        chosen = self.VARIANTS if variants is None else variants
        self.variants: tuple[str, ...] = some_of(self.name, "variants", chosen, self.VARIANTS)
        self._codes = np.array([self.VARIANTS.index(variant) for variant in self.variants])
        self.task_choices = {"kind": tuple(self._codes.tolist())}

    @property
    def kinds(self) -> int:
        return len(self.variants)

    def kind_of(self, tasks: Float64[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
        return (tasks[:, :1] == self._codes).argmax(axis=1)

    @property
    def kind_names(self) -> tuple[str, ...]:
        return self.variants

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        """As many of each kind as of any other, in turn, from a random one on."""
        turns = generator.integers(2 * len(self._codes)) + np.arange(n)
        kinds = self._codes[turns % len(self._codes)]
        signs = 1.0 - 2.0 * (turns // len(self._codes) % 2)
        return np.stack([kinds, self._numbers(generator, kinds, signs)], axis=-1)

    def _numbers(self, generator: np.random.Generator, kinds: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """What tasks of these kinds ask for; `signs` are +1 and -1 in turn."""
        raise NotImplementedError

    def _of_kind(self, task: Any, variant: str) -> Any:
        return task[..., 0] == self.VARIANTS.index(variant)


class CheetahMultiTask(_MultiTask):
    """Run at a velocity uniform in [1, 3] m/s, or in a direction as fast as possible, or to a goal uniform in
    [-5, 5] m, or flip backward or forward, or be high in the air."""

    name = "cheetah-multi-task"
    VARIANTS = ("velocity", "direction", "goal", "flipping", "jumping")
    quantity = "what the task asks for (m/s, m or rad/s)"

    def repeatable(self, tasks: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        # There are two directions, two ways to flip, and one way to jump.
        return self._of_kind(tasks, "direction") | self._of_kind(tasks, "flipping") | self._of_kind(tasks, "jumping")

    def _numbers(self, generator: np.random.Generator, kinds: np.ndarray, signs: np.ndarray) -> np.ndarray:
        velocities, goals = generator.uniform(1.0, 3.0, len(kinds)), generator.uniform(-5.0, 5.0, len(kinds))
        return np.choose(kinds, [velocities, signs, goals, signs, np.zeros(len(kinds))])

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        measured = self.measured(previous, action, following, task)
        return choose(self._is_met(task), -abs(measured - task[..., 1]), measured) - _control_cost(action)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        velocity, number = self.velocity(previous, following), task[..., 1]
        rotation = (following[..., 2] - previous[..., 2]) / CONTROL_STEP
        measured = choose(self._of_kind(task, "jumping"), following[..., 1], number * rotation)  # or flipping
        measured = choose(self._of_kind(task, "goal"), following[..., 0], measured)
        measured = choose(self._of_kind(task, "direction"), number * velocity, measured)
        return choose(self._of_kind(task, "velocity"), velocity, measured)

    def target(self, task: Any) -> Any:
        return np.where(self._is_met(task), task[..., 1], np.nan)

    def _is_met(self, task: Any) -> Any:
        """Whether the number should be met; of the other kinds more is better."""
        return self._of_kind(task, "velocity") | self._of_kind(task, "goal")


class CheetahMultiTaskSparse(_MultiTask):
    """Run forward at up to 3 m/s, or backward, or to a goal up to 5 m in front, or behind. The reward tells a velocity
    only within 0.1 m/s, and a goal within 0.5 m."""

    name = "cheetah-multi-task-sparse"
    VARIANTS = ("forward-velocity", "backward-velocity", "front-goal", "back-goal")
    quantity = "what the task asks for (m/s or m)"

    def _numbers(self, generator: np.random.Generator, kinds: np.ndarray, signs: np.ndarray) -> np.ndarray:
        return np.choose(kinds, [3.0, -3.0, 5.0, -5.0]) * generator.uniform(0.0, 1.0, len(kinds))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        miss = -abs(self.measured(previous, action, following, task) - task[..., 1])
        at_velocity, at_goal = sparsified(miss, VELOCITY_RADIUS, FLOOR), sparsified(miss, PLACE_RADIUS, FLOOR)
        return choose(self._is_goal(task), at_goal, at_velocity) - SPARSE_CONTROL_COST * _squares(action)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return choose(self._is_goal(task), following[..., 0], self.velocity(previous, following))

    def target(self, task: Any) -> Any:
        return task[..., 1]

    def _is_goal(self, task: Any) -> Any:
        return self._of_kind(task, "front-goal") | self._of_kind(task, "back-goal")


JOINTS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin")
"""Whose damping varies, in the model's order; the sixth, ffoot, keeps its own."""
FIRST_JOINT = 3
"""The root has three degrees of freedom before them."""


class CheetahRandDamping(_HalfCheetah):
    """Run forward, as fast as possible, with one joint that is harder or easier to move than the model's.

    A task is the joint's index among JOINTS and the multiplier of its damping: 1.5 to the power of u, with u uniform
    in [-log_scale_limit, log_scale_limit].
    """

    name = "cheetah-rand-damping"
    can_relabel = False
    observation_size = 17
    task_parameters = ("joint", "multiplier")
    task_choices = MappingProxyType({"joint": tuple(range(len(JOINTS)))})
    quantity = "velocity (m/s)"

    def __init__(self, log_scale_limit: Number = 7.0, terminates: Truth = False) -> None:
        """`log_scale_limit` is explained above; for `terminates` see Runner."""
        super().__init__(terminates)
        self.log_scale_limit = positive(self.name, "log_scale_limit", log_scale_limit)

    @property
    def kinds(self) -> int:
        return len(JOINTS)

    def kind_of(self, tasks: Float64[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
        return tasks[:, 0].astype(int)

    @property
    def kind_names(self) -> tuple[str, ...]:
        return JOINTS

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
        joints = generator.integers(len(JOINTS), size=n)
        exponents = generator.uniform(-self.log_scale_limit, self.log_scale_limit, n)
        return np.stack([joints, 1.5**exponents], axis=-1)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.velocity(previous, following) - 0.1 * _squares(action)

    def measured(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return self.velocity(previous, following)

    def make_world(self, n_slots: int, threads: int) -> World:
        from nacre.tasks.mujoco import MujocoBody, MujocoWorld

        body = MujocoBody("half_cheetah.xml", FRAME_SKIP, _start, _observe_joints, _root, set_task=_set_damping)
        return MujocoWorld(body, n_slots, threads)


def _observe_joints(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[1:], data.qvel]


def _set_damping(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    model.dof_damping[:] = original.dof_damping
    model.dof_damping[FIRST_JOINT + int(task[0])] *= task[1]
