"""Any algorithm on any task family, also where no values were published or tried."""

from __future__ import annotations

import re
from typing import Any

from nacre.agents import ALGORITHMS
from nacre.experiments.experiment import Experiment, FamilyOptions, check_type
from nacre.tasks import FAMILIES, make_family
from nacre.tasks.family import TaskFamily

TRAIN_TASKS, TEST_TASKS = 80, 20
"""If there are as many as one wants."""


def starting_points() -> list[str]:
    """The names of such experiments: every algorithm on every family."""
    return [f"{algorithm}/{family}" for algorithm in ALGORITHMS for family in FAMILIES]


def starting_point(algorithm: str, family: str, family_options: Any = ()) -> Experiment:
    """A starting point: the algorithm's published values, with amounts of data in episodes of the family's horizon.

    Args:
        algorithm: the name of one.
        family: the name of a family.
        family_options: its options, as an experiment has them.

    Raises:
        NacreError: the family cannot be made.
    """
    chosen = check_type("family_options", family_options, FamilyOptions)
    made = make_family(family, **dict(chosen))
    train_tasks, test_tasks = _numbers_of_tasks(made)
    return Experiment(
        name=f"{algorithm}/{re.sub(r'[^A-Za-z0-9._-]+', '-', family).lstrip('._-') or 'own'}",
        family=family,
        algorithm=ALGORITHMS[algorithm].config.for_family(made),
        train_tasks=train_tasks,
        test_tasks=test_tasks,
        task_list="published" if made.finite_tasks is None and made.has_published_tasks else "seeded",
        family_options=chosen,
    )


def _numbers_of_tasks(family: TaskFamily) -> tuple[int, int]:
    """Of a few tasks all are for training and testing; of more a fifth is held out."""
    if family.finite_tasks is None:
        return TRAIN_TASKS, TEST_TASKS
    n = len(family.finite_tasks)
    if n <= 4:
        return n, n
    return n - n // 5, n // 5
