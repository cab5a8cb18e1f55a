"""What the keys of the JSON configurations of CEMRL and DMRLAD are here (spec cemrl-dmrlad 1.12)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.dmrlad.config import DmrladConfig
from nacre.errors import NacreError
from nacre.experiments.configuration_files import without_unknown
from nacre.experiments.experiment import Experiment, override
from nacre.original import cemrl_tasks
from nacre.original.keys import CodeBase, as_switch, check_fixed, flatten
from nacre.original.pearl_configs import OLD_DEFAULTS as PEARL_DEFAULTS

SECTIONS = ("env_params", "algo_params", "reconstruction_params", "util_params")

OLD_DEFAULTS: dict[str, Any] = {
    "env_name": "cheetah-non-stationary-vel",
    "path_to_weights": None,
    "train_or_showcase": "train",
    "showcase_itr": 1000,
    "env_params": {"n_train_tasks": 100, "n_eval_tasks": 30, "use_normalized_env": True, "scripted_policy": False},
    "algo_params": {
        "use_relabeler": True,
        "use_combination_trainer": False,
        "use_data_normalization": True,
        "use_parametrized_alpha": False,
        "encoding_mode": "transitionIndividualY",
        "merge_mode": "add",
        "use_fixed_seeding": True,
        "seed": 0,
        "batch_size_reconstruction": 256,
        "batch_size_combination": 256,
        "batch_size_policy": 256,
        "batch_size_relabel": 1024,
        "time_steps": 30,
        "latent_size": 1,
        "sac_layer_size": 300,
        "max_replay_buffer_size": 10_000_000,
        "data_usage_reconstruction": None,
        "data_usage_sac": None,
        "num_last_samples": 10_000_000,
        "permute_samples": False,
        "num_train_epochs": 250,
        "snapshot_gap": 20,
        "num_reconstruction_steps": 5000,
        "num_policy_steps": 3000,
        "num_train_tasks_per_episode": 100,
        "num_transitions_initial": 200,
        "num_transitions_per_episode": 200,
        "num_eval_trajectories": 3,
        "showcase_every": 0,
        "num_showcase_deterministic": 1,
        "num_showcase_non_deterministic": 1,
        "max_path_length": 200,
        "target_entropy_factor": 1.0,
        "sac_alpha": 1.0,
    },
    "reconstruction_params": {
        "use_state_diff": False,
        "component_constraint_learning": False,
        "prior_mode": "fixedOnY",
        "prior_sigma": 0.5,
        "num_classes": 1,
        "lr_encoder": 3e-4,
        "lr_decoder": 3e-4,
        "alpha_kl_z": 1e-3,
        "beta_kl_y": 1e-3,
        "net_complex_enc_dec": 10.0,
        "factor_qf_loss": 1.0,
        "train_val_percent": 0.8,
        "eval_interval": 50,
        "early_stopping_threshold": 500,
        "temp_folder": ".temp_cemrl",
    },
    "util_params": {
        "base_log_dir": "output",
        "use_gpu": True,
        "use_multiprocessing": False,
        "num_workers": 1,
        "gpu_id": 0,
        "debug": False,
        "plot": False,
    },
}

DMRLAD_DEFAULTS: dict[str, Any] = {
    "env_params": {"sparse": False},
    "algo_params": {"use_softmax": True, "sparse_rewards": False, "utility_batch_size": 64, "num_quantiles": 16},
}
"""What DMRLAD adds to them."""

FIELDS = {
    "env_params.n_train_tasks": "train_tasks",
    "env_params.n_eval_tasks": "test_tasks",
    "env_params.state_reconstruction_clip": "state_coordinates",
    "algo_params.use_data_normalization": "normalise",
    "algo_params.use_parametrized_alpha": "latent_temperature",
    "algo_params.seed": "seed",
    "algo_params.batch_size_reconstruction": "encoder_batch_size",
    "algo_params.batch_size_policy": "policy_batch_size",
    "algo_params.time_steps": "window",
    "algo_params.latent_size": "latent_size",
    "algo_params.sac_layer_size": "hidden_size",
    "algo_params.num_last_samples": "last_transitions",
    "algo_params.permute_samples": "permute_windows",
    "algo_params.num_train_epochs": "iterations",
    "algo_params.num_reconstruction_steps": "encoder_steps",
    "algo_params.num_policy_steps": "policy_steps",
    "algo_params.num_train_tasks_per_episode": "tasks_per_iteration",
    "algo_params.num_transitions_initial": "initial_steps",
    "algo_params.num_transitions_per_episode": "visit_steps",
    "algo_params.num_eval_trajectories": "evaluation_trials",
    "algo_params.target_entropy_factor": "target_entropy_factor",
    "reconstruction_params.use_state_diff": "state_difference",
    "reconstruction_params.component_constraint_learning": "true_classes",
    "reconstruction_params.prior_sigma": "prior_deviation",
    "reconstruction_params.num_classes": "classes",
    "reconstruction_params.lr_encoder": "encoder_learning_rate",
    "reconstruction_params.lr_decoder": "decoder_learning_rate",
    "reconstruction_params.alpha_kl_z": "latent_kl_weight",
    "reconstruction_params.beta_kl_y": "class_kl_weight",
    "reconstruction_params.net_complex_enc_dec": "width_factor",
    "reconstruction_params.eval_interval": "evaluate_every",
    "reconstruction_params.early_stopping_threshold": "patience",
}
"""Old keys that are a field of ours under another name."""

_USAGE = {None: "uniform", "cut": "last", "linear": "rising", "tree_sampling": "uniform"}
DMRLAD_FIELDS = {
    "algo_params.utility_batch_size": "scoring_states",
    "algo_params.num_quantiles": "quantiles",
}
"""The same of what only DMRLAD has."""
CHOICES: dict[str, tuple[str, dict[Any, str]]] = {
    "algo_params.encoding_mode": (
        "encoder",
        {"trajectory": "trajectory", "transitionSharedY": "shared-y", "transitionIndividualY": "individual-y"},
    ),
    "algo_params.merge_mode": (
        "merge",
        {"add": "add", "add_softmax": "add-softmax", "multiply": "multiply", "linear": "linear", "mlp": "mlp"},
    ),
    "algo_params.data_usage_reconstruction": ("encoder_data", _USAGE),
    "algo_params.data_usage_sac": ("policy_data", _USAGE),
    "reconstruction_params.prior_mode": ("prior", {"fixedOnY": "fixed", "network": "learned"}),
}
"""Old keys of which each value has another name here."""

DMRLAD_CHOICES: dict[str, tuple[str, dict[Any, str]]] = {
    "algo_params.use_softmax": ("choice", {True: "softmax", False: "arg-max"}),
}
"""The same of what only DMRLAD has."""

WITHOUT_MEANING = {
    "showcase_itr": "it says which networks path_to_weights means: nacre import FOLDER --iteration N",
    "exp_name": "the run folder has the name of the experiment",
    "algo_params.use_fixed_seeding": "everything is drawn from the seed",
    "algo_params.batch_size_combination": "it belongs to use_combination_trainer",
    "algo_params.batch_size_relabel": "it only says how many transitions are encoded at a time",
    "algo_params.max_replay_buffer_size": "the replay keeps everything that was collected",
    "algo_params.snapshot_gap": "it did nothing in the old code either; say --checkpoint-every",
    "algo_params.showcase_every": "nothing is rendered while training: nacre evaluate RUN --video",
    "algo_params.num_showcase_deterministic": "nothing is rendered while training: nacre evaluate RUN --video",
    "algo_params.num_showcase_non_deterministic": "nothing is rendered while training: nacre evaluate RUN --video",
    "algo_params.sac_alpha": "the temperature is always learned, as in the old code, which did not read it",
    "reconstruction_params.factor_qf_loss": "it belongs to use_combination_trainer",
    "reconstruction_params.temp_folder": "the best encoder and decoder are kept in memory and in checkpoints",
    "util_params.base_log_dir": "say --out",
    "util_params.use_multiprocessing": "tasks are played side by side in any case; say --threads",
    "util_params.num_workers": "tasks are played side by side in any case; say --threads",
    "util_params.gpu_id": "set CUDA_VISIBLE_DEVICES",
    "util_params.debug": "there is no debug mode",
    "util_params.plot": "nothing is plotted while training; see nacre report",
    "util_params.docker": "it did nothing in the old code either",
}
"""Old keys that are accepted and ignored, with what to say about them."""

FIXED = {
    "train_or_showcase": ("train", "nacre evaluate RUN --video and nacre report RUN show an agent"),
    "path_to_weights": (
        None,
        "the old networks have to be imported first, with nacre import FOLDER --iteration N: then --warm-start RUN "
        "begins with them",
    ),
    "env_params.use_normalized_env": (True, "actions are always brought from [-1, 1] to their bounds"),
    "env_params.scripted_policy": (False, "Meta-World's scripted policies are not there"),
    "algo_params.use_relabeler": (True, "the z of a transition is always inferred by the newest encoder"),
    "algo_params.use_combination_trainer": (False, "it did not work in the old code"),
    "algo_params.sparse_rewards": (False, "no environment of the old code had the two rewards that it needs"),
}
"""Old keys of which one value is supported, and why."""

_BEGINNING = ("path_to_weights", "train_or_showcase")
"""What does not matter once a run is done."""

SWITCHES = tuple(
    f"{section}.{key}"
    for defaults in (OLD_DEFAULTS, DMRLAD_DEFAULTS)
    for section in SECTIONS
    for key, value in defaults.get(section, {}).items()
    if isinstance(value, bool)
)
"""Old keys that are true or false, however a file writes it."""

_OTHER_TASKS = (
    "test tasks are others than the train tasks: in the old code they were some of these, or drawn anew in each run"
)

PUBLISHED = {
    "padding": "published",
    "gaussian_product": "published",
    "class_scores": "published",
    "next_latent": "published",
    "target_critics": "published",
}
"""Fields with which an agent acts and learns as in the old code, whose deviations are not the defaults here."""
DMRLAD_PUBLISHED = {**PUBLISHED, "log_normaliser": "published"}


def is_own(content: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of CEMRL or DMRLAD, and not of PEARL."""
    if "reconstruction_params" in content or _names(content, cemrl_tasks.OWN_NAMES):
        return True
    # Forks of PEARL's code have numbers of tasks among env_params, too.
    env = {"use_normalized_env", "scripted_policy", "state_reconstruction_clip"}
    algo = {*OLD_DEFAULTS["algo_params"], *DMRLAD_DEFAULTS["algo_params"]} - PEARL_DEFAULTS["algo_params"].keys()
    return _has(content, "env_params", env) or _has(content, "algo_params", algo - {"latent_size"})


