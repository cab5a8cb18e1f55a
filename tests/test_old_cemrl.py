"""Networks of the old code of CEMRL and DMRLAD: an imported agent does what the old one did."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import old_cemrl
import pytest

from nacre import NacreError, import_old_run, load, make_family
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.checkpoint import load_selected
from nacre.cli import main
from nacre.loading import read_trained
from nacre.original.cemrl_networks import quantile_leaves
from nacre.original.forces import DEVIATION, about_contact_forces
from nacre.original.statistics_files import read_statistics
from nacre.run_folder import read_run
from nacre.runtime import learner_for
from nacre.warm_start import resolve_warm_start

ENCODERS = [
    ("trajectory", "add", "fixedOnY"),
    ("transitionSharedY", "add", "network"),
    ("transitionSharedY", "add_softmax", "fixedOnY"),
    ("transitionSharedY", "multiply", "fixedOnY"),
    ("transitionSharedY", "linear", "fixedOnY"),
    ("transitionSharedY", "mlp", "fixedOnY"),
    ("transitionIndividualY", "add", "fixedOnY"),
]
DMRLAD = {"algo_params": {"num_quantiles": 8}}


def all_trained(run: Path) -> Any:
    trained = read_trained(run)
    learner = learner_for(trained.experiment, trained.family)
    shapes = jax.eval_shape(learner.initial_state, jax.random.key(0))
    return load_selected(trained.checkpoint, shapes, lambda state: state.trained)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read only."""
    return old_cemrl.Run({}).write(tmp_path_factory.mktemp("old") / "run")


@pytest.mark.parametrize(("mode", "merge", "prior"), ENCODERS)
def test_an_imported_agent_acts_as_the_old_one(tmp_path: Path, mode: str, merge: str, prior: str) -> None:
    """From the beginning of an episode until its window has forgotten it, in the old order of observations."""
    old = old_cemrl.Run(
        {"algo_params": {"encoding_mode": mode, "merge_mode": merge}, "reconstruction_params": {"prior_mode": prior}}
    )
    agent = load(import_old_run(old.write(tmp_path / "old"), out=tmp_path / "run"))
    generator = np.random.default_rng(1)
    observations = generator.normal(size=(8, 20)).astype(np.float32)
    agent.begin_trial()
    latents = []
    for observation, following in itertools.pairwise(observations):
        action = agent.act(observation[old_cemrl.ORDER])
        np.testing.assert_allclose(agent.belief.latent, old.infer(), atol=1e-5)
        np.testing.assert_allclose(action, old.act(observation), atol=1e-5)
        latents.append(agent.belief.latent)
        reward = float(generator.normal())
        agent.observe(following[old_cemrl.ORDER], reward, False, False)
        old.observe(observation, action, reward, following)
    assert np.std(latents, axis=0).min() > 1e-3  # z is about what happens
    agent.begin_trial()
    old.forget()
    np.testing.assert_allclose(agent.act(observations[0][old_cemrl.ORDER]), old.act(observations[0]), atol=1e-5)


