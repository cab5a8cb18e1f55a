"""Which task family an environment of CEMRL and DMRLAD is here, with which options (spec cemrl-dmrlad 3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from nacre.errors import NacreError, nearest
from nacre.experiments.experiment import Experiment, family_of, options
from nacre.original.keys import as_switch, check_fixed
from nacre.tasks import TaskSplit, make_family
from nacre.tasks.shifts import Shift

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
    lists: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    """Options of the family that are lists, by the old keys that they were, with our names of what may be in them by
    those of the old code."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Options of the family, by the old keys that they were."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Other old keys, of which one value is supported."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Options of the family that no old key says."""


def _variants(*names: str) -> dict[str, tuple[str, dict[str, str]]]:
    return {"task_variants": ("variants", {name.replace("-", " "): name for name in names})}


_VELOCITIES = (0.0, 1.0)
_CHEETAH_VEL = Environment("cheetah-vel", _VELOCITIES)
_CHEETAH_DIR = Environment("cheetah-dir", shifts="opposite", has_directions=True)
_MULTI_TASK = Environment("cheetah-multi-task", lists=_variants("velocity", "direction", "goal", "flipping", "jumping"))
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
    "ant-non-stationary-dir": Environment("ant-dir-weighted", shifts="opposite", has_directions=True),
    "hopper-stationary-vel": _HOPPER_VEL,
    "hopper-non-stationary-vel": _HOPPER_VEL,
    "walker2d-stationary-vel": _WALKER_VEL,
    "walker2d-non-stationary-vel": _WALKER_VEL,
    "walker2d-non-stationary-rand-params": Environment(
        "walker-rand-params",
        may_terminate=False,
        lists={
            "rand_params": (
                "varied",
                {"body_mass": "mass", "body_inertia": "inertia", "dof_damping": "damping", "geom_friction": "friction"},
            )
        },
        keys={"log_scale_limit": "log_scale_limit", "observe_velocity": "sees_velocities"},
        fixed={"filename": "walker2d.xml", "frame_skip": 4, "termination_possible": True},
        always={"timestep": 0.002},
    ),
    "humanoid-dir": Environment("humanoid-dir", shifts=None, may_terminate=False),
}

DMRLAD_ENVIRONMENTS = {
    "cheetah-vel-sparse": Environment("cheetah-vel-sparse", _VELOCITIES),
    "cheetah-goal-sparse": Environment("cheetah-goal-sparse"),
    "cheetah-sparse-multi-task": Environment(
        "cheetah-multi-task-sparse",
        lists=_variants("forward-velocity", "backward-velocity", "front-goal", "back-goal"),
    ),
    "ant-vel-sparse": Environment("ant-vel-sparse", _VELOCITIES),
    "ant-goal-sparse": Environment(
        "ant-goal-sparse", shifts=None, may_terminate=False, keys={"task_max_radius": "radius"}
    ),
    "hopper-sparse-vel": Environment("hopper-vel-sparse", _VELOCITIES),
    "walker2d-sparse-vel": Environment("walker-vel-sparse", _VELOCITIES),
    "sawyer-reach-sparse": Environment("sawyer-reach-sparse", shifts=None, may_terminate=False, fixed={"sparse": True}),
    "sawyer-push-sparse": Environment("sawyer-push-sparse", shifts=None, may_terminate=False, fixed={"sparse": True}),
}

_META_WORLD = "Meta-World's tasks are not there"
_DENSE_ARM = "it could not run in the old code; sawyer-reach-sparse and sawyer-push-sparse are there"
_PROTOTYPE = "it was an early prototype, which no configuration of the old code used"
REFUSED = {
    **dict.fromkeys(
        (
            *(f"metaworld-ml1-{task}" for task in ("reach", "push", "pick-and-place")),
            *(f"metaworld-ml{classes}" for classes in ("3", "10", "45")),
            "metaworld-ml10-scripted",
        ),
        _META_WORLD,
    ),
    **dict.fromkeys(("sawyer-push", "sawyer-reach"), _DENSE_ARM),
    "ant-goal": "the old code could not make it; ant-goal-sparse is there, and cemrl/ant-goal in nacre list",
    **dict.fromkeys(
        (
            "ant-changing-dir",
            "ant-changing-goal",
            "ant-cripple",
            "ant-rand-params",
            "cheetah-changing-dir",
            "cheetah-changing-vel-old",
            "cheetah-changing-multi-env",
            "cheetah-rand-params",
            "cheetah-hfield-rand-params",
            "walker2d-changing-vel",
        ),
        _PROTOTYPE,
    ),
}
"""Environments of the old code that are not there, and why."""

