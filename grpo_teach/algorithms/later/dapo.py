r"""DAPO: GRPO with a wider clip upwards and a mean over all tokens, and two things around the update.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{\sum|o|}\sum_{i,t}
    \min\big(\rho_{i,t} A_i,\ \mathrm{clip}(\rho_{i,t}, 1-\epsilon_\text{low}, 1+\epsilon_\text{high}) A_i\big)\Big]
    \quad \text{s.t. } 0 < |\{\text{right answers}\}| < G

The update is ``grpo.py`` with other settings. The condition is kept by :class:`DynamicSampling`, given to ``train`` as
``kind``; :class:`Overlong` wraps a reward. Book Eq. (4.3) and (12.8). Source: DAPO (arXiv 2503.14476) Eq. (8) to (13).
Departs from the paper in one point: it filters or punishes answers that were cut off, as asked; here they are punished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.algorithms.later.formulas import overlong_penalty
from grpo_teach.rollout import Rollouts
from grpo_teach.settings import setting
from grpo_teach.train import Trainer


@dataclass(frozen=True)
class DAPO(GRPO):
    """Settings of DAPO: GRPO's, with another default. (The mean over tokens is this package's default for GRPO.)"""

    clip_high: float = setting(0.28, "how far the ratio may rise above 1 (DAPO: 0.28)")


def joined(batches: list[Rollouts]) -> Rollouts:
    """Batches below each other: prompts padded on the left and completions on the right to the longest."""

    def below(name: str, left: bool) -> Tensor:
        parts = [getattr(batch, name) for batch in batches]
        widest = max(part.shape[1] for part in parts)  # what pads is masked
        return torch.cat([pad(p, (widest - p.shape[1], 0) if left else (0, widest - p.shape[1])) for p in parts])

    return Rollouts(**{name: below(name, left=name.startswith("prompt")) for name in vars(batches[0])})


class DynamicSampling(Trainer):
    """A trainer that samples until its batch is full of groups with both right and wrong answers.

    What it shows of a batch (``reward``, ``mixed_groups``, ...) is of all that was sampled, and ``tokens`` counts all
    of it: dead groups, and the mixed ones for which there was no more room. ``sampled`` says how many batches it took.
    """

    most = 10  # batches; then it learns from the mixed groups that there are

    def train_step(self) -> dict:
        """Sample and reward until there are enough mixed groups, look, update. Returns the step's metrics."""
        started, drawn, size = time.perf_counter(), [], self.config.group_size
        while len(drawn) < self.most and sum(int(_mixed(rewards).sum()) for *_, rewards in drawn) < self.config.prompts:
            problems, rollouts = self.sample()
            texts = rollouts.texts(self.tokenizer)
            drawn.append((rollouts, texts, self.rewarded(texts, problems)))
        rollouts, rewards = joined([batch for batch, *_ in drawn]), torch.cat([paid for *_, paid in drawn])
        row = self.look(rollouts, [text for _, texts, _ in drawn for text in texts], rewards)
        kept = _mixed(rewards).nonzero().flatten()[: self.config.prompts]
        rows = (kept.unsqueeze(1) * size + torch.arange(size, device=kept.device)).flatten()
        if len(kept):
            row |= self.learn(rollouts[rows].trimmed(), rewards[kept])
        else:
            self.step += 1
        self.tokens += rollouts.tokens
        self.seconds += time.perf_counter() - started
        return row | {"sampled": len(drawn), "tokens": self.tokens, "seconds": round(self.seconds, 3)}


def _mixed(rewards: Tensor) -> Tensor:
    """[P] bool: which groups, rows of [P, G], do not all earn the same?"""
    return rewards.max(dim=1).values > rewards.min(dim=1).values


class Overlong:
    """A reward less the punishment of what nearly runs out of room; lengths are counted without the EOS.

    Args:
        reward: ``(completions, problems) -> [P, G]``.
        tokenizer: the policy's, to count with.
        longest, buffer: tokens, as :func:`overlong_penalty` takes them.
    """

    def __init__(self, reward: Callable, tokenizer, longest: int, buffer: int):
        self.reward, self.tokenizer, self.room = reward, tokenizer, (longest, buffer)

    def __call__(self, completions: list[str], problems: list) -> Tensor:
        rewards = torch.as_tensor(self.reward(completions, problems))
        ids = self.tokenizer(completions, add_special_tokens=False)["input_ids"]
        lengths = torch.tensor([len(row) for row in ids], device=rewards.device)
        return rewards + overlong_penalty(lengths, *self.room).view(rewards.shape)
