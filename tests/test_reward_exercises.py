"""Chapter 09: the attack is shown, odd texts stop no check, and a slow reward is remarked and not run on."""

import re
import time

import pytest
import torch

from grpo_teach import exercises
from grpo_teach.exercises.exercise import TEXTS
from grpo_teach.rewards import format_reward, number_reward

pytestmark = pytest.mark.usefixtures("own_progress")


def test_the_attack_that_got_through_is_quoted_and_named():
    verdict = exercises.check("format_reward", lambda c: format_reward(c) or c.endswith(" Bye."))
    assert verdict.diagnosis == "pays_text_after"
    assert "It goes wrong with text after the answer." in verdict.message
    lines = [line.split(" = ", 1) for line in verdict.message.splitlines()[2:]]
    assert {key.strip(): value for key, value in lines} == {
        "completion": "'<think>6*7</think><answer>42</answer> Bye.'",
        "expected": "0",
        "got": "1",
    }


@pytest.mark.parametrize("name", ["format_reward", "number_reward"])
def test_a_reward_that_fails_in_one_case_alone_is_told_which(name):
    """Whichever case: its own diagnosis, unless the list of mistakes has one for exactly this."""
    exercise = exercises.EXERCISES[name]
    for case in exercise.cases[1:]:

        def reward(completion, *answer, case=case):
            right = exercise.reference(completion, *answer)
            return 1 - right if [completion, *answer] == list(case.inputs.values()) else right

        verdict = exercises.check(name, reward)
        assert verdict.diagnosis == case.mistake or verdict.diagnosis in exercise.mistakes
        assert repr(case.inputs["completion"]) in verdict.message


@pytest.mark.parametrize(
    "text", ["\ud800", "\0", "<think>\ud800</think><answer>42</answer>", f"<answer>{'9' * 5000}</answer>"]
)
@pytest.mark.parametrize("what", ["raises", None, 0.5, "text", torch.ones(2), float("nan")], ids=str)
def test_a_reward_that_stumbles_over_one_odd_text_does_not_pass_and_the_message_can_be_printed(text, what):
    def reward(completion, *answer):
        if completion == text:
            if what == "raises":
                raise ValueError(text)
            return what
        return number_reward(completion, *answer) if answer else format_reward(completion)

    for name in ("format_reward", "number_reward"):
        verdict = exercises.check(name, reward)
        assert (verdict.passed, verdict.diagnosis) == (False, "odd_text")
        assert "expected" in verdict.message and verdict.message.encode().isascii()


def test_the_given_answer_is_always_a_number_and_what_stumbles_over_a_long_one_is_told_so():
    def no_word(completion, answer):
        assert re.fullmatch(r"-?[0-9.,]+", answer)
        return number_reward(completion, answer)

    def short(completion, answer):
        return number_reward(completion, answer) + 0 * int(answer.replace(",", "").split(".")[0])  # 4300 digits at most

    assert exercises.check("number_reward", no_word).passed
    verdict = exercises.check("number_reward", short)
    assert verdict.diagnosis == "odd_text" and "odd in its answer" in verdict.message
    verdict = exercises.check("number_reward", lambda c, a: number_reward(c.encode().decode(), a))
    assert verdict.diagnosis == "odd_text" and "odd in its completion" in verdict.message


def test_a_space_behind_the_sign_that_stops_the_reward_is_shown():
    def reward(completion, answer):
        return float("- 5") if "- 5" in completion else number_reward(completion, answer)

    verdict = exercises.check("number_reward", reward)
    assert verdict.diagnosis == "raises" and "'<answer>- 5</answer>'" in verdict.message


NESTED = r"\s*<think>{0}</think>\s*<answer>{0}</answer>\s*"


@pytest.mark.parametrize("inside, slow", [(r"(.|\s)*", True), (r"(?:.|\s)*?", True), (r"(\s|.|\n)*", True),
                                          (r"(.|\n)*", False), (r".*", False), (r"[\s\S]*?", False)])  # fmt: skip
def test_a_pattern_whose_time_multiplies_with_every_space_is_remarked_and_soon(inside, slow):
    pattern = re.compile(NESTED.format(inside), re.DOTALL if inside == ".*" else 0)
    began = time.thread_time()
    verdict = exercises.check("format_reward", lambda c: bool(pattern.fullmatch(c)) and bool(format_reward(c)))
    assert verdict.passed
    assert (TEXTS["format_reward"]["slow"] in verdict.message) == slow
    assert time.thread_time() - began < 10


def test_edits_in_place_are_named_beside_right_numbers():
    def mixed_share(success, group_size):
        wrong = success.neg_().add_(1)
        return (1 - wrong**group_size - (1 - wrong) ** group_size).mean()

    def loss(chosen, rejected):
        chosen -= rejected
        return torch.nn.functional.softplus(-chosen).mean()

    assert exercises.check("mixed_share", mixed_share).diagnosis == "edits_inputs"
    assert exercises.check("bradley_terry_loss", loss).diagnosis == "edits_inputs"


@pytest.mark.parametrize("said", ["4.2e1", "84/2", "42%", "\N{ARABIC-INDIC DIGIT FOUR}2", "+42", "042", "42.", "4_2"])
def test_what_the_task_leaves_open_is_not_tried(said):
    """A reward that pays it passes as well as one that does not."""

    def generous(completion, answer):
        return 1.0 if completion == f"<answer>{said}</answer>" else number_reward(completion, answer)

    assert exercises.check("number_reward", generous).passed


def test_what_goes_wrong_is_said_beside_an_edit_too():
    def mixed_share(success, group_size):
        success.neg_()
        return 0.5 if group_size > 1 else -0.3

    message = exercises.check("mixed_share", mixed_share).message
    assert "changed its input success in place. It is right with" in message and "It goes wrong with" in message