def rows_of(seed: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that begin with an observation, in our order and in the old one."""
    rows = np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)
    return np.concatenate([rows[:, old_cemrl.ORDER], rows[:, 20:]], axis=1), rows


def test_every_network_is_its_own(tmp_path: Path) -> None:
    old = old_cemrl.Run(
        {"algo_params": {"use_parametrized_alpha": True}, "reconstruction_params": {"prior_mode": "network"}}
    )
    trained = all_trained(import_old_run(old.write(tmp_path / "old"), out=tmp_path / "run"))
    networks, saved = trained.networks, old.networks
    ours, theirs = rows_of(1, 20 + 6 + 2)
    for name, network, under in (
        ("decoder", networks.decoder.state, "net_state_decoder."),
        ("decoder", networks.decoder.reward, "net_reward_decoder."),
        ("decoder", trained.best[1].state, "net_state_decoder."),
        ("qf1", networks.control.critics[0], ""),
        ("qf2", networks.control.critics[1], ""),
        ("target_qf1", trained.target_critics[0], ""),
        ("target_qf2", trained.target_critics[1], ""),
    ):
        expected = old_cemrl.forward(saved[name], theirs, under)
        np.testing.assert_allclose(network(jnp.asarray(ours)), expected, atol=1e-5, err_msg=f"{name} {under}")
    latents = rows_of(2, 22)[1][:, 20:]
    np.testing.assert_allclose(
        networks.temperature(jnp.asarray(latents)), old_cemrl.forward(saved["alpha_net"], latents), atol=1e-5
    )
    prior = old_cemrl.linear(saved["prior_pz"], np.eye(3), "linear")
    np.testing.assert_allclose(networks.encoder.prior.mean, prior[:, :2], atol=1e-6)
    np.testing.assert_allclose(networks.encoder.prior.raw_deviation, prior[:, 2:], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, trained.best[0], networks.encoder)
    config = read_run(tmp_path / "run")[0].algorithm
    kept = ("padding", "gaussian_product", "class_scores", "next_latent", "target_critics")
    assert {getattr(config, field) for field in kept} == {"published"}


def test_quantile_critics_and_target_policy(tmp_path: Path) -> None:
    old = old_cemrl.Run(DMRLAD)
    run = import_old_run(old.write(tmp_path / "old"), out=tmp_path / "run")
    trained, saved = all_trained(run), old.networks
    ours, theirs = rows_of(1, 20 + 2 + 6)
    fractions = np.sort(np.random.default_rng(2).uniform(size=(5, 8)), axis=1).astype(np.float32)
    for name, critic in (
        ("zf1", trained.networks.control.critics[0]),
        ("zf2", trained.networks.control.critics[1]),
        ("target_zf1", trained.target_critics[0]),
        ("target_zf2", trained.target_critics[1]),
    ):
        expected = old_cemrl.quantiles(saved[name], theirs, fractions)
        np.testing.assert_allclose(critic(jnp.asarray(ours), jnp.asarray(fractions)), expected, atol=1e-4, err_msg=name)
    for name, policy in (("policy", trained.networks.control.policy), ("target_policy", trained.target_policy)):
        np.testing.assert_allclose(
            policy.mode(jnp.asarray(ours[:, :22])), np.tanh(old_cemrl.forward(saved[name], theirs[:, :22])), atol=1e-5
        )
    experiment = read_run(run)[0]
    config = experiment.algorithm
    assert isinstance(config, DmrladConfig)
    assert (experiment.name, config.quantiles) == ("dmrlad/cheetah-stationary-dir", 8)
    assert config.log_normaliser == "published"


# The run


def test_an_iteration_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The latest by number, not by text."""
    folder = tmp_path / "old"
    runs = {number: old_cemrl.Run({}, seed=number) for number in (7, 20, 100)}
    for number, run in runs.items():
        run.write(folder, number)

    def bias_of(run: Path) -> np.ndarray:
        return np.asarray(read_trained(run).parameters.policy.network.biases[0])

    main(["import", str(folder), "--iteration", "20", "--out", str(tmp_path / "chosen")])
    out = capsys.readouterr().out
    assert out.endswith(f"Done. Meta-test it with: nacre evaluate {tmp_path / 'chosen'}\n")
    assert "path_to_weights" not in out  # which does not matter any more
    assert "deviations" not in out
    np.testing.assert_array_equal(bias_of(tmp_path / "chosen"), runs[20].networks["policy"]["fc0.bias"])
    import_old_run(folder, out=tmp_path / "latest")
    np.testing.assert_array_equal(bias_of(tmp_path / "latest"), runs[100].networks["policy"]["fc0.bias"])
    with pytest.raises(NacreError, match=r"iteration is 8; allowed: one that .*old has: 7, 20, 100$"):
        import_old_run(folder, iteration=8)


def test_velocities_are_those_of_then(tmp_path: Path) -> None:
    """The old code drew them from a fixed seed."""
    changes = {"env_name": "cheetah-stationary-vel", "env_params": {"n_train_tasks": 5, "task_max_velocity": 3.0}}
    said: list[str] = []
    run = import_old_run(old_cemrl.Run(changes).write(tmp_path / "old"), out=tmp_path / "run", say=said.append)
    assert said == []
    _, split = read_run(run)
    expected = np.random.RandomState(1337).uniform(0, 3, 5)
    np.testing.assert_array_equal(split.train[:, 0], expected)
    np.testing.assert_array_equal(split.test[:, 0], expected[:2])


def test_lost_tasks_are_told(tmp_path: Path) -> None:
    changes = {
        "env_name": "cheetah-stationary-multi-task",
        "env_params": {"n_train_tasks": 5, "task_variants": ["velocity", "jumping"]},
    }
    said = said_of(old_cemrl.Run(changes).write(tmp_path / "old"), tmp_path / "run")
    assert len(said) == 1
    assert said[0].startswith(
        "the list of tasks that the original code drew for cheetah-multi-task, always the same, is not rebuilt, so"
    )


def test_encoder_and_policy_alone(tmp_path: Path) -> None:
    old = old_cemrl.Run({}).write(tmp_path / "old", only=("encoder", "policy"))
    said: list[str] = []
    run = import_old_run(old, out=tmp_path / "run", say=said.append)
    missing = ", ".join(f"{name}_itr_7.pth" for name in ("decoder", "qf1", "qf2", "target_qf1", "target_qf2"))
    assert said == [f"{old} has no {missing}: the run can be evaluated and loaded, but not resumed"]
    agent = load(run)
    agent.begin_trial()
    assert agent.act(np.zeros(20, np.float32)).shape == (6,)


def test_a_warm_start_names_the_import(old: Path, tmp_path: Path) -> None:
    run = import_old_run(old, out=tmp_path / "run")
    experiment = read_run(run)[0]
    learner = learner_for(experiment, make_family(experiment.family))
    with pytest.raises(
        NacreError,
        match=rf"networks that have to be imported first; begin with the run that this makes: nacre import {old}$",
    ):
        resolve_warm_start(experiment, learner)


@pytest.mark.parametrize(
    ("family", "deviation", "sentence"),
    [
        ("humanoid-dir", 1e-9, "import it with: --family humanoid-dir-without-forces"),
        ("ant-goal-sparse", 1e-9, "has contact forces, with which its agent does worse"),
        ("humanoid-dir-without-forces", 1e-9, None),
        ("humanoid-dir", 0.5, None),
        ("humanoid-dir-without-forces", 0.5, "import it with: --family humanoid-dir"),
        ("humanoid-dir-without-forces", 0.3, "import it with: --family humanoid-dir"),
        ("cheetah-vel", 0.5, None),
    ],
)
def test_statistics_tell_whether_contact_forces_were_seen(family: str, deviation: float, sentence: str | None) -> None:
    world = make_family(family)
    deviations = np.full(world.observation_size, 0.3, np.float32)
    deviations[slice(*world.contact_forces or (0, 0))] = deviation
    said = about_contact_forces({DEVIATION: deviations}, world)
    assert about_contact_forces({DEVIATION: np.ones_like(deviations)}, world) is None
    assert (said is None) if sentence is None else (said is not None and said.endswith(sentence))


# What cannot be read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo_params": {"latent_size": 3}}, r"policy_itr_7.pth does not fit the configuration: it has 22 inputs"),
        ({"algo_params": {"encoding_mode": "trajectory"}}, r"it has 47 inputs, and 188 were expected"),
        ({"algo_params": {"merge_mode": "mlp"}}, "is not of the original code: it has no 'pre_class_encoder'"),
        ({"algo_params": {"sac_layer_size": 9}}, r"policy_itr_7.pth does not fit the configuration: its arrays are \["),
        ({"reconstruction_params": {"num_classes": 4}}, "it has no 'gauss_encoder_list.3'"),
        ({"reconstruction_params": {"num_classes": 2}}, "it has a 'gauss_encoder_list.2'"),
        ({"env_params": {"state_reconstruction_clip": 10}}, "decoder_itr_7.pth does not fit the configuration"),
        ({"env_name": "humanoid-dir"}, r"encoder_itr_7.pth does not fit the configuration: it has 47 inputs"),
        (DMRLAD, "old has no "),
    ],
)
def test_a_configuration_of_another_run(old: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = Path(shutil.copytree(old, tmp_path / "old"))
    variant = old_cemrl.Run(changes).variant
    (folder / "variant.json").write_text(json.dumps(variant))
    if changes is DMRLAD:
        assert "zf1_itr_7.pth" in " ".join(said_of(folder, tmp_path / "run"))
        return
    with pytest.raises(NacreError, match=message):
        import_old_run(folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def said_of(folder: Path, out: Path) -> list[str]:
    said: list[str] = []
    import_old_run(folder, out=out, say=said.append)
    return said


def test_numbers_that_are_others_here(tmp_path: Path) -> None:
    """A decoder that predicts the place of the torso, which comes after the velocities here."""
    old = old_cemrl.Run({"env_params": {"state_reconstruction_clip": 11}}).write(tmp_path / "old")
    with pytest.raises(
        NacreError, match=r"decoder_itr_7.pth predicts the first 11 numbers of an observation, which are"
    ):
        import_old_run(old, out=tmp_path / "run")


def test_files_that_are_missing_or_damaged(old: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(old, tmp_path / "old"))
    statistics = folder / "replay_buffer_stats_dict_7.p"
    (folder / "policy_itr_7.pth").write_bytes(b"")
    with pytest.raises(NacreError, match=r"policy_itr_7.pth is damaged, or is not a state dict"):
        import_old_run(folder)
    (folder / "policy_itr_7.pth").unlink()
    with pytest.raises(NacreError, match=r"old has no policy_itr_7.pth$"):
        import_old_run(folder)
    shutil.copy(old / "policy_itr_7.pth", folder)
    statistics.unlink()
    with pytest.raises(
        NacreError, match=r"old has no replay_buffer_stats_dict_7.p, with whose numbers its networks see"
    ):
        import_old_run(folder)
    statistics.write_bytes(pickle.dumps({"observations": {"mean": np.zeros(3), "std": np.zeros(3)}}, protocol=3))
    with pytest.raises(NacreError, match=r"stats_dict_7.p does not fit the configuration: it has .* of observations"):
        import_old_run(folder)
    (folder / "encoder_itr_7.pth").unlink()
    with pytest.raises(NacreError, match=r"old has no encoder_itr_<n>.pth"):
        import_old_run(folder)


class Call:
    """Pickled as a call of a function, which a careless reader would make."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


MOMENTS = {"mean": np.zeros(2), "std": np.ones(2)}
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a list": pickle.dumps([1], protocol=3),
    "no moments": pickle.dumps({"rewards": 3}, protocol=3),
    "no deviation": pickle.dumps({"rewards": {"mean": np.zeros(1)}}, protocol=3),
    "a negative deviation": pickle.dumps({"rewards": {"mean": np.zeros(1), "std": -np.ones(1)}}, protocol=3),
    "not finite": pickle.dumps({"rewards": {"mean": np.full(1, np.nan), "std": np.ones(1)}}, protocol=3),
    "objects": pickle.dumps({"rewards": {"mean": np.array([print]), "std": np.ones(1)}}, protocol=3),
    "a matrix": pickle.dumps({"rewards": {"mean": np.zeros((2, 2)), "std": np.ones(1)}}, protocol=3),
    "integers": pickle.dumps({"rewards": {"mean": np.zeros(1, int), "std": np.ones(1)}}, protocol=3),
    "a number as name": pickle.dumps({3: MOMENTS}, protocol=3),
    "a function": b"\x80\x03cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    "an array of more than its bytes": pickle.dumps({"rewards": MOMENTS}, protocol=3).replace(
        b"K\x02\x85", b"K\x63\x85"
    ),
    "an empty stack": b"\x80\x03R.",
    "a memory that was never written": b"\x80\x03h\x07.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_statistics(tmp_path: Path, name: str) -> None:
    path = tmp_path / "statistics.p"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(
        NacreError, match=r"statistics.p is damaged, or holds no statistics of the old code: "
    ) as caught:
        read_statistics(path)
    assert len(str(caught.value)) < 500


def test_reading_statistics_runs_nothing_of_a_file(tmp_path: Path) -> None:
    path, made = tmp_path / "statistics.p", tmp_path / "made"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"rewards": Call(made)}, protocol=protocol))
        with pytest.raises(NacreError, match="is damaged, or holds no statistics"):
            read_statistics(path)
    assert not made.exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_statistics(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "statistics.p"
    moments = {"mean": np.arange(3, dtype=np.float32), "std": np.arange(3.0), "max": np.zeros(3)}
    scalars = {"mean": np.float32(2), "std": 3.0}
    content = pickle.dumps({"actions": moments, "rewards": scalars}, protocol=protocol)
    path.write_bytes(content)
    read = read_statistics(path)
    np.testing.assert_array_equal(read["actions"]["mean"], [0, 1, 2])
    assert (read["rewards"]["mean"].tolist(), read["rewards"]["std"].tolist()) == ([2], [3])
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        with pytest.raises(NacreError, match="is damaged, or holds no statistics"):
            read_statistics(path)


def test_quantile_critics_of_another_kind() -> None:
    state = old_cemrl.Run(DMRLAD).networks["zf1"]
    for odd, message in (
        ({"last_fc.weight": np.zeros((1, 8))}, "it has no 'bias'"),
        ({name: array for name, array in state.items() if not name.startswith("tau_fc.1")}, "it has no 'tau_fc.1'"),
        (state | {"fc0.weight": np.zeros((2, 2))}, "it has a 'fc0'"),
        (state | {"base_fc.0.bias": np.zeros(3)}, r"a layer has weights \(8, 28\) and biases \(3,\)"),
    ):
        changed = (
            {**{name: array for name, array in state.items() if name not in ("last_fc.bias",)}, **odd}
            if len(odd) == 1
            else odd
        )
        with pytest.raises(NacreError, match=message):
            quantile_leaves(changed)
