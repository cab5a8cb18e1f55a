"""The loop of a sweep: begins runs as there is room, goes on with those that were killed, and compares them at the end.

What is known of a run is in its folder alone, so a sweep that is started again takes up what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nacre.errors import Interrupted, NacreError, shown
from nacre.experiments import Experiment
from nacre.experiments.experiment import to_json
from nacre.files import in_words, make_folder, parse_json, read_text, write_atomically
from nacre.identity import WITHOUT_EFFECT
from nacre.locks import lock
from nacre.logs import CSV, read_progress_csv
from nacre.protocol import TEST_RETURN
from nacre.run_folder import CHECKPOINTS, read_run
from nacre.signals import collecting
from nacre.sweeps.board import Board, Progress, State
from nacre.sweeps.job import has_begun
from nacre.sweeps.processes import SAVED, Job, ThisMachine, Workplace
from nacre.sweeps.resources import estimates, most_at_once, of_machine
from nacre.sweeps.specification import Planned, Specification, specify

RECORD = "sweep.json"
ENDED_EARLY = "ended-early.json"
"""The names of runs that others were ahead of."""
LOGS = "logs"
_POLL_SECONDS = 0.2
_CHECKPOINT = re.compile(r"iteration_(\d{6,})\.npz")


class Part(NamedTuple):
    """The runs that this process trains, of those of the sweep: every `of`-th one, from the `number`-th on."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Part()


def parse_part(text: str) -> Part:
    """`2/10` as the second of ten parts.

    Raises:
        NacreError: it is none.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise NacreError(f"part is {shown(text)}; allowed: K/N, such as 2/10, with K from 1 to N")
    return Part(int(match[1]), int(match[2]))


def sweep(
    experiments: Sequence[str | Experiment | Mapping[str, Any]],
    out: Path | str,
    *,
    seeds: int | Sequence[int] = 1,
    fixed: Mapping[str, Any] | None = None,
    values: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, Any] | None = None,
    halving: Mapping[str, int] | None = None,
    cores: int = 1,
    retries: int = 2,
    jobs: int | None = None,
    ray_address: str | None = None,
    wandb: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains every combination of experiments, values and seeds, each in a process of its own, several at once.

    All of it is checked before anything starts. If the folder holds runs of the sweep, finished ones stay and the
    others go on.

    Args:
        experiments: names of experiments, or experiments; or mappings with `name` (one of these) and, if wanted,
            `label` (for folders), `fixed` and `values` of its own.
        out: the folder of the sweep. The runs are `runs/<configuration>/seed-<seed>` in it, what they print is in
            `logs`, and pages that compare them are beside.
        seeds: how many, from 0 on; or the seeds.
        fixed: fields of all experiments, by name, as :func:`nacre.make_experiment` takes them.
        values: lists of values of fields; every combination is trained.
        search: `samples`, how many configurations to draw, `ranges` by field, such as `{"low": 0.1, "high": 10.0,
            "log": True}`, and if wanted the `seed` of the draws.
        halving: `after` how many iterations runs are first compared, and `factor`: of how many one goes on.
        cores: of the machine, for each run.
        retries: how often a run that was killed or failed goes on from its checkpoint.
        jobs: runs at once; None: as many as cores, memory and GPUs allow.
        ray_address: of a Ray cluster whose nodes share the folder `out`; None: this machine.
        wandb: whether each run has a board of Weights & Biases.
        quiet: as in :func:`nacre.train`.

    Returns:
        `out`.

    Raises:
        NacreError: something is impossible: all of it is in the message. Or runs have failed; the others are finished.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived; all runs are saved, unless a second SIGINT did not wait.
    """
    content = {
        "experiments": list(experiments),
        "seeds": seeds if isinstance(seeds, int) else list(seeds),
        "fixed": fixed or {},
        "values": {field: list(options) for field, options in (values or {}).items()},
        "search": search,
        "halving": halving,
        "cores": cores,
        "retries": retries,
    }
    specification = specify(content, "the sweep")
    again = "the same call of nacre.sweep"
    return run_sweep(
        specification, Path(out), jobs=jobs, ray_address=ray_address, wandb=wandb, quiet=quiet, again=again
    )


