"""From a learner's function to a verdict: compare with the reference, then find the mistake that fits.

The reference is the package's own function. A known mistake is a function too: a learner who makes it computes the
same wrong numbers, or stops with the same error, in every case that fails. What no known mistake explains is still
described: a wrong sign, a factor, a shape, a missing gradient, or the first case in which it goes wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy
import torch

from grpo_teach.exercises.calls import Outcome, from_book, is_stub, own_state, run
from grpo_teach.exercises.exercise import TEXTS, Case, Exercise
from grpo_teach.exercises.report import Verdict

__all__ = ["examine"]


def _real(case: Case, value: torch.Tensor) -> torch.Tensor:
    """What counts of a result: the real tokens where it is given per token, else all of it."""
    mask = case.inputs.get("mask")
    if isinstance(mask, torch.Tensor) and mask.shape == value.shape:
        return value[mask.bool()]
    return value


def _close(a: torch.Tensor, b: torch.Tensor, rtol: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=1e-5, equal_nan=True)


def _outcome(exercise: Exercise, function: Callable, i: int) -> Outcome:
    """What the function gives in a case; a list of one number counts as the number, where a number is asked for."""
    outcome = run(function, exercise.cases[i].inputs, exercise.gradient, exercise.unpack, exercise.text)
    of_one = outcome.value is not None and outcome.value.shape == (1,) and function is not exercise.reference
    if of_one and _own_outcome(exercise, exercise.reference, i).value.dim() == 0:
        return replace(outcome, value=outcome.value.squeeze(), remarks=(*outcome.remarks, "shape_of_one"))
    return outcome


@cache
def _own_outcome(exercise: Exercise, function: Callable, i: int) -> Outcome:
    """The same for the exercise's own functions: found once, as it never changes, whatever the session's seed."""
    for seed in (random.seed, numpy.random.seed, torch.default_generator.manual_seed):  # seed_everything takes longer
        seed(0)
    return _outcome(exercise, function, i)


class _Comparison:
    """The learner's outcomes beside what other functions give in the same cases."""

    def __init__(self, exercise: Exercise, function: Callable):
        self.exercise, self.cases = exercise, exercise.cases
        self.expected = [_own_outcome(exercise, exercise.reference, i) for i in range(len(self.cases))]
        self.got = [_outcome(exercise, function, i) for i in range(len(self.cases))]
        self.failing = [i for i in range(len(self.cases)) if not self.agrees(i, self.expected[i])]

    def agrees(self, i: int, other: Outcome, gradients: bool = True, factor: float = 1.0) -> bool:
        got, case = self.got[i], self.cases[i]
        if got.value is None or other.value is None:
            return bool(got.error) and got.error == other.error  # shapes that do not fit stop with the same words
        if got.value.shape != other.value.shape:
            return False
        if not _close(_real(case, got.value), factor * _real(case, other.value), self.exercise.rtol):
            return False
        if not gradients or not self.exercise.gradient:
            return True
        if got.gradients is None or other.gradients is None:
            return got.gradients is other.gradients
        pairs = zip(got.gradients, other.gradients, strict=True)
        return all(_close(a, factor * b, self.exercise.rtol) for a, b in pairs)

    def fits(self, own: Callable, gradients: bool = True, factor: float = 1.0) -> int:
        """In how many cases the learner's results equal this own function's; 0 if not in all the failing ones.

        Where a result is a text, or a single number without gradient, many mistakes look alike in a few cases: all
        must agree.
        """

        def agrees(i: int) -> bool:
            return self.agrees(i, _own_outcome(self.exercise, own, i), gradients, factor)

        every = range(len(self.cases))
        numbers = not self.exercise.gradient and all(e.value.dim() == 0 for e in self.expected)
        coarse = numbers or self.exercise.text
        wanted = every if coarse else self.failing
        # Most differ in the first of these: what they give in the others is never computed.
        return sum(map(agrees, every)) if all(map(agrees, wanted)) else 0

    def known_mistake(self, gradients: bool, sign: float = 1.0) -> str | None:
        fits = {
            name: max(self.fits(mistake, gradients, sign * factor) for factor in self.exercise.factors)
            for name, mistake in self.exercise.mistakes.items()
        }
        best = max(fits, key=fits.get)  # the first listed of equally good ones
        return best if fits[best] else None

    def wrong_shape(self) -> tuple[str, dict]:
        """Are the numbers right, and only their shape wrong? Judged by the failing case with the most numbers."""
        outcomes = [(self.got[i].value, self.expected[i].value) for i in self.failing]
        mismatches = [(got, expected) for got, expected in outcomes if got is not None and got.shape != expected.shape]
        got, expected = max(mismatches, key=lambda pair: pair[1].numel())
        same = _close(got.flatten(), expected.flatten(), self.exercise.rtol)
        shapes = {"got": list(got.shape), "expected": list(expected.shape)}
        return "right_numbers_wrong_shape" if same else "wrong_shape", shapes

    def factors(self) -> list[float] | None:
        """By what number the right result must be multiplied in each case, if there is one; else None."""
        found = []
        for i, (got, expected) in enumerate(zip(self.got, self.expected, strict=True)):
            if got.value is None or got.value.shape != expected.value.shape:
                return None
            a, b = _real(self.cases[i], got.value).flatten(), _real(self.cases[i], expected.value).flatten()
            if not float(b @ b) > 0:  # a right result of zero says nothing of a factor
                if not self.agrees(i, expected, gradients=False):
                    return None
                continue
            factor = float(a @ b / (b @ b))
            scalar = expected.value.dim() == 0  # any two scalars differ by a factor: their gradients decide
            if not self.agrees(i, expected, gradients=scalar, factor=factor):
                return None
            found.append(factor)
        return found


