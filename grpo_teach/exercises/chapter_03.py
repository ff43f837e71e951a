"""Chapter 03: the REINFORCE loss, the leave-one-out baseline, returns to go."""

from __future__ import annotations

import torch

from grpo_teach.advantages import group_relative_advantages, leave_one_out_advantages, per_token, returns_to_go
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.losses import aggregate, policy_gradient_loss

# reinforce_loss(logprobs [B,T], rewards [B], mask [B,T]) -> scalar -----------------------------------------------


def _reinforce(logprobs, rewards, mask):
    # A fixed length of 1 makes the aggregate a mean over rows of the sum over tokens.
    return aggregate(policy_gradient_loss(logprobs, per_token(rewards, mask)), mask, "fixed_length", length=1)


def _row_sums(logprobs, mask):
    return (logprobs * mask).sum(dim=1)


def _standardised(numbers, mask=None):
    counted = numbers.flatten() if mask is None else numbers[mask.bool()]
    std = ((counted - counted.mean()).square().sum() / (len(counted) - 1)).sqrt()  # NaN for one number, as std() gives
    return (numbers - counted.mean()) / std


# leave_one_out_advantages(rewards [P,G]) -> [P,G] ----------------------------------------------------------------


def _best_other(rewards):
    first, second = rewards.topk(2, dim=1).values.split(1, dim=1)
    return torch.where(rewards == first, second, first)


# returns_to_go(token_rewards [B,T], mask [B,T], gamma) -> [B,T] --------------------------------------------------


def _discount(token_rewards, gamma):
    return gamma ** torch.arange(token_rewards.shape[1])


def _forward(token_rewards, gamma):
    """``R[t] = r[t] + gamma * R[t-1]``: the recursion run from the wrong end."""
    return returns_to_go(token_rewards.flip(1), torch.ones_like(token_rewards), gamma).flip(1)


EXERCISES = [
    Exercise("reinforce_loss", 3, _reinforce, globals(), gradient=("logprobs",)),
    Exercise("leave_one_out_advantages", 3, leave_one_out_advantages, globals()),
    Exercise("returns_to_go", 3, returns_to_go, globals()),
]
