"""Files that survive a kill at any moment, and say so when something else has damaged them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nacre.errors import NacreError

_LEFTOVER = ".tmp"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file such that at every moment either its old or its new content is there in full.

    The content goes to a temporary file in the same folder, to the disk, and only then under its name.

    Raises:
        NacreError: the disk is full, the folder is read-only or the like; the old content is untouched.
    """
    temporary = path.with_name(path.name + _LEFTOVER)
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
        raise cannot("write", path, error) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's list of names durable: without it a power cut may undo a rename or a deletion."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents where they are missing.

    Raises:
        NacreError: that is not possible.
    """
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
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of a writer that was killed."""
    return list(folder.glob(f"*{_LEFTOVER}"))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = False) -> None:
    """Writes arrays by name, atomically, with the checksums of the zip format.

    Raises:
        NacreError: as :func:`write_atomically`.
    """
    buffer = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getbuffer())


def read_npz(path: Path, only: str | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays that :func:`write_npz` wrote, or `only` one of them, and verifies their checksums.

    Raises:
        NacreError: the file is missing, cannot be read, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [f"{only}.npy"] if only is not None else archive.namelist()
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in names
            }
    except FileNotFoundError:
        raise NacreError(f"{path} does not exist") from None
    except OSError as error:
        raise cannot("read", path, error) from error
    except Exception as error:  # a damaged zip file raises any of half a dozen kinds, from struct.error to EOFError
        raise NacreError(f"{path} is damaged, or was not written by nacre: {error}") from error


def cannot(verb: str, path: Path, error: OSError) -> NacreError:
    """The error to raise where the system refuses a file operation."""
    return NacreError(f"cannot {verb} {path}: {error.strerror or error}")
