"""A third toy, where search matters: find the digit that solves an equation modulo 10.

``7x+4=9;`` asks for a digit x with 7x + 4 = 9 (mod 10), here ``5``. A policy may answer at once or try one digit after
the other first: ``<think>0:04;1:71;2:48;3:15;4:82;5:59=</think>5``. Each try shows the product's last digit, the
sum's last digit, and ``=`` if that is the one asked for. Only the answer is rewarded, and any solution counts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch

from grpo_teach.rewards import extract_answer
from grpo_teach.tasks.task import Problem, Task

__all__ = ["Equation"]


def _coefficients(problem: Problem) -> tuple[int, int, int]:
    """a, b and t of ``ax+b=t;``."""
    text = problem.prompt
    return int(text[0]), int(text[3]), int(text[5])


@dataclass(frozen=True)
class Equation(Task):
    """Problems ``ax+b=t;`` with a from 1 to 9 and digits b and t, such that there is a solution."""

    characters: ClassVar[str] = "0123456789+=;x:"
    max_new_tokens: ClassVar[int] = 56  # ten tries take 54: five a try, two tags, the answer, the end

    def draw(self, generator: torch.Generator) -> Problem:
        """a, b and a solution, each uniformly."""
        a, b, x = (int(torch.randint(low, 10, (1,), generator=generator)) for low in (1, 0, 0))
        return Problem(f"{a}x+{b}={(a * x + b) % 10};", str(x))

    def test_set(self, n: int) -> list[Problem]:
        """The held-out equations, each once and always in the same order: there are 64, and no more to ask."""
        return _held_out()[:n]

    def right(self, completion: str, problem: Problem) -> float:
        """1.0 for a digit that solves the equation, the one that was drawn or another, else 0.0."""
        a, b, t = _coefficients(problem)
        return float(extract_answer(completion) in {str(x) for x in range(10) if (a * x + b) % 10 == t})

    def guess(self, problems: list[Problem], generator: torch.Generator) -> list[str]:
        """For each problem a digit at random."""
        return [str(digit) for digit in torch.randint(10, (len(problems),), generator=generator).tolist()]

    def demonstration(self, problem: Problem, slip: float = 0.0, generator: torch.Generator | None = None) -> str:
        """Digits from 0 upwards until one fits or patience ends after 1 to 10 tries; then the next one, untried.
        With probability ``slip`` a try's result is replaced by a random digit."""
        (a, b, t), tries = _coefficients(problem), ""
        patience = int(torch.randint(1, 11, (1,), generator=generator))
        for x in range(patience):
            product = a * x % 10
            result = (product + b) % 10
            if slip and float(torch.rand(1, generator=generator)) < slip:
                result = int(torch.randint(10, (1,), generator=generator))
            tries += f"{x}:{product}{result}{'=' if result == t else ';'}"
            if result == t:
                return f"<think>{tries}</think>{x}"
        return f"<think>{tries}</think>{patience % 10}"


@functools.cache
def _held_out() -> list[Problem]:
    drawn = Task.test_set(Equation(), 2000)  # enough to meet every one of them
    return list({problem.prompt: problem for problem in reversed(drawn)}.values())[::-1]
