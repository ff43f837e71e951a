"""Tables of the book's own directives."""

from docutils import nodes


def row(*cells: list[nodes.Node], **attributes) -> nodes.row:
    """A row of one paragraph a cell, from the nodes in each."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells), **attributes)


def table(head: tuple[str, ...], rows, *classes: str) -> nodes.table:
    """A table with a head of plain texts over the given rows."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += [nodes.thead("", row(*([nodes.Text(text)] for text in head))), nodes.tbody("", *rows)]
    return nodes.table("", group, classes=list(classes))
