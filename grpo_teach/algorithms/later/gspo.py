r"""GSPO: one ratio for a whole answer, the geometric mean of its tokens' ratios.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{G}\sum_i
    \min\big(s_i A_i,\ \mathrm{clip}(s_i, 1-\epsilon_\text{low}, 1+\epsilon_\text{high}) A_i\big)\Big],
    \quad s_i = \Big(\prod_t \rho_{i,t}\Big)^{1/|o_i|}

Book Eq. (12.5); the rest is ``grpo.py``. Source: GSPO (arXiv 2507.18071) Eq. (5) to (7).
"""

from dataclasses import dataclass, replace

from grpo_teach.advantages import group_relative_advantages, per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.algorithms.later.formulas import row_means
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import setting


@dataclass(frozen=True)
class GSPO(GRPO):
    """Settings of GSPO: GRPO's, with other defaults."""

    clip_low: float = setting(3e-4, "how far the answer's ratio may fall below 1 (GSPO: 3e-4)")
    clip_high: float = setting(4e-4, "how far the answer's ratio may rise above 1 (GSPO: 4e-4)")
    ratio: str = setting("sequence", "whose ratio is clipped (GSPO: sequence)", ("sequence",))
    aggregation: str = setting(
        "sequence_mean",  # of equal terms: each token of a row carries the row's ratio
        "how token losses become one number (GSPO: sequence_mean)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )


def mean_level(logprobs, batch):
    """New and old log-probs of which each token carries its row's mean: their ratio is ``sequence_ratio``."""
    return (row_means(x, batch.mask).unsqueeze(1).expand_as(x) for x in (logprobs, batch.old_logprobs))


def update(models, rollouts, rewards, config: GSPO):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: reward against the group's, the same for every token of a row
    advantages = per_token(group_relative_advantages(rewards, config.scale), rollouts.mask)
    ref_logprobs = reference_logprobs(models, rollouts, config.temperature, config.beta)
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        needed = None if config.beta else advantages[rows].any(dim=1)
        logprobs = score(models.policy, batch, config.temperature, needed)
        # 3 token loss [b, T]
        clip = config.clip_low, config.clip_high
        new, old = mean_level(logprobs, batch)
        token_loss = clipped_policy_loss(new, old, advantages[rows], *clip)
        if config.beta:  # else 0 times an infinite k3 would be NaN
            token_loss = token_loss + config.beta * kl_k3(logprobs, ref_logprobs[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics: clip_fraction of whole answers
        yield loss, metrics(new, replace(batch, old_logprobs=old), *clip) | metrics(logprobs, batch)
