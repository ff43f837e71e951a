"""Sampling and scoring: the log-probabilities noted while sampling are those that scoring computes later."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS
from scipy import stats

from grpo_teach import Scoring, aggregate, from_text, policy_gradient_loss, sample, score
from grpo_teach.policy import Critic
from grpo_teach.rollout import score_with_values

CLOSE = {"rtol": 0, "atol": 1e-5}


@torch.no_grad()
def naive_logprobs(policy, tokenizer, prompt, completion_ids, temperature):
    """One row, no padding, no cache: a full forward pass and a float64 log-softmax at each position."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    logits = policy(input_ids=torch.tensor([prompt_ids + completion_ids])).logits[0].double()
    table = torch.log_softmax(logits / temperature, dim=-1)
    return [float(table[len(prompt_ids) - 1 + t, token]) for t, token in enumerate(completion_ids)]


def gradients(policy, loss):
    return torch.autograd.grad(loss, list(policy.parameters()))


# Sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_sampled_logprobs_equal_scored_ones_and_a_naive_pass(policy, tokenizer, temperature):
    rollouts = sample(policy, tokenizer, PROMPTS, group_size=5, max_new_tokens=12, temperature=temperature)
    assert len({int(n) for n in rollouts.lengths}) > 3, "the rows should differ in length"
    scored = score(policy, rollouts, temperature)
    torch.testing.assert_close(scored, rollouts.old_logprobs, **CLOSE)
    for b, (ids, n) in enumerate(zip(rollouts.completion_ids.tolist(), rollouts.lengths.tolist(), strict=True)):
        naive = naive_logprobs(policy, tokenizer, PROMPTS[b // 5], ids[:n], temperature)
        torch.testing.assert_close(scored[b, :n].double(), torch.tensor(naive, dtype=torch.float64), **CLOSE)


def test_another_temperature_gives_other_logprobs(policy, rollouts):
    real = rollouts.mask > 0
    assert (score(policy, rollouts, 0.5) - score(policy, rollouts, 1.0))[real].abs().mean() > 0.1


def test_rows_stand_in_prompt_order(policy, tokenizer):
    rollouts = sample(policy, tokenizer, PROMPTS, group_size=3, max_new_tokens=2)
    assert len(rollouts) == 9
    for b in range(9):
        real = rollouts.prompt_ids[b][rollouts.prompt_mask[b] > 0].tolist()
        assert real == tokenizer(PROMPTS[b // 3])["input_ids"]


def test_the_mask_is_a_prefix_that_includes_the_only_eos(rollouts, tokenizer):
    steps = torch.arange(rollouts.mask.shape[1])
    assert torch.equal(rollouts.mask, (steps < rollouts.lengths.unsqueeze(1)).float())
    is_eos = rollouts.completion_ids == tokenizer.eos_token_id
    ended = rollouts.lengths < 10  # max_new_tokens
    assert 0 < ended.sum() < len(rollouts), "some rows should end and some be cut off"
    for b in range(len(rollouts)):
        last = int(rollouts.lengths[b]) - 1
        assert not is_eos[b, :last].any()
        assert is_eos[b, last] or not ended[b]
    padding = rollouts.mask == 0
    assert (rollouts.completion_ids[padding] == tokenizer.pad_token_id).all()
    assert (rollouts.old_logprobs[padding] == 0).all()
    assert rollouts.tokens == int(rollouts.mask.sum())


def test_a_sampled_pad_token_before_the_end_is_a_real_token(policy, tokenizer):
    # The mask is built from lengths: a policy may sample <pad>, and is then answerable for it.
    rollouts = sample(policy, tokenizer, ["1+2="], group_size=200, max_new_tokens=8)
    pads = (rollouts.completion_ids == tokenizer.pad_token_id) & (rollouts.mask > 0)
    assert pads.any()
    assert (rollouts.old_logprobs[pads] < 0).all()


def test_a_prompt_that_ends_while_another_branches_leaves_it_its_own_past(policy, tokenizer):
    # Two texts before and two after, but not the same two: the cache must follow.
    for seed in range(1000):
        torch.manual_seed(seed)
        rollouts = sample(policy, tokenizer, PROMPTS[:2], group_size=2, max_new_tokens=4)
        first = rollouts.completion_ids[:, 0].reshape(2, 2)
        over = (first == tokenizer.eos_token_id).sum(dim=1)
        if over.tolist() in ([0, 2], [2, 0]) and len(set(first[over == 0].flatten().tolist())) == 2:
            break
    else:
        raise AssertionError("this should have happened")
    torch.testing.assert_close(score(policy, rollouts), rollouts.old_logprobs, **CLOSE)


def exact_shares(policy, tokenizer, prompt, temperature):
    """[V * V] probability of each pair of first tokens, and [V] of each first token; nothing follows the end."""
    prompt_ids, n = tokenizer(prompt)["input_ids"], len(tokenizer)
    with torch.no_grad():
        first = policy(input_ids=torch.tensor([prompt_ids])).logits[0, -1].double()
        second = policy(input_ids=torch.tensor([[*prompt_ids, token] for token in range(n)])).logits[:, -1].double()
    first, second = (torch.softmax(x / temperature, dim=-1) for x in (first, second))
    second[tokenizer.eos_token_id] = torch.nn.functional.one_hot(torch.tensor(tokenizer.pad_token_id), n)
    return (first.unsqueeze(1) * second).flatten()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_first_two_tokens_follow_the_policys_distribution(policy, tokenizer, temperature):
    # Rows with the same text so far share one forward pass, but each draws for itself.
    n, prompts = 4000, ["7+5=", "1+1+1="]
    rollouts = sample(policy, tokenizer, prompts, group_size=n, max_new_tokens=2, temperature=temperature)
    pairs = rollouts.completion_ids[:, 0] * len(tokenizer) + rollouts.completion_ids[:, 1]
    for p, prompt in enumerate(prompts):
        shares = exact_shares(policy, tokenizer, prompt, temperature)
        counts = torch.bincount(pairs[p * n : (p + 1) * n], minlength=len(shares)).double()
        assert (counts[shares == 0] == 0).all()
        common = shares * n >= 5  # chi-square wants at least 5 expected; the rest are one class
        observed = [*counts[common].tolist(), float(counts[~common].sum())]
        wanted = [*(n * shares[common]).tolist(), float(n * shares[~common].sum())]
        assert len(wanted) >= 10
        assert stats.chisquare(observed, wanted).pvalue > 0.001


def test_rows_that_have_ended_leave_the_others_as_they_were(policy, tokenizer):
    rollouts = sample(policy, tokenizer, ["7+5=", "1+1+1="], group_size=400, max_new_tokens=3)
    assert (rollouts.lengths == 1).any()
    torch.testing.assert_close(score(policy, rollouts), rollouts.old_logprobs, **CLOSE)


def test_the_same_seed_gives_the_same_rollouts(policy, tokenizer):
    first, again, other = (
        (torch.manual_seed(seed), sample(policy, tokenizer, PROMPTS, 4, 8))[1].completion_ids for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_policys_mode_and_gradients_alone(policy, tokenizer, training):
    policy.train(training)
    rollouts = sample(policy, tokenizer, PROMPTS, 2, 3)
    assert policy.training == training
    assert not rollouts.old_logprobs.requires_grad


def test_nan_logits_are_reported(policy, tokenizer):
    with torch.no_grad():
        policy.model.norm.weight[0] = float("nan")
    policy.train()
    with pytest.raises(FloatingPointError, match="token 0"):
        sample(policy, tokenizer, PROMPTS)
    assert policy.training


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"temperature": -1.0}, {"group_size": 0}, {"max_new_tokens": 0}])
def test_impossible_requests_are_refused(policy, tokenizer, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        sample(policy, tokenizer, PROMPTS, **bad)
    with pytest.raises(ValueError, match="prompt"):
        sample(policy, tokenizer, [])


# Scoring ----------------------------------------------------------------------------------------------------------


def test_left_padding_does_not_move_a_logprob(policy, rollouts, tokenizer):
    wider = replace(
        rollouts,
        prompt_ids=torch.nn.functional.pad(rollouts.prompt_ids, (7, 0), value=tokenizer.pad_token_id),
        prompt_mask=torch.nn.functional.pad(rollouts.prompt_mask, (7, 0)),
    )
    torch.testing.assert_close(score(policy, wider), score(policy, rollouts), **CLOSE)


def test_rubbish_in_the_padding_changes_nothing(policy, rollouts):
    padding = rollouts.mask == 0
    ids = torch.where(padding, torch.randint_like(rollouts.completion_ids, 17), rollouts.completion_ids)
    spoiled = replace(rollouts, completion_ids=ids)
    clean, got = score(policy, rollouts), score(policy, spoiled)
    torch.testing.assert_close(got, clean, rtol=0, atol=1e-6)
    assert (got[padding] == 0).all()
    losses = [aggregate(policy_gradient_loss(x, rollouts.mask), rollouts.mask, "token_mean") for x in (clean, got)]
    for a, b in zip(*(gradients(policy, loss) for loss in losses), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows_a_pass", [1, 5, 1000])
def test_the_split_into_passes_changes_nothing(policy, rollouts, rows_a_pass):
    whole = score(policy, rollouts)
    policy.scoring = Scoring(rows_a_pass, chunk=10**6)
    torch.testing.assert_close(score(policy, rollouts), whole, **CLOSE)


@pytest.mark.parametrize("logits", [1, 200, 3000])
def test_making_the_logits_in_chunks_changes_nothing(policy, rollouts, monkeypatch, logits):
    weights, found = torch.randn_like(rollouts.mask), []
    for limit in (2**25, logits):
        monkeypatch.setattr(sys.modules["grpo_teach.score"], "LOGITS_AT_ONCE", limit)  # the name is the function's, too
        scored = score(policy, rollouts, 0.7)
        found.append([scored, *gradients(policy, (weights * scored).sum())])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-4)


def test_rows_with_zero_advantage_may_be_left_out(policy, rollouts):
    advantages = torch.randn(len(rollouts), 1) * rollouts.mask
    advantages[torch.arange(0, len(rollouts), 3)] = 0.0
    needed = advantages.any(dim=1)

    def gradient_with(rows):
        loss = policy_gradient_loss(score(policy, rollouts, needed=rows), advantages)
        return gradients(policy, aggregate(loss, rollouts.mask, "sequence_mean"))

    for part, full in zip(gradient_with(needed), gradient_with(None), strict=True):
        torch.testing.assert_close(part, full, rtol=1e-5, atol=1e-6)


def test_rows_left_out_keep_the_old_logprobs_without_gradient(policy, other_policy, rollouts):
    needed = torch.arange(len(rollouts)) % 2 == 0
    part, full = (score(other_policy, rollouts, needed=rows) for rows in (needed, None))
    torch.testing.assert_close(part[needed], full[needed], **CLOSE)
    assert torch.equal(part[~needed], rollouts.old_logprobs[~needed])
    none = score(policy, rollouts, needed=torch.zeros_like(needed))
    assert not none.requires_grad and torch.equal(none, rollouts.old_logprobs)


def test_rows_with_the_same_text_are_read_once_and_each_gets_its_gradient(policy, rollouts):
    rows = torch.tensor([0, 7, 7, 3, 0, 7])
    weights = torch.randn(6, 1)
    read = []
    hook = policy.model.register_forward_pre_hook(
        lambda _, arguments, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    together = score(policy, rollouts[rows])
    hook.remove()
    assert sum(read) == 3
    alone = torch.cat([score(policy, rollouts[rows[i : i + 1]]) for i in range(6)])
    torch.testing.assert_close(together, alone, **CLOSE)
    for a, b in zip(*(gradients(policy, (weights * x).sum()) for x in (together, alone)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# Values -----------------------------------------------------------------------------------------------------------


def test_the_same_completion_of_different_prompts_is_scored_for_each(policy, tokenizer):
    prompts = ["1+2=", "5+9=", "1+2=", "3+4+5="]
    scored = score(policy, from_text(tokenizer, prompts, ["3"] * 4))
    for row, prompt in zip(scored.tolist(), prompts, strict=True):
        naive = naive_logprobs(policy, tokenizer, prompt, tokenizer("3")["input_ids"] + [tokenizer.eos_token_id], 1.0)
        assert row == pytest.approx(naive, abs=1e-5)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_values_are_the_heads_reading_of_the_state_before_each_token(policy, tokenizer, rollouts, kind):
    critic = Critic(policy, kind)
    torch.nn.init.normal_(critic.head.weight)
    torch.nn.init.normal_(critic.head.bias)
    trunk = policy.model if kind == "shared" else critic.trunk
    if kind == "separate":
        torch.nn.init.normal_(trunk.norm.weight)
    logprobs, values = score_with_values(policy, critic, rollouts, 0.7)
    torch.testing.assert_close(logprobs, score(policy, rollouts, 0.7))
    assert (values[rollouts.mask == 0] == 0).all()
    for b in range(len(rollouts)):
        prompt, n = tokenizer(PROMPTS[b // 4])["input_ids"], int(rollouts.lengths[b])
        ids = torch.tensor([prompt + rollouts.completion_ids[b, : n - 1].tolist()])
        hidden = trunk(input_ids=ids).last_hidden_state[0, len(prompt) - 1 :]
        torch.testing.assert_close(values[b, :n], critic.head(hidden).squeeze(-1), rtol=1e-4, atol=1e-4)


# Rows -------------------------------------------------------------------------------------------------------------


def test_from_text_puts_an_eos_behind_each_text(tokenizer):
    rows = from_text(tokenizer, ["1+2=", "1+2+3="], ["<think>1+2=3;</think>3", "6"])
    assert rows.texts(tokenizer) == ["<think>1+2=3;</think>3", "6"]
    assert rows.lengths.tolist() == [10, 2]  # 6 characters of work, two tags, the answer, the end
    for b, n in enumerate([10, 2]):
        assert rows.completion_ids[b, n - 1] == tokenizer.eos_token_id
        assert (rows.completion_ids[b, n:] == tokenizer.pad_token_id).all()
    assert torch.equal(rows.mask, (torch.arange(10) < rows.lengths.unsqueeze(1)).float())
    assert (rows.old_logprobs == 0).all()
    assert rows.prompt_mask.tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6]


def test_selecting_and_trimming_rows_keeps_each_rows_content(rollouts):
    short = rollouts.lengths < rollouts.lengths.max()
    part = rollouts[short].trimmed()
    assert part.mask.shape[1] == int(rollouts.lengths[short].max())
    assert torch.equal(part.lengths, rollouts.lengths[short])
    for b, row in enumerate(short.nonzero().squeeze(1).tolist()):
        n = int(part.lengths[b])
        assert torch.equal(part.completion_ids[b, :n], rollouts.completion_ids[row, :n])
        assert torch.equal(part.old_logprobs[b, :n], rollouts.old_logprobs[row, :n])
        assert torch.equal(part.prompt_ids[b], rollouts.prompt_ids[row])
