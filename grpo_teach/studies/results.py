"""Reading recorded studies: how runs ended, their curves on one grid, and what may be said of means over seeds."""

from __future__ import annotations

import functools
import math

import numpy
from scipy import integrate, stats

from grpo_teach import records
from grpo_teach.errors import InputError

__all__ = ["against_steps", "area", "best_trials", "changes", "contrasts", "difference", "ends", "first_reached"]
__all__ += ["holm", "interval", "mean", "on_grid", "p_value", "winner"]


def ends(name: str, quantity: str = "accuracy") -> dict[str, list[float]]:
    """How the runs of a recorded study ended: for each variant one number a seed."""
    runs = records.load_record(name)["runs"]
    return {label: [result[quantity] for result in results] for label, results in runs.items()}


def mean(values) -> float:
    """Mean over seeds."""
    return float(numpy.mean(values))


def interval(values):
    """95% interval of the mean over seeds, by Student's t: ``mean ± t(n - 1) * s / sqrt(n)``.

    Had the ten seeds been ten others, an interval made so would hold the true mean 19 times in 20. It does not say
    where another seed, or the mean of ten others, would lie. It supposes that means are about normal: where a run in
    ten collapses it covers less.

    Args:
        values: one number a seed, or [seeds, points].
    Returns:
        ``(low, high)``: numbers, or arrays of [points].
    Raises:
        InputError: for a single seed.
    """
    values = numpy.asarray(values, dtype=float)
    if len(values) < 2:
        raise InputError("an interval needs at least two seeds")
    centre, n = values.mean(axis=0), len(values)
    reach = stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    low, high = centre - reach, centre + reach
    return (float(low), float(high)) if values.ndim == 1 else (low, high)


def difference(before, after, paired: bool = False) -> tuple[float, float, float]:
    """``mean(after) - mean(before)`` over seeds, and its 95% interval, as ``(difference, low, high)``.

    Args:
        before, after: one number a seed.
        paired: the runs share their seeds and differ in one thing: Student's t of the differences. Otherwise Welch's
            t, which lets the two spread differently.
    """
    gap = mean(after) - mean(before)
    spread = [numpy.subtract(after, before)] if paired else [before, after]
    if all(numpy.ptp(part) < 1e-12 for part in spread):  # t would divide by 0
        return gap, gap, gap
    test = stats.ttest_rel(after, before) if paired else stats.ttest_ind(after, before, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return gap, float(low), float(high)


def p_value(before, after, paired: bool = False) -> float:
    """How often would chance alone make the two means differ as much? An exact permutation test, two-sided.

    If the two were alike in every respect, each way to deal the numbers out (for pairs: each choice of signs) would be
    equally likely. All are counted up to 200,000, which is enough for 10 against 10 and for 17 pairs; beyond that so
    many are drawn. It supposes no shape of the numbers. But a small p says that the two are not alike, and not in what:
    where one collapses now and then and the other never, their means may even be the same. n pairs cannot give less
    than ``2 / 2**n``.

    Args:
        before, after, paired: as :func:`difference` takes them.
    Source: Fisher (1935); Phipson & Smyth (2010) for the drawn ones.
    """
    return _p_value(tuple(map(float, before)), tuple(map(float, after)), paired)


@functools.cache  # ten against ten take seconds, and a table, a verdict and a check may ask for the same two
def _p_value(before: tuple, after: tuple, paired: bool) -> float:
    def gap(a, b, axis):  # what is equal but for rounding counts as equal
        return numpy.abs(numpy.mean(b, axis=axis) - numpy.mean(a, axis=axis)).round(12)

    how = {"permutation_type": "samples" if paired else "independent", "n_resamples": 200_000, "rng": 0}
    how |= {"alternative": "greater", "vectorized": True}
    return float(stats.permutation_test((before, after), gap, **how).pvalue)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """The p values of one table, raised so that all of them together are wrong in one table of twenty at the most.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below one that was smaller.

    Source: Holm (1979).
    """
    raised, highest = {}, 0.0
    for i, label in enumerate(sorted(p_values, key=p_values.get)):
        raised[label] = highest = max(highest, min(1.0, (len(p_values) - i) * p_values[label]))
    return {label: raised[label] for label in p_values}


def changes(found: dict[str, list[float]], pairs: dict[str, tuple[str, str]], paired: bool = False) -> dict[str, dict]:
    """What each change does: ``gap``, ``low``, ``high``, ``p``, and ``holm``, the p of this whole table.

    Args:
        found: for each variant one number a seed.
        pairs: for each change the variant before it and the one after it.
        paired: as :func:`difference` takes it.
    """
    p = {name: p_value(found[before], found[after], paired) for name, (before, after) in pairs.items()}
    gaps = {name: difference(found[before], found[after], paired) for name, (before, after) in pairs.items()}
    names, raised = ("gap", "low", "high", "p", "holm"), holm(p)
    return {name: dict(zip(names, (*gaps[name], p[name], raised[name]), strict=True)) for name in pairs}


def contrasts(found: dict[str, list[float]], reference: str, paired: bool = False) -> dict[str, dict[str, float]]:
    """:func:`changes` from one variant to every other."""
    return changes(found, {label: (reference, label) for label in found if label != reference}, paired)


def winner(found: dict[str, list[float]]) -> str | None:
    """The label with the highest mean; None if its lead over any other may be chance: Holm's p of 5% or more."""
    best = max(found, key=lambda label: mean(found[label]))
    return best if all(row["holm"] < 0.05 for row in contrasts(found, best).values()) else None


def best_trials(found: dict[str, list[float]]) -> dict[str, str]:
    """Of a search, for each family the trial with the highest mean among those that were run with every seed.

    Args:
        found: as :func:`ends` gives it, the labels a family's name and a number: ``"grpo 03"``.
    """
    best, most = {}, max(map(len, found.values()))
    for label in sorted((label for label in found if len(found[label]) == most), key=lambda label: mean(found[label])):
        best[label.rpartition(" ")[0]] = label
    return best


def on_grid(results: list[dict], quantity: str = "accuracy", against: str = "tokens", points: int = 41):
    """The curves of one variant's seeds, read off at the same places.

    Args:
        results: of a record, one a seed.
        quantity: a name in ``curve``.
        against: ``"tokens"`` or ``"seconds"``; the grid ends where the last curve does, and a run that has ended keeps
            its last value.
        points: how many places.
    Returns:
        ``(x, values)``: [points] and [seeds, points], interpolated linearly.
    """
    x = numpy.linspace(0, max(result["curve"][against][-1] for result in results), points)
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
