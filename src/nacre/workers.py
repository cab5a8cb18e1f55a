"""Plays on worker processes, by Ray, what would otherwise be played in this one, and it becomes the same.

Each play is cut into parts of consecutive trials. What a trial becomes depends on its seed, its number, its task and
the parameters alone, so it does not matter which worker plays it, nor how often: the part of a worker that is lost is
simply played again.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre.collect import check_alike
from nacre.errors import NacreError, SimulationError, WorkersLostError
from nacre.interfaces import MOST_ROWS, Play, Played
from nacre.ray_cluster import Cluster, connected, lines_of
from nacre.tasks.family import TaskFamily
from nacre.worker import Begun, Failure, Progress, Worker, answer_of, begun_with, pack_params, pack_part
from nacre.worker_options import WorkerOptions

LOOK_EVERY = 0.5
"""Seconds between two looks at signals and deadlines while workers play."""
TO_BEGIN = 60.0
"""Seconds that a worker has for that, at least."""
MOST_LOSSES = 10
"""How often the same part may be lost with its worker until it is said to be the part's fault."""
MOST_FAILED_STARTS = 5
"""How many workers may be lost one after another before any has begun."""


@contextlib.contextmanager
def hired(family: TaskFamily, threads: int | None, options: WorkerOptions) -> Iterator[Workers | None]:
    """Workers for plays in a family, or None if none are asked for.

    Args:
        family: of the tasks.
        threads: of each worker's simulator, and processors that it takes on a cluster; None: one.
        options: how many, and where.

    Raises:
        NacreError: an option is impossible; Ray is not installed or the cluster does not answer; the worlds of the
            family remember across episodes, or it cannot be sent.
    """
    check_workers(family, options)
    if not options.workers:
        yield None
        return
    with connected(options.ray_address) as cluster:
        workers = Workers(cluster, begun_with(family, threads or 1), options)
        try:
            yield workers
        finally:
            workers.close()


def check_workers(family: TaskFamily, options: WorkerOptions) -> None:
    """Raises NacreError if there can be no such workers for a family."""
    options.check()
    if options.workers and family.remembers:
        raise NacreError(
            f"workers is {options.workers}; allowed for {family.name}: 0, as its environments remember across "
            "episodes, and each worker would remember something else"
        )


@dataclass
class _Part:
    """Consecutive trials of a play."""

    play: int
    """Index among the plays."""
    trials: range
    packed: bytes
    params: Any
    """Where Ray keeps what agents act with."""


class _Work:
    """Parts, and what has become of them."""

    def __init__(self, parts: Sequence[_Part]):
        self.parts = parts
        self.waiting = deque(range(len(parts)))
        """The indices of those that nobody plays."""
        self.results: dict[int, Played] = {}
        self._losses = Counter[int]()

    @property
    def is_done(self) -> bool:
        return len(self.results) == len(self.parts)

    def lose(self, index: int) -> int:
        """Lets a part wait again; returns how often it was lost."""
        self.waiting.appendleft(index)
        self._losses[index] += 1
        return self._losses[index]

    def results_of(self, play: int) -> list[Played]:
        """Those of the parts of a play, in order."""
        return [self.results[index] for index, part in enumerate(self.parts) if part.play == play]


@dataclass
class _Seat:
    """One of the workers that were asked for: whoever has its place now."""

    number: int
    actor: Any
    answer: Any
    """The reference to what it will answer, if it has something to do."""
    part: int | None = None
    """The index of what it plays; None: it begins, or rests."""
    place: Progress | None = None
    """Where it is; None: it has not begun."""
    steps: int = 0
    since: float = 0.0
    """When there was progress, the last time that one looked."""
    asked: Any = None
    """The reference to its progress, if it was asked for it."""

    def __str__(self) -> str:
        where = "" if self.place is None else f" (process {self.place.process} on {self.place.machine})"
        return f"worker {self.number}{where}"


class WorkerTraceback(Exception):
    """Where in a worker an error was raised: the cause of that error."""


