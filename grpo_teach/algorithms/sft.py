r"""Supervised fine-tuning, on demonstrations or on the policy's own right answers (rejection sampling).

.. math::
    J_\text{SFT}(\theta) = \frac{1}{\sum_k R_k |o_k|} \sum_k R_k \sum_t \log \pi_\theta(o_{k,t} \mid q_k, o_{k,<t}),
    \quad R_k \in \{0, 1\}

Book Eq. (2.1). Source: DeepSeekMath (arXiv 2402.03300) Eq. (6) for SFT and Eq. (10) for rejection sampling.
Departs from the paper in two points: the policy that samples is the current one at every step (online RFT), and by
default all accepted tokens weigh the same (``aggregation="token_mean"``), where the paper has 1/abs(o).
"""

from dataclasses import dataclass

from grpo_teach.algorithms.common import metrics, minibatches
from grpo_teach.losses import aggregate, policy_gradient_loss
from grpo_teach.score import score
from grpo_teach.settings import Settings


@dataclass(frozen=True)
class SFT(Settings):
    """Settings of SFT with rejection sampling: those shared by all, and no more."""


def update(models, rollouts, rewards, config: SFT):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]: 1 accepts a row."""
    # 1 advantages: 1 for an accepted answer; the others are left out
    rollouts = rollouts[rewards.flatten() >= 1]
    advantages = rollouts.mask
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        logprobs = score(models.policy, batch, config.temperature)
        # 3 token loss [b, T]
        token_loss = policy_gradient_loss(logprobs, advantages[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch)
