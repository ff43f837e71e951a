"""The checker survives whatever a learner hands in, and leaves the session as it found it."""

import json

import numpy
import pytest
import torch

from grpo_teach import exercises
from grpo_teach.errors import InputError
from grpo_teach.exercises import report

pytestmark = pytest.mark.usefixtures("own_progress")


def right(logprobs, rewards, mask):
    return -(rewards * (logprobs * mask).sum(dim=1)).mean()


def unfinished(logprobs, rewards, mask): ...


def diagnosis(function, name="reinforce_loss"):
    verdict = exercises.check(name, function)
    assert verdict.attempted and not verdict.passed
    assert verdict.message and "Traceback" not in verdict.message
    return verdict.diagnosis


def raiser(error):
    def function(logprobs, rewards, mask):
        raise error

    return function


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def edits(logprobs, rewards, mask):
    logprobs *= mask
    return -(rewards * logprobs.sum(dim=1)).mean()


def recursive(logprobs, rewards, mask):
    return recursive(logprobs, rewards, mask)


BAD = {
    "returns_nothing": [lambda *a: None, lambda *a: print("nothing")],
    "wrong_type": [lambda *a: "0.5", lambda *a: {}, lambda *a: [0.5], lambda *a: (right(*a), 1), lambda *a: torch,
                   lambda *a: torch.tensor(1j), lambda *a: float],
    "wrong_shape": [lambda lp, r, m: lp * m, lambda lp, r, m: torch.zeros(2, 3, 4), lambda *a: torch.zeros(0)],
    "detached": [lambda *a: right(*a).item(), lambda *a: right(*a).detach(), lambda *a: right(*a).detach().numpy(),
                 lambda *a: torch.tensor(right(*a).item())],
    "not_finite": [lambda *a: right(*a) * float("nan"), lambda lp, r, m: right(lp, r, m) / 0],
    "raises": [raiser(ValueError("no")), raiser(SystemExit(3)), raiser(Unprintable()), recursive, lambda a, b, c: 1 / 0,
               lambda a, b, c: torch.cat([a, b]), raiser(StopIteration()), raiser(GeneratorExit()),
               lambda a, b, c: torch.zeros(2, device="meta")],
    "wrong_signature": [lambda logprobs: logprobs, lambda a, b, c, d: a],
    "edits_inputs": [edits],
    "not_a_function": [None, 3, "reinforce_loss", torch.tensor(1.0)],
    "sign_flipped_and_more": [lambda lp, r, m: (r * (lp * m).sum(1)).sum()],
    "constant_factor": [lambda *a: 3 * right(*a)],
    "always_zero": [lambda lp, r, m: 0 * lp.sum()],
    "wrong_gradient": [lambda lp, r, m: right(lp, r, m).detach() + 0 * lp.sum()],
}  # fmt: skip
BAD = [pytest.param(name, f, id=f"{name}-{i}") for name, functions in BAD.items() for i, f in enumerate(functions)]


@pytest.mark.parametrize("expected, function", BAD)
def test_any_code_gets_a_verdict(expected, function):
    assert diagnosis(function) == expected


@pytest.mark.parametrize("name", exercises.names())
@pytest.mark.parametrize("function", [lambda *a: None, lambda *a: 1 / 0, lambda *a: "?", lambda *a: torch.ones(5, 7, 3),
                                      lambda *a: float("nan"), lambda: 1, lambda *a: a[0], lambda *a: a[-1],
                                      lambda *a: numpy.zeros(3), lambda *a: object()])  # fmt: skip
def test_every_exercise_survives_bad_code(name, function):
    verdict = exercises.check(name, function)
    assert verdict.attempted and not verdict.passed and verdict.diagnosis and verdict.message


def test_an_error_is_shown_with_the_line_it_came_from():
    def function(logprobs, rewards, mask):
        return logprobs.sum().nonsense

    message = exercises.check("reinforce_loss", function).message
    assert "AttributeError" in message and "return logprobs.sum().nonsense" in message


def test_control_c_comes_through():
    with pytest.raises(KeyboardInterrupt):
        exercises.check("reinforce_loss", raiser(KeyboardInterrupt()))


