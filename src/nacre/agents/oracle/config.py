"""The upper reference: an agent that is given the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nacre.agents.multitask.config import MultitaskConfig
from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily


@dataclass(frozen=True)
class OracleConfig(MultitaskConfig):
    """Hyperparameters of soft actor-critic that is given the true task, so that it has nothing to infer."""

    sees_task: ClassVar[bool] = True

    def check(self, family: TaskFamily) -> None:
        super().check(family)
        if family.shift is not None:
            raise NacreError(
                f"shift is '{family.shift}'; allowed for an oracle: none, as it is given the task at the beginning of "
                "a trial and would not be told that it changes"
            )
