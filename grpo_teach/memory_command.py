"""``python -m grpo_teach memory``: the ledger as a table, what fits, and what to change first."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from grpo_teach.errors import InputError
from grpo_teach.large import model_config
from grpo_teach.memory import TERMS, Ledger, Setup, Shape, changes, nearest, predict
from grpo_teach.memory_grid import GRIDS, beside, plain, record
from grpo_teach.memory_measure import measure_apart
from grpo_teach.records import manifest, output_folder, write_json

__all__ = ["flags", "run"]

GIB, MIB = 2**30, 2**20
UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}
GROUPS, LENGTHS = (2, 4, 8, 16, 32, 64), (128, 256, 512, 1024, 2048, 4096)


def size(text: str) -> int:
    """Bytes of a text such as ``16GiB``, ``14.7GiB`` or ``24GB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|GB|MB)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 16GiB, 14.7GiB or 24GB")
    return int(float(match[1]) * UNITS[match[2]])


def flags(parser: argparse.ArgumentParser) -> None:
    """``--model``, one flag for each field of a set-up, and what to print."""
    parser.add_argument("--model", default="llama-3.2-1b", help="a shipped shape, a folder, or a name on the Hub")
    for field in dataclasses.fields(Setup)[1:]:
        kind = {"type": type(field.default), "choices": field.metadata["choices"] or None}
        default = "head for ppo, else none" if field.name == "critic" else field.default
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=f"{field.metadata['meaning']} (default {default})",
            **{"action": argparse.BooleanOptionalAction} if field.default is True else kind,
        )
    parser.add_argument("--fit", type=size, metavar="SIZE", help="16GiB, say: does it fit, and what would")
    parser.add_argument("--formulas", action="store_true", help="print every formula, and what its symbols stand for")
    parser.add_argument("--measure", action="store_true", help="run two steps with random weights, and compare")
    parser.add_argument("--grid", choices=list(GRIDS), help="measure many set-ups: tiny, 1B, 1B with short texts")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="to measure on; default a GPU if there is one"
    )
    parser.add_argument("--cap", type=size, metavar="SIZE", help="measure as if the GPU had no more than this")
    parser.add_argument("--out", type=Path, help="folder for memory.json; a grid there is gone on with")


def run(args: argparse.Namespace) -> dict:
    """Print the ledger of the set-up that the flags ask for; measure it, or a whole grid, if they ask for that."""
    for flag in ("device", "cap"):
        if getattr(args, flag) and not (args.measure or args.grid):
            raise InputError(f"--{flag} belongs to --measure or --grid")
    device = args.device or "auto"
    if args.grid:
        return run_grid(args, device)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Setup)[1:] if field.name in args}
    if given.get("algorithm") == "ppo":
        given = {"critic": "head"} | given
    config = model_config(args.model)
    setup = Setup(Shape.of(config), **given)
    folder = output_folder(args.out) if args.out else None
    ledger = predict(setup)
    print(table(ledger))
    if args.formulas:
        print(ledger.explain())
    if args.fit:
        print(advice(setup, args.fit))
    result = {"predicted_bytes": ledger.terms, "peak_phase": ledger.peak[0], "measured_bytes": None}
    if args.measure:
        result = beside(setup, measure_apart(config, setup, device, args.cap, progress=not args.quiet))
        print(comparison(result))
    if folder:
        asked = {"model": args.model, "cap": args.cap} | plain(setup)
        write_json(folder / "memory.json", result | {"manifest": manifest(asked, args.seed)})
    return result


def run_grid(args: argparse.Namespace, device: str) -> dict:
    """Every set-up of a grid, one line each; the record goes to ``--out``."""
    name = "memory" if args.grid == "small" else f"memory_{args.grid}"
    path = output_folder(args.out) / f"{name}.json" if args.out else None
    print(f"{'predicted':>9} {'measured':>9} {'':7} MiB; in brackets the phase of the peak")

    def show(row: dict) -> None:
        predicted, measured = row["predicted_bytes"]["total"], row["measured_bytes"]
        found, phase = "    out of memory", row.get("out_of_memory")
        if measured:
            found, phase = f"{measured['total'] / MIB:9.1f} {row['difference']:7.1%}", row["measured_peak_phase"]
        print(f"{predicted / MIB:9.1f} {found} [{phase}] {row['model']} {row['label']}", flush=True)

    runs = record(args.grid, path, device, args.cap, show)["runs"]
    differences = [abs(row["difference"]) for row in runs if row["measured_bytes"]]
    largest = max(differences, default=None)
    print(f"{len(runs)} set-ups, {len(differences)} measured; largest difference {largest or 0:.1%}")
    return {"runs": len(runs), "measured": len(differences), "largest_difference": largest}


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
