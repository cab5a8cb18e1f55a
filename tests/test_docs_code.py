"""Runs every Python block of the documentation and of the README, with experiments that take seconds."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from test_load import untrained_run

import nacre
from nacre.tasks import FAMILIES

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "own-algorithm.md": "test_own_algorithm_doc.py runs its files",
    "real-robots.md": "test_real_time.py runs its block with a robot that is pretended",
    "sweeps.md": "test_sweeps.py runs its block",
    "old-runs.md": "its block is about a folder of the original code, which test_old_runs.py has",
}
FENCE = re.compile(r"^ *```(?:python|py)\b[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PAGES = [
    pytest.param(page, marks=[pytest.mark.opengl] * (page.name == "videos.md"), id=page.name)
    for page in sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
    if FENCE.search(page.read_text(encoding="utf-8")) and page.name not in ELSEWHERE
]


def copies(*names: str) -> Callable[[Path], None]:
    """Makes copies of the tiny run, which is in `runs/first`."""

    def prepare(folder: Path) -> None:
        for name in names:
            shutil.copytree(folder / "runs" / "first", folder / name)

    return prepare


def two_groups(folder: Path) -> None:
    other = nacre.train(nacre.make_experiment("pearl/point-robot", seed=1), folder / "runs" / "a-2", quiet=True)
    copies("runs/a-1", "runs/b-1")(folder)
    shutil.copytree(other, folder / "runs" / "b-2")


def a_video(folder: Path) -> None:
    copies("runs/vel-1")(folder)
    nacre.evaluate(folder / "runs" / "vel-1", tasks=[[0.5, 0.5]], episodes=2, video=True, out=folder / "drawn.json")
    shutil.copy(folder / "drawn" / "task-00.mp4", folder)


BEFORE: dict[str, Callable[[Path], Any]] = {
    "README.md": lambda folder: shutil.rmtree(folder / "runs"),  # it makes runs/first itself
    "pixels.md": lambda folder: untrained_run(folder / "runs" / "pixels", "pearl/point-robot-pixels"),
    "references.md": lambda folder: untrained_run(
        folder / "runs" / "oracle" / "seed-0", "oracle/point-robot", encoder_hidden_size=None
    ),
    "reports.md": two_groups,
    "videos.md": a_video,
}
"""What the blocks of a page find in the current folder, beside `runs/first`."""
NAMES = {"pixels.md": {"picture": np.zeros((64, 64, 3), np.uint8)}}
"""What a reader of the page has."""


class Trial:
    """As much of an Optuna trial as the page uses."""

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        return low

    def report(self, value: float, step: int) -> None:
        assert np.isfinite(value)

    def should_prune(self) -> bool:
        return False


class Board:
    """As much of a Weights & Biases run as nacre uses."""

    def define_metric(self, name: str, **how: str) -> None:
        pass

    def log(self, columns: dict[str, Any]) -> None:
        assert columns.keys() & {"return/AverageReturn_all_test_tasks", "figures/learning_curve"}

    def finish(self, exit_code: int) -> None:
        assert exit_code == 0


def packages() -> dict[str, types.SimpleNamespace]:
    """In place of packages that nacre does not install."""
    study = types.SimpleNamespace(optimize=lambda objective, n_trials: objective(Trial()))
    return {
        "optuna": types.SimpleNamespace(create_study=lambda direction: study, TrialPruned=Exception),
        "wandb": types.SimpleNamespace(
            init=lambda **_: Board(),
            setup=lambda: types.SimpleNamespace(settings=types.SimpleNamespace(mode="offline")),
            Image=lambda figure: figure,
        ),
    }


@pytest.fixture
def folder(tiny: dict[str, int], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: with a run in `runs/first`. Experiments are small."""
    make_experiment = nacre.make_experiment

    def small(name: str, /, **overrides: Any) -> nacre.Experiment:
        given = make_experiment(name, **overrides)
        fields = {field.name for field in (*dataclasses.fields(given), *dataclasses.fields(given.algorithm))}
        sizes = {field: size for field, size in tiny.items() if field in fields and field != "iterations"}
        return make_experiment(name, **{**sizes, **overrides, "iterations": min(given.iterations, 2)})

    shutil.copytree(tiny_run, tmp_path / "runs" / "first")
    monkeypatch.setattr(nacre, "make_experiment", small)
    monkeypatch.chdir(tmp_path)
    for name, package in packages().items():
        monkeypatch.setitem(sys.modules, name, package)  # pyright: ignore[reportArgumentType]
    families = dict(FAMILIES)
    handlers, level = list(logging.root.handlers), logging.getLogger("nacre").level
    yield tmp_path
    FAMILIES.clear()
    FAMILIES.update(families)
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)
        handler.close()
    logging.getLogger("nacre").setLevel(level)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: Path, folder: Path) -> None:
    BEFORE.get(page.name, lambda folder: None)(folder)
    names: dict[str, Any] = {"__name__": "page", "gymnasium": gymnasium, "nacre": nacre, "np": np}
    names |= NAMES.get(page.name, {})
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        code = "\n" * line + block[1]  # so that an error names the line of the page
        exec(compile(code, str(page), "exec"), names)


def test_a_method_with_results_is_not_said_to_have_none() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^\]]+\]\(docs/(\w+)\.md\).*no curve yet", text, re.MULTILINE)
    assert not [name for name in rows if (ROOT / "results" / name).exists()]
