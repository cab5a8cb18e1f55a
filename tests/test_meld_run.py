"""MELD as a run: trained, stopped, resumed, loaded and mixed with an earlier one; what is refused."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from meld_toy import CONFIG, HORIZON, quickly_compiled_state, toy_visits
from probes import load_script, stop_after
from rich.console import Console

import nacre
from nacre import gradient_steps, journal
from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.learner import COLLECT, EARLIER, INITIAL, MODEL, POLICY, MeldLearner
from nacre.agents.meld.memory import differences
from nacre.agents.meld.report import FILM_GAP, FILM_WIDTH, belief_pictures, film_frames, follow_trials, frames_of
from nacre.errors import Interrupted, NacreError
from nacre.estimate import estimate
from nacre.experiments import Experiment, family_of, make_experiment, named_experiments, options, validate
from nacre.files import read_npz
from nacre.interfaces import Phase
from nacre.report import read_runs
from nacre.report.curves import FIRST_SCORE, learning_columns
from nacre.report.figures import outcome_curve
from nacre.report.trials import play_test_trials
from nacre.run_folder import REPLAY
from nacre.tasks import make_family
from nacre.tasks.family import Sizes
from nacre.training import resume, train
from nacre.types import Episode

TINY: dict[str, Any] = {
    "iterations": 2,
    "train_tasks": 3,
    "test_tasks": 2,
    "family": "point-robot-pixels",
    "family_options": options(size=16, horizon=4),
    "base_depth": 1,
    "first_latent_size": 3,
    "second_latent_size": 2,
    "reward_repeats": 2,
    "episode_steps": 4,
    "initial_trials": 2,
    "initial_model_steps": 5,
    "policy_pool": 3,
    "rounds": 2,
    "model_steps": 2,
    "policy_steps": 3,
    "model_trials": 2,
    "policy_trials": 2,
    "policy_batch_size": 8,
    "hidden_size": 4,
    "update_chunk": 3,
    "threads": 1,
}

HORIZON_OF_RUN = 4


def tiny(**changes: Any) -> Experiment:
    return make_experiment("meld/point-robot-quick", **(TINY | changes))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run. To read only."""
    return train(tiny(), tmp_path_factory.mktemp("meld") / "reference")


def assert_same_end(one: Path, other: Path) -> None:
    last = "checkpoints/iteration_000002.npz"
    found, expected = read_npz(one / last), read_npz(other / last)
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"manifest"}:  # it has the time
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert rows(one) == rows(other)


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if "time" not in name.lower()} for row in csv.DictReader(file)
        ]


def test_stopped_and_resumed(tmp_path: Path, reference: Path) -> None:
    """A run that is stopped within its phases, again and again, ends as if it had not been."""
    stopped, stops = tmp_path / "stopped", 0
    for calls in (1, 2, 1, 3, 4, 50):
        with stop_after(calls), contextlib.suppress(Interrupted):
            train(tiny(), stopped) if not stopped.exists() else resume(stopped)
            break
        stops += 1
    assert stops > 3
    assert_same_end(stopped, reference)


def test_columns(reference: Path) -> None:
    """Return, success and score of each episode; and what the public code called it."""
    last = rows(reference)[-1]
    for name in ("AverageReturn", "AverageSuccess", "AverageScore"):
        assert {f"{name}_test_episode_1", f"{name}_test_episode_2"} <= set(last)
    assert float(last["AverageScore_test_episode_1"]) < 0
    assert last["d_AverageScoreMetricEval_1"] == last["AverageScore_test_episode_2"]
    assert last["c_AverageReturnEval_0"] == last["AverageReturn_test_episode_1"]
    assert last["f_AverageEpisodeLengthEval_1"] == last["AverageLength_test_episode_2"]
    for name, column in (
        ("a_AverageReturn", "Return"),
        ("b_AverageScore", "Score"),
        ("e_AverageEpisodeLength", "Length"),
    ):
        assert last[f"{name}Train"] == last[f"Average{column}_collected"]
    assert float(last["AverageReturn_collected"]) < 0
    assert float(last["AverageScore_collected"]) < 0
    for theirs, ours in (
        ("model_loss", "Model Loss"),
        ("elbo", "ELBO"),
        ("latent1_kl_divergence", "KL of z1"),
        ("critic_loss", "QF Loss"),
        ("reconst_reward_error", "Reward Error"),
    ):
        assert last[theirs] == last[ours]
    assert float(last["Number of env steps total"]) == tiny().environment_steps == (3 * 2 + 2 * 2) * 8
    assert float(last["Number of train steps total"]) == tiny().gradient_steps == 5 + 2 * 2 * 5


