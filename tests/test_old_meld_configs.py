"""MELD's gin files. `gin_files.py` has what was published."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import gin_files
import pytest

from nacre import cli
from nacre.agents.meld.config import MeldConfig
from nacre.errors import NacreError
from nacre.experiments import Experiment, make_experiment
from nacre.experiments.configuration_files import FromFile, read_configurations
from nacre.original.gin_files import read_gin
from nacre.original.meld_configs import (
    DERIVED,
    ENVIRONMENTS,
    FIELDS,
    FIXED,
    OLD_DEFAULTS,
    PUBLISHED,
    REQUIRED,
    WITHOUT_MEANING,
)


def read(folder: Path, *more: str, experiment: str = "meld/cheetah-vel", ignore_unknown: bool = False) -> FromFile:
    """The published files, and one with more lines."""
    paths = gin_files.write_set(folder, experiment)
    if more:
        paths.append(folder / "mine.gin")
        paths[-1].write_text("\n".join(more))
    return read_configurations(paths, None, ignore_unknown)


# What is read


def bound(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "a.gin"
    path.write_bytes(text.encode())
    return {key: (binding.value, binding.line) for key, binding in read_gin([path]).items()}


def test_bindings(tmp_path: Path) -> None:
    text = """
######
# A comment: a.b = 3
a.b='c'   # = 4
D.e = {'width': 64, 'depth': False,   # of a picture
   'name': 'f',
   }
  g.h.i = (1, -2.5e-1, None)
