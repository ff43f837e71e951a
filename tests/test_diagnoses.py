"""Six runs without a label: the right diagnosis passes, every other is told what it would look like."""

import pytest

from grpo_teach import exercises
from grpo_teach.bugs import BUGS
from grpo_teach.clinic.doctor import examine
from grpo_teach.exercises.diagnosis import Diagnosis

DIAGNOSES = {name: e for name, e in exercises.EXERCISES.items() if isinstance(e, Diagnosis)}

pytestmark = pytest.mark.usefixtures("own_progress")


@pytest.mark.parametrize("name", DIAGNOSES)
def test_the_right_one_passes_and_every_other_is_told_what_it_would_look_like(name):
    exercise = DIAGNOSES[name]
    assert exercise.answer() in exercise.choices
    for choice, says in exercise.choices.items():
        verdict = exercises.check(name, choice)
        assert verdict.attempted and verdict.passed == (choice == exercise.answer())
        assert verdict.diagnosis == (None if verdict.passed else choice.replace(" ", "_"))
        assert says in verdict.message
        assert all(found.evidence in verdict.message for found in examine(exercise.run()))


def test_six_runs_of_which_one_leaves_no_trace_and_a_choice_that_is_none_of_them():
    answers = [exercise.answer() for exercise in DIAGNOSES.values()]
    assert len(answers) == len(set(answers)) == 6 and "none that shows" in answers
    choices = next(iter(DIAGNOSES.values())).choices.keys()
    assert choices - {"none that shows"} <= BUGS.keys() and len(choices) > len(answers)
