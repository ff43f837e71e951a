"""GRPO and PPO as the package computes them against the same sums written out token by token (``plain.py``)."""

from dataclasses import replace

import plain
import pytest
import torch
from conftest import PROMPTS

from grpo_teach import GRPO, PPO, sample
from grpo_teach.algorithms import grpo, ppo
from grpo_teach.policy import Critic, Models

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 10}


def assert_same_gradients(loss, plain_loss, parameters):
    """Loss and every gradient agree, to 1e-4 of the largest gradient."""
    torch.testing.assert_close(loss.detach(), plain_loss.detach().float(), rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(x, parameters, allow_unused=True) for x in (loss, plain_loss))
    assert [g is None for g in ours] == [g is None for g in theirs]
    largest = max(float(g.abs().max()) for g in theirs if g is not None)
    assert largest > 1e-3, "there should be a gradient to compare"
    for a, b in zip(ours, theirs, strict=True):
        if b is not None:
            assert float((a - b).abs().max()) <= 1e-4 * largest


def off_policy(rollouts, spread=0.2):
    """The same rows, as if a somewhat different policy had sampled them: some ratios fall outside the clip."""
    noise = spread * torch.randn(rollouts.mask.shape, generator=torch.Generator().manual_seed(7))
    return replace(rollouts, old_logprobs=(rollouts.old_logprobs + noise).clamp(max=-1e-3) * rollouts.mask)


def as_rows(padded, rollouts):
    return [padded[b, :n] for b, n in enumerate(rollouts.lengths.tolist())]


def logprobs_of(policy, tokenizer, rollouts, temperature):
    return [logprobs for logprobs, _ in plain.rows_of(policy, tokenizer, PROMPTS, rollouts, temperature)]


GRPO_CASES = [
    {},
    {"aggregation": "sequence_mean", "scale": "none"},
    {"aggregation": "fixed_length", "scale": "batch"},
    {"beta": 0.3},
    {"beta": 0.3, "temperature": 0.7, "aggregation": "sequence_mean"},
    {"clip_low": 0.05, "clip_high": 0.4, "temperature": 1.4},
    {"ratio": "sequence", "aggregation": "sequence_mean"},
    {"ratio": "sequence", "beta": 0.1, "clip_low": 0.3, "clip_high": 0.1},
]


@pytest.mark.parametrize("case", GRPO_CASES, ids=str)
@pytest.mark.parametrize("on_policy", [True, False])
def test_grpo(policy, other_policy, tokenizer, rewards, case, on_policy):
    config = GRPO(**SIZES, **case)
    rollouts = sample(policy, tokenizer, PROMPTS, 4, 10, config.temperature)
    rollouts = rollouts if on_policy else off_policy(rollouts)
    loss, metrics = next(grpo.update(Models(policy, None, other_policy), rollouts, rewards, config))
    assert (metrics["clip_fraction"] > 0.1) == (not on_policy)
    reference = logprobs_of(other_policy, tokenizer, rollouts, config.temperature)
    new = logprobs_of(policy, tokenizer, rollouts, config.temperature)
    plain_loss = plain.grpo(new, as_rows(rollouts.old_logprobs, rollouts), reference, rewards.tolist(), config)
    assert_same_gradients(loss, plain_loss, list(policy.parameters()))


PPO_CASES = [
    {},
    {"kl_coefficient": 0.2, "critic": "separate"},
    {"gamma": 0.9, "lam": 0.6, "aggregation": "sequence_mean", "temperature": 0.7, "kl_coefficient": 0.1},
    {"clip_low": 0.05, "clip_high": 0.4, "aggregation": "fixed_length", "value_clip": 0.05, "value_coefficient": 2.0},
    {"lam": 0.3, "critic": "separate", "value_coefficient": 0.5},
]


@pytest.mark.parametrize("case", PPO_CASES, ids=str)
@pytest.mark.parametrize("moved", [False, True], ids=["first step", "second epoch"])
def test_ppo(policy, other_policy, tokenizer, rewards, case, moved):
    config = PPO(**SIZES, epochs=2, **case)
    rollouts = off_policy(sample(policy, tokenizer, PROMPTS, 4, 10, config.temperature))
    critic = Critic(policy, config.critic)
    torch.nn.init.normal_(critic.head.weight, std=0.3)
    models = Models(policy, critic, other_policy)

    def plain_rows():
        arguments = PROMPTS, rollouts, config.temperature, critic.head, critic.trunk
        return zip(*plain.rows_of(policy, tokenizer, *arguments), strict=True)

    old = as_rows(rollouts.old_logprobs, rollouts)
    old_values = [values.detach() for values in list(plain_rows())[1]]
    reference = [x.detach() for x in logprobs_of(other_policy, tokenizer, rollouts, config.temperature)]
    targets = plain.ppo_targets(old, reference, old_values, rewards.flatten().tolist(), config)

    steps = ppo.update(models, rollouts, rewards, config)
    loss, _ = next(steps)
    if moved:  # as an optimizer would between two steps; advantages and old values must stay what they were
        with torch.no_grad():
            for parameter in [*policy.parameters(), *critic.parameters()]:
                parameter.add_(0.02 * torch.randn_like(parameter))
        loss, _ = next(steps)
    new, values = plain_rows()
    plain_loss = plain.ppo(new, values, old, old_values, *targets, config)
    assert_same_gradients(loss, plain_loss, [*policy.parameters(), *critic.parameters()])
