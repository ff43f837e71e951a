"""A prompt read once for its group: log-probs, values and gradients as if it had been read for every answer."""

from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import InputError, Scoring, sample, score_with_values
from grpo_teach.large import Options, load_large
from grpo_teach.large.shared import SharedPrompts
from grpo_teach.policy import Critic


def scored(policy, critic, rollouts, scoring):
    policy.scoring = scoring
    logprobs, values = score_with_values(policy, critic, rollouts)
    weights = torch.linspace(-1, 1, logprobs.numel()).reshape(logprobs.shape)
    loss = (weights * logprobs + weights.flip(0) * values).sum()
    learns = [p for p in (*policy.parameters(), *critic.parameters()) if p.requires_grad]
    return logprobs.detach(), values.detach(), torch.autograd.grad(loss, learns)


@pytest.mark.parametrize("rows", [1, 4, 7, 64])
@pytest.mark.parametrize("kind", ["head", "detached", "separate"])
def test_the_numbers_and_their_gradients_are_the_same(policy, tokenizer, rows, kind):
    rollouts = sample(policy, tokenizer, PROMPTS, 5, 12)
    critic = Critic(policy, kind)
    torch.nn.init.normal_(critic.head.weight)
    plain, shared = (
        scored(policy, critic, rollouts, kind_of(rows_a_pass=rows)) for kind_of in (Scoring, SharedPrompts)
    )
    for one, other in zip((*plain[:2], *plain[2]), (*shared[:2], *shared[2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(shared[0], rollouts.old_logprobs, rtol=0, atol=1e-5)


def test_fewer_tokens_are_read(policy, tokenizer, monkeypatch):
    rollouts, read = sample(policy, tokenizer, PROMPTS, 6, 12), []
    decoder = policy.get_decoder()
    forward = type(decoder).forward
    monkeypatch.setattr(
        type(decoder),
        "forward",
        lambda self, input_ids, **k: read.append(input_ids.numel()) or forward(self, input_ids, **k),
    )
    counts = {}
    for kind in (Scoring, SharedPrompts):
        read.clear()
        scored(policy, Critic(policy), rollouts, kind())
        counts[kind] = sum(read)
    distinct = len(torch.unique(torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1), dim=0))
    prompt, answer = rollouts.prompt_ids.shape[1], rollouts.completion_ids.shape[1]
    assert counts[Scoring] == distinct * (prompt + answer - 1)
    assert counts[SharedPrompts] == len(PROMPTS) * (prompt - 1) + distinct * answer < counts[Scoring]


def test_prompts_that_stand_alone_are_read_as_ever(policy, tokenizer):
    rollouts = sample(policy, tokenizer, PROMPTS, 1, 6)
    critic = Critic(policy)
    plain, shared = (scored(policy, critic, rollouts, kind())[0] for kind in (Scoring, SharedPrompts))
    assert torch.equal(plain, shared)


def test_checkpointing_and_a_shared_prompt_exclude_each_other():
    with pytest.raises(InputError, match="share_prompts.*checkpointing"):
        Options(share_prompts=True)
    options = Options(share_prompts=True, checkpointing=False, rows_a_pass=9)
    assert options.scoring == SharedPrompts(9, options.chunk, False)
    assert replace(options, share_prompts=False).scoring == Scoring(9, options.chunk, False)


def test_linear_attention_keeps_no_state_to_share(tmp_path):
    from test_turns import MIXED

    config = MIXED["qwen3_5"]()
    config.vocab_size = 300
    with pytest.raises(InputError, match="share_prompts.*linear attention"):
        load_large(config, "full", "float32", "cpu", checkpointing=False, share_prompts=True, random_weights=True)
