"""Pure views: of the live source, what changed from its neighbour, and recorded curves to choose from."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import textwrap
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS

__all__ = ["explorer", "show_diff", "show_source", "source", "update_diff", "update_source"]


def source(function) -> str:
    """The live source of a function, without its docstring."""
    text = textwrap.dedent(inspect.getsource(function))
    definition, lines = ast.parse(text).body[0], text.splitlines(keepends=True)
    if ast.get_docstring(definition):
        docstring = definition.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "".join(lines)


def update_source(name: str) -> str:
    """The live source of an algorithm's ``update``, without its docstring."""
    return source(ALGORITHMS[name].update)


def update_diff(before: str, after: str) -> str:
    """Every line of ``after``'s update; ``+`` marks what is new and ``-`` what ``before`` had in its place.

    Args:
        before, after: names in ``ALGORITHMS``.
    """
    lines = difflib.ndiff(update_source(before).splitlines(), update_source(after).splitlines())
    return "\n".join(line for line in lines if not line.startswith("?"))


def _code_block(text: str, language: str):
    from IPython.display import Markdown

    return Markdown(f"```{language}\n{text.rstrip()}\n```")


def show_source(*functions):
    """Functions as the package runs them, for a notebook; without docstrings."""
    return _code_block("\n\n".join(map(source, functions)), "python")


def show_diff(before: str, after: str):
    """:func:`update_diff`, for a notebook."""
    return _code_block(update_diff(before, after), "diff")


def explorer(names: dict[str, str], quantities: dict[str, str], name: str = "explorer"):
    """Recorded curves in one picture whose contents the reader chooses; it needs no kernel and asks no server.

    Args:
        names: studies to choose from, as ``{title: study}``.
        quantities: what to show, as ``{title: name in the curves}``.
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page: means over seeds with 95% bootstrap bands, against tokens and seconds.
    """
    from IPython.display import HTML

    from grpo_teach.records import load_record
    from grpo_teach.results import interval, on_grid

    def line(results: list[dict], quantity: str, against: str) -> dict:
        x, values = on_grid(results, quantity, against, points=25)
        low, high = interval(values)
        columns = {"x": x, "mean": values.mean(axis=0), "low": low, "high": high}
        return {key: [float(f"{number:.3g}") for number in column] for key, column in columns.items()}

    data = {}
    for title, study in names.items():
        runs = load_record(study)["runs"]
        data[title] = {
            shown: {
                against: {label: line(results, quantity, against.split()[-1]) for label, results in runs.items()}
                for against in ("generated tokens", "seconds")
            }
            for shown, quantity in quantities.items()
        }
    page = (Path(__file__).parent / "explorer.html").read_text(encoding="utf-8")
    return HTML(page.replace("ID", name).replace("DATA", json.dumps(data)))
