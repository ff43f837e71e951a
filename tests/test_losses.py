"""Per-token losses by hand, and the three ways to reduce them."""

import math

import pytest
import torch

from grpo_teach import (
    chunked_token_logprobs,
    clipped_policy_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    policy_gradient_loss,
    token_logprobs,
    value_loss,
)


def tensor(*values):
    return torch.tensor([values], dtype=torch.float64)


# token_logprobs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_token_logprobs_equal_a_float64_log_softmax(temperature):
    logits, ids = 4 * torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    table = torch.log_softmax(logits.double() / temperature, dim=-1)
    by_hand = [[table[b, t, ids[b, t]] for t in range(5)] for b in range(3)]
    got = token_logprobs(logits, ids, temperature)
    torch.testing.assert_close(got.double(), torch.tensor(by_hand), rtol=0, atol=1e-5)


def test_token_logprobs_of_odds_of_two_to_one():
    logits, id_0 = torch.tensor([[[math.log(2.0), 0.0]]]), torch.tensor([[0]])
    assert float(token_logprobs(logits, id_0)) == pytest.approx(math.log(2 / 3), abs=1e-6)
    # At temperature 1/2 the odds are squared: four to one.
    assert float(token_logprobs(logits, id_0, 0.5)) == pytest.approx(math.log(4 / 5), abs=1e-6)


def test_token_logprobs_are_stable_for_large_logits():
    logits = torch.tensor([[[1e4, 1e4 - 3, -1e4]]])
    got = torch.cat([token_logprobs(logits, torch.tensor([[i]])) for i in range(3)], dim=1)
    exact = -math.log1p(math.exp(-3))
    spacing = 1e-3  # of float32 numbers near 1e4
    torch.testing.assert_close(got, torch.tensor([[exact, exact - 3, exact - 2e4]]), rtol=0, atol=2 * spacing)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_token_logprobs_of_half_precision_logits_are_computed_in_float32(dtype):
    logits, ids = torch.randn(2, 3, 50).to(dtype), torch.randint(50, (2, 3))
    got = token_logprobs(logits, ids, 0.7)
    assert got.dtype == torch.float32
    exact = torch.log_softmax(logits.double() / 0.7, dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-5)


def test_token_logprobs_keep_float64():
    assert token_logprobs(torch.randn(1, 2, 3, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.long)).dtype == (
        torch.float64
    )


@pytest.mark.parametrize("chunk", [1, 5, 21, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_chunked_logprobs_are_the_plain_ones_with_the_same_gradient(chunk, dtype):
    head = torch.nn.Linear(8, 11, bias=False).to(dtype)
    hidden = torch.randn(3, 7, 8, dtype=dtype, requires_grad=True)
    ids, weights = torch.randint(11, (3, 7)), torch.randn(3, 7)

    def outcome(logprobs):
        return logprobs, *torch.autograd.grad((weights * logprobs).sum(), [hidden, head.weight])

    plain = outcome(token_logprobs(head(hidden), ids, 0.7))
    chunked = outcome(chunked_token_logprobs(hidden, head.weight, ids, chunk, 0.7))
    assert chunked[0].dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    close = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
    for a, b in zip(plain, chunked, strict=True):
        torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_token_logprobs_refuse_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), temperature)


# policy_gradient_loss and clipped_policy_loss -------------------------------------------------------------------------


def test_policy_gradient_loss_by_hand():
    logprobs = tensor(-0.5, -2.0).requires_grad_()
    loss = policy_gradient_loss(logprobs, tensor(3.0, -1.0))
    torch.testing.assert_close(loss, tensor(1.5, -2.0))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logprobs)[0], tensor(-3.0, 1.0))


def clip_case(ratio, advantage, low, high):
    """Loss and gradient by logprob of one token whose ratio and advantage are given."""
    old = tensor(-1.3)
    logprobs = (old + math.log(ratio)).requires_grad_()
    loss = clipped_policy_loss(logprobs, old, tensor(advantage), low, high)
    return float(loss.detach()), float(torch.autograd.grad(loss.sum(), logprobs)[0])


