"""Chapter 01: log-probs of tokens (the shift), the completion mask, a reward that a rule can check."""

from __future__ import annotations

import re

import torch

from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.losses import token_logprobs as aligned_logprobs
from grpo_teach.rewards import accuracy, extract_answer

# token_logprobs(logits [B,S,V], input_ids [B,S]) -> [B,S-1] ------------------------------------------------------


def _shifted(logits, ids):
    return aligned_logprobs(logits[:, :-1], ids[:, 1:])


def _pick(scores, ids):
    return scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _underflows(function) -> bool:
    """Does a very unlikely token get a log-prob that is not finite?"""
    logits = torch.tensor([[[0.0, 200.0, 0.0], [0.0, 0.0, 0.0]]])
    outcome = run(function, {"logits": logits, "input_ids": torch.tensor([[1, 0]])})
    return outcome.value is not None and not bool(torch.isfinite(outcome.value).all())


# completion_mask(completion_ids [B,T], eos_id) -> [B,T] ----------------------------------------------------------


def _before(ids, eos):
    return (ids == eos).long().cumsum(dim=1) - (ids == eos).long()  # EOS tokens strictly before each position


def _mask(ids, eos):
    return (_before(ids, eos) == 0).double()


def _unless_cut_off(ids, eos, mask, cut_off):
    return torch.where((ids == eos).any(dim=1, keepdim=True), mask.double(), cut_off)


# answer_reward(completion, answer) -> float ----------------------------------------------------------------------


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _given(rule):
    return lambda completion, answer: bool(rule(extract_answer(completion), answer.strip()))


EXERCISES = [
    Exercise("token_logprobs", 1, _shifted, globals(), gradient=("logits",), probes={"underflow": _underflows}),
    Exercise("completion_mask", 1, _mask, globals()),
    Exercise("answer_reward", 1, accuracy, globals()),
]
