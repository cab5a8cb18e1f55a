"""MuJoCo worlds: one MjData per slot, advanced by a pool of threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int

from nacre.tasks.mujoco_rendering import MujocoRenderer
from nacre.tasks.scene_rendering import SceneRenderer

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


@dataclass(frozen=True)
class DrawnScene:
    """A model for pictures alone, if there is more to see than to step. It has the same positions and the same cameras,
    and `set_task` changes it too."""

    build: Callable[[], mujoco.MjSpec]
    view: str
    """The camera that videos are seen by."""


@dataclass(frozen=True)
class MujocoBody:
    """What a world needs to know of a model.

    `start` writes the first qpos and qvel of an episode. `observe` and `reward_state` return live views into the
    arrays of the MjData they are given, to be concatenated; they are called once per slot, not per step.
    """

    asset: str | Callable[[], mujoco.MjSpec]
    """File name among the MuJoCo models that ship with Gymnasium, or the absolute path of another, or what builds
    one."""
    frame_skip: int
    """Physics steps per control step."""
    start: Callable[[mujoco.MjModel, mujoco.MjData, np.random.Generator], None]
    observe: Callable[[mujoco.MjData], list[np.ndarray]]
    reward_state: Callable[[mujoco.MjData], list[np.ndarray]]
    timestep: float | None = None
    """Seconds per physics step; None: as the asset says."""
    contact_forces: bool = False
    """Whether `data.cfrc_ext` is read, which MuJoCo fills only when asked to."""
    clip: tuple[int, float] | None = None
    """(column, limit): observations are clipped to [-limit, limit] from this column on."""
    set_task: Callable[[mujoco.MjModel, mujoco.MjModel, np.ndarray], None] | None = None
    """`set_task(model, original, task)` makes a slot's model that of a task, if the physics vary between tasks. It
    may be called again and again with the same model, so it starts from the original, which it leaves alone."""
    prepare: Callable[[mujoco.MjModel], None] | None = None
    """What is changed in the compiled model."""
    control: Callable[[mujoco.MjData, np.ndarray], None] | None = None
    """`control(data, action)` writes an action into the data. None: actuators get it, in their ranges."""
    scene: DrawnScene | None = None
    """What is drawn; None: what is stepped, from the side, which looks the same in all tasks."""

    def compile(self) -> mujoco.MjModel:
        """The model that all tasks start from."""
        spec = mujoco.MjSpec.from_file(str(ASSETS / self.asset)) if isinstance(self.asset, str) else self.asset()
        if self.timestep is not None:
            spec.option.timestep = self.timestep
        # MuJoCo would quietly reset a simulation that blew up; the simulator should see it and say so.
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        model = spec.compile()
        if self.prepare is not None:
            self.prepare(model)
        return model


class _Slot(NamedTuple):
    model: mujoco.MjModel
    data: mujoco.MjData
    control: np.ndarray
    """View of data.ctrl."""


class _Job(NamedTuple):
    """One control step of some slots, to be shared by the threads that are given it."""

    slots: Iterator[_Slot]
    frame_skip: int
    contact_forces: bool
    done: SimpleQueue[Exception | None]
    """Receives one entry from each helper that has found no slot left: what went wrong there, or None."""


def _advance(job: _Job) -> None:
    for model, data, _ in job.slots:
        mujoco.mj_step(model, data, job.frame_skip)
        if job.contact_forces:
            mujoco.mj_rnePostConstraint(model, data)


def _help(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            _advance(job)
            error = None
        except Exception as raised:
            error = raised
        job.done.put(error)


class MujocoWorld:
    """N slots of one MuJoCo model, or of one model each if the physics vary between tasks.

    A control step is one call of mj_step per slot, which releases the GIL. Threads share one iterator over the
    slots, so that none idles while another has slots left; a slot's result does not depend on who steps it.
    Everything else happens in the calling thread: a thread that came back from mj_step to do some more Python would
    make the others wait for the GIL, which costs more than the Python itself. Plain queues hand out the work, because
    a ThreadPoolExecutor's futures take a fifth of a control step of 20 half-cheetahs on two cores.

    Body positions are read as mj_step leaves them, as in the original environments (spec section 4), and contact forces
    are computed from the same state. With the Euler integrator it is the one before the last physics step, one step
    behind qpos; with RK4 it is that step's last stage, which is hardly behind.
    """

    def __init__(self, body: MujocoBody, n_slots: int, threads: int) -> None:
        self._original = body.compile()
        low, high = self._original.actuator_ctrlrange.T
        self._control_centre, self._control_scale = (high + low) / 2, (high - low) / 2
        self._controls_are_actions = bool((low == -1).all() and (high == 1).all())

        self._body = body
        self._tasks: list[np.ndarray] = [np.zeros(0)] * n_slots
        self._slots: list[_Slot] = []
        self._readings: list[np.ndarray] = []
        for _ in range(n_slots):
            model = self._original if body.set_task is None else copy.copy(self._original)
            data = mujoco.MjData(model)
            self._slots.append(_Slot(model, data, data.ctrl))
            observation, reward_state = body.observe(data), body.reward_state(data)
            self._readings += observation + reward_state
        self._observation_size = sum(view.size for view in observation)

        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # The calling thread is one of the `threads`.
        self._helpers = [
            threading.Thread(target=_help, args=(self._jobs,), name=f"nacre-mujoco-{number}", daemon=True)
            for number in range(min(threads, n_slots) - 1)
        ]
        for helper in self._helpers:
            helper.start()

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Float32[np.ndarray, "n observation"], Float64[np.ndarray, "n reward_state"]]:
        for slot, task, generator in zip(slots, tasks, generators, strict=True):
            model, data, _ = self._slots[slot]
            self._set_task(slot, task)
            # Also clears the solver's warm start, so that nothing of the last episode is left.
            mujoco.mj_resetData(model, data)
            self._body.start(model, data, generator)
            mujoco.mj_forward(model, data)
            if self._body.contact_forces:
                mujoco.mj_rnePostConstraint(model, data)
        return self._read(slots)

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Float32[np.ndarray, "n observation"], Float64[np.ndarray, "n reward_state"]]:
        chosen = self._slots if len(slots) == len(self._slots) else [self._slots[slot] for slot in slots]
        self._control(chosen, actions)
        job = _Job(iter(chosen), self._body.frame_skip, self._body.contact_forces, SimpleQueue())
        helpers = min(len(self._helpers), len(chosen) - 1)
        for _ in range(helpers):
            self._jobs.put(job)
        try:
            _advance(job)
        finally:
            # Also when interrupted: nobody may touch a slot that a helper is still stepping.
            errors = [job.done.get() for _ in range(helpers)]
        for error in errors:
            if error is not None:
                raise error
        return self._read(slots)

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"]) -> None:
        """The next step has the physics of the new tasks, if they differ between tasks. Positions and velocities stay,
        and so do contact forces and all else that was computed from them with the old physics."""
        for slot, task in zip(slots, tasks, strict=True):
            self._set_task(slot, task)

    @property
    def frames_per_second(self) -> float:
        return 1.0 / (self._body.frame_skip * self._original.opt.timestep)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The names of the model's cameras."""
        return tuple(filter(None, (self._original.camera(number).name for number in range(self._original.ncam))))

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n configuration"]:
        if self._body.scene is None:
            return np.array([self._slots[slot].data.qpos for slot in slots])
        return np.array([np.concatenate([self._slots[slot].data.qpos, self._tasks[slot]]) for slot in slots])

    def make_renderer(self, width: int, height: int) -> MujocoRenderer:
        if self._body.scene is None:
            return MujocoRenderer(self._body.compile(), width, height)
        scene = self._body.scene
        return SceneRenderer(scene.build().compile(), width, height, scene.view, self._body.set_task)

    def close(self) -> None:
        for _ in self._helpers:
            self._jobs.put(None)
        for helper in self._helpers:
            helper.join()
        self._helpers = []

    def _set_task(self, slot: int | np.integer, task: np.ndarray) -> None:
        self._tasks[slot] = task.copy()
        if self._body.set_task is not None:
            self._body.set_task(self._slots[slot].model, self._original, task)

    def _control(self, chosen: list[_Slot], actions: np.ndarray) -> None:
        if self._body.control is not None:
            for slot, action in zip(chosen, actions, strict=True):
                self._body.control(slot.data, action)
            return
        if not self._controls_are_actions:
            actions = self._control_centre + self._control_scale * actions
        for slot, control in zip(chosen, actions, strict=True):
            slot.control[:] = control

    def _read(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # One call for all slots, those not asked for included, is faster than a loop over any.
        rows = np.concatenate(self._readings).reshape(len(self._slots), -1)
        if len(slots) < len(self._slots):
            rows = rows[slots]
        observations = rows[:, : self._observation_size].astype(np.float32)
        if self._body.clip is not None:
            column, limit = self._body.clip
            np.clip(observations[:, column:], -limit, limit, out=observations[:, column:])
        return observations, rows[:, self._observation_size :]
