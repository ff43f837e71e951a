"""Rewards for completions with tags: for their form, and for one number in their answer."""

from __future__ import annotations

import re
from decimal import Decimal

from grpo_teach.rewards.numbers import PLAIN
from grpo_teach.rewards.rules import tagged_answer

__all__ = ["format_reward", "number_reward"]

SIGNED = re.compile(rf"[+-]?(?:{PLAIN}|\.\d+)", re.ASCII)


def format_reward(completion: str) -> float:
    """1.0 for one ``<think>…</think>`` and then one ``<answer>…</answer>``, white space alone around them; else 0.0.

    How it fails: it is paid for empty thoughts and for any answer, so alone it teaches the form and nothing else.

    Args:
        completion: the policy's text.
    Returns:
        1.0 or 0.0, whatever the text.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.2.2, format reward.
    """
    return float(tagged_answer(completion) is not None)


def number_reward(completion: str, answer: str) -> float:
    """1.0 if the completion has one ``<answer>`` and in it stands one number, the right one; else 0.0.

    ``1,000``, ``1000`` and ``1000.0`` are the same. Whatever stands outside the answer does not matter.

    How it fails: a right answer with a unit, in words or in LaTeX gets nothing (:func:`lenient_accuracy` takes those).

    Args:
        completion: the policy's text.
        answer: the right number.
    Returns:
        1.0 or 0.0, whatever the text.
    """
    if re.findall("</?answer>", completion) != ["<answer>", "</answer>"]:
        return 0.0
    told, right = completion.split("<answer>")[1].split("</answer>")[0].strip(), answer.strip()
    if not (SIGNED.fullmatch(told) and SIGNED.fullmatch(right)):
        return 0.0
    return float(Decimal(told.replace(",", "")) == Decimal(right.replace(",", "")))
