"""Per-token losses and the one place that reduces them.

Shapes: B rows, T completion tokens, V vocabulary. Log-probabilities are in nats. Each loss returns an
unreduced [B, T] ``token_loss`` to be minimised; :func:`aggregate` alone turns it into a scalar.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def _one_shape(**tensors: Tensor) -> None:
    """Refuse what broadcasting would pass over in silence: advantages [B] where B happens to equal T, say."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        raise ValueError(f"all must have one shape, [B, T]; got {', '.join(f'{k} {v}' for k, v in shapes.items())}")


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each given token under softmax(logits / temperature).

    ``logprobs[b, t] = z[b, t, token_ids[b, t]] - logsumexp_v z[b, t, v]``, ``z = logits / temperature``.

    Args:
        logits: [B, T, V], already aligned: ``logits[:, t]`` predicts ``token_ids[:, t]``.
        token_ids: [B, T] integers.
        temperature: of the sampler; scoring at another temperature than sampling gives another policy.
    Returns:
        [B, T] in nats, float32 or wider, with gradient.
    Raises:
        ValueError: for a temperature that is not positive.
    Source: book Eq. (1.2).
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if logits.dtype in (torch.float16, torch.bfloat16):  # 8 bits of mantissa are too few for a log-prob
        logits = logits.float()
    scaled = logits / temperature
    chosen = scaled.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - scaled.logsumexp(dim=-1)


