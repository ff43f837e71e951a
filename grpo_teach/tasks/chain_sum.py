"""The course's toy: the sum of a chain of digits, modulo 10.

``7+5+8+3+9=`` asks for ``2``. A policy may answer at once (``2``) or work step by step first:
``<think>7+5=2;2+8=0;0+3=3;3+9=2;</think>2``. Only the answer is rewarded.
"""

from dataclasses import dataclass

import torch

from grpo_teach.errors import InputError
from grpo_teach.tasks.task import Problem, Task


@dataclass(frozen=True)
class ChainSum(Task):
    """Problems with a given number of addends, each a digit.

    Attributes:
        addends: lengths to draw from, uniformly; one number is accepted too.
    Raises:
        InputError: if a length is below 2, or there is none.
    """

    addends: tuple[int, ...] | int = 5

    def __post_init__(self):
        lengths = (self.addends,) if isinstance(self.addends, int) else tuple(self.addends)
        object.__setattr__(self, "addends", lengths)
        if min(lengths, default=0) < 2:
            raise InputError(f"a chain sum needs at least 2 addends, got addends={lengths}")

    def draw(self, generator: torch.Generator) -> Problem:
        """A length, then its digits, each uniformly."""
        length = self.addends[int(torch.randint(len(self.addends), (1,), generator=generator))]
        digits = torch.randint(10, (length,), generator=generator).tolist()
        return Problem("+".join(map(str, digits)) + "=", str(sum(digits) % 10))

    def guess(self, problems: list[Problem], generator: torch.Generator) -> list[str]:
        """For each problem a digit at random."""
        return [str(digit) for digit in torch.randint(10, (len(problems),), generator=generator).tolist()]

    def demonstration(self, problem: Problem, slip: float = 0.0, generator: torch.Generator | None = None) -> str:
        """A worked solution. With probability ``slip`` a step's result is replaced by a random digit."""
        digits = [int(d) for d in problem.prompt.rstrip("=").split("+")]
        total, steps = digits[0], []
        for digit in digits[1:]:
            result = (total + digit) % 10
            if slip and float(torch.rand(1, generator=generator)) < slip:
                result = int(torch.randint(10, (1,), generator=generator))
            steps.append(f"{total}+{digit}={result};")
            total = result
        return f"<think>{''.join(steps)}</think>{total}"
