"""The command line: ``python -m grpo_teach {demo,compare,train,evaluate,preflight,memory,merge,…}``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from grpo_teach import large_commands, memory_command
from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.compare import compare, table
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import evaluate
from grpo_teach.fit import must_fit
from grpo_teach.flags import (
    OPTIMIZERS,
    at_least_one,
    config_of,
    given_settings,
    model_flags,
    settings_flags,
    start,
    task_flags,
    task_of,
    training_flags,
)
from grpo_teach.policy import Models, save_policy
from grpo_teach.pretrain import MIXES, pretrain
from grpo_teach.records import load_checkpoint, manifest, output_folder, write_json
from grpo_teach.tasks import TASKS
from grpo_teach.train import train

FINISHED, DIVERGED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Bad input ends with one line, not with the whole usage."""

    def error(self, message: str):
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    main = Parser(prog="python -m grpo_teach", description=__doc__.split("\n")[0])
    commands = main.add_subparsers(dest="command", required=True, parser_class=Parser)

    Defaults = argparse.ArgumentDefaultsHelpFormatter

    def command(name: str, text: str, run, policy: bool = True) -> Parser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=Defaults)
        sub.set_defaults(run=run)
        sub.add_argument("--seed", type=int, default=0, help="of everything random")
        sub.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        if policy:
            task_flags(sub)
        return sub

    demo = command("demo", "train all four algorithms and draw the curves", run_compare, policy=False)
    demo.add_argument("--tokens", type=int, default=300_000, help="generated tokens an algorithm may spend")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for curves.png and results.json")
    demo.set_defaults(algorithms=list(ALGORITHMS), policy=None, task="chain_sum", resume=False)
    demo.set_defaults(addends=None, data=None, grade=None)

    sub = command("compare", "train chosen algorithms at equal generated tokens, with your settings", run_compare)
    sub.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS), help="which")
    sub.add_argument("--tokens", type=int, default=300_000, help="generated tokens an algorithm may spend")
    sub.add_argument("--out", type=Path, default=Path("out/compare"), help="folder for curves and records")
    sub.add_argument("--resume", action="store_true", help="go on with the runs in --out")
    settings_flags(sub)

    sub = command("train", "train one algorithm, with checkpoints", run_train)
    sub.add_argument("--steps", type=int, default=60, help="batches to sample and learn from")
    sub.add_argument("--out", type=Path, default=Path("out/train"), help="folder for records and the policy")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    sub.add_argument("--checkpoint-every", type=int, default=10, help="steps between checkpoints")
    sub.add_argument("--evaluate-every", type=int, default=10, help="steps between evaluations, 0 for none")
    sub.add_argument("--problems", type=int, default=1024, help="held-out problems asked at the end, 0 for none")
    training_flags(sub)

    sub = command("evaluate", "ask a policy the fixed held-out problems", run_evaluate)
    sub.add_argument("--checkpoint", type=Path, help="a run's checkpoint.pt: the policy with the weights in it")
    sub.add_argument("--problems", type=int, default=1024, help="held-out problems")
    sub.add_argument("--samples", type=int, default=1, help="answers a problem; pass@k is given up to this k")
    sub.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    sub.add_argument("--max-new-tokens", type=int, help="longest completion, tokens; without it as the task needs")
    sub.add_argument("--out", type=Path, help="folder for evaluation.json")
    model_flags(sub)

    sub = command("memory", "predict what fills the memory, and measure it", memory_command.run, policy=False)
    memory_command.flags(sub)

    sub = command("preflight", "before a long run: will it learn, what will it take?", large_commands.run_preflight)
    large_commands.preflight_flags(sub)

    sub = command("merge", "a trained adapter into its base", large_commands.run_merge, policy=False)
    large_commands.merge_flags(sub)

    sub = command("pretrain", "make the base policy from random weights", run_pretrain, policy=False)
    sub.add_argument("--task", choices=list(MIXES), default="chain_sum", help="whose problems it reads")
    sub.add_argument("--steps", type=int, help="optimizer steps; without a number as many as the task needs")
    sub.add_argument("--width", type=int, default=128, help="hidden size, a multiple of 8")
    sub.add_argument("--out", type=Path, default=Path("out/base"), help="folder for the policy and its tokenizer")

    sub = command("record", "repeat a recorded study, or list them all", run_record, policy=False)
    sub.add_argument("name", nargs="?", help="a study of --list")
    sub.add_argument("--list", action="store_true", help="say what each study asks and how far it is recorded")
    sub.add_argument("--check", action="store_true", help="run one recorded seed (--seed) again and compare")
    sub.add_argument("--variant", help="for --check: which variant; without it the first")
    sub.add_argument("--out", type=Path, help="the file to write; without it the record that ships")
    sub.add_argument("--workers", type=int, default=2, help="runs at a time, each with one thread")
    return main


def run_compare(args: argparse.Namespace) -> dict:
    from grpo_teach.plots import learning_curves  # matplotlib takes a second to load; other commands need none

    at_least_one(args, "tokens")
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
        resume=args.resume,
        progress=not args.quiet,
    )
    write_json(folder / "results.json", results | {"manifest": manifest(settings, args.seed)})
    learning_curves(histories).savefig(folder / "curves.png")
    print(table(results))
    print(f"Curves: {folder / 'curves.png'}")
    return results


