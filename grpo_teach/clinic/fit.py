"""Does a run fit? Asked of the byte ledger before a large model is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys

import torch

from grpo_teach.errors import InputError
from grpo_teach.large import Options, model_config
from grpo_teach.memory import Setup, Shape, nearest, predict
from grpo_teach.memory.report import GIB, table, warn_of
from grpo_teach.settings import Settings, settings_of

__all__ = ["flags", "free_bytes", "most_rows", "must_fit"]

KEPT = 0.1  # of the free bytes: for what the allocator wastes, and what the ledger leaves out


def free_bytes(device: str) -> int | None:
    """Bytes that are free on ``"cuda"`` or ``"cpu"`` now; None where psutil, which accelerate brings, is missing."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if importlib.util.find_spec("psutil") is None:
        return None
    import psutil

    return psutil.virtual_memory().available


def must_fit(
    model: str,
    algorithm: str,
    config: Settings,
    options: Options,
    optimizer: str,
    reference: bool,
    prompt_tokens: int,
    evaluated: int = 0,
) -> None:
    """Refuse a large model that will not fit, with the ledger and with the flags that would make it fit.

    A tenth of the free bytes is kept: the ledger counts no more than tensors.

    Args:
        model: as :func:`grpo_teach.large.model_config` takes it.
        algorithm, config, options, optimizer, reference, prompt_tokens, evaluated: as :meth:`Setup.of` takes them.
    Raises:
        InputError: if the ledger's peak is above nine tenths of the device's free bytes.
    """
    options = options.placed()
    free = free_bytes(options.device)
    if free is None:  # then loading will say that accelerate is missing
        return
    shipped = model_config(model)
    try:
        shape = Shape.of(shipped)
    except InputError as error:  # of another build than Llama's
        print(f"warning: whether the run fits is not known: {error}", file=sys.stderr)
        return
    warn_of(shipped.model_type)
    setup = Setup.of(shape, algorithm, config, options, optimizer, reference, prompt_tokens, evaluated)
    ledger, limit = predict(setup), int((1 - KEPT) * free)
    if ledger.terms["total"] <= limit:
        return
    found = nearest(setup, limit, {"no reference"} if config.uses_reference else set())
    cure = f"nearest that fits: {flags(setup, found[1])}" if found else "nothing that the ledger knows makes it fit"
    print(table(ledger))
    needs = f"{model} needs {ledger.terms['total'] / GIB:.2f} GiB and {options.device} has {free / GIB:.2f} GiB free"
    raise InputError(f"{needs}, of which a tenth is kept; {cure}")


def most_rows(model: str, algorithm: str, config: Settings, options: Options, *rest) -> int:
    """The most rows a pass that fit, of B, B/2, B/4, …: whole batches need no third forward pass of a token.

    Args:
        model, algorithm, config, options, rest: as :func:`must_fit` takes them.
    Returns:
        ``options.rows_a_pass`` where no more fit, or where it is not known.
    """
    options = options.placed()
    free, rows = free_bytes(options.device), config.prompts * config.group_size
    try:
        shape = Shape.of(model_config(model))
    except InputError:  # must_fit says what is not known
        return options.rows_a_pass
    while free is not None and rows > options.rows_a_pass:
        setup = Setup.of(shape, algorithm, config, dataclasses.replace(options, rows_a_pass=rows), *rest)
        if predict(setup).terms["total"] <= int((1 - KEPT) * free):
            return rows
        rows //= 2
    return options.rows_a_pass


def flags(old: Setup, new: Setup) -> str:
    """The flags of ``python -m grpo_teach train`` that turn one set-up into the other."""
    typed = []
    for name in (field.name for field in settings_of(Setup)):
        value, flag = getattr(new, name), name.replace("_", "-")
        if value == getattr(old, name):
            continue
        if name == "reference":  # beside an adapter it is the adapter off, without a flag
            typed += ["--no-reference"] if value == "none" else []
        elif isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            typed.append(f"--{flag} {value}")
    return " ".join(typed)
