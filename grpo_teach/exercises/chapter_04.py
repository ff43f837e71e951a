"""Chapter 04: importance ratio, clipped loss, generalised advantage estimation, value loss; and which critic?"""

from __future__ import annotations

import torch

from grpo_teach import losses
from grpo_teach.advantages import gae, returns_to_go
from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction

# importance_ratio(logprobs [B,T], old_logprobs [B,T]) -> [B,T] ----------------------------------------------------


def _ratio(new, old):
    return torch.exp(new - old.detach())


def _sequence_ratio(new, old):
    return torch.exp((new - old).sum(dim=1, keepdim=True))


def _learns_through_old(function) -> bool:
    inputs = {"logprobs": torch.tensor([[-0.5, -2.0]]), "old_logprobs": torch.tensor([[-0.9, -1.5]])}
    found = run(function, inputs, ("logprobs", "old_logprobs")).gradients
    return found is not None and bool(found[1].any())


def _underflows(function) -> bool:
    got = run(function, {"logprobs": torch.tensor([[-120.0]]), "old_logprobs": torch.tensor([[-120.5]])}).value
    return got is None or got.numel() != 1 or not abs(float(got) - 1.6487) < 0.01


# clipped_policy_loss(logprobs, old_logprobs, advantages [B,T], clip_eps) -> [B,T] --------------------------------


def _clipped_loss(new, old, adv, eps):
    return losses.clipped_policy_loss(new, old, adv, eps, eps)


def _minimum(ratio, clip):
    """The loss with another ratio or another clip: both functions, of (new, old) and of (ratio, eps)."""
    return lambda n, o, a, e: -torch.minimum(ratio(n, o) * a, clip(ratio(n, o), e) * a)


def _clip(ratio, eps):
    return ratio.clamp(1 - eps, 1 + eps)


def _around_zero(x, eps):
    return x.clamp(-eps, eps)


def _log_ratio(new, old):
    return new - old


def _standardised(x):
    difference = x - x.mean()
    return difference / ((difference**2).sum() / (x.numel() - 1)).sqrt()


# gae(rewards [B,T], values [B,T], mask [B,T], gamma, lam) -> [B,T] ------------------------------------------------


def _gae(*inputs):
    return gae(*inputs)[0]


def _next(values):
    return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)


def _delta(r, v, m, g):
    return (r + g * _next(v * m) - v) * m


def _bootstraps_last(r, v, m, g, lam):
    last = m.sum(dim=1).long() - 1
    following = _next(v * m).scatter(1, last.unsqueeze(1), v.gather(1, last.unsqueeze(1)))
    return returns_to_go(r + g * following - v, m, g * lam)


def _whitened(r, v, m, g, lam, ddof=1):
    adv = _gae(r, v, m, g, lam)
    real = adv[m.bool()]
    std = ((real - real.mean()) ** 2).sum().div(len(real) - ddof).sqrt()
    return (adv - real.mean()) / (std + 1e-8)


# value_loss(values, old_values, returns, mask [B,T], clip) -> scalar ---------------------------------------------


def _half_mean(x, mask):
    return 0.5 * losses.aggregate(x, mask, "token_mean")


def _near(v, old, clip):
    return old + (v - old).clamp(-clip, clip)


def _per_token(error):
    """The mistake whose error per token is given as a function of (values, old_values, returns, clip)."""
    return lambda v, old, ret, m, c: _half_mean(error(v, old, ret, c) ** 2, m)


def _worse_of(near):
    """The mistake whose clipped value is given as a function of (values, old_values, clip)."""
    return lambda v, old, ret, m, c: _half_mean(torch.maximum((v - ret) ** 2, (near(v, old, c) - ret) ** 2), m)


def _reduced(how):
    """The mistake that reduces the token losses as the given function of (token losses, mask) does."""
    return lambda v, old, ret, m, c: how(losses.value_loss(v, old, ret, c), m)


_value_loss = _reduced(lambda x, m: losses.aggregate(x, m, "token_mean"))


EXERCISES = [
    Exercise("importance_ratio", 4, _ratio, globals(), gradient=("logprobs",),
             probes={"learns_through_old": _learns_through_old, "underflows": _underflows}),
    Exercise("clipped_policy_loss", 4, _clipped_loss, globals(), gradient=("logprobs",)),
    Exercise("gae", 4, _gae, globals(), unpack=True),
    Exercise("value_loss", 4, _value_loss, globals(), gradient=("values",),
             factors=(1.0, 2.0)),  # with the half and without it: both are usual
    Prediction("which_critic_ends_highest", 4),
]  # fmt: skip
