"""Figures that respond without a kernel: self-contained pages that compute what the package computes."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["clip_explorer", "gae_explorer", "group_explorer", "kl_explorer", "page", "temperature_explorer"]


def page(template: str, name: str, data=None):
    """One of ``pages/*.html`` in their common frame.

    Args:
        template: the file's name. Before its ``<script>`` stand a form, an SVG and a text line of class "says".
        name: of the HTML element, a word; one a page.
        data: what the page's script finds as ``data``.
    Returns:
        HTML for a notebook or a page.
    """
    from IPython.display import HTML

    folder = Path(__file__).parent / "pages"
    frame, filled = ((folder / f"{file}.html").read_text(encoding="utf-8") for file in ("frame", template))
    parts, script = filled.replace("</script>", "").split("<script>")
    held = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # a text could end the script
    for marker, text in {"PARTS": parts, "SCRIPT": script, "ID": name, "DATA": held}.items():
        frame = frame.replace(f"FIGURE_{marker}", text.strip())
    return HTML(frame)


def clip_explorer(name: str = "clip"):
    """PPO's objective of one token against its ratio, and the gradient there, for a clip that the reader chooses.

    Args:
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    return page("clip", name)


def group_explorer(name: str = "group"):
    """Eight answers to turn right or wrong, and what GRPO makes of their rewards.

    Args:
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    return page("group", name)


def kl_explorer(name: str = "kl"):
    """The estimates k1, k2, k3 of one token and their slopes, against how much better the reference likes it.

    Args:
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    return page("kl", name)


def gae_explorer(
    tokens: list[str], values: list[float], rewards: list[float], wrong: int | None = None, name: str = "gae"
):
    """The advantages of one completion's T tokens, for a λ and a γ that the reader chooses.

    Args:
        tokens: T texts.
        values: T, what the critic expects before each token, in units of reward.
        rewards: T, the reward received at each token.
        wrong: which token to mark, from 0.
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    return page("gae", name, {"tokens": tokens, "values": values, "rewards": rewards, "wrong": wrong})


def temperature_explorer(tokens: list[str], logits: list[float], name: str = "temperature"):
    """The probabilities of the next token, and their entropy, at a temperature that the reader chooses.

    Args:
        tokens: V texts, the whole vocabulary.
        logits: V, at temperature 1.
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    return page("temperature", name, {"tokens": tokens, "logits": logits})
