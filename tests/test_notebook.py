"""examples/sparse-point-robot.ipynb: as it is committed, and executed at a size of seconds."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.image import imread
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "examples" / "sparse-point-robot.ipynb"
FIGURES = ("curve", "evaluate", "prior-figure", "adaptation-figure", "posterior-figure", "samples-figure")
"""The cells that draw."""


def read(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: NotebookNode, stream: str) -> str:
    return "".join(
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == stream
    )


def coloured_pixels(notebook: NotebookNode, cell_id: str) -> int:
    """How many pixels of the picture below a cell are neither white nor grey nor black, as axes and words are."""
    [cell] = [cell for cell in notebook.cells if cell.id == cell_id]
    [picture] = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    pixels = imread(io.BytesIO(base64.b64decode(picture)))[:, :, :3]
    return int((np.ptp(pixels, axis=2) > 0.05).sum())


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return read(NOTEBOOK)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook, executed in an empty folder with warnings as errors and nothing changed but its size."""
    notebook = read(NOTEBOOK)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = 'import warnings\nwarnings.simplefilter("error")\n' + parameters.source
    parameters.source, changed = re.subn('^SIZE = "full"', 'SIZE = "tiny"', parameters.source, flags=re.MULTILINE)
    assert changed == 1
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))  # not the settings of whoever runs the tests
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, kernel_name="python3", startup_timeout=300, timeout=300, resources=resources)
        client.execute()
    assert (folder / "runs" / "sparse-point-robot" / "progress.csv").exists()
    return notebook


def test_it_runs_from_top_to_bottom_without_a_warning(executed):
    assert printed(executed, "stderr") == ""
    assert re.search(r"met within the first five episodes: \d+ of 4 goals\nmet in", printed(executed, "stdout"))


@pytest.mark.parametrize("cell", FIGURES)
@pytest.mark.parametrize("version", ["committed", "executed"])
def test_figures_are_drawn(version, cell, request):
    assert coloured_pixels(request.getfixturevalue(version), cell) > 400


def test_the_committed_notebook_is_as_it_was_executed(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, 1 + len(cells)))
    assert printed(committed, "stderr") == ""
    assert re.search(r"all 200 iterations|200/200", printed(committed, "stdout"))  # a whole run, not a tiny one
    assert NOTEBOOK.stat().st_size < 1_000_000
    text = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", text)


def test_the_size_that_it_describes_is_the_one_of_the_results(committed):
    """What the notebook calls `full` is what results/pearl/sparse-point-robot-kl-4 was measured with."""
    [source] = [cell.source for cell in committed.cells if cell.id == "train"]
    size = source[source.index('"full": {') : source.index('"tiny": {')]
    named = {name: float(value) for name, value in re.findall(r'"(\w+)": ([\d.e-]+),', size)}
    page = (NOTEBOOK.parents[1] / "results" / "pearl" / "sparse-point-robot-kl-4" / "README.md").read_text(
        encoding="utf-8"
    )
    table = re.findall(r"^\| `(\w+)` \| \S+ \| (\S+) \|$", page, flags=re.MULTILINE)
    assert named == {name: float(value) for name, value in table}
