"""Sampling completions, and what is noted of them.

The one property everything rests on: the log-probabilities noted while sampling equal those that
:func:`grpo_teach.score` computes later for the same policy, at the same temperature. No top-k or top-p, because the
scoring uses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from grpo_teach.errors import TrainingDiverged
from grpo_teach.losses import token_logprobs


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

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    mask: Tensor
    old_logprobs: Tensor

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    def __getitem__(self, rows: Tensor) -> Rollouts:
        """The given rows (indices or a boolean mask)."""
        return type(self)(*(tensor[rows] for tensor in vars(self).values()))

    @property
    def lengths(self) -> Tensor:
        """[B] tokens sampled in each row."""
        return self.mask.sum(dim=1).long()

    @property
    def tokens(self) -> int:
        """Tokens sampled in all rows together."""
        return int(self.lengths.sum())

    def trimmed(self) -> Rollouts:
        """The same rows without the columns that are padding in all of them."""
        longest = max(int(self.lengths.max()), 1)
        columns = ("completion_ids", "mask", "old_logprobs")
        return replace(self, **{name: getattr(self, name)[:, :longest] for name in columns})

    def texts(self, tokenizer) -> list[str]:
        """The completions as text, without EOS and padding."""
        rows = zip(self.completion_ids.tolist(), self.lengths.tolist(), strict=True)
        return tokenizer.batch_decode([ids[:n] for ids, n in rows], skip_special_tokens=True)


def positions(mask: Tensor) -> Tensor:
    """Positions that start at 0 on the first real token, so that left-padding moves nothing."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _encode_prompts(tokenizer, prompts: list[str], device) -> tuple[Tensor, Tensor]:
    # A chat template writes the BOS itself; a second one would be a text that the model has never seen.
    begun = tokenizer.bos_token is not None and prompts[0].startswith(tokenizer.bos_token)
    encoded = tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=not begun, return_tensors="pt")
    ids, mask = encoded["input_ids"].to(device), encoded["attention_mask"].to(device)
    # Where no row is padded transformers leaves the mask out and asks for grouped queries, which before Ampere only a
    # kernel serves that holds all [N, N] scores. So there one padded column is kept.
    column = (int(ids.is_cuda and torch.cuda.get_device_capability(ids.device) < (8, 0)), 0)
    return nn.functional.pad(ids, column, value=tokenizer.pad_token_id), nn.functional.pad(mask, column)


def turn_end(tokenizer) -> int:
    """The token behind an answer: the first special one that the chat template writes there, else the EOS."""
    if getattr(tokenizer, "chat_template", None):
        with suppress(Exception):  # a template may raise anything
            talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "~"}]
            _, found, behind = tokenizer.apply_chat_template(talk, tokenize=False).rpartition("~")
            special = {i for i, token in tokenizer.added_tokens_decoder.items() if found and token.special}
            return next(i for i in tokenizer.encode(behind, add_special_tokens=False) if i in special)
    return tokenizer.eos_token_id


