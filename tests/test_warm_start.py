"""Warm starts: what a new run takes over from another, what it does not, and that it needs the other no more."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nacre import NacreError, make_experiment, make_family, resume, train
from nacre.agents.pearl.learner import PearlLearner
from nacre.checkpoint import latest_checkpoint, load_checkpoint, read_progress
from nacre.cli import main
from nacre.experiments import Experiment
from nacre.files import read_npz, write_npz
from nacre.interfaces import LearnerState
from nacre.original.configs import read_old_config
from nacre.run_folder import create_run_folder, read_run
from nacre.runtime import Stream, learner_for, seed_of
from nacre.seeds import key_of
from nacre.tasks import split_tasks
from nacre.warm_start import resolve_warm_start, take_networks

OLD = Path(__file__).parent / "old_run"


@pytest.fixture(scope="module")
def source(tiny_run: Path) -> LearnerState:
    """What the run that is started from has learnt."""
    return state_of(tiny_run)


@pytest.fixture
def experiment(tiny: dict[str, Any], tiny_run: Path) -> Experiment:
    """With another seed than that of `tiny_run`, and another learning rate."""
    changes = {**tiny, "iterations": 1, "seed": 5, "value_learning_rate": 1e-3, "warm_start": str(tiny_run)}
    return make_experiment("pearl/point-robot", **changes)


def fresh_state(experiment: Experiment) -> LearnerState:
    learner = learner_for(experiment, make_family(experiment.family))
    return learner.initial_state(key_of(seed_of(experiment, Stream.NETWORKS)))


def state_of(run: Path, label: str | None = None) -> LearnerState:
    folder = run / "checkpoints"
    path = latest_checkpoint(folder)[0] if label is None else folder / f"{label}.npz"
    return load_checkpoint(path, fresh_state(read_run(run)[0]))[0]


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_taken(state: LearnerState, source: LearnerState, experiment: Experiment) -> None:
    """The networks are the source's; everything else is that of a new run."""
    assert_equal(state.trained.networks, source.trained.networks)
    assert_equal(state.trained.target_value, source.trained.target_value)
    fresh = fresh_state(experiment)
    assert_equal(state.trained.optimisers, fresh.trained.optimisers)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.trained.optimisers))
    assert_equal(jax.random.key_data(state.key), jax.random.key_data(fresh.key))
    assert int(state.updates) == 0


def test_networks_are_taken_over_and_nothing_else(
    experiment: Experiment, source: LearnerState, run_copy: Path, tmp_path: Path
) -> None:
    # The source's target lags behind its value network, or this could not tell them apart.
    assert not np.array_equal(source.trained.target_value.weights[0], source.trained.networks.value.weights[0])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(source.trained.optimisers))
    run = train(dataclasses.replace(experiment, warm_start=str(run_copy)), tmp_path / "new")
    assert_taken(state_of(run, "iteration_000000"), source, experiment)
    progress = read_progress(run / "checkpoints" / "iteration_000000.npz")
    assert (progress["iterations"], progress["updates"], progress["seconds"]) == (0, 0, 0)
    assert [path.name for path in (run / "replay").iterdir()] == ["segment_000000.npz"]  # its own
    assert read_run(run)[0].warm_start == str(run_copy / "checkpoints" / "iteration_000002.npz")
    # To go on it does not need the source.
    shutil.rmtree(run_copy)
    resume(run, iterations=2)
    assert latest_checkpoint(run / "checkpoints")[0].stem == "iteration_000002"


