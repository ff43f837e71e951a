"""Mixed groups and erring verifiers, against every outcome counted in exact fractions."""

from fractions import Fraction
from itertools import product

import pytest
import torch

from grpo_teach.rewards.verifier import mixed_share, seen_success

RATES = [Fraction(0), Fraction(1, 8), Fraction(1, 2), Fraction(3, 4), Fraction(1)]  # exact in float32 too


def chance_of_a_mixed_group(p: Fraction, group_size: int) -> Fraction:
    """The probabilities of all 2^G outcomes in which not all answers are alike, added up."""
    total = Fraction(0)
    for answers in product([True, False], repeat=group_size):
        if len(set(answers)) == 2:
            chance = Fraction(1)
            for right in answers:
                chance *= p if right else 1 - p
            total += chance
    return total


def tensor(rates):
    return torch.tensor([float(rate) for rate in rates])


@pytest.mark.parametrize("group_size", [1, 2, 3, 8])
def test_the_share_is_what_counting_every_outcome_gives(group_size):
    for rate in RATES:
        expected = float(chance_of_a_mixed_group(rate, group_size))
        assert mixed_share(tensor([rate]), group_size) == pytest.approx(expected, abs=1e-12)
    expected = float(sum(chance_of_a_mixed_group(rate, group_size) for rate in RATES) / len(RATES))
    assert mixed_share(tensor(RATES), group_size) == pytest.approx(expected, abs=1e-12)


def test_it_is_a_plain_number():
    assert type(mixed_share(tensor(RATES), 4)) is float


def test_prompts_always_solved_or_never_make_no_mixed_group_whatever_their_mean():
    assert mixed_share(torch.tensor([0.0, 1.0]), 8) == 0.0
    assert mixed_share(torch.tensor([0.5, 0.5]), 8) == 1 - 2 / 2**8


def test_right_and_wrong_may_be_exchanged():
    rates = tensor(RATES[1:3])
    assert mixed_share(rates, 5) == pytest.approx(mixed_share(1 - rates, 5), abs=1e-12)


@pytest.mark.parametrize("rates, group_size", [([], 4), ([[0.5]], 4), (0.5, 4), ([0.5], 0), ([1.1], 4), ([-0.1], 4),
                                               ([float("nan")], 4)])  # fmt: skip
def test_what_is_no_rate_and_no_group_is_refused(rates, group_size):
    with pytest.raises(ValueError):
        mixed_share(torch.tensor(rates), group_size)


@pytest.mark.parametrize("wrong_called_right, right_called_wrong", [(0, 0), (1, 4), (3, 2), (8, 0), (0, 5), (8, 5)])
def test_what_the_verifier_sees_is_what_counting_answers_gives(wrong_called_right, right_called_wrong):
    """Of 5 right and 8 wrong answers so many are misjudged: the rest of the right, and these wrong, look right."""
    right, wrong = 5, 8
    seen = seen_success(
        Fraction(right, right + wrong), Fraction(wrong_called_right, wrong), Fraction(right_called_wrong, right)
    )
    assert seen == Fraction(right - right_called_wrong + wrong_called_right, right + wrong)


def test_it_takes_tensors_and_keeps_their_shape():
    got = seen_success(torch.tensor([[0.0, 0.5, 1.0]]), 0.25, 0.5)
    assert got.tolist() == [[0.25, 0.375, 0.5]]