def _describe(compared: _Comparison) -> tuple[str, dict]:
    """The diagnosis of a function that is wrong, and what its message needs to be filled in."""
    smallest = compared.failing[0]
    got, expected = compared.got[smallest], compared.expected[smallest]
    known = compared.known_mistake(gradients=True)
    if known:
        return known, {}
    if got.problem:
        number = expected.value.dim() == 0 and not compared.exercise.gradient
        wanted = "a text" if compared.exercise.text else "a number" if number else "a tensor"
        return got.problem, {"detail": got.detail, "wanted": wanted}
    if compared.exercise.text:
        if not got.shown:
            return "wrong_type", {"detail": "tensor" if got.value.dim() else "number", "wanted": "a text"}
        return compared.cases[smallest].mistake or "wrong_value", {}
    if got.value.shape != expected.value.shape:
        return compared.wrong_shape()
    if not bool(torch.isfinite(_real(compared.cases[smallest], got.value)).all()):
        return "not_finite", {"label": compared.cases[smallest].label}
    right = [compared.exercise.reference, *compared.exercise.also_right.values()]
    if any(compared.fits(function, gradients=False) == len(compared.cases) for function in right):
        return ("detached" if got.gradients is None else "wrong_gradient"), {}
    known = compared.known_mistake(gradients=False)
    if known:
        return known, {}
    factors = compared.factors()
    one_factor = bool(factors) and max(factors) - min(factors) < 1e-3
    if factors and all(abs(f) < 1e-6 for f in factors):
        return "always_zero", {}
    if one_factor and abs(factors[0] - 1) > 1e-3:
        return "sign_flipped" if abs(factors[0] + 1) < 1e-3 else "constant_factor", {"factor": f"{factors[0]:.4g}"}
    flipped = compared.known_mistake(gradients=False, sign=-1.0)
    if flipped:
        return "sign_flipped_and_more", {"more": compared.exercise.texts[flipped]}
    if factors and all(factors) and not one_factor:
        return "changing_factor", {"factors": ", ".join(f"{f:.4g}" for f in factors)}
    return compared.cases[smallest].mistake or "wrong_value", {}


def _where(compared: _Comparison) -> str:
    """Which cases are right, and the first that is not."""
    first = compared.cases[compared.failing[0]]
    right = [case.label for i, case in enumerate(compared.cases) if i not in compared.failing]
    listed = f"with {', '.join(right)}" if len(right) < 4 else f"in {len(right)} of {len(compared.cases)} examples"
    so_far = f"It is right {listed}. " if right else ""
    return f" {so_far}It goes wrong with {first.label}. {first.hint}".rstrip()