def chunked_token_logprobs(
    hidden: Tensor, weight: Tensor, token_ids: Tensor, chunk: int = 256, temperature: float = 1.0
) -> Tensor:
    """:func:`token_logprobs` without the [B, T, V] logits, which for a large vocabulary outweigh the model.

    ``logprobs[b, t] = token_logprobs(weight @ hidden[b, t], token_ids[b, t], temperature)``, ``chunk`` tokens at a
    time. The backward pass makes each chunk's logits again, so it never holds more of them either.

    Args:
        hidden: [B, T, D], aligned: ``hidden[:, t]`` is what the model knows before it emits ``token_ids[:, t]``.
        weight: [V, D], the model's output embedding.
        token_ids: [B, T] integers.
        chunk: tokens; ``4 * chunk * V`` bytes is one float32 copy of a chunk's logits.
        temperature: of the sampler.
    Returns:
        [B, T] in nats, float32 or wider, with gradient.
    Source: after cut cross-entropy (arXiv 2411.09009), whose kernel does without even the chunk's logits;
        book Eq. (7.6).
    """

    def one_chunk(hidden, token_ids):
        return token_logprobs(hidden @ weight.T, token_ids, temperature)

    chunks = zip(hidden.flatten(0, 1).split(chunk), token_ids.flatten().split(chunk), strict=True)
    return torch.cat([checkpoint(one_chunk, *part, use_reentrant=False) for part in chunks]).view(token_ids.shape)


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """The loss whose gradient is minus the policy gradient.

    ``token_loss = -advantages * logprobs``.

    Args:
        logprobs: [B, T] of the current policy, with gradient, in nats.
        advantages: [B, T]; detached here.
    Returns:
        [B, T].
    Raises:
        ValueError: unless all have one shape.
    Source: Williams (1992); book Eq. (3.3).
    """
    _one_shape(logprobs=logprobs, advantages=advantages)
    return -advantages.detach() * logprobs


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """PPO's pessimistic surrogate: no reward for moving further than the clip.

    ``ratio = exp(logprobs - old_logprobs)``;
    ``token_loss = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)``.
    The clip bounds the incentive, not the ratio: the gradient is zero above the range for A > 0 and below it
    for A < 0, and untouched on the other side.

    Args:
        logprobs: [B, T] of the current policy, with gradient, in nats.
        old_logprobs: [B, T] of the policy that sampled; detached here.
        advantages: [B, T]; detached here.
        clip_low, clip_high: how far the ratio may move down and up before the incentive ends.
    Returns:
        [B, T].
    Raises:
        ValueError: unless all have one shape.
    Source: PPO (arXiv 1707.06347) Eq. (7); two-sided range DAPO (arXiv 2503.14476) Eq. (10); book Eq. (4.3).
    """
    _one_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    advantages = advantages.detach()
    ratio = torch.exp(logprobs - old_logprobs.detach())
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Squared error of the critic, with its step clipped as the policy's is.

    ``near = old_values + clamp(values - old_values, -clip, clip)``;
    ``token_loss = 0.5 * max((values - returns)^2, (near - returns)^2)``.

    Args:
        values: [B, T] of the current critic, with gradient, in units of reward.
        old_values: [B, T] of the critic when the batch was sampled; detached here.
        returns: [B, T], the targets; detached here.
        clip: largest move that lowers the loss, in units of reward.
    Returns:
        [B, T].
    Raises:
        ValueError: unless all have one shape.
    Source: OpenAI's ``ppo2`` in baselines, and lm-human-preferences (arXiv 1909.08593); book Eq. (4.6).
    """
    _one_shape(values=values, old_values=old_values, returns=returns)
    old_values, returns = old_values.detach(), returns.detach()
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The plain estimate of KL(policy || reference) from the policy's own samples: unbiased, of either sign.

    ``k1 = logprobs - ref_logprobs``.

    Args:
        logprobs: [B, T] of the policy that sampled, in nats.
        ref_logprobs: [B, T] of the reference, in nats; detached here.
    Returns:
        [B, T] in nats.
    Source: Schulman (2020), "Approximating KL divergence"; book Eq. (5.3).
    """
    return logprobs - ref_logprobs.detach()


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased in value, but on-policy its mean gradient at a prefix is that of the KL there.

    How often the policy visits each prefix is not differentiated: for a whole completion it is a part of the gradient.

    ``k2 = (logprobs - ref_logprobs)^2 / 2``.

    Args:
        logprobs: [B, T] of the policy that sampled, in nats.
        ref_logprobs: [B, T] of the reference, in nats; detached here.
    Returns:
        [B, T] in nats.
    Source: Schulman (2020), "Approximating KL divergence"; book Eq. (5.4).
    """
    return 0.5 * (logprobs - ref_logprobs.detach()) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """GRPO's KL estimate: unbiased in value and never negative.

    ``d = ref_logprobs - logprobs``; ``k3 = exp(d) - d - 1``.

    Args:
        logprobs: [B, T] of the policy that sampled, in nats.
        ref_logprobs: [B, T] of the reference, in nats; detached here.
    Returns:
        [B, T] in nats.
    Source: DeepSeekMath (arXiv 2402.03300) Eq. (4); book Eq. (5.5).
    """
    difference = ref_logprobs.detach() - logprobs
    return torch.expm1(difference) - difference  # expm1 keeps the digits that exp(d) - 1 loses near d = 0


def aggregate(token_loss: Tensor, mask: Tensor, how: str, length: int | None = None) -> Tensor:
    """Reduce a per-token loss to the scalar that is minimised. The three ways weigh long answers differently.

    ``"sequence_mean"``: ``mean_b (sum_t mask * loss / sum_t mask)``, GRPO as published;
    ``"token_mean"``: ``sum_bt mask * loss / sum_bt mask``, DAPO;
    ``"fixed_length"``: ``sum_bt mask * loss / (B * length)``, Dr. GRPO.

    Args:
        token_loss: [B, T], unreduced; what stands in the padding does not matter, NaN included.
        mask: [B, T], 1 = a token the policy sampled.
        how: one of the three names above.
        length: tokens, the constant of ``"fixed_length"`` (usually the longest completion allowed).
    Returns:
        A scalar.
    Raises:
        ValueError: for an unknown ``how``, ``"fixed_length"`` without a positive ``length``, or two shapes.
    Source: DeepSeekMath Eq. (3); DAPO (arXiv 2503.14476) Eq. (8); Dr. GRPO (arXiv 2503.20783); book Eq. (5.6).
    """
    _one_shape(token_loss=token_loss, mask=mask)
    mask = mask.to(token_loss.dtype)
    row_sums = torch.where(mask.bool(), token_loss * mask, 0.0).sum(dim=1)
    if how == "sequence_mean":
        return (row_sums / mask.sum(dim=1).clamp(min=1)).mean()
    if how == "token_mean":
        return row_sums.sum() / mask.sum().clamp(min=1)
    if how == "fixed_length":
        if not length or length < 1:
            raise ValueError("aggregate(how='fixed_length') needs the positive length to divide by")
        return row_sums.sum() / (token_loss.shape[0] * length)
    raise ValueError(f"how must be 'sequence_mean', 'token_mean' or 'fixed_length', got {how!r}")
