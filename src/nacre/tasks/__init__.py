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
    CheetahVelSparse,
)
from nacre.tasks.family import TaskFamily, TaskList, TaskSplit, World, check_family, split_tasks
from nacre.tasks.humanoid import HumanoidDir, HumanoidDirWithoutForces
from nacre.tasks.own_environment import GymnasiumFamily
from nacre.tasks.pixels import CheetahVelPixels, PointRobotPixels
from nacre.tasks.point import PointRobot, SparsePointRobot
from nacre.tasks.rand_params import HopperRandParams, WalkerRandParams
from nacre.tasks.sawyer import SawyerPushSparse, SawyerReachSparse
from nacre.tasks.sawyer_meld import SawyerButtons, SawyerPeg, SawyerReacher, SawyerShelf
from nacre.tasks.simulator import Simulator
from nacre.tasks.walkers import HopperVel, HopperVelSparse, WalkerVel, WalkerVelSparse

__all__ = [
    "FAMILIES",
    "GymnasiumFamily",
    "Simulator",
    "TaskFamily",
    "TaskList",
    "TaskSplit",
    "World",
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
        PointRobotPixels,
        CheetahVelPixels,
    )
}
"""Every family there is by name, and what makes it."""
OURS = frozenset(FAMILIES)
"""Names of the families that come with nacre."""


def list_families() -> list[str]:
    """The names that `make_family` knows."""
    return sorted(FAMILIES)


def make_family(name: str, **options: Any) -> TaskFamily:
    """The task family of that name.

    Args:
        name: one of `list_families()`.
        options: the keyword arguments of what makes the family, such as `lowest=0.5`. Every family also takes
            `horizon`, the control steps of an episode.

    Raises:
        NacreError: there is none; the message has the nearest names, and says where others come from. Or it has no such
            option, or a value is impossible, or its sizes are.
    """
    if name not in FAMILIES:
        raise NacreError(
            f"unknown task family {name!r} (one of your own is registered first: nacre.register_family, or nacre "
            f"--import MODULE): {nearest(name, FAMILIES)}"
        )
    allowed = sorted({*_options(FAMILIES[name]), "horizon"})
    for option in options:
        if option not in allowed:
            raise NacreError(f"unknown option {option!r} of the family {name}; allowed: {', '.join(allowed)}")
    own = {option: value for option, value in options.items() if option in _options(FAMILIES[name])}
    family = call(FAMILIES[name], **own)
    if "horizon" in options and "horizon" not in own:
        family.horizon = options["horizon"]
    check_family(family)
    return family


def _options(factory: Callable[..., TaskFamily]) -> list[str]:
    """The keyword arguments of what makes a family."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # compiled code may not say
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


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
