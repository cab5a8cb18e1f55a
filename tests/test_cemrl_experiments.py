"""CEMRL's named experiments against the published configurations (spec cemrl-dmrlad 1.13)."""

from __future__ import annotations

from typing import Any

import pytest

from nacre.experiments import family_of, make_experiment, validate

FIELDS = [
    "state_coordinates",
    "window",
    "latent_size",
    "encoder_batch_size",
    "policy_batch_size",
    "encoder_steps",
    "policy_steps",
    "tasks_per_iteration",
    "initial_steps",
    "visit_steps",
    "evaluation_trials",
    "classes",
    "latent_kl_weight",
    "class_kl_weight",
]

PUBLISHED: dict[str, tuple[str, int, int, int, int, str, tuple[Any, ...]]] = {
    # family, train and test tasks, iterations, horizon, shift, and the fields above
    "ant-non-stationary-dir": (
        *("ant-dir-weighted", 2, 2, 501, 800, "place:10+2,opposite"),
        (13, 20, 1, 128, 128, 5000, 4000, 2, 16000, 8000, 2, 2, 0.01, 0.01),
    ),
    "ant-non-stationary-vel": (
        *("ant-vel", 100, 30, 401, 800, "place:20+1"),
        (13, 30, 1, 512, 512, 5000, 2000, 20, 800, 800, 2, 1, 0.001, 0.001),
    ),
    "cheetah-continuous-learning-dir": (
        *("cheetah-dir", 1, 1, 251, 800, "place:20+1,opposite"),
        (8, 10, 1, 256, 256, 5000, 2000, 2, 1600, 1600, 2, 2, 0.01, 0.1),
    ),
    "cheetah-non-stationary-dir": (
        *("cheetah-dir", 2, 2, 501, 800, "place:10+2,opposite"),
        (8, 10, 1, 256, 256, 5000, 2000, 2, 3200, 1600, 2, 2, 0.01, 0.01),
    ),
    "cheetah-non-stationary-vel": (
        *("cheetah-vel", 100, 30, 301, 800, "place:10+1"),
        (8, 10, 1, 256, 256, 5000, 2000, 20, 800, 800, 2, 1, 0.001, 0.001),
    ),
    "cheetah-stationary-dir": (
        *("cheetah-dir", 2, 2, 1001, 200, "None"),
        (8, 10, 1, 256, 256, 5000, 2000, 2, 600, 600, 2, 2, 0.01, 0.01),
    ),
    "cheetah-stationary-multi-task": (
        *("cheetah-multi-task", 60, 30, 1001, 200, "None"),
        (8, 10, 1, 256, 256, 5000, 2000, 1000, 200, 200, 1, 4, 0.1, 1.0),
    ),
    "cheetah-stationary-vel": (
        *("cheetah-vel", 100, 30, 501, 200, "None"),
        (8, 10, 1, 256, 256, 5000, 2000, 20, 0, 200, 2, 1, 0.001, 0.001),
    ),
    "hopper-non-stationary-vel": (
        *("hopper-vel", 100, 30, 251, 800, "place:10+1"),
        (5, 30, 1, 256, 256, 5000, 2000, 25, 800, 800, 2, 1, 0.001, 0.001),
    ),
    "hopper-stationary-vel": (
        *("hopper-vel", 100, 30, 501, 200, "None"),
        (5, 10, 1, 256, 256, 5000, 2000, 20, 0, 200, 2, 1, 0.001, 0.001),
    ),
    "humanoid-dir": (
        *("humanoid-dir", 100, 30, 1001, 200, "None"),
        (24, 10, 1, 256, 256, 5000, 2000, 2, 600, 600, 2, 2, 0.01, 0.01),
    ),
    "walker2d-non-stationary-vel": (
        *("walker-vel", 100, 30, 301, 800, "place:10+1"),
        (8, 30, 1, 256, 256, 5000, 2000, 25, 800, 800, 2, 1, 0.001, 0.001),
    ),
    "walker2d-stationary-vel": (
        *("walker-vel", 100, 30, 501, 200, "None"),
        (8, 10, 1, 256, 256, 5000, 2000, 20, 0, 200, 2, 1, 0.001, 0.001),
    ),
    "cheetah-non-stationary-multi-task": (
        *("cheetah-multi-task", 120, 30, 51, 800, "time:200"),
        (8, 10, 1, 256, 256, 5000, 2000, 1000, 800, 3200, 1, 3, 0.1, 1.0),
    ),
    "cheetah-non-stationary-rand-mass-params": (
        *("cheetah-rand-damping", 60, 30, 250, 400, "place:7+2"),
        (8, 30, 6, 256, 256, 5000, 3000, 100, 400, 400, 3, 1, 0.1, 1.0),
    ),
    "hopper-non-stationary-vel-others": (
        *("hopper-vel", 100, 30, 1001, 800, "place:5+1"),
        (5, 10, 1, 512, 512, 5000, 2000, 25, 0, 800, 2, 1, 0.001, 0.001),
    ),
    "walker2d-non-stationary-rand-params_vel_not_observed": (
        *("walker-rand-params", 100, 30, 251, 400, "place:7+2"),
        (8, 10, 30, 256, 256, 5000, 2000, 25, 400, 800, 2, 1, 0.001, 0.001),
    ),
    "walker2d-non-stationary-rand-params_vel_observed": (
        *("walker-rand-params", 100, 30, 501, 800, "place:7+2"),
        (8, 10, 6, 256, 256, 5000, 2000, 25, 800, 800, 2, 1, 0.001, 0.001),
    ),
}

