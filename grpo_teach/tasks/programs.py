"""A fourth toy, where the answer is a program: say in Python what was done to a list of digits.

``[3,1,2]>[1,2,3];`` shows one example and asks for an expression over the list ``x`` that does the same to other
lists, here ``sorted(x)``. What the expression gives is tested on lists that the prompt does not show, so a copy of the
shown result, ``[1,2,3]``, earns nothing. A verifier that knows the shown example alone pays for the copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from grpo_teach.errors import InputError
from grpo_teach.rewards import code_reward, extract_answer
from grpo_teach.tasks.task import Problem, Task

__all__ = ["HELD_OUT", "WHAT", "Programs"]

LISTS: dict[str, Callable] = {
    "x[::-1]": lambda x: x[::-1],
    "x[1:]": lambda x: x[1:],
    "x[:-1]": lambda x: x[:-1],
    "x+x": lambda x: x + x,
    "sorted(x)": sorted,
    "sorted(x)[::-1]": lambda x: sorted(x)[::-1],
    "sorted(x)[1:]": lambda x: sorted(x)[1:],
    "sorted(x)[:-1]": lambda x: sorted(x)[:-1],
    "[a+1 for a in x]": lambda x: [a + 1 for a in x],
    "[a*2 for a in x]": lambda x: [a * 2 for a in x],
}
NUMBERS: dict[str, Callable] = {
    "x[0]": lambda x: x[0],
    "x[-1]": lambda x: x[-1],
    "len(x)": len,
    "sum(x)": sum,
    "max(x)": max,
    "min(x)": min,
    "max(x)+1": lambda x: max(x) + 1,
    "min(x)+1": lambda x: min(x) + 1,
    "sum(x)*2": lambda x: sum(x) * 2,
    "max(x)+min(x)": lambda x: max(x) + min(x),
    "max(x)-min(x)": lambda x: max(x) - min(x),
}
WHAT = LISTS | NUMBERS  # what can have been done to the list: a program, and the same as a function of ours
HELD_OUT = ([3, 1, 4, 2], [5, 0, 8], [9, 6, 6, 1, 7], [2, 7, 1, 8, 2, 8], [4, 9])  # no prompt shows one of these


def _written(value) -> str:
    return str(value).replace(" ", "")


@functools.cache
def _held_out_tests(what: str) -> tuple[str, ...]:
    return tuple(f"assert f({x}) == {WHAT[what](x)}" for x in HELD_OUT)


@functools.lru_cache(maxsize=100_000)
def _passes(expression: str, tests: tuple[str, ...]) -> float:
    """1.0 if every test holds, else 0.0; found out once in a process, in the sandbox."""
    return float(code_reward(f"def f(x):\n    return {expression}", list(tests)) == 1.0)


@dataclass(frozen=True)
class Programs(Task):
    """Problems ``[list]>result;`` with 3 or 4 digits in the list, of one of the programs in ``WHAT``.

    No other program there gives the shown result, so the example says which one it is. Any program that does the same
    is right: its reward is ``code_reward(program, tests) == 1``, run in the sandbox. The held-out problems show other
    lists than training does, and ask for the same programs.

    Attributes:
        grade: which tests must hold: ``"held_out"``, on lists that no prompt shows, or ``"shown"``, the prompt's own
            example alone: a weak verifier, which pays for a copy of the result.
    Raises:
        InputError: for another grade; when the first program is run, if pydantic-monty is not installed.
    """

    grade: str = "held_out"

    characters: ClassVar[tuple[str, ...]] = (
        *"0123456789[]();>,:+-*xa", "[::-1]", " for a in ", "sorted(", "sum(", "max(", "min(", "len("
    )  # fmt: skip
    max_new_tokens: ClassVar[int] = 20  # a copied list of eight digits takes 18; a program, up to 9

    def __post_init__(self):
        if self.grade not in ("held_out", "shown"):
            raise InputError(f"grade must be one of held_out, shown; got {self.grade!r}")

    def draw(self, generator: torch.Generator) -> Problem:
        """A program, uniformly, then a list of 3 or 4 digits until no other program gives the same result."""
        what = list(WHAT)[int(torch.randint(len(WHAT), (1,), generator=generator))]
        while True:
            length = int(torch.randint(3, 5, (1,), generator=generator))
            x = torch.randint(10, (length,), generator=generator).tolist()
            result = WHAT[what](x)
            if x not in HELD_OUT and sum(other(x) == result for other in WHAT.values()) == 1:
                return Problem(f"{_written(x)}>{_written(result)};", what)

    def tests(self, problem: Problem, grade: str = "held_out") -> list[str]:
        """The ``assert`` statements of a grade."""
        if grade == "held_out":
            return list(_held_out_tests(problem.answer))
        shown, result = problem.prompt.rstrip(";").split(">")
        return [f"assert f({shown}) == {result}"]

    def right(self, completion: str, problem: Problem, grade: str | None = None) -> float:
        """1.0 if all tests of the grade hold (without one, of the task's own), else 0.0."""
        return _passes(extract_answer(completion), tuple(self.tests(problem, grade or self.grade)))

    def figures(self, completion: str, problem: Problem) -> dict[str, float]:
        """``held_out``: do the tests on other lists hold? ``copied``: is it the shown result, letter by letter?"""
        copied = extract_answer(completion) == _shown_result(problem)
        return {"held_out": self.right(completion, problem, "held_out"), "copied": float(copied)}

    def guess(self, problems: list[Problem], generator: torch.Generator) -> list[str]:
        """For each problem, by a coin, a copy of the shown result, or a program that gives something of its kind."""
        texts = []
        for problem in problems:
            kind = list(LISTS if problem.answer in LISTS else NUMBERS)
            copy, which = torch.rand(2, generator=generator).tolist()
            texts.append(_shown_result(problem) if copy < 0.5 else kind[int(which * len(kind))])
        return texts

    def demonstration(self, problem: Problem, slip: float = 0.0, generator: torch.Generator | None = None) -> str:
        """The program that was drawn. With probability ``slip`` any of the programs instead."""
        if slip and float(torch.rand(1, generator=generator)) < slip:
            return list(WHAT)[int(torch.randint(len(WHAT), (1,), generator=generator))]
        return problem.answer


def _shown_result(problem: Problem) -> str:
    return problem.prompt.rstrip(";").split(">")[1]
