"""``{defaults}`` and ``{signs}``: settings beside the papers' values, and the doctor's signs, read from the package."""

import re

from sphinx.util.docutils import SphinxDirective
from tables import row, table

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.algorithms.later import LATER
from grpo_teach.clinic.doctor import TEXTS
from grpo_teach.settings import settings_of

KINDS = {name: ALGORITHMS[name] for name in ("grpo", "ppo", "policy_gradient", "sft")} | LATER


def defaults() -> list[tuple[str, str, str, str]]:
    """For each setting its name, its meaning, the default of each algorithm, and what papers say, as their docs do."""
    meanings, values, papers = {}, {}, {}
    for kind in KINDS.values():
        for field in settings_of(kind.Settings):
            meaning, _, said = field.metadata["meaning"].partition(" (")
            meanings.setdefault(field.name, meaning)
            values.setdefault(field.name, {}).setdefault(str(field.default), []).append(kind.label)
            papers.setdefault(field.name, {}).update(dict.fromkeys(re.findall(r"[^\s,;()][^,;()]*: [^,;()]+", said)))
    rows = []
    for name, found in values.items():
        first, *others = found
        text = "; ".join([first, *(f"{', '.join(found[other])}: {other}" for other in others)])
        rows.append((name, meanings[name], text, ", ".join(papers[name])))
    return rows


def signs(causes: int = 2) -> list[tuple[str, str, str, str]]:
    """For each of the doctor's signs its name, what it says, the likeliest causes, and where the book treats it."""
    return [(name, sign["says"], "; ".join(sign["causes"][:causes]), sign["see"]) for name, sign in TEXTS.items()]


class Table(SphinxDirective):
    def run(self):
        self.env.note_reread()  # the package may have changed
        head, rows = self.content_of()
        return [
            table(head, (row(*(self.parse_inline(text)[0] for text in texts)) for texts in rows), "cards", self.name)
        ]


class Defaults(Table):
    def content_of(self):
        rows = [(f"`{name}`", *rest) for name, *rest in defaults()]
        return ("Setting", "What it is", "Default here", "Papers"), rows


class Signs(Table):
    def content_of(self):
        rows = [(f"{says} `{name}`", causes, see) for name, says, causes, see in signs()]
        return ("Sign", "Look first for", "Where"), rows


def setup(app):
    app.add_directive("defaults", Defaults)
    app.add_directive("signs", Signs)
    return {"parallel_read_safe": True}
