"""``python -m grpo_teach memory``: the ledger as a table, what fits, what to change first, and a measurement."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.commands.flags import add_flags, given, size
from grpo_teach.errors import InputError
from grpo_teach.large import model_config
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.memory.grid import GRIDS, beside, plain, record
from grpo_teach.memory.measure import measure_apart
from grpo_teach.memory.report import MIB, advice, comparison, table, warn_of
from grpo_teach.records import manifest, output_folder, write_json

__all__ = ["add"]


def add(command) -> None:
    """``memory``: ``--model``, one flag for each field of a set-up, and what to print."""
    sub = command("memory", "predict what fills the memory, and measure it", run, policy=False)
    sub.add_argument("--model", default="llama-3.2-1b", help="a shipped shape, a folder, or a name on the Hub")
    add_flags(sub, Setup, defaults={"critic": "head for ppo, else none"})
    sub.add_argument("--fit", type=size, metavar="SIZE", help="16GiB, say: does it fit, and what would")
    sub.add_argument("--formulas", action="store_true", help="print every formula, and what its symbols stand for")
    sub.add_argument("--measure", action="store_true", help="run two steps with random weights, and compare")
    sub.add_argument("--grid", choices=list(GRIDS), help="measure many set-ups: tiny, 1B, 1B with short texts, SmolLM2")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), help="to measure on; default a GPU if there is one")
    sub.add_argument("--cap", type=size, metavar="SIZE", help="measure as if the GPU had no more than this")
    sub.add_argument("--out", type=Path, help="folder for memory.json; a grid there is gone on with")


def run(args: argparse.Namespace) -> dict:
    """Print the ledger of the set-up that the flags ask for; measure it, or a whole grid, if they ask for that."""
    for flag in ("device", "cap"):
        if getattr(args, flag) and not (args.measure or args.grid):
            raise InputError(f"--{flag} belongs to --measure or --grid")
    device = args.device or "auto"
    if args.grid:
        return run_grid(args, device)
    asked = given(args, Setup)
    critic = ALGORITHMS[asked.get("algorithm", Setup.algorithm)].Settings.critic
    asked = ({"critic": critic} if critic else {}) | asked
    config = model_config(args.model)
    setup = Setup(Shape.of(config), **asked)
    folder = output_folder(args.out) if args.out else None
    warn_of(config.model_type)
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
        about = {"model": args.model, "cap": args.cap} | plain(setup)
        write_json(folder / "memory.json", result | {"manifest": manifest(about, args.seed)})
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
