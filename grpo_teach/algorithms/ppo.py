r"""Proximal policy optimisation for language models: ratio, clip, critic, and KL as a reward penalty.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{\sum|o|}\sum_t \min\big(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon) A_t\big)\Big]
    - c_v L_\text{value}, \quad r_t = -\beta \log\frac{\pi_\text{old}}{\pi_\text{ref}} + R\,[t = T]

Book Eq. (4.3) to (4.7). Sources: PPO (arXiv 1707.06347) Eq. (7); DeepSeekMath (arXiv 2402.03300) Eq. (1) and (2).
Departs from the paper in one point: no entropy bonus, as is usual for language models.
"""

from dataclasses import dataclass

import torch

from grpo_teach.advantages import gae
from grpo_teach.algorithms.common import Settings, metrics, minibatches, setting
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k1, value_loss
from grpo_teach.rollout import score, score_with_values


@dataclass(frozen=True)
class PPO(Settings):
    """Settings of PPO."""

    clip_low: float = setting(0.2, "how far the ratio may fall below 1 (PPO: 0.2)")
    clip_high: float = setting(0.2, "how far the ratio may rise above 1 (PPO: 0.2, DAPO: 0.28)")
    gamma: float = setting(1.0, "discount a token (InstructGPT: 1)")
    lam: float = setting(0.95, "GAE's decay a token (PPO: 0.95)")
    kl_coefficient: float = setting(0.0, "beta of the KL reward penalty, reward a nat (InstructGPT: 0.02)")
    value_coefficient: float = setting(0.1, "weight of the value loss (TRL: 0.1)")
    value_clip: float = setting(0.2, "largest useful step of a value, units of reward (TRL: 0.2)")
    critic: str = setting("shared", "a value head on the policy's trunk, or a separate model", ("shared", "separate"))


def kl_penalised_rewards(rewards, logprobs, ref_logprobs, mask, kl_coefficient):
    """Per-token rewards: the KL penalty at each token, the score at the last real one.

    ``token_rewards[b, t] = -kl_coefficient * k1[b, t] + rewards[b] * [t is the row's last token]``.

    Args:
        rewards: [P, G]; logprobs, ref_logprobs: [B, T] of the sampled tokens, nats; mask: [B, T].
    Returns:
        [B, T], in units of reward.
    Source: DeepSeekMath (arXiv 2402.03300) Eq. (2); book Eq. (4.7).
    """
    token_rewards = -kl_coefficient * kl_k1(logprobs, ref_logprobs) * mask
    last = mask.sum(dim=1).long() - 1
    token_rewards[torch.arange(len(last)), last] += rewards.flatten()
    return token_rewards


def update(models, rollouts, rewards, config: PPO):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: from the critic, token by token
    with torch.no_grad():
        _, old_values = score_with_values(models.policy, models.critic, rollouts, config.temperature)  # critic
        ref_logprobs = score(models.reference, rollouts, config.temperature) if config.kl_coefficient else rollouts.old_logprobs
    rewards = kl_penalised_rewards(rewards, rollouts.old_logprobs, ref_logprobs, rollouts.mask, config.kl_coefficient)
    advantages, returns = gae(rewards, old_values, rollouts.mask, config.gamma, config.lam)
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        logprobs, values = score_with_values(models.policy, models.critic, batch, config.temperature)
        # 3 token loss [b, T]
        token_loss = clipped_policy_loss(logprobs, batch.old_logprobs, advantages[rows], config.clip_low, config.clip_high)
        critic_loss = value_loss(values, old_values[rows], returns[rows], config.value_clip)  # critic
        token_loss = token_loss + config.value_coefficient * critic_loss  # critic
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch, config.clip_low, config.clip_high)
