"""Exported agents act as those of `nacre.load` do, in a process that cannot import nacre."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from test_load import untrained_run
from test_own_algorithm_doc import FILES

import nacre
from nacre import cli
from nacre.errors import NacreError
from nacre.exporting import _Programs, export
from nacre.loading import read_trained

ROOT = Path(__file__).parents[1]
SLOTS, STEPS = 3, 30

BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("nacre", "equinox", "mujoco", "gymnasium", "task_regression"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
"""
"""The beginning of a program that cannot import nacre, nor what it is built on but for JAX and NumPy."""

PLAYER = (
    BLOCKED
    + """
import json, zipfile
import jax, jax.export, numpy as np
played = np.load(sys.argv[1])
actions = {}
for file in sys.argv[3:]:
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("agent.json"))
        begin_trial, act, observe = (
            jax.jit(jax.export.deserialize(bytearray(archive.read(about["programs"][name]["file"]))).call)
            for name in ("begin_trial", "act", "observe")
        )
        with np.load(archive.open("parameters.npz")) as arrays:
            parameters = [arrays[str(number)] for number in range(len(arrays))]
    state = begin_trial(parameters, np.uint32(5))
    rows = []
    for step in range(len(played["active"])):
        now = {name: played[name][step] for name in played.files}
        action, state = act(parameters, state, now["observation"], now["active"], now["deterministic"])
        rows.append(np.asarray(action))
        what = ("next_observation", "reward", "sparse_reward", "terminated", "truncated")
        state = observe(parameters, state, *(now[name] for name in what))
    actions[file] = np.stack(rows)
np.savez(sys.argv[2], **{str(number): rows for number, rows in enumerate(actions.values())})
assert not {"nacre", "equinox"} & set(sys.modules)
"""
)


@pytest.fixture(scope="module")
def played() -> dict[str, np.ndarray]:
    """What three slots of a plane see: episodes end at different times, and slots pause."""
    generator = np.random.default_rng(0)
    numbers = {
        name: generator.normal(size=(STEPS, SLOTS, *shape)).astype(np.float32)
        for name, shape in (("observation", (2,)), ("next_observation", (2,)), ("reward", ()), ("sparse_reward", ()))
    }
    flags = {
        name: generator.uniform(size=(STEPS, SLOTS)) < share
        for name, share in (("terminated", 0.1), ("truncated", 0.1), ("active", 0.8))
    }
    return {**numbers, **flags, "deterministic": np.arange(STEPS) % 3 != 2}


def actions_of(agent: nacre.LoadedAgent, played: dict[str, np.ndarray]) -> np.ndarray:
    """Those of an agent of `nacre.load`."""
    agent.begin_trial(SLOTS)
    rows = []
    for step in range(STEPS):
        now = {name: values[step] for name, values in played.items()}
        agent.deterministic = bool(now["deterministic"])
        rows.append(agent.act(now["observation"]))
        sparse = {"sparse_reward": now["sparse_reward"]} if agent.sees_sparse_reward else {}
        what = (now[name] for name in ("next_observation", "reward", "terminated", "truncated"))
        agent.observe(*what, **sparse, active=now["active"])
    return np.stack(rows)


