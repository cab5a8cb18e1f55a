"""Which run a file is of: each run has a name, drawn at random when it is made, and its files carry its stamp.

A stamp is the name and a digest of the configuration and the tasks. A file of another run is refused, even if its
arrays have the same sizes; so is one that was written under a configuration that experiment.json does not have any
more.
Runs of earlier versions have no name, and their files no stamp.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from nacre.errors import NacreError
from nacre.experiments.experiment import ADDED_LATER, Experiment
from nacre.tasks.family import TaskSplit

WITHOUT_EFFECT = ("iterations", "threads", "device", "update_chunk", "checkpoint_every", "keep_checkpoints")
"""Fields that say how long and where a run goes on, and not what it learns: they may change on the way."""


def new_name() -> str:
    """The name of a new run. It comes from no generator that a seed governs."""
    return secrets.token_hex(8)


def stamp_of(name: str, experiment: Experiment, split: TaskSplit) -> str:
    """What the files of a run carry.

    A field that a later version adds changes no stamp as long as it has the value that stands for what earlier versions
    did.
    """
    outer = {key: value for key, value in dataclasses.asdict(experiment).items() if key not in WITHOUT_EFFECT}
    inner = _without(outer.pop("algorithm"), experiment.algorithm.added_later)
    content = [_without(outer, ADDED_LATER), inner, split.train.tolist(), split.test.tolist()]
    return f"{name}-{checksum(content)[:16]}"


def checksum(content: Any) -> str:
    """Of JSON values, however they are laid out in a file."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))  # NaN may be in what is read, and be refused
    return hashlib.sha256(text.encode()).hexdigest()


def check_stamp(what: Any, found: Any, expected: str | None) -> None:
    """Raises NacreError if `what`, a file with the stamp `found`, is not of the run with the stamp `expected`."""
    if found == expected:
        return
    if isinstance(found, str) and expected is not None and found.partition("-")[0] == expected.partition("-")[0]:
        raise NacreError(
            f"{what} was written under another configuration, or with other tasks, than experiment.json has now"
        )
    raise NacreError(f"{what} is of another run than experiment.json")


def _without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
