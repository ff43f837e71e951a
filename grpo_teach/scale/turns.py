"""Turns and tools on the toy: the policy writes a call, a tool's output is put in, the policy goes on.

In ``<think>7+5=`` the token ``=`` is a call. The calculator answers ``2;``, and the policy reads that and goes on:
``2+8=``. What the tool wrote is read by the policy and learnt by nobody: it stands in ``completion_ids`` and has a 0 in
``mask``. Token ids go through untouched: what was sampled is never decoded and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import transformers
from tokenizers import Tokenizer, models, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from grpo_teach.evaluate import Evaluation, pass_at_k, wilson_interval
from grpo_teach.rollout import Rollouts, ends, sample_ids
from grpo_teach.score import score
from grpo_teach.train import Trainer

__all__ = ["Turns", "WithTool", "calculator", "merging_tokenizer", "play", "retokenised", "unmasked"]


@dataclass(frozen=True)
class Turns(Rollouts):
    """Completions of several turns. In ``mask`` and ``old_logprobs`` a token that a tool wrote is 0: book Eq. (14.5).

    Attributes:
        written: [B, T] float, 1 = a token of the text, whoever wrote it.
    """

    written: Tensor

    @property
    def lengths(self) -> Tensor:
        """[B] tokens of each row, the tools' included: so far scoring has to read."""
        return self.written.sum(dim=1).long()

    @property
    def tokens(self) -> int:
        """Tokens that the policy sampled in all rows together."""
        return int(self.mask.sum())

    def trimmed(self) -> Turns:
        """The same rows without the columns that are padding in all of them."""
        part = super().trimmed()
        return replace(part, written=self.written[:, : part.mask.shape[1]])


def calculator(text: str) -> str:
    """``"…7+5="`` → ``"2;"``: the last digit of the sum that stands behind; ``";"`` where none does."""
    call = re.search(r"(\d)\+(\d)=$", text)
    return f"{(int(call[1]) + int(call[2])) % 10};" if call else ";"


@torch.no_grad()
def play(
    policy: nn.Module, tokenizer, prompts: list[str], group_size: int = 1, max_new_tokens: int = 32,
    temperature: float = 1.0, tool: Callable[[str], str] = calculator, call: str = "=", calls: int = 1,
) -> Turns:  # fmt: skip
    """Sample completions in which a tool answers.

    A turn ends with the token ``call``, or with what ends a completion. Behind a call stands the tool's answer to the
    row's text so far; then the policy samples its next turn, given all of that.

    Args:
        policy, tokenizer, prompts, group_size, temperature: as :func:`grpo_teach.sample` takes them.
        max_new_tokens: T at most, tokens of all turns and answers of a row together.
        tool: from a row's text, without the prompt, to what is put in.
        call: the token that ends a turn.
        calls: as many are answered; later ones are text like any other.
    Returns:
        Turns of P*G rows in prompt order.
    Draws from torch's global random state.
    """
    end, pad, mark = ends(policy, tokenizer), tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(call)
    asked = [ids for ids in tokenizer(prompts)["input_ids"] for _ in range(group_size)]
    ids, sampled, logprobs = ([[] for _ in asked] for _ in range(3))

    def read(texts):
        padded = tokenizer.pad({"input_ids": texts}, padding_side="left", return_tensors="pt").to(policy.device)
        return padded["input_ids"], padded["attention_mask"]

    running = list(range(len(asked)))
    for turn in range(calls + 1):
        text, room = read([asked[b] + ids[b] for b in running]), max_new_tokens - min(len(ids[b]) for b in running)
        part = sample_ids(policy, *text, 1, room, temperature, [*end, mark] if turn < calls else end, pad)
        found = part.completion_ids.tolist(), part.lengths.tolist(), part.old_logprobs.tolist()
        for b, row, length, old in zip(running, *found, strict=True):
            length = min(length, max_new_tokens - len(ids[b]))  # another row may have had more room
            ids[b] += row[:length]
            sampled[b] += [1.0] * length
            logprobs[b] += old[:length]
        running = [b for b in running if ids[b][-1] == mark]
        for b in running:
            answer = tokenizer(tool(tokenizer.decode(ids[b])), add_special_tokens=False)["input_ids"]
            answer = answer[: max_new_tokens - len(ids[b])]
            ids[b] += answer
            sampled[b] += [0.0] * len(answer)
            logprobs[b] += [0.0] * len(answer)
        running = [b for b in running if len(ids[b]) < max_new_tokens]
        if not running:
            break

    def rows(values, fill=0.0):
        tensors = [torch.tensor(row, device=policy.device) for row in values]
        return pad_sequence(tensors, batch_first=True, padding_value=fill)

    written = rows([[1.0] * len(row) for row in ids])
    return Turns(*read(asked), rows(ids, pad), rows(sampled), rows(logprobs), written)


