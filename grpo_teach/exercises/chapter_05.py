"""Chapter 05: group-relative advantages, k3, the sequence mean, the whole GRPO loss; and which change matters?"""

from __future__ import annotations

from itertools import combinations

import torch

from grpo_teach.advantages import group_relative_advantages
from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction
from grpo_teach.losses import aggregate, kl_k1, kl_k2, kl_k3

# group_relative_advantages(rewards [P,G]) -> [P,G] ---------------------------------------------------------------

EPS = 1e-4


def _centred(rewards):
    return rewards - rewards.mean(dim=1, keepdim=True)


def _row_std(rewards, ddof=1):
    return rewards.std(dim=1, keepdim=True, correction=ddof)


def _over_prompts(rewards):
    centred = rewards - rewards.mean(dim=0)
    std = ((centred**2).sum(dim=0) / (len(rewards) - 1)).sqrt()  # torch's own warns for one number
    return centred / (std + EPS)


def _over_range(rewards):
    low, high = rewards.amin(dim=1, keepdim=True), rewards.amax(dim=1, keepdim=True)
    return (rewards - low) / (high - low + EPS)


def _lets_rounding_through(function) -> bool:
    got = run(function, {"rewards": torch.full((1, 8), 0.1)}).value
    return got is not None and not bool((got.abs() < 0.01).all())


# aggregate_sequence_mean(token_loss [B,T], mask [B,T]) -> scalar -------------------------------------------------


def _sequence_mean(token_loss, mask):
    return aggregate(token_loss, mask, "sequence_mean")


def _sum(token_loss, mask, *dims):
    return (token_loss * mask).sum(dim=dims or None)


def _row_means(token_loss, mask):
    """As a learner writes it: nothing looks at the shapes."""
    return (_sum(token_loss, mask, 1) / mask.sum(dim=1)).mean()


# grpo_loss(logprobs, old_logprobs, ref_logprobs, rewards [P,G], mask, clip_eps, beta) -> scalar ------------------


def _k3(new, old, ref, a):
    return kl_k3(new, ref)


def _token_ratio(new, old, mask):
    return (new - old).exp()


def _sequence_ratio(new, old, mask):
    return ((new - old) * mask).sum(dim=1, keepdim=True).exp()


def _mean_ratio(new, old, mask):
    return (((new - old) * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)).exp()


def _grpo(ratio=_token_ratio, pick=torch.minimum, centre=1.0, sign=1.0, kl=_k3, how="sequence_mean",
          rows=torch.flatten, advantages=group_relative_advantages, times=lambda rho, a: rho * a[:, None]):  # fmt: skip
    """GRPO's loss as it should be; with any argument, a loss in which that part is mistaken."""

    def loss(new, old, ref, rewards, mask, eps, beta):
        a = rows(advantages(rewards))
        rho = ratio(new, old, mask)
        policy_loss = -sign * pick(times(rho, a), times(rho.clamp(centre - eps, centre + eps), a))
        token_loss = policy_loss + beta * kl(new, old, ref, a)
        return how(token_loss, mask) if callable(how) else aggregate(token_loss, mask, how, mask.shape[1])

    return loss


SLIPS = {  # of these two may come at once: what each puts in the place of a right part
    "forgot_std": {"advantages": _centred},
    "population_std": {"advantages": lambda rewards: _centred(rewards) / (_row_std(rewards, 0) + EPS)},
    "over_batch": {"advantages": lambda rewards: (rewards - rewards.mean()) / (rewards.std() + EPS)},
    "max_for_min": {"pick": torch.maximum},
    "no_clip": {"pick": lambda plain, clipped: plain},
    "ratio_upside_down": {"ratio": lambda new, old, mask: (old - new).exp()},
    "kl_sign": {"kl": lambda *x: -_k3(*x)},
    "kl_upside_down": {"kl": lambda new, old, ref, a: kl_k3(ref, new)},
    "kl_without_minus_one": {"kl": lambda *x: _k3(*x) + 1},
    "token_mean": {"how": "token_mean"},
    "forgot_mask": {"how": lambda token_loss, mask: token_loss.mean()},
}


def _add_pairs(exercise: Exercise) -> Exercise:
    """Every two of the slips at once, with the sentences of both."""
    for (a, part), (b, other) in combinations(SLIPS.items(), 2):
        if not part.keys() & other.keys():
            exercise.mistakes[f"{a}_and_{b}"] = _grpo(**part, **other)
            exercise.texts[f"{a}_and_{b}"] = f"Two things. First: {exercise.texts[a]} Second: {exercise.texts[b]}"
    return exercise


EXERCISES = [
    Exercise("group_relative_advantages", 5, group_relative_advantages, globals(), rtol=3e-3,
             probes={"lets_rounding_through": _lets_rounding_through}),
    Exercise("kl_k3", 5, kl_k3, globals(), gradient=("logprobs",)),
    Exercise("aggregate_sequence_mean", 5, _sequence_mean, globals(), gradient=("token_loss",)),
    _add_pairs(Exercise("grpo_loss", 5, _grpo(), globals(), gradient=("logprobs",), rtol=3e-3)),
    Prediction("which_change_matters", 5),
]  # fmt: skip
