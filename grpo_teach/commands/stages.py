"""The command about DeepSeek-R1 in miniature: ``r1``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from grpo_teach.commands.flags import at_least
from grpo_teach.errors import InputError
from grpo_teach.policy import load_policy
from grpo_teach.r1.stages import STAGES, Pipeline
from grpo_teach.records import output_folder

__all__ = ["add"]

DEFAULT = {field.name: field.default for field in fields(Pipeline)}


def add(command) -> None:
    """The command, with a flag for each choice of a pipeline."""
    sub = command("r1", "DeepSeek-R1 in miniature: one stage, or several in order", run_r1, policy=False)
    order = ", ".join(STAGES)
    sub.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"{order}, the last stage; without any the four from cold on"
    )
    sub.add_argument("--base", default=DEFAULT["base"], help="the shipped base that all begins with")
    sub.add_argument("--policy", type=Path, help="folder of a policy to go on from: what the stage before has left")
    sub.add_argument(
        "--paid",
        default=DEFAULT["paid"],
        help="rules that pay for an equation, in quotes: accuracy, format, coin; stages 2 and 4 add language",
    )
    sub.add_argument("--no-language", action="store_true", help="stages 2 and 4 do not pay for one language")
    sub.add_argument(
        "--tokens", type=int, default=300_000, help="how many each stage of reinforcement learning may generate"
    )
    sub.add_argument(
        "--learning-rate",
        type=float,
        default=DEFAULT["learning_rate"],
        help="step size of the stages of reinforcement learning",
    )
    sub.add_argument("--examples", type=int, default=DEFAULT["examples"], help="how many texts the cold start reads")
    sub.add_argument("--beta", type=float, default=DEFAULT["beta"], help="weight of the KL term in the last stage")
    sub.add_argument("--out", type=Path, default=Path("out/r1"), help="folder for a policy a stage, and results.json")


def run_r1(args: argparse.Namespace) -> dict:
    """Go through the stages, and print what each has changed."""
    at_least(1, args, "tokens", "examples")
    chosen = {name: getattr(args, name) for name in ("base", "paid", "tokens", "learning_rate", "examples", "beta")}
    stages = " ".join(args.stages) or DEFAULT["stages"]
    pipeline = Pipeline(**chosen, stages=stages, language=not args.no_language)
    if (args.out / "results.json").exists():
        raise InputError(f"{args.out} already holds a run: choose another folder")
    if args.policy and not (args.policy / "config.json").exists():
        inside = sorted(path.parent.name for path in args.policy.glob("*/config.json"))
        raise InputError(
            f"no policy in {args.policy}" + (f"; it holds folders of some: {', '.join(inside)}" if inside else "")
        )
    policy = load_policy(args.policy)[0] if args.policy else None
    folder = output_folder(args.out)
    found = pipeline.run(args.seed, progress=not args.quiet, policy=policy, out=folder)
    names = {"right": "accuracy", "thinks": "thinks", "readable": "readable", "mixed": "mixed", "sorts": "general"}
    print(f"{'':10}" + "".join(f"{name:>10}" for name in names) + f"{'polite':>10}{'length':>10}")
    for row in found["rows"]:
        shares = "".join(f"{row[key]:>10.1%}" for key in (*names.values(), "polite"))
        print(f"{row['stage']:10}{shares}{row['length']:>10.1f}")
    print(f"Policies, one a stage: {folder}")
    return {"accuracy": found["accuracy"], "tokens": found["tokens"], "seconds": found["seconds"]}
