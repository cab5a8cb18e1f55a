"""What values an experiment may have. Everything that would fail or mislead hours later is refused here."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from nacre.agents.pearl.config import PearlConfig
from nacre.errors import NacreError
from nacre.experiments.experiment import Experiment, check_types
from nacre.tasks.family import TaskFamily


class Bounds(NamedTuple):
    """An interval; `open_below` leaves out the lower end."""

    low: float
    high: float = math.inf
    open_below: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        return (value > self.low if self.open_below else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        lower = f"more than {self.low:g}" if self.open_below else f"at least {self.low:g}"
        return lower if self.high == math.inf else f"{lower} and at most {self.high:.10g}"


_COUNT = Bounds(1)
_STEPS = Bounds(0)
_POSITIVE = Bounds(0, open_below=True)
_WEIGHT = Bounds(0)
_FRACTION = Bounds(0, 1, open_below=True)

EXPERIMENT_BOUNDS = {
    "train_tasks": _COUNT,
    "test_tasks": _COUNT,
    "iterations": _COUNT,
    "seed": Bounds(0, 2**32 - 1),
    "update_chunk": _COUNT,
    "checkpoint_every": _COUNT,
    "keep_checkpoints": _COUNT,
    "threads": _COUNT,
}
PEARL_BOUNDS = {
    "latent_size": _COUNT,
    "hidden_size": _COUNT,
    "encoder_hidden_size": _COUNT,
    "frame_stack": _COUNT,
    "picture_filters": _COUNT,
    "picture_features": _COUNT,
    "initial_steps": _COUNT,
    "tasks_per_iteration": _COUNT,
    "prior_steps": _STEPS,
    "posterior_steps": _STEPS,
    "extra_posterior_steps": _STEPS,
    "episodes_per_refresh": _COUNT,
    "updates_per_iteration": _COUNT,
    "meta_batch_size": _COUNT,
    "batch_size": _COUNT,
    "context_size": _COUNT,
    "discount": _FRACTION,
    "reward_scale": _POSITIVE,
    "kl_weight": _WEIGHT,
    "target_update_rate": _FRACTION,
    "policy_learning_rate": _POSITIVE,
    "critic_learning_rate": _POSITIVE,
    "value_learning_rate": _POSITIVE,
    "encoder_learning_rate": _POSITIVE,
    "policy_mean_penalty": _WEIGHT,
    "policy_log_std_penalty": _WEIGHT,
    "evaluation_trials": _COUNT,
    "evaluation_steps": _COUNT,
    "exploration_episodes": _COUNT,
}


def validate(experiment: Experiment, family: TaskFamily) -> None:
    """Checks the values of an experiment, against each other and against its task family.

    Raises:
        NacreError: a value is impossible; the message names the field, what was given and what is allowed.
    """
    check_types(experiment)
    _check_bounds(experiment, EXPERIMENT_BOUNDS, "")
    if not re.fullmatch(r"[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]*", experiment.name):
        raise NacreError(f"name is {experiment.name!r}; allowed: an algorithm and a task, such as pearl/cheetah-vel")
    _check_task_list(experiment, family)
    _check_pictures(family)
    _check_pearl(experiment.algorithm, family)


def _check_bounds(config: Any, bounds: dict[str, Bounds], prefix: str) -> None:
    for field, allowed in bounds.items():
        value = getattr(config, field)
        if value is not None and value not in allowed:
            raise NacreError(f"{prefix}{field} is {value!r}; allowed: {allowed}")


def _check_task_list(experiment: Experiment, family: TaskFamily) -> None:
    if family.finite_tasks is not None:
        for field in ("train_tasks", "test_tasks"):
            if getattr(experiment, field) > len(family.finite_tasks):
                raise NacreError(
                    f"{field} is {getattr(experiment, field)}; allowed for {family.name}: at most "
                    f"{len(family.finite_tasks)}, as there are no more tasks"
                )
    elif experiment.task_list == "shared" and experiment.test_tasks > experiment.train_tasks:
        raise NacreError(
            f"test_tasks is {experiment.test_tasks}; allowed with task_list='shared': at most the "
            f"{experiment.train_tasks} train tasks, as they are the test tasks too"
        )
    elif experiment.task_list == "published" and not family.has_published_tasks:
        raise NacreError(
            f"task_list is 'published'; allowed for {family.name}: 'seeded' or 'shared', as no list was published"
        )


def _check_pictures(family: TaskFamily) -> None:
    if isinstance(family.observation_size, int):
        return
    from nacre.nn.convolution import SMALLEST_PICTURE  # here, as it imports JAX

    height, width, _ = family.observation_size
    if min(height, width) < SMALLEST_PICTURE:
        raise NacreError(
            f"The pictures of {family.name} are {height} pixels high and {width} wide; allowed: at least "
            f"{SMALLEST_PICTURE} each, or the convolutions leave nothing of them"
        )


def _check_pearl(config: PearlConfig, family: TaskFamily) -> None:
    check_types(config, "algorithm.")
    _check_bounds(config, PEARL_BOUNDS, "algorithm.")
    _check_context(config)
    _check_whole_episodes(config, family)
    episodes = -(-config.evaluation_steps // family.horizon)
    if config.exploration_episodes >= episodes:
        raise NacreError(
            f"algorithm.exploration_episodes is {config.exploration_episodes}; allowed: at most {episodes - 1}, as "
            f"evaluation_steps={config.evaluation_steps} are {episodes} episode(s) of {family.horizon} steps and the "
            "last has to follow from the posterior"
        )
    if config.sparse_reward_in_context and not family.has_sparse_reward:
        raise NacreError(
            f"algorithm.sparse_reward_in_context is True; allowed for {family.name}: False, as it has no sparse reward"
        )


def _check_context(config: PearlConfig) -> None:
    """Context can be collected, and is not larger than what is collected.

    Context transitions are drawn with replacement, so any `context_size` would run, and the published
    sparse-point-robot draws 1024 of 1000 (200 before the first visit). What no published configuration does, and
    what only repeats transitions and so claims certainty that the data do not give, is to draw more than was
    collected in a task by the end of its first visit.
    """
    visit = config.prior_steps + config.posterior_steps
    if visit == 0:
        raise NacreError(
            "algorithm.prior_steps and algorithm.posterior_steps are both 0; allowed: at least one above 0, as a visit "
            "empties a task's context data and these steps refill it"
        )
    if config.posterior_phase == "fixed-z" and config.prior_steps == 0:
        raise NacreError(
            "algorithm.prior_steps is 0; allowed with posterior_phase='fixed-z': at least 1, as z is inferred from them"
        )
    if config.context_source == "rl-batch":
        if config.encoder == "recurrent":
            raise NacreError(
                "algorithm.context_source is 'rl-batch'; allowed with encoder='recurrent': 'recent' or 'replay', as it "
                "reads the context as whole episodes, each once"
            )
        if config.context_size != config.batch_size:
            raise NacreError(
                f"algorithm.context_size is {config.context_size}; allowed with context_source='rl-batch': "
                f"{config.batch_size}, the batch_size, as they are the same transitions"
            )
    collected = config.initial_steps + visit
    if config.context_size > collected:
        raise NacreError(
            f"algorithm.context_size is {config.context_size}; allowed: at most {collected}, the context transitions "
            "collected in a task by the end of its first visit (initial_steps + prior_steps + posterior_steps)"
        )


def _check_whole_episodes(config: PearlConfig, family: TaskFamily) -> None:
    """What is drawn as whole episodes has room for the longest."""
    drawn_whole = {
        "context_size": ("encoder='recurrent'", config.encoder == "recurrent"),
        "batch_size": ("rl_batch='episodes'", config.rl_batch == "episodes"),
    }
    for field, (reason, whole) in drawn_whole.items():
        size = getattr(config, field)
        if whole and size < family.horizon:
            raise NacreError(
                f"algorithm.{field} is {size}; allowed with {reason}: at least {family.horizon}, the horizon of "
                f"{family.name}, as it is filled with whole episodes"
            )
