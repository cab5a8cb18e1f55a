"""Meta-training: the phases of each iteration, its evaluation, what is written; and going on exactly where a run
stopped.

Several seeds are trained in one process as a group: one loop, one simulator with the slots of all. A run knows nothing
of the others, and a run alone is a group of one. Simulators carry nothing from one phase to the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nacre.collect import Player, run_schedules
from nacre.errors import Interrupted, NacreError, SimulationError, StoppedError, WorkersLostError, shown
from nacre.estimate import MOST_SEEDS, Estimate, check_memory
from nacre.experiments import Experiment, family_of, to_json, validate
from nacre.extensions import command
from nacre.gradient_steps import update_seeds
from nacre.interfaces import Phase
from nacre.iteration import OnIteration, asks_to_stop
from nacre.logs import EVALUATE, Console, TensorBoard
from nacre.run import Run, iterations_begun
from nacre.run_folder import (
    begun_by_earlier_version,
    locked_runs,
    make_subfolders,
    new_run,
    new_seeds,
    read_run,
    rewrite_experiment,
)
from nacre.runtime import SimulatorPool, learner_for, prepare_jax
from nacre.signals import collecting
from nacre.tasks.family import TaskSplit, split_tasks
from nacre.types import Metrics
from nacre.warm_start import resolve_warm_start
from nacre.worker_options import NO_WORKERS, WORKER_TIMEOUT, WorkerOptions
from nacre.workers import Workers, check_workers, hired


def train(
    experiment: Experiment,
    out: Path | str | None = None,
    *,
    seeds: int | None = None,
    on_iteration: OnIteration | None = None,
    quiet: bool = False,
    workers: int = 0,
    ray_address: str | None = None,
    worker_timeout: float = WORKER_TIMEOUT,
) -> Path:
    """Meta-trains an experiment from the beginning, or several seeds of it at once.

    Args:
        experiment: see :func:`nacre.make_experiment`.
        out: the run folder, which must not exist or be empty; None: runs/<algorithm>/<task>/<seed and time>.
        seeds: how many seeds to train in this process, from the experiment's own on: seed, seed + 1, ... Each has the
            run folder seed-<seed> in `out`, and becomes what it would be alone. None: the experiment's own, in `out`.
        on_iteration: is called with an :class:`nacre.Iteration` after each iteration of each run, when its row and its
            checkpoint are written. If it returns "stop", or raises an exception, the run is saved first, so that
            :func:`resume` can go on with it; "stop" ends one seed and not the others.
        quiet: prints nothing. What is printed goes to the logger `nacre` of :mod:`logging` in any case, at INFO.
        workers: how many worker processes play what is collected and evaluated, by Ray; 0: this process does. The run
            becomes the same with any number, on CPUs of one kind.
        ray_address: HOST:PORT of the head of the Ray cluster on which the workers are, or "auto"; None: this machine.
        worker_timeout: seconds without a control step after which another worker takes the place of one, and for which
            a worker is waited for if there is none.

    Returns:
        `out`, or the folder that was made.

    Raises:
        NacreError: the experiment is impossible or does not fit into the memory, the folder cannot be used, or Ray is
            not installed or cannot be reached.
        WorkersLostError: there is no worker; everything is saved.
        StoppedError: a robot has stopped, or a fault stopped it; everything is saved but the phase that it was in.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived; everything is saved, unless a second SIGINT did not
            wait for that.
        NonFiniteError, SimulationError: a loss, parameter, observation or reward is not finite; the last checkpoint
            is good.
        Exception: what `on_iteration` raises.
    """
    family = family_of(experiment)
    validate(experiment, family)
    options = WorkerOptions(workers, ray_address, worker_timeout)
    check_workers(family, options)
    if not workers:
        family.check_machine()
    with prepare_jax(experiment.device):
        check_memory(experiment, 1 if seeds is None else len(_with_seeds(experiment, seeds)))
        experiment = resolve_warm_start(experiment, learner_for(experiment, family))
        experiments = [experiment] if seeds is None else _with_seeds(experiment, seeds)
        splits = [
            split_tasks(family, each.train_tasks, each.test_tasks, each.seed, each.task_list) for each in experiments
        ]
        with contextlib.ExitStack() as stack:
            hands = stack.enter_context(hired(family, experiment.threads, options))
            folder = None if out is None else Path(out)
            if seeds is None:
                folder = stack.enter_context(new_run(folder, experiment, splits[0]))
                runs = [folder]
            else:
                folder, runs = stack.enter_context(new_seeds(folder, experiments, splits))
            _Group(folder, runs, experiments, splits).to_the_end(on_iteration, quiet, hands)
    return folder


def plan(experiment: Experiment, seeds: int | None = None, options: WorkerOptions = NO_WORKERS) -> Estimate:
    """What :func:`train` would need of the memory. Nothing is made, and Ray is not asked.

    Raises:
        NacreError: the experiment or an option is impossible, or the experiment does not fit into the memory.
    """
    family = family_of(experiment)
    validate(experiment, family)
    check_workers(family, options)
    with prepare_jax(experiment.device):
        return check_memory(experiment, 1 if seeds is None else len(_with_seeds(experiment, seeds)))


def resume(
    run: Path | str,
    iterations: int | None = None,
    *,
    on_iteration: OnIteration | None = None,
    quiet: bool = False,
    workers: int = 0,
    ray_address: str | None = None,
    worker_timeout: float = WORKER_TIMEOUT,
) -> Path:
    """Continues a run as if it had not been interrupted, from its latest intact checkpoint; or several seeds at once.

    Args:
        run: the run folder, or the folder in which several seeds are.
        iterations: a new total number of iterations; None: as the experiment says.
        on_iteration: as in :func:`train`. It is called again for iterations that are done again after a kill.
        quiet: as in :func:`train`.
        workers: as in :func:`train`, whatever the number was before.
        ray_address: as in :func:`train`.
        worker_timeout: as in :func:`train`.

    Returns:
        the folder.

    Raises:
        NacreError: the folder is no run, another process trains it, what is needed of it is missing or damaged, or
            it has more than `iterations` iterations already; its seeds are of different experiments; and all that
            :func:`train` raises it for.
    """
    folder = Path(run)
    options = WorkerOptions(workers, ray_address, worker_timeout)
    options.check()
    with locked_runs(folder) as runs:
        experiments, splits = map(list, zip(*map(read_run, runs), strict=True))
        for other, experiment in zip(runs, experiments, strict=True):
            if _apart_from_seed(experiment) != _apart_from_seed(experiments[0]):
                raise NacreError(
                    f"{other} is a run of another configuration than {runs[0]}: resume each by itself, such as: "
                    f"{command('resume', runs[0])}"
                )
        if iterations is not None:
            _check_iterations(iterations, runs)
            experiments = [dataclasses.replace(each, iterations=iterations) for each in experiments]
            validate(experiments[0], family_of(experiments[0]))
        with prepare_jax(experiments[0].device):
            check_memory(max(experiments, key=lambda each: each.iterations), len(experiments))
            group = _Group(folder, runs, experiments, splits)  # it reads all that is needed; only then is written
            first = group.runs[0]
            with hired(first.family, first.experiment.threads, options if group.left else NO_WORKERS) as hands:
                for each in group.runs:
                    make_subfolders(each.folder)
                    if iterations is not None:
                        rewrite_experiment(each.folder, each.experiment)
                    each.drop_the_future()
                group.to_the_end(on_iteration, quiet, hands)
    return folder


def _with_seeds(experiment: Experiment, seeds: int) -> list[Experiment]:
    """The experiment with this many seeds, from its own on."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise NacreError(f"seeds is {shown(seeds)}; allowed: 1 to {MOST_SEEDS}")
    most = 2**32 - experiment.seed
    if seeds > most:
        raise NacreError(f"seeds is {seeds}; allowed: 1 to {most}, as seeds go up from {experiment.seed} to 2**32 - 1")
    return [dataclasses.replace(experiment, seed=experiment.seed + number) for number in range(seeds)]


