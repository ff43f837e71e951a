"""Predict, then check: the answer is read off the record, and every choice gets its sentence.

What holds of every question with choices is tested here for the diagnoses of chapter 13 too.
"""

import ast
from pathlib import Path

import nbformat
import numpy
import pytest
import torch

from grpo_teach import exercises
from grpo_teach.advantages import leave_one_out_advantages
from grpo_teach.exercises.choice import Choice
from grpo_teach.exercises.prediction import Prediction
from grpo_teach.records import load_record
from grpo_teach.studies.exact import ExactWorld

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
        few = 5  # seeds, which leave 252 ways to deal two groups out: a record's ten leave 184,756
        made_up = {label: list(random.random() + 0.01 * random.random(min(few, len(seeds)))) for label, seeds in found}
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


def test_an_exact_number_stands_alone_and_means_over_seeds_with_their_interval():
    alone = exercises.check("least_noise", "state value").message.splitlines()[1:]
    assert len(alone) == 4 and all(len(row.split("  ")[-1].split()) == 1 and "95%" not in row for row in alone)
    several = exercises.check("which_baseline", "no baseline").message.splitlines()[1:]
    assert len(several) == 3 and all(row.endswith(", 10 seeds") and "95%" in row for row in several)


def test_the_noise_of_each_baseline_is_that_of_the_completions_differentiated_one_by_one():
    world = ExactWorld(vocabulary=3, longest=3)
    table = world.policy(seed=0)
    p, rewards = world.probabilities(table).detach(), (world.ids == 1).any(dim=1).double()

    def gradients(weights):
        rows = (weights * world.token_logprobs(table)).sum(dim=1)
        return torch.stack([torch.autograd.grad(row, table, retain_graph=True)[0].flatten() for row in rows])

    def variance(weights):
        estimates = gradients(weights)
        return float(p @ (estimates - p @ estimates).square().sum(dim=1))

    found, ones = PREDICTIONS["least_noise"].found(), torch.ones_like(world.mask)
    tried = [variance((rewards - b).unsqueeze(1) * ones) for b in numpy.linspace(0, 1, 101)]  # every b, near enough
    assert found["best constant"] == pytest.approx([min(tried)], rel=1e-3)
    assert found["expected reward"] == pytest.approx([variance((rewards - p @ rewards).unsqueeze(1) * ones)])
    value = {}  # of each prefix: the mean reward of the completions that go on from it
    for prefix in world.prefixes:
        on = torch.tensor([tuple(ids[: len(prefix)]) == prefix for ids in world.ids.tolist()])
        on &= world.mask.sum(dim=1) > len(prefix)
        value[prefix] = float(p[on] @ rewards[on] / p[on].sum())
    seen = torch.tensor([[value.get(tuple(ids[:t]), 0.0) for t in range(3)] for ids in world.ids.tolist()])
    assert found["state value"] == pytest.approx([variance(rewards.unsqueeze(1) - seen)], rel=1e-5)

    groups = world.draw(table, 20_000, 16, torch.Generator().manual_seed(0))
    drawn = gradients(ones)[groups] * leave_one_out_advantages(rewards[groups]).unsqueeze(-1)
    distances = (drawn.mean(dim=1) - p @ (gradients(rewards.unsqueeze(1) * ones))).square().sum(dim=1) * 16
    error = 4 * float(distances.std()) / 20_000**0.5
    assert found["leave one out, G = 16"] == pytest.approx([float(distances.mean())], abs=error)
    assert error < 0.02 < found["leave one out, G = 16"][0] - found["expected reward"][0]


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
