"""A Sawyer arm whose joints are moved one by one, as a MuJoCo specification (spec meld 4.1).

Its physics are numbers. Only pictures need the meshes and textures that come with the package metaworld.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from nacre.tasks.scene_rendering import MARKS

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

JOINTS = 7
TIMESTEP, FRAME_SKIP = 0.0025, 100
"""Seconds of a physics step, and how many of them an action takes: 0.25 s."""
ANGLE_STEP = 0.04
"""How far a full action moves the angle that a joint is pulled to, in radians."""
STIFFNESS = 50.0
END_EFFECTOR = "end_effector"
"""Name of the site whose place rewards are about: 3 cm beyond the frame of the end effector."""
SEEN = 1
"""The group of geoms that are drawn."""

UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)
RED, GREY = (0.5, 0.1, 0.1, 1.0), (0.2, 0.2, 0.2, 1.0)
GOAL_RED = (1.0, 0.0, 0.0, 1.0)
NOTHING = (0.0, 0.0, 0.0, 0.0)

BOX, SPHERE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE
CYLINDER, CAPSULE = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE


@dataclass(frozen=True)
class Shape:
    """A primitive, which others can bump into."""

    kind: mujoco.mjtGeom
    size: tuple[float, ...]
    """Radius; radius and half length; half lengths."""
    position: Vector


@dataclass(frozen=True)
class Link:
    """A body of the arm. It hangs on the one before it in the table."""

    name: str
    position: Vector
    quaternion: Quaternion
    limits: tuple[float, float]
    """Of the joint's angle, in radians."""
    controls: tuple[float, float]
    """Of the angle that the joint's servo is told."""
    mass: float
    centre: Vector
    axes: Quaternion
    inertia: Vector
    """About the principal axes, which `axes` turns."""
    shapes: tuple[Shape, ...]


HALF = 0.7071067811865476  # of a right angle, in a quaternion
LINKS = (
    Link(
        "l0", (0.0, 0.0, 0.08), UPRIGHT, (-3.0503, 3.0503), (-3.0, 3.0),
        5.3213, (0.024366, 0.010969, 0.14363), (0.894823, 0.00899958, -0.170275, 0.412573),
        (0.0651588, 0.0510944, 0.0186218), (Shape(SPHERE, (0.07,), (0.08, 0.0, 0.23)),),
    ),
    Link(
        "l1", (0.081, 0.05, 0.237), (0.5, -0.5, 0.5, 0.5), (-3.8, 2.2), (-3.5, 2.0),
        4.505, (-0.0030849, -0.026811, 0.092521), (0.424888, 0.891987, 0.132364, -0.0794296),
        (0.0224339, 0.0221624, 0.0097097),
        (Shape(SPHERE, (0.07,), (0.0, 0.0, 0.1225)), Shape(CYLINDER, (0.07, 0.07), (0.0, 0.0, 0.035))),
    ),
    Link(
        "l2", (0.0, -0.14, 0.1425), (HALF, HALF, 0.0, 0.0), (-3.0426, 3.0426), (-3.0, 3.0),
        1.745, (-0.00016044, -0.014967, 0.13582), (0.707831, -0.0524761, 0.0516007, 0.702537),
        (0.0257928, 0.025506, 0.00292515), (Shape(CYLINDER, (0.06, 0.17), (0.0, 0.0, 0.08)),),
    ),
    Link(
        "l3", (0.0, -0.042, 0.26), (HALF, -HALF, 0.0, 0.0), (-3.0439, 3.0439), (-3.0, 3.0),
        2.5097, (-0.0048135, -0.0281, -0.084154), (0.902999, 0.385391, -0.0880901, 0.168247),
        (0.0102404, 0.0096997, 0.00369622), (Shape(SPHERE, (0.06,), (0.0, -0.01, -0.12)),),
    ),
    Link(
        "l4", (0.0, -0.125, -0.1265), (HALF, HALF, 0.0, 0.0), (-2.9761, 2.9761), (-2.9, 2.9),
        1.1136, (-0.0018844, 0.0069001, 0.1341), (0.803612, 0.031257, -0.0298334, 0.593582),
        (0.0136549, 0.0135493, 0.00127353), (Shape(CYLINDER, (0.045, 0.15), (0.0, 0.0, 0.11)),),
    ),
    Link(
        "l5", (0.0, 0.031, 0.275), (HALF, -HALF, 0.0, 0.0), (-2.9761, 2.9761), (-2.9, 2.9),
        1.5625, (0.0061133, -0.023697, 0.076416), (0.404076, 0.9135, 0.0473125, 0.00158335),
        (0.00474131, 0.00422857, 0.00190672), (Shape(SPHERE, (0.06,), (0.0, 0.0, 0.1)),),
    ),
    Link(
        "l6", (0.0, -0.11, 0.1053), (0.0616248, 0.06163, -0.704416, 0.704416), (-4.7124, 4.7124), (-4.7, 4.7),
        0.3292, (-8.0726e-06, 0.0085838, -0.0049566), (0.479044, 0.515636, -0.513069, 0.491322),
        (0.000360258, 0.000311068, 0.000214974), (Shape(CYLINDER, (0.055, 0.025), (0.0, 0.015, -0.01)),),
    ),
)  # fmt: skip
"""Masses and inertias are those of the maker's public description of the robot."""