ENVIRONMENTS = CEMRL_ENVIRONMENTS | DMRLAD_ENVIRONMENTS
OWN_NAMES = {*ENVIRONMENTS, *REFUSED} - {"humanoid-dir", "ant-goal"}
"""What only CEMRL and DMRLAD call an environment, and PEARL does not."""
DMRLAD_NAMES = frozenset(DMRLAD_ENVIRONMENTS)

_TERMINATION = {"termination_possible"}
_USUAL_CHANGE = {
    "change_steps": 100,
    "change_prob": 1.0,
    "positive_change_point_basis": 10,
    "negative_change_point_basis": -10,
}
"""What the old code takes if a file names none."""
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
        *sorted({key for it in ENVIRONMENTS.values() for key in (*it.lists, *it.keys, *it.fixed)} - _TERMINATION),
        "base_task",
        "ml10or45",
    )
)
"""Old keys that belong to environments."""


OLD_SEED = 1337
_FIXED_SEED = {it.family for it in ENVIRONMENTS.values() if it.velocities is not None} | {"cheetah-goal-sparse"}
"""Families of which the old code drew the tasks with OLD_SEED, uniform in a range."""


_SHIFT_FIELD = re.compile(r"^shift\.(first|spread|probability)\b")
_SHIFT_KEYS = {
    "location": {
        "first": "positive_change_point_basis",
        "spread": "change_point_interval",
        "probability": "change_prob",
    },
    "time": {"first": "change_steps", "spread": "change_point_interval", "probability": "change_prob"},
}


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
    if isinstance(name, str) and name in REFUSED:
        raise NacreError(f"env_name is {json.dumps(name)}; allowed: another environment, as {REFUSED[name]}")
    if not isinstance(name, str) or name not in ENVIRONMENTS:
        raise NacreError(f"unknown env_name {json.dumps(name)}: {nearest(str(name), ENVIRONMENTS)}")
    environment = ENVIRONMENTS[name]
    given = {key.removeprefix("env_params."): value for key, value in values.items() if key in KEYS}
    check_fixed(
        values, {f"env_params.{key}": (value, f"{name} has no other") for key, value in environment.fixed.items()}
    )
    fields = _counts(environment, values)
    chosen = _options(environment, given, values)
    made, usual = make_family(environment.family, **chosen), make_family(environment.family)
    own = {option: getattr(made, option, value) for option, value in chosen.items()}  # as the family writes it
    own = {option: value for option, value in own.items() if getattr(usual, option, None) != value}
    fields |= {"family_options": options(**own), **_shift(environment, given)}
    return Tasks(environment.family, fields, _about_unused(name, environment, given))