def _numbers(value) -> str:
    """A tensor as nested lists, floats to 4 digits."""
    if isinstance(value, torch.Tensor):
        value = value.detach().tolist()
    if isinstance(value, list):
        return f"[{', '.join(map(_numbers, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _counter_example(compared: _Comparison) -> str:
    """The smallest case that fails, as cases stand simplest first: inputs, expected, got."""
    smallest = compared.failing[0]
    case, got, expected = compared.cases[smallest], compared.got[smallest], compared.expected[smallest]
    rows = {name: _numbers(value) for name, value in case.inputs.items()}
    rows["expected"] = expected.shown or _numbers(expected.value)
    rows["got"] = got.shown or _numbers(got.value)
    if rows["expected"] == rows["got"] and compared.exercise.gradient:
        which = " and ".join(compared.exercise.gradient)
        for label, found in ((f"expected gradient to {which}", expected), ("got gradient", got)):
            rows[label] = "none" if found.gradients is None else ", ".join(map(_numbers, found.gradients))
    width = max(map(len, rows))
    return f"Smallest example ({case.label}):\n" + "\n".join(f"  {k:<{width}} = {v}" for k, v in rows.items())


def _fails_with_bool_mask(compared: _Comparison, function: Callable) -> bool:
    for case, got in zip(compared.cases, compared.got, strict=True):
        if "mask" in case.inputs:
            inputs = case.inputs | {"mask": case.inputs["mask"].bool()}
            outcome, rtol = run(function, inputs, (), compared.exercise.unpack), compared.exercise.rtol
            if outcome.value is None or not _close(
                _real(case, outcome.value).flatten(), _real(case, got.value).flatten(), rtol
            ):
                return True
    return False


def _remarks(compared: _Comparison, function: Callable) -> list[str]:
    """Ids of what can be said about a right function."""
    exercise = compared.exercise
    found = sorted({remark for outcome in compared.got for remark in outcome.remarks})
    found += ["bool_mask"] if _fails_with_bool_mask(compared, function) else []
    return found + [name for name, applies in exercise.probes.items() if applies(function)]


@own_state()
def examine(exercise: Exercise, function: Callable) -> Verdict:
    """The verdict on a learner's function. Only KeyboardInterrupt comes through."""
    texts = exercise.texts
    if not callable(function):
        return Verdict(exercise.name, False, True, "not_a_function", texts["not_a_function"])
    if is_stub(function):
        return Verdict(exercise.name, False, False, None, texts["not_attempted"])
    compared = _Comparison(exercise, function)
    edited = sorted({name for outcome in compared.got for name in outcome.edited})
    remarks = []
    if compared.failing:
        others = exercise.also_right.items()
        remarks = [name for name, right in others if compared.fits(right) == len(compared.cases)][:1]
        if not remarks:
            diagnosis, filling = _describe(compared)
            sentence = texts[diagnosis].format(**filling) if filling else texts[diagnosis]
            if edited:
                sentence += " " + texts["also_edits_inputs"].format(names=" and ".join(edited))
            some_right = len(compared.failing) < len(compared.cases)
            unexplained = texts[diagnosis] == texts["wrong_value"]
            if unexplained or (some_right and diagnosis in TEXTS["general"]):
                sentence += _where(compared)
            message = f"{sentence}\n{_counter_example(compared)}"
            return Verdict(exercise.name, False, True, diagnosis, message)
    if edited:
        return Verdict(
            exercise.name, False, True, "edits_inputs", texts["edits_inputs"].format(names=" and ".join(edited))
        )
    for demand, unmet in exercise.demands.items():
        if found := unmet(function):
            return Verdict(exercise.name, False, True, demand, f"{texts[demand]}\n{found}")
    remarks += _remarks(compared, function)
    book = from_book(function)
    remarks += ["from_book"] if book else []
    message = " ".join([texts["passed"], *(texts[remark] for remark in remarks)])
    return Verdict(exercise.name, True, True, None, message, from_book=book)
