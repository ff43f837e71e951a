"""The new mathematics of what came after GRPO: pure functions on tensors, one for each idea.

Shapes: P prompts, G samples a prompt, B = P*G rows, T completion tokens. Log-probabilities are in nats.
"""

import torch
from torch import Tensor


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """[B] the mean of each row over its real tokens; what stands in the padding does not matter.

    ``out[b] = sum_t mask[b, t] * values[b, t] / sum_t mask[b, t]``.

    Args:
        values: [B, T].
        mask: [B, T], 1 = a token the policy sampled.
    """
    real = mask.bool()
    return torch.where(real, values, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """GSPO's importance ratio: the geometric mean of a row's token ratios.

    ``ratio[b] = exp(sum_t mask * (logprobs - old_logprobs) / sum_t mask)``, the ratio of the whole completion's
    probabilities to the power 1 / length.

    Args:
        logprobs: [B, T] of the current policy, with gradient, in nats.
        old_logprobs: [B, T] of the policy that sampled; detached here.
        mask: [B, T], 1 = a token the policy sampled.
    Returns:
        [B], 1 where nothing has moved.
    Source: GSPO (arXiv 2507.18071) Eq. (7); book Eq. (12.5).
    """
    return torch.exp(row_means(logprobs - old_logprobs.detach(), mask))


def truncated_weight(logprobs: Tensor, sampler_logprobs: Tensor, cap: float, floor: float = 0.0) -> Tensor:
    """An importance weight that is capped, and is a weight only: no gradient flows through it.

    ``weight = clamp(exp(logprobs - sampler_logprobs), floor, cap)``, detached.

    Args:
        logprobs: [B, T] of the policy that learns, in nats.
        sampler_logprobs: [B, T] of whatever sampled: an older policy, or another engine's copy of this one.
        cap, floor: the largest and the smallest weight.
    Returns:
        [B, T], detached.
    Source: Ionides (2008), "Truncated importance sampling"; CISPO (arXiv 2506.13585) Eq. (5); book Eq. (12.6).
    """
    return torch.exp(logprobs - sampler_logprobs).clamp(floor, cap).detach()


def soft_gated_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, tau_rise: float = 1.0, tau_fall: float = 1.05
) -> Tensor:
    """SAPO's loss: a gate that closes by and by where the clip shuts at once.

    ``token_loss = -A * 4 / tau * sigmoid(tau * (ratio - 1))``, ``tau = tau_rise if A > 0 else tau_fall``. The gradient
    is ``ratio * A * 4 p (1 - p)`` times that of the log-prob, ``p`` the sigmoid: at ratio 1 the plain policy gradient.

    Args:
        logprobs: [B, T] of the current policy, with gradient, in nats.
        old_logprobs: [B, T] of the policy that sampled; detached here.
        advantages: [B, T]; detached here.
        tau_rise, tau_fall: how fast the gate closes for tokens that are to become likelier, and for the others.
    Returns:
        [B, T].
    Source: SAPO (arXiv 2511.20347); book Eq. (12.7).
    """
    advantages = advantages.detach()
    tau = torch.where(advantages > 0, tau_rise, tau_fall)
    ratio = torch.exp(logprobs - old_logprobs.detach())
    return -advantages * 4 / tau * torch.sigmoid(tau * (ratio - 1))


def success_relative_advantages(rewards: Tensor) -> Tensor:
    """MaxRL's advantages: divided by the group's mean, so that a rare success counts for more.

    ``A[p, i] = (rewards[p, i] - mean_p) / mean_p``; 0 in a group without any reward. With rewards of 0 and 1 the policy
    gradient with these advantages is, on average, that of ``sum_{k=1}^{G-1} pass@k / k``, which grows into ``log p`` as
    G does, p being the chance of a right answer.

    Args:
        rewards: [P, G], none below 0.
    Returns:
        [P, G], detached.
    Raises:
        ValueError: for a reward below 0, whose mean is no share.
    Source: MaxRL (arXiv 2602.02710); book Eq. (12.4).
    """
    rewards = rewards.detach()
    if (rewards < 0).any():
        raise ValueError("MaxRL divides by the share that is right: rewards must not be below 0")
    mean = rewards.mean(dim=1, keepdim=True)
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)  # no signal made of the last bit
    return ((rewards - mean) / mean).masked_fill(equal, 0.0)


def overlong_penalty(lengths: Tensor, longest: int, buffer: int) -> Tensor:
    """DAPO's soft punishment of answers that nearly run out of room.

    ``penalty[b] = clamp((longest - buffer - lengths[b]) / buffer, -1, 0)``.

    Args:
        lengths: [B] tokens.
        longest: tokens, the longest completion allowed.
        buffer: tokens before it in which the penalty grows; at least 1.
    Returns:
        [B], from 0 to -1, in units of reward.
    Source: DAPO (arXiv 2503.14476) Eq. (13); book Eq. (12.8).
    """
    return ((longest - buffer - lengths) / buffer).clamp(-1.0, 0.0)
