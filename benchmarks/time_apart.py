"""Where does a step's time go? ``python benchmarks/time_apart.py``: sampling and update timed apart.

One batch is sampled, and its time noted. Then every algorithm takes its update on that same batch, from the same
weights, with one pass and with four: so passes are matched, and nothing but the update differs. This is done with the
base of the chain sum, most of whose groups are mixed, and with a policy that imitation has brought to nine right
answers in ten, whose groups are mostly equal, so that rows can be left out. One thread; leave the machine alone.

The record is ``grpo_teach/recorded/time_apart.json``: seconds, one a repeat, and tokens.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from tqdm import tqdm

from grpo_teach import ALGORITHMS, ChainSum, load_base, train
from grpo_teach.policy import Models
from grpo_teach.records import RECORDED, manifest, write_json
from grpo_teach.train import Trainer, mixed_groups

UPDATES = {
    "GRPO": ("grpo", {}),
    "PPO, value head": ("ppo", {"critic": "detached"}),
    "PPO, separate critic": ("ppo", {"critic": "separate"}),
    "policy gradient": ("policy_gradient", {}),
    "SFT": ("sft", {}),
}
EPOCHS = (1, 4)
BATCHES = 5  # timed together: a single one takes a fraction of a second


def trainer(policy, tokenizer, name: str, settings: dict, seed: int) -> Trainer:
    algorithm = ALGORITHMS[name]
    config = algorithm.Settings(**settings)
    models = Models.build(policy, config.critic, reference=False)
    return Trainer(models, algorithm, config, tokenizer=tokenizer, task=ChainSum(), seed=seed)


def repeat(policy, tokenizer, seed: int) -> dict:
    """Seconds of sampling some batches, and of each update on them from the same weights."""
    sampler = trainer(policy, tokenizer, "grpo", {}, seed)
    sampler.sample()  # the first call of a process is slower
    started = time.perf_counter()
    batches = [sampler.sample() for _ in range(BATCHES)]
    found = {"sampling": time.perf_counter() - started, "tokens": sum(rollouts.tokens for _, rollouts in batches)}
    rewards = [sampler.rewarded(rollouts.texts(tokenizer), problems) for problems, rollouts in batches]
    found["mixed_groups"] = sum(map(mixed_groups, rewards)) / BATCHES
    for label, (name, settings) in UPDATES.items():
        for epochs in EPOCHS:
            seconds = 0.0
            for (_, rollouts), reward in zip(batches, rewards, strict=True):
                learner = trainer(copy.deepcopy(policy), tokenizer, name, settings | {"epochs": epochs}, seed)
                started = time.perf_counter()
                learner.learn(rollouts, reward)
                seconds += time.perf_counter() - started
            found[f"{label}, {epochs}"] = seconds
    timed = sum(value for key, value in found.items() if key not in ("tokens", "mixed_groups"))
    return {"seed": seed, "seconds": timed} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="of everything, seeds 0 to N-1")
    parser.add_argument("--out", type=Path, default=RECORDED / "time_apart.json", help="the record to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base, tokenizer = load_base()
    trained = copy.deepcopy(base)
    sft = ALGORITHMS["sft"]
    train(trained, tokenizer, ChainSum(), sft, sft.Settings(), steps=25, seed=100, progress=False)
    stages = {"base": base, "trained": trained}
    bar = tqdm(total=len(stages) * args.repeats, desc="time apart", unit=" repeat")
    runs = {name: [] for name in stages}
    for seed in range(args.repeats):
        for name, policy in stages.items():
            runs[name].append(repeat(policy, tokenizer, seed))
            bar.update()
    bar.close()
    about = manifest({"epochs": EPOCHS, "batches": BATCHES, "prompts": 16, "group_size": 16}, list(range(args.repeats)))
    write_json(args.out, {"manifest": about, "runs": runs})
    for name, results in runs.items():
        shown = {key: sum(r[key] for r in results) / len(results) for key in results[0]}
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in shown.items()))


if __name__ == "__main__":
    main()
