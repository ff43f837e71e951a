"""Where a policy writes for many problems at once, step by step or to the end, and every token is counted."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_teach.rewards import extract_answer
from grpo_teach.rollout import Rollouts, sample_ids

__all__ = ["Desk", "State"]

ROWS_A_CALL = 1024  # rows sampled or judged together; bounds memory
State = tuple[int, tuple[int, ...]]  # whose completion it is, and the token ids that it begins with


class Desk:
    """Where a policy writes for many rows at once, and the tokens that it writes for each are counted.

    A row is a problem that is asked once. The completions of a prefix count as written one after the other: what the
    budget cuts off is lost, but paid for. Prefixes that are read again, and what the value reads, do not count.

    Args:
        policy, tokenizer: who writes.
        value: who judges.
        prompts: R texts, one a row.
        budget: tokens a row.
        longest: tokens of a completion at most.
    """

    def __init__(self, policy, tokenizer, value, prompts: list[str], budget: int, longest: int):
        self.policy, self.tokenizer, self.value, self.budget, self.longest = policy, tokenizer, value, budget, longest
        self.prompts, self.spent, self.known = tokenizer(prompts)["input_ids"], [0] * len(prompts), {}
        self.end, self.wait = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("wait")

    def solvent(self) -> list[State]:
        """An empty completion for every row that has tokens left."""
        return [(row, ()) for row, spent in enumerate(self.spent) if spent < self.budget]

    def over(self, state: State) -> bool:
        """Has the completion ended?"""
        return self.end in state[1][-1:] or len(state[1]) == self.longest

    def answer(self, state: State) -> str:
        """What it answers; ``""`` for nothing."""
        return extract_answer(self.tokenizer.decode(state[1], skip_special_tokens=True))

    def draw(self, states: list[State], k: int, whole: bool = False) -> list[list[State]]:
        """For each state up to k that follow it, as they were sampled: one step on, or ``whole`` completions.

        A step ends with ``wait`` or with the completion. Nothing follows what has ended, nor a row without tokens.
        """
        found: list[list[State]] = [[] for _ in states]
        able = [i for i, state in enumerate(states) if self.spent[state[0]] < self.budget and not self.over(state)]
        for part in _parts(able, max(1, ROWS_A_CALL // k)):
            room = self.longest - min(len(states[i][1]) for i in part)
            ends = [self.end] if whole else [self.end, self.wait]
            asked = self._texts([states[i] for i in part])
            drawn = sample_ids(self.policy, *asked, k, room, 1.0, ends, self.tokenizer.pad_token_id)
            for b, (ids, n) in enumerate(zip(drawn.completion_ids.tolist(), drawn.lengths.tolist(), strict=True)):
                row, before = states[part[b // k]]
                after = (*before, *ids[:n])[: self.longest]
                self.spent[row] += len(after) - len(before)
                if self.spent[row] <= self.budget:
                    found[part[b // k]].append((row, after))
                self.spent[row] = min(self.spent[row], self.budget)
        return found

    def judge(self, states: list[State]) -> list[float]:
        """The learned value of each state, in [0, 1]; a state is read once."""
        unknown = dict.fromkeys(state for state in states if state not in self.known)
        for part in _parts(sorted(unknown, key=lambda state: len(state[1])), ROWS_A_CALL):
            ids, mask = self._texts(part)
            nothing = mask[:, :0].float()  # all that has been written stands where the prompt does
            judged = self.value.judge(Rollouts(ids, mask, ids[:, :0], nothing, nothing))
            self.known |= zip(part, judged, strict=True)
        return [self.known[state] for state in states]

    def _texts(self, states: list[State]) -> tuple[Tensor, Tensor]:
        """Prompts with what follows them, left-padded, and their mask."""
        rows = [[*self.prompts[row], *written] for row, written in states]
        gaps = [max(map(len, rows)) - len(row) for row in rows]
        ids = [[self.tokenizer.pad_token_id] * gap + row for gap, row in zip(gaps, rows, strict=True)]
        mask = [[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)]
        return torch.tensor(ids, device=self.policy.device), torch.tensor(mask, device=self.policy.device)


def _parts(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
