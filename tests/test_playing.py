"""`nacre.play`, compilation at the beginning of a trial, short reprs, rows of evaluations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from probes import compilations
from test_load import untrained_run

import nacre
from nacre.evaluation import TrialResult
from nacre.tasks import Simulator, make_family
from nacre.tasks.gymnasium import FamilyEnv

LENGTHS = 2, 3, 1, 4
GOALS = np.array([[0.5, 0.5], [-1.0, 0.2], [0.0, 1.0]])


class Counter(gymnasium.Env):
    """Observes (number of the episode, step). The reward is the step; episodes have the lengths above, counted from
    `first`. Actions are in [-3, 5]; the last step of an episode is a success."""

    observation_space = Box(-100, 100, (2,), np.float64)
    action_space = Box(-3.0, 5.0, (2,), np.float32)

    def __init__(self, first: int = 0):
        self.episode, self.actions, self.age = first - 1, [], None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.age = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        assert self.age is not None, "a step after the end of an episode"
        self.actions.append(action)
        self.age += 1
        observation, reward, ended = self._observation(), float(self.age), self.age == LENGTHS[self.episode % 4]
        self.age = None if ended else self.age
        return observation, reward, ended and self.episode % 2 == 0, ended and self.episode % 2 == 1, {"success": ended}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.age], np.float64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play") / "point"
    return untrained_run(folder, "pearl/point-robot", exploration_episodes=1)


def context(agent: nacre.LoadedAgent) -> np.ndarray:
    """Observation, action and reward of the transitions that the belief comes from."""
    belief = agent.belief
    if belief.context.ndim == 2:
        return belief.context[: belief.context_count]
    return [rows[:count] for rows, count in zip(belief.context, belief.context_count, strict=True)]


def test_a_single_environment(run: Path) -> None:
    agent, env = nacre.load(run), Counter()
    result = nacre.play(agent, env, episodes=3)
    assert result == TrialResult(returns=(3.0, 6.0, 1.0), lengths=(2, 3, 1), successes=(True, True, True))
    seen = context(agent)
    np.testing.assert_array_equal(seen[:, :2], [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0]])
    np.testing.assert_array_equal(seen[:, 4], [1, 2, 1, 2, 3, 1])
    np.testing.assert_allclose(np.array(env.actions), 1 + 4 * seen[:, 2:4], rtol=1e-6, atol=1e-6)
    assert agent.belief.episodes == 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_with_every_automatic_reset(run: Path, mode: AutoresetMode) -> None:
    """Each slot becomes what it would be alone, and no step of a reset gets into its context."""
    agent = nacre.load(run)
    envs = SyncVectorEnv([lambda first=first: Counter(first) for first in range(3)], autoreset_mode=mode)
    results = nacre.play(agent, envs, episodes=3)
    contexts = context(agent)
    for first, result in enumerate(results):
        lengths = tuple(LENGTHS[(first + episode) % 4] for episode in range(3))
        expected = TrialResult(tuple(length * (length + 1) / 2 for length in lengths), lengths, (True,) * 3)
        assert result == expected
        steps = [(first + episode, age) for episode, length in enumerate(lengths) for age in range(length)]
        np.testing.assert_array_equal(contexts[first][:, :2], steps)
        np.testing.assert_array_equal(contexts[first][:, 4], [age + 1 for _, age in steps])
    assert agent.belief.episodes.tolist() == [3, 3, 3]
    envs.close()


def test_nacres_own_environments_and_simulators(run: Path) -> None:
    """The same task and seed give the same returns, alone and in a simulator."""
    agent = nacre.load(run)
    simulator = Simulator(make_family("point-robot"), 3, threads=1)
    results = nacre.play(agent, simulator, episodes=2, seed=0, options={"tasks": GOALS})
    assert [result.lengths for result in results] == [(20, 20)] * 3
    assert len({result.returns for result in results}) == 3
    env = gymnasium.make("nacre/PointRobot-v0")
    result = nacre.play(agent, env, episodes=2, seed=1, options={"task": GOALS[1]})
    assert result.lengths == (20, 20)
    np.testing.assert_array_equal(env.unwrapped._task, GOALS[1:2])
    assert result.successes is not None


@pytest.mark.parametrize("vector", [False, True])
def test_an_agent_that_is_given_its_task_and_one_that_sees_sparse_rewards(tmp_path: Path, vector: bool) -> None:
    family = FamilyEnv("sparse-point-robot")
    env = SyncVectorEnv([lambda: FamilyEnv("sparse-point-robot")] * 2) if vector else family
    oracle = nacre.load(untrained_run(tmp_path / "oracle", "oracle/point-robot", encoder_hidden_size=None))
    points = SyncVectorEnv([lambda: FamilyEnv("point-robot")] * 2) if vector else FamilyEnv("point-robot")
    nacre.play(oracle, points, episodes=1)  # the task is in the info of the reset
    assert np.shape(oracle.belief.task) == ((2, 2) if vector else (2,))
    agent = nacre.load(untrained_run(tmp_path / "sparse", "pearl/sparse-point-robot"))
    nacre.play(agent, env, episodes=1)
    with pytest.raises(nacre.NacreError, match="have no sparse_reward, and this agent was trained with it"):
        nacre.play(agent, Counter(), episodes=1)


class Wide(Counter):
    observation_space = Box(-1, 1, (3,))


class Unbounded(Counter):
    action_space = Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("env", "episodes", "message"),
    [
        (Wide, 1, r"observations are Box.*; allowed for this agent of point-robot: the shape \(2,\)"),
        (Unbounded, 1, r"actions are Box.*; allowed .* a Box of shape \(2,\) with finite bounds"),
        (Counter, 0, "episodes is 0; allowed: at least 1"),
    ],
)
def test_what_cannot_be_played(run: Path, env: Any, episodes: int, message: str) -> None:
    with pytest.raises(nacre.NacreError, match=message):
        nacre.play(nacre.load(run), env(), episodes)


@pytest.mark.parametrize("n", [None, 2])
def test_nothing_is_compiled_in_the_middle_of_a_trial(run: Path, n: int | None) -> None:
    agent = nacre.load(run, capacity=11 if n is None else 12)  # of a size that no other test has compiled
    agent.begin_trial(n)
    shape = () if n is None else (n,)
    active = None if n is None else np.array([True, False])
    with compilations() as compiled:
        for episode in range(2):
            for step in range(3):
                agent.act(np.full((*shape, 2), 0.25 * step))
                flags = np.zeros(shape, bool), np.full(shape, step == 2)
                agent.observe(np.zeros((*shape, 2)), np.ones(shape), *flags, active=active if episode else None)
        agent.begin_episode()
        agent.act(np.zeros((*shape, 2)))
        agent.begin_trial(n)
    assert compiled == []


def test_short_reprs(run: Path) -> None:
    agent = nacre.load(run)
    path = run / "checkpoints" / "iteration_000000.npz"
    assert repr(agent) == f"<agent of pearl/point-robot, {path}: no trial has begun>"
    agent.begin_trial(2)
    assert repr(agent) == f"<agent of pearl/point-robot, {path}: in 2 trials>"
    agent.begin_trial()
    belief = repr(agent.belief)
    assert belief.startswith("PearlBelief(mean=[0., 0., 0., 0., 0.], variance=[1., 1., 1., 1., 1.], latent=[")
    assert "context=float32[200, 5], context_count=0, episodes=0, begins=True, pictures=None" in belief
    family = make_family("point-robot")
    assert repr(family) == "<task family point-robot: task (goal_x, goal_y), horizon 20>"
    assert repr(Simulator(family, 3)) == "<simulator of point-robot: 3 slot(s)>"


def test_rows_of_an_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = nacre.evaluate(run, tasks=GOALS, trials=2, episodes=3)
    rows = evaluation.to_rows()
    assert len(rows) == 3 * 2 * 3
    place = {"task": 1, "trial": 1, "episode": 3, "task_0": -1.0, "task_1": 0.2, "length": 20}
    result = evaluation.trials[1][1]
    assert rows[11] == {**place, "return": result.returns[2], "success": result.successes[2], "score": result.scores[2]}
    first = evaluation.returns_by_episode.mean(axis=0)[0]
    start = "<evaluation custom: 3 task(s), 2 trial(s) each, return by episode "
    assert repr(evaluation).startswith(f"{start}{first:.6g}, ")
    assert repr(evaluation).endswith("%>")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(nacre.NacreError, match="to_frame needs pandas: pip install pandas"):
        evaluation.to_frame()
    frames: list[Any] = []
    monkeypatch.setitem(sys.modules, "pandas", type("pandas", (), {"DataFrame": frames.append}))
    evaluation.to_frame()
    assert frames == [rows]
