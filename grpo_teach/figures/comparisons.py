"""How the runs of a study went and ended, and what a search tried."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import matplotlib
import numpy
from matplotlib.figure import Figure

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.figures.curves import STYLE
from grpo_teach.studies.results import best_trials, ends, interval, mean, on_grid
from grpo_teach.studies.run import load_study

__all__ = ["changes_table", "doses_figure", "ends_figure", "search_figure", "ways_figure"]

LOOKS = [("#D55E00", "--"), ("#0072B2", "-"), ("#009E73", "-."), ("#CC79A7", ":")]


def changes_table(title: str, rows: dict[str, dict], name: Callable[[str], str] = str) -> str:
    """What :func:`~grpo_teach.studies.results.changes` found in shares, in percentage points, one line a change.

    Args:
        title: what stands above the names, "minus GRPO" for instance.
        rows: for each change ``gap``, ``low``, ``high``, ``p`` and ``holm``.
        name: what a change's label is written as.
    """
    lines = [f"{title:42} {'points':>7}  {'95% interval':>16}  {'p':>8}  {'p, Holm':>8}"]
    for label, row in rows.items():
        reach = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
        lines.append(f"{name(label):42} {100 * row['gap']:+7.1f}  {reach:>16}  {row['p']:8.2g}  {row['holm']:8.2g}")
    return "\n".join(lines)


def doses_figure(rows: dict[str, dict]) -> Figure:
    """Means over seeds with 95% intervals, a row of panels for each quantity, a column for each algorithm.

    Args:
        rows: ``rows[quantity][algorithm][kind of error][dose]`` holds one share a seed.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.9 + 2.1 * len(rows)), layout="constrained", dpi=110)
        columns = max(map(len, rows.values()))
        grid = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
        for place, (line_of_panels, (quantity, found)) in enumerate(zip(grid, rows.items(), strict=True)):
            for axes, (algorithm, kinds) in zip(line_of_panels, found.items(), strict=True):
                for (kind, doses), (colour, line), aside in zip(kinds.items(), LOOKS, (-0.004, 0.004), strict=False):
                    x, heights = numpy.array(list(doses)) + aside, [mean(values) for values in doses.values()]
                    ends = numpy.clip([interval(values) for values in doses.values()], 0, 1)
                    axes.plot(x, heights, line, color=colour, marker="o", markersize=3, label=kind)
                    axes.vlines(x, *ends.T, color=colour, linewidth=1.2)
                if place == 0:
                    axes.set_title(algorithm, fontsize=10)
                if place == len(rows) - 1:
                    axes.set_xlabel("dose")
            line_of_panels[0].set(ylabel=quantity, ylim=(-0.02, 1.03))
        figure.legend(*grid[0][0].get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center")
        return figure


def ends_figure(panels: dict[str, dict[str, list[float]]], name: Callable[[str], str] = str) -> Figure:
    """One row a variant: a small dot for each seed, the mean and its 95% interval; one panel a quantity.

    Args:
        panels: by what is on the horizontal axis, for each variant one number a seed. Without the word "nats" there
            it is a share, whose interval ends at 0 and 1.
        name: what a variant's label is written as.
    """
    rows, narrow = max(len(found) for found in panels.values()), len(panels) > 2
    with matplotlib.rc_context(STYLE):  # no wider than 8.4 inches: a page shrinks what is wider, letters and all
        figure = Figure(figsize=(min(2.6 + 2.9 * len(panels), 8.4), 1.1 + 0.34 * rows), layout="constrained", dpi=110)
        for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            share = "nats" not in title and min(map(min, found.values())) >= 0
            for place, values in enumerate(found.values()):
                low, high = interval(values)
                low, high = (max(low, 0), min(high, 1)) if share else (low, high)
                axes.plot(values, [place + 0.22] * len(values), "o", color="#0072B2", markersize=3, alpha=0.5)
                axes.plot([low, high], [place, place], color="black", linewidth=1.5)
                axes.plot(mean(values), place, "D", color="black", markersize=4)
            first = axes.get_subplotspec().is_first_col()
            axes.set_yticks(range(len(found)), [name(label) for label in found] if first else [])
            axes.set(xlabel=textwrap.fill(title, 16) if narrow else title, ylim=(len(found) - 0.4, -0.6))
            left, right = axes.get_xlim()
            if right - left < 0.05:  # a hair's breadth must not look like a gap
                left, right = (left + right) / 2 - 0.025, (left + right) / 2 + 0.025
            axes.set_xlim(left, min(right, 1.005) if share else right)
            if narrow:
                axes.locator_params(axis="x", nbins=4)
        return figure


def search_figure(studies: dict[str, str], looks: dict[str, str], names: dict[str, str]) -> Figure:
    """Every trial of a search: how it ended against its learning rate, the dot the larger the more seeds it was given.

    Args:
        studies: for each panel's title a study's name.
        looks, names: for each family of trials its colour and what it is called.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained", dpi=110)
        panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
        for axes, (title, study) in zip(panels, studies.items(), strict=True):
            trials, found = load_study(study)["variants"], ends(study)
            for i, (family, colour) in enumerate(looks.items()):
                mine = [label for label in found if label.rpartition(" ")[0] == family]
                beside = 1.04 ** (i - (len(looks) - 1) / 2)  # families share their rates: side by side all can be seen
                x, y = [beside * _rate(trials[label]) for label in mine], [mean(found[label]) for label in mine]
                sizes = [16 * len(found[label]) for label in mine]
                axes.scatter(x, y, sizes, color=colour, alpha=0.7, linewidths=0, label=names[family])
                best = mine.index(best_trials(found)[family])
                axes.scatter(x[best], y[best], 150, facecolors="none", edgecolors=colour, linewidths=1.5)
            axes.set_xscale("log")
            axes.set(title=title, xlabel="learning rate", ylim=(-0.03, 1.04))
        panels[0].set_ylabel("share of answers that are right")
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
        return figure


def ways_figure(panels: dict[str, tuple[str, dict[str, list[dict]]]]) -> Figure:
    """Recorded curves of some variants, means over seeds with 95% intervals, one panel a quantity.

    Args:
        panels: for each title a name in ``curve`` and, by label, the results of a record.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.9), layout="constrained", dpi=110)
        for axes, (title, (quantity, runs)) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for (label, results), (colour, line) in zip(runs.items(), LOOKS, strict=False):
                x, values = on_grid(results, quantity)
                low, high = interval(values)
                axes.plot(x / 1000, values.mean(axis=0), line, color=colour, label=label)
                axes.fill_between(x / 1000, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set(title=title, xlabel="generated tokens (thousands)")
        named = {h.get_label(): h for axes in figure.axes for h in axes.get_legend_handles_labels()[0]}
        figure.legend(named.values(), named.keys(), frameon=False, ncols=2, loc="outside lower center")
        return figure


def _rate(variant) -> float:
    return ALGORITHMS[variant.algorithm].Settings(**variant.settings).learning_rate
