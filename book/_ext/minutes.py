"""``{minutes}``: how long each chapter takes, counted from its text when the book is built.

Reading is 200 words a minute, and a minute for each displayed equation and each figure. Exercises are what their own
lines say ("About 10 minutes"). Code and outputs are not counted.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from tables import row, table

ROOT = Path(__file__).parents[2]
EXERCISE = re.compile(r"### Exercise|<details><summary>Hint")


def chapters() -> dict[str, Path]:
    """The chapters by their number, "00" first; "05b" is one of them."""
    return {path.stem.partition("_")[0]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def spent(path: Path) -> tuple[int, int]:
    """Minutes of reading, to the nearest five, and minutes of exercises."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    read = "\n".join(text for text in texts if not EXERCISE.match(text))
    figures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    minutes = len(read.split()) / 200 + read.count("$$") // 2 + figures
    stated = re.findall(r"^\*Difficulty.*?About (\d+) minutes", "\n".join(texts), re.M)
    return 5 * round(minutes / 5), sum(map(int, stated))


def title(path: Path) -> str:
    """A chapter's heading."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return next(
        re.findall(r"^# (.+)$", "".join(cell["source"]), re.M)[0] for cell in cells if cell["cell_type"] == "markdown"
    )


class Minutes(SphinxDirective):
    def run(self):
        self.env.note_reread()  # a chapter may have changed
        rows = (self.row(number, path) for number, path in chapters().items())
        return [table(("Chapter", "Reading", "Exercises"), rows)]

    def row(self, number: str, path: Path) -> nodes.row:
        address = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{path.stem}")
        name = nodes.reference("", f"{number} {title(path)}", refuri=address, internal=True)
        return row([name], *([nodes.Text(f"{minutes} min")] for minutes in spent(path)))


def setup(app):
    app.add_directive("minutes", Minutes)
    return {"parallel_read_safe": True}
