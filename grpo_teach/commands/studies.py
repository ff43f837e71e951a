"""The commands about many runs: ``demo``, ``compare``, ``pretrain`` and ``record``."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.commands.flags import at_least, given_settings, settings_flags, start, task_of
from grpo_teach.commands.training import describe
from grpo_teach.errors import InputError
from grpo_teach.evaluate import evaluate
from grpo_teach.large.folders import free_folder
from grpo_teach.policy import save_policy
from grpo_teach.records import manifest, output_folder, write_json
from grpo_teach.studies.compare import compare, table
from grpo_teach.studies.pretrain import MIXES, pretrain

__all__ = ["add"]


def add(command) -> None:
    """The four commands, each with its own flags."""
    demo = command("demo", "train all four algorithms and draw the curves", run_compare, policy=False)
    demo.add_argument("--tokens", type=int, default=300_000, help="generated tokens an algorithm may spend")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for curves.png and results.json")
    demo.set_defaults(algorithms=list(ALGORITHMS), policy=None, task="chain_sum")
    demo.set_defaults(addends=None, data=None, grade=None)

    sub = command("compare", "train chosen algorithms at equal generated tokens, with your settings", run_compare)
    sub.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS), help="which")
    sub.add_argument("--tokens", type=int, default=300_000, help="generated tokens an algorithm may spend")
    sub.add_argument("--out", type=Path, default=Path("out/compare"), help="folder for curves and records")
    sub.add_argument("--resume", action="store_true", help="go on with the runs in --out")
    settings_flags(sub)

    sub = command("pretrain", "make the base policy from random weights", run_pretrain, policy=False)
    sub.add_argument("--task", choices=list(MIXES), default="chain_sum", help="whose problems it reads")
    sub.add_argument("--steps", type=int, help="optimizer steps; without a number as many as the task needs")
    sub.add_argument("--width", type=int, help="hidden size, a multiple of 8; without a number as the task needs")
    sub.add_argument("--out", type=Path, default=Path("out/base"), help="folder for the policy and its tokenizer")

    sub = command("record", "repeat a recorded study, or list them all", run_record, policy=False)
    sub.add_argument("name", nargs="?", help="a study of --list")
    sub.add_argument("--list", action="store_true", help="say what each study asks and how far it is recorded")
    sub.add_argument("--check", action="store_true", help="run one recorded seed (--seed) again and compare")
    sub.add_argument("--variant", help="for --check: which variant; without it the first")
    sub.add_argument("--out", type=Path, help="the file to write; without it the record that ships")
    sub.add_argument("--workers", type=int, default=2, help="runs at a time, each with one thread")


def run_compare(args: argparse.Namespace) -> dict:
    from grpo_teach.figures.curves import learning_curves  # matplotlib takes a second to load; other commands need none

    at_least(1, args, "tokens")
    folder = output_folder(args.out)
    task, keep = task_of(args), args.command == "compare"
    settings = {"max_new_tokens": task.max_new_tokens} | given_settings(args)
    results, histories = compare(
        args.algorithms,
        task,
        args.tokens,
        args.seed,
        load=lambda: start(args),
        settings=settings,
        out=folder if keep else None,
        resume=keep and args.resume,
        progress=not args.quiet,
    )
    write_json(folder / "results.json", results | {"manifest": manifest(settings, args.seed)})
    learning_curves(histories).savefig(folder / "curves.png")
    print(table(results))
    print(f"Curves: {folder / 'curves.png'}")
    return results


def run_pretrain(args: argparse.Namespace) -> dict:
    at_least(1, args, "steps")
    if args.width is not None and (args.width < 8 or args.width % 8):
        raise InputError(f"--width must be a multiple of 8: four heads of an even width each; got {args.width}")
    folder, mix = free_folder(args.out), MIXES[args.task]
    task = type(mix.task)()
    policy, tokenizer = pretrain(args.steps, args.seed, mix, hidden_size=args.width, progress=not args.quiet)
    save_policy(policy, tokenizer, folder)
    result = evaluate(policy, tokenizer, task, 1024, max_new_tokens=task.max_new_tokens).as_dict()
    describe(result)
    return result


def run_record(args: argparse.Namespace) -> dict:
    from grpo_teach.studies import run as experiments  # scipy takes a second to load; other commands need none
    from grpo_teach.studies.results import interval

    if args.list or not args.name:
        table = experiments.overview()
        for name, study in table.items():
            print(f"{name:24} {study['recorded']:>3} of {study['runs']:>3} runs  {study['question']}")
        return table
    if not args.check:
        at_least(1, args, "workers")
        held = experiments.record(args.name, args.out, args.workers, progress=not args.quiet)
        for label, results in held["runs"].items():
            accuracies = [result["accuracy"] for result in results]
            known = "{:.1%} – {:.1%}, ".format(*interval(accuracies)) if len(accuracies) > 1 else ""
            print(f"{label:48} {sum(accuracies) / len(accuracies):6.1%}  ({known}{len(results)} seeds)")
        return {"name": args.name, "runs": sum(map(len, held["runs"].values()))}
    result = experiments.check(args.name, args.variant, args.seed)
    (low, high), seeds, ended = result["recorded"], result["seeds"], f"accuracy {result['accuracy']:.1%}"
    if result["same"]:
        print(f"{ended}, number for number as recorded")
        return result
    where = (
        f"{'inside' if low <= result['accuracy'] <= high else 'outside'} the {low:.1%} – {high:.1%} of {seeds} seeds"
    )
    if result["same_machine"]:
        raise InputError(f"the run differs, with processor and versions of the same names: {ended}, {where}")
    print(f"{ended}, {where} recorded on another machine or with other versions. There the same seed is another run:")
    print(f"of {seeds + 1} such runs one lies outside the range of all others in up to 2 cases of {seeds + 1}.")
    print("So a single run can neither confirm the record nor refute it.")
    return result
