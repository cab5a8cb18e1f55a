"""Pictures of models that have cameras and marks of the task, and look different from task to task."""

from __future__ import annotations

import copy
from collections.abc import Callable

import mujoco
import numpy as np
from jaxtyping import Float64

from nacre.tasks.mujoco_rendering import MujocoRenderer
from nacre.tasks.rendering import NO_SIGNS, OWN_VIEW, Picture, Signs

MARKS = 3
"""The group of geoms that are drawn only if signs of the task should be seen."""


class SceneRenderer(MujocoRenderer):
    """A model through one of its cameras. A configuration is its positions, and then the task."""

    def __init__(
        self,
        model: mujoco.MjModel,
        width: int,
        height: int,
        view: str,
        set_task: Callable[[mujoco.MjModel, mujoco.MjModel, np.ndarray], None] | None,
    ) -> None:
        """`view` names the camera that videos are seen by; `set_task` is that of :class:`MujocoBody`.

        Raises:
            NacreError: there is no OpenGL that draws off screen.
        """
        super().__init__(model, width, height)
        self._view, self._set_task, self._original = view, set_task, copy.copy(model)
        self._option = mujoco.MjvOption()

    def draw(
        self, configuration: Float64[np.ndarray, " configuration"], signs: Signs = NO_SIGNS, camera: str = OWN_VIEW
    ) -> Picture:
        positions, task = np.split(configuration, [self._model.nq])
        if self._set_task is not None:
            self._set_task(self._model, self._original, task)
        self._place(positions)
        self._option.geomgroup[MARKS] = signs.marks
        self._look(self._view if camera == OWN_VIEW else camera, self._option)
        return self._renderer.render()
