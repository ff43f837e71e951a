"""The claims ledger: every verdict follows from the records, and every link leads somewhere."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")
import claims
from docutils.nodes import make_id

ROOT = Path(__file__).parents[1]

LEDGER = claims.load()
SETTLED = {name: entry for name, entry in LEDGER.items() if entry["verdict"] != "open"}
TO_SETTLE = [f"C{n}" for n in range(1, 42)]


def text_of(page: str) -> str:
    """The Markdown of a page of the book, be it a notebook or not."""
    if (path := ROOT / f"{page}.md").exists():
        return path.read_text(encoding="utf-8")
    cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page: str) -> set[str]:
    text = text_of(page)
    return set(map(make_id, re.findall(r"^#+ (.+)$", text, re.M))) | set(re.findall(r"^\((.+)\)=$", text, re.M))


def test_every_claim_stands_there_once_and_in_order():
    assert list(LEDGER) == [f"C{n}" for n in range(1, 43)]
    assert {entry["verdict"] for entry in LEDGER.values()} <= set(claims.VERDICTS)


def test_the_claims_that_the_chapters_so_far_must_settle_are_settled():
    assert not set(TO_SETTLE) - SETTLED.keys()


@pytest.mark.parametrize("name", SETTLED)
def test_a_verdict_follows_from_its_numbers(name):
    entry = SETTLED[name]
    assert claims.sentence(entry).strip() and "{" not in claims.sentence(entry)  # every placeholder has a number
    assert entry["evidence"] and entry["limits"]
    assert bool(entry.get("numbers")) == bool(entry.get("holds"))
    known = claims.FUNCTIONS | claims.numbers_of(entry)
    for condition in entry.get("holds", []):
        assert eval(condition, known), condition


@pytest.mark.parametrize("name", LEDGER)
def test_an_entry_can_be_read_and_its_links_lead_somewhere(name):
    entry = LEDGER[name]
    assert entry.keys() <= {"claim", "verdict", "found", "numbers", "holds", "evidence", "limits"}
    assert claims.sentence(entry).strip()
    for link in entry.get("evidence", []):
        assert link["title"]
        if "cite" in link:
            assert f"{{{link['cite']}," in (ROOT / "book/references.bib").read_text(encoding="utf-8")
        else:
            page, _, anchor = link["page"].partition("#")
            assert not anchor or anchor in anchors(page), f"{page} has no heading {anchor}"
            assert page in (ROOT / "book/_toc.yml").read_text(encoding="utf-8")


def test_an_open_claim_has_no_numbers_yet_and_says_where_to_read_on():
    for name in LEDGER.keys() - SETTLED.keys():
        assert LEDGER[name]["evidence"] and not LEDGER[name].keys() & {"numbers", "holds"}, name


def test_numbers_unpack_and_build_on_one_another():
    entry = {"verdict": "wrong", "found": "{gap:.1f} and {twice:.0f}"}
    entry["numbers"] = {"gap, low, high": "difference([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])", "twice": "2 * gap"}
    assert claims.numbers_of(entry).keys() == {"gap", "low", "high", "twice"}
    assert claims.sentence(entry) == "2.0 and 4"
    assert claims.sentence(entry | {"verdict": "open", "found": "later"}) == "later"
