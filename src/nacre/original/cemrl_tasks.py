"""Which task family an environment of CEMRL and DMRLAD is here, with which options (spec cemrl-dmrlad 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nacre.errors import NacreError, nearest
from nacre.experiments.experiment import options
from nacre.original.keys import as_switch, check_fixed
from nacre.tasks import make_family

NEVER = 1e5
"""A change so far off, in metres or steps, that no episode gets there: the old files have 1e6."""


@dataclass(frozen=True)
class Environment:
    """An environment of the old code, as a family of ours."""

    family: str
    velocities: tuple[float, float] | None = None
    """The range of target velocities that the old code has if a file names none. None: the tasks are no velocities."""
    shifts: Literal["tasks", "opposite"] | None = "tasks"
    """To which task an episode's may change. None: it never does."""
    may_terminate: bool = True
    """Whether `termination_possible` says if episodes may end early. If not, they always may, or never."""
    has_directions: bool = False
    """Whether the tasks are running forward and backward."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """Our names of the kinds of tasks, by those of the old code."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Options of the family, by the old keys that they were."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Other old keys, of which one value is supported."""


def _variants(*names: str) -> dict[str, str]:
    return {name.replace("-", " "): name for name in names}


_VELOCITIES = (0.0, 1.0)
_CHEETAH_VEL = Environment("cheetah-vel", _VELOCITIES)
_CHEETAH_DIR = Environment("cheetah-dir", shifts="opposite", has_directions=True)
_MULTI_TASK = Environment(
    "cheetah-multi-task", variants=_variants("velocity", "direction", "goal", "flipping", "jumping")
)
_WALKER_VEL = Environment("walker-vel", _VELOCITIES)
_HOPPER_VEL = Environment("hopper-vel", _VELOCITIES)

CEMRL_ENVIRONMENTS = {
    "cheetah-stationary-vel": _CHEETAH_VEL,
    "cheetah-non-stationary-vel": _CHEETAH_VEL,
    "cheetah-stationary-dir": _CHEETAH_DIR,
    "cheetah-non-stationary-dir": _CHEETAH_DIR,
    "cheetah-continuous-learning-dir": _CHEETAH_DIR,
    "cheetah-stationary-multi-task": _MULTI_TASK,
    "cheetah-non-stationary-multi-task": _MULTI_TASK,
    "cheetah-non-stationary-rand-mass-params": Environment(
        "cheetah-rand-damping",
        keys={"log_scale_limit": "log_scale_limit"},
        fixed={"observe_velocity": True, "filename": "half_cheetah.xml", "frame_skip": 5},
    ),
    "ant-non-stationary-vel": Environment("ant-vel", _VELOCITIES),
    "ant-non-stationary-dir": Environment("ant-non-stationary-dir", shifts="opposite", has_directions=True),
    "hopper-stationary-vel": _HOPPER_VEL,
    "hopper-non-stationary-vel": _HOPPER_VEL,
    "walker2d-stationary-vel": _WALKER_VEL,
    "walker2d-non-stationary-vel": _WALKER_VEL,
    "walker2d-non-stationary-rand-params": Environment("walker-rand-params-runner"),
    "humanoid-dir": Environment("humanoid-dir", shifts=None, may_terminate=False),
}

DMRLAD_ENVIRONMENTS = {
    "cheetah-vel-sparse": Environment("cheetah-vel-sparse", _VELOCITIES),
    "cheetah-goal-sparse": Environment("cheetah-goal-sparse"),
    "cheetah-sparse-multi-task": Environment(
        "cheetah-multi-task-sparse",
        variants=_variants("forward-velocity", "backward-velocity", "front-goal", "back-goal"),
    ),
}

ENVIRONMENTS = CEMRL_ENVIRONMENTS | DMRLAD_ENVIRONMENTS
OWN_NAMES = frozenset(ENVIRONMENTS) - {"humanoid-dir"}
"""What only CEMRL and DMRLAD call an environment, and PEARL does not."""
DMRLAD_NAMES = frozenset(DMRLAD_ENVIRONMENTS)

CHANGES = (
    "change_mode",
    "change_prob",
    "change_steps",
    "positive_change_point_basis",
    "negative_change_point_basis",
    "change_point_interval",
)
"""Old keys that say when a task changes inside an episode."""
KEYS = tuple(
    f"env_params.{key}"
    for key in (
        *CHANGES,
        "termination_possible",
        "task_min_velocity",
        "task_max_velocity",
        "task_variants",
        *sorted({key for environment in ENVIRONMENTS.values() for key in (*environment.keys, *environment.fixed)}),
    )
)
"""Old keys that belong to environments."""


class Tasks(NamedTuple):
    """What an environment with its parameters became."""

    family: str
    fields: dict[str, Any]
    """Of an experiment."""
    messages: list[str]


def tasks_of(values: Mapping[str, Any]) -> Tasks:
    """The task family that a configuration asks for, with its options and its changes inside episodes.

    Args:
        values: by key, the old code's defaults among them.

    Raises:
        NacreError: it is not there, or a value is impossible.
    """
    name = values["env_name"]
    if not isinstance(name, str) or name not in ENVIRONMENTS:
        raise NacreError(f"unknown env_name {json.dumps(name)}: {nearest(str(name), ENVIRONMENTS)}")
    environment = ENVIRONMENTS[name]
    given = {key.removeprefix("env_params."): value for key, value in values.items() if key in KEYS}
    check_fixed(
        values, {f"env_params.{key}": (value, f"{name} has no other") for key, value in environment.fixed.items()}
    )
    fields, messages = _counts(environment, values)
    chosen = _options(environment, given, values)
    usual = make_family(environment.family)
    chosen = {option: value for option, value in chosen.items() if getattr(usual, option) != value}
    shift = _shift(environment, given)
    fields |= {"family_options": options(**chosen)} | ({} if shift is None else {"shift": shift})
    return Tasks(environment.family, fields, messages + _about_unused(name, environment, given))


def _counts(environment: Environment, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Numbers of tasks, and which list they are of."""
    if environment.has_directions:
        # -1 stood for one task, backward, and 1 for one task, forward.
        counts = {"train_tasks": values["env_params.n_train_tasks"], "test_tasks": values["env_params.n_eval_tasks"]}
        return {field: 1 if count == -1 else count for field, count in counts.items()}, []
    return {"task_list": "seeded"}, [
        "test tasks are others than the train tasks: in the old code they were some of these, or drawn anew in each run"
    ]


