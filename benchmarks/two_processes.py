"""TRL on two processes beside our own engine, at equal generated tokens: ``python benchmarks/two_processes.py``.

Each seed trains the chain sum's base twice with the same settings: in TRL, launched as in chapter 14, and here.
Both are asked the same held-out problems. The record is ``grpo_teach/recorded/two_processes.json``, written anew after
each run; runs that it holds already are not made again. About a minute a run of TRL, ten seconds one of ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch

from grpo_teach import ALGORITHMS, ChainSum, load_base, train
from grpo_teach.records import RECORDED, manifest, short, write_json
from grpo_teach.scale.trl_run import read_metrics
from grpo_teach.studies.resume import resumed

RECORD = RECORDED / "two_processes.json"
ALGORITHM, TASK = ALGORITHMS["grpo"], ChainSum(5)
MOST_STEPS = 200  # TRL wants to know how many prompts there may be
CURVE = ("tokens", "reward", "length", "entropy", "seconds")
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--max_restarts", "3"]


def in_trl(seed: int, tokens: int, problems: int) -> tuple[list[dict], dict]:
    """Rows of metrics and the evaluation at the end, of a run in TRL on two processes."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["-m", "grpo_teach.scale.trl_run", "--steps", MOST_STEPS, "--tokens", tokens, "--seed", seed]
        run += ["--problems", problems, "--quiet", "--out", folder]
        subprocess.run([sys.executable, *LAUNCH, *map(str, run)], check=True)
        return read_metrics(Path(folder)), json.loads((Path(folder) / "evaluation.json").read_text())


def here(seed: int, tokens: int, problems: int) -> tuple[list[dict], dict]:
    """The same of a run in our own engine."""
    policy, tokenizer = load_base()
    run = train(policy, tokenizer, TASK, ALGORITHM, ALGORITHM.Settings(), tokens=tokens, seed=seed, progress=False)
    return run.history, run.evaluate(problems).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs of each, seeds 0 to N-1")
    parser.add_argument("--tokens", type=int, default=120_000, help="generated tokens of a run")
    parser.add_argument("--problems", type=int, default=2048, help="held-out problems at the end")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = manifest({"tokens": args.tokens, "processes": 2, **vars(ALGORITHM.Settings())}, list(range(args.seeds)))
    about["versions"] |= {name: metadata.version(name) for name in ("trl", "accelerate")}
    about, runs = resumed(args.out, about, {"trl": [], "grpo_teach": []}, may_differ=["seed"])
    for seed in range(args.seeds):
        for who, method in (("trl", in_trl), ("grpo_teach", here)):
            if seed in [run["seed"] for run in runs[who]]:
                continue
            rows, after = method(seed, args.tokens, args.problems)
            curve = {name: [short(row[name]) for row in rows] for name in CURVE}
            ended = {"steps": len(rows), "seconds": rows[-1]["seconds"], **after}
            runs[who].append({"seed": seed, **ended, "curve": curve})
            write_json(args.out, {"manifest": about, "runs": runs}, indent=None)
            print(f"{who:10} seed {seed}  {len(rows)} steps  accuracy {after['accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()
