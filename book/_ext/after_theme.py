"""Mends the built pages: takes out what the theme loads and this book does not use, 1.7 of 2.7 MB, and a wrong role."""

import re
from pathlib import Path

UNUSED = [
    r"<script[^>]*scripts/fontawesome\.js[^>]*></script>",  # the style sheet draws the same icons
    r"<script[^>]*sphinx-thebe\.js[^>]*></script>",  # runs cells on a server; the launch button is Colab's
    r"<script>const THEBE_JS_URL.*?</script>",
]
SEARCH = [
    r"""<script[^>]*["/](?:searchtools|language_data|searchindex)\.js"></script>"""
]  # of use on the search page alone


def mend(page: str, searches: bool = False) -> str:
    """The page's HTML without the scripts that it does not use; a page that ``searches`` keeps those of the search."""
    for pattern in UNUSED + SEARCH * (not searches):
        page = re.sub(rf"[ \t]*{pattern}\n?", "", page, flags=re.S)
    return page.replace(
        '<div role="list" class="citation-list">', '<div class="citation-list">'
    )  # its entries are none


def mend_all(app, exception):
    if exception is None and app.builder.name == "html":
        for path in Path(app.outdir).rglob("*.html"):
            whole = path.read_text(encoding="utf-8")
            if "<body" in whole and (mended := mend(whole, path.name == "search.html")) != whole:
                path.write_text(mended, encoding="utf-8")


def setup(app):
    app.connect("build-finished", mend_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
