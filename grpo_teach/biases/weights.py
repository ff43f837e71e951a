"""What divisions and clips do to a gradient, summed exactly: by the length of answers, and by how hard a problem is.

Functions that take a ``world`` are about one problem in a :class:`grpo_teach.studies.exact.ExactWorld`.
Shapes: N completions, T tokens, S prefixes, V vocabulary, K = S*V parameters, G samples a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["expected_loss", "gradient_weight", "mean_length_slope", "ratio_spread", "row_weighted_gradient"]


def row_weighted_gradient(world, table: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
    """The mean gradient of a group's loss in which each answer stands with a weight of its own.

    ``E[sum_i w(o_i) (R_i - mean R) grad log pi(o_i)] / G = (G - 1) / G * E[w(o) (R(o) - J) grad log pi(o)]``; the
    factor ``(G - 1) / G``, from the answer's own share in the mean, is left out. So it is the policy gradient of the
    reward ``w (R - J)``, whatever w depends on: with ``w = 1 / abs(o)``, GRPO's, another reward is maximised.

    Args:
        world: one problem.
        table: [S, V], the policy's logits.
        rewards: [N].
        weights: [N], of each completion.
    Returns:
        [K].
    Source: Dr. GRPO (arXiv 2503.20783) section 3.1 names the bias; book Eq. (12.1).
    """
    with torch.no_grad():
        paid = weights * (rewards - world.objective(table, rewards))
        return (world.probabilities(table) * paid) @ world.token_scores(table).sum(dim=1)


def mean_length_slope(world, table: Tensor, chosen: Tensor, direction: Tensor) -> float:
    """How fast the mean length of the chosen answers grows along a direction of the parameters, tokens a unit of it.

    Args:
        world: one problem.
        table: [S, V].
        chosen: [N] bool: whose mean length.
        direction: [K]; only where it points matters.
    """
    table = table.detach().requires_grad_()
    p = world.probabilities(table) * chosen
    mean = (p * world.mask.sum(dim=1)).sum() / p.sum()
    (slope,) = torch.autograd.grad(mean, table)
    return float(slope.flatten() @ direction / direction.norm())


def gradient_weight(success: float, size: int, advantages: Callable[[Tensor], Tensor]) -> float:
    """With what weight does the gradient of a problem's success rate p enter the mean gradient of its groups?

    ``E[mean_i A_i grad log pi(o_i)] = w(p) grad p``, ``w(p) = E_k[A(right | k) - A(wrong | k)]``, k of the G - 1 others
    being right: ``k ~ Binomial(G - 1, p)``. For rewards of 0 and 1.

    Args:
        success: p, between 0 and 1.
        size: G.
        advantages: ``[P, G] -> [P, G]``, any function of a group's rewards.
    Returns:
        The weight; 1 is that of the plain policy gradient.
    Source: book Eq. (12.2).
    """
    total = 0.0
    for k in range(size):
        others = [1.0] * k + [0.0] * (size - 1 - k)
        right, wrong = (float(advantages(torch.tensor([[own, *others]]))[0, 0]) for own in (1.0, 0.0))
        total += math.comb(size - 1, k) * success**k * (1 - success) ** (size - 1 - k) * (right - wrong)
    return total


def expected_loss(world, table: Tensor, old: Tensor, rewards: Tensor, token_loss: Callable) -> Tensor:
    """The mean over completions of the old policy of a token loss's mean over all tokens, summed exactly.

    ``sum_o pi_old(o) sum_t loss(o, t) / sum_o pi_old(o) abs(o)``, with the advantage ``R - J_old``.

    Args:
        world: one problem.
        table: [S, V] of the policy that learns, with gradient.
        old: [S, V] of the policy that sampled.
        rewards: [N].
        token_loss: ``(logprobs, old_logprobs, advantages) -> [N, T]``.
    Returns:
        A scalar, with gradient to ``table``.
    """
    p = world.probabilities(old).detach()
    advantages = (rewards - p @ rewards).unsqueeze(1) * world.mask
    loss = token_loss(world.token_logprobs(table), world.token_logprobs(old).detach(), advantages)
    return (p.unsqueeze(1) * loss * world.mask).sum() / (p.unsqueeze(1) * world.mask).sum()


def ratio_spread(world, table: Tensor, old: Tensor) -> dict[int, tuple[float, float]]:
    """For each length, how widely two ratios of whole completions spread: the product, and its root by the length.

    Standard deviations over the completions of that length, as the old policy samples them.

    Args:
        world: one problem.
        table, old: [S, V] of the policy that learns, and of the one that sampled.
    Returns:
        By length, tokens: ``(of the product, of the geometric mean)``.
    """
    with torch.no_grad():
        log_ratio = world.sequence_logprobs(table) - world.sequence_logprobs(old)
        p, lengths = world.probabilities(old), world.mask.sum(dim=1)
    found = {}
    for n in range(1, world.longest + 1):
        weights = p * (lengths == n)
        weights = weights / weights.sum()
        both = log_ratio.exp(), (log_ratio / n).exp()
        found[n] = tuple(float(weights @ (x - weights @ x).square()) ** 0.5 for x in both)
    return found
