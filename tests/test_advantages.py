"""Advantages by hand, and generalised advantage estimation against a plain double loop."""

import math
import random

import pytest
import torch

from grpo_teach import gae, group_relative_advantages, leave_one_out_advantages, per_token, returns_to_go


def ragged(rows=6, longest=9, dtype=torch.float64):
    """Rewards, values and a mask whose rows have lengths 1 to ``longest``; rubbish stands in the padding."""
    lengths = torch.tensor([1, longest, *random.Random(0).choices(range(1, longest + 1), k=rows - 2)])
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).to(dtype)
    return torch.randn(rows, longest, dtype=dtype), torch.randn(rows, longest, dtype=dtype), mask


# Groups -----------------------------------------------------------------------------------------------------------


def test_group_relative_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 5.0, 7.0, 9.0]])
    # Mean 1/4, sum of squares 12/16, ddof 1: 1/4, so a spread of 1/2. Mean 6, sum of squares 20: 20/3.
    first = torch.tensor([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4)
    second = torch.tensor([-3.0, -1.0, 1.0, 3.0]) / (math.sqrt(20 / 3) + 1e-4)
    torch.testing.assert_close(group_relative_advantages(rewards), torch.stack([first, second]))


def test_eps_is_added_to_the_standard_deviation_and_not_to_the_variance():
    rewards = torch.tensor([[0.0, 2.0]])  # ddof 1: sqrt(2)
    got = group_relative_advantages(rewards, eps=0.5)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0]]) / (math.sqrt(2) + 0.5))


def test_scale_batch_divides_by_the_spread_of_all_rewards():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    spread = math.sqrt(6 * 0.25 / 5)  # mean 1/2, six deviations of 1/2, ddof 1
    by_hand = torch.tensor([[0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]) / (spread + 1e-4)
    torch.testing.assert_close(group_relative_advantages(rewards, scale="batch"), by_hand)


def test_scale_none_only_centres():
    rewards = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 5.0]])
    by_hand = torch.tensor([[0.5, -0.5, 0.0], [-1.0, -1.0, 2.0]])
    torch.testing.assert_close(group_relative_advantages(rewards, scale="none"), by_hand)


@pytest.mark.parametrize("scale", ["std", "batch", "none"])
@pytest.mark.parametrize("value, size", [(0.1, 7), (1 / 3, 3), (1e6 + 0.1, 11), (-0.7, 16), (0.0, 2)])
def test_equal_rewards_give_exactly_zero(value, size, scale):
    rewards = torch.full((2, size), value)
    rewards[1, 0] += 1.0  # the other group differs, so that the batch has a spread
    advantages = group_relative_advantages(rewards, scale)
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).all()


def test_a_group_sums_to_zero_and_ignores_shift_and_scale_of_its_rewards():
    rewards = torch.randn(5, 8, dtype=torch.float64)
    advantages = group_relative_advantages(rewards, eps=0.0)
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close((advantages**2).sum(dim=1), torch.full((5,), 7.0, dtype=torch.float64))
    torch.testing.assert_close(group_relative_advantages(3 * rewards - 2, eps=0.0), advantages)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_groups_do_not_see_each_other(scale):
    rewards = torch.randn(4, 5)
    alone = torch.cat([group_relative_advantages(rewards[p : p + 1], scale) for p in range(4)])
    torch.testing.assert_close(group_relative_advantages(rewards, scale), alone)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1(size):
    rewards = torch.randn(4, size, dtype=torch.float64)
    by_identity = size / (size - 1) * (rewards - rewards.mean(dim=1, keepdim=True))
    torch.testing.assert_close(leave_one_out_advantages(rewards), by_identity)


def test_leave_one_out_by_hand():
    got = leave_one_out_advantages(torch.tensor([[1.0, 0.0, 0.5], [4.0, 1.0, 1.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.75, -0.75, 0.0], [3.0, -1.5, -1.5]]))


@pytest.mark.parametrize("function", [group_relative_advantages, leave_one_out_advantages])
@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 2, 2)])
def test_without_a_group_there_is_no_advantage(function, shape):
    with pytest.raises(ValueError, match="group|shape"):
        function(torch.zeros(shape))


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale"):
        group_relative_advantages(torch.zeros(1, 2), scale="mean")


