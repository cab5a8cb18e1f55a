"""What reports show beside returns, and the numbers behind every figure, against calculations of their own."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import nacre
from nacre.agents.cemrl.report import Course, encodings_of, tasks_in_force
from nacre.errors import NacreError
from nacre.evaluation import Evaluation, TrialResult
from nacre.loading import TrainedRun
from nacre.protocol import Protocol
from nacre.report import numbers
from nacre.report.drawing import numbered, svg_of
from nacre.report.html import Picture, picture
from nacre.report.numbers import Numbers, crossed, joined, rows_of, write_numbers
from nacre.report.response_figures import moving_mean, moving_window, response_pictures
from nacre.report.task_figures import task_in_words, task_pictures, tasks_along
from nacre.report.trials import RunTest
from nacre.runtime import learner_for
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily, TaskSplit
from nacre.tasks.quantities import labels_of, measure, unit_of
from nacre.types import Episode


def table(of: Picture | Numbers | None) -> dict[str, list[str]]:
    """A table as another program reads its CSV."""
    found = of.numbers if isinstance(of, Picture) else of
    assert found is not None
    rows = list(csv.reader(io.StringIO(found.csv().decode())))
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(rows[0])}


def floats(cells: list[str]) -> np.ndarray:
    return np.array([float(cell or "nan") for cell in cells])


# Tables


def test_a_table_has_a_row_for_each_combination() -> None:
    returns = np.array([[1.0, 2.5], [np.nan, -4.0]])
    columns = crossed(
        {"task": [1, 2], "episode": [1, 2]},
        {"return": returns, "success": returns > 2},
        {"task": {"goal (m)": np.array([0.25, -1e-9]), "episode": np.array([7.0, 8.0])}},
    )
    assert Numbers("returns", columns).csv().decode() == (
        "task,goal (m),episode (parameter),episode,return,success\n"
        "1,0.25,7,1,1,0\n1,0.25,7,2,2.5,1\n2,-1e-09,8,1,,0\n2,-1e-09,8,2,-4,0\n"
    )
    assert table(Numbers("part", rows_of(columns, [3])))["return"] == ["-4"]
    assert table(Numbers("twice", joined([columns, columns])))["task"] == ["1", "1", "2", "2"] * 2


def test_numbers_can_be_read_back() -> None:
    values = np.array([1 / 3, 123456789.0, -0.0, 2.7e-7, np.inf])
    found = table(
        Numbers("a", {"x": values, "y": values.astype(np.float32), "words": np.array(["a,b", "", "ü", "'", '"'])})
    )
    np.testing.assert_allclose(floats(found["x"]), values, rtol=1e-9)
    np.testing.assert_allclose(floats(found["y"]), values, rtol=1e-6)
    assert found["x"][2] == "0"
    assert found["words"] == ["a,b", "", "ü", "'", '"']


def test_small_tables_are_in_the_page_and_large_ones_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MOST_INSIDE", 20)
    page = tmp_path / "my page.html"
    tables = [
        Numbers("long", {"x": np.arange(9)}),
        Numbers("a", {"x": np.arange(3)}),
        Numbers("b", {"x": np.arange(4)}),
    ]
    addresses = write_numbers(page, [table.prefixed("seed-1-") for table in tables])
    assert addresses["seed-1-long"] == "my%20page-data/seed-1-long.csv"
    for name, content in (("a", b"x\n0\n1\n2\n"), ("b", b"x\n0\n1\n2\n3\n")):
        kind, inside = addresses[f"seed-1-{name}"].split(",")
        assert kind == "data:text/csv;charset=utf-8;base64"
        assert base64.b64decode(inside) == content
        assert (tmp_path / f"my page-data/seed-1-{name}.csv").read_bytes() == content
    assert sorted(path.name for path in (tmp_path / "my page-data").iterdir()) == [
        "seed-1-a.csv",
        "seed-1-b.csv",
        "seed-1-long.csv",
    ]
    (tmp_path / "other-data").write_text("a file")
    with pytest.raises(NacreError, match="cannot make the folder"):
        write_numbers(tmp_path / "other.html", tables)
    with pytest.raises(ValueError, match="two tables of a page have the same name"):
        write_numbers(page, tables * 2)
    with pytest.raises(ValueError, match="the name of a table is"):
        Numbers("../x", {})


# Figures in the page


def test_marks_tell_their_values() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1.0, 2.0, 3.0], [4.0, np.nan, 0.125], "o", label="<test> & task")
    axes.plot([1.0, 2.0], [0.0, 1.0], label="_task 3")
    axes.scatter([1.5], [2.0])
    element = numbered(svg_of(figure, 'what "it" shows'), 7)
    root = ElementTree.fromstring(element)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'what "it" shows')
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["1.5, 2", "<test> & task: 1, 4", "<test> & task: 3, 0.125", "task 3"]
    names = re.findall(r'\bid="([^"]+)"', element)
    assert names
    assert all(name.startswith("figure-7-") for name in names)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', element)) == set(names)
    assert "<style" not in element


# What tasks are about


def test_units_are_those_of_the_quantity() -> None:
    assert [unit_of(words) for words in ("velocity (m/s)", "x", "(m)", "what it asks (m or rad)")] == [
        "m/s",
        "",
        "",
        "",
    ]
    tasks = np.array([[0.5], [2.0]])
    assert labels_of(make_family("cheetah-vel"), tasks) == ["target velocity (m/s)"]
    assert labels_of(make_family("cheetah-dir"), tasks) == ["direction"]
    assert labels_of(make_family("point-robot"), np.array([[0.5, 1.0], [0.0, 0.0]])) == ["goal x", "goal y"]


def runs_at(velocities: list[float], tasks: list[float] | None = None) -> Episode:
    """An episode of a half-cheetah with these velocities in m/s; the reward is the number of the step."""
    n, states = len(velocities), np.zeros((len(velocities) + 1, 3))
    states[:, 0] = np.cumsum([0.0, *velocities]) * 0.05
    return Episode(
        observations=np.zeros((n + 1, 20), np.float32),
        actions=np.zeros((n, 6), np.float32),
        rewards=np.arange(1, 1 + n, dtype=np.float32),
        sparse_rewards=None,
        terminated=False,
        reward_states=states,
        tasks=None if tasks is None else np.array(tasks)[:, None],
    )


def test_what_is_measured_follows_the_task_in_force() -> None:
    family = make_family("cheetah-vel")
    found = measure(family, runs_at([1.0, 2.0, 3.0], [0.5, 0.5, 2.5]), np.array([0.5]))
    np.testing.assert_allclose(found.measured, [1, 2, 3])
    np.testing.assert_array_equal(found.target, [0.5, 0.5, 2.5])
    np.testing.assert_array_equal(found.changes, [False, False, True])
    found = measure(family, runs_at([1.0, 2.0]), np.array([0.5]))
    np.testing.assert_array_equal(found.target, [0.5, 0.5])
    assert not found.changes.any()
    assert np.isnan(measure(make_family("cheetah-dir"), runs_at([1.0]), np.array([1.0])).target).all()


@pytest.mark.parametrize(("horizon", "window"), [(20, 1), (100, 5), (200, 10), (1000, 10)])
def test_a_moving_mean_is_of_the_latest_steps(horizon: int, window: int) -> None:
    assert moving_window(horizon) == window
    values = np.random.default_rng(0).normal(size=30)
    expected = [np.mean(values[max(0, end - window) : end]) for end in range(1, 31)]
    np.testing.assert_allclose(moving_mean(values, window), expected)


# Meta-tests


def meta_test(
    family: TaskFamily, tasks: list[list[float]], trials: list[list[Episode]], train: Evaluation | None = None
) -> RunTest:
    """A meta-test with one trial on each task."""
    experiment = nacre.make_experiment("pearl/point-robot")
    trained = TrainedRun(
        experiment,
        family,
        TaskSplit(np.array(tasks), np.array(tasks)),
        Path("iteration_000001"),
        learner_for(experiment, make_family("point-robot")),
        None,
    )
    results = [[float(np.sum(episode.rewards)) for episode in trial] for trial in trials]
    return RunTest(trained, evaluation(tasks, results), [[trial] for trial in trials], None, train)


def evaluation(tasks: list[list[float]], returns: list[list[float]]) -> Evaluation:
    protocol = Protocol("own", 1, 0, len(returns[0]), exploration_episodes=0)
    results = tuple((TrialResult(tuple(row), (1,) * len(row), None),) for row in returns)
    return Evaluation(protocol, np.array(tasks), results)


def test_the_time_response_is_what_was_measured() -> None:
    velocities = [[0.0, 1.0, 1.5], [1.0, 1.25]]
    trials = [[runs_at(row) for row in velocities], [runs_at([2.0, 4.0, 6.0], [3.0, 3.0, 1.0])] * 2]
    panels, together = response_pictures(meta_test(make_family("cheetah-vel"), [[1.5], [3.0]], trials))
    found = table(panels)
    assert list(found) == [
        "task",
        "target velocity (m/s)",
        "episode",
        "step of the episode",
        "velocity (m/s)",
        "mean of 10 steps of the velocity (m/s)",
        "target of the velocity (m/s)",
        "task changes",
        "reward",
    ]
    assert found["task"] == ["1"] * 5 + ["2"] * 6
    assert found["episode"] == [*"11122", *"111222"]
    assert found["step of the episode"] == [*"12312", *"123123"]
    np.testing.assert_allclose(floats(found["velocity (m/s)"]), [0, 1, 1.5, 1, 1.25, 2, 4, 6, 2, 4, 6], atol=1e-12)
    smooth = [0, 0.5, 2.5 / 3, 1, 1.125, 2, 3, 4, 2, 3, 4]
    np.testing.assert_allclose(floats(found["mean of 10 steps of the velocity (m/s)"]), smooth, rtol=1e-9, atol=1e-12)
    assert found["target of the velocity (m/s)"] == ["1.5"] * 5 + ["3", "3", "1"] * 2
    assert found["task changes"] == [*"00000", *"001001"]
    assert found["reward"] == [*"12312", *"123123"]
    last = table(together)
    assert last["task"] == ["1"] * 2 + ["2"] * 3
    assert set(last["episode"]) == {"2"}
    # The second halves of the last episodes are 0.25 and 1.0 and 5.0 from their targets.
    assert f"the mean distance to the target is {np.mean([0.25, 1.0, 5.0]):.2f}." in together.alt
    assert "Vertical lines are changes of the task." in panels.caption
    assert "Dotted lines are resets." in panels.caption


def test_without_a_target_or_changes_none_are_spoken_of() -> None:
    tasks = [[-1.0], [1.0]]
    panels, together = response_pictures(meta_test(make_family("cheetah-dir"), tasks, [[runs_at([1.0, 3.0])]] * 2))
    assert floats(table(panels)["velocity in the direction (m/s)"]) == pytest.approx([-1, -3, 1, 3])
    assert table(panels)["target of the velocity in the direction (m/s)"] == [""] * 4
    for each in (panels, together):
        for word in ("target", "asks for", "changes", "resets"):
            assert word not in each.caption + each.alt


def test_families_that_name_no_quantity_have_no_time_response() -> None:
    family, trials = make_family("cheetah-vel"), [[runs_at([1.0])], [runs_at([2.0])]]
    assert len(response_pictures(meta_test(family, [[1.0], [2.0]], trials))) == 2
    without = [[dataclasses.replace(episode, reward_states=None) for episode in trial] for trial in trials]
    assert response_pictures(meta_test(family, [[1.0], [2.0]], without)) == []
    family.quantity = None
    assert response_pictures(meta_test(family, [[1.0], [2.0]], trials)) == []


def test_returns_stand_over_one_parameter_beside_those_of_train_tasks() -> None:
    family, trials = make_family("cheetah-vel"), [[runs_at([1.0]), runs_at([1.0, 1.0])]] * 2
    tested = meta_test(family, [[2.0], [1.0]], trials)
    assert task_pictures(tested) == []
    (shown,) = task_pictures(dataclasses.replace(tested, train=evaluation([[0.5]], [[-7.0, -5.5]])))
    assert table(shown) == {
        "tasks": ["test"] * 4 + ["train"] * 2,
        "task": [*"1122", *"11"],
        "target velocity (m/s)": [*"2211", "0.5", "0.5"],
        "episode": [*"121212"],
        "return": [*"1313", "-7", "-5.5"],
    }
    assert "on 1 train tasks" in shown.caption


def test_returns_of_two_parameters_stand_in_a_plane_and_of_many_nowhere() -> None:
    trials = [[runs_at([1.0]), runs_at([2.0])]] * 2
    tasks = [[0.5, -1.0], [0.25, 0.75]]
    (shown,) = task_pictures(meta_test(make_family("point-robot"), tasks, trials))
    assert floats(table(shown)["goal y"]).tolist() == [-1, -1, 0.75, 0.75]
    assert "goal x and goal y" in shown.caption
    walker = make_family("walker-rand-params")
    many = walker.sample_tasks(np.random.default_rng(0), 2).tolist()
    assert task_pictures(meta_test(walker, many, trials)) == []


def test_kinds_of_tasks_stand_in_columns() -> None:
    family = make_family("cheetah-multi-task", variants=("velocity", "jumping"))
    velocity, jumping = family.VARIANTS.index("velocity"), family.VARIANTS.index("jumping")  # type: ignore[attr-defined]
    tasks = np.array([[jumping, 0.0], [velocity, 2.0], [velocity, 1.0]])
    first, second = tasks_along(family, tasks)
    assert (first.title, first.tasks.tolist(), first.places.tolist()) == ("velocity", [2, 1], [1.0, 2.0])
    assert (second.title, second.tasks.tolist(), second.places.tolist()) == ("jumping", [0], [0.0])
    assert [task_in_words(family, tasks, index) for index in (1, 0)] == [
        "velocity, number 2.00",
        "jumping, number 0.00",
    ]
    (shown,) = task_pictures(meta_test(family, tasks.tolist(), [[runs_at([1.0])]] * 3))
    assert "a column for each kind" in shown.caption
    assert len(response_pictures(meta_test(family, tasks.tolist(), [[runs_at([1.0])]] * 3))) == 2
    # A family of one parameter has one axis, and one of two has both.
    assert [each.label for each in tasks_along(make_family("cheetah-vel"), tasks[:, 1:])] == ["target velocity (m/s)"]
    assert [each.label for each in tasks_along(make_family("point-robot"), tasks)] == ["goal x", "goal y"]


def test_encodings_are_of_the_task_in_force_once_the_window_is_of_it() -> None:
    """Two trials of 8 steps with a window of 2. The first changes its task at step 5 (from 0), the second ends at 6."""
    in_force = np.full((8, 2, 1), 1.0)
    in_force[5:, 0] = 3.0
    in_force[6:, 1] = np.nan
    latent = np.arange(16, dtype=np.float32).reshape(8, 2, 1)
    classes = np.stack([latent[..., 0] / 20, 1 - latent[..., 0] / 20], axis=-1)
    course = Course(np.where(np.isnan(in_force), np.float32(np.nan), latent), classes, np.zeros((8, 2), bool))
    found = encodings_of(course, in_force, window=2)
    # Task 1 in steps 4 of the first trial, 3 to 5 of the second; task 3 in step 7: steps 5 and 6 are too near.
    assert found.tasks.tolist() == [[1.0], [3.0]]
    assert found.steps.tolist() == [4, 1]
    np.testing.assert_allclose(found.mean, [[np.mean([8, 7, 9, 11])], [14]])
    np.testing.assert_allclose(found.deviation, [[np.std([8, 7, 9, 11])], [0]], rtol=1e-6)
    np.testing.assert_allclose(found.class_share, [[1 / 4, 3 / 4], [1, 0]])
    np.testing.assert_allclose(found.class_probabilities[0], [35 / 80, 45 / 80], rtol=1e-6)


def test_encodings_of_trials_that_end_early_count() -> None:
    """Each trial has a second half of its own."""
    in_force = np.full((8, 2, 1), np.nan)
    in_force[:, 0], in_force[:3, 1] = 1.0, 2.0
    latent = np.arange(16, dtype=np.float32).reshape(8, 2, 1)
    course = Course(latent, np.ones((8, 2, 1), np.float32), np.zeros((8, 2), bool))
    found = encodings_of(course, in_force, window=2)
    assert found.tasks.tolist() == [[1.0], [2.0]]
    assert found.steps.tolist() == [4, 2]
    np.testing.assert_allclose(found.mean[1], [np.mean([3, 5])])


def test_the_task_in_force_is_that_of_each_step() -> None:
    trials = [[runs_at([1.0, 1.0], [0.5, 2.0]), runs_at([1.0])], [runs_at([1.0])]]
    found: Any = tasks_in_force(meta_test(make_family("cheetah-vel"), [[0.5], [1.0]], trials))
    np.testing.assert_array_equal(found[:, :, 0], [[0.5, 1.0], [2.0, np.nan], [0.5, np.nan]])


def test_an_own_figure_needs_no_numbers() -> None:
    """Modules of other people draw as before."""
    own = picture(Figure(), "alt", "caption")
    assert own.numbers is None
    assert own.prefixed("seed-1-") is own
    assert own.element(3).startswith("<svg ")
