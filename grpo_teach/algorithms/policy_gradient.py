r"""Vanilla policy gradient (REINFORCE), with no baseline or the batch mean.

.. math::
    \nabla_\theta J(\theta) = \mathbb{E}\Big[\sum_t \nabla_\theta \log \pi_\theta(o_t \mid q, o_{<t})\,(R - b)\Big]

Book Eq. (3.3). Source: Williams (1992); DeepSeekMath (arXiv 2402.03300) Eq. (5) with gradient coefficient R - b.
Departs from the textbook in one point: the sum over tokens is divided (``aggregate``), by default by the number of
tokens that were sampled. That number is random, so it tilts the gradient a little towards batches of short answers;
``aggregation="fixed_length"`` divides by a constant.
"""

from dataclasses import dataclass

from grpo_teach.advantages import per_token
from grpo_teach.algorithms.common import metrics, minibatches
from grpo_teach.losses import aggregate, policy_gradient_loss
from grpo_teach.score import score
from grpo_teach.settings import Settings, setting


@dataclass(frozen=True)
class PolicyGradient(Settings):
    """Settings of the policy gradient."""

    baseline: str = setting("mean", "subtracted from every reward: none, or the batch mean", ("none", "mean"))


def update(models, rollouts, rewards, config: PolicyGradient):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: reward minus baseline, the same for every token of a row
    advantages = per_token(rewards - rewards.mean() if config.baseline == "mean" else rewards, rollouts.mask)
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        needed = advantages[rows].any(dim=1)
        logprobs = score(models.policy, batch, config.temperature, needed)
        # 3 token loss [b, T]
        token_loss = policy_gradient_loss(logprobs, advantages[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch)
