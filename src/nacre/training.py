"""Meta-training: collect, update, evaluate, log, checkpoint; and going on exactly where a run stopped.

Everything random in an iteration is a function of the seed and the iteration's number, so a run is continued from the
learner's state, the journal of the replay and a few counters. Simulators carry nothing from one phase to the next.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre import journal
from nacre.agents.pearl import statistics
from nacre.checkpoint import (
    checkpoint_label,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
    save_best,
    save_checkpoint,
)
from nacre.collect import key_of, run_trials
from nacre.errors import Interrupted, NonFiniteError, SimulationError
from nacre.evaluation import episode_return, evaluate_agent
from nacre.experiments import Experiment, validate
from nacre.logs import TEST_RETURN, Console, Phase, ProgressLog, TensorBoard
from nacre.replay import ReplayBuffer
from nacre.run_folder import CHECKPOINTS, REPLAY, create_run_folder, extend_run, read_run, sole_user
from nacre.runtime import SimulatorPool, Stream, learner_for, prepare_jax, seed_of, training_protocol
from nacre.tasks import make_family
from nacre.tasks.family import TaskSplit, split_tasks
from nacre.types import Metrics, Tree, Visit


def train(experiment: Experiment, out: Path | str | None = None) -> Path:
    """Meta-trains an experiment from the beginning.

    Args:
        experiment: see :func:`nacre.make_experiment`.
        out: the run folder, which must not exist or be empty; None: runs/<algorithm>/<task>/<seed and time>.

    Returns:
        the run folder.

    Raises:
        NacreError: the experiment is impossible, or the folder cannot be used.
        Interrupted: SIGINT or SIGTERM arrived; everything is saved.
        NonFiniteError, SimulationError: a loss, parameter, observation or reward is not finite; the last checkpoint
            is good.
    """
    family = make_family(experiment.family)
    validate(experiment, family)
    with prepare_jax(experiment.device):
        split = split_tasks(
            family, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list
        )
        folder = create_run_folder(None if out is None else Path(out), experiment, split)
        with sole_user(folder):
            _Run(folder, experiment, split).to_the_end()
    return folder


def resume(run: Path | str, iterations: int | None = None) -> Path:
    """Continues a run as if it had not been interrupted, from its latest intact checkpoint.

    Args:
        run: the run folder.
        iterations: a new total number of iterations; None: as the experiment says.

    Returns:
        the run folder.

    Raises:
        NacreError: the folder is no run, another process trains it, what is needed of it is missing or damaged, or
            it has more than `iterations` iterations already.
        and what :func:`train` raises.
    """
    folder = Path(run)
    experiment, split = read_run(folder)
    with sole_user(folder), prepare_jax(experiment.device):
        if iterations is not None:
            experiment = extend_run(folder, iterations, begun=_iterations_begun(folder))
        _Run(folder, experiment, split).to_the_end()
    return folder


class _Run:
    """One run in the making: its folder, what it has learnt, and how far it is."""

    def __init__(self, folder: Path, experiment: Experiment, split: TaskSplit):
        """Takes up the latest intact checkpoint of the folder; without one, the run begins."""
        self.folder, self.experiment, self.split = folder, experiment, split
        self.family = make_family(experiment.family)
        self.learner = learner_for(experiment, self.family)
        self.protocol = training_protocol(experiment, self.family)
        self.iteration = 0
        self.updates = 0  # gradient steps done within the iteration
        self.totals: statistics.Totals | None = None  # of those gradient steps
        self.seconds = 0.0  # of all iterations, for the total time column
        self.rollouts = 0
        self.saved: str | None = None  # label of the latest checkpoint
        self.replay = self._empty_replay()
        self.progress_log = ProgressLog(folder)
        network_key = key_of(seed_of(experiment, Stream.NETWORKS))
        if _has_begun(folder):
            self._restore(jax.eval_shape(self.learner.initial_state, network_key))
        else:
            # It runs once: optimisations would take longer to compile than they save.
            initial_state = jax.jit(self.learner.initial_state).lower(network_key)
            self.state = initial_state.compile({"xla_backend_optimization_level": "0"})(network_key)

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
        """Takes up the latest intact checkpoint, and drops from journal and log what came after it."""
        path, damages = latest_checkpoint(self.folder / CHECKPOINTS)
        for damage in damages:
            warnings.warn(damage, stacklevel=4)
        self.state, progress = load_checkpoint(path, shapes)
        self.iteration, self.updates = progress["iterations"], progress["updates"]
        self.totals, self.seconds = progress["totals"], progress["seconds"]
        self.saved = path.stem
        if TEST_RETURN in progress:  # the process may have been killed between the checkpoint and its copy
            save_best(path, TEST_RETURN)
        segments = self.iteration + bool(self.updates)
        journal.drop_segments_from(self.folder / REPLAY, segments)
        for visits in journal.read_segments(self.folder / REPLAY, segments):
            self._add(visits)
        self.progress_log.truncate(self.iteration)

    def to_the_end(self) -> None:
        """Runs the iterations that are left."""
        experiment = self.experiment
        if self.iteration == experiment.iterations:
            print(
                f"{self.folder}: all {self.iteration} iterations are complete. For more: "
                f"nacre resume {self.folder} --iterations {2 * self.iteration}"
            )
            return
        with (
            contextlib.closing(SimulatorPool(self.family, experiment.threads)) as simulators,
            contextlib.closing(TensorBoard(self.folder, self.iteration)) as board,
            Console(experiment.iterations, complete=self.iteration) as console,
            _signals(console.stopping) as signals,
        ):
            console.message(f"{experiment.name}, seed {experiment.seed}: {self.folder}")
            if self.saved is None:
                self._save()
            else:
                console.message(f"going on from {self.saved}")
            while self.iteration < experiment.iterations:
                row = self._iterate(simulators, console, signals)
                self.progress_log.append(row)
                board.write(self.iteration, row)
                self.iteration, self.updates, self.totals = self.iteration + 1, 0, None
                if self.iteration % experiment.checkpoint_every == 0 or self.iteration == experiment.iterations:
                    save_best(self._save({TEST_RETURN: row[TEST_RETURN]}), TEST_RETURN)
                console.iteration(row)

    def _iterate(self, simulators: SimulatorPool, console: Console, signals: list[int]) -> Metrics:
        """One iteration, or what is left of it; returns its row of progress.csv."""
        start = time.monotonic()
        if not self.updates:
            self._stop_if_asked(signals)
            with self._naming("collect"):
                self._collect(simulators, console)
        collected = time.monotonic()
        self._update(console, signals)
        updated = time.monotonic()
        with self._naming("evaluate"):
            evaluation = self._evaluate(simulators, console)
        end = time.monotonic()
        self.seconds += end - start
        return {
            **statistics.columns(self.totals or {}, self.experiment.algorithm),
            **evaluation,
            "Number of train steps total": (self.iteration + 1) * self.experiment.algorithm.updates_per_iteration,
            "Number of env steps total": self.replay.transitions,
            "Number of rollouts total": self.rollouts,
            "Train Time (s)": updated - collected,
            "(Previous) Eval Time (s)": end - updated,
            "Sample Time (s)": collected - start,
            "Epoch Time (s)": end - start,
            "Total Train Time (s)": self.seconds,
            "Epoch": self.iteration,
        }

    def _collect(self, simulators: SimulatorPool, console: Console) -> None:
        console.phase("collect")
        seed = seed_of(self.experiment, Stream.COLLECTION, self.iteration)
        visits: list[Visit] = []
        if self.iteration == 0:
            initial_seed = seed_of(self.experiment, Stream.INITIAL_COLLECTION)
            visits = self.learner.collect_initial(self.state, simulators, self.split.train, initial_seed)
        visits += self.learner.collect(self.state, simulators, self.split.train, seed)
        before = self.replay.transitions
        self._add(visits)
        journal.append_segment(self.folder / REPLAY, self.iteration, visits)
        console.advance(self.replay.transitions - before)

    def _add(self, visits: tuple[Visit, ...] | list[Visit]) -> None:
        self.replay.add(visits)
        self.rollouts += sum(len(visit.episodes) for visit in visits)

    def _update(self, console: Console, signals: list[int]) -> None:
        """The gradient steps of the iteration, in chunks; a signal saves between two of them and ends the run."""
        total = self.experiment.algorithm.updates_per_iteration
        console.phase("update", total, done=self.updates)
        self._stop_if_asked(signals)
        while self.updates < total:
            steps = min(self.experiment.update_chunk, total - self.updates)
            self.state, metrics = self.learner.update(self.state, self.replay.arrays, steps)
            metrics = jax.device_get(metrics)
            found = statistics.find_non_finite(metrics)
            if found is not None:
                task = "" if found.task is None else f" of train task {found.task}"
                raise NonFiniteError(
                    f"the {found.quantity}{task} is not finite in iteration {self.iteration}, gradient step "
                    f"{self.updates + found.step}; {self._last_good()}"
                )
            self.totals = statistics.accumulate(self.totals, metrics)
            self.updates += steps
            console.advance(steps)
            self._stop_if_asked(signals)
        self._check_parameters()

    def _evaluate(self, simulators: SimulatorPool, console: Console) -> Metrics:
        """Meta-tests on the test tasks and on as many train tasks, online; and on the same train tasks with posteriors
        from the replay ("offline")."""
        console.phase("evaluate")
        train, test = self.split.train, self.split.test
        pick = np.random.default_rng(seed_of(self.experiment, Stream.EVALUATION_TASKS, self.iteration))
        picked = pick.choice(len(train), size=min(len(train), len(test)), replace=False)
        params = self.learner.parameters(self.state)
        evaluation, _, belief = evaluate_agent(
            self.learner.evaluation_agent,
            params,
            simulators,
            np.concatenate([test, train[picked]]),
            self.protocol,
            seed_of(self.experiment, Stream.TEST_EVALUATION, self.iteration),
        )
        console.advance(sum(sum(trial.lengths) for trials in evaluation.trials for trial in trials))
        final, by_episode = evaluation.final_returns, evaluation.returns_by_episode[: len(test)].mean(axis=0)
        episodes = self.protocol.minimum_episodes(self.family.horizon)
        return {
            **self.learner.belief_columns(belief, len(test) * self.protocol.trials),
            "AverageTrainReturn_all_train_tasks": self._offline_return(simulators, picked, params),
            "AverageReturn_all_train_tasks": float(final[len(test) :].mean()),
            TEST_RETURN: float(final[: len(test)].mean()),
            **{f"AverageReturn_test_episode_{i + 1}": float(by_episode[i]) for i in range(episodes)},
        }

    def _offline_return(self, simulators: SimulatorPool, picked: np.ndarray, params: Tree) -> float:
        rollouts = max(1, self.experiment.algorithm.evaluation_steps // self.family.horizon)
        tasks = np.repeat(picked, rollouts)
        seed = seed_of(self.experiment, Stream.OFFLINE_EVALUATION, self.iteration)
        belief = self.learner.replay_belief(self.state, self.replay.arrays, jnp.asarray(tasks), key_of(seed))
        trials, _ = run_trials(
            self.learner.offline_agent(),
            params,
            simulators(len(tasks)),
            self.split.train[tasks],
            seed,
            episodes=1,
            deterministic=True,
            belief=belief,
        )
        return float(np.mean([episode_return(trial[0], self.protocol.sparse_returns) for trial in trials]))

    @contextlib.contextmanager
    def _naming(self, phase: Phase) -> Iterator[None]:
        """Adds to an error of the simulator which task of the run it was, when, and what is left."""
        try:
            yield
        except SimulationError as error:
            parameters = np.array(list(error.task.values()))
            tasks = {
                f"{name} task {row}": task
                for name, split in (("train", self.split.train), ("test", self.split.test))
                for row, task in enumerate(split)
            }
            names = " and ".join(name for name, task in tasks.items() if np.array_equal(task, parameters))
            place = f"This is {names}, in iteration {self.iteration} ({phase}); {self._last_good()}."
            raise SimulationError(error.quantity, error.slot, error.task, place) from error

    def _stop_if_asked(self, signals: list[int]) -> None:
        """Saves what is not saved yet and ends the run, if a signal has arrived."""
        if signals:
            if self.saved != checkpoint_label(self.iteration, self.updates):
                self._save()
            raise Interrupted(self.folder, signals[0])

    def _save(self, results: dict[str, float] | None = None) -> Path:
        self._check_parameters()
        progress = {
            "iterations": self.iteration,
            "updates": self.updates,
            "totals": self.totals,
            "seconds": self.seconds,
            **(results or {}),
        }
        label = checkpoint_label(self.iteration, self.updates)
        path = save_checkpoint(self.folder / CHECKPOINTS, label, self.state, progress, self.experiment.keep_checkpoints)
        self.saved = label
        return path

    def _check_parameters(self) -> None:
        """Raises NonFiniteError if a parameter, target or moment is not finite; the losses may not show it yet."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.state.trained):
            if not np.isfinite(leaf).all():
                raise NonFiniteError(
                    f"the parameter {jax.tree_util.keystr(path)} is not finite in iteration {self.iteration}, after "
                    f"{self.updates} gradient steps; {self._last_good()}"
                )

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.folder / CHECKPOINTS / f'{self.saved}.npz'}"


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
