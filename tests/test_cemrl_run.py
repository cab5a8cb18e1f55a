"""CEMRL as a run: trained, stopped, resumed and loaded; a toy whose classes are told apart; what is refused."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import stop_after

from nacre import gradient_steps
from nacre.agents.cemrl.agent import CemrlAgent
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.learner import CemrlLearner, EncoderDerived, derive_latents
from nacre.agents.cemrl.losses import encode, inferred_losses
from nacre.agents.cemrl.report import belief_pictures, follow_trials
from nacre.errors import Interrupted, NacreError
from nacre.experiments import Experiment, family_of, make_experiment, named_experiments, validate
from nacre.files import read_npz
from nacre.loading import load
from nacre.report.trials import play_test_trials
from nacre.tasks import make_family
from nacre.tasks.family import Sizes
from nacre.training import resume, train
from nacre.types import Episode, Visit

TINY: dict[str, Any] = {
    "iterations": 2,
    "train_tasks": 3,
    "test_tasks": 2,
    "latent_size": 2,
    "classes": 2,
    "window": 3,
    "width_factor": 1.0,
    "encoder_steps": 60,
    "encoder_batch_size": 4,
    "evaluate_every": 2,
    "patience": 6,
    "hidden_size": 4,
    "hidden_layers": 1,
    "policy_steps": 3,
    "policy_batch_size": 4,
    "initial_steps": 20,
    "tasks_per_iteration": 2,
    "visit_steps": 20,
    "evaluation_trials": 1,
    "update_chunk": 5,
    "threads": 1,
}

CONFIG: dict[str, Any] = {
    "classes": 2,
    "window": 3,
    "width_factor": 1.0,
    "encoder_batch_size": 8,
    "hidden_size": 4,
    "hidden_layers": 1,
    "policy_batch_size": 8,
}


def config_of(experiment: Experiment) -> CemrlConfig:
    assert isinstance(experiment.algorithm, CemrlConfig)
    return experiment.algorithm


def tiny(**changes: Any) -> Experiment:
    return make_experiment("cemrl/point-robot-quick", **(TINY | changes))


@pytest.mark.parametrize("changes", [{}, {"encoder": "trajectory", "window_within": "trial", "evaluation_episodes": 2}])
def test_stopped_and_resumed(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A run that is stopped within its phases, again and again, ends as if it had not been."""
    experiment = tiny(**changes)
    reference, stopped = train(experiment, tmp_path / "reference"), tmp_path / "stopped"
    stops = 0
    for calls in (2, 1, 2, 3, 50):
        with stop_after(calls), contextlib.suppress(Interrupted):
            train(experiment, stopped) if not stopped.exists() else resume(stopped)
            break
        stops += 1
    assert stops > 2
    last = "checkpoints/iteration_000002.npz"
    found, expected = read_npz(stopped / last), read_npz(reference / last)
    assert found.keys() == expected.keys()
    for name in expected:
        if name != "manifest":  # it has the time
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert rows(stopped) == rows(reference)
    early = [float(row["Encoder Steps"]) for row in rows(reference)]
    assert all(steps % 2 == 1 for steps in early if steps < 60)  # the phase ends at a look
    columns = rows(reference)[0]
    assert ("AverageReturn_test_episode_2" in columns) == bool(changes)
    assert {"Encoder Loss", "QF Loss", "Validation Loss"} <= set(columns)

    last = rows(reference)[-1]
    assert set(columns_of_the_public_code("Q")) <= set(last)
    assert last["policy_train_steps_total"] == "6"
    assert last["test_eval_avg_reward_deterministic"] == last["AverageReturn_all_test_tasks"]
    assert (last["n_env_steps_total"], last["epoch"]) == (last["Number of env steps total"], "1")
    np.testing.assert_allclose(float(last["QF1 Loss"]) + float(last["QF2 Loss"]), float(last["QF Loss"]), rtol=1e-5)

    test = play_test_trials(reference, "latest", print)
    pictures = belief_pictures(test)
    assert [picture.numbers.name for picture in pictures if picture.numbers] == ["z-over-time", "encodings"]
    trials = [trial for task in test.episodes for trial in task]
    course = follow_trials(CemrlAgent(config_of(experiment), Sizes(2, 2, 20, 2)), test.trained.parameters, trials)
    np.testing.assert_allclose(course.latent[-1], test.belief.latent, rtol=1e-4, atol=1e-6)
    assert course.begins.sum(axis=0).tolist() == [len(trial) for trial in trials]

    agent = load(reference)
    agent.begin_trial()
    action = agent.act(np.zeros(2, np.float32))
    assert action.shape == (2,)


