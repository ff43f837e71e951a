"""Each bug breaks what it says it breaks, and nothing is left of it afterwards."""

import ast
import copy
import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grpo_teach import ALGORITHMS, ChainSum, sample, score
from grpo_teach.algorithms import grpo
from grpo_teach.bugs import BUGS
from grpo_teach.bugs.bug import TEXTS
from grpo_teach.bugs.injections import _in_form
from grpo_teach.learner import Learner
from grpo_teach.policy import Models
from grpo_teach.tasks import Problem
from grpo_teach.train import Trainer

GRPO = ALGORITHMS["grpo"]
SIZES = {"prompts": 4, "group_size": 4, "max_new_tokens": 24}
ONES = torch.ones(2, 3)


@pytest.fixture
def made(policy, tokenizer, rollouts, rewards):
    """What the claims look at: a policy, rows that it sampled, and ways to make a learner and a trainer."""
    seen = []
    spy = SimpleNamespace(update=lambda models, rows, rewards, config: seen.append(rows) or [])

    def trainer(**settings):
        config = GRPO.Settings(**SIZES | settings)
        return Trainer(Models.build(policy), GRPO, config, tokenizer=tokenizer, task=ChainSum(), seed=0)

    def learner(algorithm=GRPO, **settings):
        return Learner(Models.build(policy), algorithm, GRPO.Settings(**SIZES | settings))

    def learnt_rows():
        learner(spy).learn(rollouts, rewards)
        return seen[-1]

    return SimpleNamespace(**locals())


# What is right as long as a bug is not there ----------------------------------------------------------------------


def scored_as_sampled(made) -> bool:
    return torch.allclose(score(made.policy, made.rollouts), made.rollouts.old_logprobs, atol=1e-4)


def unmoved_at_first(made) -> bool:
    cool = sample(made.policy, made.tokenizer, ["1+2=", "3+4=", "5+6="], 4, 8, temperature=0.7)
    config = GRPO.Settings(**SIZES, temperature=0.7)
    _, metrics = next(GRPO.update(Models(made.policy), cool, made.rewards, config))
    return metrics["old_kl"] < 1e-6


def some_row_ends(made) -> bool:
    rows = sample(made.policy, made.tokenizer, ["1+2="], 16, 24)
    return bool((rows.lengths < 24).any())


def long_rows(made) -> bool:
    return int(made.trainer().sample()[1].lengths.max()) > 8


def prompts_as_asked(made) -> bool:
    problems, rows = made.trainer().sample()
    asked = made.tokenizer.batch_decode(rows.prompt_ids[:: SIZES["group_size"]], skip_special_tokens=True)
    return asked == [problem.prompt for problem in problems]


def samples_of_the_weights_as_they_are(made) -> bool:
    trainer = made.trainer()
    trainer.sample()
    with torch.no_grad():
        made.policy.lm_head.weight.mul_(1.5)
    _, rows = trainer.sample()
    with torch.no_grad():
        return torch.allclose(score(made.policy, rows), rows.old_logprobs, atol=1e-4)


def worked_answers_are_paid(made) -> bool:
    return made.trainer().rewarded(["<think>1+2=3;3+4=7;</think>7"], [Problem("1+2+4=", "7")]).item() == 1


def problems_keep_their_answers(made) -> bool:
    return not all(p.prompt[-2] == p.answer for p in ChainSum().sample(32, torch.Generator().manual_seed(0)))


def each_is_paid_its_own(made) -> bool:
    problems = [Problem("1+2=", "3"), Problem("3+4=", "7")]
    return made.trainer().rewarded(["3", "3", "3", "0"], problems).tolist() == [[1, 1], [0, 0]]


