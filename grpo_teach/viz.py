"""Pure views of the source: an algorithm's update, and what changed from its neighbour."""

from __future__ import annotations

import difflib
import inspect

from grpo_teach.algorithms import ALGORITHMS

__all__ = ["update_diff", "update_source"]


def update_source(name: str) -> str:
    """The live source of an algorithm's ``update``, without its docstring."""
    source = inspect.getsource(ALGORITHMS[name].update)
    head, docstring, body = source.partition(f'    """{inspect.getdoc(ALGORITHMS[name].update)}"""\n')
    return head + body if docstring else source


def update_diff(before: str, after: str) -> str:
    """Every line of ``after``'s update; ``+`` marks what is new and ``-`` what ``before`` had in its place.

    Args:
        before, after: names in ``ALGORITHMS``.
    """
    lines = difflib.ndiff(update_source(before).splitlines(), update_source(after).splitlines())
    return "\n".join(line for line in lines if not line.startswith("?"))