def run_sweep(
    specification: Specification,
    out: Path,
    *,
    jobs: int | None = None,
    part: Part = WHOLE,
    ray_address: str | None = None,
    wandb: bool = False,
    quiet: bool = False,
    again: str,
) -> Path:
    """Trains what a specification says; see :func:`sweep`.

    Args:
        specification: what to train.
        out: the folder of the sweep.
        jobs: as in :func:`sweep`.
        part: which of the runs.
        ray_address: as in :func:`sweep`.
        wandb: as in :func:`sweep`.
        quiet: as in :func:`sweep`.
        again: how to start the sweep again, for messages.
    """
    _check(specification, jobs, part, ray_address)
    if wandb:
        from nacre.weights_and_biases import ready

        there = [_found(out, run) for run in specification.runs[part.number - 1 :: part.of]]
        ready(*(each.folder for each in there if each.state is State.WAITING and has_begun(each.folder)))
    needed = _check_memory(specification)
    make_folder(out)
    with contextlib.nullcontext() if part.of > 1 else lock(out, "sweep"):
        if part.number == 1:  # parts may begin at the same moment
            _write_record(out, specification)
        found = [_found(out, run) for run in specification.runs[part.number - 1 :: part.of]]
        _check_same(found)
        if specification.halving is not None:
            _mark_ended_early(out, found)
        with _workplace(specification, needed, len(found), jobs, ray_address, wandb) as workplace:
            _train(found, workplace, specification, out, quiet, again)
        if part == WHOLE:
            _write_pages(out, found, quiet)
    failed = [run for run in found if run.state is State.FAILED]
    if failed:
        raise NacreError(
            f"{len(failed)} of {len(found)} runs failed, such as {failed[0].folder}: {failed[0].why}; what it printed "
            f"is in {failed[0].log}. Finished runs stay; try the others again with: {again}"
        )
    return out


def plan_sweep(
    specification: Specification, *, jobs: int | None = None, part: Part = WHOLE, ray_address: str | None = None
) -> list[str]:
    """What a sweep would train, in lines, after all checks; see :func:`run_sweep`. No cluster is asked.

    Raises:
        NacreError: it is impossible.
    """
    _check(specification, jobs, part, ray_address)
    needed = _check_memory(specification)
    runs = specification.runs
    fit = most_at_once(of_machine(), specification.cores, [needed[run.cell] for run in runs], _use_gpus(runs))
    as_asked = "as many as the cluster has room for" if ray_address is not None else str(min(fit, len(runs)))
    lines = [f"{name}: {in_words(needed[name])}" for name in specification.cells]
    steps = sum(run.experiment.environment_steps for run in runs)
    updates = sum(run.experiment.gradient_steps for run in runs)
    return [
        *lines,
        f"{len(runs)} runs: {len(specification.cells)} configurations × {len(specification.seeds)} seeds, "
        f"{as_asked if jobs is None else jobs} at once",
        f"steps of all: {steps:,} of environments, {updates:,} of gradients",
    ]


def _check(specification: Specification, jobs: int | None, part: Part, ray_address: str | None) -> None:
    """Raises NacreError if runs are not to be trained like this, here."""
    if jobs is not None and jobs < 1:
        raise NacreError(f"jobs is {jobs}; allowed: at least 1")
    if specification.halving is not None and part != WHOLE:
        raise NacreError(f"part is {part}; allowed with halving: the whole, as it compares all runs")
    cores, has = specification.cores, len(of_machine().cores)
    if ray_address is None and cores > has:
        raise NacreError(f"cores is {cores}; allowed: at most {has}, as this machine has")


def _check_memory(specification: Specification) -> dict[str, float]:
    """The bytes that each configuration needs.

    Raises:
        NacreError: some do not fit; all sentences are in the message.
    """
    found = estimates(specification.cells)
    refused = {name: answer for name, answer in found.items() if isinstance(answer, str)}
    if refused:
        sentences = " ".join(f"({number}) {name}: {text}." for number, (name, text) in enumerate(refused.items(), 1))
        raise NacreError(f"{len(refused)} of {len(found)} configurations cannot be trained: {sentences}")
    return {name: float(answer) for name, answer in found.items()}


def _workplace(
    specification: Specification,
    needed: Mapping[str, float],
    runs: int,
    jobs: int | None,
    ray_address: str | None,
    wandb: bool,
) -> contextlib.AbstractContextManager[Workplace]:
    if ray_address is not None:
        from nacre.sweeps.cluster import on_cluster

        return on_cluster(ray_address, specification.cores, max(needed.values()), jobs, wandb)
    machine = of_machine()
    planned = specification.runs
    uses_gpu = _use_gpus(planned)
    most = most_at_once(machine, specification.cores, [needed[run.cell] for run in planned], uses_gpu)
    machine = machine if uses_gpu else machine._replace(gpus=())
    jobs = min(most, max(1, runs)) if jobs is None else jobs
    return contextlib.closing(ThisMachine(machine, specification.cores, jobs, wandb))


