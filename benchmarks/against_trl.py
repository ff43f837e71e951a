"""Seconds and accuracy beside TRL's ``GRPOTrainer``: ``python benchmarks/against_trl.py [--rounds N]``.

Both start from the shipped base and take the same number of steps with the same settings: 16 prompts of 5 addends
with 16 samples, at most 32 new tokens, AdamW, all tokens weighing the same, no KL term. The two are run in turn in
one process, so that a machine that slows down slows both. The record is ``benchmarks/against_trl.json``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from grpo_teach import ALGORITHMS, ChainSum, evaluate, load_base, train
from grpo_teach.records import manifest, write_json
from grpo_teach.scale.export import to_trl
from grpo_teach.scale.trl_run import prompts, reward_function

RECORD = Path(__file__).with_suffix(".json")
TASK, ALGORITHM = ChainSum(5), ALGORITHMS["grpo"]
CONFIG = ALGORITHM.Settings()


def with_trl(seed: int, steps: int):
    """Train with TRL. Returns the policy, its tokenizer and the seconds of ``train()``."""
    policy, tokenizer = load_base()
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=steps,
            **to_trl(CONFIG, steps, seed),
        )
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=reward_function(TASK),
            args=arguments,
            train_dataset=Dataset.from_list(prompts(TASK, CONFIG, steps, seed)),
            processing_class=tokenizer,
        )
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return policy, tokenizer, seconds


def with_ours(seed: int, steps: int):
    """Train with this package. Returns the policy, its tokenizer and the seconds of ``train()``."""
    policy, tokenizer = load_base()
    started = time.perf_counter()
    train(policy, tokenizer, TASK, ALGORITHM, CONFIG, steps=steps, seed=seed, progress=False)
    return policy, tokenizer, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, seeds 0 to N-1")
    parser.add_argument("--steps", type=int, default=60, help="steps a run")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for warm_up in (with_trl, with_ours):
        warm_up(seed=99, steps=2)
    runs = []
    for seed in range(args.rounds):
        for name, method in (("trl", with_trl), ("grpo_teach", with_ours)):
            policy, tokenizer, seconds = method(seed, args.steps)
            after = evaluate(policy.eval(), tokenizer, TASK, 1024)
            runs.append({"who": name, "seed": seed, "seconds": round(seconds, 2), **after.as_dict()})
            print(f"{name:10} seed {seed}  {seconds:6.1f} s  accuracy {after.accuracy:.3f}", flush=True)
    seconds = {name: [run["seconds"] for run in runs if run["who"] == name] for name in ("grpo_teach", "trl")}
    ratios = [ours / theirs for ours, theirs in zip(seconds["grpo_teach"], seconds["trl"], strict=True)]
    print(f"seconds, this package over TRL: median {statistics.median(ratios):.2f}, largest {max(ratios):.2f}")
    record = manifest({"steps": args.steps, **vars(CONFIG)}, list(range(args.rounds)))
    record["versions"]["trl"] = metadata.version("trl")
    write_json(args.out, {"manifest": record, "ratios": ratios, "runs": runs})


if __name__ == "__main__":
    main()
