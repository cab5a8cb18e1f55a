"""Task families and the simulator that plays them."""

from __future__ import annotations

from collections.abc import Callable

from nacre.errors import NacreError, nearest
from nacre.tasks.ant import (
    AntDir,
    AntDirWithoutForces,
    AntGoal,
    AntGoalWithoutForces,
    AntRandomDir,
    AntRandomDirWithoutForces,
)
from nacre.tasks.checks import call
from nacre.tasks.cheetah import CheetahDir, CheetahVel
from nacre.tasks.family import TaskFamily, TaskList, TaskSplit, World, check_family, split_tasks
from nacre.tasks.humanoid import HumanoidDir, HumanoidDirWithoutForces
from nacre.tasks.own_environment import GymnasiumFamily
from nacre.tasks.pixels import CheetahVelPixels, PointRobotPixels
from nacre.tasks.point import HiddenPointRobot, PointRobot, SparsePointRobot
from nacre.tasks.rand_params import HopperRandParams, WalkerRandParams
from nacre.tasks.simulator import Simulator

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

FAMILIES: dict[str, Callable[[], TaskFamily]] = {
    family.name: family
    for family in (
        PointRobot,
        SparsePointRobot,
        HiddenPointRobot,
        CheetahVel,
        CheetahDir,
        AntDir,
        AntRandomDir,
        AntGoal,
        AntDirWithoutForces,
        AntRandomDirWithoutForces,
        AntGoalWithoutForces,
        HumanoidDir,
        HumanoidDirWithoutForces,
        WalkerRandParams,
        HopperRandParams,
        PointRobotPixels,
        CheetahVelPixels,
    )
}
"""Every family there is by name, and what makes it."""


def list_families() -> list[str]:
    """The names that `make_family` knows."""
    return sorted(FAMILIES)


def make_family(name: str) -> TaskFamily:
    """The task family of that name.

    Raises:
        NacreError: there is none; the message has the nearest names, and says where others come from. Or its sizes are
            impossible.
    """
    if name not in FAMILIES:
        raise NacreError(
            f"unknown task family {name!r} (one of your own is registered first: nacre.register_family, or nacre "
            f"--import MODULE): {nearest(name, FAMILIES)}"
        )
    family = call(FAMILIES[name])
    check_family(family)
    return family


def register_family(name: str, factory: Callable[[], TaskFamily]) -> None:
    """Makes `factory` the family of that name, for `make_family` and experiments.

    Raises:
        NacreError: the name is taken.
    """
    if name in FAMILIES:
        raise NacreError(f"There is a task family {name!r} already; choose another name.")
    FAMILIES[name] = factory
