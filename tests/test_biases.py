"""Biases summed exactly: against enumerated groups, autograd, and by hand; trainers that sample elsewhere."""

import copy
import math

import pytest
import torch

import grpo_teach as gt
from grpo_teach.algorithms.later import LATER
from grpo_teach.algorithms.later.formulas import success_relative_advantages
from grpo_teach.biases import groups, sampler, trainers, weights
from grpo_teach.policy import Models
from grpo_teach.rewards.verifier import mixed_share
from grpo_teach.studies.exact import ExactWorld, moments
from grpo_teach.tasks import ChainSum

WORLD = ExactWorld(3, 2)  # 7 completions, so that every group of 3 can be listed
DEEP = ExactWorld(3, 4)


def table(world=WORLD, seed=0):
    return world.policy(seed)


def right(world=WORLD, seed=3):
    return (world.rewards(seed) > 0).double()


# Divisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sequence_mean", "fixed_length"])
def test_the_weighted_gradient_is_that_of_all_groups(how):
    world, policy, rewards, size = WORLD, table(), right(), 3
    listed = world.groups(size)
    advantages = gt.group_relative_advantages(rewards[listed].float(), "none").double()
    estimates = world.group_gradients(policy, listed, advantages, how)
    mean = moments(estimates, world.group_probabilities(policy, listed)).mean
    lengths = world.mask.sum(dim=1)
    found = weights.row_weighted_gradient(
        world, policy, rewards, 1 / lengths if how == "sequence_mean" else torch.ones(7)
    )
    torch.testing.assert_close(mean, (size - 1) / size * found, rtol=1e-6, atol=1e-8)
    if how == "fixed_length":
        torch.testing.assert_close(found, world.objective_gradient(policy, rewards).flatten())


