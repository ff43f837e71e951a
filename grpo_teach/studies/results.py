"""Reading recorded studies: how runs ended, their curves on one grid, means and intervals over seeds."""

from __future__ import annotations

import numpy
from scipy import integrate, stats

from grpo_teach import records

__all__ = ["area", "against_steps", "difference", "ends", "first_reached", "interval", "mean", "on_grid", "winner"]


def ends(name: str, quantity: str = "accuracy") -> dict[str, list[float]]:
    """How the runs of a recorded study ended: for each variant one number a seed."""
    runs = records.load_record(name)["runs"]
    return {label: [result[quantity] for result in results] for label, results in runs.items()}


def mean(values) -> float:
    """Mean over seeds."""
    return float(numpy.mean(values))


def interval(values, statistic=numpy.mean):
    """95% bootstrap interval of a statistic over seeds (percentile method, 9999 resamples).

    It speaks of new seeds on the same problems, and with ten values it is a little too narrow.

    Args:
        values: one number a seed, or [seeds, points].
        statistic: with an ``axis``, as numpy's have.
    Returns:
        ``(low, high)``: numbers, or arrays of [points].
    """
    random = numpy.random.default_rng(0)
    found = stats.bootstrap((numpy.asarray(values),), statistic, axis=0, method="percentile", rng=random)
    low, high = found.confidence_interval
    return (float(low), float(high)) if numpy.ndim(low) == 0 else (low, high)


def difference(before, after) -> tuple[float, float, float]:
    """``mean(after) - mean(before)`` over seeds, and its 95% bootstrap interval, as ``(difference, low, high)``."""

    def gap(a, b, axis):
        return numpy.mean(b, axis=axis) - numpy.mean(a, axis=axis)

    random = numpy.random.default_rng(0)
    found = stats.bootstrap((before, after), gap, method="percentile", rng=random).confidence_interval
    return float(gap(before, after, 0)), float(found.low), float(found.high)


def winner(found: dict[str, list[float]]) -> str | None:
    """The label with the highest mean; None if its lead over the second highest may be chance."""
    second, first = sorted(found, key=lambda label: mean(found[label]))[-2:]
    return first if difference(found[second], found[first])[1] > 0 else None


def on_grid(results: list[dict], quantity: str = "accuracy", against: str = "tokens", points: int = 41):
    """The curves of one variant's seeds, read off at the same places.

    Args:
        results: of a record, one a seed.
        quantity: a name in ``curve``.
        against: ``"tokens"`` or ``"seconds"``; the grid ends where the first curve does.
        points: how many places.
    Returns:
        ``(x, values)``: [points] and [seeds, points], interpolated linearly.
    """
    x = numpy.linspace(0, min(result["curve"][against][-1] for result in results), points)
    return x, numpy.stack([numpy.interp(x, r["curve"][against], r["curve"][quantity]) for r in results])


def against_steps(name: str, label: str) -> list[dict]:
    """The curves of a recorded variant against the training step, one a seed.

    Returns:
        Its curves by name, and ``evaluated_steps``: the batches learnt from before each evaluation.
    """
    record = records.load_record(name)
    every = record["manifest"]["config"]["variants"][label]["evaluate_every"]
    found = []
    for result in record["runs"][label]:
        steps = [*range(0, result["steps"], every), result["steps"]]
        found.append(result["curve"] | {"evaluated_steps": steps})
    return found


def first_reached(run: dict, accuracy: float) -> int | None:
    """The step of a :func:`against_steps` run at which the held-out accuracy was first so high; None if never."""
    pairs = zip(run["evaluated_steps"], run["accuracy"], strict=True)
    return next((step for step, share in pairs if share >= accuracy), None)


def area(curve: dict, budget: float, against: str = "tokens") -> float:
    """Mean accuracy over a budget: the area under the learning curve divided by its width.

    Args:
        curve: of a recorded run.
        budget: where the area ends, in the units of ``against``; the last accuracy is held if the curve ends before.
        against: ``"tokens"`` or ``"seconds"``.
    """
    x = numpy.linspace(0, budget, 201)
    return float(integrate.trapezoid(numpy.interp(x, curve[against], curve["accuracy"]), x) / budget)
