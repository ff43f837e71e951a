"""Trainers whose samples are not quite the policy's: of some updates ago, or from another engine."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import replace

import torch
from torch import nn

from grpo_teach.algorithms.later.dapo import DynamicSampling
from grpo_teach.biases.sampler import sampled_logits
from grpo_teach.score import score
from grpo_teach.train import Trainer

__all__ = ["Engine", "elsewhere", "stale", "trainer_of"]

NEVER = -1e9  # a logit; minus infinity would be refused
HIGH = 100.0  # an old log-prob that makes a weight exp(logprob - old) vanish


def stale(updates: int, rescored: bool = False) -> type[Trainer]:
    """A trainer whose batch was sampled by the policy of so many updates ago; of fewer, near the start.

    The ratio of a loss is then that of the policy now to the policy that sampled.

    Args:
        updates: k; with 0 it is a plain trainer.
        rescored: give the loss the present policy's log-probs as the old ones, so that no ratio says how old they are.
    """

    class Stale(Trainer):
        def __post_init__(self):
            super().__post_init__()
            self.past = deque(maxlen=updates + 1)  # policies, the oldest first

        def sample(self):
            now = self.models.policy
            self.past.append(copy.deepcopy(now) if updates else now)
            problems, rollouts = _sampled_by(self.past[0], self)
            return problems, _rescored(now, rollouts, self.config) if rescored else rollouts

    return Stale


def elsewhere(
    temperature: float = 1.0, top_p: float = 1.0, step: float = 0.0, corrected: str = "none", cap: float = 2.0
) -> type[Trainer]:
    """A trainer that samples in an :class:`Engine`.

    Args:
        temperature, top_p, step: the engine's, as :class:`Engine` takes them.
        corrected: ``"none"``: the loss takes the samples for the policy's own. ``"ratio"``: it is given the engine's
            log-probs as the old ones, so that its own ratio corrects; with CISPO's that is truncated importance
            sampling. ``"masked"``: the same, and tokens whose ratio is not within ``1 / cap`` to ``cap`` get the weight
            0, in a loss that weighs by the ratio as CISPO's does.
        cap: for masking.
    """

    class Elsewhere(Trainer):
        def sample(self):
            problems, rollouts = _sampled_by(Engine(self.models.policy, temperature, top_p, step), self)
            own = _rescored(self.models.policy, rollouts, self.config)
            if corrected == "none":
                return problems, own
            ratio = torch.exp(own.old_logprobs - rollouts.old_logprobs)
            self.far = (ratio > cap) | (ratio < 1 / cap)
            return problems, rollouts

        def learn(self, rollouts, rewards):
            if corrected == "masked":  # only now: what is shown of a batch is as it was sampled
                old = rollouts.old_logprobs.masked_fill(self.far & rollouts.mask.bool(), HIGH)
                rollouts = replace(rollouts, old_logprobs=old)
            return super().learn(rollouts, rewards)

    return Elsewhere


def trainer_of(variant) -> type[Trainer]:
    """The trainer that a variant of a study asks for by its ``dynamic``, ``engine`` or ``stale``."""
    if variant.dynamic:
        return DynamicSampling
    if variant.engine:
        return elsewhere(**variant.engine)
    return stale(variant.stale) if variant.stale else Trainer


def _sampled_by(policy, trainer: Trainer):
    """The trainer's next problems, and completions by another policy than its own."""
    own, trainer.models.policy = trainer.models.policy, policy
    try:
        return Trainer.sample(trainer)
    finally:
        trainer.models.policy = own


@torch.no_grad()
def _rescored(policy, rollouts, config):
    return replace(rollouts, old_logprobs=score(policy, rollouts, config.temperature))


class Engine(nn.Module):
    """A policy as another program serves it: its logits at another temperature, cut to a nucleus, or rounded.

    Args:
        policy: a causal language model of transformers.
        temperature: the logits are divided by it.
        top_p: only the likeliest tokens are sampled, until their mass reaches this, the last one included.
        step: the logits are rounded to multiples of it; 0 for none.
    """

    def __init__(self, policy, temperature: float = 1.0, top_p: float = 1.0, step: float = 0.0):
        super().__init__()
        self.policy, self.changes = policy, (temperature, top_p, step, NEVER)
        self.device, self.generation_config = policy.device, policy.generation_config

    def forward(self, **asked):
        output = self.policy(**asked)
        output.logits = sampled_logits(output.logits, *self.changes)
        return output
