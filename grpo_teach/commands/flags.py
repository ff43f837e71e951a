"""Flags that several commands share, made from the checked dataclasses, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.large import OPTIMIZERS, SHAPES, Options, load_large, load_large_tokenizer, local
from grpo_teach.policy import load_base, load_policy, load_tokenizer
from grpo_teach.settings import SYNONYMS, Settings, settings_of
from grpo_teach.tasks import TASKS, ChainSum, Task, WordProblems
from grpo_teach.tasks.word_problems import GRADES

__all__ = ["add_flags", "at_least", "chosen_model", "chosen_tokenizer", "config_of", "given", "given_settings"]
__all__ += ["evaluated", "evaluation_flags", "model_flags", "model_options", "reward_of", "settings_flags", "size"]
__all__ += ["seed", "start", "task_flags", "task_of", "training_flags"]

MODELS = f"name on the Hub, folder, smollm2, or with --random-weights {' or '.join(SHAPES)}"
# What a policy of a billion weights starts from, where the toy's defaults would spoil it or take days.
LARGE = {"prompts": 4, "group_size": 8, "learning_rate": 1e-5}
RUN = {"evaluate_every": (10, 50), "during": (512, 256), "problems": (1024, 256)}  # for the toy, and with --model
UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


def size(text: str) -> int:
    """Bytes of a text such as ``16GiB``, ``14.7GiB`` or ``24GB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|GB|MB)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 16GiB, 14.7GiB or 24GB")
    return int(float(match[1]) * UNITS[match[2]])