def columns_of_the_public_code(letter: str) -> list[str]:
    """Those of spec cemrl-dmrlad 4.3, but for times of what is not done here, for returns of the stochastic policy, and
    for `Policy Grad`; those without times."""
    summaries = (f"{letter}1 Predictions", f"{letter}2 Predictions", f"{letter} Targets", "Log Pis", "Policy mu")
    return [
        *(f"Reconstruction_{part}_{of}_loss" for part in ("train_val", "val") for of in ("state", "reward")),
        *("Reconstruction_epochs", "n_env_steps_total", f"{letter}F1 Loss", f"{letter}F2 Loss", "Policy Loss"),
        *(f"{name} {part}" for name in (*summaries, "Policy log std") for part in ("Mean", "Std", "Max", "Min")),
        *("Alpha", "Alpha Loss", "policy_train_steps_total", "epoch"),
        *(
            f"{tasks}_eval_{of}_reward_deterministic"
            for tasks in ("train", "test")
            for of in ("avg", "std", "max", "min")
        ),
        *(f"{tasks}_eval_success_rate" for tasks in ("train", "test")),
    ]


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if "time" not in name.lower()} for row in csv.DictReader(file)
        ]


def toy_visits(tasks: int) -> list[Visit]:
    """Two classes of tasks: the reward is the action, or minus the action. The state does not matter."""
    generator = np.random.default_rng(0)
    visits = []
    for task in range(tasks):
        actions = generator.uniform(-1, 1, (20, 1)).astype(np.float32)
        visits.append(
            Visit(
                task,
                tuple(
                    Episode(
                        generator.normal(size=(21, 2)).astype(np.float32),
                        actions,
                        (actions[:, 0] if task % 2 else -actions[:, 0]).astype(np.float32),
                        None,
                        terminated=False,
                    )
                    for _ in range(2)
                ),
            )
        )
    return visits


@pytest.mark.parametrize("encoder", ["shared-y", "trajectory", "individual-y"])
def test_classes_of_a_toy_are_separated(encoder: Any) -> None:
    """Nothing names the classes, and yet windows of one class get one y, those of the other the other."""
    config = CemrlConfig(
        classes=2,
        window=5,
        encoder=encoder,
        width_factor=3.0,
        encoder_batch_size=64,
        encoder_learning_rate=3e-3,
        decoder_learning_rate=3e-3,
        latent_kl_weight=0.01,
        class_kl_weight=0.01,
    )
    tasks = 40
    learner = CemrlLearner(config, Sizes(2, 1, 20, 1))
    family = make_family("point-robot")  # only its flag is read
    parameters = np.zeros((tasks, 1))
    memory = learner.memory(family, parameters, 1)
    memory.add(toy_visits(tasks))
    state = learner.begin("encoder", jax.jit(learner.initial_state)(jax.random.key(0)), memory, parameters)
    derived = learner.derive("encoder", state, memory, parameters)
    assert isinstance(derived, EncoderDerived)
    state, _ = gradient_steps.update(learner, "encoder", state, memory.arrays, derived, 800)
    state = learner.begin("policy", state, memory, parameters)

    windows = learner._windows(memory.arrays, derived, jnp.arange(derived.points.count), None)
    full = np.asarray(windows.mask.all(axis=1))
    kinds = np.asarray(derived.points.tasks[: len(full)] % 2)
    networks = state.trained.networks
    found = networks.encoder.infer(*encode(networks.encoder, config, windows, None))
    latents = np.asarray(found.latent)[full, 0]
    means = [latents[kinds[full] == kind].mean() for kind in (0, 1)]
    right = (latents > np.mean(means)) == (kinds[full] == np.argmax(means))
    assert right.mean() > 0.9
    if encoder == "shared-y":
        agreement = (np.asarray(found.task_class)[full] == kinds[full]).mean()
        assert max(agreement, 1 - agreement) > 0.95
    _, reward_loss = inferred_losses((networks.encoder, networks.decoder), config, windows, None)
    assert reward_loss < 0.3  # of a variance of 1; windows that are empty cannot know
    assert derive_latents(learner, networks, memory.arrays).latents.shape[1] == 1


