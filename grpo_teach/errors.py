"""Errors that a reader can act on."""


class InputError(ValueError):
    """What was asked for is impossible; the message is one line that says why and what to change."""


class TrainingDiverged(ArithmeticError):
    """A loss, gradient or log-probability is NaN or infinite; the message names the step and the quantity."""
