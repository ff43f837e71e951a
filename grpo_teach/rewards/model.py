"""A learned reward: a network that was shown pairs of completions, and which of the two was preferred."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo_teach import records
from grpo_teach.rewards.preferences import bradley_terry_loss
from grpo_teach.rollout import Rollouts, from_text, positions, sample

__all__ = ["Pairs", "RewardModel", "Scorer", "descend", "fit", "judged_pairs", "ranked_rightly", "share_won"]


@dataclass(frozen=True)
class Pairs:
    """Two answers to each of N prompts, and which of them was preferred: texts, all in one order."""

    prompts: list[str]
    chosen: list[str]
    rejected: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: Sequence[int]) -> Pairs:
        """The given pairs."""
        return Pairs(*([texts[row] for row in rows] for texts in vars(self).values()))


class Scorer(nn.Module):
    """A copy of a policy's trunk with a linear head that starts at 0.

    Args:
        policy: whose trunk is copied, and then trained further.
        tokenizer: the policy's.
        scores: how many the head gives for each state.
    """

    def __init__(self, policy: nn.Module, tokenizer, scores: int):
        super().__init__()
        self.tokenizer, self.trunk = tokenizer, copy.deepcopy(policy.get_decoder())
        self.head = nn.Linear(policy.config.hidden_size, scores, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def read(self, rollouts: Rollouts) -> Tensor:
        """[B, L + T, H] the trunk's last states over prompt and completion."""
        ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
        attention = torch.cat([rollouts.prompt_mask, rollouts.mask.long()], dim=1)
        seen = {"attention_mask": attention, "position_ids": positions(attention), "use_cache": False}
        return self.trunk(input_ids=ids, **seen).last_hidden_state

    def score(self, prompts: list[str], completions: list[str]):
        """What ``forward`` gives for texts, one prompt to each completion."""
        return self(from_text(self.tokenizer, prompts, completions, self.head.weight.device))


class RewardModel(Scorer):
    """The fourth of RLHF's models: one score for a finished completion.

    ``score[b] = head(trunk(prompt, completion)[last token])``, in nats: a difference of two scores is the logarithm of
    the odds that one answer is preferred. The trunk is a copy of the policy's, the head starts at 0.

    How it fails: between the answers it was shown it may judge well, far from them it answers all the same. It reads
    text, so a completion that was cut off looks to it as one that ended there.

    Args:
        policy: whose trunk is copied, and then trained further.
        tokenizer: the policy's.
    Source: Ouyang et al. (arXiv 2203.02155) section 3.5; book Eq. (9.7).
    """

    def __init__(self, policy: nn.Module, tokenizer):
        super().__init__(policy, tokenizer, scores=1)

    def forward(self, rollouts: Rollouts) -> Tensor:
        """[B] scores in nats, with gradient where grad mode is on."""
        hidden, last = self.read(rollouts), rollouts.prompt_ids.shape[1] + rollouts.lengths - 1
        return self.head(hidden[torch.arange(len(hidden)), last]).squeeze(-1)

    def compared(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """``(chosen, rejected)``, [N] scores each."""
        return self.score(pairs.prompts * 2, pairs.chosen + pairs.rejected).chunk(2)

    @torch.no_grad()
    def reward(self, completions: list[str], problems: list) -> Tensor:
        """[P, G] scores: what :func:`grpo_teach.train` takes as ``reward``."""
        size = len(completions) // len(problems)
        prompts = [problem.prompt for problem in problems for _ in range(size)]
        return self.score(prompts, completions).view(len(problems), size)


def judged_pairs(
    policy, tokenizer, task, n: int, utility: Callable, generator: torch.Generator, temperature: float = 1.0
) -> Pairs:
    """Sample two answers to each of n problems, and let a noisy judge choose.

    The first is preferred with probability ``sigmoid(utility(first) - utility(second))``, Bradley and Terry's model.

    Args:
        policy, tokenizer: who answers.
        task: draws the problems.
        n: pairs.
        utility: ``(completion, problem) -> float`` in nats: what the judge would like if it made no mistake.
        generator: of the problems and of the judge's mistakes; the answers come from torch's global state.
        temperature: of the sampling.
    """
    problems = task.sample(n, generator)
    prompts = [problem.prompt for problem in problems]
    texts = sample(policy, tokenizer, prompts, 2, task.max_new_tokens, temperature).texts(tokenizer)
    first, second = texts[::2], texts[1::2]
    gap = [utility(a, p) - utility(b, p) for a, b, p in zip(first, second, problems, strict=True)]
    wins = (torch.rand(n, generator=generator) < torch.tensor(gap).sigmoid()).tolist()
    chosen = [a if won else b for a, b, won in zip(first, second, wins, strict=True)]
    rejected = [b if won else a for a, b, won in zip(first, second, wins, strict=True)]
    return Pairs(prompts, chosen, rejected)


def fit(
    model: RewardModel, pairs: Pairs, epochs: int = 4, learning_rate: float = 5e-4, batch: int = 64,
    generator: torch.Generator | None = None, progress: bool = True,
) -> list[float]:  # fmt: skip
    """Train a reward model in place to tell the chosen answers from the rejected ones.

    Args:
        model: its trunk learns too.
        pairs: N of them.
        epochs: passes over the pairs.
        learning_rate: AdamW's step size at the start, dimensionless; it falls evenly to 0.
        batch: pairs a step.
        generator: of the order.
        progress: show a bar.
    Returns:
        The loss of each step, in nats.
    """
    return descend(
        model, len(pairs), lambda rows: bradley_terry_loss(*model.compared(pairs[rows])),
        epochs, learning_rate, batch, generator, "reward model", progress,
    )  # fmt: skip


def descend(
    model: nn.Module, n: int, loss: Callable[[list[int]], Tensor], epochs: int, learning_rate: float, batch: int,
    generator: torch.Generator | None, name: str, progress: bool,
) -> list[float]:  # fmt: skip
    """Train a model in place on n examples; ``loss(rows)`` is that of some of them. The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    steps = [part for _ in range(epochs) for part in torch.randperm(n, generator=generator).split(batch)]
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(steps))
    losses = []
    with records.bar(name, "step", len(steps), progress=progress) as bar:
        for rows in steps:
            found = loss(rows.tolist())
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            falling.step()
            losses.append(float(found.detach()))
            bar.update()
    return losses


@torch.no_grad()
def ranked_rightly(model: RewardModel, pairs: Pairs) -> float:
    """The share of pairs whose chosen answer has the higher score; two equal scores count one half."""
    return share_won(*model.compared(pairs))


def share_won(chosen: Tensor, rejected: Tensor) -> float:
    """The share of pairs whose chosen answer has the higher score, equal ones by half; [N] scores each."""
    return float(((chosen > rejected).float() + (chosen == rejected).float() / 2).mean())
