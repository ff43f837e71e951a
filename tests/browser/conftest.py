"""One browser for all tests of the built book, each page opened once; without browser or book they are skipped."""

import shutil

import pytest

from browser.book_pages import HTML, Opened, open_page, quiet_browser


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, without a window; it reads the book from the disk, as a reader without a network would."""
    pytest.importorskip("selenium", reason="the browser tests are skipped: selenium is not installed (make setup)")
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"the browser tests are skipped: no {program} here (apt install chromium chromium-driver)")
    if not (HTML / "index.html").exists():
        pytest.skip("the browser tests are skipped: the book is not built (make book)")
    driver = quiet_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def opened(browser):
    """``opened(page)``: what the browser saw when it opened the page; opened once, however many tests ask."""
    seen: dict[str, Opened] = {}

    def open_once(page: str) -> Opened:
        if page not in seen:
            seen[page] = open_page(browser, page)
        return seen[page]

    return open_once