def test_evaluated_with_scores(reference: Path) -> None:
    """A score is minus the distance from the goal at the end of an episode."""
    evaluation = nacre.evaluate(reference, trials=1)
    assert evaluation.scores_by_episode is not None
    assert evaluation.scores_by_episode.shape == (2, 2)
    for row in evaluation.to_rows():
        assert row["success"] == (row["score"] >= -0.2)
    assert evaluation.to_json()["mean_score_by_episode"] == evaluation.scores_by_episode.mean(axis=0).tolist()


def test_its_figures(reference: Path) -> None:
    """What is expected has seen as much as the figures say; the tables have what is drawn."""
    test = play_test_trials(reference, "latest", print)
    pictures = belief_pictures(test)
    tables = {each.numbers.name: each.numbers.columns for each in pictures if each.numbers is not None}
    assert list(tables) == ["expected-pictures", "expected-rewards", "latent-states"]
    assert all("<image" in each.svg for each in pictures[:1])
    (film,) = re.findall('<video controls loop .* src="data:video/mp4;base64,([^"]*)"', pictures[0].svg)
    with av.open(io.BytesIO(base64.b64decode(film))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2 * (1 + HORIZON_OF_RUN)
    model, config = test.trained.parameters.model, tiny().algorithm
    assert isinstance(config, MeldConfig)
    trials = [task[0] for task in test.episodes]
    course = follow_trials(model, config, trials)
    rewards = np.concatenate([[0, *trials[0][0].rewards], [0, *trials[0][1].rewards]])
    np.testing.assert_array_equal(course.frames.rewards[0], rewards.astype(np.float32))
    shown = int(tables["expected-rewards"]["task"][0]) - 1
    column = tables["expected-rewards"]["reward"][tables["expected-rewards"]["trial"] == 1]
    np.testing.assert_array_equal(column, course.frames.rewards[shown])

    second = trials[0][1]
    black = replace(second, observations=np.concatenate([second.observations[:1], 0 * second.observations[1:]]))
    other = follow_trials(model, config, [(trials[0][0], black), trials[1]])
    after_frame, *imagined = np.asarray(course.expected.pictures)
    assert (after_frame != np.asarray(other.expected.pictures[0])).any()
    np.testing.assert_allclose(imagined, other.expected.pictures[1:], rtol=1e-5, atol=1e-6)
    white = replace(second, observations=np.full_like(second.observations, 255))
    other = follow_trials(model, config, [(trials[0][0], white), trials[1]])
    assert (
        imagined[0][0, HORIZON_OF_RUN + 1 :] != np.asarray(other.expected.pictures[1][0, HORIZON_OF_RUN + 1 :])
    ).any()
    np.testing.assert_allclose(imagined[1], other.expected.pictures[2], rtol=1e-5, atol=1e-6)


def test_its_scores_are_drawn_as_it_learns(reference: Path) -> None:
    _, curves = read_runs([reference])
    columns = learning_columns(curves)
    for number in (1, 2):
        recorded = next(iter(curves.values()))[f"AverageScore_test_episode_{number}"]
        np.testing.assert_array_equal(columns[f"score of episode {number}"], recorded)
    axes = Figure().subplots()
    outcome_curve(axes, curves, FIRST_SCORE, "score")
    last, first = (line.get_ydata() for line in axes.get_lines())
    np.testing.assert_array_equal(first, columns["score of episode 1"])
    np.testing.assert_array_equal(last, columns["score of episode 2"])
    assert axes.get_ylabel() == "score"


def test_its_film(reference: Path) -> None:
    """What was seen is the first of four columns; a trial is a row, and one that has ended stays."""
    test = play_test_trials(reference, "latest", print)
    config = tiny().algorithm
    assert isinstance(config, MeldConfig)
    course = follow_trials(test.trained.parameters.model, config, [task[0] for task in test.episodes])
    early = course.frames.mask.at[1, 3:].set(False)
    course = course._replace(frames=course.frames._replace(mask=early))
    frames = list(film_frames(course, 2))
    assert len(frames) == 2 * (1 + HORIZON_OF_RUN)
    assert not any(side % 2 for frame in frames for side in frame.shape[:2])
    row = (frames[0].shape[0] - 44) // 2
    for number, frame in enumerate(frames):
        for trial, at in enumerate((number, min(number, 2))):
            seen = frame[44 + trial * row + FILM_GAP :, : FILM_WIDTH : FILM_WIDTH // 16][:: FILM_WIDTH // 16][:16]
            np.testing.assert_array_equal(seen, course.frames.pictures[trial, at])


def test_frames_of_an_episode_that_ended_early(reference: Path) -> None:
    trial = play_test_trials(reference, "latest", print).episodes[0][0]
    first = trial[0]
    short = Episode(first.observations[:3], first.actions[:2], first.rewards[:2], None, terminated=True)
    frames = frames_of([(short, trial[1])], HORIZON_OF_RUN)
    assert frames.mask[0].tolist() == [True, True, True, False, False] + [True] * 5
    assert frames.acts[0].tolist() == [True, True, False, False, False] + [True] * 4 + [False]
    np.testing.assert_array_equal(frames.pictures[0, 4], first.observations[2])
    np.testing.assert_array_equal(frames.actions[0, 1], first.actions[0])


def test_loaded(reference: Path) -> None:
    """The belief changes when it acts, and goes on over an episode's end."""
    agent = nacre.load(reference)
    environment = gymnasium.make("nacre/PointRobotPixels-v0", size=16, horizon=4)
    agent.begin_trial()
    seen = []
    for episode in range(2):
        picture, _ = environment.reset(seed=episode)
        for _ in range(4):
            action = agent.act(picture)
            assert action.shape == (2,)
            picture, reward, terminated, truncated, _ = environment.step(action)
            agent.observe(picture, reward, terminated, truncated)
            seen.append(agent.belief.inferred.latent.copy())
    environment.close()
    assert agent.belief.begun
    assert len({latent.tobytes() for latent in seen}) == len(seen)


def test_phases() -> None:
    learner = MeldLearner(MeldConfig(rounds=2, model_rounds=3, offline_run="x"), Sizes((64, 64, 3), 6, 50, 1))
    each = Phase(COLLECT), Phase(MODEL, 40), Phase(POLICY, 40)
    assert learner.phases(0) == (Phase(EARLIER), *(Phase(INITIAL),) * 20, Phase(MODEL, 6000), *each, *each)
    assert learner.phases(1) == (*each, Phase(COLLECT), Phase(POLICY, 40))
    assert learner.phases(2) == (Phase(COLLECT), Phase(POLICY, 40)) * 2
    assert learner.config.gradient_steps(3) == 6000 + 3 * 40 + 6 * 40
    # Spec meld 2.6: 20 tasks, 20 trials of 50 steps in each; 5000 steps between two evaluations.
    assert MeldConfig().environment_steps(20, 1) - MeldConfig().environment_steps(20, 0) == 5000
    assert MeldConfig().environment_steps(20, 0) == 20_000


def test_the_model_is_trained_no_more(tmp_path: Path) -> None:
    """Its columns stay, without numbers, also in a run that goes on from a checkpoint."""
    run = train(tiny(model_rounds=1, iterations=1), tmp_path / "run")
    resume(run, iterations=2)
    first, second = rows(run)
    for name in ("Model Loss", "model_loss", "ELBO", "KL of z1"):
        assert np.isfinite(float(first[name]))
        assert np.isnan(float(second[name]))
    assert np.isfinite(float(second["QF Loss"]))
    assert float(second["Number of train steps total"]) == 5 + 1 * 2 + 4 * 3


def test_an_earlier_run_is_mixed_in(tmp_path: Path, reference: Path) -> None:
    """Its episodes are cut, and get the rewards of this family; after the copy it is not needed any more, and nothing
    that it was played with counts as played here."""
    source = shutil.copytree(reference, tmp_path / "source")
    changes = {"family_options": options(size=16, horizon=3), "episode_steps": 3, "offline_run": str(source)}
    experiment, run = tiny(**changes, iterations=1, offline_episodes=5, relabelled_share=0.3), tmp_path / "run"
    with stop_after(3), pytest.raises(Interrupted):
        train(experiment, run)
    shutil.rmtree(source)
    resume(run)
    assert float(rows(run)[-1]["Number of env steps total"]) == (3 * 2 + 2) * 6

    visits = journal.read_segment(run / REPLAY, 0)
    taken = [visit for visit in visits if visit.relabelled]
    earlier = [visit for segment in (0, 1) for visit in journal.read_segment(reference / REPLAY, segment)]
    for task in range(3):
        wanted = [episode for visit in earlier if visit.task == task for episode in visit.episodes][-5:]
        found = [visit.episodes[0] for visit in taken if visit.task == task]
        assert len(found) == len(wanted) >= 4
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours.observations, theirs.observations[:4])
            np.testing.assert_array_equal(ours.actions, theirs.actions[:3])
            np.testing.assert_allclose(ours.rewards, theirs.rewards[:3], rtol=1e-6)
            np.testing.assert_array_equal(ours.successes, theirs.successes[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "other train tasks"),
        ({"family_options": options(size=32, horizon=4)}, "observations are"),
        ({"family_options": options(size=16, horizon=5), "episode_steps": 5}, "have 4 steps; allowed: at least 5"),
        (
            {"family": "sparse-point-robot-pixels"},
            "has name 'point-robot-pixels'; allowed: 'sparse-point-robot-pixels'",
        ),
    ],
)
def test_earlier_runs_that_do_not_fit(tmp_path: Path, reference: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NacreError, match=message):
        train(tiny(**changes, offline_run=str(reference)), tmp_path / "run")


