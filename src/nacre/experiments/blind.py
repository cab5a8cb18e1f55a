"""The lower reference on every family: soft actor-critic that is told nothing of the task."""

from __future__ import annotations

from nacre.agents.blind.config import BlindConfig
from nacre.experiments.multitask import reference_experiments

EXPERIMENTS = reference_experiments("blind", BlindConfig, "told nothing")
