"""DMRLAD as a run: what is stored and counted, resumed to the bit, ablations, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import stop_after
from test_cemrl_run import TINY, columns_of_the_public_code, rows

from nacre.agents.dmrlad.config import DmrladConfig
from nacre.agents.dmrlad.learner import DmrladLearner
from nacre.errors import Interrupted, NacreError
from nacre.experiments import Experiment, family_of, make_experiment, named_experiments, validate
from nacre.files import read_npz
from nacre.journal import read_segments
from nacre.loading import load
from nacre.run import Run
from nacre.run_folder import read_run
from nacre.training import resume, train
from nacre.types import Episode, Visit

SMALL: dict[str, Any] = TINY | {
    "hidden_layers": 2,
    "quantiles": 3,
    "embedding_size": 4,
    "scoring_states": 3,
    "initial_steps": 40,
    "visit_steps": 80,
    "choice": "softmax",
    "reward_scale": 1.0,
    "family_options": {"dense": False, "distance": 0.6, "horizon": 40},
}


def tiny(**changes: Any) -> Experiment:
    return make_experiment("dmrlad/sparse-point-robot-quick", **(SMALL | changes))


@pytest.mark.parametrize("changes", [{}, {"relabelling": "replace", "critics": "expected", "target_policy": False}])
def test_stopped_and_resumed(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A run that is stopped within its phases, again and again, ends as if it had not been, copies included."""
    experiment = tiny(**changes)
    reference, stopped = train(experiment, tmp_path / "reference"), tmp_path / "stopped"
    stops = 0
    for calls in (2, 2, 3, 50):
        with stop_after(calls), contextlib.suppress(Interrupted):
            train(experiment, stopped) if not stopped.exists() else resume(stopped)
            break
        stops += 1
    assert stops > 1
    names = [f"checkpoints/{path.name}" for path in sorted((reference / "checkpoints").glob("iteration_000002.npz"))]
    for name in [*names, "replay/segment_000000.npz", "replay/segment_000001.npz"]:
        found, expected = read_npz(stopped / name), read_npz(reference / name)
        assert found.keys() == expected.keys()
        for array in expected:
            if array not in ("manifest", "run"):  # these have the time, and which run it is
                np.testing.assert_array_equal(found[array], expected[array], err_msg=array)
    assert rows(stopped) == rows(reference)

    # what was played is counted, copies are not
    segments = list(read_segments(reference / "replay", 2))
    played = [visit for segment in segments for visit in segment if not visit.relabelled]
    copies = [visit for segment in segments for visit in segment if visit.relabelled]
    steps = sum(len(episode) for visit in played for episode in visit.episodes)
    assert steps == 3 * 40 + 2 * 2 * 80 == int(float(rows(reference)[-1]["Number of env steps total"]))
    run = Run(reference, *read_run(reference))
    stored = run.memory.transitions  # pyright: ignore[reportAttributeAccessIssue]
    if changes:
        assert 0 < len(copies) < 8  # each of 8 episodes with probability 1/2
        assert stored == steps
    else:
        assert len(copies) == 8
        assert stored == steps + 8 * 40
    assert not any(episode.reward_states is not None for visit in played for episode in visit.episodes)

    row = rows(reference)[-1]
    assert {"Return of Copies", "Return of Originals", "Copies for Other Tasks", "QF Loss"} <= set(row)
    assert set(columns_of_the_public_code("Q" if changes else "Z")) <= set(row)
    last = [visit for visit in segments[-1] if visit.relabelled]
    mean = np.mean([episode.rewards.sum() for visit in last for episode in visit.episodes])
    np.testing.assert_allclose(float(row["Return of Copies"]), mean, rtol=1e-5)
    agent = load(reference)
    agent.begin_trial()
    assert agent.act(np.zeros(2, np.float32)).shape == (2,)


def test_copies_have_the_rewards_of_their_task(tmp_path: Path) -> None:
    """Rewards and successes of a copy are those of the task it is stored under; all else is the original's."""
    run = train(tiny(iterations=1), tmp_path / "run")
    family, (_, split) = family_of(tiny()), read_run(run)
    (visits,) = read_segments(run / "replay", 1)
    originals = [visit for visit in visits[3:] if not visit.relabelled]
    copies = [visit for visit in visits if visit.relabelled]
    episodes = [episode for visit in originals for episode in visit.episodes]
    assert [visit.context_episodes for visit in originals] == [2, 2]
    assert [visit.context_episodes for visit in copies] == [0] * 4
    for original, visit in zip(episodes, copies, strict=True):
        (copy,) = visit.episodes
        np.testing.assert_array_equal(copy.observations, original.observations)
        np.testing.assert_array_equal(copy.actions, original.actions)
        distance = np.linalg.norm(copy.observations[1:] - split.train[visit.task], axis=1)
        np.testing.assert_allclose(copy.rewards, np.where(distance <= 0.2, 1 - distance, 0), atol=1e-5)
        np.testing.assert_array_equal(copy.successes, distance <= 0.2)
    assert family.can_relabel