def turn(angles: Vector) -> np.ndarray:
    """The quaternion of turns about the fixed axes x, y and z, in this order."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.array(angles), "XYZ")
    return quaternion


def empty_scene(light: Vector, diffuse: float) -> mujoco.MjSpec:
    """A grey nothing without gravity, with one light. Angles are in radians."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    option = spec.option
    option.timestep, option.gravity = TIMESTEP, [0.0, 0.0, 0.0]
    option.solver, option.iterations, option.tolerance = mujoco.mjtSolver.mjSOL_NEWTON, 50, 1e-10
    option.jacobian, option.cone = mujoco.mjtJacobian.mjJAC_DENSE, mujoco.mjtCone.mjCONE_ELLIPTIC
    joint, geom = spec.default.joint, spec.default.geom
    joint.damping, joint.frictionloss, joint.armature, joint.margin = 10.0, 0.001, 0.1, 0.01
    geom.solref, geom.solimp = [0.02, 1.0], [1.0, 1.0, 0.0, 0.5, 2.0]
    spec.visual.headlight.ambient = [0.5, 0.5, 0.5]
    grey = [0.50, 0.495, 0.48]
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        rgb1=grey,
        rgb2=grey,
        width=8,
        height=48,
    )
    spec.add_material(name="plain")  # no model without a material has a sky that is not white
    spec.worldbody.add_light(pos=light, diffuse=[diffuse] * 3)
    return spec


def add_arm(
    spec: mujoco.MjSpec, position: Vector = (0.0, 0.0, 0.0), turned: float = 0.0, assets: Path | None = None
) -> Any:
    """Adds the robot and its pedestal.

    Args:
        spec: of the scene.
        position: of the arm's base.
        turned: about the vertical axis, in radians.
        assets: where meshes are; None: the robot has none, and cannot be seen.

    Returns:
        The last link, to put an end effector on.
    """
    base = spec.worldbody.add_body(name="base", pos=position, quat=turn((0.0, 0.0, turned)))
    add_shape(base, Shape(BOX, (0.11, 0.2, 0.265), (-0.325, 0.0, -0.38)), GREY)
    feet = add_shape(base, Shape(BOX, (0.385, 0.35, 0.155), (-0.1225, 0.0, -0.758)), GREY)
    feet.contype = feet.conaffinity = 0
    add_shape(base, Shape(CYLINDER, (0.18, 0.31), (-0.02, 0.0, -0.29)))
    add_shape(base, Shape(CYLINDER, (0.08, 0.12), (0.0, 0.0, 0.12)))
    add_mesh(spec, base, "base", assets)
    add_mesh(spec, base, "pedestal", assets, (0.26, 0.345, -0.91488), (0.5, 0.5, -0.5, -0.5), GREY)
    body = base
    for number, link in enumerate(LINKS):
        body = body.add_body(
            name=link.name,
            pos=link.position,
            quat=link.quaternion,
            explicitinertial=True,
            mass=link.mass,
            ipos=link.centre,
            iquat=link.axes,
            inertia=link.inertia,
        )
        body.add_joint(name=f"j{number}", axis=[0.0, 0.0, 1.0], limited=True, range=link.limits)
        for shape in link.shapes:
            add_shape(body, shape)
        add_mesh(spec, body, link.name, assets)
        if link.name == "l0":
            _add_head(spec, body, assets)
    return body


def _add_head(spec: mujoco.MjSpec, body: Any, assets: Path | None) -> None:
    head = body.add_body(
        name="head",
        pos=[0.0, 0.0, 0.2965],
        explicitinertial=True,
        mass=1.5795,
        ipos=[0.0053207, -2.6549e-05, 0.1021],
        iquat=[0.999993, 7.08405e-05, -0.00359857, -0.000626247],
        inertia=[0.0118334, 0.00827089, 0.00496574],
    )
    add_shape(head, Shape(SPHERE, (0.18,), (0.0, 0.0, 0.08)))
    add_mesh(spec, head, "head", assets)


def add_end_effector(last_link: Any, shape: Shape, colour: Quaternion) -> None:
    """Adds what the arm ends in, and the site whose place rewards are about."""
    body = last_link.add_body(name="end_effector", pos=[0.0, 0.0, 0.06], quat=[HALF, 0.0, 0.0, HALF])
    add_shape(body, shape, colour)
    body.add_site(name=END_EFFECTOR, pos=[0.0, 0.0, 0.03], group=MARKS)


def add_wrist_camera(last_link: Any, name: str) -> None:
    last_link.add_camera(name=name, pos=[0.2, 0.0, -0.2], quat=turn((0.0, 2.5, 0.0)))


def add_servos(spec: mujoco.MjSpec) -> None:
    """Pulls each joint to an angle, as a spring does. Their forces have no limits."""
    for number, link in enumerate(LINKS):
        spec.add_actuator(
            name=f"servo{number}",
            target=f"j{number}",
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True,
            ctrlrange=link.controls,
            forcelimited=False,
            gainprm=[STIFFNESS, *[0.0] * 9],
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0.0, -STIFFNESS, *[0.0] * 8],
        )


def add_shape(body: Any, shape: Shape, colour: Iterable[float] = NOTHING, **settings: Any) -> Any:
    """A primitive that others can bump into. Without a colour it is not seen."""
    size = [*shape.size, 0.0, 0.0][:3]
    return body.add_geom(type=shape.kind, size=size, pos=shape.position, rgba=list(colour), group=SEEN, **settings)


def add_mesh(
    spec: mujoco.MjSpec,
    body: Any,
    name: str,
    assets: Path | None,
    position: Vector = (0.0, 0.0, 0.0),
    quaternion: Quaternion = UPRIGHT,
    colour: Quaternion = RED,
) -> None:
    """A mesh that is seen, and that nothing bumps into; none if there are no assets."""
    if assets is None:
        return
    spec.add_mesh(name=name, file=str(assets / "objects" / "meshes" / "xyz_base" / f"{name}.stl"))
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=name,
        pos=position,
        quat=quaternion,
        rgba=list(colour),
        contype=0,
        conaffinity=0,
        group=SEEN,
    )
