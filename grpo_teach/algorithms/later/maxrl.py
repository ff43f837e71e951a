r"""MaxRL: advantages divided by the group's mean, so that problems that are hardly ever solved count for more.

.. math::
    A_i = \frac{R_i - \mathrm{mean}(R)}{\mathrm{mean}(R)}

Book Eq. (12.4); the rest is ``grpo.py``. Source: MaxRL (arXiv 2602.02710).
"""

from dataclasses import dataclass

from grpo_teach.advantages import per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO, at_level
from grpo_teach.algorithms.later.formulas import success_relative_advantages
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import setting


@dataclass(frozen=True)
class MaxRL(GRPO):
    """Settings of MaxRL: GRPO's, with another default."""

    scale: str = setting("mean", "what advantages are divided by (MaxRL: mean)", ("mean",))


def update(models, rollouts, rewards, config: MaxRL):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: reward against the group's, in units of its mean, the same for every token of a row
    advantages = per_token(success_relative_advantages(rewards), rollouts.mask)
    ref_logprobs = reference_logprobs(models, rollouts, config.temperature, config.beta)
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        needed = None if config.beta else advantages[rows].any(dim=1)
        logprobs = score(models.policy, batch, config.temperature, needed)
        # 3 token loss [b, T]
        clip = config.clip_low, config.clip_high
        token_loss = clipped_policy_loss(*at_level(logprobs, batch, config.ratio), advantages[rows], *clip)
        if config.beta:  # else 0 times an infinite k3 would be NaN
            token_loss = token_loss + config.beta * kl_k3(logprobs, ref_logprobs[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch, *clip)
