"""Ray: one of its own that is started on this machine and stopped afterwards, or a cluster that is there already.

Nothing here knows what Ray is used for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacre.errors import NacreError, shown
from nacre.signals import SIGNALS

OBJECT_STORE = 256 * 2**20
"""Bytes of the shared memory of a Ray of our own: what is sent and not fetched yet. If it is full, files take more."""
SECONDS_TO_ANSWER = 10.0
"""In which the head of a cluster has to accept a connection."""
LONGEST_FOLDER = 40
"""Characters of a temporary folder: the paths of Ray's sockets in it may have 107, and need the rest."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # whoever asks for no GPU hides it by himself, and Ray warns of nothing
    "RAY_worker_niceness": "0",  # with Ray's own, 15, whatever else runs on a machine comes first
}
"""What Ray reads when it is imported or started, unless the user has set it."""


@dataclass
class Cluster:
    """Ray, connected."""

    ray: Any
    """The module."""
    address: str | None
    """Of a cluster that was there; None: it was started here."""
    folder: Path | None = None
    """Ray's logs are in it, if it was started here."""
    keeps_folder: bool = False
    """Whether the folder stays: set it if the logs may explain an error."""

    @property
    def is_own(self) -> bool:
        """Whether it was started here, for this purpose alone."""
        return self.folder is not None

    def __str__(self) -> str:
        return "this machine" if self.address is None else f"the Ray cluster at {self.address}"


def import_ray(*, private: bool = False) -> Any:
    """The module ray, which reads its settings when it is imported.

    `private`: a Ray of our own may be started, which should obey this process alone.

    Raises:
        NacreError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if private and "ray" not in sys.modules:
        _make_private()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("ray")
    except ImportError as error:
        raise NacreError(
            f"Ray is needed and cannot be imported ({error}); install the extra: pip install '.[cluster]' in a clone"
        ) from error


@contextlib.contextmanager
def connected(address: str | None = None, cpus: int = 1) -> Iterator[Cluster]:
    """Connects to Ray, and disconnects at the end; a Ray that was started here is then stopped with all its processes.

    If this process is connected already, because its user or Ray itself did that, the connection is used, and stays.
    Handlers of signals stay as they were, although Ray would set its own.

    Args:
        address: HOST:PORT of a cluster's head, or "auto": the one that runs on this machine. None: a Ray of our own.
        cpus: processors that a Ray of our own gives away. It starts a process for each at once.

    Raises:
        NacreError: Ray is not installed, cannot be started, or the cluster does not answer.
    """
    global _connected
    ray = import_ray(private=address is None)
    if ray.is_initialized():
        yield _connected or Cluster(ray, address or ray.get_runtime_context().gcs_address)
        return
    cluster = _start(ray, cpus) if address is None else _join(ray, address)
    _connected = cluster
    try:
        yield cluster
    finally:
        _connected = None
        _stop(cluster)


_connected: Cluster | None = None
"""What this module has connected to."""


def _start(ray: Any, cpus: int) -> Cluster:
    folder = _short_folder()
    cluster = Cluster(ray, None, folder)
    # A head that RAY_ADDRESS names is not meant: hence address="local".
    options = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "_temp_dir": str(folder)}
    try:
        _initialise(ray, address="local", include_dashboard=False, **options)
    except Exception as error:  # of whatever kind: Ray has many
        cluster.keeps_folder = True
        _stop(cluster)
        raise NacreError(f"Ray cannot be started on this machine: {lines_of(error)[0]}; its logs: {folder}") from error
    except BaseException:
        _stop(cluster)
        raise
    return cluster


def _join(ray: Any, address: str) -> Cluster:
    _check_answers(address)
    cluster = Cluster(ray, address)
    try:
        _initialise(ray, address=address)
    except Exception as error:
        _stop(cluster)
        raise NacreError(
            f"cannot join the Ray cluster at {address}: {lines_of(error)[0]}; all machines need the same version of "
            "Ray, and the same RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH"
        ) from error
    except BaseException:
        _stop(cluster)
        raise
    return cluster


def _initialise(ray: Any, **options: Any) -> None:
    with _signals_as_they_are(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside JAX's threads, and of Ray's own future
        ray.init(logging_level="ERROR", log_to_driver=False, **options)


def _stop(cluster: Cluster) -> None:
    with _signals_as_they_are(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster.ray.shutdown()
    if cluster.folder is not None and not cluster.keeps_folder:
        shutil.rmtree(cluster.folder, ignore_errors=True)


@contextlib.contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Gives signals the handlers back that they had before.

    Processes that are started meanwhile do not hear SIGINT and SIGHUP: Ctrl-C and the end of a terminal reach all
    processes of the terminal, and it is the one that trains which decides what becomes of the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    blocks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM}) if blocks else set()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_token: tempfile.TemporaryDirectory[str] | None = None


def _make_private() -> None:
    """Makes a token of this process: Ray listens on every network of the machine. It stays the same until the process
    ends, as Ray reads it once. Nothing is changed if the user has said how Ray authenticates."""
    global _token
    if "RAY_AUTH_MODE" in os.environ:
        return
    _token = tempfile.TemporaryDirectory(prefix="nacre-token-", ignore_cleanup_errors=True)
    path = Path(_token.name) / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _short_folder() -> Path:
    for parent in (tempfile.gettempdir(), "/tmp"):
        path = Path(tempfile.mkdtemp(prefix="nacre-ray-", dir=parent))
        if len(str(path)) <= LONGEST_FOLDER:
            return path
        path.rmdir()
    return Path(tempfile.mkdtemp(prefix="nacre-ray-"))  # a system without /tmp


def _check_answers(address: str) -> None:
    """Raises NacreError unless something listens there: Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host or not host:
        raise NacreError(f"ray_address is {shown(address)}; allowed: HOST:PORT of a cluster's head, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise NacreError(f"no Ray cluster answers at {address}: {reason}; is its head running?") from error


def lines_of(error: BaseException) -> list[str]:
    """What an error of Ray says, without empty lines; the name of its class if it says nothing."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