a.j = 1
a.j = '@k %l'
"""
    expected = {
        "a.b": ("c", 4),
        "D.e": ({"width": 64, "depth": False, "name": "f"}, 5),
        "g.h.i": ((1, -0.25, None), 8),
        "a.j": ("@k %l", 10),
    }
    assert bound(tmp_path, text) == expected
    assert bound(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) == expected
    assert bound(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import a.b", "import is not followed; allowed: bindings of plain values, such as"),
        ("include '0_meld_dense.gin'", "include is not followed; allowed: bindings"),
        ("from a import b", "from is not followed"),
        ("SIZE = 3", "'SIZE' is no parameter of a function, but a macro perhaps"),
        ("eval/a.b = 3", "'eval/a.b' has a scope"),
        ("a.b = @Adam()", "'@Adam()' has a reference; allowed: numbers, text, "),
        ("a.b = {'c': %SIZE}", "has a macro; allowed: numbers, text, "),
        ("a.b = f(3)", "'f(3)' is no plain value; allowed: numbers, text, "),
        ("a.b = {1: 2}", "'{1: 2}' is no plain value"),
        ("a.b = 2j", "'2j' is no plain value"),
        ("a.b = 0x" + "f" * 9000, "is no plain value"),
        ("a.b = " + "[" * 300 + "]" * 300, ""),
        ("a.b", "'a.b' is no binding"),
        ("a.b =", "'a.b =' is no binding"),
        ("a.b = 3; c.d = 4", "'3; c.d = 4' is no plain value"),
        ("a..b = 3", "'a..b' is no parameter"),
        ("a.b = 'c", ""),
        ("\0", ""),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(NacreError) as error:
        bound(tmp_path, f"# first\nc.d = 1\n{line}\n")
    assert str(error.value).startswith(f"{tmp_path / 'a.gin'}, line 3: ")
    assert message in str(error.value)


def test_a_value_that_does_not_end(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match=r"a.gin, line 2: it cannot be read .EOF in multi-line"):
        bound(tmp_path, "a.b = [1,\n")


# What becomes of it


@pytest.mark.parametrize("experiment", gin_files.SETS)
def test_published_files_are_the_named_experiments(tmp_path: Path, experiment: str) -> None:
    found = read(tmp_path, experiment=experiment).experiment
    assert found == make_experiment(experiment, update_chunk=found.update_chunk)


@pytest.mark.parametrize(
    ("experiment", "collected", "steps", "in_a_round", "between_evaluations"),
    [  # spec meld 2.6
        ("meld/cheetah-vel", 20_000, 6_000, (50, 40, 40), 5_000),
        ("meld/reacher", 4_800, 1_440, (40, 32, 20), 4_000),
        ("meld/buttons", 3_000, 900, (40, 32, 20), 4_000),
        ("meld/buttons-sparse", 4_500, 1_350, (60, 48, 30), 6_000),
        ("meld/peg", 6_000, 1_800, (40, 12, 12), 4_000),
        ("meld/shelf", 32_000, 9_600, (40, 12, 12), 4_000),
    ],
)
def test_the_schedule(
    tmp_path: Path, experiment: str, collected: int, steps: int, in_a_round: tuple[int, ...], between_evaluations: int
) -> None:
    found = read(tmp_path, experiment=experiment).experiment
    config = found.algorithm
    assert isinstance(config, MeldConfig)
    assert config.environment_steps(found.train_tasks, 0) == collected
    assert config.initial_model_steps == steps
    trial = config.episodes * config.episode_steps
    assert (trial, config.model_steps, config.policy_steps) == in_a_round
    assert config.environment_steps(0, 1) == between_evaluations
    rounds = {"meld/cheetah-vel": 3647, "meld/reacher": 5367}
    assert config.model_rounds == rounds.get(experiment)


def test_messages(tmp_path: Path) -> None:
    messages = read(tmp_path).messages
    meaningless = [key for key in WITHOUT_MEANING if f"\n{key}" in "".join(gin_files.FILES.values())]
    for key in meaningless:
        assert sum(f"{key} has no meaning any more: " in message for message in messages) == 1
    line = gin_files.CHEETAH_TRIAL.splitlines().index("train_eval.seed=0") + 1
    path = tmp_path / "2_cheetahVel_1episode.gin"
    assert f"{path}, line {line}: train_eval.seed has no meaning any more: it had no effect" in "\n".join(messages)
    assert any("train_eval.num_iterations 10000000 became iterations 100" in message for message in messages)
    flags = " ".join(f"--{field.replace('_', '-')} {value}" for field, value in PUBLISHED.items())
    assert messages[-1].endswith(f"options have them: {flags}")
    assert len(messages) == len(meaningless) + 2


def test_messages_about_an_earlier_run(tmp_path: Path) -> None:
    more = ("train_eval.offline_data_dir = 'buffers'", "train_eval.offline_episode_len = 40")
    read_files = read(tmp_path, *more, experiment="meld/buttons-sparse")
    assert read_files.experiment == make_experiment("meld/buttons-sparse", update_chunk=100)
    said = "\n".join(read_files.messages)
    assert "mine.gin, line 1: train_eval.offline_data_dir has no meaning any more: " in said
    assert "train_eval.load_offline_data has no meaning without an earlier run of nacre" in said
    assert "num_eval_trials 10 became evaluation_trials 1: each of the 12 test tasks" in said


def validated(folder: Path, *lines: str, experiment: str = "meld/cheetah-vel") -> Experiment:
    found = read(folder, *lines, experiment=experiment)
    found.validate(found.experiment)
    return found.experiment


def changed(folder: Path, *lines: str, experiment: str = "meld/cheetah-vel") -> dict[str, Any]:
    """The fields that lines change."""
    found = validated(folder, *lines, experiment=experiment)
    before = _fields(make_experiment(experiment, update_chunk=found.update_chunk))
    return {field: value for field, value in _fields(found).items() if value != before[field]}


def _fields(experiment: Experiment) -> dict[str, Any]:
    own = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
    config = experiment.algorithm
    return own | {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | {"algorithm": None}


def test_rounds_that_fill_no_iteration_are_told(tmp_path: Path) -> None:
    messages = read(tmp_path, "train_eval.num_iterations = 50", "train_eval.eval_interval = 100").messages
    assert any("num_iterations 50 became 100 rounds in 1 iteration(s)" in message for message in messages)


def test_later_files_win_and_what_is_not_published_is_translated(tmp_path: Path) -> None:
    lines = ("train_eval.num_train_tasks = 15", "train_eval.num_train_tasks = 10", "train_eval.num_iterations = 1050")
    assert changed(tmp_path, *lines) == {
        "train_tasks": 10,
        "iterations": 11,
        "initial_model_steps": 3000,
        "model_rounds": None,  # 3747, and there are only 1050
    }
    assert changed(tmp_path, "train_eval.max_episode_len_override = 20", "train_eval.episodes_per_trial = 2") == {
        "episode_steps": 20,
        "episodes": 2,
        "family_options": make_experiment(
            "meld/cheetah-vel",
            family_options={**dict(make_experiment("meld/cheetah-vel").family_options), "horizon": 20},
        ).family_options,
        "initial_model_steps": 4800,
        "model_steps": 32,
        "policy_steps": 32,
        "model_rounds": 4608,  # (500 000 - 16 000 - 4800) / 104
        "model_trials": 6,  # of 42 frames
    }


def test_layers_cameras_and_trials(tmp_path: Path) -> None:
    layers = [f"train_eval.{network}_fc_layers = [64, 64, 64]" for network in ("actor", "critic_joint")]
    assert changed(tmp_path, *layers) == {"hidden_size": 64, "hidden_layers": 3}
    assert changed(tmp_path, "train_eval.num_eval_trials = 25", "train_eval.train_trials_per_task = 2") == {
        "evaluation_trials": 3,
        "policy_trials": 20,
    }
    one = changed(tmp_path, "train_eval.double_camera = False", experiment="meld/peg")
    assert dict(one.pop("family_options"))["camera"] == "track"
    assert one == {}
    lines = ("ModelDistributionNetwork.sparse_reward_inputs = True",)
    assert changed(tmp_path, *lines, experiment="meld/peg") == {"name": "meld/peg-sparse", "context_reward": "sparse"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train_eval.env_name = 'SawyerPegMT-v0'",
            "train_eval.env_name is 'SawyerPegMT-v0': did you mean SawyerPegMT4",
        ),
        ("train_eval.env_name = 3", "train_eval.env_name is 3: allowed: "),
        ("train_eval.action_repeat = 2", "train_eval.action_repeat is 2; allowed: 1, as the task family"),
        ("train_eval.actor_input = 'state'", 'train_eval.actor_input is "state"; allowed: "latentDistribution"'),
        ("train_eval.collect_trials_per_task = 2", "is 2; allowed: 1, as a round collects one trial"),
        ("train_eval.actor_fc_layers = (256, 128)", "actor_fc_layers is [256, 128]; allowed: the same width for each"),
        ("train_eval.actor_fc_layers = ('a',)", 'train_eval.critic_joint_fc_layers is [256, 256]; allowed: ["a"]'),
        ("train_eval.critic_joint_fc_layers = None", "critic_joint_fc_layers is null; allowed: [256, 256], as critics"),
        ("train_eval.model_bs_in_steps = 50", "model_bs_in_steps is 50; allowed: at least the 51 frames of a trial"),
        ("train_eval.ac_train_ratio = 0.01", "train_eval.ac_train_ratio is 0.01; allowed: at least 0.02"),
        ("train_eval.model_train_ratio = -1", "train_eval.model_train_ratio is -1.0; allowed: at least 0"),
        ("train_eval.episodes_per_trial = 'two'", "episodes_per_trial is 'two'; allowed: a whole number"),
        ("train_eval.num_iterations = 1e999", "num_iterations is inf; allowed: a whole number"),
        ("train_eval.double_camera = 1", "train_eval.double_camera is 1; allowed: True or False"),
        ("train_eval.double_camera = True", "auxCamSettings is None; allowed with train_eval.double_camera True: "),
        ("ModelDistributionNetwork.reward_stddev = None", "reward_stddev is None; allowed: a number, as a learned"),
        (
            "ModelDistributionNetwork.latent1_size = 0",
            "ModelDistributionNetwork.latent1_size is 0; allowed: at least 1",
        ),
        ("ModelDistributionNetwork.latent1_size = {}", "ModelDistributionNetwork.latent1_size is {}; allowed: a whole"),
        ("train_eval.ac_bs_in_steps = 0", "train_eval.ac_bs_in_steps is 0; allowed: at least 1"),
        (
            "ModelDistributionNetwork.sparse_reward_inputs = True",
            "sparse_reward_inputs is 'sparse'; allowed for cheetah",
        ),
        ("train_eval.seeds = 3", "unknown key: train_eval.seeds = 3 (did you mean seed?); --ignore-unknown"),
    ],
)
def test_values_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(NacreError) as error:
        validated(tmp_path, "", line)
    assert message in str(error.value)
    key = line.partition(" ")[0]
    if str(error.value).partition("; allowed")[0].count(key):
        assert str(error.value).startswith(f"{tmp_path / 'mine.gin'}, line 2: ")


def test_an_arms_actions_belong_to_it(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match='action_mode is "torque"; allowed: "joint_delta_position"'):
        read(tmp_path, "train_eval.action_mode = 'torque'", experiment="meld/peg")
    messages = read(tmp_path, "train_eval.action_mode = 'torque'").messages
    assert any("train_eval.action_mode has no meaning any more: it belongs to the robot" in each for each in messages)


def test_all_unknown_keys_are_named_at_once(tmp_path: Path) -> None:
    lines = ("Other.x = 3", "train_eval.num_eval_task = 3", "train_eval.num_eval_tasks = 4")
    with pytest.raises(NacreError) as error:
        read(tmp_path, *lines)
    assert str(error.value).endswith(
        "mine.gin: unknown keys: Other.x = 3; train_eval.num_eval_task = 3 (did you mean num_eval_tasks or "
        "num_eval_trials?); --ignore-unknown leaves them out"
    )
    found = read(tmp_path, *lines, ignore_unknown=True)
    assert found.experiment == make_experiment("meld/cheetah-vel", test_tasks=4, evaluation_trials=3)
    assert f"{tmp_path / 'mine.gin'}, line 1: Other.x is unknown and was left out" in found.messages


def test_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.gin"
    path.write_text("train_eval.num_train_tasks = 3\n")
    with pytest.raises(NacreError, match=re.escape(f"{path}: train_eval.env_name is 'HalfCheetah-v2': ")):
        read_configurations([path], None)
    path.write_text(gin_files.CHEETAH)
    with pytest.raises(NacreError, match=r'a.gin: train_eval.actor_input is "state"; allowed: "latent'):
        read_configurations([path], None)
    path.write_text(gin_files.DENSE + gin_files.CHEETAH + "train_eval.num_tasks_to_collect_per_iter = 1\n")
    with pytest.raises(NacreError, match=r"a.gin: train_eval.init_collect_trials_per_task is not bound; allowed: a"):
        read_configurations([path], None)


def test_every_old_key_is_known_and_documented() -> None:
    own = {field.name for config in (Experiment, MeldConfig) for field in dataclasses.fields(config)}
    assert {*FIELDS.values(), *PUBLISHED} <= own
    handled = {*FIELDS, *DERIVED, *WITHOUT_MEANING, *FIXED, *REQUIRED, "train_eval.action_mode"}
    assert {*OLD_DEFAULTS} <= handled
    keys = re.findall(r"^([\w.]+) ?=", "\n".join(gin_files.FILES.values()), re.MULTILINE)
    assert {*keys} <= handled
    text = (Path(__file__).parents[1] / "docs" / "old-configs.md").read_text()
    for key, field in FIELDS.items():
        assert f"| `{key}` | `{field}` |" in text
    for key, words in DERIVED.items():
        assert f"| `{key}` | {words} |" in text
    for name, environment in ENVIRONMENTS.items():
        assert f"| `{name}` | `{environment.family}` |" in text
    for key in (*WITHOUT_MEANING, *FIXED):
        assert f"| `{key}` |" in text


# The command line


def test_flags_go_on_top_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in gin_files.write_set(tmp_path, "meld/cheetah-vel")]
    command = cli._parse(["train", "--config", *paths, "--seed", "4", "--iterations=2"])
    assert isinstance(command, cli.Train)
    assert command.experiment == make_experiment("meld/cheetah-vel", seed=4, iterations=2)
    assert f"{paths[2]}, line " in capsys.readouterr().out
    again = cli._parse(
        ["train", "--seed", "4", *(word for path in paths for word in ("--config", path)), "--iterations=2"]
    )
    assert isinstance(again, cli.Train)
    assert again.experiment == command.experiment
    with pytest.raises(NacreError, match=r"^algorithm.context_reward is 'sparse'; allowed for cheetah-vel-10hz-pixels"):
        cli._parse(["train", "--config", *paths, "--context-reward", "sparse"])


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    paths = [str(path) for path in gin_files.write_set(tmp_path, "meld/cheetah-vel")]
    with pytest.raises(NacreError, match=r"EXPERIMENT is 'pearl/ant-dir' beside the configuration .*0_meld_dense.gin"):
        cli._parse(["train", "--config", *paths, "pearl/ant-dir"])
    (tmp_path / "a.toml").write_text("seed = 3")
    with pytest.raises(NacreError, match=r"--config has 4 files, among them .*a.toml; allowed: one file, or several"):
        cli._parse(["train", "--config", *paths, f"--config={tmp_path / 'a.toml'}"])
    for words in (["--config"], ["--config", "--seed", "3"]):
        with pytest.raises(NacreError, match="--config has no value; allowed: the names of files"):
            cli._parse(["train", *words])
    with pytest.raises(NacreError, match=r"cannot read .*missing.gin: No such file"):
        cli._parse(["train", "--config", paths[0], str(tmp_path / "missing.gin")])
