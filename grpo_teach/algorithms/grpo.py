r"""Group relative policy optimisation: the group's mean and spread take the critic's place.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{G}\sum_i \frac{1}{|o_i|}\sum_t
    \min\big(\rho_{i,t} A_i,\ \mathrm{clip}(\rho_{i,t}, 1-\epsilon, 1+\epsilon) A_i\big) - \beta\, k_3\Big],
    \quad A_i = \frac{R_i - \mathrm{mean}(R)}{\mathrm{std}(R)}

Book Eq. (5.1) to (5.7). Source: DeepSeekMath (arXiv 2402.03300) Eq. (3) and (4); ``ratio="sequence"`` is the form of
DeepSeek-R1 (arXiv 2501.12948) Eq. (1), (5.10) in the book. Departs from the paper in two points: 1e-4 is added to the
std, and by default all tokens weigh the same (``aggregation="token_mean"``); the published 1/abs(o) is
``"sequence_mean"``.
Under ``ratio="sequence"`` k3 stays a token's, where R1's Eq. (2) takes it of the whole sequence.
"""

from dataclasses import dataclass

from grpo_teach.advantages import group_relative_advantages, per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import Settings, setting


@dataclass(frozen=True)
class GRPO(Settings):
    """Settings of GRPO."""

    scale: str = setting("std", "what advantages are divided by (DeepSeekMath: std)", ("std", "batch", "none"))
    clip_low: float = setting(0.2, "how far the ratio may fall below 1 (DAPO: 0.2; DeepSeekMath: not stated)")
    clip_high: float = setting(0.2, "how far the ratio may rise above 1 (DAPO: 0.28; DeepSeekMath: not stated)")
    beta: float = setting(0.0, "weight of k3 in the loss, a nat (DeepSeekMath: 0.04, R1: 0.001, DAPO: 0)")
    ratio: str = setting("token", "whose ratio is clipped (DeepSeekMath: token, R1: sequence)", ("token", "sequence"))

    smallest_group = 2

    @property
    def uses_reference(self) -> bool:
        return self.beta > 0


def at_level(logprobs, batch, level):
    """New and old log-probs whose ratio is a token's (as they are) or the sequence's (on each token the row's sum)."""
    if level == "token":
        return logprobs, batch.old_logprobs
    return ((x * batch.mask).sum(dim=1, keepdim=True).expand_as(x) for x in (logprobs, batch.old_logprobs))


def update(models, rollouts, rewards, config: GRPO):
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
        token_loss = clipped_policy_loss(*at_level(logprobs, batch, config.ratio), advantages[rows], *clip)
        if config.beta:  # else 0 times an infinite k3 would be NaN
            token_loss = token_loss + config.beta * kl_k3(logprobs, ref_logprobs[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch, *clip)
