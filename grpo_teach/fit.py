"""Does a run fit? Asked of the byte ledger before a large model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import sys

import torch

from grpo_teach.errors import InputError
from grpo_teach.flags import chosen_tokenizer, model_options
from grpo_teach.large import load_large, model_config, place
from grpo_teach.memory import Setup, Shape, nearest, predict
from grpo_teach.memory_command import GIB, table
from grpo_teach.memory_setup import CRITICS, critic_of
from grpo_teach.train import needs_reference

__all__ = ["free_bytes", "must_fit", "setup_of"]


def setup_of(args: argparse.Namespace, shape: Shape, config, task) -> Setup:
    """What ``python -m grpo_teach train`` is about to do, as the ledger's set-up.

    Args:
        args: of the command, with ``model``.
        shape: of that model.
        config: the algorithm's settings.
        task: whose prompts are asked; 64 of them tell how long they are.
    Returns:
        The set-up; its dtype is the one that :func:`load_large` will choose.
    """
    options = {name: parameter.default for name, parameter in inspect.signature(load_large).parameters.items()}
    options |= {name: value for name, value in vars(args).items() if name in options}
    kept = "copy" if options["method"] == "full" else "adapter"
    prompts = task.sample(64, torch.Generator().manual_seed(args.seed))
    return Setup(
        shape,
        algorithm=args.algorithm,
        critic=critic_of(config),
        reference="none" if args.no_reference else kept,
        dtype=str(place(options["device"], options["dtype"], options["method"])[1]).removeprefix("torch."),
        optimizer=args.optimizer,
        padded=config.prompts > 1,
        prompt_tokens=max(len(ids) for ids in chosen_tokenizer(args)([p.prompt for p in prompts])["input_ids"]),
        **{name: options[name] for name in ("method", "rows_a_pass", "rank", "chunk", "checkpointing")},
        **{name: getattr(config, name) for name in ("prompts", "group_size", "max_new_tokens")},
    )


def free_bytes(device: str) -> int | None:
    """Bytes that are free on ``"cuda"`` or ``"cpu"`` now; None where psutil, which accelerate brings, is missing."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if importlib.util.find_spec("psutil") is None:
        return None
    import psutil

    return psutil.virtual_memory().available


def must_fit(args: argparse.Namespace, config, task) -> None:
    """Refuse a large model that will not fit, with the ledger and with the flags that would make it fit.

    Raises:
        InputError: if the device has fewer bytes free than the ledger's peak.
    """
    if model_options(args) is None:
        return
    device = place(getattr(args, "device", "auto"))[0]
    free = free_bytes(device)
    if free is None:  # then loading will say that accelerate is missing
        return
    shipped = model_config(args.model)
    try:
        shape = Shape.of(shipped)
    except InputError as error:  # of another build than Llama's
        print(f"warning: whether the run fits is not known: {error}", file=sys.stderr)
        return
    setup = setup_of(args, shape, config, task)
    ledger = predict(setup)
    if ledger.terms["total"] <= free:
        return
    needed = {"no reference"} if needs_reference(config) else set()
    found = nearest(setup, free, needed)
    cure = f"nearest that fits: {flags(setup, found[1])}" if found else "nothing that the ledger knows makes it fit"
    print(table(ledger))
    needs = f"{args.model} needs {ledger.terms['total'] / GIB:.2f} GiB and {device} has {free / GIB:.2f} GiB free"
    raise InputError(f"{needs}; {cure}")


def flags(old: Setup, new: Setup) -> str:
    """The flags of ``python -m grpo_teach train`` that turn one set-up into the other."""
    typed = []
    for field in dataclasses.fields(Setup)[1:]:
        value = getattr(new, field.name)
        if value == getattr(old, field.name):
            continue
        if field.name == "reference":  # beside an adapter it is the adapter off, without a flag
            typed += ["--no-reference"] if value == "none" else []
        else:
            value = CRITICS[value] if field.name == "critic" else value
            typed.append(f"--{field.name.replace('_', '-')} {value}")
    return " ".join(typed)
