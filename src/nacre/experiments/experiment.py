"""What an experiment is: one complete, typed, hashable configuration, and its JSON."""

from __future__ import annotations

import copy
import dataclasses
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin, get_type_hints

import numpy as np

from nacre.agents import ALGORITHMS, algorithm_of
from nacre.configuration import AlgorithmConfig, Bounds, Count, plain_numbers
from nacre.errors import NacreError, nearest, shown
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily, TaskList
from nacre.tasks.options import is_finite_number
from nacre.tasks.shifts import Shift, read_shift

ADDED_LATER: dict[str, Any] = {"warm_start": None, "family_options": (), "shift": None}
"""Fields of an experiment that files of earlier versions lack, with what these versions did. Those of an algorithm are
in its configuration."""


class FamilyOptions(tuple[tuple[str, Any], ...]):
    """Options of a task family by name, sorted; :func:`options` makes them.

    A value is a number, text, a truth value or a tuple of these. JSON has an object.
    """

    __slots__ = ()


NO_OPTIONS = FamilyOptions()

Tasks = Annotated[int, Bounds(1, 100_000)]
"""A number of tasks. The replay has an index of its own for each."""


@dataclass(frozen=True)
class Experiment:
    """A complete configuration: with it, what `warm_start` names, and the same machine and versions, a run can be
    repeated exactly."""

    name: str
    """Algorithm and task, <algorithm>/<task>; also where runs are written below runs/."""
    family: str
    """Name of the task family."""
    algorithm: AlgorithmConfig
    """Hyperparameters of the algorithm."""
    train_tasks: Tasks
    """Tasks that are learned on."""
    test_tasks: Tasks
    """Held-out tasks that are only adapted to."""
    task_list: TaskList = "published"
    """published: the tasks the original code trained and tested on. seeded: disjoint train and test tasks drawn
    from the seed. shared: train tasks drawn from the seed, which are the test tasks too."""
    iterations: Count = 500
    """Iterations of collecting, updating and evaluating."""
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    """The one root of all randomness: tasks, resets, actions, networks and batches."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Operands of the hidden layers' matrix products. With bfloat16, sums, parameters, losses, optimisers and the first
    and last layers stay float32."""
    update_chunk: Count = 100
    """Gradient steps per compiled call: progress shows, and Ctrl-C works, between two calls."""
    checkpoint_every: Count = 1
    """Iterations between two checkpoints."""
    keep_checkpoints: Count = 2
    """How many of the latest checkpoints are kept, besides the best one."""
    threads: Annotated[int, Bounds(1, 1024)] | None = None
    """Threads of the simulator; None: as many as there are physical cores."""
    device: Literal["cpu", "gpu"] | None = None
    """Where to learn; None: on a GPU if there is one."""
    family_options: FamilyOptions = NO_OPTIONS
    """Options of the task family, such as horizon=800."""
    shift: Shift | None = None
    """How the task changes inside an episode, in training and in evaluation: place:10+2 (x farther than 10 to 12), or
    time:200 (after more than 200 steps), with ,probability=P or ,opposite behind it. None: it does not."""
    warm_start: str | None = None
    """Whose networks to begin with: a run folder, of which the latest checkpoint is taken, a checkpoint, or a folder of
    an old code base. Nothing but networks is taken over, and it is not read again. None: fresh networks."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        object.__setattr__(self, "family_options", _sorted_options("family_options", self.family_options))

    @property
    def environment_steps(self) -> int:
        """Environment steps of all iterations, if every episode is as long as the horizon."""
        return self.algorithm.environment_steps(self.train_tasks, self.iterations)

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of all iterations, of all phases, if none stops early."""
        return self.algorithm.gradient_steps(self.iterations)


def family_of(experiment: Experiment) -> TaskFamily:
    """The task family of an experiment, with its options and with how its tasks change.

    Raises:
        NacreError: there is no such family, or it has no such option, or a value is impossible.
    """
    family = make_family(experiment.family, **dict(experiment.family_options))
    if family.shift != experiment.shift:
        family = copy.copy(family)  # what makes it may always give the same one
        family.shift = experiment.shift
    return family


def options(**values: Any) -> FamilyOptions:
    """Options of a task family as an experiment has them: `options(horizon=800, lowest=0.5)`.

    Raises:
        NacreError: a value is none that JSON can hold.
    """
    return _sorted_options("family_options", values)


def option_words(options: FamilyOptions) -> list[str]:
    """Options of a task family as the command line takes them: `horizon=800`, `variants=velocity,jumping`."""
    return [f"{name}={_option_word(value)}" for name, value in options]


def world_of(experiment: Experiment) -> str:
    """Where returns can be compared: the task family, its options, and how tasks change, in one line."""
    shift = [] if experiment.shift is None else [f"shift={experiment.shift}"]
    return " ".join([experiment.family, *option_words(experiment.family_options), *shift])


class NamedExperiment(NamedTuple):
    """An entry in the table of named experiments."""

    experiment: Experiment
    description: str
    """One line."""