def seed(text: str) -> int:
    """A number that every generator takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def at_least(least: int, args: argparse.Namespace, *names: str) -> None:
    """Refuse a number below ``least``. One that was not given is none.

    Raises:
        InputError: for the first of them, by its flag.
    """
    for name in names:
        if (number := getattr(args, name)) is not None and number < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {number}")


# From a checked dataclass to flags and back -----------------------------------------------------------------------


def add_flags(
    parser: argparse._ActionsContainer,
    kind: type,
    types: Mapping[str, Callable] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """One flag for each setting of a dataclass, with the text that stands beside the field.

    A flag that is not given leaves no attribute, so the dataclass's own default holds: :func:`given` reads the others.

    Args:
        parser: or a group of one.
        kind: a dataclass of :func:`grpo_teach.settings.setting` fields.
        types: how to read a text, by field, where the default's type will not do.
        defaults: what to say of a default, by field, where its value will not do.
    """
    for field in settings_of(kind):
        parts = field.default if isinstance(field.default, tuple) else [field.default]
        said = (defaults or {}).get(field.name) or " ".join(map(str, parts))
        _add_flag(parser, field, f"default {said}", (types or {}).get(field.name))


def _add_flag(parser, field: dataclasses.Field, note: str, read: Callable | None = None) -> None:
    kind, choices = type(field.default), list(field.metadata["choices"])
    choices += [old for old, new in SYNONYMS.items() if new in choices]
    if kind is bool:
        how = {"action": argparse.BooleanOptionalAction if field.default else "store_true"}
    else:
        how = {"type": read or (str if kind is tuple else kind), "choices": choices or None}
        how |= {"nargs": "+"} if kind is tuple else {}
        how |= {} if choices else {"metavar": "SIZE" if read is size else kind.__name__.upper()}
    text = f"{field.metadata['meaning']} ({note})".replace("%", "%%")
    parser.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, help=text, **how)


def given(args: argparse.Namespace, kind: type) -> dict:
    """Those settings of a dataclass whose flags were given."""
    found = {field.name: vars(args)[field.name] for field in settings_of(kind) if field.name in args}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


# Task and policy --------------------------------------------------------------------------------------------------


def lengths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def template_option(text: str) -> tuple[str, object]:
    """Name and value of a text such as ``enable_thinking=false``."""
    name, _, value = text.partition("=")
    try:
        return re.fullmatch(r"\w+", name)[0], json.loads(value)
    except (TypeError, json.JSONDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE with a value in JSON") from error


def reward_of(text: str) -> Callable:
    """The function that ``FILE.py:NAME`` or ``MODULE:NAME`` names: ``(completions, problems) -> [P, G]``.

    Raises:
        InputError: if there is none.
    """
    where, _, name = text.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"reward_{Path(where).stem}", where)
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        reward = getattr(module, name)
    except (Exception, SystemExit) as error:  # it is anybody's file
        raise InputError(f"--reward {text}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not callable(reward):
        raise InputError(f"--reward {text}: {name} is no function of completions and problems")
    return reward


def task_flags(parser: argparse.ArgumentParser) -> None:
    """Which policy is asked what."""
    parser.add_argument("--policy", type=Path, help="folder of a policy; without it the shipped base")
    parser.add_argument("--task", choices=[*TASKS, "gsm8k"], default="chain_sum", help="what is asked")
    parser.add_argument("--addends", type=lengths, metavar="N[,N...]", help="digits in a chain sum; default 5")
    parser.add_argument("--data", help="gsm8k's word problems: gsm8k, reasoning_gym, stories, sample or a folder")
    parser.add_argument("--grade", choices=list(GRADES), help="gsm8k's reward; default strict")
    parser.add_argument("--system", metavar="TEXT", help="what gsm8k tells the model before each question")
    text = "for the chat template, as enable_thinking=false; each value is JSON"
    parser.add_argument("--template", nargs="+", metavar="NAME=VALUE", type=template_option, help=text)


def task_of(args: argparse.Namespace) -> Task:
    """The task of :func:`task_flags`.

    Raises:
        InputError: for a flag that belongs to another task.
    """
    owners = {"addends": "chain_sum"} | dict.fromkeys(("data", "grade", "system", "template"), "gsm8k")
    for option, owner in owners.items():
        if vars(args).get(option) and args.task != owner:
            raise InputError(f"--{option} belongs to {owner}, not to {args.task}")
    if args.task == "gsm8k":
        told = {"system": args.system} if args.system is not None else {}
        template = dict(args.template or [])
        return WordProblems(
            chosen_tokenizer(args), args.data or "gsm8k", args.grade or "strict", template=template, **told
        )
    return ChainSum(args.addends) if args.addends else TASKS[args.task]()


def start(args: argparse.Namespace):
    """``(policy, tokenizer)`` of :func:`task_flags` and :func:`model_flags`: the shipped base without either."""
    return chosen_model(args) or (load_policy(local(args.policy)) if args.policy else load_base(args.task))


def model_flags(parser: argparse.ArgumentParser) -> None:
    """``--model``, and a flag for each of :class:`grpo_teach.large.Options`."""
    group = parser.add_argument_group("a large model in place of --policy")
    group.add_argument("--model", help=MODELS)
    add_flags(group, Options, defaults={"rows_a_pass": f"{Options.rows_a_pass}; to train, as many as fit"})


def model_options(args: argparse.Namespace) -> Options | None:
    """The options of ``--model``; None without it.

    Raises:
        InputError: for an option without ``--model``, or ``--model`` beside ``--policy``.
    """
    options = given(args, Options)
    if vars(args).get("model") is None:
        if options:
            raise InputError(f"--{next(iter(options)).replace('_', '-')} belongs to --model")
        return None
    if args.policy:
        raise InputError("give --model or --policy, not both")
    return Options(**options)


def chosen_model(args: argparse.Namespace):
    """``(policy, tokenizer)`` of the flags of :func:`model_flags`, or None without ``--model``."""
    options = model_options(args)
    return None if options is None else load_large(args.model, **vars(options), seed=args.seed)


def chosen_tokenizer(args: argparse.Namespace):
    """The tokenizer of ``--model`` or ``--policy``, before the model itself is loaded.

    Raises:
        InputError: if neither was given.
    """
    options = model_options(args)
    if options is not None:
        return load_large_tokenizer(args.model, options.random_weights)
    if not args.policy:
        raise InputError(f"{args.task} needs --model or --policy: a model with a chat template")
    return load_tokenizer(local(args.policy))


# Training ---------------------------------------------------------------------------------------------------------


def evaluation_flags(parser: argparse.ArgumentParser, at_the_end: str = "problems") -> None:
    """When a run asks held-out problems, and how many before and after it; :func:`evaluated` fills in the defaults."""
    for name, dest, text in (
        ("evaluate_every", "evaluate_every", "steps between evaluations, 0 for none"),
        (at_the_end, "problems", "held-out problems asked before and after a run, 0 for none"),
    ):
        note = "default {}, {} with --model".format(*RUN[dest])
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{text} ({note})")


def evaluated(args: argparse.Namespace) -> None:
    """Give the flags of :func:`evaluation_flags` that were not given their defaults, and ``during`` its number.

    Raises:
        InputError: for a number below 0.
    """
    for name, sizes in RUN.items():
        name = "test_problems" if name == "problems" and "test_problems" in args else name
        if vars(args).get(name) is None:
            setattr(args, name, sizes[bool(args.model)])
        at_least(0, args, name)


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
    settings = {"max_new_tokens": task.max_new_tokens} | (LARGE if args.model else {}) | given_settings(args)
    foreign = sorted(settings.keys() - {field.name for field in settings_of(kind)})
    if foreign:
        raise InputError(f"{args.algorithm} has no setting {', '.join(foreign)}")
    return kind(**settings)


def settings_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting of any algorithm; its text says whose it is."""
    known = {}
    for name, algorithm in ALGORITHMS.items():
        for field in settings_of(algorithm.Settings):
            known.setdefault(field.name, (field, []))[1].append((name, field.default))
    group = parser.add_argument_group("settings")
    for field, owners in known.values():
        if len({default for _, default in owners}) == 1:
            default = f"default {field.default}"
        else:
            default = "default " + ", ".join(f"{owner} {value}" for owner, value in owners)
        default += f", {LARGE[field.name]} with --model" if field.name in LARGE else ""
        only = "" if len(owners) == len(ALGORITHMS) else f"{', '.join(owner for owner, _ in owners)} only; "
        _add_flag(group, field, only + default)


def given_settings(args: argparse.Namespace) -> dict:
    """Those of them that were given."""
    return {k: v for algorithm in ALGORITHMS.values() for k, v in given(args, algorithm.Settings).items()}
