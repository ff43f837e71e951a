"""Chapter 02: the SFT loss, the weights of rejection sampling, and where its rounds end."""

from __future__ import annotations

import torch

from grpo_teach.advantages import group_relative_advantages
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction
from grpo_teach.losses import aggregate, policy_gradient_loss

# sft_loss(logprobs [B,T], mask [B,T]) -> scalar ------------------------------------------------------------------


def _sft(logprobs, mask):
    # SFT gives every token the advantage 1: then the policy gradient's loss is the negative log-likelihood.
    return aggregate(policy_gradient_loss(logprobs, torch.ones_like(mask)), mask, "token_mean")


# rejection_weights(rewards [P,G]) -> [P,G] -----------------------------------------------------------------------


def _accepted(rewards):
    return (rewards >= 1).float()


def _weights(accepted):
    """The right weights, given 1 for what is accepted."""
    each_prompt = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return each_prompt / accepted.any(dim=1).sum().clamp(min=1)


def _shares(chosen):
    return chosen / chosen.sum(dim=1, keepdim=True)


def _rejection(rewards):
    return _weights(_accepted(rewards))


def _best_of_each(rewards):
    """1 for the first best answer of each prompt, right or not."""
    return torch.nn.functional.one_hot(rewards.argmax(dim=1), rewards.shape[1]).float()


def _first_accepted(rewards):
    return _best_of_each(rewards) * _accepted(rewards)


EXERCISES = [
    Exercise("sft_loss", 2, _sft, globals(), gradient=("logprobs",)),
    Exercise("rejection_weights", 2, _rejection, globals()),
    Prediction("where_rounds_end", 2),
]
