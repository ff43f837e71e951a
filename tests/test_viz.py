"""What the book shows is the live source."""

import inspect

import numpy
import pytest

from grpo_teach import aggregate, gae, kl_k3
from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.figures import show_diff, show_source, source, update_source
from grpo_teach.figures.comparisons import ends_figure, ways_figure
from grpo_teach.studies.results import interval


def documented(x):
    """One line."""
    text = """not a docstring"""
    return x, text


def undocumented(x):
    text = """not a docstring"""
    return x, text


def test_only_the_docstring_is_left_out():
    assert source(documented) == source(undocumented).replace("undocumented", "documented")


@pytest.mark.parametrize("function", [gae, aggregate, kl_k3, *(a.update for a in ALGORITHMS.values())])
def test_the_code_that_is_shown_is_the_code_that_runs(function):
    shown = source(function)
    assert '"""' not in shown
    whole = inspect.getsource(function)
    assert all(line in whole for line in shown.splitlines())
    namespace = dict(function.__globals__)
    exec(shown, namespace)
    again = namespace[function.__name__].__code__
    for part in ("co_names", "co_varnames", "co_argcount"):
        assert getattr(again, part) == getattr(function.__code__, part)


def test_a_notebook_shows_it_as_a_code_block():
    block = show_source(gae, kl_k3).data
    assert block.startswith("```python\ndef gae(") and block.endswith("\n```")
    assert block.count("\n\n\ndef kl_k3(") == 1
    assert show_diff("ppo", "grpo").data.startswith("```diff\n")
    assert all(line in show_diff("ppo", "grpo").data for line in update_source("grpo").splitlines())


def test_ends_have_a_row_for_each_variant_a_dot_for_each_seed_and_shares_stay_shares():
    found = {"low": [0.1, 0.2, 0.3], "high": [0.9, 0.97, 1.0]}
    share, nats = ends_figure({"share": found, "nats a token": found}, str.upper).axes
    assert [label.get_text() for label in share.get_yticklabels()] == ["LOW", "HIGH"]
    for axes, inside in ((share, True), (nats, False)):
        dots, reach, centre = axes.lines[3:]  # of the second variant
        assert list(dots.get_xdata()) == found["high"] and len(set(dots.get_ydata())) == 1
        assert centre.get_xdata()[0] == pytest.approx(numpy.mean(found["high"]))
        low, high = interval(found["high"])
        assert list(reach.get_xdata()) == pytest.approx([low, 1.0 if inside else high]) and high > 1


def test_recorded_ways_are_drawn_as_means_with_their_intervals():
    runs = [{"curve": {"tokens": [0, 1000, 2000], "accuracy": [0.0, high, high]}} for high in (0.4, 0.8)]
    (axes,) = ways_figure({"right": ("accuracy", {"grpo": runs})}).axes
    (line,), (band,) = axes.lines, axes.collections
    assert axes.get_title() == "right" and line.get_label() == "grpo"
    assert line.get_xdata()[-1] == 2 and line.get_ydata()[-1] == pytest.approx(0.6)
    low, high = interval([0.4, 0.8])
    reach = band.get_paths()[0].vertices[:, 1]
    assert reach.min() == pytest.approx(low) and reach.max() == pytest.approx(high)
