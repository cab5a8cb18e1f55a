"""The training loop: what it writes, what it compiles, what its seed reaches, and what it says of a NaN."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compilations, contents

from nacre import gradient_steps, metrics, runtime, tasks
from nacre.collect import run_schedules
from nacre.errors import NonFiniteError, SimulationError
from nacre.experiments import family_of, make_experiment, named_experiments
from nacre.gradient_steps import update
from nacre.logs import ProgressLog
from nacre.run import Run
from nacre.run_folder import read_run
from nacre.runtime import learner_for
from nacre.tasks.point import PointRobot, PointWorld
from nacre.training import resume, train

PUBLISHED_COLUMNS = """
Z mean train
Z variance train
KL Divergence
KL Loss
QF Loss
VF Loss
Policy Loss
Q Predictions Mean
Q Predictions Std
Q Predictions Max
Q Predictions Min
V Predictions Mean
V Predictions Std
V Predictions Max
V Predictions Min
Log Pis Mean
Log Pis Std
Log Pis Max
Log Pis Min
Policy mu Mean
Policy mu Std
Policy mu Max
Policy mu Min
Policy log std Mean
Policy log std Std
Policy log std Max
Policy log std Min
Z mean eval
Z variance eval
AverageTrainReturn_all_train_tasks
AverageReturn_all_train_tasks
AverageReturn_all_test_tasks
Number of train steps total
Number of env steps total
Number of rollouts total
Train Time (s)
(Previous) Eval Time (s)
Sample Time (s)
Epoch Time (s)
Total Train Time (s)
Epoch
""".strip().splitlines()
"""Of the original code, with a probabilistic context (spec 2.6)."""


@pytest.fixture(scope="module")
def seeded(tiny: dict[str, int]) -> dict[str, Any]:
    return tiny | {"task_list": "seeded"}


@pytest.fixture(scope="module")
def run(seeded: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_experiment("pearl/point-robot", **seeded), tmp_path_factory.mktemp("train") / "run")


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def same_column(column: str) -> bool:
    return "Time" not in column


def test_columns(run: Path, tiny: dict[str, int]) -> None:
    kinds = ("Return", "Success")
    ours = [f"Average{kind}_test_episode_{episode}" for kind in kinds for episode in (1, 2, 3)]
    ours += ["AverageSuccess_all_train_tasks", "AverageSuccess_all_test_tasks"]
    assert len(PUBLISHED_COLUMNS) == 41
    table = rows(run)
    assert [column for column in table[0] if column not in ours] == PUBLISHED_COLUMNS
    assert table[0].keys() == {*PUBLISHED_COLUMNS, *ours}
    assert all(math.isfinite(float(value)) for row in table for value in row.values())

    whole = {"Number of train steps total": (4, 8), "Number of env steps total": (200, 280), "Epoch": (0, 1)}
    whole["Number of rollouts total"] = (10, 14)
    for column, values in whole.items():
        assert tuple(row[column] for row in table) == tuple(map(str, values)), column
    for row in table:
        assert float(row["KL Loss"]) == pytest.approx(0.1 * float(row["KL Divergence"]))
        assert row["AverageReturn_test_episode_3"] == row["AverageReturn_all_test_tasks"]
        assert float(row["Log Pis Min"]) < float(row["Log Pis Mean"]) < float(row["Log Pis Max"])
        parts = [float(row[f"{part} Time (s)"]) for part in ("Train", "(Previous) Eval", "Sample")]
        assert float(row["Epoch Time (s)"]) == pytest.approx(sum(parts))
    assert float(table[1]["Total Train Time (s)"]) == pytest.approx(sum(float(row["Epoch Time (s)"]) for row in table))


def test_columns_with_deterministic_context(run: Path, tiny: dict[str, int]) -> None:
    """Without posteriors the training columns of posteriors are absent."""
    experiment, split = read_run(run)

    def columns(**changes: Any) -> list[str]:
        algorithm = dataclasses.replace(experiment.algorithm, **changes)
        learner = runtime.learner_for(dataclasses.replace(experiment, algorithm=algorithm), again.family)
        state = jax.tree.map(jnp.copy, learner.initial_state(jax.random.key(0)))  # the target is the value network
        _, step_metrics = update(learner, "update", state, again.memory.arrays, None, 2)
        return list(metrics.columns(metrics.accumulate(None, jax.device_get(step_metrics))))

    again = Run(run, experiment, split)
    assert columns() == PUBLISHED_COLUMNS[:27]
    assert columns(probabilistic_context=False) == PUBLISHED_COLUMNS[4:27]


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: array for name, array in contents(path).items() if name != "manifest"}


def test_same_seed(run: Path, seeded: dict[str, Any], tmp_path: Path) -> None:
    again = train(make_experiment("pearl/point-robot", **seeded), tmp_path / "again")
    for name in ("checkpoints/iteration_000002.npz", "replay/segment_000001.npz"):
        first, second = arrays(run / name), arrays(again / name)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[array], second[array]) for array in first)
    for first, second in zip(rows(run), rows(again), strict=True):
        assert list(first) == list(second)
        assert {c: v for c, v in first.items() if same_column(c)} == {c: v for c, v in second.items() if same_column(c)}


def test_another_seed_differs_in_everything(run: Path, seeded: dict[str, Any], tmp_path: Path) -> None:
    """Tasks, resets, networks, actions, batches; the last two with all else the same."""
    other = train(make_experiment("pearl/point-robot", **seeded, seed=1), tmp_path / "other")
    (experiment, split), (other_experiment, other_split) = read_run(run), read_run(other)
    assert not np.isin(split.train, other_split.train).any()
    assert not np.isin(split.test, other_split.test).any()

    first, second = arrays(run / "checkpoints/iteration_000001.npz"), arrays(other / "checkpoints/iteration_000001.npz")
    weights = [name for name in first if "networks" in name and "weights" in name]
    assert len(weights) > 15
    for name in weights:
        assert not np.isclose(first[name], second[name], rtol=0, atol=1e-7).all(), name

    again = Run(run, experiment, split)
    with contextlib.closing(runtime.SimulatorPool(again.family, threads=1)) as simulators:
        seeds = [
            runtime.seed_of(each, runtime.Stream.COLLECTION, 2, 0)
            for each in (experiment, experiment, other_experiment)
        ]
        schedules = [
            again.learner.collect("collect", again.state, again.memory, again.family, split.train, seed)
            for seed in seeds
        ]
        collections = [run_schedules([schedule], simulators.play)[0] for schedule in schedules]
    one, same, another = ([episode for visit in visits for episode in visit.episodes] for visits in collections)
    for episode, repeated, changed in zip(one, same, another, strict=True):
        assert np.array_equal(episode.actions, repeated.actions)
        assert not np.isin(episode.observations[0], changed.observations[0]).any()
        assert not np.isin(episode.actions, changed.actions).any()

    key = Run(other, other_experiment, other_split).state.key
    _, first_metrics = update(again.learner, "update", again.state, again.memory.arrays, None, 2)
    state = Run(run, experiment, split).state  # the other one has been donated
    _, other_metrics = update(again.learner, "update", state._replace(key=key), again.memory.arrays, None, 2)
    assert not np.isin(first_metrics["QF Loss"].values, other_metrics["QF Loss"].values).any()


def test_compiles_once(tiny: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first iteration nothing is compiled, and the gradient step is compiled once."""
    by_iteration: list[list[str]] = []
    append = ProgressLog.append
    with contextlib.ExitStack() as counting:

        def append_and_count(log: ProgressLog, row: Any) -> None:
            append(log, row)
            counting.close()
            by_iteration.append(counting.enter_context(compilations()))

        monkeypatch.setattr(ProgressLog, "append", append_and_count)
        by_iteration.append(counting.enter_context(compilations()))
        # Shapes that no other test has, lest they be compiled already.
        fields = tiny | {"iterations": 3, "hidden_size": 11, "encoder_hidden_size": 13}
        train(make_experiment("pearl/point-robot", **fields), tmp_path / "run")
    first, *later = by_iteration
    assert sum(name.endswith("update)") or name == "update" for name in first) == 1, first
    assert later == [[], [], []]


