"""Turns and tools: whose token is whose, what is learnt of them, and what re-tokenising does."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import ALGORITHMS, GRPO, ChainSum, group_relative_advantages, score, train
from grpo_teach.policy import Models
from grpo_teach.scale.turns import Turns, WithTool, calculator, merging_tokenizer, play, retokenised, unmasked

LONGEST = 14
REWARDS = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])


def marked(text: str) -> str:
    """A tool whose answer cannot be mistaken: no policy would write it by chance."""
    return ";;9;;"


@pytest.fixture
def turns(policy, tokenizer):
    """3 prompts x 6 samples, of which some call the tool."""
    torch.manual_seed(4)
    found = play(policy, tokenizer, PROMPTS, 6, LONGEST, tool=marked, calls=2)
    answered = (found.written > found.mask).any(dim=1)
    assert 3 <= int(answered.sum()) < 18 and len(set(found.lengths.tolist())) > 3
    return found


# The tool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [("<think>7+5=", "2;"), ("<think>7+5=2;2+8=", "0;"), ("4+4=", "8;"), ("9+9=", "8;"),
     ("=", ";"), ("<think>7+=", ";"), ("7+5=2", ";"), ("<think>", ";")],
)  # fmt: skip
def test_the_calculator(text, answer):
    assert calculator(text) == answer


# The mask ---------------------------------------------------------------------------------------------------------


def by_hand(ids: list[int], call: int, answer: list[int], calls: int) -> list[int]:
    """Who wrote each token of a row: 1 the policy, 0 the tool, read from the text alone."""
    wrote, i = [], 0
    while i < len(ids):
        wrote.append(1)
        if ids[i] == call and calls:
            calls -= 1
            wrote += [0] * min(len(answer), len(ids) - i - 1)
            assert ids[i + 1 : i + 1 + len(answer)] == answer[: len(ids) - i - 1]
            i += len(answer)
        i += 1
    return wrote


def test_the_mask_holds_every_token_of_the_policy_and_none_of_the_tools(turns, tokenizer):
    call, answer = tokenizer.convert_tokens_to_ids("="), tokenizer(";;9;;")["input_ids"]
    ended = cut = 0
    for ids, mask, old, written in zip(
        turns.completion_ids.tolist(), turns.mask.tolist(), turns.old_logprobs.tolist(), turns.written.tolist(),
        strict=True,
    ):  # fmt: skip
        n = int(sum(written))
        assert written == [1.0] * n + [0.0] * (len(ids) - n) and n <= LONGEST
        assert mask[:n] == by_hand(ids[:n], call, answer, calls=2)
        assert not any(mask[n:]) and all(ids[t] == tokenizer.pad_token_id for t in range(n, len(ids)))
        assert all((value < 0) == bool(own) for value, own in zip(old, mask, strict=True))
        ended += ids[n - 1] == tokenizer.eos_token_id
        cut += n == LONGEST
        assert ids[n - 1] == tokenizer.eos_token_id or n == LONGEST, "a row ends with EOS or at the limit"
    assert ended and cut


def test_the_policy_goes_on_from_what_the_tool_said(base):
    torch.manual_seed(0)
    found = play(base.policy, base.tokenizer, ["7+5+8+3+9="], 64, 40, calls=4)
    thought = [text for text in found.texts(base.tokenizer) if text.startswith("<think>7+5=")]
    assert len(thought) >= 4 and all(text.startswith("<think>7+5=2;") for text in thought)
    assert sum(text.startswith("<think>7+5=2;2+8=0;") for text in thought) > len(thought) / 2
    assert sum(text.endswith("</think>2") for text in thought) > len(thought) / 2, "it goes on after the last call too"


def test_calls_beyond_those_that_are_answered_are_text(base):
    torch.manual_seed(0)
    found = play(base.policy, base.tokenizer, ["7+5+8+3+9="], 64, 40, calls=1)
    answers = (found.written - found.mask).sum(dim=1)
    assert set(answers.tolist()) == {0.0, 2.0}  # "2;"
    last = found.completion_ids.gather(1, found.lengths.unsqueeze(1) - 1).squeeze(1)
    assert ((last == base.tokenizer.eos_token_id) | (found.lengths == 40)).all()
    none = play(base.policy, base.tokenizer, ["7+5+8+3+9="], 8, 40, calls=0)
    assert torch.equal(none.written, none.mask) and none.tokens >= 8


def test_sampled_logprobs_are_the_scored_ones(policy, tokenizer, turns):
    scored = score(policy, turns)
    torch.testing.assert_close(scored, turns.old_logprobs, rtol=0, atol=2e-5)
    warm = play(policy, tokenizer, PROMPTS, 4, LONGEST, 0.7, marked)
    torch.testing.assert_close(score(policy, warm, 0.7), warm.old_logprobs, rtol=0, atol=2e-5)


def test_the_answers_to_a_prompt_stand_together(turns, tokenizer):
    rows = zip(turns.prompt_ids, turns.prompt_mask, strict=True)
    asked = [tokenizer.decode(ids[seen.bool()]) for ids, seen in rows]
    assert asked == [prompt for prompt in PROMPTS for _ in range(6)]


def test_rows_and_columns_are_taken_with_their_tool_tokens(policy, turns):
    some = turns[torch.tensor([0, 5, 7])]
    assert isinstance(some, Turns) and torch.equal(some.written, turns.written[[0, 5, 7]])
    wide = replace(turns, **{
        name: torch.nn.functional.pad(getattr(turns, name), (0, 3))
        for name in ("completion_ids", "mask", "old_logprobs", "written")
    })  # fmt: skip
    narrow = wide.trimmed()
    assert all(torch.equal(getattr(narrow, name), getattr(turns, name)) for name in vars(turns))
    assert turns.tokens == int(turns.mask.sum()) < int(turns.lengths.sum())


# What is learnt ---------------------------------------------------------------------------------------------------


def gradients(loss, policy):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])


def row_by_row(policy, turns, advantages, counted):
    """Minus the mean over the counted tokens of advantage times log-prob, one unpadded row at a time."""
    total = 0.0
    for b in range(len(turns)):
        prompt = turns.prompt_ids[b][turns.prompt_mask[b].bool()]
        ids = turns.completion_ids[b][: int(turns.written[b].sum())]
        logits = policy(torch.cat([prompt, ids]).unsqueeze(0)).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1).gather(1, ids.unsqueeze(1)).squeeze(1)
        total = total - (logprobs * advantages[b] * counted[b, : len(ids)]).sum()
    return total / counted.sum()


def test_the_update_learns_nothing_of_the_tools_tokens(policy, turns):
    config = GRPO(prompts=3, group_size=6, max_new_tokens=LONGEST)
    loss, _ = next(ALGORITHMS["grpo"].update(Models(policy), turns, REWARDS, config))
    found = gradients(loss, policy)
    advantages = group_relative_advantages(REWARDS).flatten()
    wanted = gradients(row_by_row(policy, turns, advantages, turns.mask), policy)
    with_tools = gradients(row_by_row(policy, turns, advantages, turns.written), policy)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert float((with_tools - wanted).norm()) > 0.05 * float(wanted.norm())


def test_without_the_mask_it_does(policy, turns):
    config = GRPO(prompts=3, group_size=6, max_new_tokens=LONGEST)
    mistaken = unmasked(policy, turns)
    assert torch.equal(mistaken.mask, turns.written) and bool((mistaken.old_logprobs < 0)[turns.written > 0].all())
    loss, _ = next(ALGORITHMS["grpo"].update(Models(policy), mistaken, REWARDS, config))
    found, advantages = gradients(loss, policy), group_relative_advantages(REWARDS).flatten()
    wanted = gradients(row_by_row(policy, turns, advantages, turns.written), policy)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("masked", [True, False])
def test_the_loop_trains_with_a_tool(base, masked):
    policy, config = copy.deepcopy(base.policy), GRPO(prompts=2, group_size=16, max_new_tokens=24)
    run = train(
        policy, base.tokenizer, ChainSum(5), ALGORITHMS["grpo"], config, steps=2, progress=False,
        kind=partial(WithTool, calls=4, masked=masked),
    )  # fmt: skip
    assert len(run.history) == 2 and ("calls" in run.history[0]) == masked
    _, found = run.sample()
    assert torch.equal(found.mask, found.written) != masked
    asked = run.evaluate(32)
    assert asked.problems == 32 and 0 <= asked.interval[0] <= asked.accuracy <= asked.interval[1] <= 1


# Re-tokenising ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merging():
    return merging_tokenizer(["abab", "abc", "ab"] * 5, size=6)  # <pad> <eos> a b c, and the pair "ab"


def test_one_text_has_many_ids_and_encoding_finds_one(merging):
    a, b, ab = merging.convert_tokens_to_ids(["a", "b", "ab"])
    assert retokenised(merging, [[a, b], [ab], [b, a], [a, b, a, b], [ab, a, b]]) == [
        [ab],
        [ab],
        [b, a],
        [ab, ab],
        [ab, ab],
    ]


def test_every_text_keeps_its_characters(merging):
    torch.manual_seed(0)
    rows = [torch.randint(2, 6, (n,)).tolist() for n in range(1, 30)]
    for row, other in zip(rows, retokenised(merging, rows), strict=True):
        texts = ["".join(merging.convert_ids_to_tokens(ids)) for ids in (row, other)]
        assert texts[0] == texts[1] and len(other) <= len(row)
