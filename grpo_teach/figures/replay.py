"""One recorded run to look through: curves, and what the policy answers to the same questions as it learns."""

from __future__ import annotations

from grpo_teach.figures.responsive import page
from grpo_teach.records import load_record

__all__ = ["replay"]


def replay(record: str = "replay", name: str = "replay"):
    """Scrub through the run that ``benchmarks/replay.py`` recorded. One run is a demonstration, and no result.

    Args:
        record: that ships with the package.
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    held = load_record(record)
    (run,) = held["runs"]
    return page("replay", name, {**held["manifest"]["config"], **run})
