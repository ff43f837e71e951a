"""What a reward with errors makes of training: against the dose of the errors, and along the way."""

from __future__ import annotations

import matplotlib
import numpy
from matplotlib.figure import Figure

from grpo_teach.figures.curves import STYLE
from grpo_teach.studies.results import interval, mean, on_grid

__all__ = ["doses_figure", "ways_figure"]

LOOKS = [("#D55E00", "--"), ("#0072B2", "-"), ("#009E73", "-."), ("#CC79A7", ":")]


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


def ways_figure(panels: dict[str, tuple[str, dict[str, list[dict]]]]) -> Figure:
    """Recorded curves of some variants, means over seeds with 95% intervals, one panel a quantity.

    Args:
        panels: for each title a name in ``curve`` and, by label, the results of a record.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.9), layout="constrained", dpi=110)
        for axes, (title, (quantity, runs)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for (label, results), (colour, line) in zip(runs.items(), LOOKS, strict=False):
                x, values = on_grid(results, quantity)
                low, high = interval(values)
                axes.plot(x / 1000, values.mean(axis=0), line, color=colour, label=label)
                axes.fill_between(x / 1000, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set(title=title, xlabel="generated tokens (thousands)")
        named = {h.get_label(): h for axes in figure.axes for h in axes.get_legend_handles_labels()[0]}
        figure.legend(named.values(), named.keys(), frameon=False, ncols=2, loc="outside lower center")
        return figure
