"""As much of Ray as :mod:`nacre.workers` and :mod:`nacre.sweeps.cluster` use, in one process and without Ray: actors
answer when they are waited for.

`fault(actor, method, call)` decides the fate of a call: None: it is answered; "dies": the actor dies of it; "hangs": it
never answers. Actors and their calls of a method are counted from 0.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

Fault = Callable[[int, str, int], str | None]


class RayError(Exception):
    pass


class Reference:
    def __init__(self, answer: Callable[[], Any], *, hangs: bool = False):
        self._answer, self.hangs = answer, hangs
        self._done: list[Any] = []

    def value(self) -> Any:
        if not self._done:
            self._done.append(self._answer())
        return self._done[0]


class _Method:
    def __init__(self, actor: _Actor, name: str):
        self._actor, self._name = actor, name

    def options(self, **options: Any) -> _Method:
        return self

    def remote(self, *arguments: Any) -> Reference:
        return self._actor.call(self._name, arguments)


class _Actor:
    def __init__(self, ray: FakeRay, instance: Any, number: int):
        self._ray, self._instance, self.number = ray, instance, number
        self.is_dead = False
        self._calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def call(self, name: str, arguments: Sequence[Any]) -> Reference:
        number, self._calls[name] = self._calls[name], self._calls[name] + 1
        fate = self._ray.fault(self.number, name, number)
        self._ray.calls.append((self.number, name))

        def answer() -> Any:
            if fate == "dies" or self.is_dead:
                self.is_dead = True
                raise RayError(f"actor {self.number} died.\nMore of it.")
            read = [one.value() if isinstance(one, Reference) else one for one in arguments]
            return getattr(self._instance, name)(*read)

        return Reference(answer, hangs=fate == "hangs")


class FakeRay:
    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, fault: Fault = lambda *_: None):
        self.fault = fault
        self.calls: list[tuple[int, str]] = []
        """Actor and method of every call, in order."""
        self.killed: list[int] = []
        self.puts: list[Any] = []
        self._numbers = itertools.count()

    def remote(self, made: Any = None, **options: Any) -> Any:
        def actor_of(made: Any) -> Any:
            return SimpleNamespace(remote=lambda *given: _Actor(self, made(*given), next(self._numbers)))

        return actor_of if made is None else SimpleNamespace(options=lambda **options: actor_of(made))

    def put(self, value: Any) -> Reference:
        self.puts.append(value)
        return Reference(lambda: value)

    def wait(self, references: Sequence[Reference], *, num_returns: int = 1, timeout: float) -> Any:
        ready = [reference for reference in references if not reference.hangs][:num_returns]
        if not ready:
            time.sleep(timeout)
        return ready, [reference for reference in references if reference not in ready]

    def get(self, reference: Reference, *, timeout: float | None = None) -> Any:
        return reference.value()

    def kill(self, actor: _Actor) -> None:
        actor.is_dead = True
        self.killed.append(actor.number)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 3.0, "memory": 1e12}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}
