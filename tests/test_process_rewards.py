"""Rewards for steps: the rules, and DeepSeekMath's advantages."""

import pytest
import torch

import grpo_teach as gt
from grpo_teach.algorithms.later.grpo_process import grpo_process
from grpo_teach.judges.pays import step_judge
from grpo_teach.policy import Models
from grpo_teach.rewards.process import chain_sum_steps, process_advantages, tokens
from grpo_teach.rollout import from_text

PROMPT = "7+5+8="


@pytest.mark.parametrize(
    ("completion", "asked", "any_right"),
    [
        ("<think>7+5=2;2+8=0;</think>0", [1, 1], [1, 1]),
        ("<think>7+5=3;3+8=1;</think>1", [0, 1], [0, 1]),  # a slip, and rightly on from it
        ("<think>7+5=2;2+7=9;</think>9", [1, 0], [1, 1]),  # a right sum that nobody asked for
        ("<think>0+0=0;0+0=0;0+0=0;</think>0", [0, 0, 0], [1, 1, 1]),
        ("<think>7+5=2;2+8=0;0+0=0;</think>0", [1, 1, 0], [1, 1, 1]),  # one too many
        ("<think>7+=2;2+8=0;</think>0", [0, 0], [0, 1]),
        ("<think>;;</think>", [0, 0], [0, 0]),
        ("37+5=2;</think>", [0], [0]),
        ("<think><think>7+5=2;", [1], [1]),
        ("0", [], []),
        ("", [], []),
    ],
)
def test_what_a_step_earns(completion, asked, any_right):
    assert [r for _, r in chain_sum_steps(PROMPT, completion)] == asked
    assert [r for _, r in chain_sum_steps(PROMPT, completion, asked=False)] == any_right


def test_a_step_ends_at_its_semicolon_as_the_policy_counts():
    tokenizer = gt.load_base()[1]
    text = "<think>7+5=2;2+8=0;</think>0"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [end for end, _ in chain_sum_steps(PROMPT, text)]
    assert [tokenizer.decode([ids[end]]) for end in ends] == [";", ";"] and len(tokens(text)) == len(ids)


def test_the_advantages_are_deepseekmaths():
    mask = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    steps = [[(0, 1.0), (2, 0.0)], [], [(1, 1.0)], []]
    rewards = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = process_advantages(steps, rewards, mask, eps=0.0)
    for group, every in (((0, 1), [1.0, 0.0, 0.0, 1.0]), ((2, 3), [1.0, 1.0, 0.0])):
        mean = sum(every) / len(every)
        std = (sum((r - mean) ** 2 for r in every) / (len(every) - 1)) ** 0.5
        for row in group:
            length = int(mask[row].sum())
            paid = [*steps[row], (length - 1, float(rewards.flatten()[row]))]
            for t in range(5):
                expected = sum((r - mean) / std for end, r in paid if end >= t) if t < length else 0.0
                assert float(found[row, t]) == pytest.approx(expected, abs=1e-5)


def test_without_steps_it_is_grpo_and_equal_rewards_teach_nothing():
    mask = torch.ones(4, 3)
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = process_advantages([[], [], [], []], rewards, mask)
    assert torch.allclose(found, gt.group_relative_advantages(rewards).reshape(-1, 1) * mask)
    assert not process_advantages([[(0, 1.0)]] * 4, torch.ones(2, 2), mask).any()


def test_without_steps_the_algorithm_is_grpo():
    policy, tokenizer = gt.load_base()
    task, grpo = gt.ChainSum(5), gt.ALGORITHMS["grpo"]
    torch.manual_seed(0)
    problems = task.sample(4, torch.Generator().manual_seed(0))
    rollouts = gt.sample(policy, tokenizer, [p.prompt for p in problems], 8, 32)
    rewards = task.reward(rollouts.texts(tokenizer), problems)
    assert 0 < rewards.mean() < 1
    config = grpo.Settings(prompts=4, group_size=8)
    by_step = grpo_process(lambda rollouts: [[] for _ in range(len(rollouts))])
    for changed in ({}, {"beta": 0.1}):
        setting = grpo.Settings(prompts=4, group_size=8, **changed)
        models = Models.build(policy)
        losses = [next(a.update(models, rollouts, rewards, setting))[0] for a in (grpo, by_step)]
        grads = [torch.autograd.grad(loss, policy.parameters()) for loss in losses]
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))
    punished = grpo_process(lambda rollouts: [[(0, float(b % 2))] for b in range(len(rollouts))])
    other = next(punished.update(Models.build(policy), rollouts, rewards, config))[0]
    assert abs(float(other.detach() - losses[0].detach())) > 1e-4


@pytest.mark.parametrize("kind", ["asked", "any"])
def test_a_studys_judge_reads_prompts_and_completions_off_the_rollouts(kind):
    tokenizer = gt.load_base()[1]
    texts = ["<think>7+5=2;2+7=9;</think>9", "<think>1+2=3;</think>3"]
    rollouts = from_text(tokenizer, [PROMPT, "1+2="], texts)
    judge = step_judge(kind, tokenizer)
    assert [[r for _, r in row] for row in judge(rollouts)] == [[1.0, float(kind == "any")], [1.0]]
