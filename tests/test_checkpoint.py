"""Checkpoints are exact, atomic, and say what is wrong with them."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nacre.checkpoint import (
    checkpoint_label,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
    remove_superfluous,
    save_best,
    save_checkpoint,
)
from nacre.errors import NacreError
from nacre.files import read_npz, write_atomically


class State(NamedTuple):
    network: eqx.nn.MLP  # an activation function is among its leaves
    values: dict[str, jax.Array]
    step: jax.Array
    key: jax.Array


def make_state(seed: int = 0) -> State:
    key = jax.random.key(seed)
    special = jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45, 3.4e38], jnp.float32)
    return State(
        network=eqx.nn.MLP(2, 3, 8, 2, key=key),
        values={
            "special": special,
            "bfloat16": jax.random.normal(key, (3, 5), jnp.bfloat16),
            "bools": jnp.array([True, False]),
            "bytes": jnp.arange(255, dtype=jnp.uint8),
            "empty": jnp.zeros((0, 4)),
        },
        step=jnp.int32(7),
        key=jax.random.split(jax.random.fold_in(key, 3), 2),
    )


def bits(tree: Any) -> list[tuple[str, str, tuple[int, ...], bool, bytes]]:
    """Every array leaf as something that compares NaNs and signed zeros too."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array):
            data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            name = jax.tree_util.keystr(path)
            found.append((name, str(leaf.dtype), leaf.shape, data.weak_type, np.asarray(data).tobytes()))
    return found


