"""What a sweep consists of: experiments × values × seeds, from a file or from Python, all of it checked at once.

Nothing here imports JAX: a mistake in a file is told at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nacre.errors import NacreError, nearest, shown
from nacre.experiments import Experiment, family_of, make_experiment, to_json, validate
from nacre.experiments.configuration_files import read_values
from nacre.experiments.experiment import (
    FamilyOptions,
    bounds_of,
    check_type,
    field_types,
    option_words,
    override,
    world_of,
)
from nacre.files import read_text
from nacre.sweeps.mistakes import Mistakes, whole_number
from nacre.sweeps.search import Halving, Search, read_halving, read_search
from nacre.tasks.shifts import Shift

MOST_RUNS = 10_000
MOST_CORES = 1024
MOST_RETRIES = 100
_KEYS = ("experiments", "seeds", "fixed", "values", "search", "halving", "cores", "retries")
_ENTRY_KEYS = ("name", "label", "fixed", "values")
_LONGEST_VALUE = 40
"""Characters of a value in the name of a folder."""
_LONGEST_NAME = 200
"""Bytes of the name of a folder; file systems allow 255."""


class Planned(NamedTuple):
    """A run of a sweep."""

    cell: str
    """The name of its configuration, apart from the seed: a folder, in which the seeds are."""
    experiment: Experiment

    @property
    def place(self) -> Path:
        """The run folder, in that of the sweep."""
        return Path("runs", self.cell, f"seed-{self.experiment.seed}")

    @property
    def name(self) -> str:
        return f"{self.cell}/seed-{self.experiment.seed}"


@dataclass(frozen=True)
class Specification:
    """A sweep in which everything is possible."""

    cells: Mapping[str, Experiment]
    """Configurations by name; their seeds mean nothing."""
    seeds: tuple[int, ...]
    cores: int
    """Of the machine, for each run."""
    retries: int
    """How often a run that was killed or failed goes on from its checkpoint."""
    halving: Halving | None = None
    """Which runs end early; None: none does."""

    @property
    def runs(self) -> list[Planned]:
        """Seed by seed, so that every configuration has results early."""
        return [
            Planned(name, dataclasses.replace(experiment, seed=seed))
            for seed in self.seeds
            for name, experiment in self.cells.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The record of a sweep: every configuration, as resolved."""
        return {
            "cells": {name: to_json(experiment) for name, experiment in self.cells.items()},
            "seeds": list(self.seeds),
            "cores": self.cores,
            "retries": self.retries,
            "halving": None if self.halving is None else self.halving._asdict(),
        }


def read_specification(path: Path) -> Specification:
    """Reads a sweep from TOML or JSON.

    Raises:
        NacreError: the file cannot be read, or says something impossible: all of it is in the message.
    """
    content = read_values(path)
    if path.suffix != ".toml":  # TOML refuses keys that are given twice
        json.loads(read_text(path), object_pairs_hook=lambda pairs: _without_twins(path, pairs))
    return specify(content, str(path))


