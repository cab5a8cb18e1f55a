"""Meta-training: collect, update, evaluate, log, checkpoint; and going on exactly where a run stopped.

Everything random in an iteration is a function of the seed and the iteration's number, so a run is continued from the
learner's state, the journal of the replay and a few counters. Simulators carry nothing from one phase to the next.

Several seeds are trained in one process as a group: one loop, one simulator with the slots of all. A run knows nothing
of the others, and a run alone is a group of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre import journal
from nacre.agents.pearl import statistics
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import StepMetrics
from nacre.checkpoint import (
    checkpoint_label,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
    remove_superfluous,
    save_best,
    save_checkpoint,
)
from nacre.collect import Play, Schedule, carry_out, key_of
from nacre.errors import Interrupted, NacreError, NonFiniteError, SimulationError
from nacre.evaluation import episode_return, meta_test
from nacre.experiments import Experiment, validate
from nacre.logs import TEST_RETURN, Console, Phase, ProgressLog, TensorBoard
from nacre.replay import ReplayBuffer
from nacre.run_folder import (
    CHECKPOINTS,
    REPLAY,
    locked_runs,
    make_subfolders,
    new_run,
    new_seeds,
    read_run,
    rewrite_experiment,
)
from nacre.runtime import SimulatorPool, Stream, learner_for, prepare_jax, seed_of, training_protocol
from nacre.tasks import make_family
from nacre.tasks.family import TaskSplit, split_tasks
from nacre.types import Metrics, Tree, Visit
from nacre.warm_start import settle_warm_start, take_networks


def train(experiment: Experiment, out: Path | str | None = None, *, seeds: int | None = None) -> Path:
    """Meta-trains an experiment from the beginning, or several seeds of it at once.

    Args:
        experiment: see :func:`nacre.make_experiment`.
        out: the run folder, which must not exist or be empty; None: runs/<algorithm>/<task>/<seed and time>.
        seeds: how many seeds to train in this process, from the experiment's own on: seed, seed + 1, ... Each has the
            run folder seed-<seed> in `out`, and becomes what it would be alone. None: the experiment's own, in `out`.

    Returns:
        `out`, or the folder that was made.

    Raises:
        NacreError: the experiment is impossible, or the folder cannot be used.
        Interrupted: SIGINT or SIGTERM arrived; everything is saved.
        NonFiniteError, SimulationError: a loss, parameter, observation or reward is not finite; the last checkpoint
            is good.
    """
    family = make_family(experiment.family)
    validate(experiment, family)
    with prepare_jax(experiment.device):
        experiment = settle_warm_start(experiment, learner_for(experiment, family))
        experiments = [experiment] if seeds is None else _with_seeds(experiment, seeds)
        splits = [
            split_tasks(family, each.train_tasks, each.test_tasks, each.seed, each.task_list) for each in experiments
        ]
        with contextlib.ExitStack() as stack:
            folder = None if out is None else Path(out)
            if seeds is None:
                folder = stack.enter_context(new_run(folder, experiment, splits[0]))
                runs = [folder]
            else:
                folder, runs = stack.enter_context(new_seeds(folder, experiments, splits))
            _Group(folder, runs, experiments, splits).to_the_end()
    return folder


def resume(run: Path | str, iterations: int | None = None) -> Path:
    """Continues a run as if it had not been interrupted, from its latest intact checkpoint; or several seeds at once.

    Args:
        run: the run folder, or the folder in which several seeds are.
        iterations: a new total number of iterations; None: as the experiment says.

    Returns:
        the folder.

    Raises:
        NacreError: the folder is no run, another process trains it, what is needed of it is missing or damaged, or
            it has more than `iterations` iterations already; its seeds are of different experiments.
        and what :func:`train` raises.
    """
    folder = Path(run)
    with locked_runs(folder) as runs:
        experiments, splits = map(list, zip(*map(read_run, runs), strict=True))
        for other, experiment in zip(runs, experiments, strict=True):
            if _apart_from_seed(experiment) != _apart_from_seed(experiments[0]):
                raise NacreError(
                    f"{other} is a run of another configuration than {runs[0]}: resume each by itself, such as: "
                    f"nacre resume {runs[0]}"
                )
        if iterations is not None:
            _check_iterations(iterations, runs)
            experiments = [dataclasses.replace(each, iterations=iterations) for each in experiments]
        with prepare_jax(experiments[0].device):
            group = _Group(folder, runs, experiments, splits)  # it reads all that is needed; only then is written
            for each in group.runs:
                make_subfolders(each.folder)
                if iterations is not None:
                    rewrite_experiment(each.folder, each.experiment)
                each.drop_the_future()
            group.to_the_end()
    return folder


def _with_seeds(experiment: Experiment, seeds: int) -> list[Experiment]:
    """The experiment with so many seeds from its own on."""
    most = 2**32 - experiment.seed
    if not 1 <= seeds <= most:
        raise NacreError(f"seeds is {seeds}; allowed: 1 to {most}, as seeds go up from {experiment.seed} to 2**32 - 1")
    return [dataclasses.replace(experiment, seed=experiment.seed + number) for number in range(seeds)]


def _check_iterations(iterations: int, runs: Sequence[Path]) -> None:
    """Raises NacreError if runs cannot have this number of iterations in all."""
    begun = {run: _iterations_begun(run) for run in runs}
    farthest = max(runs, key=begun.__getitem__)
    if iterations < max(1, begun[farthest]):
        reason = f", which have begun in {farthest}" if begun[farthest] else ""
        raise NacreError(f"iterations is {iterations}; allowed: at least {max(1, begun[farthest])}{reason}")


def _apart_from_seed(experiment: Experiment) -> Experiment:
    """What the experiments of a group have in common. One seed may have been made longer by itself."""
    return dataclasses.replace(experiment, seed=0, iterations=1)


class _Run:
    """One run in the making: its folder, what it has learnt, and how far it is."""

    def __init__(self, folder: Path, experiment: Experiment, split: TaskSplit, *, alone: bool = True):
        """Takes up the latest intact checkpoint of the folder; without one, the run begins.

        `alone`: off where other seeds are trained by the same process, and messages have to tell which it is.
        """
        self.folder, self.experiment, self.split = folder, experiment, split
        self.of_seed = "" if alone else f" of seed {experiment.seed}"
        self.family = make_family(experiment.family)
        self.learner = learner_for(experiment, self.family)
        self.protocol = training_protocol(experiment, self.family)
        self.iteration = 0
        self.updates = 0  # gradient steps done within the iteration
        self.totals: statistics.Totals | None = None  # of those gradient steps
        self.seconds = 0.0  # of all iterations, for the total time column
        self.rollouts = 0
        self.saved: str | None = None  # label of the latest checkpoint
        self.row: Metrics = {}  # of the latest iteration, if this process has done one
        self.replay = self._empty_replay()
        self.progress_log = ProgressLog(folder)
        network_key = key_of(seed_of(experiment, Stream.NETWORKS))
        if _has_begun(folder):
            self._restore(jax.eval_shape(self.learner.initial_state, network_key))
        else:
            device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
            program = _initial_state_program(self.learner, device)
            self.state = program(network_key)
            self.state = self.state._replace(trained=take_networks(self.state.trained, experiment))

    @property
    def point(self) -> tuple[int, int]:
        """How far the run is: complete iterations, and gradient steps of the next."""
        return self.iteration, self.updates

    @property
    def is_complete(self) -> bool:
        return self.iteration >= self.experiment.iterations

    def _empty_replay(self) -> ReplayBuffer:
        transitions = self.learner.capacity(len(self.split.train), self.experiment.iterations)
        return ReplayBuffer(
            len(self.split.train),
            self.family.observation_size,
            self.family.action_size,
            has_sparse_reward=self.family.has_sparse_reward,
            transitions=transitions,
            episodes=-(-transitions // self.family.horizon),
        )

    def _restore(self, shapes: Tree) -> None:
        """Takes up the latest intact checkpoint. Nothing is written: what is needed may prove to be damaged."""
        path, damages = latest_checkpoint(self.folder / CHECKPOINTS)
        for damage in damages:
            warnings.warn(damage, stacklevel=4)
        self.state, progress = load_checkpoint(path, shapes)
        self.iteration, self.updates = progress["iterations"], progress["updates"]
        self.totals, self.seconds = progress["totals"], progress["seconds"]
        self.saved = path.stem
        for visits in journal.read_segments(self.folder / REPLAY, self.iteration + bool(self.updates)):
            self._add(visits)
        self.progress_log.check(self.iteration)

    def drop_the_future(self) -> None:
        """Drops from the folder what came after the checkpoint that was taken up, and what a kill left."""
        if self.saved is None:
            return
        path = self.folder / CHECKPOINTS / f"{self.saved}.npz"
        if TEST_RETURN in read_progress(path):  # the process may have been killed between the checkpoint and its copy
            save_best(path, TEST_RETURN)
        remove_superfluous(path, self.experiment.keep_checkpoints)
        journal.drop_segments_from(self.folder / REPLAY, self.iteration + bool(self.updates))
        self.progress_log.truncate(self.iteration)

    def collection(self) -> Schedule[list[Visit]]:
        """What is collected before the gradient steps of the iteration."""
        visits: list[Visit] = []
        if self.iteration == 0:
            initial_seed = seed_of(self.experiment, Stream.INITIAL_COLLECTION)
            visits += yield from self.learner.collect_initial(self.state, self.split.train, initial_seed)
        seed = seed_of(self.experiment, Stream.COLLECTION, self.iteration)
        visits += yield from self.learner.collect(self.state, self.split.train, seed)
        return visits

    def keep(self, visits: list[Visit]) -> int:
        """Takes what was collected into replay and journal; returns its transitions."""
        before = self.replay.transitions
        self._add(visits)
        journal.append_segment(self.folder / REPLAY, self.iteration, visits)
        return self.replay.transitions - before

    def _add(self, visits: tuple[Visit, ...] | list[Visit]) -> None:
        self.replay.add(visits)
        self.rollouts += sum(len(visit.episodes) for visit in visits)

    def learn(self, state: Tree, metrics: StepMetrics, steps: int) -> None:
        """Takes what came of gradient steps."""
        self.state, metrics = state, jax.device_get(metrics)
        found = statistics.find_non_finite(metrics)
        if found is not None:
            task = "" if found.task is None else f" of train task {found.task}"
            raise NonFiniteError(
                f"the {found.quantity}{task}{self.of_seed} is not finite in iteration {self.iteration}, gradient step "
                f"{self.updates + found.step}; {self._last_good()}"
            )
        self.totals = statistics.accumulate(self.totals, metrics)
        self.updates += steps

    def evaluation(self) -> Schedule[tuple[Metrics, int]]:
        """Meta-tests on the test tasks and on as many train tasks, online; and on the same train tasks with posteriors
        from the replay ("offline").

        Returns columns of progress.csv, and the environment steps of the first two.
        """
        train, test = self.split.train, self.split.test
        pick = np.random.default_rng(seed_of(self.experiment, Stream.EVALUATION_TASKS, self.iteration))
        picked = pick.choice(len(train), size=min(len(train), len(test)), replace=False)
        params = self.learner.parameters(self.state)
        evaluation, _, belief = yield from meta_test(
            self.learner.evaluation_agent,
            params,
            np.concatenate([test, train[picked]]),
            self.family.horizon,
            self.protocol,
            seed_of(self.experiment, Stream.TEST_EVALUATION, self.iteration),
        )
        final, by_episode = evaluation.final_returns, evaluation.returns_by_episode[: len(test)].mean(axis=0)
        episodes = self.protocol.minimum_episodes(self.family.horizon)
        columns = {
            **self.learner.belief_columns(belief, len(test) * self.protocol.trials),
            "AverageTrainReturn_all_train_tasks": (yield from self._offline_return(picked, params)),
            "AverageReturn_all_train_tasks": float(final[len(test) :].mean()),
            TEST_RETURN: float(final[: len(test)].mean()),
            **{f"AverageReturn_test_episode_{i + 1}": float(by_episode[i]) for i in range(episodes)},
        }
        return columns, sum(sum(trial.lengths) for trials in evaluation.trials for trial in trials)

    def _offline_return(self, picked: np.ndarray, params: Tree) -> Schedule[float]:
        rollouts = max(1, self.experiment.algorithm.evaluation_steps // self.family.horizon)
        tasks = np.repeat(picked, rollouts)
        seed = seed_of(self.experiment, Stream.OFFLINE_EVALUATION, self.iteration)
        belief = self.learner.replay_belief(self.state, self.replay.arrays, jnp.asarray(tasks), key_of(seed))
        trials, _ = yield Play(
            self.learner.offline_agent(),
            params,
            self.split.train[tasks],
            seed,
            deterministic=True,
            episodes=1,
            belief=belief,
        )
        return float(np.mean([episode_return(trial[0], self.protocol.sparse_returns) for trial in trials]))

    def end_iteration(self, evaluation: Metrics, times: Metrics, board: TensorBoard) -> None:
        """Writes the row of the iteration, and a checkpoint if one is due."""
        self.seconds += times["Epoch Time (s)"]
        self.row = {
            **statistics.columns(self.totals or {}, self.experiment.algorithm),
            **evaluation,
            "Number of train steps total": (self.iteration + 1) * self.experiment.algorithm.updates_per_iteration,
            "Number of env steps total": self.replay.transitions,
            "Number of rollouts total": self.rollouts,
            **times,
            "Total Train Time (s)": self.seconds,
            "Epoch": self.iteration,
        }
        self.progress_log.append(self.row)
        board.write(self.iteration, self.row)
        self.iteration, self.updates, self.totals = self.iteration + 1, 0, None
        if self.iteration % self.experiment.checkpoint_every == 0 or self.is_complete:
            save_best(self.save({TEST_RETURN: self.row[TEST_RETURN]}), TEST_RETURN)

    def locate(self, error: SimulationError, phase: Phase) -> SimulationError:
        """The error, with which task of the run it was, when, and what is left."""
        parameters = np.array(list(error.task.values()))
        tasks = {
            f"{name} task {row}": task
            for name, split in (("train", self.split.train), ("test", self.split.test))
            for row, task in enumerate(split)
        }
        names = " and ".join(name for name, task in tasks.items() if np.array_equal(task, parameters))
        place = f"This is {names}{self.of_seed}, in iteration {self.iteration} ({phase}); {self._last_good()}."
        return SimulationError(error.quantity, error.slot, error.task, place, error.part)

    def save_if_new(self) -> None:
        if self.saved != checkpoint_label(*self.point):
            self.save()

    def save(self, results: dict[str, float] | None = None) -> Path:
        self.check_parameters()
        progress = {
            "iterations": self.iteration,
            "updates": self.updates,
            "totals": self.totals,
            "seconds": self.seconds,
            **(results or {}),
        }
        label = checkpoint_label(*self.point)
        path = save_checkpoint(self.folder / CHECKPOINTS, label, self.state, progress, self.experiment.keep_checkpoints)
        self.saved = label
        return path

    def check_parameters(self) -> None:
        """Raises NonFiniteError if a parameter, target or moment is not finite; the losses may not show it yet."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.state.trained):
            if not np.isfinite(leaf).all():
                raise NonFiniteError(
                    f"the parameter {jax.tree_util.keystr(path)}{self.of_seed} is not finite in iteration "
                    f"{self.iteration}, after {self.updates} gradient steps; {self._last_good()}"
                )

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.folder / CHECKPOINTS / f'{self.saved}.npz'}"


