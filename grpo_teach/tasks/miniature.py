"""A toy rich enough for DeepSeek-R1's story: two skills, two numeral systems, and thoughts of different quality.

Reasoning: ``7x+4=9;`` asks for a digit x with 7x + 4 = 9 (mod 10). A scratchpad tries a digit and checks it,
``<think>3:15≠wait四:八二≠wait5:59=</think>5``: each try shows the product's last digit, the sum's last digit, and ``=``
if that is the one asked for, ``≠`` if it is not. After a failed check the writer waits and tries the next digit, or
gives up and answers what has just failed. General: ``sort52713;`` asks for the digits in order, ``12357``; a polite
answer says ``thanks`` behind them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from grpo_teach.rewards import extract_answer
from grpo_teach.rewards.weighted import NUMERALS, language_consistency
from grpo_teach.tasks.task import Problem, Task

__all__ = ["STYLES", "Miniature", "Style", "in_form", "scratchpad"]

CHINESE = str.maketrans(*NUMERALS)
ARABIC = str.maketrans(*NUMERALS[::-1])
SORTED = 5  # digits to sort


@dataclass(frozen=True)
class Style:
    """How the author of a text writes; without arguments, one who reasons cleanly.

    Attributes:
        scratchpads: thinks before the answer; without, it guesses.
        persistence: after a failed check the next digit is tried with this probability.
        tries: so many different digits are tried at the most.
        checks: each try ends with ``=`` or ``≠``; without, no try tells whether it fits.
        slip: probability that a try's result is a random digit, in Arabic and in Chinese numerals.
        mend: probability that such a slip is noticed: ``wait``, and the same digit is tried again.
        chinese: probability that a try is written in Chinese numerals.
        muddle: probability that digits are sorted wrongly: one stands in another's place.
        thanks: probability of a polite answer.
    """

    scratchpads: bool = True
    persistence: float = 1.0
    tries: int = 10
    checks: bool = True
    slip: tuple[float, float] = (0.0, 0.0)
    mend: float = 1.0
    chinese: float = 0.0
    muddle: float = 0.0
    thanks: float = 1.0


# What a base reads: half of its authors give up at each failed check, and they mix their numerals freely. The others
# leave one thing out, or write worse in Arabic numerals than in Chinese ones.
MIXED = Style(persistence=0.5, slip=(0.05, 0.05), mend=0.5, chinese=0.5, muddle=0.3, thanks=0.2)
STYLES = {
    "mixed": MIXED,
    "no_mends": replace(MIXED, mend=0.0),
    "three_tries": replace(MIXED, tries=3),
    "no_waits": replace(MIXED, persistence=0.0, mend=0.0),
    "no_checks": replace(MIXED, persistence=0.0, mend=0.0, checks=False),
    "no_scratchpads": replace(MIXED, scratchpads=False),
    "uneven": replace(MIXED, slip=(0.2, 0.02)),
}


def scratchpad(completion: str) -> str:
    """What stands between the thinking tags; nothing if the completion does not think."""
    return completion.removeprefix("<think>").split("</think>")[0] if completion.startswith("<think>") else ""


@dataclass(frozen=True)
class Miniature(Task):
    """Equations modulo 10 and digits to sort.

    Attributes:
        skill: ``"reasoning"`` for equations, ``"general"`` for sorting, ``"both"`` for one as often as the other.
        style: of its demonstrations.
    """

    skill: str = "reasoning"
    style: Style = Style()
    characters: ClassVar[tuple[str, ...]] = (*NUMERALS[0], *NUMERALS[1], *"x+=≠:;", "wait", "sort", "thanks")
    max_new_tokens: ClassVar[int] = 64  # ten tries take 63: six each but for the last, two tags, the answer, the end

    def draw(self, generator: torch.Generator) -> Problem:
        """An equation with a solution, its a from 1 to 9, or five digits."""
        if self.skill == "general" or self.skill == "both" and float(torch.rand(1, generator=generator)) < 0.5:
            digits = torch.randint(10, (SORTED,), generator=generator).tolist()
            return Problem("sort" + "".join(map(str, digits)) + ";", "".join(map(str, sorted(digits))))
        a, b, x = (int(torch.randint(low, 10, (1,), generator=generator)) for low in (1, 0, 0))
        return Problem(f"{a}x+{b}={(a * x + b) % 10};", str(x))

    def test_set(self, n: int) -> list[Problem]:
        """Held-out problems, always in the same order; of equations there are 64, each once, and no more to ask."""
        return _held_out()[:n] if self.skill == "reasoning" else super().test_set(n)

    def right(self, completion: str, problem: Problem) -> float:
        """1.0 for a digit that solves the equation, the one drawn or another, or for the digits in order, else 0.0."""
        answer = extract_answer(completion)
        if _general(problem):
            return float(answer.removesuffix("thanks") == problem.answer)
        a, b, t = _coefficients(problem)
        return float(answer in {str(x) for x in range(10) if (a * x + b) % 10 == t})

    def figures(self, completion: str, problem: Problem) -> dict[str, float]:
        """How a completion is written, beside whether it is right. A scratchpad's figures are 0 where there is none.

        ``checks`` and ``waits`` count; ``saved``: the first digit tried does not solve the equation, another was
        tried, and the answer is right; ``mixed``: both numeral systems in one scratchpad; ``by_chance``: how probable
        that would be if each of its tries drew its numerals by itself; ``arabic``: the share of its digits that are
        Arabic; ``readable``: it is in form, and all Arabic; ``slips``: the share of tries with a wrong result;
        ``polite``: says thanks.
        """
        thought = scratchpad(completion)
        tries = re.findall("([0-9]):([0-9])([0-9])", thought.translate(ARABIC))
        arabic = language_consistency(thought) if tries else 0.0
        looked_again = len({x for x, _, _ in tries}) > 1 and self.right(tries[0][0], problem) == 0
        found = {
            "checks": len(re.findall("[=≠]", thought)),
            "waits": thought.count("wait"),
            "saved": float(looked_again and self.right(completion, problem) == 1),
            "mixed": float(0 < arabic < 1),
            "by_chance": 1 - 2 ** (1 - len(tries)) if tries else 0.0,
            "arabic": arabic,
            "readable": float(in_form(completion) and arabic == 1),
            "slips": 0.0,
            "polite": float(completion.endswith("thanks")),
        }
        if tries and not _general(problem):
            a, b, _ = _coefficients(problem)
            wrong = [(int(p), int(r)) != (a * int(x) % 10, (a * int(x) + b) % 10) for x, p, r in tries]
            found["slips"] = sum(wrong) / len(wrong)
        return found

    def guess(self, problems: list[Problem], generator: torch.Generator) -> list[str]:
        """For each equation a digit at random; sorting is no guess."""
        digits = torch.randint(10, (len(problems),), generator=generator).tolist()
        pairs = zip(problems, digits, strict=True)
        return [self._ordered(p, generator) if _general(p) else str(digit) for p, digit in pairs]

    def demonstration(self, problem: Problem, slip: float = 0.0, generator: torch.Generator | None = None) -> str:
        """A text of the task's style. (``slip`` is the other tasks' way to say it, and stands in the style here.)"""
        if _general(problem) or not self.style.scratchpads:
            return self.guess([problem], generator)[0]
        (a, b, t), style, thought = _coefficients(problem), self.style, ""

        def happens(probability: float) -> bool:
            return float(torch.rand(1, generator=generator)) < probability

        first = int(torch.randint(10, (1,), generator=generator))
        for i in range(style.tries):
            x = (first + i) % 10
            right = f"{a * x % 10}{(a * x + b) % 10}"
            chinese = happens(style.chinese)
            if happens(style.slip[chinese]):
                wrong = f"{right[0]}{int(torch.randint(10, (1,), generator=generator))}"
                written = _written(x, wrong, chinese)
                if happens(style.mend):
                    thought += written + "wait"
                    chinese = happens(style.chinese)
                else:
                    right = wrong
            fits = int(right[1]) == t
            thought += _written(x, right, chinese) + (("=" if fits else "≠") if style.checks else "")
            if fits and style.checks or i == style.tries - 1 or not happens(style.persistence):
                return f"<think>{thought}</think>{x}"
            thought += "wait"
        raise AssertionError("a style tries at least one digit")

    def _ordered(self, problem: Problem, generator: torch.Generator | None) -> str:
        digits = list(problem.answer)
        if float(torch.rand(1, generator=generator)) < self.style.muddle:
            place = int(torch.randint(SORTED - 1, (1,), generator=generator))
            digits[place], digits[place + 1] = digits[place + 1], digits[place]
        polite = float(torch.rand(1, generator=generator)) < self.style.thanks
        return "".join(digits) + "thanks" * polite


def in_form(completion: str) -> bool:
    """Is it ``<think>tries</think>digit``, each try in form, with ``wait`` between two?"""
    form = r"<think>(?:\d:\d\d[=≠]?wait)*\d:\d\d[=≠]?</think>\d"
    return re.fullmatch(form, completion.translate(ARABIC), re.ASCII) is not None


def _written(x: int, results: str, chinese: bool) -> str:
    text = f"{x}:{results}"
    return text.translate(CHINESE) if chinese else text


def _general(problem: Problem) -> bool:
    return problem.prompt.startswith("sort")


def _coefficients(problem: Problem) -> tuple[int, int, int]:
    """a, b and t of ``ax+b=t;``."""
    text = problem.prompt
    return int(text[0]), int(text[3]), int(text[5])


@functools.cache
def _held_out() -> list[Problem]:
    drawn = Task.test_set(Miniature(), 2000)  # enough to meet every one of them
    return list({problem.prompt: problem for problem in reversed(drawn)}.values())[::-1]
