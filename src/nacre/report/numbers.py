"""The numbers behind a figure, as a table that other programs read: CSV, in the page and in a folder beside it."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from nacre.errors import NacreError
from nacre.files import make_folder, write_atomically

MOST_INSIDE = 600_000
"""Bytes of tables that a page itself holds; of the larger ones it has a link to the file beside it."""


@dataclass(frozen=True)
class Numbers:
    """A table, with a name.

    Raises:
        ValueError: the name could not be that of a file everywhere.
    """

    name: str
    """Of its file, without the suffix: ASCII letters, digits, and hyphens."""
    columns: Mapping[str, np.ndarray]
    """Equally long, by a name that has the unit, if there is one."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-zA-Z0-9-]+", self.name):
            raise ValueError(f"the name of a table is {self.name!r}; allowed: letters, digits, and hyphens")

    @property
    def file(self) -> str:
        return f"{self.name}.csv"

    def prefixed(self, prefix: str) -> Numbers:
        """The same table under a longer name."""
        return replace(self, name=prefix + self.name)

    def csv(self) -> bytes:
        """Fractions have ten digits, or seven if they are float32; an empty cell is a number that is not there."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        columns = [_cells(np.asarray(values)) for values in self.columns.values()]
        writer.writerows(zip(*columns, strict=True))
        return text.getvalue().encode()


def crossed(
    axes: Mapping[str, Sequence[Any] | np.ndarray],
    values: Mapping[str, np.ndarray],
    beside: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a table with a row for each combination.

    Args:
        axes: what the axes of the values stand for, in order: a name, and a label for each index.
        values: arrays over these axes, by name.
        beside: by the name of an axis, further columns with a value for each of its indices.
    """
    shape = tuple(map(len, axes.values()))
    columns: dict[str, np.ndarray] = {}
    for place, (name, labels) in enumerate(axes.items()):
        further = {_free(column, [*axes, *values]): along for column, along in (beside or {}).get(name, {}).items()}
        for column, along in {name: labels, **further}.items():
            spread = np.asarray(along).reshape(*(-1 if axis == place else 1 for axis in range(len(shape))))
            columns[column] = np.broadcast_to(spread, shape).reshape(-1)
    return columns | {name: np.broadcast_to(array, shape).reshape(-1) for name, array in values.items()}


def joined(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tables of the same columns, one below the other."""
    return {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]}


def rows_of(table: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of a table."""
    return {name: np.asarray(values)[np.asarray(rows)] for name, values in table.items()}


def data_folder(page: Path) -> Path:
    """The folder beside a page that has its tables: `report-data` beside `report.html`."""
    return page.with_name(f"{page.stem}-data")


def check_data_folder(page: Path) -> None:
    """Checks that the tables of a page can be written, before the minutes of work that go into them.

    Raises:
        NacreError: they cannot.
    """
    folder = data_folder(page)
    if folder.exists() and not folder.is_dir():
        raise NacreError(f"{folder} is a file; allowed: a folder, for the numbers behind the figures of {page}")
    if folder.exists() and not os.access(folder, os.W_OK):
        raise NacreError(f"cannot write the numbers behind the figures of {page}: the folder {folder} is read-only")


def write_numbers(page: Path, tables: Sequence[Numbers]) -> dict[str, str]:
    """Writes the tables of a page into the folder beside it; files of the same names are replaced.

    Returns:
        By the name of a table, where the page finds it: inside itself, or in the folder if there is no more room.

    Raises:
        NacreError: one cannot be written.
        ValueError: two have the same name.
    """
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        raise ValueError(f"two tables of a page have the same name: {', '.join(sorted(names))}")
    folder = data_folder(page)
    make_folder(folder)
    contents = sorted(((table, table.csv()) for table in tables), key=lambda each: len(each[1]))
    addresses, inside = {}, 0
    for table, content in contents:
        write_atomically(folder / table.file, content)
        inside += len(content)
        addresses[table.name] = f"{quote(folder.name)}/{quote(table.file)}"
        if inside <= MOST_INSIDE:
            addresses[table.name] = "data:text/csv;charset=utf-8;base64," + base64.b64encode(content).decode()
    return addresses


def _free(column: str, taken: Sequence[str]) -> str:
    """The name of a column; a task parameter may be called as another column is."""
    return f"{column} (parameter)" if column in taken else column


def _cells(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "f":
        digits = 7 if values.dtype.itemsize <= 4 else 10
        return ["" if np.isnan(value) else f"{value + 0.0:.{digits}g}" for value in values.astype(np.float64)]
    if values.dtype.kind == "b":
        values = values.astype(int)
    return [str(value) for value in values]
