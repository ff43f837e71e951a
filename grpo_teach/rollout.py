"""Sampling completions, and scoring them again with gradient.

The one property everything rests on: the log-probabilities noted while sampling equal those that
:func:`score` computes later for the same policy, at the same temperature. No top-k or top-p, because the
scoring uses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from grpo_teach.losses import chunked_token_logprobs, token_logprobs

ROWS_A_PASS = 64  # rows scored in one forward pass: sorted by length, so that short rows carry little padding
LOGITS_AT_ONCE = 2**25  # more than these are made in chunks: 128 MiB in float32


@dataclass(frozen=True)
class Rollouts:
    """B = P*G completions in prompt order.

    Attributes:
        prompt_ids: [B, S], left-padded.
        prompt_mask: [B, S], 1 = a real prompt token.
        completion_ids: [B, T], right-padded.
        mask: [B, T] float, 1 = a token the policy sampled, the EOS included.
        old_logprobs: [B, T] in nats, of the policy that sampled, detached; 0 in the padding.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    mask: torch.Tensor
    old_logprobs: torch.Tensor

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    def __getitem__(self, rows: torch.Tensor) -> Rollouts:
        """The given rows (indices or a boolean mask)."""
        return Rollouts(*(tensor[rows] for tensor in vars(self).values()))

    @property
    def lengths(self) -> torch.Tensor:
        """[B] tokens sampled in each row."""
        return self.mask.sum(dim=1).long()

    @property
    def tokens(self) -> int:
        """Tokens sampled in all rows together."""
        return int(self.lengths.sum())

    def trimmed(self) -> Rollouts:
        """The same rows without the columns that are padding in all of them."""
        longest = max(int(self.lengths.max()), 1)
        return replace(
            self,
            completion_ids=self.completion_ids[:, :longest],
            mask=self.mask[:, :longest],
            old_logprobs=self.old_logprobs[:, :longest],
        )

    def texts(self, tokenizer) -> list[str]:
        """The completions as text, without EOS and padding."""
        rows = zip(self.completion_ids.tolist(), self.lengths.tolist(), strict=True)
        return tokenizer.batch_decode([ids[:n] for ids, n in rows], skip_special_tokens=True)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions that start at 0 on the first real token, so that left-padding moves nothing."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _encode_prompts(tokenizer, prompts: list[str], device) -> tuple[torch.Tensor, torch.Tensor]:
    # A chat template writes the BOS itself; a second one would be a text that the model has never seen.
    begun = tokenizer.bos_token is not None and prompts[0].startswith(tokenizer.bos_token)
    encoded = tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=not begun, return_tensors="pt")
    return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)


