"""nacre evaluate --video: the videos show the very episodes whose returns the result reports."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

import nacre
from nacre import video
from nacre.cli import main
from nacre.errors import NacreError
from nacre.evaluation import Evaluation, TrialResult
from nacre.protocol import Protocol
from nacre.tasks import make_family
from nacre.types import Episode

POINT_RATE, POINT_PAUSE = 10, 5
"""Frames per second of the point robot, and how many the last picture of an episode stays longer."""


def read_video(path: Path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(io.BytesIO(path.read_bytes())) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    return frames, stream


def assert_caption(frame: np.ndarray, *lines: str) -> None:
    """The first lines of a frame, but for what compression does to it; and with other figures it would not pass."""
    height = 6 + 21 * len(lines)
    text = frame[:height].astype(float)
    assert abs(text - video.draw_caption(lines)[:height]).max() < 100
    other_figures = str.maketrans("0123456789", "1234567890")
    for index, line in enumerate(lines):
        other = [*lines[:index], line.translate(other_figures), *lines[index + 1 :]]
        assert abs(text - video.draw_caption(tuple(other))[:height]).max() > 120


def discs(frame: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the point and the goal are in a picture of the point robot, in the plane's own unit."""
    picture = frame[video.CAPTION_HEIGHT :].astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    places = []
    for mask in (red - blue > 100, (green - red > 60) & (blue < 150)):
        rows, columns = np.nonzero(mask)
        assert rows.size > 20
        scale = video.HEIGHT / 3
        places.append(
            ((columns.mean() + 0.5 - video.WIDTH / 2) / scale, (video.HEIGHT / 2 - rows.mean() - 0.5) / scale)
        )
    return places[0], places[1]


