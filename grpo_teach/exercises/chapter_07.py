"""Chapter 07: what a critic costs in bytes, log-probs without the logits of all tokens."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.losses import chunked_token_logprobs, token_logprobs

# critic_bytes(critic, method, weights, adapter, hidden, size) -> number -----------------------------------------------


def _bytes(critic, method, weights, adapter, hidden, size, copies=4, head=4, learns_frozen=False):
    """What the critic adds, in bytes: of each weight that learns ``copies`` numbers, of frozen ones the stored one."""
    learning = (hidden + 1) * head
    learning += 4 * adapter if critic == "lora" or (critic == "separate" and method == "lora") else 0
    trunk = size * weights if critic == "separate" else 0
    return (trunk if method == "lora" and not learns_frozen else copies * trunk) + copies * learning


# chunked_token_logprobs(hidden [B,T,D], weight [V,D], token_ids [B,T], chunk) -> [B,T] --------------------------------


def _logprobs(hidden, weight, ids):
    return token_logprobs(hidden @ weight.T, ids)


def _chosen(logits, ids):
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _in_chunks(function):
    """A mistake made chunk by chunk: ``function(logits [chunk, V], token_ids [chunk]) -> [chunk]``."""

    def answer(hidden, weight, ids, chunk):
        parts = zip(hidden.flatten(0, 1).split(chunk), ids.flatten().split(chunk), strict=True)
        return torch.cat([function(part @ weight.T, tokens) for part, tokens in parts]).view(ids.shape)

    return answer


def _whole_chunks(ids, chunk):
    """1 for each token of a chunk that is full, 0 for those of a smaller last one."""
    return (torch.arange(ids.numel()) < ids.numel() // chunk * chunk).view(ids.shape)


def _column_by_column(logprobs):
    return logprobs.T.reshape(logprobs.shape)


def _of_their_part(logits, ids, chunk):
    """Each token normalised over the ``chunk`` entries of the vocabulary that it stands among."""
    parts = [part.logsumexp(-1, keepdim=True).expand_as(part) for part in logits.split(chunk, dim=-1)]
    return _chosen(logits - torch.cat(parts, dim=-1), ids)


def _example():
    """Small, but with a vocabulary that outweighs all else: B 2, T 6, V 64, D 4, to be made in chunks of 3."""
    random = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 6, 4, generator=random), torch.randn(64, 4, generator=random)
    ids = torch.randint(64, (2, 6), generator=random)
    return {"hidden": hidden, "weight": weight, "token_ids": ids, "chunk": 3}


EVERY_LOGIT = 2 * 6 * 64


class _Largest(TorchDispatchMode):
    """Watches the elements behind every tensor that an operation returns: a view counts as what it is a view of."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        returned = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor):
                behind = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, behind)
        return returned


def _makes_every_logit(function) -> str | None:
    with _Largest() as largest:
        run(function, _example())
    if largest.elements >= EVERY_LOGIT:
        expected = f"expected: in every tensor fewer than 2 * 6 * 64 = {EVERY_LOGIT} numbers"
        return f"Example (B 2, T 6, V 64, chunk 3):\n  {expected}\n  got: a tensor of {largest.elements}"
    return None


def _keeps_every_chunk(function) -> bool:
    """Does what autograd keeps for the backward pass add up to all logits?"""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(function, _example(), ("hidden", "weight"))
    return sum(kept.values()) >= EVERY_LOGIT


def _overflows(function) -> bool:
    inputs = {"hidden": torch.tensor([[[200.0]]]), "weight": torch.tensor([[1.0], [-1.0]])}
    got = run(function, inputs | {"token_ids": torch.tensor([[1]]), "chunk": 1}).value
    return got is not None and not bool((got + 400).abs().max() < 1)


EXERCISES = [
    Exercise("chunked_token_logprobs", 7, chunked_token_logprobs, globals(), gradient=("hidden", "weight"),
             probes={"keeps_every_chunk": _keeps_every_chunk, "overflows": _overflows},
             demands={"makes_every_logit": _makes_every_logit}),
    Exercise("critic_bytes", 7, _bytes, globals(), rtol=1e-6),
]  # fmt: skip
