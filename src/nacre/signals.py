"""Signals that ask a process to end: collected, so that it can save first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, `kill`, and the end of a terminal or of a connection. Windows has no SIGHUP."""


@contextlib.contextmanager
def collecting(announce: Callable[[], None]) -> Iterator[list[int]]:
    """Collects signals instead of being ended by them; a second one of a kind acts at once, so that a second Ctrl-C
    raises KeyboardInterrupt.

    A signal that is ignored stays so: `nohup` wants a process to outlive its terminal. Outside the main thread signals
    are someone else's business, and none is collected.

    Args:
        announce: is called in the signal handler.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        announce()

    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    previous: dict[int, Any] = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
