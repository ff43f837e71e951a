"""Estimators against the exact world: averages are sums over every completion, so there is no noise to allow for."""

import pytest
import torch

from grpo_teach import (
    aggregate,
    clipped_policy_loss,
    group_relative_advantages,
    kl_k1,
    kl_k2,
    kl_k3,
    leave_one_out_advantages,
    per_token,
    policy_gradient_loss,
    token_logprobs,
)
from grpo_teach.studies.exact import ExactWorld

CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def reference(world):
    return world.policy(seed=2).detach()


def expected(world, token_loss, probabilities):
    """``sum_n probability[n] * sum_t loss[n, t]``, through the package's own aggregate.

    ``fixed_length`` divides by rows * length; multiplied by length it is a mean over rows, and a mean over
    rows weighted by N * probability is an expectation.
    """
    weighted = token_loss * (len(token_loss) * probabilities.detach()).unsqueeze(1)
    return aggregate(weighted, world.mask, "fixed_length", world.longest) * world.longest


def logprobs_of(world, table):
    return token_logprobs(world.logits(table), world.ids)


def gradient(loss, table):
    return torch.autograd.grad(loss, table)[0]


def test_the_world_is_complete(world, table):
    assert (len(world), len(world.prefixes)) == (15, 7)
    torch.testing.assert_close(world.probabilities(table).sum(), torch.tensor(1.0, dtype=torch.float64), **CLOSE)
    distinct = {tuple(row) for row in ((world.ids + 1) * world.mask.long()).tolist()}
    assert len(distinct) == len(world)


# KL estimates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_k1_and_k3_are_unbiased(world, table, reference, estimator):
    estimate = estimator(logprobs_of(world, table), logprobs_of(world, reference))
    torch.testing.assert_close(
        expected(world, estimate, world.probabilities(table)), world.kl(table, reference), **CLOSE
    )


def test_k2_is_biased(world, table, reference):
    estimate = kl_k2(logprobs_of(world, table), logprobs_of(world, reference))
    error = expected(world, estimate, world.probabilities(table)) - world.kl(table, reference)
    assert abs(float(error.detach())) > 0.01


def test_k1_has_no_gradient_on_average(world, table, reference):
    k1 = kl_k1(logprobs_of(world, table), logprobs_of(world, reference))
    got = gradient(expected(world, k1, world.probabilities(table)), table)
    torch.testing.assert_close(got, torch.zeros_like(got), **CLOSE)


def prefix_kl(world, table, reference, reverse):
    """KL of the next token at each prefix, weighted by how often the policy passes there, held constant."""
    p, q = torch.log_softmax(table, dim=-1), torch.log_softmax(reference, dim=-1)
    each = (q.exp() * (q - p)).sum(dim=-1) if reverse else (p.exp() * (p - q)).sum(dim=-1)
    return (world.visits(table).detach() * each).sum()


def test_k2s_gradient_is_that_of_the_kl(world, table, reference):
    k2 = kl_k2(logprobs_of(world, table), logprobs_of(world, reference))
    got = gradient(expected(world, k2, world.probabilities(table)), table)
    torch.testing.assert_close(got, gradient(prefix_kl(world, table, reference, reverse=False), table), **CLOSE)


def test_k3s_gradient_is_that_of_the_other_kl(world, table, reference):
    # E_pi[(1 - ref/pi) grad log pi] = -sum_a ref(a) grad log pi(a) = grad KL(ref || pi).
    k3 = kl_k3(logprobs_of(world, table), logprobs_of(world, reference))
    got = gradient(expected(world, k3, world.probabilities(table)), table)
    torch.testing.assert_close(got, gradient(prefix_kl(world, table, reference, reverse=True), table), **CLOSE)
    assert (got - gradient(prefix_kl(world, table, reference, reverse=False), table)).abs().max() > 0.01


def test_on_whole_sequences_k2s_gradient_is_that_of_the_full_kl(world, table, reference):
    whole = world.sequence_logprobs(table), world.sequence_logprobs(reference)
    got = gradient((world.probabilities(table).detach() * kl_k2(*whole)).sum(), table)
    torch.testing.assert_close(got, gradient(world.kl(table, reference), table), **CLOSE)


