"""What the references have in common: on each family's tasks, soft actor-critic with and without the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nacre.agents.multitask.config import MultitaskConfig
from nacre.experiments.experiment import Experiment, NamedExperiment, options

_QUICK: dict[str, Any] = {
    "hidden_size": 64,
    "hidden_layers": 3,
    "batch_size": 32,
    "initial_steps": 100,
    "visit_steps": 20,
    "updates_per_iteration": 1000,
    "discount": 0.9,
    "policy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
}
_TWO_TASKS = {"initial_steps": 2000, "tasks_per_iteration": 10, "meta_batch_size": 4, "batch_size": 64}
# Beside the experiments of these names that infer the task: their layers, batches and amounts of data and of steps.
_FAST: dict[str, Any] = {
    "hidden_size": 128,
    "hidden_layers": 3,
    "initial_steps": 600,
    "visit_steps": 600,
    "updates_per_iteration": 8000,
    "initial_temperature": 0.1,
    "policy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
}
_FAST_TWO_TASKS = _FAST | {"initial_steps": 2000, "meta_batch_size": 4, "batch_size": 64}

_TABLE: tuple[tuple[str, str, int, int, dict[str, Any], dict[str, Any], str], ...] = (
    # name, family, train tasks, test tasks, other fields of the experiment, of the configuration, what the task is
    ("point-robot", "point-robot", 80, 20, {"iterations": 60}, _QUICK, "a point walks to a goal in a square"),
    (
        "point-robot-quick",
        "point-robot",
        80,
        20,
        {"iterations": 20, "task_list": "seeded"},
        _QUICK,
        "point-robot at a size that a laptop learns in minutes",
    ),
    (
        "sparse-point-robot",
        "sparse-point-robot",
        80,
        20,
        {"iterations": 60},
        {**_QUICK, "sparse_returns": True},
        "a point walks to a goal on a half circle",
    ),
    ("cheetah-vel", "cheetah-vel", 100, 30, {"iterations": 200}, {}, "a half-cheetah runs at a speed"),
    ("cheetah-vel-fast", "cheetah-vel", 100, 30, {"iterations": 15}, _FAST, "cheetah-vel on a laptop"),
    ("cheetah-dir", "cheetah-dir", 2, 2, {"iterations": 200}, _TWO_TASKS, "a half-cheetah runs forward or backward"),
    ("cheetah-dir-fast", "cheetah-dir", 2, 2, {"iterations": 15}, _FAST_TWO_TASKS, "cheetah-dir on a laptop"),
    (
        "cheetah-stationary-multi-task",
        "cheetah-multi-task",
        60,
        30,
        {"task_list": "seeded", "iterations": 200, "family_options": options(variants=("velocity", "jumping"))},
        {},
        "a half-cheetah runs at a speed, or jumps",
    ),
    (
        "cheetah-vel-sparse",
        "cheetah-vel-sparse",
        100,
        30,
        {"task_list": "seeded", "iterations": 200},
        {},
        "a half-cheetah runs at a speed; sparse reward",
    ),
    (
        "cheetah-goal-sparse",
        "cheetah-goal-sparse",
        50,
        30,
        {"task_list": "seeded", "iterations": 200},
        {},
        "a half-cheetah runs to a place; sparse reward",
    ),
    (
        "ant-vel-sparse",
        "ant-vel-sparse",
        50,
        15,
        {"task_list": "seeded", "family_options": options(horizon=300)},
        {"visit_steps": 300},
        "an ant runs at a speed; sparse reward",
    ),
    ("ant-dir", "ant-dir", 2, 2, {}, _TWO_TASKS, "an ant runs forward or backward"),
    ("ant-dir-fast", "ant-dir", 2, 2, {"iterations": 25}, _FAST_TWO_TASKS, "ant-dir on a laptop"),
    (
        "ant-random-dir",
        "ant-random-dir",
        2,
        2,
        {"task_list": "shared"},
        _TWO_TASKS,
        "an ant runs in one of two directions",
    ),
    ("ant-goal", "ant-goal", 150, 30, {"task_list": "seeded"}, {}, "an ant runs to a goal in a disc"),
    (
        "ant-goal-fast",
        "ant-goal",
        150,
        30,
        {"task_list": "seeded", "iterations": 20},
        _FAST,
        "ant-goal on a laptop",
    ),
    ("humanoid-dir", "humanoid-dir", 100, 30, {"task_list": "seeded"}, {}, "a humanoid walks in a direction"),
    ("walker-rand-params", "walker-rand-params", 40, 10, {"task_list": "seeded"}, {}, "a walker of varying physics"),
    (
        "walker-rand-params-fast",
        "walker-rand-params",
        40,
        10,
        {"task_list": "seeded", "iterations": 15},
        _FAST,
        "walker-rand-params on a laptop",
    ),
    ("hopper-rand-params", "hopper-rand-params", 40, 10, {"task_list": "seeded"}, {}, "a hopper of varying physics"),
    (
        "hopper-rand-params-fast",
        "hopper-rand-params",
        40,
        10,
        {"task_list": "seeded", "iterations": 15},
        _FAST,
        "hopper-rand-params on a laptop",
    ),
)
"""The tasks are those of the experiments that infer them, so that the curves stand side by side."""


def reference_experiments(
    algorithm: str, config: Callable[..., MultitaskConfig], knows: str
) -> tuple[NamedExperiment, ...]:
    """The experiments of a reference.

    Args:
        algorithm: its name.
        config: its configuration class.
        knows: what its agent is told, for the descriptions.
    """
    return tuple(
        NamedExperiment(
            Experiment(
                name=f"{algorithm}/{name}",
                family=family,
                train_tasks=train_tasks,
                test_tasks=test_tasks,
                algorithm=config(**changes),
                **fields,
            ),
            f"{knows}: {what}",
        )
        for name, family, train_tasks, test_tasks, fields, changes, what in _TABLE
    )
