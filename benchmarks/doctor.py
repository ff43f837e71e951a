"""How good is the doctor? ``python benchmarks/doctor.py [--baseline FOLDER]``: runs with bugs and without, judged.

Every bug is put into GRPO on the chain sum; healthy runs are of three tasks and all algorithms, and of GRPO with the
settings that some bugs need. The record keeps their curves, so that a doctor can be tried on them again without a run.
No threshold of the doctor's was chosen on these seeds: those that needed data had it from other studies, and from runs
with seeds from 100 on.

The baseline is microsoft/post-training-toolkit (MIT licence). What PyPI has under that name is another package, so
clone the repository, and name the folder. Its rules get the curves under its own names, and three that they ask for.

The record is ``grpo_teach/recorded/clinic.json``. It is written after every run; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import torch

from grpo_teach import ALGORITHMS, TASKS, load_base, train
from grpo_teach.bugs import BUGS
from grpo_teach.bugs.scored import baseline, doctor, flagged, packed, share
from grpo_teach.clinic.curves import EVALUATED
from grpo_teach.errors import TrainingDiverged
from grpo_teach.records import RECORDED, bar, manifest, write_json
from grpo_teach.studies.resume import resumed
from grpo_teach.train import Trainer

STEPS, EVERY, PROBLEMS = 60, 10, 256  # 60: some of the baseline's rules want as many
OWN = {"epochs 4": {"epochs": 4, "learning_rate": 2e-4}, "beta 0.04": {"beta": 0.04}, "cool": {"temperature": 0.7}}
OWN |= {"slow": {"learning_rate": 1e-4}}
HEALTHY = {f"{task}, {name}": (task, name, {}) for task in ("chain_sum", "addition", "equation") for name in ALGORITHMS}
HEALTHY |= {f"chain_sum, grpo, {label}": ("chain_sum", "grpo", settings) for label, settings in OWN.items()}
VARIANTS = {name: ("chain_sum", "grpo", bug.settings) for name, bug in BUGS.items()} | HEALTHY
THEIRS = {"reward_mean": "reward", "group_reward_mean": "reward", "completion_length": "length", "grpo_loss": "loss"}
THEIRS |= {"output_length_mean": "length", "sft_loss": "loss", "ppo_loss": "loss"}


class Watched(Trainer):
    """Notes what the baseline's rules ask for beside the curves: two spreads of the rewards, and what was cut off."""

    def look(self, rollouts, texts, rewards):
        row = super().look(rollouts, texts, rewards)
        row |= {"reward_std": float(rewards.std()), "group_reward_std": float(rewards.std(dim=1).mean())}
        return row | {"truncation_rate": float((rollouts.lengths >= self.config.max_new_tokens).float().mean())}


def made(label: str, seed: int, steps: int) -> tuple[dict, dict]:
    """One run's result and configuration; a run that diverged ends where it did."""
    task_name, name, settings = VARIANTS[label]
    (policy, tokenizer), task, algorithm, rows = load_base(task_name), TASKS[task_name](), ALGORITHMS[name], []
    config = algorithm.Settings(**{"max_new_tokens": task.max_new_tokens} | settings)
    about, started = {}, time.perf_counter()

    def kind(*given, **named):
        trainer = Watched(*given, **named)
        about.update(trainer.identity())
        return trainer

    watch = {"evaluate_every": EVERY, "problems": PROBLEMS, "callbacks": [rows.append], "progress": False}
    with BUGS[label].injected() if label in BUGS else contextlib.nullcontext(), contextlib.suppress(TrainingDiverged):
        train(policy, tokenizer, task, algorithm, config, steps=steps, seed=seed, kind=kind, **watch)
    for row in rows:
        graded = row.pop("evaluation", {})
        row |= {name: graded[key] for key, name in EVALUATED.items() if key in graded}
        del row["seconds"]
    return {"seed": seed, "seconds": round(time.perf_counter() - started, 1), "curves": packed(rows)}, about


def verdicts(label: str, curves: dict[str, list]) -> list[tuple[str, str]]:
    """What the baseline says of a run: names and severities."""
    from pandas import DataFrame
    from post_training_toolkit.models.heuristics import run_heuristics

    table = DataFrame(curves | {theirs: curves[ours] for theirs, ours in THEIRS.items()})
    name = VARIANTS[label][1]
    found = run_heuristics(table, {"policy_gradient": "grpo"}.get(name, name))
    return [(insight.type, insight.severity) for insight in found]


def table(record: dict) -> str:
    """What both say of the runs, by label, and of all together with Wilson intervals."""
    judges = {"doctor": flagged(record, doctor)}
    if all("baseline" in result for results in record["runs"].values() for result in results):
        judges["baseline"] = flagged(record, baseline)
    lines = [f"{'':28} {'runs':>4}" + "".join(f" {name:>9}" for name in judges) + "  the doctor's signs"]
    for label, several in judges["doctor"].items():
        counts = "".join(f" {sum(map(bool, found[label])):>9}" for found in judges.values())
        lines.append(f"{label:28} {len(several):>4}{counts}  {', '.join(sorted(set(sum(several, []))))}")
    for name, found in judges.items():
        for what, bugs in (("bugs caught", True), ("false alarms", False)):
            with contextlib.suppress(ZeroDivisionError):
                k, n, low, high = share(found, bugs)
                lines.append(f"{name}: {what} {k} of {n} runs, {k / n:.0%} ({low:.0%} to {high:.0%})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs a variant, seeds from --first on")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="these variants")
    parser.add_argument("--baseline", type=Path, help="a clone of microsoft/post-training-toolkit")
    parser.add_argument("--out", type=Path, default=RECORDED / "clinic.json", help="the record to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = list(range(args.first, args.first + args.seeds))
    sizes = {"steps": args.steps, "evaluate_every": EVERY, "problems": PROBLEMS}
    about = manifest(sizes | {"variants": {label: list(VARIANTS[label]) for label in args.only}}, seeds)
    about, runs = resumed(args.out, about, {label: [] for label in args.only}, may_differ=["seed"])
    configs = json.loads(args.out.read_text(encoding="utf-8"))["configs"] if args.out.exists() else {}
    shown = bar("clinic", "run", len(args.only) * len(seeds), sum(map(len, runs.values())))
    for seed in seeds:
        for label in args.only:
            if seed not in {result["seed"] for result in runs[label]}:
                result, configs[label] = made(label, seed, args.steps)
                runs[label].append(result)
                write_json(args.out, {"manifest": about, "configs": configs, "runs": runs}, indent=None)
                shown.update()
    shown.close()
    if args.baseline:
        sys.path.insert(0, str(args.baseline))
        for label, results in runs.items():
            for result in results:
                result["baseline"] = verdicts(label, result["curves"])
        write_json(args.out, {"manifest": about, "configs": configs, "runs": runs}, indent=None)
    print(table({"configs": configs, "runs": runs}))


if __name__ == "__main__":
    main()
