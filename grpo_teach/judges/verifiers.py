"""A task's reward from a verifier that errs, has a hole or is stingy; each keeps what an honest one would say."""

from __future__ import annotations

import torch

from grpo_teach.rewards.planted import HACKS
from grpo_teach.train import mixed_groups

__all__ = ["OneOfEach", "Planted", "Unreliable", "graded"]


def graded(right: torch.Tensor, paid: torch.Tensor | None = None) -> dict[str, float]:
    """What a row of metrics shows of a batch: its honest grade [P, G], and beside it what was paid."""
    shown = {"reward": float(right.mean()), "mixed_groups": mixed_groups(right)}
    return shown if paid is None else shown | {"paid": float(paid.mean()), "paid_mixed": mixed_groups(paid)}


class Unreliable:
    """A task's reward from a verifier that errs; ``graded`` is what an honest one would have shown.

    ``paid = right (1 - false_negatives) + (1 - right) false_positives`` on average. With both at 1/2 it is a coin that
    knows nothing of the answer.

    Args:
        task: whose reward it is, 0 or 1.
        false_positives, false_negatives: the share of wrong answers that are called right, and of right ones wrong.
    """

    def __init__(self, task, false_positives: float, false_negatives: float):
        self.task, self.errors, self.graded = task, (false_positives, false_negatives), {}

    def __call__(self, completions: list[str], problems: list) -> torch.Tensor:
        right, (positives, negatives) = self.task.reward(completions, problems), self.errors
        turned = torch.rand_like(right) < torch.where(right == 1, negatives, positives)
        paid = torch.where(turned, 1 - right, right)
        self.graded = graded(right, paid)
        return paid


class Planted:
    """A reward with a hole in it; ``graded`` is what the honest grade would have shown.

    Args:
        task: whose grade is the honest one.
        hack: a name in ``HACKS``.
    """

    def __init__(self, task, hack: str):
        self.task, self.rule, self.graded = task, HACKS[hack], {}

    def __call__(self, completions: list[str], problems: list) -> torch.Tensor:
        right, size = self.task.reward(completions, problems), len(completions) // len(problems)
        paid = [self.rule(text, problems[row // size]) for row, text in enumerate(completions)]
        paid = torch.tensor(paid).view(right.shape)
        self.graded = graded(right, paid)
        return paid


class OneOfEach:
    """A task's reward, of which each group gets the first alone: training on the best of n answers.

    Where none is right none is paid. ``graded`` is what all right ones would have shown.
    """

    def __init__(self, task):
        self.task, self.graded = task, {}

    def __call__(self, completions: list[str], problems: list) -> torch.Tensor:
        right = self.task.reward(completions, problems)
        self.graded = graded(right)
        return torch.where(right.cumsum(dim=1) == 1, right, 0.0)
