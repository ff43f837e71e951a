"""What every task shares: problems split honestly into train and test, and a reward by rule."""

import zlib
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from grpo_teach.rewards.rules import accuracy


class Problem(NamedTuple):
    """One question and its answer, as text."""

    prompt: str
    answer: str


class Task:
    """A task says how to ``draw`` a problem, to ``guess`` an answer and to work one out (``demonstration``).

    About one problem in ten, chosen by a checksum of its text, belongs to the test split and is never sampled
    for training, so evaluation is always on problems that training has not seen.

    Attributes:
        characters: what its texts are made of, one token each, beside the special tokens.
        max_new_tokens: room for a worked answer, tokens.
        grade: the name of what its reward asks for, beside which :meth:`figures` may name others.
    """

    characters: ClassVar[str] = "0123456789+=;"
    max_new_tokens: ClassVar[int] = 32
    grade: ClassVar[str] = "right"

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n problems of one split (``"train"`` or ``"test"``) with the given generator."""
        problems = []
        while len(problems) < n:
            problem = self.draw(generator)
            if (zlib.crc32(problem.prompt.encode()) % 10 == 0) == (split == "test"):
                problems.append(problem)
        return problems

    def test_set(self, n: int) -> list[Problem]:
        """The fixed held-out problems: the same n every time; a shorter list is the start of a longer one."""
        return self.sample(n, torch.Generator().manual_seed(20250120), split="test")

    def right(self, completion: str, problem: Problem) -> float:
        """1.0 for a right answer, else 0.0."""
        return accuracy(completion, problem.answer)

    def figures(self, completion: str, problem: Problem) -> dict[str, float]:
        """What else an evaluation should report the mean of, by name: nothing, unless a task says so."""
        return {}

    def reward(self, completions: list[str], problems: list[Problem]) -> Tensor:
        """[P, G] rewards of P*G completions in prompt order: 1.0 for a right answer, else 0.0."""
        group_size = len(completions) // len(problems)
        scores = [self.right(text, problems[b // group_size]) for b, text in enumerate(completions)]
        return torch.tensor(scores).reshape(len(problems), group_size)

    def thinks(self, completion: str) -> bool:
        """Does the completion work step by step before it answers?"""
        return completion.startswith("<think>")
