"""The checker survives whatever a learner hands in, and leaves the session as it found it."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace

import numpy
import pytest
import torch

from grpo_teach import exercises
from grpo_teach.errors import InputError
from grpo_teach.exercises import calls, diagnose, report
from grpo_teach.records import random_states, seed_everything

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


def test_control_c_comes_through():
    with pytest.raises(KeyboardInterrupt):
        exercises.check("reinforce_loss", raiser(KeyboardInterrupt()))


def unruly(*inputs):
    torch.manual_seed(99)
    numpy.random.seed(99)
    random.seed(99)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_default_device("meta")
    torch.set_num_threads(3)
    return torch.zeros(())


def settings():
    states = torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate()
    modes = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device(), torch.get_num_threads()
    return *states, modes, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("function", [right, unruly, lambda *a: unruly().dim() + 0.5, lambda *a: torch.rand(()),
                                      raiser(ValueError())])  # fmt: skip
def test_the_sessions_state_is_left_as_it_was(function):
    before = settings()
    exercises.check("reinforce_loss", function)
    assert settings() == before
    calls.run(function, dict.fromkeys("abc", torch.ones(1, 1)))  # alone, as some of an exercise's own tests call it
    assert settings() == before


def test_the_sessions_state_is_noted_once_a_check(monkeypatch):
    noted = []
    monkeypatch.setattr(calls, "random_states", lambda: noted.append("once") or random_states())
    exercises.check("reinforce_loss", right)
    assert noted == ["once"]


def test_the_sessions_state_is_left_as_it_was_by_control_c():
    def interrupted(*inputs):
        unruly()
        raise KeyboardInterrupt

    before = settings()
    with pytest.raises(KeyboardInterrupt):
        exercises.check("reinforce_loss", interrupted)
    assert settings() == before
    assert exercises.check("reinforce_loss", right).passed


def each_alone(exercise, function):
    for case in exercise.cases:
        calls.run(function, case.inputs)


@pytest.mark.parametrize("call", [diagnose.examine, each_alone])
def test_no_call_disturbs_the_next(call):
    found = []
    call(exercises.EXERCISES["gae"], lambda *inputs: found.append(settings()) or unruly())
    assert len(found) > 2 and all(one == found[0] for one in found)


@contextmanager
def default(setter, value, usual):
    setter(value)
    try:
        yield
    finally:
        setter(usual)


SESSIONS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: default(torch.set_default_device, "meta", None),
    "with device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", ["returns_to_go", "chunked_token_logprobs"])
@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
def test_verdicts_are_the_same_whatever_the_session_of_the_first_was(name, session):
    seed_everything(5)
    outside = settings()
    usual, other = (replace(exercises.EXERCISES[name]) for _ in range(2))  # no outcome of either is known yet
    answers = [unruly, lambda *inputs: torch.rand(()), usual.reference, *list(usual.mistakes.values())[::4]]
    expected = [diagnose.examine(usual, answer) for answer in answers]
    with session():
        inside = settings()
        assert [diagnose.examine(other, answer) for answer in answers] == expected
        assert settings() == inside
    assert [diagnose.examine(other, answer) for answer in answers] == expected
    assert settings() == outside


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


def test_the_exercises_own_functions_are_called_once_and_only_when_needed():
    called = []

    def counted(name, function):
        return lambda *inputs: called.append(name) or function(*inputs)

    shipped = exercises.EXERCISES["reinforce_loss"]
    exercise = replace(shipped, reference=counted("reference", shipped.reference))
    exercise.mistakes.update({name: counted(name, mistake) for name, mistake in exercise.mistakes.items()})
    assert diagnose.examine(exercise, right).passed
    assert called == ["reference"] * len(exercise.cases)
    wrong = diagnose.examine(exercise, lambda lp, r, m: 17 * lp.sum())
    assert set(called) == {"reference", *exercise.mistakes}
    called.clear()
    assert diagnose.examine(exercise, lambda lp, r, m: 17 * lp.sum()) == wrong
    assert called == []


def test_what_a_mistake_draws_does_not_depend_on_the_session():
    def draws(*inputs):
        return torch.rand(()) + numpy.random.rand() + random.random()

    def drawn(seed):
        seed_everything(seed)
        return diagnose._own_outcome(replace(exercises.EXERCISES["reinforce_loss"]), draws, 0).value

    assert drawn(1) == drawn(2)


# Verdict, progress, strict mode ----------------------------------------------------------------------------------


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
    assert "2 of 5 solved" in capsys.readouterr().out


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


def test_a_complex_tensor_is_called_so():
    message = exercises.check("kl_k3", lambda logprobs, ref: (ref - logprobs).to(torch.complex64)).message
    assert message.startswith("The function returned a complex tensor; wanted is a tensor.")
