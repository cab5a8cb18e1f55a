"""What the bindings of MELD's gin files are here (spec meld 2.6, 3).

The old code counts in environment steps and ratios; nacre counts in rounds, each of which collects one trial and then
takes a number of gradient steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from nacre.agents.meld.config import MeldConfig
from nacre.configuration import Bounds, Count, Weight, Width
from nacre.errors import NacreError, nearest, shown
from nacre.experiments.configuration_files import FromFile, without_unknown
from nacre.experiments.experiment import Experiment, Tasks, bounds_of, check_type, options, override
from nacre.experiments.limits import validate_read
from nacre.original.gin_files import Binding, read_gin
from nacre.original.keys import check_fixed, in_old_words
from nacre.tasks import make_family

CAMERA = "PixelObservationsGymWrapper.auxCamSettings"
NO_END = 10_000_000
"""Iterations with which the old code went on until it was stopped."""

OLD_DEFAULTS: dict[str, Any] = {
    "train_eval.env_name": "HalfCheetah-v2",
    "train_eval.action_repeat": 1,
    "train_eval.action_mode": "joint_position",
    "train_eval.double_camera": False,
    "train_eval.actor_input": "state",
    "train_eval.critic_input": "state",
    "train_eval.actor_fc_layers": (256, 256),
    "train_eval.critic_joint_fc_layers": (256, 256),
    "train_eval.max_episode_len_override": None,
    "train_eval.episodes_per_trial": 1,
    "train_eval.num_train_tasks": 10,
    "train_eval.num_eval_tasks": 10,
    "train_eval.num_eval_trials": 10,
    "train_eval.eval_interval": 10,
    "train_eval.eval_on_holdout_tasks": True,
    "train_eval.eval_only": False,
    "train_eval.num_tasks_to_collect_per_iter": 5,
    "train_eval.init_model_train_ratio": 0.8,
    "train_eval.model_train_ratio": 1,
    "train_eval.ac_train_ratio": 1,
    "train_eval.num_tasks_per_train": 5,
    "train_eval.train_trials_per_task": 5,
    "train_eval.model_bs_in_steps": 256,
    "train_eval.ac_bs_in_steps": 128,
    "train_eval.stop_model_training": 1e10,
    "train_eval.num_iterations": NO_END,
    "train_eval.load_offline_data": False,
    "train_eval.offline_ratio": 0.0,
    "ModelDistributionNetwork.base_depth": 32,
    "ModelDistributionNetwork.latent1_size": 32,
    "ModelDistributionNetwork.latent2_size": 256,
    "ModelDistributionNetwork.decoder_stddev": 0.1**0.5,
    "ModelDistributionNetwork.reward_stddev": None,
    "ModelDistributionNetwork.elbo_reward_weight": 8,
}

FIELDS = {
    "train_eval.num_train_tasks": "train_tasks",
    "train_eval.num_eval_tasks": "test_tasks",
    "train_eval.episodes_per_trial": "episodes",
    "train_eval.init_collect_trials_per_task": "initial_trials",
    "train_eval.ac_bs_in_steps": "policy_batch_size",
    "ModelDistributionNetwork.base_depth": "base_depth",
    "ModelDistributionNetwork.latent1_size": "first_latent_size",
    "ModelDistributionNetwork.latent2_size": "second_latent_size",
    "ModelDistributionNetwork.decoder_stddev": "image_deviation",
    "ModelDistributionNetwork.reward_stddev": "reward_deviation",
    "ModelDistributionNetwork.elbo_reward_weight": "reward_weight",
}
"""Old keys that are a field of ours under another name."""

DERIVED = {
    "train_eval.env_name": "`family`, `name` and `task_list`",
    "train_eval.double_camera": "`family_options`: `camera`",
    CAMERA: "`family_options`: `camera`",
    "train_eval.max_episode_len_override": "`episode_steps`, and `family_options`: `horizon`",
    "train_eval.actor_fc_layers": "`hidden_size` and `hidden_layers`",
    "train_eval.critic_joint_fc_layers": "`hidden_size` and `hidden_layers`",
    "train_eval.num_repeat_when_concatenate": "`reward_repeats`; if it is not bound, `base_depth`",
    "ModelDistributionNetwork.sparse_reward_inputs": "`context_reward`: true is sparse, false is dense",
    "train_eval.init_model_train_ratio": "`initial_model_steps`: so many for each environment step before",
    "train_eval.model_train_ratio": "`model_steps`: so many for each environment step of a trial",
    "train_eval.ac_train_ratio": "`policy_steps`: so many for each environment step of a trial",
    "train_eval.model_bs_in_steps": "`model_trials`: as many as have so many frames at most",
    "train_eval.num_tasks_per_train": "`policy_trials`, times `train_trials_per_task`",
    "train_eval.train_trials_per_task": "`policy_trials`, times `num_tasks_per_train`",
    "train_eval.stop_model_training": "`model_rounds`: it counts environment and gradient steps",
    "train_eval.eval_interval": "`rounds`",
    "train_eval.num_iterations": "`iterations`, times `rounds`; 10 000 000 was no end: that of the named experiment",
    "train_eval.num_eval_trials": "`evaluation_trials`, times the number of test tasks, rounded up",
    "train_eval.load_offline_data": "a message: `offline_run` has to be named",
    "train_eval.offline_ratio": "`offline_share`",
}
"""Old keys that several of our fields come from, or that are counted otherwise."""

_SAME_NUMBER = {
    "train_eval.num_repeat_when_concatenate": "reward_repeats",
    "train_eval.actor_fc_layers": "hidden_size",
    "train_eval.offline_ratio": "offline_share",
    "ModelDistributionNetwork.sparse_reward_inputs": "context_reward",
}
"""Those of which a message about the field can be read as one about the key."""

REQUIRED = ("train_eval.init_collect_trials_per_task", "ModelDistributionNetwork.sparse_reward_inputs")
"""Old keys whose defaults are not known."""

WITHOUT_MEANING = {
    "train_eval.seed": "it had no effect in the old code; say --seed",
    "train_eval.offline_data_dir": "it holds a replay of the old code, which nacre does not read; say --offline-run",
    "train_eval.offline_episode_len": "the earlier run says how long its episodes are",
    "train_eval.replay_buffer_capacity": "the replay keeps everything that was collected",
    "train_eval.rb_checkpoint_freq_in_iter": "a run always keeps its replay",
    "train_eval.policy_checkpoint_freq_in_iter": "say --checkpoint-every",
    "train_eval.logging_freq_in_iter": "every iteration of nacre has a row in progress.csv",
    "train_eval.summary_freq_in_iter": "every iteration of nacre has a row in progress.csv",
    "train_eval.num_images_per_summary": "nothing is drawn while training; see nacre report",
    "train_eval.log_image_strips": "nothing is drawn while training; see nacre report",
    "train_eval.log_image_observations": "nothing is drawn while training; see nacre report",
    "train_eval.gpu_allow_growth": "JAX has settings of its own for the memory of a GPU",
    "train_eval.gpu_memory_limit": "JAX has settings of its own for the memory of a GPU",
    "train_eval.verbose": "say --quiet",
    "ModelDistributionNetwork.name": "nothing depends on it",
}
"""Old keys that are accepted and ignored, with what to say about them."""

FIXED: dict[str, tuple[Any, str]] = {
    "train_eval.actor_input": ("latentDistribution", "the policy sees the parameters of what is inferred"),
    "train_eval.critic_input": ("latentDistribution", "critics see the parameters of what is inferred"),
    "train_eval.action_repeat": (1, "the task family says how long an action lasts"),
    "train_eval.critic_obs_fc_layers": (None, "critics have no layers for the observation alone"),
    "train_eval.critic_action_fc_layers": (None, "critics have no layers for the action alone"),
    "train_eval.num_tasks_to_collect_per_iter": (1, "a round collects one trial"),
    "train_eval.collect_trials_per_task": (1, "a round collects one trial"),
    "train_eval.model_train_freq": (1, "the latent model is trained in every round"),
    "train_eval.ac_train_freq": (1, "policy and critics are trained in every round"),
    "train_eval.eval_on_holdout_tasks": (True, "train tasks are evaluated beside test tasks in any case"),
    "train_eval.eval_only": (False, "nacre evaluate is there for it"),
    "RenderGymWrapper.goal_visibile_only_in_videos": (True, "an agent never sees the mark of a goal"),
    "ModelDistributionNetwork.model_input": ("image", "the latent model is one of pictures"),
    "ModelDistributionNetwork.kl_analytic": (True, "divergences are computed exactly"),
    "ModelDistributionNetwork.model_reward": (True, "the latent model always predicts rewards"),
    "ModelDistributionNetwork.sparse_reward_targets": (False, "the latent model predicts the dense reward"),
    "MeldAgent.actor_input_stop_gradient": (True, "no gradient of the policy reaches the latent model"),
    "MeldAgent.critic_input_stop_gradient": (True, "no gradient of the critics reaches the latent model"),
}
"""Old keys of which one value is supported, and why."""

SWITCHES = ("train_eval.double_camera", "train_eval.load_offline_data", "ModelDistributionNetwork.sparse_reward_inputs")
"""Old keys that are true or false and become something."""

PUBLISHED = {
    "reward_index": "published",
    "target_critics": "published",
    "trials": "reassembled",
    "evaluation_policy": "stochastic",
}
"""Fields with which an agent learns and is tested as in the old code, whose deviations are not the defaults here."""


class Environment(NamedTuple):
    """What an `env_name` is here."""

    task: str
    """Of the experiment's name."""
    family: str
    steps: int
    """Of an episode, if nothing else is said."""
    iterations: int
    """Instead of NO_END."""
    camera: str = "track"
    action_mode: str | None = "joint_delta_position"
    """None: it has none."""


