"""A cold start: what plain SFT reads before reinforcement learning begins."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["worked_solutions"]


def worked_solutions(task, batch: int) -> Callable[[float, torch.Generator], tuple[list[str], list[str]]]:
    """What :func:`grpo_teach.supervise` draws: so many training problems of a task, and their worked solutions."""

    def draw(_: float, generator: torch.Generator) -> tuple[list[str], list[str]]:
        problems = task.sample(batch, generator)
        return [problem.prompt for problem in problems], [task.demonstration(problem) for problem in problems]

    return draw
