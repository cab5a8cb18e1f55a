"""Seeing what was learnt: pages about runs, learning curves of several seeds beside published numbers, trajectories."""

from nacre.report.comparison import parse_groups, write_comparison
from nacre.report.curves import Curves, read_curves, read_runs, write_curves
from nacre.report.figures import learning_curve, trajectories
from nacre.report.references import REFERENCES, Level, PublishedCurve, ReferenceCurve, gap_of, references_of
from nacre.report.run_report import write_report

__all__ = [
    "REFERENCES",
    "Curves",
    "Level",
    "PublishedCurve",
    "ReferenceCurve",
    "gap_of",
    "learning_curve",
    "parse_groups",
    "read_curves",
    "read_runs",
    "references_of",
    "trajectories",
    "write_comparison",
    "write_curves",
    "write_report",
]
