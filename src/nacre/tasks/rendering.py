"""Pictures of worlds, drawn off screen. Points in the plane are drawn here, MuJoCo's bodies in `mujoco_rendering`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int, Real, UInt8

from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily, World

Picture = UInt8[np.ndarray, "height width 3"]

GOAL_COLOUR = (0.15, 0.65, 0.3)
BODY_COLOUR = (0.85, 0.33, 0.1)


class Signs(NamedTuple):
    """What a picture may show of a task beside the world itself, each in the plane and in metres."""

    goal: Float64[np.ndarray, " 2"] | None = None
    direction: Float64[np.ndarray, " 2"] | None = None
    marks: bool = False
    """Whether marks of the task that the world itself has, if any, are shown."""


NO_SIGNS = Signs()
OWN_VIEW = "own"
"""What the view of videos is called, among the cameras of a model."""


@runtime_checkable
class Renderer(Protocol):
    """Draws a world of one kind in one size. It belongs to the thread that made it."""

    def draw(self, configuration: Real[np.ndarray, " configuration"], signs: Signs = NO_SIGNS) -> Picture:
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

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Real[np.ndarray, "n configuration"]:
        """A copy of all that a picture of each slot depends on: a body's qpos, a point's position. Of a world that can
        only draw what is now: the picture, as a row of uint8."""
        ...

    def make_renderer(self, width: int, height: int) -> Renderer:
        """Raises NacreError: the machine cannot draw."""
        ...


@runtime_checkable
class FilmedWorld(DrawableWorld, Protocol):
    """A world with cameras. `draw` of its renderers also takes `camera`, the name of one, or OWN_VIEW, and their
    attribute `zoom` says how many times larger everything is than through it. Renderers of several threads draw at the
    same time, unless they have a true `one_at_a_time`."""

    cameras: tuple[str, ...]


def check_drawable(family: TaskFamily, world: World) -> DrawableWorld:
    """The same world.

    Raises:
        NacreError: it cannot be drawn.
    """
    if not isinstance(world, DrawableWorld):
        reason = getattr(
            family, "why_not_drawn", "its world has no frames_per_second, configurations and make_renderer"
        )
        raise NacreError(f"The family {family.name} cannot be drawn: {reason}.")
    return world


def signs_of(family: TaskFamily, task: Float64[np.ndarray, " parameters"]) -> Signs:
    """What there is to show of a task: its marks in the world, and its goal or direction, in a family whose task
    parameters are named so.

    They are `goal_x` and `goal_y`, `direction_x` and `direction_y`, or `goal` or `direction` alone, which are along x.
    """
    values = dict(zip(family.task_parameters, task, strict=True))
    for alone in {"goal", "direction"} & set(values):
        values |= {f"{alone}_x": values[alone], f"{alone}_y": 0.0}

    def vector(name: str) -> np.ndarray | None:
        names = f"{name}_x", f"{name}_y"
        return np.array([values[name] for name in names]) if set(names) <= set(values) else None

    return Signs(goal=vector("goal"), direction=vector("direction"), marks=True)


class PointRenderer:
    """A disc on a white square from -1.5 to 1.5 along both axes; a point outside is drawn at the border.

    In a small picture the disc is larger than its `POINT_RADIUS`, so that it covers more than a pixel or two: encoders
    do not learn where a dot is.
    """

    VIEW = 1.5
    POINT_RADIUS = 0.06
    _SMALLEST_RADIUS = 1.25
    """In pixels of the picture."""
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
        radius = max(self.POINT_RADIUS, self._SMALLEST_RADIUS * self._SUPERSAMPLING / scale)
        disc(configuration.clip(-self.VIEW, self.VIEW), radius, BODY_COLOUR)
        return np.array(canvas.reduce(self._SUPERSAMPLING))

    def close(self) -> None:
        pass


LARGEST_PICTURE = 480
"""Height and width of a picture that is kept, in pixels, at most."""


def reduced(picture: Picture) -> UInt8[np.ndarray, "smaller_height smaller_width 3"]:
    """The picture, made smaller if it is too large to be kept."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return np.array(image)


class PictureRenderer:
    """For worlds whose configurations are pictures: fits them into a size, on white."""

    def __init__(self, width: int, height: int, shape: Callable[[], tuple[int, ...]]) -> None:
        """`shape` tells the shape of the world's pictures when one is drawn."""
        self._size, self._shape = (width, height), shape

    def draw(self, configuration: UInt8[np.ndarray, " configuration"], signs: Signs = NO_SIGNS) -> Picture:
        from PIL import Image, ImageOps

        picture = Image.fromarray(configuration.reshape(self._shape()))
        return np.array(ImageOps.pad(picture, self._size, color="white"))

    def close(self) -> None:
        pass
