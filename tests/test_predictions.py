"""Predict, then check: the answer is read off the record, and every choice gets its sentence.

What holds of every question with choices is tested here for the diagnoses of chapter 13 too.
"""

import ast
from pathlib import Path

import nbformat
import numpy
import pytest

from grpo_teach import exercises
from grpo_teach.exercises.choice import Choice
from grpo_teach.exercises.prediction import Prediction
from grpo_teach.records import load_record

QUESTIONS = {name: e for name, e in exercises.EXERCISES.items() if isinstance(e, Choice)}  # diagnoses too
PREDICTIONS = {name: e for name, e in QUESTIONS.items() if isinstance(e, Prediction)}
CHOICES = [(name, choice) for name, prediction in PREDICTIONS.items() for choice in prediction.choices]
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[01][0-9]_*.ipynb"))

pytestmark = pytest.mark.usefixtures("own_progress")


@pytest.mark.parametrize("name, choice", CHOICES)
def test_the_recorded_choice_passes_and_every_other_is_told_what_was_recorded(name, choice):
    prediction = PREDICTIONS[name]
    verdict = exercises.check(name, choice)
    assert verdict.attempted and verdict.passed == (choice == prediction.answer())
    assert verdict.diagnosis == (None if verdict.passed else choice.replace(" ", "_"))
    assert verdict.message.startswith(prediction.choices[choice])
    for label, values in prediction.found().items():
        assert f"{label:30} {numpy.mean(values):8.3g}" in verdict.message
    assert exercises.progress()[name] == verdict.passed


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_not_offered_is_said_and_an_empty_answer_is_not_attempted(name):
    def stub(rewards): ...

    for nothing in (None, ..., stub):
        verdict = exercises.check(name, nothing)
        assert (verdict.passed, verdict.attempted, verdict.diagnosis) == (False, False, None)
        assert all(choice in verdict.message for choice in QUESTIONS[name].choices)
    for other in ("none of these", 3, ["sft"], {}, float("nan")):
        verdict = exercises.check(name, other)
        assert verdict.attempted and not verdict.passed and verdict.diagnosis == "no_such_choice"


@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_answer_is_offered_and_follows_the_record(name, monkeypatch):
    prediction = PREDICTIONS[name]
    assert len(prediction.choices) >= 3
    assert prediction.answer() in prediction.choices
    answers, random = set(), numpy.random.default_rng(0)
    for _ in range(8):
        found = prediction.found().items()
        made_up = {label: list(random.random() + 0.01 * random.random(len(seeds))) for label, seeds in found}
        with monkeypatch.context() as patched:
            patched.setattr(type(prediction), "found", lambda self, made_up=made_up: made_up)
            answers.add(prediction.answer())
    assert len(answers) >= 2 and answers <= set(prediction.choices)


def test_the_winner_is_the_one_with_the_highest_mean_in_the_file():
    means = {
        label: sum(result["accuracy"] for result in results) / len(results)
        for label, results in load_record("main_chain_sum")["runs"].items()
    }
    best = max(means, key=means.get)
    of = {"sft": "no baseline", "pg": "no baseline", "pg_mean": "baseline", "grpo": "grpo"}
    assert PREDICTIONS["which_ends_highest"].answer() == of.get(best, "ppo")


def test_the_notebooks_ask_each_question_once_with_its_choices_before_its_check():
    asked = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for cell, after in zip(cells, cells[1:], strict=False):
            if "prediction" in cell.metadata.get("tags", []):
                (statement,) = ast.parse(cell.source).body
                name = statement.targets[0].id
                assert statement.value.value is ...
                assert all(f'"{choice}"' in cell.source for choice in QUESTIONS[name].choices)
                assert after.metadata.tags == ["check"]
                assert after.source.strip() == f'exercises.check("{name}", {name})'
                asked.append(name)
    assert asked == list(QUESTIONS)