class _Group:
    """The runs that a process trains: one, or several seeds of an experiment, step by step together."""

    def __init__(
        self, folder: Path, runs: Sequence[Path], experiments: Sequence[Experiment], splits: Sequence[TaskSplit]
    ):
        """`folder` is what the user resumes: the run's own, or the one that holds the runs."""
        self.folder = folder
        self.runs = [_Run(*run, alone=runs == [folder]) for run in zip(runs, experiments, splits, strict=True)]
        first = self.runs[0]
        self.learner, self.experiment = first.learner, first.experiment
        self.simulators = SimulatorPool(first.family, first.experiment.threads)
        self.signals: list[int] = []

    def to_the_end(self) -> None:
        """Runs the iterations that are left."""
        left = [run for run in self.runs if not run.is_complete]
        if not left:
            complete = max(run.iteration for run in self.runs)
            print(
                f"{self.folder}: all {complete} iterations are complete. For more: "
                f"nacre resume {self.folder} --iterations {2 * complete}"
            )
            return
        iterations = max(run.experiment.iterations for run in left)
        complete = min(run.iteration for run in left)
        with (
            contextlib.closing(self.simulators),
            contextlib.ExitStack() as boards,
            Console(iterations, complete=complete) as self.console,
            _signals(self.console.stopping) as self.signals,
        ):
            self.boards = {
                run.folder: boards.enter_context(contextlib.closing(TensorBoard(run.folder, run.iteration)))
                for run in left
            }
            self._announce(left)
            for run in left:
                if run.saved is None:
                    run.save()
            while left:
                # Those that are behind, after a kill, first catch up with the others.
                point = min(run.point for run in left)
                self._iterate([run for run in left if run.point == point])
                if min(run.iteration for run in left) > complete:
                    complete = min(run.iteration for run in left)
                    self.console.iteration(*(run.row for run in left if run.iteration == complete), complete=complete)
                left = [run for run in left if not run.is_complete]

    def _announce(self, left: Sequence[_Run]) -> None:
        seeds = [run.experiment.seed for run in self.runs]
        told = f"seed {seeds[0]}" if self.runs[0].folder == self.folder else f"{len(seeds)} seeds ({_listed(seeds)})"
        self.console.message(f"{self.experiment.name}, {told}: {self.folder}")
        saved = list(dict.fromkeys(run.saved for run in left if run.saved))
        if len(saved) == 1:
            self.console.message(f"going on from {saved[0]}")
        elif saved:
            self.console.message(
                "going on from "
                + ", ".join(f"{run.saved} with seed {run.experiment.seed}" for run in left if run.saved)
            )

    def _iterate(self, runs: Sequence[_Run]) -> None:
        """One iteration of runs that are at the same point, or what is left of it."""
        start = time.monotonic()
        if not runs[0].updates:
            self._stop_if_asked()
            self._collect(runs)
        collected = time.monotonic()
        self._update(runs)
        updated = time.monotonic()
        evaluations = self._evaluate(runs)
        end = time.monotonic()
        times = {
            "Train Time (s)": updated - collected,
            "(Previous) Eval Time (s)": end - updated,
            "Sample Time (s)": collected - start,
            "Epoch Time (s)": end - start,
        }
        for run, evaluation in zip(runs, evaluations, strict=True):
            run.end_iteration(evaluation, times, self.boards[run.folder])

    def _collect(self, runs: Sequence[_Run]) -> None:
        self.console.phase("collect")
        with _locating(runs, "collect"):
            collected = carry_out([run.collection() for run in runs], self.simulators)
        for run, visits in zip(runs, collected, strict=True):
            self.console.advance(run.keep(visits))

    def _update(self, runs: Sequence[_Run]) -> None:
        """The gradient steps of the iteration, in chunks; a signal saves between two of them and ends the process."""
        first, n = runs[0], len(runs)
        total = self.experiment.algorithm.updates_per_iteration
        self.console.phase("update", total * n, done=first.updates * n)
        self._stop_if_asked()
        while first.updates < total:
            steps = min(self.experiment.update_chunk, total - first.updates)
            results = self.learner.update_seeds([run.state for run in runs], [run.replay.arrays for run in runs], steps)
            for run, (state, metrics) in zip(runs, results, strict=True):
                run.learn(state, metrics, steps)
                self.console.advance(steps)
            self._stop_if_asked()
        for run in runs:
            run.check_parameters()

    def _evaluate(self, runs: Sequence[_Run]) -> list[Metrics]:
        self.console.phase("evaluate")
        with _locating(runs, "evaluate"):
            evaluations = carry_out([run.evaluation() for run in runs], self.simulators)
        self.console.advance(sum(steps for _, steps in evaluations))
        return [columns for columns, _ in evaluations]

    def _stop_if_asked(self) -> None:
        """Saves what is not saved yet and ends the process, if a signal has arrived."""
        if self.signals:
            for run in self.runs:
                run.save_if_new()
            raise Interrupted(self.folder, self.signals[0])