def _counts(environment: Environment, values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of tasks, and which list they are of."""
    if not environment.has_directions:
        return {"task_list": "seeded"}
    # -1 stood for one task, backward, and 1 for one task, forward.
    counts = {"train_tasks": values["env_params.n_train_tasks"], "test_tasks": values["env_params.n_eval_tasks"]}
    return {field: 1 if count == -1 else count for field, count in counts.items()}


def _options(environment: Environment, given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the family by name."""
    chosen = {"horizon": values["algo_params.max_path_length"], **environment.always}
    if environment.may_terminate:
        key = "env_params.termination_possible"
        chosen["terminates"] = as_switch(key, values.get(key, False))
    if environment.velocities is not None:
        lowest, highest = environment.velocities
        chosen["lowest"] = _number("task_min_velocity", given.get("task_min_velocity", lowest))
        chosen["highest"] = _number("task_max_velocity", given.get("task_max_velocity", highest))
    if environment.has_directions:
        chosen["directions"] = _directions(values["env_params.n_train_tasks"], values["env_params.n_eval_tasks"])
    for key, (option, names) in environment.lists.items():
        if key in given:
            chosen[option] = _listed(key, names, given[key])
    return chosen | {option: given[key] for key, option in environment.keys.items() if key in given}


def _directions(train: Any, test: Any) -> tuple[float, ...]:
    if train == test and train in (-1, 1):
        return (float(train),)
    if train == test == 2:
        return (-1.0, 1.0)
    raise NacreError(
        f"env_params.n_train_tasks is {json.dumps(train)} and env_params.n_eval_tasks {json.dumps(test)}; allowed: "
        "both 2, for both directions, or both 1, for forward alone, or both -1, for backward alone"
    )


def _listed(key: str, names: Mapping[str, str], given: Any) -> tuple[str, ...]:
    known = [name for name in given if isinstance(name, str) and name in names] if isinstance(given, list) else []
    if not known or known != given:
        allowed = ", ".join(map(json.dumps, names))
        raise NacreError(f"env_params.{key} is {json.dumps(given)}; allowed: a list of some of {allowed}")
    return tuple(names[name] for name in known)


def _shift(environment: Environment, given: Mapping[str, Any]) -> dict[str, Any]:
    """When the task changes inside an episode, and to what, as fields of an experiment."""
    mode = given.get("change_mode", "location")
    if mode not in ("location", "time"):
        raise NacreError(f'env_params.change_mode is {json.dumps(mode)}; allowed: "location" or "time"')
    keys = "change_steps", "change_prob", "positive_change_point_basis", "negative_change_point_basis"
    steps, probability, first, behind = (_number(key, given.get(key, _USUAL_CHANGE[key])) for key in keys)
    never = min(steps, NEVER) == NEVER or probability == 0 if mode == "time" else min(first, NEVER) == NEVER
    if environment.shifts is None or never:
        return {}
    try:
        if mode == "time":
            return {"shift": Shift("time", steps, probability=probability, draw=environment.shifts)}
        if behind != -first:
            raise NacreError(
                f"env_params.negative_change_point_basis is {json.dumps(behind)}; allowed: {json.dumps(-first)}, as "
                "places of change lie the same way in front and behind"
            )
        spread = _number("change_point_interval", given.get("change_point_interval", 1))
        return {"shift": Shift("place", first, spread, draw=environment.shifts)}
    except NacreError as error:
        raise NacreError(
            _SHIFT_FIELD.sub(lambda match: f"env_params.{_SHIFT_KEYS[mode][match[1]]}", str(error))
        ) from None


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NacreError(f"env_params.{key} is {json.dumps(value)}; allowed: a number")
    return float(value)


def _about_unused(name: str, environment: Environment, given: Mapping[str, Any]) -> list[str]:
    """A message for each key that says nothing about this environment."""
    used = {*environment.lists, *environment.keys, *environment.fixed, *_TERMINATION, *CHANGES}
    used |= {"task_min_velocity", "task_max_velocity"} if environment.velocities is not None else set()
    return [
        f"env_params.{key} has no meaning for {name}, and had none"
        for key, value in given.items()
        if key not in used and value is not False
    ]


def known_split(experiment: Experiment) -> TaskSplit | None:
    """The tasks that the old code trained and tested on; None: it kept no list of them.

    It drew velocities and goals from a fixed seed, for training and for testing alike: the test tasks were the first of
    the train tasks (spec cemrl-dmrlad 6.1).
    """
    if experiment.family not in _FIXED_SEED:
        return None
    family = family_of(experiment)
    lowest, highest = (float(getattr(family, end)) for end in ("lowest", "highest"))
    train, test = (
        np.random.RandomState(OLD_SEED).uniform(lowest, highest, (n, 1))
        for n in (experiment.train_tasks, experiment.test_tasks)
    )
    return TaskSplit(train, test)
