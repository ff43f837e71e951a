r"""RLOO: each answer against the mean of the *others*, with the ratio of the whole answer.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{G}\sum_i
    \min\big(\rho_i A_i,\ \mathrm{clip}(\rho_i, 1-\epsilon, 1+\epsilon) A_i\big)\Big],
    \quad A_i = R_i - \frac{1}{G-1}\sum_{j \ne i} R_j, \quad \rho_i = \prod_t \rho_{i,t}

Book Eq. (3.6), the baseline, and (5.10), the ratio. Source: RLOO (arXiv 2402.14740), which takes one step a batch:
there the ratio is 1 and the gradient that of ``A_i log pi(o_i)``. Its clip for further steps is TRL's.
Departs from both in one point: a KL term, if wanted, stands in the loss as in ``grpo.py``, not in the reward.
"""

from dataclasses import dataclass

from grpo_teach.advantages import leave_one_out_advantages, per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO, at_level
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import setting


@dataclass(frozen=True)
class RLOO(GRPO):
    """Settings of RLOO: GRPO's, with other defaults."""

    scale: str = setting("none", "what advantages are divided by (RLOO: none)", ("none",))
    ratio: str = setting("sequence", "whose ratio is clipped (RLOO: sequence)", ("token", "sequence"))
    aggregation: str = setting(
        "sequence_mean",  # of equal terms: each token of a row carries the row's ratio
        "how token losses become one number (RLOO: sequence_mean)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )


def update(models, rollouts, rewards, config: RLOO):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: reward against the others', the same for every token of a row
    advantages = per_token(leave_one_out_advantages(rewards), rollouts.mask)
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
