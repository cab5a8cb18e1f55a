"""Runs of earlier versions with huge rewards in their replay: resume names the segment, and nacre repair drops them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nacre.cli import main
from nacre.errors import NacreError
from nacre.journal import append_segment, find_faults, read_segment
from nacre.repair import repair_run
from nacre.run_folder import read_run, read_stamp
from nacre.types import Visit


def poison(run: Path, iteration: int, visit: int, episode: int, quantity: str, value: float) -> Visit:
    """Puts a value into an episode of the journal; returns the visit as it was."""
    visits = list(read_segment(run / "replay", iteration))
    old = visits[visit]
    episodes = list(old.episodes)
    array = getattr(episodes[episode], quantity).copy()
    array.flat[-1] = value
    episodes[episode] = dataclasses.replace(episodes[episode], **{quantity: array})
    visits[visit] = dataclasses.replace(old, episodes=tuple(episodes))
    append_segment(run / "replay", iteration, visits, read_stamp(run, *read_run(run)))
    return old


@pytest.mark.parametrize(
    ("quantity", "value", "words"),
    [
        ("rewards", 1e19, "a reward of 1e+19, which is too large to learn from (train task"),
        ("rewards", np.inf, "a reward of inf, which is not finite (train task"),
        ("observations", -1e30, "an observation of -1e+30, which is too large"),
    ],
)
def test_resume_names_the_segment_and_repair_drops_the_episode(run_copy, capsys, quantity, value, words):
    old = poison(run_copy, 0, 1, 0, quantity, value)
    folder = run_copy / "replay"
    with pytest.raises(SystemExit):
        main(["resume", str(run_copy), "--iterations", "3"])
    error = capsys.readouterr().err
    assert f"{folder / 'segment_000000.npz'} holds {words}" in error
    assert f"nacre repair {run_copy}" in error

    files = [path for path in run_copy.rglob("*") if path.is_file() and path.name != "segment_000000.npz"]
    others = {path: path.read_bytes() for path in files}
    main(["repair", str(run_copy)])
    said = capsys.readouterr().out
    assert f"{folder / 'segment_000000.npz'}: dropped the episode with {words}" in said
    assert f"1 episode(s) dropped; its checkpoints are as they were. Go on with: nacre resume {run_copy}" in said
    assert {path: path.read_bytes() for path in others} == others
    visit = read_segment(folder, 0)[1]
    assert (visit.task, len(visit.episodes)) == (old.task, len(old.episodes) - 1)
    np.testing.assert_array_equal(visit.episodes[0].rewards, old.episodes[1].rewards)
    assert visit.context_episodes == old.context_episodes - 1 >= 1

    main(["repair", str(run_copy)])
    assert "Nothing to repair" in capsys.readouterr().out
    main(["resume", str(run_copy), "--iterations", "3"])
    assert (run_copy / "checkpoints" / "iteration_000003.npz").exists()


def test_visits_keep_context_data(run_copy):
    visits = read_segment(run_copy / "replay", 1)
    number = next(
        index for index, visit in enumerate(visits) if visit.context_episodes == 1 and len(visit.episodes) > 1
    )
    poison(run_copy, 1, number, 0, "rewards", 1e12)
    assert repair_run(run_copy) == 1
    assert read_segment(run_copy / "replay", 1)[number].context_episodes == 1
    assert not list(find_faults(read_segment(run_copy / "replay", 1)))


def test_a_task_that_would_have_no_episode(run_copy):
    before = None
    for iteration in (0, 1):
        for number, visit in enumerate(read_segment(run_copy / "replay", iteration)):
            if visit.task == 2:
                for episode in range(len(visit.episodes)):
                    poison(run_copy, iteration, number, episode, "rewards", 1e12)
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    with pytest.raises(NacreError, match="cannot be repaired: all episodes of train task 2"):
        repair_run(run_copy)
    assert {path: path.read_bytes() for path in before} == before


def test_no_run(tmp_path):
    with pytest.raises(NacreError, match="is not a run folder"):
        repair_run(tmp_path)
