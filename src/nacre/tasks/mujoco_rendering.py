"""Pictures of MuJoCo's worlds, drawn off screen with OpenGL."""

from __future__ import annotations

import atexit
import ctypes.util
import functools
import os
import platform
import sys
import weakref
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from nacre.errors import NacreError
from nacre.tasks.rendering import GOAL_COLOUR, NO_SIGNS, OWN_VIEW, Picture, Signs


class MujocoRenderer:
    """A model seen from the side by a camera that goes along with its first body, or through a camera of its own,
    without shadows and reflections.

    `zoom`: how many times larger everything is than through the cameras themselves.

    `one_at_a_time`: threads that draw at the same time only wait for one another, as on a GPU. In software they do not.

    Where a goal is shown the view from the side is from higher and farther away, so that the goal is in the picture.
    (MuJoCo's own tracking camera follows smoothly: its pictures would depend on those before.)
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        """Raises NacreError: there is no OpenGL that draws off screen."""
        visual = model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        visual.quality.offsamples = 0  # smooth edges would make software take three times as long
        self._model, self._data = model, mujoco.MjData(model)
        self._renderer = _offscreen_renderer(model, width, height)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        self.zoom = 1.0
        self.one_at_a_time = not _draws_in_software()
        self._camera = mujoco.MjvCamera()
        self._camera.azimuth, self._camera.lookat[2] = 90.0, 0.5

    def draw(
        self,
        configuration: Float64[np.ndarray, " configuration"],
        signs: Signs = NO_SIGNS,
        camera: str = OWN_VIEW,
    ) -> Picture:
        """`camera` is the name of one of the model's, or that of the view from the side."""
        self._place(configuration)
        self._camera.lookat[:2] = self._data.xpos[1, :2]
        self._camera.elevation, self._camera.distance = (-20.0, 3.5) if signs.goal is None else (-50.0, 9.0)
        self._look(self._camera if camera == OWN_VIEW else camera)
        if signs.goal is not None:
            self._add(mujoco.mjtGeom.mjGEOM_CYLINDER, np.array([*signs.goal, 0.0]), np.array([0.25, 0.01, 0.0]))
        if signs.direction is not None:
            self._add_arrow(signs.direction)
        return self._renderer.render()

    def close(self) -> None:
        self._renderer.close()

    def _place(self, positions: np.ndarray) -> None:
        self._data.qpos[:] = positions
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _look(self, camera: mujoco.MjvCamera | str, option: mujoco.MjvOption | None = None) -> None:
        """What is drawn next is what the camera sees now."""
        self._renderer.update_scene(self._data, camera, option)
        for eye in self._renderer.scene.camera:
            eye.frustum_bottom /= self.zoom
            eye.frustum_top /= self.zoom
            eye.frustum_center /= self.zoom
            eye.frustum_width /= self.zoom

    def _add(self, kind: Any, position: np.ndarray, size: np.ndarray) -> Any:
        scene = self._renderer.scene
        geom = scene.geoms[scene.ngeom]
        colour = np.array([*GOAL_COLOUR, 1.0], np.float32)
        mujoco.mjv_initGeom(geom, kind, size, position, np.eye(3).reshape(-1), colour)
        scene.ngeom += 1
        return geom

    def _add_arrow(self, direction: np.ndarray) -> None:
        """An arrow of one metre on the floor, from below the body that the camera follows."""
        start = self._data.xpos[1] * [1.0, 1.0, 0.0] + [0.0, 0.0, 0.02]
        end = start + np.array([*direction, 0.0])
        arrow = mujoco.mjtGeom.mjGEOM_ARROW
        geom = self._add(arrow, start, np.zeros(3))
        mujoco.mjv_connector(geom, arrow, 0.04, start, end)


class _Renderer(mujoco.Renderer):
    _mjr_context = None  # lest MuJoCo's own clean-up fails as well where making one has failed


_open: weakref.WeakSet[mujoco.Renderer] = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the process, while OpenGL is still there: MuJoCo's own clean-up comes too late for it."""
    for renderer in tuple(_open):
        renderer.close()


@functools.cache
def _close_all_at_exit() -> None:
    """To be called once MuJoCo has begun with OpenGL, so that this comes before MuJoCo ends it."""
    atexit.register(_close_all)


def _offscreen_renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    """MuJoCo's renderer with the OpenGL platform that MUJOCO_GL names; on Linux with EGL if it names none.

    EGL needs no display, and MuJoCo's own default, GLFW, does. The choice is made here and not before MuJoCo is
    imported, as it would then fail to import on a machine that has no EGL and only wants to train.
    """
    try:
        if platform.system() == "Linux" and not os.environ.get("MUJOCO_GL"):
            _use_egl()
        renderer = _Renderer(model, height, width)
    except Exception as error:  # of PyOpenGL, EGL, MuJoCo and ctypes, with no base class in common
        raise NacreError(
            f"Nothing can be drawn, as OpenGL does not work here ({type(error).__name__}: {error}). {_advice()}"
        ) from error
    _close_all_at_exit()
    _open.add(renderer)
    return renderer


def _draws_in_software() -> bool:
    """Whether OpenGL, of which a context is current, computes pictures on the CPU, with one of Mesa's programs; so it
    is taken for one if it does not say."""
    try:
        from OpenGL import GL  # here: it loads the library that MUJOCO_GL names

        name = GL.glGetString(GL.GL_RENDERER)
    except Exception:  # of PyOpenGL, which may look for another library than MuJoCo draws with
        name = None
    programs = b"llvmpipe", b"softpipe", b"swrast", b"software"
    return name is None or any(program in name.lower() for program in programs)


def _use_egl() -> None:
    from mujoco.egl import GLContext

    class EglContext(GLContext):
        _context = None  # lest MuJoCo's own clean-up fails as well where making one has failed

    # MuJoCo has moved the renderer between versions, and with it the module that it takes the context from.
    sys.modules[mujoco.Renderer.__module__].gl_context.GLContext = EglContext


def _advice() -> str:
    """What to do if nothing can be drawn."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return f"MUJOCO_GL is {chosen!r}; without it nacre takes EGL, which needs no display. See the page on videos."
    if platform.system() != "Linux":
        return "MUJOCO_GL chooses another platform. See the page on videos."
    if ctypes.util.find_library("EGL") is None:
        return (
            "Without a GPU, Mesa draws: on Debian and Ubuntu, apt install libegl1 libgl1 libgl1-mesa-dri; see the page "
            "on videos."
        )
    return (
        "EGL is installed, so its driver or its device may be wrong: MUJOCO_EGL_DEVICE_ID chooses the device, "
        "MUJOCO_GL=osmesa or MUJOCO_GL=glfw another platform. See the page on videos."
    )
