"""The dead-group law: how many groups hold both right and wrong answers, from how success spreads over problems."""

from __future__ import annotations

import math

import numpy
from scipy.special import betaln

__all__ = ["beta_spread", "mixed_if_beta"]


def beta_spread(right, answers: int) -> tuple[float, float]:
    """Mean and spread of the success rates over problems, the noise of counting taken off.

    ``mean = E[right] / answers``; ``spread = (Var[right / answers] - mean (1 - mean) / answers) / (1 - 1 / answers) /
    (mean (1 - mean))``. The spread is 0 if all problems are equally hard, and 1 if each is always or never solved: the
    correlation of two answers to one problem.

    Args:
        right: [P] whole numbers, how many of its answers are right for each problem.
        answers: sampled for each; at least 2.
    Returns:
        ``(mean, spread)``; the spread between 0 and 1, 0 where nothing can be told.
    Raises:
        ValueError: for fewer than 2 answers or 2 problems.
    """
    share = numpy.asarray(right, dtype=float) / answers
    if answers < 2 or len(share) < 2:
        raise ValueError("the spread of success needs at least 2 answers to each of 2 problems")
    mean = share.mean()
    if not 0 < mean < 1:
        return float(mean), 0.0
    between = (share.var(ddof=1) - mean * (1 - mean) / answers) / (1 - 1 / answers)
    return float(mean), float(numpy.clip(between / (mean * (1 - mean)), 0, 1))


def mixed_if_beta(mean: float, spread: float, size: int) -> float:
    """The share of groups with both kinds of answer if success rates follow a Beta distribution.

    ``1 - E[p^G] - E[(1 - p)^G]``, ``E[p^G] = B(a + G, b) / B(a, b)``, with ``a = mean * n``, ``b = (1 - mean) * n`` and
    ``n = 1 / spread - 1``. A spread of 0 is independence at the mean rate, ``1 - p^G - (1 - p)^G``.

    Args:
        mean: of the success rates, in [0, 1].
        spread: as :func:`beta_spread` gives it.
        size: G.
    Source: book Eq. (12.9).
    """
    if not 0 < mean < 1 or spread >= 1:
        return 0.0
    if spread <= 0:
        return 1 - mean**size - (1 - mean) ** size
    n = 1 / spread - 1
    a, b = mean * n, (1 - mean) * n
    return 1 - math.exp(betaln(a + size, b) - betaln(a, b)) - math.exp(betaln(a, b + size) - betaln(a, b))
