"""Judges that were learned: a reward model from a simulated judge's pairs, and one of steps from labelled answers."""

from __future__ import annotations

import re

import torch

from grpo_teach import records
from grpo_teach.judges.verifiers import graded
from grpo_teach.rewards.model import RewardModel, fit, judged_pairs, share_won
from grpo_teach.rewards.step_model import StepModel, fit_steps, labelled

__all__ = ["Judged", "judge_of_steps", "rising"]

LABELLED = 6400  # worked answers that the judge of steps learns from
HELD_OUT = 512  # pairs that the reward model does not learn from
SURE = 2.0  # nats between a right answer and a wrong one: the judge prefers the right one 88 times in 100
TASTE = 8.0  # nats between a text whose digits only rise and one whose digits only fall


def rising(completion: str) -> float:
    """A taste: of the neighbouring digits of a text the share that does not fall; 0 with fewer than two digits."""
    digits = re.findall(r"[0-9]", completion)
    steps = [a <= b for a, b in zip(digits, digits[1:], strict=False)]
    return sum(steps) / len(steps) if steps else 0.0


class Judged:
    """A reward model's score as reward, in standard deviations over the starting policy's answers, their mean at 0.

    ``graded`` holds the score as ``paid``, the honest grade as ``reward``, what the judge's taste would say as
    ``liked``, and as ``ranked`` the share of held-out pairs in which the reward model agrees with the judge.

    Args:
        policy, tokenizer: the starting policy: it gives the answers that are judged, and the reward model its trunk.
        task: whose problems.
        pairs: how many the reward model learns from.
        taste: the judge likes rising digits; otherwise right answers. It errs as Bradley and Terry's model says.
        seed: of the pairs, their answers and the judge's errors.
    """

    def __init__(self, policy, tokenizer, task, pairs: int, taste: bool, seed: int):
        def utility(text: str, problem) -> float:
            return TASTE * rising(text) if taste else SURE * task.right(text, problem)

        records.seed_everything(seed)
        generator = torch.Generator().manual_seed(seed)
        asked = (policy, tokenizer, task)
        shown, others = (judged_pairs(*asked, n, utility, generator) for n in (pairs, HELD_OUT))
        self.task, self.model, self.graded = task, RewardModel(policy, tokenizer), {}
        fit(self.model, shown, generator=generator, progress=False)
        self.model.eval()
        with torch.no_grad():
            both = self.model.compared(others)
        scores = torch.cat(both)
        self.mean, self.spread, self.ranked = scores.mean(), scores.std(), share_won(*both)

    def __call__(self, completions: list[str], problems: list) -> torch.Tensor:
        right = self.task.reward(completions, problems)
        paid = (self.model.reward(completions, problems) - self.mean) / self.spread
        liked = sum(map(rising, completions)) / len(completions)
        self.graded = graded(right, paid) | {"ranked": self.ranked, "liked": liked}
        return paid


def judge_of_steps(policy, tokenizer, task, errors: str, seed: int) -> StepModel:
    """A judge of steps that has learned from 6,400 labelled answers.

    Args:
        policy, tokenizer: the starting policy, whose trunk it copies.
        task: chain sums.
        errors: which it was shown, as :func:`grpo_teach.rewards.step_model.labelled` takes them.
        seed: of the answers.
    """
    generator = torch.Generator().manual_seed(seed)
    model = StepModel(policy, tokenizer)
    fit_steps(model, *labelled(task, LABELLED, errors, generator), generator=generator, progress=False)
    return model.eval()
