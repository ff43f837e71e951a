"""The commands about one run: ``train``, ``evaluate``, ``preflight`` and ``merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.clinic.fit import must_fit
from grpo_teach.clinic.preflight import preflight
from grpo_teach.commands.flags import (
    at_least_one,
    chosen_tokenizer,
    config_of,
    model_flags,
    model_options,
    start,
    task_of,
    training_flags,
)
from grpo_teach.errors import InputError
from grpo_teach.evaluate import evaluate
from grpo_teach.large import DTYPES, OPTIMIZERS
from grpo_teach.large.merge import merge
from grpo_teach.policy import Models, save_policy
from grpo_teach.records import load_checkpoint, manifest, output_folder, write_json
from grpo_teach.train import train

__all__ = ["add", "describe"]


def add(command) -> None:
    """The four commands, each with its own flags."""
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

    sub = command("preflight", "before a long run: will it learn, what will it take?", run_preflight)
    sub.add_argument("--problems", type=int, default=32, help="training prompts to ask")
    sub.add_argument("--samples", type=int, help="answers to each; without a number the group size")
    sub.add_argument("--steps", type=int, default=200, help="of the run whose hours are estimated")
    sub.add_argument("--out", type=Path, help="folder for preflight.json")
    training_flags(sub)

    sub = command("merge", "a trained adapter into its base", run_merge, policy=False)
    sub.add_argument("--policy", type=Path, required=True, help="folder of a trained adapter")
    sub.add_argument("--out", type=Path, required=True, help="folder for the whole model and its tokenizer")
    sub.add_argument("--dtype", choices=DTYPES, default="auto", help="of the merged weights; auto: as the base's")


def fits(args: argparse.Namespace, config, task) -> None:
    """Refuse ``--model`` before it is loaded if the run will not fit; 64 prompts tell how long they are."""
    options = model_options(args)
    if options is not None:
        prompts = [problem.prompt for problem in task.sample(64, torch.Generator().manual_seed(args.seed))]
        longest = max(len(ids) for ids in chosen_tokenizer(args)(prompts)["input_ids"])
        asked = args.algorithm, config, options, args.optimizer, not args.no_reference
        must_fit(args.model, *asked, prompt_tokens=longest)


def run_train(args: argparse.Namespace) -> dict:
    at_least_one(args, "steps", "checkpoint_every", *(["problems"] if args.problems else []))
    task = task_of(args)
    config = config_of(args, task)
    fits(args, config, task)
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


def run_preflight(args: argparse.Namespace) -> dict:
    """Print the report of the set-up that the flags ask for."""
    at_least_one(args, "problems", "steps", *(["samples"] if args.samples is not None else []))
    folder = output_folder(args.out) if args.out else None
    task = task_of(args)
    config = config_of(args, task)
    fits(args, config, task)
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
        progress=not args.quiet,
    )
    print(found)
    result = found.as_dict()
    if folder:
        write_json(folder / "preflight.json", result | {"manifest": manifest(vars(config), args.seed)})
    return result


def run_merge(args: argparse.Namespace) -> dict:
    """Merge, save, and say where."""
    if args.out.resolve() == args.policy.resolve():
        raise InputError(f"--out must be another folder than the adapter's, {args.policy}")
    base, dtype = merge(args.policy, output_folder(args.out), args.dtype)
    print(f"Merged into {base}, {dtype}: {args.out}")
    print("Trained beside 4-bit weights, it now stands on the whole ones: evaluate both before you rely on it.")
    return {"base": base, "dtype": dtype, "out": str(args.out)}
