"""Chapter 01: log-probs of tokens, the completion mask, scoring behind left padding, a reward that a rule can check."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch

from grpo_teach.evaluate import evaluate
from grpo_teach.exercises.calls import run
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.prediction import Prediction
from grpo_teach.losses import token_logprobs as aligned_logprobs
from grpo_teach.policy import load_base
from grpo_teach.rewards import accuracy, extract_answer
from grpo_teach.rollout import Rollouts
from grpo_teach.rollout import positions as of_real_tokens
from grpo_teach.score import score
from grpo_teach.tasks import ChainSum

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


# score_left_padded(model, prompt_ids [B,S], prompt_mask [B,S], completion_ids [B,T]) -> [B,T] ---------------------


@cache
def _model(positions: str) -> torch.nn.Module:
    """A causal model of transformers with random weights, large enough that every token and position matters."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # these take a second to load

    ends = {"vocab_size": 12, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if positions == "rotary":
        widths = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config, kind = LlamaConfig(**widths, **ends), LlamaForCausalLM
    else:
        config, kind = GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=24, **ends), GPT2LMHeadModel
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):  # its own first weights are drawn from torch's global state
        model = kind(config).eval()
    for weight in model.parameters():
        weight.data.normal_(std=0.6, generator=random)
    return model


@dataclass(frozen=True, eq=False)
class Tried:
    """A model among a case's inputs: every call gets a copy of its own, and sees whether the call changed it."""

    positions: str

    def __copy__(self) -> torch.nn.Module:
        return deepcopy(_model(self.positions))

    def __eq__(self, given) -> bool:
        pairs = zip(_model(self.positions).parameters(), given.parameters(), strict=True)
        return all(a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in pairs)

    def __repr__(self) -> str:
        return f"a tiny model with {self.positions} positions"


def _score(model, prompt_ids, prompt_mask, ids):
    return score(model, Rollouts(prompt_ids, prompt_mask, ids, torch.ones(ids.shape), torch.zeros(ids.shape)))


def _read(prompt_mask, ids):
    """[B, S+T]: 1 for each token that is no padding."""
    return torch.cat([prompt_mask, torch.ones_like(ids)], dim=1)


def _row(prompt_ids, ids):
    return torch.cat([prompt_ids, ids], dim=1)


def _logits(model, prompt_ids, prompt_mask, ids):
    """[B, S+T, V], as they should be read."""
    read = _read(prompt_mask, ids)
    return model(input_ids=_row(prompt_ids, ids), attention_mask=read, position_ids=of_real_tokens(read)).logits


def _of_all(logits, prompt_ids, ids):
    """[B, S+T-1]: the log-prob of each token of the row but the first."""
    return _shifted(logits, _row(prompt_ids, ids))


def _told(model, prompt_ids, ids, attention_mask=None, position_ids=None):
    """[B, T], of a model that is told something else of the padding."""
    told = {"attention_mask": attention_mask, "position_ids": position_ids}
    return _of_all(model(input_ids=_row(prompt_ids, ids), **told).logits, prompt_ids, ids)[:, -ids.shape[1] :]


def _example() -> dict:
    """Two prompts of different length before a model with a table of positions."""
    prompts = torch.tensor([[0, 0, 5, 3], [7, 2, 9, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    inputs = dict(zip(("prompt_ids", "prompt_mask"), prompts, strict=True))
    return {"model": Tried("absolute"), **inputs, "completion_ids": torch.tensor([[8, 1, 6], [3, 10, 2]])}


def _gradients(function) -> torch.Tensor | None:
    """Of a weighted sum of the result, to all of the model's weights in one row; None if no way leads to them."""
    kept = {}

    def noted(model, *inputs):
        kept.update(model=model, result=function(model, *inputs))
        return kept["result"]

    run(noted, _example())
    result = kept.get("result")
    if not isinstance(result, torch.Tensor) or not result.requires_grad:
        return None
    weights = torch.linspace(1.0, 2.0, result.numel(), dtype=result.dtype).view(result.shape)
    try:
        found = torch.autograd.grad((result * weights).sum(), list(kept["model"].parameters()), materialize_grads=True)
    except RuntimeError:  # the way back is used up, or some weights are frozen
        return None
    return torch.cat([gradient.flatten() for gradient in found])


def _told_apart(expected: torch.Tensor, got: str) -> str:
    wanted = f"a gradient of norm {expected.norm():.4g}"
    return f"Example (two prompts of different length):\n  expected: {wanted}\n  got: {got}"


def _no_gradient(function) -> str | None:
    return _told_apart(_gradients(_score), "no gradient") if _gradients(function) is None else None


def _other_gradient(function) -> str | None:
    expected, got = _gradients(_score), _gradients(function)
    if torch.allclose(expected, got, rtol=1e-3, atol=1e-3):
        return None
    return _told_apart(expected, f"one of norm {got.norm():.4g}, {(got - expected).norm():.4g} away from it")


# answer_reward(completion, answer) -> float ----------------------------------------------------------------------


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _given(rule):
    return lambda completion, answer: bool(rule(extract_answer(completion), answer.strip()))


# lower_temperature ----------------------------------------------------------------------------------------------


@cache
def _by_temperature() -> dict[str, list[float]]:
    """Of the base policy at two temperatures: what is right and what thinks first, of 64 answers with each seed."""
    (policy, tokenizer), task, found = load_base(), ChainSum(addends=5), {}
    for temperature in (1.0, 0.3):
        asked = {"problems": 64, "temperature": temperature}
        results = [evaluate(policy, tokenizer, task, seed=seed, **asked) for seed in range(8)]
        found[f"right at {temperature}"] = [result.accuracy for result in results]
        found[f"thinks first at {temperature}"] = [result.thinks for result in results]
    return found


EXERCISES = [
    Exercise("token_logprobs", 1, _shifted, globals(), gradient=("logits",), probes={"underflow": _underflows}),
    Exercise("completion_mask", 1, _mask, globals()),
    Exercise("score_left_padded", 1, _score, globals(),
             demands={"no_gradient_to_model": _no_gradient, "other_gradient_to_model": _other_gradient}),
    Exercise("answer_reward", 1, accuracy, globals()),
    Prediction("lower_temperature", 1, globals()),
]  # fmt: skip
for _case in EXERCISES[2].cases:  # the TOML file names the model's kind of positions
    _case.inputs["model"] = Tried(_case.inputs["model"])
