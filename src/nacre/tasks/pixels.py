"""Any family seen through cameras: tasks, physics and rewards stay, and observations are pictures.

A picture never shows the task. One picture does not show what moves: agents stack the latest ones, or filter them, so
that families hand out, and the replay keeps, each picture once.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float64, Int, Real, UInt8

from nacre.errors import NacreError, shown
from nacre.tasks.checks import call, name_of, numbers, shortened
from nacre.tasks.family import ChangingWorld, RememberingWorld, TaskFamily, World
from nacre.tasks.options import Number, PictureSize, Several, is_finite_number, picture_size
from nacre.tasks.rendering import NO_SIGNS, OWN_VIEW, DrawableWorld, FilmedWorld, Renderer, check_drawable

ENDING = "-pixels"
"""What the name of a family that is seen through cameras ends with."""
SIZE = 64
"""Height and width of a picture, if nothing else is asked for."""

Pictures = UInt8[np.ndarray, "n height width 3"]


def _of_the_family() -> Any:
    """A member that is that of the family which is seen."""
    return _OfTheFamily()


class _OfTheFamily:
    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance.family, self._name)


class PixelFamily(TaskFamily):
    """A family with pictures of its world as observations.

    Several cameras give one picture: theirs, one above the other.
    """

    action_size = _of_the_family()
    task_parameters = _of_the_family()
    has_sparse_reward = _of_the_family()
    remembers = _of_the_family()
    most_slots = _of_the_family()
    can_relabel = _of_the_family()
    has_success = _of_the_family()
    success_at = _of_the_family()
    quantity = _of_the_family()
    task_choices = _of_the_family()
    finite_tasks = _of_the_family()
    follows_changes = _of_the_family()
    views = _of_the_family()
    has_published_tasks = _of_the_family()
    kinds = _of_the_family()
    kind_names = _of_the_family()
    kind_of = _of_the_family()
    has_opposites = _of_the_family()
    opposite = _of_the_family()
    has_place = _of_the_family()
    place = _of_the_family()
    repeatable = _of_the_family()
    sample_tasks = _of_the_family()
    split = _of_the_family()
    published_tasks = _of_the_family()
    reward = _of_the_family()
    sparse_reward = _of_the_family()
    success = _of_the_family()
    measured = _of_the_family()
    target = _of_the_family()
    terminated = _of_the_family()
    may_be_cut = _of_the_family()
    cut = _of_the_family()

    def __init__(
        self, family: TaskFamily, camera: Several = None, size: PictureSize = SIZE, zoom: Number = 1.0
    ) -> None:
        """
        Args:
            family: the family that is seen. Its world has to be one that can be drawn.
            camera: the name of a camera of the MuJoCo model, or several names. "own": the view of nacre's videos,
                without the signs that show the task. None: the family's `views`, or "own" if it has none.
            size: height and width of the picture of one camera, in pixels: one number for both, or two.
            zoom: how many times larger everything is than the cameras show it. What is far from the middle of the
                picture is then outside. Only MuJoCo's worlds have one other than 1.

        Raises:
            NacreError: `family` is no family of vectors; an option is impossible.
        """
        self.name = f"{family.name}{ENDING}"
        if not isinstance(family.observation_size, int):
            raise NacreError(f"{family.name} has pictures as observations already; allowed: a family of vectors")
        self.family = family
        self.horizon, self.shift = family.horizon, family.shift
        self.cameras = _names(self.name, (family.views or OWN_VIEW) if camera is None else camera)
        self._height, self._width = picture_size(self.name, "size", size)
        if not is_finite_number(zoom) or not 0.1 <= zoom <= 100:
            raise NacreError(f"zoom of {self.name} is {shown(zoom)}; allowed: a number from 0.1 to 100")
        self._zoom = float(zoom)
        self.observation_size = (self._height * len(self.cameras), self._width, 3)

    def make_world(self, n_slots: int, threads: int) -> World:
        """
        Raises:
            NacreError: the family, or this machine, cannot draw; or the model has no such camera, or none with a zoom.
        """
        family = copy.copy(self.family)
        family.horizon = self.horizon  # which may have been changed since
        world = family.make_world(n_slots, threads)
        try:
            drawable = check_drawable(family, world)
            _check_cameras(self.name, self.cameras, drawable)
            if self._zoom != 1 and not isinstance(drawable, FilmedWorld):
                raise NacreError(f"zoom of {self.name} is {self._zoom:g}; allowed: 1, as it is seen without a camera")
            drawing = min(threads, n_slots * len(self.cameras))
            return PixelWorld(drawable, self.cameras, self._height, self._width, drawing, self._zoom)
        except BaseException:
            world.close()
            raise

    def check_machine(self) -> None:
        if not self.may_be_cut:  # a robot is left alone until it is needed
            self.make_world(1, 1).close()


def _names(family: str, camera: Any) -> tuple[str, ...]:
    names = tuple(camera) if isinstance(camera, tuple | list) else (camera,)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise NacreError(f"camera of {family} is {shown(camera)}; allowed: the name of a camera, or several, each once")
    return names


def _check_cameras(family: str, names: tuple[str, ...], world: DrawableWorld) -> None:
    known = (OWN_VIEW, *(world.cameras if isinstance(world, FilmedWorld) else ()))
    for name in names:
        if name not in known:
            raise NacreError(f"camera of {family} is {name!r}; allowed: {', '.join(map(repr, known))}")


class PixelWorld:
    """A world whose observations are pictures of its slots.

    Reward states are the world's own, so rewards do not depend on what a picture can show.
    """

    def __init__(
        self,
        world: DrawableWorld,
        cameras: tuple[str, ...],
        height: int,
        width: int,
        threads: int = 1,
        zoom: float = 1.0,
    ) -> None:
        """
        Args:
            world: what is seen.
            cameras: whose pictures stand one above the other; "own" alone, unless it is a FilmedWorld.
            height, width: of the picture of one camera.
            threads: how many draw, the calling one included, if it is a FilmedWorld whose renderers draw at the same
                time.
            zoom: as in :class:`PixelFamily`; 1 unless it is a FilmedWorld.

        Raises:
            NacreError: the machine cannot draw.
        """
        self._world, self._cameras, self._zoom = world, cameras, zoom
        self._shape = (height, width, 3)
        self._renderer = self._make_renderer()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._helpers: list[threading.Thread] = []
        try:
            together = isinstance(world, FilmedWorld) and not getattr(self._renderer, "one_at_a_time", False)
            for _ in range(threads - 1 if together else 0):
                self._add_helper()
        except BaseException:
            self._close_drawing()
            raise

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

    def state_dict(self) -> Any:
        """What the world remembers across episodes; None if it does not say."""
        return self._world.state_dict() if isinstance(self._world, RememberingWorld) else None

    def load_state_dict(self, state: Any) -> None:
        if state is not None and isinstance(self._world, RememberingWorld):
            self._world.load_state_dict(state)

    def configurations(self, slots: Int[np.ndarray, " n"]) -> Real[np.ndarray, "n configuration"]:
        return self._world.configurations(slots)

    def make_renderer(self, width: int, height: int) -> Renderer:
        return self._world.make_renderer(width, height)

    def close(self) -> None:
        self._close_drawing()
        self._world.close()

    def _make_renderer(self) -> Renderer:
        height, width, _ = self._shape
        renderer = self._world.make_renderer(width, height)
        if self._zoom != 1:
            cast(Any, renderer).zoom = self._zoom  # that of a FilmedWorld has one
        return renderer

    def _draw(self, slots: np.ndarray) -> np.ndarray:
        """The pictures of slots. A picture does not depend on which thread draws it."""
        height, width, colours = self._shape
        pictures = np.empty((len(slots), len(self._cameras), height, width, colours), np.uint8)
        configurations = self._world.configurations(slots)
        places = [(row, column) for row in range(len(slots)) for column in range(len(self._cameras))]
        job = _Job(iter(places), configurations, pictures, SimpleQueue())
        helpers = min(len(self._helpers), len(places) - 1)
        for _ in range(helpers):
            self._jobs.put(job)
        try:
            self._paint(self._renderer, job)
        finally:
            errors = [job.done.get() for _ in range(helpers)]  # also when interrupted, as in MujocoWorld.step
        for error in errors:
            if error is not None:
                raise error
        return pictures.reshape(len(slots), -1, width, colours)

    def _paint(self, renderer: Renderer, job: _Job) -> None:
        for row, column in job.places:
            picture = self._picture(renderer, job.configurations[row], self._cameras[column])
            job.pictures[row, column] = picture

    def _picture(self, renderer: Any, configuration: np.ndarray, camera: str) -> np.ndarray:
        draw = renderer.draw
        seen_by = () if camera == OWN_VIEW else (NO_SIGNS, camera)
        picture = numbers(draw, "a picture", call(draw, configuration, *seen_by), *self._shape)
        if picture.dtype != np.uint8:
            raise NacreError(f"{name_of(draw)} returned a picture of {picture.dtype}; allowed: uint8.")
        return picture

    def _add_helper(self) -> None:
        """Starts a thread that draws with a renderer of its own, as a renderer belongs to the thread that made it."""
        begun: SimpleQueue[Exception | None] = SimpleQueue()
        helper = threading.Thread(target=self._help, args=(begun,), name="nacre-pictures", daemon=True)
        helper.start()
        error = begun.get()
        if error is not None:
            raise error
        self._helpers.append(helper)

    def _help(self, begun: SimpleQueue[Exception | None]) -> None:
        try:
            renderer = self._make_renderer()
        except Exception as error:
            begun.put(error)
            return
        begun.put(None)
        with contextlib.closing(renderer):
            while (job := self._jobs.get()) is not None:
                error = None
                try:
                    self._paint(renderer, job)
                except Exception as raised:
                    error = raised
                job.done.put(error)

    def _close_drawing(self) -> None:
        for _ in self._helpers:
            self._jobs.put(None)
        for helper in self._helpers:
            helper.join()
        self._helpers = []
        self._renderer.close()


class _Job(NamedTuple):
    """Pictures of one control step, to be shared by the threads that are given it."""

    places: Iterator[tuple[int, int]]
    """Row of the configurations and index of the camera of each picture."""
    configurations: np.ndarray
    pictures: np.ndarray
    """(slots, cameras, height, width, 3), to be filled."""
    done: SimpleQueue[Exception | None]
    """Receives one entry from each helper that has found nothing left: what went wrong there, or None."""
