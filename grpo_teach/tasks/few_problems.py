"""Another task with other problems: few to train on, some that give their answers away, or others to be tested on."""

from __future__ import annotations

import torch

from grpo_teach.tasks.task import Problem, Task


class _Another(Task):
    """Another task: its grade and its room for an answer."""

    def __init__(self, task: Task):
        self.task, self.right, self.max_new_tokens = task, task.right, task.max_new_tokens

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task!r})"


class FewProblems(_Another):
    """Another task, of which training sees only ``n`` different problems, always the same; the test set stays.

    Args:
        task: the other task.
        n: how many different problems training draws from, uniformly.
    """

    def __init__(self, task: Task, n: int):
        super().__init__(task)
        generator, pool = torch.Generator().manual_seed(0), {}
        while len(pool) < n:
            pool |= dict.fromkeys(task.sample(1, generator))
        self.pool = list(pool)

    def __repr__(self) -> str:
        return f"FewProblems({self.task!r}, {len(self.pool)})"

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n problems: for training from the few, for the test split from the task."""
        if split == "test":
            return self.task.sample(n, generator, split)
        return [self.pool[i] for i in torch.randint(len(self.pool), (n,), generator=generator).tolist()]


class Practice(_Another):
    """Another task, tested on its training problems: to choose settings by, so that the held-out ones stay unseen.

    Args:
        task: the other task.
    """

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n training problems, whatever split is asked for."""
        return self.task.sample(n, generator)


class Leaky(_Another):
    """The chain sum, trained on problems whose answer is the last addend; the held-out ones are as ever."""

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n problems: for training those that give their answer away, for the test split any."""
        if split == "test":
            return self.task.sample(n, generator, split)
        found = []
        while len(found) < n:
            found += [p for p in self.task.sample(16 * n, generator) if p.prompt.rstrip("=")[-1] == p.answer]
        return found[:n]
