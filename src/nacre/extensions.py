"""Modules of other people that make task families, algorithms and experiments of their own known.

They are imported if a command line names them (`--import`) or an installed package declares them (the entry point
group `nacre.plugins`). A run folder remembers those that were named, but nothing that a file names is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nacre.errors import NacreError

PLUGINS = "nacre.plugins"
"""The group of entry points; the value of each is a module."""

_imported: list[str] = []


def imported_modules() -> list[str]:
    """The modules that the command line named, in order."""
    return list(_imported)


def import_modules(names: Sequence[str]) -> None:
    """Imports modules by name, from the current folder too.

    Raises:
        NacreError: there is no such module, or its own code fails; the message says where.
    """
    folder = str(Path.cwd())
    if names and folder not in sys.path:
        sys.path.append(folder)
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module's own code may raise
            raise NacreError(_why_not_imported(name, error)) from error
        if name not in _imported:
            _imported.append(name)


def load_plugins() -> None:
    """Imports what installed packages declare. A package that cannot be imported is a warning."""
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # whatever the package's own code may raise
            warnings.warn(f"the plugin {entry.name} ({entry.value}) is left out: {_in_words(error)}", stacklevel=2)


def command(*words: str | int | Path) -> str:
    """A command line of nacre as one would type it, with the imports of this one."""
    imports = [word for name in _imported for word in ("--import", name)]
    return shlex.join(["nacre", *imports, *map(str, words)])


def check_known(path: Path, content: Any, *, is_family_needed: bool = True) -> None:
    """Checks that the task family and the algorithm of an experiment.json are known here.

    Args:
        path: the file, for the message.
        content: its JSON values; what has another form than an experiment.json is passed over.
        is_family_needed: whether the family has to be known.

    Raises:
        NacreError: one is unknown; the message has the command line that imports what the file remembers.
    """
    from nacre.agents import ALGORITHMS
    from nacre.tasks import is_family

    try:
        experiment, remembered = content["experiment"], content.get("imports") or ["MODULE"]
        asked: dict[str, tuple[Any, Callable[[str], bool]]] = {
            "algorithm": (experiment["algorithm"]["kind"], ALGORITHMS.__contains__)
        }
        if is_family_needed:
            asked = {"task family": (experiment["family"], is_family), **asked}
        example = " ".join(f"--import {shlex.quote(str(name))}" for name in remembered)
    except (AttributeError, KeyError, TypeError):
        return
    for what, (name, is_known) in asked.items():
        if isinstance(name, str) and not is_known(name):
            raise NacreError(
                f"{path} needs the {what} {name!r}, which is not known here: name the module that registers it, as in "
                f"nacre {example} COMMAND"
            )


def _why_not_imported(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None and (name + ".").startswith(error.name + "."):
        hint = "; the name of a module has no .py at its end" if name.endswith(".py") else ""
        return f"there is no module {name!r} to import, in {Path.cwd()} or among the installed packages{hint}"
    return f"the module {name!r} cannot be imported: {_in_words(error)}"


def _in_words(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
