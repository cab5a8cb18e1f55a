"""Reads experiments from files: experiment.json of a run, JSON or TOML of one's own, whole or in part, and the
configurations of old code bases."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from nacre.agents import algorithm_of
from nacre.errors import NacreError, shown, without_middle
from nacre.experiments.experiment import ADDED_LATER, Experiment, config_of_kind, field_types, from_json, override
from nacre.extensions import check_known
from nacre.files import parse_json, read_text

GIN = ".gin"
"""How the name of a gin file ends."""


class FromFile(NamedTuple):
    """What a file says."""

    experiment: Experiment
    """Its values are of the right types, and not validated otherwise."""
    messages: list[str]
    """A sentence about each key that was translated or left out. Of gin files, it says in which line the key is."""
    validate: Callable[[Experiment], None]
    """Checks the experiment, perhaps with flags on top, and says what is wrong in the words of the file."""


def read_configuration(path: Path, base: Experiment | None, ignore_unknown: bool = False) -> FromFile:
    """Reads an experiment from a file of any kind that is known.

    Args:
        path: an experiment.json, the `experiment` object of one, or TOML of the same shape; whole or in part. Or a
            configuration of an old code base.
        base: what a part is a part of; None: the named experiment that it calls `name`.
        ignore_unknown: whether keys that nothing is known about are left out.

    Raises:
        NacreError: the file cannot be read, or says something impossible; the message names it.
    """
    content = read_values(path)
    try:
        if _is_own(content, path, base):
            check_known(path, content)
            experiment, messages = _read_own(path, content.get("experiment", content), base, ignore_unknown)
            return FromFile(experiment, messages, lambda experiment: None)
    except NacreError as error:
        raise naming(path, error) from None
    if base is not None:
        raise _beside_old(base, path)
    from nacre.original.configs import read_old_config, validate_old

    experiment, messages = read_old_config(path, ignore_unknown)
    return FromFile(experiment, messages, lambda changed: validate_old(path, experiment, changed))


def read_configurations(paths: Sequence[Path], base: Experiment | None, ignore_unknown: bool = False) -> FromFile:
    """Reads an experiment from one file, or from several gin files of which later ones win. Messages name the files.

    Raises:
        NacreError: as :func:`read_configuration`; or there are several files of another kind.
    """
    others = [path for path in paths if path.suffix != GIN]
    if not others:
        if base is not None:
            raise _beside_old(base, paths[0])
        from nacre.original.configs import read_old_gin

        return read_old_gin(paths, ignore_unknown)
    if len(paths) > 1:
        raise NacreError(
            f"--config has {len(paths)} files, among them {others[0]}; allowed: one file, or several that end in {GIN}"
        )
    read = read_configuration(paths[0], base, ignore_unknown)
    return read._replace(messages=[f"{paths[0]}: {message}" for message in read.messages])


def read_values(path: Path) -> Any:
    """The values in a JSON file, or in a TOML file if its name ends so; a byte-order mark is passed over.

    Raises:
        NacreError: the file cannot be read, or is of another format.
    """
    text = read_text(path)
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of too many digits; tables nested too deeply
            raise NacreError(f"{path} is not TOML: {error}") from None
    try:
        return parse_json(text)
    except ValueError as error:
        raise NacreError(f"{path} {error}") from None


def naming(path: Path, error: NacreError) -> NacreError:
    """The error, with the file at its beginning if it is not named yet."""
    return error if str(error).startswith(str(path)) else NacreError(f"{path}: {error}")


def without_unknown(given: Mapping[str, Any], known: Iterable[str], ignore: bool) -> tuple[dict[str, Any], list[str]]:
    """What is given under known keys, and a message for each key that was left out.

    Args:
        given: values by key, such as `algorithm.discount`; a key's section is what stands before its last dot.
        known: all keys there are.
        ignore: whether unknown keys are left out.

    Raises:
        NacreError: some are unknown, and they are not ignored; the message has all of them.
    """
    known = set(known)
    unknown = {key: value for key, value in given.items() if key not in known}
    if unknown and not ignore:
        listed = "; ".join(f"{key} = {_shortly(value)}{_suggestion(key, known)}" for key, value in unknown.items())
        raise NacreError(f"unknown {'keys' if len(unknown) > 1 else 'key'}: {listed}; --ignore-unknown leaves them out")
    kept = {key: value for key, value in given.items() if key in known}
    return kept, [f"{key} is unknown and was left out" for key in unknown]


def _beside_old(base: Experiment, path: Path) -> NacreError:
    return NacreError(
        f"EXPERIMENT is {base.name!r} beside the configuration {path} of an old code base; allowed: one of the two"
    )


def _suggestion(key: str, known: Iterable[str]) -> str:
    section, _, name = key.rpartition(".")
    names = [other.rpartition(".")[2] for other in sorted(known) if other.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, names, cutoff=0.75)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _shortly(value: Any) -> str:
    return without_middle(json.dumps(value, default=str), 40)


def _is_own(content: Any, path: Path, base: Experiment | None) -> bool:
    """Whether it is of our own shape. An empty object is, beside EXPERIMENT."""
    if not isinstance(content, Mapping):
        return False
    if path.suffix == ".toml" or (base is not None and not content):
        return True
    return bool(content.keys() & {"experiment", *field_types(Experiment)})


def _read_own(path: Path, values: Any, base: Experiment | None, ignore_unknown: bool) -> tuple[Experiment, list[str]]:
    from nacre.experiments import named_experiments

    if not isinstance(values, Mapping):
        raise NacreError(f"experiment is {shown(values)}; allowed: an object")
    algorithm = values.get("algorithm", {})
    if not isinstance(algorithm, Mapping):
        raise NacreError(f"algorithm is {shown(algorithm)}; allowed: an object")
    name = values.get("name")
    if base is None and isinstance(name, str) and name in (named := named_experiments()):
        base = named[name].experiment
    kind = algorithm.get("kind", None if base is None else algorithm_of(base.algorithm).name)
    if kind is None:
        raise NacreError(
            "it does not say which experiment it is a part of; allowed: a `name` of nacre list in it, or EXPERIMENT "
            "beside --config"
        )
    config = config_of_kind(kind)

    flat = {key: value for key, value in values.items() if key != "algorithm"}
    flat |= {f"algorithm.{key}": value for key, value in algorithm.items() if key != "kind"}
    own = field_types(Experiment)
    known = [*(key for key in own if key != "algorithm"), *(f"algorithm.{key}" for key in field_types(config))]
    flat, messages = without_unknown(flat, known, ignore_unknown)
    outer = {key: value for key, value in flat.items() if "." not in key}
    inner = {key.removeprefix("algorithm."): value for key, value in flat.items() if "." in key}
    if path.suffix == ".toml" and base is None:  # TOML cannot say None
        outer = {key: None for key, annotation in own.items() if type(None) in get_args(annotation)} | outer
    if _is_whole(outer, inner, config):
        return from_json(outer | {"algorithm": {"kind": kind} | inner}), messages
    if base is None:
        missing = next(key for key in known if key not in flat and key not in outer)
        raise NacreError(
            f"the field {missing!r} is missing; a part of an experiment needs the `name` of one in nacre list, or "
            "EXPERIMENT beside --config"
        )
    if type(base.algorithm) is not config:
        raise NacreError(
            f"algorithm.kind is {shown(kind)}; allowed for {base.name}: {algorithm_of(base.algorithm).name!r}"
        )
    return override(base, outer | inner), messages


def _is_whole(outer: Mapping[str, Any], inner: Mapping[str, Any], config: type) -> bool:
    needed = {field.name for field in dataclasses.fields(Experiment)} - ADDED_LATER.keys() - {"algorithm"}
    needed_inner = {field.name for field in dataclasses.fields(config)} - config.added_later.keys()
    return needed <= outer.keys() and needed_inner <= inner.keys()
