"""Reads the JSON configuration files of the original code of PEARL, CEMRL and DMRLAD, and the gin files of MELD's.

A file overwrites, key by key, the old code's defaults; what comes out is a complete experiment of ours and
messages about the keys that changed or lost their meaning. `docs/old-configs.md` has the whole tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacre.agents.pearl.config import PearlConfig
from nacre.errors import NacreError
from nacre.experiments.configuration_files import FromFile, naming, read_values
from nacre.experiments.experiment import Experiment
from nacre.experiments.limits import validate_read
from nacre.original import cemrl_configs
from nacre.original.cemrl_configs import CEMRL
from nacre.original.keys import CodeBase, in_old_words
from nacre.original.meld_configs import read_gin_config
from nacre.original.pearl_configs import PEARL


def read_old_config(
    path: str | Path, ignore_unknown: bool = False, of_run: bool = False
) -> tuple[Experiment, list[str]]:
    """Reads a configuration file of an original code base, which its keys tell.

    Args:
        path: the file.
        ignore_unknown: whether keys that are not known are left out, with a message for each.
        of_run: whether it is that of a run whose networks are there. Its agent then is as it was, with the deviations
            of the old code, and with which networks the run began does not matter.

    Returns:
        the experiment (its values are not validated yet), and one message for each key of the file that was
        translated into something else than a field, or has no meaning any more.

    Raises:
        NacreError: the file cannot be read, keys are unknown, or a value asks for something that is not there; the
            message names the file, and keys as they are in it.
    """
    content = read_values(Path(path))
    code_base = code_base_of(content)
    try:
        return code_base.translate(content, ignore_unknown, of_run)
    except NacreError as error:
        raise naming(Path(path), NacreError(in_old_words(str(error), code_base.fields))) from None


def read_old_gin(paths: Sequence[Path], ignore_unknown: bool = False) -> FromFile:
    """Reads gin files, of which later ones win: one original code base has such files."""
    return read_gin_config(paths, ignore_unknown)


def validate_old(path: str | Path, read: Experiment, changed: Experiment) -> None:
    """Checks what became of an old configuration.

    Args:
        path: the file.
        read: the experiment that it gave.
        changed: the same, perhaps with other values.

    Raises:
        NacreError: a value is impossible; if it is the file's, the message names the file, and keys as they are in it.
    """
    code_base = PEARL if isinstance(read.algorithm, PearlConfig) else CEMRL
    validate_read(
        read, changed, lambda wrong: str(naming(Path(path), NacreError(in_old_words(wrong, code_base.fields))))
    )


def code_base_of(content: Any) -> CodeBase:
    """Whose configuration it is: CEMRL's and DMRLAD's have keys or environments that PEARL's have not."""
    return CEMRL if isinstance(content, Mapping) and cemrl_configs.is_own(content) else PEARL
