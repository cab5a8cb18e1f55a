"""Families, algorithms and experiments of one's own on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MINE = '''
import dataclasses
import nacre
from nacre.configuration import AlgorithmConfig, Count
from nacre.protocol import Protocol
from nacre.tasks.point import PointRobot

class Mine(PointRobot):
    name = "my-points"

@dataclasses.dataclass(frozen=True)
class Config(AlgorithmConfig):
    pace: Count = 2
    """How fast it counts."""
    encoder: str = "counter"

    def environment_steps(self, train_tasks, iterations):
        return 1000 * iterations

    def gradient_steps(self, iterations):
        return 2000 * iterations

    def protocol(self, horizon):
        return Protocol("counting", trials=1, steps=0, episodes=1, exploration_episodes=0)

nacre.register_family("my-points", Mine)
nacre.register_algorithm(nacre.Algorithm("counting", Config, learner="mine:Learner"))
nacre.register_experiment(
    nacre.Experiment("counting/my-points", "my-points", Config(), train_tasks=4, test_tasks=2), "counts points"
)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("x = 1\n1 / 0\n")
    return tmp_path


def nacre(folder: Path, *arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, in the folder; `program` runs first."""
    program += f"\nfrom nacre.cli import main; main({list(arguments)})"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [("--import", "mine", "list"), ("list", "--import=mine")])
def test_import_before_and_after_the_command(folder: Path, arguments: tuple[str, ...]) -> None:
    done = nacre(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ncounting:\ncounting/my-points " in done.stdout
    assert "my-points, " in done.stdout


def test_flags_of_another_algorithm(folder: Path) -> None:
    program = "import nacre.training\nnacre.training.train = lambda experiment, out, **_: print(experiment) or 1 / 0"
    flags = ("--pace", "7", "--seed", "3", "--encoder", "x")
    done = nacre(folder, "--import", "mine", "train", *flags, "counting/my-points", program=program)
    assert "algorithm=Config(pace=7, encoder='x')" in done.stdout
    assert "seed=3" in done.stdout
    help_text = nacre(folder, "--import", "mine", "train", "counting/my-points", "--help").stdout
    assert "How fast it counts. (default: 2)" in help_text
    assert "--kl-weight" not in help_text
    refused = nacre(folder, "--import", "mine", "train", "counting/my-points", "--kl-weight", "3")
    assert refused.returncode == 2
    assert "--kl-weight" in refused.stderr
    refused = nacre(folder, "--import", "mine", "train", "counting/my-points", "--pace", "0")
    assert "algorithm.pace is 0; allowed: at least 1 and at most 1000000" in refused.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_there", "there is no module 'nothing_there' to import, in "),
        ("mine.py", "the name of a module has no .py at its end"),
        ("broken", "the module 'broken' cannot be imported: ZeroDivisionError: division by zero ("),
    ],
)
def test_imports_that_fail(folder: Path, name: str, message: str) -> None:
    done = nacre(folder, "--import", name, "list")
    assert done.returncode == 2
    assert done.stderr.startswith("nacre: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "broken.py, line 2)" in done.stderr or name != "broken"


def test_import_without_a_name(folder: Path) -> None:
    assert nacre(folder, "list", "--import").stderr == (
        "nacre: error: --import has no value; allowed: the name of a module\n"
    )


def test_what_is_unknown_says_where_it_comes_from(folder: Path) -> None:
    for arguments, function in (
        (("train", "counting/my-points"), "register_experiment"),
        (("train", "pearl/point-robot", "--family", "my-points", "--out", "run"), "register_family"),
    ):
        error = nacre(folder, *arguments).stderr
        assert f"nacre.{function}, or nacre --import MODULE" in error


def test_plugins_of_installed_packages(folder: Path) -> None:
    for package, module in (("good", "mine"), ("bad", "broken")):
        metadata = folder / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[nacre.plugins]\n{package} = {module}\n")
    done = nacre(folder, "list")
    assert done.returncode == 0
    assert "counting/my-points" in done.stdout
    assert done.stderr.startswith("nacre: warning: the plugin bad (broken) is left out: ZeroDivisionError: division by")
    assert done.stderr.count("\n") == 1


def test_what_is_said_to_be_typed_next_has_the_imports(folder: Path) -> None:
    program = (
        "from nacre.extensions import import_modules, imported_modules\n"
        "import_modules(['mine', 'mine'])\n"
        "assert imported_modules() == ['mine']\n"
        "from nacre.errors import Interrupted\n"
        "from pathlib import Path\n"
        "print(Interrupted(Path('my run'), 2))"
    )
    done = nacre(folder, "--version", program=program)
    assert done.stdout.startswith("Stopped and saved. Continue with: nacre --import mine resume 'my run'\n")


def test_python_dash_m(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "nacre"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "usage: nacre [-h] {list,train," in done.stdout
