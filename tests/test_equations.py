"""Equation numbers, docstrings and text of the chapters hold together, in both directions."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest

import grpo_teach

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))}
CHAPTERS = {
    path: [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
NUMBER = r"(\d+\.\d+)"
DISPLAY = r"\$\$((?:(?!\$\$).)*?)\\tag\{" + NUMBER + r"\}\s*\$\$"


def tags(text: str) -> dict[str, str]:
    """Each numbered equation's LaTeX, white space normalised."""
    return {number: " ".join(latex.split()) for latex, number in re.findall(DISPLAY, text, flags=re.S)}


EQUATIONS = {}  # number -> (chapter's file, LaTeX)
for path, cells in CHAPTERS.items():
    for number, latex in tags("\n\n".join(cells)).items():
        EQUATIONS[number] = path, latex


def docstrings() -> dict[str, str]:
    """The docstring of every public module, function, class and method, by its dotted name inside the package."""
    found = {}
    for info in pkgutil.walk_packages(grpo_teach.__path__, "grpo_teach."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        inside = info.name.removeprefix("grpo_teach.")
        found[inside] = inspect.getdoc(module) or ""
        for name, thing in vars(module).items():
            defined_here = getattr(thing, "__module__", None) == info.name
            if defined_here and (inspect.isfunction(thing) or inspect.isclass(thing)):
                found[f"{inside}.{name}"] = thing.__doc__ or ""
                for method, function in vars(thing).items() if inspect.isclass(thing) else ():
                    if inspect.isfunction(function):
                        found[f"{inside}.{name}.{method}"] = function.__doc__ or ""
    return found


DOCSTRINGS = docstrings()
CITED = {  # (dotted name, number), functions and classes only: a module cites a range
    (name, number) for name, text in DOCSTRINGS.items() for number in re.findall(r"book Eq\. \(" + NUMBER + r"\)", text)
}


def said_in_the_text() -> set[tuple[str, str]]:
    """What the "In the code:" line after each equation names."""
    found = set()
    for cells in CHAPTERS.values():
        number = None
        for line in "\n".join(cells).splitlines():
            tag = re.search(r"\\tag\{" + NUMBER + r"\}", line)
            if tag:
                number = tag.group(1)
            if line.startswith("In the code: "):
                found |= {(name, number) for name in re.findall(r"`([\w.]+)`", line)}
    return found


def test_docstrings_and_text_name_each_other():
    said = said_in_the_text()
    assert said - CITED == set(), "the text names a function whose docstring does not cite the equation"
    assert CITED - said == set(), "a docstring cites an equation whose text does not name the function"
    assert len(said) >= 15


def test_modules_cite_equations_that_exist():
    for name, text in DOCSTRINGS.items():
        for cited in re.findall(r"[Bb]ook Eq\. (.*?)\.(?:\s|$)", text, flags=re.S):
            numbers = re.findall(NUMBER, cited)
            assert numbers and set(numbers) <= EQUATIONS.keys(), (name, cited)


@pytest.mark.parametrize("chapter", sorted({path.stem[:2] for path in CHAPTERS}))
def test_equations_are_numbered_in_order_without_gaps(chapter):
    """A chapter in two files (05 and 05b) counts on from one to the other."""
    text = "\n\n".join("\n".join(cells) for path, cells in CHAPTERS.items() if path.stem[:2] == chapter)
    numbers = re.findall(r"\\tag\{" + NUMBER + r"\}", text)
    assert numbers == [f"{int(chapter)}.{i}" for i in range(1, len(numbers) + 1)]
    assert len(tags(text)) == len(numbers)


@pytest.mark.parametrize("path", [*PAGES, *CHAPTERS], ids=lambda path: path.stem)
def test_every_equation_referred_to_exists(path):
    text = PAGES[path] if path in PAGES else "\n".join(CHAPTERS[path])
    for number in re.findall(r"Eqs?\.\s*\(" + NUMBER + r"\)", text):
        assert number in EQUATIONS, f"Eq. ({number})"


def test_a_number_means_the_same_equation_everywhere():
    for page in PAGES.values():
        for number, latex in tags(page).items():
            assert EQUATIONS[number][1] == latex, number
