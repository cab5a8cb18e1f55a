"""Runs as others leave them: copies with other seeds and results, and what was written for TensorBoard."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from nacre.files import read_npz, write_npz
from nacre.run_folder import read_run, read_stamp

LAST = "AverageReturn_all_test_tasks"
FIRST = "AverageReturn_test_episode_1"


def edit(run: Path, change: Callable[[dict], None]) -> None:
    path = run / "experiment.json"
    content = json.loads(path.read_text())
    change(content)
    content["checksum"] = None
    path.write_text(json.dumps(content))
    stamp = read_stamp(run, *read_run(run))
    for checkpoint in (run / "checkpoints").glob("*.npz"):
        arrays = read_npz(checkpoint)
        manifest = json.loads(arrays["manifest"].tobytes())
        manifest["progress"]["run"] = stamp
        write_npz(checkpoint, arrays | {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)})


def with_seed(run: Path, copy: Path, seed: int, last: tuple[float, ...] = ()) -> Path:
    """A copy of a run with another seed and, if given, other test returns; those of episode 1 are 10 lower."""
    shutil.copytree(run, copy)
    edit(copy, lambda content: content["experiment"].update(seed=seed))
    if last:
        with open(run / "progress.csv", newline="") as file:
            rows = list(csv.DictReader(file))[: len(last)]
        for row, value in zip(rows, last, strict=True):
            row.update({LAST: str(value), FIRST: str(value - 10)})
        with open(copy / "progress.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return copy


def read_events(folder: Path) -> list[Event]:
    """All events of a folder in the order of its files: length, checksum, content, checksum of each."""
    events = []
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events
