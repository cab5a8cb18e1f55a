"""`nacre train --config`: our own experiment.json and TOML, whole and in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nacre import cli
from nacre.errors import NacreError
from nacre.experiments import Experiment, make_experiment, to_json
from nacre.experiments.configuration_files import read_configuration

RESOLVED = make_experiment("pearl/cheetah-vel", name="pearl/mine", seed=3, kl_weight=0.5, device="cpu")


def written(folder: Path, content: Any, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8-sig")
    return path


def read(path: Path, base: str | None = None, ignore_unknown: bool = False) -> Experiment:
    return read_configuration(path, None if base is None else make_experiment(base), ignore_unknown).experiment


def test_a_whole_experiment(tmp_path: Path) -> None:
    values = to_json(RESOLVED)
    run_file = {"format": 1, "experiment": values, "tasks": {}, "imports": [], "versions": {}}
    assert read(written(tmp_path, values)) == read(written(tmp_path, run_file)) == RESOLVED
    assert read(written(tmp_path, values), "pearl/ant-goal") == RESOLVED
    later = {**values, "algorithm": {key: value for key, value in values["algorithm"].items() if key != "encoder"}}
    assert read(written(tmp_path, later)) == RESOLVED  # as an earlier version wrote it


TOML = """
seed = 3
device = "cpu"
[algorithm]
kl_weight = 0.5
"""


def test_a_part(tmp_path: Path) -> None:
    expected = make_experiment("pearl/cheetah-vel", seed=3, kl_weight=0.5, device="cpu")
    part = {"seed": 3, "device": "cpu", "algorithm": {"kl_weight": 0.5}}
    assert read(written(tmp_path, part), "pearl/cheetah-vel") == expected
    assert read(written(tmp_path, part | {"name": "pearl/cheetah-vel"})) == expected
    assert read(written(tmp_path, TOML, "mine.toml"), "pearl/cheetah-vel") == expected
    assert read(written(tmp_path, f'name = "pearl/cheetah-vel"\n{TOML}', "mine.toml")) == expected
    assert read(written(tmp_path, {}), "pearl/cheetah-vel") == make_experiment("pearl/cheetah-vel")


def test_a_whole_experiment_in_toml_cannot_say_none(tmp_path: Path) -> None:
    def table(values: dict[str, Any]) -> str:
        return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None)

    values = to_json(RESOLVED)
    algorithm = values.pop("algorithm")
    assert read(written(tmp_path, f"{table(values)}\n[algorithm]\n{table(algorithm)}", "mine.toml")) == RESOLVED


@pytest.mark.parametrize(
    ("content", "base", "message"),
    [
        ({"seed": 3}, None, "it does not say which experiment it is a part of; allowed: a `name` of nacre list"),
        ({"name": ["pearl/x"]}, None, "it does not say which experiment it is a part of; allowed: a `name`"),
        ({"name": {}, "algorithm": {"kind": "pearl"}}, None, "the field 'family' is missing; a part of an experiment"),
        ({"seed": 3, "algorithm": {"kind": "pearl"}}, None, "the field 'name' is missing; a part of an experiment"),
        (
            {"sed": 3, "seed": 1, "algorithm": {"discout": 0.5, "recurent": 1}},
            "pearl/cheetah-vel",
            "unknown keys: sed = 3 (did you mean seed?); algorithm.discout = 0.5 (did you mean discount?); "
            "algorithm.recurent = 1; --ignore-unknown leaves them out",
        ),
        ({"algorithm": {"discount": "0.5"}}, "pearl/cheetah-vel", "discount is '0.5'; allowed: a finite number"),
        ({"algorithm": {"kind": "none"}}, "pearl/cheetah-vel", "algorithm.kind is 'none'; allowed: 'pearl', "),
        ({"algorithm": 3}, "pearl/cheetah-vel", "algorithm is 3; allowed: an object"),
        ({"experiment": 3}, "pearl/cheetah-vel", "experiment is 3; allowed: an object"),
        ("seed = ", "pearl/cheetah-vel", "is not JSON: Expecting value"),
        (
            {"env_name": "cheetah-vel"},
            "pearl/cheetah-vel",
            "EXPERIMENT is 'pearl/cheetah-vel' beside the configuration",
        ),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: Any, base: str | None, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(NacreError) as error:
        read(path, base)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_toml_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match=r"mine.toml is not TOML: "):
        read(written(tmp_path, "seed = ", "mine.toml"), "pearl/cheetah-vel")


def test_unknown_keys_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, {"sed": 3, "seed": 1})
    read = read_configuration(path, make_experiment("pearl/cheetah-vel"), ignore_unknown=True)
    assert read.experiment == make_experiment("pearl/cheetah-vel", seed=1)
    assert read.messages == ["sed is unknown and was left out"]


def test_flags_go_on_top_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"sed": 3, "algorithm": {"kl_weight": 0.5}})
    arguments = ["train", "--config", str(path), "--seed", "4", "--ignore-unknown", "pearl/ant-dir"]
    command = cli._parse(arguments)
    assert isinstance(command, cli.Train)
    assert command.experiment == make_experiment("pearl/ant-dir", seed=4, kl_weight=0.5)
    assert capsys.readouterr().out == f"{path}: sed is unknown and was left out\n"


def test_a_run_that_needs_an_import(tmp_path: Path) -> None:
    values = to_json(RESOLVED)
    path = written(tmp_path, {"format": 1, "experiment": values | {"family": "my-line"}, "imports": ["my lab", "x"]})
    with pytest.raises(NacreError) as error:
        read(path)
    assert str(error.value) == (
        f"{path} needs the task family 'my-line', which is not known here: name the module that registers it, as in "
        "nacre --import 'my lab' --import x COMMAND"
    )
    other = values | {"algorithm": {"kind": "mine"}}
    with pytest.raises(NacreError, match=r"needs the algorithm 'mine'.* nacre --import MODULE COMMAND"):
        read(written(tmp_path, {"format": 1, "experiment": other}))
