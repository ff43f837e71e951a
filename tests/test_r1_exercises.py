"""Chapter 10: odd scratchpads stop no check, and a selection that is no bool is remarked."""

import pytest
import torch

from grpo_teach import exercises
from grpo_teach.exercises.exercise import TEXTS
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
