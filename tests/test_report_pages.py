"""The pages of `nacre report` and `nacre compare`: their numbers, what is in them, and what they refuse."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from written import FIRST, LAST, edit, read_events, with_seed

import nacre
from nacre import cli, run_evaluation
from nacre.agents.pearl.agent import PearlBelief
from nacre.agents.pearl.report import posteriors_after, shown_parameters, widest_dimensions
from nacre.configuration import AlgorithmConfig
from nacre.errors import NacreError
from nacre.evaluation import Evaluation, MetaTest, TrialResult
from nacre.loading import TrainedRun, read_trained
from nacre.protocol import Protocol
from nacre.report import parse_groups, write_comparison, write_report
from nacre.report.curves import STEPS, read_runs
from nacre.report.drawing import Switch, svg_of
from nacre.report.figures import seed_lines
from nacre.report.films import films_of, find_videos
from nacre.report.html import number, percent
from nacre.report.intervals import difference_interval, interquartile_mean, interval
from nacre.report.references import ReferenceCurve
from nacre.report.run_report import _learning_picture, pictures_of
from nacre.report.trial_figures import (
    returns_by_episode,
    returns_by_task,
    reward_panels,
    spread,
    success_of_episodes,
)
from nacre.report.trials import RunTest, protocol_in_words
from nacre.runtime import learner_for
from nacre.tasks.family import TaskSplit
from nacre.types import Episode

# Numbers


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4.0], 4.0),
        ([3.0, 1.0, 8.0], 4.0),  # a quarter of three, rounded down, is none
        ([100.0, 1.0, 0.0, 3.0], 2.0),
        ([9.0, 1.0, 4.0, 8.0, 3.0], 5.0),
        ([0.0, 1000.0, 2.0, 4.0, -1000.0, 6.0, 8.0, -50.0], 3.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)
    columns = np.column_stack([values, np.negative(values)])
    np.testing.assert_allclose(interquartile_mean(columns), [expected, -expected])


def middle_mean(values: tuple[float, ...]) -> float:
    ordered, cut = sorted(values), len(values) // 4
    return float(np.mean(ordered[cut : len(values) - cut]))


def redrawn(values: list[float]) -> list[float]:
    """The interquartile mean of every sample that can be drawn, all equally likely."""
    return [middle_mean(sample) for sample in itertools.product(values, repeat=len(values))]


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1.0, 2.0, 4.0, 8.0], [3.0, -2.0, 0.0, 10.0, 4.5]])
def test_an_interval_holds_the_middle_of_all_samples_that_can_be_drawn(values: list[float]) -> None:
    expected = np.quantile(redrawn(values), [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose(interval(np.array(values)), expected)
    # Column by column, and the same at every call.
    columns = np.column_stack([values, np.add(values, 100)])
    found = interval(columns)
    assert found is not None
    np.testing.assert_allclose(np.stack(found), np.column_stack([expected, expected + 100]))
    np.testing.assert_array_equal(np.stack(found), interval(columns))


def test_a_difference_draws_each_group_from_its_own_runs() -> None:
    one, other = [1.0, 2.0, 4.0], [10.0, 13.0, 20.0]
    differences = [x - y for x in redrawn(one) for y in redrawn(other)]
    expected = np.quantile(differences, [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose(difference_interval(np.array(one), np.array(other)), expected)


def test_two_runs_make_no_interval() -> None:
    assert interval(np.array([1.0, 2.0])) is None
    assert difference_interval(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0])) is None


def test_numbers_for_people() -> None:
    assert [number(value) for value in (-0.01, -1234.56, 0.25, float("nan"), float("-inf"))] == [
        "0.0",
        "\N{MINUS SIGN}1\N{NARROW NO-BREAK SPACE}234.6",
        "0.2",
        "not a number",
        "infinite",
    ]
    assert [percent(value) for value in (0.256, -0.1, float("nan"))] == [
        "26\N{NARROW NO-BREAK SPACE}%",
        "\N{MINUS SIGN}10\N{NARROW NO-BREAK SPACE}%",
        "not a number",
    ]
    assert number(2_700_000, 0) == "2\N{NARROW NO-BREAK SPACE}700\N{NARROW NO-BREAK SPACE}000"


def test_posteriors_are_those_that_the_agent_had(tiny_run: Path) -> None:
    trained = read_trained(tiny_run)
    capacity = 3 * trained.family.horizon

    def beliefs_after(episodes: int) -> PearlBelief:
        protocol = Protocol("custom", trials=1, steps=0, episodes=episodes, exploration_episodes=1)
        return run_evaluation.play_trials(trained, trained.split.test, protocol, seed=5).belief

    end = beliefs_after(3)
    counts = np.array([[0, 0], [20, 20], [40, 60]])
    found = posteriors_after(trained.agent(capacity), trained.parameters, end, counts)
    np.testing.assert_allclose(found.mean[0], 0, atol=1e-6)
    np.testing.assert_allclose(found.variance[0], 1, atol=1e-6)
    first, second = beliefs_after(1), beliefs_after(2)
    np.testing.assert_allclose(found.mean[1], first.mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance[1], first.variance, rtol=1e-5)
    np.testing.assert_allclose(found.mean[2], [second.mean[0], end.mean[1]], rtol=1e-5)
    assert (found.variance[2] < found.variance[1]).all()


def test_parameters_that_posteriors_tell_about_are_shown() -> None:
    generator = np.random.default_rng(0)
    tasks = generator.normal(size=(40, 5))
    means = np.column_stack([2 * tasks[:, 3] + 1, -tasks[:, 1], 0.01 * generator.normal(size=40)]).astype(np.float32)
    assert shown_parameters(means, tasks) == [1, 3]
    assert shown_parameters(means, tasks[:, :2]) == [0, 1]
    assert shown_parameters(means, tasks[:, :1]) == [0]
    assert widest_dimensions(means[:, [2, 0, 1]]) == [1, 2]
    assert widest_dimensions(means[:, :1]) == [0]


def test_tasks_are_drawn_across_their_range() -> None:
    tasks = np.array([[3.0], [1.0], [2.0], [5.0], [4.0]])
    assert spread(tasks, 3) == [1, 0, 3]
    assert spread(tasks, 9) == [1, 2, 0, 4, 3]


# Figures


def evaluation(tasks: list[list[float]], exploration: int = 2, success: bool = False) -> Evaluation:
    """Three tasks; their last returns are -1, -3 and -2 (a mean over two trials). Returns above -5 are successes."""
    returns = ([(-9.0, -5.0, -1.0)], [(-8.0, -4.0, -3.0)], [(-6.0, -7.0, 0.0), (-8.0, -9.0, -4.0, -3.0)])

    def result(trial: tuple[float, ...]) -> TrialResult:
        return TrialResult(trial, (1,) * len(trial), tuple(value > -3.5 for value in trial) if success else None)

    trials = tuple(tuple(result(trial) for trial in of_task) for of_task in returns)
    return Evaluation(Protocol("custom", 1, 3, 1, exploration_episodes=exploration), np.array(tasks), trials)


def test_every_task_has_its_line_and_the_mean_is_over_tasks() -> None:
    axes = Figure().subplots()
    returns_by_episode(axes, evaluation([[0.5], [2.0], [1.0]]), ["velocity"])
    lines = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    np.testing.assert_allclose(lines, [[-9, -5, -1], [-8, -4, -3], [-7, -8, -2], [-8, -17 / 3, -2]])
    assert len({line.get_color() for line in axes.get_lines()[:3]}) == 3
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == pytest.approx((0.5, 2.5))  # the two episodes of exploration
    assert [text.get_text() for text in axes.texts] == ["grey: task unknown"]


def test_nothing_is_grey_if_nothing_is_explored() -> None:
    axes = Figure().subplots()
    returns_by_episode(axes, evaluation([[0.5], [2.0], [1.0]], exploration=0), ["velocity"])
    assert not axes.patches
    assert not axes.texts


def test_success_is_the_share_of_trials_by_task_and_episode() -> None:
    assert evaluation([[0.5], [2.0], [1.0]]).successes_by_episode is None
    measured = evaluation([[0.5], [2.0], [1.0]], success=True)
    success = measured.successes_by_episode
    assert success is not None
    np.testing.assert_array_equal(success, [[0, 0, 1], [0, 0, 1], [0, 0, 0.5]])
    axes = Figure().subplots()
    success_of_episodes(axes, measured, success, ["velocity"])
    lines = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    np.testing.assert_allclose(lines, [*success, [0, 0, 2.5 / 3]])
    assert axes.get_ylabel() == "success"


def test_first_and_last_episode_stand_at_the_parameter_or_in_order() -> None:
    axes = Figure().subplots()
    returns_by_task(axes, evaluation([[0.5], [2.0], [1.0]]), ["target_velocity"])
    first, last = axes.get_lines()
    np.testing.assert_array_equal(first.get_xydata(), [[0.5, -9], [2, -8], [1, -7]])
    np.testing.assert_array_equal(last.get_xydata(), [[0.5, -1], [2, -3], [1, -2]])
    assert axes.get_xlabel() == "target velocity"
    axes = Figure().subplots()
    returns_by_task(axes, evaluation([[0.5, 1], [2.0, 1], [1.0, 1]]), ["goal_x", "goal_y"])
    np.testing.assert_array_equal(axes.get_lines()[1].get_xydata(), [[3, -1], [1, -3], [2, -2]])


def test_rewards_are_drawn_by_episode_dense_or_sparse() -> None:
    def episode(rewards: list[float]) -> Episode:
        n = len(rewards)
        sparse = np.array(rewards, np.float32) + 100
        zeros = np.zeros((n + 1, 1), np.float32)
        return Episode(zeros, zeros[1:], np.array(rewards, np.float32), sparse, terminated=True)

    trials = [[episode([1, 2, 3]), episode([4])], [episode([5, 6])]]
    for sparse, offset in ((False, 0), (True, 100)):
        figure = Figure()
        reward_panels(figure, trials, ["one", "two"], sparse)
        left, right = figure.axes
        np.testing.assert_array_equal(
            left.get_lines()[0].get_xydata(), [[1, 1 + offset], [2, 2 + offset], [3, 3 + offset]]
        )
        np.testing.assert_array_equal(left.get_lines()[1].get_xydata(), [[1, 4 + offset]])
        np.testing.assert_array_equal(right.get_lines()[0].get_ydata(), [5 + offset, 6 + offset])


# Pages


@dataclass
class Content(HTMLParser):
    """What a page holds: its images, its tables by caption, its headings, and addresses of other things."""

    images: list[dict[str, str | None]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    downloads: dict[str, str] = field(default_factory=dict)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag == "svg":
            self.images.append({"alt": attributes["aria-label"]})
        if tag == "a" and "download" in attributes:
            self.downloads[attributes["download"] or ""] = attributes["href"] or ""
        if tag == "tr":
            self._rows.append([])
        self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data
        self.words += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._rows = self.tables[self._text] = []
        if tag in ("th", "td"):
            self._rows[-1].append(self._text)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(self._text)


def read(page: Path) -> Content:
    content = Content()
    content.feed(page.read_text(encoding="utf-8"))
    # Self-contained: nothing is fetched, links stay inside the page, every picture is whole and described.
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == len(content.images) > 0
    for picture, image in zip(pictures, content.images, strict=True):
        assert re.fullmatch(r"[A-Z].{40,}\.", image["alt"] or "", re.DOTALL)
        names = {element.get("id") for element in ElementTree.fromstring(picture).iter()} - {None}
        assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", picture)) <= names
    identities = re.findall(r'\bid="([^"]+)"', text)
    assert len(identities) == len(set(identities))
    assert not re.search(r"<script|<link|<style.*<style|@import|url\((?!#)", text, re.DOTALL)
    # Every figure has its numbers, in the page and beside it.
    assert len(content.downloads) == len(content.images)
    for name, address in content.downloads.items():
        beside = (page.with_name(f"{page.stem}-data") / name).read_bytes()
        if address.startswith("data:"):
            assert base64.b64decode(address.removeprefix("data:text/csv;charset=utf-8;base64,")) == beside
        else:
            assert address == f"{page.stem}-data/{name}"
    others = set(content.addresses) - set(content.downloads.values())
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in others)  # colour bars are images
    return content


def numbers_of(path: Path) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return {name: [row[index] for row in rows] for index, name in enumerate(head)}


def cell(value: float, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def test_a_report_shows_what_was_learnt_and_how(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = with_seed(tiny_run, tmp_path / "one", 1), with_seed(tiny_run, tmp_path / "two", 2)
    edit(two, lambda content: content["versions"].update(git_commit="f00d", nacre="<b>odd</b>"))
    cli.main(["report", str(two), str(one)])
    out = capsys.readouterr().out
    assert out.splitlines() == [
        f"{one}: iteration_000002 plays 2 trial(s) of 3 episodes on each of 2 test tasks and 2 train tasks",
        f"{two}: iteration_000002 plays 2 trial(s) of 3 episodes on each of 2 test tasks and 2 train tasks",
        f"Written to {two / 'report.html'}",
    ]
    content = read(two / "report.html")
    figures = ("Returns", "Posteriors", "Posterior widths", "Response", "Response all tasks", "Trajectories")
    assert {*content.headings} == {
        "pearl/point-robot",
        "Learning",
        "Adaptation of seed 1",
        "Adaptation of seed 2",
        "Origin",
        "Returns over tasks",
        *figures,
    }
    for anchor in ("seed-1-returns", "seed-2-trajectories"):
        text = (two / "report.html").read_text(encoding="utf-8")
        assert (text.count(f'href="#{anchor}"'), text.count(f'id="{anchor}"')) == (1, 1)
    names = ("posterior-widths", "posteriors", "response", "response-all-tasks", "returns", "returns-over-tasks")
    expected_names = [f"seed-{seed}-{name}.csv" for seed in (1, 2) for name in (*names, "trajectories")]
    assert sorted(content.downloads) == sorted(["learning.csv", *expected_names])
    assert "Learning curve of 2 seed(s)" in (content.images[0]["alt"] or "")
    assert "given the task, at its end" in content.words

    facts = dict(content.tables["How it was trained and tested"])
    assert facts["Experiment"] == "pearl/point-robot"
    assert facts["Seeds"] == "1, 2"
    assert facts["Iterations"] == "2"
    assert facts["Gradient steps"] == "8"
    assert facts["Protocol"].startswith(
        "deterministic-context: 2 trial(s) on each of 2 test tasks; a trial has 3 episodes"
    )
    recorded = json.loads((one / "experiment.json").read_text())["versions"]
    versions = dict(content.tables["Machine, versions and git commit"])
    assert versions["jax"] == recorded["jax"]
    commit = recorded["git_commit"] or "not recorded"
    assert versions["git commit"] == f"{commit} (seed 1); f00d (seed 2)"
    assert versions["nacre"].endswith("; <b>odd</b> (seed 2)")  # as text, not as a tag
    configuration = {name: rest for name, *rest in content.tables["Configuration"]}
    assert configuration["hidden_size"] == ["8", "300"]
    assert configuration["discount"] == ["0.99", ""]

    learning = numbers_of(two / "report-data/learning.csv")
    assert learning["seed"] == ["1", "1", "2", "2"]
    with open(one / "progress.csv", newline="") as file:
        recorded_returns = [float(row[LAST]) for row in csv.DictReader(file)] * 2
    np.testing.assert_allclose(np.array(learning["return of the last episode"], float), recorded_returns, rtol=1e-9)

    # The trials are those of `nacre evaluate`. (The second seed's table replaces the first's: same caption.)
    expected = nacre.evaluate(two)
    rows = content.tables["Return and success of each episode on each test task, mean over trials"]
    assert rows[0][:6] == ["task", "goal x", "goal y", "ep. 1", "ep. 2", "ep. 3"]
    for row, task, returns in zip(rows[1:], expected.tasks, expected.returns_by_episode, strict=False):
        assert row[1:6] == [*(cell(value, 3) for value in task), *(cell(value) for value in returns)]
    assert rows[-1][:6] == ["mean", "", "", *(cell(value) for value in expected.returns_by_episode.mean(axis=0))]
    returns = numbers_of(two / "report-data/seed-2-returns.csv")
    np.testing.assert_allclose(np.array(returns["return"], float), expected.returns_by_episode.ravel(), rtol=1e-9)
    np.testing.assert_allclose(np.array(returns["goal y"], float), expected.tasks[:, 1].repeat(3), rtol=1e-9)


def test_seeds_and_groups_can_be_switched_off(tiny_run: Path, tmp_path: Path) -> None:
    runs = [with_seed(tiny_run, tmp_path / f"run-{seed}", seed, (-9.0, -seed)) for seed in (1, 2, 3)]
    experiments, curves = read_runs(runs)
    learning = _learning_picture(experiments[0], curves, ())
    assert [switch[::2] for switch in learning.switches] == [
        ("mean and range", True),
        *((f"seed {seed}", True) for seed in (1, 2, 3)),
    ]
    classes = [group.get("class") for group in ElementTree.fromstring(learning.svg).iter() if group.get("class")]
    # Of the means of return and success two lines and two bands each, of each seed the last episode and episode 1.
    assert sorted(classes) == ["switch-0"] * 8 + ["switch-1"] * 4 + ["switch-2"] * 4 + ["switch-3"] * 4
    assert f"<title>seed 2: {curves[2][STEPS][-1]:.6g}, -2</title>" in learning.svg
    assert _learning_picture(experiments[0], {1: curves[1]}, ()).switches == []

    groups = {"ours": runs, "theirs": [with_seed(tiny_run, tmp_path / "alone", 4)]}
    text = write_comparison(groups, tmp_path / "compare.html").read_text(encoding="utf-8")
    first = text[: text.index("</fieldset>")]
    assert re.findall(r'class="switch-(\d)" autocomplete="off"( checked)?> ([^<]+)<', first) == [
        ("0", " checked", "ours"),
        ("1", " checked", "theirs"),
        ("2", "", "each seed"),
    ]
    assert first.count('class="switch-0 switch-2"') == 3
    for switch in range(3):
        rule = f"figure:has(input.switch-{switch}:not(:checked)) svg .switch-{switch} {{ display: none; }}"
        assert text.count(rule) == 1


def test_a_figure_of_many_seeds_stays_small() -> None:
    steps = np.arange(1.0, 601.0)
    curves = {seed: {STEPS: 1000 * steps, LAST: np.sin(steps + seed), FIRST: np.cos(steps)} for seed in range(30)}
    figure = Figure()
    lines = seed_lines(figure.subplots(), curves, {LAST: "#000000", FIRST: "#ff0000"})
    svg = svg_of(figure, "", [Switch(str(seed), artists) for seed, artists in lines.items()])
    assert 1000 < svg.count("<title>seed ") < 2500


def test_videos_are_in_the_page_or_beside_it(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nacre.evaluate(run_copy, [[0.0, 1.0]], episodes=2, video=True, quiet=True)
    nacre.evaluate(run_copy, [[0.0, 1.0]], episodes=2, video=True, quiet=True, checkpoint="best", trials=1)
    [small] = (run_copy / "evaluations").glob("iteration_000002-own-custom/*.mp4")
    large = small.with_name("task-01.mp4")
    large.write_bytes(small.read_bytes() + bytes(10))
    monkeypatch.setattr("nacre.report.run_report.MOST_INSIDE", small.stat().st_size + 5)
    page = tmp_path / "page s" / "report.html"
    cli.main(["report", str(run_copy), "--out", str(page), "--tensorboard"])
    text = page.read_text(encoding="utf-8")
    [video] = re.findall(r'<video controls .*?src="data:video/mp4;base64,([^"]+)"></video>', text)
    assert base64.b64decode(video) == small.read_bytes()
    [link] = re.findall(r'<a href="([^"]+)">task 1</a>', text)
    assert (page.parent / unquote(link)).resolve() == large.resolve()
    assert "media-src data:" in text
    assert "evaluation <code>iteration_000002-own-custom</code>" in text

    folder = run_copy / "figures"
    assert f"Figures for TensorBoard: {folder}\n" in capsys.readouterr().out
    images = {value.tag: (event.step, value.image) for event in read_events(folder) for value in event.summary.value}
    names = ("learning", "posterior-widths", "posteriors", "response", "returns", "trajectories")
    assert {f"report/{name}" for name in names} | {"videos/task-00"} <= images.keys()
    steps = numbers_of(run_copy / "progress.csv")[STEPS][-1]
    for tag, (step, image) in images.items():
        assert step == float(steps)
        picture = Image.open(io.BytesIO(image.encoded_image_string))
        assert picture.size == (image.width, image.height)
        assert picture.format == ("GIF" if tag.startswith("videos") else "PNG")
    movie: Any = Image.open(io.BytesIO(images["videos/task-00"][1].encoded_image_string))
    assert movie.is_animated
    assert movie.size == (200, 197)
    shutil.rmtree(run_copy / "evaluations")
    assert find_videos(run_copy, "iteration_000002") == []
    assert films_of([], page, 1) is None


def test_other_configurations_have_sections_of_their_own(tiny_run: Path, tmp_path: Path) -> None:
    other = with_seed(tiny_run, tmp_path / "other", 0)
    edit(other, lambda content: content["experiment"]["algorithm"].update(kl_weight=2.0))
    page = write_report([tiny_run, other], tmp_path / "new" / "page.html", checkpoint="best")
    content = read(page)
    own = nacre.make_experiment("pearl/point-robot").algorithm.kl_weight
    names = [f"pearl/point-robot (kl_weight {weight})" for weight in (own, 2.0)]
    assert [heading for heading in content.headings if heading in names] == names
    assert not (tiny_run / "report.html").exists()
    assert not list(tiny_run.rglob("*.html"))


def test_a_comparison_shows_interquartile_means(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [
        with_seed(tiny_run, tmp_path / f"ours-{seed}", seed, (-9.0, value)) for seed, value in enumerate((-1, -2, -4))
    ]
    theirs = [
        with_seed(tiny_run, tmp_path / f"theirs-{seed}", seed, (-9.0, value))
        for seed, value in enumerate((-10, -13, -20))
    ]
    for run in theirs:
        edit(run, lambda content: content["experiment"]["algorithm"].update(kl_weight=7.0))
    alone = with_seed(tiny_run, tmp_path / "alone", 0, (-30.0,))
    out = tmp_path / "page.html"
    named = f"theirs <7>={','.join(map(str, theirs))}"
    cli.main(["compare", *map(str, ours), named, f"alone={alone}", "--out", str(out)])
    assert capsys.readouterr().out == f"Written to {out}\n"
    content = read(out)
    minus = "\N{MINUS SIGN}"
    rows = {
        name: rest
        for name, *rest in content.tables["Test returns after the last iteration: interquartile mean [95 % interval]"]
    }
    assert rows["pearl/point-robot"][0] == "3"
    assert rows["pearl/point-robot"][2:5] == [
        f"{minus}12.3 [{minus}14.0, {minus}11.0]",
        f"{minus}2.3 [{minus}4.0, {minus}1.0]",
        f"{minus}4.0 to {minus}1.0",
    ]
    assert rows["theirs <7>"][3] == f"{minus}14.3 [{minus}20.0, {minus}10.0]"
    assert rows["alone"][0] == "1"
    assert rows["alone"][3:5] == [f"{minus}30.0"] * 2
    # After as many steps as `alone` has, which is one iteration.
    [caption] = [caption for caption in content.tables if "which all seeds have done" in caption]
    differences = {name: rest for name, *rest in content.tables[caption]}
    assert differences["pearl/point-robot"] == [f"{minus}9.0 [{minus}9.0, {minus}9.0]", ""]
    assert differences["theirs <7>"][1] == "0.0 [0.0, 0.0]"
    assert differences["alone"] == [f"{minus}30.0", f"{minus}21.0"]
    assert "No interval for alone" in content.words
    assert "different protocols" not in content.words
    assert "same test tasks" not in content.words
    assert sorted(content.downloads) == ["episodes.csv", "learning-quartiles.csv", "learning.csv", "success.csv"]
    folder = tmp_path / "page-data"
    curve = numbers_of(folder / "learning.csv")
    assert curve["group"] == ["pearl/point-robot"] * 2 + ["theirs <7>"] * 2 + ["alone"]
    assert curve["return of the last episode, interquartile mean"][1:] == ["-2.333333333", "-9", "-14.33333333", "-30"]
    assert curve["return of the last episode, low end of the 95 % interval"] == ["-9", "-4", "-9", "-20", ""]
    quartiles = numbers_of(folder / "learning-quartiles.csv")
    medians = ("25 %", "return of the last episode, median", "75 %")
    assert [quartiles[name][1] for name in medians] == ["-3", "-2", "-1.5"]
    assert [quartiles[name][3] for name in medians] == ["-16.5", "-13", "-11.5"]
    assert [quartiles[name][4] for name in medians] == ["-30"] * 3
    assert numbers_of(folder / "episodes.csv")["episode"] == [*"123123123"]


SUCCESS = ("AverageSuccess_test_episode_1", "AverageSuccess_test_episode_2", "AverageSuccess_test_episode_3")


def with_success(run: Path, last: float | None) -> Path:
    """The run, with successes: 0 % in episode 1, 25 % in episode 2, `last` in episode 3. None: without any."""
    with open(run / "progress.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if "Success" not in name} for row in csv.DictReader(file)]
    for row in rows if last is not None else ():
        row.update(dict(zip(SUCCESS, ("0", "0.25", str(last)), strict=True)))
        row["AverageSuccess_all_test_tasks"] = str(last)
    with open(run / "progress.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return run


def test_success_stands_beside_return_if_all_runs_have_it(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (with_success(with_seed(tiny_run, tmp_path / f"{s}", s), share) for s, share in ((1, 0.5), (2, 1.0)))

    def play(*arguments: Any, **keywords: Any) -> MetaTest:
        """The same trials: episode 2 is always a success, episode 3 on the first task, and episode 1 never."""
        test = run_evaluation.play_trials(*arguments, **keywords)
        evaluation = test.evaluation
        trials = tuple(
            tuple(dataclasses.replace(trial, successes=(False, True, index == 0)) for trial in of_task)
            for index, of_task in enumerate(evaluation.trials)
        )
        return test._replace(evaluation=dataclasses.replace(evaluation, trials=trials))

    monkeypatch.setattr("nacre.report.trials.play_trials", play)
    share = "{}\N{NARROW NO-BREAK SPACE}%".format
    content = read(write_report([one, two], tmp_path / "report.html"))
    assert f"success in the last episode, task inferred{share(75)}" in content.words.replace("\n", "")
    rows = content.tables["Return and success of each episode on each test task, mean over trials"]
    assert rows[0][-3:] == ["success 1", "success 2", "success 3"]
    assert [row[-3:] for row in rows[1:]] == [
        [share(0), share(100), share(100)],
        [share(0), share(100), share(0)],
        [share(0), share(100), share(50)],
    ]
    assert any("Success in each episode: 0" in (image["alt"] or "") for image in content.images)

    content = read(write_comparison({"a": [one], "b": [two]}, tmp_path / "page.html"))
    rows = content.tables["Success on test tasks after the last iteration"]
    assert rows == [["group", "episode 1", "last episode"], ["a", share(0), share(50)], ["b", share(0), share(100)]]
    without = with_success(with_seed(tiny_run, tmp_path / "without", 3), None)
    content = read(write_comparison({"a": [one], "b": [without]}, tmp_path / "page.html"))
    assert "Success on test tasks" not in content.words
    assert "Test return and success" not in content.words


def test_the_share_of_the_gap_is_shown_if_both_references_are_known(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = ReferenceCurve("given it", "a run", ((10.0, -30.0), (100.0, -5.0)), "upper")
    lower = ReferenceCurve("without it", "a run", ((10.0, -40.0), (100.0, -15.0)), "lower")
    monkeypatch.setattr("nacre.report.references.reference_curves", lambda: {"point-robot": (upper, lower)})
    run = with_seed(tiny_run, tmp_path / "run", 0, (-40.0, -7.5))
    share = "75\N{NARROW NO-BREAK SPACE}%"
    content = read(write_report([run], tmp_path / "report.html"))
    words = "of the gap between “without it” and “given it”, closed"
    assert f"{words} by the last episode{share}" in content.words.replace("\n", "")
    assert "straight to the known goal" not in content.words
    content = read(write_comparison({"a": [run]}, tmp_path / "page.html"))
    caption = "Share of the gap between “without it” and “given it” that the last episode closes"
    assert content.tables[caption] == [["group", "share"], ["a", share]]


@dataclasses.dataclass(frozen=True)
class Fixed(AlgorithmConfig):
    """The configuration of an algorithm that explores nothing."""

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        return 0

    def gradient_steps(self, iterations: int) -> int:
        return 0

    def protocol(self, horizon: int) -> Protocol:
        return Protocol("one-episode", trials=2, steps=0, episodes=1, exploration_episodes=0)


def test_an_algorithm_without_beliefs_and_exploration_has_a_report(tmp_path: Path) -> None:
    experiment = dataclasses.replace(nacre.make_experiment("pearl/point-robot"), algorithm=Fixed(), test_tasks=2)
    family = nacre.make_family("point-robot")
    tasks = np.array([[0.5, 0.5], [-0.5, 0.0]])
    episode = Episode(
        np.zeros((3, 2), np.float32), np.zeros((2, 2), np.float32), -np.ones(2, np.float32), None, terminated=False
    )
    results = tuple((TrialResult((-2.0,), (2,), None),) * 2 for _ in tasks)
    played = Evaluation(experiment.algorithm.protocol(20), tasks, results)
    split, learner = TaskSplit(tasks, tasks), learner_for(nacre.make_experiment("pearl/point-robot"), family)
    trained = TrainedRun(experiment, family, split, tmp_path / "iteration_000002", learner, None)
    test = RunTest(trained, played, [[[episode]] * 2] * 2, None)
    adaptation, _, episodes = pictures_of(test, None)
    axes = Figure().subplots()
    returns_by_episode(axes, played, ["goal_x", "goal_y"])
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
    assert adaptation.alt.endswith(f"episode of a trial: {number(-2.0)}.")
    assert "Right: the return on each test task." in adaptation.caption
    assert "goal" in episodes.alt
    for word in ("inferred", "unknown", "posterior"):
        assert word not in adaptation.alt + adaptation.caption + protocol_in_words(experiment)


def test_a_comparison_says_what_makes_it_unfair(tiny_run: Path, tmp_path: Path) -> None:
    other = with_seed(tiny_run, tmp_path / "other", 0, (-30.0,))

    def change(content: dict) -> None:
        content["experiment"]["algorithm"].update(evaluation_trials=5)
        content["tasks"]["test"][0][0] += 0.5

    edit(other, change)
    content = read(write_comparison({"a": [tiny_run], "b": [other]}, tmp_path / "page.html"))
    assert "meta-tested by different protocols" in content.words
    assert "Not all runs have the same test tasks" in content.words
    longer = with_seed(tiny_run, tmp_path / "longer", 1)
    shorter = with_seed(tiny_run, tmp_path / "shorter", 2, (-30.0,))
    content = read(write_comparison({"c": [longer, shorter]}, tmp_path / "page.html"))
    assert "The seeds of c are of different length; all are cut to 1 iterations." in content.words


def test_plain_runs_are_grouped_by_all_but_the_seed(tiny_run: Path, tmp_path: Path) -> None:
    second = with_seed(tiny_run, tmp_path / "a=b", 1)
    third = with_seed(tiny_run, tmp_path / "third", 0)
    edit(third, lambda content: content["experiment"]["algorithm"].update(discount=0.5))
    groups = parse_groups([str(tiny_run), "mine=x,y", str(third), str(second)])
    assert list(groups.items()) == [
        ("pearl/point-robot (discount 0.99)", [tiny_run, second]),
        ("mine", [Path("x"), Path("y")]),
        ("pearl/point-robot (discount 0.5)", [third]),
    ]


def test_a_folder_of_seeds_stands_for_its_runs(tiny_run: Path, tmp_path: Path) -> None:
    seeds = [with_seed(tiny_run, tmp_path / "group" / f"seed-{seed}", seed) for seed in (3, 12)]
    group, alone = tmp_path / "group", with_seed(tiny_run, tmp_path / "alone", 4)
    assert parse_groups([str(group), str(alone)]) == {"pearl/point-robot": [*seeds, alone]}
    assert parse_groups([f"mine={group},{alone}"]) == {"mine": [*seeds, alone]}
    page = write_report([group])
    assert page == group / "report.html"
    assert {"Adaptation of seed 3", "Adaptation of seed 12"} <= set(read(page).headings)


# What is refused


def test_refusals_are_one_sentence(run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = Path(shutil.copytree(run_copy, tmp_path / "twin"))
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "taken-data").touch()
    family = with_seed(run_copy, tmp_path / "family", 0)
    edit(family, lambda content: content["experiment"].update(family="sparse-point-robot"))
    fresh = with_seed(run_copy, tmp_path / "fresh", 0)
    (fresh / "progress.csv").write_text(f"Epoch,{LAST}\n0,-3")  # killed within its first row
    cut = with_seed(run_copy, tmp_path / "cut", 0)
    (cut / "progress.csv").write_text(f"Epoch,{LAST}\n0,-3\n")
    damaged = with_seed(run_copy, tmp_path / "damaged", 0)
    with open(damaged / "progress.csv", "a") as file:
        file.write("1,what\n")
    run = str(run_copy)
    for arguments, words in [
        (["report"], "RUN is missing"),
        (["compare"], "RUN_OR_GROUP is missing"),
        *(
            case
            for command in ("report", "compare")
            for case in [
                ([command, "nowhere"], "nowhere does not exist"),
                ([command, str(tmp_path)], "is not a run folder"),
                ([command, run, str(twin)], "twin has seed 0, as another of the runs has"),
                ([command, str(fresh)], "fresh has not completed an iteration"),
                ([command, str(cut)], "cut/progress.csv is damaged: it has no column 'Number of env steps total'"),
                ([command, str(damaged)], "damaged/progress.csv, line 4, is damaged"),
                ([command, run, "--out", str(tmp_path / "folder.html")], "folder.html is a folder"),
                ([command, run, "--out", str(tmp_path / "taken.html")], "taken-data is a file; allowed: a folder"),
                ([command, run, "--out", str(tmp_path / "file/page.html")], "cannot make the folder"),
            ]
        ),
        (["report", run, "--checkpoint", "iteration_000009"], "has no checkpoint 'iteration_000009'"),
        (["compare", run, str(family)], "returns of different families cannot be compared"),
        (["compare", f"a={run},{family}"], "is a run of another configuration"),
        (["compare", "a="], "RUN_OR_GROUP is 'a='; allowed: a run folder, or NAME=RUN,RUN"),
        (["compare", f"a={run}", f"a={twin}"], "the group 'a' is given twice"),
        (["compare", f"pearl/point-robot={run}", str(twin)], "has the name of the experiment of"),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2, arguments
        error = capsys.readouterr().err
        assert words in error, arguments
        assert error.count("\n") == 1, arguments
    assert not list(tmp_path.rglob("*.html.tmp"))
    with pytest.raises(NacreError, match="the group 'a' has no runs"):
        write_comparison({"a": []}, tmp_path / "page.html")


def test_a_row_that_a_kill_has_cut_is_left_out(run_copy: Path, tmp_path: Path) -> None:
    before = read(write_comparison({"a": [run_copy]}, tmp_path / "before.html"))
    with open(run_copy / "progress.csv", "a") as file:
        file.write("2,-3")
    after = read(write_comparison({"a": [run_copy]}, tmp_path / "after.html"))
    assert after.tables == before.tables
