"""What the miniature's stages are paid by: rules for reasoning, a learned reward for the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from grpo_teach.errors import InputError
from grpo_teach.rewards.model import RewardModel, fit, judged_pairs
from grpo_teach.rewards.weighted import Weighted, language_consistency
from grpo_teach.tasks.miniature import Miniature, in_form, scratchpad

__all__ = ["BySkill", "Watched", "judge_of_manners", "rules"]

SURE = 2.0  # nats between a right answer and a wrong one, and between a polite one and one that is not
TOKEN = re.compile("</?think>|wait|thanks|.")
PAIRS = 1000  # that the learned reward is shown


def rules(names: str) -> Callable:
    """The sum of some rules for reasoning, each with weight 1; to be given to ``train(reward=...)``.

    ``accuracy + format`` is R1-Zero's reward; R1's second stage adds ``language``.

    Args:
        names: of ``accuracy`` (the digit solves the equation), ``format`` (a scratchpad in form, then a digit),
            ``language`` (the share of a scratchpad's digits that are Arabic; 0 without a scratchpad) and ``coin``
            (1 or 0, whatever the text), with spaces between.
    Raises:
        InputError: for a name that is none of them, or no name at all.
    Source: DeepSeek-R1 (arXiv 2501.12948) sections 2.2.2 and 2.3.2; book Eq. (10.1).
    """
    parts = {
        "accuracy": Miniature().right,
        "format": lambda text, problem: float(in_form(text)),
        "language": lambda text, problem: language_consistency(thought) if (thought := scratchpad(text)) else 0.0,
        "coin": lambda text, problem: float(torch.rand(()) < 0.5),
    }
    if unknown := set(names.split() or [""]) - parts.keys():
        raise InputError(f"no rule {min(unknown)!r}; there are: {', '.join(parts)}")
    return Weighted(**{name: (1.0, parts[name]) for name in names.split()})


class Watched:
    """A reward, beside which the task's own figures are logged: each one's mean over the batch's equations."""

    def __init__(self, reward: Callable, task: Miniature):
        self.reward, self.task, self.seen = reward, task, {}
        self.__qualname__ = getattr(reward, "__qualname__", "reward")

    def __call__(self, completions: list[str], problems: list) -> Tensor:
        group, totals, count = len(completions) // len(problems), Counter(), 0
        for row, text in enumerate(completions):
            problem = problems[row // group]
            if not problem.prompt.startswith("sort"):
                totals.update({"right": self.task.right(text, problem), "thinks": text.startswith("<think>")})
                totals.update({"length": len(TOKEN.findall(text)) + 1} | self.task.figures(text, problem))
                count += 1
        self.seen = {name: total / count for name, total in totals.items()}
        return self.reward(completions, problems)


class BySkill:
    """Rules pay the equations, a learned reward pays the rest: R1's last stage."""

    def __init__(self, reasoning: Callable, general: Callable):
        self.reasoning, self.general = reasoning, general
        self.__qualname__ = "BySkill"

    def __call__(self, completions: list[str], problems: list) -> Tensor:
        group = len(completions) // len(problems)
        rewards = torch.zeros(len(problems), group)
        for general, reward in ((False, self.reasoning), (True, self.general)):
            places = [p for p, problem in enumerate(problems) if problem.prompt.startswith("sort") == general]
            if places:
                texts = [text for p in places for text in completions[p * group :][:group]]
                rewards[places] = reward(texts, [problems[p] for p in places])
        return rewards


def judge_of_manners(policy, tokenizer, generator: torch.Generator) -> RewardModel:
    """A reward model for the general skill, from a simulated judge who likes right answers and thanks alike.

    Args:
        policy, tokenizer: whose answers are judged, and whose trunk it copies.
        generator: of the prompts and of the judge's errors.
    """
    task = Miniature("general")

    def utility(text: str, problem) -> float:
        return SURE * (task.right(text, problem) + text.endswith("thanks"))

    pairs = judged_pairs(policy, tokenizer, task, PAIRS, utility, generator)
    model = RewardModel(policy, tokenizer)
    fit(model, pairs, generator=generator, progress=False)
    return model.eval()
