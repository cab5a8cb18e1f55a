"""Pictures of worlds, drawn off screen: with OpenGL for MuJoCo's, with Pillow for points in the plane."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int, UInt8

from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, World

if TYPE_CHECKING:
    import mujoco

Picture = UInt8[np.ndarray, "height width 3"]

GOAL_COLOUR = (0.15, 0.65, 0.3)
BODY_COLOUR = (0.85, 0.33, 0.1)


class Signs(NamedTuple):
    """What a picture may show of a task beside the world itself, each in the plane and in metres."""

    goal: Float64[np.ndarray, " 2"] | None = None
    direction: Float64[np.ndarray, " 2"] | None = None


NO_SIGNS = Signs()


@runtime_checkable
class Renderer(Protocol):
    """Draws a world of one kind in one size. It belongs to the thread that made it."""

    def draw(self, configuration: Float64[np.ndarray, " configuration"], signs: Signs = NO_SIGNS) -> Picture:
        """The picture of a configuration; the same configuration always gives the same picture."""
        ...

    def close(self) -> None:
        """Releases what drawing needed; may be called twice."""
        ...


@runtime_checkable
class DrawableWorld(World, Protocol):
    """A world that can be drawn."""

    frames_per_second: float
    """Control steps in a second of the world's own time."""

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n configuration"]:
        """A copy of all that a picture of each slot depends on (a body's qpos, a point's position)."""
        ...

    def make_renderer(self, width: int, height: int) -> Renderer:
        """Raises NacreError: the machine cannot draw."""
        ...


def check_drawable(family: TaskFamily, world: World) -> DrawableWorld:
    """The same world.

    Raises:
        NacreError: it cannot be drawn.
    """
    if not isinstance(world, DrawableWorld):
        raise NacreError(
            f"The family {family.name} cannot be drawn: its world has no frames_per_second, configurations and "
            "make_renderer."
        )
    return world


def signs_of(family: TaskFamily, task: Float64[np.ndarray, " parameters"]) -> Signs:
    """The goal or direction of a task, in a family whose task parameters are named so."""
    values = dict(zip(family.task_parameters, task, strict=True))

    def vector(name: str) -> np.ndarray | None:
        names = f"{name}_x", f"{name}_y"
        return np.array([values[name] for name in names]) if set(names) <= set(values) else None

    return Signs(goal=vector("goal"), direction=vector("direction"))


class PointRenderer:
    """A disc on a white square from -1.5 to 1.5 along both axes; a point outside is drawn at the border."""

    VIEW = 1.5
    POINT_RADIUS = 0.06
    _SUPERSAMPLING = 4

    def __init__(self, width: int, height: int, goal_radius: float) -> None:
        self._size = width, height
        self._goal_radius = goal_radius

    def draw(self, configuration: Float64[np.ndarray, " 2"], signs: Signs = NO_SIGNS) -> Picture:
        from PIL import Image, ImageDraw

        width, height = self._size
        canvas = Image.new("RGB", (self._SUPERSAMPLING * width, self._SUPERSAMPLING * height), "white")
        pen = ImageDraw.Draw(canvas)
        scale = min(canvas.size) / (2 * self.VIEW)

        def disc(centre: np.ndarray, radius: float, colour: tuple[float, ...]) -> None:
            x = canvas.width / 2 + scale * centre[0]
            y = canvas.height / 2 - scale * centre[1]
            fill = tuple(round(255 * share) for share in colour)
            pen.ellipse((x - scale * radius, y - scale * radius, x + scale * radius, y + scale * radius), fill=fill)

        if signs.goal is not None:
            disc(signs.goal, self._goal_radius, GOAL_COLOUR)
        disc(configuration.clip(-self.VIEW, self.VIEW), self.POINT_RADIUS, BODY_COLOUR)
        return np.array(canvas.resize(self._size, Image.Resampling.BOX))

    def close(self) -> None:
        pass


class MujocoRenderer:
    """A model seen from the side by a camera that goes along with its first body, without shadows and reflections.

    (MuJoCo's own tracking camera follows smoothly: its pictures would depend on those before.)
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        """Raises NacreError: there is no OpenGL that draws off screen."""
        import mujoco

        visual = model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        visual.quality.offsamples = 4
        self._model, self._data = model, mujoco.MjData(model)
        self._renderer = _offscreen_renderer(model, width, height)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        self._camera = mujoco.MjvCamera()
        self._camera.azimuth, self._camera.elevation, self._camera.distance = 90.0, -20.0, 3.5
        self._camera.lookat[2] = 0.5

    def draw(self, configuration: Float64[np.ndarray, " configuration"], signs: Signs = NO_SIGNS) -> Picture:
        import mujoco

        self._data.qpos[:] = configuration
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        self._camera.lookat[:2] = self._data.xpos[1, :2]
        self._renderer.update_scene(self._data, self._camera)
        if signs.goal is not None:
            self._add(mujoco.mjtGeom.mjGEOM_CYLINDER, np.array([*signs.goal, 0.0]), np.array([0.25, 0.01, 0.0]))
        if signs.direction is not None:
            self._add_arrow(signs.direction)
        return self._renderer.render()

    def close(self) -> None:
        self._renderer.close()

    def _add(self, kind: Any, position: np.ndarray, size: np.ndarray) -> Any:
        import mujoco

        scene = self._renderer.scene
        geom = scene.geoms[scene.ngeom]
        colour = np.array([*GOAL_COLOUR, 1.0], np.float32)
        mujoco.mjv_initGeom(geom, kind, size, position, np.eye(3).reshape(-1), colour)
        scene.ngeom += 1
        return geom

    def _add_arrow(self, direction: np.ndarray) -> None:
        """An arrow of one metre on the floor, from below the body that the camera follows."""
        import mujoco

        start = self._data.xpos[1] * [1.0, 1.0, 0.0] + [0.0, 0.0, 0.02]
        end = start + np.array([*direction, 0.0])
        arrow = mujoco.mjtGeom.mjGEOM_ARROW
        geom = self._add(arrow, start, np.zeros(3))
        mujoco.mjv_connector(geom, arrow, 0.04, start, end)


def _offscreen_renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    """MuJoCo's renderer with the OpenGL platform that MUJOCO_GL names; on Linux with EGL where it names none.

    EGL needs no display, and MuJoCo's own default, GLFW, does. The choice is made here and not before MuJoCo is
    imported, as it would then fail to import on a machine that has no EGL and only wants to train.
    """
    import mujoco
    from mujoco import gl_context

    try:
        if platform.system() == "Linux" and not os.environ.get("MUJOCO_GL"):
            from mujoco.egl import GLContext

            gl_context.GLContext = GLContext  # pyright: ignore[reportAttributeAccessIssue]
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # of PyOpenGL, EGL, MuJoCo and ctypes, with no base class in common
        raise NacreError(
            f"Nothing can be drawn, as OpenGL does not work here ({type(error).__name__}: {error}). Without a GPU, "
            "Mesa draws: on Debian and Ubuntu, apt install libegl1 libgl1 libgl1-mesa-dri; see the page on videos."
        ) from error
