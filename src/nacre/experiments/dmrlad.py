"""DMRLAD's named experiments, each with the ablations of the thesis beside it (spec cemrl-dmrlad 1.8, 1.13, 5.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nacre.agents.dmrlad.config import DmrladConfig
from nacre.experiments.experiment import Experiment, NamedExperiment, options

_EXPECTED: dict[str, Any] = {"critics": "expected", "target_policy": False}
ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "": ({}, ""),
    "-mrlad": (_EXPECTED, "; copies, but no quantile critics (MRLAD)"),
    "-dhfr": ({"relabelling": "replace"}, "; quantile critics, copies in place of episodes (CEMRL+DHFR)"),
    "-hfr": (_EXPECTED | {"relabelling": "replace"}, "; no quantile critics, copies in place of episodes (CEMRL+HFR)"),
    "-cemrl": (_EXPECTED | {"relabelling": "none"}, "; neither copies nor quantile critics (CEMRL)"),
}
"""What is appended to the name, what is changed, and how it is described."""


def with_ablations(experiment: Experiment, description: str) -> tuple[NamedExperiment, ...]:
    """The experiment, and its ablations."""
    algorithm = experiment.algorithm
    return tuple(
        NamedExperiment(
            replace(experiment, name=experiment.name + ending, algorithm=replace(algorithm, **changes)),
            description + words,
        )
        for ending, (changes, words) in ABLATIONS.items()
    )


EXPERIMENTS: tuple[NamedExperiment, ...] = (
    # For the demo: smaller networks and batches. Not a published configuration.
    *with_ablations(
        Experiment(
            name="dmrlad/sparse-point-robot-quick",
            family="sparse-point-robot",
            family_options=options(dense=False, distance=0.6, horizon=40),
            train_tasks=40,
            test_tasks=20,
            task_list="seeded",
            iterations=20,
            algorithm=DmrladConfig(
                latent_size=2,
                window=10,
                encoder="trajectory",
                width_factor=1.5,
                latent_kl_weight=1e-4,
                encoder_steps=1000,
                encoder_batch_size=128,
                patience=2000,
                encoder_learning_rate=1e-3,
                decoder_learning_rate=1e-3,
                hidden_size=64,
                policy_steps=500,
                policy_batch_size=128,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                temperature_learning_rate=1e-3,
                initial_temperature=0.05,
                quantiles=8,
                embedding_size=16,
                discount=0.95,
                initial_steps=80,
                tasks_per_iteration=40,
                visit_steps=40,
                scoring_states=16,
            ),
        ),
        "a point finds a goal on a half circle that only a reward close to it betrays, in minutes",
    ),
)
