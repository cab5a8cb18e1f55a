"""Curves, their file, what figures show, the reference numbers, and the script that writes results/."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from probes import load_script

from nacre.errors import NacreError
from nacre.experiments import make_experiment, named_experiments
from nacre.experiments.experiment import world_of
from nacre.protocol import Protocol
from nacre.report import (
    REFERENCES,
    Level,
    PublishedCurve,
    ReferenceCurve,
    gap_of,
    learning_curve,
    read_curves,
    read_runs,
    references,
    references_of,
    trajectories,
    write_curves,
)
from nacre.report.curves import FIRST_EPISODE, FIRST_SUCCESS, LAST_EPISODE, LAST_SUCCESS, episode_columns
from nacre.tasks import make_family
from nacre.tasks.family import TaskFamily
from nacre.types import Episode

reproduce = load_script("benchmarks/reproduce.py")
reproduction_table = load_script("benchmarks/reproduction_table.py")
reference_curves = load_script("benchmarks/reference_curves.py")
ROOT = Path(__file__).parents[1]


def curve(last: list[float], first: list[float]) -> dict[str, np.ndarray]:
    return {
        "Epoch": np.arange(len(last), dtype=float),
        "Number of env steps total": 1000.0 * np.arange(1, 1 + len(last)),
        "Number of train steps total": 10.0 * np.arange(1, 1 + len(last)),
        "Total Train Time (s)": 60.0 * np.arange(1, 1 + len(last)),
        "QF Loss": np.ones(len(last)),
        LAST_EPISODE: np.array(last),
        FIRST_EPISODE: np.array(first),
        "AverageReturn_test_episode_2": np.array(last),
    }


CURVES = {0: curve([-9.0, -5.0, 1.25], [-9.0, -8.0, -7.0]), 4: curve([-7.0, -3.0], [-9.5, -8.0])}


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [found.get_title().get_text(), *(text.get_text() for text in found.get_texts())]


def test_a_learning_curve_is_the_mean_of_what_all_seeds_have_and_a_band(axes: Axes) -> None:
    learning_curve(axes, CURVES)
    last, first = axes.get_lines()
    np.testing.assert_array_equal(last.get_xydata(), [[1000, -8], [2000, -4]])
    np.testing.assert_array_equal(first.get_xydata(), [[1000, -9.25], [2000, -8]])
    assert last.get_color() != first.get_color()
    band = axes.collections[0].get_paths()[0].vertices
    assert {(1000, -9), (1000, -7), (2000, -5), (2000, -3)} <= {(x, y) for x, y in np.asarray(band)}
    assert legend(axes) == ["mean and range of 2 seeds", "last episode", "episode 1"]
    assert axes.get_xlabel() == "environment steps"
    assert "test return" in axes.get_ylabel()


def test_one_seed_has_no_band_and_says_so(axes: Axes) -> None:
    learning_curve(axes, {3: CURVES[0]})
    assert not axes.collections
    assert legend(axes)[0] == "one seed"
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [-9, -5, 1.25])


@pytest.mark.parametrize(
    ("exploration", "labels"),
    [(1, ["last episode, task inferred", "episode 1, task unknown"]), (0, ["last episode", "episode 1"])],
)
def test_the_protocol_names_the_episodes(axes: Axes, exploration: int, labels: list[str]) -> None:
    learning_curve(axes, CURVES, protocol=Protocol("own", 1, 60, 1, exploration_episodes=exploration))
    assert legend(axes)[1:] == labels


def test_a_trial_of_one_episode_has_one_line(axes: Axes) -> None:
    alone = {0: {name: values for name, values in CURVES[0].items() if name != "AverageReturn_test_episode_2"}}
    learning_curve(axes, alone, protocol=Protocol("own", 1, 0, 1, exploration_episodes=0))
    assert legend(axes) == ["one seed", "last episode"]


def test_references_are_drawn_as_far_as_the_runs_go(axes: Axes) -> None:
    published = PublishedCurve("theirs", "a log", ((500.0, -9.0), (1900.0, -4.0), (5000.0, 300.0)))
    later = PublishedCurve("too late", "a plot", ((9000.0, 300.0),))
    learning_curve(axes, CURVES, [published, later, Level("standing still", "computed", -12.0)])
    _, _, theirs, level = axes.get_lines()
    np.testing.assert_array_equal(theirs.get_xydata(), published.points[:2])
    np.testing.assert_array_equal(level.get_ydata(), [-12, -12])
    assert legend(axes)[3:] == ["theirs"]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("standing still", -12)]


def test_the_first_published_point_is_shown_even_if_the_runs_end_before_it(axes: Axes) -> None:
    learning_curve(axes, CURVES, [PublishedCurve("theirs", "a log", ((8000.0, -9.0), (9000.0, -4.0)))])
    np.testing.assert_array_equal(axes.get_lines()[2].get_xydata(), [[8000, -9]])


GIVEN = ReferenceCurve("given", "a run", ((500.0, -8.0), (1500.0, -2.0), (9000.0, -1.0)), "upper")
BLIND = ReferenceCurve("without", "a run", ((1000.0, -9.0), (9000.0, -6.0)), "lower")


def test_reference_curves_are_lines_without_markers(axes: Axes) -> None:
    learning_curve(axes, CURVES, [GIVEN, BLIND, PublishedCurve("theirs", "a log", ((500.0, -9.0),))])
    _, _, theirs, given, blind = axes.get_lines()
    np.testing.assert_array_equal(given.get_xydata(), GIVEN.points[:2])
    np.testing.assert_array_equal(blind.get_xydata(), BLIND.points[:1])
    assert theirs.get_marker() == "s"
    assert given.get_marker() == blind.get_marker() == "None"
    assert given.get_linestyle() != theirs.get_linestyle()
    assert legend(axes)[3:] == ["theirs", "given", "without"]


def test_without_reference_curves_the_levels_are_those_of_the_hand_made_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "reference_curves", dict)
    assert references_of("point-robot") == REFERENCES["point-robot"]
    assert references_of("a family of one's own") == ()
    assert gap_of("point-robot") is None


def test_a_reference_curve_takes_the_place_of_the_level_that_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "reference_curves", lambda: {"point-robot": (GIVEN,)})
    *others, curve, level = references_of("point-robot")
    assert [it.label for it in others] == ["best without the task", "standing still"]
    assert curve == GIVEN
    assert level == Level("given, at its end", "the last value of that curve", -1.0, "upper")
    assert gap_of("point-robot") is None  # one of two is not enough

    monkeypatch.setattr(references, "reference_curves", lambda: {"point-robot": (GIVEN, BLIND)})
    assert next(it.label for it in references_of("point-robot")) == "standing still"
    gap = gap_of("point-robot")
    assert gap is not None
    assert [gap.closed(value) for value in (-6.0, -1.0, -2.0, -7.0)] == pytest.approx([0.0, 1.0, 0.8, -0.2])
    assert gap.words == "of the gap between “without” and “given”"
    below = ReferenceCurve("given", "a run", ((500.0, -8.0),), "upper")
    monkeypatch.setattr(references, "reference_curves", lambda: {"point-robot": (below, BLIND)})
    assert gap_of("point-robot") is None


def test_a_reference_curve_that_was_trained_too_little_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed to be possible stays, and no gap is measured from the curve."""
    early = ReferenceCurve("without", "a run", ((500.0, -17.6),), "lower")  # -15.9 is possible
    monkeypatch.setattr(references, "reference_curves", lambda: {"point-robot": (GIVEN, early)})
    labels = [it.label for it in references_of("point-robot")]
    assert labels == ["best without the task", "standing still", "given", "without", "given, at its end"]
    assert gap_of("point-robot") is None


