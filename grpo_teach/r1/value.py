"""A learned value: how probable is it that what begins like this will end right?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from grpo_teach.evaluate import answers
from grpo_teach.rewards.model import Scorer, descend
from grpo_teach.rollout import Rollouts, from_text

__all__ = ["ValueModel", "learned_value"]

PROBLEMS, TEXTS = 128, 4  # problems of a batch, and completions of each, when examples are gathered


class ValueModel(Scorer):
    """For each place of a completion the probability that the whole, as the policy goes on from there, is right.

    ``V[b, t] = sigmoid(head(trunk(prompt, completion)[t - 1])[token t])``, token t being the t-th of the completion,
    and for t = 0 the last of the prompt. The trunk is a copy of the policy's, the head starts at 0. Like the judge of
    steps it reads the state *before* the token: what should stand there is known there already.

    How it fails: it has seen what the policy writes by itself. A search looks for what it likes best, and so finds
    where it is wrong.

    Args:
        policy: whose trunk is copied, and then trained further.
        tokenizer: the policy's.
    Source: Cobbe et al. (arXiv 2110.14168) section 4.3, a verifier that predicts at every token.
    """

    def __init__(self, policy: nn.Module, tokenizer):
        super().__init__(policy, tokenizer, scores=policy.config.vocab_size)

    def forward(self, rollouts: Rollouts) -> Tensor:
        """[B, T + 1] logits of V, in nats, for prompts of two tokens or more."""
        start = rollouts.prompt_ids.shape[1]
        written = torch.cat([rollouts.prompt_ids[:, -1:], rollouts.completion_ids], dim=1)
        return self.head(self.read(rollouts)[:, start - 2 : -1]).gather(-1, written[..., None]).squeeze(-1)

    def loss(self, rollouts: Rollouts, right: Tensor) -> Tensor:
        """Mean over all places of the binary cross-entropy, nats, between V and how the completion ended.

        ``loss = -sum_bt mask (right log V + (1 - right) log(1 - V)) / sum_bt mask``, t from 0

        Args:
            rollouts: B completions.
            right: [B], 1.0 or 0.0.

        As the learned value is trained: book Eq. (11.3).
        """
        logits, mask = self(rollouts), torch.cat([torch.ones_like(rollouts.mask[:, :1]), rollouts.mask], dim=1)
        each = binary_cross_entropy_with_logits(logits, right[:, None].expand_as(logits), reduction="none")
        return (each * mask).sum() / mask.sum()

    @torch.no_grad()
    def judge(self, rollouts: Rollouts) -> list[float]:
        """[B] V at the last token of each row."""
        return self(rollouts).gather(1, rollouts.lengths[:, None]).squeeze(1).sigmoid().tolist()


def learned_value(
    policy, tokenizer, task, tokens: int, generator: torch.Generator,
    learning_rate: float = 1e-3, batch: int = 64, progress: bool = True,
) -> tuple[ValueModel, int]:  # fmt: skip
    """``(model, tokens)``: a value learned in one pass over the policy's own completions, and what they have cost.

    Args:
        policy, tokenizer: who writes, and whose trunk is copied.
        task: draws training problems, and says which completions end right. Nobody says which step is.
        tokens: completions are sampled until these are spent.
        generator: of problems and order; the completions come from torch's global state.
        learning_rate: AdamW's step size at the start, dimensionless; it falls evenly to 0.
        batch: completions a step.
        progress: show a bar.
    Source: the labels of Wang et al. (arXiv 2312.08935) section 3.3 with one completion, the text's own, for all steps.
    """
    prompts, written, right, spent = [], [], [], 0
    while spent < tokens:
        problems = task.sample(PROBLEMS, generator)
        for part, rollouts, texts in answers(policy, tokenizer, problems, TEXTS, task.max_new_tokens, 1.0):
            prompts += [problem.prompt for problem in part for _ in range(TEXTS)]
            written += texts
            right += task.reward(texts, part).flatten().tolist()
            spent += rollouts.tokens

    def loss(rows: list[int]) -> Tensor:
        read = from_text(tokenizer, [prompts[row] for row in rows], [written[row] for row in rows], policy.device)
        return model.loss(read, torch.tensor([right[row] for row in rows], device=policy.device))

    model = ValueModel(policy, tokenizer)
    descend(model, len(written), loss, 1, learning_rate, batch, generator, "value", progress)
    return model.eval(), spent
