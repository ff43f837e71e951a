"""Does GRPO climb for every seed, and how fast? ``python benchmarks/climb.py [--seeds N] [--threads N]``.

Trains from the shipped base with the shipped defaults, and again with the paper's per-row length normalisation,
and records for each seed the held-out accuracy along the way and the seconds of sampling and updating until
it first reaches 90% and 95%. The record ships with the package: ``grpo_teach/recorded/climb.json``. It is written
after every run, and a record with the same manifest is gone on with; delete it to start anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tqdm import tqdm

from grpo_teach import ALGORITHMS, ChainSum, load_base, train
from grpo_teach.records import manifest, write_json

RECORD = Path(__file__).resolve().parent.parent / "grpo_teach" / "recorded" / "climb.json"
VARIANTS = {"grpo": {}, "grpo_sequence_mean": {"aggregation": "sequence_mean"}}
EVERY, PROBLEMS = 3, 512


def first_reached(rows: list[dict], accuracy: float) -> dict | None:
    """Step and seconds spent when the held-out accuracy first reached a level."""
    for before, row in zip([None, *rows], rows, strict=False):
        if "evaluation" in row and row["evaluation"]["accuracy"] >= accuracy:
            return {"step": row["step"], "seconds": before["seconds"] if before else 0.0}
    return None


def climb(settings: dict, seed: int, steps: int) -> dict:
    """One run from the base."""
    algorithm = ALGORITHMS["grpo"]
    policy, tokenizer = load_base()
    run = train(
        policy,
        tokenizer,
        ChainSum(5),
        algorithm,
        algorithm.Settings(**settings),
        steps=steps,
        seed=seed,
        evaluate_every=EVERY,
        problems=PROBLEMS,
        progress=False,
    )
    after = run.evaluate(1024)
    evaluated = [row for row in run.history if "evaluation" in row]
    return {
        "seed": seed,
        "evaluated_steps": [row["step"] for row in evaluated],
        "accuracy": [round(row["evaluation"]["accuracy"], 4) for row in evaluated],
        "mean_length": [round(row["evaluation"]["mean_length"], 2) for row in evaluated],
        "final_accuracy": after.accuracy,
        "final_interval": list(after.interval),
        "reached_90": first_reached(run.history, 0.90),
        "reached_95": first_reached(run.history, 0.95),
        "seconds": round(run.seconds, 2),
        "tokens": run.tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to N-1")
    parser.add_argument("--steps", type=int, default=60, help="steps a run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = {"variants": VARIANTS, "steps": args.steps, "problems": PROBLEMS, "evaluate_every": EVERY, "addends": 5}
    header = manifest(config, list(range(args.seeds)))
    runs: dict[str, list] = {name: [] for name in VARIANTS}
    if args.out.exists():
        record = json.loads(args.out.read_text())
        if record["manifest"] == header:
            runs = record["runs"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plan = [(name, seed) for name in VARIANTS for seed in range(len(runs[name]), args.seeds)]
    for name, seed in tqdm(plan):
        runs[name].append(climb(VARIANTS[name], seed, args.steps))
        write_json(args.out, {"manifest": header, "runs": runs})
        late = runs[name][-1]
        tqdm.write(
            f"{name} seed {seed}: 90% {late['reached_90']}, 95% {late['reached_95']}, {late['final_accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
