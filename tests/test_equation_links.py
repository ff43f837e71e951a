"""Equations and code lead to each other in the built book: anchors, mentions, and where a function's source stands."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")

import equations

from grpo_teach import losses
from grpo_teach.rollout import Rollouts


def test_an_equation_stands_in_the_chapter_whose_number_it_has():
    for number, page in equations.chapters().items():
        assert re.match(rf"notebooks/{int(number.split('.')[0]):02}[a-z]?_", page)


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("by Eq. (4.5) and so on", [("Eq. (4.5)", "4.5")]),
        ("Eqs. (9.1) to (9.4)", [("Eqs. (9.1)", "9.1"), ("(9.4)", "9.4")]),
        ("equation (12.1), and (3.2)", [("equation (12.1)", "12.1"), ("(3.2)", "3.2")]),
        ("a rate (0.5) and Eq. 3 of the paper", []),
    ],
)
def test_a_mention_is_cut_out_of_its_sentence_and_nothing_is_lost(text, linked):
    parts = equations.pieces(text)
    assert "".join(part for part, _ in parts) == text
    assert [(part, number) for part, number in parts if number] == linked


def test_a_name_leads_to_the_line_where_the_function_begins():
    path, name = equations.source_of("losses.clipped_policy_loss")
    assert path == Path(inspect.getsourcefile(losses)).resolve() or path.name == "losses.py"
    assert equations.definitions(path)[name] == inspect.getsourcelines(losses.clipped_policy_loss)[1]
    assert equations.page_of(path) == "source/losses"
    path, name = equations.source_of("rollout.Rollouts")  # its decorator is the first line
    assert equations.definitions(path)[name] == inspect.getsourcelines(Rollouts)[1]


def test_names_that_lead_nowhere_are_no_links():
    assert equations.source_of("losses.no_such_loss") is None
    assert equations.source_of("no_such_module.f") is None
    assert equations.source_of("update") is None


def test_every_function_named_under_an_equation_has_its_source():
    from test_equations import said_in_the_text

    assert [name for name, _ in said_in_the_text() if equations.source_of(name) is None] == []


def test_mentions_in_shown_docstrings_are_found():
    (found,) = equations.SHOWN.finditer("Source: PPO Eq. (7); book Eq. (4.3).")
    assert found.group(2) == "4.3" and found.group(1) == "Eq. (4.3)"


def test_a_build_that_writes_few_pages_still_renews_every_source_and_all_pages_once_an_equation_moves(monkeypatch):
    env, here = SimpleNamespace(found_docs={"b", "a"}), Path(__file__)
    equations.begin(None, env, [])
    assert equations.moved(None, env) == ["a", "b"]  # nothing was known before
    env.source_pages |= {here, here.with_name("gone.py")}
    equations.begin(None, env, [])
    assert env.source_pages == {here} and equations.moved(None, env) == []
    monkeypatch.setattr(equations, "chapters", lambda: {"4.5": "notebooks/05_grpo"})
    equations.begin(None, env, [])
    assert equations.moved(None, env) == ["a", "b"]
