"""``{claims-figure} C31 C8``: some claims in words, then all in one figure: a row a verdict, a square a claim."""

from html import escape

from claims import VERDICTS, count, load
from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from tables import row, table

PAGE = "claims.html"  # beside the page that shows the figure
STYLE = """<style>
.claims-figure { border-collapse: separate; border-spacing: 0 0.3rem; }
.claims-figure th { font-weight: normal; padding-right: 1rem; text-align: left; vertical-align: top; width: 9em; }
.claims-figure td { line-height: 2.1; }
.claims-figure a { border: 1px solid currentColor; border-radius: 0.2rem; margin-right: 0.15rem; padding: 0 0.3rem; }
</style>"""


class ClaimsFigure(SphinxDirective):
    optional_arguments = 9  # the claims to be said in words

    def run(self):
        self.env.note_reread()  # a verdict may have changed
        entries, rows = load(), ""
        for verdict in VERDICTS:
            held = {name: entry for name, entry in entries.items() if entry["verdict"] == verdict}
            found = " ".join(
                f'<a href="{PAGE}#{name.lower()}" title="{escape(entry["claim"], quote=True)}">{name}</a>'
                for name, entry in held.items()
            )
            rows += f'<tr><th scope="row">{verdict} ({len(held)})</th><td>{found}</td></tr>' if held else ""
        squares = f'{STYLE}<table class="claims-figure"><tbody>{rows}</tbody></table>'
        told = nodes.paragraph("", f"{count(entries)} Each square is one of them.")
        said = [table(("Claim", "Verdict"), (self.said(name, entries[name]) for name in self.arguments))]
        return [*said * bool(self.arguments), told, nodes.raw("", squares, format="html")]

    def said(self, name: str, entry: dict) -> nodes.row:
        claim = nodes.reference("", entry["claim"], refuri=f"{PAGE}#{name.lower()}", internal=True)
        return row([claim], [nodes.Text(entry["verdict"])])


def setup(app):
    app.add_directive("claims-figure", ClaimsFigure)
    return {"parallel_read_safe": True}
