"""Rewards by rule: what counts, what does not, and nothing raises."""

import time

import pytest

from grpo_teach.rewards import format_reward, number_reward


def boxed(text: str) -> str:
    return f"<think>so</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    "completion",
    [
        "<think>a</think><answer>b</answer>",
        " \n<think>a\nb</think>\n\n<answer>b\nc</answer>\n",  # thoughts and answers of several lines
        "<think></think><answer></answer>",
        "<think>1 < 2 > 0</think> <answer><b>3</b></answer>",
    ],
)
def test_the_form_is_paid(completion):
    assert format_reward(completion) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "3",
        "<answer>3</answer>",
        "<think>a</think>3",
        "<think>a</think><answer>3",
        "<answer>3</answer><think>a</think>",
        "<think>a<answer>3</answer></think>",
        "Sure: <think>a</think><answer>3</answer>",
        "<think>a</think><answer>3</answer>.",
        "<think>a</think> so <answer>3</answer>",
        "<think>a</think><think>b</think><answer>3</answer>",
        "<think>a</think><answer>3</answer><answer>4</answer>",
        "<think><think>a</think></think><answer>3</answer>",
        "<think>a</think><answer><answer>3</answer></answer>",
        "<THINK>a</THINK><ANSWER>3</ANSWER>",
        "<think >a</think><answer>3</answer>",
        "<think>a</answer><answer>3</think>",
        "\N{FULLWIDTH LESS-THAN SIGN}think>a</think><answer>3</answer>",
    ],
)
def test_no_other_form_is_paid(completion):
    assert format_reward(completion) == 0.0


@pytest.mark.parametrize("said", ["1000", "1,000", "1000.0", " 1000\n", "+1000", "1,000.00", "01000"])
@pytest.mark.parametrize("answer", ["1000", "1,000", "1000.0"])
def test_a_number_counts_in_each_of_its_spellings(said, answer):
    assert number_reward(boxed(said), answer) == number_reward(f"well, <answer>{said}</answer> it is", answer) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "1000",
        boxed(""),
        boxed("1001"),
        boxed("-1000"),
        boxed("10,00"),
        boxed("1,0000"),
        boxed("1000 eggs"),
        boxed("$1000"),
        boxed("x = 1000"),
        boxed("999 1000"),
        boxed("1000 or 1001"),
        boxed("1000, 1000"),
        boxed("1000\n1001"),
        boxed("1 000"),
        boxed("1_000"),
        boxed("1000%"),
        boxed("2000/2"),
        boxed("500+500"),
        boxed("one thousand"),
        boxed("\N{ARABIC-INDIC DIGIT ONE}000"),
        boxed("\N{FULLWIDTH DIGIT ONE}000"),
        boxed("1000\N{ZERO WIDTH SPACE}"),
        boxed("1000\0"),
        boxed("nan"),
        boxed("inf"),
        boxed("--1000"),
        boxed("1000") + boxed("1000"),
        boxed("999") + "<answer>1000</answer>",
        "<answer><answer>1000</answer></answer>",
        "<answer>1000",
        "1000</answer>",
        "</answer>1000<answer>",
        "<answer>1000</answer></answer>",
        "<ANSWER>1000</ANSWER>",
        "The answer stands between <answer> and </answer>. <answer>1000</answer>",  # the prompt said again
    ],
)
def test_what_is_not_one_right_number_in_one_answer_gets_nothing(completion):
    assert number_reward(completion, "1000") == 0.0


@pytest.mark.parametrize("answer", ["", "many", "1000 eggs", "nan"])
def test_a_right_answer_that_is_no_number_is_never_met(answer):
    assert number_reward(boxed(answer), answer) == number_reward(boxed("1000"), answer) == 0.0


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<think>", "9", "1,", ",999", ".", "-", " ", "<", "\n"])
def test_a_million_of_one_piece_take_little_time(piece):
    began = time.monotonic()
    for text in (piece * 1_000_000, boxed(piece * 1_000_000)):
        assert format_reward(text) in (0.0, 1.0) and number_reward(text, "1000") in (0.0, 1.0)
    assert time.monotonic() - began < 20
