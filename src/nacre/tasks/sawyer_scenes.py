"""What a Sawyer arm whose joints are moved one by one stands in front of, as MuJoCo specifications (spec meld 4.2 to
4.5).

Each scene is built twice: to be stepped, without what is only seen, and to be drawn, with meshes and textures of the
package metaworld. Both have the same joints. A body called "goal" is drawn only if the task should be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from nacre.tasks.mujoco import DrawnScene, MujocoBody
from nacre.tasks.sawyer_arm import (
    ANGLE_STEP,
    BOX,
    CAPSULE,
    CYLINDER,
    END_EFFECTOR,
    FRAME_SKIP,
    GOAL_RED,
    HALF,
    SEEN,
    SPHERE,
    UPRIGHT,
    Shape,
    Vector,
    add_arm,
    add_end_effector,
    add_mesh,
    add_servos,
    add_shape,
    add_wrist_camera,
    empty_scene,
    turn,
)
from nacre.tasks.sawyer_joints import (
    BLOCKS,
    BUTTON_GOAL,
    BUTTON_PLACES,
    CUP_SITES,
    MAIN,
    REACHER_SIDE,
    SHELF_GOAL,
    SHELF_SIDE,
    WRIST,
)
from nacre.tasks.scene_rendering import MARKS

GOAL = "goal"
CUP, CUP_BOTTOM, CUP_TOP = "cup", "cup_bottom", "cup_top"

GREEN, BLUE, BLACK = (0.0, 1.0, 0.0, 1.0), (0.3, 0.3, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)
WHITE, LIGHT_GREY, DARK_GREY = (1.0, 1.0, 1.0, 1.0), (0.67, 0.67, 0.67, 1.0), (0.25, 0.25, 0.25, 1.0)
LIGHT_WOOD = (0.87, 0.72, 0.53, 1.0)
ROUGH = (2.0, 0.1, 0.002)
PEG = Shape(BOX, (0.015, 0.015, 0.03), (0.0, 0.0, 0.0))
"""What the arm ends in, for reaching and for insertion."""
TABLE_HALF = 0.4
"""Half the width of a table."""
LAMP: Vector = (1.0, 1.0, 4.0)


def reacher_scene(assets: Path | None = None) -> mujoco.MjSpec:
    """The arm alone."""
    spec = empty_scene(LAMP, 0.8)
    add_end_effector(add_arm(spec, assets=assets), PEG, GREEN)
    add_servos(spec)
    _add_camera(spec, MAIN, (-0.7, 0.0, 1.7), (0.65, 0.0, -1.571))
    _add_camera(spec, REACHER_SIDE, (0.5, -2.4, 0.4), (1.5, 0.0, 0.0))
    _add_goal(spec)
    return spec


BLOCK = (
    Shape(BOX, (0.02, 0.025, 0.03), (0.0, -0.045, 0.03)),
    Shape(BOX, (0.02, 0.025, 0.03), (0.0, 0.045, 0.03)),
    Shape(BOX, (0.025, 0.07, 0.03), (-0.045, 0.0, 0.03)),
    Shape(BOX, (0.025, 0.07, 0.03), (0.045, 0.0, 0.03)),
)
"""Around a square hole 4 cm wide."""


def peg_scene(assets: Path | None = None) -> mujoco.MjSpec:
    """A table with four blocks that look alike, each with a hole. The goal is drawn as a red block."""
    spec = empty_scene(LAMP, 0.8)
    wrist = add_arm(spec, assets=assets)
    add_end_effector(wrist, PEG, GREEN)
    add_wrist_camera(wrist, WRIST)
    add_servos(spec)
    _add_camera(spec, MAIN, (0.15, -0.075, 0.8), (0.45, 0.0, -1.571))
    _add_table(spec, (0.6, 0.0, 0.0), assets)
    for number in range(BLOCKS):
        block = spec.worldbody.add_body(name=f"block{number}")
        for shape in BLOCK:
            add_shape(block, shape, BLUE)
    goal = spec.worldbody.add_body(name=GOAL)
    for shape in BLOCK:
        _add_mark(goal, shape.kind, [1.002 * half for half in shape.size], shape.position)  # hides the blue one
    return spec


BUTTON_COLOURS = ((1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0))
PANEL_HEIGHT, BUTTON_HEIGHT = -0.15, 0.1
"""Of the panel's frame in the world, and of buttons in that frame."""


