"""The four algorithms as each other's limits, and what an update must never do."""

from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import ALGORITHMS, GRPO, PPO, SFT, PolicyGradient, aggregate, policy_gradient_loss, sample, score
from grpo_teach.algorithms import grpo, policy_gradient, ppo, sft
from grpo_teach.algorithms.ppo import kl_penalised_rewards
from grpo_teach.policy import Critic, Models, frozen_copy

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 10}
WAYS = ["sequence_mean", "token_mean", "fixed_length"]


def gradient(algorithm, models, rollouts, rewards, config):
    """The policy's gradient in the update's first step, as one vector."""
    loss, _ = next(algorithm.update(models, rollouts, rewards, config))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(models.policy.parameters()))])


def assert_equal_up_to_rounding(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
    assert b.abs().max() > 1e-3, "there should be a gradient to compare"


# Reductions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
def test_ppo_with_a_zero_critic_at_ratio_1_is_the_policy_gradient_without_baseline(policy, rollouts, rewards, how):
    config = PPO(**SIZES, aggregation=how, lam=1.0, value_coefficient=0.0, kl_coefficient=0.0)
    ours = gradient(ppo, Models.build(policy, "shared"), rollouts, rewards, config)
    plain = PolicyGradient(**SIZES, aggregation=how, baseline="none")
    assert_equal_up_to_rounding(ours, gradient(policy_gradient, Models(policy), rollouts, rewards, plain))


def test_grpo_with_one_prompt_at_ratio_1_is_the_policy_gradient_with_the_mean_as_baseline(policy, rollouts, rewards):
    one = rollouts[torch.arange(4)]
    ours = gradient(grpo, Models(policy), one, rewards[:1], GRPO(**SIZES, scale="none"))
    plain = gradient(policy_gradient, Models(policy), one, rewards[:1], PolicyGradient(**SIZES, baseline="mean"))
    assert_equal_up_to_rounding(ours, plain)


def test_grpo_over_prompts_is_the_mean_over_prompts(policy, rollouts, rewards):
    config = GRPO(**SIZES, aggregation="sequence_mean")
    together = gradient(grpo, Models(policy), rollouts, rewards, config)
    mixed = [p for p in range(3) if rewards[p].min() < rewards[p].max()]
    parts = [
        gradient(grpo, Models(policy), rollouts[torch.arange(4 * p, 4 * p + 4)], rewards[p : p + 1], config)
        for p in mixed  # the third prompt's group is all wrong and adds nothing
    ]
    assert_equal_up_to_rounding(together, sum(parts) / 3)


@pytest.mark.parametrize("how", WAYS)
def test_sft_is_the_policy_gradient_without_baseline_up_to_its_normaliser(policy, rollouts, rewards, how):
    accepted = rollouts[rewards.flatten() == 1]
    ours = gradient(sft, Models(policy), rollouts, rewards, SFT(**SIZES, aggregation=how))
    config = PolicyGradient(**SIZES, aggregation=how, baseline="none")
    plain = gradient(policy_gradient, Models(policy), rollouts, rewards, config)
    rows_or_tokens = [x.tokens if how == "token_mean" else len(x) for x in (accepted, rollouts)]
    assert_equal_up_to_rounding(ours * rows_or_tokens[0], plain * rows_or_tokens[1])


def test_sft_ignores_rewards_below_1(policy, rollouts, rewards):
    partly = torch.where(rewards == 0, 0.99, rewards)
    pair = [gradient(sft, Models(policy), rollouts, r, SFT(**SIZES)) for r in (rewards, partly)]
    assert torch.equal(*pair)


def test_the_policy_gradients_baseline_is_the_batch_mean(policy, rollouts, rewards):
    ours = gradient(policy_gradient, Models(policy), rollouts, rewards, PolicyGradient(**SIZES, baseline="mean"))
    advantages = (rewards - 3 / 12).reshape(-1, 1) * rollouts.mask  # 3 right answers of 12
    loss = aggregate(policy_gradient_loss(score(policy, rollouts), advantages), rollouts.mask, "token_mean")
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])
    assert_equal_up_to_rounding(ours, by_hand)


