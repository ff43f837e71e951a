"""A run's curves, read from its records."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from grpo_teach.errors import InputError

__all__ = ["EVALUATED", "Run", "read_run"]

EVALUATED = {
    "accuracy": "accuracy",
    "mean_length": "graded_length",
    "problems": "graded",
}  # of an evaluation, and their names as curves


@dataclass(frozen=True)
class Run:
    """A run as its records show it.

    Attributes:
        rows: one a step, as ``metrics.jsonl`` holds them, evaluations unfolded.
        config: of the manifest; empty without one.
    """

    rows: list[dict]
    config: dict = field(default_factory=dict)

    def __getitem__(self, name: str) -> numpy.ndarray:
        """A curve, one number a step; NaN where a step has none."""
        return numpy.array([row.get(name, math.nan) for row in self.rows], dtype=float)

    def known(self, name: str) -> numpy.ndarray:
        """The finite numbers of a curve, in order."""
        return self[name][numpy.isfinite(self[name])]

    def middle(self, name: str) -> float:
        """Their median; NaN if there are none."""
        return float(numpy.median(self.known(name))) if len(self.known(name)) else math.nan

    def ends(self, name: str) -> tuple[float, float]:
        """Mean of a curve's first fifth and of its last, three steps or more each; NaN if it is too short for both."""
        known = self.known(name)
        size = max(3, len(known) // 5)
        return (known[:size].mean(), known[-size:].mean()) if len(known) >= 2 * size else (math.nan, math.nan)

    def noise(self, name: str) -> float:
        """The standard error of the difference of both ends.

        The noise of a step is read off successive differences, in which a trend hardly counts: their mean square is
        twice its variance (von Neumann, 1941).
        """
        known = self.known(name)
        differences = numpy.diff(known)
        return math.sqrt(numpy.square(differences).mean() / max(3, len(known) // 5)) if len(differences) else math.nan

    def change(self, name: str) -> float:
        """How far the last fifth lies above the first, in standard errors; NaN if the curve is too short."""
        first, last = self.ends(name)
        return (last - first) / max(self.noise(name), 1e-12) if math.isfinite(first) else math.nan

    def setting(self, name: str, default=math.nan):
        """A number of the manifest's."""
        value = self.config.get(name, default)
        return value if isinstance(value, int | float) else default


def read_run(path: Path) -> Run:
    """The records in a run's folder; a last line that a kill cut short is left out.

    Args:
        path: the folder, or the ``metrics.jsonl`` in it.
    Raises:
        InputError: if there is no step to read, or a file is damaged.
    """
    path = path / "metrics.jsonl" if path.is_dir() else path
    rows, lines = [], _text(path).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append(
                _numbers(row) | _numbers({EVALUATED.get(k, ""): v for k, v in row.get("evaluation", {}).items()})
            )
        except (ValueError, AttributeError, RecursionError) as error:
            if number < len(lines) or not rows:
                raise InputError(f"{path}: line {number} is no step of a run") from error
    if not any("reward" in row or "loss" in row for row in rows):
        raise InputError(f"{path} holds no step of a run")
    beside = path.with_name("manifest.json")
    try:
        config = json.loads(_text(beside)).get("config") if beside.exists() else {}
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{beside} is damaged") from error
    return Run(rows, config if isinstance(config, dict) else {})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _numbers(row: dict) -> dict:
    kept = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) if abs(v) < 1e300 else math.inf if v == v else math.nan for k, v in kept.items()}
