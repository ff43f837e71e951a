"""What a reader does with the book: unfold, search, print, and follow a wrong address."""

import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import claims
import pytest

from browser.book_pages import CHAPTERS, HTML, PAGES, go, until

FOLDED = [page for page in CHAPTERS if page.startswith("notebooks/") and "start_here" not in page]


def test_no_page_is_left_out(browser):
    built = {path.relative_to(HTML).with_suffix("").as_posix() for path in HTML.rglob("*.html")}
    assert {page for page in built if not page.startswith("_static/")} == {*PAGES, "index"}


@pytest.mark.parametrize("page", FOLDED)
def test_hints_and_solutions_unfold(browser, page):
    go(browser, page, unfold=False)
    sizes = browser.execute_script("""
      return [...document.querySelectorAll("main details")].filter(e => !e.parentElement.closest("details")).map(e => {
        const folded = e.open ? 0 : e.offsetHeight;
        e.querySelector("summary").click();
        return [e.querySelector("summary").textContent, folded, e.open ? e.offsetHeight : 0];
      });""")
    assert sizes
    assert [name for name, folded, unfolded in sizes if not 0 < folded < unfolded] == []


def test_the_search_finds_the_chapter_on_group_advantages(browser):
    go(browser, "book/intro")
    browser.get((HTML / "search.html").as_uri() + "?q=group+advantage")
    links = "return [...document.querySelectorAll('#search-results li a')].map(e => e.href)"
    found = until(browser, f"{links.replace('return', 'const found =')}; return found.length > 3 && found")
    (chapter,) = {link.split("?")[0].split("#")[0] for link in found if "05_grpo" in link}
    browser.execute_script(
        "[...document.querySelectorAll('#search-results li a')].find(e => e.href.includes('05_grpo')).click()"
    )
    until(browser, f"return location.href.startsWith('{chapter}') && document.readyState === 'complete'")
    assert "group" in browser.find_element("css selector", "main article").text.lower()


def test_the_claims_are_filtered_by_verdict_chapter_and_text(browser):
    go(browser, "book/claims")
    ledger = claims.load()
    shown = "return [...document.querySelectorAll('table.claims tbody tr')].filter(e => !e.hidden).map(e => e.id)"
    set_to = """const control = document.querySelector(`.claims-filter [name=${arguments[0]}]`);
      control.value = arguments[1]; control.dispatchEvent(new Event("input", {bubbles: true}));"""

    def filtered(name: str, value: str) -> set[str]:
        browser.execute_script(set_to, name, value)
        left = {name.upper() for name in browser.execute_script(shown)}
        said = browser.find_element("css selector", ".claims-filter output").text
        assert said == f"{len(left)} of {len(ledger)} claims"
        browser.execute_script(set_to, name, "")
        return left

    assert filtered("verdict", "") == set(ledger)
    for verdict in {entry["verdict"] for entry in ledger.values()}:
        assert filtered("verdict", verdict) == {n for n, entry in ledger.items() if entry["verdict"] == verdict}
    pages = {name: [link.get("page", "") for link in entry.get("evidence", [])] for name, entry in ledger.items()}
    assert filtered("chapter", "07") == {n for n in ledger if any("notebooks/07" in page for page in pages[n])} != set()
    assert {name for name in ledger if "critic" in ledger[name]["claim"]} <= filtered("text", "CRITIC") < set(ledger)
    assert filtered("text", "no such words at all") == set()
    browser.execute_script(set_to, "text", "no such words at all")
    browser.execute_script("location.hash = '#c5'")  # a link to a claim that is filtered away brings all back
    until(browser, f"{shown.removesuffix('.map(e => e.id)')}.length === {len(ledger)}")


@pytest.mark.parametrize("page", ["book/algorithms", "notebooks/04_ppo", "notebooks/07_where_the_memory_goes"])
def test_on_paper_a_page_is_its_text_alone(browser, page):
    go(browser, page)
    bars = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer"
    count = "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length).length"
    paper = {"width": 718, "height": 1046, "deviceScaleFactor": 1, "mobile": False}  # A4 within margins of 1 cm
    assert browser.execute_script(count, bars) > 0
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert browser.execute_script(count, bars) == 0
        assert browser.execute_script(count, "main article p") > 10
        assert browser.execute_script("return tooWide()") == []
        cut = "return [...document.querySelectorAll('main pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert browser.execute_script(cut) == 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class Host(SimpleHTTPRequestHandler):
    """Serves the book below /course/, as a host of static pages would: 404.html for what is not there."""

    def translate_path(self, path: str) -> str:
        asked = HTML / path.partition("?")[0].removeprefix("/course/")
        return str(asked if asked.is_file() else HTML / "404.html")

    def log_message(self, *_):
        pass


@pytest.fixture
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/course"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("address", ["no_such_page.html", "notebooks/no_such_page.html"])
def test_a_wrong_address_leads_back_into_the_book(browser, host, address):
    browser.get(f"{host}/{address}")
    assert browser.execute_script("return [...document.styleSheets].filter(sheet => sheet.href).length") > 5
    links = "return [...document.querySelectorAll('main article a[href$=\".html\"]')].map(e => e.href)"
    assert browser.execute_script(links) == [f"{host}/book/intro.html", f"{host}/book/glossary.html"]
    browser.find_element("css selector", "main article input[type=search]").send_keys("clip\n")
    until(browser, f"return location.href === '{host}/search.html?q=clip'")
