r"""Links between equations and code, both ways, made when the book is built.

- A displayed equation with ``\tag{4.5}`` gets an anchor in its chapter; "Eq. (4.5)" links to it, in text and in
  docstrings that are shown. Elsewhere such an equation is followed by a link to where it is derived.
- "In the code: ``losses.value_loss``" links to a page of the book that shows that module's source.
"""

import ast
import functools
import json
import re
from html import escape
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "grpo_teach"
NUMBER = r"\((\d+\.\d+)\)"
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
MENTION = re.compile(rf"(?:\bEqs?\.|\b[Ee]quations?)\s{NUMBER}(?:(?:,| and|, and| to| or)\s{NUMBER})*")
SHOWN = re.compile(rf"(?<=[Bb]ook )(Eqs?\. {NUMBER})")


def chapters() -> dict[str, str]:
    """The page that derives each numbered equation: "4.5" is in ``notebooks/04_ppo``."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        found |= {number: f"notebooks/{path.stem}" for number in TAG.findall(text)}
    return found


def anchor(number: str) -> str:
    return f"equation-{number.replace('.', '-')}"


def source_of(name: str) -> tuple[Path, str] | None:
    """The file of ``losses.value_loss`` and the name inside it; None if there is no such file or name."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        path = PACKAGE.joinpath(*parts[:i]).with_suffix(".py")
        if path.is_file():
            inside = ".".join(parts[i:])
            return (path, inside) if inside in definitions(path) else None
    return None


@functools.cache  # many equations name functions of one file
def definitions(path: Path) -> dict[str, int]:
    """The first line of each function, class and method of a file, counted from 1."""

    def walk(node, before=""):
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                found[f"{before}{child.name}"] = first
                if isinstance(child, ast.ClassDef):
                    walk(child, f"{before}{child.name}.")

    found = {}
    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


def page_of(path: Path) -> str:
    return "source/" + "/".join(path.relative_to(PACKAGE).with_suffix("").parts)


def pieces(text: str) -> list[tuple[str, str | None]]:
    """A text cut into parts, each with the number it should link to or None."""
    found, end = [], 0
    for mention in MENTION.finditer(text):
        for i, number in enumerate(re.finditer(NUMBER, mention.group())):
            start = mention.start() + (0 if i == 0 else number.start())  # the first takes "Eq." along
            found += [(text[end:start], None), (text[start : mention.start() + number.end()], number.group(1))]
            end = mention.start() + number.end()
    return [part for part in [*found, (text[end:], None)] if part[0]]


def mark(app, doctree):
    """Anchors for the equations of a chapter."""
    for block in doctree.findall(nodes.math_block):
        for number in TAG.findall(block.astext()):
            if app.env.equation_pages.get(number) == app.env.docname:
                block["ids"].append(anchor(number))


def link(app, doctree, docname):
    """References in text, from equations on other pages, and from "In the code:"."""
    pages, relative = app.env.equation_pages, app.builder.get_relative_uri

    def to(number: str, text: str) -> nodes.reference:
        address = ("" if pages[number] == docname else relative(docname, pages[number])) + f"#{anchor(number)}"
        return nodes.reference("", text, refuri=address, internal=True)

    passive = (
        nodes.reference | nodes.literal | nodes.literal_block | nodes.math | nodes.math_block | nodes.title | nodes.raw
    )
    for text in list(doctree.findall(nodes.Text)):
        parents, node = [], text.parent
        while node is not None:
            parents, node = [*parents, node], node.parent
        parts = pieces(text.astext())
        if all(number is None for _, number in parts) or any(isinstance(parent, passive) for parent in parents):
            continue
        if all(number is None or number in pages for _, number in parts):
            text.parent.replace(text, [to(n, part) if n else nodes.Text(part) for part, n in parts])
    for block in list(doctree.findall(nodes.math_block)):
        for number in TAG.findall(block.astext()):
            if pages.get(number, docname) != docname:
                chapter = pages[number].removeprefix("notebooks/")[:2]
                derived = nodes.paragraph("", "", to(number, f"Derived in chapter {chapter}"), nodes.Text("."))
                block.parent.insert(block.parent.index(block) + 1, derived)
    for paragraph in doctree.findall(nodes.paragraph):
        if paragraph.astext().startswith("In the code: "):
            for name in list(paragraph.findall(nodes.literal)):
                if found := source_of(name.astext()):
                    address = relative(docname, page_of(found[0])) + f"#{found[1]}"
                    name.parent.replace(name, nodes.reference("", "", name.deepcopy(), refuri=address, internal=True))
                    app.env.source_pages.add(found[0])


def shown(app, pagename, templatename, context, doctree):
    """References in docstrings that a page shows: there the highlighted code is HTML already."""
    pages = app.env.equation_pages

    def to(mention) -> str:
        text, number = mention.group(1), mention.group(2)
        if number not in pages:
            return text
        address = f"{app.builder.get_relative_uri(pagename, pages[number])}#{anchor(number)}"
        return f'<a class="reference internal" href="{address}">{text}</a>'

    if "Eq" in context.get("body", ""):
        context["body"] = SHOWN.sub(to, context["body"])


def sources(app):
    """A page for each module that an equation names, with an anchor at each definition."""
    for path in sorted(app.env.source_pages):
        code = path.read_text(encoding="utf-8")
        lines = app.builder.highlighter.highlight_block(code, "python", linenos=False).split("\n")
        for name, line in definitions(path).items():
            start, opening = lines[line - 1], ""
            if line == 1:  # the first line stands behind the opening tags
                opening, _, start = start.rpartition("<pre>")
                opening += "<pre>"
            lines[line - 1] = f'{opening}<span id="{escape(name)}"></span>{start}'
        title = str(path.relative_to(PACKAGE.parent))
        code = '<div class="highlight-python notranslate">\n' + "\n".join(lines) + "</div>\n"  # as Sphinx wraps code
        head = title.replace("/", "/<wbr>")  # a phone breaks the line there
        body = f"<h1>{head}</h1>\n<p>The source, as it was when this book was built.</p>\n{code}"
        yield page_of(path), {"title": title, "body": body}, "page.html"


def begin(app, env, docnames):
    """What an earlier build has found: pages that are not written again still lead to those sources."""
    before, env.equation_pages = getattr(env, "equation_pages", None), chapters()
    env.equations_moved = env.equation_pages != before
    env.source_pages = {path for path in getattr(env, "source_pages", ()) if path.is_file()}


def moved(app, env) -> list[str]:
    """Every page is written again if an equation stands elsewhere than last time."""
    return sorted(env.found_docs) if env.equations_moved else []


def setup(app):
    app.connect("env-before-read-docs", begin)
    app.connect("env-updated", moved)
    app.connect("doctree-read", mark)
    app.connect("doctree-resolved", link)
    app.connect("html-page-context", shown)
    app.connect("html-collect-pages", sources)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
