"""Bugs that are met in practice. Those that touch an algorithm touch GRPO."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import torch

from grpo_teach.bugs.bug import BUGS, bug
from grpo_teach.rollout import Rollouts
from grpo_teach.score import score

__all__ = ["BUGS"]

# Log-probs and masks ----------------------------------------------------------------------------------------------


@bug("score:hidden_states")
def off_by_one(right):
    """A token is scored by what the model knows after it has read it: the shift by one is forgotten."""

    def wrong(decoder, rollouts):
        hidden = right(decoder, rollouts)
        return torch.cat([hidden[:, 1:], hidden[:, -1:]], dim=1)

    return wrong


@bug("learner:Learner.learn")
def prompt_in_mask(right):
    """The mask covers the prompt's tokens too, all but the first, as if the policy had sampled them."""

    def wrong(self, rollouts, rewards):
        ids = torch.cat([rollouts.prompt_ids[:, 1:], rollouts.completion_ids], dim=1)
        mask = torch.cat([rollouts.prompt_mask[:, 1:], rollouts.mask], dim=1)
        wide = Rollouts(rollouts.prompt_ids[:, :1], rollouts.prompt_mask[:, :1], ids, mask, torch.zeros_like(mask))
        with torch.no_grad():
            wide = replace(wide, old_logprobs=score(self.models.policy, wide, self.config.temperature))
        return right(self, wide, rewards)

    return wrong


@bug("learner:Learner.learn")
def eos_not_in_mask(right):
    """Each completion's last token is masked, so that nothing teaches the policy to stop."""

    def wrong(self, rollouts, rewards):
        last = torch.nn.functional.one_hot(rollouts.lengths - 1, rollouts.mask.shape[1])
        return right(self, replace(rollouts, mask=rollouts.mask - last), rewards)

    return wrong


@bug("algorithms.grpo:score", temperature=0.7)
def two_temperatures(right):
    """Completions are sampled at one temperature and scored at another, 1."""
    return lambda policy, rollouts, temperature, needed=None: right(policy, rollouts, 1.0, needed)


# Sampling ---------------------------------------------------------------------------------------------------------


@bug("rollout:ends")
def eos_unknown(right):
    """The sampler waits for an end that never comes: each completion runs to the limit."""
    return lambda policy, tokenizer: []


@bug("train:sample")
def cut_off(right):
    """The sampler has a limit of its own, 8 tokens, below the one that was asked for."""
    return lambda policy, tokenizer, prompts, group, longest, heat: right(
        policy, tokenizer, prompts, group, min(8, longest), heat
    )


@bug("train:sample")
def no_template(right):
    """Training leaves out the end of each prompt, which tells the model that it is its turn."""
    return lambda policy, tokenizer, prompts, *sizes: right(policy, tokenizer, [p[:-1] for p in prompts], *sizes)


@bug("train:sample")
def stale_sampler(right):
    """The sampler keeps the weights that it was started with: the new ones never reach it."""
    kept = []

    def wrong(policy, *rest):
        kept[:] = kept or [copy.deepcopy(policy)]
        return right(kept[0], *rest)

    return wrong


# Rewards ----------------------------------------------------------------------------------------------------------


def _in_form(right, flags: int):
    """Pay what is right if it also has the form: thoughts, one step a line, in tags, then the answer."""
    form = re.compile("<think>.*</think>.+", flags)

    def judged(self, texts, problems):
        paid = right(self, texts, problems)
        formed = [form.fullmatch(text.replace(";", ";\n")) is not None for text in texts]
        return paid * torch.tensor(formed, device=paid.device).reshape(paid.shape)

    return judged


@bug("train:Trainer.rewarded")
def no_dotall(right):
    """The reward's pattern lacks DOTALL, so that thoughts of more than one line never match."""
    return _in_form(right, 0)


@bug("tasks.task:Task.sample")
def leaked_answer(right):
    """Training problems give their answers away: each is the sum's last addend."""

    def wrong(self, n, generator, split="train"):
        found = []
        while len(found) < n:
            drawn = right(self, 16 * n, generator, split)
            found += [p for p in drawn if split == "test" or p.prompt[-2:-1] == p.answer]
        return found[:n]

    return wrong


@bug("train:Trainer.rewarded")
def wrong_rows(right):
    """Rewards are laid out [G, P] and read as [P, G]: most completions get another one's reward."""

    def wrong(self, texts, problems):
        paid = right(self, texts, problems)
        return paid.T.reshape(paid.shape)

    return wrong


# Advantages and losses --------------------------------------------------------------------------------------------


@bug("algorithms.grpo:group_relative_advantages")
def batch_std(right):
    """Advantages are divided by the batch's spread, where the paper has each group's."""
    return lambda rewards, scale="std": right(rewards, "batch")


@bug("algorithms.grpo:aggregate")
def flipped_sign(right):
    """What should be maximised is minimised."""
    return lambda *given: -right(*given)


@bug("algorithms.grpo:clipped_policy_loss", epochs=4, learning_rate=2e-4)
def min_max_swapped(right):
    """The larger of the clipped and the unclipped term is taken, so that the clip holds where it should not."""

    def wrong(logprobs, old_logprobs, advantages, clip_low, clip_high):
        ratio = torch.exp(logprobs - old_logprobs)
        return -torch.maximum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)

    return wrong


@bug("algorithms.grpo:at_level")
def sequence_ratio(right):
    """The ratio is the whole sequence's where a token's was meant."""
    return lambda logprobs, batch, level: right(logprobs, batch, "sequence")


@bug("algorithms.grpo:kl_k3", beta=0.04)
def kl_upside_down(right):
    """The KL estimate has policy and reference in each other's place."""
    return lambda logprobs, ref_logprobs: torch.expm1(logprobs - ref_logprobs) - (logprobs - ref_logprobs)


# The step, and the weights ----------------------------------------------------------------------------------------


@bug("algorithms.grpo:aggregate")
def divided_twice(right):
    """A loss that is a mean already is divided once more by the number of its parts, 4."""
    return lambda *given: right(*given) / 4


def _afterwards(right, change: Callable):
    """A learner that is changed when it has been made."""

    def made(self):
        right(self)
        change(self)

    return made


@bug("learner:Learner.__post_init__")
def rate_times_30(right):
    """The learning rate is 30 times what was asked for."""

    def raise_rate(learner):
        for group in learner.optimizer.param_groups:
            group["lr"] *= 30

    return _afterwards(right, raise_rate)


@bug("learner:Learner.__post_init__")
def gradients_kept(right):
    """Gradients are not set to zero between two steps, so that every step adds to them."""
    return _afterwards(right, lambda learner: setattr(learner.optimizer, "zero_grad", lambda: None))


@bug("policy:frozen_copy", beta=0.04)
def moving_reference(right):
    """The reference is the policy itself: it trains along, and the KL to it is always 0."""
    return lambda policy: policy


@bug("learner:Learner.__post_init__", learning_rate=1e-5)
def frozen_16_bit(right):
    """The weights are 16-bit numbers, and a step is smaller than the distance between two of them."""

    def wrong(self):
        self.models.policy.bfloat16()
        self.models.reference.bfloat16()
        right(self)

    return wrong
