"""What is refused or left out: shapes that broadcasting would pass over, a KL term of weight 0, unread logits."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import (
    GRPO,
    PPO,
    SFT,
    PolicyGradient,
    Scoring,
    aggregate,
    clipped_policy_loss,
    policy_gradient_loss,
    sample,
    score,
    score_with_values,
    value_loss,
    values,
)
from grpo_teach.algorithms import grpo
from grpo_teach.policy import Critic, Models
from grpo_teach.rollout import sample_ids

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 10}


def counted(module, calls):
    """Write down the rows of each call of the module."""

    def note(_, arguments, named):
        calls.append(len(named["input_ids"] if named else arguments[0]))

    return module.register_forward_pre_hook(note, with_kwargs=True)


# One shape --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, arguments", [(policy_gradient_loss, 2), (clipped_policy_loss, 3), (value_loss, 3)])
@pytest.mark.parametrize("shape", [[4], [4, 1], [1, 4]], ids=str)
def test_a_loss_refuses_what_broadcasting_would_pass_over(loss, arguments, shape):
    square = torch.zeros(4, 4)  # as many rows as tokens: nothing else would notice
    assert loss(*[square] * arguments).shape == (4, 4)
    for odd in range(arguments):
        given = [square] * arguments
        given[odd] = torch.zeros(shape)
        with pytest.raises(ValueError, match="one shape") as caught:
            loss(*given)
        assert str(shape) in str(caught.value) and "[4, 4]" in str(caught.value)


@pytest.mark.parametrize("shape", [[4], [4, 1], [1, 4]], ids=str)
@pytest.mark.parametrize("how", ["sequence_mean", "token_mean", "fixed_length"])
def test_aggregate_refuses_a_mask_of_another_shape(how, shape):
    with pytest.raises(ValueError, match="one shape"):
        aggregate(torch.zeros(4, 4), torch.ones(shape), how, 4)
    with pytest.raises(ValueError, match="one shape"):
        aggregate(torch.zeros(shape), torch.ones(4, 4), how, 4)


# No KL term, no reference -----------------------------------------------------------------------------------------


def test_at_beta_0_a_token_that_became_impossible_leaves_loss_and_gradient_finite(policy, rollouts, rewards):
    # exp(377) is infinite in float32, and 0 times infinity is NaN.
    far = replace(rollouts, old_logprobs=(score(policy, rollouts).detach() + 377.0) * rollouts.mask)
    loss, _ = next(grpo.update(Models(policy), far, rewards, GRPO(**SIZES)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in policy.parameters())


def test_only_a_kl_term_needs_the_reference():
    assert GRPO(beta=0.1).uses_reference and PPO(kl_coefficient=0.1).uses_reference
    assert not any(settings().uses_reference for settings in (SFT, PolicyGradient, PPO, GRPO))


# Values without log-probs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_values_alone_are_those_that_come_with_the_logprobs(policy, rollouts, kind):
    critic = Critic(policy, kind)
    for parameter in critic.head.parameters():
        torch.nn.init.normal_(parameter)
    if critic.trunk is not None:
        torch.nn.init.normal_(critic.trunk.norm.weight)  # no longer the policy's
    alone, beside = values(policy, critic, rollouts), score_with_values(policy, critic, rollouts, 0.7)[1]
    torch.testing.assert_close(alone, beside)
    assert (alone[rollouts.mask == 0] == 0).all() and alone.std() > 0.1
    learns = list(critic.parameters())
    for a, b in zip(*(torch.autograd.grad(x.sum(), learns) for x in (alone, beside)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk", [1, 10**6], ids=["in chunks", "whole"])
@pytest.mark.parametrize("kind", ["head", "separate"])
def test_values_alone_make_no_logits_and_read_one_trunk(policy, rollouts, kind, chunk, monkeypatch):
    critic, logits, policys, critics = Critic(policy, kind), [], [], []
    counted(policy.get_output_embeddings(), logits)
    counted(policy.get_decoder(), policys)
    if critic.trunk is not None:
        counted(critic.trunk, critics)
    scoring = sys.modules["grpo_teach.score"]  # grpo_teach.score is the function
    monkeypatch.setattr(scoring, "chunked_token_logprobs", lambda *_: logits.append("chunked"))
    policy.scoring = Scoring(chunk=chunk)
    values(policy, critic, rollouts)
    assert not logits
    assert (len(policys), len(critics)) == ((1, 0) if kind == "head" else (0, 1))


# Passes and ends --------------------------------------------------------------------------------------------------


def test_recomputed_passes_are_read_again_in_the_backward_and_change_no_gradient(policy, rollouts):
    weights, outcomes, reads = torch.randn_like(rollouts.mask), [], []
    counted(policy.get_decoder(), reads)
    for recompute in (False, True):
        policy.scoring = Scoring(rows_a_pass=4, recompute=recompute)
        loss = (weights * score(policy, rollouts)).sum()
        forward = len(reads)
        gradients = torch.autograd.grad(loss, list(policy.parameters()))
        outcomes.append(gradients)
        assert len(reads) - forward == (forward if recompute else 0)
        reads.clear()
    for plain, again in zip(*outcomes, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_completion_ends_at_each_of_the_tokens_given(policy, tokenizer):
    encoded = tokenizer(PROMPTS, padding=True, padding_side="left", return_tensors="pt")
    prompts, pad = (encoded["input_ids"], encoded["attention_mask"]), tokenizer.pad_token_id
    by_name = (torch.manual_seed(5), sample(policy, tokenizer, PROMPTS, 8, 6))[1]
    ids = (torch.manual_seed(5), sample_ids(policy, *prompts, 8, 6, 1.0, [tokenizer.eos_token_id], pad))[1]
    assert all(torch.equal(a, b) for a, b in zip(vars(by_name).values(), vars(ids).values(), strict=True))
    assert torch.equal(sample_ids(policy, *prompts, 8, 6, 1.0, [], pad).lengths, torch.full((24,), 6))
    ends = [tokenizer.eos_token_id, *tokenizer("12", add_special_tokens=False)["input_ids"]]
    found = sample_ids(policy, *prompts, 8, 6, 1.0, ends, pad)
    ended = set()
    for row, n in zip(found.completion_ids.tolist(), found.lengths.tolist(), strict=True):
        assert not set(row[: n - 1]) & set(ends)
        assert row[n - 1] in ends or n == 6
        ended.add(row[n - 1])
    assert len(ended & set(ends)) >= 2, "more than one of them should have been drawn"
