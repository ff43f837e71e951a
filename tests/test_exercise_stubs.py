"""What counts as not attempted, and what does not."""

import functools

import pytest
import torch

from grpo_teach import exercises

pytestmark = pytest.mark.usefixtures("own_progress")


def only_dots(logprobs, rewards, mask): ...


def only_pass(logprobs, rewards, mask):
    pass


def only_docstring(logprobs, rewards, mask):
    """Minus the mean of reward times log-prob."""


def not_implemented(logprobs, rewards, mask):
    """Later."""
    raise NotImplementedError("your turn")


def not_implemented_bare(logprobs, rewards, mask):
    raise NotImplementedError


@torch.no_grad()
def decorated(logprobs, rewards, mask): ...


STUBS = [only_dots, only_pass, only_docstring, not_implemented, not_implemented_bare, decorated]
BODIES = ["...", "pass", "'doc'", "raise NotImplementedError", "raise NotImplementedError('x')", "'doc'\n    ..."]


@pytest.mark.parametrize("stub", STUBS, ids=lambda f: f.__name__)
def test_a_stub_is_not_attempted(stub, capsys):
    verdict = exercises.check("reinforce_loss", stub)
    assert (verdict.attempted, verdict.passed, verdict.diagnosis) == (False, False, None)
    assert "not attempted yet" in capsys.readouterr().out


@pytest.mark.parametrize("body", BODIES)
def test_a_stub_without_source_is_not_attempted(body):
    space = {}
    exec(f"def f(logprobs, rewards, mask):\n    {body}", space)
    assert not exercises.check("reinforce_loss", space["f"]).attempted


def returns_none(logprobs, rewards, mask):
    return None


def some_work(logprobs, rewards, mask):
    total = logprobs.sum()  # noqa: F841
    pass


def raises_other(logprobs, rewards, mask):
    raise ValueError


@pytest.mark.parametrize("function", [returns_none, some_work, raises_other, lambda *a: None, lambda *a: ...,
                                      functools.partial(some_work), torch.add])  # fmt: skip
def test_anything_else_is_attempted(function):
    assert exercises.check("reinforce_loss", function).attempted