def _listed(seeds: Sequence[int]) -> str:
    """As a range if it is one."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 2:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


@contextlib.contextmanager
def _locating(runs: Sequence[_Run], phase: Phase) -> Iterator[None]:
    """Tells of an error of the simulator whose it was."""
    try:
        yield
    except SimulationError as error:
        raise runs[error.part].locate(error, phase) from error


@functools.lru_cache(maxsize=1)
def _initial_state_program(learner: PearlLearner, device: Any) -> Callable[[Any], Any]:
    """The compiled `learner.initial_state`, for all seeds of a group. The device is what JAX compiles for.

    It runs once for each: optimisations would take longer to compile than they save.
    """
    program = jax.jit(learner.initial_state).lower(jax.random.key(0))
    return program.compile({"xla_backend_optimization_level": "0"})


def _has_begun(folder: Path) -> bool:
    """Whether a run got as far as its first checkpoint, which is written before anything is collected."""
    return any((folder / CHECKPOINTS).glob("*.npz")) or any((folder / REPLAY).glob("*.npz"))


def _iterations_begun(folder: Path) -> int:
    if not _has_begun(folder):
        return 0
    progress = read_progress(latest_checkpoint(folder / CHECKPOINTS)[0])
    return progress["iterations"] + bool(progress["updates"])


@contextlib.contextmanager
def _signals(announce: Callable[[], None]) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of being ended by them; a second one of a kind acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals are someone else's business
        yield received
        return

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        announce()

    previous: dict[int, Any] = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for number in previous:
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
