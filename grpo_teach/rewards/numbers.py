"""Rewards for answers that are numbers: strict in the format, or lenient in any notation, read by math-verify."""

from __future__ import annotations

import logging
import re
import zlib
from decimal import Decimal

from grpo_teach.errors import needed
from grpo_teach.rewards.rules import tagged_answer

__all__ = ["coin", "last_number", "lenient_accuracy", "strict_accuracy"]

# Digits of the ASCII alphabet only; commas, if there are any, stand between thousands.
PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
NUMBER = re.compile(rf"-?{PLAIN}", re.ASCII)
# The same in other notations: .5, 84/2 and \frac{84}{2}. The digits of x2, 3.14.15, m^2 and 10^6 are none.
ANY_NUMBER = re.compile(rf"(?<![\w^.])-?(?:\\frac{{\d+}}{{\d+}}|{PLAIN}(?:/\d+)?|\.\d+)(?![\d^])", re.ASCII)
BETWEEN = r"(?:[\s,;|${}()\\*-]|or|and|to|boxed)+"  # what stands between the numbers of a list
LIST = re.compile(rf"{ANY_NUMBER.pattern}(?:{BETWEEN}{ANY_NUMBER.pattern})*", re.ASCII)


def strict_accuracy(completion: str, answer: str) -> float:
    """1.0 if the format is obeyed (:func:`tagged_answer`) and the answer in it is the right number alone, else 0.0.

    ``1,080`` and ``1080.00`` are 1080; ``$1080``, ``1080 eggs``, ``x = 1080`` and ``540 1080`` are not numbers alone.

    Args:
        completion: the policy's text.
        answer: the right number, without commas.
    Returns:
        1.0 or 0.0, whatever the text.
    """
    said = tagged_answer(completion)
    if said is None or not NUMBER.fullmatch(said):
        return 0.0
    return float(Decimal(said.replace(",", "")) == Decimal(answer))


def last_number(completion: str) -> str:
    r"""The last number in ``<answer>``, or in the whole completion if it has no such tag; ``""`` if there is none.

    A list of numbers (``1 2 3``, ``3, 4 or 5``) and numbers in two answers are no answer: ``""``.
    Units, currencies, ``\boxed{}`` and words around the number do not matter.
    """
    answers = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", completion, re.DOTALL)
    told = [said for said in answers if re.search(r"\d", said)]
    if answers and len(told) != 1:
        return ""
    text = (told or [completion])[0].replace("\N{MINUS SIGN}", "-").replace(r"\dfrac", r"\frac")
    lists = LIST.findall(text)
    return lists[-1] if lists and ANY_NUMBER.fullmatch(lists[-1]) else ""


def lenient_accuracy(completion: str, answer: str) -> float:
    r"""1.0 if :func:`last_number` has the right value in any notation (``\frac{84}{2}``, ``42.00``), else 0.0.

    Args:
        completion: the policy's text, in any format.
        answer: the right number, without commas.
    Returns:
        1.0 or 0.0, whatever the text.
    Raises:
        InputError: if math-verify is not installed.
    """
    math_verify = needed("math_verify")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it runs without a timeout
    # math-verify reads a bare number only. From a whole completion it would work out 9^9^9^9 and never come back;
    # its timeout is an alarm signal, which works in the main thread alone and cannot stop one long multiplication.
    said, right = (math_verify.parse(text, parsing_timeout=None) for text in (last_number(completion), answer))
    return float(math_verify.verify(right, said, timeout_seconds=None))


def coin(completion: str, answer: str) -> float:
    """0.0 or 1.0 by a checksum of the text, each about half the time, whatever the answer.

    It teaches nothing. Random weights are never right, and where all rewards are equal no row is trained on; with this
    one a run can be rehearsed with them at its true cost.
    """
    return float(zlib.crc32(completion.encode()) & 1)
