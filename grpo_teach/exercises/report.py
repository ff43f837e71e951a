"""What the learner sees: the verdict, and which exercises are solved."""

from __future__ import annotations

import html
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Verdict", "note_progress", "read_progress", "show", "show_progress"]

_solved: set[str] = set()  # also kept in a file, where one can be written


@dataclass(frozen=True)
class Verdict:
    """What :func:`grpo_teach.exercises.check` found.

    Attributes:
        name: of the exercise.
        passed: the function is right.
        attempted: there is something to judge: the stub was filled in.
        diagnosis: a short stable id of the recognised mistake; None if passed or not attempted.
        message: what the learner reads, the smallest counter-example included.
        from_book: the function is the book's own solution, which counts for no progress.
    """

    name: str
    passed: bool
    attempted: bool
    diagnosis: str | None
    message: str
    from_book: bool = field(default=False, repr=False)

    @property
    def title(self) -> str:
        return "passed" if self.passed else "not right yet" if self.attempted else "not attempted yet"

    def _ipython_display_(self):
        """Nothing: ``check`` has shown it already, and a cell that ends in ``check(...)`` would show it twice."""


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # a notebook has imported it; doing so here takes longer than a check
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def show(verdict: Verdict) -> None:
    """Print the verdict; in a notebook with a coloured edge."""
    text = f"{verdict.name}: {verdict.title}\n{verdict.message}"
    if not _in_notebook():
        print(text)
        return
    from IPython.display import display

    edge = "#009E73" if verdict.passed else "#D55E00" if verdict.attempted else "#888888"
    sentence, _, example = verdict.message.partition("\n")
    block = f'<pre style="margin:0.4em 0 0; white-space:pre-wrap">{html.escape(example)}</pre>' if example else ""
    rich = (
        f'<div style="border-left:5px solid {edge}; padding:0.3em 0.8em"><b>{verdict.name}: {verdict.title}</b><br>'
        f"{html.escape(sentence)}{block}</div>"
    )
    display({"text/html": rich, "text/plain": text}, raw=True)


def show_progress(chapters: dict[int, dict[str, bool]]) -> None:
    """Print which exercises of each chapter are solved; in a notebook as a table with bars."""
    lines, rows, look = [], [], "text-align:left; vertical-align:top; overflow-wrap:anywhere; padding:0.3em 1em 0.3em 0"
    for chapter, exercises in chapters.items():
        done = [name for name, solved in exercises.items() if solved]
        open_ = [name for name, solved in exercises.items() if not solved]
        count = f"{len(done)} of {len(exercises)} solved"
        lines += [f"chapter {chapter:02}   {count}", *(f"   [{' x'[yes]}] {name}" for name, yes in exercises.items())]
        bar = f'<progress value="{len(done)}" max="{len(exercises)}" style="width:5em; color-scheme:light"></progress>'
        told = [f"<b>✓ {', '.join(done)}</b>"] * bool(done) + [f"not yet: {', '.join(open_)}"] * bool(open_)
        first, second = f"chapter {chapter:02}<br>{bar}", "<br>".join([count, *told])
        rows.append(f'<td style="{look}; white-space:nowrap">{first}</td><td style="{look}">{second}</td>')
    if not _in_notebook():
        print("\n".join(lines))
        return
    from IPython.display import display

    rich = "".join(f"<tr>{row}</tr>" for row in rows)
    display({"text/html": f"<table>{rich}</table>", "text/plain": "\n".join(lines)}, raw=True)


def _file() -> Path:
    return Path(os.environ.get("GRPO_TEACH_PROGRESS") or Path.home() / ".grpo_teach" / "progress.json")


def read_progress() -> set[str]:
    """The names of the exercises solved so far; an unreadable file counts as empty."""
    try:
        return _solved | set(json.loads(_file().read_text(encoding="utf-8"))["solved"])
    except (OSError, ValueError, KeyError, TypeError):
        return set(_solved)


def note_progress(name: str) -> None:
    """Remember that an exercise is solved; where no file can be written, until the session ends."""
    _solved.add(name)
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps({"solved": sorted(read_progress())}) + "\n", encoding="utf-8")
    except OSError:
        pass
