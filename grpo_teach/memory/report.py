"""The byte ledger in words and columns: the table of a set-up, what fits, and predicted beside measured."""

from __future__ import annotations

import dataclasses
import sys

from grpo_teach.memory.ledger import TERMS, Ledger, changes, nearest, predict
from grpo_teach.memory.setup import MEASURED, Setup

__all__ = ["GIB", "MIB", "advice", "comparison", "table", "warn_of"]

GIB, MIB = 2**30, 2**20
GROUPS, LENGTHS = (2, 4, 8, 16, 32, 64), (128, 256, 512, 1024, 2048, 4096)


def comparison(row: dict) -> str:
    """Predicted against measured, in GiB: each phase, what stays, and the peak."""
    if not row["measured_bytes"]:
        return f"out of memory in {row['out_of_memory']} ({row['instrument']})"
    predicted, measured = row["predicted_bytes"], row["measured_bytes"]
    rows = {term: (predicted[term], measured[term]) for term in measured if term != "total" and measured[term]}
    both = row["phases"]
    rows |= {phase: (most, both["measured"][phase]) for phase, most in both["predicted"].items()}
    rows["peak"] = predicted["total"], measured["total"]
    lines = [f"{'':13}{'predicted':>10}{'measured':>10}{'difference':>12}"]
    for name, (ledger, real) in rows.items():
        lines.append(f"{name:13}{ledger / GIB:10.3f}{real / GIB:10.3f}{ledger / real - 1:12.1%}")
    speed = f"{row['seconds']:.1f} s a step, {row['tokens_a_second']:.1f} tokens a second"
    around = row.get("reserved_bytes") or row.get("resident_bytes")
    kind = "reserved by the allocator" if "reserved_bytes" in row else "resident, all of the process's new memory"
    lines.append(f"GiB of {row['instrument']}; {speed}")
    if around:
        lines.append(f"{around / GIB:.3f} GiB {kind}")
    return "\n".join(lines)


def warn_of(build: str) -> None:
    """One line on standard error for a build, ``model_type`` of its config, whose predictions were never measured."""
    if build not in MEASURED:
        known = " and ".join(MEASURED)
        print(f"warning: the ledger was measured on {known}; for {build} it may be a tenth too low", file=sys.stderr)


def table(ledger: Ledger) -> str:
    """One row a term: GiB, its share of the peak, its formula. A term that is not alive at the peak has no share."""
    at_peak, total = ledger.moments[ledger.peak], ledger.terms["total"]
    rows = [f"{'':13}{'GiB':>8}{'share':>8}"]
    for term in TERMS:
        alive = at_peak.get(term, 0)
        share = f"{alive / total:8.1%}" if alive else f"{'-':>8}"
        formula = ledger.written[ledger.peak].get(term, term)
        formula = ledger.lines[term].formula if formula == term else formula
        rows.append(f"{term:13}{(alive or ledger.terms[term]) / GIB:8.3f}{share}   {formula}")
    phases = ", ".join(f"{phase} {most / GIB:.3f}" for phase, most in ledger.phases.items())
    rows.append(f"{'peak':13}{total / GIB:8.3f}{1:8.1%}   in {': '.join(ledger.peak)}")
    return "\n".join([*rows, f"phases: {phases} GiB; - is not alive at the peak"])


def advice(setup: Setup, limit: int) -> str:
    """Does it fit, which groups and lengths do, and which change saves how much."""

    def peak(setup: Setup) -> int:
        return predict(setup).terms["total"]

    spare = limit - peak(setup)
    fits, left = ("fits", "to spare") if spare >= 0 else ("does not fit", "too much")
    rows = [f"{fits} in {limit / GIB:.3f} GiB: {abs(spare) / GIB:.3f} GiB {left}"]
    peaks = {
        (group, length): peak(dataclasses.replace(setup, group_size=group, max_new_tokens=length))
        for group in GROUPS
        for length in LENGTHS
    }
    fitting = [sizes for sizes, bytes in peaks.items() if bytes <= limit]
    rows.append("peak in GiB by group (down) and completion tokens (across); - does not fit")
    rows.append(f"{'':6}" + "".join(f"{length:8}" for length in LENGTHS))
    for group in GROUPS:
        cells = [peaks[group, length] for length in LENGTHS]
        rows.append(f"{group:6}" + "".join(f"{x / GIB:8.2f}" if x <= limit else f"{'-':>8}" for x in cells))
    if fitting:
        group, length = max(fitting, key=lambda sizes: (sizes[0] * sizes[1], sizes[1]))
        rows.append(f"largest that fits: groups of {group} with completions of {length} tokens")
    rows.append("what to change first:")
    saved = {name: peak(setup) - peak(changed) for name, changed in changes(setup).items()}
    for name, bytes in sorted(saved.items(), key=lambda item: -item[1]):
        rows.append(f"  {name:36}saves {bytes / GIB:7.3f} GiB{', and it fits' if spare < 0 <= spare + bytes else ''}")
    if spare < 0:
        found = nearest(setup, limit)
        rows.append("nearest that fits: " + (", ".join(found[0]) if found else "none of these, even together"))
    return "\n".join(rows)
