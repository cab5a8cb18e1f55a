"""Task families and the simulator that plays them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nacre.errors import NacreError, nearest
from nacre.tasks.ant import (
    AntDir,
    AntDirWeighted,
    AntDirWithoutForces,
    AntGoal,
    AntGoalSparse,
    AntGoalWithoutForces,
    AntRandomDir,
    AntRandomDirWithoutForces,
    AntVel,
    AntVelSparse,
)
from nacre.tasks.checks import call
from nacre.tasks.cheetah import (
    CheetahDir,
    CheetahGoalSparse,
    CheetahMultiTask,
    CheetahMultiTaskSparse,
    CheetahRandDamping,
    CheetahVel,
    CheetahVel10Hz,
    CheetahVelSparse,
)
from nacre.tasks.family import TaskFamily, TaskList, TaskSplit, World, check_family, split_tasks
from nacre.tasks.humanoid import HumanoidDir, HumanoidDirWithoutForces
from nacre.tasks.own_environment import GymnasiumFamily
from nacre.tasks.pixels import ENDING, PixelFamily
from nacre.tasks.point import PointRobot, SparsePointRobot
from nacre.tasks.rand_params import HopperRandParams, WalkerRandParams
from nacre.tasks.real_time import EmergencyStop, RealTimeFamily
from nacre.tasks.sawyer import SawyerPushSparse, SawyerReachSparse
from nacre.tasks.sawyer_joints import SawyerButtons, SawyerPeg, SawyerReacher, SawyerShelf
from nacre.tasks.simulator import Simulator
from nacre.tasks.walkers import HopperVel, HopperVelSparse, WalkerVel, WalkerVelSparse

__all__ = [
    "FAMILIES",
    "EmergencyStop",
    "GymnasiumFamily",
    "PixelFamily",
    "RealTimeFamily",
    "Simulator",
    "TaskFamily",
    "TaskList",
    "TaskSplit",
    "World",
    "is_family",
    "list_families",
    "make_family",
    "register_family",
    "split_tasks",
]

FAMILIES: dict[str, Callable[..., TaskFamily]] = {
    family.name: family
    for family in (
        PointRobot,
        SparsePointRobot,
        CheetahVel,
        CheetahDir,
        CheetahMultiTask,
        CheetahRandDamping,
        CheetahVel10Hz,
        CheetahVelSparse,
        CheetahGoalSparse,
        CheetahMultiTaskSparse,
        AntDir,
        AntRandomDir,
        AntGoal,
        AntDirWithoutForces,
        AntRandomDirWithoutForces,
        AntGoalWithoutForces,
        AntDirWeighted,
        AntVel,
        AntVelSparse,
        AntGoalSparse,
        HumanoidDir,
        HumanoidDirWithoutForces,
        WalkerRandParams,
        HopperRandParams,
        WalkerVel,
        HopperVel,
        WalkerVelSparse,
        HopperVelSparse,
        SawyerReachSparse,
        SawyerPushSparse,
        SawyerReacher,
        SawyerPeg,
        SawyerButtons,
        SawyerShelf,
    )
}
"""Every family there is by name, and what makes it. Each is also there from pixels: see :func:`is_family`."""


def list_families() -> list[str]:
    """The names that `make_family` knows. It also knows each with "-pixels" behind it."""
    return sorted(FAMILIES)


def is_family(name: str) -> bool:
    """Whether `make_family` knows the name: that of a family, or of one that is seen from pixels, NAME-pixels."""
    return name in FAMILIES or _seen_in(name) in FAMILIES


def make_family(name: str, **options: Any) -> TaskFamily:
    """The task family of that name.

    Args:
        name: one of `list_families()`; or one of them with "-pixels" behind it, whose observations are pictures: see
            :class:`nacre.tasks.PixelFamily`.
        options: the keyword arguments of what makes the family, such as `lowest=0.5`. Every family also takes
            `horizon`, the control steps of an episode. One from pixels also takes `camera`, `size`
            and `zoom`.

    Raises:
        NacreError: there is none; the message has the nearest names, and says where others come from. Or it has no such
            option, or a value is impossible, or its sizes are.
    """
    if not is_family(name):
        known = [f"{family}{ENDING}" for family in FAMILIES] if name.endswith(ENDING) else FAMILIES
        raise NacreError(
            f"unknown task family {name!r} (one of your own is registered first: nacre.register_family, or nacre "
            f"--import MODULE): {nearest(name, known)}"
        )
    factory = FAMILIES[name] if name in FAMILIES else _seen_from_pixels(_seen_in(name))
    own_options = _options(factory)
    allowed = sorted({*own_options, "horizon"})
    for option in options:
        if option not in allowed:
            raise NacreError(f"unknown option {option!r} of the family {name}; allowed: {', '.join(allowed)}")
    family = call(factory, **{option: value for option, value in options.items() if option in own_options})
    if "horizon" in options and "horizon" not in own_options:
        family.horizon = options["horizon"]
    check_family(family)
    return family


def _seen_in(name: str) -> str:
    """The family that one of this name would show in pictures; empty: its name is not that of one."""
    return name.removesuffix(ENDING) if name.endswith(ENDING) else ""


def _seen_from_pixels(name: str) -> Callable[..., TaskFamily]:
    """What makes a family from pixels, with the options of both."""
    factory = FAMILIES[name]
    view = list(inspect.signature(PixelFamily).parameters.values())[1:]
    own = [parameter for parameter in _parameters(factory) if parameter.name not in {each.name for each in view}]

    def make(**options: Any) -> TaskFamily:
        chosen = {each.name: options.pop(each.name) for each in view if each.name in options}
        return PixelFamily(call(factory, **options), **chosen)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *view)]
    make.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return make


def _options(factory: Callable[..., TaskFamily]) -> list[str]:
    """The keyword arguments of what makes a family."""
    return [parameter.name for parameter in _parameters(factory)]


def _parameters(factory: Callable[..., TaskFamily]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # compiled code may not say
        return []
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in named]


def register_family(name: str, factory: Callable[..., TaskFamily]) -> None:
    """Makes `factory` the family of that name, for `make_family` and experiments.

    Args:
        name: how it is called.
        factory: a class or a function. Its keyword arguments are the family's options, and have defaults.

    Raises:
        NacreError: the name is taken.
    """
    if name in FAMILIES:
        raise NacreError(f"There is a task family {name!r} already; choose another name.")
    FAMILIES[name] = factory
