"""An exercise: what is asked, what is right, and what typically goes wrong.

Python holds the reference and its helpers, one module a chapter. A TOML file beside it holds the rest, as data: the
cases to try; the mistakes, each an expression in the exercise's own arguments with the sentence that a learner who
makes it reads; other right answers; remarks.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

__all__ = ["TEXTS", "Case", "Exercise"]

TEXTS = {}  # "general", and a table for each exercise
for path in sorted(Path(__file__).parent.glob("*.toml")):
    TEXTS |= tomllib.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Case:
    """Inputs to try, and in words what they add to the cases before them: "It goes wrong with <label>. <hint>".

    ``mistake`` is the diagnosis if this case is the first to go wrong, and no mistake of the list explains all of them:
    a reward has so many holes that the list cannot hold every combination.
    """

    label: str
    inputs: dict[str, object]
    hint: str = ""
    mistake: str = ""


def _case(table: dict) -> Case:
    inputs = {k: _tensor(v) if isinstance(v, list) else v for k, v in table.items()}
    return Case(inputs.pop("label"), inputs, inputs.pop("hint", ""), inputs.pop("mistake", ""))


def _tensor(numbers: list) -> torch.Tensor | list[str]:
    if not numbers or isinstance(numbers[0], str):
        return numbers  # a list of texts
    tensor = torch.tensor(numbers)
    return tensor.float() if tensor.is_floating_point() else tensor  # whatever the default dtype is


@dataclass(frozen=True, eq=False)  # each is itself only, so that it can be the key of a cache
class Exercise:
    """One exercise; what is not given here is read from the TOML file.

    Attributes:
        name: as :func:`grpo_teach.exercises.check` takes it.
        chapter: of the book.
        reference: the right answer; its arguments are the cases' inputs in order.
        helpers: names that the TOML file's expressions may use.
        gradient: arguments through which the result's gradient must flow.
        rtol: relative tolerance, wide enough for any small epsilon.
        unpack: the result may be a tuple of which the first counts.
        text: the result is a text. It is the right one or another, so ``rtol`` should be 0.
        factors: numbers by which a mistake's result may be multiplied and still be that mistake.
        probes: by a remark's id, a test of the learner's function that says whether the remark applies.
        demands: by diagnosis, what is asked beside right numbers: None if it is met, else what was found instead.
        cases: simplest first.
        mistakes: by diagnosis; each computes what a learner who makes the mistake gets.
        also_right: other right answers, by the id of the remark they deserve.
        texts: by id, what the learner reads.
    """

    name: str
    chapter: int
    reference: Callable
    helpers: dict
    gradient: tuple[str, ...] = ()
    rtol: float = 1e-4
    unpack: bool = False
    text: bool = False
    factors: tuple[float, ...] = (1.0,)
    probes: dict[str, Callable] = field(default_factory=dict)
    demands: dict[str, Callable] = field(default_factory=dict)
    cases: tuple[Case, ...] = field(init=False)
    mistakes: dict[str, Callable] = field(init=False)
    also_right: dict[str, Callable] = field(init=False)
    texts: dict[str, str] = field(init=False)

    def __post_init__(self):
        table = TEXTS[self.name]
        texts = TEXTS["general"] | {k: v for k, v in table.items() if isinstance(v, str)}
        object.__setattr__(self, "cases", tuple(map(_case, table["cases"])))
        texts |= {case.mistake: texts["wrong_value"] for case in self.cases if case.mistake}
        for kind in ("mistakes", "also_right"):
            entries = table.get(kind, {})
            object.__setattr__(self, kind, {name: self._function(entry["code"]) for name, entry in entries.items()})
            texts |= {name: entry["says"] for name, entry in entries.items()}
        object.__setattr__(self, "texts", texts)

    def _function(self, expression: str) -> Callable:
        """An expression in the exercise's arguments, as a function of them."""
        return eval(f"lambda {', '.join(self.cases[0].inputs)}: {expression}", self.helpers)
