"""A second toy: the sum of two numbers, with the carries in the scratchpad.

``478+256=`` asks for ``734``. A policy may answer at once (``734``) or work column by column from the right first,
carrying: ``<think>8+6+0=14;7+5+1=13;4+2+1=7;</think>734``. A guess is almost never right.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import torch

from grpo_teach.errors import InputError
from grpo_teach.tasks.task import Problem, Task

__all__ = ["Addition"]


@dataclass(frozen=True)
class Addition(Task):
    """Problems with two numbers of the same number of digits.

    Attributes:
        digits: lengths to draw from, uniformly; one number is accepted too.
    Raises:
        InputError: if a length is below 1, or there is none.
    """

    digits: tuple[int, ...] | int = 3

    max_new_tokens = 48  # four digits take up to 44: nine a step, two tags, the answer, the end

    def __post_init__(self):
        lengths = (self.digits,) if isinstance(self.digits, int) else tuple(self.digits)
        object.__setattr__(self, "digits", lengths)
        if min(lengths, default=0) < 1:
            raise InputError(f"an addition needs numbers of at least 1 digit, got digits={lengths}")

    def draw(self, generator: torch.Generator) -> Problem:
        """A length, then two numbers of that many digits, each uniformly; none starts with 0."""
        length = self.digits[int(torch.randint(len(self.digits), (1,), generator=generator))]
        a, b = _numbers(length, generator)
        return Problem(f"{a}+{b}=", str(a + b))

    def guess(self, problems: list[Problem], generator: torch.Generator) -> list[str]:
        """For each problem the sum of two other numbers of that length: of the right size, almost never right."""
        return [str(sum(_numbers(problem.prompt.index("+"), generator))) for problem in problems]

    def demonstration(self, problem: Problem, slip: float = 0.0, generator: torch.Generator | None = None) -> str:
        """A worked solution. With probability ``slip`` a step's last digit is replaced by a random one."""
        first, second = problem.prompt.rstrip("=").split("+")
        steps, carry, answer = "", 0, ""
        for a, b in zip_longest(reversed(first), reversed(second), fillvalue="0"):
            result = int(a) + int(b) + carry
            if slip and float(torch.rand(1, generator=generator)) < slip:
                result = result // 10 * 10 + int(torch.randint(10, (1,), generator=generator))
            steps += f"{a}+{b}+{carry}={result};"
            carry, answer = result // 10, f"{result % 10}{answer}"
        return f"<think>{steps}</think>{carry or ''}{answer}"


def _numbers(length: int, generator: torch.Generator) -> list[int]:
    return torch.randint(10 ** (length - 1), 10**length, (2,), generator=generator).tolist()
