"""The videos of a run in its report: small ones inside the page, links to the others."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nacre.run_evaluation import EVALUATIONS

MOST_INSIDE = 900_000
"""Bytes of videos that a page itself holds; it has links to those that are more."""


@dataclass(frozen=True)
class Film:
    """The video of a trial on one task."""

    name: str
    """Such as "task 3"."""
    address: str
    """Where the page finds it: inside itself, or beside it."""
    is_inside: bool


@dataclass(frozen=True)
class Films:
    """The videos of one evaluation."""

    evaluation: str
    """The name of its result."""
    films: Sequence[Film]


def find_videos(run: Path, checkpoint: str) -> list[Path]:
    """The videos of the latest evaluation of a run that has some: of that checkpoint, or if there are none of any."""
    found: dict[Path, list[Path]] = {}
    with contextlib.suppress(OSError):
        for video in sorted((run / EVALUATIONS).glob("*/task-*.mp4")):
            if video.is_file():
                found.setdefault(video.parent, []).append(video)
    own = [folder for folder in found if folder.name.startswith(f"{checkpoint}-")]
    latest = max(own or found, key=lambda folder: max(video.stat().st_mtime for video in found[folder]), default=None)
    return [] if latest is None else found[latest]


def films_of(videos: Sequence[Path], page: Path, room: int) -> Films | None:
    """The videos of an evaluation for a page; None: there are none.

    Args:
        videos: as :func:`find_videos` gives them.
        page: the page.
        room: how many bytes of them it may hold.
    """
    films = []
    for video in videos:
        size = video.stat().st_size
        is_inside = size <= room
        if is_inside:
            room -= size
            address = inside_address(video.read_bytes())
        else:
            address = quote(os.path.relpath(video.resolve(), page.parent.resolve()).replace(os.sep, "/"))
        films.append(Film(_name_of(video), address, is_inside))
    return Films(videos[0].parent.name, films) if films else None


def inside_address(video: bytes) -> str:
    """The address of an MP4 file that a page itself holds."""
    return "data:video/mp4;base64," + base64.b64encode(video).decode()


def _name_of(video: Path) -> str:
    """`task 3` for task-03.mp4."""
    number = video.stem.removeprefix("task-")
    return f"task {int(number)}" if number.isdecimal() else video.stem
