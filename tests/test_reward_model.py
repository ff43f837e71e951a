"""The learned reward: what it reads, what it learns from pairs, and the judge who makes them."""

import math
from types import SimpleNamespace

import pytest
import torch

import grpo_teach as gt
from grpo_teach.rewards import model as learned
from grpo_teach.rewards.model import Pairs, RewardModel, fit, judged_pairs, ranked_rightly
from grpo_teach.rollout import from_text

TASK = gt.ChainSum(5)


@pytest.fixture(scope="module")
def base():
    return gt.load_base()


@pytest.fixture
def scorer(base):
    """With a head that is not 0."""
    found = RewardModel(*base)
    torch.manual_seed(0)
    torch.nn.init.normal_(found.head.weight)
    torch.nn.init.normal_(found.head.bias)
    return found.eval()


def test_a_score_is_the_head_on_the_last_token_read_alone(base, scorer):
    policy, tokenizer = base
    prompts, texts = ["1+2=", "1+2+3+4="], ["3", "<think>1+2=3;3+3=6;6+4=0;</think>0"]
    scores = scorer.score(prompts, texts).detach()
    for prompt, text, score in zip(prompts, texts, scores, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"][0].tolist()
        ids += tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        hidden = policy.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert float(score) == pytest.approx(float(scorer.head(hidden).detach()), abs=1e-4)


def test_what_stands_behind_the_end_does_not_count_and_the_end_does(base, scorer):
    rollouts = from_text(base[1], ["1+2=", "1+2="], ["3", "<think>1+2=3;</think>3"])
    before = scorer(rollouts)
    rollouts.completion_ids[0, 2:] = 5  # padding of the first row
    assert torch.allclose(scorer(rollouts), before, atol=1e-6)
    rollouts.completion_ids[0, 1] = 5  # its EOS
    assert abs(float((scorer(rollouts)[0] - before[0]).detach())) > 1e-3


def test_rewards_come_in_prompt_order_and_without_gradient(scorer):
    problems = [SimpleNamespace(prompt="1+2="), SimpleNamespace(prompt="9+9=")]
    texts = ["3", "4", "8", "1"]
    rewards = scorer.reward(texts, problems)
    assert rewards.shape == (2, 2) and not rewards.requires_grad
    assert torch.allclose(rewards[1], scorer.score(["9+9=", "9+9="], ["8", "1"]), atol=1e-5)


def test_a_new_model_says_nothing_and_learning_leaves_the_policy_alone(base):
    policy, tokenizer = base
    before = [weight.clone() for weight in policy.parameters()]
    scorer = RewardModel(policy, tokenizer)
    pairs = Pairs(["1+2="] * 32, ["3"] * 32, [str(i % 3 + 4) for i in range(32)])
    assert scorer.score(["1+2="], ["3"]).tolist() == [0.0]
    losses = fit(scorer, pairs, epochs=2, batch=16, progress=False)
    assert len(losses) == 4 and losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_it_learns_what_the_pairs_show(base):
    generator = torch.Generator().manual_seed(0)
    problems = TASK.sample(600, generator)
    thoughts = [TASK.demonstration(problem, generator=generator) for problem in problems]
    guesses = TASK.guess(problems, generator)
    pairs = Pairs([problem.prompt for problem in problems], thoughts, guesses)
    scorer = RewardModel(*base)
    assert ranked_rightly(scorer, pairs[range(500, 600)]) == 0.5  # all scores are equal
    fit(scorer, pairs[range(500)], epochs=1, generator=generator, progress=False)
    assert ranked_rightly(scorer, pairs[range(500, 600)]) > 0.95
    held = pairs[range(500, 600)]
    with torch.no_grad():
        better, worse = scorer.score(held.prompts, held.chosen), scorer.score(held.prompts, held.rejected)
    assert float((better > worse).float().mean()) > 0.95  # read without the pairs' own comparison


def test_the_judge_prefers_as_bradley_and_terry_say(base, monkeypatch):
    n = 20_000
    texts = ["good", "bad"] * n
    monkeypatch.setattr(learned, "sample", lambda *_: SimpleNamespace(texts=lambda tokenizer: texts))
    task = SimpleNamespace(sample=lambda n, generator: [SimpleNamespace(prompt="?")] * n, max_new_tokens=32)

    def judged(gap):
        generator = torch.Generator().manual_seed(1)
        return judged_pairs(*base, task, n, lambda text, problem: gap * (text == "good"), generator)

    for gap in (0.0, 1.0, -2.0):
        pairs = judged(gap)
        assert len(pairs) == n and {*pairs.chosen[:50], *pairs.rejected[:50]} == {"good", "bad"}
        share = sum(text == "good" for text in pairs.chosen) / n
        assert abs(share - 1 / (1 + math.exp(-gap))) < 0.012  # more than three standard errors
        assert all(a != b for a, b in zip(pairs.chosen, pairs.rejected, strict=True))


def test_the_two_answers_of_a_pair_belong_to_its_prompt(base):
    torch.manual_seed(0)
    seen = []
    judged_pairs(*base, TASK, 16, lambda text, problem: seen.append((problem.prompt, text)) or 0.0, torch.Generator())
    assert len(seen) == 32 and all(a[0] == b[0] for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert len({prompt for prompt, _ in seen}) == 16