def buttons_scene(assets: Path | None = None) -> mujoco.MjSpec:
    """A panel with three buttons, which do not move."""
    spec = empty_scene(LAMP, 0.8)
    wrist = add_arm(spec, (0.0, -0.1, 0.05), assets=assets)
    add_end_effector(wrist, Shape(CAPSULE, (0.02, 0.015), (0.0, 0.0, 0.0)), BLACK)
    add_wrist_camera(wrist, WRIST)
    add_servos(spec)
    _add_camera(spec, MAIN, (0.7, -0.9, 0.5), (1.2, 0.0, 0.0))
    _add_table(spec, (0.7, 0.0, -0.1), assets)
    panel = spec.worldbody.add_body(name="panel", pos=[0.75, 0.0, PANEL_HEIGHT])
    add_shape(panel, Shape(BOX, (0.08, 0.2, 0.05), (0.0, 0.0, 0.05)), DARK_GREY)
    for y, colour in zip(BUTTON_PLACES, BUTTON_COLOURS, strict=True):
        add_shape(panel, Shape(CYLINDER, (0.04, 0.005), (0.0, y, BUTTON_HEIGHT)), LIGHT_GREY)
        add_shape(panel, Shape(CYLINDER, (0.025, 0.005), (0.0, y, BUTTON_HEIGHT + 0.01)), colour)
    _add_goal(spec)
    return spec


SHELF: Vector = (0.0, 1.05, 0.001)
TORQUE = 3.0
"""Of a full action, in every joint."""
FINGERS = ("finger_right", "finger_left")
CUP_START: Vector = (-0.125, 0.7, 0.0)
CUP_HEIGHT, CUP_BOTTOM_RADIUS, CUP_TOP_RADIUS = 0.087, 0.032, 0.04
DECORATION: tuple[tuple[Shape, Vector], ...] = (
    *((Shape(CYLINDER, (0.08, 0.006), (0.42, 0.0, 0.043 + 0.014 * n)), (0.67, 0.67, 0.67)) for n in range(5)),  # plates
    *(
        (Shape(CYLINDER, (0.028, 0.035), (-0.5 + 0.09 * n, 0.08, 0.242)), (0.45, 0.65, 1.0)) for n in range(5)
    ),  # small cups
    (Shape(CYLINDER, (0.09, 0.03), (0.0, 0.03, 0.067)), (1.0, 0.38, 0.32)),  # bowls
    (Shape(CYLINDER, (0.09, 0.03), (-0.24, 0.03, 0.067)), (0.59, 0.83, 0.37)),
    (Shape(CYLINDER, (0.033, 0.06), (0.37, 0.05, 0.267)), (1.0, 0.38, 0.32)),  # cans
    (Shape(CYLINDER, (0.033, 0.06), (0.45, 0.05, 0.267)), (1.0, 0.98, 0.58)),
    (Shape(BOX, (0.05, 0.03, 0.09), (-0.47, 0.05, 0.127)), (1.0, 0.98, 0.58)),  # boxes
    (Shape(BOX, (0.04, 0.03, 0.11), (0.23, 0.1, 0.317)), (0.45, 0.65, 1.0)),
    (Shape(CYLINDER, (0.035, 0.12), (0.53, 0.08, 0.327)), (0.59, 0.83, 0.37)),  # bottles
    (Shape(CYLINDER, (0.035, 0.12), (-0.02, 0.12, 0.327)), (1.0, 1.0, 1.0)),
)
"""What stands on the shelf, in its frame."""


def shelf_scene(assets: Path | None = None) -> mujoco.MjSpec:
    """A cup between two fingers, on a table before a shelf that is full of other things."""
    spec = empty_scene((0.0, -1.0, 3.0), 0.5)
    _add_gripper(spec, add_arm(spec, turned=1.57, assets=assets), assets)
    for joint in (*(f"j{number}" for number in range(7)), *FINGERS):
        spec.add_actuator(
            name=f"motor_{joint}",
            target=joint,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True,
            ctrlrange=[-TORQUE, TORQUE],
            forcelimited=False,
        )
    _add_camera(spec, MAIN, (0.0, -0.4, 1.3), (0.85, 0.0, 0.0))
    _add_camera(spec, SHELF_SIDE, (1.4, 0.4, 0.6), (1.3, 0.0, 1.57))
    add_shape(spec.worldbody, Shape(BOX, (1.0, 0.5, 0.05), (0.0, 0.9, -0.05)), WHITE)
    add_shape(spec.worldbody, Shape(BOX, (1.5, 0.01, 1.0), (0.0, 1.31, 0.5)), LIGHT_GREY)
    _add_shelf(spec, assets)
    _add_cup(spec)
    _add_goal(spec)
    return spec


