"""What values an experiment may have. Everything that would fail or mislead hours later is refused here.

What an algorithm's own values may be is said by its configuration: see :class:`nacre.configuration.AlgorithmConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nacre.agents import algorithm_of
from nacre.errors import NacreError, shown
from nacre.experiments.experiment import Experiment, bounds_of, check_type, family_of, field_types
from nacre.tasks.family import TaskFamily
from nacre.tasks.shifts import check_shift


def validate(experiment: Experiment, family: TaskFamily) -> None:
    """Checks the values of an experiment, against each other and against its task family.

    Raises:
        NacreError: a value is impossible; the message names the field, what was given and what is allowed.
    """
    check_fields(experiment)
    algorithm = algorithm_of(experiment.algorithm)
    if not re.fullmatch(r"[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]*", experiment.name):
        raise NacreError(
            f"name is {shown(experiment.name)}; allowed: an algorithm and a task, such as "
            f"{algorithm.name}/{family.name}"
        )
    _check_task_list(experiment, family)
    check_shift(family, experiment.shift)
    experiment.algorithm.check(family)


def validate_read(read: Experiment, changed: Experiment, in_old_words: Callable[[str], str]) -> None:
    """Checks what became of the configuration of an old code base.

    Args:
        read: the experiment that it gave.
        changed: the same, perhaps with other values.
        in_old_words: makes a message name the file, and keys as they are in it.

    Raises:
        NacreError: a value is impossible; if it is the configuration's, in old words.
    """
    wrong = _find_wrong(changed)
    if wrong is not None:
        raise NacreError(in_old_words(wrong) if wrong == _find_wrong(read) else wrong)


def _find_wrong(experiment: Experiment) -> str | None:
    try:
        validate(experiment, family_of(experiment))
    except NacreError as error:
        return str(error)
    return None


def check_fields(experiment: Experiment) -> None:
    """Checks the type of each value by itself, and its bounds.

    Raises:
        NacreError: as :func:`validate`.
    """
    _check_fields(experiment, "")
    _check_fields(experiment.algorithm, "algorithm.")


def _check_fields(config: Any, prefix: str) -> None:
    """Checks types first: a value of another type is in no bounds."""
    types = field_types(type(config))
    for field, annotation in types.items():
        check_type(prefix + field, getattr(config, field), annotation)
    for field, annotation in types.items():
        value, allowed = getattr(config, field), bounds_of(annotation)
        if allowed is not None and value is not None and value not in allowed:
            raise NacreError(f"{prefix}{field} is {shown(value)}; allowed: {allowed}")


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
