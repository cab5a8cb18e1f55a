"""Named experiments, their JSON, their limits, and the old code's configuration files."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import nacre
from nacre.agents import ALGORITHMS, Algorithm, algorithm_of, register_algorithm
from nacre.agents.pearl.config import PearlConfig
from nacre.configuration import AlgorithmConfig, Bounds, Count, Weight
from nacre.errors import NacreError
from nacre.experiments import (
    Experiment,
    family_of,
    from_json,
    make_experiment,
    named_experiments,
    options,
    register_experiment,
    to_json,
    validate,
)
from nacre.experiments.experiment import ADDED_LATER, bounds_of, field_types
from nacre.original.configs import read_old_config, validate_old
from nacre.original.pearl_configs import FIELDS, FIXED, OLD_DEFAULTS, SWITCHES, WITHOUT_MEANING
from nacre.protocol import Protocol
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily

# The published values, as the old configuration files would have them (spec section 3): what all have in common ...
COMMON = json.loads("""{
    "latent_size": 5, "net_size": 300, "path_to_weights": null,
    "env_params": {"randomize_tasks": true},
    "algo_params": {
        "num_iterations": 500, "batch_size": 256, "soft_target_tau": 0.005,
        "policy_lr": 0.0003, "qf_lr": 0.0003, "vf_lr": 0.0003, "context_lr": 0.0003,
        "use_information_bottleneck": true, "update_post_train": 1, "recurrent": false, "dump_eval_paths": false},
    "util_params": {"base_log_dir": "output", "use_gpu": true, "gpu_id": 0, "debug": false, "docker": false}}""")
# ... and the columns of the experiments.
PUBLISHED = {
    "cheetah-dir": """{
        "env_name": "cheetah-dir", "n_train_tasks": 2, "n_eval_tasks": 2, "env_params": {"n_tasks": 2},
        "algo_params": {
            "meta_batch": 4, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 1000,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 1000, "num_train_steps_per_itr": 2000,
            "num_evals": 4, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 256,
            "embedding_mini_batch_size": 256, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "cheetah-vel": """{
        "env_name": "cheetah-vel", "n_train_tasks": 100, "n_eval_tasks": 30, "env_params": {"n_tasks": 130},
        "algo_params": {
            "meta_batch": 16, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 2000,
            "num_evals": 1, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 100,
            "embedding_mini_batch_size": 100, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "point-robot": """{
        "env_name": "point-robot", "n_train_tasks": 80, "n_eval_tasks": 20, "env_params": {"n_tasks": 100},
        "algo_params": {
            "meta_batch": 16, "num_initial_steps": 200, "num_tasks_sample": 5, "num_steps_prior": 200,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 200, "num_train_steps_per_itr": 1000,
            "num_evals": 2, "num_steps_per_eval": 60, "num_exp_traj_eval": 1, "embedding_batch_size": 64,
            "embedding_mini_batch_size": 64, "max_path_length": 20, "discount": 0.99, "reward_scale": 100,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "sparse-point-robot": """{
        "env_name": "sparse-point-robot", "n_train_tasks": 80, "n_eval_tasks": 20, "env_params": {"n_tasks": 100},
        "algo_params": {
            "meta_batch": 16, "num_initial_steps": 200, "num_tasks_sample": 10, "num_steps_prior": 100,
            "num_steps_posterior": 900, "num_extra_rl_steps_posterior": 0, "num_train_steps_per_itr": 1000,
            "num_evals": 2, "num_steps_per_eval": 400, "num_exp_traj_eval": 5, "embedding_batch_size": 1024,
            "embedding_mini_batch_size": 1024, "max_path_length": 20, "discount": 0.90, "reward_scale": 100,
            "kl_lambda": 1.0, "sparse_rewards": 1, "use_next_obs_in_context": false}}""",
    "ant-random-dir": """{
        "env_name": "ant-dir", "n_train_tasks": 2, "n_eval_tasks": 2, "env_params": {"n_tasks": 2},
        "algo_params": {
            "meta_batch": 4, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 4000,
            "num_evals": 4, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 256,
            "embedding_mini_batch_size": 256, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "ant-goal": """{
        "env_name": "ant-goal", "n_train_tasks": 150, "n_eval_tasks": 30, "env_params": {"n_tasks": 180},
        "algo_params": {
            "meta_batch": 10, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 4000,
            "num_evals": 1, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 256,
            "embedding_mini_batch_size": 256, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 1.0, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "humanoid-dir": """{
        "env_name": "humanoid-dir", "n_train_tasks": 100, "n_eval_tasks": 30, "env_params": {"n_tasks": 130},
        "algo_params": {
            "meta_batch": 16, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 4000,
            "num_evals": 1, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 256,
            "embedding_mini_batch_size": 256, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": false}}""",
    "walker-rand-params": """{
        "env_name": "walker-rand-params", "n_train_tasks": 40, "n_eval_tasks": 10, "env_params": {"n_tasks": 50},
        "algo_params": {
            "meta_batch": 10, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 4000,
            "num_evals": 2, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 100,
            "embedding_mini_batch_size": 100, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": true}}""",
    "hopper-rand-params": """{
        "env_name": "hopper-rand-params", "n_train_tasks": 40, "n_eval_tasks": 10, "env_params": {"n_tasks": 50},
        "algo_params": {
            "meta_batch": 10, "num_initial_steps": 2000, "num_tasks_sample": 5, "num_steps_prior": 400,
            "num_steps_posterior": 0, "num_extra_rl_steps_posterior": 600, "num_train_steps_per_itr": 4000,
            "num_evals": 2, "num_steps_per_eval": 600, "num_exp_traj_eval": 2, "embedding_batch_size": 100,
            "embedding_mini_batch_size": 100, "max_path_length": 200, "discount": 0.99, "reward_scale": 5,
            "kl_lambda": 0.1, "sparse_rewards": false, "use_next_obs_in_context": true}}""",
}
NEW_TASKS_IN_EACH_RUN = {
    "ant-random-dir": "shared",
    "ant-goal": "seeded",
    "humanoid-dir": "seeded",
    "walker-rand-params": "seeded",
    "hopper-rand-params": "seeded",
}
"""Where the old code seeded nothing, and what stands for its list."""

FAST = "cheetah-vel", "cheetah-dir", "ant-dir", "ant-goal", "walker-rand-params", "hopper-rand-params"

ABLATIONS = {
    "sparse-point-robot-deterministic-context": {"probabilistic_context": False},
    "cheetah-vel-deterministic-context": {"probabilistic_context": False},
    "cheetah-vel-replay-context": {"context_source": "replay"},
    "cheetah-vel-rl-batch-context": {"context_source": "rl-batch", "context_size": 256},
    "cheetah-vel-recurrent": {"encoder": "recurrent", "context_size": 400},
    "cheetah-vel-recurrent-episodes": {
        "encoder": "recurrent",
        "context_size": 400,
        "rl_batch": "episodes",
        "batch_size": 400,
    },
}
"""What an ablation changes in the experiment that its name begins with."""


def merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], other[key]) for key in base.keys() & other.keys() if isinstance(base[key], dict)}
    return base | other | both


def old_file(folder: Path, content: Any) -> Path:
    path = folder / "old.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# The named experiments


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_values(tmp_path: Path, task: str) -> None:
    complete = merged(COMMON, json.loads(PUBLISHED[task]))
    assert {key for key, _ in _leaves(complete)} == {key for key, _ in _leaves(OLD_DEFAULTS)}
    experiment, _ = read_old_config(old_file(tmp_path, complete))
    assert experiment == make_experiment(f"pearl/{task}")
    # What no old file could say: see spec sections 1.1, 1.4, 2.3 to 2.5 and 8.
    assert experiment.algorithm.encoder_hidden_size == 200
    assert experiment.algorithm.policy_mean_penalty == experiment.algorithm.policy_log_std_penalty == 1e-3
    assert (experiment.algorithm.posterior_phase, experiment.algorithm.test_context) == ("refresh", "deterministic")
    assert experiment.task_list == NEW_TASKS_IN_EACH_RUN.get(task, "published")


def test_the_papers_ant_needs_a_key_that_the_published_file_lacks(tmp_path: Path) -> None:
    """See spec section 3: without it the ant has two random directions."""
    content = merged(COMMON, json.loads(PUBLISHED["ant-random-dir"]))
    _, messages = read_old_config(old_file(tmp_path, content))
    assert any(message.startswith("env_name ant-dir became ant-random-dir") for message in messages)
    paper = merged(content, {"env_params": {"forward_backward": True}})
    experiment, messages = read_old_config(old_file(tmp_path, paper))
    assert experiment == make_experiment("pearl/ant-dir")
    assert not any("ant" in message for message in messages)
    explicit = merged(content, {"env_params": {"forward_backward": False}})
    assert read_old_config(old_file(tmp_path, explicit))[0] == make_experiment("pearl/ant-random-dir")
    # More directions are held out, as everywhere, or shared.
    more = merged(content, {"n_train_tasks": 20, "n_eval_tasks": 5, "env_params": {"n_tasks": 25}})
    assert read_old_config(old_file(tmp_path, more))[0].task_list == "seeded"
    more["env_params"]["n_tasks"] = 20
    assert read_old_config(old_file(tmp_path, more))[0].task_list == "shared"


def _leaves(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _leaves(value, f"{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def test_the_table_of_experiments() -> None:
    others = (
        "ant-dir",
        "ant-goal-long",
        *(f"{task}-fast" for task in FAST),
        "point-robot-quick",
        "point-robot-quick-between-episodes",
        "point-robot-pixels",
        "cheetah-vel-pixels",
        "cheetah-vel-10hz-pixels-small",
        "sawyer-reacher-pixels-small",
    )
    names = {name for name in named_experiments() if name.startswith("pearl/")}
    assert names == {f"pearl/{task}" for task in (*PUBLISHED, *ABLATIONS, *others)}
    for name, (experiment, description) in named_experiments().items():
        assert experiment.name == name
        assert description
        assert "\n" not in description
        validate(experiment, family_of(experiment))
        assert len({experiment, make_experiment(name), make_experiment(name, seed=1)}) == 2


@pytest.mark.parametrize("task", FAST)
def test_a_fast_experiment_has_the_tasks_and_the_test_of_the_published_one(task: str) -> None:
    """And its references have the same amounts of data and of gradient steps."""
    fast, published = make_experiment(f"pearl/{task}-fast"), make_experiment(f"pearl/{task}")
    unchanged = dataclasses.replace(published, name=fast.name, iterations=fast.iterations, algorithm=fast.algorithm)
    assert fast == unchanged
    for field in ("evaluation_trials", "exploration_episodes", "next_observation_in_context", "kl_weight", "discount"):
        assert getattr(fast.algorithm, field) == getattr(published.algorithm, field)
    for algorithm in ("oracle", "blind"):
        reference = make_experiment(f"{algorithm}/{task}-fast")
        assert (reference.family, reference.train_tasks, reference.test_tasks, reference.task_list) == (
            (fast.family, fast.train_tasks, fast.test_tasks, fast.task_list)
        )
        assert reference.environment_steps == fast.environment_steps
        for field in ("hidden_size", "meta_batch_size", "batch_size", "updates_per_iteration"):
            assert getattr(reference.algorithm, field) == getattr(fast.algorithm, field)


@pytest.mark.parametrize("task", ABLATIONS)
def test_an_ablation_is_its_experiment_but_for_one_thing(task: str) -> None:
    of = "sparse-point-robot" if task.startswith("sparse") else "cheetah-vel"
    name = f"pearl/{task}"
    assert make_experiment(name) == make_experiment(f"pearl/{of}", name=name, **ABLATIONS[task])
    assert named_experiments()[name].description.startswith("ablation: ")
    text = (Path(__file__).parents[1] / "docs" / "pearl.md").read_text()
    assert f"| `{name}` |" in text


def test_overrides() -> None:
    experiment = make_experiment(
        "pearl/cheetah-vel", seed=3, iterations=60.0, kl_weight=1, device="cpu", name="pearl/x"
    )
    assert experiment == dataclasses.replace(
        make_experiment("pearl/cheetah-vel"),
        seed=3,
        iterations=60,
        device="cpu",
        name="pearl/x",
        algorithm=PearlConfig(kl_weight=1.0),
    )
    assert type(experiment.algorithm.kl_weight) is float
    assert type(experiment.iterations) is int
    with_config = make_experiment("pearl/cheetah-vel", algorithm=PearlConfig(latent_size=2), discount=0.5)
    assert with_config.algorithm == PearlConfig(latent_size=2, discount=0.5)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("pearl/cheeta-vel", {}, "unknown experiment 'pearl/cheeta-vel' .*: did you mean pearl/cheetah-vel or"),
        ("qqq", {}, "unknown experiment 'qqq' .*: allowed: .*pearl/ant-dir, pearl/ant-dir-fast, "),
        ("pearl/cheetah-vel", {"kl_wieght": 1.0}, r"unknown field 'kl_wieght': did you mean kl_weight\?"),
        ("pearl/cheetah-vel", {"iteration": 1}, "unknown field 'iteration': did you mean iterations"),
        ("pearl/cheetah-vel", {"seed": True}, "seed is True; allowed: a whole number"),
        ("pearl/cheetah-vel", {"iterations": 1.5}, "iterations is 1.5; allowed: a whole number"),
        ("pearl/cheetah-vel", {"kl_weight": "0.1"}, "kl_weight is '0.1'; allowed: a finite number"),
        ("pearl/cheetah-vel", {"kl_weight": float("nan")}, "kl_weight is nan; allowed: a finite number"),
        ("pearl/cheetah-vel", {"kl_weight": 10**400}, r"kl_weight is 10+\[...\]0+; allowed: a finite number"),
        (
            "pearl/cheetah-vel",
            {"family_options": {"lowest": 10**400}},
            r"family_options.lowest is 10+\[...\]0+; allowed",
        ),
        ("pearl/cheetah-vel", {"family_options": {"lowest": [1, 10**400]}}, r"family_options.lowest is 10+\[...\]0+"),
        ("pearl/cheetah-vel", {"seed": float("inf")}, "seed is inf; allowed: a whole number"),
        ("pearl/cheetah-vel", {"device": "tpu"}, "device is 'tpu'; allowed: 'cpu' or 'gpu' or None"),
        ("pearl/cheetah-vel", {"threads": 0.5}, "threads is 0.5; allowed: a whole number or None"),
        ("pearl/cheetah-vel", {"probabilistic_context": 1}, "probabilistic_context is 1; allowed: true or false"),
        ("pearl/cheetah-vel", {"algorithm": None}, "algorithm is None; allowed: the configuration of an algorithm"),
    ],
)
def test_mistaken_names_and_values(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(NacreError, match=message):
        make_experiment(name, **overrides)


def test_options_of_a_family(tmp_path: Path) -> None:
    experiment = make_experiment("pearl/cheetah-vel", family_options={"horizon": np.int64(50)})
    assert experiment.family_options == (("horizon", 50),)
    assert family_of(experiment).horizon == 50
    assert family_of(make_experiment("pearl/cheetah-vel")).horizon == 200
    values = json.loads(json.dumps(to_json(experiment)))
    assert values["family_options"] == {"horizon": 50}
    assert from_json(values) == experiment
    del values["family_options"]  # as earlier versions wrote it
    assert from_json(values) == make_experiment("pearl/cheetah-vel")
    assert options(b=[1, True], a="text") == (("a", "text"), ("b", (1, True)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"speed": 3},
            "unknown option 'speed' of the family cheetah-vel; allowed: highest, horizon, lowest, terminates",
        ),
        ({"horizon": 0}, "horizon of CheetahVel is 0; allowed: a whole number of at least 1"),
        ({"horizon": math.nan}, "family_options.horizon is nan; allowed: a finite number"),
        ({"horizon": None}, "family_options.horizon is None; allowed: a finite number"),
        ({1: 2}, "family_options is {1: 2}; allowed: values by name"),
        ([1], r"family_options is \[1\]; allowed: values by name"),
        (3, "family_options is 3; allowed: values by name"),
    ],
)
def test_options_that_a_family_does_not_have(given: Any, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        family_of(make_experiment("pearl/cheetah-vel", family_options=given))


def test_numpy_numbers_are_numbers() -> None:
    experiment = make_experiment("pearl/point-robot", seed=np.arange(3)[1], kl_weight=np.float32(0.5))
    assert (type(experiment.seed), experiment.seed) == (int, 1)
    assert (type(experiment.algorithm.kl_weight), experiment.algorithm.kl_weight) == (float, 0.5)
    with pytest.raises(NacreError, match="seed is True; allowed: a whole number"):
        make_experiment("pearl/point-robot", seed=np.True_)
    with pytest.raises(NacreError, match="kl_weight is nan; allowed: a finite number"):
        make_experiment("pearl/point-robot", kl_weight=np.float32("nan"))


def test_numpy_numbers_set_around_the_checks() -> None:
    """In a process of its own, as types are not checked there."""
    program = (
        "import dataclasses, json, numpy as np\n"
        "from nacre.experiments import make_experiment, to_json, validate\n"
        "from nacre.tasks import make_family\n"
        "named = make_experiment('pearl/point-robot')\n"
        "algorithm = dataclasses.replace(named.algorithm, batch_size=np.int32(9), discount=np.float32(0.5))\n"
        "experiment = dataclasses.replace(named, seed=np.int64(7), algorithm=algorithm)\n"
        "validate(experiment, make_family('point-robot'))\n"
        "print(json.dumps(to_json(experiment)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert from_json(json.loads(done.stdout)) == make_experiment(
        "pearl/point-robot", seed=7, batch_size=9, discount=0.5
    )


# Algorithms and experiments of one's own


@dataclasses.dataclass(frozen=True)
class CountingConfig(AlgorithmConfig):
    """An algorithm as a user would write it."""

    encoder: str = "counter"
    pace: Weight = 0.5

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        return 10 * train_tasks * iterations

    def gradient_steps(self, iterations: int) -> int:
        return 3 * iterations

    def protocol(self, horizon: int) -> Protocol:
        return Protocol("counting", trials=1, steps=0, episodes=1, exploration_episodes=0)

    def check(self, family: TaskFamily) -> None:
        if self.encoder != "counter":
            raise NacreError(f"algorithm.encoder is {self.encoder!r}; allowed for {family.name}: 'counter'")


COUNTING = Algorithm("counting", CountingConfig, learner="counting.learner:CountingLearner")


@pytest.fixture
def counting() -> Iterator[Experiment]:
    """An experiment of an algorithm that is registered for a test."""
    register_algorithm(COUNTING)
    yield Experiment("counting/point-robot", "point-robot", CountingConfig(), train_tasks=4, test_tasks=2)
    del ALGORITHMS[COUNTING.name]
    nacre.experiments._REGISTERED.clear()


def test_an_algorithm_of_ones_own(counting: Experiment) -> None:
    register_experiment(counting, "counts")
    register_experiment(counting, "counts")  # as a module that is imported twice does
    assert make_experiment("counting/point-robot", pace=1).algorithm == CountingConfig(pace=1.0)
    assert (counting.environment_steps, counting.gradient_steps) == (20_000, 1500)
    values = to_json(counting)
    assert values["algorithm"] == {"kind": "counting", "encoder": "counter", "pace": 0.5}
    assert from_json(values) == counting
    assert algorithm_of(counting.algorithm) == COUNTING
    family = make_family("point-robot")
    validate(counting, family)
    for changes, message in (
        ({"encoder": "mlp"}, "algorithm.encoder is 'mlp'; allowed for point-robot: 'counter'"),
        ({"pace": -1.0}, "algorithm.pace is -1.0; allowed: at least 0"),
    ):
        with pytest.raises(NacreError, match=message):
            validate(make_experiment("counting/point-robot", **changes), family)


def test_fields_that_came_later_are_those_of_the_algorithm(counting: Experiment) -> None:
    """Another algorithm's missing `encoder` is not filled with PEARL's."""
    values = to_json(counting)
    del values["algorithm"]["encoder"]
    with pytest.raises(NacreError, match=r"the field 'algorithm.encoder' is missing"):
        from_json(values)
    old = to_json(make_experiment("pearl/cheetah-vel"))
    for field in PearlConfig.added_later:
        del old["algorithm"][field]
    for field in ADDED_LATER:
        del old[field]
    assert from_json(old) == make_experiment("pearl/cheetah-vel")


def test_names_that_are_taken(counting: Experiment) -> None:
    register_experiment(counting, "counts")
    with pytest.raises(NacreError, match="there is an experiment 'counting/point-robot' already"):
        register_experiment(dataclasses.replace(counting, seed=1), "counts")
    with pytest.raises(NacreError, match="there is an algorithm 'counting' already"):
        register_algorithm(dataclasses.replace(COUNTING, learner="other:Learner"))
    with pytest.raises(NacreError, match="CountingConfig is the configuration of 'counting' already"):
        register_algorithm(dataclasses.replace(COUNTING, name="other"))
    assert "other" not in ALGORITHMS

    @dataclasses.dataclass(frozen=True)
    class SeededConfig(CountingConfig):
        seed: int = 0

    with pytest.raises(NacreError, match="SeededConfig has a field 'seed'; allowed: other names"):
        register_algorithm(Algorithm("seeded", SeededConfig, learner="x:X"))
    unknown = dataclasses.replace(counting, algorithm=SeededConfig())
    for refuse in (lambda: register_experiment(unknown, ""), lambda: validate(unknown, make_family("point-robot"))):
        with pytest.raises(NacreError, match="SeededConfig is the configuration of no algorithm that is known here"):
            refuse()


# JSON


@pytest.mark.parametrize("name", named_experiments())
def test_json_round_trip(name: str) -> None:
    experiment = make_experiment(name, seed=2**32 - 1, threads=3, discount=0.1 + 0.2, device="gpu")
    text = json.dumps(to_json(experiment))
    assert from_json(json.loads(text)) == experiment
    assert json.loads(text)["algorithm"]["kind"] == name.partition("/")[0]


def changed(path: tuple[str, ...], value: Any = None, *, remove: bool = False) -> dict[str, Any]:
    content = to_json(make_experiment("pearl/cheetah-vel"))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    if remove:
        del inner[path[-1]]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(("sed",), 1), r"unknown field 'sed': did you mean seed\?"),
        (changed(("algorithm", "discout"), 1), r"unknown field 'algorithm.discout': did you mean discount\?"),
        (changed(("seed",), remove=True), "the field 'seed' is missing"),
        (changed(("algorithm", "discount"), remove=True), "the field 'algorithm.discount' is missing"),
        (changed(("algorithm",), remove=True), "algorithm.kind is None; allowed: 'pearl'"),
        (changed(("algorithm", "kind"), "maml"), "algorithm.kind is 'maml'; allowed: 'pearl'"),
        (changed(("algorithm", "kind"), []), r"algorithm.kind is \[\]; allowed: 'pearl'"),
        (changed(("algorithm",), 3), "algorithm is 3; allowed: a JSON object"),
        (changed(("seed",), False), "seed is False; allowed: a whole number"),
        (changed(("seed",), None), "seed is None; allowed: a whole number"),
        (changed(("iterations",), 2.5), "iterations is 2.5; allowed: a whole number"),
        (changed(("name",), 1), "name is 1; allowed: text"),
        (changed(("precision",), "float16"), "precision is 'float16'; allowed: 'float32' or 'bfloat16'"),
        (changed(("task_list",), ["published"]), r"task_list is \['published'\]; allowed: 'published' or 'seeded' or"),
        (changed(("algorithm", "discount"), "0.9"), "algorithm.discount is '0.9'; allowed: a finite number"),
        (changed(("algorithm", "discount"), float("inf")), "algorithm.discount is inf; allowed: a finite number"),
        (changed(("algorithm", "batch_size"), True), "algorithm.batch_size is True; allowed: a whole number"),
        ([], r"experiment is \[\]; allowed: a JSON object"),
        (None, "experiment is None; allowed: a JSON object"),
    ],
)
def test_json_that_is_not_an_experiment(content: Any, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        from_json(content)


# Impossible values


def test_every_number_has_bounds_at_both_ends() -> None:
    for config in (Experiment, *(algorithm.config for algorithm in ALGORITHMS.values())):
        for field, annotation in field_types(config).items():
            numbers = {int, float} & {annotation, *get_args(annotation), *map(first_argument, get_args(annotation))}
            bounds = bounds_of(annotation)
            assert bool(numbers) == (bounds is not None), field
            assert bounds is None or bounds.high < math.inf, field


def first_argument(annotation: Any) -> Any:
    return next(iter(get_args(annotation)), None)


def test_bounds_of_an_optional_field() -> None:
    assert bounds_of(Count | None) == bounds_of(Count) == Bounds(1, 1_000_000)
    assert bounds_of(int | None) is None


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cheetah-vel", {"train_tasks": 0}, "train_tasks is 0; allowed: at least 1"),
        ("cheetah-vel", {"test_tasks": -1}, "test_tasks is -1; allowed: at least 1"),
        ("cheetah-vel", {"seed": -1}, "seed is -1; allowed: at least 0 and at most 4294967295"),
        ("cheetah-vel", {"seed": 2**32}, "seed is 4294967296; allowed"),
        ("cheetah-vel", {"iterations": 10**8}, "iterations is 100000000; allowed: at least 1 and at most 1000000"),
        ("cheetah-vel", {"train_tasks": 10**6}, "train_tasks is 1000000; allowed: at least 1 and at most 100000"),
        (
            "cheetah-vel",
            {"batch_size": 10**9},
            "algorithm.batch_size is 1000000000; allowed: at least 1 and at most 1000",
        ),
        (
            "cheetah-vel",
            {"hidden_size": 200_000},
            "algorithm.hidden_size is 200000; allowed: at least 1 and at most 10000",
        ),
        ("cheetah-vel", {"prior_steps": 2**63}, "algorithm.prior_steps is 9223372036854775808; allowed"),
        ("cheetah-vel", {"threads": 10**6}, "threads is 1000000; allowed: at least 1 and at most 1024"),
        (
            "cheetah-vel",
            {"reward_scale": 1e300},
            r"algorithm.reward_scale is 1e\+300; allowed: more than 0 and at most",
        ),
        ("cheetah-vel", {"policy_learning_rate": 3}, "algorithm.policy_learning_rate is 3.0; allowed: more than 0 and"),
        ("cheetah-vel", {"threads": 0}, "threads is 0; allowed: at least 1"),
        ("cheetah-vel", {"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ("cheetah-vel", {"prior_steps": -1}, "algorithm.prior_steps is -1; allowed: at least 0"),
        ("cheetah-vel", {"initial_steps": 0}, "algorithm.initial_steps is 0; allowed: at least 1"),
        ("cheetah-vel", {"batch_size": 0}, "algorithm.batch_size is 0"),
        ("cheetah-vel", {"latent_size": -5}, "algorithm.latent_size is -5"),
        ("cheetah-vel", {"discount": 0}, "algorithm.discount is 0.0; allowed: more than 0 and at most 1"),
        ("cheetah-vel", {"discount": 1.01}, "algorithm.discount is 1.01"),
        ("cheetah-vel", {"target_update_rate": 1.5}, "algorithm.target_update_rate is 1.5"),
        ("cheetah-vel", {"policy_learning_rate": 0}, "algorithm.policy_learning_rate is 0.0; allowed: more than 0"),
        ("cheetah-vel", {"encoder_learning_rate": -1e-3}, "algorithm.encoder_learning_rate is -0.001"),
        ("cheetah-vel", {"kl_weight": -0.1}, "algorithm.kl_weight is -0.1; allowed: at least 0"),
        ("cheetah-vel", {"name": "../../etc"}, "name is '../../etc'; allowed: an algorithm and a task"),
        ("cheetah-vel", {"name": "pearl/.."}, "name is 'pearl/..'"),
        ("cheetah-vel", {"prior_steps": 0}, "prior_steps and algorithm.posterior_steps are both 0"),
        ("cheetah-vel", {"context_size": 2401}, "algorithm.context_size is 2401; allowed: at most 2400"),
        ("sparse-point-robot", {"context_size": 1201}, "algorithm.context_size is 1201; allowed: at most 1200"),
        (
            "sparse-point-robot",
            {"prior_steps": 0, "posterior_phase": "fixed-z"},
            "algorithm.prior_steps is 0; allowed with posterior_phase='fixed-z': at least 1",
        ),
        ("cheetah-vel", {"exploration_episodes": 3}, "algorithm.exploration_episodes is 3; allowed: at most 2"),
        ("cheetah-vel", {"exploration_episodes": 0}, "algorithm.exploration_episodes is 0; allowed: at least 1"),
        ("cheetah-vel", {"evaluation_steps": 400}, "allowed: at most 1, as evaluation_steps=400 are 2 episode"),
        ("point-robot", {"evaluation_steps": 20}, "algorithm.evaluation_steps is 20; allowed .*: more than 20"),
        ("cheetah-vel", {"sparse_reward_in_context": True}, "allowed for cheetah-vel: False, as it has no sparse"),
        ("cheetah-dir", {"train_tasks": 3}, "train_tasks is 3; allowed for cheetah-dir: at most 2"),
        ("cheetah-dir", {"test_tasks": 30}, "test_tasks is 30; allowed for cheetah-dir: at most 2"),
        ("ant-random-dir", {"test_tasks": 3}, "test_tasks is 3; allowed with task_list='shared': at most the 2 train"),
        (
            "ant-goal",
            {"task_list": "published"},
            "allowed for ant-goal: 'seeded' or 'shared', as no list was published",
        ),
    ],
)
def test_impossible_values(name: str, overrides: dict[str, Any], message: str) -> None:
    experiment = make_experiment(f"pearl/{name}", **overrides)
    with pytest.raises(NacreError, match=message):
        validate(experiment, make_family(experiment.family))


def test_values_at_the_edge() -> None:
    family = make_family("cheetah-vel")
    validate(make_experiment("pearl/cheetah-vel", context_size=2400, discount=1, kl_weight=0, seed=0), family)
    validate(make_experiment("pearl/cheetah-vel", evaluation_steps=401, extra_posterior_steps=0, threads=1), family)
    validate(make_experiment("pearl/cheetah-dir", task_list="seeded", train_tasks=1), make_family("cheetah-dir"))


def test_values_set_around_the_checks_are_still_checked() -> None:
    experiment = make_experiment("pearl/cheetah-vel")
    broken = dataclasses.replace(experiment, algorithm=dataclasses.replace(experiment.algorithm, discount=float("nan")))
    with pytest.raises(NacreError, match=r"algorithm.discount is nan; allowed: a finite number"):
        validate(broken, make_family("cheetah-vel"))


class OwnFamily(TaskFamily):
    """A family as a user would write it, without a published list."""

    name = "own"
    observation_size = action_size = 1
    horizon = 20
    task_parameters = ("goal",)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> np.ndarray:
        return generator.uniform(size=(n, 1))

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        raise NotImplementedError

    def make_world(self, n_slots: int, threads: int) -> Any:
        raise NotImplementedError


def test_published_list_of_a_family_without_one() -> None:
    experiment = make_experiment("pearl/point-robot")
    with pytest.raises(NacreError, match="task_list is 'published'; allowed for own: 'seeded'"):
        validate(experiment, OwnFamily())
    validate(dataclasses.replace(experiment, task_list="seeded"), OwnFamily())


# The old code's configuration files


def test_a_file_overwrites_the_old_defaults(tmp_path: Path) -> None:
    experiment, messages = read_old_config(old_file(tmp_path, {"algo_params": {"discount": 0.5}}))
    assert messages == []
    assert experiment.algorithm == PearlConfig(
        discount=0.5,
        extra_posterior_steps=400,
        context_size=64,
        evaluation_trials=2,
        exploration_episodes=1,
    )
    assert (experiment.name, experiment.train_tasks, experiment.test_tasks) == ("pearl/cheetah-dir", 2, 2)


def test_every_old_key_is_known() -> None:
    special = {"env_name", "env_params.n_tasks", "algo_params.max_path_length", "algo_params.embedding_mini_batch_size"}
    handled = {*FIELDS, *WITHOUT_MEANING, *FIXED, *special, "util_params.use_gpu"}
    assert {key for key, _ in _leaves(OLD_DEFAULTS)} <= handled
    own = {field.name for config in (Experiment, PearlConfig) for field in dataclasses.fields(config)}
    assert set(FIELDS.values()) <= own


def test_documentation_names_every_old_key() -> None:
    text = (Path(__file__).parents[1] / "docs" / "old-configs.md").read_text()
    for key, field in FIELDS.items():
        assert f"| `{key}` | `{field}` |" in text
    for key in (*WITHOUT_MEANING, *FIXED, *(key for key, _ in _leaves(OLD_DEFAULTS))):
        assert f"| `{key}` |" in text


def test_messages(tmp_path: Path) -> None:
    content = {
        "algo_params": {"dump_eval_paths": True, "num_exp_traj_eval": 0, "replay_buffer_size": 1000},
        "util_params": {"gpu_id": 1, "use_gpu": False, "docker": True, "base_log_dir": "out", "seed": 5},
    }
    experiment, messages = read_old_config(old_file(tmp_path, content))
    assert (experiment.device, experiment.seed, experiment.algorithm.exploration_episodes) == ("cpu", 5, 1)
    assert [message.split()[0] for message in messages] == [
        "algo_params.replay_buffer_size",
        "algo_params.dump_eval_paths",
        "util_params.base_log_dir",
        "util_params.gpu_id",
        "util_params.docker",
        "algo_params.num_exp_traj_eval",
        "util_params.use_gpu",
    ]
    _, messages = read_old_config(old_file(tmp_path, {"util_params": {"use_gpu": True}}))
    assert messages == ["util_params.use_gpu true has no meaning any more: a GPU is used if there is one"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"algo_params": {"meta_bach": 3}},
            r"unknown key: algo_params.meta_bach = 3 .did you mean meta_batch.",
        ),
        ({"net_sizes": 3}, r"unknown key: net_sizes = 3 .did you mean net_size\?"),
        (
            {"algo_params": {"recurrent": True}},
            "recurrent is true; allowed: false, as it never ran in the original code",
        ),
        (
            {"algo_params": {"embedding_batch_size": 100}},
            "embedding_mini_batch_size is 64; allowed: 100, as it has to equal embedding_batch_size: cutting",
        ),
        ({"path_to_weights": 3}, "path_to_weights is 3; allowed: text or None"),
        ({"algo_params": {"max_path_length": 100}}, "max_path_length is 100; allowed: 200, as it is the horizon"),
        (
            {"env_name": "cheetah-vel", "n_train_tasks": 100},
            "env_params.n_tasks is 2; allowed: 102, as it has to equal",
        ),
        (
            {"env_name": "ant-dir", "env_params": {"forward_backward": True, "n_tasks": 4}},
            "env_params.n_tasks is 4; allowed: 2, as forward and backward are two tasks",
        ),
        (
            {"env_name": "ant-goal", "n_train_tasks": 150},
            "env_params.n_tasks is 2; allowed: 152, as it has to equal",
        ),
        ({"env_name": "cheetah-vle"}, "unknown env_name 'cheetah-vle': did you mean cheetah-vel"),
        ({"env_name": 3}, "old.json: unknown env_name 3: allowed: "),
        ({"env_name": ["ant-dir"]}, r"unknown env_name \['ant-dir'\]"),
        ({"algo_params": 3}, "old.json: algo_params is 3; allowed: a JSON object"),
        ({"algo_params": {"discount": "0.9"}}, "old.json: algo_params.discount is '0.9'; allowed: a finite number"),
        ({"algo_params": {"sparse_rewards": 2}}, "old.json: algo_params.sparse_rewards is 2; allowed: true or false"),
        ({"env_params": {"goal_radius": 0.8}}, "goal_radius is 0.8; allowed: 0.2"),
        (
            {"env_params": {"forward_backward": True}},
            "forward_backward is true; allowed: null, as it belongs to ant-dir",
        ),
        ([1], "an old configuration is a JSON object, not list"),
        ('{"env_name": ', "is not JSON: Expecting value: line 1 column 14"),
    ],
)
def test_old_files_that_cannot_be_read(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        read_old_config(old_file(tmp_path, content))


def test_all_unknown_keys_of_an_old_file_are_named_at_once(tmp_path: Path) -> None:
    fork = {
        "seed_list": [0, 1],
        "env_params": {"n_train_tasks": 100},
        "algo_params": {"data_dir": "./data", "is_zloss": 1, "meta_bach": 3, "sample": "x" * 80},
    }
    path = old_file(tmp_path, fork)
    with pytest.raises(NacreError) as error:
        read_old_config(path)
    assert str(error.value) == (
        f'{path}: unknown keys: seed_list = [0, 1]; env_params.n_train_tasks = 100; algo_params.data_dir = "./data"; '
        "algo_params.is_zloss = 1; algo_params.meta_bach = 3 (did you mean meta_batch?); "
        f'algo_params.sample = "{"x" * 25}[...]{"x" * 12}"; --ignore-unknown leaves them out'
    )
    experiment, messages = read_old_config(path, ignore_unknown=True)
    assert experiment == read_old_config(old_file(tmp_path, {}))[0]
    assert messages[0] == "seed_list is unknown and was left out"
    assert len(messages) == 6


def test_impossible_values_of_an_old_file_are_named_as_in_it(tmp_path: Path) -> None:
    content = {
        "env_params": {"n_tasks": 2},
        "algo_params": {"num_initial_steps": 2, "num_steps_prior": 10, "num_exp_traj_eval": 2}
        | {"embedding_batch_size": 100, "embedding_mini_batch_size": 100},
    }
    path = old_file(tmp_path, content)
    experiment, _ = read_old_config(path)
    with pytest.raises(NacreError) as error:
        validate_old(path, experiment, experiment)
    assert str(error.value) == (
        f"{path}: algo_params.embedding_batch_size is 100; allowed: at most 12, the context transitions collected in a "
        "task by the end of its first visit (algo_params.num_initial_steps + algo_params.num_steps_prior + "
        "algo_params.num_steps_posterior)"
    )
    mended = dataclasses.replace(experiment, algorithm=dataclasses.replace(experiment.algorithm, context_size=12))
    validate_old(path, experiment, mended)
    with pytest.raises(NacreError, match=r"^seed is -1; allowed"):  # which a flag said, and no file
        validate_old(path, experiment, dataclasses.replace(mended, seed=-1))
    none = {"env_name": "ant-goal", "n_train_tasks": 0, "env_params": {"n_tasks": 2}}
    read, _ = read_old_config(old_file(tmp_path, none))
    with pytest.raises(NacreError, match=r"old.json: n_train_tasks is 0; allowed: at least 1"):
        validate_old(path, read, read)


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"algo_params": {"discount": 0.5}}', encoding="utf-8-sig")
    assert read_old_config(path)[0].algorithm.discount == 0.5


