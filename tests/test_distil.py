"""Distillation: both divergences by other means, their gradients, and small runs of every method."""

import dataclasses
import json
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from grpo_teach import InputError, evaluate, score
from grpo_teach.algorithms import SFT
from grpo_teach.policy import Models, load_base
from grpo_teach.r1 import distil
from grpo_teach.r1.distil import METHODS, Distillation, Student, distillation_loss, on_policy_loss
from grpo_teach.tasks.miniature import Miniature

LOSSES = [distillation_loss, on_policy_loss]


def tables(seed=0, shape=(3, 4, 7)):
    """Student's and teacher's logits in float64, and a mask of ragged rows."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    lengths = torch.tensor([4, 1, 2])[: shape[0]]
    return student.requires_grad_(), teacher, (torch.arange(shape[1]) < lengths[:, None]).double()


# Losses -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_both_losses_are_torchs_divergences_averaged_over_real_tokens(seed):
    student, teacher, mask = tables(seed)
    s, t, real = Categorical(logits=student), Categorical(logits=teacher), mask.bool()
    assert torch.allclose(distillation_loss(student, teacher, mask), kl_divergence(t, s)[real].mean())
    assert torch.allclose(on_policy_loss(student, teacher, mask), kl_divergence(s, t)[real].mean())


def test_both_losses_are_the_sums_that_their_docstrings_say():
    student, teacher, mask = tables()
    forward = reverse = tokens = 0.0
    for b in range(3):
        for t in range(4):
            if mask[b, t]:
                odds = [[math.exp(x) for x in logits[b, t].tolist()] for logits in (student, teacher)]
                p, q = ([x / sum(row) for x in row] for row in odds)
                forward += sum(y * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
                reverse += sum(x * (math.log(x) - math.log(y)) for x, y in zip(p, q, strict=True))
                tokens += 1
    assert distillation_loss(student, teacher, mask).item() == pytest.approx(forward / tokens, abs=1e-12)
    assert on_policy_loss(student, teacher, mask).item() == pytest.approx(reverse / tokens, abs=1e-12)


def test_of_two_unlike_distributions_each_loss_weighs_with_its_own():
    student = torch.tensor([0.9, 0.1]).log().view(1, 1, 2)
    teacher, mask = torch.tensor([0.5, 0.5]).log().view(1, 1, 2), torch.ones(1, 1)
    forward, reverse = math.log(5 / 3), 0.9 * math.log(1.8) - 0.1 * math.log(5)  # 0.51 and 0.37 nats
    assert distillation_loss(student, teacher, mask).item() == pytest.approx(forward, abs=1e-6)
    assert on_policy_loss(student, teacher, mask).item() == pytest.approx(reverse, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_nothing_differs_nothing_is_lost_and_a_shift_of_logits_is_no_difference(loss):
    student, teacher, mask = tables()
    assert loss(student, student, mask).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, student + torch.randn(3, 4, 1), mask).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, teacher, mask) > 0.1
    loss(student, student.detach().clone(), mask).backward()
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_full_of_rubbish_changes_nothing(loss):
    student, teacher, mask = tables()
    real = mask[..., None].bool()
    dirty = torch.where(real, student, 1e4 * torch.randn_like(student)), torch.where(real, teacher, -1e4)
    assert torch.allclose(loss(*dirty, mask), loss(student, teacher, mask))
    (clean,) = torch.autograd.grad(loss(student, teacher, mask), student)
    (found,) = torch.autograd.grad(loss(*dirty, mask), student)
    assert torch.allclose(found, clean) and not found[~mask.bool()].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_teacher_learns_nothing(loss):
    student, teacher, mask = tables()
    loss(student, teacher.requires_grad_(), mask).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_the_gradients_of_a_token_are_the_textbooks():
    student, teacher, _ = tables()
    mask = torch.ones(3, 1, dtype=torch.float64)
    one, other = student[:, :1].detach().requires_grad_(), teacher[:, :1]
    p, q = one.detach().softmax(-1), other.softmax(-1)
    (forward,) = torch.autograd.grad(distillation_loss(one, other, mask), one)
    assert torch.allclose(forward, (p - q) / 3)
    surprise = (p / q).log()
    (reverse,) = torch.autograd.grad(on_policy_loss(one, other, mask), one)
    assert torch.allclose(reverse, p * (surprise - (p * surprise).sum(-1, keepdim=True)) / 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss):
    student, teacher, mask = tables(1, (2, 2, 3))
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, mask), student)


# Methods ----------------------------------------------------------------------------------------------------------

PROMPTS = ["1+2=", "3+4+5=", "9+9+9+9="]


@pytest.mark.parametrize("method", ["logits", "on_policy"])
def test_an_update_compares_the_two_at_each_token_that_was_written(method, policy, other_policy, tokenizer, rollouts):
    total = tokens = 0.0
    for b in range(len(rollouts)):  # one unpadded pass a row
        prompt, n = tokenizer(PROMPTS[b // 4])["input_ids"], int(rollouts.lengths[b])
        ids = torch.tensor([prompt + rollouts.completion_ids[b, :n].tolist()])
        places = slice(len(prompt) - 1, len(prompt) - 1 + n)
        student, teacher = (Categorical(logits=m(input_ids=ids).logits[0, places]) for m in (policy, other_policy))
        both = (teacher, student) if method == "logits" else (student, teacher)
        total, tokens = total + kl_divergence(*both).sum(), tokens + n
    algorithm, _ = METHODS[method]
    config = SFT(prompts=3, group_size=4)
    ((loss, row),) = algorithm.update(Models(policy, reference=other_policy), rollouts, torch.zeros(3, 4), config)
    assert loss.item() == pytest.approx((total / tokens).item(), rel=1e-4), "rewards do not matter"
    assert row["old_kl"] == pytest.approx(0, abs=1e-5)
    weights = list(policy.parameters())
    wanted = torch.autograd.grad(total / tokens, weights)
    for mine, its in zip(torch.autograd.grad(loss, weights), wanted, strict=True):
        assert torch.allclose(mine, its, rtol=1e-3, atol=1e-5 * float(its.abs().max()))


def test_minibatches_share_the_rows(policy, other_policy, rollouts):
    config = SFT(prompts=3, group_size=4, minibatches=3, epochs=2)
    models = Models(policy, reference=other_policy)
    losses = [float(loss) for loss, _ in METHODS["logits"][0].update(models, rollouts, None, config)]
    assert len(losses) == 6 and len(set(losses)) > 3


def test_all_texts_teach_or_the_right_ones(policy, rollouts):
    models, config = Models(policy), SFT(prompts=3, group_size=4)
    rewards = torch.zeros(3, 4)
    rewards[0, 1] = 1.0
    losses = []
    for method, right in (("texts", rewards), ("all_texts", rewards), ("texts", torch.ones(3, 4))):
        ((loss, _),) = METHODS[method][0].update(models, rollouts, right, config)
        losses.append(loss.item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-3) and losses[1] == pytest.approx(losses[2])


def test_a_students_texts_are_its_writers():
    (student, tokenizer), (teacher, _) = load_base("miniature_32"), load_base("miniature")
    given = {"tokenizer": tokenizer, "task": Miniature(), "seed": 0}
    for writer in (teacher, None):
        trainer = Student(Models(student), METHODS["texts"][0], SFT(prompts=8, group_size=2), writer=writer, **given)
        problems, rollouts = trainer.sample()
        author, other = (teacher, student) if writer else (student, teacher)
        assert len(problems) == 8 and len(rollouts) == 16
        with torch.no_grad():
            assert torch.allclose(score(author, rollouts), rollouts.old_logprobs, atol=1e-4)
            assert not torch.allclose(score(other, rollouts), rollouts.old_logprobs, atol=0.1)


# Runs -------------------------------------------------------------------------------------------------------------

TINY = Distillation(base="miniature_32", teacher="miniature", tokens=1500, batch=256)  # two batches


@pytest.fixture
def seen(monkeypatch):
    """Few questions; and what a run loads, and who writes how many tokens."""
    found = {"bases": {}, "written": []}

    def quick(policy, tokenizer, task, problems, samples, **asked):
        return evaluate(policy, tokenizer, task, 16, samples=1, **asked)

    def loaded(name):
        found["bases"][name] = load_base(name)
        return found["bases"][name]

    def noted(module):
        inner = module.sample

        def sample(policy, *asked):
            rollouts = inner(policy, *asked)
            found["written"].append((policy, rollouts.tokens))
            return rollouts

        monkeypatch.setattr(module, "sample", sample)

    monkeypatch.setattr(distil, "evaluate", quick)
    monkeypatch.setattr(distil, "load_base", loaded)
    noted(distil)
    noted(sys.modules["grpo_teach.train"])
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_written_and_learned_by_whom_it_says(seen, method):
    result = dataclasses.replace(TINY, method=method).run(0)
    json.dumps(result, allow_nan=False)
    student, teacher = (seen["bases"][name][0] for name in ("miniature_32", "miniature"))
    author = teacher if method in ("texts", "all_texts", "logits") else student
    assert {id(writer) for writer, _ in seen["written"]} == {id(author)}
    spent = [tokens for _, tokens in seen["written"]]
    assert result["tokens"] == sum(spent) >= TINY.tokens > sum(spent[:-1]) and len(spent) > 1
    untouched = [
        all(torch.equal(a, b) for a, b in zip(mine.parameters(), load_base(name)[0].parameters(), strict=True))
        for name, mine in (("miniature_32", student), ("miniature", teacher))
    ]
    assert untouched == [False, True]
    curve = result["curve"]
    assert {len(values) for values in curve.values()} == {len(spent) + 1}  # looks before each step, and at the end
    assert curve["tokens"] == [sum(spent[:i]) for i in range(len(spent) + 1)]
    assert curve["seconds"] == sorted(curve["seconds"]) and curve["seconds"][0] == 0
    assert result["accuracy"] == result["before_rl"] == curve["accuracy"][-1]


def test_a_run_repeats_and_reinforcement_learning_goes_on_from_what_it_taught(seen):
    both = dataclasses.replace(TINY, then_rl=1, epochs=2)
    first, again = both.run(0), both.run(0)
    timeless = [run | {"seconds": None, "curve": run["curve"] | {"seconds": None}} for run in (first, again)]
    assert timeless[0] == timeless[1]
    student = seen["bases"]["miniature_32"][0]
    written = seen["written"][len(seen["written"]) // 2 :]
    assert [writer is student for writer, _ in written] == [False] * (len(written) - 1) + [True]
    assert first["tokens"] == sum(tokens for _, tokens in written)
    taught = dataclasses.replace(TINY, epochs=2).run(0)
    assert first["before_rl"] == taught["accuracy"]
    assert first["curve"]["accuracy"][: len(written)] == taught["curve"]["accuracy"]


def test_the_rate_of_a_method_falls_evenly_to_zero_and_that_of_rl_stays(seen, monkeypatch):
    rates = []

    def noting(trainer):
        rates.append((trainer.tokens, trainer.optimizer.param_groups[0]["lr"]))
        return step(trainer)

    step = Student.train_step
    monkeypatch.setattr(Student, "train_step", noting)
    dataclasses.replace(TINY, method="logits", then_rl=1500, learning_rate=2e-3, rl_learning_rate=1e-4).run(0)
    taught, reinforced = ([rate for rate in rates if (rate[1] == 1e-4) == rl] for rl in (False, True))
    assert taught == [(tokens, pytest.approx(2e-3 * (1 - tokens / TINY.tokens))) for tokens, _ in taught]
    assert len(taught) > 1 and [tokens for tokens, _ in reinforced][0] == 0


def test_a_teachers_texts_share_no_prompt_and_each_method_gets_its_own_settings():
    common = {"batch": 64, "group_size": 8, "epochs": 3, "beta": 0.1}
    taught = Distillation(method="texts", **common).settings("texts", 0.01)
    assert (taught.prompts, taught.group_size, taught.epochs, taught.learning_rate) == (64, 1, 3, 0.01)
    own = Distillation(method="on_policy", **common).settings("on_policy", 0.02)
    assert (own.prompts, own.group_size, own.epochs) == (8, 8, 3)
    after = Distillation(method="texts", **common).settings("rl", 0.03)
    assert (after.prompts, after.group_size, after.beta) == (32, 8, 0.1), "batches of 256"
    paid = Distillation(method="rl", **common).settings("rl", 0.03)
    assert (paid.prompts, paid.group_size, paid.epochs, paid.beta, paid.learning_rate) == (8, 8, 1, 0.1, 0.03)


def test_grpo_is_held_to_where_it_starts_and_paid_by_the_rules_that_are_named(seen, monkeypatch):
    started = []

    class Noted(Student):
        def __post_init__(self):
            super().__post_init__()
            started.append(self)
            held, mine = self.models.reference or self.models.policy, self.models.policy
            weights = zip(held.parameters(), mine.parameters(), strict=True)
            self.held_to_its_start = held is not mine and all(torch.equal(a, b) for a, b in weights)

    monkeypatch.setattr(distil, "Student", Noted)
    dataclasses.replace(TINY, method="logits", then_rl=1, beta=0.1, paid="format").run(0)
    taught, reinforced = started
    assert taught.models.reference is seen["bases"]["miniature"][0] and taught.reward is None
    assert reinforced.held_to_its_start and not taught.held_to_its_start
    start = [weight.clone() for weight in reinforced.models.reference.parameters()]
    shipped = load_base("miniature_32")[0].parameters()
    assert not all(torch.equal(a, b) for a, b in zip(start, shipped, strict=True)), "where it starts, not the base"
    task = Miniature()
    problem = task.test_set(1)[0]
    a, b = int(problem.prompt[0]), int(problem.prompt[3])
    wrong = next(x for x in range(10) if not task.right(str(x), problem))
    text = f"<think>{wrong}:{a * wrong % 10}{(a * wrong + b) % 10}≠</think>{wrong}"
    assert reinforced.reward([text, problem.answer], [problem]).tolist() == [[1.0, 0.0]]
    plain = dataclasses.replace(TINY, method="rl").run(0)
    assert plain["tokens"] and started[-1].models.reference is None


def test_settings_may_be_chosen_on_training_problems(seen, monkeypatch):
    asked = []

    def noted(policy, tokenizer, task, problems, **how):
        asked.append({problem.prompt for problem in task.test_set(64)})
        return evaluate(policy, tokenizer, task, 16, max_new_tokens=64)

    monkeypatch.setattr(distil, "evaluate", noted)
    held_out = {problem.prompt for problem in Miniature().test_set(64)}
    for practice in (False, True):
        asked.clear()
        dataclasses.replace(TINY, tokens=1, practice=practice).run(0)
        assert all((not prompts & held_out) if practice else prompts == held_out for prompts in asked)


@pytest.mark.parametrize(
    "given", [{"paid": "applause"}, {"learning_rate": -1.0}, {"rl_learning_rate": 0.0}, {"beta": -1}]
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_learned(given):
    with pytest.raises(InputError):
        Distillation(**given)


@pytest.mark.parametrize(
    "given, said", [({"method": "osmosis"}, "no method 'osmosis'; there are: rl, texts, all_texts, logits")]
)
def test_a_method_that_there_is_not_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Distillation(**given)


@pytest.mark.parametrize("place", ["base", "teacher"])
def test_a_base_that_does_not_ship_is_refused(place):
    with pytest.raises(InputError, match="nowhere"):
        Distillation(**({"teacher": "miniature"} | {place: "nowhere"})).run(0)