def test_several_seeds_in_one_call() -> None:
    """As on a GPU: one ends its fit, the other goes on; each becomes what it would be alone."""
    learner = CemrlLearner(CemrlConfig(**CONFIG, patience=2, evaluate_every=2), Sizes(2, 1, 20, 1))
    parameters, family = np.zeros((4, 1)), make_family("point-robot")
    memories = [learner.memory(family, parameters, 1) for _ in range(2)]
    for memory, tasks in zip(memories, (4, 3), strict=True):
        memory.add(toy_visits(tasks))
    initial = jax.jit(learner.initial_state)
    for phase, steps in (("encoder", 9), ("policy", 3)):
        states, alone, derived = [], [], []
        for seed, memory in enumerate(memories):
            state = learner.begin(phase, initial(jax.random.key(seed)), memory, parameters)
            derived.append(learner.derive(phase, state, memory, parameters))
            states.append(jax.tree.map(jnp.copy, state))
            alone.append(gradient_steps.update(learner, phase, state, memory.arrays, derived[-1], steps)[0])
        arrays = tuple(memory.arrays for memory in memories)
        together = gradient_steps.update_batched(learner, phase, tuple(states), arrays, tuple(derived), steps)
        for (found, _), expected in zip(together, alone, strict=True):
            assert int(found.updates) == int(expected.updates)
            for ours, theirs in zip(
                jax.tree.leaves(found.trained.networks), jax.tree.leaves(expected.trained.networks), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in named_experiments() if name.startswith("cemrl/")])
def test_named_experiments_are_possible(name: str) -> None:
    experiment = make_experiment(name)
    validate(experiment, family_of(experiment))


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ("cemrl/point-robot", {"family": "point-robot-pixels", "task_list": "seeded"}, "pictures"),
        ("cemrl/cheetah-stationary-vel", {"state_coordinates": 21}, "state_coordinates is 21.*at most 20"),
        ("cemrl/cheetah-stationary-vel", {"validation_block": 1}, "validation_block is 1.*at least 2"),
        ("cemrl/cheetah-stationary-vel", {"true_classes": True}, "true_classes is True.*no kinds"),
        ("cemrl/cheetah-stationary-dir", {"true_classes": True, "classes": 1}, "classes is 1.*at least 2"),
    ],
)
def test_what_is_refused(experiment: str, changes: dict[str, Any], message: str) -> None:
    made = make_experiment(experiment, **changes)
    with pytest.raises(NacreError, match=message):
        validate(made, make_family(made.family))


def test_kinds_of_tasks() -> None:
    family = make_family("cheetah-dir")
    assert family.kinds == 2
    assert family.kind_of(np.array([[1.0], [-1.0], [1.0]])).tolist() == [1, 0, 1]
    assert make_family("cheetah-vel").kinds is None
    made = make_experiment("cemrl/cheetah-stationary-dir", true_classes=True)
    validate(made, family)
    memory = CemrlLearner(config_of(made), family.sizes).memory(family, np.array([[-1.0], [1.0]]), 1)
    assert memory.kinds.tolist() == [0, 1]