@pytest.mark.parametrize("name", named_experiments())
def test_chunks_divide_a_phase(name: str) -> None:
    """A shorter last chunk would be a second program to compile."""
    experiment = make_experiment(name)
    learner = learner_for(experiment, family_of(experiment))
    steps = [phase.steps for iteration in (0, 1) for phase in learner.phases(iteration)]
    assert not any(n % min(n, experiment.update_chunk) for n in steps if n)


class Faulty(PointRobot):
    """A point robot that can be broken."""

    name = "faulty"
    broken: ClassVar[tuple[str, np.ndarray] | None] = None
    """The quantity that is NaN, and the tasks in which it is."""

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        reward = super().reward(previous, action, following, task)
        if Faulty.broken and Faulty.broken[0] == "reward":
            reward = np.where((task[:, None] == Faulty.broken[1][None]).all(-1).any(-1), np.nan, reward)
        return reward

    def make_world(self, n_slots: int, threads: int) -> FaultyWorld:
        return FaultyWorld(n_slots, start_range=1.0, goal_radius=0.1)


class FaultyWorld(PointWorld):
    def step(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        observations, positions = super().step(slots, actions)
        if Faulty.broken and Faulty.broken[0] == "observation":
            observations[-1] = np.nan
        return observations, positions


@pytest.fixture
def faulty(seeded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Fields of an experiment with the broken family."""
    monkeypatch.setitem(tasks.FAMILIES, "faulty", Faulty)
    yield seeded | {"family": "faulty"}
    Faulty.broken = None


LAST_GOOD = "the last good checkpoint is {run}/checkpoints/{label}.npz"


def assert_recovers(run: Path, reference: Path) -> None:
    """The cause is gone: the run goes on as if it had never been there."""
    resume(run)
    first, second = (arrays(each / "checkpoints/iteration_000002.npz") for each in (run, reference))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize(
    ("quantity", "split", "phase"),
    [("reward", "train", "collect"), ("reward", "test", "evaluate"), ("observation", "train", "collect")],
)
def test_nan_in_the_simulation(
    run: Path,
    faulty: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantity: str,
    split: str,
    phase: str,
) -> None:
    broken_run = tmp_path / "run"
    bad = getattr(read_run(run)[1], split)

    def append_and_break(log: ProgressLog, row: Any) -> None:
        append(log, row)
        Faulty.broken = quantity, bad

    append = ProgressLog.append
    monkeypatch.setattr(ProgressLog, "append", append_and_break)
    with pytest.raises(SimulationError) as caught:
        train(make_experiment("pearl/point-robot", **faulty), broken_run)
    error = caught.value
    index = int(np.flatnonzero((bad == np.array([list(error.task.values())])).all(axis=1))[0])
    assert error.quantity == quantity
    assert str(error) == (
        f"The {quantity} of simulator slot {error.slot} is not finite; its task is goal_x = {bad[index, 0]:g}, "
        f"goal_y = {bad[index, 1]:g}. This is {split} task {index}, in iteration 1 ({phase}); "
        + LAST_GOOD.format(run=broken_run, label="iteration_000001")
        + "."
    )
    Faulty.broken = None
    monkeypatch.undo()
    monkeypatch.setitem(tasks.FAMILIES, "faulty", Faulty)
    assert_recovers(broken_run, run)


def poisoned_replay(update: Callable[..., Any]) -> Callable[..., Any]:
    """Every reward of train task 1 is NaN."""

    def poisoned(learner: Any, phase: str, state: Any, replay: Any, derived: Any, steps: int) -> Any:
        owned = replay.pages[1, : -(-int(replay.counts[1]) // 256)]
        rows = (owned[:, None] * 256 + jnp.arange(256)[None]).reshape(-1)
        replay = replay._replace(rewards=replay.rewards.at[rows].set(jnp.nan))
        return update(learner, phase, state, replay, derived, steps)

    return poisoned


def poisoned_parameter(update: Callable[..., Any]) -> Callable[..., Any]:
    """The last gradient step of a call makes a bias of the policy infinite, which no loss has seen yet."""

    def poisoned(*args: Any) -> Any:
        state, step_metrics = update(*args)
        leaves, structure = jax.tree.flatten(state)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        index = paths.index(".trained.networks.policy.network.biases[0]")
        leaves[index] = leaves[index].at[0].set(jnp.inf)
        return jax.tree.unflatten(structure, leaves), step_metrics

    return poisoned


@pytest.mark.parametrize(
    ("poison", "call", "message"),
    [
        (
            poisoned_replay,
            3,
            r"the Z mean train of train task 1 is not finite in iteration 1, gradient step [23]; {last_good}",
        ),
        (
            poisoned_parameter,
            3,
            r"the parameter \.networks\.policy\.network\.biases\[0\] is not finite in iteration 1, after 4 gradient "
            r"steps; {last_good}",
        ),
    ],
)
def test_nan_in_the_learner(
    run: Path,
    seeded: dict[str, Any],
    tmp_path: Path,
    poison: Callable[..., Any],
    call: int,
    message: str,
) -> None:
    broken_run = tmp_path / "run"
    calls = iter(range(100))

    def sometimes_poisoned(*args: Any) -> Any:
        return (poison(update) if next(calls) == call else update)(*args)

    last_good = re.escape(LAST_GOOD.format(run=broken_run, label="iteration_000001"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_steps, "update", sometimes_poisoned)
        with pytest.raises(NonFiniteError, match="^" + message.format(last_good=last_good) + "$"):
            train(make_experiment("pearl/point-robot", **seeded), broken_run)
    assert len(rows(broken_run)) == 1
    assert_recovers(broken_run, run)
