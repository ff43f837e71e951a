"""Links a chapter's first mention of each glossary term to the glossary, when the book is built."""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

# More often meant as everybody means them than as the glossary does, or explained by the one chapter that has them.
EVERYDAY = {"return", "score", "slip", "state", "tool", "value"}
NO_PROSE = (nodes.title, nodes.literal, nodes.reference, nodes.math, nodes.raw, nodes.caption, nodes.term)


def pattern(terms) -> re.Pattern:
    """Finds any of the terms as a whole word, longest first; one without capitals at a sentence's start too."""
    found = [f"(?i:{re.escape(term)})" if term.islower() else re.escape(term) for term in terms]
    return re.compile(rf"(?<![\w-])({'|'.join(sorted(found, key=len, reverse=True))})s?(?![\w-])")


def prose(doctree: nodes.document) -> list[nodes.Text]:
    """The texts of paragraphs, without headings, code, links, formulas and what stands folded in ``<details>``."""
    texts, folded = [], 0
    for node in doctree.findall(lambda node: isinstance(node, nodes.raw | nodes.Text)):
        if isinstance(node, nodes.raw):
            folded += node.astext().count("<details") - node.astext().count("</details>")
        elif not folded:
            above, inside = node.parent, []
            while above is not None:
                inside.append(above)
                above = above.parent
            if any(isinstance(n, nodes.paragraph) for n in inside) and not any(isinstance(n, NO_PROSE) for n in inside):
                texts.append(node)
    return texts


def terms_of(env) -> dict[str, tuple[str, str]]:
    """Page and anchor of each term that is linked."""
    places = {name: place for (kind, name), place in env.get_domain("std").objects.items() if kind == "term"}
    return {name: place for name, place in places.items() if name not in EVERYDAY}


def changed(app, env) -> list[str]:
    """Every page is written again if the glossary's terms are others than last time."""
    before, env.glossary_terms = getattr(env, "glossary_terms", None), terms_of(env)
    return [] if env.glossary_terms == before else sorted(env.found_docs)


class GlossaryLinks(SphinxPostTransform):
    default_priority = 900  # after the references are resolved
    formats = ("html",)

    def run(self):
        places = terms_of(self.env)
        if not places or not self.env.docname.startswith("notebooks/"):
            return
        wanted = {name.casefold(): place for name, place in places.items()}
        terms = pattern(places)
        for text in prose(self.document):
            parts, rest = [], 0
            for match in terms.finditer(text):
                if place := wanted.pop(match[1].casefold(), None):
                    parts += [nodes.Text(text[rest : match.start()]), self.link(match[0], *place)]
                    rest = match.end()
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(text[rest:])])

    def link(self, words: str, page: str, anchor: str) -> nodes.reference:
        address = f"{self.app.builder.get_relative_uri(self.env.docname, page)}#{anchor}"
        return nodes.reference("", words, refuri=address, internal=True, classes=["glossary-link"])


def setup(app):
    app.add_post_transform(GlossaryLinks)
    app.connect("env-updated", changed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
