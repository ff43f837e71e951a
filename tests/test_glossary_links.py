"""A chapter's first mention of a glossary term leads to the glossary; nothing else is touched."""

import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

EXTENSIONS = Path(__file__).resolve().parent.parent / "book" / "_ext"
GLOSSARY = """
Glossary
========

.. glossary::

   clip
      To force a number into an interval.

   importance ratio
      How much more likely.

   ratio
      A quotient.

   PPO
      An algorithm.

   value
      A word of every day.
"""
CHAPTER = """
The clip of PPO
===============

In code it is ``clip`` and in a formula :math:`clip`; a `clip <https://example.org>`_ elsewhere.

.. raw:: html

   <details>

A hint may clip.

.. raw:: html

   </details>

Clips of the importance ratio keep PPO calm; a clip, a ratio, a ppo and an eclipse have a value.
Another importance ratio, PPO and clip-higher.
"""


def build(source: Path) -> list[str]:
    """The chapter and a page that is none, as HTML."""
    with docutils_namespace():
        Sphinx(source, source, source / "out", source / "trees", "html", status=None, warningiserror=True).build()
    return [(source / "out" / name).read_text(encoding="utf-8") for name in ("notebooks/one.html", "index.html")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = tmp_path_factory.mktemp("book")
    (source / "notebooks").mkdir()
    (source / "index.rst").write_text(
        "Index\n=====\n\n.. toctree::\n\n   glossary\n   notebooks/one\n\nNo clip here.\n"
    )
    (source / "glossary.rst").write_text(GLOSSARY)
    (source / "notebooks" / "one.rst").write_text(CHAPTER)
    (source / "conf.py").write_text(
        f"import sys\nsys.path.append({str(EXTENSIONS)!r})\nextensions = ['glossary_links']\n"
    )
    return source


@pytest.fixture(scope="module")
def pages(source):
    return build(source)


LINK = r'<a class="glossary-link[^"]*" href="([^"]*)">([^<]*)</a>'


def test_each_term_is_linked_where_it_is_first_met_in_prose(pages):
    expected = [("clip", "Clips"), ("importance-ratio", "importance ratio"), ("PPO", "PPO"), ("ratio", "ratio")]
    assert re.findall(LINK, pages[0]) == [(f"../glossary.html#term-{anchor}", words) for anchor, words in expected]


def test_the_text_stays_as_it_was(pages):
    plain = re.sub(LINK, r"\2", pages[0])
    assert "Clips of the importance ratio keep PPO calm; a clip, a ratio, a ppo and an eclipse have a value." in plain


def test_a_page_that_is_no_chapter_stays_as_it_was(pages):
    assert re.findall(LINK, pages[1]) == [] and "No clip here." in pages[1]


def test_a_term_that_is_gone_is_linked_no_more_in_a_chapter_that_has_not_changed(source, pages):
    assert "term-clip" in pages[0]
    (source / "glossary.rst").write_text(GLOSSARY.replace("   clip\n", "   cut\n"))
    assert re.findall(LINK, build(source)[0])[0] == ("../glossary.html#term-importance-ratio", "importance ratio")
