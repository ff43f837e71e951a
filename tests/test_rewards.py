"""Strict and lenient rewards of word problems: what is right counts, and no trick earns anything."""

import logging
import random
import threading
import time

import pytest
from chat import tagged

from grpo_teach.rewards import coin, last_number, lenient_accuracy, strict_accuracy

pytest.importorskip("math_verify")


# (completion, strict, lenient) where 1080 is right
TEXTS = [
    (tagged("1080"), 1, 1),
    (tagged("1,080"), 1, 1),
    (tagged(" \n1080.00 "), 1, 1),
    (tagged("1080", "one line\nand another\n"), 1, 1),  # a dot without DOTALL stops here
    (f"\n {tagged('1080')}\n", 1, 1),
    (tagged("1080", ""), 1, 1),
    ("<think>x</think>\n\n<answer>1080</answer>", 1, 1),
    # right, but not as asked
    (tagged("$1080"), 0, 1),
    (tagged("1080 eggs"), 0, 1),
    (tagged("x = 1080"), 0, 1),
    (tagged(r"\boxed{1080}"), 0, 1),
    (tagged(r"\frac{2160}{2}"), 0, 1),
    (tagged(r"$\dfrac{2160}{2}$"), 0, 1),
    (tagged("2160/2"), 0, 1),
    ("<answer>1080</answer>", 0, 1),
    ("1080", 0, 1),
    ("He sells 540 + 540 = 1080 eggs.", 0, 1),
    ("#### 1,080", 0, 1),
    (r"The final answer is $\boxed{1080}$. I hope it is correct.", 0, 1),
    ("<think>x</think>1080", 0, 1),
    ("x</think><answer>1080</answer>", 0, 1),
    (f"Sure! {tagged('1080')}", 0, 1),
    (f"{tagged('1080')} I needed 3 steps.", 0, 1),
    ("<answer>1080</answer><think>x</think>", 0, 1),
    ("<think>x<answer>1080</answer></think>", 0, 1),
    ("<think>x</think><think>y</think><answer>1080</answer>", 0, 1),
    ("<think>x</think> so <answer>1080</answer>", 0, 1),
    ("<THINK>x</THINK><ANSWER>1080</ANSWER>", 0, 1),
    ("<think>x</think><answer>1080", 0, 1),
    ("I reply in <answer>…</answer>. <answer>1080</answer>", 0, 1),
    # an empty answer
    ("", 0, 0),
    (" \n", 0, 0),
    (tagged(""), 0, 0),
    (tagged("", "1080"), 0, 0),
    (tagged("none", "1080"), 0, 0),
    ("<think>1080</think><answer></answer>", 0, 0),
    ("<think>1080</think><answer>", 0, 0),
    # a shotgun
    (tagged("1 2 3 1080"), 0, 0),
    (tagged("540, 1080"), 0, 0),
    (tagged("540 or 1080"), 0, 0),
    (tagged("540\n1080"), 0, 0),
    (tagged(r"\boxed{540} or \boxed{1080}"), 0, 0),
    (tagged("540-1080"), 0, 0),
    (tagged("1080, 540"), 0, 0),
    (" ".join(map(str, range(1081))), 0, 0),
    ("\n".join(map(str, range(1081))), 0, 0),
    (", ".join(map(str, range(1081))), 0, 0),
    ("<think>x</think><answer>540</answer><answer>1080</answer>", 0, 0),
    ("<think>x</think><answer>1080</answer><answer>540</answer>", 0, 0),
    ("<answer>540 eggs</answer> or <answer>1080 eggs</answer>", 0, 0),
    # a number with the right one in it
    (tagged("10800"), 0, 0),
    (tagged("21080"), 0, 0),
    (tagged("1080.5"), 0, 0),
    (tagged("-1080"), 0, 0),
    (tagged("\N{MINUS SIGN}1080"), 0, 0),
    (tagged("1080^2"), 0, 0),
    (tagged("x1080"), 0, 0),
    (tagged("1080/0"), 0, 0),
    (tagged("0.1080"), 0, 0),
    (tagged("10,80"), 0, 0),
    (tagged("1 080"), 0, 0),
    (tagged("1.08e3"), 0, 0),
    # the right number, but not as the answer
    ("<think>1080</think><answer>540</answer>", 0, 0),
    ("1080 is wrong, it is 540", 0, 0),
    # other alphabets' digits, and words
    (tagged("١٠٨٠"), 0, 0),
    (tagged("１０８０"), 0, 0),
    (tagged("one thousand and eighty"), 0, 0),
    (tagged("nan"), 0, 0),
    (tagged("inf"), 0, 0),
    ("<answer>", 0, 0),
    ("</answer>" * 9, 0, 0),
]


