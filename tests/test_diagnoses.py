"""Six runs without a label: the right diagnosis passes, every other is told what it would look like."""

import ast
from pathlib import Path

import nbformat
import pytest

from grpo_teach import exercises
from grpo_teach.bugs import BUGS
from grpo_teach.clinic.doctor import examine
from grpo_teach.exercises.diagnosis import Diagnosis

DIAGNOSES = {name: e for name, e in exercises.EXERCISES.items() if isinstance(e, Diagnosis)}
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "13_break_it.ipynb"

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


@pytest.mark.parametrize("name", DIAGNOSES)
def test_an_empty_answer_is_not_attempted_and_what_is_not_offered_is_said(name):
    def stub(run): ...

    for nothing in (None, ..., stub):
        verdict = exercises.check(name, nothing)
        assert (verdict.passed, verdict.attempted, verdict.diagnosis) == (False, False, None)
    for other in ("none of these", 3, ["flipped_sign"], {}, float("nan")):
        assert exercises.check(name, other).diagnosis == "no_such_choice"


def test_six_runs_of_which_one_leaves_no_trace_and_a_choice_that_is_none_of_them():
    answers = [exercise.answer() for exercise in DIAGNOSES.values()]
    assert len(answers) == len(set(answers)) == 6 and "none that shows" in answers
    choices = next(iter(DIAGNOSES.values())).choices.keys()
    assert choices - {"none that shows"} <= BUGS.keys() and len(choices) > len(answers)


def test_the_notebook_asks_for_each_with_its_choices_before_its_check():
    cells, asked = nbformat.read(NOTEBOOK, as_version=4).cells, []
    for cell, after in zip(cells, cells[1:], strict=False):
        if "prediction" in cell.metadata.get("tags", []):
            (statement,) = ast.parse(cell.source).body
            name = statement.targets[0].id
            assert statement.value.value is ... and after.metadata.tags == ["check"]
            assert all(f'"{choice}"' in cell.source for choice in DIAGNOSES[name].choices)
            assert after.source.strip() == f'exercises.check("{name}", {name})'
            asked.append(name)
    assert asked == list(DIAGNOSES)
