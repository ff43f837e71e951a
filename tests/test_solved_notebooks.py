"""Each chapter with the solutions put into its exercise cells runs from top to bottom, every check passing.

A prediction's solution is what the record says. The blank notebooks are run whole elsewhere; here only those cells run
that the solutions can reach, and what these need. ``GRPO_TEACH_WHOLE_NOTEBOOKS=1`` runs all of them.
"""

import ast
import json
import os
import symtable
import time
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from grpo_teach.exercises import EXERCISES

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[01][0-9]_*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if path.stem[:2] not in ("00", "14")]  # they have no exercises


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


# Which cells matter -----------------------------------------------------------------------------------------------

SOLVED = {"exercise", "prediction"}
KEPT = {"remove-cell", "check"}  # the set-up cell makes the package importable
REPLACING = ast.Assign | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom


def bound(table) -> set[str]:
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}


def read_inside(table) -> set[str]:
    """Names of the notebook that a function, class or comprehension reads."""
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and symbol.is_global()}
    return names.union(*map(read_inside, table.get_children()))


def changed_in_place(node) -> str | None:
    """The name that ``x[0] = 1``, ``x.a = 1``, ``x += 1`` or a bare ``x.append(1)`` changes without binding it."""
    if isinstance(node, ast.AugAssign):
        node = node.target
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        node = node.value.func if isinstance(node.value.func, ast.Attribute) else None
    elif not isinstance(node, ast.Attribute | ast.Subscript) or isinstance(node.ctx, ast.Load):
        return None
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


class Apart(ast.NodeTransformer):
    """Comprehensions as generators: the symbols of these alone stand apart from the cell's in every Python."""

    def visit_ListComp(self, node):
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node):
        return self.generic_visit(ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators))


class Cell:
    """What a cell does by name. What a call does to its arguments is not seen, nor a second name for one thing."""

    def __init__(self, source: str):
        code = TransformerManager().transform_cell(source)  # magics as Python
        tree = ast.fix_missing_locations(Apart().visit(ast.parse(code)))
        table = symtable.symtable(ast.unparse(tree), "cell", "exec")
        self.magic = "get_ipython()." in code
        self.imports = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported()}
        self.binds = bound(table)
        certain = ast.unparse([statement for statement in tree.body if isinstance(statement, REPLACING)])
        self.replaces = bound(symtable.symtable(certain, "cell", "exec"))  # whatever it was; not in an if or a loop
        ours = {symbol.get_name() for symbol in table.get_symbols()} | read_inside(table)  # and not a function's own
        self.changes = {changed_in_place(node) for node in ast.walk(tree)} & ours
        self.reads = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()} | self.changes
        self.calls = {}  # what a function or class of this cell reads, which a function does when it is called
        for child in table.get_children():
            self.calls.setdefault(child.get_name(), set()).update(read_inside(child))
            if child.get_type() != "function" or child.get_name() not in self.binds:  # a class, or a comprehension
                self.reads |= read_inside(child)


def needed_cells(sources: list[str], tags: list[set[str]]) -> list[int]:
    """The solved cells, checks and magics, the later cells that these reach by a name, and what all these need."""
    cells = [Cell(source) for source in sources]
    modules = set().union(*(cell.imports for cell in cells))  # a call in one, torch.manual_seed(0), changes no name
    moves = [cell.binds | (cell.changes - modules) for cell in cells]
    reads = [list(cell.reads) for cell in cells]
    for names in reads:
        for name in names:  # which grows: functions call functions
            names += {more for cell in cells for more in cell.calls.get(name, ())} - set(names)
    reached, chosen, needed = set(), set(), set()
    for i, cell in enumerate(cells):
        if tags[i] & SOLVED or reached & set(reads[i]):
            reached |= moves[i]
            chosen.add(i)
        elif tags[i] & KEPT or cell.magic:
            chosen.add(i)
    for i in reversed(range(len(cells))):
        if i in chosen or needed & moves[i]:
            chosen.add(i)
            needed = (needed - cells[i].replaces) | set(reads[i])
    return sorted(chosen)


MADE_UP = [  # the code, whether it is needed, and its tag
    ("import contextlib", True, "remove-cell"),
    ("factor = 1 / 0", False),
    ("def scaled(x):\n    return factor * offset(x)", True),
    ("def offset(x):\n    return x + SHIFTS[-1] + table.get('b', 0) + Box.size + last", True),
    ("SHIFTS = [0]", True),
    ("unread = [1 / 0 for factor in SHIFTS]", False),
    ("for last in (3, 5):\n    factor = last", True),
    ("factor, _ = 5, 1", True),
    ("if factor > 5:\n    factor = 7", True),
    ("SHIFTS.append(10)", True),
    ("table = {'a': 1}\ntable['b'] = 1 / 0", False),
    ("table = {}", True),
    ("table['b'] = 1000", True),
    ("with contextlib.nullcontext(3) as width:\n    pass", True),
    ("class Box:\n    size = width", True),
    ("Box.size += (more := 4)", True),
    ("contextlib.nothing()", False),
    ("def answer(x):\n    unread = [0]\n    unread[0] = scaled(x)\n    return unread[0]", True, "exercise"),
    ("verdict = answer(1)", True, "check"),
    ("factor = 1 / 0", False),
    ("factor = 2", True),
    ("def helper():\n    return answer(2)", True),
    ("total = helper()", True),
    ("print(unread, 1 / 0)", False),
    ("total += 1", True),
    ("total = total + len([total for total in range(more)])", True),
    ("total = len({total: helper for total in ()}) + total", True),
    ("another = SHIFTS[1 / 0]", False),
    ("%matplotlib inline", True),
]


def test_the_cells_that_a_solution_reaches_are_found_with_all_they_need():
    sources = [source for source, *_ in MADE_UP]
    found = needed_cells(sources, [set(tag) for _, _, *tag in MADE_UP])
    assert found == [i for i, (_, needed, *_) in enumerate(MADE_UP) if needed]
    names = {}
    for i in found[:-1]:  # the last is a magic
        exec(sources[i], names)
    assert names["verdict"] == 5 * (1 + 10 + 1000 + 7 + 5)
    assert names["total"] == 2 * (2 + 10 + 1000 + 7 + 5) + 1 + 4


# The chapters -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_solved_notebook_passes_all_its_checks(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_TEACH_STRICT", "1")
    monkeypatch.setenv("GRPO_TEACH_PROGRESS", str(tmp_path / "progress.json"))
    notebook = with_solutions(path)
    notebook.cells = code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if os.environ.get("GRPO_TEACH_WHOLE_NOTEBOOKS") != "1":
        tags = [set(cell.metadata.get("tags", [])) for cell in code]
        notebook.cells = [code[i] for i in needed_cells([cell.source for cell in code], tags)]
    started = time.monotonic()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    print(f"{path.stem}: {len(notebook.cells)} of {len(code)} code cells in {time.monotonic() - started:.1f} s")
    checks = [cell for cell in code if "check" in cell.metadata.get("tags", [])]
    verdicts = [output.data["text/plain"] for cell in checks for output in cell.outputs]
    assert len(verdicts) >= 2 and all(": passed" in verdict.splitlines()[0] for verdict in verdicts)
    assert len(json.loads((tmp_path / "progress.json").read_text())["solved"]) == len(verdicts)
