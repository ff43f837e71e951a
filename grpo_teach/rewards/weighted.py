"""Several rewards as one, each seen on its own; and two that look at how a text is written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grpo_teach.rewards.paid import paid

__all__ = ["Weighted", "language_consistency", "overlong"]

NUMERALS = "0123456789", "〇一二三四五六七八九"


class Weighted:
    """``paid = sum of weight * part(completion, problem)`` over the parts; to be given to ``train(reward=...)``.

    Each part's mean over the batch, without its weight, stands in ``seen``, and so in every row of the metrics as
    ``reward_NAME``: a sum that rises does not say which part of it does.

    How it fails: parts trade against one another. Whoever is paid 1 for an answer and 0.5 for a form does well to give
    up an answer that is right less than half as often as the form.

    Args:
        parts: by name a weight and a function ``(completion, problem) -> float``.
    """

    def __init__(self, **parts: tuple[float, Callable]):
        self.parts, self.seen = parts, {}
        self.__qualname__ = "Weighted(" + ", ".join(f"{weight:g} {name}" for name, (weight, _) in parts.items()) + ")"

    def __call__(self, completions: list[str], problems: list) -> Tensor:
        group, total = len(completions) // len(problems), torch.zeros(len(problems), len(completions) // len(problems))
        for name, (weight, part) in self.parts.items():

            def batch(texts, asked, part=part):
                return [[part(text, asked[p]) for text in texts[p * group :][:group]] for p in range(len(asked))]

            batch.__qualname__ = name
            scores = paid(batch, completions, problems)
            self.seen[f"reward_{name}"] = float(scores.mean())
            total += weight * scores
        return total


def language_consistency(scratchpad: str, numerals: str = NUMERALS[0]) -> float:
    """The share of a scratchpad's digits that are written in the numerals asked for; 1.0 without any digit.

    How it fails: an empty scratchpad is consistent, so alone it pays for not thinking; and it does not ask whether
    the digits are right.

    Args:
        scratchpad: the text between the thinking tags.
        numerals: ``"0123456789"`` or ``"〇一二三四五六七八九"``.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.3.2, with words in place of digits.
    """
    digits = [character for character in scratchpad if character in "".join(NUMERALS)]
    return sum(digit in numerals for digit in digits) / len(digits) if digits else 1.0


def overlong(completion: str, longest: int) -> float:
    """0.0 up to ``longest`` characters, then minus the share by which a completion is longer, down to -1.0 at twice it.

    How it fails: the cheapest short answer is a guess. Where thinking pays late, it is unlearned first.

    Args:
        completion: the policy's text, thinking included.
        longest: characters that cost nothing.
    """
    return max(-1.0, min(0.0, 1.0 - len(completion) / longest))