def test_round_trip_is_exact(tmp_path: Path) -> None:
    state = make_state()
    progress = {"iterations": 12, "best": -43.21, "nothing": None, "unknown": float("nan")}
    (tmp_path / "checkpoints").mkdir()
    path = save_checkpoint(tmp_path / "checkpoints", "iteration_000012", state, progress, keep=2)
    assert path == tmp_path / "checkpoints" / "iteration_000012.npz"
    restored, restored_progress = load_checkpoint(path, like=make_state(seed=1))
    assert bits(restored) == bits(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert repr(restored_progress) == repr(progress)
    assert repr(read_progress(path)) == repr(progress)
    assert all(
        leaf.devices() == jnp.zeros(()).devices() for leaf in jax.tree.leaves(eqx.filter(restored, eqx.is_array))
    )
    # The restored key draws what the saved one would have drawn.
    assert bits(jax.random.normal(restored.key[1], (3,))) == bits(jax.random.normal(state.key[1], (3,)))


def test_the_file_has_plain_dtypes_only(tmp_path: Path) -> None:
    """NumPy knows no bfloat16: it would keep two nameless bytes, or a pickle."""
    path = save_checkpoint(tmp_path, "iteration_000001", make_state(), {}, keep=1)
    assert {array.dtype.kind for array in read_npz(path).values()} == {"f", "u", "i", "b"}


def test_only_shapes_are_needed_to_load(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "iteration_000001", make_state(), {}, keep=1)
    restored, _ = load_checkpoint(path, like=eqx.filter_eval_shape(make_state))
    assert bits(restored) == bits(make_state())


def test_other_key_implementations_survive(tmp_path: Path) -> None:
    state = {"key": jax.random.key(5, impl="rbg")}
    path = save_checkpoint(tmp_path, "iteration_000001", state, {}, keep=1)
    restored, _ = load_checkpoint(path, like=state)
    assert bits(restored) == bits(state)
    with pytest.raises(NacreError, match=r"state\['key'\] is key<rbg>\(\) in it and key<fry>\(\) here"):
        load_checkpoint(path, like={"key": jax.random.key(5)})


@pytest.mark.parametrize("leaf", [1.5, np.zeros(3), ml_dtypes.bfloat16(1)])
def test_leaves_that_would_not_come_back_are_refused(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['x'\] is"):
        save_checkpoint(tmp_path, "iteration_000001", {"x": leaf}, {}, keep=1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    state = {"x": jnp.arange(3)}
    scores = [-50.0, -40.0, float("nan"), -45.0, -40.0]
    for iteration, score in enumerate(scores, start=8):
        path = save_checkpoint(tmp_path, checkpoint_label(iteration), state, {"i": iteration, "return": score}, keep=2)
        assert save_best(path, "return") == (iteration in (8, 9))
    save_checkpoint(tmp_path, checkpoint_label(12, 700), state, {"i": 12}, keep=2)
    assert names(tmp_path) == ["best.npz", "iteration_000012.npz", "iteration_000012_update_000700.npz"]
    assert read_progress(tmp_path / "best.npz")["i"] == 9
    assert latest_checkpoint(tmp_path) == (tmp_path / "iteration_000012_update_000700.npz", [])
    # A million iterations sort as numbers.
    save_checkpoint(tmp_path, checkpoint_label(999_999), state, {}, keep=1)
    save_checkpoint(tmp_path, checkpoint_label(1_000_000), state, {}, keep=2)
    assert latest_checkpoint(tmp_path)[0].stem == "iteration_1000000"


@pytest.mark.parametrize("again", [False, True])
def test_a_damaged_best_is_kept_aside(tmp_path: Path, again: bool) -> None:
    """It may have been better than any that is left, and it may be mended."""
    path = save_checkpoint(tmp_path, "iteration_000001", {"x": jnp.arange(3)}, {"return": 1.0}, keep=1)
    (tmp_path / "best.npz").write_bytes(b"no zip")
    aside = tmp_path / "best.npz.damaged"
    if again:
        aside.write_bytes(b"an earlier one")
        aside = tmp_path / "best.npz.damaged-2"
    with pytest.warns(UserWarning, match=rf"best.npz is damaged.*; it is kept as {aside.name}, and the best is chosen"):
        assert save_best(path, "return")
    assert read_progress(tmp_path / "best.npz") == {"return": 1.0}
    assert aside.read_bytes() == b"no zip"
    assert not save_best(path, "return")


def test_a_best_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "iteration_000001", {"x": jnp.arange(3)}, {"return": 1.0}, keep=1)
    (tmp_path / "best.npz").mkdir()
    with pytest.raises(NacreError, match=r"cannot read .*best\.npz"):
        save_best(path, "return")


def test_superfluous_checkpoints_that_could_not_be_removed_go_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"x": jnp.arange(3)}
    for iteration in (1, 2, 3, 4):
        save_checkpoint(tmp_path, checkpoint_label(iteration), state, {}, keep=9)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(NacreError, match=r"cannot remove .*: Input/output error"):
        save_checkpoint(tmp_path, checkpoint_label(5), state, {}, keep=2)
    monkeypatch.undo()
    path, _ = latest_checkpoint(tmp_path)
    remove_superfluous(path, keep=2)
    assert names(tmp_path) == ["iteration_000004.npz", "iteration_000005.npz"]


def test_checkpoints_of_a_future_that_was_given_up_go(tmp_path: Path) -> None:
    """Else a damaged later one would stay the newest for ever, and push out the good ones."""
    state = {"x": jnp.arange(3)}
    for iteration in (1, 2, 3):
        path = save_checkpoint(tmp_path, checkpoint_label(iteration), state, {}, keep=3)
    path.write_bytes(path.read_bytes()[:-100])
    assert latest_checkpoint(tmp_path)[0].stem == "iteration_000002"
    save_checkpoint(tmp_path, checkpoint_label(2, 100), state, {}, keep=1)
    assert names(tmp_path) == ["iteration_000002_update_000100.npz"]


def test_labels_are_checked(tmp_path: Path) -> None:
    for label in ("best", "iteration_1", "iteration_000001_update_", "../iteration_000001"):
        with pytest.raises(ValueError, match="not the label"):
            save_checkpoint(tmp_path, label, {}, {}, keep=1)


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    (tmp_path / "iteration_000001.npz.tmp").write_bytes(b"half")
    with pytest.raises(NacreError, match="has no checkpoint"):
        latest_checkpoint(tmp_path)
    save_checkpoint(tmp_path, "iteration_000002", {"x": jnp.arange(3)}, {}, keep=1)
    assert names(tmp_path) == ["iteration_000002.npz"]


# Damage


def small_checkpoint(folder: Path, iteration: int = 2) -> Path:
    state = {"a": jnp.arange(5, dtype=jnp.float32), "b": jnp.ones((2, 2), jnp.bfloat16)}
    return save_checkpoint(folder, checkpoint_label(iteration), state, {"iterations": iteration}, keep=9)


LIKE = {"a": jnp.zeros(5, jnp.float32), "b": jnp.zeros((2, 2), jnp.bfloat16)}


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path)
    content = path.read_bytes()
    for length in [0, 1, *range(10, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(NacreError, match=r"iteration_000002.npz is damaged"):
            load_checkpoint(path, LIKE)


def test_every_byte_flipped_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path)
    content = path.read_bytes()
    original = bits(load_checkpoint(path, LIKE)[0])
    generator = np.random.default_rng(0)
    noticed = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            restored, progress = load_checkpoint(path, LIKE)
        except NacreError as error:
            assert str(path) in str(error)  # noqa: PT017
            noticed += 1
        else:  # only bytes that carry nothing, such as the date in a zip header
            assert bits(restored) == original
            assert progress == {"iterations": 2}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = sum(member.file_size for member in archive.infolist())
    assert noticed >= data


def test_a_damaged_newest_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    good, bad, worse = (small_checkpoint(tmp_path, iteration) for iteration in (1, 2, 3))
    bad.write_bytes(bad.read_bytes()[:-7])
    worse.write_bytes(b"")
    path, warnings = latest_checkpoint(tmp_path)
    assert path == good
    assert [name in text for name, text in zip((worse.name, bad.name), warnings, strict=True)] == [True, True]
    assert all(text.endswith("going on from iteration_000001.npz") for text in warnings)
    good.write_bytes(b"also damaged")
    with pytest.raises(NacreError, match=r"no intact checkpoint: .*000003\.npz .*; .*000002\.npz .*; .*000001\.npz "):
        latest_checkpoint(tmp_path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match=r"nowhere.npz does not exist"):
        load_checkpoint(tmp_path / "nowhere.npz", LIKE)
    with pytest.raises(NacreError, match="has no checkpoint"):
        latest_checkpoint(tmp_path / "nowhere")
    with pytest.raises(NacreError, match="cannot read"):
        load_checkpoint(tmp_path, LIKE)
    foreign = tmp_path / "iteration_000001.npz"
    np.savez(foreign, weights=np.ones(3))
    for attempt in (lambda: load_checkpoint(foreign, LIKE), lambda: latest_checkpoint(tmp_path)):
        with pytest.raises(NacreError, match="is not a checkpoint of nacre"):
            attempt()
    with pytest.raises(NacreError, match="was not written by nacre"):
        read_progress(foreign)
    np.savez(foreign, manifest=np.frombuffer(b'{"format": 2, "progress": {}, "leaves": {}}', np.uint8))
    with pytest.raises(NacreError, match="format 2; this version of nacre reads format 1"):
        load_checkpoint(foreign, LIKE)
    np.savez(foreign, manifest=np.array([{}], dtype=object))  # a pickle is never opened
    with pytest.raises(NacreError, match="is damaged, or was not written by nacre: Object arrays cannot be loaded"):
        load_checkpoint(foreign, LIKE)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (LIKE | {"c": jnp.zeros(1)}, r"it has no state\['c'\]"),
        ({"a": LIKE["a"]}, r"its state\['b'\] is unknown here"),
        (LIKE | {"a": jnp.zeros(6)}, r"state\['a'\] is float32\(5,\) in it and float32\(6,\) here"),
        (LIKE | {"a": jnp.zeros(5, jnp.int32)}, r"state\['a'\] is float32\(5,\) in it and int32\(5,\) here"),
        (
            LIKE | {"b": jnp.zeros((2, 2), jnp.uint16)},
            r"state\['b'\] is bfloat16\(2, 2\) in it and uint16\(2, 2\) here",
        ),
    ],
)
def test_checkpoint_of_another_experiment(tmp_path: Path, like: dict[str, jax.Array], message: str) -> None:
    path = small_checkpoint(tmp_path)
    with pytest.raises(NacreError, match=message):
        load_checkpoint(path, like)