RANGES = {
    "ant-non-stationary-vel": (1, 5),
    "cheetah-non-stationary-vel": (0.5, 3),
    "cheetah-stationary-vel": (0, 3),
    "hopper-non-stationary-vel": (0.5, 3),
    "hopper-stationary-vel": (0, 3),
    "walker2d-non-stationary-vel": (0.5, 3),
    "walker2d-stationary-vel": (0, 3),
    "hopper-non-stationary-vel-others": (0.5, 2),
}
TERMINATING = {
    "ant-non-stationary-dir",
    "hopper-non-stationary-vel",
    "walker2d-non-stationary-vel",
    "hopper-non-stationary-vel-others",
}
LEARNED_PRIORS = {"cheetah-stationary-multi-task", "cheetah-non-stationary-multi-task"}
ADD_SOFTMAX = {"cheetah-stationary-dir", "humanoid-dir"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    experiment = make_experiment(f"cemrl/{name}")
    family, config = family_of(experiment), experiment.algorithm
    validate(experiment, family)
    *expected, fields = PUBLISHED[name]
    tasks = experiment.train_tasks, experiment.test_tasks
    assert [experiment.family, *tasks, experiment.iterations, family.horizon, str(experiment.shift)] == expected
    assert tuple(getattr(config, field) for field in FIELDS) == fields
    if name in RANGES:
        assert (family.lowest, family.highest) == RANGES[name]
    if name in TERMINATING or hasattr(family, "terminates"):
        assert family.terminates == (name in TERMINATING)
    assert (config.prior == "learned") == config.permute_windows == (name in LEARNED_PRIORS)
    assert config.merge == ("add-softmax" if name in ADD_SOFTMAX else "add")
    assert config.encoder == ("trajectory" if name.endswith("_not_observed") else "shared-y")


def test_variants_and_physics_that_vary() -> None:
    def family(name: str) -> Any:
        return family_of(make_experiment(f"cemrl/{name}"))

    assert family("cheetah-stationary-multi-task").variants == ("velocity", "jumping")
    assert family("cheetah-non-stationary-multi-task").variants == ("velocity", "flipping", "jumping")
    assert family("cheetah-non-stationary-rand-mass-params").log_scale_limit == 7
    assert family("cheetah-continuous-learning-dir").directions == (-1,)
    seen, unseen = (family(f"walker2d-non-stationary-rand-params_vel_{word}") for word in ("observed", "not_observed"))
    assert (seen.log_scale_limit, unseen.log_scale_limit) == (1, 3)
    assert (seen.varied, unseen.varied) == (("mass", "inertia", "damping", "friction"), ("mass", "damping", "friction"))
    assert (seen.observation_size, unseen.observation_size) == (17, 8)
    assert seen.timestep == unseen.timestep == 0.002
