"""Flags that several commands share, and what they stand for: task and policy, settings, a large model's options."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.large import DTYPES, NEEDS, OPTIMIZERS, SHAPES, load_large, load_large_tokenizer
from grpo_teach.policy import load_base, load_policy, load_tokenizer
from grpo_teach.settings import Settings
from grpo_teach.tasks import TASKS, ChainSum, Task, WordProblems
from grpo_teach.tasks.word_problems import GRADES

__all__ = ["at_least_one", "chosen_model", "chosen_tokenizer", "config_of", "given_settings"]
__all__ += ["model_flags", "model_options", "settings_flags", "start", "task_flags", "task_of", "training_flags"]

OPTIONS = {
    "method": {"choices": list(NEEDS), "help": "all weights, an adapter, or one beside 4-bit weights (default qlora)"},
    "dtype": {"choices": DTYPES, "help": "default auto: bfloat16, or float16 where the card has none"},
    "device": {"choices": ("auto", "cpu", "cuda"), "help": "default auto: a GPU if there is one"},
    "rank": {"type": int, "metavar": "INT", "help": "of the adapter (default 16)"},
    "rows_a_pass": {"type": int, "metavar": "INT", "help": "rows scored at once: memory against speed (default 4)"},
    "chunk": {"type": int, "metavar": "INT", "help": "tokens whose logits exist at one time (default 256)"},
    "random_weights": {"action": "store_true", "help": "the model's shape alone: no download, and no sense"},
}


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Refuse a number below 1.

    Raises:
        InputError: for the first of them, by its flag.
    """
    for name in names:
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")


def lengths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def task_flags(parser: argparse.ArgumentParser) -> None:
    """Which policy is asked what."""
    parser.add_argument("--policy", type=Path, help="folder of a policy; without it the shipped base")
    parser.add_argument("--task", choices=[*TASKS, "gsm8k"], default="chain_sum", help="what is asked")
    parser.add_argument("--addends", type=lengths, metavar="N[,N...]", help="digits in a chain sum; default 5")
    parser.add_argument("--data", help="gsm8k's word problems: gsm8k, reasoning_gym, sample or a folder")
    parser.add_argument("--grade", choices=list(GRADES), help="gsm8k's reward; default strict")


def task_of(args: argparse.Namespace) -> Task:
    """The task of :func:`task_flags`.

    Raises:
        InputError: for a flag that belongs to another task.
    """
    for option, owner in (("addends", "chain_sum"), ("data", "gsm8k"), ("grade", "gsm8k")):
        if getattr(args, option) and args.task != owner:
            raise InputError(f"--{option} belongs to {owner}, not to {args.task}")
    if args.task == "gsm8k":
        return WordProblems(chosen_tokenizer(args), args.data or "gsm8k", args.grade or "strict")
    return ChainSum(args.addends) if args.addends else TASKS[args.task]()


def start(args: argparse.Namespace):
    """``(policy, tokenizer)`` of :func:`task_flags` and :func:`model_flags`: the shipped base without either."""
    return chosen_model(args) or (load_policy(args.policy) if args.policy else load_base(args.task))


def training_flags(parser: argparse.ArgumentParser) -> None:
    """What is trained, and how: the algorithm, its settings, the optimizer, a large model."""
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="grpo", help="which")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw", help="32- or 8-bit states")
    parser.add_argument("--no-reference", action="store_true", help="no frozen copy: saves its memory, no kl is shown")
    model_flags(parser)
    settings_flags(parser)


def config_of(args: argparse.Namespace, task: Task) -> Settings:
    """The settings of the chosen algorithm: those that were given, and the task's longest completion.

    Raises:
        InputError: for one that the algorithm does not have.
    """
    kind = ALGORITHMS[args.algorithm].Settings
    settings = {"max_new_tokens": task.max_new_tokens} | given_settings(args)
    foreign = sorted(settings.keys() - {field.name for field in dataclasses.fields(kind)})
    if foreign:
        raise InputError(f"{args.algorithm} has no setting {', '.join(foreign)}")
    return kind(**settings)


def settings_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting of any algorithm, with the text that stands beside the field."""
    known = {}
    for name, algorithm in ALGORITHMS.items():
        for field in dataclasses.fields(algorithm.Settings):
            known.setdefault(field.name, (field, []))[1].append((name, field.default))
    group = parser.add_argument_group("settings")
    for name, (field, owners) in known.items():
        if len({default for _, default in owners}) == 1:
            default = f"default {field.default}"
        else:
            default = "default " + ", ".join(f"{owner} {value}" for owner, value in owners)
        only = "" if len(owners) == len(ALGORITHMS) else f"{', '.join(owner for owner, _ in owners)} only; "
        group.add_argument(
            "--" + name.replace("_", "-"),
            type=type(field.default),
            choices=field.metadata["choices"] or None,
            default=argparse.SUPPRESS,
            metavar=None if field.metadata["choices"] else type(field.default).__name__.upper(),
            help=f"{field.metadata['meaning']} ({only}{default})".replace("%", "%%"),
        )


def given_settings(args: argparse.Namespace) -> dict:
    """Those of them that were given."""
    names = {field.name for a in ALGORITHMS.values() for field in dataclasses.fields(a.Settings)}
    return {name: value for name, value in vars(args).items() if name in names}


def model_flags(parser: argparse.ArgumentParser) -> None:
    """``--model``, and a flag for each option of :func:`load_large`."""
    group = parser.add_argument_group("a large model in place of --policy")
    group.add_argument("--model", help=f"name on the Hub, folder, or with --random-weights {' or '.join(SHAPES)}")
    for name, option in OPTIONS.items():
        group.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS, **option)


def model_options(args: argparse.Namespace) -> dict | None:
    """What was given of the flags of :func:`model_flags` beside ``--model``; None without ``--model``."""
    given = {name: value for name, value in vars(args).items() if name in OPTIONS}
    if vars(args).get("model") is None:
        if given:
            raise InputError(f"--{next(iter(given)).replace('_', '-')} belongs to --model")
        return None
    if args.policy:
        raise InputError("give --model or --policy, not both")
    return given


def chosen_model(args: argparse.Namespace):
    """``(policy, tokenizer)`` of the flags of :func:`model_flags`, or None without ``--model``."""
    given = model_options(args)
    return None if given is None else load_large(args.model, **given, seed=args.seed)


def chosen_tokenizer(args: argparse.Namespace):
    """The tokenizer of ``--model`` or ``--policy``, before the model itself is loaded.

    Raises:
        InputError: if neither was given.
    """
    given = model_options(args)
    if given is not None:
        return load_large_tokenizer(args.model, given.get("random_weights", False))
    if not args.policy:
        raise InputError(f"{args.task} needs --model or --policy: a model with a chat template")
    return load_tokenizer(args.policy)
