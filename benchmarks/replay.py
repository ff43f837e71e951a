"""Record the run that chapter 00 replays: ``python benchmarks/replay.py``, into ``grpo_teach/recorded/replay.json``."""

from __future__ import annotations

import torch

from grpo_teach import ALGORITHMS, ChainSum, evaluate, load_base, sample, train
from grpo_teach.records import RECORDED, manifest, short, write_json


def record_run(seed: int = 0, steps: int = 60, every: int = 3, shown: int = 3, problems: int = 256) -> dict:
    """Train the base once on chain sums with GRPO's defaults, and note on the way how well it does and what it writes.

    Looking changes nothing in the training: it draws from random numbers of its own.

    Args:
        seed: of the training.
        steps: batches trained on.
        every: steps between two looks; the first is before the first step.
        shown: held-out questions whose answer is kept, the first ones of the test set.
        problems: held-out questions asked for the accuracy and the mean length, tokens.
    Returns:
        A record: manifest, and the run with its ``questions`` and its ``looks``.
    """
    config = {"task": "chain_sum", "algorithm": "grpo", "steps": steps, "every": every, "problems": problems}
    task, grpo, (policy, tokenizer) = ChainSum(), ALGORITHMS["grpo"], load_base()
    asked, looks = task.test_set(shown), []

    def look(step: int):
        if step % every:
            return
        found = evaluate(policy, tokenizer, task, problems)
        with torch.random.fork_rng():
            torch.manual_seed(step)
            texts = sample(policy, tokenizer, [problem.prompt for problem in asked]).texts(tokenizer)
        right = [task.right(*pair) for pair in zip(texts, asked, strict=True)]
        seen = {"step": step, "accuracy": short(found.accuracy), "length": short(found.mean_length)}
        looks.append(seen | {"answers": texts, "right": right})

    look(0)
    told = [lambda row: look(row["step"] + 1)]  # a step's row is told after its update
    run = train(policy, tokenizer, task, grpo, grpo.Settings(), steps=steps, seed=seed, callbacks=told)
    made = {"seed": seed, "seconds": round(run.seconds, 1), "questions": asked, "looks": looks}
    return {"manifest": manifest(config, [seed]), "runs": [made]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_json(RECORDED / "replay.json", record_run(), indent=None)
