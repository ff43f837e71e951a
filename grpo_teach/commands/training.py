"""The commands about one run: ``supervise``, ``train``, ``evaluate``, ``preflight`` and ``merge``."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.clinic.fit import most_rows, must_fit
from grpo_teach.clinic.preflight import preflight
from grpo_teach.commands.flags import (
    add_flags,
    at_least,
    chosen_tokenizer,
    config_of,
    evaluated,
    evaluation_flags,
    given,
    model_flags,
    model_options,
    reward_of,
    start,
    task_of,
    training_flags,
)
from grpo_teach.errors import InputError
from grpo_teach.evaluate import evaluate
from grpo_teach.large import DTYPES, OPTIMIZERS
from grpo_teach.large.cold_start import worked_solutions
from grpo_teach.large.folders import free_folder
from grpo_teach.large.long_run import GREEDY, LongRun, Watch, stop_on_interrupt
from grpo_teach.large.merge import merge
from grpo_teach.policy import Models, save_policy
from grpo_teach.records import load_checkpoint, manifest, output_folder, write_json
from grpo_teach.supervise import supervise
from grpo_teach.train import fingerprint, train

__all__ = ["add", "describe"]


def add(command) -> None:
    """The five commands, each with its own flags."""
    sub = command("supervise", "a cold start: SFT on worked solutions of training problems", run_supervise)
    sub.add_argument("--steps", type=int, default=16, help="batches of solutions")
    sub.add_argument("--batch", type=int, default=8, help="solutions a step")
    sub.add_argument("--learning-rate", type=float, default=5e-4, help="AdamW step size, dimensionless")
    sub.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw", help="32- or 8-bit states")
    sub.add_argument("--problems", type=int, default=256, help="held-out problems asked before and after, 0 for none")
    sub.add_argument("--max-new-tokens", type=int, help="longest answer to them, tokens; without it as the task needs")
    sub.add_argument("--out", type=Path, default=Path("out/supervise"), help="folder for records and the policy")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    sub.add_argument("--checkpoint-every", type=int, default=5, help="steps between checkpoints")
    model_flags(sub)

    sub = command("train", "train one algorithm, with checkpoints", run_train)
    sub.add_argument("--steps", type=int, default=60, help="batches to sample and learn from")
    sub.add_argument("--out", type=Path, default=Path("out/train"), help="folder for records and the policy")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    sub.add_argument("--checkpoint-every", type=int, default=10, help="steps between checkpoints")
    evaluation_flags(sub)
    reward = "pay by a function of yours, (completions, problems) -> [P, G]: FILE.py:NAME or MODULE:NAME"
    sub.add_argument("--reward", metavar="WHERE:NAME", help=reward)
    add_flags(sub.add_argument_group("a long run"), Watch)
    training_flags(sub)

    sub = command("evaluate", "ask a policy the fixed held-out problems", run_evaluate)
    sub.add_argument("--checkpoint", type=Path, help="a run's checkpoint.pt: the policy with the weights in it")
    sub.add_argument("--problems", type=int, default=1024, help="held-out problems")
    sub.add_argument("--samples", type=int, default=1, help="answers a problem; pass@k is given up to this k")
    sub.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    sub.add_argument("--greedy", action="store_true", help="ask for the likeliest answer in place of sampling")
    sub.add_argument("--max-new-tokens", type=int, help="longest completion, tokens; without it as the task needs")
    sub.add_argument("--out", type=Path, help="folder for evaluation.json")
    model_flags(sub)

    sub = command("preflight", "before a long run: will it learn, what will it take?", run_preflight)
    sub.add_argument("--problems", type=int, default=32, help="training prompts to ask")
    sub.add_argument("--samples", type=int, help="answers to each; without a number the group size")
    sub.add_argument("--steps", type=int, default=200, help="of the run whose hours are estimated")
    evaluation_flags(sub, "test_problems")
    sub.add_argument("--out", type=Path, help="folder for preflight.json")
    training_flags(sub)

    sub = command("merge", "a trained adapter into its base", run_merge, policy=False)
    sub.add_argument("--policy", type=Path, required=True, help="folder of a trained adapter")
    sub.add_argument("--out", type=Path, required=True, help="folder for the whole model and its tokenizer")
    sub.add_argument("--dtype", choices=DTYPES, default="auto", help="of the merged weights; auto: as the base's")


def evaluations(args: argparse.Namespace, task, at_the_end: int) -> list[int]:
    """The problems that each evaluation of a run asks: every ``--evaluate-every`` steps, before and after."""
    during = -(-args.steps // args.evaluate_every) if args.evaluate_every else 0
    sizes = {n: len(task.test_set(n)) for n in (args.during, at_the_end) if n}  # a test set may be smaller
    apart = 1 if during and args.during == at_the_end else 2  # the first may be the one before
    return [sizes[n] for n in [args.during] * during + [at_the_end] * apart if n]


def fits(args: argparse.Namespace, config, task, asked: int = 0) -> None:
    """Refuse ``--model`` before it is loaded if the run will not fit, by its longest prompt.

    Without ``--rows-a-pass`` take as many rows as fit. ``asked``: problems that the largest evaluation asks.
    """
    options = model_options(args)
    if options is not None:
        known = getattr(task, "splits", None)  # of word problems every prompt, of others a few
        problems = sum(known.values(), []) if known else task.sample(64, torch.Generator().manual_seed(args.seed))
        prompts = [problem.prompt for problem in problems]
        longest = max(len(ids) for ids in chosen_tokenizer(args)(prompts)["input_ids"])
        rest = args.optimizer, not args.no_reference, longest, asked
        if "rows_a_pass" not in args:
            args.rows_a_pass = most_rows(args.model, args.algorithm, config, options, *rest)
            if not args.quiet:
                print(f"rows a pass: {args.rows_a_pass}, by the memory that is free; --rows-a-pass sets another")
        must_fit(args.model, args.algorithm, config, model_options(args), *rest)


def run_supervise(args: argparse.Namespace) -> dict:
    """SFT on worked solutions, with an evaluation before and one after."""
    at_least(1, args, "steps", "batch", "checkpoint_every", "max_new_tokens")
    at_least(0, args, "problems")
    config = ALGORITHMS["sft"].Settings(learning_rate=args.learning_rate)
    task, folder = task_of(args), free_folder(args.out, args.model or args.policy, args.resume)
    policy, tokenizer = start(args)
    settings = {"steps": args.steps, "batch": args.batch, "learning_rate": args.learning_rate, "task": repr(task)}
    about = settings | {"seed": args.seed, "optimizer": args.optimizer, "starting_weights": fingerprint(policy)}
    checkpoint = folder / "checkpoint.pt"

    def asked() -> dict:
        how = {"max_new_tokens": args.max_new_tokens or task.max_new_tokens, "progress": not args.quiet}
        return evaluate(policy, tokenizer, task, args.problems, **how).as_dict() if args.problems else {}

    before, optimizer = asked(), OPTIMIZERS[args.optimizer]
    run = {"steps": args.steps, "seed": args.seed, "optimizer": optimizer, "name": "cold start"}
    run |= {"checkpoint": checkpoint, "checkpoint_every": args.checkpoint_every, "about": about}
    rows = supervise(policy, tokenizer, worked_solutions(task, args.batch), config, **run, progress=not args.quiet)
    save_policy(policy, tokenizer, folder / "policy")
    found = {"before": before, "after": asked(), "loss": rows[-1]["loss"], "tokens": rows[-1]["tokens"]}
    write_json(folder / "supervise.json", found | {"manifest": manifest(settings, args.seed)})
    checkpoint.unlink()  # what has ended needs none
    if args.problems:
        beside(found["before"], found["after"])
    print(f"Policy: {folder / 'policy'}")
    return found


def run_train(args: argparse.Namespace) -> dict:
    """The loop, watched; held-out problems before and after."""
    evaluated(args)
    at_least(1, args, "steps", "checkpoint_every")
    watch, reward = Watch(**given(args, Watch)), reward_of(args.reward) if args.reward else None
    task = task_of(args)
    config = config_of(args, task)
    fits(args, config, task, max(evaluations(args, task, args.problems), default=0))
    free_folder(args.out, args.model or args.policy, args.resume)
    policy, tokenizer = start(args)
    run = {"steps": args.steps, "out": args.out, "progress": not args.quiet}
    with stop_on_interrupt() as stop:
        watched = {"watch": watch, "keep_every": args.checkpoint_every, "stop": stop, "problems": args.problems}
        run = train(
            policy,
            tokenizer,
            task,
            ALGORITHMS[args.algorithm],
            config,
            seed=args.seed,
            reward=reward,
            optimizer=OPTIMIZERS[args.optimizer],
            reference=not args.no_reference,
            resume=args.resume,
            checkpoint_every=args.checkpoint_every,
            evaluate_every=args.evaluate_every,
            problems=args.during,
            kind=partial(LongRun, **run, **watched),
            **run,
        )
    save_policy(policy, tokenizer, args.out / "policy")
    print(f"Policy: {args.out / 'policy'}" + (f" after {run.step} of {args.steps} steps" if run.stopped else ""))
    if stop.asked:
        raise KeyboardInterrupt
    alike = bool(args.evaluate_every) and args.problems == args.during  # then the last policy may be the best
    after = run.evaluate(args.problems, keep=alike).as_dict() if args.problems else {}
    if after:
        beside(run.before, after)
    return after | {"before": run.before, "tokens": run.tokens, "steps": run.step, "seconds": round(run.seconds, 2)}


def run_evaluate(args: argparse.Namespace) -> dict:
    if args.greedy and args.temperature != 1.0:
        raise InputError("give --greedy or --temperature, not both")
    folder = output_folder(args.out) if args.out else None
    task, (policy, tokenizer) = task_of(args), start(args)
    if args.checkpoint:
        weights = load_checkpoint(args.checkpoint).get("models", {})
        Models(policy).load({name: value for name, value in weights.items() if name.startswith("policy.")})
    result = evaluate(
        policy,
        tokenizer,
        task,
        args.problems,
        args.samples,
        GREEDY if args.greedy else args.temperature,
        args.max_new_tokens if args.max_new_tokens is not None else task.max_new_tokens,
        args.seed,
        progress=not args.quiet,
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


def beside(before: dict, after: dict) -> None:
    """The report of the second evaluation, and the accuracies of the first where there was one."""
    describe(after)
    if before:
        low, high = before["interval"]
        print(f"before       {before['accuracy']:.1%} ({low:.1%} – {high:.1%}, {before['problems']:,} problems)")
        for name, share in before["figures"].items():
            print(f"{name + ' before':<14} {share:.1%}")


def run_preflight(args: argparse.Namespace) -> dict:
    """Print the report of the set-up that the flags ask for."""
    evaluated(args)
    at_least(1, args, "problems", "steps", "samples")
    folder = output_folder(args.out) if args.out else None
    task = task_of(args)
    config = config_of(args, task)
    asked = evaluations(args, task, args.test_problems)
    fits(args, config, task, max(asked, default=0))
    found = preflight(
        *start(args),
        task,
        ALGORITHMS[args.algorithm],
        config,
        problems=args.problems,
        samples=args.samples,
        seed=args.seed,
        budget_steps=args.steps,
        optimizer=OPTIMIZERS[args.optimizer],
        reference=not args.no_reference,
        asked=sum(asked),
        progress=not args.quiet,
    )
    print(found)
    result = found.as_dict()
    if folder:
        write_json(folder / "preflight.json", result | {"manifest": manifest(vars(config), args.seed)})
    return result


def run_merge(args: argparse.Namespace) -> dict:
    """Merge, save, and say where."""
    base, dtype = merge(args.policy, args.out, args.dtype)
    print(f"Merged into {base}, {dtype}: {args.out}")
    print("If it was trained beside 4-bit weights, it now stands on the whole ones: evaluate both before you use it.")
    return {"base": base, "dtype": dtype, "out": str(args.out)}
