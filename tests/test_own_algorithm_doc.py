"""Runs docs/own-algorithm.md as it stands: its files, and its commands with fewer iterations."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nacre.cli import main
from nacre.loading import read_trained
from nacre.logs import read_progress_csv
from nacre.run_evaluation import play_trials

PAGE = Path(__file__).parent.parent / "docs" / "own-algorithm.md"
FILES = dict(
    re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
)
COMMANDS = re.findall(r"^(nacre .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
ITERATIONS = 4
"""In place of those of the experiment."""


@pytest.fixture(scope="module")
def folder(own_registrations: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page's files are and its commands have run."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            arguments = shlex.split(command)[1:]
            if "train" in arguments and "--iterations" not in arguments:
                arguments += ["--iterations", str(ITERATIONS)]
            main([str(ITERATIONS + 1) if argument == "16" else argument for argument in arguments])
        yield folder


def test_the_page_is_as_long_as_it_says() -> None:
    assert set(FILES) == {f"task_regression/{name}.py" for name in ("config", "agent", "learner", "__init__")}
    lines = [line for text in FILES.values() for line in text.splitlines() if line.strip()]
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


def test_it_learns_on_test_tasks(folder: Path) -> None:
    columns = read_progress_csv(folder / "runs" / "half-circle" / "progress.csv")
    assert list(columns)[:2] == ["Regression Error", "Critic Loss"]
    assert columns["Epoch"].tolist() == list(range(ITERATIONS + 1))
    assert columns["Regression Error"][-1] < 0.5 * columns["Regression Error"][0]
    returns = columns["AverageReturn_all_test_tasks"]
    assert np.mean(returns[-2:]) > returns[0] + 3


def test_what_the_commands_wrote(folder: Path) -> None:
    assert len(list((folder / "runs" / "half-circle" / "evaluations").glob("*.json"))) == 1
    assert "collection_steps" in (folder / "runs" / "half-circle" / "report.html").read_text()
    assert (folder / "compare.html").exists()
    for seed in (0, 1):
        assert (
            read_progress_csv(folder / "runs" / "two" / f"seed-{seed}" / "progress.csv")["Number of train steps total"][
                -1
            ]
            == 100
        )


def test_a_trial_tells_the_agent_its_task(folder: Path) -> None:
    from task_regression.agent import infer  # pyright: ignore[reportMissingImports]

    trained = read_trained(folder / "runs" / "half-circle")
    encoder, _ = trained.parameters
    test = play_trials(trained, trained.split.test, trained.protocol, seed=3)
    after = np.asarray(infer(encoder, test.belief))
    nothing = type(test.belief)(jnp.zeros_like(test.belief.total), jnp.zeros_like(test.belief.count))
    before = np.asarray(infer(encoder, nothing))
    goals = trained.split.test
    assert ((after - goals) ** 2).sum(1).mean() < 0.7 * ((before - goals) ** 2).sum(1).mean()
