"""Each chapter with the solutions put into its exercise cells runs from top to bottom, every check passing.

A prediction's solution is what the record says.
"""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from grpo_teach.exercises import EXERCISES

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("0[1-9]_*.ipynb"))


def with_solutions(path: Path) -> nbformat.NotebookNode:
    """The notebook, each exercise cell replaced by the solution that follows it; the solution cells are left out."""
    notebook = nbformat.read(path, as_version=4)
    exercise, cells = None, []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            title, solution = cell.source.split("\n", 1)
            assert title.startswith("# @title Solution ") and exercise is not None
            exercise.source, exercise = solution, None
            continue
        if "prediction" in tags:
            name = cell.source.split(" = ")[0]
            cell.source = f"{name} = {EXERCISES[name].answer()!r}"
        if "exercise" in tags:
            assert exercise is None, "an exercise without a solution"
            exercise = cell
        cells.append(cell)
    assert exercise is None, "an exercise without a solution"
    notebook.cells = cells
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_solved_notebook_passes_all_its_checks(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_TEACH_STRICT", "1")
    monkeypatch.setenv("GRPO_TEACH_PROGRESS", str(tmp_path / "progress.json"))
    notebook = with_solutions(path)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    checks = [cell for cell in notebook.cells if "check" in cell.metadata.get("tags", [])]
    verdicts = [output.data["text/plain"] for cell in checks for output in cell.outputs]
    assert len(verdicts) >= 2 and all(": passed" in verdict.splitlines()[0] for verdict in verdicts)
    assert len(json.loads((tmp_path / "progress.json").read_text())["solved"]) == len(verdicts)
