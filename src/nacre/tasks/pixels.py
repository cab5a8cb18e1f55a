"""Families whose observations are pictures: the tasks, physics and rewards of others, seen through a camera.

A picture never shows the task. One picture does not show what moves: agents stack the latest ones
(`PearlConfig.frame_stack`), so that families hand out, and the replay keeps, each picture once.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, UInt8

from nacre.errors import NacreError
from nacre.tasks.checks import shortened
from nacre.tasks.cheetah import CheetahVel
from nacre.tasks.family import ChangingWorld, TaskFamily, World
from nacre.tasks.options import Pixels, pixels
from nacre.tasks.point import PointRobot
from nacre.tasks.rendering import DrawableWorld, Renderer, check_drawable

PICTURE = (64, 64, 3)
"""Height, width and colours."""

Pictures = UInt8[np.ndarray, "n height width 3"]


class PixelWorld:
    """A world whose observations are pictures of its slots, drawn one after another by one renderer.

    Reward states are the world's own, so rewards do not depend on what a picture can show.
    """

    def __init__(self, world: DrawableWorld, height: int, width: int):
        """Raises NacreError: the machine cannot draw."""
        self._world = world
        self._renderer = world.make_renderer(width, height)

    @property
    def frames_per_second(self) -> float:
        return self._world.frames_per_second

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Pictures, Float64[np.ndarray, "n reward_state"]]:
        _, reward_states = self._world.reset(slots, tasks, generators)
        return self._draw(slots), reward_states

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Pictures, Float64[np.ndarray, "n reward_state"]]:
        _, reward_states = self._world.step(slots, actions)
        return self._draw(slots), reward_states

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"]) -> None:
        if not isinstance(self._world, ChangingWorld):
            raise NacreError(f"Tasks change within an episode, and {shortened(self._world)} has no set_tasks.")
        self._world.set_tasks(slots, tasks)

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n configuration"]:
        return self._world.configurations(slots)

    def make_renderer(self, width: int, height: int) -> Renderer:
        return self._world.make_renderer(width, height)

    def close(self) -> None:
        self._renderer.close()
        self._world.close()

    def _draw(self, slots: np.ndarray) -> np.ndarray:
        return np.array([self._renderer.draw(configuration) for configuration in self._world.configurations(slots)])


def seen_by_camera(family: TaskFamily, world: World) -> PixelWorld:
    """`world` with pictures of the family's `observation_size` as observations; see the families below.

    Raises:
        NacreError: the family, or this machine, cannot draw.
    """
    height, width, _ = family.observation_shape
    return PixelWorld(check_drawable(family, world), height, width)


class PointRobotPixels(PointRobot):
    """The plane from above, from -1.5 to 1.5 along both axes, with the point and without the goal."""

    name = "point-robot-pixels"

    def __init__(self, size: Pixels = PICTURE[0]) -> None:
        """`size` is the height and width of a picture."""
        side = pixels(self.name, "size", size)
        self.observation_size = (side, side, PICTURE[2])

    def make_world(self, n_slots: int, threads: int) -> World:
        return seen_by_camera(self, super().make_world(n_slots, threads))


class CheetahVelPixels(CheetahVel):
    """The half-cheetah from the side, by a camera that goes along; the squares of the floor tell its speed."""

    name = "cheetah-vel-pixels"
    observation_size = PICTURE

    def make_world(self, n_slots: int, threads: int) -> World:
        return seen_by_camera(self, super().make_world(n_slots, threads))
