"""The command ``doctor``: what looks wrong in runs that were made."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo_teach.clinic.doctor import examine, read_run, report

__all__ = ["add"]


def add(command) -> None:
    """One command."""
    sub = command("doctor", "read a run's records: what looks wrong, and why?", run_doctor, policy=False)
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or its metrics.jsonl")


def run_doctor(args: argparse.Namespace) -> dict:
    """All runs are read before anything is said: one that cannot be read ends it."""
    runs, found = {str(path): read_run(path) for path in args.runs}, []
    for name, run in runs.items():
        findings = examine(run)
        print(report(name, run, findings))
        found.append({"run": name, "steps": len(run.rows), "findings": [f.as_dict() for f in findings]})
    return {"runs": found}
