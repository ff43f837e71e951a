"""The addition task: fair problems, exact rewards, demonstrations whose every column and carry is right."""

import re
from collections import Counter

import pytest
import torch
from scipy import stats

from grpo_teach import InputError, Problem, wilson_interval
from grpo_teach.policy import tiny_tokenizer
from grpo_teach.tasks.addition import Addition


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers_of(prompt):
    return [int(n) for n in re.fullmatch(r"(\d+)\+(\d+)=", prompt).groups()]


# Problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_the_sum(split):
    for prompt, answer in Addition((1, 3, 6)).sample(300, generator(), split):
        first, second = numbers_of(prompt)
        assert prompt == f"{first}+{second}=", "no number starts with 0"
        assert answer == str(first + second)
        assert len(str(first)) == len(str(second)) in (1, 3, 6)


def test_lengths_and_digits_are_drawn_uniformly():
    problems = Addition((2, 3, 4)).sample(4000, generator())
    numbers = [str(n) for p in problems for n in numbers_of(p.prompt)]
    lengths, first, last = (Counter(part) for part in zip(*((len(n), n[0], n[-1]) for n in numbers), strict=True))
    # Both numbers of a problem have one length: each problem counts once.
    assert stats.chisquare([lengths[n] // 2 for n in (2, 3, 4)]).pvalue > 0.001
    assert stats.chisquare([first[str(d)] for d in range(1, 10)]).pvalue > 0.001
    assert stats.chisquare([last[str(d)] for d in range(10)]).pvalue > 0.001


def test_the_smallest_and_the_largest_number_are_drawn():
    numbers = {n for p in Addition(2).sample(3000, generator()) for n in numbers_of(p.prompt)}
    assert numbers == set(range(10, 100))


def test_train_and_test_never_share_a_problem():
    task = Addition(2)  # 8100 problems in all
    train = {problem.prompt for problem in task.sample(40000, generator(), "train")}
    test = {problem.prompt for problem in task.sample(6000, generator(), "test")}
    assert train.isdisjoint(test)
    assert len(train | test) > 0.98 * 8100
    low, high = wilson_interval(len(test) / len(train | test), 8100, z=3.5)
    assert low < 0.1 < high


def test_the_test_set_is_fixed_and_a_shorter_one_starts_a_longer_one():
    task = Addition()
    assert task.test_set(50) == task.test_set(50) == task.test_set(80)[:50]
    torch.manual_seed(99)
    assert task.test_set(50) == Addition((3,)).test_set(50)


def test_the_generator_decides_what_is_drawn():
    task = Addition()
    assert task.sample(20, generator(1)) == task.sample(20, generator(1)) != task.sample(20, generator(2))


def test_one_length_and_a_tuple_of_one_are_the_same_task():
    assert Addition() == Addition(3) == Addition((3,)) == Addition([3])
    assert repr(Addition(3)) == "Addition(digits=(3,))"


@pytest.mark.parametrize("digits", [0, -1, (3, 0), ()])
def test_impossible_tasks_are_refused(digits):
    with pytest.raises(InputError, match="at least 1 digit"):
        Addition(digits)


# Guesses and rewards ----------------------------------------------------------------------------------------------


def test_guesses_have_a_plausible_size_and_are_almost_never_right():
    task, g = Addition((2, 3, 4)), generator()
    problems = task.sample(3000, g)
    guesses = task.guess(problems, g)
    assert len(guesses) == len(problems)
    for problem, guess in zip(problems, guesses, strict=True):
        length = problem.prompt.index("+")
        assert str(int(guess)) == guess and 2 * 10 ** (length - 1) <= int(guess) <= 2 * (10**length - 1)
    assert task.reward(guesses, problems).mean() < 0.01
    assert not any(map(task.thinks, guesses))
    # As often one digit longer than the numbers as the right answers are.
    for length in (2, 3, 4):
        share = {
            name: [len(text) > length for text, p in texts if p.prompt.index("+") == length]
            for name, texts in {
                "guess": list(zip(guesses, problems, strict=True)),
                "answer": [(p.answer, p) for p in problems],
            }.items()
        }
        n = len(share["guess"])
        low, high = wilson_interval(sum(share["guess"]) / n, n, z=4)
        assert low < sum(share["answer"]) / n < high


def test_guesses_know_nothing_of_the_answer():
    problems = [Problem("900+900=", "1800"), Problem("100+100=", "200")]
    assert Addition().guess(problems, generator(4)) == Addition().guess(problems[::-1], generator(4))


@pytest.mark.parametrize(
    "completion, reward",
    [
        ("734", 1.0),
        ("<think>8+6+0=14;7+5+1=13;4+2+1=7;</think>734", 1.0),
        ("<think>734</think>", 0.0),
        ("0734", 0.0),
        ("34", 0.0),
        ("7340", 0.0),
        ("437", 0.0),
        ("<think>8+6+0=14;", 0.0),
        ("", 0.0),
    ],
)
def test_rewards_are_exact(completion, reward):
    assert Addition().reward([completion], [Problem("478+256=", "734")]).tolist() == [[reward]]


# Demonstrations ---------------------------------------------------------------------------------------------------


def check_columns(text, prompt):
    """How many columns are wrong, each judged by itself; the text's form is asserted.

    Each column must go on from the carry that the one before wrote, and the answer must be read off the results.
    """
    work, answer = re.fullmatch(r"<think>((?:\d\+\d\+\d=\d{1,2};)+)</think>(\d+)", text).groups()
    columns = [tuple(map(int, re.split(r"[+=]", step))) for step in work.split(";")[:-1]]
    first, second = numbers_of(prompt)
    assert len(columns) == len(str(max(first, second)))
    wrong, carry, read = 0, 0, 0
    for place, (a, b, carried, result) in enumerate(columns):
        assert (a, b) == (first // 10**place % 10, second // 10**place % 10), "the digits of this column"
        assert carried == carry, "each column takes the carry that the one before wrote"
        wrong += result != a + b + carried
        carry = result // 10
        read += result * 10**place if place == len(columns) - 1 else result % 10 * 10**place
    assert int(answer) == read and len(answer) in (len(columns), len(columns) + 1)
    return wrong


@pytest.mark.parametrize(
    "prompt, text",
    [
        ("478+256=", "<think>8+6+0=14;7+5+1=13;4+2+1=7;</think>734"),
        ("999+101=", "<think>9+1+0=10;9+0+1=10;9+1+1=11;</think>1100"),
        ("999+999=", "<think>9+9+0=18;9+9+1=19;9+9+1=19;</think>1998"),
        ("120+345=", "<think>0+5+0=5;2+4+0=6;1+3+0=4;</think>465"),
        ("505+505=", "<think>5+5+0=10;0+0+1=1;5+5+0=10;</think>1010"),
        ("5+5=", "<think>5+5+0=10;</think>10"),
        ("999+1=", "<think>9+1+0=10;9+0+1=10;9+0+1=10;</think>1000"),  # never drawn, yet worked out as one would
        ("1+999=", "<think>1+9+0=10;0+9+1=10;0+9+1=10;</think>1000"),
    ],
)
def test_demonstrations_by_hand(prompt, text):
    first, second = numbers_of(prompt)
    problem = Problem(prompt, str(first + second))
    assert Addition().demonstration(problem) == text
    assert Addition().right(text, problem) == 1.0 and Addition().thinks(text)


def test_demonstrations_are_right():
    task = Addition((1, 2, 3, 4, 6))
    problems = task.sample(500, generator())
    texts = [task.demonstration(problem) for problem in problems]
    assert [check_columns(text, p.prompt) for text, p in zip(texts, problems, strict=True)] == [0] * 500
    assert task.reward(texts, problems).min() == 1.0


def test_slips_come_as_often_as_asked():
    # A slip is a random digit, so one in ten is right by luck: 0.2 x 0.9 of the columns are wrong.
    task, g = Addition(4), generator()
    problems = task.sample(1000, g)
    texts = [task.demonstration(p, slip=0.2, generator=g) for p in problems]
    wrong = [check_columns(text, p.prompt) for text, p in zip(texts, problems, strict=True)]
    low, high = wilson_interval(sum(wrong) / 4000, 4000, z=3.5)
    assert low < 0.18 < high
    # The error carries through: a text is right exactly when none of its columns is wrong.
    assert [task.right(text, p) == 1.0 for text, p in zip(texts, problems, strict=True)] == [w == 0 for w in wrong]


def test_slips_are_drawn_from_the_given_generator():
    problem = Problem("478+256=", "734")
    first, again = (Addition().demonstration(problem, 0.9, generator(3)) for _ in range(2))
    assert first == again
    state = torch.get_rng_state()
    Addition().demonstration(problem, 0.9, generator(3))
    assert torch.equal(state, torch.get_rng_state())


def test_the_longest_worked_answer_with_four_digits_fits():
    tokenizer = tiny_tokenizer(Addition.characters)
    text = Addition(4).demonstration(Problem("9999+9999=", "19998"))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id not in ids, "every character is in the vocabulary"
    assert len(ids) + 1 == 44 <= Addition.max_new_tokens, "the end is a token too; 4 x 9 + 2 tags + 5 digits + 1"
