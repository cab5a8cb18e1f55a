"""What the JSON configurations of old code bases have in common: keys in sections, of which some became our fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nacre.errors import NacreError
from nacre.experiments.experiment import Experiment


class CodeBase(NamedTuple):
    """An old code base, as far as its configurations go."""

    name: str
    fields: Mapping[str, str]
    """Keys that are a field of ours under another name."""
    translate: Callable[[Any, bool, bool], tuple[Experiment, list[str]]]
    """Makes an experiment and messages of a file's content. The other arguments say whether unknown keys are left out,
    and whether it is that of a run whose networks are there: see `read_old_config`."""


def in_old_words(message: str, fields: Mapping[str, str]) -> str:
    """A message with the old keys in place of our fields, which stand at its beginning or have an underscore or a
    prefix to tell them from words.

    Args:
        message: it names fields.
        fields: the field that each old key is.
    """
    old = {field: key for key, field in fields.items()}
    names = "|".join(sorted(old, key=len, reverse=True))
    marked = "|".join(name for name in sorted(old, key=len, reverse=True) if "_" in name)
    pattern = rf"(?<![\w.])(?:algorithm\.({names})|^({names})|({marked}))(?!\w)"
    return re.sub(pattern, lambda match: old[match[match.lastindex or 0]], message)


def flatten(config: Any, sections: Sequence[str]) -> dict[str, Any]:
    """`{"algo_params": {"discount": 0.9}}` as `{"algo_params.discount": 0.9}`."""
    if not isinstance(config, Mapping):
        raise NacreError(f"an old configuration is a JSON object, not {type(config).__name__}")
    return dict(leaves(config, sections))


def leaves(config: Mapping[str, Any], sections: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Keys with their section, and values."""
    for key, value in config.items():
        if key in sections:
            if not isinstance(value, Mapping):
                raise NacreError(f"{key} is {value!r}; allowed: a JSON object")
            yield from ((f"{key}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield key, value


def as_switch(key: str, value: Any) -> bool:
    """A switch as files have written it: one published file says 1 for true."""
    words = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if isinstance(value, int | float) and value in (0, 1):  # bool among them
        return bool(value)
    raise NacreError(f"{key} is {json.dumps(value)}; allowed: true or false")


def check_fixed(values: Mapping[str, Any], fixed: Mapping[str, tuple[Any, str]]) -> None:
    """Raises NacreError if a key has another value than the one that is supported."""
    for key, (allowed, why) in fixed.items():
        if key in values and values[key] != allowed:
            raise NacreError(f"{key} is {json.dumps(values[key])}; allowed: {json.dumps(allowed)}, as {why}")
