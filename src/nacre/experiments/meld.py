"""MELD's named experiments (spec meld 3)."""

from __future__ import annotations

from dataclasses import replace

from nacre.agents.meld.config import MeldConfig
from nacre.experiments.experiment import Experiment, NamedExperiment, options

_POINT = Experiment(
    name="meld/point-robot-quick",
    family="point-robot-pixels",
    family_options=options(size=32),
    train_tasks=40,
    test_tasks=20,
    task_list="seeded",
    iterations=12,
    update_chunk=10,
    algorithm=MeldConfig(
        base_depth=8,
        first_latent_size=16,
        second_latent_size=8,
        reward_repeats=16,
        image_deviation=0.05,
        reward_weight=10.0,
        episodes=2,
        episode_steps=20,
        initial_trials=3,
        initial_model_steps=500,
        rounds=50,
        model_steps=10,
        policy_steps=20,
        model_trials=8,
        policy_trials=8,
        policy_batch_size=128,
        model_learning_rate=1e-3,
        hidden_size=64,
        discount=0.9,
        policy_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        temperature_learning_rate=1e-3,
        initial_temperature=0.1,
    ),
)

EXPERIMENTS: tuple[NamedExperiment, ...] = (
    # For the demo: small pictures, networks and batches. Not a published configuration.
    NamedExperiment(_POINT, "a point that sees pictures of itself walks to a goal that only rewards betray"),
    NamedExperiment(
        replace(
            _POINT,
            name="meld/point-robot-quick-slac",
            algorithm=replace(_POINT.algorithm, context_reward="none"),
        ),
        "the same, but the agent does not see its rewards (SLAC), and so cannot know its task",
    ),
)
