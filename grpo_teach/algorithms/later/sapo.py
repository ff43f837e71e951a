r"""SAPO: a gate on the ratio that closes gradually, in place of the clip.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{G}\sum_i \frac{1}{|o_i|}\sum_t
    \frac{4}{\tau_i}\,\sigma\big(\tau_i (\rho_{i,t} - 1)\big) A_i\Big]

with :math:`\tau_i` one number for A > 0 and a larger one for the others. Book Eq. (12.7); the rest is ``grpo.py``.
Source: SAPO (arXiv 2511.20347).
"""

from dataclasses import dataclass

from grpo_teach.advantages import group_relative_advantages, per_token
from grpo_teach.algorithms.common import metrics, minibatches, reference_logprobs
from grpo_teach.algorithms.later.formulas import soft_gated_loss
from grpo_teach.losses import aggregate, kl_k3
from grpo_teach.score import score
from grpo_teach.settings import Settings, setting


@dataclass(frozen=True)
class SAPO(Settings):
    """Settings of SAPO, which has no clip."""

    scale: str = setting("std", "what advantages are divided by (SAPO: std)", ("std", "batch", "none"))
    tau_rise: float = setting(1.0, "how fast the gate closes where A > 0 (SAPO: 1)", above=0)
    tau_fall: float = setting(1.05, "how fast the gate closes elsewhere (SAPO: 1.05)", above=0)
    beta: float = setting(0.0, "weight of k3 in the loss, a nat (SAPO: not stated)")
    aggregation: str = setting(
        "sequence_mean",
        "how token losses become one number (SAPO: sequence_mean)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )

    smallest_group = 2

    @property
    def uses_reference(self) -> bool:
        return self.beta > 0


def update(models, rollouts, rewards, config: SAPO):
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
        tau = config.tau_rise, config.tau_fall
        token_loss = soft_gated_loss(logprobs, batch.old_logprobs, advantages[rows], *tau)
        if config.beta:  # else 0 times an infinite k3 would be NaN
            token_loss = token_loss + config.beta * kl_k3(logprobs, ref_logprobs[rows])
        # 4 aggregate
        loss = aggregate(token_loss, batch.mask, config.aggregation, config.max_new_tokens)
        # 5 metrics
        yield loss, metrics(logprobs, batch)
