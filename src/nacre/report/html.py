"""Pages that need nothing but themselves: tables, figures with what they were drawn from, and numbers for people."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from matplotlib.figure import Figure

from nacre.files import write_atomically
from nacre.report.drawing import Switch, numbered, svg_of
from nacre.report.films import inside_address
from nacre.report.numbers import Numbers, data_folder, write_numbers


@dataclass(frozen=True)
class Picture:
    """A figure in a page."""

    svg: str
    """An element of HTML."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    numbers: Numbers | None = None
    """What it was drawn from."""
    switches: Sequence[Switch] = ()
    """What a reader can hide and show."""
    figure: Figure | None = None
    """The figure itself, for those who need it in another form."""

    @property
    def heading(self) -> str:
        """What stands above it, such as "Returns over tasks"."""
        name = "" if self.numbers is None else re.sub(r"^(\d+-)?(seed-\d+-)?", "", self.numbers.name)
        return name.replace("-", " ").capitalize()

    def element(self, number: int) -> str:
        """The figure as the page's figure of that number."""
        return numbered(self.svg, number)

    def prefixed(self, prefix: str) -> Picture:
        """The same picture, of which the numbers have a longer name."""
        return self if self.numbers is None else replace(self, numbers=self.numbers.prefixed(prefix))


@dataclass(frozen=True)
class Table:
    """A table in a page. The first cell of a row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = False
    """Whether the other cells are numbers, which are set to the right."""


def picture(
    figure: Figure, alt: str, caption: str, numbers: Numbers | None = None, switches: Sequence[Switch] = ()
) -> Picture:
    """The figure inside the page, with the numbers that it was drawn from, and switches for some of what is in it. The
    same figure gives the same text."""
    return Picture(svg_of(figure, alt, switches), alt, caption, numbers, switches, figure)


def with_film(picture: Picture, video: bytes, alt: str) -> Picture:
    """The picture with a film below it, an MP4 file that is inside the page. Nothing moves before it is started."""
    address = inside_address(video)
    film = f'<video controls loop muted playsinline aria-label="{markupsafe.escape(alt)}" src="{address}"></video>'
    return replace(picture, svg=f"{picture.svg}\n{film}")


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


def write_page(page: Path, template: str, pictures: Sequence[Picture], **content: Any) -> None:
    """Fills in a template of the folder `templates`, and writes the page and the numbers behind its pictures.

    Args:
        page: the page.
        template: its name.
        pictures: all that are in the page.
        content: what the template asks for.

    Raises:
        NacreError: a file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nacre.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        data_folder=data_folder(page).name,
        addresses=write_numbers(page, [picture.numbers for picture in pictures if picture.numbers is not None]),
        next_number=itertools.count(1).__next__,
        most_switches=max((len(picture.switches) for picture in pictures), default=0),
    )
    text = environment.get_template(template).render(
        version=version("nacre"), written=f"{datetime.now():%Y-%m-%d %H:%M}", pictures=pictures, **content
    )
    write_atomically(page, text.encode(errors="backslashreplace"))  # a path may not be UTF-8