def test_old_point_robot_with_fixed_goals(tmp_path: Path) -> None:
    content = merged(json.loads(PUBLISHED["point-robot"]), {"env_params": {"randomize_tasks": False}})
    with pytest.raises(NacreError, match="randomize_tasks is false; allowed: true"):
        read_old_config(old_file(tmp_path, content))


def test_old_file_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match=r"cannot read .*missing.json: No such file"):
        read_old_config(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(NacreError, match=r"bytes.json is not text"):
        read_old_config(tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("yes", "no"), [(True, False), (1, 0), (1.0, 0.0), ("true", "false"), ("True", "False"), ("TRUE", "FALSE")]
)
def test_old_switches_mean_the_same_however_they_are_written(tmp_path, yes, no):
    content = {
        "env_name": "ant-dir",
        "env_params": {"forward_backward": yes, "randomize_tasks": yes},
        "algo_params": {
            "use_information_bottleneck": no,
            "use_next_obs_in_context": yes,
            "sparse_rewards": no,
            "recurrent": no,
            "eval_deterministic": yes,
        },
        "util_params": {"use_gpu": no, "debug": no, "docker": yes},
    }
    experiment, messages = read_old_config(old_file(tmp_path, content))
    assert (experiment.family, experiment.device) == ("ant-dir", "cpu")
    algorithm = experiment.algorithm
    assert algorithm.probabilistic_context is False
    assert algorithm.next_observation_in_context is True
    assert algorithm.sparse_reward_in_context is False
    assert "util_params.use_gpu false became device cpu" in messages
    content["util_params"]["use_gpu"], content["env_params"]["forward_backward"] = yes, no
    content["algo_params"]["sparse_rewards"] = yes
    experiment, messages = read_old_config(old_file(tmp_path, content))
    assert (experiment.family, experiment.device) == ("ant-random-dir", None)
    assert experiment.algorithm.sparse_reward_in_context is True
    content["algo_params"]["recurrent"] = yes
    with pytest.raises(NacreError, match=r"algo_params.recurrent is true; allowed: false"):
        read_old_config(old_file(tmp_path, content))


@pytest.mark.parametrize("value", [2, "yes", None, [], 0.5, float("nan")])
def test_old_switches_that_are_none(tmp_path, value):
    with pytest.raises(NacreError, match=r"util_params.use_gpu is .*; allowed: true or false"):
        read_old_config(old_file(tmp_path, {"util_params": {"use_gpu": value}}))


def test_every_switch_of_the_old_defaults_is_read_as_one():
    sections = [section for section in OLD_DEFAULTS.values() if isinstance(section, dict)]
    switches = {key for section in sections for key, value in section.items() if isinstance(value, bool)}
    assert switches <= {key.partition(".")[2] for key in SWITCHES}
