"""A reward model learns from pairs: of two answers to one prompt, which was preferred?"""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bradley_terry_loss"]


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Minus the mean log-probability that the chosen answers win: ``mean_b -log sigmoid(chosen[b] - rejected[b])``.

    In the model of Bradley and Terry an answer wins over another with probability ``sigmoid`` of the difference of
    their scores. Only differences count: a number added to all scores changes nothing.

    It is finite however far the scores are apart. ``log(sigmoid(x))`` is not: ``sigmoid`` gives 0 below about -89 in
    float32, and the logarithm of 0 is minus infinity.

    Args:
        chosen: [B], the scores of the preferred answers, in nats.
        rejected: [B], the scores of the others, in the same order.
    Returns:
        A scalar in nats, at least 0; log 2 where the scores tell nothing. Its gradient flows to both.
    Raises:
        ValueError: if the shapes differ or are not [B]: [B] and [B, 1] would be compared in all B * B pairs.
    Source: Bradley and Terry (1952), Biometrika 39; as a loss Ouyang et al. (arXiv 2203.02155) section 3.5;
        book Eq. (9.6).
    """
    if chosen.dim() != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"both must have one shape [B], got {list(chosen.shape)} and {list(rejected.shape)}")
    return -F.logsigmoid(chosen - rejected).mean()
