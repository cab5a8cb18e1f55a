"""Numbers of others, and of agents that learn nothing, to put beside our own curves (spec sections 6.2 and 6.3)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedCurve:
    """Returns of somebody else's run, of the last episode of a trial on test tasks."""

    label: str
    source: str
    """Where the numbers are from and how far to trust them."""
    points: tuple[tuple[float, float], ...]
    """Environment steps and return, in order."""


@dataclass(frozen=True)
class Level:
    """A return that no training changes: what is possible without knowing the task, or with knowing it."""

    label: str
    source: str
    value: float


_META_RL = (
    "TensorBoard log of the reimplementation x35f/meta_rl (tuned entropy weight), one seed; "
    "the paper has curves but no table of numbers"
)
_CRL = "read by eye off a plot in the repository ZiyiLiubird/CRL"
_STANDING = "the reward for surviving, in 200 steps"
_POINT = "computed from the family: mean over starts and goals that are uniform in the square"

REFERENCES: dict[str, tuple[PublishedCurve | Level, ...]] = {
    "cheetah-vel": (
        PublishedCurve(
            "x35f/meta_rl, one seed",
            _META_RL,
            ((205e3, -281.0), (300e3, -57.0), (400e3, -40.0), (500e3, -39.0), (750e3, -40.0)),
        ),
        Level("best without the task", "always 1.27 m/s, without costs; computed for the published test tasks", -160.2),
        Level("standing still", "computed for the published test tasks", -283.5),
    ),
    "cheetah-dir": (
        PublishedCurve(
            "x35f/meta_rl, one seed",
            _META_RL,
            ((200e3, 693.0), (500e3, 1053.0), (700e3, 1365.0), (1000e3, 1504.0), (1450e3, 1664.0)),
        ),
        PublishedCurve(
            "PEARL baseline of CRL",
            _CRL,
            ((500e3, 1050.0), (1000e3, 1280.0), (1500e3, 1430.0), (2000e3, 1500.0)),
        ),
        Level("best without the task", "either direction, averaged over both tasks", 0.0),
    ),
    "ant-dir": (
        PublishedCurve(
            "x35f/meta_rl, one seed",
            f"{_META_RL}; forward and backward or two random directions: not known",
            ((200e3, 296.0), (500e3, 681.0), (1000e3, 877.0), (1500e3, 984.0), (2000e3, 1048.0)),
        ),
        PublishedCurve(
            "PEARL baseline of CRL", _CRL, ((250e3, 400.0), (500e3, 680.0), (750e3, 790.0), (1000e3, 870.0))
        ),
        Level("standing, if it survives", _STANDING, 200.0),
    ),
    "ant-goal": (
        PublishedCurve("the original code, a user's best", "issue 28 of its repository", ((2800e3, -440.0),)),
        PublishedCurve("the paper's figure", "as a user reads it in issue 28 of the repository", ((10e6, -200.0),)),
        Level("standing still", "computed: the mean of |x| + |y| over the disc is 8 / pi", -509.3),
    ),
    "humanoid-dir": (
        PublishedCurve(
            "the original code, one seed",
            "run log in the repository ZiyiLiubird/CRL, whose configuration is the published one",
            ((500e3, 363.0), (750e3, 173.0), (1000e3, 760.0), (1250e3, 995.0), (1500e3, 1004.0), (1670e3, 1007.0)),
        ),
        Level("standing, if it survives", _STANDING, 1000.0),
    ),
    "walker-rand-params": (
        PublishedCurve(
            "x35f/meta_rl, one seed", _META_RL, ((300e3, 272.0), (500e3, 462.0), (800e3, 626.0), (1090e3, 730.0))
        ),
        PublishedCurve("PEARL baseline of CRL", _CRL, ((500e3, 370.0), (1000e3, 460.0), (2000e3, 550.0))),
        Level("policies of one task each", "about, in the words of VariBAD's authors (issue 13)", 1300.0),
        Level("best without the task", "just over, in the words of VariBAD's authors (issue 13)", 1000.0),
        Level("standing, if it survives", _STANDING, 200.0),
    ),
    "hopper-rand-params": (Level("standing, if it survives", _STANDING, 200.0),),
    "point-robot": (
        Level("straight to the known goal", _POINT, -5.2),
        Level("best without the task", f"straight to the middle of the square; {_POINT}", -15.9),
        Level("standing still", _POINT, -20.9),
    ),
    "sparse-point-robot": (
        Level("straight to the known goal", "computed from the family: mean over goals on the half circle", 13.4),
    ),
}
"""What there is to compare with, by task family. Nobody published numbers for the point robots."""

# The same tasks and rewards, seen in pictures. Nobody's curves are of these.
REFERENCES |= {
    f"{family}-pixels": tuple(level for level in REFERENCES[family] if isinstance(level, Level))
    for family in ("point-robot", "cheetah-vel")
}
