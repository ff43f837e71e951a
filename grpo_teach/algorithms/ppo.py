r"""Proximal policy optimisation for language models: ratio, clip, critic, and KL as a reward penalty.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{\sum|o|}\sum_t
    \min\big(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon) A_t\big)\Big] - c_v L_\text{value},
    \quad r_t = -\beta \log\frac{\pi_\text{old}}{\pi_\text{ref}} + R\,[t = T]

Book Eq. (4.3) to (4.8). Sources: PPO (arXiv 1707.06347) Eq. (7); DeepSeekMath (arXiv 2402.03300) Eq. (1) and (2).
Departs from them in five points: no entropy bonus; the value's step is clipped as well, and advantages may be whitened
(both from OpenAI's lm-human-preferences, arXiv 1909.08593); the KL penalty has pi_old where DeepSeekMath's Eq. (2) has
pi_theta, the same number when the batch is sampled; and by default all tokens weigh the same
(``aggregation="token_mean"``), where Eq. (1) has 1/abs(o).
Lines marked ``# critic`` are there for the critic alone; a diff with a neighbour may leave them out.
"""

from dataclasses import dataclass

import torch

from grpo_teach.advantages import explained_variance, gae, returns_to_go, whitened
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.losses import aggregate, clipped_policy_loss, kl_k1, value_loss
from grpo_teach.policy import CRITICS
from grpo_teach.score import score_with_values, values
from grpo_teach.settings import Settings, setting


@dataclass(frozen=True)
class PPO(Settings):
    """Settings of PPO."""

    clip_low: float = setting(0.2, "how far the ratio may fall below 1 (PPO: 0.2)")
    clip_high: float = setting(0.2, "how far the ratio may rise above 1 (PPO: 0.2, DAPO: 0.28)")
    gamma: float = setting(1.0, "discount a token (InstructGPT: 1)", most=1.0)
    lam: float = setting(0.95, "GAE's decay a token (PPO: 0.95)", most=1.0)
    kl_coefficient: float = setting(0.0, "beta of the KL reward penalty, reward a nat (InstructGPT: 0.02)")
    value_coefficient: float = setting(0.1, "weight of the value loss (lm-human-preferences: 0.1)")
    value_clip: float = setting(0.2, "largest useful step of a value, units of reward (lm-human-preferences: 0.2)")
    whiten: bool = setting(False, "advantages of a batch to mean 0 and variance 1 (lm-human-preferences: yes)")
    critic: str = setting("head", "value head on the trunk, the same detached from it, LoRA, or own model", CRITICS)
    critic_learning_rate: float = setting(0.0, "the critic's own AdamW step size, dimensionless; 0: the policy's")
    critic_warmup: int = setting(0, "the first batches, from which the critic alone learns")

    @property
    def uses_reference(self) -> bool:
        return self.kl_coefficient > 0


def kl_penalised_rewards(models, rollouts, rewards, config: PPO):
    """Per-token rewards: the KL penalty at each token, the score at the last real one.

    ``token_rewards[b, t] = -kl_coefficient * k1[b, t] + rewards[b] * [t is row b's last token]``,
    with ``k1`` between the policy that sampled and the reference.

    Args:
        models: with the frozen ``reference``.
        rollouts: B rows.
        rewards: [P, G], one score a completion.
        config: PPO's settings; a ``kl_coefficient`` of 0 leaves the reference unread.
    Returns:
        [B, T], detached, in units of reward.
    Source: DeepSeekMath (arXiv 2402.03300) Eq. (2); book Eq. (4.7).
    """
    ref_logprobs = reference_logprobs(models, rollouts, config.temperature, config.kl_coefficient)
    token_rewards = -config.kl_coefficient * kl_k1(rollouts.old_logprobs, ref_logprobs) * rollouts.mask
    token_rewards[torch.arange(len(rollouts)), rollouts.lengths - 1] += rewards.flatten()
    return token_rewards


def update(models, rollouts, rewards, config: PPO):
    """Yield ``(loss, metrics)`` for each optimizer step on one batch. Rewards [P, G]."""
    # 1 advantages: from the critic, token by token
    with torch.no_grad():  # critic
        old_values = values(models.policy, models.critic, rollouts)  # critic
    token_rewards = kl_penalised_rewards(models, rollouts, rewards, config)
    advantages, returns = gae(token_rewards, old_values, rollouts.mask, config.gamma, config.lam)
    advantages = whitened(advantages, rollouts.mask) if config.whiten else advantages  # critic
    came = returns_to_go(token_rewards, rollouts.mask, config.gamma)  # critic
    foreseen = {"explained_variance": explained_variance(old_values, came, rollouts.mask)}  # critic
    for rows in minibatches(rollouts, config):
        batch = rollouts[rows]
        # 2 logprobs [b, T]
        logprobs, new_values = score_with_values(models.policy, models.critic, batch, config.temperature)
        # 3 token loss [b, T]
        clip = config.clip_low, config.clip_high
        token_loss = clipped_policy_loss(logprobs, batch.old_logprobs, advantages[rows], *clip)
        critic_loss = value_loss(new_values, old_values[rows], returns[rows], config.value_clip)  # critic
        token_loss = token_loss + config.value_coefficient * critic_loss  # critic
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch, *clip) | foreseen  # critic
