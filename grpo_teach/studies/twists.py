"""What a study may turn about a run: what is paid, what is read, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.policy import Models
from grpo_teach.rewards import extract_answer
from grpo_teach.rewards.planted import HACKS
from grpo_teach.rollout import from_text
from grpo_teach.train import Trainer, mixed_groups

__all__ = ["Different", "Enough", "OneOfEach", "Planted", "Unreliable", "graded", "teach"]


class Enough(Exception):
    """A run has come as far as its study asks."""


class Different:
    """A task that counts, while it is asked, the different right answers to each problem: ``found``, over all."""

    def __init__(self, task):
        self.task, self.found = task, 0

    def __getattr__(self, name: str):
        return getattr(self.task, name)

    def reward(self, completions: list[str], problems: list) -> torch.Tensor:
        rewards = self.task.reward(completions, problems)
        right = (rewards.flatten() >= 1).nonzero().flatten().tolist()
        self.found += len({(b // rewards.shape[1], extract_answer(completions[b])) for b in right})
        return rewards


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


class _Taught(Trainer):
    """A trainer whose batches are worked answers, each of another problem, as many as it would have sampled."""

    def sample(self):
        problems = self.task.sample(self.config.prompts * self.config.group_size, self.prompt_generator)
        texts = [self.task.demonstration(problem, generator=self.prompt_generator) for problem in problems]
        prompts = [problem.prompt for problem in problems]
        return problems, from_text(self.tokenizer, prompts, texts, self.models.policy.device)

    def rewarded(self, texts, problems):
        return torch.ones(self.config.prompts, self.config.group_size)

    def look(self, rollouts, texts, rewards):
        return {"step": self.step, "length": float(rollouts.lengths.float().mean())}


def teach(
    policy, tokenizer, task, config, tokens: int, evaluate_every: int, problems: int, note: Callable, seed: int
) -> None:
    """Train a policy in place on the task's demonstrations, until it has read so many of their tokens.

    Args:
        policy, tokenizer, task: as :func:`grpo_teach.train` takes them.
        config: SFT's settings.
        tokens: of completions.
        evaluate_every, problems: as :func:`grpo_teach.train` takes them.
        note: called with each step's row of metrics.
        seed: of the problems.
    """
    trainer = _Taught(Models(policy), ALGORITHMS["sft"], config, tokenizer=tokenizer, task=task, seed=seed)
    while trainer.tokens < tokens:
        found = {}
        if trainer.step % evaluate_every == 0:
            found = {"evaluation": trainer.evaluate(problems).as_dict()}
        note(trainer.train_step() | found)
