"""Files that survive a kill at any moment, and say so when something else has damaged them."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import NacreError
from nacre.locks import check_place, claim

_LEFTOVER = ".tmp"
LARGEST_TEXT = 2**28
"""Bytes of a file of text that is read at once: beyond, it is a slip, or a device that never ends."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file such that at every moment either its old or its new content is there in full.

    The content goes to a temporary file in the same folder, to the disk, and only then under its name.

    Raises:
        NacreError: the disk is full, the folder is read-only or the like; the old content is untouched. Or the path is
            in a folder that this process has locked, and that was moved or removed.
    """
    check_place(path)
    temporary = temporary_name(path)
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        check_place(path)  # it may have been moved just now
        raise cannot("write", path, error) from error


def append_durably(path: Path, content: bytes, *, is_new: bool) -> None:
    """Adds to a file, and brings it to the disk. A kill in between leaves a part of the content.

    `is_new`: whether the file may be missing. One that should be there is not made anew.

    Raises:
        NacreError: as :func:`write_atomically`, or the file is missing.
    """
    check_place(path)
    try:
        if not is_new and not path.exists():
            raise FileNotFoundError(errno.ENOENT, "it was removed while the run wrote it")
        with open(path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        check_place(path)
        raise cannot("write", path, error) from error


def temporary_name(path: Path) -> Path:
    """Under which name :func:`write_atomically` writes the content."""
    return path.with_name(path.name + _LEFTOVER)


def reserve(path: Path) -> int | None:
    """Takes the name of a file that :func:`write_atomically` will write, before the work that goes into it.

    What keeps others out is its temporary file, which is locked: one that a killed process has left is taken over.

    Returns:
        what :func:`release` needs to give the name back; None: another process has it.

    Raises:
        OSError: the file could not be written.
    """
    descriptor = claim(temporary_name(path))
    if descriptor is not None and path.exists():  # another process has written it in between
        release(path, descriptor)
        return None
    return descriptor


def release(path: Path, descriptor: int) -> None:
    """Gives a reserved name back, whether it was used or not."""
    with contextlib.suppress(OSError):
        temporary_name(path).unlink()
    os.close(descriptor)


def writable(path: Path) -> Path:
    """The path of a file, after making its folder and before the minutes of work that go into it.

    Raises:
        NacreError: it cannot be written.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise NacreError(f"{path} is a folder; allowed: the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise NacreError(f"cannot write {path}: its folder is read-only")
    return path


def sync_folder(folder: Path) -> None:
    """Makes the folder's list of names durable: without it a power cut may undo a rename or a deletion."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents if they are missing.

    Raises:
        NacreError: that is not possible.
    """
    check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot("make the folder", folder, error) from error


def remove(paths: list[Path]) -> None:
    """Removes files.

    Raises:
        NacreError: that is not possible.
    """
    for path in paths:
        check_place(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error


def set_aside(path: Path) -> Path:
    """Gives a damaged file another name beside its own, and returns that.

    Raises:
        NacreError: that is not possible.
    """
    check_place(path)
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        path.rename(aside)
    except OSError as error:
        raise cannot("rename", path, error) from error
    return aside


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of a writer that was killed."""
    return list(folder.glob(f"*{_LEFTOVER}"))


def check_is_file(path: Path) -> None:
    """Raises NacreError if a path is missing, or something else than a file: opening a pipe waits for its writer."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise cannot("read", path, error) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder makes its own error
        raise NacreError(f"{path} is a pipe or a device; allowed: a file")


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """A file of text, UTF-8. A byte-order mark is passed over.

    Raises:
        NacreError: the file is missing, cannot be read, is no text, or has more than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise NacreError(f"{path} has more than {most} bytes; allowed: at most so many")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise cannot("read", path, error) from error
    except UnicodeDecodeError:
        raise NacreError(f"{path} is not text") from None


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text.

    Raises:
        ValueError: it is no JSON, or Python has no room for it; the message goes on from its name.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("is not text") from None
    except ValueError:
        raise ValueError("is not JSON: a number has too many digits") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = False) -> None:
    """Writes arrays by name, atomically, with the checksums of the zip format.

    Raises:
        NacreError: as :func:`write_atomically`.
    """
    write_atomically(path, npz(arrays, compress=compress))


def npz(arrays: Mapping[str, np.ndarray], *, compress: bool = False) -> memoryview:
    """What :func:`write_npz` writes."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()


def read_npz(path: Path, only: str | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays that :func:`write_npz` wrote, or `only` one of them, and verifies their checksums.

    Raises:
        NacreError: the file is missing, cannot be read, or is damaged.
    """
    if not path.exists():
        raise NacreError(f"{path} does not exist")
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [f"{only}.npy"] if only is not None else archive.namelist()
            size = sum(archive.getinfo(name).file_size for name in names)
            if size > memory_of_machine():
                raise ValueError(f"its arrays are said to have {size} bytes, which no memory here holds")
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in names
            }
    except OSError as error:
        raise cannot("read", path, error) from error
    except Exception as error:  # a damaged zip file raises any of half a dozen kinds, from struct.error to EOFError
        raise NacreError(f"{path} is damaged, or was not written by nacre: {error}") from error


def memory_of_machine() -> float:
    """Bytes of memory of this machine, or of the container; infinity if neither says."""
    limits = [math.inf]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # on a system that is not POSIX
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # of a container
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return float(min(limits))


def in_words(size: float) -> str:
    """A number of bytes for people."""
    if not math.isfinite(size):
        return "more memory than any machine has"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def cannot(verb: str, path: Path, error: OSError) -> NacreError:
    """The error to raise if the system refuses a file operation."""
    return NacreError(f"cannot {verb} {path}: {error.strerror or error}")
