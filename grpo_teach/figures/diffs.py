"""Pure views of the live source: a function as it is, and what changed from its neighbour."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.algorithms.later import LATER

__all__ = ["show_diff", "show_source", "source", "update_diff", "update_source"]


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
    return source((ALGORITHMS | LATER)[name].update)


def update_diff(before: str, after: str) -> str:
    """Every line of ``after``'s update; ``+`` marks what is new and ``-`` what ``before`` had in its place.

    Args:
        before, after: names in ``ALGORITHMS`` or ``LATER``.
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
