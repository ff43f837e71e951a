"""A hundred thousand odd completions: no reward raises, each pays 0 or 1, and another reading agrees with it."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_teach.rewards import accuracy, format_reward, lenient_accuracy, number_reward, strict_accuracy

PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<answer", "</", " ", "\n", "\r\n", "\t", "\0", "\ud800"]
PIECES += ["\u2028", "42", "4", "2", "0", "1,000", "1000", "1,00", ".", ",", "-", "+", "42.0", "-42", "4e1", "1e999999"]
PIECES += [
    "1/2",
    "50%",
    "$42",
    "42 eggs",
    "\\boxed{42}",
    "٤٢",
    "４２",
    "²",
    "inf",
    "nan",
    "0x2a",
    "forty-two",
    "\u202e24",
]
PIECES += ["42\u200b", "\\frac{84}{2}", "9^9^9^9", "(((", "a" * 300, "🦆", "7+8=5;", "answer", "=", "(", "[", "*", "\\"]
ANSWERS = ["42", "1000", "-42", "0.5", "0"]
STRICT = {
    "accuracy": accuracy,
    "format": lambda text, answer: format_reward(text),
    "number": number_reward,
    "strict": strict_accuracy,
}


def odd(random) -> str:
    """A completion of up to 30 pieces, half the time inside a good form."""
    text = "".join(random.choices(PIECES, k=random.randrange(30)))
    cut = random.randrange(len(text) + 1)
    return random.choice([text, f"<think>{text[:cut]}</think><answer>{text[cut:][:8]}</answer>"])


def one_number(text: str) -> Fraction | None:
    """The number between the one pair of answer tags, read without a regular expression; None if there is no such."""
    before, opened, rest = text.partition("<answer>")
    inside, closed, after = rest.partition("</answer>")
    if not (opened and closed) or any(tag in before + inside + after for tag in ("<answer>", "</answer>")):
        return None
    inside = inside.strip()
    digits = inside.lstrip("+-") if len(inside) - len(inside.lstrip("+-")) < 2 else "x"
    whole, _, part = digits.partition(".")
    groups = whole.split(",")
    if len(groups) > 1 and not (1 <= len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])):
        return None
    plain = "".join(groups) + part
    if not (plain and set(plain) <= set("0123456789")) or digits.endswith("."):
        return None
    return Fraction(inside.replace(",", ""))


@pytest.mark.parametrize("name", STRICT)
def test_a_hundred_thousand_odd_completions_are_paid_nothing_or_one(name):
    reward, dice = STRICT[name], random.Random(name)
    for _ in range(100_000):
        text, answer = odd(dice), dice.choice(ANSWERS)
        worth = reward(text, answer)
        assert isinstance(worth, float) and worth in (0.0, 1.0), text
        if name == "number" and one_number(text) is not None:
            assert worth == float(one_number(text) == Fraction(answer)), text
        elif name == "number":
            assert worth == 0 or "<answer>" in text, text


def test_what_the_strict_number_is_paid_for_both_others_accept():
    dice, paid = random.Random(0), 0
    for _ in range(30_000):
        text, answer = odd(dice), dice.choice(ANSWERS)
        if strict_accuracy(text, answer):
            paid += 1
            assert format_reward(text) and number_reward(text, answer)
    assert paid > 20  # else it was no test


def test_the_lenient_one_takes_odd_completions_too():
    dice = random.Random(0)
    for _ in range(3_000):
        assert lenient_accuracy(odd(dice), dice.choice(ANSWERS)) in (0.0, 1.0)


@settings(max_examples=2_000, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_and_any_bytes_are_taken(text):
    for reward in STRICT.values():
        assert reward(text, "42") in (0.0, 1.0)
        assert reward(f"<think></think><answer>{text}</answer>", "42") in (0.0, 1.0)
