"""Pure views of recorded runs, in matplotlib, in the colours that each algorithm's entry names."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure

from grpo_teach.algorithms import ALGORITHMS

__all__ = ["COLOURS", "LiveCurves", "TERM_COLOURS", "as_png", "learning_curves", "seeds_figure"]

COLOURS = {name: algorithm.colour for name, algorithm in ALGORITHMS.items()}
TERM_COLOURS = {  # of the byte ledger
    "weights": "#0072B2",
    "critic": "#CC79A7",
    "reference": "#56B4E9",
    "reward_model": "#8C6D00",
    "optimizer": "#E69F00",
    "gradients": "#D55E00",
    "activations": "#009E73",
    "logits": "#F0E442",
    "kv_cache": "#4D4D4D",
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}


def _axes(xlabel: str):
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    accuracy, length = figure.subplots(1, 2)
    accuracy.set(title="Right answers", xlabel=xlabel, ylabel="share of answers that are right", ylim=(0, 1.02))
    length.set(title="Length", xlabel=xlabel, ylabel="tokens a completion", ylim=(0, 32))
    return figure, accuracy, length


def learning_curves(histories: dict[str, list[dict]]) -> Figure:
    """Held-out accuracy with its 95% interval, and mean length, against generated tokens.

    Args:
        histories: for each algorithm's name its rows of metrics, some with an ``evaluation``.
    Returns:
        A matplotlib figure of two panels.
    """
    with matplotlib.rc_context(STYLE):
        figure, accuracy, length = _axes("generated tokens (thousands)")
        for name, rows in histories.items():
            look = {"color": COLOURS[name], "linestyle": ALGORITHMS[name].line, "label": ALGORITHMS[name].label}
            # An evaluation is made before its step, at the tokens generated until then.
            spent = [0, *(row["tokens"] / 1e3 for row in rows)]
            points = [(spent[i], row["evaluation"]) for i, row in enumerate(rows) if "evaluation" in row]
            x = [tokens for tokens, _ in points]
            accuracy.plot(x, [e["accuracy"] for _, e in points], **look)
            low, high = zip(*(e["interval"] for _, e in points), strict=True)
            accuracy.fill_between(x, low, high, color=COLOURS[name], alpha=0.12, linewidth=0)
            length.plot(spent[1:], [row["length"] for row in rows], **look)
        figure.legend(*accuracy.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
        return figure


def seeds_figure(runs: list[dict]) -> Figure:
    """Held-out accuracy of runs that differ only in their seed, one line each.

    Args:
        runs: with ``evaluated_steps`` and ``accuracy``, as :func:`grpo_teach.studies.results.against_steps` gives them.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=110)
        axes = figure.subplots()
        for run in runs:
            axes.plot(run["evaluated_steps"], run["accuracy"], color=COLOURS["grpo"], alpha=0.6, linewidth=1)
        axes.axhline(0.9, color="0.35", linestyle="--", linewidth=1)
        axes.set(xlabel="step", ylabel="share of answers that are right", ylim=(0, 1.02), title=f"{len(runs)} seeds")
        return figure


def as_png(figure: Figure):
    """The figure as an image that a notebook shows and stores."""
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image(data=buffer.getvalue())


class LiveCurves:
    """A callback for :func:`grpo_teach.train` that redraws reward and length in a notebook while it trains.

    Args:
        every: steps between two drawings.
        steps: the run's length, for the horizontal axis.
    """

    def __init__(self, steps: int, every: int = 5):
        self.steps, self.every = steps, every
        self.rows: list[dict] = []
        self.handle = None

    def figure(self) -> Figure:
        """Reward, share that thinks, and mean length so far."""
        with matplotlib.rc_context(STYLE):
            figure, share, length = _axes("step")
            steps = [row["step"] for row in self.rows]
            share.plot(steps, [row["reward"] for row in self.rows], color=COLOURS["grpo"], label="right answers")
            share.plot(steps, [row["thinks"] for row in self.rows], color="0.35", linestyle="--", label="thinks first")
            length.plot(steps, [row["length"] for row in self.rows], color=COLOURS["grpo"])
            share.set(title="What the policy does", ylabel="share of completions")
            for axes in (share, length):
                axes.set_xlim(0, self.steps)
            share.legend(frameon=False, loc="lower right")
            return figure

    def __call__(self, row: dict) -> None:
        from IPython.display import display

        self.rows.append(row)
        if len(self.rows) % self.every and len(self.rows) != self.steps:
            return
        if self.handle is None:
            self.handle = display(as_png(self.figure()), display_id=True)
        else:
            self.handle.update(as_png(self.figure()))
