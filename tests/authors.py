"""Texts about the miniature's problems, and a parser of its own that reads them."""

import re

import torch

from grpo_teach import wilson_interval
from grpo_teach.tasks.miniature import Miniature

CHINESE = "〇一二三四五六七八九"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(problem):
    return [int(n) for n in re.fullmatch(r"([1-9])x\+([0-9])=([0-9]);", problem.prompt).groups()]


def written(style, n=400, skill="reasoning", seed=0):
    """``(problem, text)`` pairs of an author."""
    task, g = Miniature(skill, style), generator(seed)
    return [(problem, task.demonstration(problem, generator=g)) for problem in task.sample(n, g)]


def tries(text):
    """``[(x, product, result, mark, chinese)]`` and the answer, by a parser of its own that refuses any other form."""
    thought, answer = re.fullmatch("<think>(.+)</think>([0-9])", text).groups()
    found = []
    for each in thought.split("wait"):
        digits, mark = re.fullmatch("(.:..)([=≠]?)", each).groups()
        chinese = digits[0] in CHINESE
        x, p, r = ((CHINESE if chinese else "0123456789").index(c) for c in digits.replace(":", ""))
        found.append((x, p, r, mark, chinese))
    return found, int(answer)


def near(hits, n, share, z=4.0):
    low, high = wilson_interval(hits / n, n, z=z)
    return low - 1e-9 <= share <= high + 1e-9
