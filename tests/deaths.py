"""Death while a run writes its files."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from nacre import files


@contextlib.contextmanager
def watched(folder: Path, moment: Callable[[str, str], None]) -> Iterator[None]:
    """Calls `moment(kind, file name)` at every moment at which nacre changes a file in `folder`."""

    class Watched:
        def __init__(self, file: Any, name: str):
            self.file, self.name = file, name

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: Any) -> None:
            moment("before writing", self.name)
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            moment("half way through", self.name)
            self.file.write(content[len(content) // 2 :])
            self.file.flush()
            moment("after writing", self.name)

        def flush(self) -> None:
            self.file.flush()

        def fileno(self) -> int:
            return self.file.fileno()

    def watched_open(path: Path, mode: str = "r") -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        return Watched(file, path.name) if mode in ("wb", "ab") and path.is_relative_to(folder) else file

    replace, unlink, mkdir = os.replace, Path.unlink, Path.mkdir

    def watched_replace(source: Any, target: Any) -> None:
        if not Path(target).is_relative_to(folder):
            return replace(source, target)
        moment("before replacing", Path(target).name)
        replace(source, target)
        moment("after replacing", Path(target).name)

    def watched_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.is_relative_to(folder):
            moment("before removing", path.name)
        unlink(path, missing_ok)

    def watched_mkdir(path: Path, *args: Any, **named: Any) -> None:
        if path.is_relative_to(folder) and not path.exists():
            moment("before making", path.name)
        mkdir(path, *args, **named)

    with (
        mock.patch.object(files, "open", watched_open, create=True),
        mock.patch.object(os, "replace", watched_replace),
        mock.patch.object(Path, "unlink", watched_unlink),
        mock.patch.object(Path, "mkdir", watched_mkdir),
    ):
        yield
