"""The equation task: every solution counts and nothing else does; demonstrations search as they say."""

import re
import zlib

import pytest
import torch

from grpo_teach import Problem, wilson_interval
from grpo_teach.policy import tiny_tokenizer
from grpo_teach.tasks import Equation

TASK = Equation()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(problem):
    return [int(n) for n in re.fullmatch(r"([1-9])x\+(\d)=(\d);", problem.prompt).groups()]


def test_every_problem_has_a_solution_and_the_answer_is_one():
    for problem in TASK.sample(300, generator()):
        a, b, t = parts(problem)
        assert (a * int(problem.answer) + b - t) % 10 == 0


def test_train_and_test_never_share_a_problem():
    train = set(p.prompt for p in TASK.sample(6000, generator(), "train"))
    test = set(p.prompt for p in TASK.sample(1000, generator(), "test"))
    assert train.isdisjoint(test) and len(train | test) > 500


@pytest.mark.parametrize(
    "prompt, solutions",
    [("7x+4=9;", "5"), ("2x+1=7;", "38"), ("5x+0=5;", "13579"), ("1x+9=0;", "1"), ("5x+3=3;", "02468")],
)
def test_any_solution_counts(prompt, solutions):
    right = "".join(d for d in "0123456789" if TASK.right(d, Problem(prompt, "?")))
    assert right == solutions
    assert TASK.reward([f"<think>rubbish</think>{d}" for d in solutions], [Problem(prompt, "?")]).min() == 1


@pytest.mark.parametrize(
    "text", ["", "55", "x", "x=5", "5;", "0123456789", "<think>5", "5</think>", "-5", "５", "5" * 99]
)
def test_anything_else_earns_nothing(text):
    assert TASK.right(text, Problem("7x+4=9;", "5")) == 0.0


def tries(text):
    """``[(x, product, result)]``, did the last one claim to fit, and the answer, by a parser of its own."""
    work, fits, answer = re.fullmatch(r"<think>((?:\d:\d\d;)*(?:\d:\d\d(=))?)</think>(\d)", text).groups()
    return [(int(x), int(p), int(r)) for x, p, r in re.findall(r"(\d):(\d)(\d)", work)], bool(fits), int(answer)


def test_demonstrations_try_upwards_until_one_fits_or_patience_ends():
    g, stopped, patience = generator(), 0, set()
    problems = TASK.sample(600, g)
    for problem in problems:
        (a, b, t), (steps, fits, answer) = parts(problem), tries(TASK.demonstration(problem, 0.0, g))
        assert [x for x, _, _ in steps] == list(range(len(steps)))
        assert all(product == a * x % 10 and result == (a * x + b) % 10 for x, product, result in steps)
        assert all(result != t for _, _, result in steps[:-1]), "it stops at the first that fits"
        assert fits == (steps[-1][2] == t)
        if fits:
            assert answer == steps[-1][0]
            stopped += 1
        else:
            assert answer == (steps[-1][0] + 1) % 10
            patience.add(len(steps))
    assert stopped > 150 and patience >= set(range(1, 8))


def test_slips_come_as_often_as_asked():
    g, wrong, count = generator(), 0, 0
    for problem in TASK.sample(1500, g):
        a, b, _ = parts(problem)
        steps, _, _ = tries(TASK.demonstration(problem, 0.2, g))
        first = steps[0]  # later tries are there only if no earlier one seemed to fit
        wrong += first[2] != (a * first[0] + b) % 10
        count += 1
    low, high = wilson_interval(wrong / count, count, z=3.5)
    assert low < 0.2 * 0.9 < high  # one slip in ten is right by luck


def test_all_of_it_can_be_written_and_fits():
    tokenizer = tiny_tokenizer(Equation.characters)
    g = generator()
    for problem in TASK.sample(300, g):
        for text in (problem.prompt, TASK.demonstration(problem, 0.0, g)):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.pad_token_id not in ids, "a character that the vocabulary lacks"
            assert tokenizer.decode(ids) == text
            assert len(ids) < Equation.max_new_tokens
    assert len("0:00;") * 10 + len(["<think>", "</think>", "9", "<eos>"]) <= Equation.max_new_tokens


def test_guesses_are_digits_at_random():
    guesses = TASK.guess(TASK.sample(1000, generator()), generator())
    assert set(guesses) == set("0123456789")


def test_every_held_out_equation_is_asked_once():
    asked = [problem.prompt for problem in TASK.test_set(256)]
    every = {f"{a}x+{b}={(a * x + b) % 10};" for a in range(1, 10) for b in range(10) for x in range(10)}
    held_out = {prompt for prompt in every if zlib.crc32(prompt.encode()) % 10 == 0}
    assert len(asked) == len(set(asked)) and set(asked) == held_out
    assert TASK.test_set(20) == TASK.test_set(256)[:20]
    drawn = {problem.prompt for problem in TASK.sample(12_000, torch.Generator().manual_seed(0))}
    assert drawn == every - held_out
