"""One run in the making: its folder, what it has learnt, and how far it is.

Everything random in an iteration is a function of the seed, the iteration and the phase, so a run is continued from the
learner's state, the journal of what was collected and a few counters.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nacre import journal, metrics
from nacre.checkpoint import (
    checkpoint_label,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
    remove_superfluous,
    save_best,
    save_checkpoint,
)
from nacre.collect import drawing_from
from nacre.errors import NonFiniteError, SimulationError
from nacre.experiments import Experiment, family_of
from nacre.identity import check_stamp
from nacre.interfaces import Learner, Phase, Schedule
from nacre.iteration import Iteration
from nacre.logs import CSV, ProgressLog, TensorBoard
from nacre.metrics import StepMetrics
from nacre.progress import check_fits_phases, check_progress
from nacre.protocol import TEST_RETURN
from nacre.run_folder import CHECKPOINTS, REPLAY, begun_by_earlier_version, read_stamp
from nacre.runtime import SimulatorPool, Stream, learner_for, seed_of
from nacre.seeds import key_of
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.types import Metrics, Tree, Visit
from nacre.warm_start import take_networks


class Position(NamedTuple):
    """How far a run is."""

    iteration: int
    """Complete iterations."""
    phase: int
    """Complete phases of the next iteration."""
    steps: int
    """Gradient steps of the next phase."""


class Run:
    """One run: it stores what its phases give, and saves and restores all of it."""

    def __init__(self, folder: Path, experiment: Experiment, split: TaskSplit, *, alone: bool = True):
        """Goes on from the latest intact checkpoint of the folder; without one, the run begins.

        `alone`: False if the process trains other seeds too, so that messages say which seed they are about.
        """
        self.folder, self.experiment, self.split = folder, experiment, split
        self.family = family_of(experiment)
        self.learner = learner_for(experiment, self.family)
        self.memory = self.learner.memory(self.family, split.train, experiment.iterations)
        self.position = Position(0, 0, 0)
        self.saved: Position | None = None
        """Where the latest checkpoint is."""
        self.label = ""
        """What it is called."""
        self.simulators: SimulatorPool | None = None
        """Whose worlds a checkpoint remembers, if they remember anything."""
        self.remembered: dict[str, Any] = {}
        """What they remembered at the latest checkpoint."""
        self.row: Metrics = {}
        """Columns of the latest iteration, if this process has done one."""
        self._seed_in_words = "" if alone else f" of seed {experiment.seed}"
        self._visits: list[Visit] = []  # of this iteration
        self._segments = 0  # of the journal that count
        self._totals: metrics.Totals | None = None  # of the gradient steps of this iteration
        self._seconds = 0.0  # of all iterations
        self._steps = self._rollouts = 0  # that were played
        self._complete_steps = 0  # in complete iterations
        self._log = ProgressLog(folder)
        self._stamp = read_stamp(folder, experiment, split)
        self.notes: list[str] = []
        """What the user should know before the run goes on."""
        network_key = key_of(seed_of(experiment, Stream.NETWORKS))
        if has_begun(folder):
            self._restore(jax.eval_shape(self.learner.initial_state, network_key))
        else:
            device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
            self.state = _initial_state_program(self.learner, device)(network_key)
            self.state = self.state._replace(trained=take_networks(self.state.trained, experiment))
        self._updates = int(self.state.updates)  # (the states that steps are given are donated)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those of this iteration."""
        return self.learner.phases(self.position.iteration)

    @property
    def phase(self) -> Phase | None:
        """The phase that comes next, or goes on; None: the iteration is evaluated next."""
        phases = self.phases
        return phases[self.position.phase] if self.position.phase < len(phases) else None

    @property
    def iteration(self) -> Iteration:
        """The latest iteration, which this process has done."""
        return Iteration(self.folder, self.experiment, self.position.iteration, dict(self.row))

    @property
    def next_step(self) -> int:
        """The least number of environment steps that the next iteration can end with; 0 before the first one."""
        return self._complete_steps + 1 if self.position.iteration else 0

    @property
    def is_complete(self) -> bool:
        return self.position.iteration >= self.experiment.iterations

    def begin_phase(self, phase: Phase) -> None:
        """Prepares the state for a phase, unless the run was stopped within it."""
        if not self.position.steps:
            self.state = self.learner.begin(phase.name, self.state, self.memory, self.split.train)

    def end_phase(self) -> None:
        self.position = Position(self.position.iteration, self.position.phase + 1, 0)

    def collection(self, phase: Phase) -> Schedule[list[Visit]]:
        """What a phase collects."""
        seed = seed_of(self.experiment, Stream.COLLECTION, self.position.iteration, self.position.phase)
        schedule = self.learner.collect(phase.name, self.state, self.memory, self.family, self.split.train, seed)
        return drawing_from(schedule, self.split.train)

    def store(self, visits: list[Visit]) -> int:
        """Takes what a phase collected; returns the environment steps that were played."""
        before = self._steps
        self._visits += visits
        self._remember(visits)
        return self._steps - before

    def derive(self, phase: Phase) -> Tree:
        return self.learner.derive(phase.name, self.state, self.memory, self.split.train)

    def has_ended(self, phase: Phase) -> bool:
        """Whether a phase of gradient steps has stopped early, or is over.

        It begins in any case: steps that are all left out give no numbers, but names to the columns.
        """
        done = self.position.steps
        return done >= phase.steps or (done > 0 and bool(self.learner.ended(phase.name, self.state.trained)))

    def step(self, state: Tree, step_metrics: StepMetrics, steps: int) -> None:
        """Takes what gradient steps gave; `steps` includes those that a phase's early end left out."""
        done = int(state.updates) - self._updates
        self.state, self._updates = state, int(state.updates)
        step_metrics = jax.tree.map(lambda leaf: leaf[:done], jax.device_get(step_metrics))
        found = metrics.find_non_finite(step_metrics)
        if found is not None:
            task = "" if found.task is None else f" of train task {found.task}"
            raise NonFiniteError(
                f"the {found.quantity}{task}{self._seed_in_words} is not finite in iteration "
                f"{self.position.iteration}, gradient step {self._updates_of_iteration + found.step}; "
                f"{self._last_good()}"
            )
        self._totals = metrics.accumulate(self._totals, step_metrics)
        self.position = self.position._replace(steps=self.position.steps + steps)

    def evaluation(self) -> Schedule[tuple[Metrics, int]]:
        """Columns of progress.csv, and the environment steps that they took."""
        seed = seed_of(self.experiment, Stream.EVALUATION, self.position.iteration)
        return drawing_from(
            self.learner.evaluate(self.state, self.memory, self.family, self.split, seed), self.split.test
        )

    def end_iteration(self, evaluation: Metrics, times: Metrics, board: TensorBoard) -> None:
        """Writes what was collected and the row of the iteration, and a checkpoint if one is due."""
        self._seconds += times["Epoch Time (s)"]
        self.row = {
            # Earlier versions wrote other sums of gradient steps, so those that were done there are not known any more.
            **(metrics.columns(self._totals) if self._totals else dict.fromkeys(self._log.columns, math.nan)),
            **evaluation,
            "Number of train steps total": int(self.state.updates),
            "Number of env steps total": self._steps,
            "Number of rollouts total": self._rollouts,
            **times,
            "Total Train Time (s)": self._seconds,
            "Epoch": self.position.iteration,
        }
        other_names = self.experiment.algorithm.other_names
        self.row |= {other: self.row[name] for other, name in other_names.items() if name in self.row}
        self._write_segment()
        self._log.append(self.row)
        board.write(self._steps, self.row)
        self.position = Position(self.position.iteration + 1, 0, 0)
        self._visits, self._complete_steps = [], self._steps
        self._totals = None if self._totals is None else metrics.without_steps(self._totals)
        if self.position.iteration % self.experiment.checkpoint_every == 0 or self.is_complete:
            save_best(self.save({TEST_RETURN: self.row[TEST_RETURN]}), TEST_RETURN)

    def locate(self, error: SimulationError, activity: str) -> SimulationError:
        """The error, with which task of the run it was, when, and what is left."""
        parameters = np.array(list(error.task.values()))
        tasks = {
            f"{name} task {row}": task
            for name, split in (("train", self.split.train), ("test", self.split.test))
            for row, task in enumerate(split)
        }
        names = " and ".join(name for name, task in tasks.items() if np.array_equal(task, parameters))
        place = (
            f"This is {names}{self._seed_in_words}, in iteration {self.position.iteration} ({activity}); "
            f"{self._last_good()}."
        )
        return error.moved(place=place)

    def save_if_new(self) -> None:
        if self.saved != self.position:
            self.save()

    def save(self, results: dict[str, float] | None = None) -> Path:
        """Writes a checkpoint, and before it what was collected in this iteration."""
        self.check_parameters()
        if self._visits:
            self._write_segment()
        worlds = {} if self.simulators is None else self.simulators.state_dict()
        progress = {
            "iterations": self.position.iteration,
            "phase": self.position.phase,
            "phase_steps": self.position.steps,
            "segments": self._segments,
            "visits": len(self._visits),
            "updates": self._updates_of_iteration,
            "totals": self._totals,
            "seconds": self._seconds,
            **({} if self._stamp is None else {"run": self._stamp, "log": self._log.digest}),
            **({"worlds": worlds} if worlds else {}),
            **(results or {}),
        }
        label = checkpoint_label(self.position.iteration, self._updates_of_iteration)
        path = save_checkpoint(self.folder / CHECKPOINTS, label, self.state, progress, self.experiment.keep_checkpoints)
        self.saved, self.label = self.position, label
        return path

    def check_parameters(self) -> None:
        """Raises NonFiniteError if a parameter, target or moment is not finite; the losses may not show it yet."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.state.trained):
            if not np.isfinite(leaf).all():
                raise NonFiniteError(
                    f"the parameter {jax.tree_util.keystr(path)}{self._seed_in_words} is not finite in iteration "
                    f"{self.position.iteration}, after {self._updates_of_iteration} gradient steps; {self._last_good()}"
                )

    @property
    def _updates_of_iteration(self) -> int:
        """Gradient steps of this iteration, as planned."""
        return sum(phase.steps for phase in self.phases[: self.position.phase]) + self.position.steps

    def _restore(self, shapes: Tree) -> None:
        """Takes the latest intact checkpoint. Nothing is written: what is needed may prove to be damaged."""
        path, damages = latest_checkpoint(self.folder / CHECKPOINTS)
        for damage in damages:
            warnings.warn(damage, stacklevel=4)
        self.state, progress = load_checkpoint(path, shapes)
        check_progress(path, progress)
        check_stamp(path, progress.get("run"), self._stamp)
        steps = [phase.steps for phase in self.learner.phases(progress["iterations"])]
        check_fits_phases(path, progress, steps)
        iteration = progress["iterations"]
        self.position = self.saved = _position(progress, self.learner.phases(iteration))
        self.label = path.stem
        self._totals, self._seconds = progress["totals"], progress["seconds"]
        if self._totals and not all(isinstance(entry, dict) for entry in self._totals.values()):
            self._totals = None  # an earlier version wrote other sums
        self.remembered = progress.get("worlds", {})
        self._segments = segments_of(progress)
        owner = owner_of(self.family, self.split, self._stamp)
        for number, segment in enumerate(journal.read_segments(self.folder / REPLAY, self._segments, owner)):
            visits = list(segment)
            if number == iteration:
                # What was collected after the checkpoint may be there as well. Earlier versions collected once.
                visits = self._visits = visits[: progress.get("visits", len(visits))]
            self._remember(visits)
            if number < iteration:
                self._complete_steps = self._steps
        self._check_log(iteration, progress.get("log"))

    def _check_log(self, rows: int, digest: str | None) -> None:
        """Compares progress.csv with what the checkpoint knows of it. No row of it is needed to go on."""
        ahead = self._log.rows_ahead(rows)
        if digest is not None and not self._log.is_known(rows, digest):
            warnings.warn(
                f"the first {rows} rows of {self.folder / CSV} are not those that this run wrote: the file was edited, "
                "damaged, or is another run's; it goes on as it is",
                stacklevel=5,
            )
        if ahead > self.experiment.checkpoint_every:
            warnings.warn(
                f"{self.folder / CSV} has {ahead} rows after {self.label}: later checkpoints are missing, and these "
                "iterations are done again",
                stacklevel=5,
            )
        elif ahead:
            self.notes.append(
                f"{CSV} was {ahead} row(s) ahead of {self.label}, as after a kill or without a later checkpoint: "
                "they are done again"
            )
        if self._stamp is None and not begun_by_earlier_version(self.folder):  # which says more
            self.notes.append("An earlier version of nacre made this run: its files do not say which run they are of.")

    def drop_the_future(self) -> None:
        """Drops from the folder what came after the checkpoint that the run goes on from, and what a kill left."""
        if self.saved is None:
            return
        path = self.folder / CHECKPOINTS / f"{self.label}.npz"
        if TEST_RETURN in read_progress(path):  # the process may have been killed between the checkpoint and its copy
            save_best(path, TEST_RETURN)
        remove_superfluous(path, self.experiment.keep_checkpoints)
        journal.drop_segments_from(self.folder / REPLAY, self._segments)
        self._log.truncate(self.position.iteration)

    def _remember(self, visits: list[Visit]) -> None:
        self.memory.add(visits)
        played = [episode for visit in visits if not visit.relabelled for episode in visit.episodes]
        self._steps += sum(map(len, played))
        self._rollouts += len(played)

    def _write_segment(self) -> None:
        journal.append_segment(self.folder / REPLAY, self.position.iteration, self._visits, self._stamp)
        self._segments = self.position.iteration + 1

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.folder / CHECKPOINTS / f'{self.label}.npz'}"


def has_begun(folder: Path) -> bool:
    """Whether a run got as far as its first checkpoint, which is written before anything is collected."""
    return any((folder / CHECKPOINTS).glob("*.npz")) or any((folder / REPLAY).glob("*.npz"))


def iterations_begun(folder: Path) -> int:
    if not has_begun(folder):
        return 0
    path, _ = latest_checkpoint(folder / CHECKPOINTS)
    progress = read_progress(path)
    check_progress(path, progress)
    return segments_of(progress)


def owner_of(family: TaskFamily, split: TaskSplit, stamp: str | None) -> journal.Owner:
    """What the segments of a run have to fit."""
    return journal.Owner(family.sizes, len(split.train), family.has_sparse_reward, stamp)


def segments_of(progress: dict[str, Any]) -> int:
    """How many segments of the journal a checkpoint counts on. Earlier versions did not write it down."""
    return progress.get("segments", progress["iterations"] + bool(progress["updates"]))


def _position(progress: dict[str, Any], phases: tuple[Phase, ...]) -> Position:
    iteration, updates = progress["iterations"], progress["updates"]
    if "phase" in progress:
        return Position(iteration, progress["phase"], progress["phase_steps"])
    # Earlier versions knew one phase of gradient steps.
    first = next((index for index, phase in enumerate(phases) if phase.steps), 0) if updates else 0
    return Position(iteration, first, updates)


@functools.lru_cache(maxsize=1)
def _initial_state_program(learner: Learner, device: Any) -> Callable[[Any], Any]:
    """The compiled `learner.initial_state`, for all seeds of a group. The device is what JAX compiles for.

    It runs once for each: optimisations would take longer to compile than they save.
    """
    program = jax.jit(learner.initial_state).lower(jax.random.key(0))
    return program.compile({"xla_backend_optimization_level": "0"})
