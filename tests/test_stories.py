"""Two-step stories: what they tell is what their solution works out; the splits share none."""

import re

import pytest
from chat import chat_tokenizer, tagged

from grpo_teach.tasks import WordProblems
from grpo_teach.tasks.stories import GOES, SIZES, stories

LOSING = [phrase.split(" {}")[0] for phrase in GOES]


@pytest.fixture(scope="module")
def rows():
    return {split: stories(split) for split in SIZES}


def told(question: str) -> int:
    """What is left, read from the story's own words."""
    start, *moves = re.findall(r"(?:has (\d+) )|(?:(?:She|he|He|she) ([^.]*\d+[^.]*)\.)", question)
    held = int(start[0])
    for _, move in moves:
        number = int(re.search(r"\d+", move)[0])
        gives = any(move.startswith(word) for word in LOSING) and "from a friend" not in move
        held += -number if gives else number
    return held


def test_the_story_leads_to_its_answer_and_the_solution_goes_the_same_way(rows):
    for row in rows["test"] + rows["train"][:1000]:
        solution, answer = row["answer"].split("\n#### ")
        assert told(row["question"]) == int(answer), row
        (a, sign, b, c), (d, second, e, f) = re.findall(r"(\d+)([+-])(\d+)=(\d+)", solution)
        assert eval(f"{a}{sign}{b}") == int(c) and c == d and eval(f"{d}{second}{e}") == int(f) == int(answer)
        assert int(answer) >= 1 and int(c) >= 1


def test_no_answer_is_a_good_guess(rows):
    answers = [row["answer"].split("#### ")[1] for row in rows["test"]]
    assert max(answers.count(answer) for answer in set(answers)) < 0.1 * len(answers)


def test_the_splits_are_the_same_every_time_and_no_test_story_is_trained_on(rows):
    assert rows == {split: stories(split) for split in SIZES}
    task = WordProblems(chat_tokenizer(), "stories")
    tested = {problem.prompt for problem in task.splits["test"]}
    assert len(tested) > 990 and not tested & {problem.prompt for problem in task.splits["train"]}
    assert len(task.splits["train"]) > 7900


def test_a_worked_solution_earns_its_reward_and_another_number_none():
    task = WordProblems(chat_tokenizer(), "stories")
    problems = task.test_set(20)
    assert task.reward([task.demonstration(problem) for problem in problems], problems).eq(1).all()
    wrong = [tagged(int(problem.answer) + 1) for problem in problems]
    assert task.reward(wrong, problems).eq(0).all()
