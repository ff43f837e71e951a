"""The four algorithms must read as short diffs: SFT, policy gradient, PPO, GRPO."""

import difflib
import inspect

import pytest

from grpo_teach.algorithms import grpo, policy_gradient, ppo, sft


def body(module) -> list[str]:
    """The statements of a module's ``update``, without docstring and comment lines."""
    lines = inspect.getsource(module.update).splitlines()[2:]
    return [line.strip() for line in lines if not line.strip().startswith("#")]


def changed(before, after) -> list[str]:
    lines = difflib.ndiff(body(before), body(after))
    return [line for line in lines if line[:1] in "+-" and not line.endswith("# critic")]


PAIRS = [(sft, policy_gradient), (policy_gradient, ppo), (ppo, grpo), (policy_gradient, grpo)]
STEPS = ["1 advantages", "2 logprobs", "3 token loss", "4 aggregate", "5 metrics"]


@pytest.mark.parametrize("before, after", PAIRS)
def test_neighbours_differ_by_at_most_12_lines(before, after):
    lines = changed(before, after)
    assert 0 < len(lines) <= 12, "\n".join(lines)


def test_only_ppo_carries_critic_lines():
    for module in (sft, policy_gradient, grpo):
        assert not any(line.endswith("# critic") for line in body(module))


@pytest.mark.parametrize("module", [sft, policy_gradient, ppo, grpo])
def test_the_five_labelled_steps_stand_in_order(module):
    source = inspect.getsource(module.update)
    places = [source.index(f"# {step}") for step in STEPS]
    assert places == sorted(places)
    assert len(body(module)) <= 25, "an update fits on one screen"
