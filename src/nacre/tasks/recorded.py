"""A family of which a run folder tells the sizes: enough to act, where its simulator is not installed."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from nacre.errors import NacreError, shown
from nacre.tasks.family import TaskFamily, World, check_family

_FIELDS = ("observation_size", "action_size", "horizon", "task_parameters", "has_sparse_reward", "success_at")
LARGEST = 10**6
"""No size is larger: beyond any sensible family, and less than what fills a memory."""


class RecordedFamily(TaskFamily):
    """It has sizes and names. It can neither be played nor tell rewards."""

    def __init__(self, name: str, values: Any) -> None:
        """
        Args:
            name: of the family.
            values: what :func:`to_record` gave, as JSON values.

        Raises:
            NacreError: they are something else.
        """
        if not isinstance(values, dict) or values.keys() != set(_FIELDS):
            raise NacreError(f"sizes is {shown(values)}; allowed: an object with {', '.join(_FIELDS)}")
        self.name = name
        for field in _FIELDS:
            value = values[field]
            setattr(self, field, tuple(value) if isinstance(value, list) else value)
        check_family(self)
        if not isinstance(self.has_sparse_reward, bool):
            raise NacreError(f"sizes.has_sparse_reward is {shown(self.has_sparse_reward)}; allowed: true, false")
        for field in ("action_size", "horizon"):
            if getattr(self, field) > LARGEST:
                raise NacreError(f"sizes.{field} is {getattr(self, field)}; allowed: at most {LARGEST}")
        if max(self.observation_shape) > LARGEST:
            raise NacreError(f"sizes.observation_size is {self.observation_size}; allowed: at most {LARGEST}")

    def sample_tasks(self, generator: np.random.Generator, n: int) -> NoReturn:
        raise self._unknown()

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> NoReturn:
        raise self._unknown()

    def make_world(self, n_slots: int, threads: int) -> World:
        raise self._unknown()

    def _unknown(self) -> NacreError:
        return NacreError(
            f"of the task family {self.name} only the sizes are known here, from a run folder; import the module that "
            "registers it"
        )


def to_record(family: TaskFamily) -> dict[str, Any]:
    """What a run folder tells of a family, as JSON values."""
    values = {field: getattr(family, field) for field in _FIELDS}
    return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}