def _add_shelf(spec: mujoco.MjSpec, assets: Path | None) -> None:
    shelf = spec.worldbody.add_body(name="shelf", pos=SHELF)
    boards = [
        *(Shape(BOX, (0.6, 0.2, 0.007), (0.0, 0.0, height)) for height in (0.03, 0.2)),
        Shape(BOX, (0.61, 0.2, 0.007), (0.0, 0.0, 0.6)),
        *(Shape(BOX, (0.005, 0.2, 0.3), (x, 0.0, 0.3)) for x in (-0.6, -0.575, 0.575, 0.6)),
    ]
    for board in boards:
        _in_wood(spec, add_shape(shelf, board, LIGHT_WOOD), assets)
    for shape, colour in DECORATION:
        add_shape(shelf, shape, (*colour, 1.0))


def _add_gripper(spec: mujoco.MjSpec, last_link: Any, assets: Path | None) -> None:
    """A hand with two fingers that slide. The margins of their limits, of 1 cm, press them onto the cup: an agent need
    not hold it."""
    base = last_link.add_body(name="hand_base", pos=[0.0, 0.0, 0.0245], quat=[HALF, 0.0, 0.0, HALF])
    add_shape(base, Shape(CYLINDER, (0.035, 0.014), (0.0, 0.0, 0.015)), BLACK)
    add_mesh(spec, base, "eGripperBase", assets, (0.0, 0.0, 0.03))
    hand = base.add_body(name="hand", pos=[0.0, 0.0, 0.12], quat=[HALF, 0.0, -HALF, 0.0])
    add_shape(hand, Shape(BOX, (0.005, 0.055, 0.005), (-0.05, 0.0, 0.0)), LIGHT_GREY, density=7850.0, friction=ROUGH)
    for name, side, limits in ((FINGERS[0], -1.0, (0.0, 0.04)), (FINGERS[1], 1.0, (-0.03, 0.0))):
        finger = hand.add_body(name=name, pos=[0.0, side * 0.05, 0.0])
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0.0, 1.0, 0.0],
            limited=True,
            range=limits,
            armature=100.0,
            damping=1000.0,
        )
        add_shape(finger, Shape(BOX, (0.045, 0.003, 0.015), (0.0, 0.0, 0.0)), WHITE)
        pad = Shape(BOX, (0.045, 0.003, 0.015), (0.0, -side * 0.003, 0.0))
        add_shape(finger, pad, WHITE, friction=ROUGH, condim=4)


def _add_cup(spec: mujoco.MjSpec) -> None:
    """A cup that is wider above, 8 cm and with its handle 10 cm wide, and 8.7 cm high. It collides as if it were
    full. Its origin is the middle of its bottom."""
    cup = spec.worldbody.add_body(
        name=CUP, pos=CUP_START, explicitinertial=True, mass=10.0, ipos=[0.0, 0.0, CUP_HEIGHT / 2], inertia=[0.1] * 3
    )
    cup.add_joint(name=CUP, type=mujoco.mjtJoint.mjJNT_FREE, damping=0.0, armature=0.0, frictionloss=0.0)
    rings = [
        (radius * np.cos(angle), radius * np.sin(angle), height)
        for radius, height in ((CUP_BOTTOM_RADIUS, 0.0), (CUP_TOP_RADIUS, CUP_HEIGHT))
        for angle in np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    ]
    spec.add_mesh(name=CUP, uservert=np.array(rings).ravel())
    friction = [0.1, 0.005, 0.0001]
    # The frame of a mesh's geom is that of the file, whatever MuJoCo makes of it inside.
    cup.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=CUP, rgba=list(WHITE), friction=friction, group=SEEN)
    for height in (0.025, 0.065):
        add_shape(cup, Shape(BOX, (0.006, 0.012, 0.006), (0.0, 0.044, height)), WHITE, friction=friction)
    add_shape(cup, Shape(BOX, (0.006, 0.004, 0.026), (0.0, 0.056, 0.045)), WHITE, friction=friction)
    inside = add_shape(cup, Shape(CYLINDER, (0.034, 0.0005), (0.0, 0.0, CUP_HEIGHT)), DARK_GREY)
    inside.contype = inside.conaffinity = 0
    cup.add_site(name=CUP_BOTTOM, group=MARKS)
    cup.add_site(name=CUP_TOP, pos=[0.0, 0.0, CUP_SITES], group=MARKS)


def _add_camera(spec: mujoco.MjSpec, name: str, position: Vector, angles: Vector) -> None:
    spec.worldbody.add_camera(name=name, pos=position, quat=turn(angles))


def _add_table(spec: mujoco.MjSpec, middle: Vector, assets: Path | None) -> None:
    """A square that is seen, on a plane without an end that things bump into."""
    table = spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[TABLE_HALF, TABLE_HALF, 0.5],
        pos=middle,
        rgba=list(LIGHT_WOOD),
        friction=ROUGH,
        group=SEEN,
    )
    _in_wood(spec, table, assets)


