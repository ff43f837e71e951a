"""The chain-sum task: fair problems, honest splits, exact rewards, demonstrations that are right."""

from collections import Counter

import pytest
import torch
from scipy import stats

from grpo_teach import ChainSum, InputError, Problem, wilson_interval
from grpo_teach.rewards import accuracy, extract_answer

PROBLEM = Problem("7+5+8+3+9=", "2")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def digits_of(prompt):
    return [int(d) for d in prompt[:-1].split("+")]


# Problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_the_sum_modulo_10(split):
    for prompt, answer in ChainSum((2, 5, 9)).sample(300, generator(), split):
        assert prompt.endswith("=")
        assert answer == str(eval(prompt[:-1]))[-1]
        assert len(digits_of(prompt)) in (2, 5, 9)


def test_lengths_and_answers_are_drawn_uniformly():
    problems = ChainSum((3, 4, 5, 6)).sample(4000, generator())
    lengths = Counter(len(digits_of(p.prompt)) for p in problems)
    answers = Counter(p.answer for p in problems)
    assert stats.chisquare([lengths[n] for n in (3, 4, 5, 6)]).pvalue > 0.001
    assert stats.chisquare([answers[str(d)] for d in range(10)]).pvalue > 0.001


def test_train_and_test_never_share_a_problem():
    task = ChainSum(3)  # 1000 problems in all, so that nearly every one is drawn
    train = {problem.prompt for problem in task.sample(9000, generator(), "train")}
    test = {problem.prompt for problem in task.sample(1500, generator(), "test")}
    assert train.isdisjoint(test)
    assert len(train | test) > 990
    low, high = wilson_interval(len(test) / 1000, 1000, z=3.5)
    assert low < 0.1 < high


def test_the_test_set_is_fixed_and_a_shorter_one_starts_a_longer_one():
    task = ChainSum()
    assert task.test_set(50) == task.test_set(50) == task.test_set(80)[:50]
    torch.manual_seed(99)
    assert task.test_set(50) == ChainSum().test_set(50)


def test_the_generator_decides_what_is_drawn():
    task = ChainSum()
    assert task.sample(20, generator(1)) == task.sample(20, generator(1)) != task.sample(20, generator(2))


@pytest.mark.parametrize("arguments", [(1,), ((3, 0),), ((),)], ids=["1", "0", "none"])
def test_impossible_tasks_are_refused(arguments):
    with pytest.raises(InputError, match="addends"):
        ChainSum(*arguments)


# Rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "completion, reward",
    [
        ("2", 1.0),
        (" 2 ", 1.0),
        ("<think>7+5=2;</think>2", 1.0),
        ("<think>any rubbish at all</think>2", 1.0),
        ("<think>1</think>3</think>2", 1.0),  # the last tag counts
        ("", 0.0),
        ("3", 0.0),
        ("12", 0.0),  # the answer is one digit
        ("22", 0.0),
        ("0123456789", 0.0),  # listing every digit earns nothing
        ("<think>2</think>3", 0.0),
        ("<think>2", 0.0),  # never answered
        ("2</think>", 0.0),
        ("2;", 0.0),
        ("02", 0.0),
        ("２", 0.0),  # another script's digit
    ],
)
def test_rewards_are_exact(completion, reward):
    assert accuracy(completion, "2") == reward
    assert ChainSum().reward([completion], [PROBLEM]).tolist() == [[reward]]


def test_the_answer_stands_behind_the_last_tag():
    assert extract_answer("<think>x</think> 7 ") == "7"
    assert extract_answer("7") == "7"


def test_rewards_stand_in_prompt_order():
    problems = [Problem("1+1=", "2"), Problem("1+2=", "3")]
    assert ChainSum().reward(["2", "3", "2", "3", "3", "2"], problems).tolist() == [[1, 0, 1], [1, 1, 0]]


def test_thinking_is_opening_with_the_tag():
    task = ChainSum()
    assert task.thinks("<think>1+1=2;</think>2")
    assert not task.thinks("2") and not task.thinks("2<think>") and not task.thinks("")


# Demonstrations ---------------------------------------------------------------------------------------------------


def check_steps(text, prompt):
    """How many steps are wrong, each judged by itself; the text's form is asserted."""
    assert text.startswith("<think>") and text.count("</think>") == 1
    work, answer = text.removeprefix("<think>").split("</think>")
    steps, digits, wrong = work.split(";")[:-1], digits_of(prompt), 0
    assert len(steps) == len(digits) - 1
    total = str(digits[0])
    for step, digit in zip(steps, digits[1:], strict=True):
        left, result = step.split("=")
        assert left == f"{total}+{digit}", "each step goes on from the one before"
        wrong += int(result) != eval(left) % 10
        total = result
    assert answer == total
    return wrong


def test_a_demonstration_by_hand():
    assert ChainSum().demonstration(PROBLEM) == "<think>7+5=2;2+8=0;0+3=3;3+9=2;</think>2"


def test_demonstrations_are_right():
    task = ChainSum((2, 3, 4, 5, 6, 7))
    problems = task.sample(200, generator())
    texts = [task.demonstration(problem) for problem in problems]
    assert [check_steps(text, p.prompt) for text, p in zip(texts, problems, strict=True)] == [0] * 200
    assert task.reward(texts, problems).min() == 1.0


def test_slips_come_as_often_as_asked():
    # A slip is a random digit, so one in ten is right by luck: 0.2 x 0.9 of the steps are wrong.
    task, g = ChainSum(5), generator()
    problems = task.sample(1000, g)
    wrong = sum(check_steps(task.demonstration(p, slip=0.2, generator=g), p.prompt) for p in problems)
    low, high = wilson_interval(wrong / 4000, 4000, z=3.5)
    assert low < 0.18 < high


def test_slips_are_drawn_from_the_given_generator():
    first, again = (ChainSum().demonstration(PROBLEM, 0.9, generator(3)) for _ in range(2))
    assert first == again
    state = torch.get_rng_state()
    ChainSum().demonstration(PROBLEM, 0.9, generator(3))
    assert torch.equal(state, torch.get_rng_state())
