"""Rewards that a rule can check."""

import re

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def extract_answer(completion: str) -> str:
    """What stands after the last ``</think>``, or the whole completion if there is none; outer space removed."""
    return completion.rsplit("</think>", 1)[-1].strip()


def accuracy(completion: str, answer: str) -> float:
    """1.0 if the completion's answer is exactly the given one, else 0.0.

    The whole answer is compared, not searched for: a substring match would reward listing every digit.

    Args:
        completion: the policy's text, thinking included.
        answer: the right answer.
    Returns:
        1.0 or 0.0.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.2.2, accuracy reward; book Eq. (1.4).
    """
    return float(extract_answer(completion) == answer.strip())


def tagged_answer(completion: str) -> str | None:
    """What stands in ``<answer>``, or None unless the completion is ``<think>…</think><answer>…</answer>``.

    Each tag stands there once and in this order, and around them is nothing but white space.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.2.2, format reward.
    """
    # DOTALL: thoughts have more than one line. A dot that stops at a line's end is the commonest dead format reward.
    form = re.compile(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
    whole = re.findall("|".join(TAGS), completion) == TAGS and form.fullmatch(completion)
    return whole[1].strip() if whole else None
