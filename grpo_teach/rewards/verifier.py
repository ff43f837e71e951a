"""What groups of answers look like to a verifier, right or erring: P prompts, G samples a prompt."""

from torch import Tensor

__all__ = ["mixed_share", "seen_success"]


def mixed_share(success: Tensor, group_size: int) -> float:
    """Expected share of groups with both right and wrong answers: ``mean_p 1 - success[p]^G - (1 - success[p])^G``.

    A group whose answers are all right, or all wrong, has equal rewards: its advantages are 0 and it teaches nothing.
    Each prompt counts by its own rate. The mean rate is not enough: half of the prompts always solved and half never
    make no mixed group, though the mean is 0.5.

    Args:
        success: [P], the probability that an answer to the prompt is right, in [0, 1].
        group_size: G, the answers a prompt, drawn independently; at least 1.
    Returns:
        In [0, 1]; 0.0 for groups of one.
    Raises:
        ValueError: for another shape, no prompt, a rate outside [0, 1] or a group of fewer than 1.
    Source: the groups that dynamic sampling keeps, DAPO (arXiv 2503.14476) section 3.2; book Eq. (9.3).
    """
    if success.dim() != 1 or not len(success):
        raise ValueError(f"success must have shape [P], got {list(success.shape)}")
    if group_size < 1:
        raise ValueError(f"a group has at least 1 answer, got {group_size}")
    p = success.double()
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("every success rate must lie in [0, 1]")
    return float((1 - p**group_size - (1 - p) ** group_size).mean())


def seen_success(
    success: float | Tensor, false_positive: float | Tensor, false_negative: float | Tensor
) -> float | Tensor:
    """Share of answers that an erring verifier calls right: ``p (1 - fn) + (1 - p) fp``, with ``p = success``.

    As p goes from 0 to 1 it runs from fp to 1 - fn: of a difference in p, 1 - fn - fp of it is left to be seen. Where
    fn + fp is 1 the verdicts say nothing, and beyond it they say the opposite.

    Args:
        success: p, the share that is right, in [0, 1]; a number or a tensor of any shape, as are the others.
        false_positive: fp, the share of the wrong answers that is called right, in [0, 1].
        false_negative: fn, the share of the right answers that is called wrong, in [0, 1].
    Returns:
        The share in [0, 1]; a number for numbers, else a tensor of the shapes broadcast.
    Source: the law of total probability; book Eq. (9.1).
    """
    return success * (1 - false_negative) + (1 - success) * false_positive