def unruly(logprobs, rewards, mask):
    torch.manual_seed(99)
    numpy.random.seed(99)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_default_device("meta")
    torch.set_num_threads(3)
    return torch.zeros(())


def settings():
    torch_state, numpy_state = torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()
    modes = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device(), torch.get_num_threads()
    return torch_state, numpy_state, modes


@pytest.mark.parametrize("function", [right, unruly, lambda *a: torch.rand(()), raiser(ValueError())])
def test_the_sessions_state_is_left_as_it_was(function):
    before = settings()
    exercises.check("reinforce_loss", function)
    assert settings() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_judges_the_same_where_gradients_are_switched_off(mode):
    with mode():
        assert exercises.check("reinforce_loss", right).passed
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)


def test_it_judges_the_same_under_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert exercises.check("reinforce_loss", right).passed
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Verdict, progress, strict mode ----------------------------------------------------------------------------------


def test_the_counter_example_shows_inputs_expected_and_got(capsys):
    message = exercises.check("reinforce_loss", lambda lp, r, m: (r * (lp * m).sum(1)).mean()).message
    lines = message.splitlines()
    assert lines[0].startswith("The sign is the wrong way round")
    shown = {line.split("=")[0].strip(): line.split("=")[1].strip() for line in lines[2:]}
    assert shown == {"logprobs": "[[-0.5]]", "rewards": "[1]", "mask": "[[1]]", "expected": "0.5", "got": "-0.5"}
    assert message in capsys.readouterr().out


def test_progress_is_kept_in_a_file(own_progress, capsys):
    assert not any(exercises.progress().values())
    exercises.check("reinforce_loss", raiser(ValueError()))
    assert not own_progress.exists()
    exercises.check("reinforce_loss", right)
    assert json.loads(own_progress.read_text()) == {"solved": ["reinforce_loss"]}
    report._solved.clear()  # as in another session
    exercises.check("leave_one_out_advantages", lambda r: r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1))
    capsys.readouterr()
    assert [name for name, solved in exercises.progress().items() if solved] == [
        "reinforce_loss",
        "leave_one_out_advantages",
    ]
    assert "2 of 3 solved" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"solved": 3}', "{}"])
def test_a_broken_progress_file_counts_as_empty(own_progress, content):
    own_progress.write_text(content)
    assert not any(exercises.progress().values())
    exercises.check("reinforce_loss", right)
    assert exercises.progress()["reinforce_loss"]


def test_progress_where_no_file_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRPO_TEACH_PROGRESS", str(tmp_path / "file" / "progress.json"))
    exercises.check("reinforce_loss", right)
    assert exercises.progress()["reinforce_loss"]


def test_the_books_solution_counts_for_no_progress(tmp_path):
    cell = tmp_path / "cell.py"
    body = "return -(rewards * (logprobs * mask).sum(dim=1)).mean()"
    cell.write_text(f"# @title Solution 3.1\ndef reinforce_loss(logprobs, rewards, mask):\n    {body}\n")
    space = {}
    exec(compile(cell.read_text(), str(cell), "exec"), space)
    verdict = exercises.check("reinforce_loss", space["reinforce_loss"])
    assert verdict.passed and "book's solution" in verdict.message
    assert not exercises.progress()["reinforce_loss"]


def test_strict_mode_raises_unless_passed(monkeypatch):
    monkeypatch.setenv("GRPO_TEACH_STRICT", "1")
    assert exercises.check("reinforce_loss", right).passed
    for function in (unfinished, raiser(ValueError())):
        with pytest.raises(AssertionError, match="reinforce_loss"):
            exercises.check("reinforce_loss", function)


def test_an_unknown_name_is_one_clear_line():
    with pytest.raises(InputError, match="no exercise named 'reinforce'; there are: .*reinforce_loss"):
        exercises.check("reinforce", right)


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


def test_the_example_shows_the_gradient_where_only_that_is_wrong():
    message = exercises.check("reinforce_loss", lambda lp, r, m: right(lp, r, m).detach() + 0 * lp.sum()).message
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
    assert "bool" not in exercises.check("reinforce_loss", right).message
