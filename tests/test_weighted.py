"""Rewards added up: every part is seen on its own, and a part that fails is named."""

import math
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.policy import load_base
from grpo_teach.rewards import accuracy, format_reward
from grpo_teach.rewards.paid import paid
from grpo_teach.rewards.weighted import NUMERALS, Weighted, language_consistency, overlong
from grpo_teach.tasks import ChainSum
from grpo_teach.tasks.task import Problem
from grpo_teach.train import train

PROBLEMS = [Problem("1+1=", "2"), Problem("2+2=", "4")]
RIGHT, FORMED = "<think>x</think><answer>2</answer>", "<think>y</think><answer>4</answer>"
PARTS = {
    "right": lambda text, problem: accuracy(text, f"<answer>{problem.answer}</answer>"),
    "form": lambda text, problem: format_reward(text),
}


@pytest.mark.parametrize("right, form", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.25), (-2.0, 3.0)])
def test_parts_are_added_with_their_weights_and_seen_without(right, form):
    reward = Weighted(right=(right, PARTS["right"]), form=(form, PARTS["form"]))
    texts = [RIGHT, "<answer>2</answer>", "2", FORMED, RIGHT, "<answer>4</answer>"]
    assert reward(texts, PROBLEMS).tolist() == [[right + form, right, 0.0], [right + form, form, right]]
    assert reward.seen == {"reward_right": pytest.approx(4 / 6), "reward_form": pytest.approx(3 / 6)}


def test_a_part_that_fails_is_named_with_its_completion():
    reward = Weighted(fine=(1.0, PARTS["form"]), odd=(1.0, lambda text, problem: math.nan if text == "odd" else 1.0))
    with pytest.raises(InputError, match="the reward odd failed: it gave NaN.*; the completion is 'odd'$"):
        reward(["a", "b", "c", "odd"], PROBLEMS)


def test_every_part_stands_in_the_metrics_and_its_weights_in_the_name():
    policy, tokenizer = load_base()
    task, grpo = ChainSum(3), ALGORITHMS["grpo"]
    reward = Weighted(
        right=(1.0, lambda text, p: accuracy(text, p.answer)), short=(0.5, lambda text, p: overlong(text, 8))
    )
    config = grpo.Settings(prompts=4, group_size=4)
    run = train(policy, tokenizer, task, grpo, config, steps=2, reward=reward, progress=False)
    for row in run.history:
        assert 0 <= row["reward_right"] <= 1 and -1 <= row["reward_short"] <= 0
        assert row["reward"] == pytest.approx(row["reward_right"] + 0.5 * row["reward_short"], abs=1e-6)
    assert run.identity()["reward"] == "Weighted(1 right, 0.5 short)"


@pytest.mark.parametrize(
    "text, western, chinese",
    [
        ("", 1, 1),
        ("no digit", 1, 1),
        ("7+8=15", 1, 0),
        ("七+八=一五", 0, 1),
        ("7+八=1五;", Fraction(1, 2), Fraction(1, 2)),
        ("〇 0 0 0", Fraction(3, 4), Fraction(1, 4)),
        ("٣", 1, 1),
    ],
)
def test_consistency_is_the_share_of_digits_in_the_numerals_asked_for(text, western, chinese):
    assert language_consistency(text) == western and language_consistency(text, NUMERALS[1]) == chinese


@settings(deadline=None)
@given(st.text(), st.sampled_from(NUMERALS))
def test_consistency_is_a_share_and_the_two_add_up_to_one_where_there_is_a_digit(text, numerals):
    shares = [language_consistency(text, each) for each in NUMERALS]
    assert 0 <= language_consistency(text, numerals) <= 1
    assert sum(shares) == pytest.approx(1 if set(text) & set("".join(NUMERALS)) else 2)


@pytest.mark.parametrize("length, worth", [(0, 0), (8, 0), (9, -0.125), (12, -0.5), (16, -1), (17, -1), (1000, -1)])
def test_length_costs_nothing_up_to_the_limit_and_one_at_twice_it(length, worth):
    assert overlong("x" * length, 8) == worth


def test_rewards_are_made_of_plain_numbers():
    assert isinstance(Weighted(form=(1.0, PARTS["form"]))([RIGHT, "x"], PROBLEMS[:1]), torch.Tensor)


@pytest.mark.parametrize(
    "reward, said",
    [
        (lambda texts, problems: sys.exit(0), "failed: SystemExit"),
        (lambda texts, problems: torch.ones(1, len(texts)) * 1j, "complex"),
        (lambda texts, problems: [[3e38, -3e38][: len(texts)]], "cannot square"),
    ],
)
def test_a_reward_can_neither_leave_the_run_nor_break_its_arithmetic(reward, said):
    with pytest.raises(InputError, match=f"{said}.*; the completion is 'a'$"):
        paid(reward, ["a", "b"], PROBLEMS[:1])


def test_a_rewards_own_gradient_is_left_behind():
    assert not paid(lambda texts, problems: torch.rand(1, 2, requires_grad=True), ["a", "b"], [None]).requires_grad