class Workers:
    """Long-lived workers on Ray, each with simulators of its own."""

    def __init__(self, cluster: Cluster, begun: Begun, options: WorkerOptions):
        """Use :func:`hired`."""
        self._cluster, self._ray = cluster, cluster.ray
        self._begun, self._number = begun, options.workers
        self.timeout = options.worker_timeout
        """How many seconds a worker may make no step, and how many one waits if there is none."""
        self.say: Callable[[str], object] = lambda text: None
        """Is told what becomes of workers."""
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether the process was asked to stop: it then waits for no new workers."""
        self.broadcasts = 0
        """How often parameters were sent."""
        self._references: dict[bytes, Any] = {}
        self._failed_starts = 0
        self._last_loss = ""
        self._began_waiting = time.monotonic()
        self._seats = [self._new_seat(number) for number in range(1, self._number + 1)]

    def __str__(self) -> str:
        return f"{self._number} worker(s) on {self._cluster}"

    def play(self, plays: Sequence[Play]) -> list[Played]:
        """Plays what several seeds ask for; see :func:`nacre.collect.play_together`.

        Raises:
            ValueError: the plays differ in more than their seeds, tasks, parameters and beliefs.
            SimulationError: a quantity is not finite; `part` is the index of the play that it belongs to, and `slot` is
                counted in that play.
            WorkersLostError: there is no worker, or the same trials were lost again and again.
            Exception: what else a worker raised.
        """
        check_alike(plays)
        work = _Work(self._cut(plays))
        for seat in self._seats:
            if seat.part is not None:  # an earlier call ended with an error
                self._replace(seat)
        self._began_waiting = time.monotonic()
        while not work.is_done:
            for seat in self._seats:
                if seat.answer is None and work.waiting:
                    self._send(seat, work.waiting.popleft(), work)
            for seat in self._answered():
                self._receive(seat, work)
            self._look_after(work)
            self._check_any_is_there()
        return [_joined(work.results_of(play)) for play in range(len(plays))]

    def close(self) -> None:
        """Ends the workers."""
        for seat in self._seats:
            self._end(seat)
        self._seats, self._references = [], {}

    def _cut(self, plays: Sequence[Play]) -> list[_Part]:
        """The parts of plays, about as many for each worker, of which each fits into one call of the agent."""
        n = len(plays[0].tasks)
        each = self._number // math.gcd(self._number, len(plays))
        number = min(n, each * math.ceil(n / (MOST_ROWS * each)))
        packed = [pack_params(play.params) for play in plays]
        self.broadcast(packed)
        return [
            _Part(
                index, range(trials[0], trials[-1] + 1), pack_part(play.part(trials.tolist())), self._references[params]
            )
            for index, (play, params) in enumerate(zip(plays, packed, strict=True))
            for trials in np.array_split(np.arange(n), number)
        ]

    def broadcast(self, packed: Sequence[bytes]) -> None:
        """Gives Ray what agents act with (see :func:`nacre.worker.pack_params`), unless it has it from the latest call,
        and lets it forget what was before."""
        references = {}
        for params in packed:
            if params not in self._references:
                self.broadcasts += 1
                self._references[params] = self._ray.put(params)
            references[params] = self._references[params]
        self._references = references

    def _new_seat(self, number: int) -> _Seat:
        threads = self._begun.threads
        environment = {
            "JAX_PLATFORMS": "cpu",  # a GPU belongs to the process that learns
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), str(threads)),
        }
        # On a Ray of our own workers are all there is: none of them has to wait until the processor of one that was
        # lost is given back.
        cpus = 0 if self._cluster.is_own else threads
        actor_of = self._ray.remote(
            num_cpus=cpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"progress": 1},
            runtime_env={"env_vars": environment},
        )
        actor = actor_of(Worker).remote(tuple(self._begun))
        return _Seat(number, actor, actor.begin.remote(), since=time.monotonic())

    def _send(self, seat: _Seat, index: int, work: _Work) -> None:
        seat.part, seat.since = index, time.monotonic()
        seat.answer = seat.actor.play.remote(work.parts[index].packed, work.parts[index].params)

    def _answered(self) -> list[_Seat]:
        """Those that have answered, or will not answer any more."""
        busy = {seat.answer: seat for seat in self._seats if seat.answer is not None}
        ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=LOOK_EVERY)
        also, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        return [busy[answer] for answer in dict.fromkeys([*ready, *also])]

    def _receive(self, seat: _Seat, work: _Work) -> None:
        """Takes what a worker answered. If it is lost, another has its place, and its part waits again."""
        try:
            answer = answer_of(self._ray.get(seat.answer, timeout=self.timeout))
        except self._ray.exceptions.RayError as error:
            self._lose(seat, _in_words(error), work)
            return
        index, seat.answer, seat.part = seat.part, None, None
        if isinstance(answer, Failure):
            part = None if index is None else work.parts[index]
            raise _raised(answer, seat, part) from WorkerTraceback(answer.where)
        if index is None:
            seat.place, seat.steps = answer, answer.steps
            self._failed_starts = 0
        else:
            work.results[index] = answer

    def _look_after(self, work: _Work) -> None:
        """Asks those that play how far they are, and replaces those that have made no step for too long.

        On a cluster, one that has not begun may wait for a processor, for as long as others play.
        """
        now = time.monotonic()
        for seat in self._seats:
            if seat.part is None:
                begins = seat.answer is not None and self._cluster.is_own
                if begins and now - seat.since > self._seconds_to_begin:
                    self._lose(seat, f"it did not begin within {self._seconds_to_begin:g} s", work)
                continue
            if now - seat.since > min(self.timeout / 4, 5.0):
                self._ask(seat)
            if now - seat.since > self.timeout:
                self._kill(seat)
                self._lose(seat, f"it made no step for {self.timeout:g} s", work)

    def _ask(self, seat: _Seat) -> None:
        if seat.asked is None:
            seat.asked = seat.actor.progress.options(concurrency_group="progress").remote()
            return
        ready, _ = self._ray.wait([seat.asked], timeout=0)
        if not ready:
            return
        with contextlib.suppress(self._ray.exceptions.RayError):  # then it is lost, and its answer says so
            progress = Progress(*self._ray.get(seat.asked, timeout=self.timeout))
            if progress.steps != seat.steps:
                seat.steps, seat.since = progress.steps, time.monotonic()
        seat.asked = None

    def _kill(self, seat: _Seat) -> None:
        """Ends a process that is frozen, and so does not hear Ray."""
        if self._cluster.is_own and seat.place is not None:  # the process is one of this machine, and still there
            with contextlib.suppress(OSError):
                os.kill(seat.place.process, signal.SIGKILL)

    def _lose(self, seat: _Seat, why: str, work: _Work) -> None:
        """Puts another worker in the place of one that is lost."""
        self._last_loss = why
        if seat.place is None:
            self._failed_starts += 1
        self._replace(seat)
        again = "another takes its place" if seat.part is None else "what it played is played again"
        self.say(f"{seat} is lost: {why}; {again}")
        if seat.part is not None:
            self._check_losses(work.lose(seat.part), work.parts[seat.part])

    def _replace(self, seat: _Seat) -> None:
        self._end(seat)
        self._seats[seat.number - 1] = self._new_seat(seat.number)

    def _end(self, seat: _Seat) -> None:
        with contextlib.suppress(Exception):  # Ray may have gone
            self._ray.kill(seat.actor)

    def _check_losses(self, losses: int, part: _Part) -> None:
        if losses >= MOST_LOSSES:
            self._cluster.keeps_folder = True
            raise WorkersLostError(
                f"{losses} workers were lost one after another while they played the same trials "
                f"({part.trials.start} to {part.trials.stop - 1}): {self._last_loss}{self._logs()}"
            )

    def _check_any_is_there(self) -> None:
        """Raises WorkersLostError if there has been no worker for too long."""
        now = time.monotonic()
        if any(seat.place is not None for seat in self._seats):
            self._began_waiting = now
            return
        waited = now - self._began_waiting
        fails = self._failed_starts >= MOST_FAILED_STARTS
        if waited > self._seconds_to_begin or fails or self.is_stopping():
            self._cluster.keeps_folder = fails
            reason = f"; the last one was lost: {self._last_loss}" if self._last_loss else ""
            raise WorkersLostError(
                f"no worker could be had in {waited:.0f} s: {self._number} were asked for on {self._cluster}, "
                f"which {self._resources()}{reason}{self._logs() if fails else ''}"
            )

    @property
    def _seconds_to_begin(self) -> float:
        return max(self.timeout, TO_BEGIN)

    def _resources(self) -> str:
        try:
            all_of_them = self._ray.cluster_resources().get("CPU", 0)
            free = self._ray.available_resources().get("CPU", 0)
        except Exception:  # Ray may have gone
            return "does not answer"
        return f"has {all_of_them:g} processor(s), {free:g} of them free"

    def _logs(self) -> str:
        return "" if self._cluster.folder is None else f"; Ray's logs: {self._cluster.folder}"


def _joined(parts: Sequence[Played]) -> Played:
    """A play of its parts."""
    if len(parts) == 1:
        return parts[0]
    trials = [trial for part in parts for trial in part.trials]
    return Played(trials, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part.belief for part in parts)))


def _raised(failure: Failure, seat: _Seat, part: _Part | None) -> Exception:
    """The error of a worker, as it would be raised without one."""
    error = failure.error
    if isinstance(error, SimulationError) and part is not None:
        return error.moved(slot=part.trials[error.slot], part=part.play, worker=str(seat))
    error.add_note(f"It was raised in {seat}.")
    return error


def _in_words(error: BaseException) -> str:
    """The first line of an error of Ray; the last one if the worker could not be made, as that says why."""
    lines = lines_of(error)
    return lines[-1 if "creation task" in lines[0] else 0].rstrip(".")
