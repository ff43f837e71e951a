"""Chapter 08: settings that fit a card, and a strict reward."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from grpo_teach.errors import InputError
from grpo_teach.exercises.calls import from_book, is_stub, run
from grpo_teach.exercises.exercise import TEXTS, Exercise
from grpo_teach.exercises.report import Verdict
from grpo_teach.large import model_config
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.rewards import last_number, strict_accuracy, tagged_answer

# settings_that_fit(limit) -> dict of Setup's fields --------------------------------------------------------------

GIB = 2**30
CARDS = {"a T4": 14.7, "a card of 8 GiB": 8.0, "a card of 4 GiB": 4.0}
FREE = 0.1  # of each card, for what the ledger leaves out
KEPT = {"prompts": 4, "group_size": 8, "prompt_tokens": 256, "max_new_tokens": 512}


@dataclass(frozen=True)
class Fitting:
    """Choose settings: no answer is the right one, so each is judged by the ledger's prediction.

    Attributes:
        name: as :func:`grpo_teach.exercises.check` takes it.
        chapter: of the book.
    """

    name: str
    chapter: int

    def examine(self, function: Callable) -> Verdict:
        """Judge the learner's function on each card of ``CARDS``, the first mistake first."""
        texts = TEXTS["general"] | TEXTS[self.name]
        if not callable(function):
            return Verdict(self.name, False, True, "not_a_function", texts["not_a_function"])
        if is_stub(function):
            return Verdict(self.name, False, False, None, texts["not_attempted"])
        shape, peaks = Shape.of(model_config("llama-3.2-1b")), []
        for card, size in CARDS.items():
            limit = int(size * GIB * (1 - FREE))
            given, problem, filling = _called(function, limit)
            if not problem:
                problem, filling = _mistake(given, shape, limit)
            if problem:
                example = f"Smallest example ({card}):\n  limit    = {limit / GIB:.2f} GiB\n"
                got = repr(given) if isinstance(given, dict) else "no dict"
                example += f"  expected = settings that fit and give nothing up\n  got      = {got}"
                return Verdict(self.name, False, True, problem, f"{texts[problem].format(**filling)}\n{example}")
            setup = Setup(shape, **given)
            peaks.append(f"{card}: groups of {setup.group_size}, {_peak(setup):.2f} of {limit / GIB:.2f} GiB")
        book = from_book(function)
        message = " ".join([texts["passed"], *([texts["from_book"]] if book else [])])
        return Verdict(self.name, True, True, None, "\n".join([message, *peaks]), from_book=book)


def _called(function: Callable, limit: int) -> tuple[object, str | None, dict]:
    """What the function gave; or the id of the problem, and what its text needs."""
    given = []

    @functools.wraps(function)
    def keeping(limit):
        given.append(function(limit))
        return 0.0

    outcome = run(keeping, {"limit": limit})
    if outcome.problem:
        return None, outcome.problem, {"detail": outcome.detail}
    if given[0] is None:
        return None, "returns_nothing", {}
    if not isinstance(given[0], dict):
        return given[0], "wrong_type", {"detail": type(given[0]).__name__, "wanted": "a dict"}
    return given[0], None, {}


def _peak(setup: Setup) -> float:
    return predict(setup).terms["total"] / GIB


def _mistake(given: dict, shape: Shape, limit: int) -> tuple[str | None, dict]:
    """The id of the first mistake, and what its text needs; None if there is none."""
    fields = {field.name: field.default for field in dataclasses.fields(Setup)[1:]}
    unknown = [name for name in given if name not in fields]
    if unknown:
        return "unknown_setting", {"names": ", ".join(map(str, unknown)), "known": ", ".join(fields)}
    chosen = fields | given
    if chosen["algorithm"] != "ppo":
        return "not_ppo", {"algorithm": chosen["algorithm"]}
    if chosen["critic"] == "none":
        return "no_critic", {}
    try:
        setup = Setup(shape, **given)
    except InputError as error:
        return "impossible", {"reason": error}
    for name, least in KEPT.items():
        if chosen[name] < least:
            return f"{name}_too_small", {"got": chosen[name], "least": least}
    if setup.reference == "none":
        return "no_reference", {}
    if setup.dtype == "bfloat16":
        return "no_bfloat16", {}
    if setup.dtype == "float16" and setup.method == "full":
        return "float16_weights", {}
    ledger = predict(setup)
    peak = ledger.terms["total"] / GIB
    over = peak - limit / GIB
    if over > 0:
        alive = ledger.moments[ledger.peak]
        largest = max(alive, key=alive.get)
        where = {"phase": ledger.peak[0], "largest": largest, "size": alive[largest] / GIB}
        return "does_not_fit", {"peak": peak, "over": over} | where
    doubled = _peak(dataclasses.replace(setup, group_size=2 * setup.group_size))
    if doubled <= limit / GIB:
        return "room_left", {"group": setup.group_size, "peak": peak, "doubled": doubled}
    return None, {}


# strict_reward(completion, answer) -> float -----------------------------------------------------------------------

LAYOUT = r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*"


def _value(text: str) -> float | None:
    plain = text.strip().replace(",", "")
    return float(plain) if re.fullmatch(r"-?\d+(\.\d+)?", plain) else None


def _same(said: str, answer: str) -> bool:
    return _value(said) is not None and _value(said) == _value(answer)


def _read(completion: str, layout: str = LAYOUT, match: Callable = re.fullmatch, flags: int = re.DOTALL) -> str:
    """What the layout's group holds; a text that is no number if the layout is not met."""
    found = match(layout, completion, flags)
    return found[1] if found else "none"


EXERCISES = [Fitting("settings_that_fit", 8), Exercise("strict_reward", 8, strict_accuracy, globals())]