ENVIRONMENTS = {
    "HalfCheetahVel-v0": Environment("cheetah-vel", "cheetah-vel-10hz-pixels", 50, 100, action_mode=None),
    "SawyerReachMT-v0": Environment("reacher", "sawyer-reacher-pixels", 40, 50),
    "SawyerPegMT4box-v0": Environment("peg", "sawyer-peg-pixels", 40, 50),
    "SawyerButtons-v0": Environment("buttons", "sawyer-buttons-pixels", 40, 50),
    "SawyerShelfMT-v0": Environment("shelf", "sawyer-shelf-pixels", 40, 50, action_mode="torque"),
}


def read_gin_config(paths: Sequence[Path], ignore_unknown: bool = False) -> FromFile:
    """Reads gin files of MELD's public code, of which later ones win.

    Args:
        paths: the files.
        ignore_unknown: whether keys that are not known are left out, with a message for each.

    Returns:
        the experiment, and a message for each binding that was translated into something else than a field, or has no
        meaning any more. Messages say where the binding stands.

    Raises:
        NacreError: a file cannot be read, keys are unknown, or a value asks for something that is not there; the
            message names file, line and key.
    """
    bindings = read_gin(paths)
    try:
        experiment, messages = _translate({key: each.value for key, each in bindings.items()}, ignore_unknown)
    except NacreError as error:
        raise NacreError(_placed(str(error), paths, bindings)) from None

    def check(changed: Experiment) -> None:
        validate_read(experiment, changed, lambda wrong: _placed(wrong, paths, bindings))

    return FromFile(experiment, [_placed(message, paths, bindings) for message in messages], check)


