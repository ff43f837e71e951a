"""Chapter 12: DAPO's clip, GSPO's ratio, a truncated importance weight, the punishment of overlong answers."""

from __future__ import annotations

import functools

import torch

from grpo_teach import losses
from grpo_teach.algorithms.later import formulas
from grpo_teach.biases.weights import mean_length_slope, row_weighted_gradient
from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction

# asymmetric_clipped_loss(logprobs, old_logprobs, advantages [B,T], clip_low, clip_high) -> [B,T] -----------------


def _ratio(new, old):
    return torch.exp(new - old.detach())


def _loss(new, old, adv, low, high):
    """The right loss, in the shape of the exercise."""
    return losses.clipped_policy_loss(new, old, adv, low, high)


def _smaller(ratio, clipped, adv):
    """Minus the smaller product, for another ratio or another clipped one."""
    return -torch.minimum(ratio * adv, clipped * adv)


# sequence_ratio(logprobs, old_logprobs, mask [B,T]) -> [B] --------------------------------------------------------


def _log_ratio(new, old):
    return new - old.detach()


def _masked_sum(values, mask):
    return torch.where(mask.bool(), values, 0.0).sum(dim=1)


def _product(new, old, mask):
    """The ratio of the whole row, the product of its tokens'."""
    return _masked_sum(_log_ratio(new, old), mask).exp()


def _learns_through_old(function) -> bool:
    inputs = {"logprobs": torch.tensor([[-0.5, -2.0]]), "old_logprobs": torch.tensor([[-0.9, -1.5]])}
    inputs["mask"] = torch.ones(1, 2)
    found = run(function, inputs, ("logprobs", "old_logprobs")).gradients
    return found is not None and bool(found[1].any())


def _overflows(function) -> bool:
    """Does a product of the tokens' ratios leave the range of floats before the root is taken?"""
    inputs = {"logprobs": torch.full((1, 400), -0.5), "old_logprobs": torch.full((1, 400), -1.0)}
    got = run(function, inputs | {"mask": torch.ones(1, 400)}).value
    return got is None or got.numel() != 1 or not abs(float(got) - 1.6487) < 0.01


# truncated_weight(logprobs, sampler_logprobs [B,T], cap) -> [B,T] -------------------------------------------------


def _weight(new, sampler, cap):
    return formulas.truncated_weight(new, sampler, cap)


def _free(new, sampler):
    """The ratio as a number, without gradient."""
    return torch.exp(new - sampler).detach()


# overlong_penalty(lengths [B], longest, buffer) -> [B] ------------------------------------------------------------


def _penalty(lengths, longest, buffer):
    return formulas.overlong_penalty(lengths, longest, buffer)


def _falls(lengths, start, width):
    """0 up to ``start``, then down to -1 over ``width`` tokens."""
    return ((start - lengths) / width).clamp(-1.0, 0.0)


# length_of_wrong_answers -------------------------------------------------------------------------------------------


@functools.cache
def _wrong_answers_grow() -> dict[str, list[float]]:
    """Tokens by which the mean length of wrong answers grows along the gradient, in worlds where length is no matter.

    Ten policies; for each the mean over 16 draws of which completions are right, each with a chance of one half.
    """
    from grpo_teach.studies.exact import ExactWorld

    world, found = ExactWorld(3, 4), {"1/G": [], "1/G and 1/|o|": []}
    lengths, draws = world.mask.sum(dim=1), torch.Generator().manual_seed(0)
    for seed in range(10):
        table = world.policy(seed).detach()
        rights = torch.rand(16, len(world), generator=draws) < 0.5
        for label, weights in zip(found, (torch.ones_like(lengths), 1 / lengths), strict=True):
            slopes = []
            for right in rights:
                direction = row_weighted_gradient(world, table, right.double(), weights)
                slopes.append(mean_length_slope(world, table, ~right, direction))
            found[label].append(sum(slopes) / len(slopes))
    return found


EXERCISES = [
    Exercise("asymmetric_clipped_loss", 12, _loss, globals(), gradient=("logprobs",)),
    Exercise("sequence_ratio", 12, formulas.sequence_ratio, globals(), gradient=("logprobs",),
             probes={"learns_through_old": _learns_through_old, "overflows": _overflows}),
    Exercise("truncated_weight", 12, _weight, globals(), gradient=("logprobs",)),
    Exercise("overlong_penalty", 12, _penalty, globals()),
    Prediction("length_of_wrong_answers", 12, globals()),
]  # fmt: skip