def _options(environment: Environment, given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the family by name."""
    chosen: dict[str, Any] = {"horizon": values["algo_params.max_path_length"]}
    if environment.may_terminate:
        key = "env_params.termination_possible"
        chosen["terminates"] = as_switch(key, values.get(key, False))
    if environment.velocities is not None:
        lowest, highest = environment.velocities
        chosen["lowest"] = given.get("task_min_velocity", lowest)
        chosen["highest"] = given.get("task_max_velocity", highest)
    if environment.has_directions:
        chosen["directions"] = _directions(values["env_params.n_train_tasks"], values["env_params.n_eval_tasks"])
    if environment.variants:
        chosen["variants"] = _chosen_variants(environment.variants, given.get("task_variants"))
    for key, option in environment.keys.items():
        if key in given:
            chosen[option] = given[key]
    return chosen


def _directions(train: Any, test: Any) -> tuple[float, ...]:
    if train == test and train in (-1, 1):
        return (float(train),)
    if train == test == 2:
        return (-1.0, 1.0)
    raise NacreError(
        f"env_params.n_train_tasks is {json.dumps(train)} and env_params.n_eval_tasks {json.dumps(test)}; allowed: "
        "both 2, for both directions, or both 1, for forward alone, or both -1, for backward alone"
    )


def _chosen_variants(names: Mapping[str, str], given: Any) -> tuple[str, ...]:
    if given is None:
        return tuple(names.values())
    known = [name for name in given if name in names] if isinstance(given, list) else []
    if not known or known != given:
        raise NacreError(
            f"env_params.task_variants is {json.dumps(given)}; allowed: a list of {', '.join(map(json.dumps, names))}"
        )
    return tuple(names[name] for name in known)


def _shift(environment: Environment, given: Mapping[str, Any]) -> Any:
    """When the task changes inside an episode, and to what; None: never."""
    if environment.shifts is None:
        return None
    from nacre.tasks.shifts import Shift

    mode = given.get("change_mode", "location")
    if mode == "time":
        steps, probability = given.get("change_steps", 100), given.get("change_prob", 1.0)
        if steps >= NEVER or probability == 0:
            return None
        return Shift("time", steps, probability=probability, draw=environment.shifts)
    if mode != "location":
        raise NacreError(f'env_params.change_mode is {json.dumps(mode)}; allowed: "location" or "time"')
    first, opposite = given.get("positive_change_point_basis", 10), given.get("negative_change_point_basis", -10)
    if opposite != -first:
        raise NacreError(
            f"env_params.negative_change_point_basis is {json.dumps(opposite)}; allowed: {json.dumps(-first)}, as "
            "places of change lie the same way in front and behind"
        )
    if first >= NEVER:
        return None
    return Shift("place", first, given.get("change_point_interval", 1), draw=environment.shifts)


def _about_unused(name: str, environment: Environment, given: Mapping[str, Any]) -> list[str]:
    """A message for each key that says nothing about this environment."""
    used = {*environment.keys, *environment.fixed, "termination_possible", *CHANGES}
    used |= {"task_min_velocity", "task_max_velocity"} if environment.velocities is not None else set()
    used |= {"task_variants"} if environment.variants else set()
    return [f"env_params.{key} has no meaning for {name}, and had none" for key in given if key not in used]
