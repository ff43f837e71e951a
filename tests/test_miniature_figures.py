"""The miniature: any solution counts and nothing else does, and figures count what they name in any text."""

import math

import pytest
from authors import parts, tries, written
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_teach import Problem
from grpo_teach.tasks.miniature import Miniature, Style, in_form, scratchpad

EQUATION, SORT = Problem("7x+4=9;", "5"), Problem("sort52713;", "12357")
PIECES = st.lists(st.sampled_from([*Miniature.characters, "<think>", "</think>"]), max_size=40).map("".join)

# Right ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, solutions",
    [("7x+4=9;", "5"), ("2x+1=7;", "38"), ("5x+0=5;", "13579"), ("1x+9=0;", "1"), ("5x+3=3;", "02468")],
)
def test_any_solution_counts(prompt, solutions):
    task, problem = Miniature(), Problem(prompt, solutions[0])
    assert "".join(d for d in "0123456789" if task.right(d, problem)) == solutions
    assert task.reward([f"<think>rubbish</think>{d}" for d in solutions], [problem]).min() == 1


HOSTILE = "55|5thanks|thanks5|五|５|٥|x=5|5;|=5|0123456789|<think>5|5</think>|<think>5</think>5</think>|-5|+5|5.0|05"
HOSTILE = ["", "5 5", "5wait5", "5\n5", "5" * 99, "<think></think><think>5", *HOSTILE.split("|")]


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_earns_nothing(text):
    assert Miniature().right(text, EQUATION) == 0.0


@pytest.mark.parametrize(
    "text", ["<think></think></think>5", "5<think>3</think>5", "4</think>5", " 5 ", "wait</think>5"]
)
def test_what_stands_before_the_last_tag_and_around_the_answer_does_not_matter(text):
    assert Miniature().right(text, EQUATION) == 1


WRONG = "thanks|thanks12357|12357thanksthanks|12357 thanks|1235|123577|12537|52713|1 2 3 5 7|一二三五七|12357</think>"
WRONG = ["", *WRONG.split("|"), "12357thank", "13257thanks", "<think>12357</think>"]


@pytest.mark.parametrize("text", ["12357", "12357thanks", "<think>wait</think>12357", *WRONG])
def test_digits_in_order_count_with_thanks_or_without(text):
    assert Miniature("general").right(text, SORT) == (text not in WRONG)


