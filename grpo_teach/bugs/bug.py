"""A bug that is put into a run from outside: the product's code knows nothing of it.

A bug is a function from the right function to a wrong one. :meth:`Bug.injected` puts the wrong one in the right one's
place while a run is made, and takes it out again::

    with BUGS["flipped_sign"].injected():
        train(policy, tokenizer, task, ALGORITHMS["grpo"], GRPO(**BUGS["flipped_sign"].settings), steps=40)

``bug.toml`` holds for each the test that catches it, and its cure.
"""

from __future__ import annotations

import functools
import importlib
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

__all__ = ["BUGS", "Bug", "bug"]

TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
BUGS: dict[str, Bug] = {}


@dataclass(frozen=True)
class Bug:
    """One bug.

    Attributes:
        name: short and stable.
        place: ``module:name``, what is replaced.
        wrong: makes the wrong function from the right one.
        settings: of GRPO, without which the bug has nothing to spoil: a clip acts after the first step on a batch.
        says: what is wrong, in one line.
        test: ``file::function`` of the test that catches it.
        cure: what to write instead.
    """

    name: str
    place: str
    wrong: Callable[[Callable], Callable]
    settings: dict = field(default_factory=dict)

    @property
    def says(self) -> str:
        return self.wrong.__doc__.split("\n")[0]

    @property
    def test(self) -> str:
        return TEXTS[self.name]["test"]

    @property
    def cure(self) -> str:
        return TEXTS[self.name]["cure"]

    def where(self) -> tuple[object, str]:
        """The module or class that holds what is replaced, and its name there."""
        module, _, path = self.place.partition(":")
        *holders, name = path.split(".")
        return functools.reduce(getattr, holders, importlib.import_module(f"grpo_teach.{module}")), name

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Within it the package has this bug."""
        holder, name = self.where()
        with patch.object(holder, name, self.wrong(getattr(holder, name))):
            yield


def bug(place: str, **settings):
    """Enter a function from right to wrong into ``BUGS``, under its own name."""

    def enter(wrong: Callable) -> Callable:
        BUGS[wrong.__name__] = Bug(wrong.__name__, place, wrong, settings)
        return wrong

    return enter
