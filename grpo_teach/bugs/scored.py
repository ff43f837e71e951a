"""Runs with a known bug, or with none, as a record keeps them; and what a doctor makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from grpo_teach.bugs.injections import BUGS
from grpo_teach.clinic.curves import Run
from grpo_teach.clinic.doctor import examine
from grpo_teach.evaluate import wilson_interval
from grpo_teach.records import short

__all__ = ["Share", "all_runs", "baseline", "doctor", "flagged", "packed", "share", "unpacked"]

Share = tuple[int, int, float, float]


def packed(rows: list[dict]) -> dict[str, list]:
    """Curves by name, three digits a number; None where a step has none."""
    names = sorted({name for row in rows for name in row})
    return {name: [short(row.get(name), 3) for row in rows] for name in names}


def unpacked(curves: dict[str, list], config: dict) -> Run:
    """The run of :func:`packed` curves."""
    steps = range(len(next(iter(curves.values()))))
    return Run([{name: curve[i] for name, curve in curves.items() if curve[i] is not None} for i in steps], config)


def all_runs(record: dict) -> Iterator[tuple[str, dict, Run]]:
    """``(label, result, run)`` of every recorded run."""
    for label, results in record["runs"].items():
        for result in results:
            yield label, result, unpacked(result["curves"], record["configs"][label])


def doctor(result: dict, run: Run) -> list[str]:
    """The signs that our doctor sees."""
    return [finding.sign for finding in examine(run)]


def baseline(result: dict, run: Run) -> list[str]:
    """What the recorded heuristics of another toolkit said with high severity."""
    return [name for name, severity in result["baseline"] if severity == "high"]


def flagged(record: dict, judge: Callable = doctor) -> dict[str, list[list[str]]]:
    """By label, what a judge says of each of its runs: an empty list where it finds nothing."""
    found: dict[str, list[list[str]]] = {}
    for label, result, run in all_runs(record):
        found.setdefault(label, []).append(judge(result, run))
    return found


def share(found: dict[str, list[list[str]]], bugs: bool) -> Share:
    """Of the runs with a bug, or of those without, how many were flagged: ``(flagged, runs, low, high)``, Wilson 95%.

    Seeds of one bug are alike, so over the bugs the interval is narrower than it should be; the table by bug is not.
    """
    runs = [bool(said) for label, several in found.items() if (label in BUGS) == bugs for said in several]
    return (sum(runs), len(runs), *wilson_interval(sum(runs) / len(runs), len(runs)))
