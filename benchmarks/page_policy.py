"""Train the policy that the book's first page ships: ``python benchmarks/page_policy.py [--seed S]``.

GRPO with the defaults on the small base of width 64. Writes ``grpo_teach/recorded/page_policy.json``: manifest,
metrics of each step, the held-out accuracy before and after, and the weights in 16 bits. One run of one seed: a
demonstration, not a result.
"""

from __future__ import annotations

import argparse

from grpo_teach import ALGORITHMS, TASKS, evaluate, load_base, records, train
from grpo_teach.figures.page_policy import BASE, packed

STEPS = 80
PROBLEMS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (policy, tokenizer), task, grpo = load_base(BASE), TASKS["chain_sum"](), ALGORITHMS["grpo"]
    before = evaluate(policy, tokenizer, task, PROBLEMS)
    trainer = train(policy, tokenizer, task, grpo, grpo.Settings(), steps=STEPS, seed=args.seed)
    after = evaluate(policy, tokenizer, task, PROBLEMS)
    run = {
        "seed": args.seed,
        "seconds": trainer.seconds,
        "before": before.as_dict(),
        "after": after.as_dict(),
        "history": trainer.history,
        "policy": packed(policy, tokenizer),
    }
    manifest = records.manifest(trainer.identity() | {"base": BASE, "steps": STEPS}, [args.seed])
    records.write_json(records.RECORDED / "page_policy.json", {"manifest": manifest, "runs": [run]})
    print(f"before: {before}\nafter:  {after}")


if __name__ == "__main__":
    main()
