"""What a study may turn about a run: what is counted, what is read, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.policy import Models
from grpo_teach.rewards import extract_answer
from grpo_teach.rollout import from_text
from grpo_teach.train import Trainer

__all__ = ["Different", "Enough", "teach"]


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