def run_train(args: argparse.Namespace) -> dict:
    at_least_one(args, "steps", "checkpoint_every", *(["problems"] if args.problems else []))
    task = task_of(args)
    config = config_of(args, task)
    must_fit(args, config, task)
    policy, tokenizer = start(args)
    run = train(
        policy,
        tokenizer,
        task,
        ALGORITHMS[args.algorithm],
        config,
        steps=args.steps,
        seed=args.seed,
        optimizer=OPTIMIZERS[args.optimizer],
        reference=not args.no_reference,
        out=args.out,
        resume=args.resume,
        checkpoint_every=args.checkpoint_every,
        evaluate_every=args.evaluate_every,
        progress=not args.quiet,
    )
    save_policy(policy, tokenizer, args.out / "policy")
    after = run.evaluate(args.problems).as_dict() if args.problems else {}
    if after:
        describe(after)
    print(f"Policy: {args.out / 'policy'}")
    return after | {"tokens": run.tokens, "steps": run.step, "seconds": round(run.seconds, 2)}


def run_evaluate(args: argparse.Namespace) -> dict:
    folder = output_folder(args.out) if args.out else None
    task, (policy, tokenizer) = task_of(args), start(args)
    if args.checkpoint:
        weights = load_checkpoint(args.checkpoint)["models"]
        Models(policy).load({name: value for name, value in weights.items() if name.startswith("policy.")})
    result = evaluate(
        policy,
        tokenizer,
        task,
        args.problems,
        args.samples,
        args.temperature,
        args.max_new_tokens if args.max_new_tokens is not None else task.max_new_tokens,
        args.seed,
    ).as_dict()
    if folder:
        write_json(folder / "evaluation.json", result | {"manifest": manifest({}, args.seed)})
    describe(result)
    return result


def describe(result: dict) -> None:
    low, high = result["interval"]
    print(f"accuracy     {result['accuracy']:.1%}")
    print(f"interval     {low:.1%} – {high:.1%} (95%, {result['problems']:,} held-out problems)")
    for k, share in result["pass_at_k"].items():
        if k > 1:
            print(f"pass@{k:<7} {share:.1%}")
    print(f"mean length  {result['mean_length']:.1f} tokens")
    print(f"thinks first {result['thinks']:.1%} of completions")
    for name, share in result["figures"].items():
        print(f"{name:<12} {share:.1%}")


def run_pretrain(args: argparse.Namespace) -> dict:
    if args.steps is not None:
        at_least_one(args, "steps")
    if args.width < 8 or args.width % 8:
        raise InputError(f"--width must be a multiple of 8: four heads of an even width each; got {args.width}")
    folder, task = output_folder(args.out), TASKS[args.task]()
    mix = MIXES[args.task]
    policy, tokenizer = pretrain(args.steps, args.seed, mix, hidden_size=args.width, progress=not args.quiet)
    save_policy(policy, tokenizer, folder)
    result = evaluate(policy, tokenizer, task, 1024, max_new_tokens=task.max_new_tokens).as_dict()
    describe(result)
    return result


def run_record(args: argparse.Namespace) -> dict:
    from grpo_teach import experiments  # scipy takes a second to load; other commands need none
    from grpo_teach.results import interval

    if args.list or not args.name:
        table = experiments.overview()
        for name, study in table.items():
            print(f"{name:24} {study['recorded']:>3} of {study['runs']:>3} runs  {study['question']}")
        return table
    if not args.check:
        at_least_one(args, "workers")
        held = experiments.record(args.name, args.out, args.workers, progress=not args.quiet)
        for label, results in held["runs"].items():
            accuracies = [result["accuracy"] for result in results]
            low, high = interval(accuracies)
            print(
                f"{label:48} {sum(accuracies) / len(accuracies):6.1%}  ({low:.1%} – {high:.1%}, {len(results)} seeds)"
            )
        return {"name": args.name, "runs": sum(map(len, held["runs"].values()))}
    result = experiments.check(args.name, args.variant, args.seed)
    low, high = result["expected"]
    inside = low <= result["accuracy"] <= high
    if not (result["same"] or (inside and not result["same_machine"])):
        where = "inside" if inside else "outside"
        raise InputError(f"the run differs: accuracy {result['accuracy']:.1%}, {where} {low:.1%} – {high:.1%}")
    exactly = "number for number" if result["same"] else f"within {low:.1%} – {high:.1%}, on another machine"
    print(f"repeated: accuracy {result['accuracy']:.1%}, {exactly}")
    return result


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        result = args.run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except TrainingDiverged as error:
        print(f"stopped: {error}", file=sys.stderr)
        return DIVERGED
    except torch.cuda.OutOfMemoryError:
        print("error: the GPU's memory is full: ask for fewer rows a pass, prompts or new tokens", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    if args.json:
        print(json.dumps(result))
    return FINISHED


if __name__ == "__main__":
    sys.exit(main())
