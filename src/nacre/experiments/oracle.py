"""The upper reference on every family: soft actor-critic that is given the task."""

from __future__ import annotations

from nacre.agents.oracle.config import OracleConfig
from nacre.experiments.multitask import reference_experiments

EXPERIMENTS = reference_experiments("oracle", OracleConfig, "given the task")
