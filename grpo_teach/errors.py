"""Errors that a reader can act on."""

import importlib


class InputError(ValueError):
    """What was asked for is impossible; the message is one line that says why and what to change."""


class TrainingDiverged(FloatingPointError):
    """A loss, gradient or log-probability is NaN or infinite; the message names the step and the quantity."""


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
