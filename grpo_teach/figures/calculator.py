"""The byte ledger to play with: a self-contained page that needs no kernel and asks no server."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

from grpo_teach.figures.curves import TERM_COLOURS
from grpo_teach.large import SHAPES, model_config
from grpo_teach.memory import STAYING, TERMS, Setup, Shape, predict

__all__ = ["calculator", "grid"]

METHODS = {
    "all weights, 32-bit": {"method": "full", "dtype": "float32"},
    "all weights, 16-bit": {"method": "full"},
    "LoRA, 16-bit base": {"method": "lora"},
    "QLoRA, 4-bit base": {"method": "qlora"},
}
CRITICS = ("none", "head", "lora", "separate")
OPTIMIZERS = ("adamw", "adamw8bit")
SIZES = {  # what the working memory hangs on, beside model, critic and method
    "checkpointing": (True, False),
    "group_size": (4, 8, 16, 32),
    "max_new_tokens": (256, 512, 1024, 2048),
    "rows_a_pass": (1, 4, 8),
}
WORKING = [term for term in TERMS if term not in STAYING]


def grid() -> list[list[list[int]] | None]:
    """The ledger of every set-up that the calculator offers, in whole MiB.

    What stays does not hang on group and length, what works not on optimizer and, scoring apart, not on copies. So the
    two are listed apart, and a page has only to add them up. Scoring is listed with copies and without, where a critic
    alone needs no logits; without either and without a critic there is nothing to score.

    Returns:
        For each model, critic and method in turn ``[stays, works]``, or None where they do not go together. ``stays``
        holds weights, critic, a copied reference, a reward model, and each optimizer; ``works``, for each of ``SIZES``
        in turn and each phase (sampling, scoring, update, scoring without copies), the terms of ``WORKING`` at the
        phase's fullest moment.
    """
    found = []
    shapes = [Shape.of(model_config(name)) for name in SHAPES]
    for shape, critic, method in itertools.product(shapes, CRITICS, METHODS.values()):
        if critic == "lora" and method["method"] == "full":  # it would stand on frozen weights
            found.append(None)
            continue
        algorithm = "grpo" if critic == "none" else "ppo"
        setup = Setup(shape, algorithm, critic=critic, reference="copy", reward_model="same", **method)
        each = [predict(dataclasses.replace(setup, optimizer=kind)).terms for kind in OPTIMIZERS]
        stays = [each[0][term] for term in STAYING[:-1]] + [terms["optimizer"] for terms in each]
        sizes = (dict(zip(SIZES, values, strict=True)) for values in itertools.product(*SIZES.values()))
        works = [size for one in sizes for size in _working(dataclasses.replace(setup, **one))]
        found.append([[round(size / 2**20) for size in part] for part in (stays, works)])
    return found


def _working(setup: Setup) -> list[int]:
    """The working terms of each phase at its fullest moment, in bytes; those of scoring without copies come last."""
    moments, fullest = predict(setup).moments, []
    for phase in ("sampling", "scoring", "update"):
        alive = [terms for (when, _), terms in moments.items() if when == phase]
        fullest.append(max(alive, key=lambda terms: sum(terms.values())))
    fullest.append({} if setup.critic == "none" else moments["scoring", "a layer"])  # a critic alone makes no logits
    return [terms.get(term, 0) for terms in fullest for term in WORKING]


def calculator(name: str = "calculator"):
    """What fills each phase, for a set-up that the reader chooses: :func:`grid` with four prompts of 256 tokens.

    Args:
        name: of the HTML element; one a page.
    Returns:
        HTML for a notebook or a page.
    """
    from IPython.display import HTML

    data = {"models": list(SHAPES), "methods": list(METHODS), "sizes": SIZES, "colours": TERM_COLOURS, "grid": grid()}
    page = (Path(__file__).parent / "calculator.html").read_text(encoding="utf-8")
    return HTML(page.replace("ID", name).replace("DATA", json.dumps(data, separators=(",", ":"))))