# The policy gradient and its baselines ---------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_policy_gradient_is_exact_with_any_constant_baseline(world, table, baseline):
    rewards = world.rewards(seed=3)
    advantages = per_token(rewards - baseline, world.mask)
    loss = expected(world, policy_gradient_loss(logprobs_of(world, table), advantages), world.probabilities(table))
    torch.testing.assert_close(-gradient(loss, table), world.objective_gradient(table, rewards), **CLOSE)


def group_gradient(world, table, rewards, size, advantages_of):
    """The exact expectation of ``mean_i A_i * grad log pi(o_i)`` over every group of the given size."""
    groups = world.groups(size)
    probabilities = world.probabilities(table).detach()[groups].prod(dim=1)
    advantages = advantages_of(rewards[groups])
    weights = torch.zeros(len(world), dtype=torch.float64)  # what each completion's log-prob is multiplied by
    weights.index_add_(0, groups.flatten(), (probabilities.unsqueeze(1) * advantages / size).flatten())
    loss = policy_gradient_loss(logprobs_of(world, table), per_token(weights, world.mask))
    return -gradient((loss * world.mask).sum(), table)


@pytest.mark.parametrize("size", [2, 3])
def test_leave_one_out_is_unbiased(world, table, size):
    rewards = world.rewards(seed=3)
    got = group_gradient(world, table, rewards, size, leave_one_out_advantages)
    torch.testing.assert_close(got, world.objective_gradient(table, rewards), **CLOSE)


@pytest.mark.parametrize("size", [2, 3])
def test_the_group_mean_shrinks_the_gradient_by_exactly_one_part_in_the_group(world, table, size):
    rewards = world.rewards(seed=3)
    got = group_gradient(world, table, rewards, size, lambda r: group_relative_advantages(r, scale="none"))
    torch.testing.assert_close(got, world.objective_gradient(table, rewards) * (size - 1) / size, **CLOSE)


def test_dividing_by_the_groups_spread_is_no_longer_the_gradient_of_the_reward(world, table):
    rewards = world.rewards(seed=3)
    got = group_gradient(world, table, rewards, 3, group_relative_advantages)
    exact = world.objective_gradient(table, rewards)
    angle = torch.nn.functional.cosine_similarity(got.flatten(), exact.flatten(), dim=0)
    assert 0 < angle < 0.9999  # not merely a shorter or longer step: another direction


# Off-policy: the importance ratio --------------------------------------------------------------------------------


def test_a_sequence_ratio_without_active_clip_is_exact_off_policy(world, table):
    rewards, old = world.rewards(seed=3), world.policy(seed=4).detach()
    whole = (x.unsqueeze(1) for x in (world.sequence_logprobs(table), world.sequence_logprobs(old)))
    token_loss = clipped_policy_loss(*whole, rewards.unsqueeze(1), clip_low=1.0, clip_high=1e9)
    loss = (world.probabilities(old) * token_loss.squeeze(1)).sum()
    torch.testing.assert_close(-gradient(loss, table), world.objective_gradient(table, rewards), **CLOSE)


@pytest.mark.parametrize("longest, exact", [(1, True), (3, False)])
def test_a_token_ratio_is_exact_off_policy_only_where_there_is_one_token(longest, exact):
    world = ExactWorld(longest=longest)
    table, old, rewards = world.policy(seed=1), world.policy(seed=4).detach(), world.rewards(seed=3)
    advantages = per_token(rewards, world.mask)
    token_loss = clipped_policy_loss(logprobs_of(world, table), logprobs_of(world, old), advantages, 1.0, 1e9)
    got = -gradient(expected(world, token_loss, world.probabilities(old)), table)
    error = (got - world.objective_gradient(table, rewards)).abs().max()
    assert (error < 1e-12) if exact else (error > 0.01)


def test_at_ratio_1_the_clipped_loss_is_the_policy_gradient(world, table):
    rewards = world.rewards(seed=3)
    logprobs = logprobs_of(world, table)
    token_loss = clipped_policy_loss(logprobs, logprobs.detach(), per_token(rewards, world.mask))
    got = -gradient(expected(world, token_loss, world.probabilities(table)), table)
    torch.testing.assert_close(got, world.objective_gradient(table, rewards), **CLOSE)
