"""Answers to chapter 07's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


# critic_bytes ----------------------------------------------------------------------------------------------------
def bytes_plain(critic, method, weights, adapter, hidden, size):
    learns = 16 * (hidden + 1)
    if critic == "head":
        return learns
    if method == "full":
        return learns + 4 * size * weights
    learns += 16 * adapter
    return learns if critic == "lora" else learns + size * weights


def bytes_table(critic, method, weights, adapter, hidden, size):
    own = {
        ("head", "full"): (0, 0, 0),
        ("head", "lora"): (0, 0, 0),
        ("lora", "lora"): (0, 0, 1),
        ("separate", "full"): (0, 1, 0),
        ("separate", "lora"): (1, 0, 1),
    }
    frozen, trunk, adapters = own[critic, method]
    return size * weights * (frozen + 4 * trunk) + 4 * 4 * (adapter * adapters + hidden + 1)


def bytes_term_by_term(critic, method, weights, adapter, hidden, size):
    stored = gradients = (hidden + 1) * 4.0
    if critic in ("lora", "separate") and method != "full":
        stored += adapter * 4
        gradients += adapter * 4
    if critic == "separate":
        stored += weights * size
        if method == "full":
            gradients += weights * size
    return stored + gradients + 2 * gradients


def bytes_tensor(critic, method, weights, adapter, hidden, size):
    return torch.tensor(bytes_plain(critic, method, weights, adapter, hidden, size))


def bytes_w(copies=4, head=4, adapter_size=4, frozen=1, shared=True, has_adapter=("lora", "separate"), bias=1):
    """A whole family of slips: each argument is one."""

    def answer(critic, method, weights, adapter, hidden, size):
        total = copies * head * (hidden + bias)
        if method == "lora" and critic in has_adapter:
            total += copies * adapter_size * adapter
        if critic == "separate" or (critic == "lora" and not shared):
            total += size * weights * (copies if method == "full" else frozen)
        return total

    return answer


def bytes_w_no_head(critic, method, weights, adapter, hidden, size):
    return bytes_plain(critic, method, weights, adapter, hidden, size) - 16 * (hidden + 1)


def bytes_w_head_of_head_alone(critic, method, weights, adapter, hidden, size):
    right = bytes_plain(critic, method, weights, adapter, hidden, size)
    return right if critic == "head" else right - 16 * (hidden + 1)


def bytes_w_all_stored_alike(critic, method, weights, adapter, hidden, size):
    learning = hidden + 1 + (adapter if method == "lora" and critic != "head" else 0)
    trunk = weights if critic == "separate" else 0
    return size * (4 * learning + (4 if method == "full" else 1) * trunk)


def bytes_w_separate_is_lora(critic, method, weights, adapter, hidden, size):
    return 16 * (hidden + 1) + (16 * adapter if critic != "head" and method == "lora" else 0) + (
        4 * size * weights if critic == "separate" and method == "full" else 0
    )  # fmt: skip


def bytes_w_adapter_of_head(critic, method, weights, adapter, hidden, size):
    extra = 16 * adapter if critic == "head" else 0  # 0 where the method is full
    return bytes_plain(critic, method, weights, adapter, hidden, size) + extra


def bytes_w_with_reference(critic, method, weights, adapter, hidden, size):
    return weights * size + bytes_plain(critic, method, weights, adapter, hidden, size)


def bytes_w_ppo(critic, method, weights, adapter, hidden, size):
    policy = 4 * size * weights if method == "full" else size * weights + 16 * adapter
    return policy + bytes_plain(critic, method, weights, adapter, hidden, size)


def bytes_w_float32(critic, method, weights, adapter, hidden, size):
    return bytes_plain(critic, method, weights, adapter, hidden, 4)


# chunked_token_logprobs ------------------------------------------------------------------------------------------
def chunk_plain(hidden, weight, token_ids, chunk):
    rows, ids = hidden.reshape(-1, hidden.shape[-1]), token_ids.reshape(-1)
    pieces = []
    for start in range(0, len(rows), chunk):
        logits = rows[start : start + chunk] @ weight.T
        picked = logits.gather(1, ids[start : start + chunk, None])[:, 0]
        pieces.append(picked - torch.logsumexp(logits, dim=1))
    return torch.cat(pieces).reshape(token_ids.shape)


def chunk_checkpointed(hidden, weight, token_ids, chunk):
    def one(h, ids):
        return (h @ weight.T).log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)

    pairs = zip(hidden.flatten(0, 1).split(chunk), token_ids.flatten().split(chunk), strict=True)
    return torch.cat([checkpoint(one, h, ids, use_reentrant=False) for h, ids in pairs]).view_as(token_ids)


def chunk_along_time(hidden, weight, token_ids, chunk):
    out = []
    for h, ids in zip(hidden.split(chunk, dim=1), token_ids.split(chunk, dim=1), strict=True):
        nll = F.cross_entropy((h @ weight.T).flatten(0, 1), ids.flatten(), reduction="none")
        out.append(-nll.view(ids.shape))
    return torch.cat(out, dim=1)


def chunk_row_by_row(hidden, weight, token_ids, chunk):
    rows = zip(hidden.split(1), token_ids.split(1), strict=True)
    return torch.cat([chunk_plain(h, weight, ids, chunk) for h, ids in rows])


def chunk_token_by_token(hidden, weight, token_ids, chunk):
    out = hidden.new_zeros(token_ids.shape)
    for b in range(hidden.shape[0]):
        for t in range(hidden.shape[1]):
            logits = weight @ hidden[b, t]
            out[b, t] = logits[token_ids[b, t]] - logits.exp().sum().log()
    return out


def chunk_of_the_vocabulary(hidden, weight, token_ids, chunk):
    """Never more than [B, T, chunk]: the normaliser is added up part by part."""
    normaliser = torch.full(token_ids.shape, -torch.inf)
    for part in weight.split(chunk):
        normaliser = torch.logaddexp(normaliser, (hidden @ part.T).logsumexp(-1))
    return (hidden * weight[token_ids]).sum(-1) - normaliser


def chunk_double(hidden, weight, token_ids, chunk):
    return chunk_checkpointed(hidden.double(), weight.double(), token_ids, chunk).float()


def chunk_w_whole(hidden, weight, token_ids, chunk):
    logprobs = torch.log_softmax(hidden @ weight.T, dim=-1)
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def chunk_w_collects_logits(hidden, weight, token_ids, chunk):
    pieces = [part @ weight.T for part in hidden.flatten(0, 1).split(chunk)]
    logits = torch.cat(pieces)
    return -F.cross_entropy(logits, token_ids.flatten(), reduction="none").view(token_ids.shape)


def chunk_w_allocates_logits(hidden, weight, token_ids, chunk):
    logits = torch.empty(*token_ids.shape, len(weight))
    out = logits.clone()[..., 0]
    for t in range(token_ids.shape[1]):
        step = hidden[:, t] @ weight.T
        out[:, t] = step.gather(1, token_ids[:, t : t + 1])[:, 0] - step.logsumexp(1)
    return out


def chunk_w_broadcasts(hidden, weight, token_ids, chunk):
    logits = (hidden.unsqueeze(2) * weight).sum(-1)
    return logits.log_softmax(-1).gather(-1, token_ids[..., None])[..., 0]


def by_chunk(one):
    """An answer that does ``one(logits [chunk, V], ids [chunk])`` chunk by chunk."""

    def answer(hidden, weight, token_ids, chunk):
        out, ids = [], token_ids.flatten()
        for i in range(0, ids.numel(), chunk):
            out.append(one(hidden.flatten(0, 1)[i : i + chunk] @ weight.T, ids[i : i + chunk]))
        return torch.cat(out).view(token_ids.shape)

    return answer


def pick(logits, ids):
    return logits[torch.arange(len(ids)), ids]


def chunk_w_rounds_down(hidden, weight, token_ids, chunk):
    rows, ids = hidden.flatten(0, 1), token_ids.flatten()
    out = torch.zeros(len(ids))
    for i in range(len(ids) // chunk):
        part = slice(i * chunk, (i + 1) * chunk)
        logits = rows[part] @ weight.T
        out[part] = pick(logits, ids[part]) - logits.logsumexp(-1)
    return out.view(token_ids.shape)


def chunk_w_vocabulary_parts(hidden, weight, token_ids, chunk):
    out = torch.zeros(token_ids.shape)
    for start in range(0, len(weight), chunk):
        part = (hidden @ weight[start : start + chunk].T).log_softmax(-1)
        inside = (token_ids >= start) & (token_ids < start + chunk)
        there = (token_ids - start).clamp(0, part.shape[-1] - 1)
        out = out + inside * part.gather(-1, there[..., None])[..., 0]
    return out


def chunk_w_columns(hidden, weight, token_ids, chunk):
    B, T = token_ids.shape
    return chunk_plain(hidden.transpose(0, 1), weight, token_ids.T, chunk).reshape(B, T)


def chunk_w_no_grad(hidden, weight, token_ids, chunk):
    with torch.no_grad():
        return chunk_plain(hidden, weight, token_ids, chunk)


def chunk_w_edits(hidden, weight, token_ids, chunk):
    for b in range(len(hidden)):
        hidden[b] = hidden[b] - 0.5
    return chunk_plain(hidden + 0.5, weight, token_ids, chunk)


def chunk_w_shift(hidden, weight, token_ids, chunk):
    return chunk_plain(hidden[:, :-1], weight, token_ids[:, 1:], chunk) if token_ids.shape[1] > 1 else hidden[:, 1:, 0]


def chunk_w_forgets_view(hidden, weight, token_ids, chunk):
    return chunk_plain(hidden, weight, token_ids, chunk).flatten()


RIGHT = {
    "critic_bytes": [bytes_plain, bytes_table, bytes_term_by_term, bytes_tensor, bytes_w()],
    "chunked_token_logprobs": [
        *(chunk_plain, chunk_checkpointed, chunk_along_time, chunk_row_by_row, chunk_token_by_token),
        *(chunk_of_the_vocabulary, chunk_double),
        by_chunk(lambda logits, ids: pick(logits, ids) - logits.logsumexp(-1)),
    ],
}

WRONG = {
    "critic_bytes": {
        "only_stored": [bytes_w(copies=1)],
        "forgot_moments": [bytes_w(copies=2)],
        "one_number_short": [bytes_w(copies=3)],
        "one_number_too_many": [bytes_w(copies=5)],
        "frozen_learns": [bytes_w(frozen=4)],
        "forgot_trunk": [bytes_w_separate_is_lora, bytes_w(frozen=0)],
        "adapter_stores_a_trunk": [bytes_w(shared=False)],
        "every_critic_a_trunk": [lambda critic, *rest: bytes_plain("separate", *rest)],
        "forgot_adapter": [bytes_w(has_adapter=())],
        "separate_without_adapter": [bytes_w(has_adapter=("lora",))],
        "head_with_adapter": [bytes_w(has_adapter=("head", "lora", "separate")), bytes_w_adapter_of_head],
        "forgot_head": [bytes_w_no_head, bytes_w(head=0)],
        "head_only_by_itself": [bytes_w_head_of_head_alone],
        "forgot_bias": [bytes_w(bias=0)],
        "head_of_a_byte": [bytes_w(head=1)],
        "head_in_size": [lambda *a: bytes_w(head=a[-1])(*a)],
        "adapter_in_size": [lambda *a: bytes_w(adapter_size=a[-1])(*a)],
        "all_in_size": [bytes_w_all_stored_alike],
        "all_in_float32": [bytes_w_float32],
        "a_reference_too": [bytes_w_with_reference],
        "whole_of_ppo": [bytes_w_ppo],
        "constant_factor": [lambda *a: bytes_plain(*a) / 1024, lambda *a: 8 * bytes_plain(*a)],
    },
    "chunked_token_logprobs": {
        "makes_every_logit": [chunk_w_whole, chunk_w_collects_logits, chunk_w_allocates_logits, chunk_w_broadcasts],
        "forgot_logsumexp": [by_chunk(pick)],
        "normalises_over_tokens": [by_chunk(lambda logits, ids: pick(logits.log_softmax(0), ids))],
        "normalises_over_all": [by_chunk(lambda logits, ids: pick(logits, ids) - logits.flatten().logsumexp(0))],
        "normalises_over_the_chosen": [by_chunk(lambda logits, ids: pick(logits, ids).log_softmax(-1))],
        "normalises_over_a_part": [chunk_w_vocabulary_parts],
        "probabilities": [by_chunk(lambda logits, ids: pick(logits.softmax(-1), ids))],
        "subtracts_the_largest": [by_chunk(lambda logits, ids: pick(logits, ids) - logits.max(-1).values)],
        "forgot_logarithm": [by_chunk(lambda logits, ids: pick(logits, ids) - logits.exp().sum(-1))],
        "loses_last_chunk": [chunk_w_rounds_down],
        "wrong_order": [chunk_w_columns],
        "shifted": [chunk_w_shift],
        "shifted_around": [lambda h, w, ids, c: chunk_plain(torch.cat([h[:, -1:], h[:, :-1]], 1), w, ids, c)],
        "no_gradient_to_weight": [lambda h, w, ids, c: chunk_plain(h, w.detach(), ids, c)],
        "no_gradient_to_hidden": [lambda h, w, ids, c: chunk_plain(h.detach(), w, ids, c)],
        "normaliser_detached": [by_chunk(lambda logits, ids: pick(logits, ids) - logits.logsumexp(-1).detach())],
        "detached": [chunk_w_no_grad],
        "sign_flipped": [by_chunk(lambda logits, ids: F.cross_entropy(logits, ids, reduction="none"))],
        "right_numbers_wrong_shape": [chunk_w_forgets_view],
        "wrong_shape": [lambda *a: chunk_plain(*a).mean()],
    },
}
