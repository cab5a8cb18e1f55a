"""Seeing what was learnt: learning curves of several seeds beside published numbers, and trajectories."""

from nacre.report.curves import Curves, read_curves, read_runs, write_curves
from nacre.report.figures import learning_curve, trajectories
from nacre.report.references import REFERENCES, Level, PublishedCurve

__all__ = [
    "REFERENCES",
    "Curves",
    "Level",
    "PublishedCurve",
    "learning_curve",
    "read_curves",
    "read_runs",
    "trajectories",
    "write_curves",
]