def test_a_reference_curve_near_a_level_of_zero_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of it is nothing, and so a twentieth of the gap counts: here 50."""
    upper = ReferenceCurve("given", "a run", ((500.0, 1000.0),), "upper")
    for last, arrived in ((-40.0, True), (-60.0, False)):
        lower = ReferenceCurve("without", "a run", ((500.0, last),), "lower")
        monkeypatch.setattr(references, "reference_curves", lambda lower=lower: {"cheetah-dir": (upper, lower)})
        assert (gap_of("cheetah-dir") is not None) is arrived


def test_the_packaged_reference_curves_are_what_the_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference_curves.main(["--check"]) == 0, capsys.readouterr().out


def test_reference_curves_are_means_over_seeds_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for algorithm, offset in (("oracle", 0.0), ("blind", -5.0)):
        folder = tmp_path / algorithm / "point-robot"
        folder.mkdir(parents=True)
        longer = {seed: curve((np.arange(250.0) + offset + seed).tolist(), [0.0] * 250) for seed in (0, 4)}
        write_curves(folder / "curve.csv", longer)
    assert reference_curves.content(tmp_path / "nothing") == "{}\n"
    written = tmp_path / "reference_curves.json"
    written.write_text(reference_curves.content(tmp_path), encoding="utf-8")
    monkeypatch.setattr(references, "files", lambda package: tmp_path)
    upper, lower = references.reference_curves.__wrapped__()["point-robot"]
    assert (upper.label, upper.bound, lower.label, lower.bound) == ("given the task", "upper", "told nothing", "lower")
    assert upper.source == "our own runs, mean over 2 seeds (results/oracle/point-robot)"
    assert len(upper.points) == 100
    assert (upper.points[0], upper.points[-1]) == ((1000.0, 2.0), (250_000.0, 251.0))
    assert lower.final == 246.0
    for name, last in (("point-robot-quick", 255.0), ("point-robot-fast", 253.0)):
        folder = tmp_path / "oracle" / name
        folder.mkdir()
        write_curves(folder / "curve.csv", {0: curve([0.0, last], [0.0, 0.0])})
    (highest, _) = reference_curves.reference_curves(tmp_path)["point-robot"]
    assert highest["source"] == "our own runs, mean over 1 seed (results/oracle/point-robot-quick)"


def walk(start: tuple[float, float], steps: int = 5) -> Episode:
    actions = np.tile(np.array([1, 0], np.float32), (steps, 1))
    observations = np.array([(start[0] + 0.1 * step, start[1]) for step in range(steps + 1)], np.float32)
    return Episode(observations, actions, np.zeros(steps, np.float32), None, terminated=False)


def test_trajectories_lead_from_rings_and_get_lighter_with_the_episode(axes: Axes) -> None:
    starts = [(0.0, 0.0), (0.5, -0.5), (-1.0, 1.0)]
    trial = [walk(start) for start in starts]
    trajectories(axes, trial, np.array([0.25, 0.75]))
    lines = axes.get_lines()
    paths, rings, goal = lines[0:6:2], lines[1:6:2], lines[6]
    for path, ring, episode in zip(paths, rings, trial, strict=True):
        np.testing.assert_array_equal(path.get_xydata(), episode.observations)
        np.testing.assert_array_equal(ring.get_xydata(), episode.observations[:1])
    lightness = [sum(to_rgb(path.get_color())) for path in paths]
    assert lightness == sorted(lightness)
    np.testing.assert_array_equal(goal.get_xydata(), [[0.25, 0.75]])
    assert axes.get_legend_handles_labels()[1] == ["episode 1", "episode 2", "episode 3", "start", "goal"]
    assert axes.get_aspect() == 1


def test_drawing_leaves_the_state_of_pyplot_alone() -> None:
    check = "import sys, nacre.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_curve_csv_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    write_curves(path, CURVES)
    found = read_curves(path)
    assert list(found) == [0, 4]
    for seed, run in found.items():
        kept = [
            column for column in CURVES[seed] if "Return" in column or column in ("Epoch", "Number of env steps total")
        ]
        assert sorted(run) == sorted(kept)
        for column in kept:
            np.testing.assert_array_equal(run[column], CURVES[seed][column])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["Epoch"], row["Number of env steps total"]) for row in rows[2:4]] == [
        ("0", "2", "3000"),
        ("4", "0", "1000"),
    ]


def test_curve_csv_has_successes_if_all_seeds_have_them(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    successes = {FIRST_SUCCESS: np.array([0.0, 0.25]), LAST_SUCCESS: np.array([0.5, 1.0])}
    with_success = curve([-7.0, -3.0], [-9.5, -8.0]) | successes
    write_curves(path, {0: with_success, 1: with_success})
    np.testing.assert_array_equal(read_curves(path)[1][LAST_SUCCESS], [0.5, 1.0])
    write_curves(path, {0: with_success, 1: CURVES[4]})
    assert LAST_SUCCESS not in read_curves(path)[0]


def test_a_csv_without_seeds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text("Epoch\n0\n")
    with pytest.raises(NacreError, match="no column 'seed'"):
        read_curves(path)


def test_episode_columns_are_in_the_order_of_the_episodes() -> None:
    columns = {f"AverageReturn_test_episode_{number}": np.zeros(1) for number in (10, 2, 1)}
    assert episode_columns({**columns, LAST_EPISODE: np.zeros(1)}) == [
        f"AverageReturn_test_episode_{number}" for number in (1, 2, 10)
    ]


def level(family: str, label: str) -> float:
    return next(it.value for it in REFERENCES[family] if isinstance(it, Level) and it.label == label)


def walk_to(family: TaskFamily, tasks: np.ndarray, targets: np.ndarray | None) -> tuple[float, float]:
    """Mean return and sparse return of points that go to their targets as fast as they can, or nowhere."""
    world = family.make_world(len(tasks), threads=1)
    slots = np.arange(len(tasks))
    _, state = world.reset(slots, tasks, [np.random.default_rng(slot) for slot in slots])
    returns, sparse_returns = np.zeros(len(tasks)), np.zeros(len(tasks))
    for _ in range(family.horizon):
        previous = state.copy()
        actions = np.zeros((len(tasks), 2)) if targets is None else np.clip((targets - previous) / 0.1, -1, 1)
        _, state = world.step(slots, actions)
        returns += family.reward(previous, actions, state, tasks)
        if family.has_sparse_reward:
            sparse_returns += family.sparse_reward(previous, actions, state, tasks)
    return returns.mean(), sparse_returns.mean()


def test_the_levels_of_the_point_robots_are_what_such_points_earn() -> None:
    family = make_family("point-robot")
    tasks = family.sample_tasks(np.random.default_rng(0), 10_000)
    assert walk_to(family, tasks, tasks)[0] == pytest.approx(
        level("point-robot", "straight to the known goal"), abs=0.2
    )
    middle = walk_to(family, tasks, np.zeros_like(tasks))[0]
    assert middle == pytest.approx(level("point-robot", "best without the task"), abs=0.2)
    assert walk_to(family, tasks, None)[0] == pytest.approx(level("point-robot", "standing still"), abs=0.3)
    sparse = make_family("sparse-point-robot")
    tasks = sparse.sample_tasks(np.random.default_rng(0), 10_000)
    best = walk_to(sparse, tasks, tasks)[1]
    assert best == pytest.approx(level("sparse-point-robot", "straight to the known goal"), abs=0.05)


def test_the_levels_of_cheetah_vel_are_those_of_its_published_test_tasks() -> None:
    family = make_family("cheetah-vel")
    speeds = family.published_tasks(130)[-30:]
    assert -family.horizon * speeds.mean() == pytest.approx(level("cheetah-vel", "standing still"), abs=0.1)
    best = max(-family.horizon * np.abs(speeds - speed).mean() for speed in np.linspace(0, 3, 301))
    assert best == pytest.approx(level("cheetah-vel", "best without the task"), abs=0.1)


def test_the_levels_of_the_families_that_are_paid_for_surviving() -> None:
    """What standing returns, if nothing falls: the reward of a state that does not change, without contacts."""
    for name, states in (("ant-dir", 87), ("humanoid-dir", 87), ("walker-rand-params", 18), ("hopper-rand-params", 12)):
        family = make_family(name)
        state, task = np.zeros((family.horizon, states)), np.zeros(len(family.task_parameters))[:2]
        returned = family.reward(state, np.zeros((family.horizon, family.action_size)), state, task).sum()
        assert returned == level(name, "standing, if it survives")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (-6.5, "Matches: at 1,500 environment steps our mean is higher by 0.5"),
        (-6.0, "Matches: at 1,500 environment steps our mean is higher by 0.0"),
        (-5.25, "Our best seed matches, the mean does not: at 1,500 environment steps it is lower by 0.8"),
        (-4.0, "Does not match: at 1,500 environment steps our mean is lower by 2.0"),
    ],
)
def test_the_verdict_is_about_the_last_published_point_within_the_runs(theirs: float, words: str) -> None:
    """At 1,500 steps our two seeds have -7 and -5, halfway between two rows."""
    curve = PublishedCurve("theirs", "a log", ((1000.0, -9.0), (1500.0, theirs), (9000.0, 300.0)))
    lines = reproduce.published_comparison([curve], reproduce.cut_to_shortest(CURVES))
    table = [line for line in lines if line.startswith("| 1")]
    assert table == ["| 1,000 | -9.0 | -8.0 (-9.0 to -7.0) |", f"| 1,500 | {theirs:.1f} | -6.0 (-7.0 to -5.0) |"]
    assert lines[-1].strip().startswith(words)


def test_where_nothing_can_be_compared_the_page_says_so() -> None:
    curve = PublishedCurve("theirs", "a log", ((9000.0, 300.0),))
    assert "No comparison: theirs begins at 9,000 environment steps, ours ends at 2,000." in "".join(
        reproduce.published_comparison([curve], reproduce.cut_to_shortest(CURVES))
    )


def test_reproduce_trains_resumes_and_writes_down(
    tiny: dict[str, int], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, results, again = (tmp_path / name for name in ("runs", "results", "again"))
    shutil.copytree(tiny_run, runs / "seed-0")
    first = (runs / "seed-0/progress.csv").read_bytes()

    def call(*seeds: str, **overrides: int) -> int:
        fields = [f"--{field.replace('_', '-')}={value}" for field, value in (tiny | overrides).items()]
        where = ["--out", str(runs), "--results", str(results)]
        return reproduce.main(["pearl/point-robot", "--seeds", *seeds, *where, *fields])

    # What is complete is kept, what is missing is trained.
    assert call("0", "1") == 0
    assert (runs / "seed-0/progress.csv").read_bytes() == first
    curves = read_curves(results / "curve.csv")
    assert {seed: len(run["Epoch"]) for seed, run in curves.items()} == {0: 2, 1: 2}
    np.testing.assert_array_equal(curves[1][LAST_EPISODE], read_runs([runs / "seed-1"])[1][1][LAST_EPISODE])
    assert (results / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (results / "README.md").read_text()
    assert "--seeds 0 1 --train-tasks 3 --test-tasks 2 --iterations 2 --latent-size 2" in page
    assert "| `train_tasks` | 80 | 3 |" in page
    assert "| `iterations` | 500 | 2 |" in page
    assert "| 1, task unknown | " in page
    assert "| 3 | " in page
    assert "There are no published numbers" in page
    assert str(tmp_path) not in page

    # Runs that were made elsewhere give the same, and are not touched.
    before = [path.stat().st_mtime_ns for path in sorted(runs.rglob("*"))]
    assert reproduce.main(["--runs", str(runs / "seed-1"), str(runs / "seed-0"), "--results", str(again)]) == 0
    assert (again / "README.md").read_text() == page
    assert (again / "curve.csv").read_bytes() == (results / "curve.csv").read_bytes()
    assert [path.stat().st_mtime_ns for path in sorted(runs.rglob("*"))] == before

    # What is incomplete is resumed.
    assert call("0", iterations=3) == 0
    assert (runs / "seed-0/progress.csv").read_bytes().startswith(first)
    assert len(read_curves(results / "curve.csv")[0]["Epoch"]) == 3

    # A page is about the iterations that all seeds have.
    assert reproduce.main(["--runs", str(runs / "seed-0"), str(runs / "seed-1"), "--results", str(again)]) == 0
    assert (again / "README.md").read_text() == page
    assert [len(run["Epoch"]) for run in read_curves(again / "curve.csv").values()] == [3, 2]

    # Another configuration does not go on from these runs, nor does a seed count twice.
    capsys.readouterr()
    assert call("0", hidden_size=9) == 2
    assert "seed-0 holds a run of another configuration" in capsys.readouterr().err
    assert reproduce.main(["--runs", str(runs / "seed-0"), str(runs / "seed-0"), "--results", str(again)]) == 2
    assert "has seed 0, as another of the runs has" in capsys.readouterr().err


def test_runs_that_make_no_page(run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = run_copy / "experiment.json"
    content = json.loads(description.read_text()) | {"checksum": None, "run": None}
    content["experiment"]["name"] = "pearl/my-own"
    description.write_text(json.dumps(content))
    assert reproduce.main(["--runs", str(run_copy), "--results", str(tmp_path / "results")]) == 2
    assert "pearl/my-own, which is not a named experiment" in capsys.readouterr().err
    (run_copy / "progress.csv").unlink()
    assert reproduce.main(["--runs", str(run_copy), "--results", str(tmp_path / "results")]) == 2
    assert "has not completed an iteration" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["--runs", "a", "--iterations", "2"], ["pearl/point-robot", "--runs", "a"], ["pearl/point-robot", "--no"]],
)
def test_reproduce_refuses_what_makes_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reproduce.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["pearl/point-robt"], "did you mean pearl/point-robot"), (["--runs", "nowhere"], "nowhere does not exist")],
)
def test_reproduce_says_what_is_wrong(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_reproduction_table_is_what_the_results_say(capsys: pytest.CaptureFixture[str]):
    assert reproduction_table.main(["--check"]) == 0, capsys.readouterr().out
    table = reproduction_table.table(short=False)
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    listed = {name for name in named_experiments() if name.startswith(("pearl/", "cemrl/", "dmrlad/"))}
    own = {name for name in listed if {"quick", "small", "fast"} & set(name.split("-"))}
    assert listed - own == rows.keys()
    humanoid = rows["pearl/humanoid-dir"]
    assert "not run" in humanoid
    assert "`python benchmarks/reproduce.py pearl/humanoid-dir --seeds 1 2 3`" in humanoid
    assert "1007 at 1.67 M" in humanoid
    last = reproduce.cut_to_shortest(read_curves(ROOT / "results/pearl/cheetah-vel/curve.csv"))
    mean = np.mean([run[LAST_EPISODE][-1] for run in last.values()])
    assert f"| {mean:.1f} |".replace("-", "−") in rows["pearl/cheetah-vel"]


def test_the_reproduction_table_gives_intervals_from_three_seeds_on():
    values = {seed: curve([value], [value]) for seed, value in enumerate((-10.0, -12.0, -11.0))}
    two = {seed: values[seed] for seed in (0, 1)}
    assert reproduction_table.final(two, LAST_EPISODE) == "−11"
    assert reproduction_table.final(values, LAST_EPISODE) == "−11 (−12 to −10)"


def test_references_are_of_one_world() -> None:
    """A family with other options, or with tasks that change, has other returns."""
    stationary = make_experiment("cemrl/cheetah-stationary-dir")
    changing = make_experiment("cemrl/cheetah-non-stationary-dir")
    assert references_of(stationary) == references_of("cheetah-dir")
    assert [it.points[-1] for it in references_of(changing) if isinstance(it, PublishedCurve)] == [(1.6e6, 3348.0)]
    longer = make_experiment("cemrl/cheetah-stationary-vel", family_options={"horizon": 400})
    assert references_of(longer) == ()
    assert gap_of(longer) is None


def test_every_published_number_belongs_to_a_named_experiment() -> None:
    worlds = {world_of(entry.experiment) for entry in named_experiments().values()}
    assert {world for world in REFERENCES if world not in worlds} == set()
    curves = [it for entries in REFERENCES.values() for it in entries if isinstance(it, PublishedCurve)]
    assert {it.experiment for it in curves if it.experiment} <= named_experiments().keys()