def _in_wood(spec: mujoco.MjSpec, geom: Any, assets: Path | None) -> None:
    if assets is None:
        return
    name = "light_wood"
    if name not in {material.name for material in spec.materials}:
        spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, file=str(assets / "textures" / f"{name}.png"))
        material = spec.add_material(name=name, texuniform=True)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    geom.material, geom.rgba = name, list(WHITE)


def _add_goal(spec: mujoco.MjSpec) -> None:
    _add_mark(spec.worldbody.add_body(name=GOAL), SPHERE, [0.01, 0.0, 0.0], (0.0, 0.0, 0.0))


def _add_mark(body: Any, kind: mujoco.mjtGeom, size: list[float], position: Vector) -> None:
    body.add_geom(type=kind, size=size, pos=position, rgba=list(GOAL_RED), group=MARKS, contype=0, conaffinity=0)


def _set_reacher(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    model.body(GOAL).pos[:] = task


def _set_peg(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    places = task[1:].reshape(BLOCKS, 2)
    for number, place in enumerate(places):
        model.body(f"block{number}").pos[:2] = place
    model.body(GOAL).pos[:2] = places[int(task[0])]


def _set_buttons(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    model.body("panel").pos[0] = task[1]
    model.body(GOAL).pos[:] = task[1], BUTTON_PLACES[int(task[0])], BUTTON_GOAL


def _set_shelf(model: mujoco.MjModel, original: mujoco.MjModel, task: np.ndarray) -> None:
    model.body(CUP).mass[:] = task[0]
    model.body(GOAL).pos[:] = task[1], *SHELF_GOAL


def _pull(data: mujoco.MjData, action: np.ndarray) -> None:
    """Pulls each joint to an angle that is up to `ANGLE_STEP` away."""
    data.ctrl[:] = data.qpos + ANGLE_STEP * action


def _push(data: mujoco.MjData, action: np.ndarray) -> None:
    data.ctrl[:] = TORQUE * action


def _see_arm(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos, data.qvel, data.site(END_EFFECTOR).xpos]


def _end_effector(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.site(END_EFFECTOR).xpos]


def _see_arm_and_fingers(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.qpos[:9], data.qvel[:9]]


def _cup(data: mujoco.MjData) -> list[np.ndarray]:
    return [data.site(CUP_BOTTOM).xpos, data.site(CUP_TOP).xpos]


@dataclass(frozen=True)
class Scene:
    """What a world needs to know of one of these."""

    build: Callable[[Path | None], mujoco.MjSpec]
    """Given the folder of meshes and textures, what is drawn; without, what is stepped."""
    set_task: Callable[[mujoco.MjModel, mujoco.MjModel, np.ndarray], None]
    start: tuple[float, ...]
    """All positions with which an episode begins."""
    control: Callable[[mujoco.MjData, np.ndarray], None] = _pull
    observe: Callable[[mujoco.MjData], list[np.ndarray]] = _see_arm
    reward_state: Callable[[mujoco.MjData], list[np.ndarray]] = _end_effector

    def body(self, find_assets: Callable[[], Path]) -> MujocoBody:
        """`find_assets` is called when something is drawn."""
        return MujocoBody(
            lambda: self.build(None),
            FRAME_SKIP,
            self._begin,
            self.observe,
            self.reward_state,
            set_task=self.set_task,
            control=self.control,
            scene=DrawnScene(lambda: self.build(find_assets()), MAIN),
        )

    def _begin(self, model: mujoco.MjModel, data: mujoco.MjData, generator: np.random.Generator) -> None:
        data.qpos[:] = self.start


SCENES = {
    "reacher": Scene(
        reacher_scene,
        _set_reacher,
        (-1.44397e-6, -0.832489, 0.0299997, 1.68, 0.0580013, -0.232, -2.16526e-7),
    ),
    "peg": Scene(peg_scene, _set_peg, (-0.305, -0.83, 0.06086, 1.70464, -0.02976, 0.62496, -0.04712)),
    "buttons": Scene(buttons_scene, _set_buttons, (-0.065, -0.6675, 0.0, 1.35, 0.0, 0.625, 0.0)),
    "shelf": Scene(
        shelf_scene,
        _set_shelf,
        (
            *(-0.029997, -0.56, 0.03, 2.10036, 0.11904, -1.16064, -1.46072),
            *(0.0092, -0.00705),
            *(*CUP_START, *UPRIGHT),
        ),
        _push,
        _see_arm_and_fingers,
        _cup,
    ),
}
