"""Every page of the built book opens whole, asks no other host, fits a phone, and can be read by everybody."""

import pytest

from browser.book_pages import MATHJAX, PAGES, ROOT

pytestmark = pytest.mark.parametrize("page", PAGES)


def test_it_opens_without_an_error(opened, page):
    assert opened(page).errors == []


def test_it_asks_no_other_host(opened, page):
    assert opened(page).outside == []


def test_nothing_is_wider_than_a_phone(opened, page):
    assert opened(page).too_wide == []


def test_the_letters_in_its_figures_can_be_read_on_a_phone(opened, page):
    assert opened(page).too_small == []


def test_everybody_can_read_it(opened, page):
    assert opened(page).faults == []


def test_it_weighs_at_most_3_mb(opened, page):
    """MathJax is one file of 2.3 MB for all pages, which the browser keeps; it is counted apart."""
    assert opened(page).weight() <= 3e6
    assert opened(page).weight(mathjax=True) in (0, (ROOT / "book" / "_static" / "mathjax" / MATHJAX).stat().st_size)
