"""The programs task: examples that say which program it was, tests that a copy fails, a base that can be taught."""

import ast
import copy
import re
import sys
import zlib
from collections import Counter

import pytest
import torch

pytest.importorskip("pydantic_monty", reason="the sandbox is not installed")
from hostile import HOSTILE

from grpo_teach import ALGORITHMS, GRPO, TASKS, InputError, Problem, evaluate, load_base, sample, train, wilson_interval
from grpo_teach.policy import tiny_tokenizer
from grpo_teach.rewards import code_reward, sandbox
from grpo_teach.tasks import Programs
from grpo_teach.tasks.programs import HELD_OUT, WHAT, _passes

TASK, WEAK = Programs(), Programs("shown")
SORTED = Problem("[3,1,2]>[1,2,3];", "sorted(x)")
NINE = Problem("[4,5]>9;", "sum(x)")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def example(problem):
    """The list and the result that the prompt shows."""
    x, result = re.fullmatch(r"(\[[\d,]+\])>(\[[\d,]+\]|\d+);", problem.prompt).groups()
    return ast.literal_eval(x), result


@pytest.fixture(scope="module")
def base():
    return load_base("programs")


# Problems ---------------------------------------------------------------------------------------------------------


def test_it_is_one_of_the_tasks():
    assert TASKS["programs"] is Programs


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shown_result_is_what_the_program_gives_in_the_sandbox(split):
    for problem in TASK.sample(60, generator(), split):
        x, result = example(problem)
        assert sandbox.run([f"x = {x}", f"assert {problem.answer} == {result}"])[1] is not sandbox.FAILED
        assert 3 <= len(x) <= 4 and all(0 <= digit <= 9 for digit in x)
        assert x not in HELD_OUT


def test_no_other_program_gives_the_shown_result():
    for problem in TASK.sample(12, generator(1)):
        x, result = example(problem)
        shown = [f"assert f({x}) == {result}"]
        assert [what for what in WHAT if code_reward(f"f = lambda x: {what}", shown) == 1] == [problem.answer]


def test_every_program_is_drawn_about_as_often():
    counts = Counter(problem.answer for problem in TASK.sample(4200, generator()))
    assert counts.keys() == WHAT.keys()
    assert all(130 < n < 270 for n in counts.values())  # 200 each, five standard deviations


def test_train_and_test_never_share_a_problem():
    train = {problem.prompt for problem in TASK.sample(6000, generator(), "train")}
    test = {problem.prompt for problem in TASK.sample(1000, generator(), "test")}
    assert train.isdisjoint(test) and len(train | test) > 5000
    assert all((zlib.crc32(prompt.encode()) % 10 == 0) == (prompt in test) for prompt in train | test)


def test_the_generator_decides_what_is_drawn():
    assert TASK.sample(20, generator(1)) == TASK.sample(20, generator(1)) != TASK.sample(20, generator(2))
    assert TASK.test_set(50) == Programs().test_set(80)[:50]
    problems = TASK.sample(50, generator())
    assert TASK.guess(problems, generator(3)) == TASK.guess(problems, generator(3))


# Rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, problem",
    [
        ("sorted(x)", SORTED),
        ("<think>anything</think>sorted(x)", SORTED),
        (" sorted( x ) ", SORTED),
        ("sorted(x[::-1])", SORTED),  # any program that does the same
        ("[a for a in sorted(x)]", SORTED),
        ("sum(x)", NINE),
        ("sum(x+x)-sum(x)", NINE),
        ("x*2", Problem("[1,2]>[1,2,1,2];", "x+x")),
    ],
)
def test_any_program_that_does_the_same_is_right(text, problem):
    assert TASK.right(text, problem) == 1.0 == WEAK.right(text, problem)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[1,2,3]", SORTED),  # the copy
        ("x[1:]+x[:1]", SORTED),  # fits the example by chance
        ("[min(x),2,max(x)]", SORTED),
        ("9", NINE),
        ("4+5", NINE),
        ("len(x)*x[0]+1", NINE),
        ("[x[1],x[2],x[0]]", SORTED),  # on a list of two it fails: IndexError
    ],
)
def test_what_fits_the_shown_example_alone_pays_with_the_weak_verifier_only(text, problem):
    assert WEAK.right(text, problem) == 1.0 and TASK.right(text, problem, "shown") == 1.0
    assert TASK.right(text, problem) == 0.0 and WEAK.right(text, problem, "held_out") == 0.0