def test_a_run_killed_before_its_first_checkpoint_still_starts_warm(
    experiment: Experiment, source: LearnerState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = make_family(experiment.family)
    split = split_tasks(family, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list)
    run = create_run_folder(tmp_path / "run", experiment, split)
    monkeypatch.setattr(PearlLearner, "collect", None)  # the first checkpoint comes before it
    with pytest.raises(TypeError):
        resume(run)
    assert_taken(state_of(run, "iteration_000000"), source, experiment)


@pytest.mark.parametrize("place", ["", "checkpoints/best.npz", "checkpoints/iteration_000001.npz"])
def test_what_may_be_named(place: str, experiment: Experiment, run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path from the current folder is kept as one from the root, and a run as its latest checkpoint."""
    monkeypatch.chdir(run_copy.parent)
    experiment = dataclasses.replace(experiment, warm_start=f"run/{place}")
    learner = learner_for(experiment, make_family(experiment.family))
    resolved = resolve_warm_start(experiment, learner)
    path = run_copy / (place or "checkpoints/iteration_000002.npz")
    assert resolved == dataclasses.replace(experiment, warm_start=str(path))
    taken = take_networks(fresh_state(resolved).trained, resolved)
    stored = load_checkpoint(path, fresh_state(experiment))[0].trained
    assert_equal(taken.networks, stored.networks)
    assert_equal(taken.target_value, stored.target_value)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_from_the_original_code(kind: str, tmp_path: Path) -> None:
    """The old key path_to_weights means just that."""
    config = tmp_path / "old.json"
    config.write_text(
        (OLD / kind / "variant.json").read_text().replace("output/point-robot/2019_06_01_12_00_00", str(OLD / kind))
    )
    experiment, _ = read_old_config(config)
    assert experiment.warm_start == str(OLD / kind)
    experiment = dataclasses.replace(
        experiment, algorithm=dataclasses.replace(experiment.algorithm, encoder_hidden_size=8)
    )
    assert resolve_warm_start(experiment, learner_for(experiment, make_family("point-robot"))) == experiment
    fresh = fresh_state(experiment).trained
    taken = take_networks(fresh, experiment)
    with np.load(OLD / "outputs.npz") as outputs:
        for network, name in ((taken.networks.value, "vf"), (taken.target_value, "target_vf")):
            rows = network(jnp.asarray(outputs[f"{name}_inputs"]))
            np.testing.assert_allclose(rows, outputs[f"{name}_outputs"], atol=1e-5)
    assert taken.optimisers is fresh.optimisers


def test_the_precision_is_that_of_the_new_run(experiment: Experiment, source: LearnerState) -> None:
    experiment = dataclasses.replace(experiment, precision="bfloat16")
    taken = take_networks(fresh_state(experiment).trained, experiment)
    assert taken.networks.encoder.precision == taken.target_value.precision == "bfloat16"
    np.testing.assert_array_equal(taken.networks.encoder.weights[0], source.trained.networks.encoder.weights[0])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cheetah-dir", {"train_tasks": 2}, r"encoder is \(5, 8\) there and \(27, 8\) here"),
        ("point-robot", {"hidden_size": 16}, r"weights\[0\] of the policy is \(4, 8\) there and \(4, 16\) here"),
        ("point-robot", {"encoder_hidden_size": 16}, r"weights\[0\] of the encoder is \(5, 8\) there and \(5, 16\)"),
        ("point-robot", {"latent_size": 3}, r"weights\[3\] of the encoder is \(8, 4\) there and \(8, 6\) here"),
        (
            "point-robot",
            {"probabilistic_context": False},
            r"weights\[3\] of the encoder is \(8, 4\) there and \(8, 2\)",
        ),
        (
            "point-robot",
            {"encoder": "recurrent", "context_size": 20},
            r"network.weights\[0\] of the encoder is missing there and \(6, 8\) here",
        ),
    ],
)
def test_networks_that_do_not_fit(
    name: str, changes: dict[str, Any], message: str, tiny: dict[str, Any], tiny_run: Path, tmp_path: Path
) -> None:
    overrides = {**tiny, "evaluation_steps": 600, "warm_start": str(tiny_run), **changes}
    experiment = make_experiment(f"pearl/{name}", **overrides)
    with pytest.raises(NacreError, match=rf"iteration_000002.npz does not fit pearl/{name}: .*{message}"):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_source(experiment: Experiment, run_copy: Path, tmp_path: Path) -> None:
    def message(warm_start: Path) -> str:
        with pytest.raises(NacreError) as error:
            train(dataclasses.replace(experiment, warm_start=str(warm_start)), tmp_path / "new")
        assert not (tmp_path / "new").exists()
        return str(error.value)

    assert message(tmp_path / "no") == f"warm_start is '{tmp_path / 'no'}', which does not exist"
    (tmp_path / "empty").mkdir()
    assert "empty'; allowed: a run folder, one of its checkpoints, or a folder of the original" in message(
        tmp_path / "empty"
    )
    assert "is damaged, or was not written by nacre" in message(run_copy / "progress.csv")
    checkpoint = run_copy / "checkpoints" / "iteration_000002.npz"
    arrays = read_npz(checkpoint)
    arrays["state.trained.networks.critics[1].biases[0]"][3] = np.nan
    write_npz(checkpoint, arrays)
    assert message(run_copy) == f"{checkpoint} has a value that is not finite in biases[0] of the critics[1]"
    for path in (run_copy / "checkpoints").glob("iteration*"):
        path.unlink()
    assert message(run_copy) == f"{run_copy / 'checkpoints'} has no checkpoint"


def test_from_the_command_line(experiment: Experiment, tiny_run: Path, tmp_path: Path) -> None:
    arguments = [
        f"--{field.replace('_', '-')}={getattr(experiment.algorithm, field)}"
        for field in ("hidden_size", "latent_size")
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "pearl/cheetah-vel", "--warm-start", str(tiny_run), *arguments, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
