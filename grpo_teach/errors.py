"""Errors that a reader can act on."""

import importlib
from contextlib import contextmanager


class InputError(ValueError):
    """What was asked for is impossible; the message is one line that says why and what to change."""


class TrainingDiverged(FloatingPointError):
    """A loss, gradient or log-probability is NaN or infinite; the message names the step and the quantity."""


@contextmanager
def in_one_line(what: str):
    """What fails within ends in one line: what was tried, and the reason.

    Raises:
        InputError: for any exception; torch, transformers, safetensors and json each raise their own kind.
    """
    try:
        yield
    except Exception as error:
        # Of a disk that is full torch says nothing; what it met does.
        reason = getattr(error, "strerror", None) or getattr(error.__context__, "strerror", None)
        reason = reason or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what}: {reason}") from error


def needed(module: str):
    """Import a module that only some uses need.

    Raises:
        InputError: if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise InputError(f"{package} is needed for this and cannot be imported: pip install {package}") from error
