"""The lower reference: an agent that is told nothing of the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nacre.agents.multitask.config import MultitaskConfig


@dataclass(frozen=True)
class BlindConfig(MultitaskConfig):
    """Hyperparameters of soft actor-critic on many tasks that sees neither the task nor its own history."""

    sees_task: ClassVar[bool] = False
