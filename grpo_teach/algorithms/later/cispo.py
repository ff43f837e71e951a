r"""CISPO: the ratio as a capped weight on the log-prob, so that no token loses its gradient.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{\sum|o|}\sum_{i,t}
    \mathrm{sg}\big(\mathrm{clip}(\rho_{i,t}, 1-\epsilon_\text{low}, 1+\epsilon_\text{high})\big)
    A_i \log \pi_\theta(o_{i,t} \mid q, o_{i,<t})\Big]

with sg for "no gradient". Book Eq. (12.6); the rest is ``grpo.py``. Source: CISPO, in MiniMax-M1 (arXiv 2506.13585)
Eq. (4) and (5), which sets no lower bound and tunes the upper one; a cap of 5 is the middle of what ScaleRL
(arXiv 2510.13786) tried.
"""

from dataclasses import dataclass

from grpo_teach.advantages import group_relative_advantages, per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.algorithms.later.formulas import truncated_weight
from grpo_teach.losses import aggregate, kl_k3, policy_gradient_loss
from grpo_teach.score import score
from grpo_teach.settings import setting


@dataclass(frozen=True)
class CISPO(GRPO):
    """Settings of CISPO: GRPO's, with other defaults."""

    clip_low: float = setting(1.0, "how far the weight may fall below 1 (CISPO: 1, no bound)", most=1.0)
    clip_high: float = setting(4.0, "how far the weight may rise above 1 (ScaleRL: 3 to 7)")
    ratio: str = setting("token", "whose ratio is the weight (CISPO: token)", ("token",))


def update(models, rollouts, rewards, config: CISPO):
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
        weight = truncated_weight(logprobs, batch.old_logprobs, 1 + config.clip_high, 1 - config.clip_low)
        token_loss = weight * policy_gradient_loss(logprobs, advantages[rows])
        if config.beta:  # else 0 times an infinite k3 would be NaN
            token_loss = token_loss + config.beta * kl_k3(logprobs, ref_logprobs[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch, *clip)
