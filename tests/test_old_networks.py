"""Networks of the original PEARL code: the files, the layers, and the runs that are made of them.

The folders in `old_run` were written by PyTorch, in both of its formats: see `old_run/write.py`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nacre import NacreError, evaluate, import_old_run, load, make_family, resume
from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import Trained
from nacre.agents.pearl.networks import infer_posterior
from nacre.checkpoint import load_selected, read_part
from nacre.cli import main
from nacre.loading import read_trained
from nacre.original.networks import FILES, mlp_leaves, read_old_networks
from nacre.original.torch_files import read_state_dict
from nacre.report import write_report
from nacre.run_folder import read_run
from nacre.runtime import learner_for
from nacre.warm_start import resolve_warm_start

OLD = Path(__file__).parent / "old_run"
KINDS = ("zip", "legacy")


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    """What PyTorch computed with the networks, in float64, and from what."""
    with np.load(OLD / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", params=KINDS)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read only."""
    return import_old_run(OLD / request.param, out=tmp_path_factory.mktemp("imported") / "run")


@pytest.fixture
def old_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "legacy", tmp_path / "old"))


def all_networks(run: Path) -> Trained:
    trained = read_trained(run)
    learner = learner_for(trained.experiment, trained.family)
    shapes = jax.eval_shape(learner.initial_state, jax.random.key(0))
    return load_selected(trained.checkpoint, shapes, lambda state: state.trained)


# The numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES.values())
def test_the_files_hold_what_pytorch_computed_with(kind: str, file: str, outputs: dict[str, np.ndarray]) -> None:
    """Layer by layer in float64, with nothing of nacre but the reading of the file."""
    state = read_state_dict(OLD / kind / file)
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    rows = outputs[f"{file.removesuffix('.pth')}_inputs"].astype(np.float64)
    for layer in ("fc0", "fc1", "fc2"):
        rows = np.maximum(rows @ state[f"{layer}.weight"].T.astype(np.float64) + state[f"{layer}.bias"], 0)
    heads = [head for head in ("last_fc", "last_fc_log_std") if f"{head}.weight" in state]
    computed = [rows @ state[f"{head}.weight"].T.astype(np.float64) + state[f"{head}.bias"] for head in heads]
    expected = outputs[f"{file.removesuffix('.pth')}_outputs"]
    np.testing.assert_allclose(np.concatenate(computed, axis=1), expected, rtol=1e-12, atol=1e-13)


def test_every_network_is_its_own(imported: Path, outputs: dict[str, np.ndarray]) -> None:
    """The target, too: the original code read it into the value network (spec 7, B4)."""
    trained = all_networks(imported)
    networks = trained.networks
    for name, network in (
        ("context_encoder", networks.encoder),
        ("policy", networks.policy.network),
        ("qf1", networks.critics[0]),
        ("qf2", networks.critics[1]),
        ("vf", networks.value),
        ("target_vf", trained.target_value),
    ):
        expected = outputs[f"{name}_outputs"]
        error = np.abs(network(jnp.asarray(outputs[f"{name}_inputs"])) - expected).max()
        assert error <= 1e-6 * np.abs(expected).max(), name


def test_the_policys_distribution(imported: Path, outputs: dict[str, np.ndarray]) -> None:
    mean, log_std = np.split(outputs["policy_outputs"], 2, axis=1)
    assert (log_std < -20).any()
    assert (log_std > 2).any()
    got_mean, got_log_std = read_trained(imported).parameters.policy.distribution(jnp.asarray(outputs["policy_inputs"]))
    np.testing.assert_allclose(got_mean, mean, atol=1e-6)
    np.testing.assert_allclose(got_log_std, np.clip(log_std, -20, 2), atol=1e-5)


def test_the_posterior(imported: Path, outputs: dict[str, np.ndarray]) -> None:
    """All rows as the context of one trial; the context is (s, a, r) in both codes."""
    encoder, config = read_trained(imported).parameters.encoder, read_run(imported)[0].algorithm
    context = jnp.asarray(outputs["context_encoder_inputs"])[None]
    mean, variance = infer_posterior(encoder, config, context)
    np.testing.assert_allclose(mean[0], outputs["posterior_mean"], atol=1e-6)
    np.testing.assert_allclose(variance[0], outputs["posterior_variance"], rtol=1e-6)


# The run


