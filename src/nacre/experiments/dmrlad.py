"""DMRLAD's named experiments, two of the thesis with its ablations beside them (spec cemrl-dmrlad 1.8, 1.13, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nacre.agents.dmrlad.config import DmrladConfig
from nacre.experiments.experiment import NO_OPTIONS, Experiment, FamilyOptions, NamedExperiment, options

_EXPECTED: dict[str, Any] = {"critics": "expected", "target_policy": False}
ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "": ({}, ""),
    "-mrlad": (_EXPECTED, "; copies, but no quantile critics (MRLAD)"),
    "-dhfr": ({"relabelling": "replace"}, "; quantile critics, copies in place of episodes (CEMRL+DHFR)"),
    "-hfr": (_EXPECTED | {"relabelling": "replace"}, "; no quantile critics, copies in place of episodes (CEMRL+HFR)"),
    "-cemrl": (_EXPECTED | {"relabelling": "none"}, "; neither copies nor quantile critics (CEMRL)"),
}
"""What is appended to the name, what is changed, and how it is described."""


def with_ablations(
    experiment: Experiment, description: str, only: Sequence[str] = tuple(ABLATIONS)
) -> tuple[NamedExperiment, ...]:
    """The experiment, and its ablations; `only` names those that there are."""
    algorithm = experiment.algorithm
    return tuple(
        NamedExperiment(
            replace(experiment, name=experiment.name + ending, algorithm=replace(algorithm, **changes)),
            description + words,
        )
        for ending, (changes, words) in ((ending, ABLATIONS[ending]) for ending in only)
    )


def _published(
    name: str,
    family: str,
    description: str,
    *,
    tasks: tuple[int, int] = (100, 30),
    iterations: int = 501,
    family_options: FamilyOptions = NO_OPTIONS,
    **changes: Any,
) -> NamedExperiment:
    """A published experiment; `tasks` are numbers of train tasks and test tasks, `changes` those of the algorithm."""
    experiment = Experiment(
        name=f"dmrlad/{name}",
        family=family,
        family_options=family_options,
        train_tasks=tasks[0],
        test_tasks=tasks[1],
        task_list="seeded",
        iterations=iterations,
        algorithm=DmrladConfig(**changes),
    )
    return NamedExperiment(experiment, description)


EXPERIMENTS: tuple[NamedExperiment, ...] = (
    *with_ablations(
        *_published(
            "cheetah-vel-sparse",
            "cheetah-vel-sparse",
            "a half-cheetah runs at a hidden speed that the reward tells only close to it",
            state_coordinates=8,
        )
    ),
    _published(
        "cheetah-goal-sparse",
        "cheetah-goal-sparse",
        "a half-cheetah runs to a hidden place that the reward tells only close to it",
        tasks=(50, 30),
        state_coordinates=8,
        window=30,
        scoring_states=256,
    ),
    # The published file names kinds of tasks that its environment does not know; these are of the runs of the thesis.
    _published(
        "cheetah-multi-task-sparse",
        "cheetah-multi-task-sparse",
        "a half-cheetah runs forward or backward at a hidden speed that the reward tells only close to it",
        tasks=(50, 30),
        family_options=options(variants=("forward-velocity", "backward-velocity")),
        state_coordinates=8,
        classes=3,
        window=20,
        permute_windows=True,
        prior="learned",
        latent_kl_weight=0.1,
        class_kl_weight=1.0,
        initial_steps=200,
        tasks_per_iteration=10,
        scoring_states=256,
        evaluation_trials=1,
    ),
    _published(
        "cheetah-stationary-vel",
        "cheetah-vel",
        "a half-cheetah runs at a hidden speed between 0 and 3 m/s",
        state_coordinates=8,
        scoring_states=256,
    ),
    *with_ablations(
        *_published(
            "ant-vel-sparse",
            "ant-vel-sparse",
            "an ant runs at a hidden speed that the reward tells only close to it",
            tasks=(50, 15),
            iterations=401,
            family_options=options(horizon=300),
            state_coordinates=13,
            tasks_per_iteration=10,
            visit_steps=300,
            scoring_states=256,
        )
    ),
    *with_ablations(
        *_published(
            "ant-stationary-vel",
            "ant-vel",
            "an ant runs at a hidden speed between 0 and 3 m/s",
            tasks=(50, 15),
            iterations=401,
            family_options=options(lowest=0.0, highest=3.0, horizon=300),
            state_coordinates=13,
            window=20,
            tasks_per_iteration=10,
            visit_steps=300,
            scoring_states=256,
        ),
        only=("", "-cemrl"),
    ),
    _published(
        "ant-goal-sparse",
        "ant-goal-sparse",
        "an ant walks to a hidden goal that the reward tells only close to it",
        tasks=(50, 15),
        iterations=500,
        family_options=options(horizon=400),
        state_coordinates=13,
        initial_steps=200,
        tasks_per_iteration=5,
        visit_steps=400,
        scoring_states=256,
    ),
    _published(
        "sawyer-reach-sparse",
        "sawyer-reach-sparse",
        "a robot arm reaches for a hidden place; rewarded only there",
        iterations=500,
        state_coordinates=6,
        initial_steps=300,
        visit_steps=150,
        scoring_states=256,
    ),
    _published(
        "sawyer-push-sparse",
        "sawyer-push-sparse",
        "a robot arm pushes a puck to a hidden place; rewarded only there",
        iterations=500,
        state_coordinates=6,
        initial_steps=300,
        visit_steps=150,
        scoring_states=256,
    ),
    # Minutes on one core; the page in results/ lists every change. Not a published configuration.
    *with_ablations(
        Experiment(
            name="dmrlad/cheetah-vel-sparse-small",
            family="cheetah-vel-sparse",
            family_options=options(radius=0.3, floor=-2.0, control_cost=0.05, lowest=0.5, highest=2.0, horizon=100),
            train_tasks=20,
            test_tasks=20,
            task_list="seeded",
            iterations=60,
            algorithm=DmrladConfig(
                state_coordinates=8,
                width_factor=2.0,
                encoder_steps=300,
                encoder_batch_size=128,
                encoder_learning_rate=1e-3,
                decoder_learning_rate=1e-3,
                hidden_size=128,
                policy_steps=1000,
                policy_batch_size=128,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                temperature_learning_rate=0.0,
                initial_temperature=0.01,
                quantiles=4,
                embedding_size=16,
                discount=0.97,
                reward_scale=0.2,
                initial_steps=200,
                tasks_per_iteration=10,
                visit_steps=100,
                evaluation_trials=2,
                scoring_states=32,
            ),
        ),
        "cheetah-vel-sparse in ten minutes: small networks, fewer tasks, and a reward that is found more easily",
        only=("", "-mrlad", "-cemrl"),
    ),
    # For the demo: smaller networks and batches. Not a published configuration.
    *with_ablations(
        Experiment(
            name="dmrlad/sparse-point-robot-quick",
            family="sparse-point-robot",
            family_options=options(dense=False, distance=1.0, goal_radius=0.12, horizon=60),
            train_tasks=40,
            test_tasks=20,
            task_list="seeded",
            iterations=45,
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
                critic_learning_rate=2e-3,
                temperature_learning_rate=0.0,
                initial_temperature=0.01,
                quantiles=4,
                embedding_size=16,
                discount=0.97,
                initial_steps=120,
                tasks_per_iteration=40,
                visit_steps=60,
                scoring_states=16,
                choice="arg-max",
            ),
        ),
        "a point finds a goal on a half circle, which only a reward close to it tells, in minutes",
    ),
)
