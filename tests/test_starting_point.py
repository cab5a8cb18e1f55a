"""Any algorithm on any family: `make_experiment("pearl/windy-line")`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probes import Clock

import nacre
from nacre.agents import ALGORITHMS
from nacre.agents.pearl.config import PearlConfig
from nacre.experiments import family_of, validate
from nacre.tasks import FAMILIES, list_families, register_family


class FilmedClock(Clock):
    name = "filmed-clock"
    observation_size = (32, 32, 3)


@pytest.fixture(autouse=True)
def families() -> Iterator[None]:
    before = dict(FAMILIES)
    register_family("clock", lambda horizon=50: Clock(horizon))
    register_family("filmed-clock", lambda horizon=50: FilmedClock(horizon))
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("horizon", [1, 7, 50, 200, 999])
def test_every_algorithm_has_a_starting_point_that_is_accepted(algorithm: str, horizon: int) -> None:
    name = "filmed-clock" if algorithm == "meld" else "clock"
    experiment = nacre.make_experiment(f"{algorithm}/{name}", family_options={"horizon": horizon}, seed=3)
    family = family_of(experiment)
    assert family.horizon == horizon
    validate(experiment, family)
    assert (experiment.name, experiment.family) == (f"{algorithm}/{name}", name)
    assert (experiment.seed, experiment.task_list, experiment.train_tasks) == (3, "seeded", 80)


def test_amounts_are_in_episodes_of_the_horizon() -> None:
    config = nacre.make_experiment("pearl/clock", family_options={"horizon": 200}).algorithm
    # The published half-cheetah's amounts, whose horizon this is.
    published = PearlConfig()
    assert isinstance(config, PearlConfig)
    for field in ("initial_steps", "prior_steps", "extra_posterior_steps", "updates_per_iteration", "context_size"):
        assert getattr(config, field) == getattr(published, field), field
    assert config.evaluation_steps == published.evaluation_steps
    assert config.next_observation_in_context
    config = nacre.make_experiment("pearl/clock", family_options={"horizon": 30}, initial_steps=60).algorithm
    assert (config.initial_steps, config.prior_steps, config.extra_posterior_steps) == (60, 210, 210)
    assert config.evaluation_steps == 90


@pytest.mark.parametrize(("n", "train", "test"), [(1, 1, 1), (2, 2, 2), (4, 4, 4), (5, 4, 1), (50, 40, 10)])
def test_finite_families(n: int, train: int, test: int) -> None:
    class Finite(Clock):
        finite_tasks = tuple((float(task), 5.0) for task in range(n))

    register_family("My few clocks", lambda: Finite(10))
    experiment = nacre.make_experiment("cemrl/My few clocks")
    validate(experiment, family_of(experiment))
    assert (experiment.train_tasks, experiment.test_tasks) == (train, test)
    assert experiment.name == "cemrl/My-few-clocks"
    assert experiment.algorithm.classes == (n if n <= 10 else 1)


@pytest.mark.parametrize("family", [name for name in list_families() if not name.startswith("sawyer-")])
def test_families_of_nacre_too(family: str) -> None:
    for algorithm in ALGORITHMS:
        name = f"{algorithm}/{family}-pixels" if algorithm == "meld" else f"{algorithm}/{family}"
        experiment = nacre.make_experiment(name)
        assert (experiment.name, experiment.family) == (name, name.partition("/")[2])
        validate(experiment, family_of(experiment))


def test_what_is_no_starting_point() -> None:
    with pytest.raises(nacre.NacreError, match=r"'meld/ant-dri-pixels' .*any algorithm trains on any family"):
        nacre.make_experiment("meld/ant-dri-pixels")
    with pytest.raises(nacre.NacreError, match="family_options is 'junk'; allowed: values by name"):
        nacre.make_experiment("pearl/clock", family_options="junk")
    with pytest.raises(nacre.NacreError, match="did you mean pearl/clock"):
        nacre.make_experiment("pearl/clok")


@pytest.mark.parametrize(
    ("steps", "exploration", "message"),
    [
        (20, 1, "evaluation_steps is 20; allowed for point-robot with exploration_episodes=1: more than 20, as"),
        (15, 3, "evaluation_steps is 15; allowed for point-robot with exploration_episodes=3: more than 60, as"),
        (60, 3, "exploration_episodes is 3; allowed: at most 2, as evaluation_steps=60 are 3 episode"),
    ],
)
def test_no_message_suggests_what_another_check_forbids(steps: int, exploration: int, message: str) -> None:
    changes = {"evaluation_steps": steps, "exploration_episodes": exploration}
    experiment = nacre.make_experiment("pearl/point-robot", **changes)
    with pytest.raises(nacre.NacreError, match=message):
        validate(experiment, family_of(experiment))