@pytest.fixture(scope="module")
def runs(own_registrations: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of PEARL, of CEMRL and of the algorithm of the documentation."""
    folder = tmp_path_factory.mktemp("export")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import task_regression  # noqa: F401  # pyright: ignore[reportMissingImports]

    cemrl = {"encoder_hidden_size": None, "classes": 2, "window": 4, "latent_size": 2}
    own = {"encoder_hidden_size": None}
    return {
        "pearl": untrained_run(folder / "pearl", "pearl/point-robot", exploration_episodes=1),
        "cemrl": untrained_run(folder / "cemrl", "cemrl/point-robot-quick", **cemrl),
        "own": untrained_run(folder / "own", "task-regression/half-circle", **own),
    }


def test_actions_are_those_of_the_agent(runs: dict[str, Path], played: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = [export(run, tmp_path / f"{name}.zip", slots=SLOTS, capacity=50) for name, run in runs.items()]
    np.savez(tmp_path / "played.npz", **played)
    found = tmp_path / "actions.npz"
    program = [sys.executable, "-c", PLAYER, tmp_path / "played.npz", found, *files]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    exported = np.load(found)
    for number, (name, run) in enumerate(runs.items()):
        expected = actions_of(nacre.load(run, seed=5, capacity=50), played)
        active = played["active"]
        np.testing.assert_allclose(exported[str(number)][active], expected[active], rtol=0, atol=1e-6, err_msg=name)
        # The comparison means something: the actions of a trial differ, and they depend on what was seen before.
        assert expected.std() > 0.05
        other = {**played, "reward": -3 * played["reward"], "next_observation": played["next_observation"] + 1}
        assert abs(actions_of(nacre.load(run, seed=5, capacity=50), other) - expected)[15:].max() > 3e-4


def test_what_is_in_the_file(runs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "new" / "agent.zip"
    cli.main(["export", str(runs["pearl"]), "--out", str(file), "--slots", "2"])
    assert capsys.readouterr().out == f"Written to {file}\n"
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("agent.json"))
        with np.load(archive.open("parameters.npz")) as arrays:
            parameters = [arrays[str(number)] for number in range(len(arrays))]
        act = jax.export.deserialize(bytearray(archive.read("act.stablehlo")))
        assert len(archive.namelist()) == 5
    assert act.platforms == ("cpu", "cuda")
    assert about["platforms"] == ["cpu", "cuda"]
    assert (about["format"], about["slots"], about["horizon"], about["capacity"]) == (1, 2, 20, 200)
    assert about["observation"] == {"shape": [2], "dtype": "float32"}
    assert about["action"] == {"shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0}
    assert about["experiment"]["algorithm"]["kind"] == "pearl"
    assert about["protocol"]["exploration_episodes"] == 1
    assert "3 test tasks" in about["protocol"]["in_words"]
    assert [list(each.shape) for each in parameters] == [each["shape"] for each in about["parameters"]]
    assert about["state"][0] == {"name": ".belief.mean", "shape": [2, 5], "dtype": "float32"}
    # What the file says of the arguments is what the program takes.
    argued = about["programs"]["act"]["arguments"]
    assert [each["name"] for each in argued] == ["parameters", "state", "observation", "active", "deterministic"]
    lists = len(about["parameters"]) + len(about["state"])
    for aval, each in zip(act.in_avals[lists:], argued[2:], strict=True):
        assert (list(aval.shape), str(aval.dtype)) == (each["shape"], each["dtype"])
    again = export(runs["pearl"], tmp_path / "again.zip", slots=2)
    with zipfile.ZipFile(file) as one, zipfile.ZipFile(again) as two:
        assert one.read("parameters.npz") == two.read("parameters.npz")


def test_the_example_runs_without_nacre(runs: dict[str, Path], tmp_path: Path) -> None:
    file = export(runs["pearl"], tmp_path / "agent.zip")
    example = ROOT / "examples" / "exported_agent.py"
    program = f"{BLOCKED}\nimport runpy\nsys.argv = ['example', {str(file)!r}]\nrunpy.run_path({str(example)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    returns = re.findall(r"episode (\d): return (-\d+\.\d\d)", done.stdout)
    assert [number for number, _ in returns] == ["1", "2", "3"]
    lines = example.read_text().splitlines()
    page = (ROOT / "docs" / "export.md").read_text()
    loads = lines[lines.index("with zipfile.ZipFile(sys.argv[1]) as archive:") + 1 :][:5]
    assert all(line in page.splitlines() for line in loads)


def test_other_kinds_of_agents(tmp_path: Path) -> None:
    recurrent = untrained_run(tmp_path / "recurrent", "pearl/point-robot", encoder="recurrent")
    export(recurrent, tmp_path / "recurrent.zip")
    told = untrained_run(tmp_path / "told", "oracle/point-robot", encoder_hidden_size=None)
    with zipfile.ZipFile(export(told, tmp_path / "told.zip")) as archive:
        about = json.loads(archive.read("agent.json"))
    assert about["sees_task"]
    assert about["programs"]["begin_trial"]["arguments"][2] == {"name": "tasks", "shape": [1, 2], "dtype": "float32"}


def test_what_is_refused(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, sentence in (
        ({"slots": 0}, "slots is 0; allowed: 1 to 100000"),
        ({"capacity": 0}, "capacity is 0; allowed: at least 1"),
        ({"checkpoint": "best"}, "has no checkpoint 'best'"),
    ):
        with pytest.raises(NacreError, match=re.escape(sentence)):
            export(runs["pearl"], tmp_path / "x.zip", **arguments)
    with pytest.raises(NacreError, match="is a folder; allowed: the name of a file"):
        export(runs["pearl"], tmp_path)
    with pytest.raises(NacreError, match="is not a run folder"):
        export(tmp_path, tmp_path / "x.zip")

    trained = read_trained(runs["own"])
    programs = _Programs(trained, 1, 10)
    wider = programs._state([jnp.zeros(leaf.shape, leaf.dtype) for leaf in programs.state])._replace(
        action=jnp.zeros((1, 3))
    )
    with pytest.raises(NacreError, match=r"changes from float32\(1, 2\) to float32\(1, 3\) at \.action"):
        programs._flat(wider)

    def act_on_the_host(*_: Any) -> Any:
        raise TypeError("this needs\nnumbers")

    monkeypatch.setattr(_Programs, "act", act_on_the_host)
    with pytest.raises(
        NacreError, match="task-regression/half-circle cannot be exported: TypeError: this needs numbers"
    ):
        export(runs["own"], tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip*"))
