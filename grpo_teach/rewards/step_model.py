"""A learned judge of steps: a network that was shown worked answers, and which of their steps are right."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from grpo_teach.rewards.model import Scorer, descend
from grpo_teach.rewards.process import Steps, chain_sum_steps
from grpo_teach.rollout import Rollouts

__all__ = ["StepModel", "fit_steps", "labelled"]


class StepModel(Scorer):
    """A process reward model: for each step of an answer the probability that it is right.

    ``score[b, t] = head(trunk(prompt, completion)[t - 1])[token t]``, in nats, and a step that ends at t is right with
    probability ``sigmoid(sum of its tokens' scores)``. The trunk is a copy of the policy's, the head starts at 0. It
    reads the state *before* each token, as a policy does, since what the next token should be is known there already.

    How it fails: of errors that its examples did not have it may think anything.

    Args:
        policy: whose trunk is copied, and then trained further.
        tokenizer: the policy's.
    Source: Lightman et al. (arXiv 2305.20050), with one score a step and a head of our own; book Eq. (9.8).
    """

    def __init__(self, policy: nn.Module, tokenizer):
        super().__init__(policy, tokenizer, scores=policy.config.vocab_size)
        self.end = tokenizer.convert_tokens_to_ids(";")

    def forward(self, rollouts: Rollouts) -> tuple[Tensor, Tensor, Tensor]:
        """``(row, t, score)`` of every step, [S] each, in order: where it ends, and its score in nats."""
        start = rollouts.prompt_ids.shape[1]
        before = self.read(rollouts)[:, start - 1 : -1]  # the state from which each token was written
        scores = self.head(before).gather(-1, rollouts.completion_ids[..., None]).squeeze(-1)
        row, t = ((rollouts.completion_ids == self.end) & (rollouts.mask > 0)).nonzero(as_tuple=True)
        so_far = scores.cumsum(dim=1)[row, t]  # a step's sum is what came since the step before it in the same row
        earlier = torch.cat([so_far.new_zeros(1), so_far])[:-1]
        follows = torch.cat([row.new_tensor([-1]), row])[:-1] == row
        return row, t, so_far - torch.where(follows, earlier, 0.0)

    @torch.no_grad()
    def judge(self, rollouts: Rollouts) -> list[Steps]:
        """For each row its steps as ``(token at which it ends, probability that it is right)``.

        It is what :func:`~grpo_teach.algorithms.later.grpo_process.grpo_process` takes.
        """
        steps: list[Steps] = [[] for _ in range(len(rollouts))]
        for row, t, score in zip(*self(rollouts), strict=True):
            steps[int(row)].append((int(t), float(score.sigmoid())))
        return steps


def fit_steps(
    model: StepModel, prompts: list[str], texts: list[str], steps: list[Steps], learning_rate: float = 1e-3,
    batch: int = 64, generator: torch.Generator | None = None, progress: bool = True,
) -> list[float]:  # fmt: skip
    """Train a judge of steps in place, in one pass over worked answers whose steps are labelled.

    Args:
        model: its trunk learns too.
        prompts, texts: N of each.
        steps: for each text its steps, in order, with 1.0 for a right one and 0.0 for a wrong one.
        learning_rate: AdamW's step size at the start, dimensionless; it falls evenly to 0.
        batch: texts a step.
        generator: of the order.
        progress: show a bar.
    Returns:
        The loss of each step, in nats.
    """

    def loss(rows: list[int]) -> Tensor:
        scores = model.score([prompts[row] for row in rows], [texts[row] for row in rows])[2]
        return binary_cross_entropy_with_logits(scores, scores.new_tensor([r for row in rows for _, r in steps[row]]))

    return descend(model, len(texts), loss, 1, learning_rate, batch, generator, "judge of steps", progress)


def labelled(task, n: int, errors: str, generator: torch.Generator) -> tuple[list[str], list[str], list[Steps]]:
    """``(prompts, texts, steps)``: n worked chain sums with errors in them, and what the rule says of their steps.

    Args:
        task: chain sums.
        n: answers.
        errors: ``"results"``: half of all results are replaced by a random digit. ``"digits"``: besides, one step in
            four adds a random digit in place of the one that is due. ``"form"``: besides, one answer in two goes on for
            a step too many, and in one of two a random token of its thoughts is replaced by another.
        generator: of the problems and of the errors.
    Raises:
        ValueError: for other errors.
    """
    if errors not in ("results", "digits", "form"):
        raise ValueError(f"errors must be 'results', 'digits' or 'form', got {errors!r}")
    problems = task.sample(n, generator)
    prompts, texts = [problem.prompt for problem in problems], []

    def drawn(end: int) -> int:
        return int(torch.randint(end, (1,), generator=generator))

    def random_digit(share: float, otherwise: int) -> int:
        chance, digit = torch.rand(1, generator=generator), drawn(10)
        return digit if float(chance) < share else otherwise

    for prompt in prompts:
        total, *added = map(int, re.findall(r"\d", prompt))
        added += [drawn(10)] if errors == "form" and drawn(2) else []
        thoughts = ""
        for digit in added:
            digit = random_digit(0.0 if errors == "results" else 0.25, digit)
            result = random_digit(0.5, (total + digit) % 10)
            thoughts += f"{total}+{digit}={result};"
            total = result
        if errors == "form" and drawn(2):
            place, token = drawn(len(thoughts)), [*"0123456789+=;", "<think>"][drawn(14)]
            thoughts = thoughts[:place] + token + thoughts[place + 1 :]
        texts.append(f"<think>{thoughts}</think>{total}")
    return prompts, texts, [chain_sum_steps(*both) for both in zip(prompts, texts, strict=True)]
