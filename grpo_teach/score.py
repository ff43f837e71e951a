"""Scoring what was sampled once more: log-probabilities with gradient, and a critic's values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grpo_teach.losses import chunked_token_logprobs, token_logprobs
from grpo_teach.rollout import Rollouts, positions

LOGITS_AT_ONCE = 2**25  # 128 MiB in float32


@dataclass(frozen=True)
class Scoring:
    """How much of a policy's scoring is done at one time: memory against speed, with the same numbers.

    A policy may carry its own as ``policy.scoring``; :func:`grpo_teach.large.load_large` gives it one.

    Attributes:
        rows_a_pass: rows in one forward pass. They are sorted by length, so that short rows carry little padding.
        chunk: tokens whose logits exist at one time; 0 for as many as 128 MiB hold.
        recompute: keep no activations of a pass and make them again in the backward, which holds one pass's then.
    """

    rows_a_pass: int = 64
    chunk: int = 0
    recompute: bool = False

    @classmethod
    def of(cls, policy: nn.Module) -> Scoring:
        """The policy's own, or the defaults."""
        return getattr(policy, "scoring", None) or cls()

    def states(self, decoder: nn.Module, rollouts: Rollouts) -> Tensor:
        """:func:`hidden_states`, for a scoring that reads the rows in another way."""
        return hidden_states(decoder, rollouts)

    def tokens_at_once(self, vocabulary: int) -> int:
        """``chunk``, or what stands for 0 with a vocabulary of this size."""
        return self.chunk or max(1, LOGITS_AT_ONCE // vocabulary)


def score(policy: nn.Module, rollouts: Rollouts, temperature: float = 1.0, needed: Tensor | None = None):
    """Log-probabilities of the completions under the policy as it is now.

    Args:
        policy: a causal language model of transformers.
        rollouts: B rows.
        temperature: the sampler's.
        needed: [B] bool, rows to compute; the others keep ``old_logprobs``, without gradient. Leave out a row
            only if its loss has no gradient: one whose advantages are all 0.
    Returns:
        [B, T] in nats, with gradient where grad mode is on; 0 in the padding.
    Source: book Eq. (1.2).
    """
    logprobs = rollouts.old_logprobs.clone()
    rows = torch.arange(len(rollouts), device=rollouts.mask.device) if needed is None else needed.nonzero().squeeze(1)
    if len(rows):
        logprobs[rows] = _in_passes(policy, None, rollouts[rows], temperature)[0]
    return logprobs


def score_with_values(policy: nn.Module, critic: nn.Module, rollouts: Rollouts, temperature: float = 1.0):
    """:func:`score` and :func:`values`, in one pass where the critic is a head on the policy's trunk.

    Args:
        policy: a causal language model of transformers.
        critic: a :class:`grpo_teach.policy.Critic`.
        rollouts: B rows.
        temperature: the sampler's.
    Returns:
        ``(logprobs, values)``, each [B, T], with gradient where grad mode is on; 0 in the padding.
    """
    return tuple(_in_passes(policy, critic, rollouts, temperature))


def values(policy: nn.Module, critic: nn.Module, rollouts: Rollouts) -> Tensor:
    """The return that the critic expects from each token on, without any log-prob.

    Args:
        policy: a causal language model of transformers, whose trunk a value head reads.
        critic: a :class:`grpo_teach.policy.Critic`.
        rollouts: B rows.
    Returns:
        [B, T] in units of reward, with gradient where grad mode is on; 0 in the padding. ``values[:, t]`` is
        predicted before token t is emitted.
    """
    return _in_passes(policy, critic, rollouts, None)[0]


def hidden_states(decoder: nn.Module, rollouts: Rollouts) -> Tensor:
    """[B, T, D], aligned: ``hidden[:, t]`` is what the model knows before it emits completion token t."""
    # The last token predicts nothing that is scored. Rubbish behind a row's end cannot reach back: causal.
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)[:, :-1]
    attention = torch.cat([rollouts.prompt_mask, torch.ones_like(rollouts.completion_ids)], dim=1)[:, :-1]
    read = {"attention_mask": attention, "position_ids": positions(attention), "use_cache": False}
    return decoder(input_ids=ids, **read).last_hidden_state[:, rollouts.prompt_ids.shape[1] - 1 :]


def _one_pass(policy, critic, part: Rollouts, temperature: float | None) -> list[Tensor]:
    """Of rows that fit in one forward pass, [b, t] each: log-probs if there is a temperature, values if a critic."""
    found, head, scoring = [], policy.get_output_embeddings(), Scoring.of(policy)
    chunk = scoring.tokens_at_once(policy.config.vocab_size)
    if temperature is not None or critic.trunk is None:
        hidden = scoring.states(policy.get_decoder(), part)
    if temperature is not None and part.mask.numel() > chunk:
        found.append(chunked_token_logprobs(hidden, head.weight, part.completion_ids, chunk, temperature))
    elif temperature is not None:
        found.append(token_logprobs(head(hidden), part.completion_ids, temperature))
    if critic is not None:
        hidden = hidden if critic.trunk is None else scoring.states(critic.trunk, part)
        hidden = hidden.detach() if critic.detached else hidden
        found.append(critic.head(hidden.to(critic.head.weight.dtype)).squeeze(-1).float())
    return [result.masked_fill(part.mask == 0, 0.0) for result in found]


def _in_passes(policy, critic, rollouts: Rollouts, temperature: float | None) -> list[Tensor]:
    """:func:`_one_pass` of all rows, [B, T] each, a few at a time."""
    # Rows with the same text need one forward pass: row b is distinct[which[b]].
    parts = [rollouts.prompt_mask, rollouts.prompt_ids, rollouts.completion_ids, rollouts.lengths.unsqueeze(1)]
    texts, which = torch.unique(torch.cat(parts, dim=1), dim=0, return_inverse=True)
    one_of_each = which.new_zeros(len(texts)).scatter_(0, which, torch.arange(len(which), device=which.device))
    distinct, scoring, found = rollouts[one_of_each], Scoring.of(policy), []
    recompute = scoring.recompute and torch.is_grad_enabled() and len(distinct) > scoring.rows_a_pass
    one_pass = partial(checkpoint, _one_pass, use_reentrant=False) if recompute else _one_pass
    for rows in distinct.lengths.argsort(stable=True).split(scoring.rows_a_pass):  # of similar length
        part = distinct[rows].trimmed()
        results = one_pass(policy, critic, part, temperature)
        found = found or [torch.zeros_like(distinct.mask) for _ in results]
        for whole, result in zip(found, results, strict=True):
            whole[rows, : part.mask.shape[1]] = result
    return [whole[which] for whole in found]
