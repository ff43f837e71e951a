"""Marks figures too wide for a phone; there ``book.css`` keeps their letters readable and lets them slide."""

from pathlib import Path

from docutils import nodes
from sphinx.util.images import get_image_size

WIDE = 640  # pixels: on 360 of them letters of 15 pixels shrink to 8


def mark(app, doctree, docname):
    for image in doctree.findall(nodes.image):
        size = get_image_size(Path(app.srcdir) / image["uri"])
        if size and size[0] > WIDE:
            image["classes"].append("wide")


def setup(app):
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
