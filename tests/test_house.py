"""The house keeps its rule: engine below, laboratories above, nothing private borrowed, nothing in a circle."""

import ast
import io
import pkgutil
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import grpo_teach
from grpo_teach.moved import MOVED

PACKAGE = Path(grpo_teach.__file__).parent
ENGINE = {"algorithms", "tasks", "rewards"}  # folders; a file at the top level is engine too
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def dotted(path: Path) -> str:
    """The module's name inside the package; "" is the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {dotted(path): path for path in FILES}


def room(module: str) -> str:
    """The folder that a module stands in, or "engine"."""
    path = MODULES[module].relative_to(PACKAGE)
    if module == "__main__":
        return "commands"
    return "engine" if len(path.parts) == 1 or path.parts[0] in ENGINE else path.parts[0]


def imports(module: str) -> list[tuple[str, str | None]]:
    """``(module, name)`` for everything a module imports from the package, inside functions too."""
    found = []
    for node in ast.walk(TREES[MODULES[module]]):
        if isinstance(node, ast.Import):
            found += [(alias.name.removeprefix("grpo_teach").lstrip("."), None) for alias in node.names
                      if alias.name.split(".")[0] == "grpo_teach"]  # fmt: skip
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grpo_teach":
            source = node.module.removeprefix("grpo_teach").lstrip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                found.append((inner, None) if inner in MODULES else (source, alias.name))
        assert not isinstance(node, ast.ImportFrom) or not node.level, f"{module}: a relative import"
    return found


IMPORTS = {module: imports(module) for module in MODULES}


def test_every_import_is_of_a_module_where_it_stands_now():
    for module, found in IMPORTS.items():
        assert {source for source, _ in found} <= MODULES.keys(), module


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "engine"])
def test_the_engine_imports_no_laboratory(module):
    assert {source for source, _ in IMPORTS[module] if room(source) != "engine"} == set()


def loaded_by(module: str) -> list[str]:
    """The modules that a fresh process holds after it has imported this one."""
    asked = [sys.executable, "-c", f"import sys, {module}; print(list(sys.modules))"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return ast.literal_eval(done.stdout)


def test_the_engine_loads_no_laboratory_either():
    rooms = {room(module) for module in MODULES} - {"engine"}
    inside = [name.split(".")[1] for name in loaded_by("grpo_teach") if name.startswith("grpo_teach.")]
    assert rooms and "policy" in inside and rooms.isdisjoint(inside)


def test_the_commands_load_the_code_of_models_when_they_need_one():
    # Seconds that whoever asks for --help, reads a record or builds the book need not wait. `import transformers` and
    # `transformers.Name` where it is used keep to this; `from transformers import Name` does not.
    loaded = loaded_by("grpo_teach.__main__")
    assert "transformers" in loaded and "transformers.modeling_utils" not in loaded


@pytest.mark.parametrize("module", MODULES)
def test_no_room_reaches_into_anothers_private_names(module):
    names = {alias for source, alias in IMPORTS[module] if room(source) != room(module) and alias}
    assert {name for name in names if name.startswith("_") and not name.startswith("__")} == set()
    modules = {
        source.split(".")[-1] for source, alias in IMPORTS[module] if alias is None and room(source) != room(module)
    }
    for node in ast.walk(TREES[MODULES[module]]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert not node.attr.startswith("_") or node.attr.startswith("__"), f"{node.value.id}.{node.attr}"


def test_nothing_imports_in_a_circle():
    # A package's own __init__ is run before its modules, but is imported by none of them.
    graph = {module: {source for source, _ in found if source != module} for module, found in IMPORTS.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def test_the_rooms_stand_in_no_circle_either():
    graph = {}
    for module, found in IMPORTS.items():
        graph.setdefault(room(module), set()).update({room(source) for source, _ in found} - {room(module)})
    assert set(TopologicalSorter(graph).static_order()) == {room(module) for module in MODULES}


# Size -------------------------------------------------------------------------------------------------------------

CORE = {"algorithms.__init__", "algorithms.common", "algorithms.sft", "algorithms.policy_gradient", "algorithms.ppo"}
CORE |= {"algorithms.grpo", "tasks", "tasks.task", "tasks.chain_sum", "rewards", "rewards.rules", "algorithms"}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(path: Path) -> int:
    """Lines that hold code: no docstring, comment or blank line."""
    lines, docstrings = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines - docstrings)


def test_a_reader_can_hold_each_room():
    sizes = Counter()
    for module, path in MODULES.items():
        top = len(path.relative_to(PACKAGE).parts) == 1 and module != "__main__"
        inside = path.parent.relative_to(PACKAGE).as_posix() if module != "__main__" else "commands"
        sizes["core" if top or module in CORE else inside] += lines_of_code(path)
    assert sizes.pop("core") <= 1200
    assert sizes.pop("exercises") > 0  # stand apart
    assert {name: size for name, size in sizes.items() if size > 700} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: dotted(path) or "grpo_teach")
def test_a_file_fits_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


# Where modules stood once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", MOVED)
def test_an_import_by_an_old_name_finds_the_module_itself(old):
    code = f"import grpo_teach.{old} as old, grpo_teach.{MOVED[old]} as new; assert old is new; import grpo_teach\n"
    code += f"assert grpo_teach.{old} is new and new.__spec__.name == 'grpo_teach.{MOVED[old]}'"
    exec(compile(code, "a saved notebook", "exec"), {})


def test_what_earlier_notebooks_import_is_still_there():
    saved = """
from grpo_teach.calculator import calculator
from grpo_teach.exact import ExactWorld, moments
from grpo_teach.experiments import load_study, run
from grpo_teach.large import SHAPES, adamw8bit, load_large, load_large_tokenizer, model_config
from grpo_teach.memory import Setup, Shape, nearest, predict
from grpo_teach.plots import COLOURS, STYLE, TERM_COLOURS, LiveCurves, as_png, seeds_figure
from grpo_teach.policy import BASES, Critic, Models, save_policy, tiny_policy, tiny_tokenizer
from grpo_teach.preflight import preflight
from grpo_teach.results import area, difference, ends, interval, mean, on_grid
from grpo_teach.rewards import accuracy, coin, extract_answer, lenient_accuracy, strict_accuracy, tagged_answer
from grpo_teach.rollout import Rollouts, from_text, sample, score, score_with_values
from grpo_teach.train import adamw
from grpo_teach.viz import explorer, show_diff, show_source, source, update_diff, update_source
"""
    exec(compile(saved, "a saved notebook", "exec"), {})


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="grpo_teach.nonsense"):
        __import__("grpo_teach.nonsense")


def test_old_names_are_no_modules_of_their_own():
    standing = {info.name for info in pkgutil.iter_modules([str(PACKAGE)])}
    assert standing.isdisjoint(MOVED)


def test_every_file_that_is_no_code_travels_in_the_wheel():
    """A notebook opened alone in Colab has the installed package and nothing else."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["grpo_teach"]
    shipped = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    needed = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert needed - shipped == set() and len(needed) > 20
