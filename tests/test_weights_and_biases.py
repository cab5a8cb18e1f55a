"""What is sent to Weights & Biases, read from the files that it keeps if it is offline."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from extras import NEEDS_WANDB

from nacre import cli
from nacre.experiments import to_json
from nacre.logs import read_progress_csv, tensorboard_tag
from nacre.run_folder import read_name, read_run


@pytest.mark.parametrize(
    "arguments", [["train", "pearl/point-robot"], ["resume", "RUN"], ["evaluate", "RUN"], ["report", "RUN"]]
)
def test_without_the_package(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--wandb"])
    assert end.value.code == 2
    said = "nacre: error: Weights & Biases needs the package wandb: pip install '.[wandb]' in a clone\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["resume", "--iterations", "3"], ["evaluate"], ["report"]])
def test_a_run_without_a_name_is_refused_first(
    arguments: list[str], run_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Nothing is played or written. An earlier version made it."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # it is not asked
    path = run_copy / "experiment.json"
    content = json.loads(path.read_text())
    for key in ("run", "checksum"):
        content.pop(key, None)
    path.write_text(json.dumps(content))
    before = sorted(run_copy.rglob("*"))
    command, *flags = arguments
    with pytest.raises(SystemExit) as end:
        cli.main([command, str(run_copy), *flags, "--wandb"])
    assert end.value.code == 2
    assert f"{run_copy} was made by an earlier version of nacre, which gave runs no name" in capsys.readouterr().err
    assert sorted(run_copy.rglob("*")) == before


def records(file: Path) -> Iterator[Any]:
    """The entries of a file that wandb keeps, which is one of LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    content = file.read_bytes()
    place, entry = 7, b""  # after its own header
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(entry)
            entry = b""
            yield record


def history(run: Path) -> list[dict[str, Any]]:
    """All rows of all boards of a run, in order."""
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    found = [record for file in files for record in records(file) if record.WhichOneof("record_type") == "history"]
    return [row_of(record.history.item) for record in found]


def row_of(items: Any) -> dict[str, Any]:
    """A row of history; what has fields of its own is an object."""
    row: dict[str, Any] = {}
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = row
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)
    return row


@NEEDS_WANDB
def test_offline(run_copy: Path, tmp_path: Path) -> None:
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}

    def nacre(*arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "nacre", *arguments, "--wandb"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stderr

    nacre("resume", str(run_copy), "--iterations", "4")
    columns = read_progress_csv(run_copy / "progress.csv")
    rows = history(run_copy)
    assert len(rows) == 3  # two iterations, and the learning curve
    groups = read_run(run_copy)[0].algorithm.tensorboard_groups
    for number, row in enumerate(rows[:2], start=2):
        for column, values in columns.items():
            if not math.isnan(values[number]):
                assert row[tensorboard_tag(column, groups)] == pytest.approx(values[number]), column
    picture = rows[2]["figures/learning_curve"]
    assert (picture["_type"], picture["format"]) == ("image-file", "png")
    (folder,) = run_copy.glob("wandb/offline-run-*")
    assert (folder / "files" / picture["path"]).stat().st_size > 5000

    name = read_name(run_copy)
    (begun,) = [record.run for record in records(next(folder.glob("*.wandb"))) if record.HasField("run")][:1]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.run_id, begun.project, begun.display_name) == (name, "nacre", "pearl/point-robot, seed 0")
    assert begun.run_group == "pearl/point-robot"
    config.pop("_wandb", None)  # its own
    assert config == to_json(read_run(run_copy)[0])

    nacre("evaluate", str(run_copy), "--video", "--tasks", "0.5,0.5", "--trials", "1", "--episodes", "3")
    (result,) = (run_copy / "evaluations").glob("*.json")
    returns = json.loads(result.read_text())["mean_return_by_episode"]
    row = history(run_copy)[-1]
    stem = f"evaluation/{result.stem}"
    assert [row[f"{stem}/episode {number}"] for number in (1, 2, 3)] == pytest.approx(returns)
    assert row[f"{stem}/returns"]["_type"] == "table-file"
    assert row[f"{stem}/task-00"]["_type"] == "video-file"

    nacre("report", str(run_copy))
    page = history(run_copy)[-1]["report"]
    assert page["_type"] == "html-file"
    (sent,) = run_copy.glob(f"wandb/offline-run-*/files/{page['path']}")
    assert sent.read_text() == (run_copy / "report.html").read_text()
    assert len(list(run_copy.glob(f"wandb/offline-run-*-{name}"))) == 3  # one name, so that all go to one board
