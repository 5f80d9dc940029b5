"""Every notebook of the course runs from its first cell to its last, and is committed the way it should be.

Each is executed in a kernel of its own, without privileges, in the virtual kernel.  What a text claims is asserted
by its notebook's last cell, so that a notebook that runs through is a notebook that is true.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import nbformat
import pytest
from nbclient import NotebookClient

CHECKOUT: Final = Path(__file__).parent.parent.parent
NOTEBOOKS: Final = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
CELL_S: Final = 300

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


@pytest.mark.notebook
@pytest.mark.virtual
@pytest.mark.timeout(900)
@every_notebook
def test_a_notebook_runs_and_its_claims_hold(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    client = NotebookClient(
        read(path),
        timeout=CELL_S,
        startup_timeout=CELL_S,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    client.execute()  # raises CellExecutionError, with the traceback, for the first cell that does


def test_there_is_a_course() -> None:
    numbers = [path.name.partition("_")[0] for path in NOTEBOOKS]
    assert "01" in numbers
    assert len(set(numbers)) == len(numbers)


@every_notebook
def test_a_notebook_is_committed_without_results(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@every_notebook
def test_a_notebook_asks_a_question_imports_once_and_ends_with_what_it_claims(path: Path) -> None:
    cells = read(path).cells
    title = cells[0].source.splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    codes = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    importing = [
        number
        for number, code in enumerate(codes)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(code))
    ]
    assert importing == [0]
    assert any(isinstance(statement, ast.Assert) for statement in codes[-1].body)
    assert cells[-1].cell_type == "code"
