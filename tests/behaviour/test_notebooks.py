"""Notebooks and the Python of the pages run, on a small quickstart."""

import re
from pathlib import Path

import jupytext
import nbclient
import pytest

pytestmark = pytest.mark.timeout(400)  # the quickstart is made by the first that needs it

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [path for path in sorted((ROOT / "docs").glob("*/*.md")) if PYTHON.search(path.read_text())]


@pytest.fixture
def in_front_of_runs(small_quickstart, monkeypatch):
    """Work in a folder with the run `runs/quickstart`."""
    monkeypatch.chdir(small_quickstart[0].parents[1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_something_in_every_part(path, in_front_of_runs, monkeypatch):
    monkeypatch.setenv("DINOFORGE_SIDE", "64")
    notebook = jupytext.read(path, fmt="py:percent")
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=Path.cwd())
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert "image/png" in shown
    assert len(shown) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs(page, in_front_of_runs, capsys):
    names = {}
    blocks = PYTHON.findall(page.read_text())
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    assert capsys.readouterr().out.strip()
