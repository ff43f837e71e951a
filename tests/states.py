"""Two runs compared, down to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import torch

TIMES = {"seconds"}  # the one thing that two equal runs do not share


def differences(a, b, where: str = "") -> list[str]:
    """Where two nested states differ; tensors bit by bit, times left out."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a if key not in TIMES for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} entries"]
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if type(a) is type(b) and a == b else [f"{where}: {a!r} and {b!r}"]


def run_differences(one: Path, other: Path) -> list[str]:
    """Where two runs' folders differ: checkpoint (weights, optimizer, random states) and metrics."""
    checkpoints = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other)]
    logs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (one, other)
    ]
    return differences(*checkpoints, "checkpoint") + differences(*logs, "metrics")
