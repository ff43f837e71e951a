"""Training on a reward model's score: what is paid, what is graded beside it, and the judge's taste."""

import pytest
import torch

import grpo_teach as gt
from grpo_teach.judges.learned import Judged, rising
from grpo_teach.studies import run as experiments
from grpo_teach.studies.run import Variant
from grpo_teach.tasks.task import Problem

TASK = gt.ChainSum(5)


@pytest.mark.parametrize(
    ("text", "liked"),
    [("", 0.0), ("7", 0.0), ("12", 1.0), ("21", 0.0), ("11", 1.0), ("<think>1+3=4;4+1=5;</think>5", 5 / 6)],
)
def test_the_taste_counts_neighbouring_digits_that_do_not_fall(text, liked):
    assert rising(text) == pytest.approx(liked)


@pytest.fixture(scope="module")
def judged():
    policy, tokenizer = gt.load_base()
    return Judged(policy, tokenizer, TASK, 256, taste=True, seed=0)


def test_the_reward_model_alone_is_paid_and_the_rest_is_noted(judged):
    problems = TASK.sample(2, torch.Generator().manual_seed(1))
    texts = [problems[0].answer, "x", TASK.demonstration(problems[1]), "0"]
    paid = judged(texts, problems)
    scores = judged.model.reward(texts, problems)
    assert torch.allclose(paid, (scores - judged.mean) / judged.spread)
    assert judged.graded["paid"] == pytest.approx(float(paid.mean()))
    assert judged.graded["reward"] == float(TASK.reward(texts, problems).mean())
    assert judged.graded["liked"] == pytest.approx(sum(map(rising, texts)) / 4)
    assert 0.5 < judged.graded["ranked"] <= 1  # 256 pairs suffice to agree with the judge more often than a coin


def test_scores_are_counted_in_deviations_of_the_starting_policys_answers(judged):
    policy, tokenizer = gt.load_base()
    torch.manual_seed(3)
    problems = TASK.sample(128, torch.Generator().manual_seed(3))
    texts = gt.sample(policy, tokenizer, [p.prompt for p in problems], 4, 32).texts(tokenizer)
    paid = judged(texts, problems)
    assert abs(float(paid.mean())) < 0.2 and 0.8 < float(paid.std()) < 1.2


def test_it_is_not_the_task_that_pays(judged):
    two = [Problem("1+1+1+1+1=", "5"), Problem("1+1+1+1+1=", "6")]  # the same question with another key
    assert torch.allclose(*judged(["5", "5"], two).split(1), atol=1e-5)


def test_a_run_is_paid_by_it_and_evaluated_by_the_task():
    tiny = {"settings": {"prompts": 4, "group_size": 4}, "steps": 2, "evaluate_every": 1}
    curve = experiments.run(Variant(judged=32, **tiny), 0)["curve"]
    honest = experiments.run(Variant(planted="honest", **tiny), 0)["curve"]
    assert {"paid", "liked", "ranked", "paid_mixed"} <= curve.keys()
    assert curve["reward"][0] == honest["reward"][0] and curve["accuracy"][0] == honest["accuracy"][0]
    assert curve["paid"][0] != curve["reward"][0]
