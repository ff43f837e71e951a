r"""GRPO with process supervision: every step of an answer has a reward, and each token gets what lies ahead of it.

.. math::
    A_{i,t} = \sum_{j:\, e_{i,j} \ge t} \frac{r_{i,j} - \mathrm{mean}(r)}{\mathrm{std}(r)}

with :math:`r` all step rewards of the group. Book Eq. (5.9); the rest is ``grpo.py``.
Source: DeepSeekMath (arXiv 2402.03300) section 4.1.3.
"""

from collections.abc import Callable

from grpo_teach.algorithms import ALGORITHMS, Algorithm
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.grpo import GRPO, at_level
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k3
from grpo_teach.rewards.process import process_advantages
from grpo_teach.score import score


def grpo_process(judge: Callable) -> Algorithm:
    """GRPO whose tokens are paid by step.

    Args:
        judge: ``(rollouts) -> steps``, for each row its steps as ``(token at which it ends, reward)``, the final answer
            left out: that one is paid by the run's own reward, at the row's last token.
    """

    def update(models, rollouts, rewards, config: GRPO):
        """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
        # 1 advantages: step rewards against all those of the group, summed over the steps that are still to come
        advantages = process_advantages(judge(rollouts), rewards, rollouts.mask)
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

    return ALGORITHMS["grpo"]._replace(label="GRPO, rewards for steps", update=update)