def _check_iterations(iterations: int, runs: Sequence[Path]) -> None:
    """Raises NacreError if runs cannot have this number of iterations in all."""
    begun = {run: iterations_begun(run) for run in runs}
    farthest = max(runs, key=begun.__getitem__)
    if iterations < max(1, begun[farthest]):
        reason = f", which have begun in {farthest}" if begun[farthest] else ""
        raise NacreError(f"iterations is {iterations}; allowed: at least {max(1, begun[farthest])}{reason}")


def _apart_from_seed(experiment: Experiment) -> Experiment:
    """What the experiments of a group have in common. One seed may have been made longer by itself."""
    return dataclasses.replace(experiment, seed=0, iterations=1)


class _Group:
    """The runs that a process trains: one, or several seeds of an experiment, step by step together."""

    def __init__(
        self, folder: Path, runs: Sequence[Path], experiments: Sequence[Experiment], splits: Sequence[TaskSplit]
    ):
        """`folder` is what the user resumes: the run's own, or the one that holds the runs."""
        self.folder = folder
        self.runs = [Run(*run, alone=runs == [folder]) for run in zip(runs, experiments, splits, strict=True)]
        first = self.runs[0]
        self.learner, self.experiment = first.learner, first.experiment
        self.simulators = SimulatorPool(first.family, first.experiment.threads)
        if first.family.remembers:
            if len(self.runs) > 1:
                raise NacreError(
                    f"the environments of {first.family.name} remember across episodes, so that seeds which share them "
                    "would not be independent; allowed: one seed in a process"
                )
            first.simulators = self.simulators
            self.simulators.load_state_dict(first.remembered)
        self.play: Player = self.simulators.play
        """Plays what is collected and evaluated."""
        self.signals: list[int] = []

    @property
    def left(self) -> list[Run]:
        """The runs that are not complete."""
        return [run for run in self.runs if not run.is_complete]

    def to_the_end(
        self, on_iteration: OnIteration | None = None, quiet: bool = False, workers: Workers | None = None
    ) -> None:
        """Runs the iterations that are left, or until `on_iteration` ends them. `workers` play, if there are any."""
        left = self.left
        if not left:
            complete = max(run.position.iteration for run in self.runs)
            again = command("resume", self.folder, "--iterations", 2 * complete)
            Console(complete, quiet=quiet).message(
                f"{self.folder}: all {complete} iterations are complete. For more: {again}"
            )
            return
        iterations = max(run.experiment.iterations for run in left)
        complete = min(run.position.iteration for run in left)
        with (
            contextlib.closing(self.simulators),
            contextlib.ExitStack() as boards,
            Console(iterations, complete=complete, quiet=quiet) as self.console,
            _signals(self.folder, self.console.stopping) as self.signals,
        ):
            self.boards = {run.folder: boards.enter_context(contextlib.closing(_board(run))) for run in left}
            self._announce(left)
            if workers is not None:
                self.console.message(f"collecting and evaluating with {workers}")
                self.play = workers.play
                workers.say, workers.is_stopping = self.console.message, lambda: bool(self.signals)
            for run in left:
                if run.saved is None:
                    run.save()
            while left:
                # Those that are behind, after a kill, first catch up with the others.
                position = min(run.position for run in left)
                iterated = [run for run in left if run.position == position]
                self._iterate(iterated)
                slowest = min(run.position.iteration for run in left)
                if slowest > complete:
                    complete = slowest
                    rows = [run.row for run in left if run.position.iteration == complete]
                    self.console.iteration(*rows, complete=complete)
                stopped = self._tell(iterated, on_iteration)
                left = [run for run in left if not run.is_complete and run not in stopped]

    def _tell(self, runs: Sequence[Run], on_iteration: OnIteration | None) -> list[Run]:
        """Tells who watches of an iteration of runs; returns those that should stop, saved. An exception of
        `on_iteration` finds all runs saved."""
        if on_iteration is None:
            return []
        try:
            stopped = [run for run in runs if asks_to_stop(on_iteration, run.iteration)]
        except BaseException:
            for run in self.runs:
                run.save_if_new()
            raise
        for run in stopped:
            run.save_if_new()
            self.console.message(f"{run.folder}: stopped as asked after iteration {run.position.iteration}, and saved")
        return stopped

    def _announce(self, left: Sequence[Run]) -> None:
        seeds = [run.experiment.seed for run in self.runs]
        which = f"seed {seeds[0]}" if self.runs[0].folder == self.folder else f"{len(seeds)} seeds ({_listed(seeds)})"
        self.console.message(f"{self.experiment.name}, {which}: {self.folder}")
        labels = list(dict.fromkeys(run.label for run in left if run.label))
        if len(labels) == 1:
            self.console.message(f"going on from {labels[0]}")
        elif labels:
            each = ", ".join(f"{run.label} with seed {run.experiment.seed}" for run in left if run.label)
            self.console.message(f"going on from {each}")
        old = any(run.label and begun_by_earlier_version(run.folder) for run in left)
        for note in dict.fromkeys(note for run in left for note in run.notes):
            self.console.message(note)
        if old:
            self.console.message(
                "An earlier version of nacre began this run. Its results count, but from here on the random numbers "
                "are those of this version, so the run becomes another than it would have become there."
            )

    def _iterate(self, runs: Sequence[Run]) -> None:
        """One iteration of runs that are at the same position, or what is left of it."""
        seconds: dict[str, float] = defaultdict(float)
        while (phase := runs[0].phase) is not None:
            self._stop_if_asked()
            with _timed(seconds, phase.name):
                (self._update if phase.steps else self._collect)(runs, phase)
        with _timed(seconds, EVALUATE):
            evaluations = self._evaluate(runs)
        self.simulators.close_unused()
        times = _time_columns(seconds, (*self.learner.phases(0), *self.learner.phases(1)))
        for run, evaluation in zip(runs, evaluations, strict=True):
            run.end_iteration(evaluation, times, self.boards[run.folder])

    def _collect(self, runs: Sequence[Run], phase: Phase) -> None:
        self.console.phase(phase.name)
        with self._saving_if_stopped(runs), _locating(runs, phase.name):
            for run in runs:
                run.begin_phase(phase)
            collected = run_schedules([run.collection(phase) for run in runs], self.play)
        for run, visits in zip(runs, collected, strict=True):
            self.console.advance(run.store(visits))
            run.end_phase()

    def _update(self, runs: Sequence[Run], phase: Phase) -> None:
        """The gradient steps of a phase, in chunks; a signal saves between two of them and ends the process."""
        done = runs[0].position.steps
        self.console.phase(phase.name, phase.steps * len(runs), done=done * len(runs))
        for run in runs:
            run.begin_phase(phase)
        derived = [run.derive(phase) for run in runs]
        while not all(run.has_ended(phase) for run in runs):
            steps = min(self.experiment.update_chunk, phase.steps - done)
            states, arrays = [run.state for run in runs], [run.memory.arrays for run in runs]
            results = update_seeds(self.learner, phase.name, states, arrays, derived, steps)
            for run, (state, metrics) in zip(runs, results, strict=True):
                run.step(state, metrics, steps)
                self.console.advance(steps)
            done += steps
            self._stop_if_asked()
        for run in runs:
            run.check_parameters()
            run.end_phase()

    def _evaluate(self, runs: Sequence[Run]) -> list[Metrics]:
        self.console.phase(EVALUATE)
        with self._saving_if_stopped(runs), _locating(runs, EVALUATE):
            evaluations = run_schedules([run.evaluation() for run in runs], self.play)
        self.console.advance(sum(steps for _, steps in evaluations))
        return [columns for columns, _ in evaluations]

    @contextlib.contextmanager
    def _saving_if_stopped(self, runs: Sequence[Run]) -> Iterator[None]:
        """Saves all runs as they were if no worker is left, a robot has stopped, or what is observed is of no use."""
        states = [run.state for run in runs]
        try:
            yield
        except (WorkersLostError, StoppedError, SimulationError) as error:
            for run, state in zip(runs, states, strict=True):
                run.state = state
            self._stop_if_asked()
            for run in self.runs:
                run.save_if_new()
            if isinstance(error, SimulationError):
                raise
            said = str(error).removesuffix(".")
            raise type(error)(f"{said}; all is saved, go on with: {command('resume', self.folder)}") from error

    def _stop_if_asked(self) -> None:
        """Saves what is not saved yet and ends the process, if a signal has arrived."""
        if self.signals:
            for run in self.runs:
                run.save_if_new()
            raise Interrupted(self.folder, self.signals[0])