def _placed(message: str, paths: Sequence[Path], bindings: Mapping[str, Binding]) -> str:
    """A message in the words of the files, behind the place of the binding that it names, or behind the files."""
    message = in_old_words(message, FIELDS | _SAME_NUMBER)
    named = {word for word in re.findall(r"[\w.]+", message.partition("; allowed")[0]) if word in bindings}
    place = bindings[named.pop()].place if len(named) == 1 else ", ".join(map(str, paths))
    return f"{place}: {message}"


def _translate(given: Mapping[str, Any], ignore_unknown: bool) -> tuple[Experiment, list[str]]:
    known = [*OLD_DEFAULTS, *FIELDS, *DERIVED, *WITHOUT_MEANING, *FIXED, *REQUIRED]
    given, messages = without_unknown(given, known, ignore_unknown)
    values = OLD_DEFAULTS | given
    environment = _environment(values)
    _check_supported(values, given, environment)

    fields = {field: values[key] for key, field in FIELDS.items()}
    fields["reward_repeats"] = values.get("train_eval.num_repeat_when_concatenate", fields["base_depth"])
    fields["context_reward"] = "sparse" if values["ModelDistributionNetwork.sparse_reward_inputs"] else "dense"
    fields |= _hidden_layers(values) | _schedule(values, environment)
    family_options = _cameras(values, environment)
    if fields["episode_steps"] != make_family(environment.family).horizon:
        family_options["horizon"] = fields["episode_steps"]
    fields["family_options"] = options(**family_options)
    fields["task_list"] = "published" if make_family(environment.family).has_published_tasks else "seeded"
    if values["train_eval.load_offline_data"]:
        fields["offline_share"] = values["train_eval.offline_ratio"]

    messages += [f"{key} has no meaning any more: {why}" for key, why in WITHOUT_MEANING.items() if key in given]
    messages += _about_others(values, given, environment)
    name = f"meld/{environment.task}" + ("-sparse" if fields["context_reward"] == "sparse" else "")
    experiment = Experiment(name, environment.family, MeldConfig(), train_tasks=1, test_tasks=1)
    return override(experiment, fields), messages


