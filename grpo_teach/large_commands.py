"""``python -m grpo_teach preflight`` and ``merge``: what comes before a long run of a large model, and after it."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.fit import must_fit
from grpo_teach.flags import OPTIMIZERS, at_least_one, config_of, start, task_of, training_flags
from grpo_teach.large import DTYPES
from grpo_teach.merge import merge
from grpo_teach.preflight import preflight
from grpo_teach.records import manifest, output_folder, write_json

__all__ = ["merge_flags", "preflight_flags", "run_merge", "run_preflight"]


def preflight_flags(parser: argparse.ArgumentParser) -> None:
    """How much to ask, and all that training would be given."""
    parser.add_argument("--problems", type=int, default=32, help="training prompts to ask")
    parser.add_argument("--samples", type=int, help="answers to each; without a number the group size")
    parser.add_argument("--steps", type=int, default=200, help="of the run whose hours are estimated")
    parser.add_argument("--out", type=Path, help="folder for preflight.json")
    training_flags(parser)


def run_preflight(args: argparse.Namespace) -> dict:
    """Print the report of the set-up that the flags ask for."""
    at_least_one(args, "problems", "steps", *(["samples"] if args.samples is not None else []))
    folder = output_folder(args.out) if args.out else None
    task = task_of(args)
    config = config_of(args, task)
    must_fit(args, config, task)
    found = preflight(
        *start(args),
        task,
        ALGORITHMS[args.algorithm],
        config,
        problems=args.problems,
        samples=args.samples,
        seed=args.seed,
        budget_steps=args.steps,
        optimizer=OPTIMIZERS[args.optimizer],
        reference=not args.no_reference,
        progress=not args.quiet,
    )
    print(found)
    result = found.as_dict()
    if folder:
        write_json(folder / "preflight.json", result | {"manifest": manifest(vars(config), args.seed)})
    return result


def merge_flags(parser: argparse.ArgumentParser) -> None:
    """Which adapter, and where to."""
    parser.add_argument("--policy", type=Path, required=True, help="folder of a trained adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the whole model and its tokenizer")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the merged weights; auto: as the base's")


def run_merge(args: argparse.Namespace) -> dict:
    """Merge, save, and say where."""
    if args.out.resolve() == args.policy.resolve():
        raise InputError(f"--out must be another folder than the adapter's, {args.policy}")
    base, dtype = merge(args.policy, output_folder(args.out), args.dtype)
    print(f"Merged into {base}, {dtype}: {args.out}")
    print("Trained beside 4-bit weights, it now stands on the whole ones: evaluate both before you rely on it.")
    return {"base": base, "dtype": dtype, "out": str(args.out)}