def test_no_copy_of_a_shown_result_is_right():
    problems = TASK.sample(300, generator())
    copies = [example(problem)[1] for problem in problems]
    assert TASK.reward(copies, problems).max() == 0 and WEAK.reward(copies[:40], problems[:40]).min() == 1


def test_no_program_passes_the_tests_of_another():
    for what in WHAT:
        passed = [other for other in WHAT if TASK.right(other, Problem("[1]>[1];", what))]
        assert passed == [what]


def test_the_tests_say_what_a_program_must_give():
    assert TASK.tests(SORTED, "shown") == ["assert f([3,1,2]) == [1,2,3]"]
    by_hand = [[1, 2, 3, 4], [0, 5, 8], [1, 6, 6, 7, 9], [1, 2, 2, 7, 8, 8], [4, 9]]
    assert TASK.tests(SORTED) == [f"assert f({x}) == {y}" for x, y in zip(HELD_OUT, by_hand, strict=True)]
    assert [test.split(" == ")[1] for test in TASK.tests(NINE)] == ["10", "13", "29", "28", "13"]


@pytest.mark.parametrize("grade", ["held_out", "shown"])
@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "x;", ")", "sorted(", "sorted(x))", "[", "<think>sorted(x)", "sorted(x)</think>", "sorted(ｘ", "é",
     "\x00", "\ud800", "\n", "\t x", "x\n" * 50, "(" * 300, "-" * 3000 + "1", "x*99999999999", "1/0", "f(x)",
     "lambda: x", "９", "None", "x if", "'a", "#", "yield x", "await x", "import os", "\u202esorted(x)"],
)  # fmt: skip
def test_anything_else_earns_nothing(text, grade):
    assert TASK.right(text, SORTED, grade) == 0.0


@pytest.mark.parametrize("name", ["a loop without end", "reading a file", "leaving at once", "killing the parent"])
def test_a_hostile_program_earns_nothing_and_the_next_is_served(name):
    text = f"x\n\n{HOSTILE[name]}"
    assert TASK.right(text, SORTED) == 0.0
    _passes.cache_clear()
    assert TASK.right("sorted(x)", SORTED) == 1.0


def test_random_completions_raise_nothing():
    g = generator()
    pieces = [*Programs.characters, "<think>", "</think>", "é", "漢", "\U0001f600", "\u2028", '"', "'", "\\", "\n"]
    problems = TASK.sample(60, g)
    for problem in problems:
        picked = torch.randint(len(pieces), (int(torch.randint(1, 20, (1,), generator=g)),), generator=g)
        text = "".join(pieces[i] for i in picked.tolist())
        assert TASK.right(text, problem) in (0.0, 1.0)
        assert set(TASK.figures(text, problem)) == {"held_out", "copied"}


def test_a_program_is_run_once_for_all_who_write_it():
    _passes.cache_clear()
    problems = [problem for problem in TASK.sample(400, generator()) if problem.answer == "x+x"]
    assert TASK.reward(["x*2"] * len(problems), problems).min() == 1
    assert len(problems) > 5 and _passes.cache_info().misses == 1


def test_the_figures_tell_a_copy_from_a_program():
    assert TASK.figures("[1,2,3]", SORTED) == {"held_out": 0.0, "copied": 1.0}
    assert WEAK.figures("sorted(x)", SORTED) == {"held_out": 1.0, "copied": 0.0}
    assert TASK.figures("x", SORTED) == {"held_out": 0.0, "copied": 0.0}


def test_another_grade_is_refused():
    with pytest.raises(InputError, match="grade must be one of held_out, shown"):
        Programs("hidden")


def test_without_the_sandbox_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    sandbox._pool.cache_clear()
    _passes.cache_clear()
    with pytest.raises(InputError, match="pip install pydantic-monty") as caught:
        TASK.right("sorted(x)", SORTED)
    assert len(str(caught.value).splitlines()) == 1


# Texts to read ----------------------------------------------------------------------------------------------------


def test_demonstrations_are_right():
    problems = TASK.sample(200, generator())
    texts = [TASK.demonstration(problem) for problem in problems]
    assert TASK.reward(texts, problems).min() == 1 and WEAK.reward(texts[:40], problems[:40]).min() == 1