def override(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """Replaces fields of the experiment or of its algorithm's configuration, named flat (`seed`, `kl_weight`).

    Raises:
        NacreError: a name is not a field, or a value is not of the field's type.
    """
    own = field_types(Experiment)
    algorithm = field_types(type(experiment.algorithm))
    for field in overrides:
        if field not in own and field not in algorithm:
            raise NacreError(f"unknown field {shown(field)}: {nearest(field, [*own, *algorithm])}")
    changes = {field: check_type(field, value, own[field]) for field, value in overrides.items() if field in own}
    algorithm_changes = {
        field: check_type(field, value, algorithm[field]) for field, value in overrides.items() if field in algorithm
    }
    base = changes.pop("algorithm", experiment.algorithm)
    return dataclasses.replace(experiment, **changes, algorithm=dataclasses.replace(base, **algorithm_changes))


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON values; `algorithm` is an object whose `kind` says which algorithm it configures."""
    kind = algorithm_of(experiment.algorithm).name
    values = dataclasses.asdict(experiment)
    return values | {
        "algorithm": {"kind": kind} | values["algorithm"],
        "family_options": dict(experiment.family_options),
    }


def from_json(values: Any) -> Experiment:
    """The experiment that :func:`to_json` wrote.

    Every field has to be there, but for those that the writer did not know (`added_later`): a file that leaves some to
    the defaults would change its meaning with them.

    Raises:
        NacreError: a key is unknown or missing, or a value is not of its field's type.
    """
    values = dict(_expect_object("experiment", values))
    algorithm = dict(_expect_object("algorithm", values.get("algorithm", {})))
    config = config_of_kind(algorithm.pop("kind", None))
    values["algorithm"] = _from_fields(config, algorithm, "algorithm.", config.added_later)
    return _from_fields(Experiment, values, "", ADDED_LATER)


def config_of_kind(kind: Any) -> type[AlgorithmConfig]:
    """The configuration class that `algorithm.kind` names in JSON.

    Raises:
        NacreError: there is no such algorithm here.
    """
    if not isinstance(kind, str) or kind not in ALGORITHMS:
        raise NacreError(
            f"algorithm.kind is {shown(kind)}; allowed: {', '.join(map(repr, ALGORITHMS))}, or an algorithm of your "
            "own, made known with nacre.register_algorithm or nacre --import MODULE"
        )
    return ALGORITHMS[kind].config


def check_type(field: str, value: Any, annotation: Any) -> Any:
    """`value` as the type that `annotation` names (a class, a Literal, or a union of these).

    NumPy's numbers are numbers. An integer may be given as a float without a fraction, and a float as an integer;
    nothing else is converted.

    Raises:
        NacreError: it is of another type, or not a finite number.
    """
    value = value.item() if isinstance(value, np.generic) else value
    for option in alternatives(annotation):
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif option is int:
            if _is_number(value) and (isinstance(value, int) or value.is_integer()):
                return int(value)
        elif option is float:
            if _is_number(value) and abs(value) <= sys.float_info.max:  # which NaN is not
                return float(value)
        elif option is FamilyOptions:
            return _sorted_options(field, value)
        elif option is Shift and isinstance(value, str | Mapping):
            return read_shift(value)
        elif isinstance(value, get_origin(option) or option):
            return value
    raise NacreError(f"{field} is {shown(value)}; allowed: {' or '.join(map(_describe, alternatives(annotation)))}")


def bounds_of(annotation: Any) -> Bounds | None:
    """The bounds in an annotation such as `Count` or `Count | None`."""
    parts = [part for option in (annotation, *get_args(annotation)) for part in getattr(option, "__metadata__", ())]
    return next((part for part in parts if isinstance(part, Bounds)), None)


def field_types(config: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass, with bounds."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def _option_word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_option_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sorted_options(field: str, value: Any) -> FamilyOptions:
    try:
        values = dict(value)
    except (TypeError, ValueError):
        values = {None: value}
    if not all(isinstance(name, str) for name in values):
        raise NacreError(f"{field} is {shown(value)}; allowed: values by name, such as {{'horizon': 800}}")
    pairs = ((str(name), _option(f"{field}.{name}", entry)) for name, entry in values.items())
    return FamilyOptions(sorted(pairs, key=lambda pair: pair[0]))


def _option(field: str, value: Any) -> Any:
    """A value of an option, if it can be hashed and be written as JSON."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list | tuple):
        return tuple(_option(field, entry) for entry in value)
    if isinstance(value, bool | str) or is_finite_number(value):
        return value
    raise NacreError(f"{field} is {shown(value)}; allowed: a finite number, text, true or false, or a list of these")


def _from_fields(config: type, values: Mapping[str, Any], prefix: str, added_later: Mapping[str, Any]) -> Any:
    annotations = field_types(config)
    values = {**added_later, **values}
    for key in values:
        if key not in annotations:
            raise NacreError(f"unknown field {shown(prefix + key)}: {nearest(key, annotations)}")
    for field in annotations:
        if field not in values:
            raise NacreError(f"the field {prefix + field!r} is missing")
    return config(**{key: check_type(prefix + key, value, annotations[key]) for key, value in values.items()})


def _expect_object(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NacreError(f"{field} is {shown(value)}; allowed: a JSON object")
    return value


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone; without bounds."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for member in get_args(annotation) for option in alternatives(member)]
    return [annotation]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        return " or ".join(map(repr, get_args(option)))
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "None",
        AlgorithmConfig: "the configuration of an algorithm",
        Shift: "a shift such as 'place:10+2' or 'time:200'",
    }
    return names.get(option, getattr(option, "__name__", str(option)))
