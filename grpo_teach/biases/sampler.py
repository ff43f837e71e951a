"""A sampler that is not the trainer, exactly: what its samples do to the gradient, with and without correction.

Shapes: N completions, T tokens, S prefixes, V vocabulary, K = S*V parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_teach.algorithms.later.formulas import truncated_weight

__all__ = ["CORRECTIONS", "gradient", "kept_mass", "mean_ratio", "sampled_logits", "sampled_table"]

CORRECTIONS = ("none", "token weights", "capped weights", "masked", "sequence weight", "renormalised")


def sampled_logits(
    logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, step: float = 0.0, never: float = -torch.inf
) -> Tensor:
    """The logits with which an engine samples that does something else than the policy says.

    Args:
        logits: [..., V], the policy's.
        temperature: the engine divides the logits by it.
        top_p: the engine keeps the likeliest tokens until their mass reaches this, the last one included, and
            renormalises.
        step: the engine's logits are rounded to multiples of it, as by numbers of few bits; 0 for none.
        never: the logit of a token outside the nucleus.
    Returns:
        [..., V].
    """
    logits = logits / temperature
    logits = (logits / step).round() * step if step else logits
    if top_p < 1:
        ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        out = ordered.cumsum(dim=-1) - ordered >= top_p  # what likelier tokens have is enough
        logits = logits.masked_fill(out.scatter(-1, order, out), never)
    return logits


def sampled_table(table: Tensor, **changed: float) -> Tensor:
    """[S, V] log-probs of :func:`sampled_logits`, in nats; minus infinity for a token that is never sampled.

    Args:
        table: [S, V], the policy's logits.
        changed: ``temperature``, ``top_p``, ``step``.
    """
    return torch.log_softmax(sampled_logits(table.detach(), **changed), dim=-1)


def mean_ratio(world, table: Tensor, sampler: Tensor) -> float:
    """``E_q[pi(o) / q(o)]`` over completions of the sampler q.

    It is the policy's mass on what q can sample: 1 if that is everything, whatever the two say of it.

    Args:
        world: one problem.
        table: [S, V], the policy's logits.
        sampler: [S, V], log-probs, as :func:`sampled_table` gives them.
    Source: book Eq. (12.11).
    """
    policy, q = world.sequence_logprobs(table.detach()), world.sequence_logprobs(sampler)
    return float(torch.where(q > -torch.inf, q.exp() * (policy - q).exp(), 0.0).sum())


def kept_mass(world, table: Tensor, sampler: Tensor) -> float:
    """The policy's probability of all completions that the sampler may draw, by adding them up."""
    possible = world.sequence_logprobs(sampler) > -torch.inf
    return float(world.probabilities(table.detach())[possible].sum())


def gradient(world, table: Tensor, rewards: Tensor, sampler: Tensor, correction: str, cap: float = 2.0):
    """The mean policy gradient from the sampler's completions, scored with the policy; [K].

    ``E_q[sum_t w_t (R - E_q R) grad log pi(o_t)]``; the weight w is by correction
    ``"none"``: 1;
    ``"token weights"``: the token's ratio ``pi / q``;
    ``"capped weights"``: ``min(pi / q, cap)``, truncated importance sampling;
    ``"masked"``: ``pi / q`` where it lies between ``1 / cap`` and ``cap``, else 0;
    ``"sequence weight"``: the whole completion's ratio;
    ``"renormalised"``: 1, with log-probs of the policy renormalised on what the sampler keeps at each prefix.

    Args:
        world: one problem.
        table: [S, V], the policy's logits.
        rewards: [N].
        sampler: [S, V], log-probs, as :func:`sampled_table` gives them.
        correction: one of ``CORRECTIONS``.
        cap: the largest weight.
    Raises:
        KeyError: for an unknown correction.
    Source: book Eq. (12.10).
    """
    table = table.detach().requires_grad_()
    q = world.token_logprobs(sampler)
    chance = q.sum(dim=1).exp()
    scored = {"renormalised": table.masked_fill(sampler == -torch.inf, -torch.inf)}.get(correction, table)
    logprobs = world.token_logprobs(scored)
    possible = (chance > 0).unsqueeze(1)
    logprobs, q = (torch.where(possible, x, 0.0) for x in (logprobs, q))
    ratio, ones = (logprobs - q).exp().detach(), torch.ones_like(q)
    weight = {
        "none": ones,
        "token weights": ratio,
        "capped weights": truncated_weight(logprobs, q, cap),
        "masked": ratio * ((ratio <= cap) & (ratio >= 1 / cap)),
        "sequence weight": ratio.prod(dim=1, keepdim=True).expand_as(ratio),
        "renormalised": ones,
    }[correction]
    paid = (chance * (rewards - chance @ rewards)).unsqueeze(1)
    objective = (paid * weight * logprobs * world.mask).sum()
    return torch.autograd.grad(objective, table)[0].flatten()