def unmasked(policy: nn.Module, turns: Turns, temperature: float = 1.0) -> Turns:
    """The mistake: the tool's tokens as if the policy had sampled them, with the log-probs that it gives them."""
    turns = replace(turns, mask=turns.written)
    with torch.no_grad():
        return replace(turns, old_logprobs=score(policy, turns, temperature))


@dataclass(kw_only=True)
class WithTool(Trainer):
    """The training loop with a tool in it: ``train(..., kind=WithTool)``.

    Attributes:
        tool: what answers.
        calls: as many calls of a completion are answered.
        masked: False makes the mistake of :func:`unmasked`.
    """

    tool: Callable[[str], str] = calculator
    calls: int = 1
    masked: bool = True

    def sample(self) -> tuple[list, Turns]:
        """A batch's problems, and G completions of each."""
        problems = self.task.sample(self.config.prompts, self.prompt_generator)
        turns = self.play([problem.prompt for problem in problems], self.config.group_size)
        return problems, turns if self.masked else unmasked(self.models.policy, turns, self.config.temperature)

    def play(self, prompts: list[str], group_size: int) -> Turns:
        sizes = group_size, self.config.max_new_tokens, self.config.temperature
        return play(self.models.policy, self.tokenizer, prompts, *sizes, self.tool, calls=self.calls)

    def look(self, rollouts: Turns, texts: list[str], rewards: Tensor) -> dict:
        """Beside what every batch shows, ``calls``: the share of completions in which the tool answered."""
        seen = super().look(rollouts, texts, rewards)
        if self.masked:  # otherwise nothing tells the tool's tokens from the policy's
            seen["calls"] = float((rollouts.written > rollouts.mask).any(dim=1).float().mean())
        return seen

    def evaluate(self, problems: int) -> Evaluation:
        """The policy with its tool, one answer to each of the task's fixed held-out problems."""
        asked = self.task.test_set(problems)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            turns = self.play([problem.prompt for problem in asked], 1)
        texts = turns.texts(self.tokenizer)
        right = (self.task.reward(texts, asked) >= 1).flatten().tolist()
        share = sum(right) / len(asked)
        return Evaluation(
            accuracy=share,
            interval=wilson_interval(share, len(asked)),
            pass_at_k={1: sum(pass_at_k(1, int(r), 1) for r in right) / len(asked)},
            mean_length=float(turns.lengths.float().mean()),
            thinks=sum(map(self.task.thinks, texts)) / len(asked),
            problems=len(asked),
            samples=1,
            temperature=self.config.temperature,
        )


# Re-tokenising ----------------------------------------------------------------------------------------------------


def merging_tokenizer(texts: list[str], size: int) -> transformers.PreTrainedTokenizerFast:
    """A byte-pair tokenizer learnt from these texts: frequent neighbours become one token, so one text has many ids.

    Args:
        texts: what it learns from.
        size: of its vocabulary, ``<pad>`` and ``<eos>`` included.
    """
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<pad>", "<eos>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def retokenised(tokenizer, rows: list[list[int]]) -> list[list[int]]:
    """Each row's ids decoded to text and encoded again: the same text, and not always the same ids."""
    texts = ["".join(tokenizer.convert_ids_to_tokens(row)) for row in rows]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]
