"""The exact world: its completions, values, scores and moments, each against another way to compute it."""

import pytest
import torch

from grpo_teach import (
    aggregate,
    group_relative_advantages,
    leave_one_out_advantages,
    per_token,
    policy_gradient_loss,
    token_logprobs,
)
from grpo_teach.studies.exact import ExactWorld, moments

CLOSE = {"rtol": 0, "atol": 1e-12}


def logprobs_of(world, table):
    return token_logprobs(world.logits(table), world.ids)


def gradient(loss, table):
    return torch.autograd.grad(loss, table)[0]


@pytest.mark.parametrize("vocabulary, longest", [(2, 1), (2, 4), (3, 2), (3, 3), (4, 3)])
def test_every_completion_is_listed_once(vocabulary, longest):
    world = ExactWorld(vocabulary, longest)
    prefixes = sum((vocabulary - 1) ** n for n in range(longest))
    assert len(world.prefixes) == prefixes
    assert len(world) == prefixes + (vocabulary - 1) ** longest
    total = world.probabilities(world.policy(seed=5)).sum()
    torch.testing.assert_close(total, torch.ones_like(total), **CLOSE)
    for ids, mask in zip(world.ids.tolist(), world.mask.tolist(), strict=True):
        length = int(sum(mask))
        assert mask == [1.0] * length + [0.0] * (longest - length)
        assert vocabulary - 1 not in ids[: length - 1]  # nothing is written after the EOS
        assert length == longest or ids[length - 1] == vocabulary - 1


def test_the_objectives_gradient_agrees_with_finite_differences(world, table):
    rewards, step = world.rewards(seed=3), 1e-6
    exact = world.objective_gradient(table, rewards).flatten()
    for i in range(table.numel()):
        ends = []
        for sign in (1, -1):
            moved = table.detach().flatten().clone()
            moved[i] += sign * step
            ends.append(float(world.objective(moved.reshape(table.shape), rewards)))
        assert float(exact[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


def test_token_scores_are_the_gradients_of_log_probs(world, table):
    scores, logprobs = world.token_scores(table), logprobs_of(world, table) * world.mask
    for n in range(len(world)):
        for t in range(world.longest):
            got = torch.autograd.grad(logprobs[n, t], table, retain_graph=True)[0]
            torch.testing.assert_close(scores[n, t], got.flatten(), **CLOSE)


def test_values_are_the_expected_reward_from_each_prefix_on(world, table):
    rewards = world.rewards(seed=3)
    values, next_token = world.values(table, rewards), torch.softmax(table.detach(), dim=-1)
    torch.testing.assert_close(values[0], world.objective(table, rewards).detach(), **CLOSE)
    row = {prefix: i for i, prefix in enumerate(world.prefixes)}
    reward_of = {
        tuple(ids[: int(sum(mask))]): reward
        for ids, mask, reward in zip(world.ids.tolist(), world.mask.tolist(), rewards.tolist(), strict=True)
    }
    for prefix, i in row.items():
        after = [(*prefix, a) for a in range(world.vocabulary)]
        worth = [float(values[row[p]]) if p in row else reward_of[p] for p in after]
        assert float(values[i]) == pytest.approx(sum(float(p) * w for p, w in zip(next_token[i], worth, strict=True)))


def test_visits(world, table):
    visits = world.visits(table).detach()
    assert float(visits[0]) == pytest.approx(1.0)
    lengths = (world.probabilities(table).detach() * world.mask.sum(dim=1)).sum()
    torch.testing.assert_close(visits.sum(), lengths, **CLOSE)  # one prefix a token


@pytest.mark.parametrize("how, length", [("sequence_mean", 1), ("token_mean", 1), ("fixed_length", 3)])
def test_a_groups_gradient_is_the_one_the_package_computes(world, table, how, length):
    rewards = world.rewards(seed=3)
    groups = world.draw(table, 20, 4, torch.Generator().manual_seed(0))
    advantages = group_relative_advantages(rewards[groups])
    got = world.group_gradients(table, groups, advantages, how, length)
    for group, row, mine in zip(groups, advantages, got, strict=True):
        mask = world.mask[group]
        token_loss = policy_gradient_loss(logprobs_of(world, table)[group], per_token(row, mask))
        expected = -gradient(aggregate(token_loss, mask, how, length), table).flatten()
        torch.testing.assert_close(mine, expected, **CLOSE)


def test_the_default_group_gradient_is_the_mean_over_rows_of_the_sum_over_tokens(world, table):
    groups, rewards = world.groups(2), world.rewards(seed=3)
    got = world.group_gradients(table, groups, rewards[groups])
    rows = world.row_gradients(table, per_token(rewards, world.mask))
    torch.testing.assert_close(got, rows[groups].mean(dim=1), **CLOSE)
    mean = world.group_probabilities(table, groups) @ got
    torch.testing.assert_close(mean, world.objective_gradient(table, rewards).flatten(), **CLOSE)


def test_a_perfect_critic_and_a_baseline_keep_the_mean_and_lower_the_variance(world, table):
    rewards = world.rewards(seed=3) + 2.0
    values = world.values(table, rewards)
    after = torch.cat([values[world.states][:, 1:], torch.zeros(len(world), 1)], dim=1)
    last = world.mask * (1 - torch.cat([world.mask[:, 1:], torch.zeros(len(world), 1)], dim=1))
    one_step = torch.where(last > 0, rewards.unsqueeze(1), after) - values[world.states]
    weights = {
        "none": per_token(rewards, world.mask),
        "mean": per_token(rewards - world.objective(table, rewards), world.mask),
        "critic": one_step * world.mask,
    }
    found = {
        name: moments(world.row_gradients(table, w), world.probabilities(table).detach()) for name, w in weights.items()
    }
    for result in found.values():
        torch.testing.assert_close(result.mean, world.objective_gradient(table, rewards).flatten(), **CLOSE)
    assert found["critic"].variance < found["mean"].variance < found["none"].variance


def test_moments_by_hand():
    estimates = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    exact = moments(estimates, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert exact.mean.tolist() == [1.5, 1.0]
    assert exact.variance == pytest.approx(0.25 * 1.5**2 + 0.75 * 0.5**2)
    assert exact.variance_error == 0 and exact.mean_error.tolist() == [0, 0]
    sampled = moments(torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64))
    assert sampled.mean.tolist() == [1.0]
    assert sampled.variance == pytest.approx(3.0)  # (1 + 1 + 4) / (3 - 1)
    assert float(sampled.mean_error) == pytest.approx(1.959964 * 3.0**0.5 / 3**0.5)
    # squared distances 1, 1, 4, each times 3/2: standard deviation 1.5 * sqrt(3)
    assert sampled.variance_error == pytest.approx(1.959964 * 1.5 * 3.0**0.5 / 3**0.5)


def test_sampled_moments_hold_the_exact_ones(world, table):
    rewards = world.rewards(seed=3)
    groups = world.groups(2)
    exact = moments(
        world.group_gradients(table, groups, leave_one_out_advantages(rewards[groups])),
        world.group_probabilities(table, groups),
    )
    drawn = world.draw(table, 20_000, 2, torch.Generator().manual_seed(0))
    sampled = moments(world.group_gradients(table, drawn, leave_one_out_advantages(rewards[drawn])))
    assert abs(sampled.variance - exact.variance) < 2 * sampled.variance_error
    assert sampled.variance_error < 0.05 * exact.variance
    inside = ((sampled.mean - exact.mean).abs() <= sampled.mean_error + 1e-12).double().mean()
    assert inside > 0.7  # 95% of independent ones; these 21 are not independent
