"""Rules that keep the notebooks readable in the book, in JupyterLab and in Colab."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from grpo_teach import __version__

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_each_stands_in_the_book():
    contents = (ROOT / "book" / "_toc.yml").read_text()
    assert NOTEBOOKS
    assert all(f"notebooks/{path.stem}" in contents for path in NOTEBOOKS)


def test_every_code_cell_was_run_in_order_without_error(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]


def test_the_set_up_cell_is_the_shared_one(notebook):
    template = (ROOT / "book" / "setup_cell.py").read_text().strip()
    first = notebook.cells[0]
    assert first.metadata.tags == ["remove-cell"]
    assert first.source == template.replace("REPOSITORY", ADDRESS).replace("VERSION", __version__)
    assert f'"grpo-teach=={__version__}"' in first.source
    assert f'"{ADDRESS}/archive/refs/tags/v{__version__}.zip"' in first.source
    assert all(len(line) <= 120 for line in first.source.splitlines())


def test_the_citation_names_the_same_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_markdown_has_no_syntax_that_only_the_book_reads(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert ":::" not in cell.source and "```{" not in cell.source
            assert not re.search(r"\{(eq|ref|cite|term|doc|numref)[^}]*\}`", cell.source)
            assert not re.search(r"\$\$ *\([\w-]+\)", cell.source), "number equations by \\tag"
            for display in re.findall(r"\$\$.*?\$\$", cell.source, flags=re.S):
                if "\\tag" in display:
                    assert "\\\\" not in display, "with \\tag break lines by \\cr"
            for block in re.findall(r"<details>.*?</summary>(.*?)</details>", cell.source, flags=re.S):
                assert block.startswith("\n\n"), "Markdown inside <details> needs blank lines around it"


def test_every_figure_has_a_description_for_those_who_cannot_see_it(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            about = cell.metadata.get("mystnb", {})
            assert len(about.get("image", {}).get("alt", "")) > 40
            assert about.get("figure", {}).get("caption")


def test_every_caption_stands_below_its_figure_too_where_jupyterlab_and_colab_show_it(notebook):
    expected = []
    for i, cell in enumerate(notebook.cells):
        if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
            below = notebook.cells[i + 1]
            assert (below.cell_type, below.source) == ("markdown", f"*Figure: {caption}*")
            assert below.id == f"{cell.id}-caption"
            expected.append(below.id)
    left_out = [cell.id for cell in notebook.cells if cell.cell_type == "markdown" and "remove-cell" in tagged(cell)]
    assert left_out == expected, "the book shows the metadata's caption and no other"


def test_writing_the_captions_again_changes_nothing_and_runs_nothing(tmp_path):
    again = shutil.copy(NOTEBOOKS[0], tmp_path)
    before = nbformat.read(again, as_version=4)
    for cell in before.cells:
        if cell.cell_type == "markdown" and "remove-cell" in tagged(cell):
            cell.source = "*Figure: of another time.*"
    nbformat.write(before, again)
    for _ in range(2):
        subprocess.run([sys.executable, ROOT / "book" / "store_outputs.py", "--setup-only", again], check=True)
        assert Path(again).read_bytes() == NOTEBOOKS[0].read_bytes()


def test_outputs_hold_no_path_address_or_warning(notebook):
    for cell in code_cells(notebook):
        text = str([{k: v for k, v in o.items() if k != "image/png"} for o in cell.outputs])
        assert not re.search(r"0x[0-9a-f]{6,}|/home/|/root/|/work/|/tmp/|ipykernel|Warning|\d+it/s", text)


def test_the_address_of_the_repository_stands_in_one_place():
    """Beside ``_config.yml`` only the set-up cells carry it, and they are written from there."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    address = ADDRESS.removeprefix("https://")
    holders = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        read = path.is_file() and path.suffix not in (".png", ".safetensors", ".ipynb")
        if read and address in path.read_text(encoding="utf-8", errors="ignore"):
            holders.append(name)
    assert holders == ["_config.yml"]


# Exercises -------------------------------------------------------------------------------------------------------

SOLUTION = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "mystnb": {"code_prompt_show": "Show solution", "code_prompt_hide": "Hide solution"},
}


def tagged(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def exercise_names(notebook) -> set[str]:
    return {name for c in notebook.cells if "exercise" in tagged(c) for name in re.findall(r"def (\w+)", c.source)}


def test_an_exercise_is_a_stub_a_check_a_hint_and_a_folded_solution(notebook):
    cells = notebook.cells
    for i, cell in enumerate(cells):
        if "exercise" in tagged(cell):
            before, check, hint, solution = cells[i - 1], cells[i + 1], cells[i + 2], cells[i + 3]
            (name,) = re.findall(r"^def (\w+)", cell.source, flags=re.M)
            number = re.search(r"### Exercise (\d+\.\d+)", before.source).group(1)
            assert "Difficulty" in before.source and "minutes" in before.source
            assert tagged(check) == {"check"}
            assert f'exercises.check("{name}", {name})' in check.source
            assert hint.source.startswith("<details><summary>Hint</summary>")
            assert tagged(solution) == {"solution", "hide-cell"}
            assert {k: solution.metadata.get(k) for k in SOLUTION} == SOLUTION
            assert solution.source.startswith(f"# @title Solution {number}\n")
            assert cell.source.split("(")[0] in solution.source


def test_the_stored_notebook_is_the_unsolved_one(notebook):
    for cell in notebook.cells:
        if "check" in tagged(cell):
            assert all("not attempted yet" in output.data["text/plain"] for output in cell.outputs)
        if "exercises.progress()" in cell.source:
            assert tagged(cell) == {"remove-output"} and not cell.outputs


def test_later_cells_use_the_packages_functions_and_not_the_learners(notebook):
    names = exercise_names(notebook)
    for cell in code_cells(notebook):
        if not tagged(cell) & {"exercise", "check", "solution"}:
            for name in names:
                assert not re.search(rf"(?<![\w.\"]){name}\(", cell.source), name
                assert not re.search(rf"import .*\b{name}\b", cell.source), name


def test_what_is_shown_from_the_package_is_checked_against_the_stored_output(notebook):
    for cell in code_cells(notebook):
        if any(f"{shown}(" in cell.source for shown in ("show_source", "show_diff", "loop_picture")):
            assert "nbval-check-output" in tagged(cell)


def test_the_packages_own_code_is_folded_where_it_gives_an_exercise_away(notebook):
    names = exercise_names(notebook)
    for cell in code_cells(notebook):
        shown = re.findall(r"show_source\((.*)\)", cell.source)
        if shown and names & set(re.findall(r"\w+", shown[0])) - {"token_logprobs"}:  # that one lacks the shift
            assert "hide-cell" in tagged(cell) and cell.metadata.jupyter.outputs_hidden