def is_dmrlad(content: Mapping[str, Any]) -> bool:
    """Whether a configuration of the two is one of DMRLAD: it has a key or an environment that CEMRL has not."""
    if _names(content, cemrl_tasks.DMRLAD_NAMES):
        return True
    return any(_has(content, section, set(keys)) for section, keys in DMRLAD_DEFAULTS.items())


def _names(content: Mapping[str, Any], environments: Collection[str]) -> bool:
    name = content.get("env_name")
    return isinstance(name, str) and name in environments


def _has(content: Mapping[str, Any], section: str, keys: set[str]) -> bool:
    values = content.get(section)
    return isinstance(values, Mapping) and bool(keys & values.keys())


def _translate(content: Any, ignore_unknown: bool, of_run: bool) -> tuple[Experiment, list[str]]:
    dmrlad = is_dmrlad(content)
    defaults = flatten(OLD_DEFAULTS, SECTIONS) | (flatten(DMRLAD_DEFAULTS, SECTIONS) if dmrlad else {})
    known = [*defaults, *FIELDS, *WITHOUT_MEANING, *FIXED, *cemrl_tasks.KEYS]
    given, messages = without_unknown(flatten(content, SECTIONS), known, ignore_unknown)
    given = {key: as_switch(key, value) if key in SWITCHES else value for key, value in given.items()}
    values = defaults | given
    tasks = cemrl_tasks.tasks_of(values)
    check_fixed(values, {key: fixed for key, fixed in FIXED.items() if not (of_run and key in _BEGINNING)})

    names, choices = (FIELDS | DMRLAD_FIELDS, CHOICES | DMRLAD_CHOICES) if dmrlad else (FIELDS, CHOICES)
    fields = {field: values[key] for key, field in names.items() if key in values}
    fields |= {field: _choice(key, values[key], allowed) for key, (field, allowed) in choices.items()}
    fields["validation_block"] = _validation_block(values["reconstruction_params.train_val_percent"])
    if "last" not in (fields["encoder_data"], fields["policy_data"]):
        del fields["last_transitions"]
    fields |= tasks.fields
    messages += [
        f"{key} has no meaning any more: {why}"
        for key, why in WITHOUT_MEANING.items()
        if key in given and given[key] != defaults.get(key) and not (of_run and key in ("exp_name", "showcase_itr"))
    ]
    messages += [*_about_sampling(values), *tasks.messages]
    if not values["util_params.use_gpu"]:
        fields["device"] = "cpu"
        messages.append("util_params.use_gpu false became device cpu")
    kind, config = ("dmrlad", DmrladConfig()) if dmrlad else ("cemrl", CemrlConfig())
    experiment = Experiment(f"{kind}/{values['env_name']}", tasks.family, config, train_tasks=100, test_tasks=30)
    experiment, published = override(experiment, fields), DMRLAD_PUBLISHED if dmrlad else PUBLISHED
    if of_run:
        return override(experiment, published), messages
    if experiment.task_list == "seeded":
        messages.append(_OTHER_TASKS)
    return experiment, [*messages, _about_deviations(published)]


