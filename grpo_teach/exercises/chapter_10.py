"""Chapter 10: the reward for one language, and what rejection sampling keeps."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.r1.stages import keep_right
from grpo_teach.rewards.weighted import NUMERALS, language_consistency

# language_consistency(scratchpad, numerals) -> float --------------------------------------------------------------

ARABIC, CHINESE = NUMERALS
DIGITS = ARABIC + CHINESE


def _share(scratchpad, wanted: Callable, counted: Callable = DIGITS.__contains__, none: float = 1.0) -> float:
    """Of the characters that are counted, the share that is wanted; both are tests of a character."""
    digits = [character for character in scratchpad if counted(character)]
    return sum(map(wanted, digits)) / len(digits) if digits else none


def _runs(scratchpad: str, pattern: str) -> list[str]:
    return re.findall(pattern, scratchpad)


def _divided(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _count(scratchpad: str, numerals: str) -> int:
    return sum(character in numerals for character in scratchpad)


# Here, since TOML can hold no lone surrogate; a text of Python's can.
ODD = ["\ud800", "\0", "7\ud800七", "7\0七", "9" * 5000 + "九" * 5000]


def _stumbles(function: Callable) -> str | None:
    """A demand: every text gets its share, whatever stands in it."""
    for text in ODD:
        expected = language_consistency(text)
        got = run(function, {"scratchpad": text, "numerals": ARABIC})
        if got.value is None or got.value.numel() != 1 or not abs(float(got.value) - expected) < 1e-4:
            short = ascii(text) if len(text) < 60 else f"{ascii(text[:30])} and so on, {len(text)} characters"
            rows = {"scratchpad": short, "numerals": repr(ARABIC), "expected": f"{expected:.4g}"}
            rows |= {"got": got.shown or "another number"}
            return "Example:\n" + "\n".join(f"  {k:<10} = {v}" for k, v in rows.items())
    return None


# keep_right(rewards [P,G], most) -> [P,G] bool --------------------------------------------------------------------


def _accepted(rewards: torch.Tensor) -> torch.Tensor:
    return rewards >= 1


def _first(accepted: torch.Tensor, most: int) -> torch.Tensor:
    """The right selection, given what is accepted."""
    return accepted & (accepted.cumsum(dim=1) <= most)


def _columns(rewards: torch.Tensor, most: int) -> torch.Tensor:
    """The first answers of each prompt, right or not."""
    return (torch.arange(rewards.shape[1]) < most).expand_as(rewards)


def _best(rewards: torch.Tensor, most: int) -> torch.Tensor:
    """The answers of each prompt with the highest rewards, right or not; of equals the first."""
    order = rewards.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(rewards, dtype=torch.bool).scatter(1, order[:, :most], True)


def _prompts(rewards: torch.Tensor, test: Callable) -> torch.Tensor:
    """[P, 1]: does the number of a prompt's accepted answers pass?"""
    return test(_accepted(rewards).sum(dim=1, keepdim=True))


def _no_bools(function: Callable) -> bool:
    """Is the result something else than a tensor of True and False, with which answers can be picked?"""
    found = []
    run(lambda rewards, most: found.append(function(rewards, most)), {"rewards": torch.tensor([[1.0]]), "most": 1})
    return getattr(found[0] if found else None, "dtype", None) not in (torch.bool, bool)


EXERCISES = [
    Exercise("language_consistency", 10, language_consistency, globals(), rtol=1e-5,
             demands={"odd_scratchpad": _stumbles}),
    Exercise("keep_right", 10, keep_right, globals(), probes={"no_bools": _no_bools}),
]  # fmt: skip