def specify(content: Any, where: str) -> Specification:
    """The sweep that JSON values describe.

    Args:
        content: an object with `experiments`, `seeds`, `fixed`, `values`, `search`, `halving`, `cores` and `retries`;
            only the first is needed. In Python an experiment may be an :class:`nacre.Experiment`.
        where: what the message begins with.

    Raises:
        NacreError: something is impossible: all of it is in the message.
    """
    mistakes = Mistakes()
    if not isinstance(content, Mapping):
        raise NacreError(f"{where} is {shown(content)}; allowed: an object with {', '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            mistakes.add(f"unknown key {shown(key)}: {nearest(str(key), _KEYS)}")
    seeds = _seeds(content.get("seeds", 1), mistakes)
    cores = whole_number("cores", content.get("cores", 1), 1, MOST_CORES, mistakes)
    retries = whole_number("retries", content.get("retries", 2), 0, MOST_RETRIES, mistakes)
    common = _Fields.read(content, "", mistakes)
    search, halving = read_search(content.get("search"), mistakes), read_halving(content.get("halving"), mistakes)
    entries = _entries(content, common, search, mistakes)
    if len(seeds) * sum(entry.size for entry in entries) > MOST_RUNS:
        total = len(seeds) * sum(entry.size for entry in entries)
        mistakes.add(f"it asks for {total:,} runs; allowed: at most {MOST_RUNS:,}")
        mistakes.raise_if_any(where)
    cells = _cells(entries, mistakes)
    if halving is not None:
        _check_halving(cells, seeds, mistakes)
    mistakes.raise_if_any(where)
    return Specification(cells, seeds, cores, retries, halving)


class _Fields(NamedTuple):
    """The fields that are set, and those that vary, for one experiment or for all."""

    fixed: dict[str, Any]
    values: dict[str, list[Any]]

    @staticmethod
    def read(content: Mapping[str, Any], prefix: str, mistakes: Mistakes) -> _Fields:
        fixed, values = (_table(content, key, prefix, mistakes) for key in ("fixed", "values"))
        lists: dict[str, list[Any]] = {}
        for field, options in values.items():
            if not isinstance(options, list | tuple):
                mistakes.add(
                    f"{prefix}values.{field} is {shown(options)}; allowed: a list of values (one value for all runs "
                    "stands under fixed)"
                )
            elif not options:
                mistakes.add(f"{prefix}values.{field} is an empty list; allowed: at least one value")
            else:
                lists[field] = list(options)
        for name, table in (("fixed", fixed), ("values", lists)):
            for field, instead in (("seed", "seeds"), ("seeds", "seeds"), ("algorithm", "its fields by their names")):
                if field in table:
                    mistakes.add(f"{prefix}{name}.{field} is given; allowed: {instead}, beside {name}")
                    del table[field]
        for field in sorted(fixed.keys() & lists.keys()):
            mistakes.add(f"{prefix}fixed.{field} is given, and {prefix}values.{field} too; allowed: one of the two")
            del lists[field]
        return _Fields(fixed, lists)

    def with_own(self, own: _Fields) -> _Fields:
        """These, and those of an experiment, which go first."""
        taken = own.fixed.keys() | own.values.keys()
        fixed = {field: value for field, value in self.fixed.items() if field not in taken}
        values = {field: options for field, options in self.values.items() if field not in taken}
        return _Fields(fixed | own.fixed, values | own.values)


class _Entry(NamedTuple):
    """An experiment of a sweep."""

    label: str
    base: Experiment
    fields: _Fields
    samples: list[dict[str, Any]]
    """Values that a search drew; without one, one sample of nothing."""

    @property
    def size(self) -> int:
        return math.prod(map(len, self.fields.values.values())) * len(self.samples)


def _entries(content: Mapping[str, Any], common: _Fields, search: Search | None, mistakes: Mistakes) -> list[_Entry]:
    given = content.get("experiments")
    if not isinstance(given, list | tuple) or not given:
        what = "is missing" if given is None else f"is {shown(given)}"
        mistakes.add(f"experiments {what}; allowed: a list of names of experiments, see nacre list")
        return []
    entries = []
    for number, item in enumerate(given):
        entry = _entry(item, f"experiments[{number}]", common, search, mistakes)
        if entry is not None:
            entries.append(entry)
    for label, times in Counter(entry.label for entry in entries).items():
        if times > 1:
            mistakes.add(f"experiments has {shown(label)} {times} times; allowed: once, or with a label for each")
    return list({entry.label: entry for entry in entries}.values())


def _entry(item: Any, place: str, common: _Fields, search: Search | None, mistakes: Mistakes) -> _Entry | None:
    table = item if isinstance(item, Mapping) else {"name": item}
    for key in table:
        if key not in _ENTRY_KEYS:
            mistakes.add(f"unknown key {shown(f'{place}.{key}')}: {nearest(str(key), _ENTRY_KEYS)}")
    if "name" not in table and not table.keys() <= set(_ENTRY_KEYS):  # it is mistyped
        return None
    own = _Fields.read(table, f"{place}.", mistakes)
    name = table.get("name")
    if not isinstance(name, str | Experiment):
        what = f"{place}.name is {shown(name)}" if isinstance(item, Mapping) else f"{place} is {shown(item)}"
        mistakes.add(f"{what}; allowed: the name of an experiment, see nacre list")
        return None
    label = table.get("label", name.name if isinstance(name, Experiment) else name)
    if not isinstance(label, str) or not label.strip():
        mistakes.add(f"{place}.label is {shown(label)}; allowed: text")
        return None
    with mistakes.noting():
        base = name if isinstance(name, Experiment) else _named(name, common.with_own(own))
        fields = _checked(common.with_own(own), base, label, mistakes)
        return _Entry(label, base, fields, [{}] if search is None else _drawn(search, fields, base))
    return None


def _named(name: str, fields: _Fields) -> Experiment:
    """An experiment by its name. A family may need its options to make a starting point."""
    options = fields.fixed.get("family_options", ())
    return make_experiment(name, **({"family_options": options} if options else {}))


def _checked(fields: _Fields, base: Experiment, label: str, mistakes: Mistakes) -> _Fields:
    """The fields, as their types; what is wrong with one is told, and it is left out."""
    types = field_types(type(base.algorithm)) | field_types(Experiment)
    fixed: dict[str, Any] = {}
    values: dict[str, list[Any]] = {}
    for field, options in [*((field, [value]) for field, value in fields.fixed.items()), *fields.values.items()]:
        if field not in types:
            mistakes.add(f"unknown field {shown(field)}: {nearest(field, types)}", label)
            continue
        found: list[Any] = []
        for value in options:
            with mistakes.noting(label):
                checked = _value(field, value, types[field])
                if any(checked == other and type(checked) is type(other) for other in found):
                    raise NacreError(f"values.{field} has {shown(value)} twice")
                found.append(checked)
        if field in fields.values:
            values[field] = found
        elif found:
            fixed[field] = found[0]
    return _Fields(fixed, values)


def _drawn(search: Search, fields: _Fields, base: Experiment) -> list[dict[str, Any]]:
    """The samples of a search, for one experiment."""
    types = field_types(type(base.algorithm)) | field_types(Experiment)
    for field, span in search.ranges.items():
        if field not in types:
            raise NacreError(f"unknown field {shown(field)} in search.ranges: {nearest(field, types)}")
        if field in fields.fixed or field in fields.values:
            raise NacreError(f"search.ranges.{field} is given, and {field} elsewhere too; allowed: one of the two")
        for end in (span.low, span.high):
            _value(field, end, types[field])
    return search.samples_of({field: types[field] for field in search.ranges})


def _check_halving(cells: Mapping[str, Experiment], seeds: Sequence[int], mistakes: Mistakes) -> None:
    if len(seeds) > 1:
        mistakes.add(f"seeds are {len(seeds)} beside halving; allowed: one, as halving would keep the lucky ones")
    worlds = sorted({world_of(experiment) for experiment in cells.values()})
    if len(worlds) > 1:
        mistakes.add(
            f"halving compares returns, and there are several kinds of tasks: {', '.join(worlds[:4])}; allowed: one"
        )


def _value(field: str, value: Any, annotation: Any) -> Any:
    """A value, of its type and within its bounds."""
    checked, allowed = check_type(field, value, annotation), bounds_of(annotation)
    if allowed is not None and checked is not None and checked not in allowed:
        raise NacreError(f"{field} is {shown(value)}; allowed: {allowed}")
    return checked


def _cells(entries: Sequence[_Entry], mistakes: Mistakes) -> dict[str, Experiment]:
    """Every combination, by name."""
    cells: dict[str, Experiment] = {}
    folders: dict[str, str] = {}  # on some file systems Upper and lower case are the same
    known: dict[Experiment, str] = {}
    for entry in entries:
        for *combination, sample in itertools.product(*entry.fields.values.values(), entry.samples):
            varied = dict(zip(entry.fields.values, combination, strict=True)) | sample
            name = cell_name(entry.label, varied)
            with mistakes.noting(entry.label):
                experiment = override(entry.base, entry.fields.fixed | varied)
                validate(experiment, family_of(experiment))
                experiment = dataclasses.replace(experiment, seed=0)
                if experiment in known and known[experiment] != name:
                    raise NacreError(f"{known[experiment]} and {name} are the same configuration; allowed: each once")
                taken = folders.setdefault(name.casefold(), name)
                if name in cells or taken != name:
                    raise NacreError(
                        f"two configurations would have the folder {name!r}; allowed: labels that give each its own"
                    )
                cells[name] = experiment
                known[experiment] = name
    return cells


def cell_name(label: str, varied: Mapping[str, Any]) -> str:
    """The folder of a configuration: the label, and the values that vary."""
    parts = [_safe(label.replace("/", "-")), *(f"{field}-{_safe(_in_words(value))}" for field, value in varied.items())]
    name = "_".join(parts)
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{_digest(name)}"


def _safe(text: str) -> str:
    """A text as a part of a file's name. If that changes it, a digest keeps it apart from others."""
    safe = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.") or "value"
    if safe == text and len(safe) <= _LONGEST_VALUE:
        return safe
    return f"{safe[:_LONGEST_VALUE]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def _in_words(value: Any) -> str:
    if isinstance(value, FamilyOptions):
        return " ".join(option_words(value)) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value) if isinstance(value, str | int | Shift) else repr(value)


def _seeds(given: Any, mistakes: Mistakes) -> tuple[int, ...]:
    """A number of seeds, from 0 on, or the seeds themselves."""
    if type(given) is int and 1 <= given <= MOST_RUNS:
        return tuple(range(given))
    if isinstance(given, list | tuple) and given and all(type(seed) is int and 0 <= seed < 2**32 for seed in given):
        for seed, times in Counter(given).items():
            if times > 1:
                mistakes.add(f"seeds has {seed} {times} times; allowed: each once")
        return tuple(given)
    mistakes.add(
        f"seeds is {shown(given)}; allowed: how many, from 1 to {MOST_RUNS:,}, or a list of whole numbers from 0 to "
        "2**32 - 1"
    )
    return (0,)


def _table(content: Mapping[str, Any], key: str, prefix: str, mistakes: Mistakes) -> dict[str, Any]:
    given = content.get(key, {})
    if isinstance(given, Mapping) and all(isinstance(field, str) for field in given):
        return dict(given)
    mistakes.add(f"{prefix}{key} is {shown(given)}; allowed: a table of fields, as nacre train has them as flags")
    return {}


def _without_twins(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise NacreError(f"{path}: the key {shown(key)} is given {times} times in one object; allowed: once")
    return dict(pairs)