@pytest.mark.parametrize("scale", ["std", "none"])
def test_the_weight_of_a_problem_is_that_of_all_groups(scale):
    world, policy, rewards, size = WORLD, table(), right(), 3
    listed = world.groups(size)

    def advantages(paid):
        return gt.group_relative_advantages(paid, scale)

    estimates = world.group_gradients(policy, listed, advantages(rewards[listed].float()).double())
    mean = moments(estimates, world.group_probabilities(policy, listed)).mean
    success = float(world.objective(policy.detach(), rewards))
    weight = weights.gradient_weight(success, size, advantages)
    torch.testing.assert_close(mean, weight * world.objective_gradient(policy, rewards).flatten(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_weights_by_hand(p):
    size = 4
    assert weights.gradient_weight(p, size, gt.leave_one_out_advantages) == pytest.approx(1.0, abs=1e-6)
    none = weights.gradient_weight(p, size, lambda r: gt.group_relative_advantages(r, "none"))
    assert none == pytest.approx((size - 1) / size, abs=1e-6)
    maxrl = weights.gradient_weight(p, size, success_relative_advantages)
    assert maxrl == pytest.approx(sum((1 - p) ** k for k in range(size - 1)), abs=1e-5)
    pairs = weights.gradient_weight(p, 2, gt.group_relative_advantages)
    assert pairs == pytest.approx(math.sqrt(0.5), abs=1e-3)  # right against wrong: A = 0.5 / sqrt(0.5), else 0


def test_the_slope_of_a_mean_length():
    world, policy, chosen = DEEP, table(DEEP), right(DEEP) == 0
    direction = torch.randn(policy.numel(), dtype=torch.float64)

    def mean(logits):
        p = world.probabilities(logits) * chosen
        return float((p * world.mask.sum(dim=1)).sum() / p.sum())

    step = 1e-5 * (direction / direction.norm()).view_as(policy)
    expected = (mean(policy.detach() + step) - mean(policy.detach() - step)) / 2e-5
    for scale in (1.0, 7.0):
        slope = weights.mean_length_slope(world, policy, chosen, scale * direction)
        assert slope == pytest.approx(expected, rel=1e-6)


def test_an_expected_loss_has_the_policy_gradient_where_nothing_moved():
    world, policy, rewards = DEEP, table(DEEP), right(DEEP)
    for loss in (gt.clipped_policy_loss, lambda n, o, a: gt.policy_gradient_loss(n, a)):
        found = weights.expected_loss(world, policy, policy.detach(), rewards, loss)
        shifted = weights.expected_loss(world, policy, policy.detach(), rewards + 5, loss)
        assert float(shifted) == pytest.approx(float(found))  # only what is above the mean counts
        (slope,) = torch.autograd.grad(found, policy)
        length = float(world.probabilities(policy) @ world.mask.sum(dim=1))
        torch.testing.assert_close(slope, -world.objective_gradient(policy, rewards) / length, rtol=1e-6, atol=1e-9)


def test_the_spread_of_ratios_by_length():
    world, old = DEEP, table(DEEP)
    new = old.detach() + 0.3 * table(DEEP, 1).detach()
    found = weights.ratio_spread(world, new, old)
    assert list(found) == [1, 2, 3, 4]
    # Of one token there is one completion, the EOS alone: its ratio is a number, whose spread is 0.
    assert found[1] == pytest.approx((0.0, 0.0), abs=1e-12)
    p, ratio = world.probabilities(old), world.probabilities(new) / world.probabilities(old)
    for n in (2, 4):
        chosen = world.mask.sum(dim=1) == n
        share = p[chosen] / p[chosen].sum()
        for place, values in enumerate((ratio[chosen], ratio[chosen] ** (1 / n))):
            variance = float(share @ values**2 - (share @ values) ** 2)
            assert found[n][place] == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert found[4][0] > found[4][1]


# Another sampler --------------------------------------------------------------------------------------------------


def test_what_another_engine_samples():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.05, 0.9, 0.05]], dtype=torch.float64))
    torch.testing.assert_close(sampler.sampled_table(logits), logits)
    hot = sampler.sampled_table(logits, temperature=2.0).exp()
    roots = logits.exp().sqrt()
    torch.testing.assert_close(hot, roots / roots.sum(dim=1, keepdim=True))
    nucleus = sampler.sampled_table(logits, top_p=0.7).exp()
    torch.testing.assert_close(nucleus, torch.tensor([[0.625, 0.375, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
    rounded = sampler.sampled_table(torch.tensor([[0.2, 0.8, 1.1]]).double(), step=0.5)
    torch.testing.assert_close(rounded, torch.tensor([[0.0, 1.0, 1.0]]).double().log_softmax(-1))


@pytest.mark.parametrize(
    "changed", [{"temperature": 0.6}, {"temperature": 1.7}, {"step": 0.5}, {"top_p": 0.8}], ids=str
)
def test_the_mean_ratio_is_the_mass_kept(changed):
    world, policy = DEEP, table(DEEP)
    q = sampler.sampled_table(policy, **changed)
    ratio = sampler.mean_ratio(world, policy, q)
    assert ratio == pytest.approx(sampler.kept_mass(world, policy, q))
    assert (ratio < 0.95) == ("top_p" in changed)
    if "top_p" not in changed:
        assert ratio == pytest.approx(1.0)


@pytest.mark.parametrize("changed", [{"temperature": 0.6}, {"step": 0.5}], ids=str)
def test_the_whole_ratio_takes_the_bias_away_and_nothing_else_does(changed):
    world, policy, rewards = DEEP, table(DEEP), right(DEEP)
    q, true = sampler.sampled_table(policy, **changed), world.objective_gradient(policy, rewards).flatten()

    def off(correction, cap=2.0):
        return float((sampler.gradient(world, policy, rewards, q, correction, cap) - true).norm() / true.norm())

    # The mean reward that is taken off is the sampler's, but with the whole ratio any constant does.
    assert off("sequence weight") < 1e-9
    assert min(off(name) for name in ("none", "token weights", "capped weights", "masked")) > 1e-3
    assert off("capped weights", 1e9) == pytest.approx(off("token weights"))


@pytest.mark.parametrize("correction", sampler.CORRECTIONS)
def test_without_a_mismatch_every_correction_is_the_policy_gradient(correction):
    world, policy, rewards = DEEP, table(DEEP), right(DEEP)
    found = sampler.gradient(world, policy, rewards, sampler.sampled_table(policy), correction)
    torch.testing.assert_close(found, world.objective_gradient(policy, rewards).flatten())


def test_scored_on_the_nucleus_it_is_the_gradient_of_the_policy_that_samples():
    """Renormalised, the samples are on-policy again: of the truncated policy, whose objective is differentiated."""
    world, policy, rewards = DEEP, table(DEEP), right(DEEP)
    q = sampler.sampled_table(policy, top_p=0.8)
    cut = policy.detach().masked_fill(q == -torch.inf, -1e9).requires_grad_()
    true = world.objective_gradient(cut, rewards).flatten()
    found = sampler.gradient(world, policy, rewards, q, "renormalised")
    torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-9)
    plain = sampler.gradient(world, policy, rewards, q, "none")
    assert float((plain - true).norm() / true.norm()) > 0.05


def test_one_completion_by_hand():
    """Two completions of one token each, drawn with 0.8 and 0.2 where the policy says 0.5 each; the first is right."""
    world = ExactWorld(2, 1)
    policy, q = torch.zeros(1, 2, dtype=torch.float64), torch.log(torch.tensor([[0.8, 0.2]], dtype=torch.float64))
    order = [int(ids[0]) for ids in world.ids]
    rewards = torch.tensor([1.0 if token == 0 else 0.0 for token in order], dtype=torch.float64)
    # E_q[w (R - 0.8) (1[v = token] - 0.5)] for v = 0: both terms are + 0.8 * 0.2 * 0.5 * w.
    expected = {"none": 0.16, "token weights": 0.08 * (0.5 / 0.8 + 0.5 / 0.2), "masked": 0.08 * 0.5 / 0.8}
    expected |= {"capped weights": 0.08 * (0.5 / 0.8 + 2.0)}
    for correction, value in expected.items():
        found = sampler.gradient(world, policy, rewards, q, correction)
        assert found.tolist() == pytest.approx([value, -value]), correction
    # The ratios are 0.625 and 2.5: beyond 1 / 1.5 and 1.5, so both are masked.
    assert sampler.gradient(world, policy, rewards, q, "masked", cap=1.5).tolist() == [0.0, 0.0]


# Dead groups ------------------------------------------------------------------------------------------------------


def test_a_beta_of_one_rate_is_independence_and_one_of_two_is_dead():
    assert groups.mixed_if_beta(0.3, 0.0, 8) == pytest.approx(1 - 0.3**8 - 0.7**8)
    assert groups.mixed_if_beta(0.3, 1e-9, 8) == pytest.approx(1 - 0.3**8 - 0.7**8, rel=1e-6)
    assert groups.mixed_if_beta(0.3, 1.0, 8) == groups.mixed_if_beta(0.0, 0.5, 8) == 0.0
    # Uniform rates, a = b = 1, a spread of 1/3: E[p^G] = 1 / (G + 1).
    assert groups.mixed_if_beta(0.5, 1 / 3, 8) == pytest.approx(1 - 2 / 9)
    # Two answers differ with 2 E[p (1 - p)] = 2 mean (1 - mean) (1 - spread), whatever the distribution.
    assert groups.mixed_if_beta(0.2, 0.4, 2) == pytest.approx(2 * 0.2 * 0.8 * 0.6)


def test_a_beta_is_the_mean_over_many_rates():
    rates = torch.distributions.Beta(0.6, 1.4).sample((200_000,))
    assert groups.mixed_if_beta(0.3, 1 / 3, 6) == pytest.approx(mixed_share(rates, 6), abs=3e-3)


def test_the_spread_of_success_has_the_noise_of_counting_taken_off():
    rates = torch.distributions.Beta(0.6, 1.4).sample((20_000,))
    for answers in (2, 8):
        counts = torch.distributions.Binomial(answers, rates).sample()
        mean, spread = groups.beta_spread(counts, answers)
        assert (mean, spread) == pytest.approx((0.3, 1 / 3), abs=0.02)
    counts = torch.distributions.Binomial(8, torch.full((20_000,), 0.3)).sample()
    assert groups.beta_spread(counts, 8)[1] == pytest.approx(0.0, abs=0.01)
    assert groups.beta_spread([8, 0, 8, 0] * 50, 8)[1] == pytest.approx(1.0, abs=0.02)
    assert groups.beta_spread([0, 0, 0], 8) == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        groups.beta_spread([1], 8)


# Trainers ---------------------------------------------------------------------------------------------------------


def steps(kind, policy, tokenizer, n=3, name="cispo", **settings):
    """A few steps with an update that notes what it is given, and moves the policy by a fixed amount."""
    noted = []
    entry = LATER[name]

    def update(models, rollouts, rewards, config):
        noted.append((copy.deepcopy(models.policy), rollouts))
        yield from entry.update(models, rollouts, rewards, config)

    def reward(completions, problems):
        return torch.tensor([[float(len(text) > 5) for text in completions[i::2]] for i in (0, 1)])

    config = entry.Settings(prompts=2, group_size=4, max_new_tokens=8, learning_rate=0.03, **settings)
    how = {"steps": n, "kind": kind, "progress": False, "reward": reward}
    gt.train(policy, tokenizer, ChainSum(3), entry._replace(update=update), config, **how)
    return noted


@pytest.mark.parametrize("updates", [0, 1, 2])
def test_stale_samples_are_those_of_the_policy_so_many_updates_ago(updates, policy, tokenizer):
    noted = steps(trainers.stale(updates), policy, tokenizer, n=4)
    for i, (_, rollouts) in enumerate(noted):
        sampled_by = noted[max(0, i - updates)][0]
        with torch.no_grad():
            torch.testing.assert_close(gt.score(sampled_by, rollouts), rollouts.old_logprobs, rtol=1e-4, atol=1e-4)
    last = gt.score(noted[-1][0], noted[-1][1]).detach()
    assert bool((last - noted[-1][1].old_logprobs).abs().max() > 1e-3) == (updates > 0)


def test_rescored_stale_samples_hide_their_age(policy, tokenizer):
    for now, rollouts in steps(trainers.stale(2, rescored=True), policy, tokenizer):
        with torch.no_grad():
            torch.testing.assert_close(gt.score(now, rollouts), rollouts.old_logprobs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"top_p": 0.6}, {"step": 1.0}], ids=str)
def test_an_engine_samples_what_the_exact_table_says(changed, policy, tokenizer):
    asked = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 3]])}
    with torch.no_grad():
        logits = policy(**asked).logits
        found = trainers.Engine(policy, **changed)(**asked).logits.log_softmax(dim=-1)
    expected = torch.stack([sampler.sampled_table(row, **changed) for row in logits])
    torch.testing.assert_close(found.exp(), expected.exp(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corrected", ["none", "ratio", "masked"])
def test_a_trainer_that_samples_elsewhere(corrected, policy, tokenizer):
    kind = trainers.elsewhere(temperature=0.5, corrected=corrected, cap=1.5)
    for now, rollouts in steps(kind, policy, tokenizer):
        with torch.no_grad():
            own, engines = gt.score(now, rollouts), gt.score(now, rollouts, 0.5)
        expected = own if corrected == "none" else engines
        if corrected == "masked":
            ratio = (own - engines).exp()
            far = ((ratio > 1.5) | (ratio < 1 / 1.5)) & rollouts.mask.bool()
            assert 0 < far.sum() < rollouts.mask.sum()
            expected = engines.masked_fill(far, trainers.HIGH)
        torch.testing.assert_close(rollouts.old_logprobs, expected, rtol=1e-4, atol=1e-4)


def test_a_masked_token_has_no_gradient_under_cispo(policy, rollouts, rewards):
    entry = LATER["cispo"]
    config = entry.Settings(prompts=3, group_size=4, max_new_tokens=10)
    first = rollouts.mask.clone()
    first[:, 1:] = 0
    old = rollouts.old_logprobs.masked_fill(first.bool(), trainers.HIGH)
    hidden = type(rollouts)(**{**vars(rollouts), "old_logprobs": old})
    loss, _ = next(entry.update(Models(policy), hidden, rewards, config))
    found = torch.autograd.grad(loss, list(policy.parameters()))
    logprobs = gt.score(policy, rollouts)
    advantages = gt.per_token(gt.group_relative_advantages(rewards), rollouts.mask)
    expected = -(advantages * logprobs * (1 - first)).sum() / rollouts.mask.sum()
    for a, b in zip(found, torch.autograd.grad(expected, list(policy.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
