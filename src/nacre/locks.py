"""Locks on folders: one process at a time writes a run, and it notices when the folder is moved or removed under it.

The lock is the system's, on the folder itself, and ends with the process. Some network file systems have no such locks,
or keep them to one machine. So a file in the folder also says who writes there, and a process that finds another one's
name warns. :mod:`nacre.files` checks before each write that the path still leads to the folder that is locked.
"""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nacre.errors import NacreError
from nacre.extensions import command

SIGNATURE = ".nacre-lock"
"""The file in a locked folder that names the process and its machine."""


@dataclass(frozen=True)
class Lock:
    """A folder that this process alone may write.

    Fields: `folder` (as the user named it), `descriptor` (the open folder, wherever it is moved), `is_sure` (off
    if the file system has no locks) and `what` is written there, for messages: a run or a sweep.
    """

    folder: Path
    descriptor: int
    is_sure: bool
    what: str = "run"

    def check(self) -> None:
        """Raises NacreError if the path does not lead to this folder any more; the message says where it is."""
        try:
            there = os.stat(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            there = None
        except OSError as error:
            raise NacreError(f"cannot reach {self.folder}: {error.strerror}; the {self.what} has stopped") from error
        if there is not None and os.path.samestat(there, os.fstat(self.descriptor)):
            return
        place = _place(self.descriptor)
        if place is None:
            raise NacreError(
                f"{self.folder} was removed while this process wrote in it: the {self.what} has stopped, and what it "
                "had written is gone"
            )
        again = command("resume", place) if self.what == "run" else f"the same {self.what}, with the new folder"
        raise NacreError(
            f"{self.folder} was moved to {place} while this process wrote in it: the {self.what} has stopped, and what "
            f"it had written is there; continue with: {again}"
        )

    def sign(self, *, is_new: bool = False) -> None:
        """Writes into the folder who locks it. That no signature can be written is no error.

        `is_new`: the folder is to become a run. Where locks are not sure, another process's signature is then an error.

        Raises:
            NacreError: another process makes a run here.
        """
        other = self._other()
        if other is not None and is_new and not self.is_sure:
            raise NacreError(f"{self.folder} is being made by {other}; if that has ended, remove the folder")
        if other is not None and not is_new:
            warnings.warn(
                f"{self.folder} was last written by {other}, which did not say that it has ended: if it still runs, "
                "stop one of the two",
                stacklevel=2,
            )
        with contextlib.suppress(OSError):
            os.unlink(SIGNATURE, dir_fd=self.descriptor)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(SIGNATURE, flags, 0o666, dir_fd=self.descriptor), "w", encoding="utf-8") as file:
                file.write(_own_signature())
        except FileExistsError:
            raise NacreError(f"{self.folder} was just taken by another process") from None
        except OSError:
            pass

    def unsign(self) -> None:
        """Removes this process's signature, wherever the folder is now."""
        with contextlib.suppress(OSError):
            if self._signature() == _own_signature():
                os.unlink(SIGNATURE, dir_fd=self.descriptor)

    def _signature(self) -> str:
        try:
            with open(os.open(SIGNATURE, os.O_RDONLY, dir_fd=self.descriptor), encoding="utf-8") as file:
                return file.read()
        except (OSError, ValueError):
            return ""

    def _other(self) -> str | None:
        """The process that the signature names, if it is another one and may be at work."""
        process, _, machine = self._signature().strip().partition(" ")
        if not machine or not process.isdecimal() or int(process) == os.getpid():
            return None
        # A process of this machine would hold the lock, if there are locks.
        if machine == platform.node() and (self.is_sure or not _is_alive(int(process))):
            return None
        return f"process {process} on {machine}"


_held: list[Lock] = []


@contextlib.contextmanager
def lock(folder: Path, what: str = "run") -> Iterator[Lock]:
    """Keeps other processes from locking a folder, and has every write in it checked. Nothing is written.

    A killed process keeps nobody out. `what` is as in :class:`Lock`.

    Raises:
        NacreError: another process has locked it; there is no such folder, or it cannot be opened.
    """
    if not hasattr(os, "O_DIRECTORY"):
        raise NacreError(
            f"{folder} cannot be locked on this system; allowed: runs are written on Linux and macOS, and in Windows' "
            "Subsystem for Linux"
        )
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NacreError(f"{folder} does not exist") from None
    except NotADirectoryError:
        raise NacreError(f"{folder} is not a folder") from None
    except OSError as error:
        raise NacreError(f"cannot open {folder}: {error.strerror}") from error
    try:
        held = Lock(folder, descriptor, _lock(folder, descriptor), what)
        held.check()  # it may have been removed between the two
        _held.append(held)
        try:
            yield held
        finally:
            _held.remove(held)
            held.unsign()
    finally:
        os.close(descriptor)


def check_place(path: Path) -> None:
    """To be called before a write: raises NacreError if `path` is in a locked folder that was moved or removed."""
    for held in _held:
        if path.is_relative_to(held.folder):
            held.check()


def claim(path: Path) -> int | None:
    """Makes a file for this process alone, or takes over one that a process has left that has ended.

    Returns:
        its descriptor, which keeps others out until it is closed; None: another process has it. Where the system has no
        locks, any file that is there is another's.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        try:
            descriptor, is_new = _opened(path)
        except PermissionError:
            if path.exists():  # it is another user's
                return None
            raise
        try:
            if not _is_locked(descriptor) and not is_new:
                os.close(descriptor)
                return None
        except BlockingIOError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # its owner has removed or renamed it in between


def _opened(path: Path) -> tuple[int, bool]:
    """The file, open to be written, and whether it was not there before."""
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), True
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY), False


def _lock(folder: Path, descriptor: int) -> bool:
    """Whether the lock is sure. Raises NacreError if another process has it."""
    try:
        return _is_locked(descriptor)
    except BlockingIOError:
        raise NacreError(f"{folder} is being trained by another process") from None


def _is_locked(descriptor: int) -> bool:
    """Locks an open file or folder; returns whether there are locks. BlockingIOError: another process has it."""
    try:
        import fcntl  # here: who only reads runs does so on systems that do not have it

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _place(descriptor: int) -> str | None:
    """Where an open folder is now; None: it is gone, or the system does not tell."""
    try:
        if os.path.exists(f"/proc/self/fd/{descriptor}"):
            place = os.readlink(f"/proc/self/fd/{descriptor}")
        else:
            import fcntl

            path = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))  # pyright: ignore[reportAttributeAccessIssue]
            place = os.fsdecode(path.rstrip(b"\0"))
        return place if os.path.samestat(os.stat(place), os.fstat(descriptor)) else None
    except (ImportError, AttributeError, OSError):
        return None


def _own_signature() -> str:
    return f"{os.getpid()} {platform.node()}\n"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