def test_an_imported_run_is_evaluated_and_loaded(imported: Path) -> None:
    experiment, split = read_run(imported)
    assert experiment.warm_start in [str(OLD / kind) for kind in KINDS]
    assert (experiment.algorithm.hidden_size, experiment.algorithm.encoder_hidden_size) == (8, 8)
    tasks = make_family("point-robot").published_tasks(5)
    np.testing.assert_array_equal(split.test, tasks[-2:])
    evaluation = evaluate(imported)
    np.testing.assert_array_equal(evaluation.tasks, tasks[-2:])
    assert evaluation.returns_by_episode.shape == (2, 3)
    agent = load(imported)
    agent.begin_trial()
    assert agent.act(np.zeros(2, np.float32)).shape == (2,)


def test_an_imported_run_has_a_report_without_a_learning_curve(imported: Path, tmp_path: Path) -> None:
    page = write_report([imported], tmp_path / "page.html")
    assert "there is no learning curve of them here" in page.read_text(encoding="utf-8")
    files = {path.name for path in (tmp_path / "page-data").iterdir()}
    assert "learning.csv" not in files
    assert f"seed-{read_run(imported)[0].seed}-returns.csv" in files


def test_an_imported_run_can_be_trained_on(
    old_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As any run with a checkpoint, and then the old folder is not needed any more: here up to the first collection."""
    run = import_old_run(old_copy, out=tmp_path / "run")
    shutil.rmtree(old_copy)
    collecting = []
    monkeypatch.setattr(PearlLearner, "collect", lambda learner, phase, state, *rest: collecting.append(state) or 0 / 0)
    with pytest.raises(ZeroDivisionError):
        resume(run)
    assert "going on from iteration_000000" in capsys.readouterr().out
    target = read_old_networks(OLD / "legacy")[".target_value.biases[0]"]
    np.testing.assert_array_equal(collecting[0].trained.target_value.biases[0], target)


@pytest.mark.parametrize(
    ("variant", "sizes", "lost"),
    [
        ({"env_name": "hopper-rand-params", "env_params": {"n_tasks": 4}}, (11, 3), True),
        ({"env_name": "cheetah-dir"}, (20, 6), False),
    ],
)
def test_lost_tasks_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: dict[str, Any], sizes: tuple[int, int], lost: bool
) -> None:
    observation, action = sizes
    widths = {"context_encoder": (observation + action + 1, 10), "policy": (observation + 5, action)}
    widths |= dict.fromkeys(("qf1", "qf2"), (observation + action + 5, 1))
    widths |= dict.fromkeys(("vf", "target_vf"), (observation + 5, 1))

    def read(path: Path) -> dict[str, np.ndarray]:
        fan_in, fan_out = widths[path.stem]
        layers = {"fc0": (4, fan_in), "fc1": (4, 4), "fc2": (4, 4), "last_fc": (fan_out, 4)}
        layers |= {"last_fc_log_std": (fan_out, 4)} if path.stem == "policy" else {}
        return {
            f"{layer}.{kind}": np.zeros(shape if kind == "weight" else shape[0])
            for layer, shape in layers.items()
            for kind in ("weight", "bias")
        }

    monkeypatch.setattr("nacre.original.networks.read_state_dict", read)
    for file in FILES.values():
        (tmp_path / file).touch()
    (tmp_path / "variant.json").write_text(json.dumps({"net_size": 4, **variant}))
    told: list[str] = []
    run = import_old_run(tmp_path, out=tmp_path / "run", say=told.append)
    _, split = read_run(run)
    assert len(split.test) == 2
    sentence = f"the original code drew the tasks of {variant['env_name']} anew in each run and kept no list of them"
    assert any(message.startswith(sentence) and message.endswith("drawn from seed 0") for message in told) is lost


def test_import_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.json"
    shutil.copy(OLD / "zip" / "variant.json", config)
    main(["import", str(OLD / "zip"), "--config", str(config), "--out", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert f"{config}: env_params.randomize_tasks has no meaning any more" in out
    assert out.endswith(f"Done. Meta-test it with: nacre evaluate {tmp_path / 'run'}\n")
    assert read_run(tmp_path / "run")[0].warm_start == str(OLD / "zip")


# What cannot be read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_size": 3}, r"weights\[3\] of the encoder is \(8, 4\) there and \(8, 6\) here"),
        ({"net_size": 300}, r"weights\[0\] of the policy is \(4, 8\) there and \(4, 300\) here"),
        (
            {"env_name": "cheetah-dir"},
            r"does not fit pearl/cheetah-dir: weights\[0\] of the encoder is \(5, 8\) there and",
        ),
        ({"next": True}, r"weights\[0\] of the encoder is \(5, 8\) there and \(7, 8\) here"),
        ({"bottleneck": False}, r"weights\[3\] of the encoder is \(8, 4\) there and \(8, 2\) here"),
        ({"recurrent": True}, "algo_params.recurrent is true; allowed: false"),
        ({"net_sizes": 8}, "unknown key: net_sizes = 8"),
    ],
)
def test_a_configuration_of_another_run(old_copy: Path, changes: dict[str, Any], message: str) -> None:
    variant = json.loads((old_copy / "variant.json").read_text())
    names = {"next": "use_next_obs_in_context", "bottleneck": "use_information_bottleneck", "recurrent": "recurrent"}
    variant["algo_params"] |= {names[key]: value for key, value in changes.items() if key in names}
    variant |= {key: value for key, value in changes.items() if key not in names}
    if variant["env_name"] == "cheetah-dir":
        variant |= {"n_train_tasks": 2, "algo_params": {}}
    (old_copy / "variant.json").write_text(json.dumps(variant))
    with pytest.raises(NacreError, match=message):
        import_old_run(old_copy, out=old_copy / "run")
    assert not (old_copy / "run").exists()


def test_what_is_missing(old_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(NacreError, match="nowhere is not a folder"):
        import_old_run(tmp_path / "nowhere")
    (old_copy / "policy.pth").unlink()
    with pytest.raises(NacreError, match=r"old has no policy.pth$"):
        import_old_run(old_copy)
    (old_copy / "variant.json").unlink()
    with pytest.raises(NacreError, match=r"variant.json does not exist; the original run's configuration is needed"):
        import_old_run(old_copy)


def test_encoder_and_policy_alone(
    old_copy: Path, tmp_path: Path, imported: Path, outputs: dict[str, np.ndarray]
) -> None:
    """What the original code's simulation script reads is enough to evaluate, and not to train."""
    for file in ("qf1", "qf2", "vf", "target_vf"):
        (old_copy / f"{file}.pth").unlink()
    said: list[str] = []
    run = import_old_run(old_copy, out=tmp_path / "run", say=said.append)
    missing = "qf1.pth, qf2.pth, vf.pth, target_vf.pth"
    assert f"{old_copy} has no {missing}: the run can be evaluated and loaded, but not resumed" in said
    whole = read_part(imported / "checkpoints" / "iteration_000000.npz", ".trained.networks")
    kept = read_part(run / "checkpoints" / "iteration_000000.npz", ".trained")
    assert {name.split(".")[2] for name in kept} == {"encoder", "policy"}
    for name, array in kept.items():
        np.testing.assert_array_equal(array, whole[name.removeprefix(".networks")])
    agent = load(run)
    agent.begin_trial()
    same = load(imported)
    same.begin_trial()
    np.testing.assert_array_equal(agent.act(np.zeros(2, np.float32)), same.act(np.zeros(2, np.float32)))
    with pytest.raises(NacreError, match=r"it has no state\.trained\."):
        resume(run)
    for source in (run, old_copy):
        with pytest.raises(
            NacreError, match=r"critics\[0\] is missing there|has no qf1.pth and no qf2.pth and no vf.pth"
        ):
            resolve_warm_start(dataclasses.replace(read_run(run)[0], warm_start=str(source)), learner_of(run))


def learner_of(run: Path) -> Any:
    experiment = read_run(run)[0]
    return learner_for(experiment, make_family(experiment.family))


def test_kept_networks_that_do_not_fit(old_copy: Path) -> None:
    for file in ("qf1", "qf2", "vf", "target_vf"):
        (old_copy / f"{file}.pth").unlink()
    variant = json.loads((old_copy / "variant.json").read_text())
    (old_copy / "variant.json").write_text(json.dumps(variant | {"net_size": 9}))
    with pytest.raises(NacreError, match=r"policy.pth does not fit the configuration: its arrays are \[\(4, 8\)"):
        import_old_run(old_copy, out=old_copy / "run")
    assert not (old_copy / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_is_cut_short(tmp_path: Path, kind: str, kept: float) -> None:
    content = (OLD / kind / "policy.pth").read_bytes()
    path = tmp_path / "policy.pth"
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(NacreError, match=r"policy.pth is damaged, or is not a state dict that PyTorch saved: "):
        read_state_dict(path)


def test_a_tensor_beyond_its_numbers(tmp_path: Path) -> None:
    content = (OLD / "legacy" / "vf.pth").read_bytes()
    shape = b"K\x08\x85"  # the pickled (8,) of a bias
    assert shape in content
    (tmp_path / "vf.pth").write_bytes(content.replace(shape, b"K\x09\x85", 1))
    with pytest.raises(NacreError, match=r"vf.pth is damaged.*shape \(9,\) does not fit its storage of 8 numbers"):
        read_state_dict(tmp_path / "vf.pth")


def in_format(kind: str, content: Any) -> bytes:
    pickled = pickle.dumps(content, protocol=2)
    if kind == "legacy":
        beginning = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
        return b"".join([*beginning, pickled, pickle.dumps([], protocol=2)])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("policy/data.pkl", pickled)
    return file.getvalue()


class Call:
    """Pickled as a call of a function, which a careless reader would make."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_runs_nothing_of_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "policy.pth"
    path.write_bytes(in_format(kind, {"fc0.weight": Call(tmp_path / "made")}))
    with pytest.raises(NacreError, match=r"it holds (posix|nt)\.mkdir, which no state dict"):
        read_state_dict(path)
    assert not (tmp_path / "made").exists()
    for content in ([1, 2], {"fc0.weight": 3.0}):
        path.write_bytes(in_format(kind, content))
        with pytest.raises(NacreError, match="it holds something else than tensors by name"):
            read_state_dict(path)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor of a storage of 4 numbers, as instructions of a pickle."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    offsets = b"J" + offset.to_bytes(4, "little", signed=True)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offsets + numbers(shape) + numbers(strides) + b"\x89NtR"


def archive_of(instructions: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("policy/data.pkl", b"\x80\x02" + instructions + b".")
        archive.writestr("policy/data/0", np.arange(4, dtype="<f4").tobytes())
    return file.getvalue()


def entry(key: bytes, value: bytes) -> bytes:
    return b"}" + key + value + b"s"


DOUBLING = b")" + b"2\x86" * 60
"""A tuple of two tuples of two tuples ..., which takes a moment to make and for ever to walk through."""
HOSTILE = {
    "a deep tuple as key": entry(b")" + b"\x85" * 100_000, tensor((4,), (1,))),
    "doubling tuples": entry(text("w"), DOUBLING),
    "doubling tuples as key": entry(DOUBLING, tensor((4,), (1,))),
    "stride 0": entry(text("w"), tensor((1000, 1000, 1000), (0, 0, 0))),
    "40 axes": entry(text("w"), tensor((1,) * 40, (1,) * 40)),
    "a negative stride": entry(text("w"), tensor((4,), (-1,), 3)),
    "an offset beyond the storage": entry(text("w"), tensor((1,), (1,), 4)),
    "a change of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("x") + b"K\x01sb",
    "a call of a storage": b"ctorch\nFloatStorage\n)R",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR",
    "a memory that was never written": b"h\x07",
    "an empty stack": b"R",
    "an object": b"c__builtin__\nobject\n)\x81",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    """They end at once, in one sentence that repeats little of them."""
    (tmp_path / "policy.pth").write_bytes(archive_of(HOSTILE[name]))
    with pytest.raises(NacreError, match=r"policy.pth is damaged, or is not a state dict that PyTorch saved") as caught:
        read_state_dict(tmp_path / "policy.pth")
    assert len(str(caught.value)) < 500


def test_sizes_that_no_network_has(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    good = entry(text("w"), tensor((2, 2), (1, 2)))
    path.write_bytes(archive_of(good))
    assert read_state_dict(path)["w"].tolist() == [[0, 2], [1, 3]]
    path.write_bytes(archive_of(good, zipfile.ZIP_DEFLATED))
    with pytest.raises(NacreError, match="is compressed, or larger than the file"):
        read_state_dict(path)
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)  # which takes no room on the disk
    with pytest.raises(NacreError, match="has 1073741825 bytes; allowed: at most 1073741824"):
        read_state_dict(path)
    with pytest.raises(NacreError, match="/dev/zero is a folder or a device"):
        read_state_dict(Path("/dev/zero"))


def test_other_kinds_of_networks() -> None:
    layers = {f"{layer}.weight": np.zeros((2, 2)) for layer in ("fc0", "last_fc")}
    layers |= {f"{layer}.bias": np.zeros(2) for layer in ("fc0", "last_fc")}
    assert mlp_leaves(layers).keys() == {".weights[0]", ".biases[0]", ".weights[1]", ".biases[1]"}
    for odd, message in (
        ({"lstm.weight_ih_l0": np.zeros((8, 2)), "hidden": np.zeros((1, 1, 2))}, "holds a recurrent encoder"),
        ({"layer_norm0.center": np.zeros(2)}, "is not of the original code: it has a 'layer_norm0.center'"),
        ({"fc2.weight": np.zeros((2, 2)), "fc2.bias": np.zeros(2)}, "it has no 'fc1.bias'"),
        ({"last_fc_log_std.weight": np.zeros((2, 2))}, "it has no 'last_fc_log_std.bias'"),
    ):
        with pytest.raises(NacreError, match=message):
            mlp_leaves({**layers, **odd})


# Contact forces


def networks_of(family: str, *, seen: bool, trained: bool = True) -> Callable[[Path], dict[str, np.ndarray]]:
    """State dicts as the original code drew them; if trained, moved from all inputs that were not always zero."""
    world = make_family(family)
    observation, action, latent = world.observation_size, world.action_size, 5
    widths = {"context_encoder": (observation + action + 1, 2 * latent), "policy": (observation + latent, action)}
    widths |= dict.fromkeys(("qf1", "qf2"), (observation + action + latent, 1))
    widths |= dict.fromkeys(("vf", "target_vf"), (observation + latent, 1))
    generator = np.random.default_rng(0)

    def read(path: Path) -> dict[str, np.ndarray]:
        fan_in, fan_out = widths[path.stem]
        layers = {"fc0": (16, fan_in), "fc1": (16, 16), "fc2": (16, 16), "last_fc": (fan_out, 16)}
        layers |= {"last_fc_log_std": (fan_out, 16)} if path.stem == "policy" else {}
        state = {}
        for layer, shape in layers.items():
            state[f"{layer}.weight"] = generator.uniform(-1, 1, shape).astype(np.float32) / np.float32(shape[0] ** 0.5)
            state[f"{layer}.bias"] = np.full(shape[0], 0.1, np.float32)
        moved = trained * generator.normal(0, 0.05, (16, fan_in)).astype(np.float32)
        if not seen and world.contact_forces is not None:
            moved[:, slice(*world.contact_forces)] = 0
        state["fc0.weight"] += moved
        return state

    return read


@pytest.mark.parametrize(
    ("trained_on", "seen", "trained", "flag", "sentence"),
    [
        ("humanoid-dir", False, True, None, "does worse; import it with: --family humanoid-dir-without-forces"),
        ("ant-goal", False, True, None, "does worse; import it with: --family ant-goal-without-forces"),
        ("humanoid-dir", False, True, "humanoid-dir-without-forces", None),
        ("humanoid-dir", True, True, None, None),
        ("humanoid-dir", False, False, None, None),
        (
            "humanoid-dir",
            True,
            True,
            "humanoid-dir-without-forces",
            "import it with: --family humanoid-dir",
        ),
        ("cheetah-vel", True, True, None, None),
    ],
)
def test_an_import_notices_whether_contact_forces_were_seen(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trained_on: str,
    seen: bool,
    trained: bool,
    flag: str | None,
    sentence: str | None,
) -> None:
    monkeypatch.setattr("nacre.original.networks.read_state_dict", networks_of(trained_on, seen=seen, trained=trained))
    for file in FILES.values():
        (tmp_path / file).touch()
    (tmp_path / "variant.json").write_text(
        json.dumps({"net_size": 16, "env_name": trained_on, "n_train_tasks": 2, "env_params": {"n_tasks": 4}})
    )
    arguments = ["import", str(tmp_path), "--out", str(tmp_path / "run"), *(["--family", flag] if flag else [])]
    main(arguments)
    out = capsys.readouterr().out
    assert ("contact force" in out) is (sentence is not None)
    assert f"{sentence or ''}\n" in out
    experiment, _ = read_run(tmp_path / "run")
    assert experiment.family == (flag or trained_on)
    assert experiment.name == f"pearl/{flag or trained_on}"


def test_an_import_into_a_family_of_other_sizes(old_copy: Path) -> None:
    with pytest.raises(NacreError, match="family is 'cheetah-vel', whose observation_size is 20; allowed: a family"):
        import_old_run(old_copy, out=old_copy / "run", family="cheetah-vel")
    run = import_old_run(old_copy, out=old_copy / "run", family="sparse-point-robot")
    assert read_run(run)[0].family == "sparse-point-robot"