@pytest.mark.parametrize("low, high", [(0.2, 0.2), (0.1, 0.28)])
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_the_clips_gradient_table(low, high, size):
    below, inside, above = 1 - low - 0.05, 1.03, 1 + high + 0.05
    nearly_below, nearly_above = 1 - low + 1e-6, 1 + high - 1e-6
    # The gradient of -ratio * A by logprob is -ratio * A; a clipped token has a constant loss and no gradient.
    for ratio in (below, nearly_below, inside, nearly_above):
        assert clip_case(ratio, size, low, high) == pytest.approx((-ratio * size, -ratio * size))
    assert clip_case(above, size, low, high) == pytest.approx((-(1 + high) * size, 0.0))
    for ratio in (nearly_below, inside, nearly_above, above):
        assert clip_case(ratio, -size, low, high) == pytest.approx((ratio * size, ratio * size))
    assert clip_case(below, -size, low, high) == pytest.approx(((1 - low) * size, 0.0))


def test_the_clip_is_pessimistic():
    logprobs, old = torch.randn(1, 500), torch.randn(1, 500)
    advantages = torch.randn(1, 500)
    loss = clipped_policy_loss(logprobs, old, advantages)
    assert (loss >= -torch.exp(logprobs - old) * advantages).all()


def test_the_clip_defaults_to_a_fifth_on_both_sides():
    old, far = tensor(0.0, 0.0), tensor(1.0, -1.0)
    torch.testing.assert_close(clipped_policy_loss(far, old, tensor(1.0, -1.0)), tensor(-1.2, 0.8))


# value_loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, old, target, loss, gradient",
    [
        (0.5, 0.4, 1.0, 0.125, -0.5),  # inside the clip: half the squared error
        (0.9, 0.4, 1.0, 0.08, 0.0),  # moved 0.5 towards the target: judged at 0.6, no more to gain
        (0.1, 0.4, 1.0, 0.405, -0.9),  # moved away: the error itself is the larger one
        (1.5, 0.4, 1.0, 0.125, 0.5),  # overshot by more than the clipped value (0.6) falls short
        (-0.1, 0.4, -1.0, 0.72, 0.0),  # the same towards a lower target: judged at 0.2
    ],
)
def test_value_loss_by_hand(value, old, target, loss, gradient):
    values = tensor(value).requires_grad_()
    got = value_loss(values, tensor(old), tensor(target), clip=0.2)
    assert float(got.detach()) == pytest.approx(loss)
    assert float(torch.autograd.grad(got.sum(), values)[0]) == pytest.approx(gradient)


# KL estimates -----------------------------------------------------------------------------------------------------


def test_kl_estimates_by_hand():
    policy, reference = tensor(math.log(0.5), math.log(0.2)), tensor(math.log(0.25), math.log(0.4))
    log_2 = math.log(2)
    torch.testing.assert_close(kl_k1(policy, reference), tensor(log_2, -log_2))
    torch.testing.assert_close(kl_k2(policy, reference), tensor(log_2**2 / 2, log_2**2 / 2))
    # reference / policy is 1/2 and 2: 1/2 - ln(1/2) - 1 and 2 - ln 2 - 1.
    torch.testing.assert_close(kl_k3(policy, reference), tensor(log_2 - 0.5, 1 - log_2))


def test_k3_is_never_negative_and_keeps_its_digits_near_zero():
    reference = torch.randn(1, 1000)
    assert (kl_k3(reference + 1e-3 * torch.randn(1, 1000), reference) >= 0).all()
    got = kl_k3(torch.tensor([[1e-3]]), torch.tensor([[0.0]]))  # d^2/2 to first order; exp(d) - 1 loses it in float32
    assert float(got) == pytest.approx(0.5e-6, rel=1e-3)


@pytest.mark.parametrize("estimate, gradient", [(kl_k1, 1.0), (kl_k2, math.log(2)), (kl_k3, 0.5)])
def test_kl_gradients_by_hand(estimate, gradient):
    # The policy's probability is twice the reference's: 1, ln 2 and 1 - 1/2.
    policy = tensor(math.log(0.5)).requires_grad_()
    got = torch.autograd.grad(estimate(policy, tensor(math.log(0.25))).sum(), policy)[0]
    assert float(got) == pytest.approx(gradient)


# What is constant carries no gradient -------------------------------------------------------------------------------


def test_only_the_current_policys_and_critics_outputs_carry_a_gradient():
    current = torch.randn(2, 3, requires_grad=True)
    constants = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    losses = [policy_gradient_loss(current, constants[0])]
    losses += [f(current, *constants) for f in (clipped_policy_loss, value_loss)]
    losses += [f(current, constants[0]) for f in (kl_k1, kl_k2, kl_k3)]
    for loss in losses:
        grads = torch.autograd.grad(loss.sum(), [current, *constants], allow_unused=True)
        assert [g is None for g in grads] == [False, True, True]
