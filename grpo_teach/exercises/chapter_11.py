"""Chapter 11: the loss of distillation, and the vote among many answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import groupby

import torch
import torch.nn.functional as F

from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.r1.distil import distillation_loss
from grpo_teach.r1.search import majority_vote

# distillation_loss(student_logits [B,T,V], teacher_logits [B,T,V], mask [B,T]) -> scalar --------------------------


def _mean(each: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The right mean of what each token costs, [B, T]."""
    return (each * mask).sum() / mask.sum()


def _kl(p_logits: torch.Tensor, q_logits: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """KL(p || q) of each token; a softmax over another dimension is a mistake."""
    p, q = p_logits.log_softmax(dim), q_logits.log_softmax(dim)
    return (p.exp() * (p - q)).sum(-1)


def _right(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """[B, T]: what each token costs."""
    return _kl(teacher.detach(), student)


def _reverse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return _kl(student, teacher.detach())


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _weighed(student: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[B, T]: the student's negative log-probs, weighed over the vocabulary."""
    return -(weights.detach() * student.log_softmax(-1)).sum(-1)


def _to_the_middle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Jensen and Shannon's divergence: the mean of both KLs to the mean distribution."""
    s, t = student.softmax(-1), teacher.detach().softmax(-1)
    middle = ((s + t) / 2).log()
    return ((s * (s.log() - middle)).sum(-1) + (t * (t.log() - middle)).sum(-1)) / 2


def _underflows(function: Callable) -> bool:
    """Does a word that is very unlikely for both give a loss that is not finite?"""
    logits = torch.tensor([[[200.0, 0.0, 0.0]]])
    teacher = torch.tensor([[[199.0, 1.0, 0.0]]])
    outcome = run(function, {"student_logits": logits, "teacher_logits": teacher, "mask": torch.ones(1, 1)})
    return outcome.value is not None and not bool(torch.isfinite(outcome.value).all())


# majority_vote(answers) -> str ------------------------------------------------------------------------------------


def _given(answers: list[str]) -> list[str]:
    """Those that are no empty text."""
    return [answer for answer in answers if answer]


def _tops(answers: list[str]) -> list[str]:
    """The most frequent answers, each once, in the order in which they are said first."""
    counts = Counter(answers)
    return [answer for answer in counts if counts[answer] == max(counts.values())]


def _one(answers: list[str], choose: Callable) -> str:
    """One of the most frequent answers, an empty text one like the others."""
    return choose(_tops(answers)) if answers else ""


def _number(answer: str) -> float:
    try:
        return float(answer)
    except ValueError:
        return math.inf


def _by_number(answers: list[str]) -> str:
    """The vote where two spellings of a number are one answer."""
    numbers = [_number(answer) if _number(answer) < math.inf else answer for answer in answers]
    return answers[numbers.index(max(numbers, key=numbers.count))] if answers else ""


def _first_to_get_there(answers: list[str]) -> str:
    """The answer that was the first to reach the highest count."""
    best, counts = "", Counter()
    for answer in answers:
        counts[answer] += 1
        if counts[answer] > counts[best]:
            best = answer
    return best


def _boyer_moore(answers: list[str]) -> str:
    """What is left when each answer cancels a different one: the majority, where one has more than half."""
    left, lead = "", 0
    for answer in answers:
        left = answer if lead == 0 else left
        lead += 1 if answer == left else -1
    return left


def _longest_run(answers: list[str]) -> str:
    runs = [(answer, len(list(same))) for answer, same in groupby(answers)]
    return max(runs, key=lambda run: run[1])[0] if runs else ""


EXERCISES = [
    Exercise("distillation_loss", 11, distillation_loss, globals(), gradient=("student_logits", "teacher_logits"),
             probes={"underflow": _underflows}),
    Exercise("majority_vote", 11, majority_vote, globals(), rtol=0.0, text=True),
]  # fmt: skip
