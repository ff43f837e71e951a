"""Search by successive halving: every algorithm gets the same number of trials, and as many runs.

Each trial is a draw from its algorithm's own space; what two spaces share is drawn alike. All trials are run with the
first seed; the best of them go on to the second, and so forth. All runs are of full length: a short one would favour
large steps.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy

__all__ = ["next_round", "planned", "trials"]


def trials(space: dict, n: int, name: str) -> list[dict]:
    """n settings from a space: some that are given, the rest drawn evenly from all of it (a Latin hypercube).

    Every number's range, and every list, is cut into as many parts as there are draws, and each part is met once.
    Spaces that share a setting draw it alike, so that of two algorithms neither gets the better rates by luck.

    Args:
        space: for each setting a value; a list, of which one is drawn; or ``{from = low, to = high}``, between which
            a number is drawn, even in its logarithm and rounded to two digits. What is drawn from a list may be a
            table of several settings that go together; it then takes its key's place. ``given`` lists trials that come
            first, as tables of what differs from the algorithm's defaults.
        n: how many.
        name: of the study; the same name and n draw the same.
    """
    given = space.get("given", [])
    fixed = {key: values for key, values in space.items() if not isinstance(values, list | dict)}
    drawn = [{} for _ in range(n - len(given))]
    for key, values in space.items():
        random = numpy.random.default_rng(list(f"{name} {key}".encode()))
        places = (random.permutation(len(drawn)) + random.random(len(drawn))) / max(1, len(drawn))
        for trial, place in zip(drawn, places, strict=True):
            if isinstance(values, dict):
                low, high = math.log(values["from"]), math.log(values["to"])
                trial[key] = float(f"{math.exp(low + place * (high - low)):.2g}")
            elif key in fixed:
                trial[key] = values
            elif key != "given":
                chosen = values[int(place * len(values))]
                trial.update(chosen if isinstance(chosen, dict) else {key: chosen})
    return [fixed | trial for trial in given] + drawn


def planned(study: dict) -> int:
    """How many runs a study has."""
    rounds, labels = study.get("trials"), study["variants"]
    return sum(rounds) * len(labels) // rounds[0] if rounds else len(labels) * len(study["seeds"])


def next_round(study: dict, runs: dict[str, list[dict]]) -> list[tuple[str, int]]:
    """Runs of a study that can be made now and are not recorded, as ``(label, seed)``; of a search those of one round.

    Args:
        study: ``variants``, ``seeds``, and of a search ``trials``: how many of an algorithm's are run with each seed.
        runs: what is recorded, for each label one result a seed.
    """
    found = {label: {result["seed"]: result["accuracy"] for result in results} for label, results in runs.items()}
    if not study.get("trials"):
        return [(label, seed) for seed in study["seeds"] for label in study["variants"] if seed not in found[label]]
    families, todo = defaultdict(list), []
    for label in study["variants"]:
        families[label.rpartition(" ")[0]].append(label)
    for i, (seed, keep) in enumerate(zip(study["seeds"], study["trials"], strict=True)):
        for name, labels in families.items():

            def so_far(label: str) -> float:
                return sum(found[label][earlier] for earlier in study["seeds"][:i])  # noqa: B023  called at once

            families[name] = sorted(labels, key=so_far, reverse=True)[:keep] if i else labels
            todo += [(label, seed) for label in families[name] if seed not in found[label]]
        if todo:
            return todo
    return []
