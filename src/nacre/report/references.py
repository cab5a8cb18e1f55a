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
            "read by eye off a plot in the repository ZiyiLiubird/CRL",
            ((500e3, 1050.0), (1000e3, 1280.0), (1500e3, 1430.0), (2000e3, 1500.0)),
        ),
        Level("best without the task", "either direction, averaged over both tasks", 0.0),
    ),
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
