"""What the four algorithms share: minibatches, the reference, metrics."""

from collections.abc import Iterator

import torch
from torch import Tensor

from grpo_teach.losses import kl_k3
from grpo_teach.rollout import Rollouts
from grpo_teach.score import score
from grpo_teach.settings import Settings


def minibatches(rollouts: Rollouts, config: Settings) -> Iterator[Tensor]:
    """Row indices of each minibatch: ``epochs`` passes, each a fresh shuffle cut in ``minibatches`` parts.

    Draws from torch's global random state, only where there is something to shuffle. In the comments of the four
    updates b is the number of rows of a minibatch, B that of the whole batch.
    """
    for _ in range(config.epochs):
        whole = config.minibatches == 1
        order = torch.arange(len(rollouts)) if whole else torch.randperm(len(rollouts))
        for rows in order.tensor_split(config.minibatches):
            if len(rows):  # rejection can leave fewer rows than minibatches
                yield rows.to(rollouts.mask.device)


@torch.no_grad()
def reference_logprobs(models, rollouts: Rollouts, temperature: float, coefficient: float) -> Tensor:
    """[B, T] log-probs of the batch under the frozen reference, in nats, for a KL term of the given weight.

    A weight of 0 makes the term vanish whatever stands in it, so the reference is then left unread.
    """
    return score(models.reference, rollouts, temperature) if coefficient else rollouts.old_logprobs


@torch.no_grad()
def metrics(
    logprobs: Tensor, batch: Rollouts, clip_low: float | None = None, clip_high: float | None = None
) -> dict[str, float]:
    """How far this minibatch's policy has moved from the one that sampled.

    Returns:
        ``old_kl``: mean k3 from the sampling policy, nats a token; with a clip, ``clip_fraction``: the share of
        tokens whose ratio lies outside ``[1 - clip_low, 1 + clip_high]``. Both
        start at 0; rows left unscored count as unmoved.
    """
    tokens = batch.mask.sum().clamp(min=1)
    # Sampled from the old policy, so KL(old || new) is what k3 with the two in this order estimates.
    moved = kl_k3(batch.old_logprobs, logprobs)
    result = {"old_kl": float((moved * batch.mask).sum() / tokens)}
    if clip_low is not None:
        ratio = torch.exp(logprobs - batch.old_logprobs)
        outside = ((ratio < 1 - clip_low) | (ratio > 1 + clip_high)).float()
        result["clip_fraction"] = float((outside * batch.mask).sum() / tokens)
    return result
