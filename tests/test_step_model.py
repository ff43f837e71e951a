"""The learned judge of steps: what it reads, what it learns, and the labelled answers it learns from."""

import re
from types import SimpleNamespace

import pytest
import torch

import grpo_teach as gt
from grpo_teach.judges import learned, pays
from grpo_teach.judges.learned import judge_of_steps
from grpo_teach.rewards.process import chain_sum_steps
from grpo_teach.rewards.step_model import StepModel, fit_steps, labelled
from grpo_teach.rollout import from_text

TASK = gt.ChainSum(5)
PROMPTS = ["7+5+8=", "1+2=", "9+9+9+9="]
TEXTS = ["<think>7+5=2;2+8=0;</think>0", "3", "<think>9+9=8;"]


@pytest.fixture(scope="module")
def base():
    return gt.load_base()


@pytest.fixture
def judge(base):
    """With a head that is not 0."""
    found = StepModel(*base)
    torch.manual_seed(0)
    torch.nn.init.normal_(found.head.weight, std=0.02)
    torch.nn.init.normal_(found.head.bias)
    return found.eval()


def test_a_steps_score_is_the_sum_of_its_tokens_each_read_from_the_state_before(base, judge):
    policy, tokenizer = base
    expected = []
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        asked = tokenizer(prompt, return_tensors="pt")["input_ids"][0].tolist()
        written = tokenizer(text, add_special_tokens=False)["input_ids"]
        hidden = policy.get_decoder()(input_ids=torch.tensor([asked + written])).last_hidden_state[0]
        total = 0.0
        for t, token in enumerate(written):
            total += float(judge.head(hidden[len(asked) + t - 1])[token].detach())
            if tokenizer.decode([token]) == ";":
                expected.append((row, t, total))
                total = 0.0
    row, t, scores = judge(from_text(tokenizer, PROMPTS, TEXTS))
    assert len(expected) == 3 and list(zip(row.tolist(), t.tolist(), strict=True)) == [e[:2] for e in expected]
    assert scores.detach().tolist() == pytest.approx([e[2] for e in expected], abs=1e-4)


def test_it_judges_where_the_rule_does_and_says_how_probable(base, judge):
    rollouts = from_text(base[1], PROMPTS, TEXTS)
    found, scores = judge.judge(rollouts), judge(rollouts)[2].detach()
    assert [[t for t, _ in row] for row in found] == [[6, 12], [], [6]]
    assert [p for row in found for _, p in row] == pytest.approx((1 / (1 + (-scores).exp())).tolist())
    assert [[t for t, _ in chain_sum_steps(*both)] for both in zip(PROMPTS, TEXTS, strict=True)] == [[6, 12], [], [6]]


def test_without_a_step_there_is_nothing_to_judge(base, judge):
    assert judge.judge(from_text(base[1], ["1+2=", "3+4="], ["3", "7"])) == [[], []]


def test_what_stands_behind_the_end_is_no_step(base, judge):
    rollouts = from_text(base[1], PROMPTS, TEXTS)
    rollouts.completion_ids[1, 5] = judge.end  # padding of the second row
    assert judge.judge(rollouts)[1] == []


def test_a_new_one_says_one_half_and_learning_leaves_the_policy_alone(base):
    policy, tokenizer = base
    before = [weight.clone() for weight in policy.parameters()]
    judge = StepModel(policy, tokenizer)
    assert [p for row in judge.judge(from_text(tokenizer, PROMPTS, TEXTS)) for _, p in row] == [0.5] * 3
    shown = labelled(TASK, 48, "results", torch.Generator().manual_seed(0))
    losses = fit_steps(judge, *shown, batch=16, progress=False)
    assert len(losses) == 3 and losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_it_learns_to_see_wrong_results(base):
    generator = torch.Generator().manual_seed(0)
    judge = StepModel(*base)
    fit_steps(judge, *labelled(TASK, 2000, "results", generator), generator=generator, progress=False)
    prompts, texts, steps = labelled(TASK, 200, "results", generator)
    judged = judge.eval().judge(from_text(base[1], prompts, texts))
    both = [(p, r) for a, b in zip(judged, steps, strict=True) for (_, p), (_, r) in zip(a, b, strict=True)]
    assert sum((p > 0.5) == (r == 1) for p, r in both) / len(both) > 0.9


@pytest.mark.parametrize("errors", ["results", "digits"])
def test_the_labelled_answers_have_the_errors_that_are_asked_for(errors):
    prompts, texts, steps = labelled(TASK, 1000, errors, torch.Generator().manual_seed(0))
    results = digits = 0
    for prompt, text, found in zip(prompts, texts, steps, strict=True):
        total, *due = re.findall(r"\d", prompt)
        written = re.findall(r"(\d)\+(\d)=(\d);", text)
        assert len(written) == 4 and text.endswith(f"</think>{written[-1][2]}")
        for (a, b, c), digit, (_, label) in zip(written, due, found, strict=True):
            assert a == total  # each goes on from the one before
            slip, aside, total = (int(a) + int(b)) % 10 != int(c), b != digit, c
            results, digits = results + slip, digits + aside
            assert label == float(not slip and not aside)
    # of the digits drawn at random a tenth are the due ones; 4,000 steps, four standard errors
    assert abs(results / 4000 - 0.45) < 0.032
    assert abs(digits / 4000 - (0.225 if errors == "digits" else 0)) < 0.027


def test_errors_of_form_are_steps_too_many_and_tokens_replaced():
    prompts, texts, steps = labelled(TASK, 1000, "form", torch.Generator().manual_seed(0))
    well = re.compile(r"<think>(\d\+\d=\d;)*</think>\d")
    formed = [bool(well.fullmatch(text)) for text in texts]
    assert 0.5 < sum(formed) / 1000 < 0.75  # a digit in a digit's place goes unseen here
    too_many = [text.count(";") == 5 for text, fine in zip(texts, formed, strict=True) if fine]
    assert abs(sum(too_many) / len(too_many) - 0.5) < 0.09
    assert all(found[4][1] == 0 for found in steps if len(found) == 5)  # nobody asked for a fifth
    with pytest.raises(ValueError, match="errors must be"):
        labelled(TASK, 1, "none", torch.Generator())


def test_a_study_asks_for_its_judge_by_the_errors_it_is_shown(base, monkeypatch):
    asked = []
    monkeypatch.setattr(pays, "judge_of_steps", lambda *given: asked.append(given) or StepModel(*base))
    for kind in ("results", "digits", "form", "any"):
        pays.algorithm_of(SimpleNamespace(steps_paid=kind), *base, TASK, 7)
    assert [given[3:] for given in asked] == [("results", 7), ("digits", 7), ("form", 7)]


def test_the_seed_draws_the_labelled_answers(base, monkeypatch):
    monkeypatch.setattr(learned, "LABELLED", 32)
    first, again, other = (judge_of_steps(*base, TASK, "results", seed).head.bias for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