def test_sequence_level_grpo_is_the_r1_papers_equation_1(policy, tokenizer, rewards):
    rollouts = sample(policy, tokenizer, PROMPTS, 4, 10)
    shift = 0.4 * torch.randn(12, 1) / rollouts.lengths.unsqueeze(1)
    rollouts = replace(rollouts, old_logprobs=(rollouts.old_logprobs + shift) * rollouts.mask)
    config = GRPO(**SIZES, ratio="sequence", aggregation="sequence_mean", clip_high=0.3)
    ours = gradient(grpo, Models(policy), rollouts, rewards, config)
    # 1/G sum_i min(ratio_i A_i, clip(ratio_i) A_i), ratio_i = pi(o_i | q) / pi_old(o_i | q), averaged over q.
    ratio = torch.exp(score(policy, rollouts).sum(dim=1) - rollouts.old_logprobs.sum(dim=1))
    assert ((ratio < 0.8) | (ratio > 1.3)).any() and ((ratio > 0.8) & (ratio < 1.3)).any()
    spread = rewards.std(dim=1, keepdim=True) + 1e-4
    advantage = ((rewards - rewards.mean(dim=1, keepdim=True)) / spread).flatten()
    objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.3) * advantage).mean()
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(-objective, list(policy.parameters()))])
    assert_equal_up_to_rounding(ours, by_hand)


@pytest.mark.parametrize(
    "name, case", [("sft", {}), ("policy_gradient", {}), ("ppo", {"kl_coefficient": 0.2}), ("grpo", {"beta": 0.2})]
)
def test_minibatches_add_up_to_the_whole_batch(policy, other_policy, rollouts, rewards, name, case):
    # Without an optimizer step in between: each part divides by rows * length, so weigh it by its rows.
    algorithm = ALGORITHMS[name]
    models = Models(policy, Critic(policy), other_policy)
    torch.nn.init.normal_(models.critic.head.weight)
    parameters = list(policy.parameters())

    def total(parts):
        config = algorithm.Settings(**SIZES, aggregation="fixed_length", minibatches=parts, **case)
        rows = 3 if name == "sft" else 12  # 3 of 12 rows are accepted
        sizes = [len(x) for x in torch.arange(rows).tensor_split(parts)]
        steps = algorithm.update(models, rollouts, rewards, config)
        weighted = sum(n * loss for n, (loss, _) in zip(sizes, steps, strict=True))
        return torch.cat([g.flatten() for g in torch.autograd.grad(weighted, parameters)])

    assert_equal_up_to_rounding(total(3), total(1))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_fixed_length_is_the_longest_completion_allowed_and_not_the_longest_sampled(policy, rollouts, rewards, name):
    algorithm, models = ALGORITHMS[name], Models.build(policy, "shared")
    allowed = [
        algorithm.Settings(prompts=3, group_size=4, max_new_tokens=n, aggregation="fixed_length") for n in (10, 25)
    ]
    pair = [gradient(algorithm, models, rollouts, rewards, config) for config in allowed]
    assert_equal_up_to_rounding(pair[1] * 2.5, pair[0])


# No lesson, no gradient -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_rewards_teach_grpo_nothing(policy, rollouts, value):
    loss, metrics = next(grpo.update(Models(policy), rollouts, torch.full((3, 4), value), GRPO(**SIZES)))
    assert float(loss) == 0.0 and not loss.requires_grad
    assert metrics == {"old_kl": 0.0, "clip_fraction": 0.0}


def test_without_an_accepted_row_sft_takes_no_step(policy, rollouts, rewards):
    assert list(sft.update(Models(policy), rollouts, torch.zeros_like(rewards), SFT(**SIZES))) == []


def test_with_beta_equal_rewards_still_pull_towards_the_reference(policy, other_policy, rollouts):
    config, equal = GRPO(**SIZES, beta=0.1), torch.ones(3, 4)
    assert gradient(grpo, Models(policy, None, other_policy), rollouts, equal, config).abs().max() > 1e-3
    at_home = gradient(grpo, Models(policy, None, frozen_copy(policy)), rollouts, equal, config)
    assert at_home.abs().max() < 1e-6