def test_the_command_line_writes_videos_of_the_episodes_it_reports(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [[0.3, -0.9], [-0.5, 0.25]]
    main(["evaluate", str(run_copy), "--tasks", "0.3,-0.9; -0.5,0.25", "--episodes", "3", "--trials", "2", "--video"])
    (result,) = (run_copy / "evaluations").glob("*.json")
    told = capsys.readouterr().out
    assert f"first trial of each task: {result.with_suffix('')}" in told
    assert "video 2 of 2" in told

    content = json.loads(result.read_text())
    assert sorted(result.with_suffix("").iterdir()) == [result.parent / task["video"] for task in content["tasks"]]
    for number, (parameters, task) in enumerate(zip(tasks, content["tasks"], strict=True)):
        name = f"task {number}: goal x {parameters[0]:.3f}, goal y {parameters[1]:.3f}"
        frames, stream = read_video(result.parent / task["video"])
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == POINT_RATE
        of_episode = 20 + 1 + POINT_PAUSE
        assert frames.shape == (3 * of_episode, video.CAPTION_HEIGHT + video.HEIGHT, video.WIDTH, 3)
        for index, value in enumerate(task["trials"][0]["returns"]):
            doing = "explores" if index < content["protocol"]["exploration_episodes"] else "has adapted"
            episode = frames[index * of_episode : (index + 1) * of_episode]
            assert_caption(episode[0], name, f"episode {index + 1} of 3: {doing}", "step 0 of 20 · return 0.00")
            for last in episode[20:]:
                assert_caption(last, name, f"episode {index + 1} of 3: {doing}", f"step 20 of 20 · return {value:.2f}")
            # The reward is the distance to the goal, so the pictures alone tell the return.
            places = [discs(frame) for frame in episode[1:21]]
            assert all(goal == pytest.approx(parameters, abs=0.02) for _, goal in places)
            distances = [np.hypot(*np.subtract(point, parameters)) for point, _ in places]
            assert -sum(distances) == pytest.approx(value, abs=0.3)


def test_videos_change_no_result(run_copy: Path) -> None:
    plain = nacre.evaluate(run_copy, [[0.3, -0.9]])
    filmed = nacre.evaluate(run_copy, [[0.3, -0.9]], video=True)
    assert filmed.trials == plain.trials
    first, second = sorted((run_copy / "evaluations").glob("*.json"), key=lambda path: len(path.name))
    plain_content, content = json.loads(first.read_text()), json.loads(second.read_text())
    assert content["tasks"][0].pop("video") == f"{second.stem}/task-00.mp4"
    assert content == plain_content
    second.unlink()  # but not its videos, whose place stays taken
    nacre.evaluate(run_copy, [[0.3, -0.9]])
    assert not second.exists()


def test_an_interruption_keeps_what_is_complete(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = video.encode, []

    def interrupted(frames, rate):
        calls.append(rate)
        if len(calls) == 2:
            next(iter(frames))
            raise KeyboardInterrupt
        return encode(frames, rate)

    monkeypatch.setattr(video, "encode", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(run_copy), "--tasks", "1,0; 0,1; -1,0", "--trials", "1", "--video"])
    assert stopped.value.code == 130
    (result,) = (run_copy / "evaluations").glob("*.json")
    assert [path.name for path in result.with_suffix("").iterdir()] == ["task-00.mp4"]
    content = json.loads(result.read_text())
    assert [task.get("video") for task in content["tasks"]] == [f"{result.stem}/task-00.mp4", None, None]
    assert len(content["tasks"][2]["trials"][0]["returns"]) == 3


def test_a_full_disk_is_said_and_leaves_no_part_of_a_video(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video, "encode", lambda frames, rate: memoryview(b"0" * 2**20))
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", str(run_copy), "--tasks", "1,0", "--video"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stopped.value.code == 2
    assert "task-00.mp4: File too large" in capsys.readouterr().err
    (result,) = (run_copy / "evaluations").glob("*.json")
    assert list(result.with_suffix("").iterdir()) == []


def test_a_family_that_cannot_be_drawn_is_told_before_anything_is_played(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacre.run_evaluation.meta_test", lambda *_: pytest.fail("it was played"))
    monkeypatch.delattr("nacre.tasks.point.PointWorld.make_renderer")
    with pytest.raises(NacreError, match="The family point-robot cannot be drawn: its world has no"):
        nacre.evaluate(run_copy, video=True)
    assert list((run_copy / "evaluations").glob("*.json")) == []


class Fast(make_family("sparse-point-robot").__class__):
    """A sparse point robot whose episodes end early, and whose world is faster than videos should be."""

    def terminated(self, previous, action, following, task):
        return following[..., 1] > 0.35


def test_early_ends_sparse_returns_and_fast_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nacre.tasks.point.PointWorld.frames_per_second", 200 / 3)
    family = Fast()
    tasks = np.array([[0.0, 0.45], [1.0, 0.0]])
    simulator = video.RecordingSimulator(family, 4)  # two trials of each task
    simulator.reset(seed=0, options={"tasks": tasks.repeat(2, axis=0)})
    up, right = [0.0, 1.0], [1.0, 0.0]
    rewards = np.zeros((2, 5))
    for step in range(5):  # the first slot terminates at its fourth step, and is reset a step later than it could be
        _, _, terminated, _, infos = simulator.step(np.array([up, right, right, up], np.float32))
        rewards[:, step] = infos["sparse_reward"][[0, 2]]
        assert terminated[0] == (step >= 3)
    simulator.reset(options={"reset_mask": terminated})
    simulator.step(np.array([right] * 4, np.float32))
    lengths = [[len(episode) for episode in episodes] for episodes in simulator.recordings]
    assert lengths == [[5, 2], [7], [7], [5, 2]]
    np.testing.assert_allclose(simulator.recordings[0][0][-1], [0.0, 0.4], atol=1e-6)
    simulator.close()

    def episode(row: np.ndarray) -> Episode:
        sparse = row.astype(np.float32)
        nothing = np.zeros((len(row), 2), np.float32)
        return Episode(np.zeros((len(row) + 1, 2), np.float32), nothing, 0 * sparse, sparse, False)

    protocol = Protocol("own", 2, 0, 2, exploration_episodes=1, sparse_returns=True)
    result = (TrialResult((0.0,), (4,), None),)
    trial = [episode(rewards[0, :4]), episode(np.zeros(1))]
    shots = video.shots_of(simulator, Evaluation(protocol, tasks, (result, result)), 0, trial)
    assert [shot.frames for shot in shots] == [1, 1, 18, 1, 18]  # every second step, half a second at the ends
    assert [shot.lines[2] for shot in shots] == [
        "step 0 of 20 · return 0.00",
        "step 2 of 20 · return 0.00",
        f"step 4 of 20 · return {0.85 + 0.95:.2f}",  # of 1 minus the distance, where that is at most 0.2
        "step 0 of 20 · return 0.00",
        "step 1 of 20 · return 0.00",
    ]
    assert [shot.lines[1] for shot in shots[2:4]] == ["episode 1 of 2: explores", "episode 2 of 2: has adapted"]
    np.testing.assert_allclose(shots[1].configuration, [0.0, 0.2], atol=1e-6)
    assert [shot.lines[0] for shot in shots] == ["task 0: goal x 0.000, goal y 0.450"] * 5
    assert {len(shot.lines) for shot in shots} == {3}  # what was measured is not known without reward states
    states = np.array([[0.0, 0.1 * step] for step in range(5)])
    in_force = np.array([[0.0, 0.45], [0.0, 0.45], [0.0, 0.45], [0.3, 0.0]])
    known = [dataclasses.replace(trial[0], reward_states=states, tasks=in_force), trial[1]]
    shots = video.shots_of(simulator, Evaluation(protocol, tasks, (result, result)), 0, known)
    assert [shot.lines[3] for shot in shots[:3]] == [
        "distance to the goal –, target 0.00 m",
        "distance to the goal 0.25, target 0.00 m",
        "distance to the goal 0.50, target 0.00 m",
    ]
    names = ["task 0: goal x 0.000, goal y 0.450", "task 0, changed: goal x 0.300, goal y 0.000"]
    assert [shot.lines[0] for shot in shots[1:3]] == names
    np.testing.assert_array_equal(shots[2].signs.goal, [0.3, 0.0])
    unexplored = dataclasses.replace(protocol, exploration_episodes=0)
    shots = video.shots_of(simulator, Evaluation(unexplored, tasks, (result, result)), 0, trial)
    assert [shot.lines[1] for shot in shots[2:4]] == ["episode 1 of 2", "episode 2 of 2"]
    with pytest.raises(ValueError, match="zip"):  # it shows no other episodes than those of the result
        video.shots_of(simulator, Evaluation(protocol, tasks, (result, result)), 0, trial[:1])


def test_long_lines_are_made_to_fit() -> None:
    short = video.draw_caption(("task 0",))
    long = video.draw_caption(("task 0: " + ", ".join(f"a_long_name_{number} -1.000" for number in range(6)),))
    ink = (long < 100).all(axis=2)
    assert ink[:, : video.WIDTH // 2].any()
    assert ink[:, video.WIDTH - 60 :].any()
    assert not ink[:, video.WIDTH - 4 :].any()
    assert (short < 100).all(axis=2).sum() > 50


def test_a_task_of_many_parameters_is_shown_by_its_number() -> None:
    family = make_family("walker-rand-params")
    task = family.sample_tasks(np.random.default_rng(0), 1)[0]
    assert video._caption_of(family, 3, task, [""] * len(task)) == "task 3"


@pytest.mark.opengl
@pytest.mark.parametrize("experiment", ["pearl/cheetah-vel", "pearl/humanoid-dir"])
def test_a_mujoco_family(experiment: str, tiny: dict[str, int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = {"initial_steps": 200, "prior_steps": 200, "extra_posterior_steps": 200, "iterations": 1}
    nacre.train(nacre.make_experiment(experiment, **{**tiny, **steps, "train_tasks": 2}), run)
    task = [1.5] if experiment == "pearl/cheetah-vel" else [0.0, 1.0]
    evaluation = nacre.evaluate(run, [task], video=True)
    (result,) = (run / "evaluations").glob("*.json")
    frames, stream = read_video(result.with_suffix("") / "task-00.mp4")
    (trial,) = evaluation.trials[0]
    every, rate = (1, 20) if experiment == "pearl/cheetah-vel" else (2, 100 / 3)
    shown = [-(-length // every) + 1 for length in trial.lengths]
    assert stream.average_rate == pytest.approx(rate)
    assert len(frames) == sum(shown) + len(shown) * round(rate / 2)
    parameters = zip(make_family(experiment.removeprefix("pearl/")).task_parameters, task, strict=True)
    unit = " m/s" if experiment == "pearl/cheetah-vel" else ""
    values = (f"{parameter.replace('_', ' ')} {value:.3f}{unit}" for parameter, value in parameters)
    name = "task 0: " + ", ".join(values)
    number = len(trial.lengths)
    last = f"step {trial.lengths[-1]} of 200 · return {trial.returns[-1]:.2f}"
    assert_caption(frames[-1], name, f"episode {number} of {number}: has adapted", last)
    pictures = frames[:, video.CAPTION_HEIGHT :].astype(float)
    assert pictures[0].std() > 20
    assert abs(pictures[shown[0] // 2] - pictures[0]).mean() > 2


@pytest.mark.parametrize("letter", "–−²×µéñθ°")
def test_captions_have_letters_of_other_languages_and_signs(letter: str) -> None:
    missing = video.draw_caption(("\uffff",))
    assert abs(video.draw_caption((letter,)).astype(int) - missing).max() > 50
