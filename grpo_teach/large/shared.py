"""Scoring that reads a prompt once for its whole group, as the sampler does: the same numbers for fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo_teach.rollout import Rollouts, positions
from grpo_teach.score import Scoring

__all__ = ["SharedPrompts"]


@dataclass(frozen=True)
class SharedPrompts(Scoring):
    """Of p prompts with b answers in a pass, ``p * S + b * T`` tokens are read in place of ``b * (S + T)``.

    Rows are sorted by length, so it saves most where a whole batch is one pass. The byte ledger does not count it.
    The keys and values of a prompt go to each of its answers, and their gradients come back to it as a sum. Not
    together with activation checkpointing, for which transformers gives up its cache, nor with linear attention,
    whose state is written over as it is read.
    """

    def states(self, decoder: nn.Module, rollouts: Rollouts) -> Tensor:
        """As :func:`grpo_teach.score.hidden_states`, [B, T, D]."""
        ids, mask = rollouts.prompt_ids, rollouts.prompt_mask
        texts, which = torch.unique(torch.cat([mask, ids], dim=1), dim=0, return_inverse=True)
        if len(texts) == len(rollouts) or ids.shape[1] == 1:
            return super().states(decoder, rollouts)
        mask_of_each, of_each = texts[:, : ids.shape[1] - 1], texts[:, ids.shape[1] : -1]
        read = {"attention_mask": mask_of_each, "position_ids": positions(mask_of_each), "use_cache": True}
        cache = decoder(input_ids=of_each, **read).past_key_values
        cache.reorder_cache(which)
        # A prompt's last token predicts the first of an answer, so it is read with each of them.
        rest = torch.cat([ids[:, -1:], rollouts.completion_ids[:, :-1]], dim=1)
        seen = torch.cat([mask, torch.ones_like(rollouts.completion_ids)], dim=1)[:, :-1]
        places = positions(seen)[:, -rest.shape[1] :]
        read = {"attention_mask": seen, "position_ids": places, "past_key_values": cache, "use_cache": True}
        return decoder(input_ids=rest, **read).last_hidden_state