def test_neither_reference_nor_rewards_get_a_gradient(policy, other_policy, rollouts, rewards):
    reference = frozen_copy(other_policy).requires_grad_(True)  # even if someone forgot to freeze it
    models = Models(policy, Critic(policy), reference)
    rewards.requires_grad_()
    for algorithm, config in [(grpo, GRPO(**SIZES, beta=0.1)), (ppo, PPO(**SIZES, kl_coefficient=0.1))]:
        loss, _ = next(algorithm.update(models, rollouts, rewards, config))
        loss.backward()
    assert rewards.grad is None
    assert all(parameter.grad is None for parameter in reference.parameters())


# PPO's rewards and critic -----------------------------------------------------------------------------------------


def test_ppos_rewards_are_the_kl_at_each_token_and_the_score_at_the_last(policy, other_policy, rollouts, rewards):
    models = Models(policy, None, other_policy)
    token_rewards = kl_penalised_rewards(models, rollouts, rewards, PPO(**SIZES, kl_coefficient=0.3))
    reference = score(other_policy, rollouts)
    for b in range(12):
        n = int(rollouts.lengths[b])
        k1 = (rollouts.old_logprobs[b, :n] - reference[b, :n]).tolist()
        by_hand = [-0.3 * k for k in k1]
        by_hand[-1] += float(rewards[b // 4, b % 4])
        assert token_rewards[b, :n].tolist() == pytest.approx(by_hand, abs=1e-5)
        assert (token_rewards[b, n:] == 0).all()
    assert not token_rewards.requires_grad


def test_without_a_kl_coefficient_the_reference_is_not_read(policy, rollouts, rewards):
    token_rewards = kl_penalised_rewards(Models(policy), rollouts, rewards, PPO(**SIZES))
    assert torch.equal(token_rewards.sum(dim=1), rewards.flatten())
    next(grpo.update(Models(policy), rollouts, rewards, GRPO(**SIZES)))


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_value_loss_reaches_the_policy_only_through_a_shared_trunk(policy, rollouts, rewards, kind):
    models = Models(policy, Critic(policy, kind))
    torch.nn.init.normal_(models.critic.head.weight)
    without, with_value_loss = (
        gradient(ppo, models, rollouts, rewards, PPO(**SIZES, value_coefficient=c)) for c in (0.0, 1.0)
    )
    if kind == "shared":
        assert (with_value_loss - without).abs().max() > 0.1 * without.abs().max()
    else:
        assert_equal_up_to_rounding(with_value_loss, without)
    loss, _ = next(ppo.update(models, rollouts, rewards, PPO(**SIZES)))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in models.critic.parameters())


# Metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_first_step_has_not_moved(policy, tokenizer, rewards, name, temperature):
    algorithm = ALGORITHMS[name]
    config = algorithm.Settings(**SIZES, temperature=temperature)
    rollouts = sample(policy, tokenizer, PROMPTS, 4, 10, temperature)
    _, metrics = next(algorithm.update(Models.build(policy, "shared"), rollouts, rewards, config))
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0.0), abs=1e-6)
    assert ("clip_fraction" in metrics) == (name in ("ppo", "grpo"))


def test_metrics_of_a_moved_policy_by_hand(policy, rollouts, rewards):
    shift = torch.where(torch.arange(rollouts.mask.shape[1]) % 2 == 0, 0.3, -0.1) * rollouts.mask
    moved = replace(rollouts, old_logprobs=rollouts.old_logprobs - shift)  # ratios of e^0.3 and e^-0.1 in turn
    config = PPO(**SIZES, clip_low=0.4, clip_high=0.3)
    _, metrics = next(ppo.update(Models(policy, Critic(policy)), moved, rewards, config))
    outside = int((shift == shift.max()).sum())  # e^0.3 = 1.35 lies above 1.3, e^-0.1 = 0.90 inside
    assert metrics["clip_fraction"] == pytest.approx(outside / rollouts.tokens)
    k3 = torch.exp(shift) - shift - 1  # of the old policy's samples: the ratio is new / old
    assert metrics["old_kl"] == pytest.approx(float(k3.sum()) / rollouts.tokens, rel=1e-3)
