"""The notebooks run from top to bottom in a kernel of their own, and show what they printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "docs/notebooks"


@pytest.mark.thorough
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stored = [_kinds(cell) for cell in notebook.cells]
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    assert any(stored)
    assert [_kinds(cell) for cell in notebook.cells] == stored


def _kinds(cell: nbformat.NotebookNode) -> list[str]:
    """Name the outputs of a cell. What goes to stderr depends on the machine and is not stored."""
    outputs = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
    return [output.output_type for output in outputs]
