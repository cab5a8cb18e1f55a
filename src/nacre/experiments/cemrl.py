"""CEMRL's named experiments: the published configurations, under the names of their files, and a few that no file was
published for (spec cemrl-dmrlad 1.13)."""

from __future__ import annotations

from typing import Any

from nacre.agents.cemrl.config import CemrlConfig
from nacre.experiments.experiment import Experiment, NamedExperiment, options

_TWO_CLASSES: dict[str, Any] = {
    "classes": 2,
    "latent_kl_weight": 0.01,
    "class_kl_weight": 0.01,
    "tasks_per_iteration": 2,
}
_DIRECTIONS: dict[str, Any] = _TWO_CLASSES | {
    "merge": "add-softmax",
    "initial_steps": 600,
    "visit_steps": 600,
}
_MULTI_TASK: dict[str, Any] = {
    "state_coordinates": 8,
    "permute_windows": True,
    "prior": "learned",
    "latent_kl_weight": 0.1,
    "class_kl_weight": 1.0,
    "tasks_per_iteration": 1000,  # all of them
    "evaluation_trials": 1,
}

EXPERIMENTS: tuple[NamedExperiment, ...] = (
    NamedExperiment(
        Experiment(
            name="cemrl/cheetah-stationary-vel",
            family="cheetah-vel",
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=501,
            algorithm=CemrlConfig(state_coordinates=8, initial_steps=0),
        ),
        "a half-cheetah runs at a hidden speed between 0 and 3 m/s",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/cheetah-stationary-dir",
            family="cheetah-dir",
            train_tasks=2,
            test_tasks=2,
            iterations=1001,
            algorithm=CemrlConfig(state_coordinates=8, **_DIRECTIONS),
        ),
        "a half-cheetah runs in a hidden direction",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/cheetah-stationary-multi-task",
            family="cheetah-multi-task",
            family_options=options(variants=("velocity", "jumping")),
            train_tasks=60,
            test_tasks=30,
            task_list="seeded",
            iterations=1001,
            algorithm=CemrlConfig(classes=4, **_MULTI_TASK),
        ),
        "a half-cheetah runs at a hidden speed, or jumps, and is not told which",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/hopper-stationary-vel",
            family="hopper-vel",
            family_options=options(lowest=0.0),
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=501,
            algorithm=CemrlConfig(state_coordinates=5, initial_steps=0),
        ),
        "a hopper moves at a hidden speed between 0 and 3 m/s",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/walker2d-stationary-vel",
            family="walker-vel",
            family_options=options(lowest=0.0),
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=501,
            algorithm=CemrlConfig(state_coordinates=8, initial_steps=0),
        ),
        "a walker moves at a hidden speed between 0 and 3 m/s",
    ),
    # The published ant changes its direction within episodes of 800 steps; this one does not, in episodes of 200.
    NamedExperiment(
        Experiment(
            name="cemrl/ant-dir",
            family="ant-dir",
            train_tasks=2,
            test_tasks=2,
            iterations=501,
            algorithm=CemrlConfig(
                state_coordinates=13,
                window=20,
                encoder_batch_size=128,
                policy_batch_size=128,
                policy_steps=4000,
                initial_steps=16000,
                visit_steps=8000,
                **_TWO_CLASSES,
            ),
        ),
        "an ant runs in a hidden direction, forward or backward",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/ant-goal",
            family="ant-goal",
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=401,
            algorithm=CemrlConfig(
                state_coordinates=13,
                window=30,
                latent_size=2,
                encoder_batch_size=512,
                policy_batch_size=512,
                initial_steps=800,
                visit_steps=800,
            ),
        ),
        "an ant runs to a hidden goal in a disc around it",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/humanoid-dir",
            family="humanoid-dir",
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=1001,
            algorithm=CemrlConfig(state_coordinates=24, **_DIRECTIONS),
        ),
        "a humanoid walks in a hidden direction without falling",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/walker-rand-params",
            family="walker-rand-params",
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=501,
            algorithm=CemrlConfig(
                state_coordinates=8,
                latent_size=6,
                tasks_per_iteration=25,
                initial_steps=800,
                visit_steps=800,
            ),
        ),
        "a walker whose masses, inertias, damping and friction vary runs forward",
    ),
    NamedExperiment(
        Experiment(
            name="cemrl/hopper-rand-params",
            family="hopper-rand-params",
            train_tasks=100,
            test_tasks=30,
            task_list="seeded",
            iterations=501,
            algorithm=CemrlConfig(
                state_coordinates=5,
                latent_size=6,
                tasks_per_iteration=25,
                initial_steps=800,
                visit_steps=800,
            ),
        ),
        "a hopper whose masses, inertias, damping and friction vary runs forward",
    ),
    # Not a published configuration.
    NamedExperiment(
        Experiment(
            name="cemrl/point-robot",
            family="point-robot",
            train_tasks=80,
            test_tasks=20,
            iterations=100,
            algorithm=CemrlConfig(
                latent_size=5,
                encoder="trajectory",
                width_factor=1.5,
                latent_kl_weight=1e-4,
                patience=2000,
                encoder_data="rising",
                policy_data="rising",
                initial_temperature=0.05,
                discount=0.9,
                initial_steps=40,
                tasks_per_iteration=80,
                visit_steps=40,
            ),
        ),
        "a point walks to a hidden goal in a square; dense reward",
    ),
    # For the demo: smaller networks and batches. Not a published configuration.
    NamedExperiment(
        Experiment(
            name="cemrl/point-robot-quick",
            family="point-robot",
            train_tasks=80,
            test_tasks=20,
            task_list="seeded",
            iterations=20,
            algorithm=CemrlConfig(
                latent_size=5,
                window=10,
                encoder="trajectory",
                width_factor=1.5,
                latent_kl_weight=1e-4,
                encoder_steps=2000,
                encoder_batch_size=128,
                patience=2000,
                encoder_learning_rate=1e-3,
                decoder_learning_rate=1e-3,
                encoder_data="rising",
                hidden_size=64,
                policy_steps=1000,
                policy_data="rising",
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                temperature_learning_rate=1e-3,
                initial_temperature=0.05,
                discount=0.9,
                initial_steps=40,
                tasks_per_iteration=80,
                visit_steps=40,
            ),
        ),
        "point-robot at a size that a laptop learns in minutes; for demos and tests",
    ),
)