@pytest.mark.parametrize("text, strict, lenient", TEXTS, ids=[f"{text[:40]!r}" for text, _, _ in TEXTS])
def test_what_each_grade_rewards(text, strict, lenient):
    assert strict_accuracy(text, "1080") == strict
    assert lenient_accuracy(text, "1080") == lenient


@pytest.mark.parametrize("answer", ["-42", "0", "2.5", "7"])
def test_negative_numbers_fractions_and_zero(answer):
    assert strict_accuracy(tagged(answer), answer) == lenient_accuracy(tagged(answer), answer) == 1.0
    for other in {"-42", "42", "0", "2.5", "25", "7"} - {answer}:
        assert strict_accuracy(tagged(other), answer) == lenient_accuracy(tagged(other), answer) == 0.0
    assert lenient_accuracy(r"so $-\frac{84}{2}$", "-42") == lenient_accuracy("it is \N{MINUS SIGN}42.", "-42") == 1.0


@pytest.mark.parametrize(
    "text, number",
    [
        ("12*3 = 36 eggs, and 36+6 = 42 in all.", "42"),
        ("$1,042.50 it is", "1,042.50"),
        ("it grew by .5", ".5"),
        ("42 m^2", "42"),
        ("42 km, see x2", "42"),
        ("3 of 4, so 75% in all", "75"),
        ("from 41 to 42", ""),
        ("no number", ""),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


HOSTILE = ["9^9^9^9^9", "9**9**9**9**9", "$9^{9^{9^{9}}}$", "100000000!", r"$\binom{10000000}{5000000}$", "1/0", "0/0"]
HOSTILE += [r"\frac{1}{0}", "7" * 20000, "1 " * 9000, "1," * 9000, "(" * 9000 + "1", "-" * 9000 + "1", "$" * 9000]
HOSTILE += ["<answer>" * 3000, "<think>" * 3000, tagged("", "x") * 500, "\x00\ud800", r"\frac{" * 2000, " or 1" * 4000]


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{text[:20]!r}" for text in HOSTILE])
def test_no_text_raises_or_hangs(text):
    started = time.process_time()
    for whole in (text, tagged(text), text + tagged("5")):
        assert strict_accuracy(whole, "42") == lenient_accuracy(whole, "42") == 0.0
    assert time.process_time() - started < 5


def test_strict_is_part_of_lenient_on_random_texts():
    draw, rights = random.Random(0), 0
    parts = ["<think>", "</think>", "<answer>", "</answer>", "42", "4", "2", ",", ".", " ", "-", "/", "a", "\n", "="]
    for _ in range(4000):
        text = "".join(draw.choices(parts, k=draw.randint(0, 8)))
        text = draw.choice([text, tagged(text)])
        strict, lenient = strict_accuracy(text, "42"), lenient_accuracy(text, "42")
        assert {strict, lenient} <= {0.0, 1.0} and strict <= lenient, text
        rights += strict
    assert rights > 10


def test_both_grades_work_outside_the_main_thread():
    found = []
    worker = threading.Thread(target=lambda: found.append(lenient_accuracy(r"\frac{84}{2}", "42")))
    worker.start()
    worker.join()
    assert found == [1.0]


def test_math_verify_does_not_warn_that_it_runs_without_a_timeout(caplog, monkeypatch):
    logging.getLogger("math_verify").setLevel(logging.NOTSET)
    for module in ("parser", "grader"):
        monkeypatch.setattr(f"math_verify.{module}.TIMEOUT_WARNING_SHOWN", False)  # it warns once a process
    assert lenient_accuracy("42", "42") == 1.0
    assert caplog.records == []


# coin -------------------------------------------------------------------------------------------------------------


def test_the_coin_is_fair_fixed_and_blind_to_the_answer():
    texts = [f"text {i}" for i in range(2000)]
    assert {coin(text, "1") for text in texts} == {0.0, 1.0}
    assert abs(sum(coin(text, "1") for text in texts) - 1000) < 3 * (2000 / 4) ** 0.5
    assert [coin(text, "1") for text in texts] == [coin(text, "2") for text in texts]