def _use_gpus(runs: Sequence[Planned]) -> bool:
    return any(run.experiment.device != "cpu" for run in runs)


def _write_record(out: Path, specification: Specification) -> None:
    content = json.dumps({"format": 1, **specification.to_json()}, indent=2, allow_nan=False)
    write_atomically(out / RECORD, content.encode() + b"\n")


def _found(out: Path, run: Planned) -> Progress:
    """How far a run is, by its folder."""
    progress = Progress(run, out / run.place, out / LOGS / f"{run.cell}-seed-{run.experiment.seed}.log")
    _look(progress)
    if _is_finished(progress):
        progress.state = State.FINISHED
    return progress


def _mark_ended_early(out: Path, found: Sequence[Progress]) -> None:
    """Runs that ended early stay so when a sweep goes on."""
    path = out / ENDED_EARLY
    if not path.exists():
        return
    try:
        names = parse_json(read_text(path))
    except ValueError as error:
        raise NacreError(f"{path} {error}") from None
    if not isinstance(names, list):
        raise NacreError(f"{path} is damaged: it is {shown(names)}; allowed: a list of names of runs")
    for progress in found:
        if progress.run.name in names and progress.state is State.WAITING:
            progress.state, progress.is_behind = State.BEHIND, True


def _look(progress: Progress) -> None:
    """Reads how far a run is; of one that is being written, what can be read."""
    path = progress.folder / CSV
    with contextlib.suppress(NacreError, OSError):
        size = path.stat().st_size
        if size == progress.size:
            return
        progress.size, columns = size, read_progress_csv(path)
        rows = max(map(len, columns.values()), default=0)
        if rows:
            progress.complete, progress.returns = rows, columns.get(TEST_RETURN, np.zeros(0)).tolist()


def _is_finished(progress: Progress) -> bool:
    """Whether there is a checkpoint of the last iteration. It appears under its name when all of it is written."""
    try:
        names = [_CHECKPOINT.fullmatch(path.name) for path in (progress.folder / CHECKPOINTS).iterdir()]
    except OSError:
        return False
    return any(name is not None and int(name[1]) >= progress.run.experiment.iterations for name in names)


def _check_same(found: Sequence[Progress]) -> None:
    """Raises NacreError if a folder holds a run of something else than the sweep asks for."""
    others: list[str] = []
    for progress in found:
        if has_begun(progress.folder):
            field = _difference(progress.run.experiment, read_run(progress.folder)[0])
            if field is not None:
                others.append(f"{progress.folder} differs in {field}")
    if others:
        raise NacreError(
            f"runs of another configuration than the sweep asks for are in its folder: {'; '.join(others[:5])}"
            f"{f'; and {len(others) - 5} more' if len(others) > 5 else ''}; choose another folder with --out, or move "
            "them away"
        )


def _difference(asked: Experiment, other: Experiment) -> str | None:
    """The first field that changes what a run learns, in which two experiments differ."""
    if asked.warm_start is not None and other.warm_start is not None:  # a run keeps the path of the checkpoint
        asked = dataclasses.replace(asked, warm_start=other.warm_start)
    one, two = to_json(asked), to_json(other)
    algorithms = one.pop("algorithm"), two.pop("algorithm")
    for name, values, others in (("", one, two), ("algorithm.", *algorithms)):
        for field in {**values, **others}:
            if field not in WITHOUT_EFFECT and values.get(field) != others.get(field):
                return f"{name}{field}, which is {shown(others.get(field))} and not {shown(values.get(field))}"
    return None


def _train(
    found: Sequence[Progress], workplace: Workplace, specification: Specification, out: Path, quiet: bool, again: str
) -> None:
    """Trains what is not finished."""
    board = Board(found, quiet=quiet)
    loop = _Loop(found, workplace, specification, board, out)
    with board, collecting(board.stopping) as signals:
        board.message(f"{out}: {board.summary()}")
        try:
            loop.to_the_end(signals)
            is_saved = not signals or loop.stop()
        except KeyboardInterrupt:
            loop.kill()
            raise Interrupted(out, signal.SIGINT, is_saved=False, again=again) from None
        except BaseException:
            loop.kill()
            raise
        board.message(board.summary())
        if signals:
            raise Interrupted(out, signals[0], is_saved=is_saved, again=again)


