"""A matplotlib figure as SVG inside a page: text stays text, and marks tell their values to who points at them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_MARKS = "marks-"
_PREFIX = "figure-of-the-page-"
MOST_MARKS = 2000
"""In a figure with more marks none of them tells its values: the page would grow too large."""


class Switch(NamedTuple):
    """Something in a figure that a reader can hide and show."""

    name: str
    artists: Sequence[Artist]
    """Lines, scatters and bands."""
    is_on: bool = True
    """Whether it is shown at first."""


def svg_of(figure: Figure, words: str, switches: Sequence[Switch] = ()) -> str:
    """The figure as an SVG element for an HTML page, in which it is given a number by :func:`numbered`. The same figure
    gives the same text.

    Args:
        figure: it is drawn with a transparent ground.
        words: what it shows, for those who do not see it.
        switches: the elements of the first have the class `switch-0`, and so on.
    """
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text() and "\\math" not in text.get_text():
            text.set_parse_math(False)  # the name of somebody's task or group, and no formula
    named = dict(_named(figure))
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "nacre", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    _strip(root)
    for group in root.iter(f"{_SVG}g"):
        artist = named.get(group.get("id", ""))
        if isinstance(artist, Line2D | PathCollection):
            _title(group, artist)
        classes = [f"switch-{number}" for number, switch in enumerate(switches) if artist in switch.artists]
        if classes:
            group.set("class", " ".join(classes))
    _rename(root)
    root.set("role", "img")
    root.set("aria-label", words)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    for element in root.iter():  # HTML knows no prefixes
        element.tag = element.tag.removeprefix(_SVG)
    root.set("xmlns", _SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode")


def numbered(svg: str, number: int) -> str:
    """The element with names that no other figure of the page has."""
    return svg.replace(_PREFIX, f"figure-{number}-")


def _named(figure: Figure) -> Iterator[tuple[str, Artist]]:
    """Gives each line, scatter and band a name that its SVG group will have."""
    artists = [artist for axes in figure.axes for artist in (*axes.get_lines(), *axes.collections)]
    for number, artist in enumerate(artists):
        name = f"{_MARKS}{number}"
        artist.set_gid(name)
        yield name, artist


def _title(group: ElementTree.Element, artist: Artist) -> None:
    """Titles, which browsers show on hovering: of each mark its label and values, of a line its label."""
    label = str(artist.get_label())
    label = "" if re.match(r"_child\d+$", label) else label.removeprefix("_")
    marks = [mark for mark in group.iter(f"{_SVG}use") if mark.get(_LINK)]
    points = _points(artist)
    if len(marks) == len(points) <= MOST_MARKS:
        for mark, (x, y) in zip(marks, points, strict=True):
            values = f"{x:.6g}, {y:.4g}"
            ElementTree.SubElement(mark, f"{_SVG}title").text = f"{label}: {values}" if label else values
    elif label:
        title = ElementTree.Element(f"{_SVG}title")
        title.text = label
        group.insert(0, title)


def _points(artist: Artist) -> np.ndarray:
    """The points of an artist that are there."""
    if isinstance(artist, Line2D):
        every = artist.get_markevery()
        points = np.asarray(artist.get_xydata(), float)[:: every if isinstance(every, int) else 1]
    else:
        assert isinstance(artist, PathCollection)
        points = np.ma.filled(np.ma.asarray(artist.get_offsets()).astype(float), np.nan)
    return points[np.isfinite(points).all(axis=1)]


def _strip(root: ElementTree.Element) -> None:
    """Without metadata, the rules for all elements, and a size in points: the page says how large it is."""
    for child in root.findall(f"{_SVG}metadata"):
        root.remove(child)
    for definitions in root.findall(f"{_SVG}defs"):
        for style in definitions.findall(f"{_SVG}style"):
            definitions.remove(style)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)


def _rename(root: ElementTree.Element) -> None:
    """Begins the names that something refers to with `_PREFIX`, and removes the others."""
    pattern = re.compile(r"url\(#([^)]+)\)")
    used = {value.removeprefix("#") for element in root.iter() if (value := element.get(_LINK, "")).startswith("#")}
    used |= {name for element in root.iter() for value in element.attrib.values() for name in pattern.findall(value)}
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                del element.attrib[name]
                if value in used:
                    element.set("id", _PREFIX + value)
            elif name == _LINK:
                del element.attrib[name]
                element.set("href", f"#{_PREFIX}{value[1:]}" if value.startswith("#") else value)
            else:
                element.set(name, pattern.sub(rf"url(#{_PREFIX}\1)", value))