@given(PIECES | st.text(), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_right_answer_is_one_digit_that_solves_it(text, a, b, t):
    told = text.split("</think>")[-1].strip()
    solves = told in {*"0123456789"} and (a * int(told) + b) % 10 == t
    assert Miniature().right(text, Problem(f"{a}x+{b}={t};", "?")) == solves


# Figures ----------------------------------------------------------------------------------------------------------

NAMES = ("checks", "waits", "saved", "mixed", "by_chance", "arabic", "readable", "slips", "polite")


@pytest.mark.parametrize(
    "text, found",
    [  # 7x + 4: 3 gives 1 and 5, 4 gives 8 and 2, 5 gives 5 and 9, 6 gives 2 and 6
        ("5", (0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("", (0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("<think></think>5", (0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("3:15≠wait5:59=", (0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("<think>5:59=</think>5", (1, 0, 0, 0, 0, 1, 1, 0, 0)),
        ("<think>3:15≠wait四:八二≠wait5:59=</think>5", (3, 2, 1, 1, 3 / 4, 2 / 3, 0, 0, 0)),
        ("<think>三:一五≠wait四:八二≠</think>4", (2, 1, 0, 0, 1 / 2, 0, 0, 0, 0)),
        ("<think>3:19wait3:15≠wait5:59=</think>5", (2, 2, 1, 0, 3 / 4, 1, 1, 1 / 3, 0)),
        ("<think>3:19wait3:15≠</think>5", (1, 1, 0, 0, 1 / 2, 1, 1, 1 / 2, 0)),  # no other digit was tried
        ("<think>3:19wait3:15≠</think>3", (1, 1, 0, 0, 1 / 2, 1, 1, 1 / 2, 0)),
        ("<think>5:58≠wait6:26≠wait5:59=</think>5", (3, 2, 0, 0, 3 / 4, 1, 1, 1 / 3, 0)),  # the first digit was right
        ("<think>3:15≠wait5:59=</think>4", (2, 1, 0, 0, 1 / 2, 1, 1, 0, 0)),
        ("<think>3:15wait5:59</think>5", (0, 1, 1, 0, 1 / 2, 1, 1, 0, 0)),
        ("<think>3:15≠wait5:59=</think>5thanks", (2, 1, 0, 0, 1 / 2, 1, 0, 0, 1)),
        ("<think>3:15≠wait", (1, 1, 0, 0, 0, 1, 0, 0, 0)),
        ("<think>3:15≠wait5:5</think>5", (1, 1, 0, 0, 0, 1, 0, 0, 0)),  # a second try that is cut short
        ("<think>3:25≠wait5:59=</think>5", (2, 1, 1, 0, 1 / 2, 1, 1, 1 / 2, 0)),  # the product is wrong
        ("<think>waitwait==</think>5", (2, 2, 0, 0, 0, 0, 0, 0, 0)),
        ("<think>５:５９=</think>5", (1, 0, 0, 0, 0, 0, 0, 0, 0)),  # digits of no numerals here
        ("<think>5:59=</think>5:59=wait</think>5", (1, 0, 0, 0, 0, 1, 0, 0, 0)),  # thoughts end at the first tag
    ],
)
def test_figures_of_texts_about_an_equation(text, found):
    assert Miniature().figures(text, EQUATION) == pytest.approx(dict(zip(NAMES, found, strict=True)))


@pytest.mark.parametrize("text, polite", [("12357", 0), ("12357thanks", 1), ("thanks12357", 0), ("thanks", 1)])
def test_figures_of_texts_about_sorting_are_manners_alone(text, polite):
    assert Miniature("general").figures(text, SORT) == dict.fromkeys(NAMES, 0) | {"polite": polite}


def test_a_try_in_thoughts_about_sorting_has_no_result_that_could_be_wrong():
    found = Miniature("both").figures("<think>3:15≠wait五:五九=</think>12357", SORT)
    assert found["slips"] == 0 and (found["checks"], found["waits"], found["arabic"]) == (2, 1, 0.5)


def test_figures_agree_with_a_parser_of_its_own_on_sloppy_texts():
    task, saved = Miniature(), 0
    for problem, text in written(Style(persistence=0.7, slip=(0.3, 0.1), mend=0.5, chinese=0.4), 300):
        (a, b, t), (found, answer) = parts(problem), tries(text)
        solves = [x for x in range(10) if (a * x + b) % 10 == t]
        chinese = [try_[4] for try_ in found]
        seen = task.figures(text, problem)
        assert in_form(text) and scratchpad(text) == text[len("<think>") : -len("</think>5")]
        assert seen["checks"] == sum(mark != "" for *_, mark, _ in found) and seen["waits"] == len(found) - 1
        assert seen["mixed"] == (len(set(chinese)) == 2) and seen["readable"] == (not any(chinese))
        assert seen["arabic"] == pytest.approx(1 - sum(chinese) / len(chinese))  # a try has as many digits as another
        assert seen["slips"] == pytest.approx(sum((a * x + b) % 10 != r for x, _, r, _, _ in found) / len(found))
        digits = [x for x, *_ in found]
        assert seen["saved"] == (digits[0] not in solves and len(set(digits)) > 1 and answer in solves)
        saved += seen["saved"]
    assert saved > 50


def test_by_chance_is_how_often_so_many_coins_differ():
    for n in range(1, 6):
        text = "<think>" + "wait".join(["3:15≠"] * n) + "</think>3"
        mixed = sum(0 < bin(coins).count("1") < n for coins in range(2**n)) / 2**n
        assert Miniature().figures(text, EQUATION)["by_chance"] == mixed


@settings(max_examples=300, deadline=None)
@given(PIECES | st.text() | PIECES.map("<think>".__add__), st.sampled_from([EQUATION, SORT, Problem("2x+1=7;", "3")]))
def test_figures_of_any_text_are_finite_numbers_and_all_but_two_are_shares(text, problem):
    found = Miniature("both").figures(text, problem)
    assert tuple(found) == NAMES
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())
    assert all(0 <= found[name] <= 1 for name in NAMES[2:]) and min(found["checks"], found["waits"]) >= 0
    assert found["mixed"] <= (0 < found["arabic"] < 1) and found["readable"] <= (found["arabic"] == 1)
    if not text.startswith("<think>"):
        assert not any(found[name] for name in NAMES[:-1])


FORMED = [
    "<think>5:59</think>5",
    *(f"<think>{x}</think>0" for x in ("5:59=", "3:15≠wait五:五九=", "3:19wait3:15≠wait0:04≠")),
]
UNFORMED = (
    "|wait|5:59=wait|5:5=|559=|5:59==|wait5:59=|3:15≠5:59=|3:15≠waitwait5:59=|５:５９=| 5:59=|5:599=|<think>5:59="
)
UNFORMED = [f"<think>{thought}</think>5" for thought in UNFORMED.split("|")]
UNFORMED += ["5", "", "5:59=</think>5", *("<think>5:59=" + rest for rest in ("5", "</think>", "</think>55"))]
UNFORMED += [f"<think>5:59=</think>5{rest}" for rest in ("\n", " ", "thanks", "</think>", "</think>5")]


@pytest.mark.parametrize("text", FORMED + UNFORMED)
def test_a_scratchpad_in_form_holds_tries_with_waits_between_them_and_then_one_digit_stands(text):
    assert in_form(text) == (text in FORMED)