class _Loop:
    """Runs that wait, and those that are trained."""

    def __init__(
        self, found: Sequence[Progress], workplace: Workplace, specification: Specification, board: Board, out: Path
    ):
        self._found, self._workplace, self._board, self._out = found, workplace, board, out
        self._retries, self._halving = specification.retries, specification.halving
        self._waiting = deque(run for run in found if run.state is State.WAITING)
        self._running: list[tuple[Progress, Job]] = []

    def to_the_end(self, signals: Sequence[int]) -> None:
        """Until all runs have ended, or a signal has arrived."""
        while (self._waiting or self._running) and not signals:
            while self._waiting and self._workplace.room() > 0 and not signals:
                self._begin(self._waiting.popleft())
            self._watch(self._ended)
            self._board.tick()
            time.sleep(_POLL_SECONDS)

    def stop(self) -> bool:
        """Has all runs save and end, and waits for that; returns whether they did."""
        stopped = [run for run, _ in self._running]
        for _, job in self._running:
            job.stop()
        while self._running:
            self._watch(self._stopped)
            time.sleep(_POLL_SECONDS)
        return all(run.state is not State.FAILED for run in stopped)

    def kill(self) -> None:
        for _, job in self._running:
            job.kill()

    def _begin(self, run: Progress) -> None:
        run.begun, run.state = (time.monotonic(), run.complete), State.RUNNING
        run.compared = 0 if self._halving is None else self._halving.rung(run.complete)
        self._running.append((run, self._workplace.begin(run.run, run.folder, run.log)))
        self._board.message(f"{run.run.name}: {'goes on' if run.complete else 'begins'}")

    def _watch(self, ended: Callable[[Progress, str], None]) -> None:
        still: list[tuple[Progress, Job]] = []
        for run, job in self._running:
            how = job.poll()
            _look(run)
            if how is None:
                still.append((run, job))
                self._compare(run, job)
            else:
                ended(run, how)
        self._running = still

    def _compare(self, run: Progress, job: Job) -> None:
        """Has a run save and end if others are ahead of it."""
        rung = 0 if self._halving is None else self._halving.rung(min(run.complete, len(run.returns)))
        if self._halving is None or rung <= run.compared or run.is_behind:
            return
        run.compared = rung
        values = [other.returns[rung - 1] for other in self._found if len(other.returns) >= rung]
        if rung < run.run.experiment.iterations and self._halving.is_behind(run.returns[rung - 1], values):
            run.is_behind = True
            names = sorted(other.run.name for other in self._found if other.is_behind)
            write_atomically(self._out / ENDED_EARLY, json.dumps(names, indent=2).encode() + b"\n")
            job.stop()

    def _stopped(self, run: Progress, how: str) -> None:
        if _is_finished(run):
            run.state = State.FINISHED
        elif how == SAVED:
            run.state = State.BEHIND if run.is_behind else State.SAVED
        else:
            run.state, run.why = State.FAILED, how
            self._board.message(f"{run.run.name}: failed while it was to save: {how}")

    def _ended(self, run: Progress, how: str) -> None:
        if _is_finished(run):
            run.state = State.FINISHED
            result = "" if run.test_return is None else f", test return {run.test_return:.1f}"
            self._board.message(f"{run.run.name}: finished after {run.complete} iterations{result}")
            return
        if run.is_behind:
            run.state = State.BEHIND
            self._board.message(f"{run.run.name}: ended early, as others are ahead after {run.compared} iterations")
            return
        run.failures += 1
        run.why = how
        if run.failures > self._retries:
            run.state = State.FAILED
            self._board.message(f"{run.run.name}: failed: {run.why}")
            return
        run.state = State.WAITING
        self._waiting.appendleft(run)
        self._board.message(f"{run.run.name}: {run.why}; try {run.failures} of {self._retries} to go on")


def _write_pages(out: Path, found: Sequence[Progress], quiet: bool) -> None:
    """A page that compares the configurations, for each task family. Runs without an iteration are left out."""
    from nacre.report import write_comparison

    families: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for progress in found:
        if progress.complete:
            families[progress.run.experiment.family][progress.run.cell].append(progress.folder)
    board = Board(found, quiet=quiet)
    for family, groups in families.items():
        page = out / ("compare.html" if len(families) == 1 else f"compare-{family}.html")
        board.message(f"Written to {write_comparison(groups, page)}")
