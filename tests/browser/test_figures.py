"""Each control of each interactive figure, worked by the keyboard, changes the figure and asks no host for anything."""

import re

import pytest

from browser.book_pages import CHAPTERS, HTML, errors, go, outside, requests

# The outermost elements whose class starts with "grpo-".
FIGURES = "[...document.querySelectorAll('[class^=grpo-]')].filter(e => !e.parentElement.closest('[class^=grpo-]'))"
CONTROLS = "[...figure.querySelectorAll('input, select, button, summary, [role=slider]')]"
# A control with data-slow starts work of minutes; one that is folded or switched off is not there for the reader.
USABLE = "control && !control.disabled && !control.closest('[data-slow]') && control.checkVisibility()"
CHANGED = """
const [figure, before, done] = arguments, start = Date.now();
const look = () => {
  if (figure.innerHTML !== before || Date.now() - start > 1000) done(figure.innerHTML !== before);
  else setTimeout(look, 20);
};
look();
"""
KEYS = {
    "range": ["ARROW_RIGHT", "ARROW_LEFT", "HOME", "END"],
    "slider": ["ARROW_RIGHT", "ARROW_LEFT", "HOME", "END"],
    "number": ["ARROW_UP", "ARROW_DOWN"],
    "radio": ["ARROW_DOWN", "ARROW_UP", "SPACE"],
    "select-one": ["ARROW_DOWN", "ARROW_UP"],
    "checkbox": ["SPACE"],
    "text": ["1"],
}


def with_figures() -> list[str]:
    """The pages that hold an interactive figure; all of them are still to be built where the book is not."""
    pages = [page for page in CHAPTERS if (HTML / f"{page}.html").exists()]
    return [page for page in pages if re.search(r'class="grpo-', (HTML / f"{page}.html").read_text(encoding="utf-8"))]


def changes(browser, figure, number: int) -> bool:
    """Whether a key changes what the figure shows within a second, its control of this number being in use at all."""
    from selenium.webdriver.common.keys import Keys

    # Looked up by number each time: a figure may draw its controls anew.
    find = f"const figure = arguments[0], control = {CONTROLS}[arguments[1]]; return {USABLE} ? control : null"
    control = browser.execute_script(find, figure, number)
    kind = control and (control.get_attribute("type") or control.get_attribute("role"))
    for key in KEYS.get(kind, ["SPACE"]):
        if control := browser.execute_script(find, figure, number):
            before = browser.execute_script("arguments[1].focus(); return arguments[0].innerHTML", figure, control)
            control.send_keys(getattr(Keys, key, key))
            if browser.execute_async_script(CHANGED, figure, before):
                return True
    return control is None


@pytest.mark.parametrize("page", with_figures())
def test_every_control_changes_its_figure(browser, page):
    go(browser, page)
    requests(browser), errors(browser)
    figures = browser.execute_script(f"return {FIGURES}")
    assert figures
    for figure in figures:
        names = f"const figure = arguments[0]; return {CONTROLS}.map(e => e.outerHTML.slice(0, 120))"
        names = browser.execute_script(names, figure)
        assert names, f"{figure.get_attribute('class')} has no control"
        idle = [number for number in range(len(names)) if not changes(browser, figure, number)]
        idle = [number for number in idle if not changes(browser, figure, number)]  # "back" works after "on"
        assert [names[number] for number in idle] == [], figure.get_attribute("class")
    assert outside(browser) == []
    assert errors(browser) == []
