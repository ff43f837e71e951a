"""Every exercise: known wrong answers are each named, right ones pass in any style, the stub is "not attempted".

The answers stand in ``answers/chapter_NN.py``; the book's own solutions are read from the notebooks.
"""

import importlib
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from grpo_teach import exercises, memory
from grpo_teach.exercises.chapter_08 import Fitting
from grpo_teach.exercises.choice import Choice
from grpo_teach.exercises.exercise import TEXTS, Exercise
from grpo_teach.large import model_config

TESTS = Path(__file__).parent
NOTEBOOKS = sorted((TESTS.parent / "notebooks").glob("[01][0-9]_*.ipynb"))
sys.path.insert(0, str(TESTS))
CHAPTERS = [importlib.import_module(f"answers.{path.stem}") for path in sorted(TESTS.glob("answers/chapter_*.py"))]
ANSWERS = [(chapter.__name__.split(".")[1], chapter) for chapter in CHAPTERS]
chapter_08 = dict(ANSWERS)["chapter_08"]
RIGHT = [
    pytest.param(name, answer, id=f"{label}-{name}-{i}")
    for label, chapter in ANSWERS
    for name, answers in chapter.RIGHT.items()
    for i, answer in enumerate(answers)
]
WRONG = [
    pytest.param(name, diagnosis, answer, id=f"{label}-{name}-{diagnosis}-{i}")
    for label, chapter in ANSWERS
    for name, by_diagnosis in chapter.WRONG.items()
    for diagnosis, answers in by_diagnosis.items()
    for i, answer in enumerate(answers)
]
COURSE = {
    *("token_logprobs", "completion_mask", "score_left_padded", "answer_reward", "sft_loss", "rejection_weights"),
    *("reinforce_loss", "leave_one_out_advantages", "returns_to_go", "importance_ratio", "clipped_policy_loss"),
    *("gae", "value_loss"),
    *("group_relative_advantages", "kl_k3", "aggregate_sequence_mean", "grpo_loss", "critic_bytes"),
    *("chunked_token_logprobs", "settings_that_fit", "strict_reward", "format_reward", "number_reward"),
    *("mixed_share", "bradley_terry_loss", "language_consistency", "keep_right", "distillation_loss", "majority_vote"),
    *("asymmetric_clipped_loss", "sequence_ratio", "truncated_weight", "overlong_penalty"),
}

NAMES = [name for name, exercise in exercises.EXERCISES.items() if not isinstance(exercise, Choice)]
COMPARED = [name for name in NAMES if isinstance(exercises.EXERCISES[name], Exercise)]

pytestmark = pytest.mark.usefixtures("own_progress")


def defined_in(source: str, name: str):
    space = {"torch": torch}
    exec(compile(source, "a cell", "exec"), space)
    return space[name]


def notebook_functions(tag: str) -> dict:
    """The function of every cell with this tag, by its name."""
    found = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for cell in cells:
            if tag in cell.metadata.get("tags", []):
                name = next(line for line in cell.source.splitlines() if line.startswith("def "))[4:].split("(")[0]
                assert name not in found, f"{name} stands twice"
                found[name] = defined_in(cell.source, name)
    return found


STUBS, SOLUTIONS = notebook_functions("exercise"), notebook_functions("solution")


def test_every_exercise_of_the_course_has_a_stub_a_solution_and_answers_to_test():
    names = NAMES
    assert set(exercises.names()) >= set(names) >= COURSE
    assert set(STUBS) == set(SOLUTIONS) == set(names)
    assert {name for _, chapter in ANSWERS for name in chapter.RIGHT} == set(names)
    for _, chapter in ANSWERS:
        for name, by_diagnosis in chapter.WRONG.items():
            assert len(by_diagnosis) >= 5, name
            assert all(by_diagnosis.values()), name


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_is_not_attempted(name):
    verdict = exercises.check(name, STUBS[name])
    assert (verdict.passed, verdict.attempted, verdict.diagnosis) == (False, False, None)
    assert exercises.progress()[name] is False


@pytest.mark.parametrize("name", NAMES)
def test_the_books_solution_passes(name):
    verdict = exercises.check(name, SOLUTIONS[name])
    assert (verdict.passed, verdict.attempted, verdict.diagnosis) == (True, True, None), verdict.message


@pytest.mark.parametrize("name, answer", RIGHT)
def test_a_right_answer_passes_in_any_style(name, answer):
    verdict = exercises.check(name, answer)
    assert verdict.passed and verdict.diagnosis is None, verdict.message


@pytest.mark.parametrize("name, diagnosis, answer", WRONG)
def test_a_known_wrong_answer_is_named(name, diagnosis, answer):
    verdict = exercises.check(name, answer)
    assert not verdict.passed and verdict.attempted
    assert verdict.diagnosis == diagnosis, verdict.message
    assert "expected" in verdict.message and "got" in verdict.message


