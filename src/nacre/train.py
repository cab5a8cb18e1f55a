"""Meta-training: collect, update, evaluate, log, checkpoint; and going on exactly where a run stopped.

Everything random in an iteration is a function of the seed and the iteration's number, so a run is continued from the
learner's state, the journal of the replay and a few counters. Simulators carry nothing from one phase to the next.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre import journal
from nacre.agents.pearl import statistics
from nacre.checkpoint import checkpoint_label, latest_checkpoint, load_checkpoint, save_best, save_checkpoint
from nacre.collect import run_trials
from nacre.errors import Interrupted, NonFiniteError, SimulationError
from nacre.evaluate import Evaluation, episode_return, evaluate_agent
from nacre.experiments import Experiment, validate
from nacre.logs import Console, ProgressLog, TensorBoard
from nacre.replay import ReplayBuffer
from nacre.run_folder import CHECKPOINTS, REPLAY, create_run_folder, extend_run, read_run
from nacre.runtime import SimulatorPool, Stream, key_of, learner_for, prepare_jax, seed_of, training_protocol
from nacre.tasks import make_family
from nacre.tasks.family import TaskSplit, split_tasks
from nacre.types import Metrics, Tree, Visit

TEST_RETURN = "AverageReturn_all_test_tasks"


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
        NonFiniteError, SimulationError: a loss, observation or reward is not finite; the last checkpoint is good.
    """
    family = make_family(experiment.family)
    validate(experiment, family)
    with prepare_jax(experiment.device):
        split = split_tasks(
            family, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list
        )
        folder = create_run_folder(None if out is None else Path(out), experiment, split)
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
        NacreError: the folder is no run, or what is needed of it is missing or damaged.
        and what :func:`train` raises.
    """
    folder = Path(run)
    experiment, split = read_run(folder)
    if iterations is not None:
        experiment = extend_run(folder, iterations)
    with prepare_jax(experiment.device):
        training = _Run(folder, experiment, split)
        training.restore()
        training.to_the_end()
    return folder


class _Run:
    """One run in the making: its folder, what it has learnt, and how far it is."""

    def __init__(self, folder: Path, experiment: Experiment, split: TaskSplit):
        self.folder, self.experiment, self.split = folder, experiment, split
        self.family = make_family(experiment.family)
        self.learner = learner_for(experiment, self.family)
        self.protocol = training_protocol(experiment, self.family)
        self.state = self.learner.initial_state(key_of(seed_of(experiment, Stream.NETWORKS)))
        self.iteration = 0
        self.updates = 0  # gradient steps done within the iteration
        self.totals: statistics.Totals | None = None  # of those gradient steps
        self.seconds = 0.0  # of all iterations, for the total time column
        self.rollouts = 0
        self.replay = self._empty_replay()
        self.progress_log = ProgressLog(folder)

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

    def restore(self) -> None:
        """Takes up the latest intact checkpoint, and drops from journal and log what came after it."""
        path, warnings = latest_checkpoint(self.folder / CHECKPOINTS)
        for warning in warnings:
            print(f"warning: {warning}")
        self.state, progress = load_checkpoint(path, self.state)
        self.iteration, self.updates = progress["iterations"], progress["updates"]
        self.totals, self.seconds = progress["totals"], progress["seconds"]
        segments = self.iteration + bool(self.updates)
        journal.drop_segments_from(self.folder / REPLAY, segments)
        for visits in journal.read_segments(self.folder / REPLAY, segments):
            self._add(visits)
        self.progress_log.truncate(self.iteration)

    def to_the_end(self) -> None:
        """Runs the iterations that are left."""
        experiment = self.experiment
        simulators = SimulatorPool(self.family, experiment.threads)
        board = TensorBoard(self.folder, self.iteration)
        with (
            contextlib.closing(simulators),
            contextlib.closing(board),
            _signals() as signals,
            Console(experiment.iterations, complete=self.iteration) as console,
        ):
            console.message(f"{experiment.name}, seed {experiment.seed}: {self.folder}")
            if not self.iteration and not self.updates:
                self._save()
            while self.iteration < experiment.iterations:
                row = self._iterate(simulators, console, signals)
                self.progress_log.append(row)
                board.write(self.iteration, row)
                self.iteration, self.updates, self.totals = self.iteration + 1, 0, None
                due = self.iteration % experiment.checkpoint_every == 0 or self.iteration == experiment.iterations
                if due or signals:
                    save_best(self._save({TEST_RETURN: row[TEST_RETURN]}), TEST_RETURN)
                console.iteration(row)
                if signals and self.iteration < experiment.iterations:
                    raise Interrupted(self.folder, signals[0])

    def _iterate(self, simulators: SimulatorPool, console: Console, signals: list[int]) -> Metrics:
        """One iteration, or what is left of it; returns its row of progress.csv."""
        start = time.monotonic()
        try:
            if not self.updates:
                self._collect(simulators, console)
            collected = time.monotonic()
            self._update(console, signals)
            updated = time.monotonic()
            evaluation = self._evaluate(simulators, console)
        except SimulationError as error:
            raise SimulationError(
                f"{error.quantity} in iteration {self.iteration}", error.slot, error.task
            ) from error
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
        console.phase("update", total)
        console.advance(self.updates)
        while self.updates < total:
            if signals:
                if self.updates:
                    self._save()
                raise Interrupted(self.folder, signals[0])
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

    def _save(self, results: dict[str, float] | None = None) -> Path:
        if not _all_finite(self.state.trained):
            raise NonFiniteError(f"a parameter is not finite after iteration {self.iteration - 1}; {self._last_good()}")
        progress = {
            "iterations": self.iteration,
            "updates": self.updates,
            "totals": self.totals,
            "seconds": self.seconds,
            **(results or {}),
        }
        label = checkpoint_label(self.iteration, self.updates)
        return save_checkpoint(
            self.folder / CHECKPOINTS, label, self.state, progress, self.experiment.keep_checkpoints
        )

    def _last_good(self) -> str:
        return f"the last good checkpoint is {latest_checkpoint(self.folder / CHECKPOINTS)[0]}"


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of being ended by them; a second one of a kind acts at once."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        print("\nStopping at the next safe point, and saving ...", flush=True)

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receive)
    except ValueError:  # not in the main thread: signals are someone else's business
        previous.clear()
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