def _board(run: Run) -> TensorBoard:
    config = run.experiment.algorithm
    return TensorBoard(run.folder, run.next_step, config.tensorboard_groups, to_json(run.experiment))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] += time.monotonic() - start


def _time_columns(seconds: Mapping[str, float], phases: Sequence[Phase]) -> Metrics:
    """The time columns of progress.csv; if there are several kinds of gradient steps, one for each as well."""
    trained = list(dict.fromkeys(phase.name for phase in phases if phase.steps))
    collected = list(dict.fromkeys(phase.name for phase in phases if not phase.steps))
    each = {f"{name.capitalize()} Time (s)": seconds.get(name, 0.0) for name in trained if len(trained) > 1}
    return {
        "Train Time (s)": sum(seconds.get(name, 0.0) for name in trained),
        "(Previous) Eval Time (s)": seconds.get(EVALUATE, 0.0),
        "Sample Time (s)": sum(seconds.get(name, 0.0) for name in collected),
        **each,
        "Epoch Time (s)": sum(seconds.values()),
    }


def _listed(seeds: Sequence[int]) -> str:
    """As a range if it is one."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 2:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


@contextlib.contextmanager
def _locating(runs: Sequence[Run], activity: str) -> Iterator[None]:
    """Says which run an error of the simulator belongs to."""
    try:
        yield
    except SimulationError as error:
        raise runs[error.part].locate(error, activity) from error


@contextlib.contextmanager
def _signals(folder: Path, announce: Callable[[], None]) -> Iterator[list[int]]:
    """Collects signals; see :func:`nacre.signals.collecting`.

    Raises:
        Interrupted: a second Ctrl-C arrived; nothing is saved since the latest checkpoint.
    """
    try:
        with collecting(announce) as received:
            yield received
    except KeyboardInterrupt:
        raise Interrupted(folder, signal.SIGINT, is_saved=False) from None
