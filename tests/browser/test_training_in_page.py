"""GRPO trained by the first page itself, from the first press of the button to the last step."""

import re

from browser.book_pages import errors, go, outside, requests, until

LINE = "return [...document.querySelectorAll('.grpo-page-policy svg polyline')].map(e => e.getAttribute('points'))"


def test_the_first_page_trains_pauses_goes_on_and_ends_better_than_it_began(browser):
    go(browser, "book/intro")
    requests(browser), errors(browser)
    state = browser.find_element("css selector", ".grpo-page-policy .state")

    def press(name: str) -> None:
        browser.execute_script("arguments[0].click()", browser.find_element("css selector", f".training [name={name}]"))

    def step() -> int:
        return int(re.match(r"Step (\d+) of 40", state.text).group(1)) if state.text.startswith("Step") else 0

    def sides() -> list[str]:
        return [side.text for side in browser.find_elements("css selector", ".grpo-page-policy .side h3")]

    before = sides()
    press("train")
    until(browser, lambda _: step() >= 2)
    begun = share(state.text)
    curve = browser.execute_script(LINE)
    press("pause")
    browser.execute_async_script("setTimeout(arguments[0], 4000)")  # the step under way ends
    held = state.text
    browser.execute_async_script("setTimeout(arguments[0], 4000)")
    assert state.text == held and 2 <= step() < 40
    press("pause")
    until(browser, lambda _: step() == 40, seconds=300)
    assert share(state.text) > begun + 30  # per cent: 28 before training, above 90 after it in every run so far
    assert [len(points) for points in browser.execute_script(LINE)] > [len(points) for points in curve]
    assert browser.execute_script("return document.querySelectorAll('.grpo-page-policy .transcripts li').length") == 3
    assert set(sides()) - set(before) == {"Trained by you"}
    assert outside(browser) == []
    assert errors(browser) == []


def share(said: str) -> int:
    """Per cent of the batch's answers that were right."""
    return int(re.search(r": (\d+)% of the answers right", said).group(1))