def test_windows_across_episodes_copy_whole_visits(tmp_path: Path) -> None:
    run = train(tiny(iterations=1, window_within="trial", evaluation_episodes=2), tmp_path / "run")
    (visits,) = read_segments(run / "replay", 1)
    assert [len(visit.episodes) for visit in visits[3:]] == [2] * 4
    assert [visit.relabelled for visit in visits[3:]] == [False, True, False, True]
    for original, copy in zip(visits[3::2], visits[4::2], strict=True):
        for left, right in zip(original.episodes, copy.episodes, strict=True):
            np.testing.assert_array_equal(left.observations, right.observations)


def test_room_for_copies() -> None:
    """The replay makes room for them at once, and so the estimate of the memory counts them."""
    family = family_of(tiny())
    tasks = np.zeros((3, 2))

    def rooms(relabelling: Any) -> int:
        config = tiny(relabelling=relabelling).algorithm
        assert isinstance(config, DmrladConfig)
        return len(DmrladLearner(config, family.sizes).memory(family, tasks, 50).arrays.observations)

    frames = 41 * (3 + 50 * 2 * 2)
    assert rooms("none") == rooms("replace") == frames
    assert rooms("augment") == 41 * (3 + 2 * 50 * 2 * 2)


def test_copies_that_all_go_to_one_task_need_no_other_arrays() -> None:
    """Of another shape: everything would be compiled again."""
    experiment = tiny()
    family = family_of(experiment)
    tasks = family.sample_tasks(np.random.default_rng(0), 20)
    memory = DmrladLearner(experiment.algorithm, family.sizes).memory(family, tasks, 10)
    before = {name: array.shape for name, array in memory.arrays._asdict().items()}
    length = family.horizon
    episode = Episode(
        np.zeros((length + 1, 2), np.float32),
        np.zeros((length, 2), np.float32),
        np.zeros(length, np.float32),
        sparse_rewards=None,
        terminated=False,
    )
    visit = Visit(0, (episode,) * (80 // length), 0)
    memory.add([visit] * (10 * experiment.algorithm.stored_visits(20)))
    assert {name: array.shape for name, array in memory.arrays._asdict().items()} == before


@pytest.mark.parametrize("name", [name for name in named_experiments() if name.startswith("dmrlad/")])
def test_named_experiments_are_possible(name: str) -> None:
    experiment = make_experiment(name)
    validate(experiment, family_of(experiment))


def test_ablations() -> None:
    def switches(ending: str) -> tuple[str, str, bool]:
        config = make_experiment(f"dmrlad/sparse-point-robot-quick{ending}").algorithm
        assert isinstance(config, DmrladConfig)
        return config.critics, config.relabelling, config.target_policy

    assert switches("") == ("quantile", "augment", True)
    assert switches("-mrlad") == ("expected", "augment", False)
    assert switches("-dhfr") == ("quantile", "replace", True)
    assert switches("-hfr") == ("expected", "replace", False)
    assert switches("-cemrl") == ("expected", "none", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_layers": 1}, "hidden_layers is 1.*at least 2"),
        ({"critics": "expected", "risk": "cvar", "risk_parameter": 0.3}, "risk is 'cvar'.*'neutral'"),
        ({"risk_parameter": 0.3}, "risk_parameter is 0.3; allowed with risk neutral: 0"),
        ({"risk": "VaR", "risk_parameter": 1.0}, "risk_parameter is 1; allowed with risk VaR: more than 0 and less"),
        ({"risk": "cvar"}, "risk_parameter is 0; allowed with risk cvar: -1 to 1, but not 0"),
        (
            {"risk": "cvar", "risk_parameter": -0.1, "quantiles": 4},
            "risk_parameter is -0.1; allowed with risk cvar and 4 quantiles: more than 0.125 in size",
        ),
        ({"risk": "wang", "risk_parameter": 4.0}, "risk_parameter is 4; allowed with risk wang: -3 to 3"),
        ({"risk": "cpw", "risk_parameter": 0.1}, "risk_parameter is 0.1; allowed with risk cpw: 0.28 to 1"),
        ({"risk_parameter": 1000.0}, "risk_parameter is 1000"),
        ({"initial_steps": 0}, "initial_steps is 0.*at least 1"),
        ({"replace_probability": 0.0}, "replace_probability is 0"),
        (
            {"family": "walker-rand-params", "family_options": ()},
            "relabelling is 'augment'; allowed for walker-rand-params: 'none'",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    made = tiny(**changes)
    with pytest.raises(NacreError, match=message):
        validate(made, family_of(made))


def test_other_values_are_allowed() -> None:
    for changes in (
        {"risk": "wang", "risk_parameter": -0.75},
        {"risk": "std", "risk_parameter": 0.1},
        {"critics": "expected", "hidden_layers": 1},
        {"relabelling": "none", "initial_steps": 0},
        {"family": "walker-rand-params", "family_options": (), "relabelling": "none"},
    ):
        made = tiny(**changes)
        validate(made, family_of(made))