def ends(policy: nn.Module, tokenizer) -> list[int]:
    """Every token that ends a completion: the tokenizer's EOS, those that the model names, and a turn's end."""
    named = getattr(policy.generation_config, "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, turn_end(tokenizer), *([named] if isinstance(named, int) else named or [])})


@torch.no_grad()
def sample(
    policy: nn.Module, tokenizer, prompts: list[str],
    group_size: int = 1, max_new_tokens: int = 32, temperature: float = 1.0,
) -> Rollouts:  # fmt: skip
    """Sample ``group_size`` completions of each prompt from softmax(logits / temperature).

    A row ends with any token of :func:`ends`; sampling stops when all have. Two savings that change no distribution:
    completions of a prompt are read as one as long as their text is the same (every row still draws for itself), and
    a row that has ended takes no further step.

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
        TrainingDiverged: if the policy's logits are NaN or infinite; it is a FloatingPointError.
    Draws from torch's global random state.
    """
    if not (prompts and temperature > 0 and group_size > 0 and max_new_tokens > 0):
        raise ValueError("sample needs a prompt, and a temperature, group_size and max_new_tokens above 0")
    ids, mask = _encode_prompts(tokenizer, prompts, policy.device)
    marks = ends(policy, tokenizer), tokenizer.pad_token_id
    return sample_ids(policy, ids, mask, group_size, max_new_tokens, temperature, *marks)


@torch.no_grad()
def sample_ids(
    policy: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int,
    temperature: float, ends: Sequence[int], pad: int,
) -> Rollouts:  # fmt: skip
    """:func:`sample` on prompts that are tokens already.

    Args:
        policy, group_size, max_new_tokens, temperature: as :func:`sample` takes them.
        prompt_ids, prompt_mask: [P, S], left-padded.
        ends: token ids that end a completion; with none every row has ``max_new_tokens``.
        pad: token id for the columns behind a completion's end.
    Returns:
        Rollouts of P*G rows in prompt order.
    Raises:
        TrainingDiverged: if the policy's logits are NaN or infinite.
    """
    was_training = policy.training
    policy.eval()
    rows = len(prompt_ids) * group_size
    completion_ids = prompt_ids.new_full((rows, max_new_tokens), pad)
    logprobs = torch.zeros(rows, max_new_tokens, device=policy.device)
    mask, ending = torch.zeros_like(logprobs), prompt_ids.new_tensor(ends)

    running = torch.arange(rows, device=policy.device)  # the rows that have not ended
    branch = running // group_size  # for each of them the row of logits and cache that holds its text so far
    read, places, seen, cache = prompt_ids, positions(prompt_mask), prompt_mask, None
    for t in range(max_new_tokens):
        where = {"attention_mask": seen, "position_ids": places, "past_key_values": cache, "use_cache": True}
        output = policy(input_ids=read, **where, logits_to_keep=1)
        cache, logits = output.past_key_values, output.logits[:, -1]
        if not torch.isfinite(logits).all():
            policy.train(was_training)
            raise TrainingDiverged(f"the log-probabilities of completion token {t} are not finite")
        probabilities = torch.softmax(logits.float() / temperature, dim=-1)[branch]
        ids = torch.multinomial(probabilities, 1)
        completion_ids[running, t] = ids.squeeze(1)
        logprobs[running, t] = token_logprobs(logits[branch].unsqueeze(1), ids, temperature).squeeze(1).float()
        mask[running, t] = 1.0
        going_on = (~torch.isin(ids.squeeze(1), ending)).nonzero().squeeze(1)
        if len(going_on) == 0 or t == max_new_tokens - 1:
            break
        # Rows on one branch that drew the same token stay on one branch: their text so far is the same.
        running, drawn = running[going_on], branch[going_on] * logits.shape[-1] + ids[going_on, 0]
        tips, branch = torch.unique(drawn, return_inverse=True)
        stems, read = tips // logits.shape[-1], tips.unsqueeze(1) % logits.shape[-1]
        if not torch.equal(stems, torch.arange(len(logits), device=stems.device)):
            cache.reorder_cache(stems)  # a copy of the whole cache
        seen = torch.cat([seen[stems], seen.new_ones(len(stems), 1)], dim=1)
        places = seen.sum(dim=1, keepdim=True) - 1
    prompt_ids = prompt_ids.repeat_interleave(group_size, dim=0)
    prompt_mask = prompt_mask.repeat_interleave(group_size, dim=0)
    policy.train(was_training)
    return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, logprobs).trimmed()


def from_text(tokenizer, prompts: list[str], completions: list[str], device="cpu") -> Rollouts:
    """Rows made from given text: demonstrations, with the token put behind each that ends a turn.

    Args:
        tokenizer: with ``eos_token`` and ``pad_token``.
        prompts, completions: equally many texts.
    Returns:
        Rollouts whose ``old_logprobs`` are 0: no policy of ours sampled them.
    Raises:
        ValueError: for no text at all, or more of one kind than of the other.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError(f"as many completions as prompts are needed; got {len(completions)} and {len(prompts)}")
    prompt_ids, prompt_mask = _encode_prompts(tokenizer, prompts, device)
    end = [turn_end(tokenizer)]
    rows = [torch.tensor(i + end, device=device) for i in tokenizer(completions, add_special_tokens=False)["input_ids"]]
    completion_ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones(len(row), device=device) for row in rows], batch_first=True)
    return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, torch.zeros_like(mask))
