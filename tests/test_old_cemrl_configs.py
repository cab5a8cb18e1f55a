"""Configuration files of CEMRL and DMRLAD. `data/old_cemrl_configs.json` has what their repositories ship (spec
cemrl-dmrlad 1.13), without what is as in the defaults."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from old_cemrl import merged

from nacre import cli
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.errors import NacreError
from nacre.experiments import Experiment, named_experiments
from nacre.experiments.experiment import field_types
from nacre.original import cemrl_configs
from nacre.original.cemrl_configs import (
    CHOICES,
    DMRLAD_CHOICES,
    DMRLAD_DEFAULTS,
    DMRLAD_FIELDS,
    FIELDS,
    FIXED,
    OLD_DEFAULTS,
    SECTIONS,
    WITHOUT_MEANING,
)
from nacre.original.cemrl_tasks import ENVIRONMENTS, KEYS, REFUSED
from nacre.original.configs import read_old_config, validate_old
from nacre.original.keys import flatten
from nacre.tasks.shifts import Shift

SHIPPED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "old_cemrl_configs.json").read_text())

MULTI_TASK = ("velocity", "flipping", "jumping")
EXPECTED: dict[str, tuple[str, dict[str, Any], Shift | None]] = {
    "CEMRL/ant-non-stationary-dir": (
        "ant-dir-weighted",
        {"horizon": 800, "terminates": True},
        Shift("place", 10, 2, draw="opposite"),
    ),
    "CEMRL/ant-non-stationary-vel": ("ant-vel", {"horizon": 800}, Shift("place", 20, 1)),
    "CEMRL/cheetah-continuous-learning-dir": (
        "cheetah-dir",
        {"directions": (-1.0,), "horizon": 800},
        Shift("place", 20, 1, draw="opposite"),
    ),
    "CEMRL/cheetah-non-stationary-dir": ("cheetah-dir", {"horizon": 800}, Shift("place", 10, 2, draw="opposite")),
    "CEMRL/cheetah-non-stationary-vel": ("cheetah-vel", {"horizon": 800, "lowest": 0.5}, Shift("place", 10, 1)),
    "CEMRL/cheetah-stationary-dir": ("cheetah-dir", {}, None),
    "CEMRL/cheetah-stationary-multi-task": ("cheetah-multi-task", {"variants": ("velocity", "jumping")}, None),
    "CEMRL/cheetah-stationary-vel": ("cheetah-vel", {}, None),
    "CEMRL/hopper-non-stationary-vel": ("hopper-vel", {"horizon": 800, "terminates": True}, Shift("place", 10, 1)),
    "CEMRL/hopper-stationary-vel": ("hopper-vel", {"lowest": 0.0}, None),
    "CEMRL/humanoid-dir": ("humanoid-dir", {}, None),
    "CEMRL/walker2d-stationary-vel": ("walker-vel", {"lowest": 0.0}, None),
    "CEMRL/others/cheetah-non-stationary-multi-task": (
        "cheetah-multi-task",
        {"horizon": 800, "variants": MULTI_TASK},
        Shift("time", 200),
    ),
    "CEMRL/others/cheetah-non-stationary-rand-mass-params": (
        "cheetah-rand-damping",
        {"horizon": 400},
        Shift("place", 7, 2),
    ),
    "CEMRL/others/hopper-non-stationary-vel": (
        "hopper-vel",
        {"highest": 2.0, "horizon": 800, "terminates": True},
        Shift("place", 5, 1),
    ),
    "CEMRL/others/walker2d-non-stationary-rand-params_vel_not_observed": (
        "walker-rand-params",
        {
            "horizon": 400,
            "sees_velocities": False,
            "timestep": 0.002,
            "varied": ("mass", "damping", "friction"),
        },
        Shift("place", 7, 2),
    ),
    "CEMRL/others/walker2d-non-stationary-rand-params_vel_observed": (
        "walker-rand-params",
        {"horizon": 800, "log_scale_limit": 1.0, "timestep": 0.002},
        Shift("place", 7, 2),
    ),
    "CEMRL/others/walker2d-non-stationary-vel": (
        "walker-vel",
        {"horizon": 800, "terminates": True},
        Shift("place", 10, 1),
    ),
    "DMRLAD/ant-goal-sparse": ("ant-goal-sparse", {"horizon": 400}, None),
    "DMRLAD/ant-sparse-vel": ("ant-vel-sparse", {"horizon": 300}, None),
    "DMRLAD/cheetah-goal-sparse": ("cheetah-goal-sparse", {}, None),
    "DMRLAD/cheetah-stationary-multi-task": ("cheetah-multi-task", {"variants": MULTI_TASK}, None),
    "DMRLAD/cheetah-stationary-vel": ("cheetah-vel", {}, None),
    "DMRLAD/cheetah-vel-sparse": ("cheetah-vel-sparse", {}, None),
    "DMRLAD/sawyer-push-sparse": ("sawyer-push-sparse", {}, None),
    "DMRLAD/sawyer-reach-sparse": ("sawyer-reach-sparse", {}, None),
}
"""Task family, its options and its changes inside episodes."""

META_WORLD = "allowed: another environment, as Meta-World's tasks are not there"
IMPOSSIBLE = {
    "CEMRL/walker2d-non-stationary-vel": "; allowed: null, as the old networks have to be imported first, with nacre "
    "import FOLDER --iteration N: then --warm-start RUN begins with them",
    **{f"CEMRL/others/metaworld-{task}": META_WORLD for task in ("ml3", "ml10", "ml10-scripted", "ml45")},
    **{f"CEMRL/others/metaworld-ml1-{task}": META_WORLD for task in ("reach", "push", "pick-and-place")},
    "DMRLAD/ant-goal": "allowed: another environment, as the old code could not make it",
    "DMRLAD/cheetah-multi-task-sparse": 'env_params.task_variants is ["velocity", "flipping", "jumping"]; allowed: a '
    'list of some of "forward velocity", "backward velocity", "front goal", "back goal"',
}
"""What is said of those that cannot be read."""


def old_file(folder: Path, content: Any) -> Path:
    path = folder / "old.json"
    path.write_text(json.dumps(content))
    return path


def read(folder: Path, content: Any, **arguments: bool) -> tuple[Experiment, list[str]]:
    return read_old_config(old_file(folder, content), **arguments)


# Every file that is shipped


def test_every_shipped_file_is_tested() -> None:
    assert SHIPPED.keys() == EXPECTED.keys() | IMPOSSIBLE.keys()
    assert len(SHIPPED) == 36


@pytest.mark.parametrize("name", EXPECTED)
def test_shipped_files(tmp_path: Path, name: str) -> None:
    content = SHIPPED[name]
    experiment, messages = read(tmp_path, content)
    validate_old(tmp_path / "old.json", experiment, experiment)
    family, options, shift = EXPECTED[name]
    assert (experiment.family, dict(experiment.family_options), experiment.shift) == (family, options, shift)
    # DMRLAD's file of cheetah-stationary-multi-task says nothing that CEMRL's could not.
    is_dmrlad = name.startswith("DMRLAD") and "multi-task" not in name
    assert type(experiment.algorithm) is (DmrladConfig if is_dmrlad else CemrlConfig)
    assert experiment.name == f"{'dmrlad' if is_dmrlad else 'cemrl'}/{content['env_name']}"
    for key, value in flatten(content, SECTIONS).items():
        field = (FIELDS | DMRLAD_FIELDS).get(key)
        if field is not None and value != -1:
            found = (
                getattr(experiment, field) if field in field_types(Experiment) else getattr(experiment.algorithm, field)
            )
            assert found == value, key
    assert messages[-1].startswith("the old code's deviations from its own method are not taken over; they can be had")


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_shipped_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(NacreError) as error:
        read(tmp_path, SHIPPED[name])
    assert str(error.value).startswith(f"{tmp_path / 'old.json'}: ")
    assert IMPOSSIBLE[name] in str(error.value)


def test_named_experiments_are_the_shipped_files(tmp_path: Path) -> None:
    """Whoever has the file and whoever types the name get the same."""
    named, compared = named_experiments(), []
    # Two files are of one environment, and one of them has its name. DMRLAD's published runs had other values.
    others = "CEMRL/others/hopper-non-stationary-vel", "CEMRL/others/walker2d-non-stationary-vel"
    for name in EXPECTED:
        experiment, _ = read(tmp_path, SHIPPED[name])
        if name.startswith("CEMRL/") and name not in others and experiment.name in named:
            assert named[experiment.name].experiment == dataclasses.replace(experiment, seed=0), name
            compared.append(name)
    assert len(compared) >= 14


# Keys


def test_every_old_key_is_known_and_documented() -> None:
    special = {
        "env_name",
        "algo_params.max_path_length",
        "reconstruction_params.train_val_percent",
        "util_params.use_gpu",
    }
    defaults = [*flatten(OLD_DEFAULTS, SECTIONS), *flatten(DMRLAD_DEFAULTS, SECTIONS)]
    fields = FIELDS | DMRLAD_FIELDS | {key: field for key, (field, _) in (CHOICES | DMRLAD_CHOICES).items()}
    assert set(defaults) <= {*fields, *WITHOUT_MEANING, *FIXED, *KEYS, *special}
    own = {*field_types(Experiment), *field_types(DmrladConfig)}
    assert set(fields.values()) <= own
    text = (Path(__file__).parents[1] / "docs" / "old-configs.md").read_text()
    for key, field in fields.items():
        assert f"| `{key}` | `{field}`" in text, key
    for key in (*WITHOUT_MEANING, *FIXED, *defaults, *KEYS):
        assert f"| `{key}` |" in text, key
    for name, environment in ENVIRONMENTS.items():
        assert f"| `{name}` | `{environment.family}`" in text, name
    for name in REFUSED:
        assert f"`{name}`" in text, name


def test_a_file_overwrites_the_old_defaults(tmp_path: Path) -> None:
    experiment, _ = read(tmp_path, {"env_name": "cheetah-stationary-vel", "algo_params": {"time_steps": 12}})
    config = experiment.algorithm
    assert isinstance(config, CemrlConfig)
    assert (config.window, config.encoder, config.encoder_batch_size, config.policy_steps) == (
        12,
        "individual-y",
        256,
        3000,
    )
    assert (config.validation_block, config.tasks_per_iteration, config.evaluation_trials) == (5, 100, 3)
    assert (experiment.iterations, experiment.train_tasks, experiment.test_tasks) == (250, 100, 30)
    # The old code's own defaults of environments, which no shipped file leaves alone.
    assert dict(experiment.family_options) == {"highest": 1.0}
    assert experiment.shift == Shift("place", 10, 1)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"env_name": "humanoid-dir"}, "pearl"),
        ({"env_name": "cheetah-dir", "algo_params": {"discount": 0.5}}, "pearl"),
        ({"env_name": "humanoid-dir", "algo_params": {"time_steps": 5}}, "cemrl"),
        ({"env_name": "humanoid-dir", "reconstruction_params": {}}, "cemrl"),
        ({"env_name": "humanoid-dir", "env_params": {"state_reconstruction_clip": 24}}, "cemrl"),
        ({"env_name": "cheetah-stationary-vel"}, "cemrl"),
        ({"env_name": "cheetah-vel-sparse"}, "dmrlad"),
        ({"env_name": "cheetah-stationary-vel", "algo_params": {"num_quantiles": 16}}, "dmrlad"),
    ],
)
def test_the_code_base_is_recognised(tmp_path: Path, content: dict[str, Any], kind: str) -> None:
    if kind == "pearl":
        content = content | {"n_train_tasks": 2, "n_eval_tasks": 2, "env_params": {"n_tasks": 4}}
    assert read(tmp_path, content)[0].name.split("/")[0] == kind


def test_choices(tmp_path: Path) -> None:
    content = {
        "algo_params": {"merge_mode": "mlp", "data_usage_reconstruction": "linear", "data_usage_sac": "cut"},
        "reconstruction_params": {"prior_mode": "network", "train_val_percent": 0.9},
    }
    content["algo_params"] |= {"num_last_samples": 3e4, "use_softmax": 0, "utility_batch_size": 32}
    config = read(tmp_path, content | {"env_name": "cheetah-stationary-vel"})[0].algorithm
    assert isinstance(config, DmrladConfig)
    assert (config.merge, config.encoder_data, config.policy_data) == ("mlp", "rising", "last")
    assert (config.last_transitions, config.prior, config.validation_block) == (30_000, "learned", 10)
    assert (config.choice, config.scoring_states) == ("arg-max", 32)


def test_messages(tmp_path: Path) -> None:
    content = merged(
        SHIPPED["CEMRL/humanoid-dir"],
        {
            "algo_params": {"sac_alpha": 0.2, "snapshot_gap": 20},  # the latter is the default, and says nothing
            "env_params": {"task_min_velocity": 1},
            "util_params": {"use_gpu": False},
        },
    )
    experiment, messages = read(tmp_path, content)
    assert experiment.device == "cpu"
    assert messages == [
        "algo_params.sac_alpha has no meaning any more: the temperature is always learned, as in the old code, which "
        "did not read it",
        'algo_params.data_usage_reconstruction and algo_params.data_usage_sac "tree_sampling" became encoder_data '
        "uniform and policy_data uniform: it drew uniformly, by way of buckets that left out some transitions",
        "env_params.task_min_velocity has no meaning for humanoid-dir, and had none",
        "util_params.use_gpu false became device cpu",
        "test tasks are others than the train tasks: in the old code they were some of these, or drawn anew in each "
        "run",
        "the old code's deviations from its own method are not taken over; they can be had back by options, as its "
        "published numbers depend on them: --padding published --gaussian-product published --class-scores published "
        "--next-latent published --target-critics published",
    ]


def test_what_is_said_can_be_done(tmp_path: Path) -> None:
    """The flags of the last message, on top of the file."""
    path = old_file(tmp_path, SHIPPED["DMRLAD/cheetah-vel-sparse"])
    flags = read_old_config(path)[1][-1].partition(": ")[2].split()
    command = cli._parse(["train", "--config", str(path), *flags])
    assert isinstance(command, cli.Train)
    config = command.experiment.algorithm
    assert isinstance(config, DmrladConfig)
    assert {getattr(config, field) for field in cemrl_configs.DMRLAD_PUBLISHED} == {"published"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"algo_params": {"time_step": 3}}, "unknown key: algo_params.time_step = 3 (did you mean time_steps?)"),
        ({"algo_params": {"time_steps": 0}}, "algo_params.time_steps is 0; allowed: "),
        ({"algo_params": {"time_steps": "3"}}, "algo_params.time_steps is '3'; allowed: a whole number"),
        (
            {"algo_params": {"encoding_mode": "transition"}},
            'encoding_mode is "transition"; allowed: "trajectory", "tran',
        ),
        ({"algo_params": {"merge_mode": ["add"]}}, 'algo_params.merge_mode is ["add"]; allowed: "add", "add_softmax"'),
        ({"algo_params": {"use_relabeler": False}}, "algo_params.use_relabeler is false; allowed: true, as the z of"),
        (
            {"algo_params": {"use_combination_trainer": True}},
            "use_combination_trainer is true; allowed: false, as it did",
        ),
        ({"algo_params": {"permute_samples": 2}}, "algo_params.permute_samples is 2; allowed: true or false"),
        ({"algo_params": {"max_path_length": 0}}, "algo_params.max_path_length"),
        (
            {"algo_params": {"num_quantiles": 16, "sparse_rewards": True}},
            "algo_params.sparse_rewards is true; allowed: f",
        ),
        ({"reconstruction_params": {"train_val_percent": 0.75}}, None),
        (
            {"reconstruction_params": {"train_val_percent": 0.7}},
            "train_val_percent is 0.7; allowed: 1 - 1/n for a whole",
        ),
        ({"reconstruction_params": {"train_val_percent": 1}}, "train_val_percent is 1; allowed: 1 - 1/n for a whole"),
        ({"reconstruction_params": 3}, "reconstruction_params is 3; allowed: a JSON object"),
        ({"env_params": {"change_mode": "never"}}, 'env_params.change_mode is "never"; allowed: "location" or "time"'),
        (
            {"env_params": {"change_mode": "time", "change_steps": -1}},
            "env_params.change_steps is -1; allowed: more than",
        ),
        (
            {"env_params": {"positive_change_point_basis": -1, "negative_change_point_basis": 1}},
            "env_params.positive_change_point_basis is -1; allowed: more than 0",
        ),
        ({"env_params": {"change_point_interval": "1"}}, 'env_params.change_point_interval is "1"; allowed: a number'),
        ({"env_params": {"positive_change_point_basis": 5}}, "negative_change_point_basis is -10.0; allowed: -5.0, as"),
        ({"env_params": {"task_min_velocity": 4}}, "env_params.task_min_velocity of cheetah-vel is 4"),
        (
            {"env_params": {"termination_possible": "no"}},
            'env_params.termination_possible is "no"; allowed: true or fal',
        ),
        (
            {"env_params": {"scripted_policy": True}},
            "env_params.scripted_policy is true; allowed: false, as Meta-World's",
        ),
        (
            {"env_name": "cheetah-changing-dir"},
            'env_name is "cheetah-changing-dir"; allowed: another environment, as it',
        ),
        (
            {"env_name": "sawyer-reach-sparse"},
            "env_params.sparse is false; allowed: true, as sawyer-reach-sparse has no",
        ),
        (
            {"env_name": "sawyer-push"},
            'env_name is "sawyer-push"; allowed: another environment, as it could not run in',
        ),
        ({"env_name": 3, "reconstruction_params": {}}, "unknown env_name 3: "),
        ({"env_name": "cheetah-non-stationary-dir"}, "env_params.n_train_tasks is 100 and env_params.n_eval_tasks 30"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: dict[str, Any], message: str | None) -> None:
    path = old_file(tmp_path, {"env_name": "cheetah-stationary-vel", **content})
    if message is None:
        config = read_old_config(path)[0].algorithm
        assert isinstance(config, CemrlConfig)
        assert config.validation_block == 4
        return
    with pytest.raises(NacreError) as error:
        validate_old(path, *(read_old_config(path)[0],) * 2)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_unknown_keys_left_out(tmp_path: Path) -> None:
    content = {"env_name": "cheetah-stationary-vel", "algo_params": {"wandb": 1}}
    experiment, messages = read(tmp_path, content, ignore_unknown=True)
    assert experiment == read(tmp_path, {"env_name": "cheetah-stationary-vel"})[0]
    assert messages[0] == "algo_params.wandb is unknown and was left out"


@pytest.mark.parametrize(
    ("keys", "shifts"),
    [
        ({"change_mode": "location", "change_prob": 0.0, "positive_change_point_basis": 10}, True),
        ({"change_mode": "time", "change_prob": 0.0, "change_steps": 10}, False),
    ],
)
def test_a_probability_counts_for_changes_by_time_alone(tmp_path: Path, keys: dict[str, Any], shifts: bool) -> None:
    content = {"env_name": "cheetah-non-stationary-dir", "env_params": {"n_train_tasks": 2, "n_eval_tasks": 2} | keys}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert (read_old_config(tmp_path / "config.json")[0].shift is not None) == shifts
