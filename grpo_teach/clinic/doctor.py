"""What looks wrong in a run's curves? The signs that it shows, what may cause them, and where the book says more.

``doctor.toml`` says of each sign what it means, what causes it, the likeliest first, and where the book treats it. Many
bugs leave no mark in any curve: finding nothing is no proof that nothing is wrong.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy

from grpo_teach.clinic.curves import Run, read_run
from grpo_teach.clinic.signs import SIGNS

__all__ = ["Finding", "Run", "examine", "read_run", "report"]

TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Finding:
    """A sign that was seen, and its evidence; the rest is what ``doctor.toml`` says of it."""

    sign: str
    evidence: str

    def as_dict(self) -> dict:
        """``sign``, ``evidence``, ``says``, ``causes`` and ``see``, ready for JSON."""
        return {"sign": self.sign, "evidence": self.evidence} | TEXTS[self.sign]


def examine(run: Run) -> list[Finding]:
    """Every sign that a run shows."""
    with numpy.errstate(all="ignore"):
        found = {name: look(run) for name, look in SIGNS.items() if run.rows}
    return [Finding(name, evidence) for name, evidence in found.items() if evidence]


def report(name: str, run: Run, findings: list[Finding]) -> str:
    """What the command prints of one run."""
    lines = [f"{name}: {len(run.rows)} steps of {run.config.get('algorithm', 'an algorithm that no manifest names')}"]
    for found in map(Finding.as_dict, findings):
        lines += [f"  {found['sign']}: {found['says']}", f"    seen in  {found['evidence']}"]
        lines += [f"    {'perhaps' if i else 'likely '}  {cause}" for i, cause in enumerate(found["causes"])]
        lines += [f"    see      {found['see']}"]
    silence = "  Nothing looks wrong. Many bugs show in no curve: tests catch them, see chapter 13."
    return "\n".join(lines if findings else [*lines, silence])