def _choice(key: str, value: Any, choices: Mapping[Any, str]) -> str:
    if not (value is None or isinstance(value, str | bool)) or value not in choices:
        allowed = ", ".join(map(json.dumps, choices))
        raise NacreError(f"{key} is {json.dumps(value)}; allowed: {allowed}")
    return choices[value]


def _validation_block(share: Any) -> int:
    """One transition in a block of so many was for validation."""
    block = 1 / (1 - share) if isinstance(share, int | float) and 0.5 <= share < 1 else 0.5
    if abs(block - round(block)) > 1e-6 * block:
        raise NacreError(
            f"reconstruction_params.train_val_percent is {json.dumps(share)}; allowed: 1 - 1/n for a whole number n "
            "from 2 on, such as 0.5, 0.8 or 0.9, as one transition in a block of n is for validation"
        )
    return round(block)


def _about_sampling(values: Mapping[str, Any]) -> list[str]:
    keys = "algo_params.data_usage_reconstruction", "algo_params.data_usage_sac"
    trees = [key for key in keys if values[key] == "tree_sampling"]
    if not trees:
        return []
    fields = " and ".join(f"{CHOICES[key][0]} uniform" for key in trees)
    return [
        f'{" and ".join(trees)} "tree_sampling" became {fields}: it drew uniformly, by way of buckets that left out '
        "some transitions"
    ]


def _about_deviations(published: Mapping[str, str]) -> str:
    flags = " ".join(f"--{field.replace('_', '-')} {value}" for field, value in published.items())
    return (
        "the old code's deviations from its own method are not taken over; they can be had back by options, as its "
        f"published numbers depend on them: {flags}"
    )


CEMRL = CodeBase(
    "CEMRL",
    FIELDS
    | DMRLAD_FIELDS
    | {key: field for key, (field, _) in (CHOICES | DMRLAD_CHOICES).items()}
    | {
        "algo_params.max_path_length": "horizon",
        "env_params.task_min_velocity": "lowest",
        "env_params.task_max_velocity": "highest",
    },
    _translate,
)