# Rows to tokens ---------------------------------------------------------------------------------------------------


def test_per_token_repeats_a_rows_value_on_its_real_tokens():
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    by_hand = torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 3.0], [4.0, 0.0]])
    assert torch.equal(per_token(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), mask), by_hand)
    assert torch.equal(per_token(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask), by_hand)


def test_returns_to_go_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    assert torch.equal(returns_to_go(rewards, mask), torch.tensor([[7.0, 6.0, 4.0], [8.0, 5.0, 0.0]]))
    assert torch.equal(returns_to_go(rewards, mask, gamma=0.5), torch.tensor([[3.0, 4.0, 4.0], [5.5, 5.0, 0.0]]))
    assert torch.equal(returns_to_go(rewards, mask, gamma=0.0), rewards * mask)


# Generalised advantage estimation ---------------------------------------------------------------------------------


def gae_as_a_double_sum(rewards, values, mask, gamma, lam):
    """The definition: ``A[t] = sum_k (gamma lam)^k delta[t+k]`` over the row's real tokens, in Python floats."""
    advantages = torch.zeros_like(values)
    for b in range(len(values)):
        n = int(mask[b].sum())
        r, v = rewards[b, :n].tolist(), [*values[b, :n].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            advantages[b, t] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
    return advantages


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.5, 0.0])
def test_gae_equals_its_definition(gamma, lam):
    rewards, values, mask = ragged()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    by_definition = gae_as_a_double_sum(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, by_definition, rtol=0, atol=1e-10)
    torch.testing.assert_close(returns, by_definition + values * mask, rtol=0, atol=1e-10)


def test_gae_defaults_to_gamma_1_and_lam_095():
    rewards, values, mask = ragged()
    torch.testing.assert_close(gae(rewards, values, mask)[0], gae_as_a_double_sum(rewards, values, mask, 1.0, 0.95))


def test_gae_with_gamma_and_lam_1_is_return_minus_value():
    rewards, values, mask = ragged()
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, returns_to_go(rewards, mask))
    torch.testing.assert_close(advantages, (returns_to_go(rewards, mask) - values) * mask)


def test_gae_with_lam_0_is_the_one_step_surprise():
    rewards, values, mask = ragged()
    later = torch.cat([(values * mask)[:, 1:], torch.zeros(len(values), 1)], dim=1)
    surprise = (rewards + 0.9 * later - values) * mask
    torch.testing.assert_close(gae(rewards, values, mask, gamma=0.9, lam=0.0)[0], surprise)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_rubbish_in_the_padding_changes_nothing(rubbish):
    rewards, values, mask = ragged()
    spoiled = [x.masked_fill(mask == 0, rubbish) for x in (rewards, values)]
    for clean, got in zip(gae(rewards, values, mask), gae(*spoiled, mask), strict=True):
        assert torch.equal(clean, got) and (got[mask == 0] == 0).all()
    got = returns_to_go(spoiled[0], mask)
    assert torch.equal(returns_to_go(rewards, mask), got) and (got[mask == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_gae_takes_a_mask_of_any_type(dtype):
    rewards, values, mask = ragged()
    assert torch.equal(gae(rewards, values, mask.to(dtype))[0], gae(rewards, values, mask)[0])


# Constants --------------------------------------------------------------------------------------------------------


def test_every_advantage_is_detached():
    rewards, values, mask = (x.requires_grad_() for x in ragged())
    results = [*gae(rewards, values, mask), returns_to_go(rewards, mask)]
    results += [group_relative_advantages(rewards, scale) for scale in ("std", "batch", "none")]
    results += [leave_one_out_advantages(rewards), per_token(rewards[:, 0], mask.detach())]
    assert not any(result.requires_grad for result in results)


def test_inputs_are_left_as_they_were():
    inputs = ragged()
    copies = [x.clone() for x in inputs]
    gae(*inputs)
    returns_to_go(inputs[0], inputs[2])
    group_relative_advantages(inputs[0])
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))