def test_families_that_play_otherwise() -> None:
    """Options of what is seen and of how it is seen count; the horizon does not, as episodes are cut."""
    made = {"lowest": 0.5, "size": 32, "horizon": 9}
    one = make_family("cheetah-vel-pixels", **made)
    assert list(differences(one, make_family("cheetah-vel-pixels", **(made | {"horizon": 10})))) == []
    for change in ({"lowest": 0.4}, {"camera": "track"}):
        ((name, _, theirs),) = differences(one, make_family("cheetah-vel-pixels", **(made | change)))
        assert name in ("lowest", "cameras")
        assert theirs in (0.4, ("track",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "point-robot", "family_options": options()}, "pictures, such as"),
        ({"family_options": options(size=40)}, "40 pixels high and 40 wide; allowed: a width that is a multiple of 16"),
        (
            {"family_options": options(size=(16, 32))},
            "pixels high and .* wide; allowed: a width that is a multiple of 16",
        ),
        ({"episode_steps": 5}, "episode_steps is 5; allowed for point-robot-pixels: 4, its horizon"),
        ({"context_reward": "sparse"}, "context_reward is 'sparse'.*no sparse reward"),
        ({"relabelled_share": 0.5, "shift": "time:2"}, "relabelled_share is 0.5; allowed with the shift"),
        ({"offline_run": "x", "shift": "time:2"}, "offline_run is 'x'; allowed with the shift"),
        ({"relabelled_share": 1.5}, "relabelled_share is 1.5; allowed: at least 0 and at most 1"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    made = tiny(**changes)
    with pytest.raises(NacreError, match=message):
        validate(made, family_of(made))


@pytest.mark.parametrize("name", [name for name in named_experiments() if name.startswith("meld/")])
def test_named_experiments_are_possible(name: str) -> None:
    experiment = make_experiment(name)
    validate(experiment, family_of(experiment))


def test_memory_is_estimated() -> None:
    """A picture is counted once, and what a step needs grows with the pictures that it sees."""
    large = {"family_options": options(size=64, horizon=10)}
    sizes = estimate(make_experiment("meld/point-robot-quick", **large))
    pictures = (60 * 5 + 12 * 40) * 22 * 64 * 64 * 3
    assert pictures < sizes.replay < 1.05 * pictures
    assert estimate(make_experiment("meld/point-robot-quick", **large, model_trials=80)).batch > 5 * sizes.batch
    # Outputs of the first convolution, before and after the activation, at 8 trials of 22 frames.
    assert sizes.batch > 2 * 8 * 22 * 32 * 32 * 8 * 4


def test_target_critics_of_their_own() -> None:
    learner = MeldLearner(MeldConfig(**CONFIG, target_critics="published"), Sizes((16, 16, 3), 1, HORIZON, 1))
    trained = quickly_compiled_state(learner).trained
    critics, targets = trained.networks.control.critics[0].weights[0], trained.target_critics[0].weights[0]
    assert (critics != targets).all()


def test_several_seeds_in_one_call() -> None:
    """As on a GPU: each becomes what it would be alone."""
    learner = MeldLearner(
        MeldConfig(**(CONFIG | {"base_depth": 1, "model_trials": 2})), Sizes((16, 16, 3), 1, HORIZON, 1)
    )
    family, parameters = make_family("point-robot"), np.zeros((4, 1))
    memories = [learner.memory(family, parameters, 1) for _ in range(2)]
    for seed, memory in enumerate(memories):
        memory.add(toy_visits(4, 2 + seed, seed))
    states, alone = [], []
    state = quickly_compiled_state(learner)
    for seed, memory in enumerate(memories):
        states.append(jax.tree.map(jnp.copy, state)._replace(key=jax.random.key(seed)))
        own = jax.tree.map(jnp.copy, states[-1])
        alone.append(gradient_steps.update(learner, MODEL, own, memory.arrays, None, 3)[0])
    arrays = tuple(memory.arrays for memory in memories)
    together = gradient_steps.update_batched(learner, MODEL, tuple(states), arrays, (None, None), 3)
    for (found, _), expected in zip(together, alone, strict=True):
        for ours, theirs in zip(
            jax.tree.leaves(found.trained.networks), jax.tree.leaves(expected.trained.networks), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tiny size: its parts are measured, and the replay keeps each picture once, in bytes."""
    benchmark = load_script("benchmarks/meld.py")
    result = benchmark.measure(tiny(trials="consecutive"), rounds=1, steps=2)
    pictures, replay = (result["bytes_of_1000_frames"][part] for part in ("pictures", "replay"))
    assert pictures == 1000 * 16 * 16 * 3
    assert pictures < replay < pictures + 1000 * 100
    assert result["operations_per_step"]["model"] > result["operations_per_step"]["policy"] > 0
    assert len(result["convolutions"]["alone"]) == 10
    assert result["convolutions"]["reached"] > 0
    assert result["steps_of_a_trial"] == 8
    benchmark.show("tiny", result, Console(width=200))
    said = capsys.readouterr().out
    for words in (
        "model",
        "policy",
        "A pool of trials is filtered, once a round, in ",
        "of what the same layers reach alone",
        "of which pictures 0.77 MB",
        "rendering",
    ):
        assert words in said


def test_what_is_known_of_tasks(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A linear map explains what it can on new tasks, frame by frame; figures of a run are printed and written."""
    script = load_script("benchmarks/meld_beliefs.py")
    generator = np.random.default_rng(0)
    goals, features = generator.normal(size=40), generator.normal(size=(40, 10, 3))
    features[:, 5:, 1] = 2 * goals[:, None] + 1  # the last three parts of a trial know it, the first two do not
    features[:, 9, 1] = np.nan  # such frames as there are not
    mask = np.ones((40, 10), bool)
    mask[:, 9] = False
    found = script.known(features, goals, mask)
    np.testing.assert_allclose(found[3:], 1, atol=1e-4)
    assert max(found[:2]) < 0.2
    assert script.main([str(reference), "--tasks", "12", "--out", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    for words in (
        "meld/point-robot-quick, iteration_",
        "12 new tasks",
        "goal_y",
        "distance to the goal (m) at the end: ",
    ):
        assert words in said
    (written,) = json.loads((tmp_path / "found.json").read_text())
    assert {name: len(values) for name, values in written["known"].items()} == {"goal_x": 5, "goal_y": 5}


def test_what_is_known_of_tasks_is_asked_of_melds_runs(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmarks/meld_beliefs.py")
    with pytest.raises(SystemExit):
        script.main([str(tmp_path), "--tasks", "3"])
    assert "tasks is 3 and seed 0; allowed: at least 10, and at least 0" in capsys.readouterr().err
    assert script.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert script.main([str(run_copy)]) == 1
    assert re.search("is a run of pearl/.*; allowed: runs of MELD", capsys.readouterr().err)
