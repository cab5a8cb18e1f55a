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

# Published. The public code goes on for ever; here the arms end at 0.2 million environment steps or a little more.
_REACHER = Experiment(
    name="meld/reacher",
    family="sawyer-reacher-pixels",
    train_tasks=60,
    test_tasks=10,
    task_list="seeded",
    iterations=50,
    update_chunk=60,
    algorithm=MeldConfig(
        reward_weight=10.0,
        episode_steps=40,
        initial_trials=2,
        initial_model_steps=1440,
        model_steps=32,
        model_rounds=5367,
        policy_steps=20,
        model_trials=12,
        policy_trials=20,
        policy_batch_size=512,
    ),
)
_PEG = replace(
    _REACHER,
    name="meld/peg",
    family="sawyer-peg-pixels",
    train_tasks=30,
    task_list="published",
    algorithm=replace(
        _REACHER.algorithm,
        first_latent_size=128,
        second_latent_size=64,
        initial_trials=5,
        initial_model_steps=1800,
        model_steps=12,
        model_rounds=None,
        policy_steps=12,
        hidden_size=512,
    ),
)
_SHELF = replace(
    _PEG,
    name="meld/shelf",
    family="sawyer-shelf-pixels",
    train_tasks=40,
    algorithm=replace(_PEG.algorithm, initial_trials=20, initial_model_steps=9600, hidden_size=256),
)
_BUTTONS = replace(
    _REACHER,
    name="meld/buttons",
    family="sawyer-buttons-pixels",
    train_tasks=15,
    test_tasks=12,
    task_list="published",
    algorithm=replace(
        _REACHER.algorithm,
        initial_trials=5,
        initial_model_steps=900,
        model_rounds=None,
        policy_trials=15,
        hidden_size=512,
    ),
)
_BUTTONS_SPARSE = replace(
    _BUTTONS,
    name="meld/buttons-sparse",
    family_options=options(horizon=30),
    update_chunk=90,
    algorithm=replace(
        _BUTTONS.algorithm,
        context_reward="sparse",
        episodes=2,
        episode_steps=30,
        initial_model_steps=1350,
        model_steps=48,
        policy_steps=30,
        model_trials=8,
    ),
)
# For two CPU cores; docs/meld.md names every change.
_REACHER_SMALL = replace(
    _REACHER,
    name="meld/reacher-small",
    family_options=options(size=32),
    train_tasks=20,
    iterations=20,
    update_chunk=4,
    algorithm=replace(
        _REACHER.algorithm,
        base_depth=16,
        first_latent_size=16,
        second_latent_size=8,
        reward_repeats=16,
        image_deviation=0.16,
        initial_trials=5,
        rounds=25,
        model_steps=16,
        model_rounds=None,
        policy_pool=50,
        policy_steps=100,
        model_trials=4,
        policy_trials=4,
        policy_batch_size=256,
        model_learning_rate=3e-4,
        discount=0.9,
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
    family_options=options(camera="track"),
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
    family_options=options(camera="track", size=32, zoom=1.6),
    train_tasks=10,
    test_tasks=5,
    iterations=30,
    update_chunk=10,
    algorithm=MeldConfig(
        base_depth=16,
        first_latent_size=32,
        second_latent_size=16,
        image_deviation=0.08,
        initial_trials=10,
        initial_model_steps=2000,
        rounds=25,
        model_steps=20,
        policy_pool=64,
        policy_steps=120,
        model_learning_rate=3e-4,
        policy_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        temperature_learning_rate=1e-3,
        initial_temperature=0.1,
    ),
)


def _slac(experiment: Experiment) -> NamedExperiment:
    """The ablation of an experiment that sees no rewards: SLAC (Lee et al. 2020) in its place."""
    return NamedExperiment(
        replace(
            experiment,
            name=f"{experiment.name}-slac",
            algorithm=replace(experiment.algorithm, context_reward="none"),
        ),
        f"{experiment.name} without seeing rewards (SLAC), so that the agent cannot know its task",
    )


EXPERIMENTS: tuple[NamedExperiment, ...] = (
    # For the demo: small pictures, networks and batches. Not a published configuration.
    NamedExperiment(_POINT, "a point that sees pictures of itself walks to a goal, which only rewards tell"),
    _slac(_POINT),
    NamedExperiment(_REACHER, "a robot arm that sees pictures reaches a place in the air, which only rewards tell"),
    NamedExperiment(
        _PEG, "a robot arm that sees pictures puts a peg into the hole of one of four blocks that look alike"
    ),
    NamedExperiment(
        _SHELF, "a robot arm that sees pictures puts a cup of unknown weight on a place of a shelf, by torques"
    ),
    NamedExperiment(_BUTTONS, "a robot arm that sees pictures presses one of three buttons"),
    NamedExperiment(
        _BUTTONS_SPARSE,
        "meld/buttons in trials of two episodes, with a reward that tells nothing until the arm is there (name a run "
        "of meld/buttons in offline_run)",
    ),
    NamedExperiment(_REACHER_SMALL, "meld/reacher on two CPU cores: smaller networks and pictures, fewer tasks"),
    _slac(_REACHER_SMALL),
    NamedExperiment(
        _CHEETAH,
        "a half-cheetah that sees pictures of itself, ten in a second, runs at a velocity, which only rewards tell",
    ),
    NamedExperiment(_CHEETAH_SMALL, "meld/cheetah-vel on two CPU cores: smaller networks and pictures, fewer tasks"),
    _slac(_CHEETAH_SMALL),
)
