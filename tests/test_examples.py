"""The examples run as they stand: scripts, and notebooks in a kernel; and what they are there to show is so."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT

import fastdc

EXAMPLES = ROOT / "examples"
SCRIPTS, NOTEBOOKS = ([path.name for path in sorted(EXAMPLES.glob(f"*.{suffix}"))] for suffix in ("py", "ipynb"))
NEEDED = {"training_loops.py": "lightning"}
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is missing: these tests run in a source tree")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """A folder to write to, a home without caches, and one thread, which is the quickest for networks so small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(fastdc.__file__).parents[1]))
    torch.set_num_threads(1)


def accuracies(printed: str) -> dict[str, float]:
    """The first percentage of each line that begins with a name of one word."""
    return {name: float(percent) for name, percent in re.findall(r"^(\w+) +([\d.]+)%", printed, flags=re.MULTILINE)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_as_it_stands(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    if script in NEEDED:
        pytest.importorskip(NEEDED[script], reason=f"{NEEDED[script]} is not installed")
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed
    found = accuracies(printed)
    if "random" in found:  # what the example is there to show
        assert found["condensed"] > found["random"]


def executed(notebook: str) -> tuple[str, list[dict[str, Any]]]:
    """What the cells of a notebook print, and what they show, run by a kernel in the present folder."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    content = nbformat.read(EXAMPLES / notebook, as_version=4)
    client.NotebookClient(content, timeout=120, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}}).execute()
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout"), [
        output.data for output in outputs if "data" in output
    ]


def test_the_first_condensation_shows_images_and_how_they_came_to_be() -> None:
    printed, shown = executed("first_condensation.ipynb")
    found = accuracies(printed)
    assert found["condensed"] > found["random"]
    assert sum("image/png" in data for data in shown) == 2  # real images and learned ones
    (strip,) = [data["text/html"] for data in shown if "<figure" in data.get("text/html", "")]
    assert strip.count("<img ") > 5
    assert strip.endswith("iteration 40</figcaption></figure></div>")


def test_methods_are_compared_as_the_notebook_says() -> None:
    printed, shown = executed("comparing_methods.ipynb")
    found = accuracies(printed)
    assert list(found) == ["random", "herding", "dc", "dm"]
    assert min(found["dc"], found["dm"]) > found["random"]
    assert sum("image/png" in data for data in shown) == 2  # the sets and the curves


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_holds_no_outputs(notebook: str) -> None:
    cells = [cell for cell in json.loads((EXAMPLES / notebook).read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_every_example_stands_in_the_list() -> None:
    listed = re.findall(r"^\| \[(\S+)\]", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(SCRIPTS + NOTEBOOKS)
