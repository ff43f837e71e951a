"""Calling a learner's function without letting it do harm: errors become outcomes, global state is put back."""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace

import numpy
import torch

from grpo_teach.records import random_states, restore_random_states

__all__ = ["Outcome", "from_book", "is_stub", "own_state", "run"]

STUB_OPERATIONS = {"RESUME", "NOP", "CACHE", "PUSH_NULL", "PRECALL", "CALL", "LOAD_GLOBAL", "RAISE_VARARGS"}
STUB_OPERATIONS |= {"LOAD_CONST", "LOAD_COMMON_CONSTANT", "POP_TOP", "RETURN_CONST", "RETURN_VALUE"}


@dataclass(frozen=True)
class Outcome:
    """What one call gave.

    Attributes:
        value: float64, detached, of a text its characters' numbers; None if there is a problem.
        gradients: of the result (a fixed weighted sum of it) for each asked argument; None: there is no path.
        problem: id of what made the result unusable, with ``detail`` for its message.
        error: what an error said, without the place it came from.
        shown: the result as text, where it is no tensor.
        edited: names of the arguments that were changed in place.
        remarks: ids of what is unusual though not wrong.
    """

    value: torch.Tensor | None = None
    gradients: tuple[torch.Tensor, ...] | None = None
    problem: str | None = None
    detail: str = ""
    error: str = ""
    shown: str = ""
    edited: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _State:
    """Global settings that a call may change; grad mode and autocast are contexts, which end by themselves."""

    random: dict
    dtype: torch.dtype
    device: torch.device
    threads: int

    @classmethod
    def now(cls) -> _State:
        return cls(random_states(), torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads())

    def restore(self) -> None:
        torch.set_default_dtype(self.dtype)
        for device in (None, self.device):  # None may be enough: it brings back a `with torch.device(...)` around us
            if torch.get_default_device() != self.device:
                torch.set_default_device(device)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        restore_random_states(self.random)


_known: ContextVar[_State | None] = ContextVar("known", default=None)  # the settings inside own_state


@contextmanager
def own_state() -> Iterator[None]:
    """Known global settings inside, those from before afterwards, whatever was called in between.

    Only the outermost notes the caller's: each call inside it starts from the known ones, and puts those back.
    """
    outer = _known.get()
    before = outer or _State.now()
    known = replace(before, dtype=torch.float32, device=torch.device("cpu"))
    token = _known.set(known)
    try:
        if not outer:
            known.restore()
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        before.restore()
        _known.reset(token)


def _what_happened(error: BaseException, function: Callable) -> tuple[str, str]:
    """The error's own words; the same with the line of the learner's code it came from."""
    words = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    file = getattr(getattr(getattr(function, "__wrapped__", function), "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file and frame.line]
    return words, f"{words} (in the line `{lines[-1].strip()}`)" if lines else words


def _as_tensor(result, unpack: bool, text: bool) -> Outcome:
    """The result as an outcome whose ``value`` still carries its gradient."""
    if text and isinstance(result, str):
        return Outcome(torch.tensor([*map(ord, result)], dtype=torch.float64, device="cpu"), shown=repr(result))
    if unpack and isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[0], torch.Tensor):
        result = result[0]
    if result is None:
        return Outcome(problem="returns_nothing", shown="None")
    if isinstance(result, bool | int | float):
        return Outcome(torch.tensor(float(result), dtype=torch.float64, device="cpu"))
    remarks = ()
    if isinstance(result, numpy.ndarray | numpy.generic) and result.dtype.kind in "biuf":
        result, remarks = torch.from_numpy(numpy.array(result)), ("numpy",)
    if not isinstance(result, torch.Tensor) or result.is_complex():
        name = "complex tensor" if isinstance(result, torch.Tensor) else type(result).__name__
        return Outcome(problem="wrong_type", detail=name, shown=f"a {name}")
    return Outcome(result.to_dense().to("cpu", torch.float64), remarks=remarks)


@own_state()
def run(
    function: Callable, inputs: dict[str, object], gradient: tuple[str, ...] = (), unpack: bool = False,
    text: bool = False,
) -> Outcome:  # fmt: skip
    """Call the function on copies of the inputs.

    Args:
        inputs: by name, handed over in order.
        gradient: arguments whose gradients are wanted.
        unpack: of a pair, take the first.
        text: a text is a result like any other.
    """
    leaves = {name: inputs[name].clone().requires_grad_() for name in gradient}
    # No leaf is handed over: an edit in place must reach the comparison below, and not raise.
    given = {k: leaves[k] * 1 if k in leaves else v.clone() if isinstance(v, torch.Tensor) else copy(v)
             for k, v in inputs.items()}  # fmt: skip
    try:
        outcome = _as_tensor(function(*given.values()), unpack, text)
        if outcome.value is not None:
            gradients = _gradients(outcome.value, leaves, inputs.get("mask"))
            outcome = replace(outcome, value=outcome.value.detach(), gradients=gradients)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a notebook's kernel should survive it
        wrong_call = isinstance(error, TypeError) and "positional argument" in str(error)
        problem = "wrong_signature" if wrong_call else "raises"
        words, where = _what_happened(error, function)
        return Outcome(problem=problem, detail=where, error=words, shown=type(error).__name__)
    return replace(outcome, edited=tuple(k for k, v in inputs.items() if not _same(v, given[k])))


def _same(before, after) -> bool:
    return torch.equal(before, after.detach()) if isinstance(before, torch.Tensor) else before == after


def _gradients(value: torch.Tensor, leaves: dict, mask) -> tuple[torch.Tensor, ...] | None:
    if not leaves or not value.requires_grad:
        return None
    weights = torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64).reshape(value.shape)
    with torch.enable_grad():  # the learner's function may have switched it off
        if isinstance(mask, torch.Tensor) and mask.shape == value.shape:
            value, weights = value[mask.bool()], weights[mask.bool()]
        found = torch.autograd.grad((value * weights).sum(), list(leaves.values()), allow_unused=True)
    pairs = zip(found, leaves.values(), strict=True)
    return tuple((torch.zeros_like(leaf) if grad is None else grad).double() for grad, leaf in pairs)


def is_stub(function: Callable) -> bool:
    """Is the body still empty: only ``...``, ``pass``, a docstring or ``raise NotImplementedError``?"""
    try:
        function = inspect.unwrap(function)
        if function.__name__ == "<lambda>":
            return False
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        return isinstance(definition, ast.FunctionDef) and all(map(_does_nothing, definition.body))
    except Exception:  # no source: a function made by exec
        code = getattr(function, "__code__", None)
        if code is None:
            return False
        operations = {instruction.opname for instruction in dis.get_instructions(code)}
        return operations <= STUB_OPERATIONS and set(code.co_names) <= {"NotImplementedError"} and all(
            const is None or const is ... or isinstance(const, str) for const in code.co_consts
        )  # fmt: skip


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return False


def from_book(function: Callable) -> bool:
    """Was the function defined in a cell that holds the book's solution?"""
    code = getattr(function, "__code__", None)
    return bool(code) and "".join(linecache.getlines(code.co_filename)[:1]).startswith("# @title Solution")