# A disk that is full or read-only


def mounted(folder: Path, options: str) -> bool:
    """Mounts a small file system of its own, where the rights allow it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    small = mounted(disk, "size=64k")
    try:
        before = save_checkpoint(disk, "iteration_000001", {"x": jnp.zeros(1000)}, {}, keep=1)
        content = before.read_bytes()
        if not small:  # no right to mount: the system call fails instead of the disk

            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(NacreError, match=r"cannot write .*iteration_000002.npz: No space left on device"):
            save_checkpoint(disk, "iteration_000002", {"x": jnp.zeros(100_000)}, {}, keep=1)
        assert names(disk) == ["iteration_000001.npz"]
        assert before.read_bytes() == content
    finally:
        if small:
            subprocess.run(["umount", str(disk)], check=True)


def test_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    own = mounted(disk, "size=1m")
    try:
        before = save_checkpoint(disk, "iteration_000001", {"x": jnp.zeros(3)}, {}, keep=1)
        if own:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        elif os.geteuid() == 0:
            pytest.skip("root may write to a read-only folder, and may not mount here")
        else:
            disk.chmod(0o555)
        with pytest.raises(NacreError, match=r"cannot write .*: (Read-only file system|Permission denied)"):
            save_checkpoint(disk, "iteration_000002", {"x": jnp.zeros(3)}, {}, keep=1)
        assert latest_checkpoint(disk) == (before, [])
    finally:
        if own:
            subprocess.run(["umount", str(disk)], check=True)
        else:
            disk.chmod(0o755)


# A kill in the middle

WRITER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from nacre.checkpoint import checkpoint_label, save_best, save_checkpoint

for iteration in range(1, 100_000):
    state = {"x": jnp.full(1_000_000, iteration, jnp.float32), "y": jnp.int32(iteration)}
    path = save_checkpoint(Path(sys.argv[1]), checkpoint_label(iteration), state, {"i": iteration}, keep=2)
    save_best(path, "i")
    print(iteration, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    """A writer is killed at a random moment, several times: the newest checkpoint is always whole."""
    generator = np.random.default_rng(0)
    like = {"x": jnp.zeros(1_000_000, jnp.float32), "y": jnp.int32(0)}
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "1\n"
            time.sleep(generator.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            announced = ["1", *writer.stdout.read().split()]
        path, warnings = latest_checkpoint(folder)
        state, progress = load_checkpoint(path, like)
        assert not warnings
        assert progress["i"] >= int(announced[-1])
        assert state["y"] == progress["i"]
        assert (np.asarray(state["x"]) == progress["i"]).all()
        best, best_progress = load_checkpoint(folder / "best.npz", like)
        assert best["y"] == best_progress["i"] >= int(announced[-1]) - 1
        save_checkpoint(folder, checkpoint_label(progress["i"] + 1), like, {}, keep=2)
        assert not list(folder.glob("*.tmp"))


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from nacre import files

path, point = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

class HalfWritten:
    def __init__(self, path, mode): self.file = open(path, mode)
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()

if point == "write":
    files.open = HalfWritten
else:
    setattr(os, point, die)
files.write_atomically(path, b"new" * 1000)
"""


@pytest.mark.parametrize("point", ["write", "fsync", "replace"])
def test_killed_at_each_point_of_a_write(tmp_path: Path, point: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, str(path), point])
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert (tmp_path / "file.tmp").exists()


def test_replacement_is_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before and after the rename, a reader finds whole content; the file is on the disk before it."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    synced: list[str] = []
    replace, fsync = os.replace, os.fsync

    def watch_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        assert path.read_bytes() == b"old"
        assert synced == [str(source)]
        assert source.parent == target.parent
        replace(source, target)
        assert path.read_bytes() == b"new"

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    write_atomically(path, b"new")
    assert synced == [f"{path}.tmp", str(tmp_path)]


def test_read_one_array_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.arange(4))
    assert list(read_npz(tmp_path / "x.npz", only="b")) == ["b"]
