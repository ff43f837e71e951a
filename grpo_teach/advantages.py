"""Advantages: how much better was this completion (or token) than expected?

Shapes: P prompts, G samples a prompt, B = P*G rows in prompt order, T completion tokens.
Every function is pure and returns a tensor without gradient: an advantage is a weight, not a path
for the gradient.
"""

import torch
from torch import Tensor


def _require_group(rewards: Tensor) -> None:
    if rewards.dim() != 2:
        raise ValueError(f"rewards must have shape [P, G], got {list(rewards.shape)}")
    if rewards.shape[1] < 2:
        raise ValueError("a group needs at least 2 samples a prompt: one alone has nothing to be compared with")


def group_relative_advantages(rewards: Tensor, scale: str = "std", eps: float = 1e-4) -> Tensor:
    """Compare each completion with the other answers to the same prompt (GRPO's critic-free advantage).

    ``A[p, i] = (rewards[p, i] - mean_i rewards[p, i]) / (s + eps)``, where ``s`` is the sample standard
    deviation (ddof 1) of group p for ``scale="std"``, of the whole batch for ``"batch"``, and the division
    is left out for ``"none"`` (Dr. GRPO). A group of equal rewards gives exactly 0.

    Args:
        rewards: [P, G], one scalar a completion.
        scale: ``"std"``, ``"batch"`` or ``"none"``.
        eps: added to the standard deviation; in units of reward.
    Returns:
        [P, G] advantages, detached.
    Raises:
        ValueError: for another shape, a group of fewer than 2, or an unknown ``scale``.
    Source: DeepSeekMath (arXiv 2402.03300) section 4.1.2, which has no eps; book Eq. (5.1).
    """
    _require_group(rewards)
    rewards = rewards.detach()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # The mean of equal floats may differ from them in the last bit; divided by eps that would be a signal.
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    centred = centred.masked_fill(equal, 0.0)
    if scale == "std":
        return centred / (rewards.std(dim=1, keepdim=True) + eps)
    if scale == "batch":
        return centred / (rewards.std() + eps)
    if scale == "none":
        return centred
    raise ValueError(f"scale must be 'std', 'batch' or 'none', got {scale!r}")


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Compare each completion with the mean of the *other* answers to the same prompt.

    ``A[p, i] = rewards[p, i] - sum_{j != i} rewards[p, j] / (G - 1) = G / (G - 1) * (rewards[p, i] - mean)``.

    Args:
        rewards: [P, G], one scalar a completion.
    Returns:
        [P, G] advantages, detached.
    Raises:
        ValueError: for another shape or a group of fewer than 2.
    Source: RLOO (arXiv 2402.14740); book Eq. (3.6).
    """
    _require_group(rewards)
    rewards = rewards.detach()
    others = rewards.sum(dim=1, keepdim=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)


def per_token(row_values: Tensor, mask: Tensor) -> Tensor:
    """Give every real token of a row that row's value: outcome supervision.

    ``out[b, t] = row_values.flatten()[b] * mask[b, t]``.

    Args:
        row_values: [P, G] or [B], one number a completion.
        mask: [B, T], 1 = a token the policy sampled.
    Returns:
        [B, T], detached.
    """
    return row_values.detach().reshape(-1, 1) * mask


def returns_to_go(token_rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Sum the discounted rewards from each token to the end.

    ``R[b, t] = token_rewards[b, t] + gamma * R[b, t+1]``, 0 after the last real token.

    Args:
        token_rewards: [B, T], reward received at each token.
        mask: [B, T], 1 = a token the policy sampled.
        gamma: discount a token, in [0, 1].
    Returns:
        [B, T], detached; 0 where ``mask`` is 0.
    Source: book Eq. (3.4).
    """
    token_rewards = torch.where(mask.bool(), token_rewards.detach(), 0.0)
    returns = torch.zeros_like(token_rewards)
    later = torch.zeros_like(token_rewards[:, 0])
    for t in reversed(range(token_rewards.shape[1])):
        later = token_rewards[:, t] + gamma * later
        returns[:, t] = later
    return returns


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: an exponentially weighted sum of one-step surprises.

    ``delta[t] = rewards[t] + gamma * values[t+1] - values[t]``, with ``values = 0`` after the last real
    token; ``A[t] = delta[t] + gamma * lam * A[t+1]``; ``returns = A + values``.
    ``lam=0`` trusts the critic (low variance, biased by its errors), ``lam=1`` trusts the sampled return.

    Args:
        rewards: [B, T], reward received at each token.
        values: [B, T], the critic's prediction of the return from each token on, before that token's reward.
        mask: [B, T], 1 = a token the policy sampled.
        gamma: discount a token, in [0, 1].
        lam: decay of the surprises, in [0, 1].
    Returns:
        ``(advantages, returns)``, each [B, T], detached, 0 where ``mask`` is 0.
    Source: Schulman et al. (arXiv 1506.02438) Eq. (16); book Eq. (4.5).
    """
    real = mask.bool()
    rewards = torch.where(real, rewards.detach(), 0.0)
    values = torch.where(real, values.detach(), 0.0)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # After the last real token rewards and values are 0, so delta and the running sum stay 0 too.
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value, next_advantage = values[:, t], advantages[:, t]
    return advantages, advantages + values


def whitened(advantages: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Advantages moved and scaled to mean 0 and variance 1 over all real tokens of the batch.

    ``out = (advantages - mean) / sqrt(variance + eps)``, both over the n tokens with ``mask`` 1, the variance with
    n - 1. The sign of an advantage may change: what is below the batch's mean is blamed, whatever its own value says.

    Args:
        advantages: [B, T].
        mask: [B, T], 1 = a token the policy sampled.
        eps: keeps a batch of equal advantages at 0; in squared units of the advantages.
    Returns:
        [B, T], detached; 0 where ``mask`` is 0.
    Source: OpenAI's lm-human-preferences (arXiv 1909.08593), in code; book Eq. (4.10).
    """
    known = advantages.detach()[mask.bool()]
    variance = known.var(correction=min(1, len(known) - 1))  # a single token has none
    return torch.where(mask.bool(), (advantages.detach() - known.mean()) * (variance + eps).rsqrt(), 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """How much of what comes does a critic foresee?

    ``1 - Var(returns - values) / Var(returns)`` over all real tokens: 1 if every return was foreseen, 0 for a critic
    that says the same of every token, below 0 for one that is worse than that.

    Args:
        values: [B, T], the critic's.
        returns: [B, T] rewards that did come from each token on, :func:`returns_to_go`; not GAE's, which are made of
            the values themselves.
        mask: [B, T], 1 = a token the policy sampled.
    Returns:
        A share of at most 1; 0 where all returns are equal and nothing is to be foreseen.
    Source: book Eq. (4.9).
    """
    real = mask.bool()
    spread = returns[real].var()
    return float(1 - (returns - values)[real].var() / spread) if spread > 0 else 0.0
