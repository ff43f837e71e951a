"""Opens pages of the built book in a browser and notes what a test may ask about them."""

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "book" / "_build" / "html"
CHAPTERS = re.findall(r"(?:file|root): (\S+)", (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
SOURCES = sorted(path.relative_to(HTML).with_suffix("").as_posix() for path in HTML.glob("source/**/*.html"))
PAGES = [*CHAPTERS, *SOURCES, "search", "genindex", "404"]
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}  # CSS pixels
MATHJAX = "tex-svg-full.js"

PROBE = Path(__file__).with_name("probe.js").read_text(encoding="utf-8")

# Faults that neither this book nor its style sheet can mend, by axe's rule, with the reason; none today.
EXCUSED: dict[str, str] = {}


@dataclass
class Opened:
    """A page as the browser found it: lists of faults, of addresses, and its weight in bytes."""

    errors: list[str]  # severe messages in the console
    requests: list[str]  # everything that it asked for, itself first
    too_wide: list[str]  # at 390 px
    too_small: list[str]  # figures, there
    faults: list[str]  # of accessibility

    @property
    def outside(self) -> list[str]:
        return [address for address in self.requests if not address.startswith((HTML.as_uri(), "data:", "blob:"))]

    def weight(self, mathjax: bool = False) -> int:
        """Bytes of the files it asked for, without MathJax or MathJax alone."""
        inside = {address.split("#")[0].split("?")[0] for address in self.requests if address.startswith(HTML.as_uri())}
        files = [HTML / address.removeprefix(HTML.as_uri() + "/") for address in inside]
        return sum(path.stat().st_size for path in files if (path.name == MATHJAX) == mathjax)


def quiet_browser():
    """A new Chromium of 1,300 x 1,000 pixels that keeps its console and its requests for us."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ["headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "window-size=1300,1000"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_script_timeout(60)
    return driver


def requests(browser) -> list[str]:
    """The addresses asked for since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def outside(browser) -> list[str]:
    """The addresses asked for since the last call that are not the page's own texts."""
    return [address for address in requests(browser) if not address.startswith(("data:", "blob:"))]


def errors(browser) -> list[str]:
    """The console's severe messages since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def go(browser, page: str, unfold: bool = True) -> None:
    """Open a page, wait for its formulas, and unfold what is folded; nothing moves slowly from then on."""
    browser.get((HTML / f"{page}.html").as_uri())
    browser.execute_async_script("(window.MathJax?.startup?.promise ?? Promise.resolve()).then(arguments[0])")
    browser.execute_script(PROBE + "settle(arguments[0])", unfold)


def until(browser, look, seconds: float = 60):
    """What ``look``, a script or a function of the browser, returns once that is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    ask = look if callable(look) else lambda driver: driver.execute_script(look)
    return WebDriverWait(browser, seconds).until(ask)


def faults(browser) -> list[str]:
    """Serious and critical faults of accessibility, those of colour in both themes. The page is of no use after."""
    axe = Path(find_spec("axe_core_python").origin).with_name("axe.min.js").read_text(encoding="utf-8")
    browser.execute_script(axe)
    ask = "const [excused, done] = arguments; faults(excused).then(done, fault => done([String(fault)]))"
    return browser.execute_async_script(ask, list(EXCUSED))


def open_page(browser, page: str) -> Opened:
    """All there is to see of a page in one go."""
    requests(browser), errors(browser)  # of the page before
    go(browser, page)
    asked, wrong = requests(browser), errors(browser)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    too_wide, too_small = (browser.execute_script(f"return {probe}().slice(0, 5)") for probe in ("tooWide", "tooSmall"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return Opened(wrong, asked, too_wide, too_small, faults(browser))