def _environment(values: Mapping[str, Any]) -> Environment:
    name = values["train_eval.env_name"]
    if not isinstance(name, str) or name not in ENVIRONMENTS:
        raise NacreError(f"train_eval.env_name is {shown(name)}: {nearest(str(name), ENVIRONMENTS)}")
    return ENVIRONMENTS[name]


def _check_supported(values: Mapping[str, Any], given: Mapping[str, Any], environment: Environment) -> None:
    check_fixed(values, FIXED)
    if environment.action_mode is not None:
        check_fixed(values, {"train_eval.action_mode": (environment.action_mode, "it belongs to the task family")})
    for key in REQUIRED:
        if key not in given:
            raise NacreError(f"{key} is not bound; allowed: a value, as its default is not known")
    for key in SWITCHES:
        if not isinstance(values[key], bool):
            raise NacreError(f"{key} is {json.dumps(values[key])}; allowed: True or False")
    if values["ModelDistributionNetwork.reward_stddev"] is None:
        raise NacreError(
            "ModelDistributionNetwork.reward_stddev is None; allowed: a number, as a learned deviation is not there"
        )


def _hidden_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    policy, critics = (values[f"train_eval.{key}_fc_layers"] for key in ("actor", "critic_joint"))
    if not isinstance(policy, list | tuple) or not policy or any(width != policy[0] for width in policy):
        raise NacreError(
            f"train_eval.actor_fc_layers is {json.dumps(policy)}; allowed: the same width for each layer, such as "
            "(256, 256)"
        )
    if not isinstance(critics, list | tuple) or list(critics) != list(policy):
        raise NacreError(
            f"train_eval.critic_joint_fc_layers is {json.dumps(critics)}; allowed: {json.dumps(policy)}, as critics "
            "have the layers of the policy"
        )
    width = check_type("train_eval.actor_fc_layers", policy[0], int)
    return {"hidden_size": width, "hidden_layers": len(policy)}