def test_slips_come_as_often_as_asked():
    g = generator()
    problems = TASK.sample(1500, g)
    wrong = sum(TASK.demonstration(problem, 0.2, g) != problem.answer for problem in problems)
    low, high = wilson_interval(wrong / 1500, 1500, z=3.5)
    assert low < 0.2 * (1 - 1 / len(WHAT)) < high  # one slip in as many as there are programs is right by luck


def test_half_the_guesses_are_copies_and_the_rest_give_something_of_the_same_kind():
    problems, copies = TASK.sample(1000, generator()), 0
    for problem, guess in zip(problems, TASK.guess(problems, generator()), strict=True):
        copies += guess == example(problem)[1]
        if guess in WHAT:
            assert isinstance(WHAT[guess]([3, 1, 2]), list) == example(problem)[1].startswith("[")
        else:
            assert guess == example(problem)[1]
    low, high = wilson_interval(copies / 1000, 1000, z=3.5)
    assert low < 0.5 < high


def test_all_of_it_can_be_written_and_fits():
    tokenizer = tiny_tokenizer(Programs.characters)
    for problem in TASK.sample(400, generator()):
        for text in (problem.prompt, problem.answer, example(problem)[1]):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.pad_token_id not in ids, "a character that the vocabulary lacks"
            assert tokenizer.decode(ids) == text
            assert text is problem.prompt or len(ids) < Programs.max_new_tokens
    assert tokenizer.tokenize("sorted(x)[::-1]") == ["sorted(", "x", ")", "[::-1]"]
    assert tokenizer.tokenize("<think>[a+1 for a in x]") == ["<think>", "[", "a", "+", "1", " for a in ", "x", "]"]


# The base ---------------------------------------------------------------------------------------------------------


def test_the_shipped_tokenizer_is_the_one_the_package_builds(base):
    assert base[1].get_vocab() == tiny_tokenizer(Programs.characters).get_vocab()
    for text in ("[3,1,2]>[1,2,3];", "sorted(x)[::-1]", "<think>x</think>max(x)-min(x)"):
        assert base[1](text)["input_ids"] == tiny_tokenizer(Programs.characters)(text)["input_ids"]


def test_the_base_is_seldom_right_and_often_copies(base):
    policy, tokenizer = base
    assert 400_000 < sum(p.numel() for p in policy.parameters()) < 600_000
    strict = evaluate(policy, tokenizer, TASK, 512, max_new_tokens=TASK.max_new_tokens)
    assert strict.interval[0] < 0.30 and strict.interval[1] > 0.10 and strict.interval[0] > 0.07
    assert 0.25 < strict.figures["copied"] < 0.55
    assert strict.figures["held_out"] == strict.accuracy
    weak = evaluate(policy, tokenizer, WEAK, 128, max_new_tokens=TASK.max_new_tokens)
    assert weak.accuracy > strict.accuracy + 0.15  # a copy pays
    assert evaluate(policy, tokenizer, TASK, 64, max_new_tokens=20, seed=3) == evaluate(
        policy, tokenizer, TASK, 64, max_new_tokens=20, seed=3
    )


def test_the_bases_answers_are_programs_or_copies(base):
    torch.manual_seed(0)
    problems = TASK.test_set(128)
    prompts = [problem.prompt for problem in problems]
    texts = sample(*base, prompts, max_new_tokens=TASK.max_new_tokens).texts(base[1])
    known = sum(text in WHAT or text == example(p)[1] for text, p in zip(texts, problems, strict=True))
    assert known > 0.8 * 128


@pytest.mark.parametrize("verifier", [TASK, WEAK], ids=["held_out", "shown"])
def test_training_teaches_what_the_verifier_pays_for(base, verifier):
    policy, tokenizer = copy.deepcopy(base[0]), base[1]
    config = GRPO(max_new_tokens=TASK.max_new_tokens)
    run = train(policy, tokenizer, TASK, ALGORITHMS["grpo"], config, steps=20, reward=verifier.reward, progress=False)
    first, last = run.history[0]["reward"], run.history[-1]["reward"]
    after = run.evaluate(256)
    assert last > first + 0.1
    if verifier is TASK:
        assert after.accuracy > 0.25 and after.figures["copied"] < 0.2
    else:
        assert after.accuracy < 0.07 and after.figures["copied"] > 0.7
