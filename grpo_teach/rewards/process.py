"""Rewards for the steps of an answer: a rule for the chain sum, and what a group makes of them."""

from __future__ import annotations

import re

import torch
from torch import Tensor

__all__ = ["chain_sum_steps", "process_advantages", "tokens"]

Steps = list[tuple[int, float]]  # of one row: the token at which each step ends, and its reward


def tokens(completion: str) -> list[str]:
    """The toy's tokens without the EOS: a tag is one, every other character is one."""
    return re.findall(r"</?think>|.", completion, re.DOTALL)


def chain_sum_steps(prompt: str, completion: str, asked: bool = True) -> Steps:
    """For each step of a worked chain sum the token at which it ends, and 1.0 if it is right.

    A step ends with ``;`` and is right if it is the sum of two digits modulo 10, and rightly done. With ``asked`` it
    must also be the one that is due: what the step before gave, plus the prompt's next digit.

    How it fails: without ``asked`` every right sum pays, asked for or not, and as often as it is written. With it, a
    step that goes on rightly from a wrong result is paid in full.

    Args:
        prompt: ``7+5+8=``.
        completion: the policy's text.
        asked: must the step be the one that is due?
    Source: the rule without ``asked`` is chapter 05b's.
    """
    digits, written, steps, start = re.findall(r"\d", prompt), tokens(completion), [], 0
    total = digits[0]
    for t, token in enumerate(written):
        if token != ";":
            continue
        step = re.fullmatch(r"(?:.*<think>)?(\d)\+(\d)=(\d);", "".join(written[start : t + 1]), re.DOTALL)
        right = step is not None and (int(step[1]) + int(step[2])) % 10 == int(step[3])
        due = (total, digits[len(steps) + 1]) if len(steps) + 1 < len(digits) else None
        steps.append((t, float(right and (not asked or (step[1], step[2]) == due))))
        total, start = step[3] if step else total, t + 1
    return steps


def process_advantages(steps: list[Steps], rewards: Tensor, mask: Tensor, eps: float = 1e-4) -> Tensor:
    """Each token's advantage when steps are paid: ``A[i, t] = sum of (r - mean) / (std + eps) over steps that end at t
    or later``, with mean and sample standard deviation (ddof 1) over all step rewards of the group. A group whose step
    rewards are all equal gives 0.

    Args:
        steps: for each of B rows its steps without the final answer.
        rewards: [P, G], the final answer's: the row's last step, which ends at its last token.
        mask: [B, T], 1 = a token the policy sampled.
        eps: added to the standard deviation; in units of reward.
    Returns:
        [B, T], detached, 0 where ``mask`` is 0.
    Source: DeepSeekMath (arXiv 2402.03300) section 4.1.3, which has no eps; book Eq. (5.9).
    """
    size, last = rewards.shape[1], (mask.sum(dim=1) - 1).long().tolist()
    paid = [[*row, (end, float(r))] for row, end, r in zip(steps, last, rewards.flatten(), strict=True)]
    advantages = torch.zeros_like(mask)
    for first in range(0, len(paid), size):
        group = range(first, first + size)
        every = torch.tensor([r for row in group for _, r in paid[row]])
        if (every == every[0]).all():
            continue
        for row in group:
            for end, r in paid[row]:
                advantages[row, : end + 1] += float((r - every.mean()) / (every.std() + eps))
    return advantages * mask
