"""A model that somebody else pretrained: a short cold start, then reinforcement learning, on two CPU cores.

The policy is SmolLM2-135M-Instruct, the problems are two-step stories, the reward asks for form and number. A run is
hours of one core, so it keeps a checkpoint and goes on from it.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
import zlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS, SFT
from grpo_teach.evaluate import answers
from grpo_teach.large import load_large
from grpo_teach.large.cold_start import worked_solutions
from grpo_teach.large.smollm2 import NAME, cache
from grpo_teach.supervise import supervise
from grpo_teach.tasks import WordProblems
from grpo_teach.train import mixed_groups, train

__all__ = ["Real", "asked"]

SYSTEM = "Work it out between <think> and </think>. Then write one number between <answer> and </answer>."
CURVE = ("reward", "length", "entropy", "mixed_groups", "grad_norm", "clip_fraction", "explained_variance")
ASKED = ("problems", "samples", "wide", "practice", "also_asked")  # they change no training
EVERY = 5  # steps between checkpoints
BATCH = 8  # solutions a step of the cold start


@dataclass(frozen=True)
class Real:
    """A run from the pretrained model on; each notes its own device, for a record may be made over several sittings.

    Attributes:
        algorithm: a name in ``ALGORITHMS``, or ``"none"``: then it ends with the cold start.
        settings: those that differ from the algorithm's defaults.
        method: ``"lora"``, or ``"full"``: all weights.
        data: the problems, a source of :class:`grpo_teach.tasks.WordProblems`.
        cold: steps of SFT on 8 worked solutions each, the same ones in every run.
        cold_rate: their learning rate.
        steps, tokens: the run ends when either is reached; the cold start is not counted.
        limit: longest completion, tokens.
        problems, samples: held-out problems at the end, and answers to each, for the accuracy.
        wide: problems that get 8 answers each, for pass@8 and the share of mixed groups.
        practice: ask training problems in their place, to choose settings.
        also_asked: other sources, each with problems, samples and the longest completion.
    """

    algorithm: str = "grpo"
    settings: dict = field(default_factory=dict)
    method: str = "lora"
    data: str = "stories"
    cold: int = 12
    cold_rate: float = 5e-4
    steps: int | None = None
    tokens: int | None = None
    limit: int = 40
    problems: int = 512
    samples: int = 2
    wide: int = 128
    practice: bool = False
    also_asked: dict = field(default_factory=dict)
    may_differ: ClassVar = ("device",)

    def start(self):
        """``(policy, tokenizer, task)`` after the cold start."""
        options = {"rank": 16, "rows_a_pass": 32, "chunk": 512, "checkpointing": False, "share_prompts": True}
        policy, tokenizer = load_large(NAME, self.method, "float32", "cpu", **options)
        task = WordProblems(tokenizer, self.data, system=SYSTEM)

        if self.cold:
            rate, draw = SFT(learning_rate=self.cold_rate), worked_solutions(task, BATCH)
            supervise(policy, tokenizer, draw, rate, steps=self.cold, seed=0, name="cold start", progress=False)
        return policy, tokenizer, task

    def run(self, seed: int, progress: bool = False) -> dict:
        """Train and measure.

        Returns:
            Plain numbers: what :func:`asked` gives on the held-out problems, ``wide`` with more answers to each, the
            same for each source in ``also_asked``; ``tokens`` and ``steps`` of the training, ``seconds`` with
            loading and cold start, the ``device`` of this run; and the ``curve``, a number for each step.
        """
        began = time.perf_counter()
        policy, tokenizer, task = self.start()
        rows, begun = [], time.perf_counter() - began
        if self.algorithm != "none":
            made = records.manifest({name: value for name, value in vars(self).items() if name not in ASKED}, seed)
            about = zlib.crc32(json.dumps(made, sort_keys=True).encode())  # other code or versions: another run
            folder = cache() / f"run-{about:08x}"
            algorithm = ALGORITHMS[self.algorithm]
            config = algorithm.Settings(max_new_tokens=self.limit, **self.settings)
            end = {"steps": self.steps, "tokens": self.tokens, "seed": seed}
            kept = {"out": folder, "resume": True, "checkpoint_every": EVERY}
            # The reference would be the model before its cold start, and cost a pass over each batch.
            rows = train(
                policy, tokenizer, task, algorithm, config, **end, **kept, reference=False, progress=progress
            ).history
        measure = functools.partial(asked, policy, tokenizer, practice=self.practice)
        found = {"seed": seed} | measure(task, self.problems, self.samples, self.limit)
        found["wide"] = measure(task, self.wide, 8, self.limit)
        for source, (problems, samples, limit) in self.also_asked.items():
            other = WordProblems(tokenizer, source, system=SYSTEM)
            found[source] = measure(other, problems, samples, limit)
        last = rows[-1] if rows else {"tokens": 0, "seconds": 0.0}
        found |= {"tokens": last["tokens"], "steps": len(rows), "seconds": round(begun + last["seconds"], 1)}
        found["device"] = records.manifest({}, seed)["device"]
        if self.algorithm != "none":
            shutil.rmtree(folder)  # what is asked for again is made again
        curve = {name: [records.short(row.get(name, 0.0)) for row in rows] for name in (*CURVE, "tokens", "seconds")}
        return found | {"curve": curve}


def asked(policy, tokenizer, task, problems: int, samples: int, limit: int, practice: bool = False) -> dict:
    """Sample answers at temperature 1 to held-out problems, or to the last ones of the training split.

    Returns:
        ``problems`` and ``samples``; shares of all answers: ``accuracy`` (strict), ``lenient``, ``format``,
        ``cut_off`` (as long as the limit); of problems: ``solved``, pass@k for k = ``samples``, and ``mixed``;
        ``entropy`` in nats a token, ``length`` in tokens, and ``texts``, one answer to each of the first four.
    """
    chosen = task.splits["train"][-problems:] if practice else task.test_set(problems)
    rewards, figures, entropy, tokens, cut, texts = [], [], 0.0, 0, 0, []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part, rollouts, said in answers(policy, tokenizer, chosen, samples, limit, 1.0):
            rewards.append(task.reward(said, part))
            figures += [task.figures(text, part[i // samples]) for i, text in enumerate(said)]
            entropy -= float(rollouts.old_logprobs.sum())
            tokens += rollouts.tokens
            cut += int((rollouts.mask.sum(dim=1) == limit).sum())
            texts += said[::samples]
    rewards = torch.cat(rewards)
    found = {
        "accuracy": float(rewards.mean()),
        **{name: sum(row[name] for row in figures) / len(figures) for name in ("lenient", "format")},
        "solved": float(rewards.max(dim=1).values.mean()),
        "mixed": mixed_groups(rewards),
        "entropy": entropy / tokens,
        "length": tokens / len(figures),
        "cut_off": cut / len(figures),
    }
    found = {name: records.short(value) for name, value in found.items()}
    return {"problems": len(chosen), "samples": samples} | found | {"texts": texts[:4]}
