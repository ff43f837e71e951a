"""Recorded curves to choose from, in a page that needs no kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from grpo_teach.records import load_record

__all__ = ["explorer"]


def explorer(names: dict[str, str], quantities: dict[str, str], name: str = "explorer", called: Callable = str):
    """Recorded curves in one picture whose contents the reader chooses; it needs no kernel and asks no server.

    Args:
        names: studies to choose from, as ``{title: study}``.
        quantities: what to show, as ``{title: name in the curves}``.
        name: of the HTML element; one a page.
        called: what a variant's label is written as.
    Returns:
        HTML for a notebook or a page: means over seeds with 95% bands (Student's t), against tokens and seconds.
    """
    from IPython.display import HTML

    from grpo_teach.studies.results import interval, on_grid  # scipy takes a second to load

    def line(results: list[dict], quantity: str, against: str) -> dict:
        x, values = on_grid(results, quantity, against, points=25)
        low, high = interval(values)
        columns = {"x": x, "mean": values.mean(axis=0), "low": low, "high": high}
        return {key: [float(f"{number:.3g}") for number in column] for key, column in columns.items()}

    data = {}
    for title, study in names.items():
        runs = {called(label): results for label, results in load_record(study)["runs"].items()}
        data[title] = {
            shown: {
                against: {label: line(results, quantity, against.split()[-1]) for label, results in runs.items()}
                for against in ("generated tokens", "seconds")
            }
            for shown, quantity in quantities.items()
        }
    page = (Path(__file__).parent / "explorer.html").read_text(encoding="utf-8")
    return HTML(page.replace("ID", name).replace("DATA", json.dumps(data)))
