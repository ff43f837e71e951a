"""``{records}``: every recorded result, its question, command, runs and measured time, read from the records."""

import json
import re
import tomllib
from pathlib import Path

import claims
import tables
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.records import RECORDED
from grpo_teach.studies import run

ROOT = Path(__file__).parents[2]
HEAD = ("Record and question", "Command", "Runs", "Measured time", "Shown in")
SETTINGS = set(run.Variant.__dataclass_fields__).union(*(a.Settings.__dataclass_fields__ for a in ALGORITHMS.values()))
READS = r"\b(?:ends|load_record|against_steps)\("
HEADING = re.compile(r"^#+ (?!Exercise)(.+)$", re.M)


def found() -> dict[str, Path]:
    """The file of each recorded result by its name."""
    paths = [*RECORDED.glob("*.json"), *(ROOT / "benchmarks").glob("*.json")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def others() -> dict[str, dict]:
    """``question``, ``command`` and ``seconds`` of the results that are no study."""
    return tomllib.loads((ROOT / "book/records.toml").read_text(encoding="utf-8"))


def runs_of(record: dict) -> list[dict]:
    """A record's runs in one list; a search's and a study's stand by their variant."""
    runs = record["runs"]
    return [run for some in runs.values() for run in some] if isinstance(runs, dict) else runs


def seconds_of(run: dict) -> float:
    """What a run says of its own time: its whole processes' seconds where it has them."""
    if "processes" in run:
        return sum(process["seconds"] for process in run["processes"].values())
    return run["wall_seconds"] if "wall_seconds" in run else run["seconds"]


def measured(record: dict) -> float:
    """Seconds of all runs, divided by how many ran at a time."""
    return sum(map(seconds_of, runs_of(record))) / (record["manifest"].get("workers") or 1)


def duration(seconds: float) -> str:
    """A time in two figures that a person can read."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def shown(names) -> dict[str, list[tuple[str, str, str]]]:
    """For each record the chapters that read it: ``(page, anchor, chapter)``, at the first section that does."""
    places = {name: [] for name in names}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page, heading = f"notebooks/{path.stem}", ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                heading = [heading, *HEADING.findall(text)][-1]
                continue
            for name, where in places.items():
                if name in text and page not in [place[0] for place in where] and read_in(text, name):
                    where.append((page, nodes.make_id(heading), path.stem[:2]))
    return places


def read_in(cell: str, name: str) -> bool:
    """Does the cell read this record, by its name or by a variable that goes through names?

    A name that is also a plain word or a setting's is quoted for other reasons too; then a reading function must stand
    there.
    """
    by_name = re.search(rf"""{READS}['"]{name}['"]""", cell)
    clear = "_" in name and name not in SETTINGS
    return bool(by_name or (quoted(name, cell) and (clear or re.search(READS + r"[a-z_]+[,)]", cell))))


def quoted(name: str, text: str) -> bool:
    return re.search(rf"""['"]{name}['"]""", text) is not None


def claims_on(names) -> dict[str, list[str]]:
    """For each record the claims whose verdict reads it."""
    reads = {claim: " ".join(entry.get("numbers", {}).values()) for claim, entry in claims.load().items()}
    return {name: [claim for claim, text in reads.items() if quoted(name, text)] for name in names}


def table() -> list[dict]:
    """One row for each recorded result, in the order of the chapters that show them first."""
    paths, studies, rest = found(), run.studies(), others()
    places, resting, rows = shown(paths), claims_on(paths), []
    for name, path in paths.items():
        record, study = json.loads(path.read_text(encoding="utf-8")), name in studies
        about = record["manifest"]
        more = {"question": about["config"].get("question", "")} if study else rest.get(name, {})
        workers, threads = about.get("workers") or 1, about["threads"]
        row = {"name": name, "question": more.get("question", "")}
        row["command"] = f"python -m grpo_teach record {name}" if study else more.get("command", "")
        row |= {"runs": len(runs_of(record)), "seconds": measured(record), "of": more.get("seconds", "")}
        row["on"] = f"{about['device']}, {workers} × {threads} thread{'s' * (threads > 1)}"
        rows.append(row | {"places": places[name], "claims": resting[name]})
    return sorted(rows, key=lambda row: (min((place[2] for place in row["places"]), default="99"), row["name"]))


class Records(SphinxDirective):
    def run(self):
        self.env.note_reread()  # a record may have changed
        rows = table()
        devices = {on: chr(ord("a") + i) for i, on in enumerate(sorted({row["on"] for row in rows}))}
        keys = nodes.bullet_list("", *(self.item(f"{key}: {on}") for on, key in devices.items()))
        return [tables.table(HEAD, (self.row(row, devices) for row in rows), "cards", "records"), keys]

    def row(self, row: dict, devices: dict[str, str]) -> nodes.row:
        time = f"{duration(row['seconds'])} ({devices[row['on']]})" + f", {row['of']}" * bool(row["of"])
        places = []
        for page, anchor, chapter in [*row["places"], *(("book/claims", c.lower(), c) for c in row["claims"])]:
            address = self.env.app.builder.get_relative_uri(self.env.docname, page) + f"#{anchor}"
            places += [nodes.Text(", " * bool(places)), nodes.reference("", chapter, refuri=address, internal=True)]
        about = [nodes.literal("", row["name"]), nodes.Text(" "), *self.parse_inline(row["question"])[0]]
        cells = [about, [nodes.literal("", row["command"])], [nodes.Text(f"{row['runs']}")], [nodes.Text(time)]]
        return tables.row(*cells, places or [nodes.Text("–")])

    def item(self, text: str) -> nodes.list_item:
        return nodes.list_item("", nodes.paragraph("", text))


def setup(app):
    app.add_directive("records", Records)
    return {"parallel_read_safe": True}
