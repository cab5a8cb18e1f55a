"""Runs the code of docs/own-family.md as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from nacre.tasks import FAMILIES, Simulator, make_family, split_tasks

PAGE = Path(__file__).parent.parent / "docs" / "own-family.md"


@pytest.fixture(scope="module")
def page():
    """The names that the page's Python blocks define, and the blocks."""
    before = dict(FAMILIES)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "nacre.train(" not in block]  # tests/test_docs_code.py runs it
    names = {"__name__": "own_family"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    yield names, blocks
    FAMILIES.clear()
    FAMILIES.update(before)


def test_the_listing_is_about_40_lines(page):
    _, blocks = page
    code = [line for line in blocks[0].splitlines() if line.strip()]
    assert 30 <= len(code) <= 45


def test_the_family_adapts_to_nothing_but_is_a_family(page):
    names, _ = page
    assert names["tasks"].train.shape == (20, 1)
    assert names["truncated"].all()
    assert not names["terminated"].any()
    # Proportional control without knowing the wind stays near the buoy, but not on it, by how strong the wind is.
    observations, winds = names["observations"], names["tasks"].test[:, 0]
    np.testing.assert_allclose(observations[:, 0], 1 + winds / 2, atol=0.1)


def test_rewards_and_terminations_of_the_page_by_hand(page):
    simulator = Simulator(make_family("windy-line"), 2)
    start, _ = simulator.reset(seed=1, options={"tasks": np.array([[0.5], [-0.25]])})
    observations, rewards, *_ = simulator.step(np.array([[1.0], [-0.5]], np.float32))
    velocity = start[:, 1] + 0.1 * np.array([2.0 + 0.5, -1.0 - 0.25])
    position = start[:, 0] + 0.1 * velocity
    np.testing.assert_allclose(observations, np.stack([position, velocity], axis=1), rtol=1e-5)
    np.testing.assert_allclose(rewards, -np.abs(position - 1) - [0.1, 0.025], rtol=1e-5)
    simulator.reset(seed=1, options={"tasks": np.array([[40.0], [0.0]])})
    ends = [simulator.step(np.zeros((2, 1), np.float32))[2] for _ in range(20)]
    np.testing.assert_array_equal(ends[-1], [True, False])


def test_the_wrapped_environment_of_the_page(page):
    family = make_family("pendulum-gravity")
    simulator = Simulator(family, 2)
    tasks = np.array([[5.0], [15.0]])
    start, _ = simulator.reset(seed=[3, 3], options={"tasks": tasks})
    np.testing.assert_array_equal(start[0], start[1])
    observations, rewards, *_ = simulator.step(np.array([[0.5], [0.5]], np.float32))
    # Gymnasium's pendulum: torque 2 u, dt 0.05, mass and length 1.
    angle, speed = np.arctan2(start[:, 1], start[:, 0]), start[:, 2]
    np.testing.assert_allclose(rewards, -(angle**2 + 0.1 * speed**2 + 0.001 * 1.0**2), rtol=1e-4)
    faster = speed + 0.05 * (1.5 * tasks[:, 0] * np.sin(angle) + 3 * 1.0)
    np.testing.assert_allclose(observations[:, 2], faster, rtol=1e-4)
    for _ in range(199):
        *_, truncations, _ = simulator.step(np.zeros((2, 1), np.float32))
    assert truncations.all()
    simulator.close()


def test_the_split_of_the_page_holds_out_gales(page):
    split = split_tasks(make_family("windy-line-held-out-gales"), 20, 5, 0, "seeded")
    assert (split.train.shape, split.test.shape) == ((20, 1), (5, 1))
    assert abs(split.train).max() <= 0.5 <= split.test.min()
