"""The replay journal gives back exactly what was appended, or says which segment is damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nacre.errors import NacreError
from nacre.journal import FORMAT, OPTIONAL, append_segment, drop_segments_from, read_segments
from nacre.types import Episode, Visit


def make_episode(generator: np.random.Generator, length: int, sparse: bool = False, more: bool = False) -> Episode:
    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32)

    rewards = draw(length)
    if length:
        rewards[0] = -0.0
    return Episode(
        observations=draw(length + 1, 3),
        actions=draw(length, 2),
        rewards=rewards,
        sparse_rewards=draw(length) if sparse else None,
        terminated=bool(generator.integers(2)),
        successes=generator.integers(2, size=length) == 1 if more else None,
        reward_states=generator.standard_normal((length + 1, 4)) if more else None,
        tasks=generator.standard_normal((length, 2)) if more else None,
    )


def make_visits(seed: int, sparse: bool = False, more: bool = False) -> tuple[Visit, ...]:
    generator = np.random.default_rng(seed)
    lengths = {4: (20, 7, 1), 0: (20,), 9: (), 4000: (0, 5)}
    return tuple(
        Visit(
            task,
            tuple(make_episode(generator, length, sparse, more) for length in of_task),
            len(of_task) // 2,
            relabelled=more and task == 4,
        )
        for task, of_task in lengths.items()
    )


def assert_same(found: tuple[Visit, ...], expected: tuple[Visit, ...]) -> None:
    assert len(found) == len(expected)
    for visit, other in zip(found, expected, strict=True):
        assert (visit.task, visit.context_episodes) == (other.task, other.context_episodes)
        assert visit.relabelled is other.relabelled
        assert len(visit.episodes) == len(other.episodes)
        for episode, other_episode in zip(visit.episodes, other.episodes, strict=True):
            assert episode.terminated == other_episode.terminated
            assert type(episode.terminated) is bool
            for name in ("observations", "actions", "rewards", *OPTIONAL):
                array, other_array = getattr(episode, name), getattr(other_episode, name)
                assert (array is None) == (other_array is None)
                if other_array is not None:
                    assert array.dtype == other_array.dtype
                    assert array.shape == other_array.shape
                    assert array.tobytes() == other_array.tobytes()


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_round_trip_is_exact(tmp_path: Path, sparse: bool, more: bool) -> None:
    folder = tmp_path / "replay"
    folder.mkdir()
    for iteration in range(3):
        path = append_segment(folder, iteration, make_visits(iteration, sparse, more))
        assert path == folder / f"segment_{iteration:06d}.npz"
    segments = list(read_segments(folder, 3))
    assert len(segments) == 3
    for iteration, visits in enumerate(segments):
        assert_same(visits, make_visits(iteration, sparse, more))
    assert len(list(read_segments(folder, 2))) == 2
    assert list(read_segments(folder, 0)) == []


def test_segments_without_visits_or_episodes(tmp_path: Path) -> None:
    append_segment(tmp_path, 0, [])
    append_segment(tmp_path, 1, [Visit(3, (), 0)])
    assert list(read_segments(tmp_path, 2)) == [(), (Visit(3, (), 0),)]


def test_no_more_bytes_than_the_content(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    episodes = tuple(make_episode(generator, 200) for _ in range(50))
    path = append_segment(tmp_path, 0, [Visit(0, episodes, 50)])
    content = sum(e.observations.nbytes + e.actions.nbytes + e.rewards.nbytes for e in episodes)
    assert path.stat().st_size < 1.03 * content


def test_sparse_rewards_for_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either all episodes of an iteration have sparse_rewards or none"):
        append_segment(tmp_path, 0, make_visits(0, sparse=False) + make_visits(0, sparse=True))
    with pytest.raises(ValueError, match="either all episodes of an iteration have successes or none"):
        append_segment(tmp_path, 0, make_visits(0, more=False) + make_visits(0, more=True))


def test_drop_segments(tmp_path: Path) -> None:
    for iteration in (0, 1, 2, 999_999, 1_000_000):
        append_segment(tmp_path, iteration, [])
    (tmp_path / "segment_000003.npz.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    drop_segments_from(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "segment_000000.npz",
        "segment_000001.npz",
    ]
    drop_segments_from(tmp_path / "nowhere", 0)


def test_missing_and_foreign_segments(tmp_path: Path) -> None:
    append_segment(tmp_path, 0, make_visits(0))
    with pytest.raises(NacreError, match=r"segment_000001.npz does not exist"):
        list(read_segments(tmp_path, 2))
    (tmp_path / "segment_000000.npz").rename(tmp_path / "segment_000001.npz")
    append_segment(tmp_path, 0, [])
    with pytest.raises(NacreError, match=r"segment_000001.npz holds iteration 0, not 1"):
        list(read_segments(tmp_path, 2))
    np.savez(tmp_path / "segment_000000.npz", rewards=np.zeros(3))
    with pytest.raises(NacreError, match=r"segment_000000.npz is not a segment"):
        list(read_segments(tmp_path, 1))
    np.savez(tmp_path / "segment_000000.npz", nacre_journal=np.array([FORMAT + 1, 0]))
    with pytest.raises(NacreError, match=r"segment_000000.npz is a segment of format 3"):
        list(read_segments(tmp_path, 1))
    np.savez(tmp_path / "segment_000000.npz", nacre_journal=np.array([1, 0]))
    with pytest.raises(NacreError, match=r"segment_000000.npz is damaged: it has no episode_lengths"):
        list(read_segments(tmp_path, 1))


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = append_segment(tmp_path, 0, make_visits(0))
    content = path.read_bytes()
    for length in [0, 1, *range(10, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(NacreError, match=r"segment_000000.npz is damaged"):
            list(read_segments(tmp_path, 1))
    generator = np.random.default_rng(0)
    noticed = 0
    positions = generator.choice(len(content), 300, replace=False)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            (visits,) = read_segments(tmp_path, 1)
        except NacreError as error:
            assert str(path) in str(error)  # noqa: PT017
            noticed += 1
        else:
            assert_same(visits, make_visits(0))
    assert noticed > len(positions) / 2


WRITER = """
import sys
from pathlib import Path
import numpy as np
from nacre.journal import append_segment
from nacre.types import Episode, Visit

for iteration in range(100_000):
    rows = np.full((50_001, 8), iteration, np.float32)
    episode = Episode(rows, rows[1:], rows[1:, 0], None, False)
    append_segment(Path(sys.argv[1]), iteration, [Visit(iteration, (episode,), 1)])
    print(iteration, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
            time.sleep(generator.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            announced = int(["0", *writer.stdout.read().split()][-1])
        count = len(list(folder.glob("*.npz")))
        assert count in (announced + 1, announced + 2)
        for iteration, (visit,) in enumerate(read_segments(folder, count)):
            assert visit.task == iteration
            assert (visit.episodes[0].observations == iteration).all()
        drop_segments_from(folder, announced)
        assert len(list(folder.iterdir())) == announced
