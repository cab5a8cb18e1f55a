"""The upper reference: an agent that is given the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nacre.agents.multitask.config import MultitaskConfig


@dataclass(frozen=True)
class OracleConfig(MultitaskConfig):
    """Hyperparameters of soft actor-critic that is given the true task, so that it has nothing to infer."""

    sees_task: ClassVar[bool] = True
