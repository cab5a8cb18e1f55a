"""docker/Dockerfile against the rest of the repository: what it names has to be there. `make lint` runs hadolint."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COPIED = [source for line in re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.MULTILINE) for source in line.split()[:-1]]


def requirements(*extras: str) -> list[str]:
    """What docker/dependencies.py prints."""
    command = [sys.executable, str(ROOT / "docker" / "dependencies.py"), *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("source", COPIED)
def test_what_is_copied_exists_and_reaches_the_builder(source):
    assert (ROOT / source).exists()
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            parents = [source, *map(str, Path(source).parents)]
            if any(fnmatch.fnmatch(path, line.removeprefix("!")) for path in parents):
                ignored = not line.startswith("!")
    assert not ignored


def test_everything_that_the_package_is_built_from_is_copied():
    assert {"pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"]} <= set(COPIED)


def test_its_python_is_one_of_ours():
    [version] = re.findall(r"^ARG PYTHON=(3\.\d+)$", DOCKERFILE, flags=re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_requirements_are_those_of_the_project_and_of_the_extras_it_names():
    lists = re.findall(r"python dependencies\.py ?([\w ]*)>", DOCKERFILE)
    assert [extras.split() for extras in lists] == [[], ["cuda"]]
    assert requirements() == PROJECT["dependencies"]
    assert requirements("cuda") == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cuda"]
