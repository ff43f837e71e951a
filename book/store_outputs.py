"""Run the notebooks and store their outputs: ``python book/store_outputs.py [NOTEBOOK ...]``.

Run twice on one machine it writes the same bytes: fixed cell ids, no times, whitelisted metadata. It also
writes the set-up cell of every notebook from ``book/setup_cell.py``, the repository's address in ``_config.yml``
and the package's version, and below every figure its caption from the cell's metadata, so that each stands in one
place. With ``--setup-only`` that is all it does.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from grpo_teach import __version__

ROOT = Path(__file__).resolve().parent.parent
CELL_METADATA = ("tags", "cellView", "jupyter", "mystnb")
WIDGET = "application/vnd.jupyter.widget-view+json"  # without a kernel it shows nothing; the text beside it does
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def setup_source() -> str:
    """The set-up cell, with the repository's address and the package's version filled in."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    template = (ROOT / "book" / "setup_cell.py").read_text()
    return template.replace("REPOSITORY", url).replace("VERSION", __version__).strip()


def is_caption(cell: nbformat.NotebookNode) -> bool:
    """Whether it is a cell of :func:`with_captions`: the only Markdown that the book leaves out."""
    return cell.cell_type == "markdown" and "remove-cell" in cell.metadata.get("tags", [])


def with_captions(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells, and below each figure a Markdown cell with its caption.

    JupyterLab and Colab do not show the caption in a figure's metadata. The book does, and leaves these cells out.
    """
    found = []
    for cell in cells:
        found.append(cell)
        if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
            below = {"id": f"{cell.id}-caption", "metadata": {"tags": ["remove-cell"]}}
            found.append(nbformat.v4.new_markdown_cell(f"*Figure: {caption}*", **below))
    return found


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Leave nothing in the notebook that differs from run to run."""
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.cells = [cell for cell in notebook.cells if not is_caption(cell)]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03}"
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in CELL_METADATA if k in cell.metadata})
        tags = cell.metadata.get("tags", [])
        if "remove-cell" in tags:
            cell.source = setup_source()
        if "remove-output" in tags:  # the book leaves it out: it is each reader's own
            cell.outputs = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            output.pop("transient", None)
            output.get("data", {}).pop(WIDGET, None)
    notebook.cells = with_captions(notebook.cells)


def store(path: Path, setup_only: bool = False) -> None:
    """Run one notebook and write it back with its outputs, or with those it had."""
    notebook = nbformat.read(path, as_version=4)
    normalise(notebook)
    if not setup_only:
        client = NotebookClient(
            notebook,
            timeout=600,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute()
        normalise(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main() -> int:
    os.environ["GRPO_TEACH_PROGRESS"] = os.devnull  # the stored notebooks are nobody's: nothing is solved in them
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="which; without any, all of notebooks/")
    parser.add_argument("--setup-only", action="store_true", help="write the set-up cells and captions; run nothing")
    args = parser.parse_args()
    chosen = args.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in tqdm(chosen):
        try:
            store(path, args.setup_only)
        except (OSError, CellExecutionError, nbformat.reader.NotJSONError) as error:
            print(f"error: {path}: {str(error).strip().splitlines()[-1]}; the notebook is as it was", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
