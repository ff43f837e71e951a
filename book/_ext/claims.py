"""``{claims}``: the table of ``claims.toml``, its numbers computed from records and ledger when the book is built."""

import tomllib
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from tables import table

from grpo_teach.memory import predict
from grpo_teach.memory.grid import setup_in
from grpo_teach.records import load_record
from grpo_teach.studies.results import area, contrasts, difference, ends, interval, mean, p_value

VERDICTS = ("supported", "supported under conditions", "not supported", "wrong", "not testable here", "open")


def peak(**setup) -> float:
    """GiB that the byte ledger predicts for Llama-3.2-1B, set up so, at the fullest moment of a step."""
    return predict(setup_in("llama-3.2-1b", setup)).terms["total"] / 2**30


FUNCTIONS = {f.__name__: f for f in (area, contrasts, difference, ends, interval, mean, p_value, load_record, peak)}


def load() -> dict[str, dict]:
    """The entries of the ledger by their id, C1 first."""
    return tomllib.loads((Path(__file__).parents[1] / "claims.toml").read_text(encoding="utf-8"))


def numbers_of(entry: dict) -> dict:
    """An entry's numbers by name; none while it is open. A name with commas, ``"gap, low, high"``, unpacks a tuple."""
    found = {}
    for names, expression in entry.get("numbers", {}).items() if entry["verdict"] != "open" else ():
        value, names = eval(expression, FUNCTIONS | found), names.split(", ")
        found |= zip(names, value if len(names) > 1 else [value], strict=True)
    return found


def sentence(entry: dict) -> str:
    """What was found, with its numbers; of an open claim what is known so far."""
    return entry["found"].format(**numbers_of(entry))


def count(entries: dict[str, dict]) -> str:
    """How many claims have which verdict."""
    tally = Counter(entry["verdict"] for entry in entries.values())
    settled = ", ".join(f"{tally[verdict]} {verdict}" for verdict in VERDICTS[:-1] if tally[verdict])
    if not tally["open"]:
        return f"All {len(entries)} claims are settled: {settled}."
    left = f"{tally['open']} {'is' if tally['open'] == 1 else 'are'} open"
    return f"Of {len(entries)} claims {len(entries) - tally['open']} are settled ({settled}); {left}."


class Claims(SphinxDirective):
    def run(self):
        self.env.note_reread()  # a record may have changed
        entries = load()
        rows = (self.row(name, entry) for name, entry in entries.items())
        return [nodes.paragraph("", count(entries)), table(("Claim", "Verdict", "Found"), rows, "cards", "claims")]

    def row(self, name: str, entry: dict) -> nodes.row:
        claim = [nodes.reference("", name, refid=name.lower(), internal=True), nodes.Text(" ")]
        claim += self.words(entry["claim"])
        verdict = self.words("open" if entry["verdict"] == "open" else f"**{entry['verdict']}**")
        found = [self.words(sentence(entry))]
        if "evidence" in entry:
            found.append(self.words("*Evidence:*") + self.links(entry["evidence"]))
        if "limits" in entry:
            found.append(self.words(f"*Limits:* {entry['limits']}"))
        cells = [[nodes.paragraph("", "", *words) for words in cell] for cell in ([claim], [verdict], found)]
        return nodes.row("", *(nodes.entry("", *cell) for cell in cells), ids=[name.lower()])

    def links(self, evidence: list[dict]) -> list[nodes.Node]:
        found = []
        for link in evidence:
            found.append(nodes.Text("; " if found else " "))
            if "cite" in link:
                found += self.words(f"{{cite:t}}`{link['cite']}`, {link['title']}")
            else:
                page, hash_sign, anchor = link["page"].partition("#")
                address = self.env.app.builder.get_relative_uri(self.env.docname, page) + hash_sign + anchor
                found.append(nodes.reference("", link["title"], refuri=address, internal=True))
        return found

    def words(self, text: str) -> list[nodes.Node]:
        return self.parse_inline(text)[0]


def name_rows(app, doctree):
    """Let other pages write ``[C5](../book/claims.md#c5)``."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    slugs |= {name: (0, name, name.upper()) for row in doctree.findall(nodes.row) for name in row["ids"]}


def setup(app):
    app.add_directive("claims", Claims)
    app.connect("doctree-read", name_rows)
    return {"parallel_read_safe": True}
