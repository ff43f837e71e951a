"""Chapters 10 and 11: odd scratchpads stop no check, a set is found out whatever its order, a text is a result."""

import random
from dataclasses import replace

import pytest
import torch

from grpo_teach import exercises
from grpo_teach.exercises import diagnose
from grpo_teach.exercises.exercise import TEXTS, Case
from grpo_teach.r1.distil import distillation_loss
from grpo_teach.r1.search import majority_vote
from grpo_teach.rewards.weighted import language_consistency

pytestmark = pytest.mark.usefixtures("own_progress")


@pytest.mark.parametrize("text", ["\ud800", "\0", "7\ud800七"])
@pytest.mark.parametrize("what", ["raises", None, -1.0, "text", torch.ones(2), float("nan")], ids=str)
def test_a_reward_that_stumbles_over_an_odd_scratchpad_does_not_pass_and_the_message_can_be_printed(text, what):
    def reward(scratchpad, numerals):
        if scratchpad == text:
            if what == "raises":
                raise ValueError(text)
            return what
        return language_consistency(scratchpad, numerals)

    verdict = exercises.check("language_consistency", reward)
    assert (verdict.passed, verdict.diagnosis) == (False, "odd_scratchpad")
    assert "expected" in verdict.message and verdict.message.encode().isascii()


def test_a_selection_of_numbers_is_remarked():
    def first(rewards, most):
        return (rewards >= 1) & ((rewards >= 1).cumsum(dim=1) <= most)

    remark = TEXTS["keep_right"]["no_bools"]
    for kept in (first, lambda r, m: first(r, m).numpy()):
        verdict = exercises.check("keep_right", kept)
        assert verdict.passed and remark not in verdict.message
    for kept in (
        lambda r, m: first(r, m).float(),
        lambda r, m: first(r, m).long(),
        lambda r, m: 1 * first(r, m).numpy(),
    ):
        verdict = exercises.check("keep_right", kept)
        assert verdict.passed and remark in verdict.message


def test_a_loss_that_underflows_is_remarked():
    def loss(student, teacher, mask):
        p, q = teacher.detach().softmax(-1), student.softmax(-1)
        return ((p * (p / q).log()).sum(-1) * mask).sum() / mask.sum()

    remark = TEXTS["distillation_loss"]["underflow"]
    verdict = exercises.check("distillation_loss", loss)
    assert verdict.passed and remark in verdict.message
    assert remark not in exercises.check("distillation_loss", distillation_loss).message


@pytest.mark.parametrize("kind", [bool, int, float])
def test_the_reference_takes_masks_of_any_kind_and_any_padding(kind):
    student, teacher, mask = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]])
    expected = distillation_loss(student[mask.bool()][None], teacher[mask.bool()][None], torch.ones(1, 4))
    student[mask == 0], teacher[mask == 0] = 1e4, torch.tensor([-1e4, 0.0, 0.0, 1e4])
    assert torch.isclose(distillation_loss(student, teacher, mask.to(getattr(torch, kind.__name__))), expected)


# A text as a result -----------------------------------------------------------------------------------------------


def test_an_order_that_is_chance_is_found_out_whichever_it_is():
    """Python draws the order of a set of texts at each start; here one of three hundred is drawn."""
    for seed in range(300):

        def vote(answers, seed=seed):
            distinct = sorted({*answers} - {""})
            random.Random(seed).shuffle(distinct)
            return max(distinct, key=answers.count, default="")

        verdict = exercises.check("majority_vote", vote)
        assert not verdict.passed and verdict.diagnosis and "A set " in verdict.message


def test_a_vote_that_fails_in_one_case_alone_is_told_which():
    """Whichever case: its own diagnosis, unless the list of mistakes has one for exactly this."""
    exercise = exercises.EXERCISES["majority_vote"]
    for case in exercise.cases[2:]:

        def vote(answers, case=case):
            return "another" if answers == case.inputs["answers"] else majority_vote(answers)

        verdict = exercises.check("majority_vote", vote)
        assert verdict.diagnosis == case.mistake
        assert f"It goes wrong with {case.label}. {case.hint}" in verdict.message
        shown = dict(line.split("=", 1) for line in verdict.message.splitlines()[2:])
        assert [value.strip() for value in shown.values()] == [
            *(repr(case.inputs["answers"]), repr(majority_vote(case.inputs["answers"])), "'another'")
        ]


@pytest.mark.parametrize("result, name", [(3, "number"), (0.5, "number"), (torch.ones(2), "tensor"), (["7"], "list"),
                                          (("7", 2), "tuple"), (b"7", "bytes")])  # fmt: skip
def test_what_is_no_text_is_said_to_be_none(result, name):
    verdict = exercises.check("majority_vote", lambda answers: result)
    assert verdict.diagnosis == "wrong_type"
    assert verdict.message.startswith(f"The function returned a {name}; wanted is a text.")


def test_texts_are_the_same_or_not():
    """Their characters' numbers are near each other, or one goes on where the other ends."""
    exercise = replace(exercises.EXERCISES["majority_vote"])
    object.__setattr__(exercise, "cases", (Case("one character", {"answers": ["\u4e00"]}),))
    assert diagnose.examine(exercise, lambda answers: "\u4e00").passed
    for near in ("\u4e01", "\u4e00\0", ""):
        verdict = diagnose.examine(exercise, lambda answers, near=near: near)
        assert not verdict.passed and repr(near) in verdict.message


def test_edits_in_place_are_named_beside_a_right_result_and_do_not_disturb_the_next_call():
    def keep(rewards, most):
        rewards[rewards < 1] = 0
        return (rewards > 0) & ((rewards > 0).cumsum(dim=1) <= most)

    def sorts(answers):
        answers.sort(key=majority_vote(answers).__ne__)
        return answers[0] if answers else ""

    def empties(answers):
        best = majority_vote(answers)
        answers.clear()
        return best

    for name, function in {"keep_right": keep, "majority_vote": sorts}.items():
        assert exercises.check(name, function).diagnosis == "edits_inputs"
    verdict = exercises.check("majority_vote", empties)
    assert verdict.diagnosis == "edits_inputs" and "changed its input answers in place" in verdict.message
    assert exercises.check("majority_vote", majority_vote).passed
