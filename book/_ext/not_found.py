"""Writes ``404.html``, which most hosts show for an address without a page, from ``book/404.html``."""

from pathlib import Path


def pages(app):
    body = (Path(__file__).parents[1] / "404.html").read_text(encoding="utf-8")
    return [("404", {"title": "Page not found", "body": body}, "page.html")]


# A host shows the page under the address that was asked for; its links must start from the book's root all the same.
ROOT = r"""<script>
if (!location.pathname.endsWith("/404.html"))
  document.write(`<base href="${location.pathname.replace(/((notebooks|book)\/)?[^\/]*$/, "")}">`);
</script>"""


def find_root(app, pagename, templatename, context, doctree):
    if pagename == "404":
        context["metatags"] = ROOT + context.get("metatags", "")


def setup(app):
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", find_root)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
