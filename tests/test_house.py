"""The house names no algorithm: another one needs its own folder and table, and no change elsewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nacre
from nacre.agents import ALGORITHMS

SOURCE = Path(nacre.__file__).parent
PLANNED = ("oracle", "blind", "cemrl", "dmrlad", "meld")
NAMES = sorted({*ALGORITHMS, *PLANNED})
WORD = re.compile(rf"(?<![a-z])({'|'.join(NAMES)})(?![a-z])", re.IGNORECASE)
SOURCE_OF_A_FORMULA = re.compile(r"\((\w+, section [\d.]+; )?spec [a-z-]+( [^)]*)?\)|spec [a-z-]+( \d[\d.]*)?")
TABLE = SOURCE / "agents" / "__init__.py"


def belongs_to_an_algorithm(path: Path) -> bool:
    """Whether a file may name algorithms: an algorithm's own, those about old code bases, and the table."""
    parts = path.relative_to(SOURCE).parts
    own_experiments = parts[0] == "experiments" and path.stem in NAMES
    return path == TABLE or parts[0] == "original" or own_experiments or (parts[0] == "agents" and len(parts) > 2)


HOUSE = sorted(path for path in SOURCE.rglob("*.py") if not belongs_to_an_algorithm(path))


@pytest.mark.parametrize("path", HOUSE, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_algorithm_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = enumerate(SOURCE_OF_A_FORMULA.sub("", text).splitlines(), 1)
    words = [f"line {n}: {line.strip()}" for n, line in lines if WORD.search(line)]
    assert not words
    own = [f"nacre.{room}.{name}" for room in ("agents", "experiments") for name in NAMES]
    assert not [module for module in imports(text) if any(f"{module}.".startswith(f"{name}.") for name in own)]


def imports(text: str) -> list[str]:
    """Every module, and every name in a module, that a text imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_the_words_that_are_looked_for() -> None:
    for text in ("PEARL's", "pearl/cheetah-vel", "old_pearl_run", "Meld", "`oracle`"):
        assert WORD.search(text)
    for text in ("blindly", "PearlConfig", "welded"):
        assert not WORD.search(text)
    assert imports("from nacre.agents.pearl import config\nimport nacre.tasks.ant as x") == [
        "nacre.agents.pearl.config",
        "nacre.tasks.ant",
    ]


def test_agents_import_no_learners() -> None:
    for path in (SOURCE / "agents").glob("*/agent.py"):
        assert not [name for name in imports(path.read_text(encoding="utf-8")) if ".learner" in name]


@pytest.mark.parametrize(
    "program",
    [
        "import nacre",
        "import nacre; [getattr(nacre, name) for name in ('Algorithm', 'register_algorithm', 'make_experiment')]",
        "from nacre.cli import main; main(['list'])",
        "import nacre; experiment = nacre.make_experiment('pearl/ant-goal'); experiment.gradient_steps; "
        "experiment.algorithm.protocol(200); nacre.experiments.validate(experiment, nacre.make_family('ant-goal'))",
    ],
)
def test_without_jax(program: str) -> None:
    program += "; import sys; assert not {'jax', 'mujoco'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
