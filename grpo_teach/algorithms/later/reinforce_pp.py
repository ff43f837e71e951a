r"""REINFORCE++ with a baseline: rewards against their group's mean, then the whole batch to mean 0 and variance 1.

.. math::
    A_{i,t} = \frac{A'_i - \mathrm{mean}_\text{batch}(A')}{\mathrm{std}_\text{batch}(A')},
    \quad A'_i = R_i - \mathrm{mean}_\text{group}(R)

Book Eq. (4.10): mean and deviation are taken over all tokens of the batch; the rest is ``grpo.py``. Where right answers
are longer than wrong ones that mean is not 0, and even a group of equal rewards gets advantages.
Source: REINFORCE++ (arXiv 2501.03262), its variant with a baseline; the mean over tokens is that of verl and OpenRLHF.
Departs from the paper in one point: a KL term, if wanted, is ``grpo.py``'s.
"""

from dataclasses import dataclass

from grpo_teach.advantages import group_relative_advantages, per_token, whitened
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO, at_level
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import setting


@dataclass(frozen=True)
class ReinforcePP(GRPO):
    """Settings of REINFORCE++: GRPO's, with another default."""

    scale: str = setting("none", "what a group's advantages are divided by (REINFORCE++: none)", ("none",))


def update(models, rollouts, rewards, config: ReinforcePP):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: reward against the group's, then all tokens of the batch to mean 0 and variance 1
    advantages = whitened(per_token(group_relative_advantages(rewards, config.scale), rollouts.mask), rollouts.mask)
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
