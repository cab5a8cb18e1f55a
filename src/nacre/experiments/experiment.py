"""What an experiment is: one complete, typed, hashable configuration, and its JSON."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from nacre.agents.pearl.config import PearlConfig
from nacre.errors import NacreError
from nacre.tasks.family import TaskList

ALGORITHMS: dict[str, type] = {"pearl": PearlConfig}
"""Configuration class by the name that stands for it in JSON and in the first half of an experiment's name."""

ADDED_LATER: dict[str, Any] = {
    "algorithm.encoder": "mlp",
    "algorithm.rl_batch": "transitions",
    "algorithm.context_source": "recent",
    "algorithm.frame_stack": 3,
    "algorithm.picture_filters": 32,
    "algorithm.picture_features": 50,
    "warm_start": None,
}
"""Fields that files of earlier versions lack, with what these versions did."""


@dataclass(frozen=True)
class Experiment:
    """A complete configuration: with it, what `warm_start` names, and the same machine and versions, a run can be
    repeated to the bit."""

    name: str
    """Algorithm and task, such as pearl/cheetah-vel; also where runs are written below runs/."""
    family: str
    """Name of the task family."""
    algorithm: PearlConfig
    """Hyperparameters of the algorithm."""
    train_tasks: int
    """Tasks that are learned on."""
    test_tasks: int
    """Held-out tasks that are only adapted to."""
    task_list: TaskList = "published"
    """published: the tasks the original code trained and tested on. seeded: disjoint train and test tasks drawn
    from the seed. shared: train tasks drawn from the seed, which are the test tasks too."""
    iterations: int = 500
    """Iterations of collecting, updating and evaluating."""
    seed: int = 0
    """The one root of all randomness: tasks, resets, actions, networks and batches."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Operands of the hidden layers' matrix products. With bfloat16, sums, parameters, losses, optimisers and the first
    and last layers stay float32."""
    update_chunk: int = 100
    """Gradient steps per compiled call: progress shows, and Ctrl-C works, between two calls."""
    checkpoint_every: int = 1
    """Iterations between two checkpoints."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints are kept, besides the best one."""
    threads: int | None = None
    """Threads of the simulator; None: as many as there are physical cores."""
    device: Literal["cpu", "gpu"] | None = None
    """Where to learn; None: on a GPU if there is one."""
    warm_start: str | None = None
    """Whose networks to begin with: a run folder, of which the latest checkpoint is taken, a checkpoint, or a folder of
    the original PEARL code. Nothing but networks is taken over, and it is not read again. None: fresh networks."""

    @property
    def environment_steps(self) -> int:
        """Environment steps of all iterations, where every episode is as long as the horizon."""
        config = self.algorithm
        visit = config.prior_steps + config.posterior_steps + config.extra_posterior_steps
        return self.train_tasks * config.initial_steps + self.iterations * config.tasks_per_iteration * visit


def override(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """Replaces fields of the experiment or of its algorithm's configuration, named flat (`seed`, `kl_weight`).

    Raises:
        NacreError: a name is not a field, or a value is not of the field's type.
    """
    own = _field_types(Experiment)
    algorithm = _field_types(type(experiment.algorithm))
    for field in overrides:
        if field not in own and field not in algorithm:
            raise NacreError(f"unknown field {field!r}: {nearest(field, [*own, *algorithm])}")
    changes = {field: check_type(field, value, own[field]) for field, value in overrides.items() if field in own}
    algorithm_changes = {
        field: check_type(field, value, algorithm[field]) for field, value in overrides.items() if field in algorithm
    }
    base = changes.pop("algorithm", experiment.algorithm)
    return dataclasses.replace(experiment, **changes, algorithm=dataclasses.replace(base, **algorithm_changes))


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON values; `algorithm` is an object whose `kind` says which algorithm it configures."""
    kind = next(kind for kind, config in ALGORITHMS.items() if type(experiment.algorithm) is config)
    values = dataclasses.asdict(experiment)
    return values | {"algorithm": {"kind": kind} | values["algorithm"]}


def from_json(values: Any) -> Experiment:
    """The experiment that :func:`to_json` wrote.

    Every field has to be there, but for those that the writer did not know (`ADDED_LATER`): a file that leaves some to
    the defaults would change its meaning with them.

    Raises:
        NacreError: a key is unknown or missing, or a value is not of its field's type.
    """
    values = dict(_expect_object("experiment", values))
    algorithm = dict(_expect_object("algorithm", values.get("algorithm", {})))
    kind = algorithm.pop("kind", None)
    if not isinstance(kind, str) or kind not in ALGORITHMS:
        raise NacreError(f"algorithm.kind is {kind!r}; allowed: {', '.join(map(repr, ALGORITHMS))}")
    values["algorithm"] = _from_fields(ALGORITHMS[kind], algorithm, "algorithm.")
    return _from_fields(Experiment, values, "")


def check_type(field: str, value: Any, annotation: Any) -> Any:
    """`value` as the type that `annotation` names (a class, a Literal, or a union of these).

    An integer may be given as a float without a fraction, and a float as an integer; nothing else is converted.

    Raises:
        NacreError: it is of another type, or not a finite number.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for option in options:
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif option is int:
            if _is_number(value) and (isinstance(value, int) or value.is_integer()):
                return int(value)
        elif option is float:
            if _is_number(value) and abs(value) <= sys.float_info.max:  # which NaN is not
                return float(value)
        elif isinstance(value, option):
            return value
    raise NacreError(f"{field} is {value!r}; allowed: {' or '.join(_describe(option) for option in options)}")


def check_types(config: Any, prefix: str = "") -> None:
    """Checks every field of a configuration against its annotation.

    Raises:
        NacreError: from the first field whose value is of another type, or not a finite number.
    """
    for field, annotation in _field_types(type(config)).items():
        check_type(prefix + field, getattr(config, field), annotation)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the names nearest to a mistaken one, or all where none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"


def _field_types(config: type) -> dict[str, Any]:
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def _from_fields(config: type, values: Mapping[str, Any], prefix: str) -> Any:
    annotations = _field_types(config)
    added = {field: ADDED_LATER[prefix + field] for field in annotations if prefix + field in ADDED_LATER}
    values = {**added, **values}
    for key in values:
        if key not in annotations:
            raise NacreError(f"unknown field {prefix + key!r}: {nearest(key, annotations)}")
    for field in annotations:
        if field not in values:
            raise NacreError(f"the field {prefix + field!r} is missing")
    return config(**{key: check_type(prefix + key, value, annotations[key]) for key, value in values.items()})


def _expect_object(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NacreError(f"{field} is {value!r}; allowed: a JSON object")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        return " or ".join(map(repr, get_args(option)))
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "None"}
    return names.get(option, getattr(option, "__name__", str(option)))
