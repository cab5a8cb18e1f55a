"""Pages that need nothing but themselves: tables, figures as images inside the page, and numbers for people."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from nacre.files import write_atomically


@dataclass(frozen=True)
class Picture:
    """A figure in a page."""

    source: str
    """A data URI."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str


@dataclass(frozen=True)
class Table:
    """A table in a page. The first cell of a row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = False
    """Whether the other cells are numbers, which are set to the right."""


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """The figure as an SVG image inside the page. The same figure gives the same text."""
    text = io.BytesIO()
    for words in figure.findobj(Text):
        if isinstance(words, Text) and "$" in words.get_text() and "\\math" not in words.get_text():
            words.set_parse_math(False)  # the name of somebody's task or group, and no formula
    with rc_context({"svg.hashsalt": "nacre"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return Picture("data:image/svg+xml;base64," + base64.b64encode(text.getvalue()).decode(), alt, caption)


def number(value: float | int, decimals: int = 1) -> str:
    """A number for people: thousands apart, and a minus sign as long as a plus sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    text = f"{round(float(value), decimals) + 0.0:,.{decimals}f}"  # + 0.0: no minus before a zero
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share for people."""
    return f"{number(100 * share, 0)}\N{NARROW NO-BREAK SPACE}%" if math.isfinite(share) else number(share)


def span(values: Sequence[float] | np.ndarray, decimals: int = 1) -> str:
    """The mean of numbers, and their range if they differ."""
    mean, low, high = (number(float(each), decimals) for each in (np.mean(values), np.min(values), np.max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def write_page(page: Path, template: str, **content: Any) -> None:
    """Fills in a template of the folder `templates`, and writes the page.

    Raises:
        NacreError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nacre.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(
        version=version("nacre"), written=f"{datetime.now():%Y-%m-%d %H:%M}", **content
    )
    write_atomically(page, text.encode(errors="backslashreplace"))  # a path may not be UTF-8
