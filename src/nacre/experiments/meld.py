"""MELD's named experiments (spec meld 3)."""

from __future__ import annotations

from dataclasses import replace

from nacre.agents.meld.config import MeldConfig
from nacre.experiments.experiment import Experiment, NamedExperiment, options

_POINT = Experiment(
    name="meld/point-robot-quick",
    family="sparse-point-robot-pixels",  # whose dense reward is seen
    family_options=options(size=16, distance=0.5, horizon=10),
    train_tasks=60,
    test_tasks=20,
    task_list="seeded",
    iterations=12,
    update_chunk=10,
    algorithm=MeldConfig(
        base_depth=8,
        first_latent_size=32,
        second_latent_size=32,
        reward_repeats=16,
        image_deviation=0.2,
        reward_deviation=0.1,
        reward_weight=100.0,
        episodes=2,
        episode_steps=10,
        initial_trials=5,
        initial_model_steps=1500,
        rounds=40,
        model_steps=8,
        policy_steps=30,
        model_trials=8,
        policy_trials=8,
        policy_batch_size=128,
        model_learning_rate=2e-3,
        hidden_size=128,
        discount=0.9,
        reward_scale=5.0,
        policy_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        temperature_learning_rate=1e-3,
        initial_temperature=0.1,
    ),
)

# Published. The latent model is trained for 500 000 environment and gradient steps: 26 000 to begin with, and 130 in
# each round. The published code goes on for ever; here it ends at 0.52 million environment steps.
_CHEETAH = Experiment(
    name="meld/cheetah-vel",
    family="cheetah-vel-10hz-pixels",
    family_options=options(camera="track", size=64),
    train_tasks=20,
    test_tasks=10,
    task_list="published",
    iterations=100,
    algorithm=MeldConfig(model_rounds=3647),
)

# For two CPU cores; docs/meld.md names every change.
_CHEETAH_SMALL = replace(
    _CHEETAH,
    name="meld/cheetah-vel-small",
    family_options=options(camera="track", size=32),
    train_tasks=10,
    test_tasks=5,
    iterations=20,
    update_chunk=10,
    algorithm=MeldConfig(
        base_depth=16,
        first_latent_size=32,
        second_latent_size=16,
        image_deviation=0.15,
        initial_trials=10,
        initial_model_steps=2000,
        rounds=25,
        model_learning_rate=3e-4,
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
    NamedExperiment(
        _CHEETAH,
        "a half-cheetah that sees pictures of itself, ten in a second, runs at a velocity that only rewards betray",
    ),
    NamedExperiment(_CHEETAH_SMALL, "the same on two CPU cores: smaller networks and pictures, fewer tasks"),
)
