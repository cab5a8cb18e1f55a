"""What the keys of the original PEARL code's JSON configurations are here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nacre.agents.pearl.config import PearlConfig
from nacre.errors import NacreError, nearest
from nacre.experiments.configuration_files import without_unknown
from nacre.experiments.experiment import Experiment, override
from nacre.original.keys import CodeBase, as_switch, check_fixed, flatten
from nacre.tasks import TaskFamily, TaskList, make_family

SECTIONS = ("env_params", "algo_params", "util_params")

OLD_DEFAULTS: dict[str, Any] = {
    "env_name": "cheetah-dir",
    "n_train_tasks": 2,
    "n_eval_tasks": 2,
    "latent_size": 5,
    "net_size": 300,
    "path_to_weights": None,
    "env_params": {"n_tasks": 2, "randomize_tasks": True},
    "algo_params": {
        "meta_batch": 16,
        "num_iterations": 500,
        "num_initial_steps": 2000,
        "num_tasks_sample": 5,
        "num_steps_prior": 400,
        "num_steps_posterior": 0,
        "num_extra_rl_steps_posterior": 400,
        "num_train_steps_per_itr": 2000,
        "num_evals": 2,
        "num_steps_per_eval": 600,
        "num_exp_traj_eval": 1,
        "batch_size": 256,
        "embedding_batch_size": 64,
        "embedding_mini_batch_size": 64,
        "max_path_length": 200,
        "discount": 0.99,
        "soft_target_tau": 0.005,
        "policy_lr": 3e-4,
        "qf_lr": 3e-4,
        "vf_lr": 3e-4,
        "context_lr": 3e-4,
        "reward_scale": 5.0,
        "kl_lambda": 0.1,
        "sparse_rewards": False,
        "use_information_bottleneck": True,
        "use_next_obs_in_context": False,
        "update_post_train": 1,
        "recurrent": False,
        "dump_eval_paths": False,
    },
    "util_params": {"base_log_dir": "output", "use_gpu": True, "gpu_id": 0, "debug": False, "docker": False},
}

FIELDS = {
    "n_train_tasks": "train_tasks",
    "n_eval_tasks": "test_tasks",
    "latent_size": "latent_size",
    "path_to_weights": "warm_start",
    "net_size": "hidden_size",
    "algo_params.meta_batch": "meta_batch_size",
    "algo_params.num_iterations": "iterations",
    "algo_params.num_initial_steps": "initial_steps",
    "algo_params.num_tasks_sample": "tasks_per_iteration",
    "algo_params.num_steps_prior": "prior_steps",
    "algo_params.num_steps_posterior": "posterior_steps",
    "algo_params.num_extra_rl_steps_posterior": "extra_posterior_steps",
    "algo_params.num_train_steps_per_itr": "updates_per_iteration",
    "algo_params.num_evals": "evaluation_trials",
    "algo_params.num_steps_per_eval": "evaluation_steps",
    "algo_params.num_exp_traj_eval": "exploration_episodes",
    "algo_params.batch_size": "batch_size",
    "algo_params.embedding_batch_size": "context_size",
    "algo_params.discount": "discount",
    "algo_params.soft_target_tau": "target_update_rate",
    "algo_params.policy_lr": "policy_learning_rate",
    "algo_params.qf_lr": "critic_learning_rate",
    "algo_params.vf_lr": "value_learning_rate",
    "algo_params.context_lr": "encoder_learning_rate",
    "algo_params.reward_scale": "reward_scale",
    "algo_params.kl_lambda": "kl_weight",
    "algo_params.sparse_rewards": "sparse_reward_in_context",
    "algo_params.use_information_bottleneck": "probabilistic_context",
    "algo_params.use_next_obs_in_context": "next_observation_in_context",
    "algo_params.update_post_train": "episodes_per_refresh",
    "algo_params.policy_mean_reg_weight": "policy_mean_penalty",
    "algo_params.policy_std_reg_weight": "policy_log_std_penalty",
    "util_params.seed": "seed",
}
"""Old keys that are a field of ours under another name."""

WITHOUT_MEANING = {
    "env_params.randomize_tasks": "the published task lists are always the randomised ones",
    "algo_params.replay_buffer_size": "the replay keeps everything that was collected",
    "algo_params.dump_eval_paths": "`nacre evaluate` writes every episode of any checkpoint",
    "algo_params.render": "nothing is rendered while training",
    "algo_params.render_eval_paths": "nothing is rendered while training",
    "algo_params.plotter": "nothing is plotted while training",
    "algo_params.save_replay_buffer": "a run always keeps its replay",
    "algo_params.save_algorithm": "a run always keeps its whole state",
    "algo_params.save_environment": "a run always keeps its tasks",
    "util_params.base_log_dir": "say --out",
    "util_params.gpu_id": "set CUDA_VISIBLE_DEVICES",
    "util_params.debug": "there is no debug mode",
    "util_params.docker": "it did nothing in the old code either",
}
"""Old keys that are accepted and ignored, with what to say about them."""

FIXED = {
    "algo_params.recurrent": (
        False,
        "it never ran in the original code; pearl/cheetah-vel-recurrent is one that works",
    ),
    "algo_params.eval_deterministic": (True, "evaluation while training uses the deterministic policy"),
    "algo_params.policy_pre_activation_weight": (0, "this penalty was off in every published run and is not there"),
}
"""Old keys of which one value is supported, and why."""

SWITCHES = (
    "env_params.randomize_tasks",
    "env_params.forward_backward",
    "algo_params.sparse_rewards",
    "algo_params.use_information_bottleneck",
    "algo_params.use_next_obs_in_context",
    "algo_params.recurrent",
    "algo_params.dump_eval_paths",
    "algo_params.eval_deterministic",
    "algo_params.render",
    "algo_params.render_eval_paths",
    "algo_params.plotter",
    "algo_params.save_replay_buffer",
    "algo_params.save_algorithm",
    "algo_params.save_environment",
    "util_params.use_gpu",
    "util_params.debug",
    "util_params.docker",
)
"""Old keys that are true or false, however a file writes it."""

FAMILIES = (
    "point-robot",
    "sparse-point-robot",
    "cheetah-vel",
    "cheetah-dir",
    "ant-dir",
    "ant-goal",
    "humanoid-dir",
    "walker-rand-params",
    "hopper-rand-params",
)
"""What env_name may be."""


def _translate(content: Any, ignore_unknown: bool, of_run: bool) -> tuple[Experiment, list[str]]:
    known = [*flatten(OLD_DEFAULTS, SECTIONS), *FIELDS, *WITHOUT_MEANING, *FIXED]
    known += ["env_params.goal_radius", "env_params.forward_backward"]
    given, unknown = without_unknown(flatten(content, SECTIONS), known, ignore_unknown)
    given = {key: as_switch(key, value) if key in SWITCHES else value for key, value in given.items()}
    values = flatten(OLD_DEFAULTS, SECTIONS) | given
    family = make_family(_family(values))
    _check_supported(family, values)

    fields = {field: values[key] for key, field in FIELDS.items() if key in values}
    fields["task_list"] = _task_list(family, values)
    messages = [f"{key} has no meaning any more: {why}" for key, why in WITHOUT_MEANING.items() if key in given]
    messages = unknown + messages
    if family.name == "ant-random-dir":
        messages.append(
            "env_name ant-dir became ant-random-dir, as env_params.forward_backward is not true: two random "
            "directions; the paper has forward and backward (pearl/ant-dir)"
        )
    if values["algo_params.num_exp_traj_eval"] == 0:
        fields["exploration_episodes"] = 1
        messages.append("algo_params.num_exp_traj_eval 0 became exploration_episodes 1: episode 1 has no context yet")
    if not values["util_params.use_gpu"]:
        fields["device"] = "cpu"
        messages.append("util_params.use_gpu false became device cpu")
    elif "util_params.use_gpu" in given:
        messages.append("util_params.use_gpu true has no meaning any more: a GPU is used if there is one")

    if of_run:
        fields.pop("warm_start")
    defaults = Experiment(f"pearl/{family.name}", family.name, PearlConfig(), train_tasks=2, test_tasks=2)
    return override(defaults, fields), messages


def _family(values: Mapping[str, Any]) -> str:
    name = values["env_name"]
    if name not in FAMILIES:
        raise NacreError(f"unknown env_name {name!r}: {nearest(str(name), FAMILIES)}")
    if name == "ant-dir" and not values.get("env_params.forward_backward"):
        return "ant-random-dir"
    return name


def _task_list(family: TaskFamily, values: Mapping[str, Any]) -> TaskList:
    """What stands for the old code's list of n_tasks, of which the first were for training and the last for testing.

    In some families it drew another list in each run.
    """
    if family.has_published_tasks:
        return "published"
    return "shared" if values["env_params.n_tasks"] == values["n_train_tasks"] else "seeded"


def _check_supported(family: TaskFamily, values: Mapping[str, Any]) -> None:
    fixed = dict(FIXED)
    fixed["algo_params.max_path_length"] = (
        family.horizon,
        f"it is the horizon of the task family {family.name}",
    )
    fixed["algo_params.embedding_mini_batch_size"] = (
        values["algo_params.embedding_batch_size"],
        "it has to equal embedding_batch_size: cutting a context batch only made sense for the recurrent encoder",
    )
    fixed["env_params.goal_radius"] = (0.2, "the goal radius belongs to the task family")
    if values["env_name"] != "ant-dir":
        fixed["env_params.forward_backward"] = (None, "it belongs to ant-dir")
    if family.name == "ant-dir":
        fixed["env_params.n_tasks"] = (2, "forward and backward are two tasks")
    # cheetah-dir always has the same two tasks, whatever n_tasks says.
    elif family.name != "cheetah-dir" and _task_list(family, values) != "shared":
        fixed["env_params.n_tasks"] = (
            _sum(values["n_train_tasks"], values["n_eval_tasks"]),
            "it has to equal n_train_tasks + n_eval_tasks",
        )
    if family.name in ("point-robot", "sparse-point-robot"):
        fixed["env_params.randomize_tasks"] = (True, "the list of fixed goals is not there")
    check_fixed(values, fixed)


def _sum(train: Any, test: Any) -> Any:
    return train + test if isinstance(train, int) and isinstance(test, int) else None


PEARL = CodeBase("PEARL", FIELDS, _translate)
