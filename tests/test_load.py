"""`nacre.load`: a trained agent in one's own loop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import phased
import pytest
from probes import Clock

import nacre
from nacre.agents import ALGORITHMS
from nacre.checkpoint import checkpoint_label, load_checkpoint, load_selected, save_checkpoint
from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.interfaces import Learner
from nacre.loading import LoadedAgent
from nacre.run_folder import create_run_folder, read_stamp
from nacre.runtime import learner_for
from nacre.tasks import FAMILIES, Simulator, make_family, split_tasks
from nacre.tasks.recorded import RecordedFamily, to_record

GETTING_STARTED = Path(__file__).parents[1] / "docs" / "getting-started.md"
POSITIONS = np.random.default_rng(0).normal(size=(200, 2))


def untrained_run(folder: Path, name: str, **overrides: object) -> Path:
    """A run folder with the first checkpoint of an experiment: all that loading and evaluating need."""
    sizes = {"train_tasks": 2, "test_tasks": 3, "hidden_size": 8, "encoder_hidden_size": 8, "threads": 1}
    fields = {field: value for field, value in (sizes | overrides).items() if value is not None}
    experiment = nacre.make_experiment(name, **fields)
    family = make_family(experiment.family)
    split = split_tasks(family, 2, 3, experiment.seed, experiment.task_list)
    create_run_folder(folder, experiment, split)
    generator = np.random.default_rng(1)

    def weights(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.asarray(generator.normal(scale=0.3, size=leaf.shape), leaf.dtype)

    # Fresh output layers would be almost zero. These weights make the agent do something, and need no compilation.
    state = jax.tree.map(weights, jax.eval_shape(learner_of(experiment).initial_state, jax.random.key(0)))
    stamp = read_stamp(folder, experiment, split)
    save_checkpoint(folder / "checkpoints", checkpoint_label(0), state, {"run": stamp}, keep=1)
    return folder


def learner_of(experiment: Experiment) -> Learner:
    return learner_for(experiment, make_family(experiment.family))


@pytest.fixture(scope="module")
def point_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load") / "point"
    return untrained_run(folder, "pearl/point-robot", exploration_episodes=1)


def play(agent: LoadedAgent, episodes: list[int]) -> list[np.ndarray]:
    """Plays episodes of the given lengths on a fixed sequence of observations; returns every action."""
    actions, steps = [], iter(POSITIONS)
    for length in episodes:
        for step in range(length):
            observation = next(steps)
            actions.append(agent.act(observation))
            agent.observe(observation + 0.1, -float(observation[0]), False, step == length - 1)
    return actions


def test_the_loop_of_the_documentation_in_a_process_without_training_code(tiny_run):
    """The algorithm's learner is imported, as it knows the shapes in a checkpoint; what trains or draws is not."""
    blocks = re.findall(r"```python\n(.*?)```", GETTING_STARTED.read_text(), re.DOTALL)
    [loop] = [block for block in blocks if "agent.begin_trial()" in block]
    program = (
        f"import sys\n{loop.replace('runs/first', str(tiny_run))}"
        + """
assert agent.belief.episodes == 3
for name in sys.modules:
    assert name.split(".")[0] not in ("tensorboardX", "tyro", "mujoco", "rich", "matplotlib", "jinja2"), name
    assert not name.startswith(("nacre.training", "nacre.gradient_steps", "nacre.journal", "nacre.logs")), name
    assert not name.startswith(("nacre.cli", "nacre.report", "nacre.original")) and name != "nacre.run", name
"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_agent_needs_no_simulator(tmp_path, monkeypatch):
    """Nor the module of a family of one's own, nor what some systems do not have: the run folder tells the sizes."""
    monkeypatch.setitem(FAMILIES, "of-a-robot", lambda: Clock(7, sparse=True))
    run = untrained_run(tmp_path / "run", "pearl/of-a-robot", exploration_episodes=1)
    program = f"""
import sys
import jax  # one of its packages warns if the second of these is not there
for module in ("mujoco", "fcntl", "metaworld", "probes"):
    sys.modules[module] = None
import nacre
agent = nacre.load({str(run)!r})
agent.begin_trial()
assert agent.act([0.0, 0.1, 0.2, 0.3]).shape == (3,)
agent.observe([0.0, 0.1, 0.2, 0.3], 1.0, False, True)
print(agent.family, agent)
nacre.load({str(untrained_run(tmp_path / "cheetah", "pearl/cheetah-vel"))!r})
for function in (nacre.evaluate, nacre.resume, lambda run: agent.family.make_world(1, 1)):
    try:
        function({str(run)!r})
    except nacre.NacreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    first, *refused = done.stdout.splitlines()
    assert first.startswith("<task family of-a-robot: task (label, length), horizon 7> ")
    assert ["needs the task family 'of-a-robot', which is not known here" in line for line in refused] == [1, 1, 0]
    assert "only the sizes are known here, from a run folder" in refused[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon of RecordedFamily is 0; allowed: a whole number"),
        ({"horizon": 10**12}, "sizes.horizon is 1000000000000; allowed: at most 1000000"),
        ({"observation_size": [8, 10**9, 3]}, "sizes.observation_size is .*; allowed: at most"),
        ({"has_sparse_reward": 1}, "sizes.has_sparse_reward is 1; allowed: true, false"),
        ({"task_parameters": "label"}, "task_parameters of RecordedFamily is 'label'"),
        ({"more": 1}, "sizes is .*; allowed: an object with observation_size, "),
    ],
)
def test_sizes_that_are_none(change, message):
    values = to_record(Clock(7, sparse=True))
    assert RecordedFamily("clock", values).sizes == Clock(7).sizes
    with pytest.raises(NacreError, match=message):
        RecordedFamily("clock", values | change)


def test_networks_are_those_of_the_checkpoint(tiny_run, tiny):
    experiment = nacre.make_experiment("pearl/point-robot", **tiny)
    learner = learner_of(experiment)
    state = jax.eval_shape(learner.initial_state, jax.random.key(0))
    path = tiny_run / "checkpoints" / "iteration_000002.npz"
    whole, _ = load_checkpoint(path, state)
    part = load_selected(path, state, learner.parameters)
    jax.tree.map(np.testing.assert_array_equal, part, whole.trained.networks.acting)


def test_belief_is_the_prior_until_an_episode_has_ended(point_run):
    agent = nacre.load(point_run)
    agent.begin_trial()
    play(agent, [5])
    first = agent.belief
    assert not np.array_equal(first.mean, np.zeros(5))
    assert (first.variance < 1).all()
    assert first.mean.shape == (5,)
    play(agent, [5])
    assert not np.array_equal(agent.belief.mean, first.mean)
    agent.begin_trial()
    np.testing.assert_array_equal(agent.belief.mean, np.zeros(5))
    np.testing.assert_array_equal(agent.belief.variance, np.ones(5))
    assert agent.belief.context_count == 0


def test_nothing_is_learnt_in_the_middle_of_an_episode(point_run):
    agent = nacre.load(point_run)
    agent.begin_trial()
    agent.act(POSITIONS[0])
    agent.observe(POSITIONS[1], 1.0, False, False)
    np.testing.assert_array_equal(agent.belief.mean, np.zeros(5))
    assert agent.belief.context_count == 1


@pytest.mark.parametrize("ending", [(True, False), (False, True), (True, True)])
def test_termination_and_truncation_both_end_an_episode(point_run, ending):
    agent = nacre.load(point_run)
    agent.begin_trial()
    agent.act(POSITIONS[0])
    agent.observe(POSITIONS[1], 1.0, *ending)
    assert agent.belief.episodes == 1
    assert (agent.belief.variance != 1).all()


def test_same_seed_same_actions(point_run):
    def actions(deterministic: bool, **settings: int) -> np.ndarray:
        agent = nacre.load(point_run, deterministic=deterministic, **settings)
        agent.begin_trial()
        return np.array(play(agent, [3, 3]))

    for deterministic in (True, False):
        np.testing.assert_array_equal(actions(deterministic, seed=1), actions(deterministic, seed=1))
        assert not np.array_equal(actions(deterministic, seed=1), actions(deterministic, seed=2))
    stochastic, mode = actions(False, seed=1), actions(True, seed=1)
    assert not np.array_equal(stochastic, mode)
    assert stochastic.dtype == np.float32
    assert (np.abs(stochastic) <= 1).all()


def test_trials_of_one_agent_differ(point_run):
    agent = nacre.load(point_run)
    agent.begin_trial()
    first = agent.belief.latent
    agent.begin_trial()
    assert not np.array_equal(agent.belief.latent, first)


def test_begin_episode_draws_z_anew_and_learns_nothing(point_run):
    def draws(seed: int, times: int) -> np.ndarray:
        agent = nacre.load(point_run, seed=seed)
        agent.begin_trial()
        play(agent, [1, 1])  # so that the posterior is not the prior
        agent.act(POSITIONS[0])
        before, latents = agent.belief, []
        for _ in range(times):
            agent.begin_episode()
            latents.append(agent.belief.latent)
        for name in ("mean", "variance", "context", "context_count", "episodes"):
            np.testing.assert_array_equal(getattr(agent.belief, name), getattr(before, name))
        with pytest.raises(RuntimeError, match="call act first"):
            agent.observe(POSITIONS[0], 0.0, False, False)
        return (np.array(latents) - before.mean) / np.sqrt(before.variance)

    deviations = draws(seed=1, times=100)
    np.testing.assert_allclose(deviations.mean(axis=0), np.zeros(5), atol=0.4)
    np.testing.assert_allclose(deviations.std(axis=0), np.ones(5), atol=0.3)
    np.testing.assert_array_equal(draws(seed=1, times=2), deviations[:2])
    assert not np.isin(draws(seed=2, times=2), deviations).any()


@pytest.mark.parametrize("deterministic", [True, False])
def test_batched_trials_with_episodes_of_different_lengths_equal_single_ones(point_run, deterministic):
    """Trial 0 of a batch is a single trial, whatever the other trials do; so is trial 1 among different neighbours."""

    def batch(lengths: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        agent = nacre.load(point_run, deterministic=deterministic, seed=3)
        agent.begin_trial(len(lengths))
        ends = [np.cumsum(row) for row in lengths]
        actions = []
        for step in range(12):
            observation = np.tile(POSITIONS[step], (len(lengths), 1))
            actions.append(agent.act(observation))
            truncated = [step + 1 in end for end in ends]
            reward = np.full(len(lengths), -POSITIONS[step][0])
            agent.observe(observation + 0.1, reward, np.zeros(len(lengths), bool), truncated)
        return np.array(actions), agent.belief.mean

    single = nacre.load(point_run, deterministic=deterministic, seed=3)
    single.begin_trial()
    single_actions = np.array(play(single, [3, 5, 4]))
    actions, means = batch([[3, 5, 4], [4, 4, 4], [2] * 6])
    np.testing.assert_allclose(actions[:, 0], single_actions, rtol=0, atol=1e-5)
    np.testing.assert_allclose(means[0], single.belief.mean, rtol=1e-4, atol=1e-6)
    other_actions, other_means = batch([[12], [4, 4, 4], [6, 6]])
    np.testing.assert_allclose(actions[:, 1], other_actions[:, 1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(means[1], other_means[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(actions[:, 0], actions[:, 1], atol=1e-5)


def test_inactive_trials_stay_as_they_were(point_run):
    agent = nacre.load(point_run)
    agent.begin_trial(2)
    before = agent.belief
    agent.act(POSITIONS[:2])
    agent.observe(POSITIONS[2:4], np.ones(2), [True, True], [False, False], active=[True, False])
    after = agent.belief
    assert after.episodes.tolist() == [1, 0]
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        np.testing.assert_array_equal(new[1], old[1])


@pytest.fixture
def counting_run(tmp_path, monkeypatch):
    """Of an algorithm whose agent counts in `act` and draws in every method."""
    monkeypatch.setitem(ALGORITHMS, "phased", phased.ALGORITHM)
    experiment = phased.phased_experiment()
    family = make_family(experiment.family)
    split = split_tasks(family, 3, 2, 0, "seeded")
    run = create_run_folder(tmp_path / "counting", experiment, split)
    state = learner_of(experiment).initial_state(jax.random.key(0))
    stamp = read_stamp(run, experiment, split)
    save_checkpoint(run / "checkpoints", checkpoint_label(0), state, {"run": stamp}, keep=1)
    return run


def test_what_act_has_changed_is_undone_in_inactive_trials(counting_run):
    agent = nacre.load(counting_run)
    agent.begin_trial(3)
    before = agent.belief
    ends, no = np.array([True, True, False]), np.zeros(3, bool)
    for active, acted in (([True, False, True], [1, 1, 1]), ([False, False, True], [2, 1, 2])):
        agent.act(POSITIONS[:3])
        assert agent.belief.acted.tolist() == acted
        agent.observe(POSITIONS[:3], np.zeros(3), no, ends, active=active)
    after = agent.belief
    for name in ("acted", "observed"):
        assert getattr(after, name).tolist() == [1, 0, 2]
    assert after.ended.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(after.noise[1:], before.noise[1:])
    agent.act(POSITIONS[:3])
    agent.observe(POSITIONS[:3], np.zeros(3), no, no)
    assert agent.belief.acted.tolist() == [2, 1, 3]


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_a_trial_draws_depends_on_no_other_trial(counting_run, deterministic):
    """Neither on how many there are, nor on when their episodes end, nor on which are active."""

    def trial_1(n: int, others_end: int, others_active: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        agent = nacre.load(counting_run, seed=4, deterministic=deterministic)
        agent.begin_trial(n)
        actions = []
        for step in range(1, 13):
            actions.append(agent.act(np.tile(POSITIONS[step], (n, 1)))[1])
            truncated = np.full(n, step % others_end == 0)
            truncated[1] = step % 5 == 0
            active = np.full(n, others_active)
            active[1] = step != 7
            agent.observe(np.zeros((n, 2)), np.zeros(n), np.zeros(n, bool), truncated, active=active)
        return np.array(actions), [leaf[1] for leaf in agent.belief]

    expected, belief = trial_1(2, 100, True)
    for other in ((2, 1, True), (5, 3, True), (3, 4, False)):
        actions, found = trial_1(*other)
        np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-6)
        for one, same in zip(found, belief, strict=True):
            np.testing.assert_allclose(one, same, rtol=0, atol=1e-6)
    assert len(np.unique(expected)) == expected.size


def test_an_agent_that_is_given_its_task(counting_run, monkeypatch):
    agent = nacre.load(counting_run)
    with pytest.raises(ValueError, match=r"^task is given; allowed for this agent: None, as it infers its task$"):
        agent.begin_trial(task=np.zeros(2))
    monkeypatch.setattr(
        phased.PhasedLearner, "agent", lambda learner, capacity: phased.CountingAgent(2, sees_task=True)
    )
    agent = nacre.load(counting_run)
    tasks = np.array([[0.25, 0.5], [1.0, -1.0]])
    agent.begin_trial(2, task=tasks)
    agent.act(POSITIONS[:2])
    belief = agent.belief
    for n, task, sentence in (
        (None, None, "task is missing: this agent does not infer its task but has to be given it (goal_x, goal_y)"),
        (3, None, "task is missing: this agent does not infer its task but has to be given it (goal_x, goal_y)"),
        (None, np.zeros(3), "task has shape (3,); allowed in a single trial: (2,)"),
        (3, tasks, "task has shape (2, 2); allowed in 3 trials: (3, 2)"),
        (None, [0.0, np.nan], "the task given to the agent is not finite: [0.0, nan]"),
        (0, tasks, "n is 0; allowed: None or at least 1"),
    ):
        with pytest.raises((ValueError, nacre.NacreError), match=f"^{re.escape(sentence)}$"):
            agent.begin_trial(n, task=task)
    # Refused calls have changed nothing.
    jax.tree.map(np.testing.assert_array_equal, agent.belief, belief)
    agent.observe(POSITIONS[:2], np.zeros(2), np.zeros(2, bool), np.zeros(2, bool))
    agent.begin_trial(task=tasks[1])
    other = nacre.load(counting_run)
    other.begin_trial(task=tasks[0])
    other.begin_trial(task=tasks[1])
    np.testing.assert_array_equal(agent.belief.noise, other.belief.noise)
    other.begin_trial(task=tasks[1] + 1)
    assert not np.array_equal(agent.belief.noise, other.belief.noise)


def test_own_loop_and_evaluate_agree(tmp_path):
    """Where nothing is random (no posterior, one start), a loop of one's own gets the returns of `nacre.evaluate`."""
    run = untrained_run(
        tmp_path / "run",
        "pearl/sparse-point-robot",
        probabilistic_context=False,
        exploration_episodes=1,
        evaluation_steps=60,
        evaluation_trials=1,
    )
    evaluation = nacre.evaluate(run)
    simulator = Simulator(make_family("sparse-point-robot"), 3, threads=1)
    agent = nacre.load(run)
    agent.begin_trial(3)
    returns = np.zeros((3, 3))
    for episode in range(3):
        observation, _ = simulator.reset(seed=0, options={"tasks": evaluation.tasks})
        truncated = np.zeros(3, bool)
        while not truncated.any():
            action = agent.act(observation)
            observation, reward, terminated, truncated, infos = simulator.step(action)
            agent.observe(observation, reward, terminated, truncated, sparse_reward=infos["sparse_reward"])
            returns[:, episode] += infos["sparse_reward"] if evaluation.protocol.sparse_returns else reward
    np.testing.assert_allclose(evaluation.returns_by_episode, returns, rtol=1e-4, atol=1e-5)
    agent.act(observation)
    with pytest.raises(ValueError, match="sparse_reward is missing"):
        agent.observe(observation, reward, terminated, truncated)


def test_beyond_its_capacity_the_belief_learns_no_more_and_says_so(point_run):
    agent = nacre.load(point_run, capacity=4)
    agent.begin_trial()
    play(agent, [4])
    full = agent.belief
    with pytest.warns(UserWarning, match="more than 4 transitions"):
        play(agent, [3])
    np.testing.assert_array_equal(agent.belief.mean, full.mean)
    play(agent, [3])  # it warns once in a trial
    assert agent.belief.context_count == 4
    with pytest.raises(nacre.NacreError, match="capacity is 0; allowed: at least 1"):
        nacre.load(point_run, capacity=0)


def test_stochastic_context_protocol(tmp_path):
    run = untrained_run(tmp_path / "run", "pearl/point-robot", test_context="stochastic", context_size=8)
    agent = nacre.load(run)
    agent.begin_trial()
    play(agent, [10])
    assert (agent.belief.variance == 1).all()  # exploration is counted in steps: half of it is left
    play(agent, [10])
    assert (agent.belief.variance < 1).all()
    evaluation = nacre.evaluate(run, episodes=3, trials=1)
    assert evaluation.protocol.stochastic_steps == 20  # one episode of exploration
    assert evaluation.returns_by_episode.shape == (3, 3)


def test_calls_in_the_wrong_order(point_run):
    agent = nacre.load(point_run)
    with pytest.raises(RuntimeError, match="call begin_trial first"):
        agent.act(POSITIONS[0])
    with pytest.raises(RuntimeError, match="call begin_trial first"):
        agent.begin_episode()
    with pytest.raises(RuntimeError, match="call begin_trial first"):
        _ = agent.belief
    agent.begin_trial()
    with pytest.raises(RuntimeError, match="call act first"):
        agent.observe(POSITIONS[0], 0.0, False, False)
    agent.act(POSITIONS[0])
    agent.observe(POSITIONS[0], 0.0, False, False)
    with pytest.raises(RuntimeError, match="call act first"):
        agent.observe(POSITIONS[0], 0.0, False, False)
    agent.act(POSITIONS[0])
    agent.begin_trial()
    with pytest.raises(RuntimeError, match="call act first"):
        agent.observe(POSITIONS[0], 0.0, False, False)
    with pytest.raises(ValueError, match="n is 0"):
        agent.begin_trial(0)


def test_wrong_shapes_and_numbers_that_are_not_finite(point_run):
    agent = nacre.load(point_run)
    agent.begin_trial()
    with pytest.raises(ValueError, match=r"observation has shape \(3,\); allowed in a single trial: \(2,\)"):
        agent.act(np.zeros(3))
    with pytest.raises(ValueError, match=r"observation has shape \(1, 2\)"):
        agent.act(np.zeros((1, 2)))
    with pytest.raises(nacre.NacreError, match="observation given to the agent is not finite"):
        agent.act([0.0, np.nan])
    agent.act(POSITIONS[0])
    for wrong in (
        {"reward": np.zeros(1)},
        {"terminated": [False]},
        {"truncated": [False, False]},
        {"next_observation": 0.0},
        {"active": [True, True]},
    ):
        right = {"next_observation": POSITIONS[1], "reward": 0.0, "terminated": False, "truncated": False}
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} has shape"):
            agent.observe(**(right | wrong))
    with pytest.raises(nacre.NacreError, match="reward given to the agent is not finite: nan"):
        agent.observe(POSITIONS[1], np.nan, False, False)
    agent.observe(POSITIONS[1], 0.0, False, False)  # a refused call changed nothing
    assert agent.belief.context_count == 1
    agent.begin_trial(2)
    with pytest.raises(ValueError, match=r"observation has shape \(2,\); allowed in 2 trials: \(2, 2\)"):
        agent.act(np.zeros(2))


def test_which_checkpoint(tiny_run, run_copy):
    checkpoints = run_copy / "checkpoints"
    assert nacre.load(run_copy).checkpoint == checkpoints / "iteration_000002.npz"
    assert nacre.load(run_copy, "best").checkpoint == checkpoints / "best.npz"
    assert nacre.load(run_copy, "iteration_000001").checkpoint == checkpoints / "iteration_000001.npz"
    elsewhere = tiny_run / "checkpoints" / "iteration_000001.npz"
    assert nacre.load(run_copy, elsewhere).checkpoint == elsewhere
    latest = checkpoints / "iteration_000002.npz"
    latest.write_bytes(latest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"iteration_000002.npz is damaged.*going on from iteration_000001.npz"):
        assert nacre.load(run_copy).checkpoint == checkpoints / "iteration_000001.npz"
