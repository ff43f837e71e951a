"""The loss of a reward model, against sums by hand in float64 and against counts of who beats whom."""

import math

import pytest
import torch

from grpo_teach.rewards.preferences import bradley_terry_loss


def by_hand(chosen, rejected):
    """The mean of -log(e^c / (e^c + e^r)), with Python's own exponential."""
    wins = [math.exp(c) / (math.exp(c) + math.exp(r)) for c, r in zip(chosen, rejected, strict=True)]
    return -sum(map(math.log, wins)) / len(wins)


CHOSEN, REJECTED = [1.5, -0.3, 2.0, 0.0, -4.0], [0.5, 0.9, 2.0, -7.0, 3.0]


def test_the_loss_is_the_mean_minus_log_probability_that_the_chosen_one_wins():
    got = bradley_terry_loss(torch.tensor(CHOSEN, dtype=torch.float64), torch.tensor(REJECTED, dtype=torch.float64))
    assert got.shape == () and float(got) == pytest.approx(by_hand(CHOSEN, REJECTED), rel=1e-12)


def test_scores_that_tell_nothing_cost_log_2():
    assert float(bradley_terry_loss(torch.full((3,), 7.0), torch.full((3,), 7.0))) == pytest.approx(math.log(2))


def test_a_number_added_to_all_scores_changes_nothing():
    chosen, rejected = torch.tensor(CHOSEN, dtype=torch.float64), torch.tensor(REJECTED, dtype=torch.float64)
    moved = bradley_terry_loss(chosen + 3, rejected + 3)
    assert torch.allclose(moved, bradley_terry_loss(chosen, rejected), rtol=1e-12)


def test_the_gradient_is_the_chance_of_the_wrong_winner_and_flows_to_both():
    chosen, rejected = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (CHOSEN, REJECTED))
    bradley_terry_loss(chosen, rejected).backward()
    wrong = [1 / (1 + math.exp(c - r)) / len(CHOSEN) for c, r in zip(CHOSEN, REJECTED, strict=True)]
    assert torch.allclose(rejected.grad, torch.tensor(wrong, dtype=torch.float64), rtol=1e-12)
    assert torch.equal(chosen.grad, -rejected.grad)


@pytest.mark.parametrize("apart", [100.0, 200.0, 1e4, 1e30])
def test_scores_far_apart_give_a_finite_loss_and_gradient(apart):
    chosen = torch.tensor([apart, 0.0]).requires_grad_()
    loss = bradley_terry_loss(chosen, torch.tensor([0.0, apart]))
    loss.backward()
    assert loss.item() == pytest.approx(apart / 2)
    assert chosen.grad.tolist() == pytest.approx([0.0, -0.5])


def test_where_the_loss_is_smallest_the_scores_give_the_counted_wins():
    """A wins over B in 3 of 4 pairs: at the minimum sigmoid(a - b) = 3/4, so a - b = log 3."""

    def loss(a):
        return bradley_terry_loss(torch.stack([a, a, a, torch.zeros_like(a)]), torch.stack([0 * a, 0 * a, 0 * a, a]))

    best = torch.tensor(math.log(3), dtype=torch.float64).requires_grad_()
    loss(best).backward()
    assert best.grad.item() == pytest.approx(0.0, abs=1e-12)
    assert all(float(loss(best.detach() + step)) > float(loss(best.detach())) for step in (-0.01, 0.01))


@pytest.mark.parametrize("chosen, rejected", [((2,), (3,)), ((3,), (3, 1)), ((2, 2), (2, 2)), ((), ())])
def test_other_shapes_are_refused(chosen, rejected):
    with pytest.raises(ValueError, match=r"one shape \[B\]"):
        bradley_terry_loss(torch.zeros(chosen), torch.zeros(rejected))