@torch.no_grad()
def sample(
    policy: nn.Module,
    tokenizer,
    prompts: list[str],
    group_size: int = 1,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
) -> Rollouts:
    """Sample ``group_size`` completions of each prompt from softmax(logits / temperature).

    Stops when every row has ended. Two savings that change no distribution: completions of a prompt are read as
    one as long as their text is the same (every row still draws for itself), and a row that has ended takes no
    further step.

    Args:
        policy: a causal language model of transformers.
        tokenizer: its tokenizer, with ``eos_token`` and ``pad_token``.
        prompts: P texts.
        group_size: G, samples a prompt.
        max_new_tokens: T at most, tokens.
        temperature: above 0; the returned log-probs are those of the policy at this temperature.
    Returns:
        Rollouts of P*G rows in prompt order.
    Raises:
        ValueError: for an empty list of prompts, or a number that is not positive.
        FloatingPointError: if the policy's logits are NaN or infinite.
    Draws from torch's global random state.
    """
    if not (prompts and temperature > 0 and group_size > 0 and max_new_tokens > 0):
        raise ValueError("sample needs a prompt, and a temperature, group_size and max_new_tokens above 0")
    was_training = policy.training
    policy.eval()
    prompt_ids, prompt_mask = _encode_prompts(tokenizer, prompts, policy.device)
    rows = len(prompts) * group_size
    completion_ids = prompt_ids.new_full((rows, max_new_tokens), tokenizer.pad_token_id)
    logprobs = torch.zeros(rows, max_new_tokens, device=policy.device)
    mask = torch.zeros_like(logprobs)

    output = policy(
        input_ids=prompt_ids,
        attention_mask=prompt_mask,
        position_ids=_positions(prompt_mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache, logits, seen = output.past_key_values, output.logits[:, -1], prompt_mask
    running = torch.arange(rows, device=policy.device)  # the rows that have not ended
    branch = running // group_size  # for each of them the row of logits and cache that holds its text so far
    for t in range(max_new_tokens):
        if not torch.isfinite(logits).all():
            policy.train(was_training)
            raise FloatingPointError(f"the log-probabilities of completion token {t} are not finite")
        probabilities = torch.softmax(logits.float() / temperature, dim=-1)[branch]
        ids = torch.multinomial(probabilities, 1)
        completion_ids[running, t] = ids.squeeze(1)
        logprobs[running, t] = token_logprobs(logits[branch].unsqueeze(1), ids, temperature).squeeze(1).float()
        mask[running, t] = 1.0
        going_on = (ids.squeeze(1) != tokenizer.eos_token_id).nonzero().squeeze(1)
        if len(going_on) == 0 or t == max_new_tokens - 1:
            break
        # Rows on one branch that drew the same token stay on one branch: their text so far is the same.
        running, drawn = running[going_on], branch[going_on] * logits.shape[-1] + ids[going_on, 0]
        tips, branch = torch.unique(drawn, return_inverse=True)
        stems, ids = tips // logits.shape[-1], tips % logits.shape[-1]
        if not torch.equal(stems, torch.arange(len(logits), device=stems.device)):
            cache.batch_select_indices(stems)  # a copy of the whole cache
        seen = torch.cat([seen[stems], seen.new_ones(len(stems), 1)], dim=1)
        logits = policy(
            input_ids=ids.unsqueeze(1),
            attention_mask=seen,
            position_ids=seen.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    prompt_ids = prompt_ids.repeat_interleave(group_size, dim=0)
    prompt_mask = prompt_mask.repeat_interleave(group_size, dim=0)
    policy.train(was_training)
    return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, logprobs).trimmed()


def from_text(tokenizer, prompts: list[str], completions: list[str], device="cpu") -> Rollouts:
    """Rows made from given text: demonstrations, with an EOS put behind each.

    Args:
        tokenizer: with ``eos_token`` and ``pad_token``.
        prompts, completions: equally many texts.
    Returns:
        Rollouts whose ``old_logprobs`` are 0: no policy of ours sampled them.
    """
    prompt_ids, prompt_mask = _encode_prompts(tokenizer, prompts, device)
    ids = tokenizer(completions, add_special_tokens=False)["input_ids"]
    longest = max(len(row) for row in ids) + 1
    completion_ids = prompt_ids.new_full((len(ids), longest), tokenizer.pad_token_id)
    mask = torch.zeros(len(ids), longest, device=device)
    for b, row in enumerate(ids):
        completion_ids[b, : len(row) + 1] = torch.tensor([*row, tokenizer.eos_token_id], device=device)
        mask[b, : len(row) + 1] = 1.0
    return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, torch.zeros_like(mask))


def _distinct(rollouts: Rollouts) -> tuple[Rollouts, torch.Tensor]:
    """Rows with the same text need one forward pass: ``(distinct, which)``, where row b is ``distinct[which[b]]``."""
    parts = [rollouts.prompt_mask, rollouts.prompt_ids, rollouts.completion_ids, rollouts.lengths.unsqueeze(1)]
    texts, which = torch.unique(torch.cat(parts, dim=1), dim=0, return_inverse=True)
    one_of_each = which.new_zeros(len(texts)).scatter_(0, which, torch.arange(len(which), device=which.device))
    return rollouts[one_of_each], which


def rows_a_pass(policy: nn.Module) -> int:
    """How many rows of this policy are scored in one forward pass; a large one carries its own number."""
    return getattr(policy, "rows_a_pass", ROWS_A_PASS)


def logits_chunk(policy: nn.Module) -> int:
    """How many tokens' logits of this policy are made at one time; a large one carries its own number."""
    return getattr(policy, "chunk", max(1, LOGITS_AT_ONCE // policy.config.vocab_size))


def _passes(rollouts: Rollouts, size: int) -> Iterator[tuple[torch.Tensor, Rollouts]]:
    """Split the rows into forward passes of similar length."""
    for rows in rollouts.lengths.argsort(stable=True).split(size):
        yield rows, rollouts[rows].trimmed()


def _hidden_states(decoder: nn.Module, rollouts: Rollouts) -> torch.Tensor:
    """[B, T, D], aligned: ``hidden[:, t]`` is what the model knows before it emits completion token t."""
    # The last token predicts nothing that is scored. Rubbish behind a row's end cannot reach back: causal.
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)[:, :-1]
    attention = torch.cat([rollouts.prompt_mask, torch.ones_like(rollouts.completion_ids)], dim=1)[:, :-1]
    hidden = decoder(
        input_ids=ids, attention_mask=attention, position_ids=_positions(attention), use_cache=False
    ).last_hidden_state
    return hidden[:, rollouts.prompt_ids.shape[1] - 1 :]


def _one_pass(policy, critic, part: Rollouts, temperature) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probs [b, t] and values [b, t] of rows that fit in one forward pass."""
    padding, head = part.mask == 0, policy.get_output_embeddings()
    hidden = _hidden_states(policy.get_decoder(), part)
    chunk = logits_chunk(policy)
    if part.mask.numel() > chunk:
        logprobs = chunked_token_logprobs(hidden, head.weight, part.completion_ids, chunk, temperature)
    else:
        logprobs = token_logprobs(head(hidden), part.completion_ids, temperature)
    logprobs = logprobs.masked_fill(padding, 0.0)
    if critic is None:
        return logprobs, None
    hidden = hidden if critic.trunk is None else _hidden_states(critic.trunk, part)
    values = critic.head(hidden.to(critic.head.weight.dtype))
    return logprobs, values.squeeze(-1).float().masked_fill(padding, 0.0)


def _score(policy, rollouts, temperature, needed=None, critic=None) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, values = rollouts.old_logprobs.clone(), torch.zeros_like(rollouts.old_logprobs)
    rows = torch.arange(len(rollouts), device=rollouts.mask.device)
    if needed is not None:
        rows = rows[needed]
    if len(rows) == 0:
        return logprobs, values
    distinct, which = _distinct(rollouts[rows])
    new_logprobs, new_values = torch.zeros_like(distinct.mask), torch.zeros_like(distinct.mask)
    size = rows_a_pass(policy)
    # A recomputed pass keeps no activations, so the backward pass holds those of one pass at a time.
    recompute = getattr(policy, "recompute_passes", False) and torch.is_grad_enabled() and len(distinct) > size
    one_pass = partial(checkpoint, _one_pass, use_reentrant=False) if recompute else _one_pass
    for some, part in _passes(distinct, size):
        longest = part.mask.shape[1]
        part_logprobs, part_values = one_pass(policy, critic, part, temperature)
        new_logprobs[some, :longest] = part_logprobs
        if critic is not None:
            new_values[some, :longest] = part_values
    logprobs[rows], values[rows] = new_logprobs[which], new_values[which]
    return logprobs, values


def score(policy: nn.Module, rollouts: Rollouts, temperature: float = 1.0, needed: torch.Tensor | None = None):
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
    return _score(policy, rollouts, temperature, needed)[0]


def score_with_values(policy: nn.Module, critic: nn.Module, rollouts: Rollouts, temperature: float = 1.0):
    """:func:`score` and the critic's values, in one pass where the critic shares the policy's trunk.

    Args:
        policy: a causal language model of transformers.
        critic: a :class:`grpo_teach.policy.Critic`.
        rollouts: B rows.
        temperature: the sampler's.
    Returns:
        ``(logprobs, values)``, each [B, T], with gradient where grad mode is on; 0 in the padding.
        ``values[:, t]`` is predicted before token t is emitted, in units of reward.
    """
    return _score(policy, rollouts, temperature, critic=critic)
