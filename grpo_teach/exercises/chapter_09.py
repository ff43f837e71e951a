"""Chapter 09: rewards that survive the attacks, the share of mixed groups, the loss of a reward model."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import torch

from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.rewards import format_reward, number_reward, strict_accuracy
from grpo_teach.rewards.preferences import bradley_terry_loss
from grpo_teach.rewards.verifier import mixed_share

# format_reward(completion) -> float -------------------------------------------------------------------------------

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def _layout(completion: str, match: Callable = re.fullmatch, flags: int = re.DOTALL, between: str = r"\s*",
            before: str = r"\s*", after: str = r"\s*", thoughts: str = ".*", answer: str = ".*") -> bool:  # fmt: skip
    """Does a regular expression find the form? As given, it lets a second try through: ``.*`` matches tags too."""
    form = rf"{before}<think>{thoughts}</think>{between}<answer>{answer}</answer>{after}"
    return match(form, completion, flags) is not None


def _once(completion: str) -> bool:
    return all(completion.count(tag) == 1 for tag in TAGS)


def _ends(completion: str) -> bool:
    return completion.strip().startswith("<think>") and completion.strip().endswith("</answer>")


# number_reward(completion, answer) -> float -----------------------------------------------------------------------

SPELT = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"


def _answers(completion: str, flags: int = re.DOTALL) -> list[str]:
    return re.findall("<answer>(.*?)</answer>", completion, flags)


def _one(completion: str) -> str:
    """The text of the answer if there is exactly one, as it should be read; else no number."""
    one = re.findall("</?answer>", completion) == ["<answer>", "</answer>"]
    return _answers(completion)[0] if one else "none"


def _first(completion: str, flags: int = re.DOTALL) -> str:
    return (_answers(completion, flags) or ["none"])[0]


def _last(completion: str) -> str:
    return (_answers(completion) or ["none"])[-1]


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?\d[\d,]*(?:\.\d+)?", text) or ["none"]


def _same(told: str, answer: str) -> bool:
    """The right comparison: the answers' own, on a text without tags."""
    return bool(number_reward(f"<answer>{told}</answer>", answer))


def _alike(told: str, answer: str, read: Callable = float, commas: str = "") -> bool:
    """Compare what ``read`` makes of the two texts, their commas replaced first; what cannot be read is wrong."""
    try:
        return bool(read(told.strip().replace(",", commas)) == read(answer.strip().replace(",", commas)))
    except (ValueError, InvalidOperation, OverflowError):
        return False


def _spelt(text: str) -> float:
    """The float of a text that is one number."""
    return float(text.replace(",", "")) if re.fullmatch(SPELT, text) else math.nan


def _evaluated(told: str, answer: str) -> bool:
    try:
        return bool(eval(told.strip(), {"__builtins__": {}}) == eval(answer, {"__builtins__": {}}))
    except Exception:
        return False


# Both -------------------------------------------------------------------------------------------------------------

# Here, since TOML can hold no lone surrogate; a text of Python's can.
ODD = ["\ud800", "\0", "<answer>\ud800</answer>", "<answer>\0</answer>", f"<answer>{'9' * 5000}</answer>", "<" * 1000]
ODD += ["<think>\ud800</think><answer>42</answer>"]
SLOW = 0.02  # seconds for a text of some 60 characters


def _asked(function: Callable, completion: str, answer: str | None):
    return run(function, {"completion": completion} | ({} if answer is None else {"answer": answer}))


def _stumbles(*answers: str | None) -> Callable:
    """A demand: every text gets 0 or 1, whatever stands in it, beside each of these right answers."""

    def unmet(function: Callable) -> str | None:
        for text in ODD:
            for answer in answers:
                got = _asked(function, text, answer)
                if got.value is None or got.value.numel() != 1 or float(got.value) not in (0.0, 1.0):
                    rows = {"completion": _short(text)} | ({} if answer is None else {"answer": _short(answer)})
                    rows |= {"expected": "0 or 1", "got": got.shown or "another number"}
                    odd = "completion" if answer == answers[0] else "answer"  # the first of them is an ordinary one
                    return f"Example, odd in its {odd}:\n" + "\n".join(f"  {k:<10} = {v}" for k, v in rows.items())
        return None

    return unmet


def _short(text: str) -> str:
    return ascii(text) if len(text) < 60 else f"{ascii(text[:30])} and so on, {len(text)} characters"


def _slow(answer: str | None = None) -> Callable:
    """A probe: does the time multiply with every space? Asked with one more at a time, so that it cannot hang."""

    def seconds(function: Callable, spaces: int) -> float:
        text = f"<think>{' ' * spaces}</think><answer>{' ' * spaces}</answer"
        began = time.thread_time()  # the learner's own: the machine may be busy
        _asked(function, text, answer)
        return time.thread_time() - began

    def applies(function: Callable) -> bool:
        least = max(SLOW, 10 * min(seconds(function, 3) for _ in range(3)))
        # Asked again: once may be Python's tidying up.
        return any(seconds(function, n) > least and seconds(function, n) > least for n in range(4, 22))

    return applies


# mixed_share(success [P], group_size) -> float --------------------------------------------------------------------


def _mixed(p: torch.Tensor, group_size: int) -> torch.Tensor:
    return 1 - p**group_size - (1 - p) ** group_size


# bradley_terry_loss(chosen [B], rejected [B]) -> scalar -----------------------------------------------------------


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


EXERCISES = [
    Exercise("format_reward", 9, format_reward, globals(), probes={"slow": _slow()},
             demands={"odd_text": _stumbles(None)}),
    Exercise("number_reward", 9, number_reward, globals(), probes={"slow": _slow("42")},
             demands={"odd_text": _stumbles("42", "9" * 5000)}),
    Exercise("mixed_share", 9, mixed_share, globals(), rtol=1e-5),
    Exercise("bradley_terry_loss", 9, bradley_terry_loss, globals(), gradient=("chosen", "rejected")),
]  # fmt: skip