def _cameras(values: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """Options of the task family for its cameras, if they are not those that it has anyway."""
    cameras = [environment.camera]
    if values["train_eval.double_camera"]:
        settings = values.get(CAMERA)
        expected = {"width": 64, "height": 64, "depth": False}
        name = settings.get("camera_name") if isinstance(settings, dict) else None
        if settings != {**expected, "camera_name": name} or not isinstance(name, str):
            raise NacreError(
                f"{CAMERA} is {shown(settings)}; allowed with train_eval.double_camera True: {expected}, and the name "
                "of a camera as 'camera_name'"
            )
        cameras.append(name)
    own = getattr(make_family(environment.family), "cameras", ())
    return {} if tuple(own) == tuple(cameras) else {"camera": cameras[0] if len(cameras) == 1 else tuple(cameras)}


def _schedule(values: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """What is counted in rounds here."""

    def number(key: str, kind: Any) -> Any:
        return _number(values, f"train_eval.{key}", kind)

    override = values["train_eval.max_episode_len_override"]
    length = environment.steps if override is None else number("max_episode_len_override", Count)
    episodes, interval = number("episodes_per_trial", Count), number("eval_interval", Count)
    steps, frames = episodes * length, episodes * (length + 1)
    initial = number("num_train_tasks", Tasks) * number("init_collect_trials_per_task", Count) * steps
    initial_model = int(initial * number("init_model_train_ratio", Weight))
    model = int(steps * number("model_train_ratio", Weight))
    policy = int(steps * number("ac_train_ratio", Weight))
    if policy == 0:
        raise NacreError(
            f"train_eval.ac_train_ratio is {values['train_eval.ac_train_ratio']}; allowed: at least {1 / steps:g}, as "
            "policy and critics take a step in each round"
        )
    trials = number("model_bs_in_steps", Count) // frames
    if trials == 0:
        raise NacreError(
            f"train_eval.model_bs_in_steps is {values['train_eval.model_bs_in_steps']}; allowed: at least the {frames} "
            "frames of a trial"
        )
    iterations = number("num_iterations", Annotated[int, Bounds(1, 2**62)])
    stop = number("stop_model_training", Annotated[int, Bounds(0, 2**62)])
    with_model = max(-(-(stop - initial - initial_model) // (steps + model + policy)), 0)
    tasks, test_trials = number("num_eval_tasks", Tasks), number("num_eval_trials", Count)
    return {
        "episode_steps": length,
        "initial_model_steps": initial_model,
        "rounds": interval,
        "iterations": environment.iterations if iterations == NO_END else -(-iterations // interval),
        "model_steps": model,
        "model_rounds": None if with_model >= iterations else with_model,
        "policy_steps": policy,
        "model_trials": trials,
        "policy_trials": number("num_tasks_per_train", Width) * number("train_trials_per_task", Width),
        "evaluation_trials": -(-test_trials // tasks),
    }


def _number(values: Mapping[str, Any], key: str, kind: Any) -> Any:
    """The value of a key, if it is of the type and within its bounds."""
    value, allowed = check_type(key, values[key], kind), bounds_of(kind)
    if allowed is not None and value not in allowed:
        raise NacreError(f"{key} is {shown(value)}; allowed: {allowed}")
    return value


def _about_others(values: Mapping[str, Any], given: Mapping[str, Any], environment: Environment) -> list[str]:
    """Messages about what became something else."""
    messages = []
    if environment.action_mode is None and "train_eval.action_mode" in given:
        messages.append("train_eval.action_mode has no meaning any more: it belongs to the robot arms")
    if CAMERA in given and not values["train_eval.double_camera"]:
        messages.append(f"{CAMERA} has no meaning: there is one camera")
    if values["train_eval.num_iterations"] == NO_END:
        messages.append(
            f"train_eval.num_iterations {NO_END} became iterations {environment.iterations}, as the old code went on "
            "until it was stopped; say --iterations"
        )
    rounds, interval = values["train_eval.num_iterations"], values["train_eval.eval_interval"]
    if rounds != NO_END and rounds % interval:
        iterations = -(-rounds // interval)
        messages.append(
            f"train_eval.num_iterations {rounds} became {iterations * interval} rounds in {iterations} iteration(s), "
            f"as one has eval_interval {interval} rounds"
        )
    tasks, trials = values["train_eval.num_eval_tasks"], values["train_eval.num_eval_trials"]
    if trials % tasks:
        messages.append(
            f"train_eval.num_eval_trials {trials} became evaluation_trials {-(-trials // tasks)}: each of the {tasks} "
            "test tasks is played as often"
        )
    if values["train_eval.load_offline_data"]:
        messages.append(
            "train_eval.load_offline_data has no meaning without an earlier run of nacre, on the same train tasks: say "
            "--offline-run RUN"
        )
    if make_family(environment.family).has_published_tasks is False:
        messages.append("train_eval.env_name: tasks are drawn from the seed, as the old code drew others in each run")
    flags = " ".join(f"--{field.replace('_', '-')} {value}" for field, value in PUBLISHED.items())
    messages.append(f"the old code's deviations from its own method are not taken over; options have them: {flags}")
    return messages
