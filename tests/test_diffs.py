"""The four algorithms must read as short diffs: SFT, policy gradient, PPO, GRPO."""

import pytest

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.algorithms.later import LATER
from grpo_teach.figures import update_diff, update_source

PAIRS = [("sft", "policy_gradient"), ("policy_gradient", "ppo"), ("ppo", "grpo"), ("policy_gradient", "grpo")]
STEPS = ["1 advantages", "2 logprobs", "3 token loss", "4 aggregate", "5 metrics"]


def statements(source: str) -> list[str]:
    """The lines of a body that do something: no signature, no comment lines."""
    return [line for line in source.splitlines()[1:] if line[2:].strip() and not line[2:].strip().startswith("#")]


@pytest.mark.parametrize("before, after", PAIRS)
def test_neighbours_differ_by_at_most_12_lines(before, after):
    changed = [line for line in statements(update_diff(before, after)) if line[0] in "+-" and "def update" not in line]
    changed = [line for line in changed if not line.endswith("# critic")]
    assert 0 < len(changed) <= 12, "\n".join(changed)


@pytest.mark.parametrize("name", LATER)
def test_what_came_later_differs_from_grpo_by_at_most_8_lines(name):
    changed = [line for line in statements(update_diff("grpo", name)) if line[0] in "+-" and "def update" not in line]
    assert len(changed) <= 8, "\n".join(changed)
    assert bool(changed) == (name not in ("dr_grpo", "dapo"))  # those are GRPO with other settings


def test_only_ppo_carries_critic_lines():
    for name in ALGORITHMS.keys() - {"ppo"}:
        assert "# critic" not in update_source(name)


@pytest.mark.parametrize("name", ALGORITHMS | LATER)
def test_the_five_labelled_steps_stand_in_order_on_one_screen(name):
    source = update_source(name)
    places = [source.index(f"# {step}") for step in STEPS]
    assert places == sorted(places)
    assert len(statements(source)) <= 25
    assert '"""' not in source


def test_a_diff_gives_back_both_sides():
    lines = update_diff("ppo", "grpo").splitlines()
    assert [line[2:] for line in lines if line[0] in " -"] == update_source("ppo").splitlines()
    assert [line[2:] for line in lines if line[0] in " +"] == update_source("grpo").splitlines()
