"""Chapter 03: the REINFORCE loss, the leave-one-out baseline, returns to go, and what a baseline is good for."""

from __future__ import annotations

import torch

from grpo_teach.advantages import group_relative_advantages, leave_one_out_advantages, per_token, returns_to_go
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction
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


# least_noise ----------------------------------------------------------------------------------------------------


def _noise() -> dict[str, list[float]]:
    """By baseline, the exact variance of the gradient's estimate per completion, in the chapter's world of 15."""
    from grpo_teach.studies.exact import ExactWorld, moments

    world = ExactWorld(vocabulary=3, longest=3)
    table = world.policy(seed=0).detach()
    rewards = ((world.ids == 1) * world.mask).amax(dim=1)  # 1 if there is a b
    p, scores = world.probabilities(table), world.token_scores(table).sum(dim=1)
    lengths = scores.square().sum(dim=1)
    expected, best = p @ rewards, (p * lengths) @ rewards / (p @ lengths)
    value = world.values(table, rewards)[world.states]
    found = {}
    for label, baseline in {"expected reward": expected, "best constant": best, "state value": value}.items():
        weights = (rewards.unsqueeze(1) - baseline).expand_as(world.mask)
        found[label] = [moments(world.row_gradients(table, weights), p).variance]
    price = p @ (rewards - expected).square() * (p @ lengths) + ((p * rewards) @ scores).square().sum()
    return found | {"leave one out, G = 16": [found["expected reward"][0] + float(price) / 15]}  # book Eq. (3.8)


EXERCISES = [
    Exercise("reinforce_loss", 3, _reinforce, globals(), gradient=("logprobs",)),
    Exercise("leave_one_out_advantages", 3, leave_one_out_advantages, globals()),
    Exercise("returns_to_go", 3, returns_to_go, globals()),
    Prediction("least_noise", 3, globals()),
    Prediction("which_baseline", 3),
]