@pytest.mark.parametrize("name", COMPARED)
def test_every_diagnosis_and_remark_has_its_text_and_no_text_is_left_over(name):
    exercise, table = exercises.EXERCISES[name], TEXTS[name]
    said = {"passed", *exercise.probes, *exercise.demands}
    assert set(table) == {*said, "cases", "mistakes"} | ({"also_right"} & set(table))
    for entry in [*table["mistakes"].values(), *table.get("also_right", {}).values()]:
        assert set(entry) == {"code", "says"}
    named = [case.mistake for case in exercise.cases if case.mistake]
    diagnoses = [*exercise.mistakes, *named, *exercise.demands]
    assert len(diagnoses) == len(set(diagnoses)) and not set(diagnoses) & set(TEXTS["general"])
    arguments = list(exercise.cases[0].inputs)
    assert all(list(case.inputs) == arguments for case in exercise.cases)


@pytest.mark.parametrize("name", COMPARED)
def test_every_mistake_of_the_checker_is_told_from_the_others(name):
    """Each mistake, handed in as an answer, gets its own name: no two of them look alike to the cases."""
    for diagnosis, mistake in exercises.EXERCISES[name].mistakes.items():
        assert exercises.check(name, mistake).diagnosis == diagnosis


def test_every_text_on_settings_that_fit_is_read_by_someone():
    wrong = dict(chapter_08.WRONG["settings_that_fit"])
    assert isinstance(exercises.EXERCISES["settings_that_fit"], Fitting)
    assert set(TEXTS["settings_that_fit"]) == {"passed", *wrong} - {"wrong_type"}


def test_settings_that_do_not_fit_are_told_by_how_much_and_which_term_is_largest():
    """From the ledger itself: the same set-up asked for on the command line gives the same numbers."""
    verdict = exercises.check("settings_that_fit", chapter_08.stays(checkpointing=False))
    ledger = memory.predict(memory.Setup(memory.Shape.of(model_config("llama-3.2-1b")), **chapter_08.CHEAP,
                                         checkpointing=False))  # fmt: skip
    peak = ledger.terms["total"] / 2**30
    assert f"the peak is {peak:.2f} GiB, {peak - 0.9 * 14.7:.2f} too much. It falls in update" in verdict.message
    assert f"the largest term is activations with {ledger.terms['activations'] / 2**30:.2f} GiB" in verdict.message


# What a message says --------------------------------------------------------------------------------------------


def reinforce(logprobs, rewards, mask):
    return -(rewards * (logprobs * mask).sum(dim=1)).mean()


def squared_errors(v, o, r, c):
    return torch.max((v - r) ** 2, (o + (v - o).clamp(-c, c) - r) ** 2)


OTHER_FORMS = {
    "value_loss": lambda v, o, r, m, c: (squared_errors(v, o, r, c) * m).sum() / m.sum(),  # without the half
    "reinforce_loss": lambda lp, r, m: -(r * (lp * m).sum(1)).mean().reshape(1),
}


@pytest.mark.parametrize("name, answer", OTHER_FORMS.items())
def test_a_right_answer_in_another_form_gets_no_wrong_remark_on_bool_masks(name, answer):
    verdict = exercises.check(name, answer)
    assert verdict.passed and "bool" not in verdict.message


def test_half_right_is_not_another_right_answer():
    def with_a_half_only_for_long_rows(v, o, r, m, c):
        return (0.5 if v.shape[1] > 2 else 1.0) * (squared_errors(v, o, r, c) * m).sum() / m.sum()

    assert not exercises.check("value_loss", with_a_half_only_for_long_rows).passed


def test_an_error_is_shown_with_the_line_it_came_from():
    def function(logprobs, rewards, mask):
        return logprobs.sum().nonsense

    message = exercises.check("reinforce_loss", function).message
    assert "AttributeError" in message and "return logprobs.sum().nonsense" in message


def test_the_counter_example_shows_inputs_expected_and_got(capsys):
    message = exercises.check("reinforce_loss", lambda lp, r, m: (r * (lp * m).sum(1)).mean()).message
    lines = message.splitlines()
    assert lines[0].startswith("The sign is the wrong way round")
    shown = {line.split("=")[0].strip(): line.split("=")[1].strip() for line in lines[2:]}
    assert shown == {"logprobs": "[[-0.5]]", "rewards": "[1]", "mask": "[[1]]", "expected": "0.5", "got": "-0.5"}
    assert message in capsys.readouterr().out


def test_the_example_shows_the_gradient_where_only_that_is_wrong():
    message = exercises.check("reinforce_loss", lambda lp, r, m: reinforce(lp, r, m).detach() + 0 * lp.sum()).message
    assert "expected gradient to logprobs = [[-1]]" in message and "got gradient" in message


def test_the_hint_and_the_example_speak_of_the_same_case():
    def without_padding(lp, r, m):
        return -(r * lp.sum(dim=1)).mean() if bool(m.all()) else lp.sum() * 0 + 17.0

    message = exercises.check("reinforce_loss", without_padding).message
    assert "It goes wrong with padding." in message and "Smallest example (padding)" in message


def test_shapes_are_judged_where_they_can_be_told_apart():
    message = exercises.check("importance_ratio", lambda new, old: (new - old).exp().mean()).message
    assert "numbers are right" not in message


def test_a_bool_mask_that_fails_is_a_remark_and_no_mistake():
    verdict = exercises.check("reinforce_loss", lambda lp, r, m: -(r * (lp - (1 - m) * lp).sum(1)).mean())
    assert verdict.passed and "bool" in verdict.message
    assert "bool" not in exercises.check("reinforce_loss", reinforce).message
