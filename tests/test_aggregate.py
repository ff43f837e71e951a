"""The three ways to reduce a token loss, by hand, on rows of unequal length."""

import pytest
import torch

from grpo_teach import aggregate

LOSS = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 0.0, 0.0, 0.0], [4.0, 8.0, 0.0, 0.0]])
MASK = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
BY_HAND = {
    "sequence_mean": (12 / 4 + 10 / 1 + 12 / 2) / 3,
    "token_mean": (12 + 10 + 12) / 7,
    "fixed_length": (12 + 10 + 12) / (3 * 5),
}
WAYS = list(BY_HAND)


@pytest.mark.parametrize("how", WAYS)
def test_by_hand(how):
    assert float(aggregate(LOSS, MASK, how, length=5)) == pytest.approx(BY_HAND[how])


@pytest.mark.parametrize("how", WAYS)
def test_a_tokens_weight_is_the_ways_own(how):
    # The gradient by a token's loss is its weight: 1/(rows * row length), 1/tokens, 1/(rows * length).
    loss = LOSS.clone().requires_grad_()
    got = torch.autograd.grad(aggregate(loss, MASK, how, length=5), loss)[0]
    weight = {
        "sequence_mean": 1 / (3 * torch.tensor([[4.0], [1.0], [2.0]])),
        "token_mean": torch.tensor(1 / 7),
        "fixed_length": torch.tensor(1 / 15),
    }[how]
    torch.testing.assert_close(got, weight * MASK)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("how", WAYS)
def test_rubbish_in_the_padding_changes_neither_value_nor_gradient(how, rubbish):
    loss = LOSS.masked_fill(MASK == 0, rubbish).requires_grad_()
    value = aggregate(loss, MASK, how, length=5)
    assert float(value.detach()) == pytest.approx(BY_HAND[how])
    gradient = torch.autograd.grad(value, loss)[0]
    assert gradient.isfinite().all() and (gradient[MASK == 0] == 0).all()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_the_mask_may_be_of_any_type(how, dtype):
    assert float(aggregate(LOSS, MASK.to(dtype), how, length=5)) == pytest.approx(BY_HAND[how])


@pytest.mark.parametrize("how", WAYS)
def test_a_row_without_tokens_counts_as_zero_and_not_as_nan(how):
    mask = MASK.clone()
    mask[1] = 0
    by_hand = {"sequence_mean": (3 + 0 + 6) / 3, "token_mean": 24 / 6, "fixed_length": 24 / 15}[how]
    assert float(aggregate(LOSS, mask, how, length=5)) == pytest.approx(by_hand)
    assert float(aggregate(LOSS, torch.zeros_like(mask), how, length=5)) == 0.0


def test_rows_of_equal_length_agree_in_every_way():
    values = {how: float(aggregate(LOSS, torch.ones_like(LOSS), how, length=4)) for how in WAYS}
    assert list(values.values()) == pytest.approx([34 / 12] * 3)


@pytest.mark.parametrize("how, length", [("mean", 5), ("", 5), ("fixed_length", None), ("fixed_length", 0)])
def test_an_unknown_way_or_a_missing_length_is_refused(how, length):
    with pytest.raises(ValueError, match="aggregate|how"):
        aggregate(LOSS, MASK, how, length)