def groups_apart(made) -> bool:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    changed = torch.tensor([[1.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    return torch.equal(grpo.group_relative_advantages(rewards)[0], grpo.group_relative_advantages(changed)[0])


def flat_beyond_the_clip(made) -> bool:
    logprobs = torch.full((1, 1), math.log(1.5), requires_grad=True)
    grpo.clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.ones(1, 1), 0.2, 0.2).sum().backward()
    return logprobs.grad.item() == 0


def a_tokens_own_ratio(made) -> bool:
    old = made.rollouts.old_logprobs
    return torch.equal(next(iter(grpo.at_level(old, made.rollouts, "token"))), old)


def k3_pulls_towards_the_reference(made) -> bool:
    logprobs = torch.zeros(1, 1, requires_grad=True)
    grpo.kl_k3(logprobs, torch.ones(1, 1)).sum().backward()
    return logprobs.grad.item() == pytest.approx(1 - math.e)


def rate_as_asked(made) -> bool:
    return made.learner(learning_rate=1e-3).optimizer.param_groups[0]["lr"] == 1e-3


def gradients_end_with_their_step(made) -> bool:
    learner = made.learner()
    learner.learn(made.rollouts, made.rewards)
    learner.optimizer.zero_grad()
    return all(weight.grad is None for weight in made.policy.parameters())


def reference_stands(made) -> bool:
    return Models.build(made.policy).reference is not made.policy


def a_small_step_moves_most_weights(made) -> bool:
    learner = made.learner(learning_rate=1e-5)
    before = [weight.detach().clone() for weight in made.policy.parameters()]
    learner.learn(made.rollouts, made.rewards)
    moved = sum(int((old != new).sum()) for old, new in zip(before, made.policy.parameters(), strict=True))
    return moved > sum(weight.numel() for weight in before) / 2


CLAIMS = {
    "off_by_one": scored_as_sampled,
    "prompt_in_mask": lambda made: made.learnt_rows().mask.sum() <= made.rollouts.mask.sum(),
    "eos_not_in_mask": lambda made: made.learnt_rows().mask.sum() >= made.rollouts.mask.sum(),
    "two_temperatures": unmoved_at_first,
    "eos_unknown": some_row_ends,
    "cut_off": long_rows,
    "no_template": prompts_as_asked,
    "stale_sampler": samples_of_the_weights_as_they_are,
    "no_dotall": worked_answers_are_paid,
    "leaked_answer": problems_keep_their_answers,
    "wrong_rows": each_is_paid_its_own,
    "batch_std": groups_apart,
    "flipped_sign": lambda made: grpo.aggregate(ONES, ONES, "token_mean", 3) > 0,
    "min_max_swapped": flat_beyond_the_clip,
    "sequence_ratio": a_tokens_own_ratio,
    "kl_upside_down": k3_pulls_towards_the_reference,
    "divided_twice": lambda made: grpo.aggregate(ONES, ONES, "token_mean", 3).abs() == 1,
    "rate_times_30": rate_as_asked,
    "gradients_kept": gradients_end_with_their_step,
    "moving_reference": reference_stands,
    "frozen_16_bit": a_small_step_moves_most_weights,
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_breaks_what_it_says_and_is_gone_on_leaving(made, name):
    holder, attribute = BUGS[name].where()
    right, twin = vars(holder)[attribute], copy.deepcopy(made.policy.state_dict())
    assert CLAIMS[name](made)
    made.policy.load_state_dict(twin)
    with BUGS[name].injected():
        assert vars(holder)[attribute] is not right
        assert not CLAIMS[name](made)
    assert vars(holder)[attribute] is right
    made.policy.float().load_state_dict(twin)
    assert CLAIMS[name](made)


def test_a_bug_is_gone_after_an_error_too():
    holder, attribute = BUGS["flipped_sign"].where()
    right = vars(holder)[attribute]
    with pytest.raises(KeyError), BUGS["flipped_sign"].injected():
        raise KeyError
    assert vars(holder)[attribute] is right


def test_there_are_as_many_bugs_as_texts_and_each_says_what_and_how_to_mend_it():
    assert BUGS.keys() == TEXTS.keys() == CLAIMS.keys() and len(BUGS) >= 16
    for bug in BUGS.values():
        assert bug.says.endswith(".") and len(bug.cure) > 40
        assert GRPO.Settings(**bug.settings)


@pytest.mark.parametrize("name", BUGS)
def test_the_test_that_catches_a_bug_exists(name):
    file, _, function = BUGS[name].test.partition("::")
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_with_the_flag_the_form_pays_what_it_should(made):
    paid = partial(_in_form(Trainer.rewarded, re.DOTALL), made.trainer())
    asked = [Problem("1+2+4=", "7")]
    assert [paid([text], asked).item() for text in ("<think>1+2=3;3+4=7;</think>7", "7", "<think>0;</think>0")] == [
        1,
        0,
        0,
    ]


# Tests that catch what no other test does --------------------------------------------------------------------------


def test_training_samples_as_long_as_it_was_asked_to(made):
    assert long_rows(made)


def test_training_asks_what_evaluation_asks(made):
    assert prompts_as_asked(made)


def test_a_second_step_starts_without_the_firsts_gradient(made):
    assert gradients_end_with_their_step(made)


def test_the_least_step_moves_the_weights(made):
    assert a_small_step_moves_most_weights(made)
